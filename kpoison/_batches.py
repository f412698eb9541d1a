"""A function of many points, so many at a time that what is under way together stays within one budget of memory."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["BYTES_AT_ONCE", "at_once", "in_batches", "in_chunks", "in_parts", "part_size"]

BYTES_AT_ONCE = 2**25
"""What the numbers of one batch may take: small beside any machine's memory, large beside what starting a batch costs.

It counts what a caller says one point needs; a compiler's copies and layouts take up to about four times as much.
Kernels of images and of networks, of which one pair may take more, have budgets of their own (`kernels._batched`).
"""


def at_once(floats_each: int, itemsize: int = 8) -> int:
    """How many things of so many numbers each fit into the budget; at least one."""
    return max(1, BYTES_AT_ONCE // (itemsize * max(1, floats_each)))


def in_batches(function: Callable[..., Any], xs: Any, floats_each: int) -> Any:
    """`jax.vmap(function)(xs)`, in batches that bound the memory.

    Args:
        function: of one element.
        xs: an array, or a pytree of arrays with a common leading axis.
        floats_each: about how many numbers `function` has under way for one element, in the dtype of the first array.

    Returns:
        What `function` returns, stacked along a new leading axis.
    """
    first = jax.tree.leaves(xs)[0]
    size = at_once(floats_each, first.dtype.itemsize)
    return jax.vmap(function)(xs) if len(first) <= size else jax.lax.map(function, xs, batch_size=size)


def part_size(n: int, largest: int) -> int:
    """Size of the fewest parts of n that are at most so large, with as little as possible to fill up."""
    return math.ceil(n / math.ceil(n / max(1, min(n, largest))))


def in_parts(X: Float[Array, "..."], largest: int, axis: int = 0) -> Float[Array, "parts ..."]:
    """Parts of equal size along an axis, of at most so many; the last is filled up with the last element."""
    count, axis = X.shape[axis], axis % X.ndim
    size = part_size(count, largest)
    parts = -(-count // size)
    if parts * size > count:
        X = jnp.take(X, np.minimum(np.arange(parts * size), count - 1), axis=axis)
    return jnp.moveaxis(X.reshape(*X.shape[:axis], parts, size, *X.shape[axis + 1 :]), axis, 0)


def in_chunks(function: Callable[[Float[Array, "m ..."]], Array], X: Float[Array, "n ..."], largest: int) -> Array:
    """`function` of all points, for one that takes many: of at most so many at once.

    Args:
        function: of points, shape (m, ...), with a result for each along its first axis.
        X: the points.
        largest: m at most.
    """
    if len(X) <= largest:
        return function(X)
    results = jax.lax.map(function, in_parts(X, largest))
    return results.reshape(-1, *results.shape[2:])[: len(X)]
