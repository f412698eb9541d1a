"""A low-rank approximation of the Gram matrix from some of its columns, and the preconditioner made of it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, PRNGKeyArray

from kpoison._linear_algebra import matrix_product
from kpoison.ridge.tiles import ScaledGram, TiledGram

__all__ = ["LowRank", "low_rank", "over_roots"]

_BLOCKS = 8  # more would choose a little better; each is one evaluation of the kernel


class LowRank(eqx.Module):
    """K ≈ U diag(μ) Uᵀ, from below: K − U diag(μ) Uᵀ is positive semi-definite.

    On several devices the rows of U are divided among them, with rows of 0 that make up a number.

    Attributes:
        vectors: U, orthonormal, shape (n, s).
        eigenvalues: μ >= 0, shape (s,).
        trace: of K.
        rest: the part of the trace that is left out, 0 to 1.
    """

    vectors: Float[Array, "n s"]
    eigenvalues: Float[Array, " s"]
    trace: Float[Array, ""]
    rest: Float[Array, ""]

    def power(self, rho: Inexact[Array, ""], exponent: float, b: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """(U diag(μ) Uᵀ + ρI) to some power, times b."""
        outside = jnp.asarray(rho) ** exponent
        inside = (self.eigenvalues + rho) ** exponent - outside
        vectors = self.vectors[: len(b)]
        return outside * b + matrix_product(vectors, inside[:, None] * matrix_product(vectors.T, b))


def low_rank(gram: TiledGram | ScaledGram, rank: int, key: PRNGKeyArray, dtype) -> LowRank:
    """Randomly pivoted Cholesky, in blocks (Chen, Epperly, Tropp, Webber 2023), and its singular values.

    Columns are drawn in proportion to what is left of the diagonal: near the best approximation of that rank in
    expectation.  O(n s²) flops, n·s evaluations of the kernel.
    """
    blocks = min(_BLOCKS, rank)
    block = -(-rank // blocks)
    divided = gram.placement.constrained_rows
    diagonal = divided(gram.diagonal().astype(dtype))
    tiny = 100 * jnp.finfo(gram.dtype).eps

    def add(state, turn):
        factor, left = state
        turn, key = turn
        weights = jnp.maximum(left, 0)
        # Drawn without replacement (Gumbel); a point once drawn has nothing left.
        draws = jnp.log(weights) + jax.random.gumbel(key, left.shape, left.dtype)
        places = jax.lax.top_k(draws, block)[1]
        columns = divided(gram.columns(places).astype(dtype)) - matrix_product(factor, factor[places].T)
        corner = 0.5 * (columns[places] + columns[places].T)
        values, vectors = jnp.linalg.eigh(corner)
        # Points that are copies of others span no new direction.
        kept = values > tiny * jnp.maximum(values[-1], jnp.max(diagonal) * tiny)
        scaled = matrix_product(columns, over_roots(vectors, values, kept))
        factor = jax.lax.dynamic_update_slice(factor, scaled, (0, turn * block))
        left = (left - jnp.sum(scaled**2, axis=1)).at[places].set(0)
        return (factor, left), None

    start = divided(jnp.zeros((gram.number, blocks * block), dtype)), diagonal
    (factor, left), _ = jax.lax.scan(add, start, (jnp.arange(blocks), jax.random.split(key, blocks)))
    squares, turn = jnp.linalg.eigh(matrix_product(factor.T, factor))
    kept = squares > 10 * factor.shape[1] * jnp.finfo(dtype).eps * squares[-1]
    vectors = matrix_product(factor, over_roots(turn, squares, kept))
    trace = jnp.sum(diagonal)
    rest = jnp.sum(jnp.maximum(left, 0)) / jnp.where(trace > 0, trace, 1)
    return LowRank(vectors, jnp.where(kept, squares, 0), trace, rest)


def over_roots(columns: Float[Array, "n m"], squares: Float[Array, " m"], kept: Bool[Array, " m"]) -> Array:
    """Each column over the root of its number, or 0 where it is not kept."""
    return jnp.where(kept[None], columns / jnp.sqrt(jnp.where(kept, squares, 1))[None], 0)
