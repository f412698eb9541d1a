"""Dot-product kernels: functions of x·z."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import between_points, check_positive, integer
from kpoison.kernels.base import Kernel, Traits
from kpoison.kernels.pairs import PairDerivatives

__all__ = ["Linear", "Polynomial"]


class Linear(Kernel):
    """k(x, z) = x·z; infinitely smooth, no near-clone regime (L5)."""

    def profile(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """k as a function of q = x·z, elementwise: q itself."""
        return q

    @between_points
    def evaluate(self, x: Float[Array, " d"], z: Float[Array, " d"]) -> Float[Array, ""]:
        """k(x, z) from x·z."""
        return self.profile(jnp.sum(x * z))

    def gram(self, X1: Float[Array, "n1 d"], X2: Float[Array, "n2 d"]) -> Float[Array, "n1 n2"]:
        """From X1 X2ᵀ."""
        return self.profile(matrix_product(X1, X2.T))

    def pair_derivatives(self, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> PairDerivatives | None:
        """As a function of x·z."""
        if type(self).evaluate is not Linear.evaluate:
            return None  # of a subclass that is more than its profile
        return PairDerivatives.of_products(lambda p, q, w: self.profile(q), X, Z)

    @property
    def smoothness(self) -> int | float:
        """Infinite."""
        return math.inf

    @property
    def traits(self) -> Traits:
        """Of a function of the inner product."""
        return Traits(self.smoothness, rotation_invariant=True)

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

    def profile(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """(q + offset)^degree."""
        return (q + jnp.asarray(self.offset, q.dtype)) ** self.degree
