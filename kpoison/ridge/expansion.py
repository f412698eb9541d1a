"""Functions of the form f(x) = Σ_i k(x, c_i) w_i + v_i·∂k(x, c_i): what ridge predictors and poison effects are."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._batches import in_batches
from kpoison._linear_algebra import matrix_product
from kpoison.kernels.base import Kernel

__all__ = ["KernelExpansion", "pair_in_plane"]


class KernelExpansion(eqx.Module):
    """f(x) = Σ_i k(x, c_i) w_i + v_i·∂_c k(x, c_i), from differences x − c_i: exact however close x is to a centre.

    Attributes:
        kernel: k.
        centres: shape (N, d).
        weights: w, shape (N, C), complex for complex ridges; with a basis B, w = B · weights and the shape is (p, C).
        basis: None, or B, shape (N, p).  What depends on x only is then computed once for any number of weights
            (under `jax.vmap` over them), and every further set of weights costs p or p² for each point.
        slopes: None, or v for each output, shape (N, C, D) with the axes of a point flattened; never with a basis.
    """

    kernel: Kernel
    centres: Float[Array, "N ..."]
    weights: Inexact[Array, "p C"]
    basis: Float[Array, "N p"] | None = None
    slopes: Inexact[Array, "N C D"] | None = None

    def values(self, X: Float[Array, "q ..."]) -> Inexact[Array, "q C"]:
        """f at many points."""
        if self.basis is None:
            return in_batches(self._value, X, self._floats())
        return matrix_product(self._basis_values(self.basis, X), self.weights)

    def gradients(self, X: Float[Array, "q ..."]) -> Float[Array, "q C ..."]:
        """∇f at many points."""
        return in_batches(self._gradient, X, self._floats())

    def squared_gradient_norms(self, X: Float[Array, "q ..."]) -> Float[Array, "q C"]:
        """‖∇f‖² at many points."""
        if self.basis is None:
            gradients = self.gradients(X)
            return jnp.sum(gradients**2, axis=tuple(range(2, gradients.ndim)))
        # Of the basis functions' gradients only R of their QR decomposition is needed, ‖∇f‖ = ‖R · weights‖, and not
        # their Gram matrix, which would cancel.
        triangles = jax.lax.map(_triangle, self._basis_gradients(self.basis, X))
        # One point after the other: all at once would keep p numbers for each point and set of weights.
        return jax.lax.map(lambda triangle: jnp.sum(matrix_product(self.weights.T, triangle.T) ** 2, axis=1), triangles)

    def radial_and_tangential_gradients(
        self, X: Float[Array, "q d"]
    ) -> tuple[Float[Array, "q C"], Float[Array, "q C d"]]:
        """The derivative along x/‖x‖ and the rest of the gradient, at many points x ≠ 0.

        For rotation-invariant kernels.  Each kernel is evaluated in a frame whose first axis is x: there the two
        parts are separate coordinates, so a tangential part 1e-9 of the radial one keeps its digits; with slopes the
        gradient is split after it was added up.
        """
        return in_batches(self._radial_and_tangential_gradient, X, self._floats())

    def _value(self, x: Array) -> Inexact[Array, " C"]:
        values = matrix_product(self.kernel.pairwise(x[None], self.centres), self.all_weights())[0]
        if self.slopes is None:
            return values
        derivatives = jax.vmap(lambda centre: jax.grad(self.kernel.evaluate)(centre, x).ravel())(self.centres)
        return values + jnp.einsum("icd,id->c", self.slopes, derivatives, precision="highest")

    def _gradient(self, x: Array) -> Float[Array, "C ..."]:
        if self.slopes is not None:
            return self._gradient_with_slopes(x, self.slopes)
        slopes = self.kernel.gradients(x, self.centres)
        return matrix_product(self.all_weights().T, slopes.reshape(len(slopes), -1)).reshape(-1, *x.shape)

    def _gradient_with_slopes(self, x: Array, slopes: Float[Array, "N C D"]) -> Float[Array, "C ..."]:
        def term(centre, weights, directions):
            """Σ over outputs is left to `jax.vmap`: ∇_x (w k + v·∂_c k), one for each output."""

            def along(point, direction):
                return jax.jvp(lambda c: self.kernel.evaluate(point, c), (centre,), (direction.reshape(x.shape),))[1]

            bent = jax.vmap(lambda direction: jax.grad(along)(x, direction))(directions)
            return jnp.tensordot(weights, jax.grad(self.kernel.evaluate)(x, centre), axes=0) + bent

        return jnp.sum(jax.vmap(term)(self.centres, self.all_weights(), slopes), axis=0)

    def _basis_values(self, basis: Array, X: Array) -> Float[Array, "q p"]:
        """The functions of the basis at many points."""

        def at(x):
            return matrix_product(self.kernel.pairwise(x[None], self.centres), basis)[0]

        return in_batches(at, X, self._floats())

    def _basis_gradients(self, basis: Array, X: Array) -> Float[Array, "q p D"]:
        """Their gradients, the axes of a point flattened."""

        def at(x):
            gradients = self.kernel.gradient_products(x, self.centres, basis)
            return gradients.reshape(len(gradients), -1)

        return in_batches(at, X, self._floats())

    def _radial_and_tangential_gradient(self, x: Array) -> tuple[Float[Array, " C"], Float[Array, "C d"]]:
        norm = jnp.sqrt(jnp.sum(x * x))
        axis = x / norm
        weights = self.all_weights()

        def parts(centre):
            difference = centre - x
            along = jnp.sum(axis * difference)
            across = difference - along * axis
            # Rounding leaves some of x in `across`; one more projection removes it.
            across -= jnp.sum(axis * across) * axis
            square = jnp.sum(across * across)
            apart = square > 0
            distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)
            slopes = jax.grad(self.kernel.evaluate)(*pair_in_plane(self.kernel, norm, along, distance, x.size))
            return slopes[0], slopes[1] * across / jnp.where(apart, distance, 1)

        if self.slopes is not None:
            gradients = self._gradient(x)
            radial = matrix_product(gradients, axis[:, None])
            return radial[:, 0], gradients - radial * axis[None]
        if x.size == 1:
            return self._gradient(x)[:, 0] * axis[0], jnp.zeros((weights.shape[1], 1), x.dtype)
        radial, tangential = jax.vmap(parts)(self.centres)
        return matrix_product(radial[None], weights)[0], matrix_product(weights.T, tangential)

    def _floats(self) -> int:
        """How many numbers one point needs."""
        return len(self.centres) * self.kernel.floats_per_pair(self.centres.shape[1:])

    def all_weights(self) -> Inexact[Array, "N C"]:
        """w, one row for each centre."""
        return self.weights if self.basis is None else matrix_product(self.basis, self.weights)


def pair_in_plane(
    kernel: Kernel, norm: Array, along: Array, across: Array, coordinates: int
) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
    """A point on the first axis, ‖x‖ from the origin, and another `along` beyond it and `across` the axis.

    Where the kernel allows it the first is moved to the origin: added to ‖x‖ a small difference loses its digits.
    """
    here = jnp.zeros(coordinates, norm.dtype)
    if not kernel.translation_invariant:
        here = here.at[0].set(norm)
    return here, here.at[0].add(along).at[1].set(across)


def _triangle(rows: Float[Array, "p D"]) -> Float[Array, "p p"]:
    """R with RᵀR = rows · rowsᵀ, to the accuracy of a QR decomposition, by modified Gram–Schmidt.

    On a CPU a hundred small LAPACK calls between matrix products cost as much as the products.
    """

    def eliminate(rest, j):
        norm = jnp.sqrt(jnp.sum(rest[j] ** 2))
        direction = rest[j] / jnp.where(norm > 0, norm, 1)
        coefficients = matrix_product(rest, direction[:, None])
        return rest - coefficients * direction[None], coefficients[:, 0]

    return jax.lax.scan(eliminate, rows, jnp.arange(len(rows)))[1]
