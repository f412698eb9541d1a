"""Attack success and clean accuracy: by hand, against NumPy, under transforms, and what they refuse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kpoison as kp

EPS = np.finfo(float).eps
RUN_TIME = (RuntimeError, ValueError)

LABELS = np.array([0, 1, 2, 1, 0])
CLASSES = np.array([1, 1, 1, 0, 0])
SCORES = np.array([[0.1, 0.7, 0.2], [-3, -1, -2], [0, 9, 8], [5, 4, 3], [1, 0, 0.5]])  # their largest are CLASSES
SIGNS = np.array([1, -1, -1, 1])
BINARY = np.array([-0.5, -2.0, 0.1, 3.0])


@pytest.mark.parametrize("predictions", [CLASSES, SCORES, CLASSES.astype(np.uint8), np.float32(SCORES)])
@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.uint8), LABELS.astype(float)])
def test_by_hand(predictions, labels):
    # Class 1: inputs 0, 2 and 4 are not of it, two of them are given it.  Accuracy: inputs 1 and 4.
    assert kp.attack_success_rate(predictions, labels, 1) == pytest.approx(2 / 3)
    assert kp.attack_success_rate(predictions, labels, 0) == pytest.approx(1 / 3)  # input 3 of 1, 2 and 3
    assert kp.attack_success_rate(predictions, labels, 2) == 0
    assert kp.clean_accuracy(predictions, labels) == pytest.approx(2 / 5)


@pytest.mark.parametrize("labels", [SIGNS, SIGNS.astype(np.int8), SIGNS.astype(float)])
def test_binary_scores_by_hand(labels):
    # Target −1: inputs 0 and 3 are not of it, input 0 is given it.  Target 1: inputs 1 and 2, input 2.
    assert kp.attack_success_rate(BINARY, labels, -1) == 0.5
    assert kp.attack_success_rate(BINARY, labels, 1.0) == 0.5
    assert kp.clean_accuracy(BINARY, labels) == 0.5
    assert kp.clean_accuracy(np.array([4.0, -1.0, -1e-30, 1e-30]), labels) == 1


def test_a_score_of_zero_is_neither_class():
    zeros = np.zeros(4)
    assert kp.clean_accuracy(zeros, SIGNS) == 0
    assert kp.attack_success_rate(zeros, SIGNS, 1) == kp.attack_success_rate(zeros, SIGNS, -1) == 0


def test_of_equal_scores_the_first_counts():
    assert kp.clean_accuracy(np.ones((1, 2)), np.array([0])) == 1
    assert kp.clean_accuracy(np.ones((1, 2)), np.array([1])) == 0


def test_classes_may_be_any_integers():
    assert kp.attack_success_rate(np.array([-7, 5]), np.array([5, 5]), -7) == 0.5
    unsigned = np.array([3, 255], np.uint8), np.array([3, 3], np.uint8)
    assert kp.attack_success_rate(*unsigned, -1) == jax.jit(kp.attack_success_rate)(*unsigned, -1) == 0
    assert kp.attack_success_rate(*unsigned, 255) == 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_that_of_the_scores(dtype):
    for value in (
        kp.clean_accuracy(SCORES.astype(dtype), LABELS),
        kp.attack_success_rate(SCORES.astype(dtype), LABELS, 1),
        kp.attack_success_rate(BINARY.astype(dtype), SIGNS.astype(float), 1),
    ):
        assert value.dtype == dtype
        assert value.shape == ()
    assert kp.clean_accuracy(CLASSES, LABELS).dtype == np.float64
    with jax.enable_x64(False):
        assert kp.attack_success_rate(CLASSES, LABELS, 1).dtype == np.float32


@pytest.mark.slow
def test_poisoned_predictions():
    """From a posterior: scores of two classes and their difference agree."""
    rng = np.random.default_rng(3)
    X, labels = rng.normal(size=(40, 2)), rng.integers(2, size=40)
    zeta = np.zeros(2)
    one_hot, signs, kernel = np.eye(2)[labels], 2.0 * labels - 1, kp.kernels.RBF(1.0)
    several = kp.predict(kp.fit(kernel, X, one_hot), X, 0.1, kp.Poison(zeta, np.array([0.0, 1.0]), 200))
    single = kp.predict(kp.fit(kernel, X, signs), X, 0.1, kp.Poison(zeta, 1.0, 200))
    rate = kp.attack_success_rate(several, labels, 1)
    assert 0 < rate < 1
    assert rate == kp.attack_success_rate(single, signs, 1)
    assert kp.clean_accuracy(several, labels) == kp.clean_accuracy(single, signs)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 2), (25, 3)]))  # every new shape is compiled
def test_are_the_counts_of_numpy(seed, shape):
    rng = np.random.default_rng(seed)
    q, number = shape
    scores, labels = rng.normal(size=shape), rng.integers(number, size=q)
    classes = scores.argmax(axis=1)
    for predictions in (scores, classes):
        accuracy = kp.clean_accuracy(predictions, labels)
        assert accuracy == pytest.approx(np.mean(classes == labels), rel=2 * EPS)
        for target in range(number):
            others = labels != target
            if others.any():
                rate = kp.attack_success_rate(predictions, labels, target)
                assert rate == pytest.approx(np.mean(classes[others] == target), rel=2 * EPS)


def test_inputs_of_the_target_class_do_not_count():
    others = LABELS != 1
    for given_to_them in (0, 1, 2):
        predictions = np.where(others, CLASSES, given_to_them)
        assert kp.attack_success_rate(predictions, LABELS, 1) == pytest.approx(2 / 3)
    assert kp.attack_success_rate(CLASSES[others], LABELS[others], 1) == pytest.approx(2 / 3)


def test_jit_and_vmap():
    targets = jnp.arange(3)
    expected = [kp.attack_success_rate(SCORES, LABELS, target) for target in range(3)]
    np.testing.assert_allclose(jax.jit(kp.attack_success_rate)(SCORES, LABELS, 1), expected[1], rtol=2 * EPS)
    over_targets = jax.jit(jax.vmap(kp.attack_success_rate, in_axes=(None, None, 0)))(SCORES, LABELS, targets)
    np.testing.assert_allclose(over_targets, expected, rtol=2 * EPS)
    batch = np.stack([SCORES, -SCORES])
    over_scores = jax.vmap(kp.attack_success_rate, in_axes=(0, None, None))(batch, LABELS, 1)
    np.testing.assert_allclose(over_scores, [kp.attack_success_rate(s, LABELS, 1) for s in batch], rtol=2 * EPS)
    accuracies = jax.jit(jax.vmap(kp.clean_accuracy, in_axes=(0, None)))(batch, LABELS)
    np.testing.assert_allclose(accuracies, [kp.clean_accuracy(s, LABELS) for s in batch], rtol=2 * EPS)
    np.testing.assert_allclose(jax.jit(kp.clean_accuracy)(BINARY, SIGNS), 0.5)


@pytest.fixture
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


NAN = np.where(SCORES == 9, np.nan, SCORES)
# For both functions; the attack's target is 1.
BAD = [
    ("abc", LABELS, TypeError, "predictions must be real, got str"),
    (CLASSES > 0, LABELS, TypeError, "predictions must be real, got ndarray of dtype bool"),
    (SCORES + 0j, LABELS, TypeError, "predictions must be real, got ndarray of dtype complex128"),
    (1.0, LABELS, ValueError, r"predictions must be integer classes .*got float64 of shape \(\)"),
    (SCORES[:, :1], LABELS, ValueError, r"predictions must be .* with C >= 2, got float64 of shape \(5, 1\)"),
    (
        SCORES.astype(int),
        LABELS,
        ValueError,
        r"predictions must be integer classes of shape \(q,\).*got int64 .*\(5, 3",
    ),
    (SCORES[None], LABELS, ValueError, r"predictions must be .*got float64 of shape \(1, 5, 3\)"),
    (CLASSES[:0], LABELS[:0], ValueError, r"predictions must not be empty, got shape \(0,\)"),
    (SCORES[:, :0], LABELS, ValueError, r"predictions must not be empty, got shape \(5, 0\)"),
    (NAN, LABELS, ValueError, r"predictions must be finite, got 1 non-finite value\(s\), the first at index \(2, 1\)"),
    (-np.inf * np.ones(4), SIGNS, ValueError, "predictions must be finite, got 4"),
    (SCORES, LABELS[:4], ValueError, r"labels must have shape \(5,\), as predictions do, got \(4,\)"),
    (CLASSES, LABELS[:, None], ValueError, r"labels must have shape \(5,\), as predictions do, got \(5, 1\)"),
    (CLASSES, 1, ValueError, r"labels must have shape \(5,\), as predictions do, got \(\)"),
    (CLASSES, np.eye(5)[LABELS], ValueError, r"labels must have shape \(5,\), as predictions do, got \(5, 5\)"),
    (CLASSES, LABELS > 0, TypeError, "labels must be real, got ndarray of dtype bool"),
    (CLASSES, LABELS + 0.5, ValueError, "labels must be whole numbers, got 0.5"),
    (CLASSES, np.where(LABELS == 2, np.nan, LABELS), ValueError, r"labels must be finite, got 1 .*index \(2,\)"),
    (SCORES, LABELS + 1, ValueError, r"labels must be in 0..2, as predictions have shape \(5, 3\), got 3"),
    (SCORES, LABELS - 1, ValueError, r"labels must be in 0..2, as predictions have shape \(5, 3\), got -1"),
    (SCORES[:, :2], LABELS / 2, ValueError, "labels must be in 0..1, .* got 0.5"),
    (CLASSES.astype(float), LABELS, ValueError, r"labels must be -1 or 1, as predictions are .*\(q,\), got 0"),
]


@pytest.mark.usefixtures("what_a_user_sees")
@pytest.mark.parametrize(("predictions", "labels", "error", "message"), BAD)
def test_bad_input(predictions, labels, error, message):
    with pytest.raises(error, match=message):
        kp.clean_accuracy(predictions, labels)
    with pytest.raises(error, match=message):
        kp.attack_success_rate(predictions, labels, 1)


@pytest.mark.usefixtures("what_a_user_sees")
@pytest.mark.parametrize(
    ("predictions", "labels", "target", "error", "message"),
    [
        (CLASSES, LABELS, "seven", TypeError, "target must be real, got str"),
        (CLASSES, LABELS, None, TypeError, "target must be real, got NoneType"),
        (CLASSES, LABELS, 1.5, ValueError, "target must be whole numbers, got 1.5"),
        (CLASSES, LABELS, np.nan, ValueError, "target must be finite"),
        (SCORES, LABELS, 3, ValueError, r"target must be in 0..2, as predictions have shape \(5, 3\), got 3"),
        (SCORES, LABELS, -1, ValueError, r"target must be in 0..2, .*got -1"),
        (BINARY, SIGNS, 0, ValueError, "target must be -1 or 1, as predictions are .*got 0"),
        (BINARY, np.ones(4), 1, ValueError, "labels must have an entry that is not the target, got only 1"),
        (CLASSES, np.full(5, 2), 2, ValueError, "labels must have an entry that is not the target, got only 2"),
    ],
)
def test_bad_target(predictions, labels, target, error, message):
    with pytest.raises(error, match=message):
        kp.attack_success_rate(predictions, labels, target)


@pytest.mark.parametrize(
    ("predictions", "labels", "target", "message"),
    [
        (NAN, LABELS, 1, "predictions must be finite"),
        (SCORES, LABELS + 1, 1, "labels must be in 0..2"),
        (SCORES, LABELS, 3, "target must be in 0..2"),
        (BINARY, 2 * SIGNS, 1, "labels must be -1 or 1"),
        (BINARY, SIGNS, 0, "target must be -1 or 1"),
        (CLASSES, LABELS + 0.5, 1, "labels must be whole numbers"),
        (CLASSES, np.where(LABELS == 2, np.inf, LABELS), 1, "labels must be whole numbers"),
        (CLASSES, np.ones(5), 1, "labels must have an entry that is not the target"),
    ],
)
def test_bad_values_raise_at_run_time(predictions, labels, target, message):
    arguments = tuple(jnp.asarray(a) for a in (predictions, labels, target))
    with pytest.raises(RUN_TIME, match=message):
        jax.block_until_ready(eqx.filter_jit(kp.attack_success_rate)(*arguments))
    if message.startswith(("predictions", "labels must be")):
        with pytest.raises(RUN_TIME, match=message):
            jax.block_until_ready(eqx.filter_jit(kp.clean_accuracy)(*arguments[:2]))


def test_one_empty_denominator_of_several_is_refused():
    rates = jax.vmap(kp.attack_success_rate, in_axes=(None, None, 0))
    with pytest.raises(RUN_TIME, match="labels must have an entry that is not the target"):
        jax.block_until_ready(rates(CLASSES, np.ones(5), jnp.array([0, 1])))
