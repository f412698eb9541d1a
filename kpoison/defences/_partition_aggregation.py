"""Deep partition aggregation: many predictors on parts of the data vote, and no few points can change many votes."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int, Num

from kpoison._typing import Scalar
from kpoison._validation import boundary, check_integer, check_real, plain_array
from kpoison.defences.partitions import (
    Weighted,
    check_ensemble,
    content_order,
    fitted_part,
    padded_size,
    partition_of,
    with_weights,
)
from kpoison.kernels.base import Kernel
from kpoison.laws import efficacy, predict
from kpoison.poison import Poison

__all__ = ["PartitionAggregation", "certified_radius", "partition_aggregation"]

_ASSUMES = (
    "the number of partitions, the ridge and the classes are chosen without a look at the data that may be poisoned; "
    "each predictor is trained on its own partition alone, at ρ = n_k λ, and in an order that only its content decides"
)


class PartitionAggregation(eqx.Module):
    """Votes of the partitions' predictors, and what they certify; made by `partition_aggregation`.

    Attributes:
        predictions: the classes with the most votes, −1 or 1 or a column of y, shape (q,).
        votes: how many partitions are for each class, shape (q, C); for two classes the columns are −1 and 1.
        certified_radius: how many points may be inserted or deleted, in any mixture, without changing the prediction,
            shape (q,) of integers >= 0; a changed label counts once, a changed input twice (deleted and inserted).
        values: each partition's f, shape (partitions, q) or (partitions, q, C).
        partition: where each training point is, shape (n,).
        reached: the partitions in which the poison has a point, shape (partitions,).
        efficacy: each partition's Δf by the law (L7), at its own ρ, shape of `values`; 0 without a poison.
        assumes: what the certificate takes for granted, in words.
    """

    predictions: Int[np.ndarray, " q"]
    votes: Int[np.ndarray, "q classes"]
    certified_radius: Int[np.ndarray, " q"]
    values: Float[np.ndarray, "partitions q *C"]
    partition: Int[np.ndarray, " n"]
    reached: Bool[np.ndarray, " partitions"]
    efficacy: Float[np.ndarray, "partitions q *C"]
    assumes: str = eqx.field(static=True, default=_ASSUMES)

    def certified_accuracy(self, labels: Num[ArrayLike, " q"], radius: int = 0) -> float:
        """The fraction of inputs that are predicted right and stay so whatever `radius` points are changed.

        Args:
            labels: true classes, shape (q,): −1 or 1, or columns of y.
            radius: insertions and deletions, >= 0; at 0 this is the accuracy.

        Raises:
            TypeError, ValueError: for labels that are not real or do not fit, or a radius that is no integer >= 0.
        """
        radius = check_integer("radius", radius, 0)
        check_real("labels", labels)
        given = np.asarray(plain_array("labels", labels))
        if given.shape != self.predictions.shape:
            raise ValueError(f"labels must have shape {self.predictions.shape}, got {given.shape}")
        return float(np.mean((self.predictions == given) & (self.certified_radius >= radius)))


def _check_votes(arguments: dict[str, Any]) -> None:
    counts = np.asarray(plain_array("votes", arguments["votes"]))
    if not np.issubdtype(counts.dtype, np.integer):
        raise TypeError(f"votes must be integers, got dtype {counts.dtype}")
    if counts.ndim != 2 or counts.shape[1] < 2 or np.any(counts < 0):
        raise ValueError(f"votes must be >= 0, of shape (q, C) with C >= 2, got shape {counts.shape}")
    # Differences of unsigned counts would wrap around.
    arguments["votes"] = counts.astype(int)


@boundary(_check_votes)
def certified_radius(votes: Int[ArrayLike, "q classes"]) -> Int[np.ndarray, " q"]:
    """⌊(v_c − max_{c' ≠ c} (v_c' + [c' < c])) / 2⌋ for the winner c (Levine & Feizi 2021, theorem 1).

    So many votes may be changed to anything without changing the winner, ties going to the smaller class; one more
    change can do it.

    Args:
        votes: how many are for each class, >= 0, shape (q, C), C >= 2.

    Raises:
        TypeError, ValueError: for votes that are no integers >= 0 of this shape.

    >>> certified_radius(np.array([[5, 0], [0, 5], [3, 2], [2, 3]])).tolist()
    [2, 2, 0, 0]
    """
    counts = np.asarray(votes)
    winner = np.argmax(counts, axis=1)[:, None]
    classes = np.arange(counts.shape[1])[None]
    rivals = np.where(classes == winner, -1, counts + (classes < winner))
    return (np.take_along_axis(counts, winner, axis=1)[:, 0] - rivals.max(axis=1)) // 2


@boundary(check_ensemble)
def partition_aggregation(
    kernel: Kernel,
    X: Float[ArrayLike, "n ..."],
    y: Num[ArrayLike, "n *C"],
    x: Float[ArrayLike, "q ..."],
    ridge: Scalar,
    *,
    partitions: int = 50,
    poison: Poison | None = None,
    seed: int = 0,
) -> PartitionAggregation:
    """Kernel ridge predictors on hashed partitions of the data vote (deep partition aggregation, Levine & Feizi 2021).

    Each training point is in one partition, which its content alone decides, so that a point inserted or deleted
    changes one vote at the most; ties go to the smaller class, also within a partition (f = 0 is a vote for −1).  A
    partition without points predicts 0, a vote for the smallest class.  Where the data have one class only, f has one
    sign in most partitions: the votes are near to unanimous and the radius is large, about nothing.

    With a poison, each partition that it reaches is conditioned on its part of it by the law (L7): votes and radii are
    then exactly those of a defender who trains on the poisoned data, without a refit.

    Args:
        kernel: k.
        X: training inputs, shape (n, d) or (n, height, width, channels).
        y: targets, shape (n,) of −1 and 1, or (n, C), C >= 2, with one column for each class.
        x: inputs to classify, shape (q, ...).
        ridge: λ > 0 of each partition's mean loss: ρ = n_k λ.  (With one ρ for all, a point would touch every vote.)
        partitions: how many; fewer than n, so that most hold points.
        poison: points that the attacker adds.
        seed: >= 0, of the hash.

    Returns:
        Predictions, votes, certified radii, and the law's efficacy in each partition.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import kpoison as kp
    >>> X, y = jnp.linspace(-2.0, 2.0, 40)[:, None], jnp.repeat(jnp.array([-1.0, 1.0]), 20)
    >>> voted = partition_aggregation(kp.kernels.RBF(1.0), X, y, jnp.array([[-1.0], [1.5]]), 0.01, partitions=5)
    >>> voted.predictions.tolist(), voted.certified_radius.tolist()
    ([-1, 1], [2, 2])
    """
    points, targets, x = np.asarray(X), np.asarray(y), jnp.asarray(x)
    weighted = Weighted(kernel, points.shape[1:])
    probes = with_weights(np.asarray(x), np.ones(len(x)))
    own = partition_of(points, partitions, seed)
    order = content_order(points, targets)
    parts = _parts(poison, points, targets, partitions, seed)

    values = np.zeros((partitions, len(x), *targets.shape[1:]), points.dtype)
    changes = np.zeros_like(values)
    for k in range(partitions):
        members = order[own[order] == k]
        part = parts.get(k)
        if len(members) == 0 and part is None:
            continue
        clean, size = fitted_part(weighted, points, targets, members)
        added = 0 if part is None else float(np.sum(np.asarray(part.count)))
        # ρ = (n_k + Σm)λ, though padding makes it more points.
        here = ridge * (len(members) + added) / (size + added)
        values[k] = np.asarray(predict(clean, probes, here, part))
        if part is not None:
            changes[k] = np.asarray(efficacy(clean, part, probes, here))

    votes, classes = _votes(values)
    return PartitionAggregation(
        classes[np.argmax(votes, axis=1)],
        votes,
        certified_radius(votes),
        values,
        own,
        np.isin(np.arange(partitions), list(parts)),
        changes,
    )


def _parts(
    poison: Poison | None, points: np.ndarray, targets: np.ndarray, partitions: int, seed: int
) -> dict[int, Poison]:
    """The poison's locations in each partition that it reaches, and copies of count 0 up to one of a few numbers."""
    if poison is None:
        return {}
    outputs = 1 if targets.ndim == 1 else targets.shape[1]
    locations, labels, counts = map(np.asarray, poison.observations(points.shape[1:], outputs, points.dtype))
    place = partition_of(locations, partitions, seed)
    rows = with_weights(locations, np.ones(len(locations)))
    found = {}
    for k in np.unique(place[counts > 0]):
        here = np.flatnonzero((place == k) & (counts > 0))
        filled = np.resize(here, padded_size(len(here), 4))
        own = np.where(np.arange(len(filled)) < len(here), counts[filled], 0)
        found[int(k)] = Poison(rows[filled], labels[filled], own)
    return found


def _votes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many partitions are for each class, (q, C), and the classes."""
    if values.ndim == 2:
        chosen, classes = (values > 0).astype(int), np.array([-1, 1])
    else:
        chosen, classes = np.argmax(values, axis=2), np.arange(values.shape[2])
    return np.stack([np.sum(chosen == c, axis=0) for c in range(len(classes))], axis=1), classes
