"""Products in full precision; dense solves and factorisations that are safe under `jax.vmap` on a CPU.

jaxlib before 0.11.2 hands a batch of LAPACK calls to the threads that run the program and waits for them there: as
many batches at a time as there are threads, such as two on two cores, wait for each other for ever.  Until then each
batch is done one matrix after the other.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._failures import checked_result

__all__ = [
    "cholesky",
    "cholesky_solve",
    "eigh",
    "leading_eigenpair",
    "linear_solve",
    "lower_solve",
    "matrix_product",
    "tridiagonal",
]

_MENDED_IN = (0, 11, 2)


def matrix_product(a: Inexact[Array, "n k"], b: Inexact[Array, "k m"]) -> Inexact[Array, "n m"]:
    """`a @ b` in the full precision of its dtype; accelerators round float32 to 10 bits by default."""
    return jnp.matmul(a, b, precision="highest")


def _one_after_the_other(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which under `jax.vmap` on an affected CPU becomes a loop.

    As `jax.custom_batching.sequential_vmap`, which ends with an error of its own where tangents alone are mapped.
    """

    @jax.custom_batching.custom_vmap
    def looped(*arguments: Array) -> Any:
        return function(*arguments)

    @looped.def_vmap
    def _(_: int, batched: list[bool], *arguments: Array) -> tuple[Any, Any]:
        def one(mapped: tuple[Array, ...]) -> Any:
            each = iter(mapped)
            return looped(*(next(each) if many else a for a, many in zip(arguments, batched, strict=True)))

        mapped = tuple(a for a, many in zip(arguments, batched, strict=True) if many)
        result = jax.lax.map(one, mapped) if mapped else function(*arguments)
        return result, jax.tree.map(lambda _: bool(mapped), result)

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


@jax.custom_jvp
def leading_eigenpair(
    K: Float[Array, "n n"], counts: Float[Array, " n"]
) -> tuple[Float[Array, ""], Float[Array, " n"], Float[Array, ""]]:
    """Largest λ with KCv = λv, vᵀCv = 1, C = diag(counts), and the eigenvalue after it.

    Args:
        K: symmetric and positive semi-definite.
        counts: >= 0; a point of count c is c equal rows of K, so that λ is that of √C K √C.

    Returns:
        λ, v (of either sign), and the second eigenvalue, a constant to autodiff.

    Derivatives of every order, at counts of 0 too, and whatever the other eigenvalues are among themselves: those of
    `eigh` are NaN where any two are equal.  Refused where the leading one is not simple, as there are none.
    """
    roots = jnp.sqrt(counts)
    values, vectors = eigh(roots[:, None] * K * roots[None])
    weighted = matrix_product(K, (roots * vectors[:, -1])[:, None])[:, 0]
    second = values[-2] if len(values) > 1 else jnp.full_like(values[-1], -jnp.inf)
    return values[-1], weighted / jnp.where(values[-1] > 0, values[-1], 1), second


@leading_eigenpair.defjvp
def _leading_eigenpair_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Any, Any]:
    """[[KC − λI, −v], [(Cv)ᵀ, 0]] (dv, dλ) = (−d(KC)v, −vᵀdC v/2); its only singularity is a second λ."""
    (K, counts), (dK, d_counts) = primals, tangents
    value, vector, second = leading_eigenpair(K, counts)
    rounding = 10 * len(counts) * jnp.finfo(K.dtype).eps * value
    multiple = ~(value - second > rounding)
    message = "the leading eigenvalue must be simple to be differentiated, got two that are equal to rounding"
    value, second = checked_result((value, second), [(multiple, message)])
    left = counts * vector
    block = K * counts[None] - value * jnp.eye(len(counts), dtype=K.dtype)
    bordered = jnp.block([[block, -vector[:, None]], [left[None], jnp.zeros((1, 1), K.dtype)]])
    pushed = matrix_product(dK, left[:, None])[:, 0] + matrix_product(K, (d_counts * vector)[:, None])[:, 0]
    right = -jnp.append(pushed, jnp.sum(d_counts * vector**2) / 2)
    moved = linear_solve(bordered, right[:, None])[:, 0]
    return (value, vector, second), (moved[-1], moved[:-1], jnp.zeros_like(second))
