"""Functions of the form f(x) = Σ_i k(x, c_i) w_i: what every ridge predictor and every poison effect is."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison.kernels.base import Kernel, matrix_product

__all__ = ["KernelExpansion"]

_FLOATS_AT_ONCE = 2**25


class KernelExpansion(eqx.Module):
    """f(x) = Σ_i k(x, c_i) w_i, evaluated from differences x − c_i: exact however close x comes to a centre.

    Attributes:
        kernel: k.
        centres: shape (N, d).
        weights: shape (N, C).
    """

    kernel: Kernel
    centres: Float[Array, "N ..."]
    weights: Float[Array, "N C"]

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " C"]:
        """f at one point."""
        return matrix_product(self.kernel.pairwise(x[None], self.centres), self.weights)[0]

    def gradient(self, x: Float[Array, "..."]) -> Float[Array, "C ..."]:
        """∇f at one point, one row per output."""
        return jax.jacrev(self)(x)

    def radial_and_tangential_gradient(self, x: Float[Array, " d"]) -> tuple[Float[Array, " C"], Float[Array, "C d"]]:
        """The derivative along x/‖x‖, shape (C,), and the rest of the gradient, shape (C, d), at one point x ≠ 0.

        For rotation-invariant kernels.  Each kernel is evaluated in a frame whose first axis is x: there the two
        parts are separate coordinates, so a tangential part 1e-9 of the radial one keeps its digits.
        """
        norm = jnp.sqrt(jnp.sum(x * x))
        axis = x / norm

        def parts(centre):
            difference = centre - x
            along = jnp.sum(axis * difference)
            across = difference - along * axis
            # Rounding leaves some of x in `across`; one more projection removes it.
            across -= jnp.sum(axis * across) * axis
            square = jnp.sum(across * across)
            apart = square > 0
            distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)
            origin = jnp.zeros_like(x)
            here = origin.at[0].set(norm)
            there = origin.at[0].set(norm + along).at[1].set(distance)
            slopes = jax.grad(self.kernel.evaluate)(here, there)
            return slopes[0], slopes[1] * across / jnp.where(apart, distance, 1)

        if x.size == 1:
            return self.gradient(x)[:, 0] * axis[0], jnp.zeros((self.weights.shape[1], 1), x.dtype)
        radial, tangential = jax.vmap(parts)(self.centres)
        return matrix_product(radial[None], self.weights)[0], matrix_product(self.weights.T, tangential)

    def map(self, function, x: Float[Array, "q ..."]):
        """`function` (a method of an expansion) at each of many points, in batches that bound the memory."""
        batch = max(1, _FLOATS_AT_ONCE // max(1, self.centres.size))
        return jax.vmap(function)(x) if len(x) <= batch else jax.lax.map(function, x, batch_size=batch)
