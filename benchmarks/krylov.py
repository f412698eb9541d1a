"""Every ridge of many images from one search, beside a factorisation: `python -m benchmarks krylov`.

60,000 images take minutes and 12 GiB: `python -c "from benchmarks.krylov import large; large()"`.
"""

import functools
import resource
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import kpoison as kp
from benchmarks.timing import Comparison, compare
from kpoison.datasets import load_mnist
from kpoison.ridge.solvers.krylov import KrylovFactor
from kpoison.ridge.solvers.prepared import Prepared

__all__ = ["large", "problem", "run"]

_QUANTITIES = ("gain", "efficacy", "spike")


def problem(n: int, name: str):
    """Kernel, images, labels of two classes, a poison and a direction; the length scale is the median distance."""
    data = load_mnist(None, "train")
    X = data.images.reshape(len(data.images), -1)
    order = np.random.default_rng(0).permutation(len(X))
    chosen, last = order[: min(n, len(X) - 1)], order[-1]
    y = np.where(data.labels < 5, 1.0, -1.0)
    some = X[chosen[:1000]]
    distances = np.linalg.norm(some[:, None] - some[None, ::10], axis=2)
    kernels = {
        "rbf": kp.kernels.RBF(float(np.median(distances[distances > 0]))),
        "relu-ntk": kp.kernels.NTK(hidden_layers=2),
    }
    # Against what the clean predictor says there: with its own label a poison changes nothing.
    poison = kp.Poison(jnp.asarray(X[last]), -y[last], 1.0)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=X.shape[1]))
    return kernels[name], jnp.asarray(X[chosen]), jnp.asarray(y[chosen]), poison, direction


def _sweep(clean: kp.Posterior, poison: kp.Poison, direction: Any, least_ridge: float):
    """100 ridges × 100 multiplicities, at two distances."""
    return kp.sweep(
        clean,
        poison,
        direction=direction,
        r_over_l=[0.1, 1.0],
        m=np.geomspace(1, 1000, 100),
        ridge=np.geomspace(least_ridge, 1, 100),
        length_scale=10.0,
        quantities=_QUANTITIES,
    )


def run(n: int = 8000) -> list[Comparison]:
    """The sweep by float32 products with float64 refinement, and by a factorisation; then a fit with all laws."""
    results = []
    for name in ("rbf", "relu-ntk"):
        kernel, X, y, poison, direction = problem(n, name)

        def swept(solver, kernel=kernel, X=X, y=y, poison=poison, direction=direction):
            return _sweep(kp.fit(kernel, X, y, solver=solver), poison, direction, 1e-5)

        krylov = kp.Krylov(products="float32", tolerance=1e-8)
        swept(krylov)  # compiles
        found, taken = _timed(lambda swept=swept, krylov=krylov: swept(krylov))
        expected, dense = _timed(lambda swept=swept: swept(kp.Tridiagonal()))  # minutes: its compilation is little
        errors = {q: f"{float(np.abs(found[q] / expected[q] - 1).max()):.1e}" for q in _QUANTITIES}
        results.append(
            Comparison(
                f"100 ridges × 100 multiplicities by Krylov(products='float32'), {name}",
                "the same by Tridiagonal()",
                "",
                [taken / dense],
                dense,
                {"n_c": len(X), "d": X.shape[1], "dtype": "float64"},
                {
                    "largest relative difference, asked 1e-4": errors,
                    "largest residual": f"{float(found.relative_residual.max()):.1e}",
                },
            )
        )
    return [*results, _dense(), _dense(d=64)]


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def _dense(n: int = 10_000, d: int = 784) -> Comparison:
    """One ridge: Gram matrix, factorisation and every law beside LAPACK's Cholesky of the same matrix.

    Half of the Gram matrix alone is n²d flops, 3d/n of the Cholesky's n³/3: for d = 784 a quarter.
    """
    generator = np.random.default_rng(0)
    X, y = jnp.asarray(generator.normal(size=(n, d))), jnp.asarray(np.sign(generator.normal(size=n)))
    kernel, ridge = kp.kernels.RBF(d**0.5), 1e-3
    poison = kp.Poison(jnp.asarray(generator.normal(size=d)), 1.0, 10.0)
    probe = poison.location + 0.1
    matrix = np.asarray(kernel(X) + (n + 10) * ridge * jnp.eye(n))

    def laws():
        ready = kp.prepare(kp.fit(kernel, X, y, solver=kp.Cholesky()), poison, ridge)
        return [
            kp.gain(ready, poison, ridge),
            *(law(ready, poison, probe, ridge) for law in (kp.efficacy, kp.spike)),
            kp.predict(ready, probe, ridge, poison),
        ]

    return compare(
        f"fit, gain, efficacy, spike and prediction at one ridge by Cholesky(), d = {d}",
        laws,
        "scipy.linalg.cholesky of K + ρI",
        functools.partial(_cholesky, matrix),
        asked="at most 1.3",
        sizes={"n_c": n, "d": d, "dtype": "float64"},
        repeats=3,
    )


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    import scipy.linalg

    return scipy.linalg.cholesky(matrix, lower=True, check_finite=False)


def large(n: int = 60_000, name: str = "rbf", *, keep: bool = True, rank: int = 1000) -> dict[str, Any]:
    """Gain, efficacy and spike of all of MNIST for 100 ridges λ up to 1 × 100 multiplicities up to 1,000.

    With the Gram matrix kept λ starts at 1e-5, with it made anew at each product at 1e-3.  Prints what each step took.
    """
    jax.config.update("jax_enable_x64", True)
    kernel, X, y, poison, direction = problem(n, name)
    solver = kp.Krylov(rank=rank, products="float32", tolerance=1e-8, keep=keep, memory=(20 if keep else 6) * 10**9)
    took: dict[str, Any] = {"n_c": len(X), "kernel": name, "keep": keep}

    def timed(label: str, function):
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        took[label] = round(time.perf_counter() - start, 2)
        print(f"{label}: {took[label]} s", flush=True)
        return result

    clean = timed("fit", lambda: kp.fit(kernel, X, y, solver=solver))
    assert isinstance(clean.factor, KrylovFactor)
    product = eqx.filter_jit(lambda gram, x: gram.product(x))
    block = jnp.asarray(np.random.default_rng(2).normal(size=(len(X), 6)))
    for _ in range(2):  # the first compiles
        timed("float32 product of 6 vectors", lambda: product(clean.factor.gram, block))
    timed("float64 product of 6 vectors, evaluated anew", lambda: product(clean.factor.exact, block))
    least = 1e-5 if keep else 1e-3
    ready = timed("search", lambda: kp.prepare(clean, poison, [least, 1.0], count=[1.0, 1000.0]))
    assert isinstance(ready.factor, Prepared)
    status = ready.factor.status
    assert status is not None
    probe = poison.location + direction / jnp.linalg.norm(direction)

    ridges, counts = jnp.geomspace(least, 1, 100), jnp.geomspace(1, 1000, 100)

    def laws(ready, ridge, count):
        poisoned = kp.Poison(poison.location, poison.label, count)
        return [
            kp.gain(ready, poisoned, ridge),
            *(law(ready, poisoned, probe, ridge) for law in (kp.efficacy, kp.spike)),
        ]

    @eqx.filter_jit
    def grid(ready):
        # A row at a time: weights of every image for every number would be 4.8 GB.
        return jax.lax.map(lambda ridge: jax.vmap(lambda count: laws(ready, ridge, count))(counts), ridges)

    values = timed("gain, efficacy and spike, 100 × 100", lambda: grid(ready))
    took |= {
        "all laws finite": all(bool(jnp.all(jnp.isfinite(value))) for value in values),
        "products": int(status.products),
        "exact products": int(status.exact_products),
        "columns": int(status.columns),
        "largest residual": float(jnp.max(status.relative_residuals)),
        "all converged": bool(jnp.all(status.converged)),
        "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print(took, flush=True)
    return took
