"""The effective ridge λ_e of a training set of n points: λ_e = λ + λ_e df1(λ_e)/n (R1, R3, R4).

Averaged over training sets, ridge regression at λ is the population's at λ_e (Dobriban and Wager 2018, Ann. Statist.
46:247; Jacot, Simsek, Spadaro, Hongler and Gabriel 2020).  With the population's eigenvalues s_i, each counted w_i
times, df1(x) = Σ w s/(s + x) and df2(x) = Σ w s²/(s + x)².  On the ground, as the laws of one data set meet it too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._failures import checked_result, program
from kpoison._validation import check_floating, check_positive, plain_array, public

__all__ = [
    "EffectiveRidge",
    "effective_ridge",
    "effective_ridge_of_sample",
    "root_of_effective_ridge",
    "solve_effective_ridge",
]

_STEPS = 500  # Newton takes 5 to 20; 60 beside the interpolation threshold, where the root is double


class EffectiveRidge(NamedTuple):
    """λ_e and the degrees of freedom at it.

    Attributes:
        value: λ_e >= λ, in the units of the eigenvalues; 0 where λ = 0 and n is at least the rank.
        df1: Σ w s/(s + λ_e), at most n.
        df2: Σ w (s/(s + λ_e))² <= df1.
        shrinkage: 1 − df1/n = λ/λ_e, which is the ratio of a training residual to one of the population's predictor;
            without the digits that the difference would lose.
        sensitivity: dλ_e/dλ = 1/(1 − df2/n) >= 1, infinite at the interpolation threshold.
    """

    value: Float[Array, ""]
    df1: Float[Array, ""]
    df2: Float[Array, ""]
    shrinkage: Float[Array, ""]
    sensitivity: Float[Array, ""]


def effective_ridge_of_sample(ridge: Any, degrees: Any, n: Any) -> Any:
    """λ_e from one training set: λ/(1 − df1/n), df1 its own degrees of freedom Σ μ/(μ + nλ) (R4)."""
    return ridge / (1 - degrees / n)


@public
def effective_ridge(
    eigenvalues: Float[ArrayLike, " d"],
    n: Num[ArrayLike, ""],
    ridge: Num[ArrayLike, ""],
    weights: Num[ArrayLike, " d"] | None = None,
) -> EffectiveRidge:
    """λ_e = λ + λ_e df1(λ_e)/n from the eigenvalues of a covariance (R1, R3).

    To rounding, with derivatives of every order in all the numbers, which are those of the equation.  Without a ridge
    it is 0 for n at or above the rank, where derivatives take directions without variance to stay so, and below it the
    ridge that interpolation implies.

    Args:
        eigenvalues: s >= 0 of the covariance, or of a kernel's matrix weighted by the pool's probabilities; (d,).
        n: training points, a number > 0.
        ridge: λ >= 0 of the mean loss.
        weights: how often each eigenvalue is counted, numbers >= 0; by default once.

    Returns:
        An `EffectiveRidge`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, and for a search that has not converged.

    >>> import numpy as np
    >>> found = effective_ridge(np.ones(50), 100, 0.1)  # λ_e² + (1 − d/n − λ)λ_e = λ
    >>> round(float(found.value**2 + 0.4 * found.value), 6)
    0.1
    """
    s = check_floating("eigenvalues", eigenvalues)
    if s.ndim != 1 or s.size == 0:
        raise ValueError(f"eigenvalues must have shape (d,) with d >= 1, got {s.shape}")
    check_positive("eigenvalues", s, zero=True, scalar=False)
    check_positive("n", n)
    check_positive("ridge", ridge, zero=True)
    if weights is None:
        w = jnp.ones_like(s)
    else:
        check_positive("weights", weights, zero=True, scalar=False)
        w = jnp.asarray(plain_array("weights", weights), s.dtype)
        if w.shape != s.shape:
            raise ValueError(f"weights must have shape {s.shape}, one for each eigenvalue, got {w.shape}")
    return _checked(s, w, jnp.asarray(n, s.dtype), jnp.asarray(ridge, s.dtype))


@program
def _checked(s: Array, w: Array, n: Array, ridge: Array) -> EffectiveRidge:
    def wrong(value: Array) -> Array:
        return ~jnp.all((value >= 0) & jnp.isfinite(value))

    s = checked_result(
        s,
        [
            (wrong(s), "eigenvalues must be finite and >= 0"),
            (wrong(w), "weights must be finite and >= 0"),
            (wrong(n) | (n == 0), "n must be finite and > 0"),
            (wrong(ridge), "ridge must be finite and >= 0"),
        ],
    )
    return solve_effective_ridge(s, w, n, ridge)


def solve_effective_ridge(
    s: Float[Array, " d"], w: Float[Array, " d"], n: Float[Array, ""], ridge: Float[Array, ""]
) -> EffectiveRidge:
    """`effective_ridge` of numbers that are checked, as a part of a program; the arguments are of one dtype."""
    value = root_of_effective_ridge(s, w, n, ridge)
    converged = jnp.isfinite(value) | ~jnp.isfinite(jnp.sum(s) + jnp.sum(w) + n + ridge)  # else said elsewhere
    value = checked_result(value, [(~converged, f"the effective ridge has not converged in {_STEPS} steps")])
    share = _share(s, value)
    df1, df2 = jnp.sum(w * share), jnp.sum(w * share**2)
    left1, left2 = _left(s, w, n, value)
    shrinkage = jnp.where(value > 0, ridge / jnp.where(value > 0, value, 1), left1 / n)
    return EffectiveRidge(value, df1, df2, shrinkage, n / left2)


def _share(s: Array, x: Array) -> Array:
    """s/(s + x), 0 for s = x = 0."""
    some = s + x > 0
    return jnp.where(some, s / jnp.where(some, s + x, 1), 0)


def _lost(s: Array, x: Array) -> Array:
    """x/(s + x), which 1 − s/(s + x) would cancel in; 0 of what does not vary."""
    return jnp.where(s > 0, x / jnp.where(s > 0, s + x, 1), 0)


def _left(s: Array, w: Array, n: Array, x: Array) -> tuple[Array, Array]:
    """n − df1 and n − df2: beside interpolation n − rank and what shrinkage takes of each direction."""
    share, lost = _share(s, x), _lost(s, x)
    rank = jnp.sum(jnp.where(s > 0, w, 0))
    far = rank > 2 * n  # where n − rank would cancel instead
    spare = jnp.where(far, n, n - rank)
    return (
        spare + jnp.sum(w * jnp.where(far, -share, lost)),
        spare + jnp.sum(w * jnp.where(far, -(share**2), lost * (1 + share))),
    )


@jax.custom_jvp
def root_of_effective_ridge(s: Array, w: Array, n: Array, ridge: Array) -> Array:
    """The root of x − λ − x df1(x)/n, convex in x, by Newton's steps from above, which fall to it; NaN if not found."""
    rank = jnp.sum(jnp.where(s > 0, w, 0))
    eps = jnp.finfo(s.dtype).eps

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, _, count = state
        _, left = _left(s, w, n, x)
        lower = (n * ridge + x * jnp.sum(w * _share(s, x) * _lost(s, x))) / left
        lower = jnp.maximum(lower, ridge)
        # Rounding stops the fall.
        done = ~(lower < x * (1 - 2 * eps)) | ~(left > 0)
        return jnp.where(done, x, lower), done, count + 1

    def going(state: tuple[Array, Array, Array]) -> Array:
        return ~state[1] & (state[2] < _STEPS)

    first = ridge + jnp.sum(w * s) / n
    vanishes = (ridge == 0) & (n >= rank)
    start = jnp.where(vanishes, jnp.zeros_like(first), first)
    x, done, _ = jax.lax.while_loop(going, step, (start, vanishes | (first == 0), jnp.zeros((), int)))
    return jnp.where(done, x, jnp.nan)


@root_of_effective_ridge.defjvp
def _root_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    """F = nx − nλ − x df1(x) = 0: dx = −∂F/(n − df2)."""
    s, w, n, _ = primals
    x = root_of_effective_ridge(*primals)

    def equation(s: Array, w: Array, n: Array, ridge: Array) -> Array:
        return n * (x - ridge) - x * jnp.sum(w * _share(s, x))

    _, moved = jax.jvp(equation, primals, tangents)
    return x, -moved / _left(s, w, n, x)[1]
