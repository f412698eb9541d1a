"""Peak memory of a sweep of 10⁸ points written to disk: `python -m benchmarks memory`."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import Comparison

__all__ = ["run"]

_PROGRAM = """
import json, resource, sys
import jax; jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, numpy as np, kpoison as kp
n, d, r, m, ridge, out = json.loads(sys.argv[1])
generator = np.random.default_rng(0)
X = jnp.asarray(generator.normal(size=(n, d)))
clean = kp.fit(kp.kernels.RBF(d**0.5), X, jnp.asarray(np.sign(generator.normal(size=n))))
zeta = X[0] + 0.1 * jnp.asarray(generator.normal(size=d))
result = kp.sweep(
    clean, kp.Poison(zeta, 1.0, 1.0), direction=jnp.asarray(generator.normal(size=d)), out=out,
    r_over_l=np.geomspace(1e-2, 10, r), m=np.geomspace(1, 1000, m), ridge=np.geomspace(1e-6, 1e-1, ridge),
)
assert result.spike.size == r * m * ridge
assert np.isfinite(result.spike[-1, -1, -1].values)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def run(n: int = 2000, d: int = 784, r: int = 400, m: int = 500, ridge: int = 500) -> list[Comparison]:
    """Gain, efficacy and spike at r·m·ridge points, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = json.dumps([n, d, r, m, ridge, str(Path(folder) / "grid.nc")])
        done = subprocess.run([sys.executable, "-c", _PROGRAM, arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    peak = float(done.stdout)
    sizes = {"n_c": n, "d": d, "grid": [r, m, ridge], "dtype": "float64"}
    return [
        Comparison(
            f"peak memory of a sweep of {r * m * ridge:,} points to disk",
            "2 GiB",
            "below 1",
            [peak / 2],
            0.0,
            sizes,
            {"peak": f"{peak:.2f} GiB", "largest variable": f"{r * m * ridge * 8 / 2**30:.2f} GiB"},
        )
    ]
