"""Gram matrices put together from blocks of equal size, so that temporaries are those of one block."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kpoison._memory import available_memory, in_words

__all__ = ["by_blocks", "check_result", "part_size"]


def check_result(n1: int, n2: int, itemsize: int) -> None:
    """Refuse a Gram matrix that cannot fit; it exists twice while it is put together."""
    needed, available = 2 * n1 * n2 * itemsize, available_memory()
    if needed > available:
        raise ValueError(
            f"a Gram matrix of shape ({n1}, {n2}) takes about {in_words(needed)} while it is made, but "
            f"{in_words(available)} are available; {math.isqrt(available // (2 * itemsize)):,} points would fit"
        )


def part_size(n: int, largest: int) -> int:
    """Size of the fewest parts of n that are at most so large, with as little as possible to fill up."""
    return -(-n // -(-n // max(1, min(n, largest))))


def by_blocks(
    block: Callable[[Int[Array, ""], Int[Array, ""]], Float[Array, "rows columns"]],
    shape: tuple[int, int],
    sizes: tuple[int, int],
    *,
    symmetric: bool,
) -> Float[Array, "n1 n2"]:
    """The matrix of this shape whose blocks of these sizes are block(i, j), the last ones cut off.

    A symmetric one is made of its lower half.  What a block needs is calculated again for derivatives.
    """
    counts = -(-shape[0] // sizes[0]), -(-shape[1] // sizes[1])
    rows, columns = np.tril_indices(counts[0]) if symmetric else np.indices(counts).reshape(2, -1)
    blocks = jax.lax.map(lambda pair: jax.checkpoint(block)(*pair), (jnp.asarray(rows), jnp.asarray(columns)))
    matrix = jnp.zeros((*counts, *sizes), blocks.dtype).at[rows, columns].set(blocks)
    matrix = jnp.moveaxis(matrix, 2, 1).reshape(counts[0] * sizes[0], -1)[: shape[0], : shape[1]]
    return jnp.tril(matrix) + jnp.tril(matrix, -1).T if symmetric else matrix
