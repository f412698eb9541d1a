"""A grid of a million laws beside one factorisation, and beside refits: `python -m benchmarks sweep`."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.kernel_ridge import KernelRidge

import kpoison as kp
from benchmarks.timing import Comparison, compare
from kpoison.ridge import Solver

__all__ = ["run"]

_POINTS = 20


def _problem(n: int, d: int):
    generator = np.random.default_rng(0)
    X = jnp.asarray(generator.normal(size=(n, d)))
    y = jnp.asarray(np.sign(generator.normal(size=n)))
    zeta = X[0] + 0.1 * jnp.asarray(generator.normal(size=d))
    return kp.kernels.RBF(d**0.5), X, y, zeta, jnp.asarray(generator.normal(size=d))


def run(n: int = 2000, d: int = 784, axis: int = 100) -> list[Comparison]:
    """axis³ values of gain, efficacy and spike by the exact law, with the factorisation."""
    kernel, X, y, zeta, direction = _problem(n, d)
    gram = kernel(X)
    axes = {
        "r_over_l": np.geomspace(1e-2, 10, axis),
        "m": np.geomspace(1, 1000, axis),
        "ridge": np.geomspace(1e-8, 1e-1, axis),
    }
    poison = kp.Poison(zeta, 1.0, 1.0)
    sizes = {"n_c": n, "d": d, "grid": [axis] * 3, "dtype": "float64"}

    def grid(solver: Solver = kp.Tridiagonal()):  # noqa: B008 - immutable
        clean = kp.fit(kernel, X, y, solver=solver)
        return kp.sweep(clean, poison, direction=direction, r_over_l=axes["r_over_l"], m=axes["m"], ridge=axes["ridge"])

    against_eigh = [
        compare(
            f"{axis}³ grid of gain, efficacy and spike with its factorisation by {type(solver).__name__}()",
            lambda solver=solver: grid(solver).spike.values,
            "jnp.linalg.eigh of the Gram matrix",
            functools.partial(jax.jit(jnp.linalg.eigh), gram),
            asked=asked,
            sizes=sizes,
        )
        for solver, asked in ((kp.Tridiagonal(), "at most 1.5"), (kp.Spectral(), ""))
    ]
    result = grid()
    unit = direction / jnp.linalg.norm(direction)
    generator = np.random.default_rng(1)
    chosen = generator.integers(axis, size=(_POINTS, 3))
    cells = [(axes["r_over_l"][i], axes["m"][j], axes["ridge"][k]) for i, j, k in chosen]

    def probe(r):
        return zeta + r * kernel.length_scale * unit

    def by_scikit_learn():
        found = []
        for r, m, ridge in cells:
            rho, x = (n + m) * ridge, np.asarray(probe(r))[None]
            settings: dict[str, Any] = {"alpha": rho, "kernel": "rbf", "gamma": 0.5 / kernel.length_scale**2}
            models = [KernelRidge(**settings) for _ in range(2)]
            poisoned = np.concatenate([X, zeta[None]]), np.concatenate([y, [1.0]])
            models[0].fit(*poisoned, sample_weight=np.concatenate([np.ones(n), [m]]))
            models[1].fit(np.asarray(X), np.asarray(y))
            found.append(float((models[0].predict(x) - models[1].predict(x))[0]))
        return np.array(found)

    @jax.jit
    def refit(X, r, m, ridge):
        """Both systems by Cholesky; m clones as one observation of noise ρ/m."""
        rho = (n + m) * ridge
        points = jnp.concatenate([X, zeta[None]])
        noise = rho * jnp.ones(n + 1).at[-1].set(1 / m)
        whole = jnp.zeros((n + 1, n + 1)).at[:n, :n].set(kernel.gram(X, X))
        cross = kernel.pairwise(X, zeta[None])[:, 0]
        whole = whole.at[:n, n].set(cross).at[n, :n].set(cross).at[n, n].set(1.0)
        targets = jnp.concatenate([y, jnp.ones(1)])
        solved = [
            jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix + jnp.diag(diagonal)), True), right)
            for matrix, diagonal, right in ((whole, noise, targets), (whole[:n, :n], noise[:n], y))
        ]
        weights = solved[0] - jnp.concatenate([solved[1], jnp.zeros(1)])

        def change(x):
            return kernel.pairwise(x[None], points)[0] @ weights

        return jax.value_and_grad(change)(probe(r))

    def by_cholesky():
        return [refit(X, *cell) for cell in cells]

    refits = []
    for name, function in (("scikit-learn's KernelRidge", by_scikit_learn), ("a jitted Cholesky refit", by_cholesky)):
        timed = compare(name, function, f"the whole {axis}³ grid with its factorisation", grid, sizes=sizes, repeats=3)
        factor = axis**3 / _POINTS
        refits.append(
            dataclasses.replace(
                timed,
                name=f"{axis**3:,} refits by {name}, from {_POINTS} of them,",
                asked="at least 1e5",
                ratios=[factor * ratio for ratio in timed.ratios],
            )
        )
    # How closely the refits agree with the grid, relative to the values themselves.
    values = by_cholesky()
    law = [(float(result.efficacy[tuple(index)]), float(result.spike[tuple(index)])) for index in chosen]
    errors = [
        max(abs(float(value) / efficacy - 1), abs(float(gradient @ gradient) / spike - 1))
        for (value, gradient), (efficacy, spike) in zip(values, law, strict=True)
        # A far probe's efficacy is below the rounding of two predictions of order one.
        if abs(efficacy) > 1e-6
    ]
    refits[1].notes["largest relative difference of efficacy and spike"] = f"{max(errors):.1e} ({len(errors)} points)"
    learned = by_scikit_learn()
    errors = [
        abs(value / efficacy - 1) for value, (efficacy, _) in zip(learned, law, strict=True) if abs(efficacy) > 1e-6
    ]
    refits[0].notes["largest relative difference of efficacy"] = f"{max(errors):.1e} ({len(errors)} points)"
    return [*against_eigh, *refits]
