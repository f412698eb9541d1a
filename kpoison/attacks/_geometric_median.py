"""The geometric median of clients' updates, by Weiszfeld's iteration as Vardi and Zhang (2000) mended it.

With distances d_i = ‖u_i − z‖ and unit vectors e_i = (u_i − z)/d_i of the updates apart from z (K rows of p), and w₀
the weight of those at z:

    pull = Σ w_i e_i (p,),    excess = (‖pull‖ − w₀)₊,    z ← z + pull (excess/‖pull‖) / Σ (w_i/d_i)

The excess is the norm of the smallest subgradient of Σ w_i ‖u_i − z‖: 0 at the median and only there.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kpoison._linear_algebra import linear_solve, matrix_product
from kpoison.attacks._distances import distances_from, row_lengths

__all__ = ["geometric_median"]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def geometric_median(
    max_iterations: int, updates: Float[Array, "K p"], weights: Float[Array, " K"], tolerance: Float[Array, ""]
) -> tuple[Float[Array, " p"], Float[Array, ""]]:
    """The median, and the norm of the smallest subgradient there."""
    start = updates[_best_update(updates, weights, tolerance)]

    def unfinished(state):
        _, _, excess, steps = state
        return (excess > tolerance) & (steps < max_iterations)

    def advance(state):
        _, following, _, steps = state
        return (following, *_weiszfeld(following, updates, weights), steps + 1)

    state = (start, *_weiszfeld(start, updates, weights), jnp.asarray(0))
    median, _, excess, _ = jax.lax.while_loop(unfinished, advance, state)
    return median, excess


@geometric_median.defjvp
def geometric_median_jvp(max_iterations, primals, tangents):
    """Σ w_i e_i = 0 with the unit vectors e_i from the updates, differentiated.

    Its Hessian sI − FᵀF has the identity and K more ranks: a system of K equations is solved.
    """
    updates, weights, _ = primals
    d_updates, d_weights, _ = tangents
    median, excess = geometric_median(max_iterations, *primals)
    distances = distances_from(median, updates)
    apart = distances > 0
    units = jnp.where(apart[:, None], (median[None] - updates) / jnp.where(apart, distances, 1)[:, None], 0)
    # In units of the shortest distance, so that no power of it overflows.
    nearest = jnp.min(jnp.where(apart, distances, jnp.inf))
    nearest = jnp.where(jnp.isfinite(nearest), nearest, 1)
    strengths = jnp.where(apart, weights * (nearest / jnp.where(apart, distances, 1)), 0)
    total = jnp.sum(strengths)
    factor = jnp.sqrt(strengths)[:, None] * units
    at_update, identity = jnp.any(~apart), jnp.eye(len(factor), dtype=factor.dtype)
    # Of updates on a line one is the median: where none is, they spread across it, and the system is not singular.
    system = jnp.where(at_update, identity, total * identity - matrix_product(factor, factor.T))
    across = d_updates - jnp.sum(units * d_updates, axis=1, keepdims=True) * units
    slope = jnp.einsum("k,kp->p", strengths, across, precision="highest")
    slope -= nearest * jnp.einsum("k,kp->p", d_weights, units, precision="highest")
    along = linear_solve(system, matrix_product(factor, slope[:, None]))
    moved = (slope + matrix_product(factor.T, along)[:, 0]) / jnp.where(total > 0, total, 1)
    here = jnp.where(apart, 0, weights)
    held = jnp.einsum("k,kp->p", here, d_updates, precision="highest") / jnp.where(at_update, jnp.sum(here), 1)
    return (median, excess), (jnp.where(at_update, held, moved), jnp.zeros_like(excess))


def _best_update(
    updates: Float[Array, "K p"], weights: Float[Array, " K"], tolerance: Float[Array, ""]
) -> Int[Array, ""]:
    """Which update is the median, or else has the smallest sum of weighted distances.

    Beside one update that is far away all sums are equal to rounding.  Their differences from that of a good update are
    not, and whether an update is the median its subgradient tells, in which nothing is large.
    """

    def against(reference: Array) -> Array:
        return jax.lax.map(lambda z: jnp.sum(weights * (distances_from(z, updates) - reference)), updates)

    first = updates[jnp.argmin(against(jnp.zeros(len(updates), updates.dtype)))]
    totals = against(distances_from(first, updates))
    excess = jax.lax.map(lambda z: _weiszfeld(z, updates, weights)[1], updates)
    median = excess <= tolerance
    return jnp.argmin(jnp.where(median | ~jnp.any(median), totals, jnp.inf))


def _weiszfeld(
    z: Float[Array, " p"], updates: Float[Array, "K p"], weights: Float[Array, " K"]
) -> tuple[Float[Array, " p"], Float[Array, ""]]:
    """The next iterate, and the norm of the smallest subgradient at this one: 0 at the median and only there."""
    distances = distances_from(z, updates)
    apart = distances > 0
    units = (updates - z[None]) / jnp.where(apart, distances, 1)[:, None]
    pull = jnp.einsum("k,kp->p", weights, units, precision="highest")
    strength = row_lengths(pull[None])[0]
    # 1/Σ w_i/d_i, in units of the shortest distance.
    nearest = jnp.min(jnp.where(apart, distances, jnp.inf))
    inverse = jnp.sum(jnp.where(apart, weights * (nearest / jnp.where(apart, distances, 1)), 0))
    step = jnp.where(jnp.any(apart), nearest / jnp.where(inverse > 0, inverse, 1), 0)
    excess = jnp.maximum(strength - jnp.sum(jnp.where(apart, 0, weights)), 0)
    share = jnp.where(excess > 0, excess / jnp.where(strength > 0, strength, 1), 0)
    return z + pull * share * step, excess
