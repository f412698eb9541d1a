"""Dot-product kernels: functions of x·z."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import between_points, check_positive, integer
from kpoison.kernels.base import Kernel

__all__ = ["Linear", "Polynomial"]


class Linear(Kernel):
    """k(x, z) = x·z; infinitely smooth, no near-clone regime (L5)."""

    @between_points
    def evaluate(self, x: Float[Array, " d"], z: Float[Array, " d"]) -> Float[Array, ""]:
        """x·z."""
        return jnp.sum(x * z)

    def gram(self, X1: Float[Array, "n1 d"], X2: Float[Array, "n2 d"]) -> Float[Array, "n1 n2"]:
        """X1 X2ᵀ."""
        return matrix_product(X1, X2.T)

    @property
    def smoothness(self) -> int | float:
        """Infinite."""
        return math.inf

    @property
    def rotation_invariant(self) -> bool:
        """Always."""
        return True

    def on_subspace(self, dimension: int) -> Kernel:
        """Itself: coordinates that are 0 change no product."""
        return self


class Polynomial(Linear):
    """k(x, z) = (x·z + offset)^degree; infinitely smooth.

    Args:
        degree: integer >= 1.
        offset: real >= 0.
    """

    degree: int = eqx.field(static=True, converter=integer("degree", 1))
    offset: Scalar = 1.0

    def __check_init__(self):
        check_positive("offset", self.offset, zero=True)

    def evaluate(self, x: Float[Array, " d"], z: Float[Array, " d"]) -> Float[Array, ""]:
        """(x·z + offset)^degree."""
        return (super().evaluate(x, z) + jnp.asarray(self.offset, x.dtype)) ** self.degree

    def gram(self, X1: Float[Array, "n1 d"], X2: Float[Array, "n2 d"]) -> Float[Array, "n1 n2"]:
        """(X1 X2ᵀ + offset)^degree."""
        return (super().gram(X1, X2) + jnp.asarray(self.offset, X1.dtype)) ** self.degree
