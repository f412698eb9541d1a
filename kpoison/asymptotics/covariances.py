"""Covariances as the laws ask for them: products, resolvents (Σ + x)⁻¹ and traces, of a diagonal or a dense matrix.

An eigendecomposition is a constant to derivatives: those of a dense covariance come from the equations that are solved.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float

from kpoison._effective_ridge import EffectiveRidge, root_of_effective_ridge, solve_effective_ridge
from kpoison._failures import checked_result, without_derivative
from kpoison._linear_algebra import eigh, matrix_product
from kpoison.asymptotics.root_finding import small_solve

__all__ = ["Covariance", "Dense", "Diagonal", "covariance_of"]

_SECOND = (
    "a second derivative in a dense covariance is not there for several scores: give variances, in the coordinates "
    "along the eigenvectors"
)


class Diagonal(eqx.Module):
    """Uncorrelated coordinates, such as those along the eigenvectors; costs O(d).

    Attributes:
        variances: >= 0, shape (d,).
    """

    variances: Float[Array, " d"]

    def smallest(self) -> Float[Array, ""]:
        """The least eigenvalue."""
        return jnp.min(self.variances)

    def indefinite(self) -> Bool[Array, ""]:
        """Whether an eigenvalue is below 0."""
        return jnp.any(~(self.variances >= 0))

    def product(self, B: Float[Array, "d k"]) -> Float[Array, "d k"]:
        """ΣB."""
        return self.variances[:, None] * B

    def solve(self, shift: Float[Array, ""], B: Float[Array, "d k"]) -> Float[Array, "d k"]:
        """(Σ + x)⁻¹B."""
        return B / (self.variances + shift)[:, None]

    def trace(self, power: int, inverses: int, shift: Float[Array, ""]) -> Float[Array, ""]:
        """tr Σᵖ(Σ + x)⁻ʳ."""
        return jnp.sum(self.variances**power / (self.variances + shift) ** inverses)

    def spectrum(self) -> Float[Array, " d"]:
        """The eigenvalues."""
        return self.variances

    def coupled_solve(
        self, V: Float[Array, "r r"], ridge: Float[Array, ""], B: Float[Array, "d r"]
    ) -> Float[Array, "d r"]:
        """x with ΣxV + λx = B."""
        return _coupled(self.variances, V, ridge, B)

    def effective_ridge(self, n: Float[Array, ""], ridge: Float[Array, ""]) -> EffectiveRidge:
        """λ_e and its degrees of freedom."""
        return solve_effective_ridge(self.variances, jnp.ones_like(self.variances), n, ridge)


class Dense(eqx.Module):
    """A matrix and its eigendecomposition.

    Attributes:
        matrix: Σ, shape (d, d).
        values, vectors: of it, those below rounding 0; constants to derivatives.
        least: the least eigenvalue as it was found.
    """

    matrix: Float[Array, "d d"]
    values: Float[Array, " d"]
    vectors: Float[Array, "d d"]
    least: Float[Array, ""]

    def smallest(self) -> Float[Array, ""]:
        """The least eigenvalue."""
        return jnp.min(self.values)

    def indefinite(self) -> Bool[Array, ""]:
        """Whether an eigenvalue is below 0 by more than rounding."""
        return ~(self.least >= -_rounding(self.values))

    def product(self, B: Float[Array, "d k"]) -> Float[Array, "d k"]:
        """ΣB."""
        return matrix_product(self.matrix, B)

    def solve(self, shift: Float[Array, ""], B: Float[Array, "d k"]) -> Float[Array, "d k"]:
        """(Σ + x)⁻¹B."""
        return _solve(self.matrix, self.values, self.vectors, shift, B)

    def trace(self, power: int, inverses: int, shift: Float[Array, ""]) -> Float[Array, ""]:
        """tr Σᵖ(Σ + x)⁻ʳ."""
        return _trace(power, inverses, self.matrix, self.values, self.vectors, shift)

    def spectrum(self) -> Float[Array, " d"]:
        """The eigenvalues, of which traces are made; a second derivative of theirs in Σ is refused."""
        return _spectrum(self.matrix, self.values, self.vectors)

    def coupled_solve(
        self, V: Float[Array, "r r"], ridge: Float[Array, ""], B: Float[Array, "d r"]
    ) -> Float[Array, "d r"]:
        """x with ΣxV + λx = B."""

        def solve(_: Any, b: Array) -> Array:
            turned = _coupled(self.values, V, ridge, matrix_product(self.vectors.T, b))
            return matrix_product(self.vectors, turned)

        def product(x: Array) -> Array:
            return matrix_product(matrix_product(self.matrix, x), V) + ridge * x

        return jax.lax.custom_linear_solve(product, B, solve, symmetric=True)

    def effective_ridge(self, n: Float[Array, ""], ridge: Float[Array, ""]) -> EffectiveRidge:
        """λ_e and its degrees of freedom."""
        x = _root(self.matrix, self.values, self.vectors, n, ridge)
        x = checked_result(
            x, [(jnp.isnan(x) & jnp.all(jnp.isfinite(self.values)), "the effective ridge has not been found")]
        )
        spare = n - len(self.values)
        inverse = x * self.trace(0, 1, x)  # what is left of each direction: digits where n is near d
        left1, left2 = spare + inverse, spare + inverse + x * self.trace(1, 2, x)
        shrinkage = jnp.where(x > 0, ridge / jnp.where(x > 0, x, 1), left1 / n)
        return EffectiveRidge(x, self.trace(1, 1, x), self.trace(2, 2, x), shrinkage, n / left2)


Covariance = Diagonal | Dense


def covariance_of(given: Float[Array, "..."]) -> Covariance:
    """Of variances (d,) or a matrix (d, d)."""
    if given.ndim == 1:
        return Diagonal(given)
    matrix = 0.5 * (given + given.T)
    values, vectors = jax.lax.stop_gradient(eigh(jax.lax.stop_gradient(matrix)))
    some = values > _rounding(values)
    return Dense(matrix, jnp.where(some, values, 0), vectors, values[0])


def _rounding(values: Array) -> Array:
    """Below which an eigenvalue may be 0."""
    return 10 * len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))


def _coupled(values: Array, V: Array, ridge: Array, B: Array) -> Array:
    """Each row of B times (λ + sV)⁻¹."""

    def one(s: Array, row: Array) -> Array:
        return small_solve(ridge * jnp.eye(len(V), dtype=V.dtype) + s * V, row[:, None])[:, 0]

    return jax.vmap(one)(values, B)


@jax.custom_jvp
def _spectrum(matrix: Array, values: Array, vectors: Array) -> Array:
    return values


@_spectrum.defjvp
def _spectrum_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """v_iᵀ dΣ v_i, whose own derivative would turn the v_i."""
    matrix, values, vectors = primals
    moved = jnp.einsum("ij,ik,kj->j", vectors, tangents[0], vectors, precision="highest")
    return values, without_derivative(matrix, _SECOND)[0, 0] * 0 + moved


def _solve(matrix: Array, values: Array, vectors: Array, shift: Array, B: Array) -> Array:
    def solve(_: Any, b: Array) -> Array:
        return matrix_product(vectors, matrix_product(vectors.T, b) / (values + shift)[:, None])

    return jax.lax.custom_linear_solve(lambda b: matrix_product(matrix, b) + shift * b, B, solve, symmetric=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _trace(power: int, inverses: int, matrix: Array, values: Array, vectors: Array, shift: Array) -> Array:
    return jnp.sum(values**power / (values + shift) ** inverses)


def _trace_jvp(power: int, inverses: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    matrix, values, vectors, shift = primals
    moved, _, _, shifted = tangents
    change = jnp.zeros_like(shift)
    if type(shifted) is not SymbolicZero:
        change = change - inverses * _trace(power, inverses + 1, *primals) * shifted
    if type(moved) is not SymbolicZero:

        def of(power: int, inverses: int) -> Array:
            """tr Σᵖ(Σ + x)⁻ʳ dΣ."""
            product = moved
            for _ in range(power):
                product = matrix_product(matrix, product)
            for _ in range(inverses):
                product = _solve(matrix, values, vectors, shift, product)
            return jnp.trace(product)

        change = change - inverses * of(power, inverses + 1)
        if power:
            change = change + power * of(power - 1, inverses)
    return _trace(power, inverses, *primals), change


_trace.defjvp(_trace_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _root(matrix: Array, values: Array, vectors: Array, n: Array, ridge: Array) -> Array:
    return root_of_effective_ridge(values, jnp.ones_like(values), n, ridge)


def _root_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """F = nx − nλ − x df1(x) = 0: dx = −∂F/(n − df2)."""
    matrix, values, vectors, n, ridge = primals
    moved, _, _, n_moved, ridge_moved = tangents
    x = _root(*primals)

    def trace(power: int, inverses: int) -> Array:
        return _trace(power, inverses, matrix, values, vectors, x)

    change = jnp.zeros_like(x)
    if type(n_moved) is not SymbolicZero:
        change = change + (x - ridge) * n_moved
    if type(ridge_moved) is not SymbolicZero:
        change = change - n * ridge_moved
    if type(moved) is not SymbolicZero:
        _, degrees = jax.jvp(lambda matrix: _trace(1, 1, matrix, values, vectors, x), (matrix,), (moved,))
        change = change - x * degrees
    left = n - len(values) + x * (trace(0, 1) + trace(1, 2))
    return x, -change / left


_root.defjvp(_root_jvp, symbolic_zeros=True)
