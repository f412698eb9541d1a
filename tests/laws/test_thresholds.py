"""m_success: the prediction flips there and not before, by refits; its derivatives; never is infinite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp

RNG = np.random.default_rng(5)
X = jnp.asarray(RNG.normal(size=(40, 3)))
Y = jnp.sign(X[:, 0])
ZETA = jnp.array([1.2, 0.3, -0.2])
PROBES = jnp.asarray(np.asarray(ZETA) + np.outer([0.0, 0.1, 0.5], [0.0, 1.0, 0.0]))


def refit(y, x, ridge, label, count):
    """Prediction by NumPy of a predictor trained on the clean data and a weighted poison."""
    points = np.concatenate([X, ZETA[None]])

    def k(a, b):
        return np.exp(-0.5 * np.sum((np.asarray(a)[:, None] - np.asarray(b)[None]) ** 2, axis=-1))

    weights = np.concatenate([np.ones(len(X)), [count]])
    targets = np.concatenate([np.asarray(y).reshape(len(X), -1), np.reshape(label, (1, -1))])
    system = weights[:, None] * k(points, points) + (len(X) + count) * ridge * np.eye(len(points))
    return k(x, points) @ np.linalg.solve(system, weights[:, None] * targets)


@pytest.mark.parametrize("ridge", [1e-4, 1e-2])
def test_the_prediction_flips_there_and_not_before(ridge):
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y)
    thresholds = kp.m_success(clean, kp.Poison(ZETA, -1.0, 7.0), PROBES, ridge)
    assert np.all(np.isfinite(thresholds))
    for x, m in zip(PROBES, np.asarray(thresholds), strict=True):
        before, after = (refit(Y, x[None], ridge, -1.0, m * factor)[0, 0] for factor in (1 - 1e-6, 1 + 1e-6))
        assert before > 0 > after
        assert np.all([refit(Y, x[None], ridge, -1.0, part * m)[0, 0] > 0 for part in np.linspace(0, 0.999, 20)])


def test_several_outputs():
    targets = jax.nn.one_hot((X[:, 0] > 0).astype(int), 3)
    clean = kp.fit(kp.kernels.RBF(1.0), X, targets)
    label = np.array([0.0, 0.0, 1.0])
    m = float(kp.m_success(clean, kp.Poison(ZETA, label, 1.0), PROBES[1], 1e-2))
    before, after = (
        np.argmax(refit(targets, PROBES[1:2], 1e-2, label, m * factor)[0]) for factor in (1 - 1e-6, 1 + 1e-6)
    )
    assert (before, after) == (1, 2)


def test_already_and_never():
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y)
    assert float(kp.m_success(clean, kp.Poison(ZETA, 1.0, 1.0), PROBES[0], 1e-2)) == 0
    far = kp.fit(kp.kernels.Custom(lambda x, z: jnp.maximum(0, 1 - jnp.sum((x - z) ** 2)) ** 3), X, Y)
    other = kp.Poison(ZETA + 100, -1.0, 1.0)
    assert float(kp.m_success(far, other, X[jnp.argmax(Y)], 1e-2)) == np.inf


def test_derivatives_are_those_of_the_implicit_function():
    def threshold(length_scale, ridge, zeta, x):
        clean = kp.fit(kp.kernels.RBF(length_scale), X, Y)
        return kp.m_success(clean, kp.Poison(zeta, -1.0, 1.0), x, ridge)

    at = (1.0, 1e-2, ZETA, PROBES[1])
    gradients = jax.jit(jax.grad(threshold, argnums=(0, 1, 2, 3)))(*at)
    for position, gradient in enumerate(gradients):
        step = 1e-5 * (1 if position != 1 else 1e-2)
        direction = jnp.ones_like(jnp.asarray(at[position]))
        moved = [
            threshold(*(a + sign * step * direction if i == position else a for i, a in enumerate(at)))
            for sign in (1, -1)
        ]
        expected = float(moved[0] - moved[1]) / (2 * step)
        assert float(jnp.sum(gradient * direction)) == pytest.approx(expected, rel=1e-5)


def test_bad_input():
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y)
    with pytest.raises(ValueError, match="poison must be clones at one location"):
        kp.m_success(clean, kp.Poison(X[:2], -1.0, 1.0), PROBES, 1e-2)
    with pytest.raises(ValueError, match="ridge must be finite and > 0"):
        kp.m_success(clean, kp.Poison(ZETA, -1.0, 1.0), PROBES, 0.0)
