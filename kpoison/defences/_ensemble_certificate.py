"""How many training labels may be flipped, anywhere, before an ensemble of hashed partitions votes otherwise.

A partition's flips are counted by the flip certificate of its predictor; which partitions to turn, and to which class,
is a knapsack (arXiv 2604.11416).
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Int, Num

from kpoison._typing import Scalar
from kpoison._validation import boundary, check_integer, check_real, plain_array
from kpoison.attacks.classes import class_indices
from kpoison.attacks.label_flipping import class_costs
from kpoison.defences.partitions import (
    Weighted,
    check_ensemble,
    content_order,
    fitted_part,
    padded,
    partition_of,
    with_weights,
)
from kpoison.kernels.base import Kernel

__all__ = ["EnsembleCertificate", "ensemble_certificate", "fewest_flips"]


class EnsembleCertificate(eqx.Module):
    """How many flipped labels an ensemble's votes survive; made by `ensemble_certificate`.

    Attributes:
        predictions: the classes with the most votes, −1 or 1 or a column of y, shape (q,).
        votes: how many partitions are for each class, shape (q, C); for two classes the columns are −1 and 1.
        flips: with fewer flipped labels, wherever they are, the prediction stays, shape (q,): for two classes so many
            do change it (a tie counts), for more it is a lower bound.  n + 1 where no flips do.
        costs: how many flips it takes that a partition votes for a class, shape (partitions, q, C); 0 for the class it
            votes for, n + 1 where none do, as of a partition without points.
        partition: where each training point is, shape (n,).
    """

    predictions: Int[np.ndarray, " q"]
    votes: Int[np.ndarray, "q classes"]
    flips: Int[np.ndarray, " q"]
    costs: Int[np.ndarray, "partitions q classes"]
    partition: Int[np.ndarray, " n"]

    def certified_accuracy(self, labels: Num[ArrayLike, " q"], flips: int = 0) -> float:
        """The fraction of inputs that are predicted right and stay so whichever `flips` labels are flipped.

        Args:
            labels: true classes, shape (q,): −1 or 1, or columns of y.
            flips: how many labels, >= 0; at 0 ties are wrong.

        Raises:
            TypeError, ValueError: for labels that are not real or do not fit, or flips that are no integer >= 0.
        """
        flips = check_integer("flips", flips, 0)
        check_real("labels", labels)
        given = np.asarray(plain_array("labels", labels))
        if given.shape != self.predictions.shape:
            raise ValueError(f"labels must have shape {self.predictions.shape}, got {given.shape}")
        return float(np.mean((self.predictions == given) & (self.flips > flips)))


def _check(arguments: dict[str, Any]) -> None:
    check_ensemble(arguments)
    class_indices(arguments["y"], "y")


@boundary(_check)
def ensemble_certificate(
    kernel: Kernel,
    X: Float[ArrayLike, "n ..."],
    y: Num[ArrayLike, "n *C"],
    x: Float[ArrayLike, "q ..."],
    ridge: Scalar,
    *,
    partitions: int = 50,
    seed: int = 0,
) -> EnsembleCertificate:
    """The smallest number of training labels that, set to other classes, change the vote of kernel ridge predictors.

    The predictors are those of `partition_aggregation`, on partitions that a hash of the inputs decides: no label moves
    a point.  c_k(b), how many flips it takes that partition k votes for b, is the flip certificate of its predictor.
    To draw the winner a level with a rival b, turning k from a to b gains 2 votes, from a to a third class 1, from
    another class to b 1; the cheapest partitions that close the gap are a knapsack, and the least over b the
    certificate.  Of two classes that is the sum of the ⌈(v_a − v_b)/2⌉ smallest c_k.  Ties go to the attacker, of votes
    as of scores within a partition.

    Exact for two classes.  For more, c_k(b) counts what draws b level with the partition's own class alone, so that the
    certificate is a lower bound.

    Args:
        kernel: k.
        X: training inputs, shape (n, d) or (n, height, width, channels).
        y: targets, −1 and 1, shape (n,), or one-hot, shape (n, C), with any two values.
        x: inputs to classify, shape (q, ...).
        ridge: λ > 0 of each partition's mean loss: ρ = n_k λ.
        partitions: how many.
        seed: >= 0, of the hash.

    Returns:
        Predictions, votes, certificates, and what each partition's votes cost.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for labels that are not −1 and 1 or one-hot, or of
            a single class.

    >>> import kpoison as kp
    >>> X, y = jnp.linspace(-2.0, 2.0, 40)[:, None], jnp.repeat(jnp.array([-1.0, 1.0]), 20)
    >>> found = ensemble_certificate(kp.kernels.RBF(1.0), X, y, jnp.array([[-1.0], [1.5]]), 0.01, partitions=5)
    >>> found.predictions.tolist(), found.flips.tolist()
    ([-1, 1], [5, 3])
    """
    points, targets, x = np.asarray(X), np.asarray(y), np.asarray(x)
    labels, classes = class_indices(targets, "y")
    weighted = Weighted(kernel, points.shape[1:])
    probes = jnp.asarray(with_weights(x, np.ones(len(x))))
    own = partition_of(points, partitions, seed)
    order = content_order(points, targets)
    never = len(points) + 1

    # A partition without points predicts 0, a vote for the smallest class that no label changes.
    costs = np.full((partitions, len(x), classes), never)
    costs[:, :, 0] = 0
    for k in range(partitions):
        members = order[own[order] == k]
        if len(members) > 0:
            clean, size = fitted_part(weighted, points, targets, members)
            filled, _ = padded(members)
            # ρ = n_k λ, though padding makes it more points.
            here = ridge * len(members) / size
            found = np.asarray(class_costs(clean, probes, here, jnp.asarray(labels[filled]), classes))
            costs[k] = np.where(found > len(members), never, found)
    votes = np.sum(np.argmin(costs, axis=2)[:, :, None] == np.arange(classes), axis=0)
    names = np.array([-1, 1]) if targets.ndim == 1 else np.arange(classes)
    return EnsembleCertificate(names[np.argmax(votes, axis=1)], votes, fewest_flips(costs, never), costs, own)


def fewest_flips(costs: Int[np.ndarray, "partitions q C"], never: int) -> Int[np.ndarray, " q"]:
    """The least that it takes to draw some rival level with the winner of the votes; `never` where nothing does.

    Args:
        costs: of each partition's vote for each class; 0 first for the class that it votes for.
        never: what is at least this cannot be bought.
    """
    partitions, q, classes = costs.shape
    rows, voted = np.arange(q), np.argmin(costs, axis=2)
    votes = np.sum(voted[:, :, None] == np.arange(classes), axis=0)
    winner = np.argmax(votes, axis=1)
    gaps = votes[rows, winner][:, None] - votes
    most, least = int(gaps.max()), np.full(q, never)
    # least_for[i, g]: the least cost at which so far the gap is closed by g.
    two, one = (np.maximum(np.arange(most + 1) - step, 0) for step in (2, 1))
    for offset in range(1, classes):
        rival = (winner + offset) % classes
        least_for = np.where(np.arange(most + 1) == 0, 0, np.full((q, 1), never))
        for k in range(partitions):
            to_rival, others = costs[k, rows, rival], costs[k].copy()
            others[rows, winner] = others[rows, rival] = never
            for_winner = voted[k] == winner
            gains_two = np.where(for_winner, to_rival, never)
            gains_one = np.where(for_winner, others.min(axis=1), np.where(voted[k] == rival, never, to_rival))
            bought = np.minimum(least_for[:, two] + gains_two[:, None], least_for[:, one] + gains_one[:, None])
            least_for = np.minimum(least_for, np.minimum(bought, never))
        least = np.minimum(least, least_for[rows, gaps[rows, rival]])
    return least
