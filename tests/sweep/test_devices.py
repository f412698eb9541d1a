"""Eight devices, two processes: the same numbers as one device.  Each in a process of its own."""

import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import xarray as xr
from problem import AXES, DIRECTION, assert_as_for_another_shape, clean, poison

import kpoison as kp

HERE = Path(__file__).parent
QUANTITIES = ("gain", "efficacy", "spike", "m_success")
SETUP = f"""
import os, sys
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count={{devices}}"
import jax; jax.config.update("jax_enable_x64", True)
sys.path.insert(0, {str(HERE)!r})
"""
SWEEP = """
from problem import *
result = kp.sweep(clean(), poison(-1.0), direction=DIRECTION, **AXES, quantities={quantities}, {options})
"""


def one_device(**options):
    return kp.sweep(clean(), poison(-1.0), direction=DIRECTION, **AXES, quantities=QUANTITIES, **options)


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def assert_same(path):
    with xr.open_dataset(path) as found:
        expected = one_device()
        for name in QUANTITIES:
            assert_as_for_another_shape(found[name], expected[name], name)
        assert found.attrs["identity"] == expected.attrs["identity"]
        return found.attrs["device"]


@pytest.mark.slow
def test_eight_devices(tmp_path):
    out = tmp_path / "grid.nc"
    program = SETUP.format(devices=8) + SWEEP.format(quantities=QUANTITIES, options=f"out={str(out)!r}")
    # A mesh of some of the devices, too.
    program += """
import numpy as np
from jax.sharding import Mesh
mesh = Mesh(np.array(jax.devices()[2:5]), ("any",))
fewer = kp.sweep(clean(), poison(-1.0), direction=DIRECTION, **AXES, quantities=("spike",), mesh=mesh)
np.testing.assert_allclose(fewer.spike, result.spike, rtol=1e-13)
print(len(jax.devices()))
"""
    assert run(program).split() == ["8"]
    assert assert_same(out).startswith("8 ×")


START = """
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("localhost:{port}", num_processes=2, process_id={process}, heartbeat_timeout_seconds=10)
"""


def start_two(programs):
    """Two processes that know each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, "-c", SETUP.format(devices=2) + START.format(port=port, process=process) + program],
            stderr=subprocess.PIPE,
            text=True,
        )
        for process, program in enumerate(programs)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("on_disk", [True, False])
def test_two_processes(tmp_path, on_disk):
    outs = [tmp_path / "shared.nc"] * 2 if on_disk else [tmp_path / "first.nc", tmp_path / "second.nc"]
    programs = []
    for out in outs:
        options = f"memory=8_000, out={str(out)!r}" if on_disk else "memory=8_000"
        program = SWEEP.format(quantities=QUANTITIES, options=options)
        programs.append(program + ("result.load(); result.close()" if on_disk else f"result.to_netcdf({str(out)!r})"))
    processes = start_two(programs)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors[0][-2000:] + errors[1][-2000:]
    for out in set(outs):
        assert assert_same(out).startswith("4 ×")


FAILS = """
from kpoison.resumable.storage import ChunkStore
write = ChunkStore.write
def failing(self, index, arrays):
    if index > 1:
        {how}
    write(self, index, arrays)
ChunkStore.write = failing
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["raise OSError('no space left')", "os._exit(9)"], ids=["an error", "a process that dies"]
)
def test_a_process_that_fails_ends_the_others_and_the_sweep_is_continued(tmp_path, how):
    out = tmp_path / "shared.nc"
    program = SWEEP.format(quantities=QUANTITIES, options=f"memory=8_000, out={str(out)!r}")
    processes = start_two([program, FAILS.format(how=how) + program])
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert all(process.returncode != 0 for process in processes), errors
    if "raise" in how:
        assert "process 1 failed, see its error" in errors[0]
        assert "no space left" in errors[1]
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shared.nc.parts").glob("*.npz")}
    assert len(kept) >= 2
    seen = f"""
from pathlib import Path
from kpoison.resumable.storage import ChunkStore
remove = ChunkStore.remove
def look(self):
    kept = {kept!r}
    assert kept.items() <= {{path.name: path.stat().st_mtime_ns for path in self.folder.glob("*.npz")}}.items()
    remove(self)
ChunkStore.remove = look
"""
    run(SETUP.format(devices=4) + seen + program)
    assert_same(out)


def test_a_mesh_that_does_not_fit():
    with pytest.raises(TypeError, match=r"mesh must be a jax.sharding.Mesh|Type-check error"):
        one_device(mesh=jax.devices())
