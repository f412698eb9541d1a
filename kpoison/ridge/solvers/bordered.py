"""An unpenalised constant beside the observations: the inverse of a bordered matrix.

f(x) = k(x, X)c + a with a free of penalty is the limit of a kernel k + τ, τ → ∞.  In terms of the observations and one
more, of which the covariance with every value is 1 and with itself 0,

    [A  e] [c]   [b]
    [eᵀ 0] [a] = [β],      A = K + ρI, e = 1 for values and 0 for slopes,

so a = (eᵀA⁻¹b − β)/σ and c = A⁻¹(b − e a), with σ = eᵀA⁻¹e > 0.  Means and covariances of the process are those of any
factor, with this inverse: k̃(x, z) = k(x, z) − [k(x, X) 1] B⁻¹ [k(X, z); 1].  To see that one has read it right: k̃(x, z)
does not change when a constant is added to k.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._linear_algebra import matrix_product
from kpoison.kernels.base import Kernel
from kpoison.ridge.expansion import WithConstant
from kpoison.ridge.observations import Observations
from kpoison.ridge.solvers.contract import Factor, WrappedFactor

__all__ = ["BorderedFactor"]


class BorderedFactor(WrappedFactor):
    """The factor of observations with an unpenalised constant: N of them, and the constant last.

    Attributes:
        inner: of the observations alone.
        border: e, shape (N, 1).
    """

    inner: Factor
    border: Float[Array, "N 1"]

    @property
    def number(self) -> int:
        """N + 1."""
        return self.inner.number + 1

    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "M k"]) -> Inexact[Array, "M k"]:
        """B⁻¹b, M = N + 1."""
        solved = self.inner.solve(rho, self._with_border(b))
        return self._bordered(solved, matrix_product(self.border.T, solved), b)

    def inverse_product(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "M k"], c: Inexact[Array, "M l"]
    ) -> Inexact[Array, "k l"]:
        """bᵀB⁻¹c."""
        products = self.inner.inverse_product(rho, self._with_border(b), self._with_border(c))
        left, above, scale = products[:-1, -1:] - b[-1:].T, products[-1:, :-1] - c[-1:], products[-1, -1]
        return products[:-1, :-1] - left * above / scale

    def residuals(self, rho: Inexact[Array, ""], b: Inexact[Array, "M k"]) -> Inexact[Array, "M k"]:
        """What the observations leave, and the constant."""
        constant = self.solve(rho, b)[-1:]
        both = self.inner.residuals(rho, self._with_border(b))
        return jnp.concatenate([both[:, :-1] - both[:, -1:] * constant, constant])

    def diagonals(self, rho: Inexact[Array, ""], first: int) -> tuple[Inexact[Array, " m"], Inexact[Array, " m"]]:
        """What the constant takes from the residuals' operator, and adds to the hat matrix."""
        of_residuals, of_hat = self.inner.diagonals(rho, first)
        residual, dual = self.inner.residuals(rho, self.border), self.inner.solve(rho, self.border)
        taken = (residual * dual / matrix_product(self.border.T, dual))[:first, 0]
        return of_residuals - taken, of_hat + rho * taken

    def log_determinant(self, rho: Float[Array, ""]) -> Float[Array, ""]:
        """log |det B|: log det A + log σ."""
        border = self.inner.inverse_product(rho, self.border, self.border)[0, 0]
        return self.inner.log_determinant(rho) + jnp.log(border)

    def span(self, kernel: Kernel, observations: Observations) -> WithConstant:
        """That of the inner factor, and the constant."""
        return WithConstant(self.inner.span(kernel, observations))

    def coordinates(self, rho: Inexact[Array, ""], b: Inexact[Array, "M k"]) -> Inexact[Array, "q k"]:
        """B⁻¹b in the span."""
        if self.abilities.any_right_hand_side:
            return self.solve(rho, b)
        products = self.inner.inverse_product(rho, self.border, self._with_border(b))
        return self._bordered(self.inner.coordinates(rho, self._with_border(b)), products, b)

    def coefficients(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "M k"], weights: Inexact[Array, "k C"]
    ) -> Inexact[Array, "q C"]:
        """B⁻¹b · weights in the span."""
        if self.abilities.any_right_hand_side:
            return super().coefficients(rho, b, weights)
        return matrix_product(self.coordinates(rho, b), weights)

    def restricted(self, b: Float[Array, "M k"], rho: tuple[float, float], largest_rank: float) -> Factor:
        """The inner factor restricted to these right-hand sides and the border."""
        return BorderedFactor(self.inner.restricted(self._with_border(b), rho, largest_rank), self.border)

    def _with_border(self, b: Array) -> Array:
        return jnp.concatenate([b[:-1], self.border.astype(b.dtype)], axis=1)

    @staticmethod
    def _bordered(solved: Inexact[Array, "p k1"], products: Inexact[Array, "1 k1"], b: Array) -> Inexact[Array, "p1 k"]:
        """c and a, from A⁻¹[b e], in any span, and eᵀA⁻¹[b e]."""
        constant = (products[:, :-1] - b[-1:]) / products[:, -1:]
        return jnp.concatenate([solved[:, :-1] - solved[:, -1:] * constant, constant])
