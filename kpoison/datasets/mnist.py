"""MNIST and the data sets of its format: Fashion-MNIST, KMNIST, QMNIST and EMNIST."""

import os
import string
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from kpoison._names import MnistName
from kpoison._validation import check_name
from kpoison.datasets.files import data_directory, find, read_idx, unit_scale
from kpoison.datasets.images import ImageDataset, check_labels, floating_dtype

__all__ = ["load_mnist"]

DIGITS = tuple(string.digits)
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
HIRAGANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
CHARACTERS = (*string.digits, *string.ascii_uppercase, *string.ascii_lowercase)
MERGED = tuple(character for character in CHARACTERS if character not in "cijklmopsuvwxyz")
"""Small letters that look like their capitals are these (Cohen et al., arXiv:1702.05373)."""


@dataclass(frozen=True)
class _Format:
    """How the files of a data set are named, and what is in them.

    Attributes:
        folders: where they may lie in the data directory; torchvision's end in ``raw``.
        files: of images and labels by split, as they are published, without ``.gz``.
        class_names: one for each class.
        first: the label of the first class.
        transposed: whether images lie on their side.
        label_dtype, label_shape: of one image's label: QMNIST has a row for each, whose first entry is the class.
    """

    folders: tuple[str, ...]
    files: Mapping[str, tuple[str, str]]
    class_names: tuple[str, ...]
    first: int = 0
    transposed: bool = False
    label_dtype: str = "uint8"
    label_shape: tuple[int, ...] = ()


def _named(pattern: str, train: str, test: str, labels: str = "idx1-ubyte") -> dict[str, tuple[str, str]]:
    return {
        split: (f"{pattern.format(name)}-images-idx3-ubyte", f"{pattern.format(name)}-labels-{labels}")
        for split, name in (("train", train), ("test", test))
    }


def _emnist(kind: str, class_names: tuple[str, ...], first: int = 0) -> _Format:
    folders = "emnist", "EMNIST/raw", "raw", "gzip"
    return _Format(folders, _named(f"emnist-{kind}-{{}}", "train", "test"), class_names, first, transposed=True)


_PLAIN = _named("{}", "train", "t10k")
_FORMATS: dict[str, _Format] = {
    "mnist": _Format(("mnist", "MNIST/raw", "raw"), _PLAIN, DIGITS),
    "fashion-mnist": _Format(("fashion-mnist", "FashionMNIST/raw", "raw"), _PLAIN, FASHION),
    "kmnist": _Format(("kmnist", "KMNIST/raw", "raw"), _PLAIN, HIRAGANA),
    "qmnist": _Format(
        ("qmnist", "QMNIST/raw", "raw"),
        _named("qmnist-{}", "train", "test", "idx2-int"),
        DIGITS,
        label_dtype="int32",
        label_shape=(8,),
    ),
    "emnist-balanced": _emnist("balanced", MERGED),
    "emnist-byclass": _emnist("byclass", CHARACTERS),
    "emnist-bymerge": _emnist("bymerge", MERGED),
    "emnist-digits": _emnist("digits", DIGITS),
    "emnist-letters": _emnist("letters", tuple(string.ascii_lowercase), first=1),
    "emnist-mnist": _emnist("mnist", DIGITS),
}


def load_mnist(
    data_dir: str | os.PathLike[str] | None = None,
    split: str = "train",
    dtype: npt.DTypeLike = np.float64,
    *,
    name: MnistName = "mnist",
) -> ImageDataset:
    """Load MNIST, or a data set of its format, from the official IDX files, gzipped or unpacked, or from a ``.npz``.

    Args:
        data_dir: directory of the files, or of a folder with them: one of that `name` (``emnist`` for all of EMNIST's),
            or torchvision's, such as ``MNIST/raw``; by default ``$KPOISON_DATA``.  Kaggle's names
            (``train-images.idx3-ubyte``) are known too, and ``mnist.npz`` as Keras keeps it, with arrays ``x_train``,
            ``y_train``, ``x_test``, ``y_test``.
        split: ``"train"`` (``train-*``) or ``"test"`` (``t10k-*``).
        dtype: of the images; the 60,000 training images take 376 MB in float64.
        name: ``"mnist"``, ``"fashion-mnist"``, ``"kmnist"``, ``"qmnist"``, or of EMNIST ``"emnist-balanced"``,
            ``"emnist-byclass"``, ``"emnist-bymerge"``, ``"emnist-digits"``, ``"emnist-letters"``, ``"emnist-mnist"``,
            whose images lie on their side in the files and are turned.  Letters are numbered from 0, not 1.

    Raises:
        FileNotFoundError: no directory given, or the files are not there.
        ValueError: unknown `split` or `name`, or a damaged file.
    """
    dtype = floating_dtype(dtype)
    split = check_name("split", split, ("train", "test"))
    name = check_name("name", name, get_args(MnistName))
    known = _FORMATS[name]
    try:
        image_file, label_file = find(data_dir, name, known.folders, known.files[split], spellings=_spellings)
    except FileNotFoundError:
        places = [data_directory(data_dir) / folder / f"{name}.npz" for folder in (*known.folders, ".")]
        archive = next((path for path in places if path.is_file()), None)
        if archive is None:
            raise
        pixels, labels = _read_npz(archive, split)
        image_file = label_file = archive
    else:
        pixels, labels = read_idx(image_file), read_idx(label_file)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (28, 28):
        raise ValueError(
            f"{image_file}: expected uint8 images of shape (n, 28, 28), got {pixels.dtype} of shape {pixels.shape}"
        )
    shape = len(pixels), *known.label_shape
    if labels.dtype != known.label_dtype or labels.shape != shape:
        raise ValueError(
            f"{label_file}: expected {known.label_dtype} labels of shape {shape}, one for each image of "
            f"{image_file.name}, got {labels.dtype} of shape {labels.shape}"
        )
    # Signed first: of unsigned labels 0 − 1 would be 255.  The first column of a table is the class.
    labels = labels.reshape(len(labels), -1)[:, 0].astype(np.int64) - known.first
    check_labels(str(label_file), labels, len(known.class_names))
    pixels = pixels.swapaxes(1, 2) if known.transposed else pixels
    return ImageDataset(f"{name}-{split}", unit_scale(pixels[..., None], dtype), labels, known.class_names)


def _spellings(name: str) -> list[str]:
    """As published, and as Kaggle has them: with a dot, or in a folder of the same name."""
    dotted = name.replace("-idx", ".idx")
    return [name + ".gz", name, dotted + ".gz", dotted, f"{name}/{name}", f"{dotted}/{dotted}"]


def _read_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels as Keras keeps them."""
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            pixels, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
    except (LookupError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected arrays x_{split} and y_{split}, got {error}") from error
    # Of any integer dtype, unlike in IDX files; what does not fit into a byte is refused with the others.
    narrow = labels.astype(np.uint8) if labels.dtype.kind in "iu" else labels
    return pixels, narrow if np.array_equal(narrow, labels) else labels
