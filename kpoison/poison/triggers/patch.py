"""A rectangle laid over the image."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._typing import Numbers, Scalar
from kpoison._validation import check_finite, check_range, check_real
from kpoison.poison.triggers.contract import Trigger, not_finite
from kpoison.poison.triggers.opacity import blended, check_opacity, not_opacity
from kpoison.poison.triggers.rectangle import check_position, check_size, placed

__all__ = ["Patch"]


class Patch(Trigger):
    """A rectangle laid over the image, as in BadNets (Gu et al. 2017).

    A pixel of the rectangle becomes image·(1 − opacity) + value·opacity; all others stay as they are.

    Args:
        size: side of a square, or (height, width), in pixels.
        position: (row, column) of the rectangle's top left pixel, from 0; negative ones count from the bottom and the
            right edge, as indices do in Python: `Patch(3, (-3, -3))` fills the bottom right corner.
        value: of the pixels, in the units of the images: a number, shape (C,) for a colour, or (height, width, C) for
            a pattern.
        opacity: from 0 (no trigger) to 1 (the rectangle replaces what was there, as in BadNets).
        clip: (low, high), the range of the pixels, to which triggered images are clipped; None: no clipping.

    Raises:
        TypeError: for a value or an opacity that is not real.
        ValueError: for numbers that are not finite, an opacity outside [0, 1], a size that is no positive integer, a
            position that is no pair of integers, a value of another shape, a `clip` that is not low < high.  Whether
            the patch fits the images is checked by the call.

    >>> import jax.numpy as jnp
    >>> Patch(size=2, position=(-2, -2), value=1.0, opacity=0.5)(jnp.zeros((3, 3, 1)))[..., 0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]
    """

    value: Float[Array, "..."]
    opacity: Float[Array, ""]
    size: tuple[int, int] = eqx.field(static=True)
    position: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        size: int | tuple[int, int],
        position: tuple[int, int],
        value: Numbers = 1.0,
        opacity: Scalar = 1.0,
        *,
        clip: tuple[float | int, float | int] | None = None,
    ):
        self.size = check_size(size)
        self.position = check_position(position)
        check_real("value", value)
        check_finite("value", value)
        self.value = jnp.asarray(value, float)
        if self.value.ndim not in (0, 1) and (self.value.ndim != 3 or self.value.shape[:2] != self.size):
            height, width = self.size
            raise ValueError(f"value must have shape (), (C,) or ({height}, {width}, C), got {self.value.shape}")
        self.opacity = check_opacity(opacity)
        self.clip = check_range("clip", clip)

    def _pattern(self, images: Array) -> Float[Array, "1 h w C"]:
        """The values of the rectangle's pixels."""
        channels = images.shape[3]
        allowed = [(), (channels,), (*self.size, channels)]
        if self.value.shape not in allowed:
            raise ValueError(
                f"value must have shape {' or '.join(map(str, allowed))} for images of {channels} channel(s), "
                f"got {self.value.shape}"
            )
        return jnp.broadcast_to(jnp.asarray(self.value, images.dtype), (1, *self.size, channels))

    def _apply(self, images: Array) -> Array:
        rows, columns = placed(self.size, self.position, images)
        mixture = blended(images[:, rows, columns], self._pattern(images), self.opacity)
        return images.at[:, rows, columns].set(mixture)

    def _displacement(self, images: Array) -> Array:
        rows, columns = placed(self.size, self.position, images)
        change = jnp.asarray(self.opacity, images.dtype) * (self._pattern(images) - images[:, rows, columns])
        return jnp.zeros_like(images).at[:, rows, columns].set(change)

    def _failures(self, dtype: Any) -> list[tuple[Any, str]]:
        return [not_finite("value", self.value, dtype), not_opacity(self.opacity)]
