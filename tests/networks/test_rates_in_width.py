"""Rates at which networks approach their kernel as they widen, and their intervals."""

import jax
import numpy as np
import pytest
from small_networks import RIDGE, problem
from wide_networks import numpy_law

from kpoison.networks import (
    Architecture,
    fit_power_law,
    width_errors,
)


@pytest.mark.slow
def test_error_falls_like_the_inverse_root_of_the_width():
    X, y, poison, x = problem(probes=8)
    laws = numpy_law("erf", X, y, poison, x, RIDGE)
    architectures = [Architecture(width, 1, "erf") for width in (128, 1024)]
    seen = []
    errors = width_errors(
        architectures, jax.random.key(0), [32, 16], X, y, poison, RIDGE, x, laws=laws, progress=seen.append
    )
    assert seen == [128, 1024]
    for name in ("clean", "efficacy", "gradient"):
        fit = errors[name].power_law(confidence=0.99)
        assert fit.interval[0] < -0.5 < fit.interval[1], (name, fit)
        assert fit.standard_error < 0.1
    assert errors["spike"].rmse[1] < 0.5 * errors["spike"].rmse[0]
    efficacy = errors["efficacy"]
    assert efficacy.rmse[-1] < 0.04 * np.abs(laws["efficacy"]).max()
    assert np.all(np.abs(efficacy.mean[-1] - laws["efficacy"]) < 5 * efficacy.mean_standard_error[-1])


@pytest.mark.slow
def test_gradient_of_relu_converges_only_like_the_inverse_fourth_root():
    X, y, poison, x = problem(probes=8)
    laws = numpy_law("relu", X, y, poison, x, RIDGE)
    architectures = [Architecture(width) for width in (128, 1024)]
    errors = width_errors(architectures, jax.random.key(0), [32, 16], X, y, poison, RIDGE, x, laws=laws)
    efficacy, gradient = (errors[name].power_law(confidence=0.99).interval for name in ("efficacy", "gradient"))
    assert efficacy[0] < -0.5 < efficacy[1]
    assert -0.5 < gradient[0] < -0.25 < gradient[1]


def test_power_law_is_recovered():
    widths = np.array([64, 256, 1024])
    fit = fit_power_law(widths, 3 * widths**-0.5, 0.1 * widths**-0.5, confidence=0.95)
    np.testing.assert_allclose([fit.slope, fit.amplitude], [-0.5, 3.0], rtol=1e-12)
    np.testing.assert_allclose(fit.standard_error, 1 / 30 / np.sqrt(2 * np.log(4) ** 2), rtol=1e-12)
    np.testing.assert_allclose(np.diff(fit.interval), 2 * 1.959964 * fit.standard_error, rtol=1e-6)
    assert fit.chi_squared < 1e-20
    assert fit.degrees_of_freedom == 1
    bent = fit_power_law(widths, widths**-0.5 * np.array([1, 2, 1]), 0.1 * widths**-0.5)
    assert bent.chi_squared > 50


def test_interval_of_the_slope_covers():
    rng = np.random.default_rng(0)
    widths, seeds = np.array([64, 256, 1024, 4096]), 32
    covered = 0
    for _ in range(1000):
        rmse = np.sqrt(np.mean(rng.standard_normal((seeds, 4)) ** 2, axis=0)) * widths**-0.5
        lower, upper = fit_power_law(widths, rmse, rmse / np.sqrt(2 * seeds)).interval
        covered += lower <= -0.5 <= upper
    assert 0.93 < covered / 1000 < 0.97
