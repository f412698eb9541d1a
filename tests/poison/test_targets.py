"""Targets of all-to-all attacks and of single images: by hand, under transforms, and what they refuse."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison.poison import target_of_each

RUN_TIME = (RuntimeError, ValueError)
LABELS = np.array([0, 1, 2, 1, 0])
PREDICTED = np.array([1, 1, 0, 2, 0])
SCORES = np.eye(3)[PREDICTED]
NEXT = {0: 1, 1: 2, 2: 0}


@pytest.fixture
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_every_class_is_taken_for_the_next():
    assert kp.all_to_all(3) == kp.all_to_all(np.int8(3)) == NEXT
    assert kp.all_to_all([-1, 1]) == {-1: 1, 1: -1}
    assert kp.all_to_all(np.array(["cat", "cow", "dog"])) == {"cat": "cow", "cow": "dog", "dog": "cat"}
    assert kp.all_to_all([True, False]) == {True: False, False: True}


@pytest.mark.parametrize("predictions", [PREDICTED, SCORES, np.float32(SCORES), PREDICTED.astype(np.uint8)])
@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.uint8), LABELS.astype(float), jnp.asarray(LABELS)])
def test_all_to_all_by_hand(predictions, labels):
    # Wanted: 1, 2, 0, 2, 1.  Given: 1, 1, 0, 2, 0.
    assert float(kp.attack_success_rate(predictions, labels, NEXT)) == pytest.approx(3 / 5)
    assert float(kp.attack_success_rate(predictions, labels, np.array([1, 2, 0, 2, 1]))) == pytest.approx(3 / 5)
    # An image whose target is its own class, 1 here, is not attacked: images 0, 2 and 4 are left.
    assert float(kp.attack_success_rate(predictions, labels, {0: 1, 1: 1, 2: 0})) == pytest.approx(2 / 3)
    assert float(kp.attack_success_rate(predictions, labels, [0, 1, 0, 2, 0])) == 1  # images 2 and 3


def test_targets_of_two_classes():
    scores, signs = np.array([0.3, -0.2, -4.0, 1.0]), np.array([-1.0, 1.0, -1.0, 1.0])
    assert float(kp.attack_success_rate(scores, signs, kp.all_to_all([-1, 1]))) == 0.5
    assert float(kp.attack_success_rate(scores, signs, -signs)) == 0.5
    assert float(kp.attack_success_rate(scores, signs, {-1: 1, 1: 1})) == 0.5
    assert float(kp.attack_success_rate(scores, signs, np.where(np.arange(4) == 1, -1, signs))) == 1


KINDS = {
    "int8": lambda c: c.astype(np.int8),
    "uint64": lambda c: c.astype(np.uint64) + np.uint64(2**63),
    "both signs of 64 bits": lambda c: np.where(c == 0, -(2**62), 2**53 + c),
    "text": lambda c: np.array(["cat", "cow", "dog"])[c],
    "objects": lambda c: np.array(["cat", "cow", "dog"], object)[c],
    "bytes": lambda c: np.array([b"cat", b"cow", b"dog"])[c],
    "booleans": lambda c: c == 1,
    "a list": lambda c: [("cat", "cow", "dog")[k] for k in c],
}


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_kind(kind, x64):
    rng, number = np.random.default_rng(1), 2 if kind == "booleans" else 3
    labels, predicted, goals = rng.integers(number, size=(3, 40))
    table = rng.permutation(number)
    named = KINDS[kind]

    def rate(wanted):
        return np.mean(predicted[wanted != labels] == wanted[wanted != labels])

    with jax.enable_x64(x64):
        names = np.asarray(named(np.arange(number)))
        names = (names.astype(str) if kind in ("bytes", "objects") else names).tolist()
        mapping = {names[k]: names[table[k]] for k in range(number)}
        found = kp.attack_success_rate(named(predicted), named(labels), mapping)
        assert float(found) == pytest.approx(rate(table[labels]))
        found = kp.attack_success_rate(named(predicted), named(labels), named(goals))
        assert float(found) == pytest.approx(rate(goals))


@pytest.mark.slow
def test_jit_and_vmap():
    rate = kp.attack_success_rate
    np.testing.assert_allclose(jax.jit(lambda s, t: rate(s, t, NEXT))(SCORES, LABELS), 3 / 5, rtol=1e-15)
    np.testing.assert_allclose(jax.jit(rate)(SCORES, LABELS, NEXT), 3 / 5, rtol=1e-15)  # its values are traced
    several = jnp.stack([jnp.asarray(LABELS), (jnp.asarray(LABELS) + 1) % 3])
    over = jax.vmap(lambda labels: rate(SCORES, labels, NEXT))(several)
    np.testing.assert_allclose(over, [rate(SCORES, np.asarray(labels), NEXT) for labels in several], rtol=1e-15)
    goals = jnp.array([[1, 2, 0, 2, 1], [2, 0, 1, 0, 2]])
    over = jax.jit(jax.vmap(rate, in_axes=(None, None, 0)))(SCORES, LABELS, goals)
    np.testing.assert_allclose(over, [3 / 5, 0.0], rtol=1e-15)
    unsigned = jnp.asarray(LABELS, jnp.uint8)
    np.testing.assert_allclose(jax.jit(lambda t: rate(PREDICTED, t, NEXT | {-1: 0, 254: -1}))(unsigned), 3 / 5)
    with pytest.raises(RUN_TIME, match="target must say a class for every class in labels"):
        jax.block_until_ready(jax.jit(lambda t: rate(SCORES, t, {0: 1, 1: 0}))(LABELS))
    with pytest.raises(RUN_TIME, match=r"target must be in 0\.\.2"):
        jax.block_until_ready(jax.jit(rate)(SCORES, LABELS, jnp.array([1, 2, 0, 3, 1])))


def test_a_single_class_stays_as_it_came():
    for target in (3, "dog", np.float32(1), True):
        assert target_of_each(target, LABELS) is target
    np.testing.assert_array_equal(target_of_each(NEXT, LABELS), [1, 2, 0, 2, 1])


@pytest.mark.usefixtures("what_a_user_sees")
@pytest.mark.parametrize(
    ("labels", "target", "error", "message"),
    [
        (LABELS, {0: 1, 1: 2}, ValueError, "target must say a class for every class in labels, got none for 2"),
        (LABELS, {}, ValueError, "target must say a class for every class in labels, got none for 0"),
        (LABELS, {0: 1, 1: 2, 2: 3}, ValueError, r"target must be in 0\.\.2, as predictions .*got 3"),
        (LABELS, {0: 1, 1: 2, 2: 0.5}, ValueError, r"target must be in 0\.\.2, .*got 0.5"),
        (LABELS, {0: 1, 1: 2, 2: np.nan}, ValueError, "target must be finite"),
        (LABELS, {0: 1, 1: 2, 2: "0"}, TypeError, "target must map numbers to numbers, as labels are numbers, got '0'"),
        (LABELS, {False: 1, True: 2, 2: 0}, TypeError, "target must map numbers to numbers, .*got False"),
        (LABELS, {0: 1, 1: 2, 2: None}, TypeError, "target must be real, got NoneType"),
        (LABELS, {0: 0, 1: 1, 2: 2}, ValueError, "labels must have an entry that is not the target"),
        (LABELS, LABELS, ValueError, "labels must have an entry that is not the target"),
        (LABELS, LABELS[:3], ValueError, r"target must be a single class, .* of shape \(5,\), .*got shape \(3,\)"),
        (LABELS, LABELS[:, None], ValueError, r"target must be .* of shape \(5,\), .*got shape \(5, 1\)"),
        (LABELS, [1, 2, 3, 0, 1], ValueError, r"target must be in 0\.\.2, as predictions .*got 3"),
        (LABELS, LABELS == 0, TypeError, "target must be real, got ndarray of dtype bool"),
        (LABELS, ["a"] * 5, TypeError, "target must be real, got ndarray of dtype <U1"),
        (LABELS[:, None], NEXT, ValueError, r"labels must have shape \(q,\), one for each image, got \(5, 1\)"),
    ],
)
def test_bad_targets(labels, target, error, message):
    with pytest.raises(error, match=message):
        kp.attack_success_rate(SCORES, labels, target)


@pytest.mark.usefixtures("what_a_user_sees")
@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (1, ValueError, "classes must be an integer >= 2, got 1"),
        (["a"], ValueError, r"classes must be two or more, got \['a'\]"),
        ([0, 1, 0], ValueError, r"classes must differ from each other, got \[0, 1, 0\]"),
        ([0.5, 1.5], TypeError, "classes must be integers, booleans or text"),
    ],
)
def test_bad_classes(classes, error, message):
    with pytest.raises(error, match=message):
        kp.all_to_all(classes)


def test_targets_that_wrap_around_are_refused():
    with jax.enable_x64(False):
        labels = jnp.array([0, 1])
        with pytest.raises(ValueError, match="target must be classes that JAX can hold as int32"):
            kp.attack_success_rate(labels, labels, np.array([2**32 + 1, 0]))
        with pytest.raises(ValueError, match="target must hold classes that fit into JAX's integers"):
            jax.jit(lambda t: kp.attack_success_rate(t, t, {0: 1, 1: 2**32}))(labels)
