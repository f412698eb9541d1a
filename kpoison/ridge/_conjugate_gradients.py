"""Block conjugate gradients for symmetric systems with several right-hand sides."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Int

from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar

__all__ = ["IterationStatus", "conjugate_gradients"]


_DROP = 1e-3  # of the residual in a round of narrow products: about as far as they are right


class IterationStatus(eqx.Module):
    """What became of an iterative solve.

    Attributes:
        iterations: products with the matrix on the whole block, shape ().
        relative_residuals: ‖b − Ax‖/‖b‖ of each column, computed afresh from x; 0 for b = 0.
        converged: whether that is within the tolerance.
    """

    iterations: Int[Array, ""]
    relative_residuals: Float[Array, " C"]
    converged: Bool[Array, " C"]


class _Block(NamedTuple):
    """b − Ax = (orthonormal · triangle)/scale after `iterations`, and the directions of the next step."""

    x: Array
    orthonormal: Array
    triangle: Array
    directions: Array
    products: Array
    iterations: Array
    residuals: Array
    goal: Array
    finite: Array


class _Round(NamedTuple):
    """x and its residual, computed from x."""

    x: Array
    residual: Array
    residuals: Array
    iterations: Array
    going: Array


def conjugate_gradients(
    product: Callable[[Inexact[Array, "N C"]], Inexact[Array, "N C"]],
    b: Inexact[Array, "N C"],
    *,
    preconditioner: Callable[[float, Inexact[Array, "N C"]], Inexact[Array, "N C"]],
    tolerance: Scalar,
    max_iterations: int,
    exact_product: Callable[[Inexact[Array, "N C"]], Inexact[Array, "N C"]] | None = None,
) -> tuple[Inexact[Array, "N C"], IterationStatus]:
    """Solve Ax = b to ‖b − Ax‖ <= tolerance ‖b‖ in every column.

    All columns share one Krylov space (O'Leary 1980); the block of residuals is kept orthonormal by a QR decomposition
    (Dubrulle 2001), so dependent, equal or vanishing columns do no harm.  Residuals that the recurrence believes are
    small are computed afresh, and the iteration begins again from there where they are not.

    Args:
        product: x ↦ Ax, A real and positive definite, or complex symmetric (Aᵀ = A, not Hermitian: a real A and a
            complex shift), for which the inner products are not conjugated (van der Vorst, Melissen 1990).
        b: right-hand sides, shape (N, C).
        preconditioner: (power, x) ↦ Mᵖx for some M close to A, symmetric as A is, and the powers ±1/2.
        tolerance: > 0.
        max_iterations: products with A, without those that begin a round.
        exact_product: x ↦ Ax where `product` is rounded to a narrower dtype: it begins each round, which ends once the
            residual is a thousandth of what it was (iterative refinement).

    Returns:
        x and how it was found; never an error, so look at `converged`.

    >>> import jax.numpy as jnp
    >>> A = jnp.array([[4.0, 1.0], [1.0, 3.0]])
    >>> x, status = conjugate_gradients(
    ...     lambda x: A @ x,
    ...     jnp.array([[1.0], [2.0]]),
    ...     preconditioner=lambda power, x: jnp.diag(A)[:, None] ** power * x,
    ...     tolerance=1e-6,
    ...     max_iterations=10,
    ... )
    >>> bool(status.converged[0]), int(status.iterations)
    (True, 2)
    """
    norms = _column_norms(b)
    conjugate = not jnp.iscomplexobj(b)
    least_drop = 0.0 if exact_product is None else _DROP

    def relative(residual_norms):
        return jnp.where(norms == 0, 0, residual_norms / jnp.where(norms == 0, 1, norms))

    def scaled(x):
        return preconditioner(-0.5, x)

    def within(residuals):
        return jnp.all(residuals <= tolerance)

    def gram_of(orthonormal):
        """QᵀQ, of a unitary Q; the identity for a real one."""
        if conjugate:
            return jnp.eye(orthonormal.shape[1], dtype=orthonormal.dtype)
        return matrix_product(orthonormal.T, orthonormal)

    def step(block: _Block) -> _Block:
        image = scaled(product(scaled(block.directions)))
        steps = jnp.linalg.solve(matrix_product(block.directions.T, image), block.products)
        x = block.x + scaled(matrix_product(block.directions, matrix_product(steps, block.triangle)))
        orthonormal, change = jnp.linalg.qr(block.orthonormal - matrix_product(image, steps))
        triangle = matrix_product(change, block.triangle)
        products = gram_of(orthonormal)
        turn = change.T if conjugate else jnp.linalg.solve(block.products, matrix_product(change.T, products))
        directions = orthonormal + matrix_product(block.directions, turn)
        residuals = relative(_column_norms(preconditioner(0.5, matrix_product(orthonormal, triangle))))
        finite = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(directions))
        new = _Block(
            x, orthonormal, triangle, directions, products, block.iterations + 1, residuals, block.goal, finite
        )
        # Where a small matrix is singular the last good x stays.
        kept = block._replace(iterations=block.iterations + 1, finite=jnp.asarray(False))
        return jax.tree.map(lambda a, c: jnp.where(finite, a, c), new, kept)

    def steps_left(block: _Block):
        return block.finite & (block.iterations < max_iterations) & ~jnp.all(block.residuals <= block.goal)

    def round_of(state: _Round) -> _Round:
        orthonormal, triangle = jnp.linalg.qr(scaled(state.residual))
        products = gram_of(orthonormal)
        start = _Block(
            jnp.zeros_like(b),
            orthonormal,
            triangle,
            orthonormal,
            products,
            state.iterations,
            state.residuals,
            jnp.maximum(tolerance, least_drop * state.residuals),
            jnp.asarray(True),
        )
        end = jax.lax.while_loop(steps_left, step, start)
        x = state.x + end.x
        residual = b - (product if exact_product is None else exact_product)(x)
        residuals = relative(_column_norms(residual))
        worse = ~(jnp.max(residuals) < jnp.max(state.residuals))
        going = ~within(residuals) & (end.iterations < max_iterations)
        # Rounding has the last word where a round does not halve what is left.
        going &= jnp.max(residuals) < 0.5 * jnp.max(state.residuals)
        x, residual, residuals = jax.tree.map(
            lambda old, new: jnp.where(worse, old, new), state[:3], (x, residual, residuals)
        )
        return _Round(x, residual, residuals, end.iterations, going)

    residuals = relative(norms)
    first = _Round(
        jnp.zeros_like(b), b, residuals, jnp.asarray(0, jnp.int32), ~within(residuals) & jnp.all(jnp.isfinite(norms))
    )
    last = jax.lax.while_loop(lambda state: state.going, round_of, first)
    return last.x, IterationStatus(last.iterations, last.residuals, last.residuals <= tolerance)


def _column_norms(block: Inexact[Array, "N C"]) -> Float[Array, " C"]:
    return jnp.sqrt(jnp.sum(jnp.abs(block) ** 2, axis=0))
