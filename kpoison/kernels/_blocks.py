"""Gram matrices put together from blocks: temporaries are those of one, and half of a symmetric matrix is made.

`by_blocks` does so inside of a program, one block after the other; `lower_half` outside, a program for each block.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kpoison._batches import part_size
from kpoison._memory import available_memory, in_words

__all__ = ["block_sizes", "by_blocks", "check_result", "lower_half", "mirrored", "overlapping_parts"]

_CACHE_LINE = 64  # bytes
_UNDER_WAY = 4  # blocks


def check_result(n1: int, n2: int, itemsize: int) -> None:
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


def block_sizes(n1: int, n2: int, pairs: int, *, symmetric: bool) -> tuple[int, int]:
    """Sizes of the blocks of a matrix that hold at most so many pairs: square, or wider where there are few rows."""
    columns = part_size(n2, max(math.isqrt(pairs), pairs // n1))
    return (columns, columns) if symmetric else (part_size(n1, pairs // columns), columns)


def by_blocks(
    block: Callable[[Int[Array, ""] | int, Int[Array, ""] | int], Float[Array, "rows columns"]],
    shape: tuple[int, int],
    sizes: tuple[int, int],
    *,
    symmetric: bool = False,
) -> Float[Array, "n1 n2"]:
    """The matrix of this shape whose blocks of these sizes are block(i, j), the last ones cut off.

    A symmetric one is made of its lower half.  What a block needs is calculated again for derivatives, else they would
    hold every block's temporaries.
    """
    counts = -(-shape[0] // sizes[0]), -(-shape[1] // sizes[1])
    if counts == (1, 1):
        matrix = block(0, 0)
        return mirrored(matrix) if symmetric else matrix
    rows, columns = np.tril_indices(counts[0]) if symmetric else np.indices(counts).reshape(2, -1)
    blocks = jax.lax.map(lambda pair: jax.checkpoint(block)(*pair), (jnp.asarray(rows), jnp.asarray(columns)))
    matrix = jnp.zeros((*counts, *sizes), blocks.dtype).at[rows, columns].set(blocks)
    matrix = jnp.moveaxis(matrix, 2, 1).reshape(counts[0] * sizes[0], -1)[: shape[0], : shape[1]]
    return mirrored(matrix) if symmetric else matrix


def mirrored(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The symmetric matrix with this lower half."""
    return jnp.tril(matrix) + jnp.tril(matrix, -1).T


def overlapping_parts(n: int, count: int) -> list[tuple[int, int]]:
    """First and beyond the last of so many parts of n, of equal size: the last ones overlap."""
    size = -(-n // count)
    return [(start, start + size) for start in (min(i * size, n - size) for i in range(count))]


def lower_half(
    block: Callable[[Any, Any], Float[Array, "m m"]], parts: Sequence[Any], n: int, dtype: np.dtype
) -> Float[Array, "n n"]:
    """The symmetric matrix of blocks block(x, z), of what is known of `overlapping_parts`; on the diagonal x is z.

    No compiler does it: of one program it would compute a block again for its transpose, or do the blocks on one core.
    """
    places = overlapping_parts(n, len(parts))
    matrix = _aligned((n, n), dtype)

    def place(i: int, j: int, values: Array) -> None:
        rows, columns = slice(*places[i]), slice(*places[j])
        matrix[rows, columns] = values
        if i != j:
            matrix[columns, rows] = np.asarray(values).T

    # A few are under way while one is copied, and not all: memory that is used again need not be fetched.
    under_way: deque[tuple[int, int, Array]] = deque()
    for i, j in itertools.combinations_with_replacement(range(len(parts)), 2):
        under_way.append((i, j, block(parts[i], parts[j])))
        if len(under_way) > _UNDER_WAY:
            place(*under_way.popleft())
    for each in under_way:
        place(*each)
    return jax.device_put(matrix, may_alias=True)


def _aligned(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Memory that JAX takes over as an array of its own; what begins elsewhere on a cache line it copies."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)
