"""Products in full precision; dense solves and factorisations that are safe under `jax.vmap` on a CPU.

jaxlib before 0.11.2 hands a batch of LAPACK calls to the threads that run the program and waits for them there: as
many batches at a time as there are threads, such as two on two cores, wait for each other for ever.  Until then each
batch is done one matrix after the other.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

__all__ = ["cholesky", "cholesky_solve", "eigh", "linear_solve", "lower_solve", "matrix_product", "tridiagonal"]

_MENDED_IN = (0, 11, 2)


def matrix_product(a: Inexact[Array, "n k"], b: Inexact[Array, "k m"]) -> Inexact[Array, "n m"]:
    """`a @ b` in the full precision of its dtype; accelerators round float32 to 10 bits by default."""
    return jnp.matmul(a, b, precision="highest")


def _one_after_the_other(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which under `jax.vmap` on an affected CPU becomes a loop."""
    looped = jax.custom_batching.sequential_vmap(function)

    def called(*arguments: Array) -> Any:
        affected = jax.default_backend() == "cpu" and jax.__version_info__ < _MENDED_IN
        return (looped if affected else function)(*arguments)

    return called


_solve = _one_after_the_other(jnp.linalg.solve)

cholesky: Callable[[Array], Array] = _one_after_the_other(
    # One half is read only: a copy of a large matrix is saved.  LAPACK reads by columns what JAX keeps by rows: of the
    # transpose, which is the same matrix, the numbers need not be moved, for a fifth of the time.
    lambda matrix: jnp.linalg.cholesky(matrix.T, symmetrize_input=False)
)
"""Lower Cholesky factor of a symmetric matrix; without derivatives under `jax.vmap`."""

eigh: Callable[[Array], tuple[Array, Array]] = _one_after_the_other(lambda matrix: tuple(jnp.linalg.eigh(matrix)))
"""Eigenvalues and eigenvectors of a symmetric matrix; without derivatives under `jax.vmap`."""

tridiagonal: Callable[[Array], tuple[Array, Array, Array, Array]] = _one_after_the_other(
    lambda matrix: tuple(jax.lax.linalg.tridiagonal(matrix, lower=True))
)
"""Reflections, diagonal, off-diagonal and scales of the reduction of a symmetric matrix; without derivatives."""

cholesky_solve: Callable[[Array, Array], Array] = _one_after_the_other(
    lambda lower, b: jax.scipy.linalg.cho_solve((lower, True), b)
)
"""(LLᵀ)⁻¹b from L; without derivatives under `jax.vmap`."""

lower_solve: Callable[[Array, Array], Array] = _one_after_the_other(
    lambda lower, b: jax.scipy.linalg.solve_triangular(lower, b, lower=True)
)
"""L⁻¹b; without derivatives under `jax.vmap`."""


def linear_solve(matrix: Inexact[Array, "n n"], b: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
    """matrix⁻¹ b by LU, differentiable in both."""
    return jax.lax.custom_linear_solve(
        lambda x: matrix_product(matrix, x),
        b.astype(jnp.result_type(matrix, b)),
        solve=lambda _, b: _solve(matrix, b),
        transpose_solve=lambda _, b: _solve(matrix.T, b),
    )
