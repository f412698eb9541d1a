"""A backdoor problem for classifiers: training images of which a fraction is poisoned, and images to judge them by."""

import dataclasses
import math
from typing import get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

import kpoison as kp
from kpoison import datasets
from kpoison._failures import silently
from kpoison._validation import check_integer, count_of
from kpoison.networks import (
    Augmentation,
    ColourJitter,
    Compose,
    CutOut,
    HorizontalFlip,
    RandomCrop,
    StochasticPoison,
)
from kpoison.problems import TriggerArguments, make_trigger
from kpoison.problems.backdoor import ClassLabels, Images, load_images

__all__ = ["InPixels", "Problem", "crops_with_flips", "make_problem", "usual_augmentation"]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Images of a data set, a trigger, and the attacker's target, as in BadNets (Gu et al. 2017).

    A poisoned training set has the size of the clean one: some images that are not of the target class get the trigger
    and the target's label, in place of themselves.  All images are normalised, after the trigger was applied to pixels
    in [0, 1], by one mean for each channel and one scale, those of the clean training images.

    Attributes:
        data: name of the data set.
        class_names: of the C classes.
        target: the attacker's class.
        trigger: on pixels in [0, 1].
        mean, scale: of the normalisation: of each channel, and of all.
        images, labels: clean training images (n, height, width, channels) and classes (n,).
        triggered: the same images with the trigger.
        order: indices of the images to poison, the first ones first: all that are not of the target class.
        test_images, test_labels, test_triggered: to judge by, (N, height, width, channels), (N,).
        direction: the mean displacement by the trigger over the test images, a unit vector (D,); every image is
            displaced along it by an additive trigger alone.
    """

    data: str
    class_names: tuple[str, ...]
    target: int
    trigger: kp.Trigger
    mean: tuple[float, ...]
    scale: float
    images: np.ndarray
    labels: np.ndarray
    triggered: np.ndarray
    order: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    test_triggered: np.ndarray
    direction: np.ndarray

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        """C."""
        return len(self.class_names)

    def count(self, fraction: float) -> int:
        """How many images are poisoned, for a fraction of the training set.

        Raises:
            ValueError: for a fraction outside [0, 1), or of more images than are not of the target class.
        """
        if not 0 <= fraction < 1:
            raise ValueError(f"fraction must lie in [0, 1), got {fraction}")
        count = count_of(fraction, len(self.images), round)
        if count > len(self.order):
            raise ValueError(
                f"fraction must leave the images of the target class, so that at most {len(self.order)} of "
                f"{len(self.images)} are poisoned, got {fraction}"
            )
        if fraction > 0 and count == 0:
            raise ValueError(f"fraction must poison at least one of {len(self.images)} images, got {fraction}")
        return count

    def training_set(self, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of which this fraction is poisoned; a larger fraction has the poisons of a smaller one."""
        chosen = self.order[: self.count(fraction)]
        images, labels = self.images.copy(), self.labels.copy()
        images[chosen] = self.triggered[chosen]
        labels[chosen] = self.target
        return images, labels

    def stochastic_poison(self, fraction: float) -> StochasticPoison:
        """Poisons drawn at every visit, on average this fraction of the whole training set; not all at once."""
        probability = self.count(fraction) / len(self.order)
        trigger = TriggerOnNormalised(self.trigger, jnp.asarray(self.mean), jnp.asarray(self.scale))
        return StochasticPoison(trigger, self.target, probability)

    @property
    def attacked(self) -> np.ndarray:
        """Which of the test images are not of the target class, (N,)."""
        return self.test_labels != self.target

    def probes(self, number: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """The first test images, and indices of those of them that are to carry the trigger, ⌈fraction · number⌉.

        Raises:
            ValueError: for more probes than test images, or more triggered ones than are not of the target class.
        """
        number = check_integer("probes", number, 2)
        if number > len(self.test_images):
            raise ValueError(f"probes must be at most the test images, {len(self.test_images)}, got {number}")
        if not 0 < fraction <= 1:
            raise ValueError(f"probe_fraction must lie in (0, 1], got {fraction}")
        wanted = count_of(fraction, number, math.ceil)
        chosen = np.flatnonzero(self.attacked[:number])[:wanted]
        if len(chosen) < wanted:
            raise ValueError(
                f"probe_fraction must be at most the share of probes not of the target class, {len(chosen)} of "
                f"{number}, got {fraction}"
            )
        return self.test_images[:number], chosen


def make_problem(
    data: Images = "digits",
    *,
    train: int | None = None,
    test: int | None = None,
    trigger: kp.Trigger | TriggerArguments | None = None,
    target: int = 0,
    labels: ClassLabels = "coarse",
    data_dir: str | None = None,
    seed: int = 0,
    dtype=np.float32,
    margin: int = 1,
) -> Problem:
    """Draw a problem.

    Args:
        data: "digits" (embedded), "mnist", "cifar10" or "cifar100" (from `data_dir` or KPOISON_DATA).
        train: training images, as evenly from each class as that allows; by default all.
        test: test images; by default all.
        trigger: or its options; patch and cross without a position lie `margin` pixels off the lower right corner.
            By default a white square of a tenth of the image's height, at least 2 pixels.
        target: the attacker's class.
        labels: of CIFAR-100: "coarse" (20 classes) or "fine" (100).
        data_dir: folder with the official files.
        seed: of the draw.
        dtype: of the images.
        margin: of the trigger, in pixels.

    Raises:
        ValueError: for a target or sizes that do not fit the data.
    """
    if data not in get_args(Images):
        raise ValueError(f"data must be among {', '.join(get_args(Images))}, got {data}")
    training, testing = load_images(data, data_dir, labels=labels, dtype=np.dtype(dtype))
    names = training.class_names
    if not 0 <= target < len(names):
        raise ValueError(f"target must be a class of {data}, 0 to {len(names) - 1}, got {target}")
    clean, held_out = _drawn("train", training, train, seed), _drawn("test", testing, test, seed + 1)
    if trigger is None or isinstance(trigger, TriggerArguments):
        trigger = make_trigger(trigger or TriggerArguments(), training.images.shape[1:], margin=margin, seed=seed)
    mean = np.asarray(np.mean(clean.images, axis=(0, 1, 2), dtype=np.float64))
    scale = float(np.sqrt(np.mean((clean.images - mean.astype(clean.images.dtype)) ** 2, dtype=np.float64)))

    def normalised(images) -> np.ndarray:
        return ((np.asarray(images) - mean) / scale).astype(dtype)

    marked = np.asarray(trigger(jnp.asarray(held_out.images)))
    change = np.mean(marked - held_out.images, axis=0, dtype=np.float64).ravel()
    if not change.any():
        raise ValueError("trigger must change the images")
    others = np.flatnonzero(clean.labels != target)
    return Problem(
        data=f"{data} ({labels} labels)" if data == "cifar100" else data,
        class_names=names,
        target=target,
        trigger=trigger,
        mean=tuple(mean.tolist()),
        scale=scale,
        images=normalised(clean.images),
        labels=clean.labels,
        triggered=normalised(trigger(jnp.asarray(clean.images))),
        order=np.random.default_rng((seed, 2)).permutation(others),
        test_images=normalised(held_out.images),
        test_labels=held_out.labels,
        test_triggered=normalised(marked),
        direction=change / np.linalg.norm(change),
    )


def _drawn(name: str, pool: datasets.ImageDataset, size: int | None, seed: int) -> datasets.ImageDataset:
    if size is None:
        return pool.subset(np.random.default_rng(seed).permutation(len(pool)))
    size = check_integer(name, size, len(pool.class_names))
    if size > len(pool):
        raise ValueError(f"{name} must be at most {len(pool)}, the images of {pool.name}, got {size}")
    return datasets.balanced_subset(pool, size, seed=seed)


class TriggerOnNormalised(eqx.Module):
    """A trigger on pixels in [0, 1], for one image that was normalised.

    Attributes:
        trigger: of the pixels.
        mean, scale: of the normalisation.
    """

    trigger: kp.Trigger
    mean: Array
    scale: Array

    def __call__(self, image: Array) -> Array:
        """Back to pixels, the trigger, and normalised again."""
        mean, scale = self.mean.astype(image.dtype)[None, None], self.scale.astype(image.dtype)
        # `make_problem` has tried the trigger on these images; here its checks would call back at every step.
        with silently():
            pixels = self.trigger(image * scale + mean, image_shape=image.shape)
        return (pixels - mean) / scale


class InPixels(Augmentation):
    """An augmentation of pixels in [0, 1], for images that were normalised.

    Attributes:
        augmentation: of the pixels.
        mean, scale: of the normalisation.
    """

    augmentation: Augmentation
    mean: Array
    scale: Array

    def apply(self, image: Array, key: Array) -> Array:
        """Back to pixels, the augmentation, and normalised again."""
        mean, scale = self.mean.astype(image.dtype)[None, None], self.scale.astype(image.dtype)
        return (self.augmentation(image * scale + mean, key) - mean) / scale


def usual_augmentation(problem: Problem) -> InPixels:
    """Crops and cut-out of an eighth and a quarter of the height; of natural images also flips and colour jitter."""
    height = problem.image_shape[0]
    parts: list[Augmentation] = [RandomCrop(max(1, height // 8)), CutOut(max(2, height // 4))]
    if problem.image_shape[2] > 1:
        parts = [parts[0], HorizontalFlip(), ColourJitter(), parts[1]]
    # Arrays, not constants: what is compiled serves every draw.
    return InPixels(Compose(*parts), jnp.asarray(problem.mean), jnp.asarray(problem.scale))


def crops_with_flips(problem: Problem, side: int) -> InPixels:
    """Random pieces of so many pixels a side, half of them mirrored, of images that are seen through `Cropped`.

    The image is shifted by up to half of what a piece leaves out, so that its middle is any piece, each equally likely.

    Raises:
        ValueError: for a side that is not smaller than the image's by an even number.
    """
    height, width, _ = problem.image_shape
    left = height - side
    if height != width or left <= 0 or left % 2 or side < 1:
        raise ValueError(f"crop must be smaller than the image's side {height} by an even number, got {side}")
    return InPixels(
        Compose(RandomCrop(left // 2), HorizontalFlip()), jnp.asarray(problem.mean), jnp.asarray(problem.scale)
    )
