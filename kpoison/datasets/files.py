"""Image datasets as NumPy arrays: scikit-learn's digits, MNIST and CIFAR from their official binary files.

Files are looked for in ``data_dir``, by default the directory that the environment variable
``KPOISON_DATA`` names. Nothing is downloaded here (`download` does), and pickles are never opened. A file may hold any
whole number of records (`len` and `repr` of the dataset tell how many were read); a damaged one is refused.
"""

import gzip
import importlib.util
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kpoison._validation import check_name
from kpoison.datasets.images import ImageDataset, check_labels, floating_dtype

__all__ = ["data_directory", "load_cifar10", "load_cifar100", "load_digits", "load_mnist", "read_idx"]

DATA_DIR_VARIABLE = "KPOISON_DATA"
HOW = f"by data_dir (--data-dir on the command line) or {DATA_DIR_VARIABLE}"
FOLDERS = {"mnist": "mnist", "cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}

DIGITS = "0 1 2 3 4 5 6 7 8 9"
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100_COARSE = """
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
    household_furniture insects large_carnivores large_man-made_outdoor_things
    large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals non-insect_invertebrates
    people reptiles small_mammals trees vehicles_1 vehicles_2
"""
CIFAR100_FINE = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
    can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
    lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter
    palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road
    rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower
    sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
    willow_tree wolf woman worm
"""

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


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
    return ImageDataset("digits", images, table[:, -1].astype(int), tuple(DIGITS.split()))


def load_mnist(
    data_dir: str | os.PathLike[str] | None = None, split: str = "train", dtype: npt.DTypeLike = np.float64
) -> ImageDataset:
    """Load MNIST from the official IDX files, gzipped or unpacked.

    Args:
        data_dir: directory of the files, or of a folder ``mnist`` with them; by default ``$KPOISON_DATA``.
        split: ``"train"`` (``train-*``) or ``"test"`` (``t10k-*``).
        dtype: of the images; the 60,000 training images take 376 MB in float64.

    Raises:
        FileNotFoundError: no directory given, or the files are not there.
        ValueError: unknown `split`, or a damaged file.
    """
    dtype = floating_dtype(dtype)
    split = check_name("split", split, ("train", "test"))
    prefix = {"train": "train", "test": "t10k"}[split]
    wanted = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    image_file, label_file = _find(data_dir, "mnist", wanted, suffixes=("", ".gz"))
    pixels, labels = read_idx(image_file), read_idx(label_file)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (28, 28):
        raise ValueError(
            f"{image_file}: expected uint8 images of shape (n, 28, 28), got {pixels.dtype} of shape {pixels.shape}"
        )
    if labels.dtype != np.uint8 or labels.shape != (len(pixels),):
        raise ValueError(
            f"{label_file}: expected uint8 labels of shape ({len(pixels)},), one for each image of "
            f"{image_file.name}, got {labels.dtype} of shape {labels.shape}"
        )
    check_labels(str(label_file), labels, 10)
    images = _unit_scale(pixels[..., None], dtype)
    return ImageDataset(f"mnist-{split}", images, labels, tuple(DIGITS.split()))


def load_cifar10(
    data_dir: str | os.PathLike[str] | None = None, split: str = "train", dtype: npt.DTypeLike = np.float64
) -> ImageDataset:
    """Load CIFAR-10 from the official binary version (``cifar-10-binary.tar.gz``, unpacked).

    Args:
        data_dir: directory of the files, or of a folder ``cifar-10-batches-bin`` with them; by default
            ``$KPOISON_DATA``.
        split: ``"train"`` (all of ``data_batch_1.bin`` to ``data_batch_5.bin`` that are there) or
            ``"test"``.
        dtype: of the images; the 50,000 training images take 1.2 GB in float64.

    Raises:
        FileNotFoundError: no directory given, or no file of the split is there.
        ValueError: unknown `split`, or a damaged file.
    """
    dtype = floating_dtype(dtype)
    split = check_name("split", split, ("train", "test"))
    batches = tuple(f"data_batch_{i}.bin" for i in range(1, 6)) if split == "train" else ("test_batch.bin",)
    files = _find(data_dir, "cifar10", batches, every=False)
    pixels, labels = zip(*(_read_cifar(file, (10,)) for file in files), strict=True)
    images = _unit_scale(np.concatenate(pixels), dtype)
    return ImageDataset(f"cifar10-{split}", images, np.concatenate(labels)[:, 0], tuple(CIFAR10.split()))


def load_cifar100(
    data_dir: str | os.PathLike[str] | None = None,
    split: str = "train",
    labels: str = "fine",
    dtype: npt.DTypeLike = np.float64,
) -> ImageDataset:
    """Load CIFAR-100 from the official binary version (``cifar-100-binary.tar.gz``, unpacked).

    Args:
        data_dir: directory of the files, or of a folder ``cifar-100-binary`` with them; by default
            ``$KPOISON_DATA``.
        split: ``"train"`` or ``"test"``.
        labels: ``"fine"`` (100 classes) or ``"coarse"`` (20).
        dtype: of the images; the 50,000 training images take 1.2 GB in float64.

    Raises:
        FileNotFoundError: no directory given, or the file of the split is not there.
        ValueError: unknown `split` or `labels`, or a damaged file.
    """
    dtype = floating_dtype(dtype)
    labels = check_name("labels", labels, ("coarse", "fine"))
    split = check_name("split", split, ("train", "test"))
    column = ("coarse", "fine").index(labels)
    (file,) = _find(data_dir, "cifar100", (split + ".bin",))
    pixels, both = _read_cifar(file, (20, 100))
    names = (CIFAR100_COARSE, CIFAR100_FINE)[column]
    images = _unit_scale(pixels, dtype)
    return ImageDataset(f"cifar100-{split}", images, both[:, column], tuple(names.split()))


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the array of an IDX file, gzipped or not, in native byte order.

    The format (Y. LeCun, C. Cortes, C. Burges, "The MNIST database"): two zero bytes, a type code, the number
    of dimensions, each dimension as a big-endian uint32, then the entries, big-endian, last index fastest.

    Raises:
        ValueError: not IDX, truncated, bytes left over, empty, or corrupt gzip.
        OSError: the file cannot be read.
    """
    content = Path(path).read_bytes()
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


def _find(
    data_dir: str | os.PathLike[str] | None,
    dataset: str,
    names: Sequence[str],
    suffixes: Sequence[str] = ("",),
    every: bool = True,
) -> list[Path]:
    """Find the named files (with `every`, all of them) in the data directory or in the folder of the data set."""
    root, folder, seen = data_directory(data_dir), FOLDERS[dataset], []
    for place in (root, root / folder):
        # The last suffix wins where a file is there twice.
        found = {name: file for end in suffixes for name in names if (file := place / (name + end)).is_file()}
        if len(found) == len(names) or (found and not every):
            return [found[name] for name in names if name in found]
        seen += [str(file.relative_to(root)) for file in found.values()]
    state = f"found only {', '.join(seen)}" if seen else "found none of the files"
    expected = ", ".join(name + suffixes[-1] for name in names)
    raise FileNotFoundError(
        f"{root}: {state if root.is_dir() else 'no such directory'}; expected {expected}"
        f"{' (or unpacked)' if len(suffixes) > 1 else ''}, in it or in its folder {folder}. "
        f"Name the data directory {HOW}, or let `kpoison download {dataset}` (kpoison.datasets.download) fetch them"
    )


def _read_cifar(path: Path, classes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 32, 32, 3) and labels (n, len(classes)) of a file of CIFAR's binary version.

    A record is one byte for each kind of label, then red, green and blue planes of 32x32 bytes by row
    (A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html).
    """
    content = np.frombuffer(path.read_bytes(), np.uint8)
    size = len(classes) + 3 * 32 * 32
    count, over = divmod(len(content), size)
    if count == 0 or over:
        raise ValueError(
            f"{path}: truncated or not of CIFAR's binary version: expected a whole number "
            f"of {size}-byte records, got {count} and {over} bytes"
        )
    records = content.reshape(count, size)
    labels, pixels = np.split(records, [len(classes)], axis=1)
    for column, names in zip(labels.T, classes, strict=True):
        check_labels(str(path), column, names)
    return pixels.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _unit_scale(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    images = pixels.astype(dtype, order="C")
    images /= 255  # in place: these are the large arrays
    return images
