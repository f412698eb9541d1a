"""L13(b): the expected loss of stochastic poisons, by adding up every outcome of the draws."""

import itertools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison.poison import expected_poisoning

RNG = np.random.default_rng(17)
X, Y = RNG.normal(size=(4, 2)), np.array([1.0, -1.0, 1.0, -1.0])
COPIES, ELIGIBLE = X + np.array([0.0, 3.0]), np.array([True, False, True, True])
THETA = np.array([0.3, 0.9, 0.1, 1.0])


def outcomes(theta):
    """Every draw with its probability."""
    for drawn in itertools.product([False, True], repeat=4):
        chances = np.where(drawn, np.where(ELIGIBLE, theta, 0.0), np.where(ELIGIBLE, 1 - np.asarray(theta), 1.0))
        if np.prod(chances) > 0:
            yield np.array(drawn), np.prod(chances)


@pytest.mark.parametrize("theta", [0.25, THETA])
def test_the_weighted_loss_is_the_expected_one(theta):
    def loss(points, targets, weights=None):
        return np.average((np.sin(points[:, 0]) + 0.2 * points[:, 1] - targets) ** 2, weights=weights)

    expected = sum(
        chance * loss(np.where(drawn[:, None], COPIES, X), np.where(drawn, -1.0, Y))
        for drawn, chance in outcomes(theta)
    )
    found = expected_poisoning(X, Y, COPIES, -1.0, theta, ELIGIBLE)
    assert loss(*(np.asarray(part) for part in found)) == pytest.approx(expected, rel=1e-14)
    assert float(jnp.sum(found.weights)) == pytest.approx(4.0, rel=1e-15)


def test_ridge_regression_minimises_the_expected_loss():
    """The mean of the normal equations over every draw, solved by NumPy."""
    ridge = 0.1
    moment, target = np.zeros((2, 2)), np.zeros(2)
    for drawn, chance in outcomes(THETA):
        points = np.where(drawn[:, None], COPIES, X)
        moment += chance * points.T @ points / 4
        target += chance * points.T @ np.where(drawn, -1.0, Y) / 4
    coefficients = np.linalg.solve(moment + ridge * np.eye(2), target)
    found = expected_poisoning(X, Y, COPIES, -1.0, THETA, ELIGIBLE)
    clean = kp.fit(kp.kernels.Linear(), found.X, found.y, weights=found.weights)
    np.testing.assert_allclose(kp.predict(clean, COPIES, ridge), COPIES @ coefficients, rtol=1e-12)


def test_several_outputs_images_and_ends():
    images, targets = RNG.random((3, 2, 2, 1)), np.eye(3)
    found = expected_poisoning(images, targets, images + 1, np.eye(3)[0], 0.5, [0, 1, 1])
    assert [part.shape for part in found] == [(5, 2, 2, 1), (5, 3), (5,)]
    np.testing.assert_array_equal(found.y[3:], np.eye(3)[[0, 0]])
    for theta, expected in ((0.0, [1, 1, 1, 1, 0, 0, 0, 0]), (1.0, [0, 0, 0, 0, 1, 1, 1, 1])):
        assert expected_poisoning(X, Y, COPIES, -1.0, theta).weights.tolist() == expected
    assert expected_poisoning(X.astype(np.float32), Y, COPIES, -1.0, 0.5).weights.dtype == jnp.float32


@pytest.mark.slow
def test_derivative_in_theta():
    def prediction(theta):
        found = expected_poisoning(X, Y, COPIES, -1.0, theta)
        return kp.predict(kp.fit(kp.kernels.RBF(1.0), found.X, found.y, weights=found.weights), COPIES[0], 0.1)

    found = float(jax.jit(jax.grad(prediction))(0.3))
    assert found == pytest.approx(float(prediction(0.3 + 1e-6) - prediction(0.3 - 1e-6)) / 2e-6, rel=1e-6)
    assert found < -0.1


def test_bad_input():
    jaxtyping.config.update("jaxtyping_disable", True)
    cases = (
        ({"probability": 1.1}, ValueError, r"probability must lie in \[0, 1\], got 1.1"),
        ({"probability": np.full(3, 0.1)}, ValueError, r"probability must be one number or have shape \(4,\)"),
        ({"triggered": COPIES[:2]}, ValueError, r"triggered must have the shape of X, \(4, 2\), got \(2, 2\)"),
        ({"label": [1.0, 0.0]}, ValueError, r"label must have shape \(\), as one entry of y has, got \(2,\)"),
        ({"y": Y[:3]}, ValueError, r"y must have shape \(4,\) or \(4, C\), got \(3,\)"),
        ({"eligible": [0, 0, 0, 0]}, ValueError, "eligible must mark at least one example"),
        ({"eligible": [0.5, 0, 0, 0]}, TypeError, "eligible must be booleans"),
        ({"X": X.astype(int)}, TypeError, "X must be a floating-point array"),
        ({"label": "cat"}, TypeError, "label must be real"),
    )
    try:
        for changed, error, message in cases:
            with pytest.raises(error, match=message):
                expected_poisoning(**{"X": X, "y": Y, "triggered": COPIES, "label": -1.0, "probability": 0.5} | changed)
        with pytest.raises((RuntimeError, ValueError), match="probability must lie"):
            jax.block_until_ready(jax.jit(lambda t: expected_poisoning(X, Y, COPIES, -1.0, t).weights)(2.0))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
