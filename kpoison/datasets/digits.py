"""Handwritten digits that come with scikit-learn."""

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kpoison.datasets.images import ImageDataset, floating_dtype

__all__ = ["load_digits"]


def load_digits(dtype: npt.DTypeLike = np.float64) -> ImageDataset:
    """Load the 1,797 handwritten digits of 8x8 pixels that scikit-learn carries, without file or network.

    >>> load_digits()
    ImageDataset(digits: 1,797 images of 8x8x1, 10 classes)
    """
    # The file itself: importing scikit-learn takes seconds.
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = table[:, :-1].astype(floating_dtype(dtype)).reshape(-1, 8, 8, 1) / 16
    return ImageDataset("digits", images, table[:, -1].astype(int), tuple("0123456789"))
