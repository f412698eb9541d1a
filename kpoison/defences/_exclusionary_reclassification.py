"""Exclusionary reclassification: whether a suspected cluster is what its labels say, asked of a model without it."""

from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Bool, Int

from kpoison._typing import Labels, Scalar
from kpoison._validation import (
    boundary,
    check_classes,
    check_mask,
    check_numbers,
    check_positive,
    exact_fraction,
    is_concrete,
)
from kpoison.attacks.classes import class_indices
from kpoison.defences.detection import Detection
from kpoison.laws import without_group
from kpoison.ridge import Posterior, check_fitted

__all__ = ["exclusionary_reclassification"]


def _check(arguments: dict[str, Any]) -> None:
    posterior = check_fitted("posterior", arguments["posterior"])
    if not (posterior.ended and posterior.factor.abilities.any_right_hand_side):
        kind = type(posterior.factor if posterior.ended else posterior).__name__
        raise ValueError(f"posterior must be trained to its end, and not be prepared for one poison, got a {kind}")
    check_positive("ridge", arguments["ridge"])
    check_numbers(arguments, "threshold")
    number = len(posterior.X)
    suspected = check_mask("suspected", arguments["suspected"], (number,), "point")
    clusters = np.zeros(number, int)
    if arguments["clusters"] is not None:
        clusters = check_classes("clusters", arguments["clusters"], number, "points")[0]
    if not all(is_concrete(leaf) for leaf in jax.tree.leaves((posterior, arguments["ridge"], suspected, clusters))):
        raise TypeError("arguments must be known numbers, as points are left out: call outside of jit, vmap and grad")
    labels, suspected = np.asarray(class_indices(posterior.y, "posterior.y")[0]), np.asarray(suspected)
    whole = sorted(set(labels.tolist()) - set(labels[~suspected].tolist()))
    if whole:
        raise ValueError(
            "suspected must leave points of every class, as nothing could be classified as one without any: got all "
            f"points of class number {whole[0]}"
        )
    arguments.update(suspected=suspected, clusters=np.asarray(clusters))


@boundary(_check)
def exclusionary_reclassification(
    posterior: Posterior,
    suspected: Bool[ArrayLike, " n"] | Int[ArrayLike, " n"],
    ridge: Scalar,
    *,
    clusters: Labels | None = None,
    threshold: Scalar = 1.0,
) -> Detection:
    """Suspected clusters classified by the predictor that was trained without them, exactly and without a refit.

    Chen et al. (2018, arXiv 1811.03728), as in the Adversarial Robustness Toolbox: all suspected points are left out,
    and of each cluster l points are then classified as their own label and p as the most frequent other class.  A
    cluster is poison where l/p is below the threshold: without it the model sees the class that its points came from.
    The score of its points is p/(l + p), from 0 to 1; that of points that were not suspected is 0.

    Points are left out as by `kpoison.leave_one_out`, at the ρ of all points: in the mean loss of the n − s others
    (with weights, of what they weigh) the ridge is λ n/(n − s).  s solves and a system of s equations.

    Args:
        posterior: of the training set with the poisons in it, trained to its end, of y of −1 and 1, shape (n,), by
            whose sign f classifies (0 is −1), or one-hot, (n, C), by f's largest entry.  Weights, an intercept and a
            gradient penalty are those of the fit.
        suspected: the points in question, shape (n,), booleans, or integers that are 0 or 1: those of another detector,
            such as `activation_clustering(...).suspected`.  They must leave points of every class.
        ridge: λ > 0 of the mean loss over all points.
        clusters: of each point, shape (n,), integers, booleans or text; points of one are together a cluster where they
            bear the same label.  By default the suspected points of each class are one.
        threshold: T > 0, of l/p.

    Returns:
        Of the suspected points those of poisonous clusters; the threshold of the scores is 1/(1 + T).

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import numpy as np
    >>> import kpoison as kp
    >>> X = np.array([[0.0], [0.2], [3.0], [3.2], [0.1], [3.1]])
    >>> clean = kp.fit(kp.kernels.RBF(1.0), X, np.array([1.0, 1.0, -1.0, -1.0, -1.0, -1.0]))
    >>> suspected = np.array([False, False, False, False, True, True])
    >>> exclusionary_reclassification(clean, suspected, 0.1, clusters=np.arange(6)).suspected.tolist()
    [False, False, False, False, True, False]
    """
    labels, classes = map(np.asarray, class_indices(posterior.y, "posterior.y"))
    scores = np.zeros(len(labels))
    left = np.flatnonzero(np.asarray(suspected))
    if len(left):
        found = _classified(np.asarray(without_group(posterior, ridge, left)))
        members = np.stack([labels[left], np.asarray(clusters)[left]], axis=1)
        numbers = np.unique(members, axis=0, return_inverse=True)[1].ravel()
        for number in range(numbers.max() + 1):
            here = numbers == number
            own = labels[left[here]][0]
            counts = np.bincount(found[here], minlength=int(classes))
            as_labelled, counts[own] = int(counts[own]), 0
            scores[left[here]] = counts.max() / (as_labelled + counts.max())
    dtype = posterior.X.dtype
    limit = np.asarray(float(1 / (1 + exact_fraction(threshold))), dtype)
    scores = scores.astype(dtype)
    return Detection(
        scores, scores > limit, limit, "without its poisons the predictor gives them the class that they came from"
    )


def _classified(outputs: np.ndarray) -> np.ndarray:
    """The number of the class that outputs stand for, as `class_indices` has it."""
    return (outputs > 0).astype(int) if outputs.ndim == 1 or outputs.shape[1] == 1 else np.argmax(outputs, axis=1)
