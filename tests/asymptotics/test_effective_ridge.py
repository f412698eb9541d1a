"""λ_e = λ + λ_e df1/n: against closed forms, bisection in more digits than float64, and differences."""

import jax
import jax.numpy as jnp
import jaxtyping
import mpmath
import numpy as np
import pytest
from jax.test_util import check_grads

import kpoison as kp
from kpoison._effective_ridge import effective_ridge_of_sample
from kpoison.asymptotics import effective_ridge

SPECTRA = {
    "equal": np.ones(40),
    "power law": np.arange(1.0, 41.0) ** -2,
    "steep": np.arange(1.0, 41.0) ** -6,
    "rank 30": np.where(np.arange(40) < 30, 1.0 + np.arange(40), 0.0),
}


def bisected(s, n, ridge):
    """λ_e and dλ_e/dλ in 40 digits; n and λ as exact binary numbers."""
    with mpmath.workdps(40):
        s, n, ridge = [mpmath.mpf(float(v)) for v in s], mpmath.mpf(float(n)), mpmath.mpf(float(ridge))
        low, high = mpmath.mpf("1e-30") + ridge, ridge + sum(s) / n
        for _ in range(160):
            middle = mpmath.sqrt(low * high)
            over = n * (middle - ridge) > middle * sum(v / (v + middle) for v in s)
            low, high = (low, middle) if over else (middle, high)
        return float(low), float(1 / (1 - sum((v / (v + low)) ** 2 for v in s) / n))


@pytest.mark.parametrize("name", SPECTRA)
def test_is_the_root_in_40_digits(name):
    s = SPECTRA[name]
    rank = np.sum(s > 0)
    for n in (5, 20.5, 39, 40, 41, 90):
        for ridge in (0.0, 1e-9, 0.1):
            if ridge == 0 and n >= rank:
                continue
            found = effective_ridge(s, n, ridge)
            value, sensitivity = bisected(s, n, ridge)
            # At the threshold the root is double: its condition number is that of dλ_e/dλ.
            rounding = 1e-14 * (1 + float(ridge) * sensitivity / value) + 1e-13 * (n < rank)
            assert float(found.value) == pytest.approx(value, rel=rounding)
            assert float(found.sensitivity) == pytest.approx(sensitivity, rel=100 * rounding)
            assert float(found.df1) == pytest.approx(n * (1 - ridge / value), rel=1e-12)
            assert float(found.shrinkage) == pytest.approx(ridge / value, rel=1e-13)


def test_without_a_ridge():
    s = SPECTRA["rank 30"]
    above = effective_ridge(s, 60, 0.0)
    assert float(above.value) == 0
    assert float(above.df1) == float(above.df2) == 30
    assert float(above.shrinkage) == 0.5
    assert float(above.sensitivity) == 2
    slope = jax.jacfwd(lambda ridge: effective_ridge(s, 60, ridge))(0.0)
    assert float(slope.value) == 2
    at = effective_ridge(s, 30, 0.0)
    assert float(at.value) == float(at.shrinkage) == 0
    assert np.isinf(at.sensitivity)
    below = effective_ridge(np.ones(90), 30, 0.0)  # d/n − 1
    assert float(below.value) == pytest.approx(2.0, rel=1e-14)
    assert float(below.df1) == pytest.approx(30.0)


def test_a_weight_is_a_multiplicity():
    weighted = effective_ridge(np.array([2.0, 0.5, 3.0]), 7, 0.1, np.array([4, 3, 0]))
    repeated = effective_ridge(np.array([2.0] * 4 + [0.5] * 3), 7, 0.1)
    np.testing.assert_allclose(jnp.stack(weighted), jnp.stack(repeated), rtol=1e-14)


@pytest.mark.slow
def test_derivatives_of_every_order():
    s = SPECTRA["power law"][:6]

    def found(s, n, ridge, weights):
        return jnp.stack(effective_ridge(s, n, ridge, weights))

    at = (s, 4.0, 0.05, np.linspace(0.5, 2, 6))
    check_grads(found, at, order=2, modes=["rev"], rtol=1e-5)
    third = jax.grad(jax.grad(jax.grad(lambda ridge: effective_ridge(s, 4.0, ridge).value)))

    def second(ridge):
        return float(jax.grad(jax.grad(lambda ridge: effective_ridge(s, 4.0, ridge).value))(ridge))

    assert float(third(0.05)) == pytest.approx((second(0.05 + 1e-5) - second(0.05 - 1e-5)) / 2e-5, rel=1e-5)


def test_many_at_once_and_float32():
    s = SPECTRA["power law"]
    ridges, numbers = np.geomspace(1e-6, 1, 7), np.linspace(10, 100, 7)
    many = jax.jit(jax.vmap(lambda n, ridge: effective_ridge(s, n, ridge)))(numbers, ridges)
    for i, (n, ridge) in enumerate(zip(numbers, ridges, strict=True)):
        one = effective_ridge(s, n, ridge)
        np.testing.assert_allclose(jnp.stack(one), [field[i] for field in many], rtol=1e-13)
        narrow = effective_ridge(s.astype(np.float32), np.float32(n), np.float32(ridge))
        assert narrow.value.dtype == jnp.float32
        np.testing.assert_allclose(jnp.stack(narrow), jnp.stack(one), rtol=2e-5)


@pytest.mark.slow
def test_of_a_sample():
    """df1 of a kernel's own matrix, at ρ = nλ."""
    X = np.random.default_rng(0).normal(size=(400, 60))
    clean, ridge = kp.fit(kp.kernels.Linear(), X, X[:, 0]), 0.2
    sample = effective_ridge_of_sample(ridge, float(kp.degrees_of_freedom(clean, ridge)), 400)
    assert sample == pytest.approx(float(effective_ridge(np.ones(60), 400, ridge).value), rel=0.01)


def test_bad_input():
    jaxtyping.config.update("jaxtyping_disable", True)
    s = np.ones(3)
    cases = (
        ((-s, 2, 0.1), ValueError, "eigenvalues must be finite and >= 0"),
        ((s[None], 2, 0.1), ValueError, r"eigenvalues must have shape \(d,\) with d >= 1, got \(1, 3\)"),
        ((np.ones(3, int), 2, 0.1), TypeError, "eigenvalues must be a floating-point array"),
        ((s, 0, 0.1), ValueError, "n must be finite and > 0, got 0"),
        ((s, 2, -0.1), ValueError, "ridge must be finite and >= 0, got -0.1"),
        ((s, 2, 0.1, -s), ValueError, "weights must be finite and >= 0"),
        ((s, 2, 0.1, np.ones(4)), ValueError, r"weights must have shape \(3,\), one for each eigenvalue, got \(4,\)"),
    )
    try:
        for arguments, kind, message in cases:
            with pytest.raises(kind, match=message):
                effective_ridge(*arguments)
        with pytest.raises(Exception, match="ridge must be finite and >= 0"):
            jax.jit(lambda ridge: effective_ridge(s, 2.0, ridge))(-1.0)
        _, failures = jax.jit(kp.with_failures(lambda n: effective_ridge(s, n, 0.1)))(-1.0)
        assert any(bool(failure.failed) for failure in failures)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_what_does_not_converge_is_said(monkeypatch):
    monkeypatch.setattr("kpoison._effective_ridge._STEPS", 2)
    jax.clear_caches()
    try:
        with pytest.raises(ValueError, match="the effective ridge has not converged in 2 steps"):
            effective_ridge(SPECTRA["steep"], 39, 0.0)
    finally:
        jax.clear_caches()
