"""Files of image data sets: where they are looked for, and the IDX format.

Files are looked for in ``data_dir``, by default the directory that the environment variable
``KPOISON_DATA`` names. Nothing is downloaded here (`download` does), and pickles are never opened. A file may hold any
whole number of records (`len` and `repr` of the dataset tell how many were read); a damaged one is refused.
"""

import gzip
import math
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

__all__ = ["FOLDERS", "data_directory", "find", "read_idx", "unit_scale"]

DATA_DIR_VARIABLE = "KPOISON_DATA"
HOW = f"by data_dir (--data-dir on the command line) or {DATA_DIR_VARIABLE}"
FOLDERS = {"mnist": "mnist", "cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the array of an IDX file, gzipped or not, in native byte order.

    The format (Y. LeCun, C. Cortes, C. Burges, "The MNIST database"): two zero bytes, a type code, the number
    of dimensions, each dimension as a big-endian uint32, then the entries, big-endian, last index fastest.

    Raises:
        ValueError: not IDX, truncated, bytes left over, empty, or corrupt gzip.
        OSError: the file cannot be read.
    """
    content = Path(path).expanduser().read_bytes()
    if content[:2] == b"\x1f\x8b":  # not by suffix: browsers unpack a download and keep its name
        try:
            content = gzip.decompress(content)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: expected a whole gzip file, got a corrupt or truncated one: {error}") from error
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_DTYPES or not 1 <= magic[3] <= 64:
        raise ValueError(
            f"{path}: not an IDX file: expected the magic number 00 00, a type code "
            f"({', '.join(f'{code:02x}' for code in IDX_DTYPES)}), a number of dimensions, got "
            f"{magic.hex(' ') or 'an empty file'}"
        )
    start = 4 + 4 * magic[3]
    if len(content) < start:
        raise ValueError(f"{path}: truncated: expected a header of {start} bytes, got {len(content)} bytes in all")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", magic[3], 4))
    if 0 in shape:
        raise ValueError(f"{path}: empty: expected at least one record, got shape {shape}")
    dtype = np.dtype(IDX_DTYPES[magic[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        problem = "truncated" if len(content) < expected else "bytes left over"
        raise ValueError(
            f"{path}: {problem}: expected {expected} bytes for {dtype.name} of shape {shape}, got {len(content)}"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def data_directory(data_dir: str | os.PathLike[str] | None) -> Path:
    """The given data directory, or the one that the environment names.

    Raises:
        FileNotFoundError: neither names one.
    """
    given = os.environ.get(DATA_DIR_VARIABLE) if data_dir is None else data_dir
    if not given:
        raise FileNotFoundError(f"no data directory given: name one {HOW}")
    return Path(given).expanduser()


def find(
    data_dir: str | os.PathLike[str] | None,
    dataset: str,
    folders: Sequence[str],
    names: Sequence[str],
    *,
    spellings: Callable[[str], Sequence[str]] = lambda name: (name,),
    every: bool = True,
) -> list[Path]:
    """Find the named files (with `every`, all of them) in one of these folders of the data directory, or in it itself.

    Args:
        data_dir: the data directory.
        dataset: name of the data set, for the message.
        folders: where its files may lie; before the directory itself, where those of another may.
        names: of the files.
        spellings: under which a file may be known, from the one to take where several are there.
        every: whether all files must be there.

    Raises:
        FileNotFoundError: no directory given, or the files are not there.
    """
    root, seen = data_directory(data_dir), []
    for place in [root / folder for folder in folders] + [root]:
        found = [
            next((file for spelling in spellings(name) if (file := place / spelling).is_file()), None) for name in names
        ]
        there = [file for file in found if file is not None]
        if len(there) == len(names) or (there and not every):
            return there
        seen += [str(file.relative_to(root)) for file in there]
    state = f"found only {', '.join(seen)}" if seen else "found none of the files"
    expected = ", ".join(spellings(name)[0] for name in names)
    download = f", or let `kpoison download {dataset}` (kpoison.datasets.download) fetch them"
    raise FileNotFoundError(
        f"{root}: {state if root.is_dir() else 'no such directory'}; expected {expected}"
        f"{' (or unpacked)' if len(spellings('')) > 1 else ''}, in it or in its folder {' or '.join(folders)}. "
        f"Name the data directory {HOW}{download if dataset in FOLDERS else ''}"
    )


def unit_scale(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Bytes as numbers in [0, 1]."""
    images = pixels.astype(dtype, order="C")
    images /= 255  # in place: these are the large arrays
    return images
