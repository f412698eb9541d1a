"""Image datasets as NumPy arrays: scikit-learn's digits, MNIST and CIFAR from their official binary files.

Files are looked for in ``data_dir``, by default the directory that the environment variable
``KPOISON_DATA`` names. Nothing is downloaded, and pickles are never opened. A file may hold any whole number
of records (`len` and `repr` of the dataset tell how many were read); a damaged one is refused.
"""

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Integer

__all__ = [
    "ImageDataset",
    "balanced_subset",
    "binary_problem",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_mnist",
    "one_hot",
    "read_idx",
    "standardise",
    "unit_sphere",
]

DATA_DIR_VARIABLE = "KPOISON_DATA"

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


@dataclass(frozen=True, eq=False, repr=False)
class ImageDataset:
    """Labelled images, channel last.

    Attributes:
        name: where the images come from, such as ``"mnist-train"``.
        images: (n, height, width, channels), scaled to [0, 1].
        labels: (n,) int64, indices into `class_names`.
        class_names: one name per class, whether or not the class occurs.

    Raises:
        ValueError: empty data, shapes that do not fit, a pixel outside [0, 1] (or NaN), a label without name.
    """

    name: str
    images: Float[np.ndarray, "n height width channels"]
    labels: Integer[np.ndarray, " n"]
    class_names: tuple[str, ...]

    def __post_init__(self):
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        if images.ndim != 4 or images.size == 0 or not np.issubdtype(images.dtype, np.floating):
            raise ValueError(
                "images must be floating, non-empty and of shape (n, height, width, channels), "
                f"got {images.dtype} of shape {images.shape}"
            )
        if not (images.min() >= 0 and images.max() <= 1):  # so written, NaN fails too
            raise ValueError(f"images must lie in [0, 1], got values from {images.min()} to {images.max()}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"labels must have shape ({len(images)},) as images do, got {labels.shape}")
        _check_labels("labels", labels, len(self.class_names))
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.images.shape[1:])
        return f"ImageDataset({self.name}: {len(self):,} images of {shape}, {len(self.class_names)} classes)"

    @property
    def inputs(self) -> Float[np.ndarray, "n d"]:
        """The images as rows of length d = height * width * channels."""
        return self.images.reshape(len(self), -1)

    def subset(
        self, which: Integer[np.ndarray, " k"] | Bool[np.ndarray, " n"] | Sequence[int]
    ) -> "ImageDataset":
        """Copy the images at these indices, in this order.

        Args:
            which: indices (k,), or a mask (n,).

        Raises:
            ValueError: not one-dimensional, none chosen, an index out of range, a mask of another length.
        """
        chosen = np.asarray(which)
        if chosen.dtype == bool and chosen.shape == (len(self),):
            chosen = np.flatnonzero(chosen)
        if chosen.ndim != 1 or chosen.size == 0 or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(
                f"which must be a non-empty list of indices or a mask of shape ({len(self)},) with a True, "
                f"got {np.asarray(which).dtype} of shape {np.shape(which)}"
            )
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise ValueError(f"which must lie in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])


def load_digits(dtype: npt.DTypeLike = np.float64) -> ImageDataset:
    """Load the 1,797 handwritten digits of 8x8 pixels that scikit-learn carries, without file or network.

    >>> load_digits()
    ImageDataset(digits: 1,797 images of 8x8x1, 10 classes)
    """
    from sklearn.datasets import load_digits as embedded  # a slow import that the other loaders do without

    pixels, labels = embedded(return_X_y=True)
    images = np.asarray(pixels, dtype=_floating(dtype)).reshape(-1, 8, 8, 1) / 16
    return ImageDataset("digits", images, np.asarray(labels), tuple(DIGITS.split()))


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
    dtype = _floating(dtype)
    prefix = {"train": "train", "test": "t10k"}[_one_of("split", split, ("train", "test"))]
    wanted = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    image_file, label_file = _find(data_dir, "mnist", wanted, suffixes=("", ".gz"))
    pixels, labels = read_idx(image_file), read_idx(label_file)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (28, 28):
        raise ValueError(
            f"{image_file}: expected uint8 images of shape (n, 28, 28), "
            f"got {pixels.dtype} of shape {pixels.shape}"
        )
    if labels.dtype != np.uint8 or labels.shape != (len(pixels),):
        raise ValueError(
            f"{label_file}: expected uint8 labels of shape ({len(pixels)},), one for each image of "
            f"{image_file.name}, got {labels.dtype} of shape {labels.shape}"
        )
    _check_labels(str(label_file), labels, 10)
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
    dtype = _floating(dtype)
    _one_of("split", split, ("train", "test"))
    batches = tuple(f"data_batch_{i}.bin" for i in range(1, 6)) if split == "train" else ("test_batch.bin",)
    files = _find(data_dir, "cifar-10-batches-bin", batches, every=False)
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
    dtype = _floating(dtype)
    column = ("coarse", "fine").index(_one_of("labels", labels, ("coarse", "fine")))
    (file,) = _find(data_dir, "cifar-100-binary", (_one_of("split", split, ("train", "test")) + ".bin",))
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
            raise ValueError(
                f"{path}: expected a whole gzip file, got a corrupt or truncated one: {error}"
            ) from error
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_DTYPES or not 1 <= magic[3] <= 64:
        raise ValueError(
            f"{path}: not an IDX file: expected the magic number 00 00, a type code "
            f"({', '.join(f'{code:02x}' for code in IDX_DTYPES)}), a number of dimensions, got "
            f"{magic.hex(' ') or 'an empty file'}"
        )
    start = 4 + 4 * magic[3]
    if len(content) < start:
        raise ValueError(
            f"{path}: truncated: expected a header of {start} bytes, got {len(content)} bytes in all"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", magic[3], 4))
    if 0 in shape:
        raise ValueError(f"{path}: empty: expected at least one record, got shape {shape}")
    dtype = np.dtype(IDX_DTYPES[magic[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        problem = "truncated" if len(content) < expected else "bytes left over"
        raise ValueError(
            f"{path}: {problem}: expected {expected} bytes for {dtype.name} of shape {shape}, "
            f"got {len(content)}"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def balanced_subset(
    dataset: ImageDataset, count: int, classes: Sequence[int] | None = None, seed: int = 0
) -> ImageDataset:
    """Draw `count` images without replacement, as evenly from each class as it allows, in random order.

    Where `count` is no multiple of the number of classes, the first classes give one image more. Subsets of
    one seed are nested: a larger `count` keeps the images of a smaller one, and what is drawn from one class
    does not depend on the other classes.

    Args:
        dataset: where to draw from.
        count: how many images in all.
        classes: labels to draw from; by default all that occur.
        seed: an integer >= 0.

    Raises:
        ValueError: a class is unknown, named twice or holds too few images; `count` < 1; `seed` < 0.

    >>> small = balanced_subset(load_digits(), count=6, classes=(3, 8), seed=1)
    >>> sorted(small.labels.tolist())
    [3, 3, 3, 8, 8, 8]
    """
    count, seed = _whole("count", count, 1), _whole("seed", seed, 0)
    chosen = _checked_classes(dataset, np.unique(dataset.labels).tolist() if classes is None else classes)
    share, over = divmod(count, len(chosen))
    drawn = []
    for place, label in enumerate(chosen):
        rows = np.flatnonzero(dataset.labels == label)
        wanted = share + (place < over)
        if wanted > len(rows):
            raise ValueError(
                f"count={count} over {len(chosen)} classes asks for {wanted} images of class {label} "
                f"({dataset.class_names[label]}), but {dataset} holds {len(rows)}"
            )
        # Not (seed, label): NumPy makes (seed, 0) the same stream as seed, which shuffles below.
        drawn.append(np.random.default_rng((seed, label + 1)).permutation(rows)[:wanted])
    return dataset.subset(np.random.default_rng(seed).permutation(np.concatenate(drawn)))


def binary_problem(
    dataset: ImageDataset, classes: Sequence[int] = (0, 1), count: int | None = None, seed: int = 0
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """Draw two classes as inputs (n, d) and targets (n,): -1 for the first class, +1 for the second.

    Args:
        dataset: where to draw from.
        classes: two labels.
        count: n, half from each class (if odd, one more from the first); by default the most there is.
        seed: as in `balanced_subset`, which draws the images.

    Raises:
        ValueError: not two classes, `count` < 2, or what `balanced_subset` refuses.

    >>> inputs, targets = binary_problem(load_digits(), classes=(4, 9), count=10)
    >>> inputs.shape, float(targets.sum())
    ((10, 64), 0.0)
    """
    pair = _checked_classes(dataset, classes)
    if len(pair) != 2:
        raise ValueError(f"classes must be two labels, got {classes}")
    if count is None:
        count = max(2, 2 * min(int(np.sum(dataset.labels == label)) for label in pair))
    chosen = balanced_subset(dataset, _whole("count", count, 2), pair, seed)
    return chosen.inputs, np.where(chosen.labels == pair[1], 1, -1).astype(chosen.images.dtype)


def one_hot(
    labels: Integer[np.ndarray, " n"] | Sequence[int], classes: int, dtype: npt.DTypeLike = np.float64
) -> Float[np.ndarray, "n classes"]:
    """Turn labels (n,) into rows (n, classes) that are 1 at the label and 0 elsewhere.

    Raises:
        ValueError: `labels` is empty, not one-dimensional, not integer, or not within 0..classes-1.

    >>> one_hot([0, 2], 3)
    array([[1., 0., 0.],
           [0., 0., 1.]])
    """
    classes, array = _whole("classes", classes, 1), np.asarray(labels)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"labels must be non-empty and of shape (n,), got shape {array.shape}")
    _check_labels("labels", array, classes)
    return np.equal.outer(array, np.arange(classes)).astype(_floating(dtype))


def standardise(
    inputs: Float[np.ndarray, "n d"],
    reference: Float[np.ndarray, "m d"] | None = None,
    per_feature: bool = False,
) -> Float[np.ndarray, "n d"]:
    """Shift each feature to mean 0 and scale to variance 1, by the statistics of `reference`.

    By default one scale serves all features (their mean variance becomes 1, the mean squared norm d), which
    keeps angles and ratios of distances. With `per_feature` each feature has its own; what is constant in the
    reference is only shifted.

    Args:
        inputs: (n, d).
        reference: (m, d) to take mean and scale from, such as the training inputs; by default `inputs`.
        per_feature: scale each feature on its own.

    Raises:
        ValueError: not floating, not two-dimensional, empty or not finite; a reference of another d.

    >>> standardise(np.array([[0.0, 5.0], [2.0, 5.0]]), per_feature=True)
    array([[-1.,  0.],
           [ 1.,  0.]])
    """
    inputs = _matrix("inputs", inputs)
    reference = inputs if reference is None else _matrix("reference", reference)
    if reference.shape[1] != inputs.shape[1]:
        raise ValueError(
            f"reference must have {inputs.shape[1]} features as inputs do, got {reference.shape[1]}"
        )
    mean = reference.mean(axis=0, dtype=np.float64)
    variance = reference.var(axis=0, dtype=np.float64)
    # A constant feature's computed variance is rounding error, not 0.
    variance[np.ptp(reference, axis=0) == 0] = 0
    if not per_feature:
        variance = variance.mean()
    scale = np.sqrt(np.where(variance == 0, 1, variance))
    return ((inputs - mean) / scale).astype(inputs.dtype)


def unit_sphere(inputs: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Scale rows (n, d) to norm sqrt(d), so that ‖x‖²/d, which enters neural kernels, is 1 for each.

    Raises:
        ValueError: not floating, not two-dimensional, empty or not finite; a row that is zero.

    >>> unit_sphere(np.array([[0.0, 3.0]])).round(12)
    array([[0.        , 1.41421356]])
    """
    inputs = _matrix("inputs", inputs)
    largest = np.abs(inputs).max(axis=1, keepdims=True)
    if not largest.all():
        raise ValueError(f"inputs must have no zero row, got one at index {int(np.argmin(largest))}")
    rows = inputs / largest  # first, lest the squares underflow or overflow
    mean_squares = np.mean(rows**2, axis=1, keepdims=True)
    return rows / np.sqrt(mean_squares)


def _find(
    data_dir: str | os.PathLike[str] | None,
    folder: str,
    names: Sequence[str],
    suffixes: Sequence[str] = ("",),
    every: bool = True,
) -> list[Path]:
    """Find the named files (with `every`, all of them) in the data directory or in its folder."""
    how = f"by data_dir (--data-dir on the command line) or {DATA_DIR_VARIABLE}"
    given = os.environ.get(DATA_DIR_VARIABLE) if data_dir is None else data_dir
    if not given:
        raise FileNotFoundError(f"no data directory given: name one {how}")
    root, seen = Path(given).expanduser(), []
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
        f"Name the data directory {how}"
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
        _check_labels(str(path), column, names)
    return pixels.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _unit_scale(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    images = pixels.astype(dtype, order="C")
    images /= 255  # in place: these are the large arrays
    return images


def _check_labels(name: str, labels: np.ndarray, classes: int) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name}: expected integer labels, got {labels.dtype}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{name}: expected labels in 0..{classes - 1}, got values from {labels.min()} to {labels.max()}"
        )


def _checked_classes(dataset: ImageDataset, classes: Sequence[int]) -> list[int]:
    known = len(dataset.class_names)
    labels = [_whole("classes", label, 0) for label in classes]
    if not labels or len(set(labels)) < len(labels) or max(labels) >= known:
        raise ValueError(f"classes must be one or more different labels in 0..{known - 1}, got {classes}")
    return labels


def _matrix(name: str, value: npt.ArrayLike) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{name} must be floating, non-empty and of shape (n, d), "
            f"got {array.dtype} of shape {array.shape}"
        )
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} must be finite, got another value in row {int(np.argmin(finite))}")
    return array


def _floating(dtype: npt.DTypeLike) -> np.dtype:
    if not np.issubdtype(np.dtype(dtype), np.floating):
        raise ValueError(f"dtype must be floating, got {np.dtype(dtype)}")
    return np.dtype(dtype)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def _whole(name: str, value: object, least: int) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)
