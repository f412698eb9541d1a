"""The same pattern added to every image."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._typing import Scalar
from kpoison._validation import check_finite_scalar, check_integer, check_range
from kpoison.poison.triggers.contract import Trigger, check_image_shape, not_finite, single
from kpoison.poison.triggers.pattern import check_pattern, fitted
from kpoison.poison.triggers.rectangle import check_position, placed

__all__ = ["Additive"]


class Additive(Trigger):
    """A pattern added to the image: x ↦ x + amplitude·pattern, the additive trigger of arXiv 2505.15175 and 2602.00822.

    Without clipping every image is displaced by the same vector, so that the matrix of all displacements has rank one.

    Args:
        pattern: shape (H, W, C) of the images.
        amplitude: by which it is multiplied; amplitude·pattern is in the units of the images.
        clip: (low, high), the range of the pixels, to which triggered images are clipped; None: no clipping.

    Raises:
        TypeError: for a pattern that is not a floating-point array, an amplitude that is not real.
        ValueError: for a pattern that is empty or not of three axes, numbers that are not finite, a `clip` that is not
            low < high.  The call refuses a pattern that does not fit the images, and an amplitude by which every pixel
            is cut off at an end of `clip`, so that nothing is left of the image.

    >>> import jax.numpy as jnp
    >>> Additive(jnp.array([[[1.0], [-1.0]]]), amplitude=0.25)(jnp.ones((1, 2, 1))).ravel().tolist()
    [1.25, 0.75]
    """

    pattern: Float[Array, "H W C"]
    amplitude: Float[Array, ""]

    def __init__(
        self,
        pattern: Float[ArrayLike, "H W C"],
        amplitude: Scalar,
        *,
        clip: tuple[float | int, float | int] | None = None,
    ):
        self.pattern = check_pattern(pattern)
        check_finite_scalar("amplitude", amplitude)
        self.amplitude = jnp.asarray(amplitude, float)
        self.clip = check_range("clip", clip)

    @classmethod
    def cross(
        cls,
        image_shape: Sequence[int],
        amplitude: Scalar,
        size: int = 3,
        position: tuple[int, int] = (-4, -4),
        *,
        clip: tuple[float | int, float | int] | None = None,
    ) -> "Additive":
        """An upright cross: 1 in the middle row and the middle column of a square, in every channel, 0 elsewhere.

        Args:
            image_shape: (H, W, C) of the images.
            amplitude: added to the pixels of the cross.
            size: side of the square in pixels, odd and at least 3.
            position: (row, column) of the square's top left pixel, from 0; negative ones count from the bottom and the
                right edge.
            clip: see the class.

        Raises:
            TypeError, ValueError: as the class; ValueError too for a size that is even or less than 3, and a square
                that does not lie within the images.

        >>> Additive.cross((4, 4, 1), amplitude=0.5, position=(-4, -4)).pattern[..., 0].tolist()
        [[0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
        """
        shape, size = check_image_shape(image_shape), check_integer("size", size, 3)
        if size % 2 == 0:
            raise ValueError(f"size must be odd, so that a cross has a middle, got {size}")
        pattern, middle = jnp.zeros((1, *shape)), size // 2
        rows, columns = placed((size, size), check_position(position), pattern)
        pattern = pattern[0].at[rows.start + middle, columns].set(1).at[rows, columns.start + middle].set(1)
        return cls(pattern, amplitude, clip=clip)

    def _apply(self, images: Array) -> Array:
        return images + self._displacement(images)

    def _displacement(self, images: Array) -> Array:
        change = jnp.asarray(self.amplitude, images.dtype) * fitted(self.pattern, images)
        return jnp.broadcast_to(change, images.shape)

    def _failures(self, dtype: Any) -> list[tuple[Any, str]]:
        single("amplitude", self.amplitude)
        failures = [not_finite("pattern", self.pattern, dtype), not_finite("amplitude", self.amplitude, dtype)]
        if self.clip is not None:
            low, high = self.clip
            cut_off = jnp.all(jnp.abs(self.amplitude * self.pattern) >= high - low)
            message = f"amplitude must leave something of the images, which clip={self.clip} cuts off at every pixel"
            failures.append((cut_off, message))
        return failures
