"""Poisons found by gradients through the exact posterior, and where to start looking for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Num

from kpoison._failures import program
from kpoison._typing import Scalar
from kpoison._validation import boundary, check_flag, check_integers, check_name, check_points, is_concrete
from kpoison.attacks._bilevel_objective import (
    BilevelObjective,
    Objective,
    check_objective,
    checked_clean,
    checked_probes,
    objective_value,
    prepare,
)
from kpoison.attacks.classes import checked_targets, common_class
from kpoison.attacks.descent import AllowedInputs, Norm, allowed_inputs, check_history, descend
from kpoison.attacks.poisoned import PoisonedData, poisoned_data
from kpoison.poison import Poison
from kpoison.ridge import Posterior, checked_ridge

if TYPE_CHECKING:
    import optax

__all__ = ["Bilevel", "bilevel", "greedy_bases"]


class Bilevel(eqx.Module):
    """Poisons found by gradients.

    Attributes:
        data: the poisoned training set, with the law's efficacy at the probes.
        poison: the same poisons for the laws of kpoison; its labels are soft ones where they were trained.
        history: the objective, minimised, before each step and after the last, shape (s,) = (steps + 1,).
    """

    data: PoisonedData
    poison: Poison
    history: Float[Array, " s"]


def _check_bilevel(arguments: dict) -> None:
    check_objective(arguments)
    poison = arguments["poison"]
    if not all(is_concrete(leaf) for leaf in jax.tree.leaves(poison)):
        raise TypeError("poison must hold known numbers: call bilevel outside of jit, or use bilevel_objective")
    counts = np.asarray(poison.count)
    if np.any(counts != np.round(counts)):
        raise ValueError(f"poison.count must be whole numbers, as poisons are added to the data, got {counts}")
    arguments["norm"] = check_name("norm", arguments["norm"], get_args(Norm))
    check_integers(arguments, steps=1)
    arguments["train_labels"] = check_flag("train_labels", arguments["train_labels"])
    if arguments["label_box"] is not None and not arguments["train_labels"]:
        raise ValueError("label_box must be None where labels are not trained, got bounds with train_labels=False")


@boundary(_check_bilevel)
def bilevel(
    clean: Posterior,
    poison: Poison,
    ridge: Scalar,
    *,
    probes: Float[ArrayLike, "q ..."],
    target: Num[ArrayLike, "..."],
    objective: Objective = "targeted",
    box: Sequence[Num[ArrayLike, "..."]] | None = None,
    ball: Scalar | None = None,
    norm: Norm = "linf",
    train_labels: bool = False,
    label_box: Sequence[Num[ArrayLike, "..."]] | None = None,
    optimiser: "optax.GradientTransformation | None" = None,
    steps: int = 100,
) -> Bilevel:
    """Optimise poisons by gradients through the exact posterior: the outer of two levels, the inner being training.

    As the Neural Tangent Backdoor Attack (NTBA: Hayase and Oh 2023, greedy choice and L-BFGS; for the choice see
    `greedy_bases`) and the Neural Tangent Generalisation Attack (NTGA: Yuan and Wu 2021, indiscriminate), with a
    block update of one clean factorisation in each step where these solve anew.

    Args:
        clean: the clean posterior, fitted by a solver that factorises.
        poison: where poisons start, their labels and whole counts >= 1; they are added to the clean data.
        ridge: λ > 0 of the mean loss; ρ = (n_c + Σm)λ throughout.
        probes: where predictions are to change, shape (q, ...).
        target: shape (q,) or (q, C), or one for all probes: what they are to be given, where the objective is
            "targeted", else their true targets.
        objective: "targeted" minimises the mean over probes of ‖f − target‖², "error" maximises it; "margin"
            minimises the mean of sign(target)·f, for C classes of f at the true class less the largest other.
        box: (low, high), numbers or arrays of the shape of an input, that inputs have to lie in.
        ball: the furthest that a poison may be from its start, > 0.
        norm: the ball's, "linf" or "l2".
        train_labels: whether labels are optimised too.
        label_box: (low, high) of trained labels, which must hold the given ones; by default the range of the clean
            targets and the given labels.
        optimiser: of optax, by default Adam of rate 0.01; `optax.lbfgs()` searches along lines.  Every step is followed
            by the projection onto the bounds.
        steps: how many, >= 1.

    Returns:
        The best poisons seen, with the objective along the way.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, also where the box excludes a start; where the
            objective becomes infinite or NaN.

    Steps use Gram matrices made by matrix products: see `Kernel.__call__` for pairs that are very close.  A kernel with
    a cusp at coincident points has no derivative where a poison meets a clean point; its symmetric part is used.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [2.0]]), jnp.array([1.0, -1.0]))
    >>> start = kp.Poison(jnp.array([[1.0]]), -1.0, 1)
    >>> attack = bilevel(clean, start, 0.1, probes=jnp.array([[0.5]]), target=-1.0, ball=0.4)
    >>> round(float(attack.poison.location[0, 0]), 3), bool(attack.history[-1] < attack.history[0])
    (0.6, True)
    """
    import optax

    prepared = prepare(clean, poison, ridge, jnp.asarray(probes), jnp.asarray(target), objective)
    locations, labels, counts = poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)
    allowed = allowed_inputs(locations, box, ball, norm, "poison.location")
    allowed_labels = _allowed_labels(clean, labels, label_box) if train_labels else None
    optimiser = optax.adam(1e-2) if optimiser is None else optimiser
    (moved, given), history = _optimise(prepared, locations, labels, allowed, allowed_labels, optimiser, steps)
    check_history(history)
    found = Poison(moved, given.reshape(-1, *clean.y.shape[1:]), counts)
    wanted = common_class(prepared.target.reshape(-1, *clean.y.shape[1:])) if objective == "targeted" else None
    return Bilevel(poisoned_data(clean, found, jnp.asarray(probes), ridge, wanted), found, history)


def _allowed_labels(clean: Posterior, labels: Float[Array, "p C"], box: Sequence | None) -> AllowedInputs:
    if box is None:
        values = np.concatenate([np.asarray(clean.targets), np.asarray(labels)])
        box = float(values.min()), float(values.max())
        if box[0] == box[1]:
            raise ValueError(f"label_box must be given where all labels are the same, {box[0]}")
    return allowed_inputs(labels, box, None, "l2", "poison.label", "label_box")


@eqx.filter_jit
def _optimise(
    objective: BilevelObjective,
    start: Float[Array, "p ..."],
    labels: Float[Array, "p C"],
    allowed: AllowedInputs,
    allowed_labels: AllowedInputs | None,
    optimiser: "optax.GradientTransformation",
    steps: int,
):
    """Locations and labels, and the history."""
    project = jax.vmap(allowed.project)
    if allowed_labels is None:
        moved, history = descend(lambda Z: objective(Z, labels), start, lambda Z: project(Z, start), optimiser, steps)
        return (moved, labels), history

    def project_both(both):
        return project(both[0], start), jax.vmap(allowed_labels.project)(both[1], labels)

    return descend(lambda both: objective(*both), (start, labels), project_both, optimiser, steps)


def _check_greedy(arguments: dict) -> None:
    clean = checked_clean(arguments["clean"])
    checked_probes(clean, arguments)
    candidates = check_points("candidates", arguments["candidates"], clean.X.ndim - 1, like=clean.X)
    labels = checked_targets("labels", arguments["labels"], len(candidates), "candidate", clean.y)
    check_integers(arguments, number=1)
    if arguments["number"] > len(candidates):
        raise ValueError(f"number must be at most {len(candidates)}, of the candidates, got {arguments['number']}")
    arguments.update(candidates=candidates, labels=labels.reshape(len(candidates), -1))


@boundary(_check_greedy)
@program
def greedy_bases(
    clean: Posterior,
    candidates: Float[ArrayLike, "N ..."],
    labels: Num[ArrayLike, "..."],
    ridge: Scalar,
    *,
    number: int,
    probes: Float[ArrayLike, "q ..."],
    target: Num[ArrayLike, "..."],
    objective: Objective = "targeted",
) -> Int[Array, " number"]:
    """Candidates from which to start, chosen one after the other: each the best beside those before (as NTBA does).

    Adding a candidate is a rank-one update of the posterior, so all are tried exactly: after one posterior covariance
    of candidates and probes a choice costs O(N(N + q)).  ρ = (n_c + number)λ throughout.

    Args:
        clean: as in `bilevel`.
        candidates: inputs to choose from, shape (N, ...).
        labels: those that they would be given, shape (N,) or (N, C), or one for all.
        ridge: λ > 0 of the mean loss.
        number: how many are chosen, at most N.
        probes: as in `bilevel`.
        target: as in `bilevel`.
        objective: as in `bilevel`.

    Returns:
        Indices of candidates in the order of choice, all different.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [2.0]]), jnp.array([1.0, -1.0]))
    >>> candidates = jnp.array([[3.0], [0.4], [1.0]])
    >>> greedy_bases(clean, candidates, -1.0, 0.1, number=2, probes=jnp.array([[0.5]]), target=-1.0).tolist()
    [1, 2]
    """
    candidates, given, ends = jnp.asarray(candidates), jnp.asarray(labels), jnp.asarray(target)
    many = len(candidates)
    reference = clean.at((len(clean.X) + number) * checked_ridge(clean, ridge))
    points = jnp.concatenate([candidates, jnp.asarray(probes)])

    def choose(carry, _):
        mean, covariance, taken = carry
        gain = 1 / (reference.rho + jnp.diagonal(covariance)[:many])
        weights = gain[:, None] * (given - mean[:many])

        def value(column, weight):
            return objective_value(objective, mean[many:] + column[:, None] * weight[None], ends)  # pyright: ignore

        values = jax.vmap(value)(covariance[many:, :many].T, weights)
        best = jnp.argmin(jnp.where(taken, jnp.inf, values))
        column = covariance[:, best]
        mean = mean + column[:, None] * weights[best][None]
        covariance = covariance - gain[best] * jnp.outer(column, column)
        return (mean, covariance, taken.at[best].set(True)), best

    start = reference.mean(points), reference.covariance(points), jnp.zeros(many, dtype=bool)
    return jax.lax.scan(choose, start, length=number)[1]
