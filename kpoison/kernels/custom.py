"""A kernel of the user's, from a function."""

import math
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._validation import between_points, check_flag, check_integer, check_positive, known_number
from kpoison._watched import Watched
from kpoison.kernels.base import Traits, WithTraits

__all__ = ["Custom"]


class Custom(WithTraits):
    """Any positive-definite function of two points, traceable by JAX.

    Args:
        function: (x, z) → scalar, on single points.  What it refers to (globals, closures) may change: compiled
            programs notice.  Hyper-parameters to be differentiated are fields of a subclass of `Kernel` instead.
        smoothness: the caller's word on `Kernel.smoothness`; by default infinitely often differentiable.
        rotation_invariant: the caller's word on `Kernel.rotation_invariant`.
        point_ndim: number of axes of one point.

    >>> import jax.numpy as jnp
    >>> kernel = Custom(lambda x, z: jnp.exp(x @ z))
    >>> float(kernel.evaluate(jnp.zeros(2), jnp.ones(2)))
    1.0
    """

    function: Watched
    _traits: Traits = eqx.field(static=True)

    def __init__(
        self,
        function: Callable[[Array, Array], Array],
        *,
        smoothness: int | float = math.inf,
        rotation_invariant: bool = False,
        point_ndim: int = 1,
    ):
        if not callable(function):
            raise TypeError(f"function must be callable as function(x, z), got {type(function).__name__}")
        smoothness = known_number(smoothness)
        check_positive("smoothness", min(smoothness, 1e9) if isinstance(smoothness, float) else smoothness, zero=True)
        self.function = Watched(function)
        invariant = check_flag("rotation_invariant", rotation_invariant)
        self._traits = Traits(smoothness, invariant, point_ndim=check_integer("point_ndim", point_ndim, 1))

    @between_points
    def evaluate(self, x: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, ""]:
        """function(x, z)."""
        value = jnp.asarray(self.function(x, z))
        if value.shape != ():
            raise ValueError(f"a custom kernel must return a scalar for two points, got shape {value.shape}")
        return value

    @property
    def traits(self) -> Traits:
        """As given."""
        return self._traits
