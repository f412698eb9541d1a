"""Gradient flow of a centred network: its training at every time instead of at its end (T2)."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num, PyTree, Real

from kpoison._typing import Scalar
from kpoison._validation import check_positive, integer, known_number
from kpoison.flow.integration import checked_times, complete_only
from kpoison.networks.architecture import Centred, Network, Parameters
from kpoison.networks.objective import Penalty, centred_objective, checked_penalty, shifted
from kpoison.networks.training import checked_data

__all__ = ["Flow", "Integration", "gradient_flow", "integrate"]


class Integration(eqx.Module):
    """How a flow is integrated: Tsitouras' explicit Runge-Kutta pair of orders 5 and 4, steps chosen by its error.

    Explicit, because the flow's rates are the kernel's eigenvalues over n: the t of interest is some tens of their
    inverse, each step costs six gradients, and an implicit step would need many more to solve its linear system, which
    is as large as the number of parameters.

    Args:
        tolerance: largest ‖local error‖ of θ per step, as a fraction of J/‖∇J‖ at θ0, the distance over which the
            objective J would vanish at its initial slope; by default 1e-6 in float64 and 1e-5 in float32.
        max_steps: a flow is given up after so many steps, rejected ones included. Large times need about t/3 times the
            largest rate, whatever the tolerance.
    """

    tolerance: int | float | None = eqx.field(static=True, default=None, converter=known_number)
    max_steps: int = eqx.field(static=True, default=10_000, converter=integer("max_steps", 1))

    def __check_init__(self):
        if self.tolerance is not None:
            check_positive("tolerance", self.tolerance)

    def relative_tolerance(self, dtype) -> float:
        """The tolerance for this dtype."""
        if self.tolerance is not None:
            return self.tolerance
        return 1e-6 if jnp.finfo(dtype).bits >= 64 else 1e-5

    def limits(self, dtype) -> tuple[Array, int]:
        """Tolerance, as an array so that changing it compiles nothing anew, and max_steps."""
        return jnp.asarray(self.relative_tolerance(dtype), dtype), self.max_steps


class Flow(eqx.Module):
    """A centred network at T times; call it on a single point for g_t(x) = f(θ_t)(x) − f(θ0)(x).

    Attributes:
        initial: the network at θ0.
        parameters: θ_t, each array with a leading axis T; not finite at times that the solver has not reached.
        times: t, shape (T,).
        steps: steps of the solver, rejected ones included.
        completed: whether it has reached the last time.
    """

    initial: Network
    parameters: Parameters
    times: Float[Array, " T"]
    steps: Int[Array, ""]
    completed: Bool[Array, ""]

    def at(self, index: int) -> Centred:
        """The network at one of the times."""
        return self._with(jax.tree.map(lambda leaf: leaf[index], self.parameters))

    def _with(self, parameters: Parameters) -> Centred:
        return Centred(self.initial, eqx.tree_at(lambda net: net.parameters, self.initial, parameters))

    def __call__(self, x: Float[ArrayLike, "..."]) -> Float[Array, "T ..."]:
        """g_t(x) at one point (d,): shape (T,) or (T, C)."""
        return jax.vmap(lambda parameters: self._with(parameters)(x))(self.parameters)

    def outputs(self, X: Float[ArrayLike, "n ..."]) -> Float[Array, "T n ..."]:
        """g_t at n points: shape (T, n) or (T, n, C)."""
        return jax.vmap(lambda parameters: self._with(parameters).outputs(X))(self.parameters)


def gradient_flow(
    network: Network,
    X: Float[ArrayLike, "..."],
    y: Float[ArrayLike, "..."],
    ridge: Scalar,
    times: Real[ArrayLike, "..."],
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    total: Scalar | None = None,
    gradient_penalty: Scalar = 0.0,
    metric: Float[ArrayLike, "..."] | None = None,
    integration: Integration = Integration(),  # noqa: B008 - immutable
    throw: bool = True,
) -> Flow:
    """Let the centred network flow, θ̇ = −∇J(θ) from θ0, and look at it at some times.

    J is the objective that `train` minimises, with the mean over the data, so that t is the number of steps of plain
    gradient descent times its learning rate. As the width grows the flow tends to that of the NTK in its RKHS (T2;
    Jacot et al. 2018), as t grows to the result of `train`.

    Args:
        network: the initial network θ0; calculations are done in the dtype of its parameters.
        X: training points (n, d).
        y: targets (n,) for a scalar output, else (n, C).
        ridge: λ >= 0 of the mean-loss convention.
        times: T increasing times >= 0, shape (T,).
        weights: multiplicities w (n,), see `train`.
        total: n, see `train`.
        gradient_penalty: γ >= 0, see `train`.
        metric: M, see `train`.
        integration: the method.
        throw: raise where the solver has stopped before the last time; otherwise see `completed` on the result.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
        IncompleteFlowError: the solver has stopped early (under a trace: `equinox.error_if`).
    """
    check_positive("ridge", ridge, zero=True)
    data = checked_data(network, X, y, weights, total)
    penalty = checked_penalty(gradient_penalty, metric, network.architecture, network.point_shape, network.dtype)
    times = checked_times("times", times, network.dtype, finite=True)
    result = _flow(network, data, jnp.asarray(ridge, network.dtype), penalty, times, integration.limits(network.dtype))
    return complete_only(result, integration.max_steps) if throw else result


@eqx.filter_jit
def _flow(
    network: Network,
    data: tuple[Array, Array, Array, Array],
    ridge: Array,
    penalty: Penalty | None,
    times: Array,
    limits: tuple[Array, int],
) -> Flow:
    moved, steps, completed = integrate(network, *data, ridge, penalty, times, limits, lambda net: net.parameters)
    return Flow(network, moved, times, steps, completed)


def integrate(
    network: Network,
    X: Array,
    y: Array,
    weights: Array,
    total: Array,
    ridge: Array,
    penalty: Penalty | None,
    times: Array,
    limits: tuple[Array, int],
    look: Callable[[Network], PyTree[Array]],
) -> tuple[Any, Int[Array, ""], Bool[Array, ""]]:
    """`gradient_flow` without its checks: what `look` sees in the network at each time, steps, and completion.

    Every argument an array of the network's dtype, limits from `Integration`.
    """
    import diffrax
    import optax

    objective = centred_objective(network, X, y, weights, total, ridge, penalty)
    start = jax.tree.map(jnp.zeros_like, network.parameters)
    # As lists of arrays: a tree with an empty branch (no biases) is none that diffrax can keep.
    leaves, structure = jax.tree.flatten(start)
    seen = jax.tree.structure(jax.eval_shape(look, network))
    value, gradient = jax.lax.stop_gradient(jax.value_and_grad(objective)(start))
    slope = optax.tree.norm(gradient)
    # Without a target to fit nothing moves, by rounding alone.
    nothing = jnp.all(weights.reshape(-1, *[1] * (y.ndim - 1)) * y == 0)
    distance = jnp.where(nothing | (slope == 0), 1, value / jnp.where(slope > 0, slope, 1))

    def velocity(t: Any, leaves: list[Array], args: Any) -> list[Array]:
        return [-leaf for leaf in jax.tree.leaves(jax.grad(objective)(jax.tree.unflatten(structure, leaves)))]

    def looked_at(t: Any, leaves: list[Array], args: Any) -> list[Array]:
        return jax.tree.leaves(look(shifted(network, jax.tree.unflatten(structure, leaves))))

    tolerance, max_steps = limits
    controller = diffrax.PIDController(rtol=0, atol=tolerance * distance, pcoeff=0.3, icoeff=0.4, norm=optax.tree.norm)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Tsit5(),
        t0=jnp.zeros((), times.dtype),
        t1=times[-1],
        dt0=None,
        y0=leaves,
        saveat=diffrax.SaveAt(ts=times, fn=looked_at),
        # Interpolation between steps would be less exact than the steps.
        stepsize_controller=diffrax.ClipStepSizeController(controller, step_ts=times),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    found = jax.tree.unflatten(seen, jax.tree.leaves(solution.ys))
    return found, solution.stats["num_steps"], solution.result == diffrax.RESULTS.successful
