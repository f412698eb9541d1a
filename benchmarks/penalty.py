"""Gradient-penalised regression on images, matrix-free: `python -m benchmarks penalty`."""

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
from scipy.spatial.distance import pdist
from kpoison import datasets
from kpoison.ridge.observations import Observations, covariance
from kpoison.ridge.system import gram_system
n, d, columns, ridge, dense_n, tolerance, repeats = json.loads(sys.argv[1])
generator = np.random.default_rng(0)
try:
    mnist = datasets.load_mnist(split="test")
    images, labels, data = mnist.inputs[:, :d], mnist.labels, "MNIST"
except FileNotFoundError:
    # Synthetic images of the same size: blobs about ten centres, pixels in [0, 1].
    labels = generator.integers(0, 10, size=max(n, dense_n))
    centres = generator.uniform(size=(10, d))
    images = np.clip(centres[labels] + 0.3 * generator.normal(size=(len(labels), d)), 0, 1)
    data = "synthetic (KPOISON_DATA is not set)"

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

def problem(X, number):
    length_scale = float(np.median(pdist(X)))
    observed = Observations(jnp.asarray(X), 0.1 * length_scale * jnp.eye(X.shape[1]))  # root of 1e-2 ℓ²
    targets = observed.with_flat_slopes(jnp.eye(10)[np.asarray(labels[: len(X)])][:, :number])
    return kp.kernels.RBF(length_scale), observed, targets

@jax.jit
def gram_with_gradients(kernel, Z):
    # k and ∂_z k for all pairs, each of the n²(d + 1) numbers computed once and added up, never kept.
    values, slopes = kernel.gram(Z, Z), jax.vmap(jax.vmap(jax.grad(kernel.profile)))
    u = kernel.scaled_square_distances(Z, Z)
    factors = -2 * slopes(u) / jnp.asarray(kernel.length_scale) ** 2
    return jnp.sum(values) + jnp.sum(jax.lax.map(
        lambda row: jnp.sum(row[1][:, None] * (row[0][None] - Z)), (Z, factors), batch_size=8))

def seconds(function):
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return result, time.perf_counter() - start

prepare = jax.jit(lambda kernel, observed: gram_system(kernel, observed))
solve = jax.jit(lambda system, b: system.solve(jnp.asarray(ridge * n), b, tolerance=tolerance))
kernel, observed, b = problem(images[:n], columns)
before, ratios, baselines, preparations = peak(), [], [], []
for repeat in range(repeats + 1):  # the first compiles
    _, baseline = seconds(lambda: gram_with_gradients(kernel, observed.points))
    system, preparation = seconds(lambda: prepare(kernel, observed))
    (x, status), time_of_solve = seconds(lambda: solve(system, b))
    if repeat:
        ratios.append(time_of_solve / columns / baseline); baselines.append(baseline)
        preparations.append(preparation / baseline)
after = peak()
small_kernel, small, small_b = problem(images[:dense_n], columns)
rho = ridge * dense_n
found, small_status = prepare(small_kernel, small).solve(jnp.asarray(rho), small_b, tolerance=tolerance)
gram = covariance(small_kernel, small, small)
exact = np.linalg.solve(np.asarray(gram) + rho * np.eye(len(gram)), np.asarray(small_b))
scale = np.linalg.norm(exact, axis=0)  # of a class without an image among so few, 0
difference = float(np.max(np.linalg.norm(found - exact, axis=0)[scale > 0] / scale[scale > 0]))
print(json.dumps({
    "ratios": ratios, "baselines": baselines, "preparations": preparations, "before": before, "after": after,
    "iterations": int(status.iterations), "residual": float(jnp.max(status.relative_residuals)), "data": data,
    "converged": bool(jnp.all(status.converged)) and bool(jnp.all(small_status.converged)),
    "difference": difference, "dense": len(gram)}))
"""


def _measure(*arguments: float) -> dict:
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


def run(n: int = 500, d: int = 784, ridge: float = 1e-3, dense_n: int = 7, tolerance: float = 1e-8) -> list[Comparison]:
    """Solves for one and for ten outputs; the dense path where it has n(1 + d) <= 6000 numbers."""
    results = []
    for columns in (1, 10):
        found = _measure(n, d, columns, ridge, dense_n, tolerance, 3)
        if not found["converged"]:
            raise RuntimeError(f"not converged: {found}")
        results.append(
            Comparison(
                f"solve of {n * (d + 1):,} unknowns to {tolerance:g} for {columns} outputs, each",
                "a Gram matrix with gradients (k and ∂k, fused, nothing kept)",
                "at most 100",
                found["ratios"],
                sorted(found["baselines"])[len(found["baselines"]) // 2],
                {"n": n, "d": d, "outputs": columns, "ridge": ridge, "dtype": "float64", "data": found["data"]},
                {
                    "data": found["data"],
                    "iterations": found["iterations"],
                    "relative residual": f"{found['residual']:.1e}",
                    "preparation": f"{sorted(found['preparations'])[1]:.2g} Gram matrices",
                    "memory": f"peak of the process {found['after']:.2f} GiB, {found['before']:.2f} before (asked < 2)",
                    f"difference from the dense solve of {found['dense']}": f"{found['difference']:.1e} (asked 1e-7)",
                },
            )
        )
    return results
