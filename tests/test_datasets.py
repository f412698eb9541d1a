import gzip
import inspect
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kpoison.datasets import (
    ImageDataset,
    balanced_subset,
    binary_problem,
    files,
    load_cifar10,
    load_cifar100,
    load_digits,
    load_mnist,
    one_hot,
    read_idx,
    standardise,
    unit_sphere,
)

RNG = np.random.default_rng(0)


def real_data(folder):
    root = Path(os.environ.get("KPOISON_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (root / folder).is_dir():
        pytest.skip(f"no real data: {root / folder} is not there (KPOISON_DATA names the directory)")
    return root


def idx(array):
    big = array.dtype.newbyteorder(">")
    code = next(code for code, known in files.IDX_DTYPES.items() if np.dtype(known) == big)
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(big).tobytes()


PIXELS = RNG.integers(0, 256, (7, 28, 28), dtype=np.uint8)
LABELS = np.arange(7, dtype=np.uint8)
CIFAR_PIXELS = RNG.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def cifar(*labels, pixels=CIFAR_PIXELS):
    planes = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    return np.column_stack([*(np.asarray(column, np.uint8) for column in labels), planes]).tobytes()


def write_mnist(folder, prefix="train", pack=gzip.compress, suffix=".gz"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(PIXELS)))
    (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS)))
    return folder


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


# Files


@given(
    code=st.sampled_from(sorted(files.IDX_DTYPES)),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    packed=st.booleans(),
)
def test_idx_round_trip(tmp_path_factory, code, shape, packed):
    array = (100 * RNG.standard_normal(shape)).astype(np.dtype(files.IDX_DTYPES[code]).newbyteorder("="))
    path = tmp_path_factory.mktemp("idx") / "array"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    back = read_idx(path)
    assert back.dtype == array.dtype
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array)


@given(
    content=st.binary(max_size=40),
    header=st.sampled_from([b"", b"\0\0\x08\x01", b"\0\0\x0d\x02", b"\x1f\x8b\x08"]),
)
@example(content=struct.pack(">3I", 0, 2**32 - 1, 2**32 - 1), header=b"\0\0\x0e\x03")
@example(content=struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1), header=b"\0\0\x0e\x03")
def test_idx_of_any_bytes_is_an_array_or_names_the_file(tmp_path_factory, content, header):
    path = tmp_path_factory.mktemp("idx") / "noise"
    path.write_bytes(header + content)
    try:
        array = read_idx(path)
    except ValueError:
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_idx(path)
    else:
        assert header + content == idx(array)


@pytest.mark.parametrize("folder", [".", "mnist"])
@pytest.mark.parametrize("form", [(gzip.compress, ".gz"), (bytes, ""), (bytes, ".gz")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist(tmp_path, monkeypatch, folder, form, split):
    write_mnist(tmp_path / folder, {"train": "train", "test": "t10k"}[split], *form)
    data = load_mnist(tmp_path, split)
    np.testing.assert_array_equal(data.images, PIXELS[..., None] / 255)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert repr(data) == f"ImageDataset(mnist-{split}: 7 images of 28x28x1, 10 classes)"
    monkeypatch.setenv("KPOISON_DATA", str(tmp_path))
    assert load_mnist(split=split, dtype="float32").images.dtype == np.float32


def test_the_environment_names_the_directory_only_if_the_argument_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("KPOISON_DATA", str(tmp_path / "elsewhere"))
    assert len(load_mnist(str(write_mnist(tmp_path / "here")))) == 7


def test_cifar10_joins_the_batches_that_are_there(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(cifar([0, 1, 2, 3]))
    (folder / "data_batch_3.bin").write_bytes(cifar([9], pixels=CIFAR_PIXELS[:1]))
    (folder / "test_batch.bin").write_bytes(cifar([4, 5, 6, 7]))
    train, test = load_cifar10(tmp_path), load_cifar10(folder, "test", np.float32)
    np.testing.assert_array_equal(train.images, CIFAR_PIXELS[[0, 1, 2, 3, 0]] / 255)
    np.testing.assert_array_equal(train.labels, [0, 1, 2, 3, 9])
    np.testing.assert_array_equal(test.labels, [4, 5, 6, 7])
    assert (test.images.dtype, test.images.flags.c_contiguous) == (np.float32, True)
    assert repr(train) == "ImageDataset(cifar10-train: 5 images of 32x32x3, 10 classes)"


def test_cifar100_fine_and_coarse(tmp_path):
    (tmp_path / "train.bin").write_bytes(cifar([0, 19, 3, 4], [99, 0, 5, 6]))
    fine, coarse = load_cifar100(tmp_path), load_cifar100(tmp_path, labels="coarse")
    np.testing.assert_array_equal(fine.images, CIFAR_PIXELS / 255)
    np.testing.assert_array_equal(fine.labels, [99, 0, 5, 6])
    np.testing.assert_array_equal(coarse.labels, [0, 19, 3, 4])
    assert (len(fine.class_names), len(coarse.class_names)) == (100, 20)


# Damaged and missing files: which file, its content, and what the message says besides its name

GZ = "train-images-idx3-ubyte.gz"
LABEL_GZ = "train-labels-idx1-ubyte.gz"
PACKED = gzip.compress(idx(PIXELS))
FLIPPED = PACKED[:200] + bytes([PACKED[200] ^ 0xFF]) + PACKED[201:]
DAMAGED = {
    "truncated idx": (
        GZ,
        gzip.compress(idx(PIXELS)[:-1]),
        r"truncated: expected 5504 bytes .*\(7, 28, 28\), got 5503",
    ),
    "trailing bytes": (GZ, gzip.compress(idx(PIXELS) + b"x"), "left over: expected 5504 .* got 5505"),
    "truncated header": (
        GZ,
        gzip.compress(idx(PIXELS)[:9]),
        "truncated: expected a header of 16 bytes, got 9",
    ),
    "wrong magic": (
        GZ,
        gzip.compress(b"\1" + idx(PIXELS)[1:]),
        "not an IDX file: expected .* got 01 00 08 03",
    ),
    "unknown type": (
        GZ,
        gzip.compress(b"\0\0\x0a\x03" + idx(PIXELS)[4:]),
        "not an IDX file: .* got 00 00 0a 03",
    ),
    "no dimensions": (GZ, b"\0\0\x08\x00", "not an IDX file: .* got 00 00 08 00"),
    "empty": (GZ, b"", "not an IDX file: .* got an empty file"),
    "a web page": (GZ, b"<html>Not found</html>", "not an IDX file"),
    "no records": (GZ, idx(PIXELS[:0]), r"empty: expected at least one record, got shape \(0, 28, 28\)"),
    "corrupt gzip": (GZ, FLIPPED, "expected a whole gzip file"),
    "truncated gzip": (GZ, PACKED[:-20], "expected a whole gzip file"),
    "gzip with a tail": (GZ, PACKED + b"tail", "expected a whole gzip file"),
    "labels for images": (
        GZ,
        idx(LABELS),
        r"expected uint8 images of shape \(n, 28, 28\), got uint8 .*\(7,\)",
    ),
    "other image size": (
        GZ,
        idx(PIXELS[:, 1:]),
        r"expected uint8 images .* got uint8 of shape \(7, 27, 28\)",
    ),
    "float images": (GZ, idx(PIXELS.astype("f4")), "expected uint8 images .* got float32"),
    "fewer labels": (
        LABEL_GZ,
        idx(LABELS[:-1]),
        rf"shape \(7,\), one for each image of {GZ}, got uint8 of shape \(6,\)",
    ),
    "wide labels": (LABEL_GZ, idx(LABELS.astype("i4")), "expected uint8 labels .* got int32"),
    "label of no class": (LABEL_GZ, idx(LABELS + np.uint8(4)), r"labels in 0\.\.9, got values from 4 to 10"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_mnist(tmp_path, case):
    name, content, says = DAMAGED[case]
    (write_mnist(tmp_path) / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: .*{says}"):
        load_mnist(tmp_path)


@pytest.mark.parametrize(
    ("loader", "content", "says"),
    [
        (load_cifar10, b"", "whole number of 3073-byte records, got 0 and 0 bytes"),
        (load_cifar10, cifar([1, 2, 3, 4])[:-1], "records, got 3 and 3072 bytes"),
        (load_cifar10, cifar([1, 2, 3, 4]) + b"x", "records, got 4 and 1 bytes"),
        (load_cifar10, cifar([1, 2, 3, 10]), r"labels in 0\.\.9, got values from 1 to 10"),
        (load_cifar100, cifar([1, 2, 3, 4]), "whole number of 3074-byte records, got 3 and 3070 bytes"),
        (load_cifar100, cifar([1, 2, 3, 20], [1, 2, 3, 4]), r"labels in 0\.\.19, got values from 1 to 20"),
        (load_cifar100, cifar([1, 2, 3, 4], [1, 2, 3, 100]), r"labels in 0\.\.99, got values from 1 to 100"),
    ],
)
def test_damaged_cifar(tmp_path, loader, content, says):
    name = {load_cifar10: "test_batch.bin", load_cifar100: "test.bin"}[loader]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: .*{says}"):
        loader(tmp_path, "test")


HOW = r"--data-dir.*KPOISON_DATA"


@pytest.mark.parametrize("variable", [None, ""])
@pytest.mark.parametrize("loader", [load_mnist, load_cifar10, load_cifar100])
def test_no_directory_given(monkeypatch, loader, variable):
    monkeypatch.delenv("KPOISON_DATA", raising=False)
    if variable is not None:
        monkeypatch.setenv("KPOISON_DATA", variable)
    with pytest.raises(FileNotFoundError, match=f"no data directory given.*{HOW}"):
        loader()


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        (
            load_mnist,
            r"train-images-idx3-ubyte\.gz, train-labels-idx1-ubyte\.gz \(or unpacked\).*folder mnist",
        ),
        (load_cifar10, r"data_batch_1\.bin, .*data_batch_5\.bin, .*folder cifar-10-batches-bin"),
        (load_cifar100, r"train\.bin, .*folder cifar-100-binary"),
    ],
)
def test_missing_files(tmp_path, loader, expected):
    with pytest.raises(FileNotFoundError, match=f"found none of the files; expected {expected}.*{HOW}"):
        loader(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"nowhere: no such directory; expected {expected}.*{HOW}"):
        loader(tmp_path / "nowhere")


def test_one_missing_file(tmp_path):
    (write_mnist(tmp_path / "mnist") / LABEL_GZ).unlink()
    with pytest.raises(FileNotFoundError, match=rf"found only mnist.{GZ}; expected {GZ}, {LABEL_GZ}"):
        load_mnist(tmp_path)


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
    "images of rank 3": (dataset(X[None], np.zeros(1, int)), r"images .* got float64 of shape \(1, 2, 3\)"),
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


# Real files


def test_real_mnist():
    root = real_data("mnist")
    train, test = load_mnist(root, dtype=np.float32), load_mnist(root, "test", np.float32)
    assert (len(train), len(test)) == (60_000, 10_000)
    np.testing.assert_array_equal(train.labels[:10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4])
    # The mean and deviation that everyone normalises MNIST by.
    assert (
        round(float(train.images.mean(dtype=float)), 4),
        round(float(train.images.std(dtype=float)), 4),
    ) == (0.1307, 0.3081)
    inputs, targets = binary_problem(test, count=1000)
    assert (inputs.shape, targets.sum()) == ((1000, 784), 0)


def test_real_cifar10():
    root = real_data("cifar-10-batches-bin")
    test = load_cifar10(root, "test", np.float32)
    folder = root / "cifar-10-batches-bin"
    assert len(test) * 3073 == (folder / "test_batch.bin").stat().st_size
    assert test.class_names == tuple((folder / "batches.meta.txt").read_text().split())
    assert test.class_names[test.labels[0]] == "cat"  # the test set's well-known first image
    # The left end of its top row, as other loaders give it.
    np.testing.assert_allclose(255 * test.images[0, 0, :2], [[158, 112, 49], [159, 111, 47]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["fine", "coarse"])
def test_real_cifar100(kind):
    root = real_data("cifar-100-binary")
    test = load_cifar100(root, "test", kind, np.float32)
    folder = root / "cifar-100-binary"
    assert len(test) * 3074 == (folder / "test.bin").stat().st_size
    assert test.class_names == tuple((folder / f"{kind}_label_names.txt").read_text().split())
    assert set(np.bincount(test.labels)) == {len(test) // len(test.class_names)}
