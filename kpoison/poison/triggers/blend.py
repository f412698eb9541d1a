"""A second image that shines through."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._typing import Scalar
from kpoison._validation import check_range
from kpoison.poison.triggers.contract import Trigger, not_finite
from kpoison.poison.triggers.opacity import blended, check_opacity, not_opacity
from kpoison.poison.triggers.pattern import check_pattern, fitted

__all__ = ["Blend"]


class Blend(Trigger):
    """A second image that shines through everywhere, as in the blended injection of Chen et al. (2017).

    A pixel becomes image·(1 − opacity) + pattern·opacity; opacity is Chen's blend ratio α, often 0.2.

    Args:
        pattern: shape (H, W, C) of the images, in their units.
        opacity: from 0 (no trigger) to 1 (only the pattern is left).
        clip: (low, high), the range of the pixels, to which triggered images are clipped; None: no clipping.

    Raises:
        TypeError: for a pattern that is not a floating-point array, an opacity that is not real.
        ValueError: for a pattern that is empty or not of three axes, numbers that are not finite, an opacity outside
            [0, 1], a `clip` that is not low < high.  Whether the pattern fits the images is checked by the call.

    >>> import jax.numpy as jnp
    >>> Blend(jnp.array([[[1.0], [3.0]]]), opacity=0.25)(jnp.ones((1, 2, 1))).ravel().tolist()
    [1.0, 1.5]
    """

    pattern: Float[Array, "H W C"]
    opacity: Float[Array, ""]

    def __init__(
        self,
        pattern: Float[ArrayLike, "H W C"],
        opacity: Scalar,
        *,
        clip: tuple[float | int, float | int] | None = None,
    ):
        self.pattern = check_pattern(pattern)
        self.opacity = check_opacity(opacity)
        self.clip = check_range("clip", clip)

    def _apply(self, images: Array) -> Array:
        return blended(images, fitted(self.pattern, images), self.opacity)

    def _displacement(self, images: Array) -> Array:
        return jnp.asarray(self.opacity, images.dtype) * (fitted(self.pattern, images) - images)

    def _failures(self, dtype: Any) -> list[tuple[Any, str]]:
        return [not_finite("pattern", self.pattern, dtype), not_opacity(self.opacity)]
