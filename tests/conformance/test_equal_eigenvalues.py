"""Derivatives where a matrix on the way has equal eigenvalues, whose eigenvectors have none: right, or refused by name.

A walk of what decomposes a matrix that it is given or makes of its arguments; those of `fit` are in the solvers' tests,
the metric's in tests/ridge/test_gradient_penalty.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison import attacks, curvature, defences
from kpoison.poison import tightness

CROSS = np.concatenate([np.eye(3), -np.eye(3)])
ATTACKED = np.array([True, False, False, True, False, False])
WIDE = 2 * np.eye(4, 6)
CLONES = np.array([[0.0, 1.0], [0.0, 1.0], [2.0, 0.0]])

DIFFERENTIABLE = {
    "spike_threshold": (
        CROSS,
        lambda G: curvature.spike_threshold(G, ATTACKED, np.array([1.0, 2.0, 3.0]), 5.0),
    ),
    "spike_threshold of fewer rows": (
        WIDE,
        lambda G: curvature.spike_threshold(G, ATTACKED[:4], np.arange(1.0, 7.0), 5.0),
    ),
    "GeometricMedian": (
        CROSS,
        # Differences of 1e-4 see where its iteration ends, at a residual of 1e-8 by default.
        lambda U: jnp.sum(jnp.sin(attacks.GeometricMedian(tolerance=1e-13, max_iterations=2000)(U) + jnp.arange(3))),
    ),
    "tightness": (
        np.eye(4) + 3,
        lambda Z: tightness(kp.kernels.Linear(), kp.Poison(Z, 1.0, jnp.ones(4))).leading,
    ),
}
REFUSED = {
    "kernel_features": (CLONES, lambda X: defences.kernel_features(kp.kernels.RBF(1.0), X)),
    "bulk_edge_from_clean": (CROSS, lambda G: curvature.bulk_edge_from_clean(G, repeats=3).edge),
    "bulk_edge_from_permutations": (CROSS, lambda G: curvature.bulk_edge_from_permutations(G, repeats=3).edge),
    "visible_count": (CROSS, lambda clean: defences.visible_count(clean, np.array([[1.0, 2.0, 3.0]]))),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "spike_threshold" else pytest.mark.slow) for name in DIFFERENTIABLE]
)
def test_first_and_second_derivatives_are_differences(name):
    at, function = DIFFERENTIABLE[name]
    direction, other = np.random.default_rng(0).normal(size=(2, *at.shape))
    value, step = jax.jit(function), 1e-4
    slope = jax.jit(lambda x, v: jax.jvp(function, (x,), (v,))[1])
    expected = (value(at + step * direction) - value(at - step * direction)) / (2 * step)
    gradient = jax.grad(function)(jnp.asarray(at))
    np.testing.assert_allclose(np.sum(gradient * direction), expected, rtol=2e-6)
    bend = (slope(at + step * other, direction) - slope(at - step * other, direction)) / (2 * step)
    forward = jax.jvp(lambda x: slope(x, jnp.asarray(direction)), (jnp.asarray(at),), (jnp.asarray(other),))[1]
    reverse = jax.grad(lambda x: jnp.sum(jax.grad(function)(x) * direction))(jnp.asarray(at))
    np.testing.assert_allclose(forward, bend, rtol=2e-5)
    np.testing.assert_allclose(np.sum(reverse * other), bend, rtol=2e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_or_refused_by_name(name):
    at, function = REFUSED[name]
    assert np.all(np.isfinite(function(at)))
    with pytest.raises(TypeError, match="have no derivative"):
        jax.grad(lambda x: jnp.sum(function(x)))(jnp.asarray(at))
