"""Brute force: train again with the poison physically in the training set, and predict."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.stats
from jax import Array
from numpy.typing import ArrayLike

import kpoison as kp
from kpoison.ridge import KernelExpansion, Representers
from kpoison.statistics import t_half_width
from theory_checks.record import FALSE_ALARM, Comparison, compare, of_square

__all__ = ["Change", "Predictor", "Refitter", "compare_log_ratios", "compare_with_refit", "weighted_refit"]

_EPS = float(np.finfo(float).eps)


@eqx.filter_jit
def _evaluate(kernel: kp.kernels.Kernel, centres: Array, weights: Array, probes: Array):
    """Values and gradients of Σ_i k(x, c_i) w_i, and the norms ‖k(x, c)‖ and ‖∇k(x, c)‖ of their terms."""

    def at(x):
        values, gradients = jax.vmap(lambda c: jax.value_and_grad(kernel.evaluate)(x, c))(centres)
        norms = jnp.linalg.norm(values), jnp.linalg.norm(gradients)
        return values @ weights, weights @ gradients, *norms

    return jax.lax.map(at, probes)


@eqx.filter_jit
def _cross(kernel: kp.kernels.Kernel, locations: Array, X: Array) -> tuple[Array, Array]:
    """k(locations, X) and k(locations, locations), from differences."""
    return kernel.pairwise(locations, X), kernel.pairwise(locations, locations)


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A refitted predictor.

    Attributes:
        kernel, centres, weights: f(x) = Σ k(x, c_i) w_i over distinct points.
        clone_coefficients: dual coefficient of every physical poison copy.
        rounding: 10 · eps · cond(A) · ‖α‖, to be multiplied by ‖k(x, ·)‖.
    """

    kernel: kp.kernels.Kernel
    centres: Array
    weights: np.ndarray
    clone_coefficients: np.ndarray
    rounding: float

    def evaluate(self, probes: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Values (q,), gradients (q, d), and the rounding of both (q,)."""
        found = _evaluate(self.kernel, self.centres, jnp.asarray(self.weights), probes)
        values, gradients, value_norms, gradient_norms = (np.asarray(a) for a in found)
        return values, gradients, self.rounding * value_norms, self.rounding * gradient_norms


@dataclasses.dataclass(frozen=True)
class Change:
    """Δf at the probes by two refits, and how far rounding can have moved it.

    Attributes:
        efficacy, gradient: Δf (q,) and ∇Δf (q, d).
        efficacy_rounding, gradient_rounding: of both, shape (q,).
    """

    efficacy: np.ndarray
    gradient: np.ndarray
    efficacy_rounding: np.ndarray
    gradient_rounding: np.ndarray

    @property
    def spike(self) -> np.ndarray:
        """‖∇Δf‖²."""
        return np.sum(self.gradient**2, axis=1)

    @property
    def spike_rounding(self) -> np.ndarray:
        """Of the spike."""
        return of_square(self.spike, self.gradient_rounding)

    @property
    def ratio(self) -> np.ndarray:
        """q = Λ/Δf²."""
        return self.spike / self.efficacy**2

    @property
    def ratio_rounding(self) -> np.ndarray:
        """Of the ratio, to first order."""
        relative = self.spike_rounding / self.spike + 2 * self.efficacy_rounding / np.abs(self.efficacy)
        return self.ratio * relative


def compare_with_refit(quantity: str, law: ArrayLike, refit: ArrayLike, rounding: ArrayLike) -> Comparison:
    """The law against refits, which agree to the rounding that their attributes bound."""
    reason = "10 · eps · condition number, times the size of the sums that are subtracted"
    return compare(quantity, "refit", law, refit, rounding, reason)


def compare_log_ratios(quantity: str, log_ratios: np.ndarray, drawn: str) -> Comparison:
    """Measured over predicted, the logarithm of each draw's ratio: on average 0, by a t-interval over the draws."""
    number, error = len(log_ratios), scipy.stats.sem(log_ratios)
    tolerance = t_half_width(error, number, FALSE_ALARM)
    reason = f"t-interval over {number} draws of {drawn} at {FALSE_ALARM:g}"
    return compare(quantity, "refit", 0.0, np.mean(log_ratios), tolerance, reason)


def weighted_refit(
    kernel: kp.kernels.Kernel, points: Array, gram: np.ndarray, targets: np.ndarray, weights: np.ndarray, rho: float
) -> kp.laws.Predictor:
    """Trained on points that count by their weights, real numbers >= 0: (K + ρ diag(1/w)) α = y."""
    used = np.flatnonzero(weights)
    system = gram[np.ix_(used, used)] + np.diag(rho / weights[used])
    # A coefficient of 0 for what does not count: of all weights one shape, so that everything compiles once.
    alpha = np.zeros(targets.shape)
    alpha[used] = scipy.linalg.solve(system, targets[used], assume_a="pos")
    expansion = KernelExpansion(Representers(kernel, points), jnp.asarray(alpha.reshape(len(points), -1)))
    return kp.laws.Predictor(expansion, targets.ndim == 1)


class Refitter:
    """Refits of one kernel on one clean data set, with poisons as physical copies of training points."""

    def __init__(self, kernel: kp.kernels.Kernel, X: Array, y: Array):
        self.kernel, self.X, self.y = kernel, X, np.asarray(y)
        self.gram = np.asarray(kernel(X))
        self.largest = float(np.linalg.norm(self.gram, 2))

    def fit(self, ridge: float, total: int, locations: Array, labels, counts) -> Predictor:
        """Train on the clean data and `counts` copies of each location, with A = K + total·ridge·I."""
        n, counts = len(self.X), np.asarray(counts, int)
        locations = jnp.atleast_2d(locations)
        cross, own = map(np.asarray, _cross(self.kernel, locations, self.X))
        distinct = np.block([[self.gram, cross.T], [cross, own]])
        rows = np.concatenate([np.arange(n), n + np.repeat(np.arange(len(counts)), counts)])
        targets = np.concatenate([self.y, np.repeat(np.atleast_1d(labels), counts)])
        rho = total * ridge
        system = distinct[np.ix_(rows, rows)] + rho * np.eye(len(rows))
        alpha = scipy.linalg.cho_solve(scipy.linalg.cho_factor(system, lower=True), targets)
        weights = np.bincount(rows, weights=alpha, minlength=len(distinct))
        condition = (self.largest + counts @ np.diag(own) + rho) / rho
        return Predictor(
            self.kernel,
            jnp.concatenate([self.X, locations]),
            weights,
            alpha[n:],
            10 * _EPS * float(condition) * float(np.linalg.norm(alpha)),
        )

    def pair(self, ridge: float, locations: Array, labels, counts) -> tuple[Predictor, Predictor]:
        """The clean and the poisoned predictor, both at ρ = (n_c + Σm)λ."""
        counts = np.atleast_1d(np.asarray(counts, int))
        total = len(self.X) + int(counts.sum())
        none = np.zeros_like(counts)
        labels = np.broadcast_to(np.asarray(labels, float), counts.shape)
        return (self.fit(ridge, total, locations, labels, none), self.fit(ridge, total, locations, labels, counts))

    def change(self, ridge: float, locations: Array, labels, counts, probes: Array) -> Change:
        """Δf and ∇Δf at the probes."""
        (f0, g0, v0, e0), (f1, g1, v1, e1) = (
            predictor.evaluate(probes) for predictor in self.pair(ridge, locations, labels, counts)
        )
        return Change(f1 - f0, g1 - g0, v0 + v1, e0 + e1)
