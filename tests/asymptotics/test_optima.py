"""Optima of attack and defence: against closed forms, fine grids of the law, and directions by brute force."""

import jax
import jaxtyping
import numpy as np
import pytest
from trained import arrays, counts_of, draw, rate
from trained import ridge_regression as trained_ridge_regression

import kpoison as kp
from kpoison.asymptotics import (
    backdoor_mixture,
    best_ridge,
    best_training_strength,
    needed_poison_fraction,
    ridge_regression,
    worst_direction,
)

D, N, RIDGE = 12, 40, 0.1
AXES, VARIANCES = np.eye(D), np.linspace(0.5, 1.5, D)
MEAN = 1.5 * AXES[1]
MEANS = np.stack([1.5 * AXES[1], -1.0 * AXES[1] + 0.5 * AXES[2], 1.2 * AXES[2]])  # of three classes
AIMED = {"target": 2, "source": 0}


def success(strength=2.0, fraction=0.1, direction=AXES[0], mean=MEAN, **aimed):
    attack = backdoor_mixture(mean, VARIANCES, direction, fraction, strength, test_strength=2.0, **aimed)
    return float(ridge_regression(attack, N, RIDGE).attack_success_rate())


def closed_forms(fraction=0.1):
    """κ and the clean score at the effective ridge."""
    attack = backdoor_mixture(MEAN, VARIANCES, AXES[0], fraction, 1.0)
    effective = float(ridge_regression(attack, N, RIDGE, False).effective_ridge)
    ratio = 1.5**2 / (VARIANCES[1] + effective)
    return VARIANCES[0] + effective, ratio / (1 + ratio)


@pytest.mark.slow
def test_the_strength_is_the_peak():
    found = best_training_strength(MEANS, VARIANCES, AXES[0], 0.1, 2.0, N, RIDGE, **AIMED)
    peak = float(found.value)

    def of_three(strength):
        return success(strength, mean=MEANS, **AIMED)

    assert float(found.attack_success_rate) == pytest.approx(of_three(peak), rel=1e-12)
    assert of_three(peak) > max(of_three(peak * (1 + e)) for e in (-1e-3, 1e-3))
    assert of_three(peak) >= max(of_three(strength) for strength in np.geomspace(0.1, 50, 12))
    # L11's peak, of the score instead of the rate.
    free = best_training_strength(MEAN, VARIANCES, AXES[0], 0.1, 2.0, N, RIDGE, intercept=False)
    stiffness, clean = closed_forms()
    assert float(free.value) == pytest.approx(float(kp.laws.best_strength(2.0, 0.1, stiffness, clean)), rel=0.1)


@pytest.mark.slow
def test_the_fraction_is_the_closed_forms():
    """Without intercept a success of ½ is a score of 0 (L10)."""
    found = needed_poison_fraction(MEAN, VARIANCES, AXES[0], 3.0, 0.5, N, RIDGE, intercept=False, test_strength=2.0)
    expected = float(kp.laws.needed_fraction(3.0, 2.0, *closed_forms()))
    assert float(found.value) == pytest.approx(expected, rel=1e-9)
    assert float(found.attack_success_rate) == pytest.approx(0.5, abs=1e-9)


def simulated(attack, n, ridges, draws=40):
    """Accuracy and attack success of ridge regressions on the same training sets, and standard errors: (ridges, 2)."""
    training, clean, triggered = map(arrays, (attack.training, attack.clean, attack.triggered))
    generator, found = np.random.default_rng(0), []
    for _ in range(draws):
        X, Y = draw(generator, *training, n)
        models = [trained_ridge_regression(X, Y, float(ridge), True) for ridge in ridges]
        found.append([[rate(*model, m[1], m[0], m[2], m[3]) for m in (clean, triggered)] for model in models])
    return np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / draws**0.5


@pytest.mark.slow
def test_the_fraction_of_three_classes_is_enough_for_trained_models():
    """And less of it is not; n is such that 1/n, the next order, is small."""
    n, wanted = 400, 0.5
    found = needed_poison_fraction(MEANS, VARIANCES, AXES[0], 2.0, wanted, n, RIDGE, test_strength=1.5, **AIMED)
    assert float(found.attack_success_rate) == pytest.approx(wanted, abs=1e-6)
    for share in (1.0, 0.7):
        theta = np.round(share * float(found.value) * n) / n
        attack = backdoor_mixture(MEANS, VARIANCES, AXES[0], theta, 2.0, test_strength=1.5, **AIMED)
        assert counts_of(np.asarray(attack.training.fractions), n)[-1] == round(theta * n)
        mean, error = simulated(attack, n, [RIDGE])
        if share == 1:  # of whole poisons, up to half of one too few
            half = 0.5 / n / float(found.value)
            assert abs(mean[0, 1] - wanted) < 4 * error[0, 1] + 1 / n + half, (mean, error)
        else:
            assert mean[0, 1] < wanted - 4 * error[0, 1]


@pytest.mark.slow
def test_the_ridge_is_the_grids_and_that_of_trained_models():
    n = 240
    attack = backdoor_mixture(MEANS, VARIANCES, AXES[0], 0.1, 3.0, test_strength=2.0, **AIMED)

    def rates(ridge):
        model = ridge_regression(attack, n, ridge)
        return float(model.accuracy()), float(model.attack_success_rate())

    places = np.geomspace(1e-4, 1e2, 25)
    grid = [rates(ridge) for ridge in places]
    wanted = max(accuracy for accuracy, _ in grid) - 0.02
    found = best_ridge(attack, n, wanted)
    least = min(rate for accuracy, rate in grid if accuracy >= wanted)
    assert float(found.accuracy) >= wanted
    assert float(found.attack_success_rate) <= least
    np.testing.assert_allclose(rates(found.value), (found.accuracy, found.attack_success_rate), rtol=1e-12)
    ridges = [float(found.value), *places[::6]]
    mean, error = simulated(attack, n, ridges)
    slack = 4 * error + 1 / n
    assert np.all(np.abs(mean[0] - [found.accuracy, found.attack_success_rate]) < slack[0]), (mean, error)
    # No other ridge of trained models is as accurate and safer.
    accurate, safer = mean[:, 0] > wanted + slack[:, 0], mean[:, 1] < mean[0, 1] - slack[:, 1]
    assert not np.any(accurate & safer), (mean, error)


@pytest.mark.slow
def test_the_direction():
    across = np.delete(AXES, 1, axis=1)
    found = worst_direction(MEAN, VARIANCES, 0.1, 2.0, N, RIDGE, subspace=across)
    assert abs(float(found.direction[0])) == pytest.approx(1, abs=1e-6)
    assert float(found.attack_success_rate) == pytest.approx(success(), rel=1e-10)
    # Of three classes, where the least eigenvector is not the worst either.
    free = worst_direction(MEANS, VARIANCES, 0.1, 2.0, N, RIDGE, **AIMED)
    assert free.gradient < 1e-5
    assert float(free.attack_success_rate) > success(mean=MEANS, **AIMED) + 0.02
    generator = np.random.default_rng(0)
    for direction in generator.normal(size=(20, D)):
        rate = success(direction=direction / np.linalg.norm(direction), mean=MEANS, **AIMED)
        assert rate < float(free.attack_success_rate)


@pytest.mark.slow
def test_what_has_no_optimum_or_does_not_fit_is_said():
    jaxtyping.config.update("jaxtyping_disable", True)
    attack = backdoor_mixture(MEAN, VARIANCES, AXES[0], 0.1, 3.0)
    many = backdoor_mixture(AXES[:4], VARIANCES, AXES[4], 0.1, 3.0, target=0)
    at = (MEAN, VARIANCES, AXES[0])
    try:
        for call, kind, message in (
            (lambda: best_ridge(attack, N, 0.9999), ValueError, "accuracy must be reached by a ridge of the range"),
            (lambda: best_ridge(many, N, 0.9), ValueError, "attack must be of at most 3 classes, got 4"),
            (lambda: best_ridge(attack.training, N, 0.9), TypeError, "attack must be a Backdoor"),
            (lambda: best_training_strength(*at, 1.5, 2.0, N, 0.1), ValueError, "fraction must lie between 0 and 1"),
            (lambda: best_training_strength(*at, 0.1, 0.0, N, 0.1), ValueError, "test_strength must be finite and > 0"),
            (lambda: best_training_strength(AXES[:2], *at[1:], 0.1, 1.0, N, 0.1), ValueError, "target must be given"),
            (
                lambda: best_training_strength(AXES[:4], *at[1:], 0.1, 1.0, N, 0.1, target=0),
                ValueError,
                "mean must be of at most 3 classes, got 4",
            ),
            (lambda: needed_poison_fraction(*at, 3.0, 1.0, N, 0.1), ValueError, "success must lie between 0 and 1"),
            (lambda: worst_direction(*at[:2], 0.1, 2.0, N, 0.1, subspace=AXES[:3]), ValueError, "subspace must have"),
            (
                lambda: worst_direction(*at[:2], 0.1, 2.0, N, 0.1, subspace=np.ones((D, 2))),
                ValueError,
                "subspace must have columns that are independent",
            ),
        ):  # fmt: skip
            with pytest.raises(kind, match=message):
                call()
        with pytest.raises(TypeError, match="an optimum on a grid has no derivative"):
            jax.grad(lambda theta: best_training_strength(*at, theta, 2.0, N, 0.1).value)(0.1)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
def test_calls_of_the_same_shapes_share_a_program(caplog):
    def fraction(wanted, n):
        return needed_poison_fraction(MEAN, VARIANCES, AXES[0], 3.0, wanted, n, RIDGE, False, test_strength=2.0).value

    first = fraction(0.3, N)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        second = fraction(0.4, 2 * N)
    assert float(second) > float(first)
    assert not [record for record in caplog.messages if "Compiling" in record]
