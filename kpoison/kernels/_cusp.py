"""Elementary functions whose derivatives are right at the cusps of kernels.

Autodiff of ``sqrt`` at 0 and of ``arccos`` at 1 gives NaN.  The functions here return, at such a point, the
symmetric part of the derivative (the mean of the two one-sided ones, which is 0), and refuse the derivative
after that, which is infinite, with an error.  Away from these points they are exact to rounding.
"""

import functools
import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._failures import checked_result

__all__ = ["angle", "angle_excess", "arc_excess", "arc_excess_of_versine", "cusp_sqrt", "versine_angle"]

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
        u = checked_result(u, [(u == 0, _NO_FURTHER_DERIVATIVE)])
    return value, (0.5 - below) * _half_power(u, below + 1, max(derivatives - 1, 0)) * du


def cusp_sqrt(u: Float[Array, "..."], derivatives: int = 1) -> Float[Array, "..."]:
    """√u for u >= 0, whose derivatives at u = 0 are 0 up to the given order and refused beyond.

    More than one is right only in a function of u = r² whose terms in √u are of so high an order in r that
    these derivatives are multiplied by 0 at r = 0.
    """
    return _half_power(u, 0, derivatives)


_TERMS = 64


def _arcsine_terms(number: int) -> list[Fraction]:
    """Coefficients of v^k in A(v) = arcsin(√v)/√v."""
    return [Fraction(math.comb(2 * k, k), 4**k * (2 * k + 1)) for k in range(number)]


def _cosine_terms(number: int) -> list[Fraction]:
    """Coefficients of v^k in C(v) = √(1 − v)."""
    return [Fraction(-math.comb(2 * k, k), 4**k * (2 * k - 1)) for k in range(number)]


def _quotient(numerator: list[Fraction], denominator: list[Fraction]) -> list[Fraction]:
    """The power series numerator/denominator."""
    quotient: list[Fraction] = []
    for k, term in enumerate(numerator):
        known = sum((q * denominator[k - j] for j, q in enumerate(quotient)), Fraction(0))
        quotient.append((term - known) / denominator[0])
    return quotient


def _taylor_terms(name: str) -> list[Fraction]:
    """Coefficients of v^k of a series named below.

    With v = sin²(θ/2) for an angle θ of at most 90°: θ = 2√v A(v), sin θ = 2√v C(v), cos θ = 1 − 2v.
    """
    A, C = _arcsine_terms(_TERMS + 1), _cosine_terms(_TERMS + 1)
    match name:
        case "θ/√v":
            return [2 * a for a in A[:-1]]
        case "(θ − sin θ)/θv":
            return _quotient([A[k + 1] - C[k + 1] for k in range(_TERMS)], A)
        case "(sin θ − θ cos θ)/θv":
            return _quotient([C[k + 1] - A[k + 1] + 2 * A[k] for k in range(_TERMS)], A)
    raise ValueError(name)


def _in_chebyshev_polynomials(taylor: list[Fraction]) -> list[Fraction]:
    """A polynomial in v, on 0 <= v <= 1/2, in the Chebyshev polynomials of x = 4v − 1."""
    result = [Fraction(0)]
    for term in reversed(taylor):  # Horner's rule with v = (x + 1)/4 and x T_k = (T_{k+1} + T_{k-1})/2
        shifted = [c / 4 for c in result] + [Fraction(0)]
        for k, c in enumerate(result):
            shifted[k + 1] += c / 8
            shifted[abs(k - 1)] += c / 8
        shifted[0] += term
        result = shifted
    return result


def _in_powers(chebyshev: list[Fraction]) -> tuple[float, ...]:
    """Coefficients of the powers of x."""
    before, polynomial = [Fraction(0), Fraction(1)], [Fraction(1)]  # T_{-1} = T_1 = x
    result = [Fraction(0)] * len(chebyshev)
    for c in chebyshev:
        for power, factor in enumerate(polynomial):
            result[power] += c * factor
        doubled = [Fraction(0), *(2 * factor for factor in polynomial)]
        following = [d - b for d, b in itertools.zip_longest(doubled, before, fillvalue=Fraction(0))]
        before, polynomial = polynomial, following
    return tuple(map(float, result))


def _solve(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction]:
    """By Gauss and Jordan."""
    rows = [[*row, b] for row, b in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = next(k for k in range(i, len(rows)) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [a / rows[i][i] for a in rows[i]]
        for k in range(len(rows)):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


@functools.cache
def _quotient_of_polynomials(name: str, degree: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of a series in v, on 0 <= v <= 1/2: numerator and denominator in x = 4v − 1, of degrees d + 1 and d.

    The Chebyshev–Padé approximant: series · denominator − numerator has no Chebyshev coefficient of an order up to
    2d + 1.  In rational arithmetic, since rounding here would be seen in every kernel.
    """
    series = _in_chebyshev_polynomials(_taylor_terms(name))
    series[0] *= 2

    def coefficient(k: int, j: int) -> Fraction:
        """Twice that of T_k in series · T_j."""
        return series[k + j] + series[abs(k - j)]

    orders = range(degree + 2, 2 * degree + 2)
    matrix = [[coefficient(k, j) for j in range(1, degree + 1)] for k in orders]
    denominator = [Fraction(1), *_solve(matrix, [-coefficient(k, 0) for k in orders])]
    numerator = [
        sum((q * coefficient(k, j) for j, q in enumerate(denominator)), Fraction(0)) / 2 for k in range(degree + 2)
    ]
    numerator[0] /= 2
    return _in_powers(numerator), _in_powers(denominator)


def _series(name: str, v: Float[Array, "..."]) -> Float[Array, "..."]:
    """A series at 0 <= v <= 1/2; compilers turn polynomials, unlike arctan2 and sin, into vector instructions.

    A quotient of two takes half of the multiplications of one polynomial, in two chains instead of one.
    """
    x = 4 * v - 1
    numerator, denominator = _quotient_of_polynomials(name, 5 if jnp.finfo(v.dtype).bits > 32 else 2)
    return _polynomial(numerator, x) / _polynomial(denominator, x)


def _polynomial(coefficients: tuple[float, ...], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """By Estrin's scheme: Horner's waits for every multiplication before it begins the next."""
    terms, power = [jnp.full_like(x, coefficient) for coefficient in coefficients], x
    while len(terms) > 1:
        pairs = itertools.zip_longest(terms[::2], terms[1::2])
        terms, power = [low if high is None else low + high * power for low, high in pairs], power * power
    return terms[0]


def _half_versine(near: Float[Array, "..."], far: Float[Array, "..."]) -> Float[Array, "..."]:
    """v = sin²(θ/2), at most 1/2; that of a right angle where both arguments are 0 (a vector vanishes): see `NTK`."""
    total = near + far
    return jnp.where(total > 0, near / jnp.where(total > 0, total, 1), 0.5)


@jax.custom_jvp
def versine_angle(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """Angle θ <= 90° with sin²(θ/2) = v."""
    return jnp.sqrt(v) * _series("θ/√v", v)


@versine_angle.defjvp
def _versine_angle_jvp(primals, tangents):
    (v,), (dv,) = primals, tangents
    return versine_angle(v), _half_power(v * (1 - v), 1, 0) * dv


@jax.custom_jvp
def arc_excess_of_versine(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """sin θ − θ cos θ of the same angle, with an error of eps·θ: enough where v has one of eps."""
    return 2 * jnp.sqrt(v) * jnp.sqrt(1 - v) - versine_angle(v) * (1 - 2 * v)


@arc_excess_of_versine.defjvp
def _arc_excess_of_versine_jvp(primals, tangents):
    (v,), (dv,) = primals, tangents
    return arc_excess_of_versine(v), 2 * versine_angle(v) * dv


@jax.custom_jvp
def angle(near: Float[Array, "..."], far: Float[Array, "..."]) -> Float[Array, "..."]:
    """Angle θ <= 90° between two vectors a, b from ‖a‖‖b‖ − a·b and ‖a‖‖b‖ + a·b, the larger.

    Full relative precision for θ → 0, where arccos(a·b/‖a‖‖b‖) keeps only half of the digits.
    """
    return versine_angle(_half_versine(near, far))


@angle.defjvp
def _angle_jvp(primals, tangents):
    (near, far), (d_near, d_far) = primals, tangents
    total = near + far
    slope = _half_power(near * far, 1, 0) / jnp.where(total > 0, total, 1)
    return angle(near, far), slope * (far * d_near - near * d_far)


@jax.custom_jvp
def angle_excess(near: Float[Array, "..."], far: Float[Array, "..."]) -> Float[Array, "..."]:
    """θ − sin θ of the same angle, without cancellation."""
    v = _half_versine(near, far)
    return angle(near, far) * v * _series("(θ − sin θ)/θv", v)


@angle_excess.defjvp
def _angle_excess_jvp(primals, tangents):
    versine = 2 * _half_versine(*primals)
    return angle_excess(*primals), versine * jax.jvp(angle, primals, tangents)[1]


@jax.custom_jvp
def arc_excess(near: Float[Array, "..."], far: Float[Array, "..."]) -> Float[Array, "..."]:
    """‖a‖‖b‖ (sin θ − θ cos θ) of the same angle, without cancellation.

    With it, ‖a‖‖b‖ times the arc-cosine kernel of degree 1 is a·b + arc_excess/π.
    """
    v = _half_versine(near, far)
    return 0.5 * (near + far) * angle(near, far) * v * _series("(sin θ − θ cos θ)/θv", v)


@arc_excess.defjvp
def _arc_excess_jvp(primals, tangents):
    d_near, d_far = tangents
    # In this order every term, and every term of the next derivative, is small where θ is.
    slope = angle(*primals) * d_near - 0.5 * angle_excess(*primals) * (d_near + d_far)
    return arc_excess(*primals), slope
