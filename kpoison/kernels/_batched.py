"""Kernels of which one pair of points takes so much memory that only so many can be under way together."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._batches import in_chunks
from kpoison._memory import available_memory, in_words
from kpoison._validation import between_points, check_integer, check_positive, known_number
from kpoison.kernels.base import Kernel, Traits, WithTraits

__all__ = ["COPIES", "SLOPES", "BatchedKernel", "BudgetedKernel", "at_once", "checked_options"]

COPIES = 4  # a compiler's copies and layouts, over what shapes say; up to 3.3 measured
SLOPES = 4  # a gradient's intermediate results, over those of the value; up to 3.7 measured
_LARGEST = 2**30  # bytes of temporaries by default


class BatchedKernel(Kernel):
    """A kernel that says how many pairs may be under way together, and keeps to it.

    Its `gram` puts the matrix together from blocks, see `_blocks`.
    """

    @abc.abstractmethod
    def pair_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of temporaries of one pair of points of this shape, by estimate."""

    @abc.abstractmethod
    def pairs_at_once(self, shape: tuple[int, ...]) -> int:
        """How many pairs of points of this shape may be under way together.

        Raises:
            ValueError: where not one fits.
        """

    def pairs(self, X: Float[Array, "n ..."], Z: Float[Array, "n ..."]) -> Float[Array, " n"]:
        """k(x_i, z_i), all at once."""
        return jax.vmap(self.evaluate)(X, Z)

    def diagonal(self, X: Float[Array, "n ..."]) -> Float[Array, " n"]:
        """k(x, x) at each point."""
        return in_chunks(lambda points: self.pairs(points, points), X, self.pairs_at_once(X.shape[1:]))

    def gradients(self, x: Float[Array, "..."], centres: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """∇_x k(x, c_i) for each centre."""

        @jax.checkpoint
        def slopes(chunk: Array) -> Array:
            return jax.grad(lambda points: jnp.sum(self.pairs(points, chunk)))(jnp.broadcast_to(x[None], chunk.shape))

        return in_chunks(slopes, centres, max(1, self.pairs_at_once(x.shape) // SLOPES))

    def floats_per_pair(self, point_shape: tuple[int, ...]) -> int:
        """From the estimate of a pair's temporaries."""
        return max(1, SLOPES * self.pair_bytes(point_shape) // 8)


class BudgetedKernel(BatchedKernel, WithTraits):
    """A batched kernel of a function that only its caller knows.

    Attributes:
        memory: bytes that temporaries may take; None for the default of `at_once`.
    """

    _traits: Traits = eqx.field(static=True)
    memory: int | None = eqx.field(static=True)

    @abc.abstractmethod
    def block(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """k on all pairs at once."""

    @between_points
    def evaluate(self, x: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, ""]:
        """k(x, z) for two single points."""
        if x.ndim != self.point_ndim:
            raise ValueError(f"x must be one point of {self.point_ndim} axes (point_ndim), got shape {x.shape}")
        self.pairs_at_once(x.shape)
        return self.block(x[None], z[None])[0, 0]

    @property
    def traits(self) -> Traits:
        """As given."""
        return self._traits


def checked_options(memory: Any, point_ndim: Any, smoothness: Any) -> tuple[Traits, int | None]:
    """The fields of a `BudgetedKernel`.

    Raises:
        ValueError: naming the one that does not fit.
    """
    if memory is not None:
        memory = check_integer("memory", memory, 1)
    point_ndim = check_integer("point_ndim", point_ndim, 1)
    smoothness = known_number(smoothness)
    check_positive("smoothness", min(smoothness, 1e9) if isinstance(smoothness, float) else smoothness, zero=True)
    return Traits(smoothness, point_ndim=point_ndim, makes_half=True), memory


def at_once(one: int, memory: int | None, what: str, what_fits: Callable[[int], str] = lambda limit: "") -> int:
    """How many of what takes so many bytes fit together.

    Args:
        one: bytes of one of them.
        memory: bytes that they may take; by default a quarter of what is available, at most 1 GiB, but what is
            available for a single one.
        what: one of them, for the message.
        what_fits: what would fit into so many bytes, for the message.

    Raises:
        ValueError: where not one fits.
    """
    available = available_memory()
    limit = available if memory is None else memory
    if one > limit:
        source = "are available" if memory is None else "are allowed by memory"
        raise ValueError(
            f"{what} takes about {in_words(one)} of temporaries, but {in_words(limit)} {source}{what_fits(limit)}"
        )
    budget = min(available // 4, _LARGEST) if memory is None else memory
    return max(1, budget // max(1, one))
