"""A rectangle of pixels: its size, and where it lies."""

from typing import Any

from jaxtyping import Array, Float

from kpoison._validation import check_integer, is_integer

__all__ = ["check_position", "check_size", "placed"]


def check_size(size: Any) -> tuple[int, int]:
    """(height, width) of one side or both."""
    height, width = size if isinstance(size, tuple | list) and len(size) == 2 else (size, size)
    return check_integer("size", height, 1), check_integer("size", width, 1)


def check_position(position: Any) -> tuple[int, int]:
    """(row, column) as Python's integers."""
    pair = isinstance(position, tuple | list) and len(position) == 2
    if not pair or not all(is_integer(p) for p in position):
        raise ValueError(f"position must be two integers (row, column), got {position!r}")
    return check_integer("position", position[0], None), check_integer("position", position[1], None)


def placed(size: tuple[int, int], position: tuple[int, int], images: Float[Array, "n H W C"]) -> tuple[slice, slice]:
    """Rows and columns of the rectangle; negative positions count from the ends."""
    (height, width), (row, column), (H, W) = size, position, images.shape[1:3]
    row, column = row + H if row < 0 else row, column + W if column < 0 else column
    if row < 0 or column < 0 or row + height > H or column + width > W:
        raise ValueError(
            f"position and size must lie within images of shape {images.shape[1:]}, "
            f"got position {position} and size {size}"
        )
    return slice(row, row + height), slice(column, column + width)
