"""Stationary kernels as mixtures of Gaussians: spectral densities, and quadratures of the mixtures.

k̂(ω) = ∫ w(t) exp(−t‖ω‖²) dt with w >= 0 for every kernel here: one t for RBF, a gamma distribution of t for Matérn
kernels, of 1/t for the rational quadratic.  In log t the trapezoidal rule converges exponentially.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._failures import checked_result

__all__ = ["matern_density", "matern_gaussians", "rational_quadratic_density", "rational_quadratic_gaussians"]

Gaussians = tuple[Float[Array, " N"], Float[Array, " N"]]
"""log w and t of a quadrature Σ w exp(−t‖ω_j‖²) for an ω and its aliases, of which it is the lowest."""

# The step is at most 0.28, and the rule's error exp(−π²/step), below rounding.
_NODES = 400
_LONGEST = 0.28 * (_NODES - 1)


def _left_out(dtype) -> float:
    """T, where exp(−T) may be left out at the ends of a range: 40 in double precision."""
    return 4 - math.log(float(jnp.finfo(dtype).eps))


def matern_density(nu: float, length_scale: Float[Array, ""], omega: Float[Array, " d"]) -> Float[Array, ""]:
    """k̂ of the Matérn kernel: a Student distribution in ω."""
    d, square = len(omega), jnp.sum(omega * omega)
    power = nu + d / 2
    constant = (4 * math.pi) ** (d / 2) * math.exp(math.lgamma(power) - math.lgamma(nu))
    size = length_scale / math.sqrt(2 * nu)
    return constant * size**d * jnp.exp(-power * jnp.log1p(size**2 * square))


def matern_gaussians(
    nu: float, length_scale: Float[Array, ""], omega: Float[Array, " d"], cutoff: Float[Array, ""]
) -> Gaussians:
    """Its mixture over t, for aliases up to a cutoff and beyond."""
    d, square = len(omega), jnp.sum(omega * omega)
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


def rational_quadratic_gaussians(
    alpha: Float[Array, ""], length_scale: Float[Array, ""], omega: Float[Array, " d"]
) -> Gaussians:
    """The mixture of the rational quadratic over 1/t."""
    d, square = len(omega), jnp.sum(omega * omega)
    u, log_weights = _rational_quadratic_nodes(alpha, 0.5 * length_scale**2 * square, d)
    return log_weights + d * jnp.log(math.sqrt(2 * math.pi) * length_scale), 0.5 * length_scale**2 * jnp.exp(-u)


def rational_quadratic_density(
    alpha: Float[Array, ""], length_scale: Float[Array, ""], omega: Float[Array, " d"]
) -> Float[Array, ""]:
    """The mixture at one ω; at ω = 0, where derivatives of the rule are not those of k̂, its Taylor polynomial."""
    d = len(omega)
    c = 0.5 * jnp.sum((length_scale * omega) ** 2)
    at_zero = c == 0
    u, log_weights = _rational_quadratic_nodes(alpha, jax.lax.stop_gradient(c), d)
    away = jnp.sum(jnp.exp(log_weights - jnp.where(at_zero, 0, c) * jnp.exp(-u)))
    moment = alpha - d / 2 - 1
    exists = moment > 0
    near = 1 - c * jnp.where(exists, alpha / jnp.where(exists, moment, 1), 0)
    near = near + jnp.sum(_flat(omega, at_zero & ~exists, 1)) + jnp.sum(_flat(omega, at_zero, 3))
    return (math.sqrt(2 * math.pi) * length_scale) ** d * away * jnp.where(at_zero, near, 1)


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
