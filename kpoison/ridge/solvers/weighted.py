"""Points with multiplicities: P = (K + ρW⁻¹)⁻¹ from the factor of W^½KW^½, with derivatives down to weights of 0.

With w copies of each point the dual coefficients c, all copies of a point taken together, solve ρc = W(b − Kc).
Where W > 0 that is c = Pb, P = (K + ρW⁻¹)⁻¹ = W^½(W^½KW^½ + ρI)⁻¹W^½; a point of weight 0 has c_i = 0.  What P says of
a residual is also right at w_i = 0, where W⁻¹P has no meaning by itself: (W⁻¹Pb)_i = (b − KPb)_i/ρ.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._linear_algebra import matrix_product
from kpoison.ridge.observations import root_of_weights
from kpoison.ridge.solvers.contract import Factor, GramProduct, WrappedFactor

__all__ = ["MatrixProduct", "WeightedFactor"]


class MatrixProduct(eqx.Module):
    """Of a matrix that is formed."""

    matrix: Float[Array, "N N"]

    def product(self, x: Inexact[Array, "N k"]) -> Inexact[Array, "N k"]:
        """K x."""
        return matrix_product(self.matrix, x)


class WeightedFactor(WrappedFactor):
    """The factor of observations with weights: its A⁻¹ is P.

    Attributes:
        inner: of W^½KW^½, a constant to autodiff.
        gram: K.
        weights: w of each observation, >= 0.
    """

    inner: Factor
    gram: GramProduct
    weights: Float[Array, " N"]

    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"]) -> Inexact[Array, "N k"]:
        """Pb."""
        return _solve(self.inner, self.gram, self.weights, rho, self.weights[:, None] * b)

    def inverse_product(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"], c: Inexact[Array, "N l"]
    ) -> Inexact[Array, "k l"]:
        """bᵀPc, by the inner factor."""
        return _inverse_product(self.inner, self.gram, self.weights, rho, b, c)

    def residuals(self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"]) -> Inexact[Array, "N k"]:
        """(ρI + KW)⁻¹b."""
        return _solve(self.inner, self.gram, self.weights, rho, b, transposed=True)

    def diagonals(self, rho: Inexact[Array, ""], first: int) -> tuple[Inexact[Array, " m"], Inexact[Array, " m"]]:
        """Those of (ρI + KW)⁻¹, which are the inner factor's, and of the hat matrix KP."""
        of_residuals, of_hat = _diagonals(self.inner, self.gram, self.weights, rho)
        return of_residuals[:first], of_hat[:first]

    def log_determinant(self, rho: Float[Array, ""]) -> Float[Array, ""]:
        """log det(W^½KW^½ + ρI) − Σ log w = log det(K + ρW⁻¹)."""
        return _log_determinant(self.inner, self.gram, self.weights, rho) - jnp.sum(jnp.log(self.weights))

    def restricted(self, b: Float[Array, "N k"], rho: tuple[float, float], largest_rank: float) -> Factor:
        """The inner factor restricted, its vectors times W^½."""
        from kpoison.ridge.solvers.prepared import Prepared

        roots = root_of_weights(self.weights)[:, None]
        found = self.inner.restricted(roots * b, rho, largest_rank)
        return found.times(roots) if isinstance(found, Prepared) else self


def _solve(
    inner: Factor, gram: GramProduct, weights: Array, rho: Array, right: Array, *, transposed: bool = False
) -> Array:
    """x with (ρI + WK)x = right, or with (ρI + KW)x = right.

    The solve states the product that it inverts, so that its derivatives are of every order in K, W, ρ and `right`.
    """
    right = right.astype(jnp.result_type(rho, right))
    w = weights[:, None]

    def product(x):
        return rho * x + w * gram.product(x)

    def transposed_product(x):
        return rho * x + gram.product(w * x)

    constant, fixed, shift, known = jax.lax.stop_gradient((inner, gram, rho, w))
    roots = jnp.sqrt(known)
    # Of points with next to no weight W⁻¹P takes digits, and the residual is as good as any.
    light = known <= jnp.finfo(w.dtype).eps ** 0.5 * jnp.max(known)
    inverse = jnp.where(light, 0, 1 / jnp.where(light, 1, known))

    def weighted(b):
        """Pb."""
        return roots * constant.solve(shift, roots * b)

    def solve(_, b):
        alone = jnp.where(light, b / shift, 0)
        return alone + weighted(inverse * b - fixed.product(alone))

    def transposed_solve(_, b):
        solved = weighted(b)
        return jnp.where(light, (b - fixed.product(solved)) / shift, inverse * solved)

    if transposed:
        return jax.lax.custom_linear_solve(transposed_product, right, transposed_solve, solve)
    return jax.lax.custom_linear_solve(product, right, solve, transposed_solve)


@jax.custom_jvp
def _inverse_product(inner: Factor, gram: GramProduct, weights: Array, rho: Array, b: Array, c: Array) -> Array:
    """bᵀPc with derivatives of every order in K, W, ρ, b and c; the first by two solves.

    With s = W⁻¹Pb and t = W⁻¹Pc it is the stationary value of bᵀWt + sᵀWc − sᵀW(ρI + KW)t in s and t: its tangent is
    that of the other arguments.
    """
    roots = root_of_weights(weights)[:, None]
    return inner.inverse_product(rho, roots * b, roots * c)


@_inverse_product.defjvp
def _inverse_product_jvp(primals, tangents):
    inner, gram, weights, rho, b, c = primals
    s, t = (_solve(inner, gram, weights, rho, right, transposed=True) for right in (b, c))

    def functional(gram, weights, rho, b, c):
        left, right = weights[:, None] * s, weights[:, None] * t
        inside = matrix_product(left.T, rho * t + gram.product(right))
        return matrix_product(b.T, right) + matrix_product(left.T, c) - inside

    tangent = jax.jvp(functional, primals[1:], tangents[1:])[1]
    return _inverse_product(inner, gram, weights, rho, b, c), tangent


@jax.custom_jvp
def _diagonals(inner: Factor, gram: GramProduct, weights: Array, rho: Array) -> tuple[Array, Array]:
    """Diagonals of S = (ρI + KW)⁻¹ and I − ρS, with derivatives of every order in K, W and ρ."""
    return inner.diagonals(rho, len(weights))


@_diagonals.defjvp
def _diagonals_jvp(primals, tangents):
    inner, gram, weights, rho = primals
    S, changed = _inverse_and_change(primals, tangents)
    of_residuals, of_hat = _diagonals(inner, gram, weights, rho)
    tangent = -jnp.sum(S.T * changed, axis=0)
    return (of_residuals, of_hat), (tangent, -tangents[3] * of_residuals - rho * tangent)


@jax.custom_jvp
def _log_determinant(inner: Factor, gram: GramProduct, weights: Array, rho: Array) -> Array:
    """log det(ρI + KW), with derivatives of every order in K, W and ρ."""
    return inner.log_determinant(rho)


@_log_determinant.defjvp
def _log_determinant_jvp(primals, tangents):
    # The change is that of (ρI + KW)S, of which the trace is the tangent.
    return _log_determinant(*primals), jnp.trace(_inverse_and_change(primals, tangents)[1])


def _inverse_and_change(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """S, and what a change of K, W and ρ makes of (ρI + KW)S for S as it is."""
    inner, gram, weights, rho = primals
    S = _solve(inner, gram, weights, rho, jnp.eye(len(weights), dtype=weights.dtype), transposed=True)
    image = jax.jvp(lambda g, w, r: r * S + g.product(w[:, None] * S), primals[1:], tangents[1:])
    return S, image[1]
