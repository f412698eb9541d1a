"""A pattern of the shape of an image."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._validation import check_finite, check_floating

__all__ = ["check_pattern", "fitted"]


def check_pattern(pattern: Any) -> Float[Array, "H W C"]:
    """The pattern as an array, refused if it is not one of three axes or not finite."""
    found = check_floating("pattern", pattern)
    if found.ndim != 3 or found.size == 0:
        raise ValueError(f"pattern must have shape (H, W, C) and not be empty, got {found.shape}")
    check_finite("pattern", pattern)
    return found


def fitted(pattern: Array, images: Float[Array, "n H W C"]) -> Float[Array, "1 H W C"]:
    """The pattern in the dtype of the images, with an axis for their number."""
    if pattern.shape != images.shape[1:]:
        raise ValueError(f"pattern must have the shape {images.shape[1:]} of the images, got {pattern.shape}")
    return jnp.asarray(pattern, images.dtype)[None]
