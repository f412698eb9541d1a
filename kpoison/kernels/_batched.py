"""Kernels of which one pair of points takes so much memory that only so many can be under way together."""

import abc
import math
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

from kpoison._memory import available_memory, in_words
from kpoison.kernels.base import Kernel

__all__ = ["COPIES", "SLOPES", "BatchedKernel", "at_once", "check_gram", "in_parts"]

COPIES = 4  # a compiler's copies and layouts, over what shapes say; up to 3.3 measured
SLOPES = 4  # a gradient's intermediate results, over those of the value; up to 3.7 measured
_LARGEST = 2**30  # bytes of temporaries by default


class BatchedKernel(Kernel):
    """A kernel that says how many pairs may be under way together, and keeps to it."""

    @abc.abstractmethod
    def pair_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of temporaries of one pair of points of this shape, by estimate."""

    @abc.abstractmethod
    def pairs_at_once(self, shape: tuple[int, ...]) -> int:
        """How many pairs of points of this shape may be under way together.

        Raises:
            ValueError: where not one fits.
        """

    def diagonal(self, X: Float[Array, "n ..."]) -> Float[Array, " n"]:
        """k(x, x) at each point."""
        pairs = self.pairs_at_once(X.shape[1:])
        return jax.lax.map(lambda x: self.evaluate(x, x), X, batch_size=min(len(X), pairs))

    def gradients(self, x: Float[Array, "..."], centres: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """∇_x k(x, c_i) for each centre."""
        pairs = max(1, self.pairs_at_once(x.shape) // SLOPES)
        slope = jax.checkpoint(lambda centre: jax.grad(self.evaluate)(x, centre))
        return jax.lax.map(slope, centres, batch_size=min(len(centres), pairs))

    def floats_per_pair(self, point_shape: tuple[int, ...]) -> int:
        """From the estimate of a pair's temporaries."""
        return max(1, SLOPES * self.pair_bytes(point_shape) // 8)


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


def in_parts(X: Float[Array, "n ..."], largest: int) -> Float[Array, "parts size ..."]:
    """Parts of equal size; the last is filled up with the last point."""
    count = -(-len(X) // largest)
    size = -(-len(X) // count)
    return X[np.minimum(np.arange(count * size), len(X) - 1)].reshape(count, size, *X.shape[1:])


def check_gram(n1: int, n2: int, itemsize: int) -> None:
    """Refuse a Gram matrix that cannot fit; it exists twice while it is put together.

    Raises:
        ValueError: with the estimate and what would fit.
    """
    needed, available = 2 * n1 * n2 * itemsize, available_memory()
    if needed > available:
        raise ValueError(
            f"a Gram matrix of shape ({n1}, {n2}) takes about {in_words(needed)} while it is made, but "
            f"{in_words(available)} are available; {math.isqrt(available // (2 * itemsize)):,} points would fit"
        )
