"""Within which radius of the poison no probe sees it (L9)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import checked_result, program
from kpoison._typing import Law, Scalar
from kpoison._validation import (
    check_finite,
    check_flag,
    check_floating,
    check_positive,
    check_real,
    in_dtype,
    is_concrete,
    public,
)
from kpoison.kernels import RBF, Kernel
from kpoison.laws.by_gain import by_gain_alone, root
from kpoison.laws.crossing import first_crossing
from kpoison.laws.inputs import CleanInputs, LawInputs
from kpoison.laws.thresholds import checked_threshold, excess, of_clones
from kpoison.poison import Poison
from kpoison.ridge import Fitted, KernelExpansion

__all__ = ["blind_radius", "rbf_blind_radius"]

_PER_DECADE = 32  # at which Λ is within 0.3 % of its largest value, see `blind_radius`
_STEPS = 8


@jax.custom_jvp
def _lambert(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """W₀(z), the solution w >= −1 of w eʷ = z, for −1/e <= z <= 0."""
    # From the branch point, p = √(2(1 + ez)) (Corless et al. 1996), by Halley's steps: three times the digits each.
    p = jnp.sqrt(jnp.maximum(2 * (1 + math.e * z), 0))
    w = -1 + p - p**2 / 3 + 11 * p**3 / 72
    for _ in range(_STEPS):
        excess = w - z * jnp.exp(-w)
        slope = w + 1
        ends = slope <= 4 * jnp.finfo(w.dtype).eps ** 0.5
        step = excess / (slope - (w + 2) * excess / (2 * jnp.where(ends, 1, slope)))
        w = jnp.where(ends, w, w - step)
    return w


@_lambert.defjvp
def _lambert_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """That of the implicit function: dw/dz = e⁻ʷ/(1 + w)."""
    w = _lambert(*primals)
    return w, tangents[0] * jnp.exp(-w) / (1 + w)


def _of_rbf(length_scale: Array, least: Array, push: Array) -> Float[Array, "..."]:
    """The first r with push · (r/ℓ²) e^(−r²/2ℓ²) = least: ℓω exp(−W₀(−ω²)/2), which is ℓ√(−W₀(−ω²)) but smooth at 0."""
    # Not of a push of 0, against which everything is too much.
    omega = length_scale * least / jnp.where(push > 0, push, 1)
    seen = (push > 0) & (omega**2 < 1 / math.e)
    omega = jnp.where(seen, omega, 0)
    return jnp.where(seen, length_scale * omega * jnp.exp(-0.5 * _lambert(-(omega**2))), jnp.inf)


@public
def rbf_blind_radius(
    length_scale: Float[ArrayLike, "..."],
    ridge: Float[ArrayLike, "..."],
    threshold: Float[ArrayLike, "..."],
    clean_slope: Float[ArrayLike, "..."],
    label: Float[ArrayLike, "..."],
) -> Float[Array, "..."]:
    """Blind radius of isolated clones with an RBF kernel, however many: ℓ√(−W₀(−ω²)) (L9).

    ω = ℓ(1 + λ)√τ ‖∇f_c‖/|y_t|; W₀ is Lambert's function.  By the paper's criterion, a spike Λ(x0) >= τ‖∇f_c(x0)‖², no
    count is visible nearer to ζ; it is ≈ ℓω for a small ω.  Λ is largest at r = ℓ: for ω² >= 1/e **every r is blind**,
    and the radius is +inf (with derivatives of 0).

    Args:
        length_scale: ℓ > 0.
        ridge: λ >= 0 of the mean loss.
        threshold: τ > 0.
        clean_slope: ‖∇f_c‖ >= 0, as if it were that at every r.
        label: y_t, in place of which |y_t| counts.

    Returns:
        r_b in the units of ℓ, of the arguments' common shape.  Differentiable in all of them.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> from kpoison.laws import rbf_blind_radius
    >>> round(float(rbf_blind_radius(1.0, 0.01, 0.1, 0.5, -1.0)), 4)
    0.1618
    >>> float(rbf_blind_radius(1.0, 0.01, 0.1, 5.0, -1.0))
    inf
    """
    for name, value, zero in (
        ("length_scale", length_scale, False),
        ("ridge", ridge, True),
        ("threshold", threshold, False),
        ("clean_slope", clean_slope, True),
    ):
        check_positive(name, value, zero=zero, scalar=False)
    check_real("label", label)
    check_finite("label", label)
    return _isolated_rbf(*(jnp.asarray(value) for value in (length_scale, ridge, threshold, clean_slope, label)))


@program
def _isolated_rbf(
    length_scale: Array, ridge: Array, threshold: Array, clean_slope: Array, label: Array
) -> Float[Array, "..."]:
    return _of_rbf(length_scale, jnp.sqrt(threshold) * clean_slope, jnp.abs(label) / (1 + ridge))


@public
def blind_radius(
    clean: Fitted,
    poison: Poison,
    direction: Float[ArrayLike, "..."],
    ridge: Scalar,
    threshold: Scalar,
    law: Law = "exact",
    *,
    clean_slope: Scalar | None = None,
    any_count: bool = True,
) -> Float[Array, ""]:
    """The smallest r from which on a probe x0 = ζ + ru sees the poison: Λ(x0) >= τ‖∇f_c(x0)‖² (L9).

    Nearer to ζ no spectral test at x0 tells the poison from the bulk, by the paper's criterion (Remark 3.5 of arXiv
    2602.00822, `m_visible(..., criterion="relative")`).

    With `any_count` however many clones there are.  By the exact law at the ρ of the poison's own count, held as the
    clones multiply: S → 1/k̃(ζ, ζ).  (Where ρ grows with them it flattens f_c, and at last everything is visible.)
    Isolated, S → 1/(k(ζ, ζ) + λ), and for an RBF kernel the radius is `rbf_blind_radius`.  With `any_count=False` that
    of the poison as it is.

    Args:
        clean: the fitted clean posterior.
        poison: clones at one location.
        direction: u, of any length, shape (d,).
        ridge: λ > 0 of the mean loss.
        threshold: τ > 0.
        law: "exact" or "isolated".
        clean_slope: ‖∇f_c‖ >= 0, the same at every r; by default the clean predictor's own, at every x0 by the exact
            law, and isolated at ζ and ρ = n_c λ.
        any_count: of any number of clones, or of the poison's.

    Returns:
        r_b >= 0, in the units of X: 0 where the poison is seen at ζ already, +inf where it is at no r.  The first r is
        looked for at 32 radii per decade from 10⁻⁶ to 10⁶ length scales (‖ζ‖, for a kernel that has none), where Λ is
        within 0.3 % of its largest value for an RBF kernel, then bisected; a window in which the spike is visible
        between two of these may be missed.  For coordinates of a size |ζ| it is right to their rounding eps·|ζ|.
        Differentiable in every number, by the implicit function theorem.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; with `any_count` also a gradient penalty or a
            posterior that is stopped early.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[-1.0, 0.0], [1.0, 0.0]]), jnp.array([-1.0, 1.0]))
    >>> poison = kp.Poison(jnp.zeros(2), label=-1.0, count=1)
    >>> across = jnp.array([0.0, 1.0])
    >>> [round(float(kp.blind_radius(clean, poison, across, 0.01, tau, "isolated")), 4) for tau in (0.01, 0.1, 0.5)]
    [0.1399, 0.495, inf]
    """
    inputs = of_clones(clean, poison, ridge, law)
    direction = _checked_direction(inputs.clean, direction)
    if clean_slope is not None:
        check_positive("clean_slope", clean_slope, zero=True)
        clean_slope = in_dtype(clean_slope, clean.X.dtype)
    any_count = check_flag("any_count", any_count)
    return _radius(inputs, direction, checked_threshold(clean, threshold), clean_slope, any_count)


def _checked_direction(clean: Fitted, direction: Any) -> Float[Array, "..."]:
    shape = clean.X.shape[1:]
    if not shape:
        raise ValueError(
            "clean must be fitted with a kernel of points, from which probes x0 = ζ + r u lie in a direction, got "
            f"{type(clean.kernel).__name__}"
        )
    direction = check_floating("direction", direction).astype(clean.X.dtype)
    if direction.shape != shape:
        raise ValueError(f"direction must have shape {shape}, got {direction.shape}")
    check_finite("direction", direction)
    if is_concrete(direction) and not bool(jnp.any(direction != 0)):
        raise ValueError("direction must not be 0")
    return direction


@program
def _radius(
    inputs: LawInputs, direction: Array, threshold: Scalar, clean_slope: Scalar | None, any_count: bool
) -> Float[Array, ""]:
    clean, kernel, dtype = inputs.clean, inputs.clean.kernel, inputs.clean.X.dtype
    zeta = jnp.asarray(inputs.poison.location, dtype)
    u, threshold = direction / jnp.linalg.norm(direction.ravel()), jnp.asarray(threshold, dtype)
    given = jnp.zeros((), dtype) if clean_slope is None else jnp.asarray(clean_slope, dtype)
    threshold = checked_result(
        threshold,
        [
            (~((threshold > 0) & jnp.isfinite(threshold)), "threshold must be finite and > 0"),
            (~jnp.all(jnp.isfinite(u)), "direction must be finite and not 0"),
            (~((given >= 0) & jnp.isfinite(given)), "clean_slope must be finite and >= 0"),
        ],
    )
    if any_count:
        alone = by_gain_alone(inputs)
        bent, mean, largest = alone.covariance, alone.mean, alone.largest * root(jnp.sum(alone.residual**2))
    else:
        bent, largest = inputs.change(), jnp.ones((), dtype)
        mean = (CleanInputs(clean, inputs.ridge) if inputs.law == "isolated" else inputs).terms()[-1]

    isolated, columns, own = inputs.law == "isolated", [bent.coefficients], bent.coefficients.shape[1]
    fixed = None if clean_slope is None else given
    if fixed is None and isolated:
        fixed = root(jnp.sum(mean.squared_gradient_norms(zeta[None])[0]))
    if fixed is None:
        # One expansion of both: the last coefficients are those of the clean data.
        padding = jnp.zeros((len(bent.coefficients) - len(mean.coefficients), mean.coefficients.shape[1]), dtype)
        columns.append(jnp.concatenate([padding, mean.coefficients]))
    elif isolated and type(kernel) is RBF and np.ndim(kernel.length_scale) == 0:
        # ∇k = −(r/ℓ²) k u: for clones s = S y_t, for k(x, ζ) itself 1.
        push = largest * root(jnp.sum(bent.all_weights() ** 2))
        return _of_rbf(jnp.asarray(kernel.length_scale, dtype), jnp.sqrt(threshold) * fixed, push)
    both = KernelExpansion(bent.span, jnp.concatenate(columns, axis=1))

    def margin(r: Array) -> Array:
        squares = both.squared_gradient_norms((zeta + r * u)[None])[0]
        slope = jnp.sum(squares[own:]) if fixed is None else fixed**2
        return excess(largest**2 * jnp.sum(squares[:own]), threshold * slope)

    unit = _unit_of_length(kernel, zeta)
    if kernel.smoothness >= 1:
        return first_crossing(margin, unit, dtype, _PER_DECADE)
    # At a cusp the gradient jumps: what counts at r = 0 is its limit.
    return first_crossing(lambda r: margin(jnp.where(r == 0, 1e-6 * unit, r)), unit, dtype, _PER_DECADE)


def _unit_of_length(kernel: Kernel, zeta: Array) -> Float[Array, ""]:
    """The kernel's length scale, of several ones the geometric mean; ‖ζ‖ for a kernel that has none."""
    own = getattr(kernel, "length_scale", None)
    if own is not None:
        return jnp.exp(jnp.mean(jnp.log(jnp.asarray(own, zeta.dtype))))
    norm = jnp.sqrt(jnp.sum(jax.lax.stop_gradient(zeta) ** 2))
    return jnp.where(norm > 0, norm, 1)
