"""Class labels as targets of a fit and back: against scikit-learn, by hand, and refused by name."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.preprocessing import LabelBinarizer, OneHotEncoder

import kpoison as kp

RNG = np.random.default_rng(8)
X = RNG.normal(size=(12, 2))
PLACES = np.array([2, 0, 1] * 4)
KINDS = {
    "integers": PLACES.astype(np.uint8),
    "wide integers": 5 * 10**9 + PLACES * 2**32,
    "negative integers": PLACES - 7,
    "text": np.array(["cat", "dog", "owl"])[PLACES],
    "a list of text": np.array(["cat", "dog", "owl"])[PLACES].tolist(),
    "JAX": jnp.asarray(PLACES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_hot_is_that_of_scikit_learn_and_comes_back(kind):
    labels = KINDS[kind]
    rows = kp.one_hot(labels)
    np.testing.assert_array_equal(rows, OneHotEncoder(sparse_output=False).fit_transform(np.reshape(labels, (-1, 1))))
    np.testing.assert_array_equal(kp.predicted_classes(rows, np.unique(labels)), np.asarray(labels))
    reversed_classes = np.unique(labels)[::-1]
    np.testing.assert_array_equal(kp.one_hot(labels, reversed_classes), rows[:, ::-1])
    np.testing.assert_array_equal(kp.predicted_classes(rows[:, ::-1], reversed_classes), np.asarray(labels))


@pytest.mark.parametrize("labels", [[True, False, True], [7, 3, 7], ["yes", "no", "yes"], np.array([1, -1, 1])])
def test_signed_is_that_of_scikit_learn_and_comes_back(labels):
    expected = LabelBinarizer(neg_label=-1).fit_transform(labels)[:, 0]
    np.testing.assert_array_equal(kp.signed(labels), expected)
    np.testing.assert_array_equal(kp.signed(labels, np.unique(labels)[::-1]), -expected)
    np.testing.assert_array_equal(kp.predicted_classes(kp.signed(labels), np.unique(labels)), labels)
    assert kp.signed(labels, dtype=np.float32).dtype == np.float32


def test_classes_that_do_not_occur_have_a_column():
    np.testing.assert_array_equal(kp.one_hot(["b"], ["a", "b", "c"]), [[0, 1, 0]])
    np.testing.assert_array_equal(kp.one_hot([True, False], 2), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(kp.signed(["b", "b"], ["a", "b"]), [1, 1])


def test_of_equal_scores_and_of_zero_the_first_counts():
    assert kp.predicted_classes(np.ones((1, 3)), ["a", "b", "c"]).tolist() == ["a"]
    assert kp.predicted_classes(np.array([0.0, 1e-30]), ["a", "b"]).tolist() == ["a", "b"]


BAD = {
    "floats": (kp.one_hot, ([0.5, 1.0],), TypeError, "labels must be integers, booleans or text"),
    "missing": (kp.one_hot, (["a", None],), TypeError, "labels must be integers, booleans or text"),
    "a table": (
        kp.one_hot,
        (np.zeros((2, 2), int),),
        ValueError,
        r"labels must be .* shape \(n,\), got shape \(2, 2\)",
    ),
    "unknown": (kp.one_hot, (["a", "z"], ["a", "b"]), ValueError, "labels must be among classes, 'a', 'b', got 'z'"),
    "text for numbers": (kp.one_hot, (["1"], [1, 2]), ValueError, "labels must be among classes, 1, 2, got '1'"),
    "a class twice": (kp.one_hot, (["a"], ["a", "a"]), ValueError, "classes must differ from each other"),
    "classes of floats": (kp.one_hot, ([1], [1.0, 2.0]), TypeError, "classes must be integers, booleans or text"),
    "three for two": (kp.signed, ([0, 1, 2],), ValueError, "labels must be of two classes, got 3: .*one_hot"),
    "one for two": (kp.signed, ([1, 1],), ValueError, "labels must be of two classes, got 1: name both by classes"),
    "columns": (
        kp.predicted_classes,
        (np.ones((2, 3)), ["a", "b"]),
        ValueError,
        r"scores must have shape \(q, 2\), or",
    ),
    "a row": (kp.predicted_classes, (np.ones(2), ["a", "b", "c"]), ValueError, r"scores must have shape \(q, 3\), as"),
    "a number": (kp.predicted_classes, (1.0, ["a", "b"]), ValueError, r"scores must have .*, got \(\)"),
    "NaN": (kp.predicted_classes, ([np.nan, 1.0], ["a", "b"]), ValueError, "scores must be finite"),
    "text scores": (kp.predicted_classes, (["a"], ["a", "b"]), TypeError, "scores must be real"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    function, arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        inspect.unwrap(function)(*arguments)


def test_traced_labels_are_refused():
    with pytest.raises(TypeError, match=r"labels must be known, got traced ones: jax\.nn\.one_hot"):
        jax.jit(kp.one_hot)(jnp.array([0, 1]))


# --- What `fit` says of labels that are not encoded ---

CLASSES = {
    "three": PLACES,
    "three of JAX": jnp.asarray(PLACES),
    "two": PLACES % 2,
    "a list": PLACES.tolist(),
    "small": PLACES.astype(np.uint8),
}
NO_CLASSES = {
    "floats": PLACES.astype(float),
    "signs": np.where(PLACES, 1, -1),
    "an order": np.arange(12),
    "counts": PLACES * 2,
    "one-hot": np.eye(3, dtype=int)[PLACES],
    "zeros": np.zeros(12, int),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_numbers_of_classes_warn_once(kind):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kp.fit(kp.kernels.RBF(1.0), X, CLASSES[kind])
    (warning,) = told
    assert warning.category is UserWarning
    assert "kpoison.signed (two classes) or kpoison.one_hot (several)" in str(warning.message)


@pytest.mark.parametrize("kind", NO_CLASSES)
def test_other_targets_do_not_warn(kind):
    kp.fit(kp.kernels.RBF(1.0), X, NO_CLASSES[kind])


@pytest.mark.parametrize("labels", [PLACES > 0, KINDS["text"], KINDS["text"].astype(object)])
def test_text_and_booleans_are_refused_with_the_way_out(labels):
    with pytest.raises(TypeError, match=r"y must be real, got ndarray .*kpoison\.signed .* kpoison\.one_hot"):
        inspect.unwrap(kp.fit)(kp.kernels.RBF(1.0), X, labels)
