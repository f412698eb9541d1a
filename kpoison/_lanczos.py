"""Lanczos' method, and the matrices RᵀWR of many rows that it is asked about."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._linear_algebra import matrix_product

__all__ = ["lanczos", "smaller_gram", "weighted_product"]


def lanczos(
    product: Callable[[Float[Array, " D"]], Float[Array, " D"]], start: Float[Array, " D"], depth: int
) -> tuple[Float[Array, "depth D"], Float[Array, "depth depth"]]:
    """Rows of an orthonormal Krylov basis, and the tridiagonal matrix in it (matfree, full reorthogonalisation).

    Where the Krylov space of the start is smaller than `depth`, matfree divides 0 by 0, or rounding errors by rounding
    errors, which has eigenvalues above the largest one; rows and entries from there on are 0 here.
    """
    from matfree import decomp

    found = decomp.tridiag_sym(depth, custom_vjp=False)(product, start)
    basis, tridiagonal = jnp.asarray(found.Q_tall), jnp.asarray(found.J_small)
    finite = jnp.where(jnp.isfinite(tridiagonal), tridiagonal, 0)
    beside = jnp.abs(jnp.diagonal(finite, 1))
    more = jnp.cumprod(beside > jnp.finfo(finite.dtype).eps ** 0.75 * jnp.max(jnp.abs(finite))).astype(bool)
    within = jnp.concatenate([jnp.ones(1, bool), more])
    basis = jnp.where(within[:, None] & jnp.isfinite(basis), basis, 0)
    return basis, jnp.where(within[:, None] & within[None, :], finite, 0)


def smaller_gram(rows: Float[Array, "N D"]) -> Float[Array, "N N"] | None:
    """RRᵀ, where it is no larger than RᵀR."""
    return matrix_product(rows, rows.T) if len(rows) <= rows.shape[1] else None


def weighted_product(
    rows: Float[Array, "N D"], weights: Float[Array, " N"], gram: Float[Array, "N N"] | None
) -> Callable[[Array], Array]:
    """v ↦ RᵀWRv on D coordinates; given RRᵀ, v ↦ W^½RRᵀW^½v on N, which has the same eigenvalues but for zeros."""
    if gram is None:
        return lambda v: matrix_product(rows.T, (weights * matrix_product(rows, v[:, None])[:, 0])[:, None])[:, 0]
    root = jnp.sqrt(weights)
    return lambda v: root * matrix_product(gram, (root * v)[:, None])[:, 0]
