"""Mixtures of an image with something else, from nothing of it (opacity 0) to nothing else (1)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._validation import check_finite_scalar, is_concrete
from kpoison.poison.triggers.contract import single

__all__ = ["blended", "check_opacity", "not_opacity"]


def blended(images: Array, pattern: Array, opacity: Array) -> Array:
    """The mixture, so written that it is exact at opacity 0 and 1."""
    opacity = jnp.asarray(opacity, images.dtype)
    return images * (1 - opacity) + pattern * opacity


def check_opacity(opacity: Any) -> Float[Array, ""]:
    """The opacity as an array, refused outside [0, 1] where it is known."""
    check_finite_scalar("opacity", opacity)
    if is_concrete(opacity) and not 0 <= float(opacity) <= 1:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity}")
    return jnp.asarray(opacity, float)


def not_opacity(opacity: Array) -> tuple[Any, str]:
    """The same for `checked_result`."""
    single("opacity", opacity)
    return ~((opacity >= 0) & (opacity <= 1)), "opacity must lie in [0, 1]"
