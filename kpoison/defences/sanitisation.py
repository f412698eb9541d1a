"""Sanitisation: points that disagree with their neighbours, their class, or the predictor without them."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from kpoison._failures import program
from kpoison._typing import Scalar
from kpoison._validation import boundary, check_integer, check_name, check_positive
from kpoison.defences.detection import (
    Detection,
    check_fraction,
    check_labelled_features,
    classes_of,
    thresholds_within_classes,
)
from kpoison.ridge.posterior import Posterior, check_conditioning, checked_ridge
from kpoison.ridge.solvers import ReducedFactor

__all__ = ["centroid_distance", "leave_one_out", "leave_one_out_residuals", "neighbour_disagreement"]


def _check_neighbours(arguments: dict[str, Any]) -> None:
    check_labelled_features(arguments)
    neighbours = check_integer("neighbours", arguments["neighbours"], 1)
    if neighbours >= len(arguments["features"]):
        raise ValueError(
            f"neighbours must be less than the number of points, {len(arguments['features'])}, got {neighbours}"
        )
    check_name("weights", arguments["weights"], ("uniform", "distance"))
    check_fraction("threshold", arguments["threshold"])


@boundary(_check_neighbours)
def neighbour_disagreement(
    features: Float[ArrayLike, "n k"],
    labels: Int[ArrayLike, " n"],
    *,
    neighbours: int = 10,
    weights: Literal["uniform", "distance"] = "uniform",
    threshold: Scalar = 0.5,
) -> Detection:
    """Fraction of a point's nearest neighbours that have another label (Paudice, Muñoz-González, Lupu 2018).

    A point is not its own neighbour; points that coincide with it are.  Of neighbours equally far away those of
    smaller index come first.  With a single class all scores are 0.

    Args:
        features: of all points, shape (n, k): `kernel_features`, or those of a network.
        labels: shape (n,).
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
    from sklearn.neighbors import NearestNeighbors

    points, labels = np.asarray(features), np.asarray(labels)
    distances, places = NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors()
    others = labels[places] != labels[:, None]
    if weights == "distance":
        coincident = distances == 0
        nearness = np.where(
            coincident.any(axis=1, keepdims=True), coincident, 1 / np.where(coincident, 1, distances)
        ).astype(points.dtype)
        scores = np.sum(nearness * others, axis=1) / np.sum(nearness, axis=1)
    else:
        scores = np.mean(others, axis=1, dtype=points.dtype)
    return Detection(
        scores,
        scores > threshold,
        np.asarray(threshold, points.dtype),
        f"most of the {neighbours} nearest neighbours of a clean point have its label",
    )


def _check_distance(arguments: dict[str, Any]) -> None:
    check_labelled_features(arguments)
    check_fraction("fraction", arguments["fraction"])


@program(_check_distance)
def centroid_distance(
    features: Float[ArrayLike, "n k"], labels: Int[ArrayLike, " n"], *, fraction: Scalar = 0.05
) -> Detection:
    """Distance ‖φ_i − μ‖ to the mean of the class, poisons among it (the sphere of Steinhardt, Koh, Liang 2017).

    A class of one point, or of one point repeated, has distance 0 and none suspected.

    Args:
        features: of all points, shape (n, k).
        labels: shape (n,).
        fraction: of each class that is suspected, between 0 and 1; 5 % is that of Koh, Steinhardt, Liang (2022).

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    numbers, sizes = classes_of(labels)
    sums = jax.ops.segment_sum(features, numbers, len(labels))
    means = sums / jnp.maximum(sizes, 1).astype(features.dtype)[:, None]
    squares = jnp.sum((features - means[numbers]) ** 2, axis=1)
    # Of equal points the mean may be off by rounding.
    rounding = (jnp.finfo(features.dtype).eps * 4) ** 2 * jnp.sum(features**2, axis=1)
    apart = squares > rounding
    scores = jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)
    thresholds = thresholds_within_classes(scores, labels, fraction)
    return Detection(scores, scores > thresholds, thresholds, "poisons lie further from their class's mean")


def _check_residuals(arguments: dict[str, Any]) -> None:
    posterior = arguments["posterior"]
    if not isinstance(posterior, Posterior):
        raise TypeError(
            f"posterior must be a kpoison.Posterior, as kpoison.fit returns, got {type(posterior).__name__}"
        )
    if posterior.root is not None or posterior.time is not None:
        raise ValueError(
            "posterior must be that of kernel ridge regression, trained to its end; it has a gradient penalty or stops "
            "early"
        )
    if posterior.gram is None or isinstance(posterior.factor, ReducedFactor):
        raise ValueError(
            "posterior must have a dense factorisation, as of kpoison.Spectral(), Tridiagonal() or Cholesky(), got "
            f"{type(posterior.factor).__name__}"
        )
    if len(posterior.X) < 2:
        raise ValueError("posterior must be of at least 2 points, one of which can be left out, got 1")
    check_positive("ridge", arguments["ridge"])
    if "fraction" in arguments:
        check_fraction("fraction", arguments["fraction"])
    check_conditioning(posterior, jnp.asarray(len(posterior.X) * arguments["ridge"], posterior.X.dtype))


@program(_check_residuals)
def leave_one_out_residuals(posterior: Posterior, ridge: Scalar) -> Float[Array, "n *C"]:
    """y_i less the prediction at x_i of the predictor that was fitted without i: (A⁻¹y)_i/(A⁻¹)_ii, no refit.

    A = K + ρI at ρ = nλ, of all n points; the predictor without i has the same ρ, so in the mean loss of n − 1 points
    its ridge is λ n/(n − 1).

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
    at = posterior.at(len(posterior.X) * checked_ridge(posterior, ridge))
    inverse = at._solve(jnp.eye(len(posterior.X), dtype=posterior.X.dtype))
    return (at.mean_coefficients() / jnp.diagonal(inverse)[:, None]).reshape(posterior.y.shape)


@program(_check_residuals)
def leave_one_out(posterior: Posterior, ridge: Scalar, *, fraction: Scalar = 0.05) -> Detection:
    """Size of the leave-one-out residual, Euclidean over outputs: what the others say of a point's label.

    Args:
        posterior: as in `leave_one_out_residuals`.
        ridge: λ > 0.
        fraction: of all points that is suspected, between 0 and 1.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    residuals = leave_one_out_residuals(posterior, ridge).reshape(len(posterior.X), -1)
    scores = jnp.linalg.norm(residuals, axis=1)
    threshold = thresholds_within_classes(scores, jnp.zeros(len(scores), int), fraction)[0]
    return Detection(
        scores, scores > threshold, threshold, "the other points predict a clean point's label, and not a poison's"
    )
