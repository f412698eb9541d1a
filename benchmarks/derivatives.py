"""Derivatives of a law beside its value: `python -m benchmarks derivatives`.

A gradient needs one more solve with the same factor for each solve of the value, and the cotangents of what it is taken
in: two values where these are numbers and points, three where they are all of the Gram matrix.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import kpoison as kp
from benchmarks.timing import Comparison, compare

__all__ = ["run"]


def _spike(clean, location, label, count, x, ridge):
    return kp.spike(clean, kp.Poison(location, label, count), x, ridge)


def _from_data(length_scale, X, y, location, label, count, x, ridge):
    return _spike(kp.fit(kp.kernels.RBF(length_scale), X, y), location, label, count, x, ridge)


def run(n: int = 2000, d: int = 784) -> list[Comparison]:
    """Gradient in every argument, and a Hessian in three numbers: of a fitted predictor, and through its fit."""
    generator = np.random.default_rng(0)
    X, y = jnp.asarray(generator.normal(size=(n, d))), jnp.asarray(np.sign(generator.normal(size=n)))
    location = X[0] + 0.1 * jnp.asarray(generator.normal(size=d))
    length_scale, label, count, x, ridge = d**0.5, 1.0, 10.0, location + 0.3, 1e-3
    clean = kp.fit(kp.kernels.RBF(length_scale), X, y)
    scalars = jnp.array([label, count, ridge])
    whole = jnp.array([length_scale, count, ridge])
    ways = {
        "spike of a fitted predictor": (
            functools.partial(eqx.filter_jit(_spike), clean, location, label, count, x, ridge),
            {
                "gradient in the poison, x and λ": functools.partial(
                    eqx.filter_jit(jax.value_and_grad(_spike, argnums=(1, 2, 3, 4, 5))),
                    clean, location, label, count, x, ridge,
                ),
                "gradient in these and in kernel, Gram matrix, X and y": functools.partial(
                    eqx.filter_jit(eqx.filter_value_and_grad(lambda arguments: _spike(*arguments))),
                    (clean, location, label, count, x, ridge),
                ),
                "Hessian in label, count and λ": functools.partial(
                    eqx.filter_jit(jax.hessian(lambda s, clean: _spike(clean, location, s[0], s[1], x, s[2]))),
                    scalars, clean,
                ),
            },
        ),
        "spike through fit": (
            functools.partial(jax.jit(_from_data), length_scale, X, y, location, label, count, x, ridge),
            {
                "gradient in every argument": functools.partial(
                    jax.jit(jax.value_and_grad(_from_data, argnums=tuple(range(8)))),
                    length_scale, X, y, location, label, count, x, ridge,
                ),
                "Hessian in length scale, count and λ": functools.partial(
                    jax.jit(jax.hessian(lambda s, X, y: _from_data(s[0], X, y, location, label, s[1], x, s[2]))),
                    whole, X, y,
                ),
            },
        ),
    }  # fmt: skip
    sizes = {"n_c": n, "d": d, "dtype": "float64", "kernel": "RBF"}
    return [
        compare(
            f"{what}, {name}",
            function,
            "its value",
            value,
            asked="at most 8" if name.startswith("Hessian") else "at most 3",
            sizes=sizes,
            repeats=5,
        )
        for what, (value, functions) in ways.items()
        for name, function in functions.items()
    ]
