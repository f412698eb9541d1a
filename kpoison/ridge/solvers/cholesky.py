"""A Cholesky factorisation at each ridge."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact

from kpoison._linear_algebra import cholesky, cholesky_solve, linear_solve, lower_solve, matrix_product
from kpoison.ridge.gram import largest_row_sum, lowest_to_rounding, sample_places
from kpoison.ridge.solvers.dense import DenseSolver, Factorisation

__all__ = ["Cholesky", "CholeskyFactorisation"]

_PROVED_BELOW = 2000  # points


class CholeskyFactorisation(Factorisation):
    """K itself; A = LLᵀ is computed at each ridge that is asked for."""

    one_at_a_time: ClassVar[bool] = True
    gram: Float[Array, "n n"]
    lowest: Float[Array, ""]
    highest: Float[Array, ""]

    @property
    def solver(self) -> "Cholesky":
        """What made it."""
        return Cholesky()

    def _lower(self, rho: Float[Array, ""]) -> Float[Array, "n n"]:
        return cholesky(self.gram + rho * jnp.eye(len(self.gram), dtype=self.gram.dtype))

    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Two triangular solves after an n³/3 factorisation; LU for complex ρ, with which A is not Hermitian."""
        if jnp.iscomplexobj(rho):
            return linear_solve(self.gram + rho * jnp.eye(len(self.gram), dtype=self.gram.dtype), b)
        lower = self._lower(rho)
        # The product says what is transposed where b is differentiated; it is not computed.
        return jax.lax.custom_linear_solve(
            lambda x: matrix_product(lower, matrix_product(lower.T, x)),
            b,
            lambda _, b: cholesky_solve(lower, b),
            symmetric=True,
        )

    def inverse_product(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"], c: Inexact[Array, "n l"]
    ) -> Inexact[Array, "k l"]:
        """(L⁻¹b)ᵀ(L⁻¹c)."""
        if jnp.iscomplexobj(rho):
            return matrix_product(b.T, self.solve(rho, c))
        lower = self._lower(rho)
        left = lower_solve(lower, b)
        right = lower_solve(lower, c)
        return matrix_product(left.T, right)

    def diagonals(
        self, rho: Inexact[Array, ""], identity: Float[Array, "n n"]
    ) -> tuple[Inexact[Array, " n"], Inexact[Array, " n"]]:
        """Those of A⁻¹ and of KA⁻¹, by L⁻¹ where ρ is real."""
        if jnp.iscomplexobj(rho):
            return super().diagonals(rho, identity)
        of_inverse = jnp.sum(lower_solve(self._lower(rho), identity) ** 2, axis=0)
        return of_inverse, 1 - rho * of_inverse

    def log_determinant(self, rho: Float[Array, ""], identity: Float[Array, "n n"]) -> Float[Array, ""]:
        """2 Σ log L_ii."""
        return 2 * jnp.sum(jnp.log(jnp.diagonal(self._lower(rho))))

    def rotated_product(self, c: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """K c."""
        return matrix_product(self.gram, c)

    def bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """0 for a positive semi-definite matrix, else −∞, and the largest row sum of |K|."""
        return self.lowest, self.highest


class Cholesky(DenseSolver):
    """A fresh Cholesky factorisation at each ridge: the least work where there is only one."""

    def factorise(self, gram: Float[Array, "n n"]) -> CholeskyFactorisation:
        """Keeps the matrix, after a factorisation that tells whether it is positive semi-definite.

        Of many points that is one of a part of them, as it would cost as much as a law.
        """
        part = gram
        if len(gram) >= _PROVED_BELOW:
            places = sample_places(len(gram))
            part = gram[np.ix_(places, places)]
        highest = largest_row_sum(gram)
        return CholeskyFactorisation(gram, lowest_to_rounding(part, highest, len(gram)), highest)

    def bytes(self, number: int, dtype: DTypeLike) -> int:
        """The Gram matrix, the triangle, and a copy."""
        return 3 * int(number) ** 2 * jnp.dtype(dtype).itemsize
