"""Subsets and scaling of image data."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from kpoison._validation import check_integer, plain_array
from kpoison.datasets.images import ImageDataset

__all__ = ["balanced_subset", "binary_problem", "median_distance", "standardise", "unit_sphere"]


def balanced_subset(
    dataset: ImageDataset, count: int, classes: Sequence[int | str] | None = None, seed: int = 0
) -> ImageDataset:
    """Draw `count` images without replacement, as evenly from each class as it allows, in random order.

    Where `count` is no multiple of the number of classes, the first classes give one image more. Subsets of
    one seed are nested: a larger `count` keeps the images of a smaller one, and what is drawn from one class
    does not depend on the other classes.

    Args:
        dataset: where to draw from.
        count: how many images in all.
        classes: labels to draw from, or names of classes; by default all that occur.
        seed: an integer >= 0.

    Raises:
        ValueError: a class is unknown, named twice or holds too few images; `count` < 1; `seed` < 0.

    >>> from kpoison.datasets import load_digits
    >>> small = balanced_subset(load_digits(), count=6, classes=(3, 8), seed=1)
    >>> sorted(small.labels.tolist())
    [3, 3, 3, 8, 8, 8]
    """
    count, seed = check_integer("count", count, 1), check_integer("seed", seed, 0)
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
    dataset: ImageDataset, classes: Sequence[int | str] = (0, 1), count: int | None = None, seed: int = 0
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """Draw two classes as inputs (n, d) and targets (n,): -1 for the first class, +1 for the second.

    Args:
        dataset: where to draw from.
        classes: two labels, or names of classes.
        count: n, half from each class (if odd, one more from the first); by default the most there is.
        seed: as in `balanced_subset`, which draws the images.

    Raises:
        ValueError: not two classes, `count` < 2, or what `balanced_subset` refuses.

    >>> from kpoison.datasets import load_digits
    >>> inputs, targets = binary_problem(load_digits(), classes=(4, 9), count=10)
    >>> inputs.shape, float(targets.sum())
    ((10, 64), 0.0)
    """
    pair = _checked_classes(dataset, classes)
    if len(pair) != 2:
        raise ValueError(f"classes must be two labels, got {classes}")
    if count is None:
        count = max(2, 2 * min(int(np.sum(dataset.labels == label)) for label in pair))
    chosen = balanced_subset(dataset, check_integer("count", count, 2), pair, seed)
    return chosen.inputs, np.where(chosen.labels == pair[1], 1, -1).astype(chosen.images.dtype)


def standardise(
    inputs: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "m d"] | None = None, per_feature: bool = False
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
        raise ValueError(f"reference must have {inputs.shape[1]} features as inputs do, got {reference.shape[1]}")
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


def median_distance(inputs: Float[np.ndarray, "n d"]) -> float:
    """Between the first 200 inputs: the length scale of stationary kernels."""
    sample = inputs[:200]
    distances = np.linalg.norm(sample[:, None] - sample[None], axis=-1)
    return float(np.median(distances[np.triu_indices(len(sample), 1)]))


def _checked_classes(dataset: ImageDataset, classes: Sequence[int | str]) -> list[int]:
    """As labels, of which those that are named by a class's name have become one."""
    known = len(dataset.class_names)
    labels = [
        dataset.class_names.index(label)
        if isinstance(label, str) and label in dataset.class_names
        else check_integer("classes", label, 0)
        for label in classes
    ]
    if not labels or len(set(labels)) < len(labels) or max(labels) >= known:
        raise ValueError(f"classes must be one or more different labels in 0..{known - 1}, got {classes}")
    return labels


def _matrix(name: str, value: npt.ArrayLike) -> np.ndarray:
    array = np.asarray(plain_array(name, value))
    if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{name} must be floating, non-empty and of shape (n, d), got {array.dtype} of shape {array.shape}"
        )
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} must be finite, got another value in row {int(np.argmin(finite))}")
    return array
