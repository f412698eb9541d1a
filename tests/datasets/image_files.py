"""Files of MNIST and CIFAR as the official ones are, but small."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from kpoison.datasets import files

RNG = np.random.default_rng(0)


def real_data(folder):
    root = Path(os.environ.get("KPOISON_DATA") or Path(__file__).parents[3] / "shared" / "data")
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
