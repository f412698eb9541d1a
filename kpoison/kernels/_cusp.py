"""Elementary functions whose derivatives are right at the cusps of kernels.

Autodiff of ``sqrt`` at 0 and of ``arccos`` at 1 gives NaN.  The functions here return, at such a point, the
symmetric part of the derivative (the mean of the two one-sided ones, which is 0), and refuse the derivative
after that, which is infinite, with an error.  Away from these points they are exact to rounding.
"""

import functools
import itertools

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


# Chebyshev–Padé approximants, on 0 <= v <= 1/2, of three series in v = sin²(θ/2): the coefficients of numerator and
# denominator in the powers of x = 4v − 1, of degrees d + 1 and d.  d = 2 is right to float32, d = 5 to float64.
# Derived in rational arithmetic, in `tests/kernels/test_cusp.py`, since rounding here would be seen in every kernel.
_QUOTIENTS: dict[tuple[str, int], tuple[tuple[float, ...], tuple[float, ...]]] = {
    ("θ/√v", 2): (
        (2.064050867966235, -0.6690220241161957, 0.03628177324222364, 0.0003385920677356631),
        (0.9855116862577974, -0.3700197305871946, 0.028976627484405222),
    ),
    ("θ/√v", 5): (
        (1.826812788089239, -1.5319948709766689, 0.4617010558610929, -0.05975789619050862, 0.003038253846523499,
         -3.701351625511294e-05, -1.0406039374107377e-07),
        (0.8722388559836685, -0.7762447265437107, 0.2537938858853512, -0.03704401876631776, 0.002304536196415724,
         -4.486383448322043e-05),
    ),
    ("(θ − sin θ)/θv", 2): (
        (0.6814886411173129, -0.23205852089683152, 0.014514486905678466, 8.487708584928861e-05),
        (0.9847722745118371, -0.3767374385527802, 0.030455450976325828),
    ),
    ("(θ − sin θ)/θv", 5): (
        (0.6020573163720296, -0.5152029189869093, 0.15984123978280773, -0.021653554067147383, 0.0011973367432137184,
         -1.8362895594415552e-05, -2.6126950037791814e-08),
        (0.869991547252687, -0.7810638254221496, 0.2581984274486815, -0.0382290897061446, 0.002424637394592714,
         -4.852685687276417e-05),
    ),
    ("(sin θ − θ cos θ)/θv", 2): (
        (1.2880559079063612, -0.521416356208729, 0.046396415046973186, -8.487708584928861e-05),
        (0.9847722745118371, -0.3767374385527802, 0.030455450976325828),
    ),
    ("(sin θ − θ cos θ)/θv", 5): (
        (1.1379257781333443, -1.0469247318573898, 0.3565556151145553, -0.05480462534514183, 0.0036519380459717086,
         -7.869081815111278e-05, 2.6126950037791814e-08),
        (0.869991547252687, -0.7810638254221496, 0.2581984274486815, -0.0382290897061446, 0.002424637394592714,
         -4.852685687276417e-05),
    ),
}  # fmt: skip


def _series(name: str, v: Float[Array, "..."]) -> Float[Array, "..."]:
    """A series at 0 <= v <= 1/2; compilers turn polynomials, unlike arctan2 and sin, into vector instructions.

    A quotient of two takes half of the multiplications of one polynomial, in two chains instead of one.
    """
    x = 4 * v - 1
    numerator, denominator = _QUOTIENTS[name, 5 if jnp.finfo(v.dtype).bits > 32 else 2]
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
