"""What every detector takes, labelled features, and returns: scores, a decision, and how good both are."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from kpoison._typing import Scalar
from kpoison._validation import (
    boundary,
    check_classes,
    check_finite,
    check_fraction,
    check_mask,
    exact_fraction,
    is_concrete,
    plain_array,
)

__all__ = [
    "Detection",
    "DetectionRates",
    "check_fraction",
    "check_labelled_features",
    "check_squares",
    "classes_of",
    "in_order_of_content",
    "less_rounding",
    "tie_threshold",
    "thresholds_within_classes",
]


class DetectionRates(NamedTuple):
    """How well suspicious points are told from the others.

    Attributes:
        true_positive: the fraction of the poisons that is suspected; NaN where there are none.
        false_positive: the fraction of the others that is suspected; NaN where there are none.
        auroc: the probability that a poison's score is above another point's, ties counted half: the area under the
            receiver operating characteristic.  NaN where there are no poisons or only poisons.
    """

    true_positive: float
    false_positive: float
    auroc: float


def _check_truth(arguments: dict[str, Any]) -> None:
    shape = np.shape(arguments["self"].scores)
    arguments["is_poison"] = np.asarray(check_mask("is_poison", arguments["is_poison"], shape, "score"))


class Detection(eqx.Module):
    """Scores of points, and which of them are suspected.

    Attributes:
        scores: larger is more suspicious, shape (n,).
        suspected: the decision, shape (n,).
        threshold: suspected are scores above it: one for all, or shape (n,) where classes have thresholds of their own.
        assumes: what the defence takes for granted, in words.
    """

    scores: Float[Array | np.ndarray, " n"]
    suspected: Bool[Array | np.ndarray, " n"]
    threshold: Float[Array | np.ndarray, "*n"]
    assumes: str = eqx.field(static=True)

    @boundary(_check_truth)
    def rates(self, is_poison: Bool[ArrayLike, " n"] | Int[ArrayLike, " n"]) -> DetectionRates:
        """How well the poisons are found.

        Args:
            is_poison: which points are poison, shape (n,): booleans, or integers that are 0 or 1.

        Raises:
            TypeError, ValueError: for other numbers, or a shape that is not that of the scores.

        >>> found = Detection(np.array([0.1, 0.9, 0.5]), np.array([False, True, True]), np.array(0.4), "nothing")
        >>> found.rates(np.array([False, True, False]))
        DetectionRates(true_positive=1.0, false_positive=0.5, auroc=1.0)
        >>> found.rates(np.array([0, 1, 0])) == found.rates(np.array([False, True, False]))
        True
        """
        from sklearn.metrics import roc_auc_score

        truth, scores, suspected = np.asarray(is_poison), np.asarray(self.scores), np.asarray(self.suspected)
        both = bool(np.any(truth) and not np.all(truth))
        return DetectionRates(
            float(np.mean(suspected[truth])) if np.any(truth) else float("nan"),
            float(np.mean(suspected[~truth])) if not np.all(truth) else float("nan"),
            float(roc_auc_score(truth, scores)) if both else float("nan"),
        )


def check_labelled_features(arguments: dict[str, Any]) -> np.ndarray | None:
    """Replace `features` by a floating (n, k) array and `labels` by numbers of classes (n,), or say what is wrong.

    Integers and half precision become floating numbers of the default precision.  Classes may be integers of any
    width, booleans or text, see `check_classes`.

    Returns:
        What the numbers of the classes stand for; None where labels are traced.
    """
    features = plain_array("features", arguments["features"])
    if not isinstance(features.dtype, np.dtype) or features.dtype.kind in "OSTUMmb":
        raise TypeError(f"features must be real, got {type(arguments['features']).__name__} of dtype {features.dtype}")
    if not (jnp.issubdtype(features.dtype, jnp.floating) or jnp.issubdtype(features.dtype, jnp.integer)):
        raise TypeError(f"features must be real, got dtype {features.dtype}")
    if not jnp.issubdtype(features.dtype, jnp.floating) or jnp.finfo(features.dtype).bits < 32:
        # Not by JAX first, whose integers without x64 are of 32 bits.
        features = features.astype(jnp.result_type(float))
    features = jnp.asarray(features)
    if features.ndim != 2 or features.size == 0:
        raise ValueError(f"features must have shape (n, k), one row for each of n >= 1 points, got {features.shape}")
    check_finite("features", features)
    check_squares("features", features)
    labels, classes = check_classes("labels", arguments["labels"], len(features), "features")
    arguments.update(features=features, labels=jnp.asarray(labels))
    return classes


def check_squares(name: str, value: jax.Array) -> None:
    """Refuse numbers of which squared distances, or their sum, overflow, where they are known."""
    if not is_concrete(value):
        return
    largest, most = float(jnp.max(jnp.abs(value))), float((jnp.finfo(value.dtype).max / (8 * value.size)) ** 0.5)
    if largest > most:
        raise ValueError(
            f"{name} must lie within ±{most:.2g}, so that their squares can be added up in {value.dtype}, got "
            f"{largest:.3g}"
        )


def classes_of(labels: Num[Array, " n"]) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """The class of each point, numbered from 0, and how many points each number has; n numbers, for traced labels."""
    numbers = jnp.unique(labels, return_inverse=True, size=len(labels))[1].ravel()
    return numbers, jax.ops.segment_sum(jnp.ones_like(numbers), numbers, len(labels))


def in_order_of_content(rows: Num[np.ndarray, "n ..."]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Rows in ascending order, by their first number, then the next, and for each the first place of one equal to it.

    What a function makes of the rows in this order, taken at these places, does not depend on the order they came in,
    not even by rounding or the random numbers that it draws, and is the same for equal rows.
    """
    bits = (rows.reshape(len(rows), -1).astype(float) + 0.0).view(np.uint64)  # 0 and −0 are the same
    # Bytes that are in the order of the numbers, so that a row is one key.
    ascending = np.where(bits >> 63, ~bits, bits | (np.uint64(1) << np.uint64(63))).astype(">u8", order="C")
    keys = ascending.view(np.dtype((np.void, 8 * ascending.shape[1]))).ravel()
    _, places, counts = np.unique(keys, return_inverse=True, return_counts=True)
    places = places.reshape(len(rows))
    return np.argsort(places, kind="stable"), (np.cumsum(counts) - counts)[places]


def tie_threshold(
    scores: Float[np.ndarray, " n"], share: Any, noise: float = 0.0, *, squares: bool = False
) -> np.floating[Any]:
    """The threshold above which lies a share of the scores >= 0, and of equal scores all or none.

    It is the quantile 1 − share, `less_rounding`, above which lie N = ⌊(n − 1) share⌋ + 1 scores that differ.  Where
    the N-th and the next largest are equal all that are equal to them stay below it: fewer than N are then suspected,
    never more.  Equal are numbers that rounding may have told apart: to the root of the precision of their dtype.

    Args:
        scores: of one class.
        share: between 0 and 1.
        noise: absolute rounding error of the scores, or with `squares` of their roots.
        squares: whether the scores are squares.
    """
    ordered, exact = np.sort(scores), exact_fraction(share)
    below = less_rounding(np.asarray(np.quantile(ordered, float(1 - exact)), ordered.dtype))
    number = int(exact * (len(ordered) - 1)) + 1
    if number >= len(ordered):
        return below
    tied = ordered[len(ordered) - number - 1]
    root = (np.sqrt(tied) if squares else tied) * (1 + np.finfo(ordered.dtype).eps ** 0.5) + noise
    return max(below, ordered.dtype.type(root**2 if squares else root))


def thresholds_within_classes(
    scores: Float[Array, " n"], labels: Num[Array, " n"], fraction: Scalar, noise: Scalar = 0.0
) -> Float[Array, " n"]:
    """For each point the threshold above which lies the given fraction of its class: `tie_threshold`, traceable."""
    numbers, sizes = classes_of(labels)
    order, eps = jnp.lexsort((scores, numbers)), jnp.finfo(scores.dtype).eps
    above = (sizes - 1) * jnp.asarray(fraction, scores.dtype)
    # 0.29 · 100 is a little less than 29.
    whole = jnp.round(above)
    above = jnp.where(jnp.abs(above - whole) <= 8 * eps * jnp.maximum(whole, 1), whole, above)
    # Of a class of which all points may go.
    place = jnp.clip(sizes - 1 - above, 0, jnp.maximum(sizes - 1, 0))
    below = jnp.floor(place).astype(sizes.dtype)
    number = jnp.floor(above).astype(sizes.dtype) + 1
    first = jnp.cumsum(sizes) - sizes
    last = len(scores) - 1

    def ranked(rank: Array) -> Array:
        return scores[order[jnp.clip(first + rank, 0, last)]]

    low, high = ranked(below), ranked(jnp.minimum(below + 1, sizes - 1))
    quantiles = less_rounding(low + (place - below) * (high - low))
    tied = ranked(jnp.maximum(sizes - number - 1, 0)) * (1 + eps**0.5) + jnp.asarray(noise, scores.dtype)
    return jnp.where(number < sizes, jnp.maximum(quantiles, tied), quantiles)[numbers]


def less_rounding(quantile: Any) -> Any:
    """A threshold a little below a quantile >= 0, by the root of the precision of its dtype.

    The point whose score is the quantile is then above it, and none where all scores are 0.
    """
    return quantile * (1 - jnp.finfo(quantile.dtype).eps ** 0.5)
