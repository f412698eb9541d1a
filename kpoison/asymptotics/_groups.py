"""Populations of two groups, clean points and poisons, and the effective ridge of each (R3).

A training set has fixed numbers of both.  What all poisons share is there in every training set, as a clone is, and
shrinks nothing: only what varies from one to the other does.  With k̃ the posterior covariance of the population, of
which each point has the noise λ_g/w of its group, and shares s within a group,

    λ_c = λ + Σ s_i k̃(x_i, x_i)/n,    λ_p = λ + (Σ s_j k̃(z_j, z_j) − sᵀk̃(Z, Z)s)/n;

clones have λ_p = λ, and a pool that is all one has R3's λ_e.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._linear_algebra import eigh, linear_solve, matrix_product

__all__ = ["GroupErrors", "group_errors", "prior_variances", "roots_of_groups", "spreads"]

_STEPS = 1000


class GroupErrors(NamedTuple):
    """What the predictors miss.

    Attributes:
        noise: mean outer products of residuals in each group, of the poisons about what they share, (2, C, C).
        population: of all, (C, C).
        slope: dκ/dλ/n of the groups, (2, 2): the ridges' sensitivity to λ is that of (1 − slope)⁻¹.
    """

    noise: Float[Array, "2 C C"]
    population: Float[Array, "C C"]
    slope: Float[Array, "2 2"]


def spreads(
    variances: Float[Array, " N"], block: Float[Array, "P P"], shares: Float[Array, " N"]
) -> Float[Array, " 2"]:
    """κ of both groups from k̃(x, x) of all points and k̃ of the poisons, the last of them."""
    clean = len(variances) - len(block)
    own = shares[clean:]
    return jnp.stack([shares[:clean] @ variances[:clean], jnp.maximum(own @ variances[clean:] - own @ block @ own, 0)])


def prior_variances(gram: Float[Array, "N N"], shares: Float[Array, " N"], clean: int) -> Float[Array, " 2"]:
    """`spreads` of the prior, which those of no population exceed."""
    return spreads(jnp.diag(gram), gram[clean:, clean:], shares)


def roots_of_groups(
    gram: Float[Array, "N N"],
    shares: Float[Array, " N"],
    clean: int,
    fraction: Float[Array, ""],
    n: Float[Array, ""],
    ridge: Float[Array, ""],
) -> Float[Array, " 2"]:
    """λ_c and λ_p without derivatives, NaN if not found: from above, from where the iteration falls to them.

    By one eigendecomposition of the clean points, and the poisons conditioned on (L7).
    """
    roots, own = jnp.sqrt(shares[:clean]), shares[clean:]
    values, vectors = eigh(roots[:, None] * gram[:clean, :clean] * roots[None])
    s, cross = jnp.maximum(values, 0), matrix_product(vectors.T, roots[:, None] * gram[:clean, clean:])
    halves = jnp.sqrt(fraction * own)

    def image(x: Array) -> Array:
        shift = x[0] / (1 - fraction)
        left = cross / (s + shift)[:, None]
        block = gram[clean:, clean:] - matrix_product(cross.T, left)
        taken = shift**2 * matrix_product(left.T, left)
        inner = x[1] * jnp.eye(len(own), dtype=x.dtype) + halves[:, None] * block * halves[None]
        right = halves[:, None] * jnp.concatenate([block, taken], axis=1)
        solved = halves[:, None] * linear_solve(inner, right)
        after = block - matrix_product(block, solved[:, : len(own)])
        of_clean = jnp.sum(s * shift / (s + shift)) - jnp.trace(solved[:, len(own) :])
        of_poison = own @ jnp.diag(after) - own @ after @ own
        return ridge + jnp.maximum(jnp.stack([of_clean, of_poison]), 0) / n

    eps = jnp.finfo(gram.dtype).eps

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, _, count = state
        new = image(x)
        # Rounding stops the fall.
        done = ~jnp.any(new < x * (1 - 4 * eps))
        return jnp.where(done, x, jnp.minimum(new, x)), done, count + 1

    def going(state: tuple[Array, Array, Array]) -> Array:
        return ~state[1] & (state[2] < _STEPS)

    start = ridge + prior_variances(gram, shares, clean) / n
    x, done, _ = jax.lax.while_loop(going, step, (start, jnp.zeros((), bool), jnp.zeros((), int)))
    return jnp.where(done & (x > 0), x, jnp.nan)


def group_errors(
    covariance: Float[Array, "N N"],
    residuals: Float[Array, "N C"],
    shares: Float[Array, " N"],
    clean: int,
    strengths: Float[Array, " 2"],
    fraction: Float[Array, ""],
) -> GroupErrors:
    """E of each group: squared residuals, and the variance that the errors of both groups bring about there.

    Args:
        covariance: k̃ of all points.
        residuals: f̄ − y.
        shares: within each group.
        clean: how many points are of the first.
        strengths: π_g/(nλ_g²), by which E_g times the mean of k̃(x, z)² over the group is its part of Var f(x).
        fraction: π_p.
    """
    own, first = shares[clean:], shares[:clean]
    columns = covariance.at[:, clean:].add(-(covariance[:, clean:] @ own)[:, None])
    both = columns.at[clean:].add(-(own @ columns[clean:])[None])
    rows = covariance.at[clean:].add(-(own @ covariance[clean:])[None])

    def means(matrix: Array) -> Array:
        """Of squares, over groups of rows and of columns."""
        squares = matrix**2
        by_column = jnp.stack([squares[:, :clean] @ first, squares[:, clean:] @ own], axis=1)
        return jnp.stack([first @ by_column[:clean], own @ by_column[clean:]])

    outer = residuals[:, :, None] * residuals[:, None, :]
    seen = jnp.stack([jnp.einsum("j,jcd->cd", s, o) for s, o in ((first, outer[:clean]), (own, outer[clean:]))])
    outputs = residuals.shape[1]
    noise = linear_solve(jnp.eye(2, dtype=shares.dtype) - means(both) * strengths[None], seen.reshape(2, -1)).reshape(
        2, outputs, outputs
    )
    of_all = jnp.stack([1 - fraction, fraction])
    population = jnp.einsum("g,gcd->cd", of_all, seen)
    population = population + jnp.einsum("g,gcd->cd", (of_all @ means(columns)) * strengths, noise)
    return GroupErrors(noise, population, means(rows) * strengths[None])
