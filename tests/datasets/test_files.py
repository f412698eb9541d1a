"""The loaders: whole files are read as they are, damaged and missing ones are named."""

import gzip
import re
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from image_files import CIFAR_PIXELS, LABELS, PIXELS, RNG, cifar, idx, real_data, write_mnist

from kpoison.datasets import (
    ImageDataset,
    binary_problem,
    files,
    load_cifar10,
    load_cifar100,
    load_digits,
    load_mnist,
    read_idx,
)

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


# Files as others keep them

PLAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        [f"MNIST/raw/{name}" for name in PLAIN],
        [f"MNIST/raw/{name}.gz" for name in PLAIN],
        [f"raw/{name}" for name in PLAIN],
        [name.replace("-idx", ".idx") for name in PLAIN],
        [f"{name}/{name}" for name in PLAIN],
    ],
)
def test_mnist_as_torchvision_and_kaggle_keep_it(tmp_path, names):
    data = load_mnist(write(tmp_path, dict(zip(names, (idx(PIXELS), idx(LABELS)), strict=True))))
    np.testing.assert_array_equal(data.images[..., 0] * 255, PIXELS)
    np.testing.assert_array_equal(data.labels, LABELS)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("folder", [".", "mnist"])
def test_mnist_as_keras_keeps_it(tmp_path, folder, dtype):
    (tmp_path / folder).mkdir(exist_ok=True)
    labels = LABELS.astype(dtype)
    np.savez(tmp_path / folder / "mnist.npz", x_train=PIXELS, y_train=labels, x_test=PIXELS[::-1], y_test=labels[::-1])
    np.testing.assert_array_equal(load_mnist(tmp_path).images[..., 0] * 255, PIXELS)
    np.testing.assert_array_equal(load_mnist(tmp_path, "test").labels, LABELS[::-1])
    write_mnist(tmp_path, pack=lambda content: content.replace(PIXELS.tobytes(), PIXELS[::-1].tobytes()))
    np.testing.assert_array_equal(load_mnist(tmp_path).images[..., 0] * 255, PIXELS[::-1])  # IDX files go first


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x_train": PIXELS}, "expected arrays x_train and y_train, got .*y_train"),
        ({"x_train": PIXELS, "y_train": LABELS.astype(object)}, "expected arrays .*, got .*allow_pickle"),
        ({"x_train": PIXELS, "y_train": LABELS + 0.5}, r"expected uint8 labels .*, got float64"),
        ({"x_train": PIXELS, "y_train": LABELS.astype(int) + 256}, r"expected uint8 labels .*, got "),
        ({"x_train": PIXELS[:, 1:], "y_train": LABELS}, r"expected uint8 images of shape \(n, 28, 28\)"),
        (None, "expected arrays x_train and y_train, got"),
    ],
)
def test_damaged_npz(tmp_path, arrays, says):
    if arrays is None:
        (tmp_path / "mnist.npz").write_bytes(b"PK\3\4 and no more")
    else:
        np.savez(tmp_path / "mnist.npz", **arrays)
    with pytest.raises(ValueError, match=rf"mnist\.npz: {says}"):
        load_mnist(tmp_path)


TABLE = np.column_stack([LABELS, np.arange(49).reshape(7, 7)]).astype(np.int32)
KIN = {
    "fashion-mnist": ("FashionMNIST/raw", PLAIN, LABELS, LABELS, PIXELS, "Shirt"),
    "kmnist": ("KMNIST/raw", PLAIN, LABELS, LABELS, PIXELS, "ma"),
    "qmnist": (
        "QMNIST/raw",
        ("qmnist-train-images-idx3-ubyte", "qmnist-train-labels-idx2-int"),
        TABLE,
        LABELS,
        PIXELS,
        "6",
    ),
    **{
        f"emnist-{kind}": (
            "EMNIST/raw",
            (f"emnist-{kind}-train-images-idx3-ubyte", f"emnist-{kind}-train-labels-idx1-ubyte"),
            LABELS + np.uint8(first),
            LABELS,
            PIXELS.swapaxes(1, 2),
            last,
        )
        for kind, first, last in (("letters", 1, "g"), ("balanced", 0, "6"), ("digits", 0, "6"), ("mnist", 0, "6"))
    },
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", KIN)
def test_kin_of_mnist(tmp_path, name, packed):
    folder, names, written, labels, images, last = KIN[name]
    pack, suffix = (gzip.compress, ".gz") if packed else (bytes, "")
    contents = (pack(idx(PIXELS)), pack(idx(written)))
    write_mnist(tmp_path)  # which lies beside them, and has the names of some
    write(tmp_path / folder, dict(zip([file + suffix for file in names], contents, strict=True)))
    data = load_mnist(tmp_path, name=name)
    np.testing.assert_array_equal(data.images[..., 0] * 255, images)
    np.testing.assert_array_equal(data.labels, labels)
    assert data.class_names[data.labels[-1]] == last
    assert data.name == f"{name}-train"
    with pytest.raises(FileNotFoundError, match=r"found none of the files; expected [^`]*$"):
        load_mnist(tmp_path, "test", name=name)


@pytest.mark.parametrize(("kind", "number"), [("balanced", 47), ("bymerge", 47), ("byclass", 62), ("letters", 26)])
def test_classes_of_emnist(tmp_path, kind, number):
    first = int(kind == "letters")
    labels = np.full(7, number - 1 + first, np.uint8)
    names = (f"emnist-{kind}-test-images-idx3-ubyte", f"emnist-{kind}-test-labels-idx1-ubyte")
    write(tmp_path, dict(zip(names, (idx(PIXELS), idx(labels)), strict=True)))
    data = load_mnist(tmp_path, "test", name=f"emnist-{kind}")
    assert len(set(data.class_names)) == len(data.class_names) == number
    assert data.class_names[-1] == {"balanced": "t", "bymerge": "t"}.get(kind, "z")
    write(tmp_path, {names[1]: idx(labels + np.uint8(1))})
    with pytest.raises(ValueError, match=rf"{names[1]}: expected labels in"):
        load_mnist(tmp_path, "test", name=f"emnist-{kind}")


@pytest.mark.parametrize(
    ("loader", "folder", "files"),
    [
        (load_cifar10, "cifar-10-batches-py", ("batches.meta", "data_batch_1", "test_batch")),
        (load_cifar100, "cifar-100-python", ("meta", "train", "test")),
    ],
)
def test_pickles_are_refused_with_the_way_out(tmp_path, loader, folder, files):
    write(tmp_path / folder, dict.fromkeys(files, b"cos\nsystem\n"))
    for root in (tmp_path, tmp_path / folder):
        with pytest.raises(ValueError, match=rf"{folder}: .*pickles.*execute.*kpoison download {loader.__name__[5:]}"):
            loader(root)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_mnist(tmp_path / "data")
    assert len(load_mnist("~/data")) == 7
    assert read_idx(f"~/data/{PLAIN[0]}.gz").shape == PIXELS.shape


def test_bytes_and_images_of_one_channel_are_images():
    names = tuple("0123456789")
    plain = ImageDataset("x", PIXELS[..., None] / 255, LABELS, names)
    for images in (PIXELS, PIXELS[..., None], PIXELS / 255):
        np.testing.assert_array_equal(ImageDataset("x", images, LABELS, names).images, plain.images)


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


# Real files


@pytest.mark.slow
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


def test_digits_are_those_that_scikit_learn_gives():
    from sklearn.datasets import load_digits as embedded

    pixels, labels = embedded(return_X_y=True)
    found = load_digits()
    np.testing.assert_array_equal(found.inputs, np.asarray(pixels) / 16)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.labels.dtype == np.asarray(labels).dtype
