"""Kernel and ridge by a search beside a 20 × 20 grid of left-out errors: `python -m benchmarks tuning`.

The grid is the fastest that the library has: one factorisation for each length scale, from which all ridges follow.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

import kpoison as kp
from benchmarks.timing import Comparison, compare
from kpoison.datasets import load_digits, load_mnist

__all__ = ["run"]

_AXIS = 20


def _median_distance(X: np.ndarray) -> float:
    distances = np.linalg.norm(X[:200, None] - X[None, :200], axis=-1)
    return float(np.median(distances[distances > 0]))


def _standardised(y: np.ndarray) -> np.ndarray:
    return (y - y.mean()) / y.std()


def _problems() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Digits, odd or even; zeros and ones of MNIST, where its files are; how diabetes goes on."""
    digits, (diabetes, progress) = load_digits(), load_diabetes(return_X_y=True)
    problems = {
        "digits": (digits.images.reshape(len(digits.images), -1)[:1000], np.where(digits.labels[:1000] % 2, 1.0, -1.0)),
        "diabetes": (_standardised(np.asarray(diabetes)), _standardised(np.asarray(progress))),
    }
    try:
        mnist = load_mnist()
    except FileNotFoundError:
        return problems
    few = np.flatnonzero(mnist.labels < 2)[:1000]
    return problems | {"MNIST": (mnist.images[few].reshape(len(few), -1), np.where(mnist.labels[few], 1.0, -1.0))}


@functools.partial(jax.jit, static_argnames="solver")
def _errors(length_scale, ridges, X, y, solver):
    """Left-out errors at every ridge from one factorisation."""
    clean = kp.fit(kp.kernels.RBF(length_scale), X, y, solver=solver)
    return jax.lax.map(lambda ridge: jnp.mean((y - kp.leave_one_out(clean, ridge)) ** 2), ridges)


def run() -> list[Comparison]:
    """Left-out errors by L-BFGS, from what is usual, and on a grid of factors of 30 and 1,000 about it."""
    found = []
    for name, (points, targets) in _problems().items():
        X, y, length_scale = jnp.asarray(points), jnp.asarray(targets), _median_distance(points)
        scales = length_scale * np.geomspace(1 / 30, 30, _AXIS)
        ridges = jnp.asarray(1e-3 * np.geomspace(1e-3, 1e3, _AXIS))

        def grid(X=X, y=y, scales=scales, ridges=ridges):
            return jnp.stack([_errors(scale, ridges, X, y, kp.Spectral()) for scale in scales])

        def search(X=X, y=y, length_scale=length_scale):
            return kp.tune(kp.kernels.RBF(length_scale), X, y, 1e-3)

        begun = time.perf_counter()
        tuned = search()
        first = time.perf_counter() - begun
        timed = compare(
            f"tune on {name}",
            lambda search=search: search().value,
            f"a {_AXIS} × {_AXIS} grid of left-out errors",
            grid,
            asked="below 1",
            sizes={"n": len(X), "d": X.shape[1], "dtype": "float64"},
            repeats=3,
        )
        notes = {
            "error by tune": f"{float(tuned.value):.6g}",
            "on the grid": f"{float(grid().min()):.6g}",
            "first call": f"{first:.1f} s",
            "grid": f"{timed.baseline_seconds:.1f} s",
        }
        found.append(dataclasses.replace(timed, notes=notes))
    return found
