"""L10, L11: against the population's normal equations by NumPy, roots and peaks of grids, and training sets."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison.laws import backdoor_score, best_strength, needed_fraction, trigger_stiffness

CASES = [(0.3, 0.1, 1.0, 0.8), (0.0, 0.02, 3.0, 2.0), (1.0, 1.0, 0.5, 0.4)]  # σ_u, λ, α_t, ‖μ‖


def population(strength, test_strength, fraction, along, ridge, mean):
    """The mean score at a triggered example of class −1, by ridge regression on moments; trigger and means apart."""
    poison, probe = np.array([strength, -mean]), np.array([test_strength, -mean])
    second = np.diag([along**2, 1.0]) + (1 - fraction) * np.diag([0.0, mean**2]) + fraction * np.outer(poison, poison)
    return probe @ np.linalg.solve(second + ridge * np.eye(2), (1 - fraction) * np.array([0, mean]) + fraction * poison)


@pytest.mark.parametrize(("along", "ridge", "probe", "mean"), CASES)
def test_score_peak_and_root_are_the_populations(along, ridge, probe, mean):
    stiffness, clean = along**2 + ridge, mean**2 / (1 + ridge) / (1 + mean**2 / (1 + ridge))
    assert clean == pytest.approx(-population(1.0, 0.0, 0.0, along, ridge, mean))
    strengths, fractions = np.geomspace(0.05, 50, 9), np.array([1e-4, 0.05, 0.3, 0.9])
    found = backdoor_score(strengths[:, None], probe, fractions[None], stiffness, clean)
    expected = [[population(a, probe, f, along, ridge, mean) for f in fractions] for a in strengths]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    for fraction in fractions:
        peak = float(best_strength(probe, fraction, stiffness, clean))
        beside = [population(peak * (1 + e), probe, fraction, along, ridge, mean) for e in (-1e-3, 0.0, 1e-3)]
        assert max(beside) == beside[1]
        assert beside[1] >= max(population(a, probe, fraction, along, ridge, mean) for a in strengths)
    for strength in strengths:
        root = float(needed_fraction(strength, probe, stiffness, clean))
        assert 0 < root < 1
        assert abs(population(strength, probe, root, along, ridge, mean)) < 1e-12
        assert population(strength, probe, 0.999 * root, along, ridge, mean) < 0


def test_isolated_is_the_linear_kernels_law():
    X, ridge, count = np.random.default_rng(0).normal(size=(12, 3)), 0.3, 4.0
    clean, u = kp.fit(kp.kernels.Linear(), X, X[:, 1]), np.array([1.0, 0.0, 0.0])
    for strength in (0.2, 2.0):
        law = kp.efficacy(clean, kp.Poison(strength * u, 1.0, count), 1.5 * u, ridge, law="isolated")
        assert float(backdoor_score(strength, 1.5, count / 16, ridge)) == pytest.approx(float(law), rel=1e-12)
    rho = 16 * ridge
    assert float(best_strength(9.0, count / 16, ridge)) == pytest.approx((rho / count) ** 0.5, rel=1e-14)
    assert float(needed_fraction(1.0, 1.0, 0.1, 0.0)) == 0


def test_derivatives_and_float32():
    at = (1.3, 2.0, 0.2, 0.4)
    for law, numbers in ((needed_fraction, at), (best_strength, (2.0, 0.1, 0.2, 0.4)), (backdoor_score, (*at, 0.4))):
        gradients = jax.jit(jax.grad(law, argnums=range(len(numbers))))(*numbers)
        for place, gradient in enumerate(gradients):
            ends = [float(law(*(a * (1 + s * 1e-5 * (i == place)) for i, a in enumerate(numbers)))) for s in (1, -1)]
            assert float(gradient) == pytest.approx((ends[0] - ends[1]) / (2e-5 * numbers[place]), rel=1e-7)
        narrow = law(*(np.float32(a) for a in numbers))
        assert narrow.dtype == jnp.float32
        assert float(narrow) == pytest.approx(float(law(*numbers)), rel=1e-5)


@pytest.mark.slow
def test_stiffness_is_that_of_the_population():
    """1/uᵀ(Σ + λ_e)⁻¹u with λ_e = λ + λ_e df1/n, of the true covariance; the sample's own would be 40 % off."""
    n, d, ridge = 300, 120, 0.05
    variances = np.linspace(0.2, 2.0, d)
    effective = ridge
    for _ in range(500):
        effective = ridge + effective * np.sum(variances / (variances + effective)) / n
    found, raw = [], []
    for seed in range(12):
        X = np.random.default_rng(seed).normal(size=(n, d)) * np.sqrt(variances)
        clean = kp.fit(kp.kernels.Linear(), X, X[:, 0])
        found.append(float(trigger_stiffness(clean, 3 * np.eye(d)[0], ridge)))
        raw.append(1 / np.linalg.inv(X.T @ X / n + ridge * np.eye(d))[0, 0])
    expected = variances[0] + effective
    assert abs(np.mean(found) / expected - 1) < 4 * np.std(found) / expected / 12**0.5 + 0.01
    assert np.mean(raw) < 0.75 * expected


def test_bad_input():
    jaxtyping.config.update("jaxtyping_disable", True)
    X = np.random.default_rng(0).normal(size=(6, 2))
    linear, rbf = (kp.fit(kernel, X, X[:, 0]) for kernel in (kp.kernels.Linear(), kp.kernels.RBF(1.0)))
    polynomial = kp.fit(kp.kernels.Polynomial(2), X, X[:, 0])
    u = np.array([1.0, 0.0])
    cases = (
        (backdoor_score, (0.0, 1.0, 0.1, 1.0), "strength must be finite and > 0"),
        (backdoor_score, (1.0, 1.0, 1.0, 1.0), "fraction must be below 1, got 1.0"),
        (backdoor_score, (1.0, 1.0, 0.1, 1.0, 1.5), "clean_score must be below 1, got 1.5"),
        (best_strength, (1.0, 0.1, -1.0), "stiffness must be finite and > 0"),
        (needed_fraction, (1.0, np.nan, 1.0, 0.1), "test_strength must be finite and > 0"),
        (needed_fraction, (1.0, 1.0, 1.0, -0.1), "clean_score must be finite and >= 0"),
        (trigger_stiffness, (rbf, u, 0.1), "clean must be fitted with the kernel Linear, got RBF"),
        (trigger_stiffness, (polynomial, u, 0.1), "clean must be fitted with the kernel Linear, got Polynomial"),
        (trigger_stiffness, (linear, np.zeros(2), 0.1), "direction must not be 0"),
        (trigger_stiffness, (linear, np.ones(3), 0.1), r"direction must have shape \(2,\), got \(3,\)"),
        (trigger_stiffness, (linear, u, 0.0), "ridge must be finite and > 0"),
    )
    try:
        for function, arguments, message in cases:
            with pytest.raises(ValueError, match=message):
                function(*arguments)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
