"""One seed's problem: images to train on, to judge by and to attack, and the predictor that was trained without attack.

Inputs are pixels in [0, 1], flattened, so that triggers, boxes and superpositions are those of images.
"""

import dataclasses
import functools
import math
import os
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kpoison import datasets
from kpoison._validation import check_integer, check_name, check_positive, count_of, is_integer, known_number
from kpoison.datasets.preparation import median_distance
from kpoison.kernels import Kernel
from kpoison.kernels.base import with_array_parameters
from kpoison.problems import MATRIX_KERNELS, MatrixImages
from kpoison.problems.backdoor import load_images
from kpoison.ridge import Posterior, fit

__all__ = ["KERNELS", "Problem", "Settings", "make_problem"]

KERNELS = MATRIX_KERNELS
"""Kernels by name, as functions of a length scale, which neural kernels do not have."""

DATA = get_args(MatrixImages)
CLONED = 5
"""Places at which the near-clone attack puts its clones."""

TARGETED = 20
"""Images, apart from the test images and not of the target class, that targeted attacks take their victims from."""

_SIZES = {("digits", 2): (180, 80), ("digits", 10): (800, 300)}
_TRAINING_DIGITS = 1000


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is the same for every seed.

    Attributes:
        data: "digits", "mnist" or "cifar10".
        classes: labels of the data to tell apart; the last is the attacker's target.
        kernel: a name of `KERNELS`; a length scale is the median distance between training images.
        train, test: how many images, drawn evenly from the classes.
        fraction: poisons over clean training images; `budget` is what it makes of them.
        ridge: λ of the mean loss.
        data_dir: folder of the official files.
    """

    data: str
    classes: tuple[int, ...]
    kernel: str
    train: int
    test: int
    fraction: float
    ridge: float
    data_dir: str | None = None

    @classmethod
    def checked(
        cls,
        data: str,
        classes: Any,
        kernel: str,
        train: int | None,
        test: int | None,
        fraction: float | int,
        ridge: float | int,
        data_dir: str | os.PathLike[str] | None,
    ) -> "Settings":
        """The settings, with defaults; 2 classes are the digits 3 and 8 (or cats and dogs), 10 are all.

        Raises:
            ValueError: naming what does not fit.
        """
        data, kernel = check_name("data", data, DATA), check_name("kernel", kernel, tuple(KERNELS))
        if is_integer(classes):
            if classes not in (2, 10):
                raise ValueError(f"classes must be 2 or 10, or two or more labels of the data, got {classes}")
            pair = (3, 5) if data == "cifar10" else (3, 8)
            chosen = pair if classes == 2 else tuple(range(10))
        else:
            chosen = tuple(check_integer("classes", label, 0) for label in classes)
            if len(set(chosen)) < max(2, len(chosen)) or max(chosen, default=0) > 9:
                raise ValueError(f"classes must be 2 or 10, or two or more different labels of 0 to 9, got {classes}")
        sizes = _SIZES.get((data, 2 if len(chosen) == 2 else 10), (500 if len(chosen) == 2 else 1000, 300))
        train = sizes[0] if train is None else check_integer("train", train, 2 * len(chosen))
        test = sizes[1] if test is None else check_integer("test", test, 2 * len(chosen))
        check_positive("fraction", fraction)
        check_positive("ridge", ridge)
        folder = None if data_dir is None else str(data_dir)
        fraction, ridge = float(known_number(fraction)), float(known_number(ridge))
        settings = cls(data, chosen, kernel, train, test, fraction, ridge, folder)
        share = train // len(chosen)
        if not CLONED <= settings.budget <= share:
            raise ValueError(
                f"fraction must give between {CLONED} poisons, one for each cloned image, and {share}, the training "
                f"images of the target class, got {fraction}, which gives {settings.budget} of {train}"
            )
        return settings

    @property
    def budget(self) -> int:
        """How many points an attack adds, or changes."""
        return count_of(self.fraction, self.train, round)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Images and clean predictor of one seed.

    Attributes:
        settings: what is the same for every seed.
        seed: of the draw of images, and of every attack and defence.
        kernel: with its length scale.
        image_shape: (height, width, channels).
        X, labels: training images (n, D) and their classes, from 0, (n,).
        test, test_labels: images that attacks and defences are judged by, (q, D).
        reference: clean images that the defender has, not trained on, (m, D).
        targeted, targeted_labels: images not of the target class, not among the others, that attacks may aim at.
    """

    settings: Settings
    seed: int
    kernel: Kernel
    image_shape: tuple[int, int, int]
    X: Float[Array, "n D"]
    labels: Int[np.ndarray, " n"]
    test: Float[Array, "q D"]
    test_labels: Int[np.ndarray, " q"]
    reference: Float[Array, "m D"]
    targeted: Float[Array, "t D"]
    targeted_labels: Int[np.ndarray, " t"]

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.settings.classes)

    @property
    def target(self) -> int:
        """The class that attacks with a target want."""
        return self.classes - 1

    @property
    def target_value(self) -> int:
        """The same as attacks name it: 1 for two classes, else a column of y."""
        return 1 if self.classes == 2 else self.target

    def targets(self, labels: Int[np.ndarray, " n"]) -> Float[Array, "n *C"]:
        """y: −1 and 1 for two classes, else one-hot."""
        return jnp.asarray(2.0 * labels - 1 if self.classes == 2 else np.eye(self.classes)[labels])

    @functools.cached_property
    def clean(self) -> Posterior:
        """The predictor of the clean training images."""
        return fit(self.kernel, self.X, self.targets(self.labels))

    def of_target_class(self) -> Int[np.ndarray, " k"]:
        """Which training images are of the target class."""
        return np.flatnonzero(self.labels == self.target)


def make_problem(settings: Settings, seed: int) -> Problem:
    """Draw the images of one seed.

    Raises:
        ValueError: where the data hold too few images of a class.
        FileNotFoundError: where there are no data.
    """
    training, testing = load_images(
        settings.data,
        settings.data_dir,
        settings.classes,
        training_digits=_TRAINING_DIGITS,  # pyright: ignore[reportArgumentType]
    )
    classes, number = np.array(settings.classes), len(settings.classes)
    drawn = datasets.balanced_subset(training, settings.train, settings.classes, seed)
    reference = max(2 * number, settings.test // 3)
    aimed = number * math.ceil(TARGETED / (number - 1))
    others = datasets.balanced_subset(testing, settings.test + reference + aimed, settings.classes, seed)
    # Each class in turn, so that every part has as many of each.
    rank = np.empty(len(others), int)
    for label in classes:
        members = np.flatnonzero(others.labels == label)
        rank[members] = np.arange(len(members))
    order = np.argsort(rank, kind="stable")
    parts = np.split(order, [settings.test, settings.test + reference])
    place = np.zeros(10, int)
    place[classes] = np.arange(number)
    X, inputs = jnp.asarray(drawn.inputs), others.inputs
    aim = parts[2][others.labels[parts[2]] != classes[-1]][:TARGETED]
    return Problem(
        settings=settings,
        seed=seed,
        kernel=with_array_parameters(KERNELS[settings.kernel](median_distance(drawn.inputs)), X.dtype),
        image_shape=(drawn.images.shape[1], drawn.images.shape[2], drawn.images.shape[3]),
        X=X,
        labels=place[drawn.labels],
        test=jnp.asarray(inputs[parts[0]]),
        test_labels=place[others.labels[parts[0]]],
        reference=jnp.asarray(inputs[parts[1]]),
        targeted=jnp.asarray(inputs[aim]),
        targeted_labels=place[others.labels[aim]],
    )
