"""Activation clustering: each class split in two, and the smaller part suspected where the split looks like one."""

from typing import Any, Literal

import numpy as np
from jaxtyping import ArrayLike, Float

from kpoison._typing import Labels, Scalar
from kpoison._validation import (
    boundary,
    check_finite_scalar,
    check_integers,
    check_name,
    check_numbers,
    exact_fraction,
    known_number,
)
from kpoison.defences.detection import Detection, check_labelled_features, in_order_of_content

__all__ = ["activation_clustering"]

_FEWEST = 4  # points of a class: fewer make no two clusters with an inside


def _check_clustering(arguments: dict[str, Any]) -> None:
    check_labelled_features(arguments)
    check_integers(arguments, dimensions=1, seed=0)
    arguments["reduction"] = check_name("reduction", arguments["reduction"], ("pca", "ica"))
    check_numbers(arguments, "largest_share")
    if not float(arguments["largest_share"]) <= 0.5:
        raise ValueError(
            f"largest_share, of the smaller of two clusters, must be at most 1/2, got {arguments['largest_share']}"
        )
    check_finite_scalar("silhouette", arguments["silhouette"])
    if not -1 <= float(arguments["silhouette"]) <= 1:
        raise ValueError(f"silhouette must lie between −1 and 1, got {arguments['silhouette']}")
    arguments["silhouette"] = known_number(arguments["silhouette"])


@boundary(_check_clustering)
def activation_clustering(
    features: Float[ArrayLike, "n k"],
    labels: Labels,
    *,
    dimensions: int = 10,
    reduction: Literal["pca", "ica"] = "pca",
    largest_share: Scalar = 0.35,
    silhouette: Scalar = 0.1,
    seed: int = 0,
) -> Detection:
    """Two clusters in each class, the smaller one suspected if it is small and the split is real.

    Chen et al. (2018), "Detecting backdoor attacks on deep neural networks by activation clustering": the features of
    a class in a few dimensions, 2-means there, then the relative size of the smaller cluster and the silhouette of the
    split.  Of the paper's two rules each is used alone; here, as in the Adversarial Robustness Toolbox, both must hold.
    Scores are ours: how much nearer a point is to the centre of the smaller cluster than to that of the larger, from
    −1 to 1, (d_larger − d_smaller)/(d_larger + d_smaller): above 0 is in the smaller cluster.

    A class of fewer than 4 points, or without variance, has scores 0 and none suspected; one of fewer points than
    dimensions keeps as many dimensions as it has points.  The order of points does not matter.

    Args:
        features: of all points, shape (n, k): `kernel_features`, or those of a network.
        labels: the class of each point, shape (n,): integers, booleans or text.
        dimensions: that features are reduced to; those that have no more are taken as they are.
        reduction: "pca", or "ica": independent components, the paper's choice, of unit variance each.
        largest_share: of its class that a suspected cluster has; 0.35 is the toolbox's.
        silhouette: that the split must exceed; the paper finds 0.10 to 0.15.  −1 leaves only the size to decide.
        seed: of the starts of 2-means and of independent components.

    Returns:
        The threshold of a point is 0 where the smaller cluster of its class is suspected, else infinite.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    rows, labels = np.asarray(features), np.asarray(labels)
    scores, thresholds = np.zeros(len(rows)), np.full(len(rows), np.inf)
    for label in np.unique(labels):
        members = labels == label
        order, places = in_order_of_content(rows[members])
        points = _reduced(rows[members][order], dimensions, reduction, seed)
        if points is None:
            continue
        split = KMeans(2, n_init=10, random_state=seed).fit(points)  # pyright: ignore[reportArgumentType]
        clusters = np.asarray(split.labels_)
        sizes = np.bincount(clusters, minlength=2)
        smaller = int(np.argmin(sizes))
        distances = np.linalg.norm(points[:, None] - split.cluster_centers_[None], axis=2)
        total = distances.sum(axis=1)
        nearness = (distances[:, 1 - smaller] - distances[:, smaller]) / np.where(total > 0, total, 1)
        scores[members] = nearness[places]
        real = float(silhouette_score(points, clusters)) > np.asarray(silhouette)
        if real and int(sizes[smaller]) < exact_fraction(largest_share) * len(points):
            thresholds[members] = 0
    scores, thresholds = scores.astype(rows.dtype), thresholds.astype(rows.dtype)
    return Detection(
        scores, scores > thresholds, thresholds, "the poisons of a class are a cluster of their own and the smaller one"
    )


def _reduced(rows: np.ndarray, dimensions: int, reduction: str, seed: int) -> np.ndarray | None:
    """The points of a class in few dimensions; None where there is nothing to split."""
    from sklearn.decomposition import PCA, FastICA

    rounding = 4 * np.finfo(rows.dtype).eps * np.linalg.norm(rows.astype(float))
    rows = rows.astype(float)
    # About a point first: of equal points nothing is then left, not even the rounding of their mean.
    rows = rows - rows[0]
    centred = rows - rows.mean(axis=0)
    if len(rows) < _FEWEST or np.linalg.norm(centred) <= rounding:
        return None
    if rows.shape[1] <= dimensions:
        return centred
    points = PCA(min(dimensions, len(rows)), svd_solver="full").fit_transform(rows)
    if reduction == "pca":
        return points
    lengths = np.linalg.norm(points, axis=0)
    # Whitening divides by the variance, of which there may be none in so many dimensions.
    points = points[:, lengths > 1e-6 * lengths[0]]
    found = FastICA(random_state=seed, whiten="unit-variance", max_iter=1000, tol=0.005).fit_transform(points)
    return np.asarray(found)
