"""A dirty-label backdoor on real images: triggered training images with the target's label, and triggered probes."""

import dataclasses
import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

import kpoison as kp
from kpoison import datasets
from kpoison._validation import count_of
from kpoison.curvature import BulkEdge, Eigenpairs, Visibility
from kpoison.datasets.preparation import median_distance
from kpoison.problems import ClassLabels, Images

__all__ = ["Backdoor", "ClassLabels", "Images", "Outcome", "load_images", "make_backdoor", "outputs"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one predictor does with clean and triggered images.

    Attributes:
        success: attack success rate on triggered probes.
        accuracy: on clean test images.
        spectrum: leading eigenpairs of the input Fisher matrix over the probes.
        visibility: of the first, against the edge of the clean reference.
    """

    success: float
    accuracy: float
    spectrum: Eigenpairs
    visibility: Visibility


@dataclasses.dataclass(frozen=True)
class Backdoor:
    """Clean training data, what the attacker adds, and the images on which the predictor is judged.

    All inputs are standardised by the clean training images, after the trigger was applied to the pixels.

    Attributes:
        data: name of the data set.
        image_shape: (height, width, channels).
        trigger: the trigger.
        target: the attacker's class.
        classes: number of classes C; two classes have one output, ±1.
        X, y: clean training inputs (n, D) and targets (n,) or (n, C), centred one-hot rows.
        locations: triggered training images of other classes, standardised, (P, D): poisons to take from.
        clean, labels: test images (N, D) and their classes (N,).
        triggered: the same test images with the trigger, (N, D).
        direction: the common direction of the trigger, a unit vector (D,).
    """

    data: str
    image_shape: tuple[int, int, int]
    trigger: kp.Trigger
    target: int
    classes: int
    X: Array
    y: Array
    locations: Array
    clean: Array
    labels: Array
    triggered: Array
    direction: Array

    @functools.cached_property
    def median_distance(self) -> float:
        """Between clean training images: the length scale of stationary kernels here."""
        return median_distance(np.asarray(self.X))

    def target_vector(self) -> Array | float:
        """The poison's label."""
        if self.classes == 2:
            return 1.0 if self.target == 1 else -1.0
        return jax.nn.one_hot(self.target, self.classes, dtype=self.X.dtype) - 1 / self.classes

    def poison(self, count: int) -> kp.Poison:
        """The first `count` triggered images with the target's label."""
        if not 0 <= count <= len(self.locations):
            raise ValueError(f"count must be between 0 and {len(self.locations)}, got {count}")
        # Of all counts one shape, so that their laws compile once.
        weights = jnp.where(jnp.arange(len(self.locations)) < count, 1.0, 0.0)
        return kp.Poison(self.locations, self.target_vector(), weights)

    def scores(self, outputs: Array) -> Array:
        """Outputs as scores (q, C) of the classes."""
        return jnp.stack([-outputs, outputs], axis=1) if self.classes == 2 else outputs

    def probes(self, fraction: float | int) -> Array:
        """The test images, the first ⌈fraction · N⌉ that are not of the target class with the trigger."""
        number = count_of(fraction, len(self.clean), math.ceil)
        chosen = np.flatnonzero(np.asarray(self.labels) != self.target)[:number]
        return self.clean.at[chosen].set(self.triggered[chosen])

    def clean_edge(self, f, *, level: float = 0.99, key: Array | None = None) -> BulkEdge:
        """Edge of the Fisher spectrum of a predictor over clean images only."""
        gradients = kp.curvature.input_gradients(f, self.clean)
        rows = gradients.reshape(len(gradients), -1, gradients.shape[-1])
        return kp.curvature.bulk_edge_from_clean(rows, level=level, key=key)

    def judge(self, f, edge: BulkEdge | Array, fraction: float | int, *, k: int = 10) -> Outcome:
        """Attack success, accuracy, and the Fisher spectrum over probes of which a fraction is triggered."""
        clean, triggered = (self.scores(outputs(f, x)) for x in (self.clean, self.triggered))
        spectrum = kp.curvature.top_eigenpairs(kp.curvature.fisher(f, self.probes(fraction)), k)
        return Outcome(
            float(kp.attack_success_rate(triggered, self.labels, self.target)),
            float(kp.clean_accuracy(clean, self.labels)),
            spectrum,
            kp.curvature.visibility(spectrum.values[0], spectrum.vectors[0], edge, direction=self.direction),
        )


@eqx.filter_jit
def outputs(f: Callable[[Array], Array], x: Array) -> Array:
    """f at many points; compiled once for all predictors of one shape."""
    return jax.lax.map(f, x, batch_size=64)


@functools.lru_cache(maxsize=2)
def load_images(
    data: Images,
    data_dir: str | None = None,
    classes: tuple[int, ...] | None = None,
    *,
    labels: ClassLabels = "coarse",
    dtype: npt.DTypeLike = np.float64,
    training_digits: int = 1200,
) -> tuple[datasets.ImageDataset, datasets.ImageDataset]:
    """Training and test images of these classes, by default of all; kept, as the next draw is of the same ones.

    `labels` are those of CIFAR-100: "coarse" (20 classes) or "fine" (100); digits, which are one set, are divided.
    """
    if data == "digits":
        images = datasets.load_digits(dtype)
        order = np.random.default_rng(0).permutation(len(images))
        training, testing = images.subset(order[:training_digits]), images.subset(order[training_digits:])
    elif data == "cifar100":
        training, testing = (datasets.load_cifar100(data_dir, split, labels, dtype) for split in ("train", "test"))
    else:
        load = datasets.load_mnist if data == "mnist" else datasets.load_cifar10
        training, testing = load(data_dir, "train", dtype), load(data_dir, "test", dtype)
    if classes is None:
        return training, testing
    missing = sorted(set(classes) - set(training.labels.tolist()))
    if missing:
        raise ValueError(f"classes must be among the labels of {data}, got {', '.join(map(str, missing))}")
    return training.subset(np.isin(training.labels, classes)), testing.subset(np.isin(testing.labels, classes))


def make_backdoor(
    data: Images = "digits",
    trigger: kp.Trigger | None = None,
    *,
    classes: tuple[int, ...] = (0, 1),
    target: int = 0,
    train: int = 500,
    test: int = 300,
    poisons: int = 200,
    data_dir: str | None = None,
    seed: int = 0,
) -> Backdoor:
    """Draw a backdoor problem.

    Args:
        data: "digits" (embedded), "mnist", "cifar10" or "cifar100" (20 classes; from `data_dir` or KPOISON_DATA).
        trigger: by default a white patch of a tenth of the image's height in the lower right corner.
        classes: classes to tell apart, two or more.
        target: the attacker's class, an index into `classes`.
        train: clean training images.
        test: test images, as evenly from each class as they allow.
        poisons: triggered training images to take from, at most.
        data_dir: folder with the official files.
        seed: of the draw.

    Raises:
        ValueError: for classes, target or sizes that do not fit the data.
    """
    if len(set(classes)) < 2 or len(set(classes)) != len(classes):
        raise ValueError(f"classes must be two or more different classes, got {classes}")
    if not 0 <= target < len(classes):
        raise ValueError(f"target must be an index into classes, 0 to {len(classes) - 1}, got {target}")
    for name, size in (("train", train), ("test", test), ("poisons", poisons)):
        if size < len(classes):
            raise ValueError(f"{name} must be at least the number of classes, {len(classes)}, got {size}")
    training, testing = load_images(data, data_dir, tuple(classes))
    if train >= len(training) or test > len(testing):
        raise ValueError(
            f"train and test must fit {data}: {len(training)} and {len(testing)} images of these classes, got {train} "
            f"and {test}"
        )
    clean = datasets.balanced_subset(training, train, seed=seed)
    held_out = datasets.balanced_subset(testing, test, seed=seed + 1)
    image_shape = training.images.shape[1:]
    if trigger is None:
        size = max(1, image_shape[0] // 10)
        trigger = kp.Patch(size, (-max(2, size), -max(2, size)))

    def triggered(images: np.ndarray) -> np.ndarray:
        return np.asarray(trigger(jnp.asarray(images))).reshape(len(images), -1)

    def standardised(inputs: np.ndarray) -> Array:
        return jnp.asarray(datasets.standardise(inputs, clean.inputs))

    index = {label: i for i, label in enumerate(classes)}
    sources = training.subset(training.labels != classes[target])
    chosen = np.random.default_rng(seed).permutation(len(sources))[:poisons]
    labels = np.array([index[label] for label in clean.labels])
    targets = np.where(labels == 1, 1.0, -1.0) if len(classes) == 2 else np.eye(len(classes))[labels] - 1 / len(classes)
    plain, marked = standardised(held_out.inputs), standardised(triggered(held_out.images))
    change = jnp.mean(marked - plain, axis=0)
    return Backdoor(
        data=data,
        image_shape=image_shape,
        trigger=trigger,
        target=target,
        classes=len(classes),
        X=standardised(clean.inputs),
        y=jnp.asarray(targets),
        locations=standardised(triggered(sources.images[chosen])),
        clean=plain,
        labels=jnp.asarray([index[label] for label in held_out.labels]),
        triggered=marked,
        direction=change / jnp.linalg.norm(change),
    )
