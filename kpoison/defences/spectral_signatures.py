"""Spectral signatures: what stands out along the leading direction of its class."""

from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from kpoison._typing import Scalar
from kpoison._validation import boundary, check_positive
from kpoison.defences.detection import (
    Detection,
    check_fraction,
    check_labelled_features,
    less_rounding,
)

__all__ = ["check_fractions", "spectral_signatures"]


def check_fractions(arguments: dict[str, Any]) -> None:
    """Refuse a `fraction` and a `multiplier` that would not leave anything of a class."""
    check_fraction("fraction", arguments["fraction"])
    check_positive("multiplier", arguments["multiplier"])
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
    labels: Int[ArrayLike, " n"],
    *,
    fraction: Scalar = 0.05,
    multiplier: Scalar = 1.5,
) -> Detection:
    """Squared projection of centred features on the leading right singular vector of their class.

    Tran, Li, Madry (2018), "Spectral signatures in backdoor attacks", algorithm 1.  A class of one point, or without
    variance, has scores 0 and none suspected.

    Args:
        features: of all points, shape (n, k): `kernel_features`, or those of a network.
        labels: shape (n,).
        fraction: ε, at most this part of a class is thought to be poison.
        multiplier: the multiplier · ε n points of a class of n with the largest scores are suspected; 1.5 is the
            paper's.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    rows, labels = np.asarray(features), np.asarray(labels)
    scores, thresholds = np.zeros(len(rows), rows.dtype), np.zeros(len(rows), rows.dtype)
    kept = np.asarray(1 - multiplier * fraction, rows.dtype)
    for label in np.unique(labels):
        members = labels == label
        scores[members] = _squared_projections(rows[members].astype(float))
        thresholds[members] = less_rounding(np.quantile(scores[members], kept))
    return Detection(
        scores,
        scores > thresholds,
        thresholds,
        "the poisons of a class are displaced from it by more than its own spread along any one direction",
    )


def _squared_projections(rows: np.ndarray) -> np.ndarray:
    """(φ − μ)·v squared, v the leading right singular vector of the centred rows."""
    from scipy.linalg import eigh as leading

    centred = rows - rows.mean(axis=0)
    size = np.sum(centred**2)
    if size <= np.sum(rows**2) * (4 * np.finfo(float).eps) ** 2:  # equal points, but for the rounding of their mean
        return np.zeros(len(rows))
    wide = len(centred) <= centred.shape[1]
    smaller = centred @ centred.T if wide else centred.T @ centred
    last = len(smaller) - 1
    values, vectors = leading(smaller, subset_by_index=[last, last])
    return values[0] * vectors[:, 0] ** 2 if wide else (centred @ vectors[:, 0]) ** 2
