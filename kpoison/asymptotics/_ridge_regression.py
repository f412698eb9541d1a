"""Ridge regression on poisoned mixtures: scores, accuracy and attack success without training (R1, R2)."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from kpoison._effective_ridge import EffectiveRidge
from kpoison._failures import checked_result, program
from kpoison._linear_algebra import leading_eigenpair, linear_solve, matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_finite, check_flag, check_floating, check_positive, is_concrete, public
from kpoison.asymptotics.mixture import Backdoor, Mixture
from kpoison.asymptotics.rates import EstimatedRate, rate_of_labels

__all__ = ["RidgeRegression", "Scores", "ridge_regression"]


class Scores(NamedTuple):
    """The law N(mean, covariance) of a model's scores, over test points and training sets.

    Attributes:
        mean: of each input's mean, shape (q, C); without the axes that were not given.
        covariance: the same for all, (C, C), or () for labels (K,).
    """

    mean: Float[Array, "..."]
    covariance: Float[Array, "..."]


class RidgeRegression(eqx.Module):
    """What ridge regression on a mixture does, on average over training sets and in the proportional limit.

    Labels of shape (K,) have one output, whose axis C is left out.

    Attributes:
        effective_ridge: λ_e.
        degrees_of_freedom: df1 = tr Σ(Σ + λ_e)⁻¹.
        weights: B̄, the mean weights, (d, C).
        intercept: b̄, (C,); 0 without intercept.
        error: E, the mean outer product of residuals at new points of the training mixture, (C, C).
        training_error: the mean squared residual at the training points, summed over outputs.
        covariance: V of the scores, (C, C).
        spread: the covariance of an output's weights, summed over the inputs: BᵀB ≈ B̄ᵀB̄ + spread, (C, C).
        mixture: trained on.
    """

    effective_ridge: Float[Array, ""]
    degrees_of_freedom: Float[Array, ""]
    weights: Float[Array, "d *C"]
    intercept: Float[Array, "*C"]
    error: Float[Array, "..."]
    training_error: Float[Array, ""]
    covariance: Float[Array, "..."]
    spread: Float[Array, "..."]
    mixture: Mixture | Backdoor

    def scores(self, x: Float[ArrayLike, "..."]) -> Scores:
        """Of inputs N(x, Σ), such as those of a class or of triggered ones, x of shape (d,) or (q, d)."""
        return scores_at(self.weights, self.intercept, self.covariance, x)

    def accuracy(
        self, clean: Mixture | None = None, *, draws: int = 10_000, key: PRNGKeyArray | None = None
    ) -> Float[Array, ""] | EstimatedRate:
        """The share of test points that are given the class of their label.

        Args:
            clean: that they are drawn from; by default a `Backdoor`'s own, or the training mixture.
            draws: for more than two outputs, whose probability is sampled.
            key: of the draws, needed there.

        Returns:
            A number; an `EstimatedRate` for more than two outputs.
        """
        return rate(self, clean, "clean", draws, key)

    def attack_success_rate(
        self, triggered: Mixture | None = None, *, draws: int = 10_000, key: PRNGKeyArray | None = None
    ) -> Float[Array, ""] | EstimatedRate:
        """The share of triggered test points that are given the target.

        Args:
            triggered: that they are drawn from, with the target's label; by default a `Backdoor`'s own.
            draws: as for `accuracy`.
            key: as for `accuracy`.
        """
        return rate(self, triggered, "triggered", draws, key)

    def overlap(self, direction: Float[ArrayLike, " d"]) -> Float[Array, ""]:
        """cos² between a direction and the leading eigenvector of the model's input Hessian BBᵀ (R2)."""
        return overlap_of(self.weights, self.spread, direction)


@public
def ridge_regression(
    mixture: Mixture | Backdoor, n: Scalar, ridge: Scalar, intercept: bool | np.bool_ = True
) -> RidgeRegression:
    """Ridge regression on n points of a mixture, without training: the proportional limit (R1, R2).

    Of the minimiser of (1/2n) Σ‖Bᵀx_i + b − y_i‖² + (λ/2)‖B‖², b free: the weights and scores of a training set
    differ from these by O(1/√n) each, rates by O(1/n) on average.  n, λ and all numbers of the mixture can be
    differentiated in; without a ridge it is the interpolant of least norm below the rank and least squares above it.

    Args:
        mixture: that training points are drawn from; a `Backdoor` also knows what is asked of it.
        n: training points, at least as many as classes.
        ridge: λ >= 0 of the mean loss.
        intercept: whether b is fitted, or 0.

    Returns:
        A `RidgeRegression`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit: fractions, a covariance that is not positive
            semi-definite, no ridge for a covariance of lower rank than n.

    >>> import numpy as np
    >>> from kpoison.asymptotics import backdoor_mixture
    >>> attack = backdoor_mixture(np.eye(50)[0], np.ones(50), np.eye(50)[1], fraction=0.1, strength=3.0)
    >>> model = ridge_regression(attack, n=200, ridge=0.1)
    >>> round(float(model.accuracy()), 3), round(float(model.attack_success_rate()), 3)
    (0.75, 0.698)
    """
    training = check_problem(mixture, n, ridge)
    fit = check_flag("intercept", intercept)
    dtype = training.means.dtype
    found = _solved(training, jnp.asarray(n, dtype), jnp.asarray(ridge, dtype), fit)
    single = training.outputs == ()
    weights, offset, *squares = (part[..., 0] if single else part for part in found[2:])
    error, covariance, spread = (part[..., 0] if single else part for part in squares[:3])
    effective: EffectiveRidge = found[0]
    return RidgeRegression(
        effective.value, effective.df1, weights, offset, error, found[1], covariance, spread, mixture
    )


def check_problem(mixture: Any, n: Any, ridge: Any, *, zero: bool = True) -> Mixture:
    """The training mixture; refuse what is none, and numbers that do not fit."""
    if not isinstance(mixture, Mixture | Backdoor):
        raise TypeError(f"mixture must be a Mixture or a Backdoor, got {type(mixture).__name__}")
    training = mixture.training if isinstance(mixture, Backdoor) else mixture
    check_positive("n", n)
    check_positive("ridge", ridge, zero=zero)
    classes = _classes(training)
    if is_concrete(n) and float(n) < classes:
        raise ValueError(f"n must be at least {classes}, the number of classes, got {n}")
    return training


def _classes(mixture: Mixture) -> int:
    return max((2, *mixture.outputs))


def number_failures(mixture: Mixture, n: Array, ridge: Array, *, zero: bool = True) -> list[tuple[Array, str]]:
    """`check_problem` of numbers that are traced."""
    classes = _classes(mixture)
    low = (ridge < 0) if zero else (ridge <= 0)
    return [
        (~(n >= classes) | ~jnp.isfinite(n), f"n must be finite and at least {classes}, the number of classes"),
        (low | ~jnp.isfinite(ridge), f"ridge must be finite and {'>= 0' if zero else '> 0'}"),
    ]


@program
def _solved(mixture: Mixture, n: Array, ridge: Array, intercept: bool) -> tuple[Any, ...]:
    sigma, M, pi = mixture.decomposed(), mixture.means, mixture.fractions
    pi = checked_result(pi, [*mixture.failures(sigma), *number_failures(mixture, n, ridge)])
    T = mixture.labels.reshape(len(M), -1)
    effective = sigma.effective_ridge(n, ridge)
    x = effective.value
    singular = (x == 0) & ~(sigma.smallest() > 0)
    x = checked_result(x, [(singular, "ridge must be > 0 where n exceeds the rank of a singular covariance")])
    mean_input, mean_label = (pi @ M, pi @ T) if intercept else (jnp.zeros_like(M[0]), jnp.zeros_like(T[0]))
    centred, targets = M - mean_input[None], T - mean_label[None]
    spanned = sigma.solve(x, centred.T)  # (d, K)
    gram = matrix_product(centred, spanned)
    # Not symmetric, so that a component of fraction 0 is an ordinary one.
    inner = linear_solve(jnp.eye(len(M), dtype=M.dtype) + pi[:, None] * gram, pi[:, None] * targets)
    B = matrix_product(spanned, inner)
    b = mean_label - mean_input @ B
    residuals = matrix_product(M, B) + b[None] - T
    signal = matrix_product(B.T, sigma.product(B))
    E = (signal + matrix_product(residuals.T, pi[:, None] * residuals)) * effective.sensitivity
    V = signal + E * effective.df2 / n
    spread = E * sigma.trace(1, 2, x) / n
    return effective, effective.shrinkage**2 * jnp.trace(E), B, b, E, V, spread


def scores_at(weights: Array, intercept: Array, covariance: Array, x: Any) -> Scores:
    """Scores of a linear model at input means."""
    points = check_floating("x", x).astype(weights.dtype)
    if points.ndim not in (1, 2) or points.shape[-1] != len(weights):
        raise ValueError(f"x must have shape ({len(weights)},) or (q, {len(weights)}), got {points.shape}")
    check_finite("x", points)
    mean = jnp.matmul(points, weights, precision="highest")
    return Scores(mean + jnp.broadcast_to(intercept, mean.shape), covariance)


def rate(model: Any, asked: Any, name: str, draws: Any, key: Any) -> Float[Array, ""] | EstimatedRate:
    """The share of a mixture's points that a model of Gaussian scores gives the class of their label."""
    if asked is None:
        known = model.mixture
        if isinstance(known, Backdoor):
            asked = known.clean if name == "clean" else known.triggered
        elif name == "clean":
            asked = known
        else:
            raise ValueError(
                "triggered must be given: a model of a Mixture knows of no trigger, that of a Backdoor does"
            )
    if not isinstance(asked, Mixture):
        raise TypeError(f"{name} must be a Mixture, got {type(asked).__name__}")
    if asked.outputs != model.weights.shape[1:] or asked.means.shape[1] != len(model.weights):
        raise ValueError(
            f"{name} must have {len(model.weights)} inputs and outputs of shape {model.weights.shape[1:]}, as the "
            f"model has, got {asked.means.shape[1]} and {asked.outputs}"
        )
    labels = asked.labels
    if labels.ndim == 1 and is_concrete(labels) and bool(jnp.any(labels == 0)):
        raise ValueError(f"{name} must have labels other than 0, of whose sign is asked")
    mean = scores_at(model.weights, model.intercept, model.covariance, asked.means).mean
    return rate_of_labels(mean, model.covariance, labels, asked.fractions, draws, key)


def overlap_of(weights: Array, spread: Array, direction: Any) -> Float[Array, ""]:
    """cos² of a direction with the leading eigenvector of BBᵀ."""
    u = check_floating("direction", direction).astype(weights.dtype)
    if u.shape != weights.shape[:1]:
        raise ValueError(f"direction must have shape {weights.shape[:1]}, got {u.shape}")
    check_finite("direction", u)
    if is_concrete(u) and not bool(jnp.any(u != 0)):
        raise ValueError("direction must not be 0")
    columns = weights.reshape(len(weights), -1)
    return _overlap(columns, spread.reshape(columns.shape[1], columns.shape[1]), u)


@program
def _overlap(B: Array, spread: Array, u: Array) -> Float[Array, ""]:
    value, vector, _ = leading_eigenpair(matrix_product(B.T, B) + spread, jnp.ones(B.shape[1], B.dtype))
    along = u @ B @ vector
    return along**2 / (value * jnp.sum(u**2))
