"""Conditioning the clean posterior on the poison: the one calculation behind every law."""

import abc
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._failures import checked_result
from kpoison._linear_algebra import linear_solve, matrix_product
from kpoison._typing import Law
from kpoison.poison import Poison
from kpoison.ridge import Fitted, KernelExpansion, Observations, PosteriorAtRidge, Prior, Process
from kpoison.ridge.solvers.preparation import prepared

__all__ = [
    "EffectByGain",
    "PoisonEffect",
    "by_refit",
    "condition",
    "conditioning_system",
    "refit",
    "weighted",
]


class PoisonEffect(eqx.Module):
    """What the poison's weighted observations do to a process (posterior or prior) at one ρ = (n_c + Σm)λ."""

    @abc.abstractmethod
    def change(self) -> KernelExpansion:
        """Δf(x) = k̃(x, Z) s as a function of x (L2, L7)."""

    @abc.abstractmethod
    def change_coefficients(self) -> tuple[Array, Array]:
        """What of Δf depends on ρ: coefficients of the poison's and of the clean observations."""

    @abc.abstractmethod
    def mean_coefficients(self) -> Array:
        """What of f_c depends on ρ."""

    @abc.abstractmethod
    def mean(self, x: Array) -> Array:
        """f_c at points."""


class EffectByGain(PoisonEffect):
    """The effect by its gain.

    Attributes:
        reference: the clean posterior at ρ, or the prior for isolated laws.
        locations: Z, p points; with a gradient penalty their slopes are observed too, P = p(1 + r) numbers, else P = p.
        coefficients: s = G (y_t − f_c(Z)), the poison's dual coefficients, shape (P, C); slopes have a label of 0.
        gain: G = (ρI + M k̃(Z, Z))⁻¹ M with M = diag(m), shape (P, P); for clones S(m; λ) (L1).
    """

    reference: Process
    locations: Observations
    coefficients: Inexact[Array, "P C"]
    gain: Inexact[Array, "P P"]

    def change(self) -> KernelExpansion:
        """k̃(x, Z) s."""
        return self.reference.change_expansion(self.locations, *self.change_coefficients())

    def change_coefficients(self) -> tuple[Array, Array]:
        """s, and −A⁻¹k(X, Z)s."""
        return self.coefficients, self.reference.covariance_coefficients(self.locations, self.coefficients)

    def mean_coefficients(self) -> Array:
        """A⁻¹y."""
        return self.reference.mean_coefficients()

    def mean(self, x: Array) -> Array:
        """f_c at points."""
        return self.reference.mean(x)

    def covariances(self) -> list[KernelExpansion]:
        """x ↦ k̃(x, ζ_j) for each location."""
        points = self.locations.points
        one = jnp.ones((1, 1), points.dtype)
        return [self.reference.covariance_expansion(Observations(points[j : j + 1]), one) for j in range(len(points))]


class EffectByRefit(PoisonEffect):
    """The effect by training without and with the poison, where each column of a gain would be a solve.

    Attributes:
        reference: the clean posterior at ρ.
        locations: Z, as in `EffectByGain`.
        coefficients: s, as there.
        before: the clean data's dual coefficients in f_c, shape (N, C).
        moved: what the poison changes in them.
    """

    reference: PosteriorAtRidge
    locations: Observations
    coefficients: Inexact[Array, "P C"]
    before: Inexact[Array, "N C"]
    moved: Inexact[Array, "N C"]

    def change(self) -> KernelExpansion:
        """k̃(x, Z) s."""
        return self.reference.change_expansion(self.locations, *self.change_coefficients())

    def change_coefficients(self) -> tuple[Array, Array]:
        """s, and what it changes."""
        return self.coefficients, self.moved

    def mean_coefficients(self) -> Array:
        """Those before."""
        return self.before

    def mean(self, x: Array) -> Array:
        """f_c at points."""
        return self.reference.posterior.mean_expansion(self.before).values(x)


class WeightedPoison(NamedTuple):
    """The poison as the clean posterior observes it.

    Attributes:
        locations: Z, with slopes where there is a gradient penalty.
        labels: y_t, shape (P, C), 0 for slopes.
        counts: M, shape (P,).
        n: n_c + Σm.
    """

    locations: Observations
    labels: Float[Array, "P C"]
    counts: Float[Array, " P"]
    n: Float[Array, ""]


def weighted(clean: Fitted, poison: Poison) -> WeightedPoison:
    """The poison, of whose counts traced ones are checked here."""
    locations, labels, counts = poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)
    counts = checked_result(
        counts, [(~jnp.all((counts >= 0) & jnp.isfinite(counts)), "poison.count must be finite and >= 0")]
    )
    observed = clean.observations.at(locations)
    labels = observed.with_flat_slopes(labels)
    return WeightedPoison(observed, labels, observed.repeat(counts), clean.observations.total + jnp.sum(counts))


def conditioning_system(
    rho: Inexact[Array, ""], counts: Float[Array, " P"], covariance: Inexact[Array, "P P"]
) -> tuple[Inexact[Array, "P P"], Inexact[Array, " P"]]:
    """B and w such that conditioning on weighted observations solves B s = w (y_t − f_c(Z)): L7's system.

    Its rows are those of ρI + M k̃(Z, Z), scaled to a unit diagonal: elimination would lose the small counts beside the
    large ones.
    """
    scale = rho + counts * jnp.diagonal(covariance)
    system = (rho * jnp.eye(len(counts), dtype=counts.dtype) + counts[:, None] * covariance) / scale[:, None]
    return system, counts / scale


def condition(clean: Fitted, poison: WeightedPoison, rho: Inexact[Array, ""], law: Law) -> EffectByGain:
    """Condition on the poison (L1, L7).

    m clones are one observation with noise ρ/m; multiplying the usual (k̃ + diag(ρ/m))⁻¹ through by m keeps
    m = 0 an ordinary point, also for derivatives.  With a gradient penalty a clone observes its slopes as well, with
    the same noise (T1).
    """
    reference = clean.posterior.at(rho) if law == "exact" else Prior(clean.kernel, clean.outputs)
    counts = poison.counts
    covariance = reference.covariance(poison.locations)
    system, weights = conditioning_system(rho, counts, covariance)
    # A general solve would cost the clone law an LU factorisation.
    gain = weights[:, None] if len(counts) == 1 else linear_solve(system, jnp.diag(weights))
    gain = checked_result(
        gain,
        [
            (
                ~jnp.all(jnp.isfinite(gain)),
                "the poison's gain is not finite: the kernel is not positive definite on the data and the poison, "
                "or has non-finite values there",
            )
        ],
    )
    coefficients = matrix_product(gain, poison.labels - reference.mean(poison.locations))
    return EffectByGain(reference, poison.locations, coefficients, gain)


def by_refit(clean: Fitted) -> bool:
    """Whether the gain would take more solves than training with and without the poison does."""
    return bool(clean.observations.slopes) and not clean.factor.abilities.gain_by_columns


def refit(reference: PosteriorAtRidge, poison: WeightedPoison) -> EffectByRefit:
    """`condition` from two solves, without and with the poison, instead of one for each of its P observations."""
    clean, Z = reference.posterior, poison.locations
    number, own = len(Z.points), clean.observations.multiplicities
    together = clean.observations.with_points(
        jnp.concatenate([Z.points, clean.X]), jnp.concatenate([poison.counts[:number], own])
    )
    targets = together.right_hand_side(jnp.concatenate([poison.labels[:number], clean.targets]))
    solved = prepared(clean.factor.solver, clean.kernel, together).solve(reference.rho, targets)
    before, all_points = reference.mean_coefficients(), len(together.points)
    slopes = Z.number - number
    first, second = solved[:all_points], solved[all_points:]
    of_poison = jnp.concatenate([first[:number], second[:slopes]])
    after = jnp.concatenate([first[number:], second[slopes:]])
    return EffectByRefit(reference, Z, of_poison, before, after - before)
