"""Elementary functions whose derivatives are right at the cusps of kernels.

Autodiff of ``sqrt`` at 0 and of ``arccos`` at 1 gives NaN.  The functions here return, at such a point, the
symmetric part of the derivative (the mean of the two one-sided ones, which is 0), and refuse the derivative
after that, which is infinite, with an error.  Away from these points they are exact to rounding.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kpoison._failures import checked_result

__all__ = ["arc_excess", "at_apex", "cusp_sqrt", "versine_angle"]

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


def at_apex(value: Float[Array, "..."], apex: Bool[Array, "..."]) -> Float[Array, "..."]:
    """The value, a cone's, which is 0 at its apex and has no second derivative there: one is refused."""
    return value + (cusp_sqrt(jnp.where(apex, value**2, 1)) - jnp.where(apex, 0, 1))


# Chebyshev–Padé approximants, on 0 <= v <= 1/2, of two series in v = sin²(θ/2): the coefficients of numerator and
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


@jax.custom_jvp
def versine_angle(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """Angle θ <= 90° with sin²(θ/2) = v."""
    return jnp.sqrt(v) * _series("θ/√v", v)


@versine_angle.defjvp
def _versine_angle_jvp(primals, tangents):
    (v,), (dv,) = primals, tangents
    return versine_angle(v), _half_power(v * (1 - v), 1, 0) * dv


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def arc_excess(v: Float[Array, "..."], relative: bool = True) -> Float[Array, "..."]:
    """sin θ − θ cos θ of the same angle: to its last digits or, in less time, with an error of eps·θ.

    The latter is enough where v itself has an error of eps.  cos θ + arc_excess/π is the arc-cosine kernel of degree 1.
    """
    if relative:
        return versine_angle(v) * v * _series("(sin θ − θ cos θ)/θv", v)
    return 2 * jnp.sqrt(v) * jnp.sqrt(1 - v) - versine_angle(v) * (1 - 2 * v)


@arc_excess.defjvp
def _arc_excess_jvp(relative, primals, tangents):
    (v,), (dv,) = primals, tangents
    return arc_excess(v, relative), 2 * versine_angle(v) * dv
