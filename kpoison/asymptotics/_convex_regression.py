"""Linear models of any convex loss on poisoned mixtures, such as logistic regression (R5)."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kpoison._failures import Failure, checked_result, program
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_flag, check_integer, is_concrete, public
from kpoison.asymptotics._linear_model import LinearModel, check_problem, number_failures
from kpoison.asymptotics._several_scores import rules, solved_of_several
from kpoison.asymptotics.mixture import Backdoor, Mixture
from kpoison.asymptotics.quadrature import gaussian_rule
from kpoison.asymptotics.root_finding import proximal, system_root

__all__ = ["ConvexRegression", "convex_regression", "logistic_regression", "softmax_regression"]

_QUADRATURE = 1e-3
_NODES = {1: 81, 2: 33, 3: 15, 4: 9}  # in each score that the loss sees, of which there may be no more
_COARSE = {2: 9, 3: 5, 4: 4}
_DAMPING, _NEAR, _DAMPED_STEPS = 0.3, 0.03, 300  # the iteration converges slowly but surely; Newton's steps end it
_UNRESOLVED = "the quadrature has not resolved the loss to a thousandth"
Loss = Callable[[Array, Array], Array]


class ConvexRegression(LinearModel):
    """What a linear model of a convex loss does, on average over training sets and in the proportional limit.

    Labels of shape (K,) have one score, whose axes C are left out.

    Attributes:
        weights, intercept, covariance, spread, mixture: as of every linear model (`LinearModel`): B̄ (d, C), b̄ (C,), Q
            the covariance of the scores (C, C), that of an output's weights summed over the inputs (C, C), and what it
            is trained on.  Where the loss is blind to a shift of all scores, B̄ and b̄ sum to 0 over the outputs.
        curvature: V̂, the mean curvature that the training loss keeps, (C, C); λ/V̂ of one score is the effective ridge.
        step: T, by how much a training score moves for a unit of its loss's slope, (C, C): fitted is the proximal point
            of what the other points predict.
        training_loss: the mean loss at the training points.
        residual: the largest residual of the equations that were solved.
        quadrature_error: how far two forms of V̂, which are equal by Stein's lemma, are apart, over V̂.
    """

    curvature: Float[Array, "..."]
    step: Float[Array, "..."]
    training_loss: Float[Array, ""]
    residual: Float[Array, ""]
    quadrature_error: Float[Array, ""]


class _Turned(eqx.Module):
    """A loss of scores as one of their coordinates along directions, as few as it sees.

    Attributes:
        loss: ℓ(scores, label), of C scores.
        directions: orthonormal columns, as numbers that are compared when a program is looked up; (C, r).
    """

    loss: Loss = eqx.field(static=True)
    directions: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __call__(self, coordinates: Array, label: Array) -> Array:
        """ℓ."""
        columns = jnp.asarray(self.directions, coordinates.dtype)
        return self.loss(columns @ coordinates.reshape(columns.shape[1]), label)


def logistic_loss(score: Array, label: Array) -> Array:
    """log(1 + e^{−ty})."""
    return jax.nn.softplus(-score * label)


def softmax_loss(scores: Array, label: Array) -> Array:
    """−Σ y log softmax(f)."""
    return -jnp.sum(label * jax.nn.log_softmax(scores))


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
    if training.outputs:
        raise ValueError(
            f"mixture must have labels of shape (K,), got {training.labels.shape}: softmax_regression takes one column "
            "for each class"
        )
    if is_concrete(training.labels):
        wrong = np.abs(np.asarray(training.labels)) != 1
        if wrong.any():
            raise ValueError(f"mixture must have labels −1 and 1, got {float(np.asarray(training.labels)[wrong][0])}")
    return convex_regression(mixture, n, ridge, logistic_loss, intercept)


@public
def softmax_regression(
    mixture: Mixture | Backdoor,
    n: Scalar,
    ridge: Scalar,
    intercept: bool | np.bool_ = True,
    *,
    nodes: int | None = None,
) -> ConvexRegression:
    """Softmax regression on n points of a mixture of up to 5 classes, without training (R5).

    `convex_regression` of the loss −Σ_c y_c log softmax(f)_c, of labels (K, C) that are >= 0, such as the rows of the
    identity; arguments and errors are its.

    >>> import numpy as np
    >>> from kpoison.asymptotics import backdoor_mixture
    >>> attack = backdoor_mixture(1.5 * np.eye(50)[:3], np.ones(50), np.eye(50)[3], 0.1, 3.0, target=1)
    >>> model = softmax_regression(attack, n=200, ridge=0.1)
    >>> round(float(model.accuracy()), 2), round(float(model.attack_success_rate()), 2)
    (0.65, 0.67)
    """
    training = check_problem(mixture, n, ridge, zero=False)
    if not training.outputs:
        raise ValueError(
            f"mixture must have labels of shape (K, C), one column for each class, got {training.labels.shape}"
        )
    if is_concrete(training.labels) and bool(np.any(np.asarray(training.labels) < 0)):
        raise ValueError(f"mixture must have labels >= 0, got {float(np.min(np.asarray(training.labels))):g}")
    return convex_regression(mixture, n, ridge, softmax_loss, intercept, nodes=nodes)


@public
def convex_regression(
    mixture: Mixture | Backdoor,
    n: Scalar,
    ridge: Scalar,
    loss: Loss,
    intercept: bool | np.bool_ = True,
    *,
    nodes: int | None = None,
) -> ConvexRegression:
    """A linear model of a convex loss on n points of a mixture, without training: the proportional limit (R5).

    Of the minimiser of (1/n) Σ ℓ(Bᵀx_i + b, y_i) + (λ/2)‖B‖².  The covariance of scores under the other points, by how
    much a point moves its own, b and a mean score for each component are the root of the state equations, by Newton's
    steps; Gaussian means by Gauss–Hermite quadrature in each score that the loss sees.  ℓ = ‖f − y‖²/2 is
    `ridge_regression`.

    Args:
        mixture: that training points are drawn from, with labels of shape (K,) for one score, (K, C) for C.
        n: training points, at least as many as classes.
        ridge: λ > 0 of the mean loss.
        loss: ℓ(score, label), of two numbers or two vectors (C,), in JAX: convex and twice differentiable in the score,
            and not linear in any combination of scores that it depends on.
        intercept: whether b is fitted, or 0.
        nodes: of the quadrature in each score; small ridges and losses with corners take more.  By default 81 of one
            score, 33, 15 and 9 of two to four.

    Returns:
        A `ConvexRegression`, with the residual of its equations.  Of one score it has derivatives of every order; of
        several the second in a dense covariance is refused.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for a loss that falls in slope where it was
            looked at, or that sees more than 4 combinations of its scores, as softmax of 6 classes does; a quadrature
            that is not exact to a thousandth, and equations that have no root to rounding.
    """
    training = check_problem(mixture, n, ridge, zero=False)
    if not callable(loss):
        raise TypeError(f"loss must be a function of a score and a label, got {type(loss).__name__}")
    told = jax.eval_shape(loss, jnp.zeros(training.outputs), jnp.zeros(training.outputs))
    if getattr(told, "shape", None) != ():
        raise ValueError(f"loss must return a number, got {told}")
    fit = check_flag("intercept", intercept)
    directions = _seen_directions(loss, training)
    seen = directions.shape[1]
    if seen > max(_NODES):
        raise ValueError(
            f"loss must depend on at most {max(_NODES)} combinations of scores, got {seen}: of more a quadrature has "
            "too many nodes"
        )
    number = _NODES[seen] if nodes is None else check_integer("nodes", nodes, 3)
    dtype = training.means.dtype

    turned = _Turned(loss, tuple(map(tuple, directions.tolist()))) if training.outputs else loss
    given = training, jnp.asarray(n, dtype), jnp.asarray(ridge, dtype), turned, fit
    if seen == 1:
        where, shares = gaussian_rule(1, number)
        found = _solved(*given, (jnp.asarray(where[:, 0], dtype), jnp.asarray(shares, dtype)))
    else:
        where, shares = rules(seen, number, _COARSE[seen])
        said = f"nodes must be more than {number}: {_UNRESOLVED}"
        found = solved_of_several(*given, (jnp.asarray(where, dtype), jnp.asarray(shares, dtype)), said, _QUADRATURE)
    if training.outputs:
        found = _turned_back(directions, *found)
    weights, offset, covariance, spread, *others = found
    return ConvexRegression(weights, offset, covariance, spread, mixture, *others)


def _seen_directions(loss: Loss, training: Mixture) -> Float[np.ndarray, "C r"]:
    """An orthonormal basis of the scores' combinations that a loss depends on; all where that cannot be told.

    By its slopes at random scores, of the mixture's labels or, where these are traced, of one class each.
    """
    if not training.outputs:
        return np.ones((1, 1))
    number, everything = training.outputs[0], np.eye(training.outputs[0])
    labels = np.asarray(training.labels) if is_concrete(training.labels) else everything
    scores = np.random.default_rng(0).normal(size=(len(labels), number + 2, number))
    with jax.ensure_compile_time_eval():
        each = jax.vmap(jax.vmap(jax.grad(loss), (0, None)))
        slopes: Any = each(*(jnp.asarray(part, training.means.dtype) for part in (scores, labels)))
    if not is_concrete(slopes):  # a loss of traced numbers
        return everything
    _, sizes, rows = np.linalg.svd(np.asarray(slopes).reshape(-1, number))
    seen = sizes > 1e-5 * sizes[0]
    return everything if seen.all() else rows[: len(sizes)][seen].T


@program
def _turned_back(
    directions: np.ndarray,
    weights: Array,
    offset: Array,
    covariance: Array,
    spread: Array,
    curvature: Array,
    step: Array,
    *others: Array,
) -> tuple[Array, ...]:
    """Of coordinates along the directions as of scores."""
    columns = jnp.asarray(directions, weights.dtype)
    r = columns.shape[1]

    def both(matrix: Array) -> Array:
        return matrix_product(columns, matrix_product(matrix.reshape(r, r), columns.T))

    return (
        matrix_product(weights.reshape(-1, r), columns.T), columns @ offset.reshape(r), both(covariance), both(spread),
        both(curvature), both(step), *others,
    )  # fmt: skip


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
    unresolved = f"nodes must be more than {len(nodes)}: {_UNRESOLVED}"
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
