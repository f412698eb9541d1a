"""What the poison does to input curvature: the rank-one spike (L3) and its law against efficacy (L4–L6)."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import checked_result, program
from kpoison._typing import Law, Scalar
from kpoison._validation import public
from kpoison.laws.inputs import LawInputs, Probes
from kpoison.poison import Poison
from kpoison.ridge import Fitted

__all__ = [
    "coupling_floor",
    "coupling_ratio",
    "efficacy_gradient",
    "spike",
    "spike_components",
    "spike_efficacy_ratio",
]


@public
def efficacy_gradient(
    clean: Fitted, poison: Poison, x: Float[ArrayLike, "..."], ridge: Scalar, law: Law = "exact"
) -> Float[Array, "..."]:
    """∇Δf(x) = s ∇_x k̃(x, ζ): the direction in which the poison bends the predictor (L3).

    For an isolated stationary kernel it points along ±(x − ζ).  Arguments and errors as in `efficacy`.

    Returns:
        Shape (q, d), or (q, C, d) where y had C outputs; without the first axis for one probe.
    """
    return _gradient(LawInputs.of(clean, poison, ridge, law), Probes.of(clean, x))


@program
def _gradient(inputs: LawInputs, probes: Probes) -> Float[Array, "..."]:
    return probes.outputs(inputs.change().gradients(probes.points))


@public
def spike(
    clean: Fitted, poison: Poison, x: Float[ArrayLike, "..."], ridge: Scalar, law: Law = "exact"
) -> Float[Array, "..."]:
    """Spike Λ(x) = ‖∇Δf(x)‖², the poison's eigenvalue in the Gauss–Newton input Hessian (L3).

    At a cusp of the kernel the symmetric part of the gradient is meant (see `Kernel.smoothness`).
    Arguments and errors as in `efficacy`.

    Returns:
        Shape (q,), or (q, C) where y had C outputs (one spike for each; their sum is the eigenvalue of JᵀJ for
        clones); without the first axis for one probe.  In units of y² per input².
    """
    return _spike(LawInputs.of(clean, poison, ridge, law), Probes.of(clean, x))


@program
def _spike(inputs: LawInputs, probes: Probes) -> Float[Array, "..."]:
    return probes.outputs(inputs.change().squared_gradient_norms(probes.points))


@public
def spike_components(
    clean: Fitted, poison: Poison, x: Float[ArrayLike, "..."], ridge: Scalar, law: Law = "exact"
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The spike split into its part along the ray of x and the part tangential to the sphere (L5).

    Dot-product kernels scale with ‖x‖, so only the tangential part can vanish as x → ζ; here it keeps its digits
    however small it is beside the radial one.  Arguments and errors as in `efficacy`.

    Returns:
        (radial, tangential), each shaped as `spike`, adding up to it.

    Raises:
        ValueError: also for a kernel that is not rotation-invariant, and at x = 0.
    """
    inputs, probes = LawInputs.of(clean, poison, ridge, law), Probes.of(clean, x)
    if not clean.kernel.rotation_invariant:
        raise ValueError(
            f"kernel must be rotation-invariant to split the spike, got {type(clean.kernel).__name__} "
            "(for a Custom kernel say rotation_invariant=True)"
        )
    return _components(inputs, probes)


@program
def _components(inputs: LawInputs, probes: Probes) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    at_origin = jnp.any(jnp.all(probes.points == 0, axis=1))
    points = checked_result(probes.points, [(at_origin, "x must not be 0: no ray passes through the origin")])
    radial, tangential = inputs.change().radial_and_tangential_gradients(points)
    return probes.outputs(radial**2), probes.outputs(jnp.sum(tangential**2, axis=2))


@public
def spike_efficacy_ratio(
    clean: Fitted, poison: Poison, x: Float[ArrayLike, "..."], ridge: Scalar, law: Law = "exact"
) -> Float[Array, "..."]:
    """q(x, ζ) = ‖∇_x k̃(x, ζ)‖²/k̃(x, ζ)² of the spike–efficacy law Λ = q·(Δf)² (L4).

    Independent of the label; m and λ enter only through ρ.  `law="isolated"` gives ‖∇k‖²/k² (L5).  Arguments and
    errors as in `efficacy`; the poison must be clones at one location.

    Returns:
        Shape (q,), or () for one probe.  In units of 1/input².
    """
    return _ratio(LawInputs.of(clean, poison, ridge, law), Probes.of(clean, x))


@program
def _ratio(inputs: LawInputs, probes: Probes) -> Float[Array, "..."]:
    clean = inputs.clean
    if clean.observations.slopes:
        raise ValueError(
            "clean must be fitted without a gradient penalty: with one the poison's slopes are observed too, and "
            "spike/efficacy² depends on the label"
        )
    if not inputs.at_one_location:
        raise ValueError(
            f"poison must be clones at one location, shape {clean.X.shape[1:]}, got a cluster of shape "
            f"{inputs.poison.location.shape}: the spike–efficacy ratio depends on the labels there"
        )
    (covariance,) = inputs.effect().covariances()
    ratio = covariance.squared_gradient_norms(probes.points) / covariance.values(probes.points) ** 2
    return probes.each(ratio[:, 0])


@public
def coupling_floor(clean: Fitted, poison: Poison, ridge: Scalar, law: Law = "exact") -> Float[Array, ""]:
    """q(ζ, ζ) = ‖∇_x k̃(x, ζ)|_{x=ζ}‖²/k̃(ζ, ζ)²: the value that q does not fall below as x → ζ (L6).

    Clean data near ζ keep it above 0 even for kernels with a near-clone regime.  Arguments as in `gain`; the poison
    must be clones at one location.  In units of 1/input².
    """
    return _floor(LawInputs.of(clean, poison, ridge, law))


@program
def _floor(inputs: LawInputs) -> Float[Array, ""]:
    return _ratio(inputs, Probes.of(inputs.clean, inputs.poison.location))


@public
def coupling_ratio(clean: Fitted, poison: Poison, x: Float[ArrayLike, "..."], ridge: Scalar) -> Float[Array, "..."]:
    """q_exact(x, ζ)/q_isolated(x, ζ): how far coupling to the clean data lifts the spike at fixed efficacy (L6).

    1 where the paper's isolation assumption holds; grows without bound as x → ζ otherwise.  Arguments and errors as
    in `efficacy`; infinite where the isolated ratio vanishes (x = ζ for a smooth stationary kernel).
    """
    return _coupling(LawInputs.of(clean, poison, ridge), Probes.of(clean, x))


@program
def _coupling(inputs: LawInputs, probes: Probes) -> Float[Array, "..."]:
    return _ratio(inputs, probes) / _ratio(inputs._replace(law="isolated"), probes)
