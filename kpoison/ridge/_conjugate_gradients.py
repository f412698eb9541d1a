"""Block conjugate gradients for symmetric systems with several right-hand sides.

With a preconditioner M the system is Âx̂ = b̂, Â = M^-½AM^-½, b̂ = M^-½b and x = M^-½x̂.  Of C columns, in the order of the
code; Q, P, W have shape (N, C), all others (C, C):

    start   QT = b̂ − Âx̂, by QR;  P = Q,  G = QᵀQ
    step    W = ÂP                          the one product with A
            L = (PᵀW)⁻¹G
            x̂ ← x̂ + PLT
            Q⁺S = Q − WL, by QR
            T⁺ = ST,  G⁺ = Q⁺ᵀQ⁺
            P⁺ = Q⁺ + PG⁻¹SᵀG⁺

G is the identity for a real system.  After every step QT is b̂ − Âx̂ and P⁺ᵀÂP is 0, both to rounding.
"""

import functools
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


class _System(NamedTuple):
    """A and M as functions, and the norms of the right-hand sides."""

    product: Callable[[Array], Array]
    preconditioner: Callable[[float, Array], Array]
    norms: Array

    def scaled(self, x: Array) -> Array:
        """M^-½x."""
        return self.preconditioner(-0.5, x)

    def relative(self, residual: Array) -> Float[Array, " C"]:
        """Norms of the columns of b − Ax over those of b; 0 for b = 0."""
        zero = self.norms == 0
        return jnp.where(zero, 0, _column_norms(residual) / jnp.where(zero, 1, self.norms))


class _Block(NamedTuple):
    """x = M^-½x̂ since the start, Q, T, P and G of the head of this file, after `iterations`."""

    x: Array
    orthonormal: Array
    triangle: Array
    directions: Array
    products: Array
    iterations: Array
    residuals: Array
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
    system = _System(product, preconditioner, _column_norms(b))
    exact, least_drop = (product, 0.0) if exact_product is None else (exact_product, _DROP)

    def round_of(state: _Round) -> _Round:
        goal = jnp.maximum(tolerance, least_drop * state.residuals)

        def steps_left(block: _Block):
            return block.finite & (block.iterations < max_iterations) & ~jnp.all(block.residuals <= goal)

        end = jax.lax.while_loop(steps_left, functools.partial(_step, system), _start(system, state))
        x = state.x + end.x
        residual = b - exact(x)
        residuals = system.relative(residual)
        worse = ~(jnp.max(residuals) < jnp.max(state.residuals))
        going = ~jnp.all(residuals <= tolerance) & (end.iterations < max_iterations)
        # Rounding has the last word where a round does not halve what is left.
        going &= jnp.max(residuals) < 0.5 * jnp.max(state.residuals)
        x, residual, residuals = jax.tree.map(
            lambda old, new: jnp.where(worse, old, new), state[:3], (x, residual, residuals)
        )
        return _Round(x, residual, residuals, end.iterations, going)

    residuals = system.relative(b)
    going = ~jnp.all(residuals <= tolerance) & jnp.all(jnp.isfinite(system.norms))
    first = _Round(jnp.zeros_like(b), b, residuals, jnp.asarray(0, jnp.int32), going)
    last = jax.lax.while_loop(lambda state: state.going, round_of, first)
    return last.x, IterationStatus(last.iterations, last.residuals, last.residuals <= tolerance)


def _start(system: _System, state: _Round) -> _Block:
    """No step yet from the x of a round."""
    orthonormal, triangle = jnp.linalg.qr(system.scaled(state.residual))
    return _Block(
        x=jnp.zeros_like(state.x),
        orthonormal=orthonormal,
        triangle=triangle,
        directions=orthonormal,
        products=_inner_products(orthonormal),
        iterations=state.iterations,
        residuals=state.residuals,
        finite=jnp.asarray(True),
    )


def _step(system: _System, block: _Block) -> _Block:
    """One product with A; where a small matrix is singular the last good x stays."""
    image = system.scaled(system.product(system.scaled(block.directions)))
    lengths = jnp.linalg.solve(matrix_product(block.directions.T, image), block.products)
    x = block.x + system.scaled(matrix_product(block.directions, matrix_product(lengths, block.triangle)))
    orthonormal, change = jnp.linalg.qr(block.orthonormal - matrix_product(image, lengths))
    triangle = matrix_product(change, block.triangle)
    products = _inner_products(orthonormal)
    turn = change.T
    if jnp.iscomplexobj(turn):
        turn = jnp.linalg.solve(block.products, matrix_product(turn, products))
    directions = orthonormal + matrix_product(block.directions, turn)
    new = _Block(
        x=x,
        orthonormal=orthonormal,
        triangle=triangle,
        directions=directions,
        products=products,
        iterations=block.iterations + 1,
        residuals=system.relative(system.preconditioner(0.5, matrix_product(orthonormal, triangle))),
        finite=jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(directions)),
    )
    kept = block._replace(iterations=new.iterations, finite=new.finite)
    return jax.tree.map(lambda a, c: jnp.where(new.finite, a, c), new, kept)


def _inner_products(orthonormal: Inexact[Array, "N C"]) -> Inexact[Array, "C C"]:
    """G = QᵀQ, of a unitary Q where it is complex; the identity for a real one."""
    if jnp.iscomplexobj(orthonormal):
        return matrix_product(orthonormal.T, orthonormal)
    return jnp.eye(orthonormal.shape[1], dtype=orthonormal.dtype)


def _column_norms(block: Inexact[Array, "N C"]) -> Float[Array, " C"]:
    return jnp.sqrt(jnp.sum(jnp.abs(block) ** 2, axis=0))
