"""Stationary kernels as mixtures of Gaussians: their spectral densities, and sums of these over aliases.

k̂(ω) = ∫ w(t) exp(−t‖ω‖²) dt with w >= 0 for every kernel here: one t for RBF, a gamma distribution of t for Matérn
kernels, of 1/t for the rational quadratic.  In log t the trapezoidal rule converges exponentially.  On a rectangular
lattice each Gaussian factorises over the axes into theta functions, which Jacobi's identity makes short sums.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._failures import checked_result
from kpoison.kernels.algebra import Scaled, Sum
from kpoison.kernels.base import Kernel
from kpoison.kernels.stationary import RBF, Laplace, Matern32, Matern52, RationalQuadratic, Stationary

__all__ = ["alias_moments", "check_known", "components", "density"]

# The step is at most 0.28, and the rule's error exp(−π²/step), below rounding.
_NODES = 400
_LONGEST = 0.28 * (_NODES - 1)
_TERMS = 4
_NU = {Laplace: 0.5, Matern32: 1.5, Matern52: 2.5}
_KNOWN = (RBF, *_NU, RationalQuadratic)

Component = tuple[Stationary, Any]


def check_known(kernel: Any) -> None:
    """Refuse kernels without a spectral density here.

    Raises:
        TypeError: naming those that have one.
    """
    match kernel:
        case Scaled(kernel=inner):
            check_known(inner)
        case Sum(first=first, second=second):
            check_known(first)
            check_known(second)
        case _ if type(kernel) not in _KNOWN:
            names = ", ".join(known.__name__ for known in _KNOWN)
            raise TypeError(
                f"kernel must be one of {names}, or made of these by scaling and sums, got {type(kernel).__name__}"
            )


def components(kernel: Kernel, scale: Any = 1.0) -> list[Component]:
    """The stationary kernels of a sum, each with its factor."""
    match kernel:
        case Scaled(kernel=inner, scale=factor):
            return components(inner, scale * factor)
        case Sum(first=first, second=second):
            return components(first, scale) + components(second, scale)
    assert isinstance(kernel, Stationary)
    return [(kernel, scale)]


def density(kernel: Stationary, omega: Float[Array, " d"]) -> Float[Array, ""]:
    """k̂(ω) = ∫ k(x) exp(−iω·x) dx of one kernel."""
    d, square = len(omega), jnp.sum(omega * omega)
    length_scale = jnp.asarray(kernel.length_scale, omega.dtype)
    match kernel:
        case RBF():
            return (math.sqrt(2 * math.pi) * length_scale) ** d * jnp.exp(-0.5 * length_scale**2 * square)
        case RationalQuadratic():
            return _rational_quadratic_density(kernel, omega)
    nu = _NU[type(kernel)]
    power = nu + d / 2
    constant = (4 * math.pi) ** (d / 2) * math.exp(math.lgamma(power) - math.lgamma(nu))
    size = length_scale / math.sqrt(2 * nu)
    return constant * size**d * jnp.exp(-power * jnp.log1p(size**2 * square))


def alias_moments(
    kernel: Stationary, omega: Float[Array, " d"], spacing: Float[Array, " d"]
) -> tuple[Float[Array, ""], Float[Array, " d"], Float[Array, "d d"]]:
    """Σ k̂(ω_j) {1, δ_j, δ_j δ_jᵀ} over the aliases ω_j = ω + δ_j on a grid, ω the lowest of them.

    Every term of every sum is positive or small, so that all three are exact to rounding relative to their size.  For
    a Laplace kernel the last sum diverges, and what is returned for it means nothing.
    """
    cutoff = 2 * math.pi / spacing
    log_weights, t = _mixture(kernel, omega, jax.lax.stop_gradient(jnp.max(cutoff)))
    zeroth, first, second = jax.vmap(_theta_moments, in_axes=(None, 0, 0), out_axes=1)(t, omega, cutoff)
    weights = jnp.exp(log_weights - t * jnp.sum(omega * omega) + jnp.sum(jnp.log(zeroth), axis=1))
    first, second = first / zeroth, second / zeroth
    mixed = jnp.einsum("i,ia,ib->ab", weights, first, first, precision="highest")
    squares = jnp.einsum("i,ia->a", weights, second, precision="highest")
    diagonal = jnp.eye(len(omega), dtype=bool)
    return (
        jnp.sum(weights),
        jnp.einsum("i,ia->a", weights, first, precision="highest"),
        jnp.where(diagonal, jnp.diag(squares), mixed),
    )


def _theta_moments(
    t: Float[Array, " N"], omega: Float[Array, ""], cutoff: Float[Array, ""]
) -> tuple[Float[Array, " N"], Float[Array, " N"], Float[Array, " N"]]:
    """Σ_j exp(t ω² − t (ω + δ_j)²) {1, δ_j, δ_j²} over δ_j = j·cutoff, for |ω| <= cutoff/2.

    Where the Gaussian is wide the sum is over aliases, where it is narrow over grid points: at the boundary both leave
    out less than exp(−37), and neither cancels.
    """
    # In units of the cutoff.
    t, omega = t * cutoff**2, omega / cutoff
    j = jnp.arange(-_TERMS, _TERMS + 1).astype(t.dtype)[None, :]
    wide = jnp.maximum(t, math.pi)[:, None]
    terms = jnp.exp(-wide * j * (2 * omega + j))
    over_aliases = [jnp.sum(terms, axis=1), jnp.sum(j * terms, axis=1), jnp.sum(j**2 * terms, axis=1)]

    narrow = jnp.minimum(t, math.pi)
    # All but the middle term are 0 below, where they would overflow on the way.
    safe = jnp.maximum(narrow, 0.01)[:, None]
    others = jnp.where(j == 0, 0, jnp.exp(-((math.pi * j) ** 2) / safe))
    slope, phase = math.pi * j / safe, 2 * math.pi * j * omega
    raw = [
        1 + jnp.sum(jnp.cos(phase) * others, axis=1),
        jnp.sum(slope * jnp.sin(phase) * others, axis=1),
        1 / (2 * narrow) + jnp.sum((1 / (2 * safe) - slope**2) * jnp.cos(phase) * others, axis=1),
    ]
    size = jnp.exp(narrow * omega**2) * jnp.sqrt(math.pi / narrow)
    over_points = [
        size * raw[0],
        size * (raw[1] - omega * raw[0]),
        size * (raw[2] - 2 * omega * raw[1] + omega**2 * raw[0]),
    ]
    zeroth, first, second = (
        jnp.where(t >= math.pi, aliases, points) for aliases, points in zip(over_aliases, over_points, strict=True)
    )
    return zeroth, first * cutoff, second * cutoff**2


def _left_out(dtype) -> float:
    """T, where exp(−T) may be left out at the ends of a range: 40 in double precision."""
    return 4 - math.log(float(jnp.finfo(dtype).eps))


def _mixture(
    kernel: Stationary, omega: Float[Array, " d"], cutoff: Float[Array, ""]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """log w and t of the quadrature Σ w exp(−t‖ω_j‖²) for an ω and its aliases, of which it is the lowest."""
    d, square = len(omega), jnp.sum(omega * omega)
    length_scale = jnp.asarray(kernel.length_scale, omega.dtype)
    match kernel:
        case RBF():
            return d * jnp.log(math.sqrt(2 * math.pi) * length_scale)[None], (0.5 * length_scale**2)[None]
        case RationalQuadratic():
            alpha = jnp.asarray(kernel.alpha, omega.dtype)
            u, log_weights = _rational_quadratic_nodes(alpha, 0.5 * length_scale**2 * square, d)
            return log_weights + d * jnp.log(math.sqrt(2 * math.pi) * length_scale), 0.5 * length_scale**2 * jnp.exp(-u)
    nu = _NU[type(kernel)]
    power = nu + d / 2
    rate = 2 * nu / length_scale**2
    # ω_jω_jᵀ summed over aliases adds t^(−d/2 − 1) to the weight t^power of log t at its lower end.
    slowest = nu - 1 if nu > 1 else nu
    peak = jax.lax.stop_gradient(power / (rate + square))
    total = _left_out(omega.dtype)
    below = jnp.maximum(jnp.log(peak * cutoff**2), 0) + total / slowest
    above = math.log(4 * total / power)
    step = (below + above) / (_NODES - 1)
    w = step * jnp.arange(_NODES).astype(step.dtype) - below
    t = peak * jnp.exp(w)
    constant = d * math.log(2) + 0.5 * d * math.log(math.pi) - math.lgamma(nu)
    log_weights = nu * jnp.log(rate * peak) + 0.5 * d * jnp.log(peak) + power * w - rate * t + constant
    return log_weights + jnp.log(step), t


def _excess(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """e^u − 1 − u, without cancellation."""
    small = jnp.abs(u) < 0.5
    near = jnp.where(small, u, 0)
    series = jnp.ones_like(u)
    for k in range(16, 2, -1):
        series = 1 + near / k * series
    return jnp.where(small, 0.5 * near**2 * series, jnp.expm1(u) - u)


def _rational_quadratic_nodes(
    alpha: Float[Array, ""], c: Float[Array, ""], d: int
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """u and log w with Σ w exp(−c e^(−u)) = k̂(ω)/(2πℓ²)^(d/2), c = ℓ²‖ω‖²/2.

    1/t has a gamma distribution, whose logarithm is u: w(u) = exp(−α(e^u − 1 − u) − u d/2) over its integral for d = 0.
    """
    u, step = _nodes(alpha, alpha - d / 2, c)
    log_weights = -alpha * _excess(u) - 0.5 * d * u + jnp.log(step) - _log_normaliser(alpha)
    # At ω = 0 the integrand is exp((α − d/2)u) down to u = −∞: a geometric series.
    series = jnp.log(-jnp.expm1(-jnp.where(c > 0, 1, alpha - d / 2) * step))
    return u, log_weights.at[0].add(-jnp.where(c > 0, 0, series))


def _log_normaliser(alpha: Float[Array, ""]) -> Float[Array, ""]:
    """log ∫ exp(−α(e^u − 1 − u)) du = log Γ(α) + α − α log α, whose terms cancel for large α."""
    large = jnp.maximum(alpha, 1)
    u, step = _nodes(large, large, jnp.zeros_like(alpha))
    by_rule = jax.scipy.special.logsumexp(-large * _excess(u)) + jnp.log(step)
    small = jnp.minimum(alpha, 1)
    return jnp.where(alpha > 1, by_rule, jax.scipy.special.gammaln(small) + small - small * jnp.log(small))


def _nodes(
    alpha: Float[Array, ""], beta: Float[Array, ""], c: Float[Array, ""]
) -> tuple[Float[Array, " N"], Float[Array, ""]]:
    """Equidistant u that cover exp(βu − αe^u − ce^(−u)) and its first derivatives in β, α and c.

    About its maximum at e^u = x this is exp(−p(e^w − 1 − w) − q(e^(−w) − 1 + w)) with p = αx, q = c/x.
    """
    alpha, beta, c = (jax.lax.stop_gradient(number) for number in (alpha, beta, c))
    root = jnp.sqrt(beta**2 + 4 * alpha * c)
    twice = root + jnp.abs(beta)
    x = jnp.where(beta > 0, twice / (2 * alpha), 2 * c / twice)
    p, q = alpha * x, c / x
    # Two derivatives in c multiply the lower end by e^(−2w).
    gentle = jnp.where(c > 0, p - 2, p)
    total = _left_out(x.dtype)
    below = jnp.minimum(_falls_linearly(gentle, total), _falls_exponentially(q, total))
    # Narrow Gaussians count for more in the sums over aliases.
    above = jnp.minimum(_falls_linearly(q, 1.5 * total), _falls_exponentially(p, 1.5 * total))
    below = jnp.minimum(below, _LONGEST - above)
    step = (below + above) / (_NODES - 1)
    return jnp.log(x) - below + step * jnp.arange(_NODES).astype(x.dtype), step


def _falls_linearly(rate: Float[Array, ""], total: float) -> Float[Array, ""]:
    """A w at which rate·(e^(−w) − 1 + w) exceeds the total; infinite for a rate that is not positive."""
    positive = jnp.where(rate > 0, rate, 1)
    w = jnp.where(positive >= 3 * total, jnp.sqrt(3 * total / positive), 1 + total / positive)
    return jnp.where(rate > 0, w, jnp.inf)


def _falls_exponentially(rate: Float[Array, ""], total: float) -> Float[Array, ""]:
    """A w at which rate·(e^w − 1 − w) exceeds the total; infinite for a rate of 0."""
    positive = jnp.where(rate > 0, rate, 1)
    w = jnp.minimum(jnp.sqrt(2 * total / positive), jnp.maximum(jnp.log(4 * total / positive), 1))
    return jnp.where(rate > 0, w, jnp.inf)


def _rational_quadratic_density(kernel: RationalQuadratic, omega: Float[Array, " d"]) -> Float[Array, ""]:
    """The mixture at one ω; at ω = 0, where derivatives of the rule are not those of k̂, its Taylor polynomial."""
    d = len(omega)
    length_scale, alpha = (jnp.asarray(number, omega.dtype) for number in (kernel.length_scale, kernel.alpha))
    c = 0.5 * jnp.sum((length_scale * omega) ** 2)
    at_zero = c == 0
    u, log_weights = _rational_quadratic_nodes(alpha, jax.lax.stop_gradient(c), d)
    away = jnp.sum(jnp.exp(log_weights - jnp.where(at_zero, 0, c) * jnp.exp(-u)))
    moment = alpha - d / 2 - 1
    exists = moment > 0
    near = 1 - c * jnp.where(exists, alpha / jnp.where(exists, moment, 1), 0)
    near = near + jnp.sum(_flat(omega, at_zero & ~exists, 1)) + jnp.sum(_flat(omega, at_zero, 3))
    return (math.sqrt(2 * math.pi) * length_scale) ** d * away * jnp.where(at_zero, near, 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _flat(omega: Float[Array, " d"], refused: Array, derivatives: int) -> Float[Array, " d"]:
    """0, as are so many of its derivatives; the next is refused."""
    # Where it is refused ω is 0.  Reverse over reverse mode through a loop drops the rule below, and its refusal: then
    # the derivative is NaN.  A constant would let the refusal itself be dropped as unused.
    return jnp.where(refused, jnp.sqrt(omega * omega), 0) if derivatives == 0 else 0 * omega


@_flat.defjvp
def _flat_jvp(derivatives, primals, tangents):
    omega, refused = primals
    d_omega = tangents[0]
    if derivatives == 0:
        omega = checked_result(omega, [(refused, _NO_MOMENT)])
    value, slope = _flat(omega, refused, derivatives), _flat(omega, refused, max(derivatives - 1, 0))
    return value, slope * d_omega


_NO_MOMENT = (
    "The spectral density of a RationalQuadratic kernel has a second derivative at frequency 0 only for "
    "alpha > 1 + d/2; higher ones are not computed there."
)
