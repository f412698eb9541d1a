"""Input-gradient regularisation as a Fourier multiplier, and its length scales (T5, T12)."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from kpoison._batches import in_batches
from kpoison._failures import checked_result
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Numbers, Scalar
from kpoison._validation import check_finite, check_floating, check_positive, is_concrete, public
from kpoison.flow._aliases import alias_moments
from kpoison.kernels.base import Kernel, check_kernel, with_array_parameters
from kpoison.kernels.stationary import SpectralKernel
from kpoison.ridge.metric import checked_metric

__all__ = [
    "effective_length_scale",
    "multiplier",
    "near_clone_length_scale",
    "penalised_spectral_density",
    "spectral_density",
]

_FLOATS_PER_AXIS = 400 * 9  # of a frequency: Gaussians of a mixture, and terms of each
_CUSP = (
    "kernel Laplace has no slopes at points, and a penalty on them does not exist on a grid: "
    "gradient_penalty must be 0, or spacing None (the limit of infinitely many points)"
)


def _checked_frequencies(kernel: Kernel, omega: Any, name: str = "omega") -> Float[Array, "... d"]:
    check_kernel("kernel", kernel)
    kernel.spectral_parts()
    omega = check_floating(name, omega)
    if omega.ndim == 0 or omega.size == 0:
        raise ValueError(f"{name} must have shape (..., d), one frequency in its last axis, got {omega.shape}")
    check_finite(name, omega)
    return omega


class _Penalty(NamedTuple):
    """What filters: the numbers of the fit and its penalty, in one dtype.

    Attributes:
        ridge: λ > 0.
        gamma: γ >= 0.
        volume: V > 0 of the torus.
        metric: M.
    """

    ridge: Float[Array, ""]
    gamma: Float[Array, ""]
    volume: Float[Array, ""]
    metric: Float[Array, "d d"]

    @classmethod
    def of(cls, ridge: Any, gradient_penalty: Any, volume: Any, metric: Any, like: Array) -> "_Penalty":
        """The arguments of a public function, checked, traced ones too."""
        check_positive("ridge", ridge)
        check_positive("gradient_penalty", gradient_penalty, zero=True)
        check_positive("volume", volume)
        metric, dtype, d = checked_metric(metric, like.shape[-1], like.dtype), like.dtype, like.shape[-1]
        ridge, gamma, volume = (jnp.asarray(number, dtype) for number in (ridge, gradient_penalty, volume))
        wrong = ~((gamma >= 0) & jnp.isfinite(gamma))
        return cls(
            _traced_positive("ridge", ridge),
            checked_result(gamma, [(wrong, "gradient_penalty must be finite and >= 0")]),
            _traced_positive("volume", volume),
            jnp.eye(d, dtype=dtype) if metric is None else jnp.asarray(metric, dtype),
        )


def _traced_positive(name: str, value: Float[Array, ""]) -> Float[Array, ""]:
    return checked_result(value, [(~((value > 0) & jnp.isfinite(value)), f"{name} must be finite and > 0")])


def _checked_spacing(spacing: Numbers, volume: Scalar, like: Float[Array, "... d"]) -> Float[Array, " d"]:
    d = like.shape[-1]
    check_positive("spacing", spacing, scalar=False)
    if np.shape(spacing) not in ((), (d,)):
        raise ValueError(f"spacing must be a number or have shape ({d},), got shape {np.shape(spacing)}")
    if is_concrete(spacing) and is_concrete(volume):
        cell = float(np.prod(np.broadcast_to(np.asarray(spacing, float), (d,))))
        points = float(np.asarray(volume)) / cell
        # Single precision may have rounded every number.
        if round(points) < 1 or abs(points - round(points)) > 1e-5 * points:
            raise ValueError(f"volume must be that of a whole number of grid cells of volume {cell:g}, got {volume}")
    return jnp.broadcast_to(jnp.asarray(spacing, like.dtype), like.shape[-1:])


@public
def spectral_density(kernel: Kernel, omega: Float[ArrayLike, "... d"]) -> Float[Array, "..."]:
    """k̂(ω) = ∫ k(x) exp(−iω·x) dx of a stationary kernel, to rounding.

    That of a rational quadratic is a quadrature of 400 nodes; for alpha < d/2 + 1/2 it needs ‖ω‖ℓ > 1e-15 or ω = 0.

    Args:
        kernel: RBF, Laplace, Matern32, Matern52 or RationalQuadratic, or made of these by scaling and sums.
        omega: angular frequencies ω in inverse units of the inputs, shape (..., d).

    Returns:
        k̂, shape (...), in the units of a volume of inputs.

    Raises:
        TypeError: for another kernel, or frequencies that are no floating-point array.
        ValueError: for ω = 0 of a RationalQuadratic with alpha <= d/2, whose integral is infinite; in compiled code a
            runtime error, as for a second derivative there with alpha <= d/2 + 1.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> kernel = kp.kernels.RBF(length_scale=2.0)
    >>> bool(jnp.isclose(spectral_density(kernel, jnp.zeros(1)), 2 * (2 * jnp.pi) ** 0.5))
    True
    """
    omega = _with_density(kernel, _checked_frequencies(kernel, omega))
    return _densities(with_array_parameters(kernel, omega.dtype), omega)


@public
def penalised_spectral_density(
    kernel: Kernel,
    omega: Float[ArrayLike, "... d"],
    ridge: Scalar,
    gradient_penalty: Scalar,
    volume: Scalar,
    metric: Float[ArrayLike, "d d"] | None = None,
) -> Float[Array, "..."]:
    """k̂_γ(ω) = k̂/(1 + (γ/(λV)) ωᵀMω k̂): ridge regression with it is the regularised fit (T5).

    It is the prior k given flat slopes at every point of the torus.

    Args:
        kernel: as in `spectral_density`.
        omega: angular frequencies, shape (..., d).
        ridge: λ > 0.
        gradient_penalty: γ >= 0.
        volume: V > 0 of the torus.
        metric: M, symmetric and positive semi-definite, shape (d, d); by default the identity.

    Returns:
        k̂_γ, shape (...).

    Raises:
        TypeError, ValueError: as in `spectral_density` and `multiplier`.
    """
    omega = _checked_frequencies(kernel, omega)
    penalty = _Penalty.of(ridge, gradient_penalty, volume, metric, omega)
    omega = _with_density(kernel, omega)
    density = _densities(with_array_parameters(kernel, omega.dtype), omega)
    weight = penalty.gamma / (penalty.ridge * penalty.volume)
    return density / (1 + weight * _quadratic(penalty.metric, omega) * density)


@public
def multiplier(
    kernel: Kernel,
    omega: Float[ArrayLike, "... d"],
    ridge: Scalar,
    gradient_penalty: Scalar,
    volume: Scalar,
    metric: Float[ArrayLike, "d d"] | None = None,
    *,
    spacing: Numbers | None = None,
) -> Float[Array, "..."]:
    """By what the regularised fit multiplies the Fourier coefficient of y at ω, on a uniform grid of a torus (T5).

    Without `spacing` 1/(1 + λV/k̂(ω) + γ ωᵀMω), which is exact where the kernel has no content beyond the Nyquist
    frequency of the grid, and in the limit of infinitely many points.  With it exact on every grid: values and slopes
    of all aliases ω_j of ω are then observed together, and with H = (1/V) Σ_j k̂(ω_j) v_j v_jᵀ, v_j = (1, √γ R ω_j),
    RᵀR = M, the multiplier is [H (H + λI)⁻¹]₀₀.

    Args:
        kernel: k, whose sum over the images of the torus (`kpoison.kernels.Periodic`) is fitted: RBF, Laplace,
            Matern32, Matern52 or RationalQuadratic, or made of these by scaling and sums.
        omega: angular frequencies, shape (..., d); those of a torus with side lengths L_a are 2π m_a/L_a.
        ridge: λ > 0.
        gradient_penalty: γ >= 0.
        volume: V > 0 of the torus.
        metric: M, symmetric and positive semi-definite, shape (d, d); by default the identity.
        spacing: distance between neighbouring grid points, one number or one for each axis.

    Returns:
        The multiplier, in [0, 1), shape (...).

    Raises:
        TypeError: for another kernel, or frequencies that are no floating-point array.
        ValueError: for ridge <= 0, γ < 0, volume <= 0, a metric that is none, a spacing that does not fit the volume;
            for a Laplace kernel with a penalty on a grid, and as in `spectral_density`.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> kernel = kp.kernels.RBF(length_scale=0.5)
    >>> at = jnp.array([[0.0], [2.0], [4.0]])
    >>> multiplier(kernel, at, ridge=0.1, gradient_penalty=0.0, volume=2 * jnp.pi).round(3).tolist()
    [0.666, 0.547, 0.213]
    >>> multiplier(kernel, at, ridge=0.1, gradient_penalty=0.5, volume=2 * jnp.pi).round(3).tolist()
    [0.666, 0.261, 0.079]
    """
    omega = _checked_frequencies(kernel, omega)
    penalty = _Penalty.of(ridge, gradient_penalty, volume, metric, omega)
    if spacing is not None:
        spacing = _checked_spacing(spacing, volume, omega)
        cusp = any(part.smoothness < 2 for part, _ in _parts(kernel))
        penalty = checked_result(penalty, [(penalty.gamma > 0, _CUSP)] if cusp else [])
        cutoff = jnp.broadcast_to(2 * math.pi / spacing, omega.shape)
        omega = omega - cutoff * jnp.round(omega / cutoff)
    omega = _with_density(kernel, omega)
    return _multipliers(with_array_parameters(kernel, omega.dtype), omega, penalty, spacing)


@eqx.filter_jit
def _multipliers(
    kernel: Kernel,
    omega: Float[Array, "... d"],
    penalty: _Penalty,
    spacing: Float[Array, " d"] | None,
) -> Float[Array, "..."]:
    def at(omega):
        if spacing is None:
            none = jnp.zeros_like(omega)
            moments = _density(kernel, omega), none, jnp.outer(none, none)
        else:
            moments = _alias_moments(kernel, omega, spacing)
        return _filter(moments, omega, penalty)

    return _for_each(at, omega)


def _filter(moments: tuple[Array, Array, Array], omega: Array, given: _Penalty) -> Float[Array, ""]:
    """[H (H + λI)⁻¹]₀₀ from Σ k̂_j {1, δ_j, δ_jδ_jᵀ} over aliases ω + δ_j, without cancellation.

    1/[…] − 1 = λ/e, where e is the Schur complement of the slopes in H + diag(0, λI).  About the alias ω itself it is
    1/e = (1 + γ bᵀPω)²/(a − γ bᵀPb) + γ ωᵀPω with P = Rᵀ(λI + γ R C Rᵀ)⁻¹R = (λI + γ M C)⁻¹ M and a, b, C the three
    moments over V.  With one alias b = C = 0 and P = M/λ.
    """
    ridge, penalty, volume, M = given
    a, b, C = (moment / volume for moment in moments)
    P = jnp.linalg.solve(ridge * jnp.eye(len(omega), dtype=omega.dtype) + penalty * matrix_product(M, C), M)
    remaining = a - penalty * _quadratic(P, b)
    mixed = 1 + penalty * _bilinear(P, b, omega)
    # Multiplied through by what may underflow.
    return remaining / (remaining * (1 + ridge * penalty * _quadratic(P, omega)) + ridge * mixed**2)


@public
def effective_length_scale(
    kernel: Kernel,
    direction: Float[ArrayLike, " d"],
    ridge: Scalar,
    gradient_penalty: Scalar,
    volume: Scalar,
    metric: Float[ArrayLike, "d d"] | None = None,
) -> Float[Array, ""]:
    """ℓ_eff along v: the root mean square of v·(x − z) under k_γ(x, z), the kernel given flat slopes (T5).

    ℓ_eff² = −∂_v² log k̂_γ(0) = −∂_v² log k̂(0) + 2γ vᵀMv k̂(0)/(λV).  Without a penalty it is ℓ for RBF,
    ℓ √(1 + d/2ν) for Matérn-ν kernels and ℓ √(2α/(2α − d − 2)) for a rational quadratic.

    Args:
        kernel: RBF, Laplace, Matern32, Matern52 or RationalQuadratic, or made of these by scaling and sums.
        direction: v, shape (d,), normalised here.
        ridge: λ > 0.
        gradient_penalty: γ >= 0.
        volume: V > 0 of the torus; for points of a density p that varies slowly over ℓ_eff, V = 1/p(x) gives the
            length scale at x.
        metric: M, symmetric and positive semi-definite, shape (d, d); by default the identity.

    Returns:
        ℓ_eff, in the units of the inputs.

    Raises:
        TypeError: for another kernel, or a direction that is no floating-point array.
        ValueError: for a direction of 0 or a wrong shape, a RationalQuadratic with alpha <= 1 + d/2, which has no
            second moment, and as in `multiplier`; in compiled code runtime errors.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> kernel = kp.kernels.RBF(length_scale=0.5)
    >>> v = jnp.array([1.0, 0.0])
    >>> round(float(effective_length_scale(kernel, v, ridge=0.1, gradient_penalty=0.0, volume=10.0)), 3)
    0.5
    >>> round(float(effective_length_scale(kernel, v, ridge=0.1, gradient_penalty=0.5, volume=10.0)), 3)
    1.349
    """
    unscaled = _checked_frequencies(kernel, direction, "direction")
    penalty = _Penalty.of(ridge, gradient_penalty, volume, metric, unscaled)
    if unscaled.ndim != 1:
        raise ValueError(f"direction must have shape (d,), got {unscaled.shape}")
    unit = _with_density(kernel, _unit(unscaled, unscaled), moments=2)
    mass, variance = _mass_and_variance(with_array_parameters(kernel, unit.dtype), unit)
    bend = 2 * penalty.gamma * _quadratic(penalty.metric, unit) * mass / (penalty.ridge * penalty.volume)
    return jnp.sqrt(variance + bend)


@public
def near_clone_length_scale(
    kernel: Kernel,
    omega: Float[ArrayLike, "N d"],
    direction: Float[ArrayLike, " d"],
    ridge: Scalar,
    gradient_penalty: Scalar,
    volume: Scalar,
    metric: Float[ArrayLike, "d d"] | None = None,
) -> Float[Array, ""]:
    """ℓ_nc of q(r) = r²/ℓ_nc⁴: how near to a dirty label in a uniform grid its spike hides from its efficacy (T12).

    One label of n moves the penalised fit by Δf(x) ∝ (1/n) Σ μ(ω) cos ω·(x − ζ), so that ‖∇Δf‖/|Δf| tends to
    r ‖Σ μ ω ωᵀ v‖/Σ μ along a unit vector v, and ℓ_nc² is the inverse of that: d Σμ/Σμ‖ω‖² where all directions are
    alike.  The label's own efficacy is Σ μ/n, the degrees of freedom over n.

    Args:
        kernel: as in `multiplier`.
        omega: angular frequencies that the grid tells apart, shape (N, d), both signs of each: on a torus with side
            lengths L_a and N_a points along them 2π m_a/L_a, |m_a| < N_a/2.
        direction: v, shape (d,), normalised here.
        ridge: λ > 0.
        gradient_penalty: γ >= 0.
        volume: V > 0 of the torus.
        metric: M, symmetric and positive semi-definite, shape (d, d); by default the identity.

    Returns:
        ℓ_nc, in the units of the inputs; exact where the kernel has no content beyond the frequencies that are given.

    Raises:
        TypeError: for another kernel, or frequencies that are no floating-point array.
        ValueError: for a direction of 0 or a wrong shape, frequencies that are all 0 along it, and as in `multiplier`.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> kernel, omega = kp.kernels.RBF(length_scale=0.5), jnp.arange(-32.0, 33.0)[:, None]
    >>> at = (kernel, omega, jnp.ones(1), 1e-3)  # on a ring of length 2π
    >>> [round(float(kp.flow.near_clone_length_scale(*at, penalty, 2 * jnp.pi)), 3) for penalty in (0.0, 0.1)]
    [0.258, 0.31]
    """
    omega = _checked_frequencies(kernel, omega)
    if omega.ndim != 2:
        raise ValueError(f"omega must have shape (N, d), one frequency a row, got {omega.shape}")
    unit = _unit(check_floating("direction", direction), omega)
    filtered = multiplier(kernel, omega, ridge, gradient_penalty, volume, metric)
    along = matrix_product(omega, unit[:, None])[:, 0]
    bend = jnp.linalg.norm(jnp.einsum("n,na,n->a", filtered, omega, along, precision="highest"))
    bend = checked_result(bend, [(~(bend > 0), "omega must not be 0 along the direction in every row")])
    return jnp.sqrt(jnp.sum(filtered) / bend)


def _unit(direction: Array, like: Float[Array, "... d"]) -> Float[Array, " d"]:
    """A direction of length 1, refused where it has none or another dimension."""
    if direction.shape != like.shape[-1:]:
        raise ValueError(f"direction must have shape {like.shape[-1:]}, got {direction.shape}")
    check_finite("direction", direction)
    norm = jnp.linalg.norm(direction)
    return checked_result(direction / norm, [(~(norm > 0), "direction must not be zero")]).astype(like.dtype)


@eqx.filter_jit
def _mass_and_variance(kernel: Kernel, direction: Float[Array, " d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """k̂(0) and −∂² log k̂(0) along a direction; the first derivative is 0."""
    origin = jnp.zeros_like(direction)

    def slope(omega):
        return jax.jvp(lambda at: _density(kernel, at), (omega,), (direction,))[1]

    mass = _density(kernel, origin)
    return mass, -jax.jvp(slope, (origin,), (direction,))[1] / mass


@eqx.filter_jit
def _densities(kernel: Kernel, omega: Float[Array, "... d"]) -> Float[Array, "..."]:
    return _for_each(lambda at: _density(kernel, at), omega)


def _for_each(function: Callable[[Array], Array], omega: Float[Array, "... d"]) -> Array:
    """The function of one frequency for every frequency."""
    flat = omega.reshape(-1, omega.shape[-1])
    return in_batches(function, flat, _FLOATS_PER_AXIS * flat.shape[1]).reshape(omega.shape[:-1])


def _parts(kernel: Kernel) -> list[tuple[SpectralKernel, Any]]:
    """`Kernel.spectral_parts`, as what they are."""
    return cast(list, kernel.spectral_parts())


def _density(kernel: Kernel, omega: Float[Array, " d"]) -> Float[Array, ""]:
    parts = [jnp.asarray(scale, omega.dtype) * part.spectral_density(omega) for part, scale in _parts(kernel)]
    return functools.reduce(operator.add, parts)


def _alias_moments(
    kernel: Kernel, omega: Float[Array, " d"], spacing: Float[Array, " d"]
) -> tuple[Array, Array, Array]:
    found = [(scale, alias_moments(part, omega, spacing)) for part, scale in _parts(kernel)]
    scaled = [jax.tree.map(lambda moment, scale=scale: scale * moment, moments) for scale, moments in found]
    return functools.reduce(lambda first, second: jax.tree.map(operator.add, first, second), scaled)


def _with_density(kernel: Kernel, omega: Float[Array, "... d"], moments: int = 0) -> Float[Array, "... d"]:
    """Frequencies as they are, refused where k̂ is infinite; with moments, where so many of k are not finite."""
    d = omega.shape[-1]
    at_zero = jnp.any(jnp.all(omega == 0, axis=-1)) | (moments > 0)
    for part, _ in _parts(kernel):
        failures = part.infinite_moments(d, moments)
        omega = checked_result(omega, [(at_zero & infinite, message) for infinite, message in failures])
    return omega


def _quadratic(M: Float[Array, "d d"], v: Float[Array, "... d"]) -> Float[Array, "..."]:
    return _bilinear(M, v, v)


def _bilinear(M: Float[Array, "d d"], v: Float[Array, "... d"], w: Float[Array, "... d"]) -> Float[Array, "..."]:
    return jnp.einsum("...a,ab,...b->...", v, M, w, precision="highest")
