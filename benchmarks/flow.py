"""The penalised predictor in closed form against the loop that a user would write: `python -m benchmarks flow`."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import kpoison as kp
from benchmarks.timing import Comparison, compare
from kpoison.ridge.observations import Observations, covariance

__all__ = ["run"]

_POINTS, _DIMENSIONS, _PROBES = 100, 10, 200
_RIDGE, _PENALTY = 1e-3, 1e-2  # γ in units of ℓ²
_ACCURACY = 1e-6  # of predictions, relative to the largest
_STEPS_AT_ONCE = 200
_GIVEN_UP_AFTER = 120.0  # seconds
_TIMES = np.geomspace(0.1, 1000, 100)


def run() -> list[Comparison]:
    """Fit and prediction against training to the same accuracy, and a hundred times of the flow beside one fit."""
    generator = np.random.default_rng(0)
    X = jnp.asarray(generator.standard_normal((_POINTS, _DIMENSIONS)))
    y = jnp.tanh(X @ jnp.asarray(generator.standard_normal(_DIMENSIONS)) / _DIMENSIONS**0.5)
    x = jnp.asarray(generator.standard_normal((_PROBES, _DIMENSIONS)))
    length_scale = float(jnp.median(jnp.linalg.norm(X[:, None] - X[None], axis=2)))
    kernel, penalty = kp.kernels.RBF(length_scale), _PENALTY * length_scale**2

    def closed_form(solver: kp.Cholesky | kp.Spectral = kp.Cholesky()) -> Array:  # noqa: B008 - immutable
        clean = kp.fit(kernel, X, y, gradient_penalty=penalty, solver=solver)
        return kp.predict(clean, x, _RIDGE)

    exact = closed_form()
    own = _seconds(closed_form)
    sizes = {"n": _POINTS, "d": _DIMENSIONS, "ridge": _RIDGE, "penalty in ℓ²": _PENALTY, "accuracy": _ACCURACY}
    results = []
    optimisers = {"L-BFGS": optax.lbfgs(memory_size=20), "Adam (rate 1e-2)": optax.adam(1e-2)}
    for name, optimiser in optimisers.items():
        seconds, steps, error = _train(optimiser, kernel, X, y, x, penalty, exact)
        reached = error <= _ACCURACY
        results.append(
            Comparison(
                f"training with optax, {name}" + ("" if reached else f", given up at an error of {error:.1e}"),
                "fit and predict in closed form",
                ">= 100",
                [seconds / own],
                own,
                sizes,
                {"steps": steps, "relative error": f"{error:.1e}", "of numbers": _POINTS * (1 + _DIMENSIONS)},
            )
        )
    clean = kp.fit(kernel, X, y, gradient_penalty=penalty)
    poison = kp.Poison(x[0], -1.0, 5)
    results.append(
        compare(
            f"efficacy at {len(_TIMES)} times",
            lambda: kp.flow.trajectory(kp.efficacy, clean, _TIMES, poison, x[1:21], _RIDGE),
            "one fit with its eigendecomposition",
            lambda: kp.fit(kernel, X, y, gradient_penalty=penalty).factor,
            sizes=sizes | {"m": 5, "probes": 20},
            repeats=5,
        )
    )
    return results


def _seconds(function: Callable) -> float:
    """Median of a few runs."""
    found = []
    for _ in range(7):
        start = time.perf_counter()
        jax.block_until_ready(function())
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def _train(optimiser, kernel, X: Array, y: Array, x: Array, penalty: float, exact: Array) -> tuple[float, int, float]:
    """Seconds, steps and error of minimising over the dual coefficients; the matrix is computed once, outside."""
    seen = Observations(X, penalty**0.5 * jnp.eye(X.shape[1]))
    gram, cross = covariance(kernel, seen, seen), covariance(kernel, Observations(x), seen)
    number = len(X)

    def loss(c):
        image = gram @ c
        return (jnp.sum((image[:number] - y) ** 2) + jnp.sum(image[number:] ** 2)) / (2 * number) + 0.5 * _RIDGE * (
            c @ image
        )

    def step(carry, _):
        c, state = carry
        value, slope = jax.value_and_grad(loss)(c)
        update, state = optimiser.update(slope, state, c, value=value, grad=slope, value_fn=loss)
        return (optax.apply_updates(c, update), state), None

    optimiser = optax.with_extra_args_support(optimiser)
    many = jax.jit(lambda carry: jax.lax.scan(step, carry, length=_STEPS_AT_ONCE)[0])
    start_point = jnp.zeros(len(gram))
    carry = (start_point, optimiser.init(start_point))
    jax.block_until_ready(many(carry))
    start, steps, error = time.perf_counter(), 0, np.inf
    while error > _ACCURACY and time.perf_counter() - start < _GIVEN_UP_AFTER:
        carry = jax.block_until_ready(many(carry))
        steps += _STEPS_AT_ONCE
        error = float(jnp.max(jnp.abs(cross @ carry[0] - exact)) / jnp.max(jnp.abs(exact)))
    return time.perf_counter() - start, steps, error
