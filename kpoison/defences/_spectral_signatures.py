"""Spectral signatures: what stands out along the leading direction of its class."""

from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float, Shaped

from kpoison._typing import Scalar
from kpoison._validation import boundary, check_fraction, check_numbers, exact_fraction
from kpoison.defences.detection import Detection, check_labelled_features, in_order_of_content, tie_threshold

__all__ = ["check_fractions", "spectral_signatures"]


def check_fractions(arguments: dict[str, Any]) -> None:
    """Refuse a `fraction` and a `multiplier` that would not leave anything of a class."""
    arguments["fraction"] = check_fraction("fraction", arguments["fraction"])
    check_numbers(arguments, "multiplier")
    if not float(arguments["multiplier"]) * float(arguments["fraction"]) < 1:
        raise ValueError(
            "multiplier · fraction, the part of a class that is removed, must be less than 1, got "
            f"{arguments['multiplier']} · {arguments['fraction']}"
        )


def _check_signatures(arguments: dict[str, Any]) -> None:
    check_labelled_features(arguments)
    check_fractions(arguments)


@boundary(_check_signatures)
def spectral_signatures(
    features: Float[ArrayLike, "n k"],
    labels: Shaped[ArrayLike, " n"],
    *,
    fraction: Scalar = 0.05,
    multiplier: Scalar = 1.5,
) -> Detection:
    """Squared projection of centred features on the leading right singular vector of their class.

    Tran, Li, Madry (2018), "Spectral signatures in backdoor attacks", algorithm 1.  A class of one point, or without
    variance, has scores 0 and none suspected.  Where several directions lead (by equal singular values) the score is
    the mean over them.

    Args:
        features: of all points, shape (n, k): `kernel_features`, or those of a network.
        labels: the class of each point, shape (n,): integers, booleans or text.
        fraction: ε, at most this part of a class is thought to be poison.
        multiplier: the multiplier · ε n points of a class of n with the largest scores are suspected, rounded up; 1.5
            is the paper's.  Of points with equal scores, such as clones, all or none: none where the number would not
            suffice for all.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    rows, labels = np.asarray(features), np.asarray(labels)
    scores, thresholds = np.zeros(len(rows), rows.dtype), np.zeros(len(rows), rows.dtype)
    share = exact_fraction(multiplier) * exact_fraction(fraction)
    for label in np.unique(labels):
        members = labels == label
        order, places = in_order_of_content(rows[members])
        points = rows[members][order].astype(float)
        scores[members] = _squared_projections(points)[places]
        # Of features, each of which is rounded, and of their projections.
        noise = 8 * float(np.finfo(rows.dtype).eps) * float(np.max(np.linalg.norm(points, axis=1)))
        thresholds[members] = tie_threshold(scores[members], share, noise, squares=True)
    return Detection(
        scores,
        scores > thresholds,
        thresholds,
        "the poisons of a class are displaced from it by more than its own spread along any one direction",
    )


def _squared_projections(rows: np.ndarray) -> np.ndarray:
    """(φ − μ)·v squared, v the leading right singular vector of the centred rows; the mean over several such v."""
    from scipy.linalg import eigh as leading

    # About a point first: of equal points nothing is then left, not even the rounding of their mean.
    centred = rows - rows[0]
    centred = centred - centred.mean(axis=0)
    size = np.sum(centred**2)
    if size <= np.sum(rows**2) * (4 * np.finfo(float).eps) ** 2:
        return np.zeros(len(rows))
    wide = len(centred) <= centred.shape[1]
    smaller = centred @ centred.T if wide else centred.T @ centred
    last = len(smaller) - 1
    values, vectors = leading(smaller, subset_by_index=[max(last - 1, 0), last])
    lead = values[-1] * (1 - np.finfo(float).eps ** 0.5)
    if len(values) > 1 and values[0] > lead:
        values, vectors = leading(smaller)
    values, vectors = values[values > lead], vectors[:, values > lead]
    squares = values * vectors**2 if wide else (centred @ vectors) ** 2
    return squares.mean(axis=1)
