"""One problem, and every public function of it as a function of the numbers that may be traced."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp

EPS = float(np.finfo(float).eps)
RNG = np.random.default_rng(8)
X = RNG.normal(size=(8, 3))
Y = RNG.normal(size=8)
# What compiled code raises: jax.jit translates a failure inside to either, by the path that dispatches the call.
RUN_TIME = (RuntimeError, ValueError)


class Numbers(NamedTuple):
    """Kernel parameter ℓ (or weight_std), ζ, y_t, m, λ and probes x."""

    scale: Any
    zeta: Any
    label: Any
    count: Any
    ridge: Any
    x: Any


NUMBERS = Numbers(1.5, RNG.normal(size=3), 0.7, 3.0, 0.05, RNG.normal(size=(2, 3)))
CONDITION = (11 + 11 * 0.05) / (11 * 0.05)
"""At most cond(K + ρI): the kernel is at most 1 on 8 + 3 points, and ρ = 11 λ."""


def as_arrays(numbers: Numbers, dtype=jnp.float64) -> Numbers:
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), numbers)


def fitted(a: Numbers, kernel=kp.kernels.RBF):
    dtype = jnp.result_type(a.x)
    return kp.fit(kernel(a.scale), X.astype(dtype), Y.astype(dtype))


def poisoned(a: Numbers):
    return kp.Poison(a.zeta, a.label, a.count)


def cluster(a: Numbers):
    """Three locations about ζ with labels and counts of their own."""
    shifts = jnp.asarray([[0.0, 0.0, 0.0], [0.3, -0.1, 0.2], [-0.2, 0.4, 0.1]], jnp.result_type(a.zeta))
    factors = jnp.asarray([1.0, 0.5, -1.0], shifts.dtype)
    return kp.Poison(jnp.asarray(a.zeta)[None] + shifts, a.label * factors, a.count * factors**2)


def _law(function, make=poisoned, **options):
    return lambda a, kernel=kp.kernels.RBF: function(fitted(a, kernel), make(a), a.x, a.ridge, **options)


FUNCTIONS = {
    "kernel": lambda a, kernel=kp.kernels.RBF: kernel(a.scale)(a.x, jnp.asarray(X, jnp.result_type(a.x))),
    "kernel of itself": lambda a, kernel=kp.kernels.RBF: kernel(a.scale)(a.x),
    "fit": lambda a, kernel=kp.kernels.RBF: fitted(a, kernel).factor.gram,
    "predict": lambda a, kernel=kp.kernels.RBF: kp.predict(fitted(a, kernel), a.x, a.ridge),
    "predict poisoned": lambda a, kernel=kp.kernels.RBF: kp.predict(fitted(a, kernel), a.x, a.ridge, poisoned(a)),
    "gain": lambda a, kernel=kp.kernels.RBF: kp.gain(fitted(a, kernel), poisoned(a), a.ridge),
    "gain isolated": lambda a, kernel=kp.kernels.RBF: kp.gain(fitted(a, kernel), poisoned(a), a.ridge, law="isolated"),
    "gain of a cluster": lambda a, kernel=kp.kernels.RBF: kp.gain(fitted(a, kernel), cluster(a), a.ridge),
    "efficacy": _law(kp.efficacy),
    "efficacy isolated": _law(kp.efficacy, law="isolated"),
    "efficacy of a cluster": _law(kp.efficacy, cluster),
    "efficacy_gradient": _law(kp.efficacy_gradient),
    "spike": _law(kp.spike),
    "spike isolated": _law(kp.spike, law="isolated"),
    "spike_components": _law(kp.spike_components),
    "spike_efficacy_ratio": _law(kp.spike_efficacy_ratio),
    "coupling_floor": lambda a, kernel=kp.kernels.RBF: kp.coupling_floor(fitted(a, kernel), poisoned(a), a.ridge),
    "coupling_ratio": _law(kp.coupling_ratio),
}

CLUSTERS_ARE_SLOW = [
    pytest.param(name, marks=pytest.mark.slow if name in ("gain of a cluster", "spike_components") else ())
    for name in FUNCTIONS
]
"""The names as parameters: what is made of parts that others show is slow."""


def assert_same(found, expected):
    """Equal up to 10·eps·cond of the largest entry, times 10 for ratios, which divide by k̃ > 0.1."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=100 * EPS * CONDITION * np.abs(b).max())
