"""CIFAR-10 and CIFAR-100 from the official binary files."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kpoison._validation import check_name
from kpoison.datasets.files import FOLDERS, data_directory, find, unit_scale
from kpoison.datasets.images import ImageDataset, check_labels, floating_dtype

__all__ = ["load_cifar10", "load_cifar100"]

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

_PICKLES = {"cifar10": ("cifar-10-batches-py", "batches.meta"), "cifar100": ("cifar-100-python", "meta")}
"""The folder of the python version, and a file that only it has."""


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
        ValueError: unknown `split`, a damaged file, or files of the python version, which are pickles.
    """
    dtype = floating_dtype(dtype)
    split = check_name("split", split, ("train", "test"))
    batches = tuple(f"data_batch_{i}.bin" for i in range(1, 6)) if split == "train" else ("test_batch.bin",)
    files = _find(data_dir, "cifar10", batches, every=False)
    pixels, labels = zip(*(_read_cifar(file, (10,)) for file in files), strict=True)
    images = unit_scale(np.concatenate(pixels), dtype)
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
        ValueError: unknown `split` or `labels`, a damaged file, or files of the python version, which are pickles.
    """
    dtype = floating_dtype(dtype)
    labels = check_name("labels", labels, ("coarse", "fine"))
    split = check_name("split", split, ("train", "test"))
    column = ("coarse", "fine").index(labels)
    (file,) = _find(data_dir, "cifar100", (split + ".bin",))
    pixels, both = _read_cifar(file, (20, 100))
    names = (CIFAR100_COARSE, CIFAR100_FINE)[column]
    images = unit_scale(pixels, dtype)
    return ImageDataset(f"cifar100-{split}", images, both[:, column], tuple(names.split()))


def _find(
    data_dir: str | os.PathLike[str] | None, dataset: str, names: Sequence[str], every: bool = True
) -> list[Path]:
    """The files of the binary version; where the python version lies in their place, it says why that is not read."""
    try:
        return find(data_dir, dataset, (FOLDERS[dataset],), names, every=every)
    except FileNotFoundError:
        root, (folder, file) = data_directory(data_dir), _PICKLES[dataset]
        for place in (root / folder, root):
            if (place / file).is_file():
                raise ValueError(
                    f"{place}: expected CIFAR's binary version, got the python version: its files are pickles, and "
                    "reading them would execute whatever code is in them. Take the archive of the binary version, or "
                    f"let `kpoison download {dataset}` (kpoison.datasets.download) fetch it"
                ) from None
        raise


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
