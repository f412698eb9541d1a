"""Elementary functions whose derivatives are right at the cusps of kernels.

Autodiff of ``sqrt`` at 0 and of ``arccos`` at 1 gives NaN.  The functions here return, at such a point, the
symmetric part of the derivative (the mean of the two one-sided ones, which is 0), and refuse the derivative
after that, which is infinite, with an error.  Away from these points they are exact to rounding.
"""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["angle", "angle_excess", "arc_excess", "cusp_sqrt"]

_NO_FURTHER_DERIVATIVE = (
    "A derivative was asked for that does not exist at this point: the second at a cusp (coincident points of a "
    "Laplace kernel; coincident or collinear points, or the origin, of a ReLU network's kernel), the third or fifth "
    "at coincident points of a Matérn-3/2 or -5/2 kernel: see kernel.smoothness."
)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _half_power(u: Float[Array, "..."], below: int, derivatives: int) -> Float[Array, "..."]:
    """u^(½ − below) for u > 0 and 0 at u = 0, where as many derivatives are 0 too and the next is refused."""
    cusp = u == 0
    safe = jnp.where(cusp, 1, u)
    power = jnp.sqrt(safe)
    for _ in range(below):
        power = power / safe
    return jnp.where(cusp, 0, power)


@_half_power.defjvp
def _half_power_jvp(below, derivatives, primals, tangents):
    (u,), (du,) = primals, tangents
    value = _half_power(u, below, derivatives)
    if derivatives == 0:
        # The derivative exists wherever u > 0; at u = 0 it is infinite, and any number would be a silent lie.
        u = eqx.error_if(u, u == 0, _NO_FURTHER_DERIVATIVE)
    return value, (0.5 - below) * _half_power(u, below + 1, max(derivatives - 1, 0)) * du


def cusp_sqrt(u: Float[Array, "..."], derivatives: int = 1) -> Float[Array, "..."]:
    """√u for u >= 0, whose derivatives at u = 0 are 0 up to the given order and refused beyond.

    More than one is right only in a function of u = r² whose terms in √u are of so high an order in r that
    these derivatives are multiplied by 0 at r = 0.
    """
    return _half_power(u, 0, derivatives)


@functools.cache
def _arcsine_coefficients(degree: int) -> tuple[float, ...]:
    """Of arcsin(√v)/√v on 0 <= v <= 1/2 as a polynomial in x = 4v − 1: its Taylor series, economised.

    In rational arithmetic, since rounding here would be seen in every angle.
    """
    powers_of_v = [Fraction(math.comb(2 * k, k), 4**k * (2 * k + 1)) for k in range(64)]
    taylor = [Fraction(0)]
    for coefficient in reversed(powers_of_v):  # Horner's rule with v = (x + 1)/4
        shifted = [Fraction(0), *taylor]
        taylor = [(a + b) / 4 for a, b in zip([*taylor, Fraction(0)], shifted, strict=True)]
        taylor[0] += coefficient
    chebyshev = np.polynomial.chebyshev.poly2cheb(np.array(taylor, dtype=object))
    return tuple(map(float, np.polynomial.chebyshev.cheb2poly(chebyshev[: degree + 1])))


def _arcsine_over_sine(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """arcsin(√v)/√v for 0 <= v <= 1/2; compilers turn a polynomial, unlike arctan2, into vector instructions."""
    x = 4 * v - 1
    result = jnp.zeros_like(v)
    for coefficient in reversed(_arcsine_coefficients(20 if jnp.finfo(v.dtype).bits > 32 else 9)):
        result = result * x + coefficient
    return result


@jax.custom_jvp
def angle(defect: Float[Array, "..."], antidefect: Float[Array, "..."]) -> Float[Array, "..."]:
    """Angle θ between two vectors a, b from ‖a‖‖b‖ − a·b and ‖a‖‖b‖ + a·b.

    Full relative precision at both ends, where arccos(a·b/‖a‖‖b‖) keeps only half of the digits.
    A right angle where both arguments are 0 (a vector that vanishes): see `NTK`.
    """
    total = defect + antidefect
    # sin²(θ/2) of the angle to the nearer pole, at most 1/2.
    half = jnp.where(total > 0, jnp.minimum(defect, antidefect) / jnp.where(total > 0, total, 1), 0.5)
    acute = 2 * jnp.sqrt(half) * _arcsine_over_sine(half)
    return jnp.where(defect <= antidefect, acute, jnp.pi - acute)


@angle.defjvp
def _angle_jvp(primals, tangents):
    (defect, antidefect), (d_defect, d_antidefect) = primals, tangents
    total = defect + antidefect
    numerator = antidefect * d_defect - defect * d_antidefect
    slope = _half_power(defect * antidefect, 1, 0) / jnp.where(total > 0, total, 1)
    return angle(defect, antidefect), slope * numerator


def _alternating_series(square: Array, divisors: Sequence[int]) -> Array:
    """1 − s/d₁ (1 − s/d₂ (1 − …))."""
    series = jnp.ones_like(square)
    for divisor in reversed(divisors):
        series = 1 - square * series / divisor
    return series


@jax.custom_jvp
def angle_excess(defect: Float[Array, "..."], antidefect: Float[Array, "..."]) -> Float[Array, "..."]:
    """θ − sin θ without cancellation."""
    theta = angle(defect, antidefect)
    near = theta**3 / 6 * _alternating_series(theta**2, [k * (k + 1) for k in range(4, 18, 2)])
    return jnp.where(theta < 0.5, near, theta - jnp.sin(theta))


@angle_excess.defjvp
def _angle_excess_jvp(primals, tangents):
    defect, antidefect = primals
    total = defect + antidefect
    versine = jnp.where(total > 0, 2 * defect / jnp.where(total > 0, total, 1), 1)
    return angle_excess(*primals), versine * jax.jvp(angle, primals, tangents)[1]


@jax.custom_jvp
def arc_excess(defect: Float[Array, "..."], antidefect: Float[Array, "..."]) -> Float[Array, "..."]:
    """h (sin θ − θ cos θ) with h = ‖a‖‖b‖, from the same two arguments as `angle`.

    With it, h times the arc-cosine kernel of degree 1 is h cos θ + arc_excess/π.
    """
    theta = angle(defect, antidefect)
    half_sum = 0.5 * (defect + antidefect)
    near = half_sum * theta**3 / 3 * _alternating_series(theta**2, [k * (k + 3) for k in range(2, 16, 2)])
    far = jnp.sqrt(defect * antidefect) - theta * 0.5 * (antidefect - defect)
    return jnp.where(theta < 0.5, near, far)


@arc_excess.defjvp
def _arc_excess_jvp(primals, tangents):
    d_defect, d_antidefect = tangents
    # In this order every term, and every term of the next derivative, is small where θ is.
    slope = angle(*primals) * d_defect - 0.5 * angle_excess(*primals) * (d_defect + d_antidefect)
    return arc_excess(*primals), slope
