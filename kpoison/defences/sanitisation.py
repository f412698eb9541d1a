"""Sanitisation: points that disagree with their neighbours, their class, or the predictor without them."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from kpoison._batches import at_once
from kpoison._failures import program
from kpoison._typing import Labels, Scalar
from kpoison._validation import boundary, check_fraction, check_integers, check_name, check_positive
from kpoison.defences.detection import (
    Detection,
    check_labelled_features,
    classes_of,
    in_order_of_content,
    thresholds_within_classes,
)
from kpoison.ridge import Posterior, check_conditioning, check_fitted, checked_ridge

__all__ = ["centroid_distance", "leave_one_out", "leave_one_out_residuals", "neighbour_disagreement"]


def _check_neighbours(arguments: dict[str, Any]) -> None:
    check_labelled_features(arguments)
    check_integers(arguments, neighbours=1)
    if arguments["neighbours"] >= len(arguments["features"]):
        raise ValueError(
            f"neighbours must be less than the number of points, {len(arguments['features'])}, got "
            f"{arguments['neighbours']}"
        )
    arguments["weights"] = check_name("weights", arguments["weights"], ("uniform", "distance"))
    arguments["threshold"] = check_fraction("threshold", arguments["threshold"])


@boundary(_check_neighbours)
def neighbour_disagreement(
    features: Float[ArrayLike, "n k"],
    labels: Labels,
    *,
    neighbours: int = 10,
    weights: Literal["uniform", "distance"] = "uniform",
    threshold: Scalar = 0.5,
) -> Detection:
    """Fraction of a point's nearest neighbours that have another label (Paudice, Muñoz-González, Lupu 2018).

    A point is not its own neighbour; points that coincide with it are.  Where more points are equally far away than
    there are places left among the neighbours, each of them counts for its share of these places: the fraction is the
    mean over all choices, and does not depend on the order of points.  With a single class all scores are 0.

    Args:
        features: of all points, shape (n, k): `kernel_features`, or those of a network.
        labels: the class of each point, shape (n,): integers, booleans or text.
        neighbours: how many are asked, less than n.
        weights: "uniform", or "distance": neighbours count by the inverse of their distance, and only those at
            distance 0 where there are any.
        threshold: suspected are points with a larger fraction.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import numpy as np
    >>> features = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    >>> neighbour_disagreement(features, np.array([0, 0, 1, 1, 1, 1]), neighbours=2).scores.tolist()
    [0.5, 0.5, 1.0, 0.0, 0.0, 0.0]
    """
    rows, labels = np.asarray(features), np.asarray(labels)
    order, _ = in_order_of_content(rows)
    points, eps = rows[order].astype(float), float(np.finfo(rows.dtype).eps)
    classes, members = np.unique(labels[order], return_inverse=True)
    of_class = np.equal.outer(members.ravel(), np.arange(len(classes)))
    # Features are rounded: points that are no further apart coincide.
    rounding = 8 * eps * float(np.max(np.linalg.norm(points, axis=1)))
    points = points - points[0]
    scores = np.zeros(len(points), rows.dtype)
    size = at_once(len(points))
    for start in range(0, len(points), size):
        own = np.arange(start, min(start + size, len(points)))
        shares = _shares(_distances(points, own, neighbours, rounding), neighbours, eps**0.5, weights == "distance")
        disagreement = np.sum((shares @ of_class.astype(float)) * ~of_class[own], axis=1)
        # Sums of shares that are the threshold but for rounding are not above it.
        scores[order[own]] = np.where(np.abs(disagreement - threshold) <= 16 * eps, threshold, disagreement)
    limit = np.asarray(threshold, rows.dtype)
    return Detection(
        scores, scores > limit, limit, f"most of the {neighbours} nearest neighbours of a clean point have its label"
    )


def _distances(points: np.ndarray, own: np.ndarray, number: int, rounding: float) -> np.ndarray:
    """From some points to all, exact for the nearest; itself is infinitely far away."""
    lengths = np.sum(points**2, axis=1)
    squares = lengths[own, None] + lengths[None] - 2 * points[own] @ points.T
    # What such a difference may have lost.
    lost = 16 * np.finfo(float).eps * (lengths[own, None] + lengths[None])
    itself = (np.arange(len(own)), own)
    squares[itself] = np.inf
    last = np.partition(squares + lost, number - 1, axis=1)[:, number - 1 : number]
    distances = np.sqrt(np.maximum(squares, 0))
    rows, columns = np.nonzero(squares - lost <= last * (1 + 1e-3))
    step = at_once(points.shape[1])
    for first in range(0, len(rows), step):
        i, j = rows[first : first + step], columns[first : first + step]
        distances[i, j] = np.linalg.norm(points[own[i]] - points[j], axis=1)
    distances[distances <= rounding] = 0
    distances[itself] = np.inf
    return distances


def _shares(distances: np.ndarray, number: int, rounding: float, by_distance: bool) -> np.ndarray:
    """How much each point counts among the nearest of another, one row for each; a row adds up to 1."""
    last = np.partition(distances, number - 1, axis=1)[:, number - 1 : number]
    nearer, tied = distances < last * (1 - rounding), np.abs(distances - last) <= last * rounding
    left = number - nearer.sum(axis=1, keepdims=True)
    shares = nearer + tied * (left / tied.sum(axis=1, keepdims=True))
    if by_distance:
        coincident = distances == 0
        some = coincident.any(axis=1, keepdims=True)
        shares = np.where(some, coincident * shares, shares / np.where(coincident, 1, distances))
    return shares / shares.sum(axis=1, keepdims=True)


def _check_distance(arguments: dict[str, Any]) -> None:
    check_labelled_features(arguments)
    arguments["fraction"] = check_fraction("fraction", arguments["fraction"])


@boundary(_check_distance)
@program
def centroid_distance(features: Float[ArrayLike, "n k"], labels: Labels, *, fraction: Scalar = 0.05) -> Detection:
    """Distance ‖φ_i − μ‖ to the mean of the class, poisons among it (the sphere of Steinhardt, Koh, Liang 2017).

    A class of one point, or of one point repeated, has distance 0 and none suspected.

    Args:
        features: of all points, shape (n, k).
        labels: the class of each point, shape (n,): integers, booleans or text.
        fraction: of each class that is suspected, between 0 and 1, rounded up; 5 % is that of Koh, Steinhardt, Liang
            (2022).  Of points at equal distances, such as clones, all or none: none where the number would not
            suffice for all.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    numbers, sizes = classes_of(labels)
    # About a point of the class first: of equal points nothing is then left, not even the rounding of their mean.
    firsts = jax.ops.segment_min(jnp.arange(len(labels)), numbers, len(labels))[numbers]
    shifted = features - features[firsts]
    sums = jax.ops.segment_sum(shifted, numbers, len(labels))
    means = sums / jnp.maximum(sizes, 1).astype(features.dtype)[:, None]
    squares = jnp.sum((shifted - means[numbers]) ** 2, axis=1)
    eps, lengths = jnp.finfo(features.dtype).eps, jnp.sum(features**2, axis=1)
    apart = squares > (eps * 4) ** 2 * lengths
    scores = jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)
    noise = jax.lax.stop_gradient(8 * eps * jnp.sqrt(jnp.max(lengths)))
    thresholds = thresholds_within_classes(scores, labels, fraction, noise)
    return Detection(scores, scores > thresholds, thresholds, "poisons lie further from their class's mean")


def _check_residuals(arguments: dict[str, Any]) -> None:
    posterior = arguments["posterior"]
    check_fitted("posterior", posterior)
    if posterior.observations.slopes or not posterior.ended:
        raise ValueError(
            "posterior must be that of kernel ridge regression, trained to its end; it has a gradient penalty or stops "
            "early"
        )
    if not (posterior.factor.abilities.factorised and posterior.factor.abilities.any_right_hand_side):
        raise ValueError(
            "posterior must have a dense factorisation, as of kpoison.Spectral(), Tridiagonal() or Cholesky(), got "
            f"{type(posterior.factor).__name__}"
        )
    if len(posterior.X) < 2:
        raise ValueError("posterior must be of at least 2 points, one of which can be left out, got 1")
    check_positive("ridge", arguments["ridge"])
    if "fraction" in arguments:
        arguments["fraction"] = check_fraction("fraction", arguments["fraction"])
    check_conditioning(posterior, jnp.asarray(posterior.observations.total * arguments["ridge"], posterior.X.dtype))


@boundary(_check_residuals)
@program
def leave_one_out_residuals(posterior: Posterior, ridge: Scalar) -> Float[Array, "n *C"]:
    """y_i less the prediction at x_i of the predictor that was fitted without i: (A⁻¹y)_i/(A⁻¹)_ii, no refit.

    A = K + ρI at ρ = nλ, of all n points; the predictor without i has the same ρ, so in the mean loss of n − 1 points
    its ridge is λ n/(n − 1).  The predictions themselves, also of points left out together: `kpoison.leave_one_out`.

    Args:
        posterior: of the training set with the poisons in it, by a solver that factorises.
        ridge: λ > 0 of the mean loss over the n points.

    Returns:
        In the shape and units of y.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import kpoison as kp
    >>> alone = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [50.0]]), jnp.array([1.0, -1.0]))
    >>> leave_one_out_residuals(alone, 0.1).tolist()
    [1.0, -1.0]
    """
    at = posterior.at(posterior.observations.total * checked_ridge(posterior, ridge))
    return at.left_out_residuals().reshape(posterior.y.shape)


@boundary(_check_residuals)
@program
def leave_one_out(posterior: Posterior, ridge: Scalar, *, fraction: Scalar = 0.05) -> Detection:
    """Size of the leave-one-out residual, Euclidean over outputs: what the others say of a point's label.

    Args:
        posterior: as in `leave_one_out_residuals`.
        ridge: λ > 0.
        fraction: of all points that is suspected, between 0 and 1, rounded up; of points with equal residuals all or
            none, as in `centroid_distance`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    residuals = leave_one_out_residuals(posterior, ridge).reshape(len(posterior.X), -1)
    scores = jnp.linalg.norm(residuals, axis=1)
    noise = jax.lax.stop_gradient(16 * jnp.finfo(scores.dtype).eps * jnp.max(scores))
    threshold = thresholds_within_classes(scores, jnp.zeros(len(scores), int), fraction, noise)[0]
    return Detection(
        scores, scores > threshold, threshold, "the other points predict a clean point's label, and not a poison's"
    )
