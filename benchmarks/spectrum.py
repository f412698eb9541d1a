"""Leading eigenpairs of an averaged input Hessian beside its dense form: `python -m benchmarks spectrum`."""

import json
import os
import subprocess
import sys

from benchmarks.timing import Comparison

__all__ = ["run"]

_PROGRAM = """
import json, resource, sys, time
import jax; jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, numpy as np, kpoison as kp
from kpoison import curvature
from kpoison.curvature.operators import ProbeHessian
n, d, probes, k, dense_probes, dense_columns = json.loads(sys.argv[1])
generator = np.random.default_rng(0)
X, x = (jnp.asarray(generator.normal(size=(size, d))) for size in (n, probes))
y = jnp.asarray(np.tanh(np.asarray(X) @ generator.normal(size=d) / d**0.5))
f = kp.predictor(kp.fit(kp.kernels.NTK(3, "erf", 1.5, 0.1), X, y), 1e-3)
targets = jnp.zeros(probes)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

def seconds(function, repeats):
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        found = jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return found, times[1:]

def ours():
    return curvature.top_eigenpairs(curvature.input_hessian(f, x, targets), k)

before = peak()
jax.block_until_ready(ours())  # compiles too
after = peak()
found, ours = seconds(ours, 3)
assert bool(jnp.all(found.converged))
# Dense: Hessian times unit vectors by automatic differentiation, as jax.hessian does it, for some probes and columns.
part = ProbeHessian(f, x[:dense_probes], "squared", targets[:dense_probes, None])
columns = jnp.eye(d, dense_columns)
_, dense = seconds(lambda: part(columns), 3)
scale = probes / dense_probes * d / dense_columns
exact = None
if d <= 256:
    whole = ProbeHessian(f, x, "squared", targets[:, None]).dense()
    exact = np.sort(np.linalg.eigvalsh(np.asarray(whole)))[::-1][:k]
error = None if exact is None else float(np.max(np.abs(np.asarray(found.values) - exact) / np.abs(exact)))
print(json.dumps({"ours": ours, "dense": [t * scale for t in dense], "peak": after, "before": before,
                  "products": found.products, "error": error}))
"""


def _measure(*arguments: int) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        # Freed arrays go back to the system, so that the peak is of what is used at once.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"} if sys.platform == "linux" else None,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def run(n: int = 1000, d: int = 3072, probes: int = 1000, k: int = 10) -> list[Comparison]:
    """Top eigenpairs for an NTK ridge predictor; dense on 2 probes and 8 columns, multiplied up; errors at d = 256."""
    large, small = _measure(n, d, probes, k, 2, 8), _measure(200, 256, 50, k, 2, 8)
    sizes = {"n_c": n, "d": d, "probes": probes, "k": k, "dtype": "float64"}
    return [
        Comparison(
            f"dense Hessian of {probes} probes, d = {d} (without its decomposition)",
            f"top {k} eigenpairs by kpoison.curvature",
            "at least 20",
            [dense / ours for dense, ours in zip(large["dense"], large["ours"], strict=True)],
            sorted(large["ours"])[len(large["ours"]) // 2],
            sizes,
            {
                "memory": f"{large['peak'] - large['before']:.0f} MiB beyond the {large['before']:.0f} of the process "
                "with the fitted predictor, compilation included (asked below 500)",
                "products": large["products"],
                "largest relative error of an eigenvalue at d = 256": f"{small['error']:.1e} (asked 1e-6)",
            },
        )
    ]
