"""The posterior at one ridge, made to be differentiated: one Cholesky factorisation and one inverse for all of it."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact

from kpoison._linear_algebra import cholesky, cholesky_solve, matrix_product
from kpoison.kernels.base import Kernel
from kpoison.ridge import Cholesky, Observations, Posterior, Solver
from kpoison.ridge.gram import gram_matrix
from kpoison.ridge.solvers.dense import DenseFactor, Factorisation
from kpoison.ridge.solvers.preparation import prepared
from kpoison.ridge.solvers.weighted import MatrixProduct

__all__ = ["posterior_at_one_ridge"]


class _Inverse(Factorisation):
    """(K + ρI)⁻¹ for the ρ that it was made for, whatever is asked: a search asks for no other."""

    gram: Float[Array, "n n"]
    inverse: Float[Array, "n n"]
    log_determinant_: Float[Array, ""]

    @property
    def solver(self) -> Cholesky:
        """What it is like."""
        return Cholesky()

    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """By the inverse."""
        return matrix_product(self.inverse, b)

    def diagonals(
        self, rho: Inexact[Array, ""], identity: Float[Array, "n n"]
    ) -> tuple[Inexact[Array, " n"], Inexact[Array, " n"]]:
        """Those of A⁻¹ and of KA⁻¹."""
        of_inverse = jnp.diagonal(self.inverse)
        return of_inverse, 1 - rho * of_inverse

    def log_determinant(self, rho: Float[Array, ""], identity: Float[Array, "n n"]) -> Float[Array, ""]:
        """As it was found."""
        return self.log_determinant_

    def rotated_product(self, c: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """K c."""
        return matrix_product(self.gram, c)

    def bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """0, and the largest row sum of |K|."""
        return jnp.zeros((), self.gram.dtype), jnp.max(jnp.sum(jnp.abs(self.gram), axis=1))


class _AtOneRidge(Solver):
    """One factorisation and one inverse for ρ, unchecked: what a search tries need not be positive definite."""

    rho: Float[Array, ""]

    def prepare(self, kernel: Kernel, observations: Observations) -> DenseFactor:
        """Of K."""
        gram = gram_matrix(kernel, observations.points)
        return DenseFactor(gram, self._inverse(gram))

    def prepare_weighted(self, kernel: Kernel, observations: Observations) -> tuple[DenseFactor, MatrixProduct]:
        """Of W^½KW^½."""
        gram = gram_matrix(kernel, observations.points)
        scaled = jax.lax.stop_gradient(observations.scaled(gram))
        return DenseFactor(scaled, self._inverse(scaled)), MatrixProduct(gram)

    def bytes(self, number: int, dtype: DTypeLike) -> int:
        """The Gram matrix, its inverse, the triangle, and a copy."""
        return 4 * int(number) ** 2 * jnp.dtype(dtype).itemsize

    def _inverse(self, gram: Float[Array, "n n"]) -> _Inverse:
        constant, rho = jax.lax.stop_gradient((gram, self.rho))
        identity = jnp.eye(len(gram), dtype=gram.dtype)
        lower = cholesky(constant + rho * identity)
        return _Inverse(constant, cholesky_solve(lower, identity), 2 * jnp.sum(jnp.log(jnp.diagonal(lower))))


def posterior_at_one_ridge(
    kernel: Kernel, observed: Observations, y: Float[Array, "n *C"], ridge: Float[Array, ""]
) -> Posterior:
    """`fit` for this ridge alone, without its checks; not finite where K + ρ diag(1/w) is not positive definite."""
    return Posterior(kernel, observed, y, prepared(_AtOneRidge(observed.total * ridge), kernel, observed))
