"""Conditioning the clean posterior on the poison: the one calculation behind every law."""

from typing import Any, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._typing import Law, Scalar
from kpoison._validation import check_floating, check_name, check_points, check_positive, checked_result
from kpoison.kernels.base import matrix_product
from kpoison.poison import Poison
from kpoison.ridge import KernelExpansion, Posterior, PosteriorAtRidge, Prior
from kpoison.ridge.observations import Observations
from kpoison.ridge.posterior import check_conditioning, effective_ridge

__all__ = ["PoisonEffect", "check_law_arguments", "like_targets", "poison_effect"]


class PoisonEffect(eqx.Module):
    """The poison as weighted observations, and the process (posterior or prior) that they condition.

    Attributes:
        reference: the clean posterior at ρ = (n_c + Σm)λ, or the prior for isolated laws.
        rho: ρ.
        locations: Z, p points; with a gradient penalty their slopes are observed too, P = p(1 + r) numbers, else P = p.
        gain: G = (ρI + M k̃(Z, Z))⁻¹ M with M = diag(m), shape (P, P); for clones S(m; λ) (L1).
        coefficients: s = G (y_t − f_c(Z)), the poison's dual coefficients, shape (P, C); slopes have a label of 0.
    """

    reference: PosteriorAtRidge | Prior
    rho: Float[Array, ""]
    locations: Observations
    gain: Float[Array, "P P"]
    coefficients: Float[Array, "P C"]

    def change(self) -> KernelExpansion:
        """Δf(x) = k̃(x, Z) s as a function of x (L2, L7)."""
        return self.reference.covariance_expansion(self.locations, self.coefficients)

    def covariances(self) -> list[KernelExpansion]:
        """x ↦ k̃(x, ζ_j) for each location."""
        points = self.locations.points
        return [
            self.reference.covariance_expansion(Observations(points[j : j + 1]), jnp.ones((1, 1), self.rho.dtype))
            for j in range(len(points))
        ]


def poison_effect(clean: Posterior, poison: Poison, ridge: Scalar, law: Law) -> PoisonEffect:
    """Condition on the poison (L1, L7).

    m clones are one observation with noise ρ/m; multiplying the usual (k̃ + diag(ρ/m))⁻¹ through by m keeps
    m = 0 an ordinary point, also for derivatives.  With a gradient penalty a clone observes its slopes as well, with
    the same noise (T1).
    """
    dtype = clean.X.dtype
    locations, labels, counts = poison.observations(clean.X.shape[1:], clean.outputs, dtype)
    rho = effective_ridge(len(clean.X), jnp.sum(counts), ridge, dtype)
    rho = checked_result(
        rho, [(~jnp.all((counts >= 0) & jnp.isfinite(counts)), "poison.count must be finite and >= 0")]
    )
    reference = clean.at(rho) if law == "exact" else Prior(clean.kernel, clean.outputs)
    observed = Observations(locations, clean.root)
    counts, labels = observed.repeat(counts), observed.with_flat_slopes(labels)
    covariance = reference.covariance(observed)
    # Rows scaled to a unit diagonal: elimination would lose the small counts beside the large ones.
    scale = (rho + counts * jnp.diagonal(covariance))[:, None]
    system = (rho * jnp.eye(len(counts), dtype=dtype) + counts[:, None] * covariance) / scale
    if len(counts) == 1:  # a general solve would cost the clone law an LU factorisation
        gain = counts[:, None] / scale
    else:
        gain = jnp.linalg.solve(system, jnp.diag(counts) / scale)
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
    coefficients = matrix_product(gain, labels - reference.mean(observed))
    return PoisonEffect(reference, rho, observed, gain, coefficients)


def check_law_arguments(arguments: dict[str, Any]) -> None:
    """Boundary checks common to the laws; turns x into an array of the data's dtype."""
    clean, poison = arguments["clean"], arguments.get("poison")
    if not isinstance(clean, Posterior):
        raise TypeError(f"clean must be a Posterior made by kpoison.fit, got {type(clean).__name__}")
    if poison is not None or "law" in arguments:
        if not isinstance(poison, Poison):
            raise TypeError(f"poison must be a kpoison.Poison, got {type(poison).__name__}")
        counts = poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)[2]
    else:
        counts = jnp.zeros(1)
    check_positive("ridge", arguments["ridge"])
    ridge = arguments["ridge"] = jnp.asarray(arguments["ridge"], clean.X.dtype)
    if arguments.get("law") != "isolated":
        check_conditioning(clean, (len(clean.X) + jnp.sum(counts)) * ridge)
    if "law" in arguments:
        check_name("law", arguments["law"], get_args(Law))
    if "x" in arguments:
        x = check_floating("x", arguments["x"])
        single = jnp.ndim(x) == clean.X.ndim - 1
        points = check_points("x", x[None] if single else x, clean.kernel.point_ndim, like=clean.X)
        arguments["x"] = points[0] if single else points


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
