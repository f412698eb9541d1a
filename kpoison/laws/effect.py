"""Conditioning the clean posterior on the poison: the one calculation behind every law."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._failures import checked_result
from kpoison._linear_algebra import linear_solve, matrix_product
from kpoison._typing import Law, Scalar
from kpoison._validation import check_name, check_points, check_positive, in_dtype
from kpoison.poison import Poison
from kpoison.ridge import KernelExpansion, Posterior, PosteriorAtRidge, Prior
from kpoison.ridge.early_stopping import at_time, stopped_ridge
from kpoison.ridge.iterative import IterativeFactor, weighted_solve
from kpoison.ridge.observations import Observations
from kpoison.ridge.posterior import check_conditioning, checked_ridge

__all__ = [
    "PoisonEffect",
    "as_points",
    "change",
    "change_expansion",
    "check_law_arguments",
    "conditioning_system",
    "like_targets",
    "linear_in_effect",
    "poison_effect",
    "resolved_ridge",
]

T = TypeVar("T")


class PoisonEffect(eqx.Module):
    """The poison as weighted observations, and the process (posterior or prior) that they condition, at one ρ.

    Attributes:
        reference: the clean posterior at ρ = (n_c + Σm)λ, or the prior for isolated laws.
        locations: Z, p points; with a gradient penalty their slopes are observed too, P = p(1 + r) numbers, else P = p.
        gain: G = (ρI + M k̃(Z, Z))⁻¹ M with M = diag(m), shape (P, P); for clones S(m; λ) (L1).
            None where solves are iterative and slopes are observed: a column of it would be a solve.
        coefficients: s = G (y_t − f_c(Z)), the poison's dual coefficients, shape (P, C); slopes have a label of 0.
        clean: without a gain, the clean data's dual coefficients in f_c, and what the poison changes in them.
    """

    reference: PosteriorAtRidge | Prior
    locations: Observations
    gain: Inexact[Array, "P P"] | None
    coefficients: Inexact[Array, "P C"]
    clean: tuple[Inexact[Array, "N C"], Inexact[Array, "N C"]] | None = None

    def change(self) -> KernelExpansion:
        """Δf(x) = k̃(x, Z) s as a function of x (L2, L7)."""
        there, here = self.change_coefficients()
        if isinstance(self.reference, Prior):
            return self.reference.change_expansion(self.locations, there)
        assert here is not None
        return self.reference.posterior.change_expansion(self.locations, there, here)

    def change_coefficients(self) -> tuple[Array, Array | None]:
        """What of Δf depends on ρ."""
        if self.clean is not None:
            return self.coefficients, self.clean[1]
        return self.coefficients, self.reference.covariance_coefficients(self.locations, self.coefficients)

    def mean_coefficients(self) -> Array:
        """What of f_c depends on ρ."""
        if self.clean is not None:
            return self.clean[0]
        assert isinstance(self.reference, PosteriorAtRidge)
        return self.reference.mean_coefficients()

    def mean(self, x: Array) -> Array:
        """f_c at points."""
        if self.clean is not None:
            assert isinstance(self.reference, PosteriorAtRidge)
            return self.reference.posterior.mean_expansion(self.clean[0]).values(x)
        return self.reference.mean(x)

    def covariances(self) -> list[KernelExpansion]:
        """x ↦ k̃(x, ζ_j) for each location."""
        points = self.locations.points
        one = jnp.ones((1, 1), points.dtype)
        return [self.reference.covariance_expansion(Observations(points[j : j + 1]), one) for j in range(len(points))]


class _WeightedPoison(NamedTuple):
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


def _weighted(clean: Posterior, poison: Poison) -> _WeightedPoison:
    locations, labels, counts = poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)
    counts = checked_result(
        counts, [(~jnp.all((counts >= 0) & jnp.isfinite(counts)), "poison.count must be finite and >= 0")]
    )
    observed = Observations(locations, clean.root)
    labels = observed.with_flat_slopes(labels)
    return _WeightedPoison(observed, labels, observed.repeat(counts), len(clean.X) + jnp.sum(counts))


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


def _condition(clean: Posterior, poison: _WeightedPoison, rho: Inexact[Array, ""], law: Law) -> PoisonEffect:
    """Condition on the poison (L1, L7).

    m clones are one observation with noise ρ/m; multiplying the usual (k̃ + diag(ρ/m))⁻¹ through by m keeps
    m = 0 an ordinary point, also for derivatives.  With a gradient penalty a clone observes its slopes as well, with
    the same noise (T1).
    """
    if law == "exact" and clean.root is not None and isinstance(clean.factor, IterativeFactor):
        return _refit(clean.at(rho), poison, clean.factor)
    reference = clean.at(rho) if law == "exact" else Prior(clean.kernel, clean.outputs)
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
    return PoisonEffect(reference, poison.locations, gain, coefficients)


def _refit(reference: PosteriorAtRidge, poison: _WeightedPoison, factor: IterativeFactor) -> PoisonEffect:
    """The same from two solves, without and with the poison, instead of one for each of its P observations."""
    clean, Z = reference.posterior, poison.locations
    number, here = len(Z.points), clean.observations
    together = Observations(jnp.concatenate([Z.points, clean.X]), clean.root)
    weights = jnp.concatenate([poison.counts[:number], jnp.ones(len(clean.X), clean.X.dtype)])
    targets = together.with_flat_slopes(jnp.concatenate([poison.labels[:number], clean.targets]))
    solved = weighted_solve(factor.method, clean.kernel, together, weights, reference.rho, targets)
    before, all_points = reference.mean_coefficients(), len(together.points)
    slopes = Z.number - number
    first, second = solved[:all_points], solved[all_points:]
    there = jnp.concatenate([first[:number], second[:slopes]])
    after = jnp.concatenate([first[number:], second[slopes:]])
    assert len(after) == here.number
    return PoisonEffect(reference, Z, None, there, (before, after - before))


def poison_effect(clean: Posterior, poison: Poison, ridge: Scalar, law: Law) -> PoisonEffect:
    """The clean posterior conditioned on the poison, trained to the end.

    Raises:
        ValueError: for a posterior that is stopped early: its effect is no conditioning, see `linear_in_effect`.
    """
    if clean.time is not None:
        raise ValueError(
            "clean must be trained to the end, got one stopped early: the gain, and with it spike/efficacy², is that "
            "of a ridge predictor, and along the flow depends on the label; ask for efficacy and spike instead"
        )
    if law == "exact" and clean.root is not None and isinstance(clean.factor, IterativeFactor):
        raise ValueError(
            "clean must be fitted by a dense solver for the gain: with conjugate gradients and a gradient penalty each "
            "of its columns would be a solve; ask for efficacy and spike instead"
        )
    weighted = _weighted(clean, poison)
    return _condition(clean, weighted, weighted.n * resolved_ridge(clean, ridge, weighted.n, law), law)


def linear_in_effect(
    clean: Posterior, poison: Poison, ridge: Scalar, law: Law, function: Callable[[PoisonEffect], T]
) -> T:
    """`function` of the poison's effect, linear in it, at the time at which training is stopped, if it is (T2)."""
    weighted = _weighted(clean, poison)

    def at(rho):
        return function(_condition(clean, weighted, rho, law))

    one_by_one = clean.factor.iterative
    return at_time(at, weighted.n, resolved_ridge(clean, ridge, weighted.n, law), clean.time, one_by_one=one_by_one)


def resolved_ridge(clean: Posterior, ridge: Scalar, n: Scalar, law: Law = "exact") -> Float[Array, ""]:
    """λ, checked, with a warning where K + nλI is ill-conditioned; isolated laws solve with no such matrix."""
    ridge = checked_ridge(clean, ridge)
    if law == "exact":
        check_conditioning(clean, n * stopped_ridge(ridge, clean.time))
    return ridge


def change(clean: Posterior, poison: Poison, ridge: Scalar, law: Law) -> KernelExpansion:
    """Δf as a function of x: a kernel expansion over the poison's locations and the clean data."""
    coefficients = linear_in_effect(clean, poison, ridge, law, PoisonEffect.change_coefficients)
    return change_expansion(clean, poison, law, coefficients)


def change_expansion(
    clean: Posterior, poison: Poison, law: Law, coefficients: tuple[Array, Array | None]
) -> KernelExpansion:
    """Δf from its `PoisonEffect.change_coefficients`."""
    locations, (there, here) = _weighted(clean, poison).locations, coefficients
    if law == "isolated":
        return Prior(clean.kernel, clean.outputs).change_expansion(locations, there)
    assert here is not None
    return clean.change_expansion(locations, there, here)


def check_law_arguments(arguments: dict[str, Any]) -> None:
    """Boundary checks common to the laws; turns x and ridge into arrays of the data's dtype."""
    clean, poison = arguments["clean"], arguments.get("poison")
    if not isinstance(clean, Posterior):
        raise TypeError(f"clean must be a Posterior made by kpoison.fit, got {type(clean).__name__}")
    if poison is not None or "law" in arguments:
        if not isinstance(poison, Poison):
            raise TypeError(f"poison must be a kpoison.Poison, got {type(poison).__name__}")
        poison.check_shapes(clean.X.shape[1:], clean.outputs)
    check_positive("ridge", arguments["ridge"], zero=clean.time is not None)
    arguments["ridge"] = in_dtype(arguments["ridge"], clean.X.dtype)
    if "law" in arguments:
        arguments["law"] = check_name("law", arguments["law"], get_args(Law))
    if "x" in arguments:
        arguments["x"] = check_points("x", arguments["x"], clean.kernel.point_ndim, like=clean.X, single=True)


def like_targets(clean: Posterior, x: Array, values: Array, trailing: int = 0) -> Array:
    """Drop the axes that the caller did not give: points if x was a single one, outputs if y had no such axis.

    `values` has shape (q, C, ...) with `trailing` axes after the outputs.
    """
    if clean.y.ndim == 1:
        values = jnp.squeeze(values, axis=values.ndim - 1 - trailing)
    return values[0] if x.ndim == clean.X.ndim - 1 else values


def as_points(clean: Posterior, x: Array) -> Array:
    """x with an axis for the points."""
    return x[None] if x.ndim == clean.X.ndim - 1 else x
