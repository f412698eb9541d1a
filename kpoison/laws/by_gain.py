"""Laws in which the count enters through the gain alone: what gain is needed, and what count has it (L9)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison.laws.inputs import CleanInputs, LawInputs
from kpoison.ridge import KernelExpansion

__all__ = ["ByGainAlone", "by_gain_alone", "root"]


class ByGainAlone(NamedTuple):
    """Clones at ζ beside a clean predictor that does not depend on how many they are.

    With the gain S = m/(rest + m/largest) they change it by S·residual·k̃(x, ζ).

    Attributes:
        mean: f_c as a function of x.
        covariance: x ↦ k̃(x, ζ).
        residual: y_t − f_c(ζ), shape (C,).
        rest: ρ; or n_c λ, where ρ grows by λ with each clone.
        largest: S as m → ∞: 1/k̃(ζ, ζ); or 1/(k(ζ, ζ) + λ).
    """

    mean: KernelExpansion
    covariance: KernelExpansion
    residual: Float[Array, " C"]
    rest: Float[Array, ""]
    largest: Float[Array, ""]

    def count_of(self, gain: Float[Array, ""]) -> Float[Array, ""]:
        """The count that has this gain: m = rest·S/(1 − S/largest), ∞ where no count has (L9)."""
        reached = gain < self.largest
        inside = jnp.where(reached, gain, 0)
        return jnp.where(reached, self.rest * inside / (1 - inside / self.largest), jnp.inf)

    def gain_of_success(self, point: Float[Array, "..."], label: Float[Array, " C"]) -> Float[Array, ""]:
        """s₁: the smallest gain at which the prediction at a point is the label's; 0 if it is without, ∞ if at none."""
        start = self.mean.values(point[None])[0]
        slope = self.residual * self.covariance.values(point[None])[0, 0]
        if len(start) == 1:
            lead, rise = (values * jnp.sign(label) for values in (start, slope))
        else:
            target, others = jnp.argmax(label), jnp.arange(len(start)) != jnp.argmax(label)
            # Of the target itself: always ahead.
            lead, rise = (jnp.where(others, values[target] - values, 1) for values in (start, slope))
        behind, rises, falls = lead <= 0, rise > 0, rise < 0
        catches_up = -lead / jnp.where(rises, rise, 1)
        first = jnp.max(jnp.where(behind, jnp.where(rises, catches_up, jnp.inf), 0))
        falls_back = jnp.where(~behind & falls, -lead / jnp.where(falls, rise, -1), jnp.inf)
        return jnp.where(first < jnp.min(falls_back), first, jnp.inf)

    def slope(self, point: Float[Array, "..."]) -> Float[Array, ""]:
        """‖residual‖ ‖∇k̃(x, ζ)‖: the root of the spike for a gain of 1, added up over the outputs."""
        squares = self.covariance.squared_gradient_norms(point[None])[0, 0]
        return root(squares * jnp.sum(self.residual**2))

    def clean_slope(self, point: Float[Array, "..."]) -> Float[Array, ""]:
        """‖∇f_c(x)‖, added up over the outputs."""
        return root(jnp.sum(self.mean.squared_gradient_norms(point[None])[0]))

    def gain_of_visibility(self, point: Float[Array, "..."], slope: Float[Array, ""]) -> Float[Array, ""]:
        """s₂: the gain at which √Λ at a point is this slope; ∞ where the poison has none."""
        own = self.slope(point)
        return jnp.where(own > 0, slope / jnp.where(own > 0, own, 1), jnp.inf)


def root(square: Float[Array, ""]) -> Float[Array, ""]:
    """√, with a derivative of 0 where it is 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def by_gain_alone(inputs: LawInputs) -> ByGainAlone:
    """For an exact law everything at ρ = (n_c + m)λ of the poison's own count m, which stays as the count varies.

    For an isolated one ρ grows with the count, and f_c is that of n_c λ.

    Raises:
        ValueError: for a gradient penalty, with which the poison's slopes are observed too; for a stopped posterior.
    """
    clean = inputs.clean
    if clean.observations.slopes:
        raise ValueError(
            "clean must be fitted without a gradient penalty, with which the poison's slopes are observed too: ask "
            'for law="exact"'
        )
    effect = inputs.effect()
    (covariance,), Z = effect.covariances(), effect.locations
    residual = (inputs.poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)[1] - effect.mean(Z.points))[
        0
    ]
    own = effect.reference.covariance(Z)[0, 0]
    ridge, n = jnp.asarray(inputs.ridge), clean.observations.total
    if inputs.law == "isolated":
        (mean,) = CleanInputs(clean, inputs.ridge).terms()
        return ByGainAlone(mean, covariance, residual, n * ridge, 1 / (own + ridge))
    mean = clean.posterior.mean_expansion(effect.mean_coefficients())
    return ByGainAlone(mean, covariance, residual, (n + jnp.sum(inputs.poison.count)) * ridge, 1 / own)
