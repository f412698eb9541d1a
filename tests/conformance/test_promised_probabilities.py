"""Intervals cover, levels are kept, and standard errors are those of the estimates: by simulation of every promise."""

import functools
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_matrix import Dense

import kpoison as kp
from kpoison import curvature, defences, networks
from kpoison.networks.scaling import errors_about
from kpoison.statistics import over_seeds, t_interval

PROMISES = {"level", "confidence"}
WIDTHS = np.array([64, 256, 1024, 4096])


def promising():
    """Public functions and methods with an argument that is a probability of being right."""
    names = [room.name for room in pkgutil.iter_modules(kp.__path__) if room.name in kp.__all__]
    rooms = [kp, *(importlib.import_module(f"kpoison.{name}") for name in names)]
    found = set()
    for room in rooms:
        for name in getattr(room, "__all__", ()):
            value = getattr(room, name)
            members = [value] if inspect.isfunction(value) else []
            if inspect.isclass(value):
                members = [
                    member for key, member in vars(value).items() if inspect.isfunction(member) and key[0] != "_"
                ]
            found |= {member for member in members if PROMISES & set(inspect.signature(member).parameters)}
    return {f"{member.__module__.split('.')[1]}.{member.__qualname__}" for member in found}


def deviations(rng, seeds):
    """What networks of four widths give, of which the law is 0, for so many seeds each."""
    return [rng.standard_normal((number, 1)) * width**-0.5 for number, width in zip(seeds, WIDTHS, strict=True)]


def slope_is_covered(rng, seeds=(8, 8, 8, 8)):
    fit = errors_about(np.zeros(1), deviations(rng, seeds), WIDTHS).power_law(0.95)
    return fit.interval[0] <= -0.5 <= fit.interval[1]


def known_slope_is_covered(rng):
    log_rmse = rng.normal(size=4) * 0.1
    fit = networks.fit_power_law(WIDTHS, WIDTHS**-0.5 * np.exp(log_rmse), 0.1 * WIDTHS**-0.5 * np.exp(log_rmse))
    return fit.interval[0] <= -0.5 <= fit.interval[1]


def gradients(rng, number):
    """One direction with a standard deviation of five."""
    rows = rng.normal(size=(number, 6))
    rows[:, 0] *= 5
    return rows


def largest(rows):
    return np.linalg.norm(rows, 2) ** 2 / len(rows)


def key(rng):
    return jax.random.key(int(rng.integers(2**31)))


def clean_is_below(rng):
    edge = curvature.bulk_edge_from_clean(gradients(rng, 80), level=0.95, key=key(rng))
    return largest(gradients(rng, 80)) < float(edge.edge)


def white_is_below(rng):
    rows = rng.normal(size=(60, 6))
    return largest(rows) < float(curvature.bulk_edge_from_permutations(rows, level=0.95, key=key(rng)).edge)


def half_square(x):
    return 0.5 * jnp.sum(x * x)


def probes_are_not_suspected(rng):
    found = defences.input_spectrum(
        half_square, gradients(rng, 80), gradients(rng, 80), level=0.95, seed=int(rng.integers(2**31))
    )
    return not bool(found.visibility.visible)


# What is promised, with the probability that a draw keeps it.
SIMULATIONS = {
    "networks.fit_power_law": (known_slope_is_covered, 0.95),
    "networks.WidthErrors.power_law": (slope_is_covered, 0.95),
    "curvature.bulk_edge_from_clean": (clean_is_below, 0.95),
    "curvature.bulk_edge_from_permutations": (white_is_below, 0.95),
    "defences.input_spectrum": (probes_are_not_suspected, 0.95),
    "defences.input_spectrum_law": (probes_are_not_suspected, 0.95),  # whose edge it takes
}


@functools.cache  # two promises may be one simulation
def kept(simulation, draws, seed=0):
    rng = np.random.default_rng(seed)
    return np.mean([float(simulation(rng)) for _ in range(draws)])


def test_every_promise_is_simulated():
    assert promising() == set(SIMULATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMULATIONS)
def test_a_promise_is_kept(name):
    simulation, probability = SIMULATIONS[name]
    draws = 60
    assert kept(simulation, draws) >= probability - 3.5 * np.sqrt(probability * (1 - probability) / draws)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMULATIONS)
def test_a_promise_is_kept_and_no_more(name):
    simulation, probability = SIMULATIONS[name]
    found = kept(simulation, 1000, seed=1)
    print(name, found)
    assert abs(found - probability) <= 0.025


SEEDS = {"3": (3, 3, 3, 3), "8": (8, 8, 8, 8), "24": (24, 24, 24, 24), "unequal": (64, 32, 16, 4), "few": (2, 2, 3, 4)}


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS.values(), ids=SEEDS)
def test_the_slope_in_width_is_covered_and_unbiased(seeds):
    rng = np.random.default_rng(0)
    fits = [errors_about(np.zeros(1), deviations(rng, seeds), WIDTHS).power_law(0.95) for _ in range(400)]
    covered = np.mean([fit.interval[0] <= -0.5 <= fit.interval[1] for fit in fits])
    slopes = np.array([fit.slope for fit in fits])
    print(seeds, covered, slopes.mean(), slopes.std())
    assert 0.92 <= covered <= 0.985
    assert abs(slopes.mean() + 0.5) <= 4 * slopes.std() / 400**0.5


@pytest.mark.slow
def test_the_bias_of_few_seeds_is_that_of_the_logarithm():
    # Known errors of Gaussian seeds: without the correction the mean slope of [64, 32, 16, 4] seeds is −0.53.
    rng, seeds = np.random.default_rng(1), np.array([64, 32, 16, 4])
    slopes = []
    for _ in range(2000):
        rmse = np.array([np.sqrt(np.mean(value**2)) for value in deviations(rng, seeds)])
        slopes.append([
            networks.fit_power_law(WIDTHS, rmse, rmse / np.sqrt(2 * seeds), seeds=given).slope
            for given in (seeds, None)
        ])  # fmt: skip
    corrected, plain = np.mean(slopes, axis=0)
    assert abs(corrected + 0.5) < 0.008
    assert plain < -0.51


@pytest.mark.parametrize("seeds", [1, [4, 4], [2, 2, 2, 1.5], "4"])
def test_wrong_numbers_of_seeds(seeds):
    with pytest.raises((ValueError, TypeError), match="seeds"):
        networks.fit_power_law(WIDTHS, WIDTHS**-0.5, 0.1 * WIDTHS**-0.5, seeds=seeds)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_means_over_seeds_are_covered(seeds):
    rng = np.random.default_rng(2)
    values = rng.normal(size=(4000, seeds)) + 1
    mean, half_width, _ = over_seeds(values)
    assert np.mean(np.abs(mean - 1) <= half_width) == pytest.approx(0.95, abs=0.015)
    found = [t_interval(row) for row in values]
    assert np.mean([interval.low <= 1 <= interval.high for interval in found]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
def test_standard_errors_are_those_of_the_estimates():
    matrix = jnp.asarray(np.cov(np.random.default_rng(3).normal(size=(30, 60))))
    estimates, errors, densities, density_errors = [], [], [], []
    for seed in range(150):
        mean, error = curvature.trace(Dense(matrix), key=jax.random.key(seed), probes=4)
        estimates.append(float(mean))
        errors.append(float(error))
        density = curvature.spectral_density(Dense(matrix), key=jax.random.key(seed), probes=4, depth=10, width=0.3)
        densities.append(float(jnp.interp(1.0, density.grid, density.density)))
        density_errors.append(float(jnp.interp(1.0, density.grid, density.standard_error)))
    for found, error in ((estimates, errors), (densities, density_errors)):
        assert np.mean(np.square(error)) == pytest.approx(np.var(found, ddof=1), rel=0.4)
