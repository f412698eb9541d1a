"""What every detector takes, labelled features, and returns: scores, a decision, and how good both are."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from kpoison._typing import Scalar
from kpoison._validation import check_finite, check_positive, is_concrete

__all__ = [
    "Detection",
    "DetectionRates",
    "check_fraction",
    "check_labelled_features",
    "check_squares",
    "classes_of",
    "less_rounding",
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

    def rates(self, is_poison: Bool[ArrayLike, " n"]) -> DetectionRates:
        """How well the poisons are found.

        Raises:
            ValueError: for a shape that is not that of the scores.

        >>> found = Detection(np.array([0.1, 0.9, 0.5]), np.array([False, True, True]), np.array(0.4), "nothing")
        >>> found.rates(np.array([False, True, False]))
        DetectionRates(true_positive=1.0, false_positive=0.5, auroc=1.0)
        """
        from sklearn.metrics import roc_auc_score

        truth, scores, suspected = np.asarray(is_poison), np.asarray(self.scores), np.asarray(self.suspected)
        if truth.shape != scores.shape:
            raise ValueError(f"is_poison must have shape {scores.shape}, one for each score, got {truth.shape}")
        both = bool(np.any(truth) and not np.all(truth))
        return DetectionRates(
            float(np.mean(suspected[truth])) if np.any(truth) else float("nan"),
            float(np.mean(suspected[~truth])) if not np.all(truth) else float("nan"),
            float(roc_auc_score(truth, scores)) if both else float("nan"),
        )


def check_fraction(name: str, value: Any) -> None:
    """Refuse what does not lie between 0 and 1, both excluded, where the value is known."""
    check_positive(name, value)
    if is_concrete(value) and not float(value) < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")


def check_labelled_features(arguments: dict[str, Any]) -> None:
    """Replace `features` by a floating (n, k) array and `labels` by an integer (n,) array, or say what is wrong.

    Integers and half precision become floating numbers of the default precision.
    """
    features = jnp.asarray(arguments["features"])
    if not (jnp.issubdtype(features.dtype, jnp.floating) or jnp.issubdtype(features.dtype, jnp.integer)):
        raise TypeError(f"features must be real, got dtype {features.dtype}")
    if not jnp.issubdtype(features.dtype, jnp.floating) or jnp.finfo(features.dtype).bits < 32:
        features = features.astype(float)
    if features.ndim != 2 or features.size == 0:
        raise ValueError(f"features must have shape (n, k), one row for each of n >= 1 points, got {features.shape}")
    check_finite("features", features)
    check_squares("features", features)
    labels = jnp.asarray(arguments["labels"])
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must have shape ({len(features)},), as there are {len(features)} features, got {labels.shape}"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, one for each point, got dtype {labels.dtype}")
    arguments.update(features=features, labels=labels)


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


def thresholds_within_classes(
    scores: Float[Array, " n"], labels: Num[Array, " n"], fraction: Scalar
) -> Float[Array, " n"]:
    """For each point the threshold above which lies the given fraction of its class.

    It is the quantile 1 − fraction of the class, interpolated between scores, `less_rounding`.
    """
    numbers, sizes = classes_of(labels)
    order = jnp.lexsort((scores, numbers))
    place = (sizes - 1) * (1 - jnp.asarray(fraction, scores.dtype))
    # Of a class of which all points may go.
    place = jnp.clip(place, 0, jnp.maximum(sizes - 1, 0))
    below = jnp.floor(place).astype(sizes.dtype)
    first = jnp.cumsum(sizes) - sizes
    last = len(scores) - 1
    low = scores[order[jnp.minimum(first + below, last)]]
    high = scores[order[jnp.minimum(first + jnp.minimum(below + 1, sizes - 1), last)]]
    quantiles = low + (place - below) * (high - low)
    return less_rounding(quantiles)[numbers]


def less_rounding(quantile: Any) -> Any:
    """A threshold a little below a quantile >= 0, by the root of the precision of its dtype.

    Points with equal features, whose scores rounding tells apart, are then suspected together, and none where all
    scores are 0.
    """
    return quantile * (1 - jnp.finfo(quantile.dtype).eps ** 0.5)
