"""The posterior at one ridge, made to be differentiated: one Cholesky factorisation and one inverse for all of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._linear_algebra import cholesky, cholesky_solve, matrix_product
from kpoison.kernels.base import Kernel
from kpoison.ridge import Cholesky, Observations, Posterior
from kpoison.ridge.gram import gram_matrix
from kpoison.ridge.solvers.bordered import BorderedFactor
from kpoison.ridge.solvers.dense import DenseFactor, Factorisation
from kpoison.ridge.solvers.weighted import MatrixProduct, WeightedFactor

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


def posterior_at_one_ridge(
    kernel: Kernel, observed: Observations, y: Float[Array, "n *C"], ridge: Float[Array, ""]
) -> Posterior:
    """`fit` for this ridge alone, without its checks; not finite where K + ρ diag(1/w) is not positive definite."""
    gram = gram_matrix(kernel, observed.points)
    constant, rho = jax.lax.stop_gradient((observed.scaled(gram), observed.total * ridge))
    identity = jnp.eye(len(gram), dtype=gram.dtype)
    lower = cholesky(constant + rho * identity)
    inverse = _Inverse(constant, cholesky_solve(lower, identity), 2 * jnp.sum(jnp.log(jnp.diagonal(lower))))
    if observed.weights is None:
        factor = DenseFactor(gram, inverse)
    else:
        factor = WeightedFactor(DenseFactor(constant, inverse), MatrixProduct(gram), observed.weights)
    return Posterior(kernel, observed, y, BorderedFactor(factor, observed.border) if observed.constant else factor)
