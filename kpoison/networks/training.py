"""Training of a centred network to the ridge optimum, with its convergence checked."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from kpoison._failures import Failure, checked_result
from kpoison._typing import Scalar
from kpoison._validation import (
    check_finite,
    check_floating,
    check_points,
    check_positive,
    integer,
    is_concrete,
    known_number,
)
from kpoison.networks.architecture import Centred, Network
from kpoison.networks.objective import Penalty, centred_objective, checked_penalty, shifted

__all__ = ["Trained", "Training", "UnconvergedError", "train"]


class UnconvergedError(RuntimeError):
    """A training run ended before its gradient vanished; its result is no data point."""


class Training(eqx.Module):
    """L-BFGS with a zoom line search, run until the gradient has vanished.

    Args:
        tolerance: a run has converged when ‖gradient‖ <= tolerance · ‖gradient at θ0‖; by default 1e-8 in float64 and
            1e-5 in float32 (1e-12 and 1e-6 can be reached). For λ >= 1e-3 and targets of order one the error that this
            leaves in Δf was below 2e-7 and 1e-3.
        max_steps: a run is given up after so many steps.
        memory: number of past steps that L-BFGS remembers, each costing two copies of the parameters.
    """

    tolerance: int | float | None = eqx.field(static=True, default=None, converter=known_number)
    max_steps: int = eqx.field(static=True, default=5000, converter=integer("max_steps", 1))
    memory: int = eqx.field(static=True, default=10, converter=integer("memory", 1))

    def __check_init__(self):
        if self.tolerance is not None:
            check_positive("tolerance", self.tolerance)

    def relative_tolerance(self, dtype) -> float:
        """The tolerance for this dtype."""
        if self.tolerance is not None:
            return self.tolerance
        return 1e-8 if jnp.finfo(dtype).bits >= 64 else 1e-5

    def limits(self, dtype) -> tuple[Array, Array]:
        """Tolerance and max_steps as arrays, so that changing them compiles nothing anew."""
        return jnp.asarray(self.relative_tolerance(dtype), dtype), jnp.asarray(self.max_steps, jnp.int32)


class Trained(Centred):
    """A trained, centred network; call it on a single point for g(x) = f(θ)(x) − f(θ0)(x).

    Attributes:
        initial, final: the network at θ0 and at θ.
        steps: L-BFGS steps taken.
        gradient_norm: ‖gradient‖ at θ relative to that at θ0.
        converged: whether it is within the tolerance.
    """

    steps: Int[Array, ""]
    gradient_norm: Float[Array, ""]
    converged: Bool[Array, ""]


def train(
    network: Network,
    X: Float[ArrayLike, "..."],
    y: Float[ArrayLike, "..."],
    ridge: Scalar,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    total: Scalar | None = None,
    gradient_penalty: Scalar = 0.0,
    metric: Float[ArrayLike, "..."] | None = None,
    training: Training = Training(),  # noqa: B008 - immutable
    throw: bool = True,
) -> Trained:
    """Train the centred network g(θ) = f(θ) − f(θ0) from θ0 to the ridge optimum.

    Minimises (1/2n) Σ_i w_i (‖g(x_i) − y_i‖² + γ Σ_c ‖∇g_c(x_i)‖²_M) + (λ/2) ‖θ − θ0‖². As the width grows its
    solution tends to the NTK ridge predictor at ρ = nλ (statement N1; Jacot et al. 2018, Lee et al. 2019), with a
    gradient penalty to the posterior of `kpoison.fit` with the same γ and M (T1).

    Args:
        network: the initial network θ0; calculations are done in the dtype of its parameters.
        X: training points (n, d), or images for a convolutional network.
        y: targets (n,) for a scalar output, else (n, C).
        ridge: λ > 0 of the mean-loss convention.
        weights: multiplicities w (n,), real and >= 0, by default 1; m clones are one point of weight m.
        total: n > 0, by default Σ w; a clean reference at the poisoned ρ = nλ has the poisoned n.
        gradient_penalty: γ >= 0, on the input gradient of g at the training points, by double back-propagation; needs
            an activation without a kink. 0 costs nothing.
        metric: M, symmetric and positive semi-definite, shape (d, d); by default the identity.
        training: the method.
        throw: raise where the run has not converged; otherwise see `converged` on the result.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
        UnconvergedError: the gradient has not vanished (under a trace: `equinox.error_if`).
    """
    check_positive("ridge", ridge)
    data = checked_data(network, X, y, weights, total)
    penalty = checked_penalty(gradient_penalty, metric, network.architecture, network.point_shape, network.dtype)
    limits = training.limits(network.dtype)
    ridge = jnp.asarray(ridge, network.dtype)
    result = _compiled_minimise(network, *data, ridge, limits, training.memory, penalty)
    return converged_only(result, training) if throw else result


def checked_data(network: Network, X, y, weights, total) -> tuple[Array, Array, Array, Array]:
    """Points, targets, weights and total, in the dtype of the network."""
    shape = network.point_shape
    X = check_points("X", X, len(shape)).astype(network.dtype)
    if X.shape[1:] != shape:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"X must have shape (n, {expected}), as the network's inputs, got {X.shape}")
    y = check_floating("y", y).astype(network.dtype)
    check_shape("y", y, (len(X), *network.output_shape), "one target per point of X and output of the network")
    check_finite("y", y)
    weights = jnp.ones(len(X), network.dtype) if weights is None else weights
    check_positive("weights", weights, zero=True, scalar=False)
    check_shape("weights", weights, (len(X),), "one weight per point of X")
    weights = jnp.asarray(weights, network.dtype)
    if total is None:
        total = jnp.sum(weights)
        check_positive("the sum of weights", total)
    check_positive("total", total)
    return X, y, weights, jnp.asarray(total, network.dtype)


def converged_only(result, training: Training):
    """`result`, a `Trained` or an `Ensemble`, where all of its runs have converged."""
    converged, norm, steps = result.converged, result.gradient_norm, result.steps
    tolerance = training.relative_tolerance(norm.dtype)
    advice = "Raise max_steps or tolerance; an activation with a kink cannot converge unless the kink is rounded."
    if not is_concrete(converged):
        message = f"Training has not converged to a relative gradient norm of {tolerance:.1e}. {advice}"
        return checked_result(result, [Failure(~jnp.all(converged), message, kind=UnconvergedError)])
    if not bool(jnp.all(converged)):
        raise UnconvergedError(
            f"{int(jnp.sum(~converged))} of {converged.size} training runs have not converged: the largest relative "
            f"gradient norm is {float(jnp.max(norm)):.2e} where {tolerance:.1e} was asked for, after "
            f"{int(jnp.max(steps))} of at most {training.max_steps} steps. {advice}"
        )
    return result


def check_shape(name: str, value, shape: tuple[int, ...], why: str) -> None:
    """Refuse an array of another shape."""
    if np.shape(value) != shape:
        raise ValueError(f"{name} must have shape {shape} ({why}), got {np.shape(value)}")


def minimise(
    network: Network,
    X: Array,
    y: Array,
    weights: Array,
    total: Array,
    ridge: Array,
    limits: tuple[Array, Array],
    memory: int,
    penalty: Penalty | None = None,
) -> Trained:
    """`train` without its checks: every argument an array of the network's dtype, limits from `Training`."""
    import optax

    objective = centred_objective(network, X, y, weights, total, ridge, penalty)
    tolerance, max_steps = limits
    optimiser = optax.lbfgs(memory_size=memory)
    shift = jax.tree.map(jnp.zeros_like, network.parameters)
    value, gradient = jax.value_and_grad(objective)(shift)
    # Without a target to fit the start is the minimum, and its gradient rounding noise.
    nothing = jnp.all(weights.reshape(-1, *[1] * (y.ndim - 1)) * y == 0)
    gradient = jax.tree.map(lambda leaf: jnp.where(nothing, 0, leaf), gradient)
    first_norm = optax.tree.norm(gradient)

    def step(carry):
        shift, state, count, value, gradient = carry
        update, state = optimiser.update(gradient, state, shift, value=value, grad=gradient, value_fn=objective)
        # The line search has left value and gradient at its end point in the state.
        value, gradient = optax.tree.get(state, "value"), optax.tree.get(state, "grad")
        return optax.apply_updates(shift, update), state, count + 1, value, gradient

    def unfinished(carry):
        _, _, count, _, gradient = carry
        return (count < max_steps) & (optax.tree.norm(gradient) > tolerance * first_norm)

    first = (shift, optimiser.init(shift), jnp.zeros((), jnp.int32), value, gradient)
    shift, _, steps, _, gradient = lax.while_loop(unfinished, step, first)
    gradient_norm = optax.tree.norm(gradient) / jnp.where(first_norm > 0, first_norm, 1)
    return Trained(network, shifted(network, shift), steps, gradient_norm, gradient_norm <= tolerance)


_compiled_minimise = eqx.filter_jit(minimise)
