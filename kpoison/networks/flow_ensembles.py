"""Clean and poisoned gradient flow from the same initialisation, over many seeds."""

import equinox as eqx
import jax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, Real

from kpoison._typing import Scalar
from kpoison._validation import boundary, check_points
from kpoison.flow.integration import checked_times, complete_only
from kpoison.networks.architecture import Architecture, Network
from kpoison.networks.ensembles import (
    PoisonedProblem,
    Reference,
    check_keys,
    check_reference,
    over_seeds,
    poisoned_problem,
)
from kpoison.networks.flow import Integration, integrate
from kpoison.networks.objective import Penalty, checked_penalty
from kpoison.poison import Poison

__all__ = ["FlowEnsemble", "flow_ensemble"]


class FlowEnsemble(eqx.Module):
    """What clean and poisoned flow gave, for each of S seeds at each of T times and q probes.

    Attributes:
        clean: g_clean(x), shape (S, T, q) or (S, T, q, C).
        efficacy: Δf(x) = g_poisoned(x) − g_clean(x), shape (S, T, q) or (S, T, q, C).
        gradient: ∇Δf(x), shape (S, T, q, d) or (S, T, q, C, d).
        spike: Λ(x) = ‖∇Δf(x)‖², shape (S, T, q) or (S, T, q, C).
        times: t, shape (T,).
        steps, completed: of the clean and the poisoned run, shape (S, 2); see `Flow`.
    """

    clean: Float[Array, "S T q ..."]
    efficacy: Float[Array, "S T q ..."]
    gradient: Float[Array, "S T q ..."]
    spike: Float[Array, "S T q ..."]
    times: Float[Array, " T"]
    steps: Int[Array, "S 2"]
    completed: Bool[Array, "S 2"]


@boundary(check_reference)
def flow_ensemble(
    architecture: Architecture,
    keys: Key[Array, "..."],
    X: Float[ArrayLike, "..."],
    y: Float[ArrayLike, "..."],
    poison: Poison,
    ridge: Scalar,
    times: Real[ArrayLike, "..."],
    x: Float[ArrayLike, "..."],
    *,
    reference: Reference = "poisoned",
    gradient_penalty: Scalar = 0.0,
    metric: Float[ArrayLike, "..."] | None = None,
    integration: Integration = Integration(),  # noqa: B008 - immutable
    batch_size: int = 1,
    throw: bool = True,
) -> FlowEnsemble:
    """Efficacy and spike of finite networks along gradient flow over seeds, in one compiled program (T2).

    Args:
        architecture: the networks; their parameters are drawn in the dtype of `X`.
        keys: one random key per seed, shape (S,).
        X: clean points (n_c, d).
        y: clean targets (n_c,) or (n_c, C).
        poison: clones or a cluster.
        ridge: λ >= 0 of the mean-loss convention.
        times: T increasing times >= 0, shape (T,).
        x: probes (q, d).
        reference: see `train_pair`; it is also the n of the clean run's mean loss.
        gradient_penalty: γ, see `train_pair`.
        metric: M, see `train`.
        integration: the method.
        batch_size: seeds that flow side by side, see `ensemble`.
        throw: raise where any run has not reached the last time.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
        IncompleteFlowError: a run has stopped early (under a trace: `equinox.error_if`).
    """
    batch_size = check_keys(keys, batch_size)
    X = check_points("X", X, architecture.point_ndim)
    x = check_points("x", x, architecture.point_ndim, like=X)
    problem = poisoned_problem(X, y, poison, ridge, reference, X.dtype, no_ridge=True)
    penalty = checked_penalty(gradient_penalty, metric, architecture, X.shape[1:], X.dtype)
    times = checked_times("times", times, X.dtype, finite=True)
    result = _flow_ensemble(architecture, keys, problem, x, times, penalty, integration.limits(X.dtype), batch_size)
    return complete_only(result, integration.max_steps) if throw else result


@eqx.filter_jit
def _flow_ensemble(
    architecture: Architecture,
    keys: Array,
    problem: PoisonedProblem,
    x: Array,
    times: Array,
    penalty: Penalty | None,
    limits: tuple[Array, int],
    batch_size: int,
) -> FlowEnsemble:
    def probed(network: Network) -> tuple[Array, Array]:
        return jax.vmap(lambda point: (network(point), jax.jacrev(network)(point)))(x)

    def run(network: Network, weights: Array, total: Array) -> tuple[Array, ...]:
        (values, gradients), steps, completed = integrate(
            network, problem.X, problem.y, weights, total, problem.ridge, penalty, times, limits, probed
        )
        return values - jax.vmap(network)(x)[None], gradients, steps, completed

    clean, efficacy, gradient, spike, *status = over_seeds(architecture, keys, problem, batch_size, run)
    return FlowEnsemble(clean, efficacy, gradient, spike, times, *status)
