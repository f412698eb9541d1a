"""Linear models of any convex loss on poisoned mixtures, such as logistic regression (R5)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kpoison._failures import Failure, checked_result, program
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_flag, check_integer, is_concrete, public
from kpoison.asymptotics._linear_model import LinearModel, check_problem, number_failures
from kpoison.asymptotics.mixture import Backdoor, Mixture
from kpoison.asymptotics.root_finding import proximal, system_root

__all__ = ["ConvexRegression", "convex_regression", "logistic_regression"]

_QUADRATURE = 1e-3
_DAMPING, _NEAR, _DAMPED_STEPS = 0.3, 0.03, 300  # the iteration converges slowly but surely; Newton's steps end it
Loss = Callable[[Array, Array], Array]


class ConvexRegression(LinearModel):
    """What a linear model of a convex loss does, on average over training sets and in the proportional limit.

    Attributes:
        weights, intercept, covariance, spread, mixture: as of every linear model (`LinearModel`): β̄ (d,), b, q the
            variance of the scores, the variance of the weights summed over the inputs, and what it is trained on.
        curvature: V̂, the mean curvature that the training loss keeps; λ/V̂ is the effective ridge.
        step: τ, by how much a training score moves for a unit of its loss's slope: fitted is the proximal point of
            what the other points predict.
        training_loss: the mean loss at the training points.
        residual: the largest residual of the equations that were solved.
        quadrature_error: how far two forms of V̂, which are equal by Stein's lemma, are apart, over V̂.
    """

    curvature: Float[Array, ""]
    step: Float[Array, ""]
    training_loss: Float[Array, ""]
    residual: Float[Array, ""]
    quadrature_error: Float[Array, ""]


def logistic_loss(score: Array, label: Array) -> Array:
    """log(1 + e^{−ty})."""
    return jax.nn.softplus(-score * label)


@public
def logistic_regression(
    mixture: Mixture | Backdoor, n: Scalar, ridge: Scalar, intercept: bool | np.bool_ = True
) -> ConvexRegression:
    """Logistic regression on n points of a mixture of labels −1 and 1, without training (R5).

    `convex_regression` of the loss log(1 + e^{−yf}); arguments and errors are its.

    >>> import numpy as np
    >>> from kpoison.asymptotics import backdoor_mixture
    >>> attack = backdoor_mixture(np.eye(50)[0], np.ones(50), np.eye(50)[1], fraction=0.1, strength=3.0)
    >>> model = logistic_regression(attack, n=200, ridge=0.1)
    >>> round(float(model.accuracy()), 2), round(float(model.attack_success_rate()), 2)
    (0.76, 0.72)
    """
    training = check_problem(mixture, n, ridge, zero=False)
    if training.outputs == () and is_concrete(training.labels):
        wrong = np.abs(np.asarray(training.labels)) != 1
        if wrong.any():
            raise ValueError(f"mixture must have labels −1 and 1, got {float(np.asarray(training.labels)[wrong][0])}")
    return convex_regression(mixture, n, ridge, logistic_loss, intercept)


@public
def convex_regression(
    mixture: Mixture | Backdoor,
    n: Scalar,
    ridge: Scalar,
    loss: Loss,
    intercept: bool | np.bool_ = True,
    *,
    nodes: int = 81,
) -> ConvexRegression:
    """A linear model of a convex loss on n points of a mixture, without training: the proportional limit (R5).

    Of the minimiser of (1/n) Σ ℓ(βᵀx_i + b, y_i) + (λ/2)‖β‖².  Four unknowns and a score for each component are the
    root of the state equations, by Newton's steps; Gaussian means by Gauss–Hermite quadrature.  ℓ = (f − y)²/2 is
    `ridge_regression`.

    Args:
        mixture: that training points are drawn from, with labels of shape (K,).
        n: training points, at least 2.
        ridge: λ > 0 of the mean loss.
        loss: ℓ(score, label), of two numbers, convex and twice differentiable in the score, in JAX.
        intercept: whether b is fitted, or 0.
        nodes: of the quadrature; small ridges and losses with corners take more.

    Returns:
        A `ConvexRegression`, with the residual of its equations.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for a loss that falls in slope where it was
            looked at, a quadrature that is not exact to a thousandth, and equations that have no root to rounding.
    """
    training = check_problem(mixture, n, ridge, zero=False)
    if training.outputs:
        raise ValueError(f"mixture must have labels of shape (K,) for a loss of one score, got {training.labels.shape}")
    if not callable(loss):
        raise TypeError(f"loss must be a function of a score and a label, got {type(loss).__name__}")
    fit, number = check_flag("intercept", intercept), check_integer("nodes", nodes, 3)
    dtype = training.means.dtype
    where, weights = np.polynomial.hermite_e.hermegauss(number)
    quadrature = jnp.asarray(where, dtype), jnp.asarray(weights / weights.sum(), dtype)
    found = _solved(training, jnp.asarray(n, dtype), jnp.asarray(ridge, dtype), loss, fit, quadrature)
    weights, offset, covariance, spread, *others = found
    return ConvexRegression(weights, offset, covariance, spread, mixture, *others)


@program
def _solved(  # noqa: PLR0915
    mixture: Mixture, n: Array, ridge: Array, loss: Loss, intercept: bool, quadrature: tuple[Array, Array]
) -> tuple[Array, ...]:
    sigma, M, pi, t = mixture.decomposed(), mixture.means, mixture.fractions, mixture.labels
    pi = checked_result(pi, [*mixture.failures(sigma), *number_failures(mixture, n, ridge, zero=False)])
    nodes, node_weights = quadrature
    slope = _elementwise(jax.grad(loss), t)
    bend = _elementwise(jax.grad(jax.grad(loss)), t)

    def seen(tau: Array, q: Array, omega: Array) -> tuple[Array, ...]:
        """Fitted scores (K, nodes), ĝ, V̂, q̂, and V̂ from E Z g."""
        before = omega[:, None] + jnp.sqrt(q) * nodes[None]
        x = proximal(slope, before, tau)
        pull, curved = -slope(x), bend(x)
        g = pull @ node_weights
        curvature = pi @ ((curved / (1 + tau * curved)) @ node_weights)
        return x, g, curvature, pi @ (pull**2 @ node_weights), -(pi @ (pull @ (nodes * node_weights))) / jnp.sqrt(q)

    def answered(g: Array, curvature: Array, square: Array) -> tuple[Array, ...]:
        """β̄, τ and q from those."""
        x = ridge / curvature
        beta = sigma.solve(x, ((pi * g) @ M)[:, None]) / curvature
        along = matrix_product(beta.T, sigma.product(beta))[0, 0]
        tau = sigma.trace(1, 1, x) / (n * curvature)
        return beta[:, 0], tau, along + square * sigma.trace(2, 2, x) / (n * curvature**2)

    def unpacked(unknown: Array) -> tuple[Array, Array, Array, Array]:
        return jnp.exp(unknown[0]), jnp.exp(unknown[1]), unknown[3:], unknown[2]

    def image(unknown: Array) -> tuple[Array, ...]:
        tau, q, omega, b = unpacked(unknown)
        _, g, curvature, square, _ = seen(tau, q, omega)
        beta, new_tau, new_q = answered(g, curvature, square)
        return jnp.log(new_tau), jnp.log(new_q), pi @ g, M @ beta + b, curvature

    def equations(unknown: Array) -> Array:
        log_tau, log_q, balance, omega, _ = image(unknown)
        middle = balance if intercept else unknown[2]
        return jnp.concatenate([jnp.stack([log_tau - unknown[0], log_q - unknown[1], middle]), omega - unknown[3:]])

    def damped(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        """A part of the iteration's step; b by a part of a Newton step of its own equation."""
        unknown, _, count = state
        log_tau, log_q, balance, omega, curvature = image(unknown)
        rise = balance / curvature if intercept else 0.0
        new = jnp.concatenate([jnp.stack([log_tau, log_q, unknown[2] + rise]), omega + rise])
        move = new - unknown
        return unknown + _DAMPING * move, jnp.max(jnp.abs(move)), count + 1

    def far(state: tuple[Array, Array, Array]) -> Array:
        return ~(state[1] < _NEAR) & (state[2] < _DAMPED_STEPS)

    # From what the other points say nothing of: scores of 0, and a loss that is as curved as there.
    bend0 = jnp.maximum(pi @ bend(jnp.zeros((len(t), 1), M.dtype))[:, 0], jnp.finfo(M.dtype).eps)
    square0 = pi @ slope(jnp.zeros((len(t), 1), M.dtype))[:, 0] ** 2
    tau0 = sigma.trace(1, 1, ridge / bend0) / (n * bend0)
    q0 = square0 * sigma.trace(2, 2, ridge / bend0) / (n * bend0**2)
    zeros = jnp.zeros(len(t) + 1, M.dtype)
    start = jnp.concatenate([jnp.log(jnp.stack([tau0, q0])), zeros])
    first = jax.lax.stop_gradient((start, jnp.asarray(jnp.inf, M.dtype), jnp.zeros((), int)))
    start = jax.lax.stop_gradient(jax.lax.while_loop(far, damped, first)[0])
    root = system_root(equations, start)
    tau, q, omega, b = unpacked(root.value)
    fitted, g, curvature, square, by_slope = seen(tau, q, omega)
    beta, _, _ = answered(g, curvature, square)
    spread = square * sigma.trace(1, 2, ridge / curvature) / (n * curvature**2)
    losses = jax.vmap(lambda label, scores: jax.vmap(lambda score: loss(score, label))(scores))(t, fitted)
    training_loss = pi @ (losses @ node_weights)
    quadrature_error = jax.lax.stop_gradient(jnp.abs(by_slope / curvature - 1))
    unresolved = f"nodes must be more than {len(nodes)}: the quadrature has not resolved the loss to a thousandth"
    finite = jnp.all(jnp.isfinite(root.value))
    concave: Bool[Array, ""] = jnp.any(bend(fitted) < 0)
    beta = checked_result(
        beta,
        [
            Failure(concave, "loss must be convex in the score, got a second derivative below 0"),
            Failure(~(root.converged & finite), "the state equations have not been solved to rounding: no model"),
            Failure(~(quadrature_error <= _QUADRATURE), unresolved),
        ],
    )
    return beta, b, q, spread, curvature, tau, training_loss, root.residual, quadrature_error


def _elementwise(function: Callable[[Array, Array], Array], labels: Array) -> Callable[[Array], Array]:
    """Of scores (K, nodes) with the labels (K,)."""
    each = jax.vmap(jax.vmap(function, (0, None)))
    return lambda scores: each(scores, labels)
