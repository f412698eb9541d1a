"""One gradient step of a bilevel attack beside refitting and differentiating: `python -m benchmarks bilevel`."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import kpoison as kp
from benchmarks.timing import Comparison, compare
from kpoison.attacks import bilevel_objective

__all__ = ["run"]

_POINTS, _DIMENSIONS, _POISONS, _PROBES, _RIDGE = 2000, 784, 50, 20, 1e-4


def _by_factors(matrix: Array, y: Array) -> Array:
    """As `jax.grad` differentiates a Cholesky factorisation and its solves."""
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), y)


def _by_the_solution(matrix: Array, y: Array) -> Array:
    """The same factorisation with the derivative of the solved equation, which uses it again."""
    return jax.scipy.linalg.solve(matrix, y, assume_a="pos")


def _refit(solve: Callable, kept: bool, kernel, gram: Array, X: Array, y: Array, probes: Array, target: Array):
    """Objective and gradient in the poisons' inputs, of a predictor trained on all points."""

    @jax.jit
    def step(Z: Array, labels: Array, X: Array, gram: Array):
        def objective(Z):
            points = jnp.concatenate([X, Z])
            if kept:
                cross = kernel.gram(Z, X)
                matrix = jnp.block([[gram, cross.T], [cross, kernel.gram(Z, Z)]])
            else:
                matrix = kernel.gram(points, points)
            matrix += len(points) * _RIDGE * jnp.eye(len(points))
            weights = solve(matrix, jnp.concatenate([y, labels]))
            return jnp.mean((kernel.gram(probes, points) @ weights - target) ** 2)

        return jax.value_and_grad(objective)(Z)

    return lambda Z, labels: step(Z, labels, X, gram)


def run(n: int = _POINTS, d: int = _DIMENSIONS, poisons: int = _POISONS) -> list[Comparison]:
    """RBF and ReLU-NTK in float64: against the whole Gram matrix anew, and with its clean block kept."""
    generator = np.random.default_rng(0)
    X, probes, Z = (jnp.asarray(generator.standard_normal((m, d))) for m in (n, _PROBES, poisons))
    y, target, labels = (jnp.asarray(generator.choice([-1.0, 1.0], m)) for m in (n, _PROBES, poisons))
    kernels = {"RBF": kp.kernels.RBF(float(d) ** 0.5), "NTK": kp.kernels.NTK(2, "relu", 2**0.5, 0.1)}
    refits = {
        "refit, Cholesky differentiated": (_by_factors, False),
        "refit, solution differentiated": (_by_the_solution, False),
        "refit with the clean Gram matrix kept, Cholesky differentiated": (_by_factors, True),
        "refit with the clean Gram matrix kept, solution differentiated": (_by_the_solution, True),
    }
    found = []
    for name, kernel in kernels.items():
        clean = kp.fit(kernel, X, y, solver=kp.Cholesky())
        objective = bilevel_objective(clean, kp.Poison(Z, labels, 1), _RIDGE, probes=probes, target=target)
        ours = functools.partial(objective.gradient, Z, labels)
        slope = ours()[1][0]
        for label, (solve, kept) in refits.items():
            refit = _refit(solve, kept, clean.kernel, clean.factor.matrix(), X, y, probes, target)
            theirs = functools.partial(refit, Z, labels)
            error = float(jnp.max(jnp.abs(theirs()[1] - slope)) / jnp.max(jnp.abs(slope)))
            timed = compare(
                f"{name}: a step",
                ours,
                label,
                theirs,
                asked="" if kept else "at most 1/20",
                sizes={"n": n, "d": d, "poisons": poisons, "probes": _PROBES, "ridge": _RIDGE, "dtype": "float64"},
            )
            notes = {"times less": f"{1 / float(np.median(timed.ratios)):.1f}", "gradient differs by": f"{error:.1e}"}
            found.append(dataclasses.replace(timed, notes=notes))
    return found
