"""Clean and poisoned training from the same initialisation, over many seeds."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from kpoison._typing import Scalar
from kpoison._validation import (
    boundary,
    check_finite,
    check_floating,
    check_integer,
    check_name,
    check_points,
    check_positive,
)
from kpoison.networks.architecture import Architecture, Network
from kpoison.networks.objective import Penalty, checked_penalty
from kpoison.networks.training import Trained, Training, converged_only, minimise, train
from kpoison.poison import Poison, check_poison

__all__ = ["Ensemble", "Reference", "ensemble", "train_pair"]

Reference: TypeAlias = Literal["poisoned", "clean"]
"""The n of the clean run's ρ = nλ: `"poisoned"`, n_c + Σm as in every law, or `"clean"`, n_c."""


class Ensemble(eqx.Module):
    """What clean and poisoned training gave, for each of S seeds at each of q probes.

    Attributes:
        clean: g_clean(x), shape (S, q) or (S, q, C).
        efficacy: Δf(x) = g_poisoned(x) − g_clean(x), shape (S, q) or (S, q, C).
        gradient: ∇Δf(x), shape (S, q, d) or (S, q, C, d).
        spike: Λ(x) = ‖∇Δf(x)‖², shape (S, q) or (S, q, C).
        steps, gradient_norm, converged: of the clean and the poisoned run, shape (S, 2); see `Trained`.
    """

    clean: Float[Array, "S q ..."]
    efficacy: Float[Array, "S q ..."]
    gradient: Float[Array, "S q ..."]
    spike: Float[Array, "S q ..."]
    steps: Int[Array, "S 2"]
    gradient_norm: Float[Array, "S 2"]
    converged: Bool[Array, "S 2"]


class PoisonedProblem(NamedTuple):
    """The poisoned training set, clean points first; the clean run is the one with the poisons' weights at 0."""

    X: Array
    y: Array
    clean_weights: Array
    weights: Array
    clean_total: Array
    total: Array
    ridge: Array


def check_reference(arguments: dict[str, Any]) -> None:
    arguments["reference"] = check_name("reference", arguments["reference"], get_args(Reference))


@boundary(check_reference)
def train_pair(
    network: Network,
    X: Float[ArrayLike, "..."],
    y: Float[ArrayLike, "..."],
    poison: Poison,
    ridge: Scalar,
    *,
    reference: Reference = "poisoned",
    gradient_penalty: Scalar = 0.0,
    metric: Float[ArrayLike, "..."] | None = None,
    training: Training = Training(),  # noqa: B008 - immutable
    throw: bool = True,
) -> tuple[Trained, Trained]:
    """Train without and with the poison, from the same initial network.

    Args:
        network: the initial network θ0.
        X: clean points (n_c, d).
        y: clean targets (n_c,) or (n_c, C).
        poison: clones or a cluster.
        ridge: λ > 0 of the mean-loss convention.
        reference: the n of the clean run's ρ = nλ: "poisoned", n_c + Σm as in every law, or "clean", n_c.
        gradient_penalty: γ, see `train`; the poisons are penalised with their multiplicities.
        metric: M, see `train`.
        training: the method.
        throw: raise where a run has not converged.

    Returns:
        The clean and the poisoned network.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
        UnconvergedError: a run has not converged (under a trace: `equinox.error_if`).
    """
    X = check_points("X", X, len(network.point_shape))
    problem = poisoned_problem(X, y, poison, ridge, reference, network.dtype)

    def run(weights: Array, total: Array) -> Trained:
        return train(
            network,
            problem.X,
            problem.y,
            problem.ridge,
            weights=weights,
            total=total,
            gradient_penalty=gradient_penalty,
            metric=metric,
            training=training,
            throw=throw,
        )

    return run(problem.clean_weights, problem.clean_total), run(problem.weights, problem.total)


@boundary(check_reference)
def ensemble(
    architecture: Architecture,
    keys: Key[Array, "..."],
    X: Float[ArrayLike, "..."],
    y: Float[ArrayLike, "..."],
    poison: Poison,
    ridge: Scalar,
    x: Float[ArrayLike, "..."],
    *,
    reference: Reference = "poisoned",
    gradient_penalty: Scalar = 0.0,
    metric: Float[ArrayLike, "..."] | None = None,
    training: Training = Training(),  # noqa: B008 - immutable
    batch_size: int = 1,
    throw: bool = True,
) -> Ensemble:
    """Efficacy and spike of finite networks over seeds, in one compiled program.

    Args:
        architecture: the networks; their parameters are drawn in the dtype of `X`.
        keys: one random key per seed, shape (S,).
        X: clean points (n_c, d).
        y: clean targets (n_c,) or (n_c, C).
        poison: clones or a cluster.
        ridge: λ > 0 of the mean-loss convention.
        x: probes (q, d).
        reference: see `train_pair`.
        gradient_penalty: γ, see `train_pair`.
        metric: M, see `train`.
        training: the method.
        batch_size: seeds trained side by side. One after the other is fastest on a CPU (by 2 to 4 times) and needs
            the memory of one; more may fill an accelerator, and then wait for the slowest of the batch.
        throw: raise where any run has not converged.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
        UnconvergedError: a run has not converged (under a trace: `equinox.error_if`).
    """
    batch_size = check_keys(keys, batch_size)
    X = check_points("X", X, architecture.point_ndim)
    x = check_points("x", x, architecture.point_ndim, like=X)
    problem = poisoned_problem(X, y, poison, ridge, reference, X.dtype)
    penalty = checked_penalty(gradient_penalty, metric, architecture, X.shape[1:], X.dtype)
    limits = training.limits(X.dtype)
    result = _ensemble(architecture, keys, problem, x, limits, training.memory, batch_size, penalty)
    return converged_only(result, training) if throw else result


@eqx.filter_jit
def _ensemble(
    architecture: Architecture,
    keys: Array,
    problem: PoisonedProblem,
    x: Array,
    limits: tuple[Array, Array],
    memory: int,
    batch_size: int,
    penalty: Penalty | None,
) -> Ensemble:
    def run(network: Network, weights: Array, total: Array) -> tuple[Array, ...]:
        result = minimise(network, problem.X, problem.y, weights, total, problem.ridge, limits, memory, penalty)
        values, gradients = jax.vmap(lambda point: (result(point), jax.jacrev(result)(point)))(x)
        return values, gradients, result.steps, result.gradient_norm, result.converged

    return Ensemble(*over_seeds(architecture, keys, problem, batch_size, run))


def over_seeds(
    architecture: Architecture,
    keys: Array,
    problem: PoisonedProblem,
    batch_size: int,
    run: Callable[[Network, Array, Array], tuple[Array, ...]],
) -> tuple[Array, ...]:
    """For each seed: the clean prediction, Δf, ∇Δf and the spike, then what else the clean and the poisoned run give.

    A run takes the network at θ0, weights and total to values g(x), gradients ∇g(x), and what else it has to say.
    """
    X, y = problem.X, problem.y
    outputs = None if y.ndim == 1 else y.shape[1]
    point_axes = tuple(range(1 - X.ndim, 0))

    def one_seed(key: Array) -> tuple[Array, ...]:
        network = architecture.initialise(key, X.shape[1:], outputs, X.dtype)
        # A loop over the two runs, so that the training is compiled only once.
        weights = jnp.stack([problem.clean_weights, problem.weights])
        totals = jnp.stack([problem.clean_total, problem.total])
        values, gradients, *more = lax.map(lambda pair: run(network, *pair), (weights, totals))
        gradient = gradients[1] - gradients[0]
        return values[0], values[1] - values[0], gradient, jnp.sum(gradient**2, axis=point_axes), *more

    return lax.map(one_seed, keys, batch_size=batch_size if batch_size > 1 else None)


def check_keys(keys: Array, batch_size: int) -> int:
    """How many seeds run side by side, checked as one random key per seed is."""
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise TypeError(f"keys must be random keys made by jax.random.key, got dtype {keys.dtype}")
    if keys.ndim != 1 or len(keys) == 0:
        raise ValueError(f"keys must have shape (S,) with S >= 1, got {keys.shape}")
    return check_integer("batch_size", batch_size, 1)


def poisoned_problem(
    X: Array, y, poison: Poison, ridge, reference: str, dtype, *, no_ridge: bool = False
) -> PoisonedProblem:
    """The training set with the poisons, checked; X by the caller."""
    check_positive("ridge", ridge, zero=no_ridge)
    X = X.astype(dtype)
    y = check_floating("y", y).astype(dtype)
    if y.ndim not in (1, 2) or len(y) != len(X) or y.size == 0:
        raise ValueError(f"y must have shape ({len(X)},) or ({len(X)}, C), one target per point of X, got {y.shape}")
    check_finite("y", y)
    check_poison(poison)
    locations, labels, counts = poison.observations(X.shape[1:], 1 if y.ndim == 1 else y.shape[1], dtype)
    ones = jnp.ones(len(X), dtype)
    total = len(X) + jnp.sum(counts)
    return PoisonedProblem(
        X=jnp.concatenate([X, locations]),
        y=jnp.concatenate([y, labels.reshape(-1, *y.shape[1:])]),
        clean_weights=jnp.concatenate([ones, jnp.zeros_like(counts)]),
        weights=jnp.concatenate([ones, counts]),
        clean_total=total if reference == "poisoned" else jnp.asarray(len(X), dtype),
        total=total,
        ridge=jnp.asarray(ridge, dtype),
    )
