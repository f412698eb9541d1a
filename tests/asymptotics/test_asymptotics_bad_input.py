"""What does not fit is named: which argument, what came, what was expected."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison.asymptotics import Mixture, backdoor_mixture, ridge_regression

MEANS, EYE, LABELS, HALVES = np.eye(3)[:2], np.eye(3), np.array([1.0, -1.0]), np.array([0.5, 0.5])
MU, U = np.eye(3)[0], np.eye(3)[1]
ONES = np.ones(3)


@pytest.fixture(autouse=True)
def _unchecked():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MU, EYE, LABELS, HALVES), r"means must have shape \(K, d\), one row for each component, got \(3,\)"),
        ((MEANS * np.nan, EYE, LABELS, HALVES), "means must be finite"),
        ((MEANS, np.eye(2), LABELS, HALVES), r"covariance must have shape \(3,\) or \(3, 3\)"),
        ((MEANS, -ONES, LABELS, HALVES), "covariance must be positive semi-definite, got a variance of -1"),
        ((MEANS, EYE + np.eye(3, k=1), LABELS, HALVES), "covariance must be symmetric"),
        ((MEANS, EYE, ONES, HALVES), r"labels must have shape \(2,\) or \(2, C\)"),
        ((MEANS, EYE, LABELS, ONES), r"fractions must have shape \(2,\)"),
        ((MEANS, EYE, LABELS, np.array([0.5, 0.6])), "fractions must sum to 1, got 1.1"),
        ((MEANS, EYE, LABELS, np.array([1.5, -0.5])), "fractions must be finite and >= 0"),
    ],
)
def test_mixtures(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mixture(*arguments)


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        ((MU, ONES, U, 0.6, 1.0), {}, "fraction must be at most the 0.5 of the attacked classes, got 0.6"),
        ((MU, ONES, U, -0.1, 1.0), {}, "fraction must be finite and >= 0"),
        ((MU, ONES, U[:2], 0.1, 1.0), {}, r"trigger must have shape \(3,\), as mean has, got \(2,\)"),
        ((MU, ONES, U, 0.1, -1.0), {}, "strength must be finite and >= 0"),
        ((MU, ONES, U, 0.1, 1.0), {"test_strength": np.inf}, "test_strength must be finite and >= 0"),
        ((MU, ONES, U, 0.1, 1.0), {"target": 1}, r"target must be None for mean of shape \(d,\)"),
        ((MEANS, ONES, U, 0.1, 1.0), {}, r"target must be given for mean of shape \(K, d\): a class of 0..1"),
        ((MEANS, ONES, U, 0.1, 1.0), {"target": 2}, "target must be a class of 0..1, got 2"),
        ((MEANS, ONES, U, 0.1, 1.0), {"target": 1, "source": 1}, "source must be another class than target, got 1"),
        ((MEANS[:1], ONES, U, 0.1, 1.0), {"target": 0}, "mean must have shape"),
        ((MU, ONES, U, 0.1, 1.0), {"class_fractions": [0.5, 0.6]}, "class_fractions must sum to 1, got 1.1"),
        ((MU, ONES, U, 0.1, 1.0), {"class_fractions": ONES}, r"class_fractions must have shape \(2,\)"),
    ],
)
def test_backdoors(arguments, more, message):
    with pytest.raises(ValueError, match=message):
        backdoor_mixture(*arguments, **more)


def test_ridge_regression():
    mixture = backdoor_mixture(MU, ONES, U, 0.1, 1.0)
    indefinite = Mixture(MEANS, np.diag([1.0, 1.0, -1.0]), LABELS, HALVES)
    singular = Mixture(MEANS, np.array([1.0, 1.0, 0.0]), LABELS, HALVES)
    for arguments, message in (
        ((mixture, 1, 0.1), "n must be at least 2, the number of classes, got 1"),
        ((mixture, 10, -0.1), "ridge must be finite and >= 0"),
        ((indefinite, 10, 0.1), "covariance must be positive semi-definite"),
        ((singular, 10, 0.0), "ridge must be > 0 where n exceeds the rank of a singular covariance"),
        ((mixture, 10, 0.1, 2), "intercept must be True or False"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            ridge_regression(*arguments)
    with pytest.raises(TypeError, match="mixture must be a Mixture or a Backdoor, got int"):
        ridge_regression(3, 10, 0.1)
    found = ridge_regression(mixture, 10, 0.1)
    plain = ridge_regression(mixture.training, 10, 0.1)
    many = ridge_regression(backdoor_mixture(np.eye(4), np.ones(4), np.eye(4)[1], 0.1, 1.0, target=0), 10, 0.1)
    for call, message in (
        (plain.attack_success_rate, "triggered must be given"),
        (many.accuracy, "key must be given for 4 classes, of which only sampling knows the probabilities"),
        (lambda: found.accuracy(key=jax.random.key(0)), "key must be None for up to 3 classes"),
        (lambda: found.scores(np.ones(4)), r"x must have shape \(3,\) or \(q, 3\), got \(4,\)"),
        (lambda: found.overlap(np.zeros(3)), "direction must not be 0"),
        (lambda: found.overlap(np.ones(2)), r"direction must have shape \(3,\), got \(2,\)"),
        (lambda: found.accuracy(many.mixture.clean), "clean must have 3 inputs and outputs of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_traced_numbers_are_refused_at_run_time():
    def success(fraction, n):
        mixture = backdoor_mixture(MU, ONES, U, fraction, 1.0)
        return ridge_regression(mixture, n, 0.1).attack_success_rate()

    for at in ((0.7, 10.0), (0.1, 1.0)):
        _, failures = jax.jit(kp.with_failures(success))(*map(jnp.asarray, at))
        assert any(bool(failure.failed) for failure in failures)
    _, failures = jax.jit(kp.with_failures(success))(jnp.asarray(0.1), jnp.asarray(10.0))
    assert not any(bool(failure.failed) for failure in failures)
