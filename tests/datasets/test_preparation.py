"""Image data sets in memory: subsets, targets, scaling, and bad arguments."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import RNG

from kpoison.datasets import (
    ImageDataset,
    balanced_subset,
    binary_problem,
    load_cifar10,
    load_cifar100,
    load_digits,
    load_mnist,
    one_hot,
    standardise,
    unit_sphere,
)


def toy(sizes=(5, 3, 4), side=2):
    labels = RNG.permutation(np.repeat(np.arange(len(sizes)), sizes))
    # Every image differs, so that an image tells which one it is.
    images = np.arange(labels.size * side * side, dtype=float).reshape(-1, side, side, 1)
    return ImageDataset("toy", images / images.size, labels, tuple("abcdefgh"[: len(sizes)]))


# The dataset


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits as oracle

    digits = load_digits()
    X, y = oracle(return_X_y=True)
    np.testing.assert_array_equal(digits.inputs, np.asarray(X) / 16)
    np.testing.assert_array_equal(digits.labels, np.asarray(y))
    assert (len(digits), digits.images.shape, digits.images.max()) == (1797, (1797, 8, 8, 1), 1.0)
    assert load_digits(np.float32).images.dtype == np.float32


def test_subset_by_indices_and_by_mask():
    data = toy()
    picked = data.subset([3, 0, 3])
    np.testing.assert_array_equal(picked.images, data.images[[3, 0, 3]])
    np.testing.assert_array_equal(picked.labels, data.labels[[3, 0, 3]])
    assert picked.class_names == data.class_names
    assert set(data.subset(data.labels == 1).labels) == {1}
    picked.images[:] = 0
    assert data.images[3].any()


# Subsets


@given(
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=5),
    count=st.integers(1, 30),
    seed=st.integers(0, 2**40),
)
def test_balanced_subset(sizes, count, seed):
    data = toy(sizes)
    shares = [count // len(sizes) + (place < count % len(sizes)) for place in range(len(sizes))]
    if any(share > size for share, size in zip(shares, sizes, strict=True)):
        with pytest.raises(ValueError, match=rf"count={count} .* images of class \d \([a-e]\), but .* holds \d"):
            balanced_subset(data, count, seed=seed)
        return
    drawn = balanced_subset(data, count, seed=seed)
    assert np.bincount(drawn.labels, minlength=len(sizes)).tolist() == shares
    originals = {image.tobytes(): label for image, label in zip(data.inputs, data.labels, strict=True)}
    rows = [image.tobytes() for image in drawn.inputs]
    assert len(set(rows)) == count
    assert [originals[row] for row in rows] == drawn.labels.tolist()
    np.testing.assert_array_equal(drawn.images, balanced_subset(data, count, seed=seed).images)
    if count > 1:
        assert {row.tobytes() for row in balanced_subset(data, count - 1, seed=seed).inputs} <= set(rows)


def test_the_draw_of_a_class_does_not_depend_on_the_others():
    digits = load_digits()
    alone, together = balanced_subset(digits, 20, (7,), 3), balanced_subset(digits, 40, (2, 7), 3)
    assert {row.tobytes() for row in alone.inputs} < {row.tobytes() for row in together.inputs}


def test_seeds_differ_and_the_order_is_shuffled():
    digits = load_digits()
    first, second = balanced_subset(digits, 100, seed=0), balanced_subset(digits, 100, seed=1)
    assert not np.array_equal(np.sort(first.inputs, axis=0), np.sort(second.inputs, axis=0))
    assert np.count_nonzero(np.diff(first.labels)) > 50


def test_classes_that_do_not_occur_are_left_out_by_default():
    data = toy()
    assert set(balanced_subset(data.subset(data.labels != 1), 4).labels) == {0, 2}


def test_binary_problem():
    digits = load_digits(np.float32)
    inputs, targets = binary_problem(digits, classes=(8, 3), count=51, seed=2)
    drawn = balanced_subset(digits, 51, (8, 3), seed=2)
    np.testing.assert_array_equal(inputs, drawn.inputs)
    np.testing.assert_array_equal(targets, np.where(drawn.labels == 3, 1, -1))
    assert (inputs.dtype, targets.dtype, targets.sum()) == (np.float32, np.float32, -1)
    assert len(binary_problem(digits)[0]) == 2 * min(np.bincount(digits.labels)[:2])


def test_classes_may_be_named():
    data = toy()
    np.testing.assert_array_equal(
        balanced_subset(data, 4, ("c", "a"), seed=1).images, balanced_subset(data, 4, (2, 0), seed=1).images
    )
    for found, expected in zip(binary_problem(data, ("b", "c")), binary_problem(data, (1, 2)), strict=True):
        np.testing.assert_array_equal(found, expected)
    for classes in (("a", "z"), ("a", 0)):
        with pytest.raises(ValueError, match="classes must be"):
            balanced_subset(data, 4, classes)


# Targets and scaling


def test_one_hot():
    labels = np.array([2, 0, 1, 2], dtype=np.uint8)
    np.testing.assert_array_equal(one_hot(labels, 4, np.float32), np.eye(4, dtype=np.float32)[labels])
    assert one_hot(labels, 3).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardise(dtype):
    X = (RNG.standard_normal((50, 6)) * np.arange(6) + 0.1).astype(dtype)  # the first feature is constant
    whole, each = standardise(X), standardise(X, per_feature=True)
    tolerance = 20 * np.finfo(dtype).eps
    for scaled in (whole, each):
        assert scaled.dtype == dtype
        np.testing.assert_allclose(scaled.mean(0), 0, atol=tolerance)
        np.testing.assert_allclose(scaled[:, 0], 0, atol=tolerance)
    np.testing.assert_allclose(np.mean(np.sum(whole**2, axis=1)), 6, rtol=tolerance)
    np.testing.assert_allclose(each.std(0)[1:], 1, rtol=tolerance)
    between, after = X[0] - X[1], whole[0] - whole[1]
    np.testing.assert_allclose(after * np.linalg.norm(between), between * np.linalg.norm(after), atol=100 * tolerance)


@pytest.mark.parametrize("per_feature", [False, True])
def test_standardise_takes_its_statistics_from_the_reference(per_feature):
    X, new = RNG.standard_normal((30, 4)), RNG.standard_normal((3, 4))
    together = standardise(np.vstack([new, X]), X, per_feature)
    np.testing.assert_array_equal(together[:3], standardise(new, X, per_feature))
    np.testing.assert_array_equal(together[3:], standardise(X, per_feature=per_feature))
    np.testing.assert_array_equal(
        standardise(new, np.full((7, 4), 0.1), per_feature), new - np.full((7, 4), 0.1).mean(0)
    )


def test_unit_sphere():
    X = np.vstack([RNG.standard_normal((5, 3)), [[1e-200, 0, 0]], [[0, 1e200, 1e200]]])
    scaled = unit_sphere(X)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), np.sqrt(3), rtol=1e-15)
    np.testing.assert_allclose(scaled[:5] * np.linalg.norm(X[:5], axis=1)[:, None], np.sqrt(3) * X[:5], rtol=1e-14)
    assert unit_sphere(X[:5].astype(np.float32)).dtype == np.float32


# Bad arguments, to the unwrapped functions where the tests' annotation hook would refuse them first


def call(function, *args, **kwargs):
    return lambda: inspect.unwrap(function)(*args, **kwargs)


def dataset(images, labels, class_names=("a",)):
    blank = object.__new__(ImageDataset)
    return call(ImageDataset.__init__, blank, "x", images, labels, class_names)


X = np.ones((2, 3))
NOT_FINITE = np.array([[0.0, 1.0], [np.nan, 2.0]])
IMAGE = np.ones((1, 2, 2, 1))
BAD = {
    "images of rank 2": (dataset(X, np.zeros(2, int)), r"images .* got float64 of shape \(2, 3\)"),
    "images of integers": (dataset(IMAGE.astype(int), np.zeros(1, int)), "images .* got int64"),
    "no images": (dataset(IMAGE[:0], np.zeros(0, int)), "images .*non-empty"),
    "images up to 255": (dataset(IMAGE * 255, np.zeros(1, int)), r"images .*\[0, 1\], got .* to 255\.0"),
    "NaN in images": (dataset(IMAGE * np.nan, np.zeros(1, int)), "images .* nan"),
    "too many labels": (dataset(IMAGE, np.zeros(2, int)), r"labels .*\(1,\).* got \(2,\)"),
    "labels of floats": (dataset(IMAGE, np.zeros(1)), "labels: expected integer .* float64"),
    "label without name": (dataset(IMAGE, np.ones(1, int)), r"labels: .* 0\.\.0, got .* to 1"),
    "subset, index too large": (lambda: toy().subset([12]), r"which .* 0\.\.11, got 12\.\.12"),
    "subset, negative index": (lambda: toy().subset([-1]), r"which .* got -1\.\.-1"),
    "subset of nothing": (lambda: toy().subset([]), r"which .*non-empty"),
    "subset by an empty mask": (lambda: toy().subset(np.zeros(12, bool)), "which .* with a True"),
    "subset by a short mask": (
        lambda: toy().subset(np.ones(11, bool)),
        r"which .*\(12,\).* got bool of shape \(11,\)",
    ),
    "subset by floats": (call(ImageDataset.subset, toy(), np.array([1.0])), "which .* float64"),
    "split": (lambda: load_mnist(".", "valid"), "split must be one of 'train', 'test', got 'valid'"),
    "split of cifar10": (lambda: load_cifar10(".", "valid"), "split must be"),
    "split of cifar100": (lambda: load_cifar100(".", "valid"), "split must be"),
    "labels of cifar100": (lambda: load_cifar100(".", labels="all"), "labels must be one of 'coarse', 'fine'"),
    "dtype of digits": (lambda: load_digits(np.int32), "dtype must be floating, got int32"),
    "dtype of mnist": (lambda: load_mnist(".", dtype="uint8"), "dtype must be floating, got uint8"),
    "dtype of cifar10": (lambda: load_cifar10(".", dtype=complex), "dtype must be floating, got complex128"),
    "dtype of cifar100": (lambda: load_cifar100(".", dtype=bool), "dtype must be floating, got bool"),
    "count 0": (lambda: balanced_subset(toy(), 0), "count must be an integer >= 1, got 0"),
    "count of halves": (call(balanced_subset, toy(), 2.5), "count must be an integer >= 1, got 2.5"),
    "count too large": (
        lambda: balanced_subset(toy(), 12),
        r"asks for 4 images of class 1 \(b\), but .* holds 3",
    ),
    "seed": (lambda: balanced_subset(toy(), 3, seed=-1), "seed must be an integer >= 0, got -1"),
    "no classes": (lambda: balanced_subset(toy(), 3, ()), r"classes must be .* got \(\)"),
    "unknown class": (lambda: balanced_subset(toy(), 3, (0, 3)), r"classes must be .* 0\.\.2, got \(0, 3\)"),
    "class twice": (lambda: balanced_subset(toy(), 3, (1, 1)), "classes must be .*different"),
    "three classes": (
        lambda: binary_problem(toy(), (0, 1, 2)),
        r"classes must be two labels, got \(0, 1, 2\)",
    ),
    "one image": (lambda: binary_problem(toy(), count=1), "count must be an integer >= 2, got 1"),
    "class without images": (
        lambda: binary_problem(toy((3, 0))),
        r"asks for 1 images of class 1 \(b\), but .* holds 0",
    ),
    "label too large": (lambda: one_hot([0, 3], 3), r"labels.* 0\.\.2, got values from 0 to 3"),
    "label negative": (lambda: one_hot([-1], 3), "labels.* from -1"),
    "label fractional": (call(one_hot, [0.5], 3), "labels.* integer labels, got float64"),
    "no labels": (lambda: one_hot([], 3), r"labels .* got shape \(0,\)"),
    "zero classes": (lambda: one_hot([0], 0), "classes must be an integer >= 1"),
    "dtype of one_hot": (lambda: one_hot([0], 1, int), "dtype must be floating"),
    "standardise a vector": (call(standardise, X[0]), r"inputs .* \(n, d\), got float64 of shape \(3,\)"),
    "standardise integers": (call(standardise, X.astype(int)), "inputs must be floating.* int64"),
    "standardise nothing": (lambda: standardise(X[:0]), "inputs must be .*non-empty"),
    "standardise NaN": (lambda: standardise(NOT_FINITE), "inputs must be finite, .* row 1"),
    "reference of another d": (call(standardise, X, X[:, :2]), "reference must have 3 features .* got 2"),
    "reference not finite": (lambda: standardise(NOT_FINITE[:1], NOT_FINITE), "reference must be finite"),
    "sphere of NaN": (lambda: unit_sphere(NOT_FINITE), "inputs must be finite"),
    "sphere of zero": (
        lambda: unit_sphere(np.diag([1.0, 0.0])),
        "inputs must have no zero row, got one at index 1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    bad, says = BAD[case]
    with pytest.raises(ValueError, match=says):
        bad()
