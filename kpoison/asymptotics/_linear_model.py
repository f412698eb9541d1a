"""What linear models on mixtures have in common: Gaussian scores, rates and overlap (R1, R2, R5)."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from kpoison._failures import program
from kpoison._linear_algebra import leading_eigenpair, matrix_product
from kpoison._validation import check_finite, check_floating, check_positive, is_concrete
from kpoison.asymptotics.mixture import Backdoor, Mixture
from kpoison.asymptotics.rates import EstimatedRate, rate_of_labels

__all__ = ["LinearModel", "Scores", "check_problem", "number_failures"]


class Scores(NamedTuple):
    """The law N(mean, covariance) of a model's scores, over test points and training sets.

    Attributes:
        mean: of each input's mean, shape (q, C); without the axes that were not given.
        covariance: the same for all, (C, C), or () for labels (K,).
    """

    mean: Float[Array, "..."]
    covariance: Float[Array, "..."]


class LinearModel(eqx.Module):
    """A linear model that is trained on a mixture, on average over training sets and in the proportional limit.

    Labels of shape (K,) have one output, whose axis C is left out.

    Attributes:
        weights: B̄, the mean weights, (d, C).
        intercept: b̄, (C,); 0 without intercept.
        covariance: V of the scores, (C, C).
        spread: the covariance of an output's weights, summed over the inputs: BᵀB ≈ B̄ᵀB̄ + spread, (C, C).
        mixture: trained on.
    """

    weights: Float[Array, "d *C"]
    intercept: Float[Array, "*C"]
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
            draws: for more than three outputs, whose probability is sampled.
            key: of the draws, needed there.

        Returns:
            A number; an `EstimatedRate` for more than three outputs.
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
