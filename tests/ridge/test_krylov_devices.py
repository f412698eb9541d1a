"""Tiles on eight devices and in two processes: the same numbers as on one.  Each in a process of its own."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import os, sys
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count={devices}"
import jax; jax.config.update("jax_enable_x64", True)
{start}
import json
import jax.numpy as jnp, numpy as np
from jax.sharding import Mesh
import kpoison as kp
from kpoison.ridge import tiles
tiles._TILE = 32  # 10 tiles and 116 rows, which 8 does not divide
generator = np.random.default_rng(0)
X, y = jnp.asarray(generator.normal(size=(116, 5))), jnp.asarray(np.sign(generator.normal(size=116)))
zeta, probe = jnp.asarray(generator.normal(size=(2, 5)))
poison = kp.Poison(zeta, 1.0, 3.0)
found = []
for products, keep in (("float32", True), (None, False)):
    mesh = Mesh(np.array(jax.devices()[:{used}]), ("tiles",))
    solver = kp.Krylov(rank=30, products=products, keep=keep, mesh=mesh)
    clean = kp.fit(kp.kernels.RBF(2.0), X, y, solver=solver)
    if keep:
        assert len(clean.factor.gram.tiles.sharding.device_set) == {used}
    if {used} > 1:
        # No device holds all rows of the preconditioner or of the search space.
        space = clean.factor.project(y[:, None], (1e-1, 1.0))
        for vectors in (clean.factor.approximation.vectors, space.vectors):
            assert {{shard.data.shape[0] for shard in vectors.addressable_shards}} == {{-(-116 // {used})}}
    ready = kp.prepare(clean, poison, [1e-3, 1e-1])
    found += [float(law) for law in (
        kp.gain(ready, poison, 1e-2), kp.efficacy(ready, poison, probe, 1e-2), kp.spike(ready, poison, probe, 1e-2)
    )]
print(json.dumps(found))
"""


def start(program):
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results(processes):
    outputs = [process.communicate(timeout=600) for process in processes]
    assert all(process.returncode == 0 for process in processes), [error[-2000:] for _, error in outputs]
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


@pytest.fixture(scope="module", name="one")
def one_device():
    return results([start(PROGRAM.format(devices=1, used=1, start=""))])[0]


@pytest.mark.slow
def test_eight_devices(one):
    (found,) = results([start(PROGRAM.format(devices=8, used=8, start=""))])
    np.testing.assert_allclose(found, one, rtol=1e-10)


@pytest.mark.slow
def test_two_processes(one):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    begin = """
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("localhost:{port}", num_processes=2, process_id={process})
"""
    programs = [
        PROGRAM.format(devices=2, used=4, start=begin.format(port=port, process=process)) for process in range(2)
    ]
    for found in results([start(program) for program in programs]):
        np.testing.assert_allclose(found, one, rtol=1e-10)
