"""PiDAn: weights of the points of a class that make it most coherent, and whether they fall into two groups."""

from typing import Any, Literal

import numpy as np
from jaxtyping import ArrayLike, Float

from kpoison._typing import Labels, Scalar
from kpoison._validation import boundary, check_integers, check_name, check_numbers
from kpoison.defences.detection import Detection, check_labelled_features, in_order_of_content

__all__ = ["pidan"]

_FEWEST = 4  # points of a class: two Gaussians have 5 numbers, one has 2
_STARTS = 5


def _check_pidan(arguments: dict[str, Any]) -> None:
    classes = check_labelled_features(arguments)
    check_integers(arguments, seed=0)
    check_numbers(arguments, "variance", zero=True)
    if not float(arguments["variance"]) < 1:
        raise ValueError(f"variance, a share, must be less than 1, got {arguments['variance']}")
    check_numbers(arguments, "index")
    if arguments["decision"] is not None:
        arguments["decision"] = check_name("decision", arguments["decision"], ("index", "likelihood"))
    if (arguments["reference"] is None) != (arguments["reference_labels"] is None):
        raise ValueError("reference and reference_labels must be given together")
    if arguments["reference"] is not None:
        clean = {"features": arguments["reference"], "labels": arguments["reference_labels"]}
        try:
            known = check_labelled_features(clean)
        except (TypeError, ValueError) as error:
            raise type(error)(f"reference: {error}") from None
        if clean["features"].shape[1] != arguments["features"].shape[1]:
            raise ValueError(
                f"reference must have the {arguments['features'].shape[1]} columns of features, got "
                f"{clean['features'].shape[1]}"
            )
        assert classes is not None
        assert known is not None
        numbers = {label: number for number, label in enumerate(classes.tolist())}
        missing = sorted(set(numbers) - set(known.tolist()), key=str)
        if missing:
            raise ValueError(f"reference must have points of every class, got none labelled {missing[0]}")
        # In the numbers of the labels' classes; other classes are not asked for.
        same = np.array([numbers.get(label, -1) for label in known.tolist()])
        arguments.update(reference=clean["features"], reference_labels=same[np.asarray(clean["labels"])])


@boundary(_check_pidan)
def pidan(
    features: Float[ArrayLike, "n k"],
    labels: Labels,
    *,
    variance: Scalar = 0.0,
    reference: Float[ArrayLike, "r k"] | None = None,
    reference_labels: Labels | None = None,
    decision: Literal["index", "likelihood"] | None = None,
    index: Scalar = 2.0,
    seed: int = 0,
) -> Detection:
    """Coherence optimisation: one weight for each point of a class, suspected where weights form two groups.

    Wang et al. (2022), "PiDAn: a coherence optimization approach for backdoor attack detection and mitigation in deep
    neural networks", arXiv 2203.09289.  Of the authors' published code are: features less the class's mean among clean
    points, scaled to length 1 (rows t_i); the latent space S of their leading principal components with the given
    share of variance, close to that of the genuine points; the weights a, ‖a‖ = 1, that maximise the coherence outside
    of it, ‖Σ a_i t_i‖² less that of their projections on S, the leading eigenvector of TTᵀ − T_S T_Sᵀ; a likelihood
    ratio J of two Gaussians against one for the weights; and from the J of all classes an anomaly index,
    |J − median|/(1.1926 med med |J − J'|).

    Ours are: without clean points the mean is that of the class; no variance is taken away by default (the authors'
    0.98 of a network's last layer leaves noise of a kernel of full rank); the two terms count alike and coordinates
    are not centred, both of which would depend on the choice of coordinates; the index is one-sided, with a threshold;
    and with fewer than 3 classes, where there is none, two Gaussians are taken for real by Bayes's information
    criterion, 2J > 3 log n.  Suspected is the smaller group of a class, beyond where both are equally likely; the
    score is the distance from the larger group's mean in its standard deviations, towards the smaller one.

    A class of fewer than 4 points, or without variance, has scores 0 and none suspected; nor are any of a class of
    which half or more would be, since they are no smaller group.  The order of points does not matter.

    Args:
        features: of all points, shape (n, k): `kernel_features`, or those of a network.
        labels: the class of each point, shape (n,): integers, booleans or text.
        variance: share of a class's variance that S holds, from 0 (no S) to less than 1.
        reference: features of clean points of every class, shape (r, k); by default none are known.
        reference_labels: their classes, shape (r,), named as those of `labels` are.
        decision: which classes are suspected: by "index" or "likelihood"; by default the first from 3 classes on.
        index: anomaly index above which a class is suspected; 2 is that of Neural Cleanse.
        seed: of the starts of the two Gaussians.

    Returns:
        The threshold of a point is infinite where its class is not suspected.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    rows, labels = np.asarray(features), np.asarray(labels)
    classes = np.unique(labels)
    scores, thresholds = np.zeros(len(rows)), np.full(len(rows), np.inf)
    ratios, criteria = np.zeros(len(classes)), np.zeros(len(classes), bool)
    boundaries = np.full(len(classes), np.inf)
    for place, label in enumerate(classes):
        members = labels == label
        order, places = in_order_of_content(rows[members])
        points = rows[members][order].astype(float)
        mean = points.mean(axis=0)
        if reference is not None:
            clean = np.asarray(reference)[np.asarray(reference_labels) == label]
            mean = clean[in_order_of_content(clean)[0]].astype(float).mean(axis=0)
        rounding = 4 * float(np.finfo(rows.dtype).eps) * float(np.linalg.norm(points))
        weights = _coherent_weights(points, mean, np.asarray(variance), rounding)
        if weights is None:
            continue
        found, boundaries[place], ratios[place] = _two_groups(weights, seed)
        scores[members] = found[places]
        if 2 * np.sum(found > boundaries[place]) >= len(points):
            boundaries[place] = np.inf
        criteria[place] = 2 * ratios[place] > 3 * np.log(len(points))
    if decision == "index" or (decision is None and len(classes) >= 3):
        criteria = _anomaly_index(ratios) > index
    for label, infected, beyond in zip(classes, criteria, boundaries, strict=True):
        if infected:
            thresholds[labels == label] = beyond
    scores, thresholds = scores.astype(rows.dtype), thresholds.astype(rows.dtype)
    return Detection(
        scores,
        scores > thresholds,
        thresholds,
        "the poisons of a class are coherent among themselves and lie in another subspace than its clean points",
    )


def _coherent_weights(
    rows: np.ndarray, mean: np.ndarray, variance: np.ndarray, rounding: float = 0.0
) -> np.ndarray | None:
    """The leading eigenvector of TTᵀ − T_S T_Sᵀ, in units of its root mean square; None where there is none."""
    from scipy.linalg import eigh

    rounding = max(rounding, 4 * float(np.finfo(float).eps) * float(np.linalg.norm(rows)))
    centred, apart = rows - mean, rows - rows[0]
    if len(rows) < _FEWEST or np.linalg.norm(apart - apart.mean(axis=0)) <= rounding:
        return None
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    away = lengths > rounding / len(rows) ** 0.5
    scaled = np.where(away, centred / np.where(away, lengths, 1), 0)
    outside = scaled
    if variance > 0:
        _, spread, axes = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
        held = np.cumsum(spread**2) / np.sum(spread**2)
        axes = axes[: int(np.searchsorted(held, variance)) + 1]
        outside = scaled - scaled @ axes.T @ axes
    last = len(outside) - 1
    return eigh(outside @ outside.T, subset_by_index=[last, last])[1][:, 0] * len(outside) ** 0.5


def _two_groups(weights: np.ndarray, seed: int) -> tuple[np.ndarray, float, float]:
    """Scores, the score at which both groups are equally likely, and the log-likelihood of two over that of one."""
    from sklearn.mixture import GaussianMixture

    column = weights[:, None]
    one, two = (
        GaussianMixture(groups, n_init=_STARTS if groups > 1 else 1, max_iter=1000, random_state=seed).fit(column)
        for groups in (1, 2)
    )
    ratio = float(len(weights) * (two.score(column) - one.score(column)))
    shares, means, variances = (np.asarray(part).ravel() for part in (two.weights_, two.means_, two.covariances_))
    smaller = int(np.argmin(shares))
    larger = 1 - smaller
    unit = np.sqrt(variances[larger])
    towards = 1.0 if means[smaller] >= means[larger] else -1.0
    scores = towards * (weights - means[larger]) / unit
    # In these units the larger group is standard normal.
    mean, variance = abs(means[smaller] - means[larger]) / unit, variances[smaller] / variances[larger]
    constant = mean**2 / variance + np.log(variance) + 2 * np.log(shares[larger] / shares[smaller])
    roots = np.roots([1 / variance - 1, -2 * mean / variance, constant])
    between = [float(root.real) for root in roots if abs(root.imag) < 1e-12 and 0 < root.real < mean]
    return scores, min(between, default=np.inf), ratio


def _anomaly_index(ratios: np.ndarray) -> np.ndarray:
    """How far each ratio lies above the median, in units of their spread (Rousseeuw, Croux 1993)."""
    spread = 1.1926 * np.median(np.median(np.abs(ratios[:, None] - ratios[None]), axis=1))
    above = ratios - np.median(ratios)
    return np.where(above > 0, above / spread if spread > 0 else np.inf, 0.0)
