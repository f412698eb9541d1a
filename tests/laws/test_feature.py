"""L13(a): a feature more against NumPy's predictors of the wider kernel, by every solver; derivatives; bad input."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison.laws import feature_effect

RNG = np.random.default_rng(13)
X, Y = RNG.normal(size=(15, 2)), RNG.normal(size=(15, 2))
WEIGHTS = RNG.uniform(0.5, 2.0, size=15)
PROBES, RIDGE = RNG.normal(size=(3, 2)), 0.05


def feature(x):
    return jnp.sin(x[0]) + 0.3


def g(x):
    return np.sin(x[:, 0]) + 0.3


def gram(a, b):
    return np.exp(-np.sum((a[:, None] - b[None]) ** 2, axis=-1) / 2)


def wider(variance, weights, targets, ridge=RIDGE):
    """Predictions and yᵀA⁻¹y of k + τ²gg, with dual weights."""
    system = gram(X, X) + variance * np.outer(g(X), g(X)) + np.sum(weights) * ridge * np.diag(1 / weights)
    dual = np.linalg.solve(system, targets)
    values = (gram(PROBES, X) + variance * np.outer(g(PROBES), g(X))) @ dual
    return values, np.sum(targets * dual, axis=0)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("variance", [1e-2, 3.0, np.inf])
def test_the_predictor_is_that_of_the_wider_kernel(weights, variance):
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y, weights=weights)
    found = feature_effect(clean, feature, PROBES, RIDGE, variance)
    own = np.ones(15) if weights is None else weights
    (before, energy), (after, left) = (wider(v, own, Y) for v in (0.0, min(variance, 1e9)))
    # 1e9 in place of ∞ leaves out 1/(τ² gᵀA⁻¹g), and costs nine digits.
    tolerance = 1e-6 if np.isinf(variance) else 1e-10
    np.testing.assert_allclose(found.change, after - before, atol=tolerance)
    np.testing.assert_allclose(found.fall, energy - left, atol=10 * tolerance)
    assert found.coefficient.shape == (2,)
    one = feature_effect(clean, feature, PROBES[0], RIDGE, variance)
    np.testing.assert_allclose(one.change, found.change[0], rtol=1e-12)


@pytest.mark.slow
def test_by_every_solver():
    expected = feature_effect(kp.fit(kp.kernels.RBF(1.0), X, Y), feature, PROBES, RIDGE)
    for solver in (kp.Cholesky(), kp.Tridiagonal(), kp.ConjugateGradients(tolerance=1e-13)):
        found = feature_effect(kp.fit(kp.kernels.RBF(1.0), X, Y, solver=solver), feature, PROBES, RIDGE)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_a_constant_is_an_intercept():
    plain, free = (kp.fit(kp.kernels.RBF(1.0), X, Y[:, 0], intercept=intercept) for intercept in (False, True))
    found = feature_effect(plain, lambda x: jnp.ones(()), PROBES, RIDGE)
    assert found.coefficient.shape == ()
    np.testing.assert_allclose(
        kp.predict(plain, PROBES, RIDGE) + found.change, kp.predict(free, PROBES, RIDGE), atol=1e-12
    )
    with pytest.raises(ValueError, match="feature must have a length on the training points"):
        feature_effect(free, lambda x: jnp.ones(()), PROBES, RIDGE)


def test_stepwise_regression():
    """A → projector: a column more of ordinary least squares, as λ → 0."""
    full = np.concatenate([X, g(X)[:, None]], axis=1)
    coefficients = np.linalg.lstsq(full, Y, rcond=None)[0]
    found = feature_effect(kp.fit(kp.kernels.Linear(), X, Y), feature, PROBES, 1e-9)
    np.testing.assert_allclose(found.coefficient, coefficients[2], rtol=1e-6)


def test_derivatives_and_compilation():
    def value(ridge, variance, shift):
        clean = kp.fit(kp.kernels.RBF(1.0), X, Y[:, 0])
        return jnp.sum(feature_effect(clean, lambda x: jnp.sin(x[0] + shift), PROBES, ridge, variance).change)

    at = (RIDGE, 2.0, 0.1)
    found = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(*at)
    for place, gradient in enumerate(found):
        step = 1e-5 * at[place]
        moved = [float(value(*(a + s * step * (i == place) for i, a in enumerate(at)))) for s in (1, -1)]
        assert float(gradient) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-6)
    narrow = kp.fit(kp.kernels.RBF(1.0), X.astype(np.float32), Y[:, 0])
    assert feature_effect(narrow, feature, PROBES, RIDGE).change.dtype == jnp.float32


def test_bad_input():
    jaxtyping.config.update("jaxtyping_disable", True)
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y)
    sloped = kp.fit(kp.kernels.RBF(1.0), X, Y, gradient_penalty=0.1)
    cases = (
        ((clean, "g", PROBES, RIDGE), TypeError, "feature must be a function of one point, got str"),
        ((clean, lambda x: x, PROBES, RIDGE), ValueError, r"feature must return one number for one point, got shape"),
        ((clean, lambda x: jnp.log(x[0]), PROBES, RIDGE), ValueError, "feature's values must be finite"),
        ((clean, lambda x: 0.0 * x[0], PROBES, RIDGE), ValueError, "feature must have a length"),
        ((clean, feature, PROBES, RIDGE, 0.0), ValueError, "variance must be one number > 0"),
        ((clean, feature, PROBES, RIDGE, np.nan), ValueError, "variance must be one number > 0"),
        ((clean, feature, PROBES, -1.0), ValueError, "ridge must be finite and > 0"),
        ((sloped, feature, PROBES, RIDGE), ValueError, "clean must be fitted without a gradient penalty"),
        ((kp.flow.early_stopped(clean, 1.0), feature, PROBES, RIDGE), ValueError, "trained to the end"),
    )
    try:
        for arguments, error, message in cases:
            with pytest.raises(error, match=message):
                feature_effect(*arguments)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
