"""The image on a sheet that is stretched."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from kpoison._typing import Scalar
from kpoison._validation import check_finite, check_floating, check_integer, check_positive, check_range, is_concrete
from kpoison.poison.triggers.contract import Trigger, check_image_shape, not_finite, single

__all__ = ["Warp"]


class Warp(Trigger):
    """A smooth displacement of the pixels, as in WaNet (Nguyen & Tran 2021).

    Pixel p becomes the image at p + strength·displacement(p), between pixels by bilinear interpolation: x ↦ Wx with a
    fixed matrix W of non-negative entries, four to a row, that add up to 1.

    Args:
        displacement: shape (H, W, 2) of the images, in pixels: by how many rows and columns.
        strength: by which it is multiplied, from 0 (no trigger).
        clip: (low, high), the range of the pixels, to which triggered images are clipped; None: no clipping, and none
            is needed, as means of pixels are in their range.

    Raises:
        TypeError: for a displacement that is not a floating-point array, a strength that is not real.
        ValueError: for a displacement of another shape, numbers that are not finite, a strength < 0, a `clip` that is
            not low < high; for a strength at which a pixel would be taken from outside of the image (under `jit`, at
            run time).  Whether the displacement fits the images is checked by the call.

    The derivatives in strength and displacement are those within a cell between four pixels; at its edges, where
    bilinear interpolation has kinks, those of the cell on the side away from no displacement.

    >>> import jax.numpy as jnp
    >>> to_the_right = jnp.zeros((1, 3, 2)).at[0, 0, 1].set(1.0)
    >>> Warp(to_the_right, strength=0.25)(jnp.array([[[1.0], [3.0], [5.0]]])).ravel().tolist()
    [1.5, 3.0, 5.0]
    """

    displacement: Float[Array, "H W 2"]
    strength: Float[Array, ""]

    def __init__(
        self,
        displacement: Float[ArrayLike, "H W 2"],
        strength: Scalar = 1.0,
        *,
        clip: tuple[float | int, float | int] | None = None,
    ):
        self.displacement = check_floating("displacement", displacement)
        if self.displacement.ndim != 3 or self.displacement.shape[2] != 2 or self.displacement.size == 0:
            raise ValueError(f"displacement must have shape (H, W, 2) and not be empty, got {self.displacement.shape}")
        check_finite("displacement", displacement)
        check_positive("strength", strength, zero=True)
        self.strength = jnp.asarray(strength, float)
        self.clip = check_range("clip", clip)
        if is_concrete(self.strength) and is_concrete(self.displacement):
            largest = float(_largest_strength(self.displacement))
            if float(self.strength) > largest:
                raise ValueError(
                    f"strength must keep the warp within the image, for which it may be at most {largest:.6g}, "
                    f"got {strength}"
                )

    @classmethod
    def random(
        cls,
        image_shape: Sequence[int],
        strength: Scalar,
        grid: int = 4,
        seed: int = 0,
        *,
        clip: tuple[float | int, float | int] | None = None,
    ) -> "Warp":
        """A random smooth field that leaves the border of the image where it is.

        On a grid of evenly spaced points inside the image the displacements are drawn uniformly, those on the border
        are 0, and between them the field is the sum of sines through them.

        Args:
            image_shape: (H, W, C) of the images.
            strength: root mean square of the displacement over all pixels, in pixels.  (WaNet's strength s is twice
                the mean absolute displacement along an axis at the points of its grid.)
            grid: points along each axis, the border not counted; the fewer the smoother.
            seed: of the field.
            clip: see the class.

        Raises:
            TypeError, ValueError: as the class; ValueError too for a grid of more points than there are pixels inside
                the border.

        >>> field = Warp.random((28, 28, 1), strength=0.5).displacement
        >>> field.shape, float(abs(field[0]).max())
        ((28, 28, 2), 0.0)
        """
        height, width, _ = check_image_shape(image_shape)
        grid, seed = check_integer("grid", grid, 1), check_integer("seed", seed, 0)
        if grid > min(height, width) - 2:
            raise ValueError(
                f"grid must be at most the pixels inside the border, {min(height, width) - 2} of images of "
                f"{height} by {width}, got {grid}"
            )
        control = np.random.default_rng(seed).uniform(-1, 1, (grid, grid, 2))
        field = np.einsum("ha,wb,abk->hwk", _sines(height, grid), _sines(width, grid), control)
        field /= np.sqrt(np.mean(np.sum(field**2, axis=2)))
        return cls(jnp.asarray(field), strength, clip=clip)

    def _neighbours(self, images: Array) -> list[tuple[Array, Array]]:
        """For each pixel four others (n, H, W, C) and their weights (1, H, W, 1).

        Counted from the pixel itself, not from the corner of the image: a faint warp keeps its digits.
        """
        (height, width), dtype = images.shape[1:3], images.dtype
        if self.displacement.shape[:2] != (height, width):
            raise ValueError(
                f"displacement must have the shape {(height, width, 2)} for images of shape {images.shape[1:]}, "
                f"got {self.displacement.shape}"
            )
        shift = jnp.asarray(self.strength, dtype) * jnp.asarray(self.displacement, dtype)
        whole, sign = jnp.trunc(shift), jnp.where(shift < 0, -1, 1)
        part = jnp.abs(shift - whole)
        nearest = _places(self.displacement) + whole.astype(int)
        further = nearest + sign
        found = []
        for rows, along_rows in ((nearest[..., 0], 1 - part[..., 0]), (further[..., 0], part[..., 0])):
            for columns, along_columns in ((nearest[..., 1], 1 - part[..., 1]), (further[..., 1], part[..., 1])):
                # Beyond the border a neighbour has the weight 0.
                pixels = images[:, jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)]
                found.append((pixels, (along_rows * along_columns)[None, ..., None]))
        return found

    def _apply(self, images: Array) -> Array:
        return sum((weight * pixels for pixels, weight in self._neighbours(images)), jnp.zeros_like(images))

    def _displacement(self, images: Array) -> Array:
        parts = (weight * (pixels - images) for pixels, weight in self._neighbours(images))
        return sum(parts, jnp.zeros_like(images))

    def _failures(self, dtype: Any) -> list[tuple[Any, str]]:
        single("strength", self.strength)
        return [
            not_finite("displacement", self.displacement, dtype),
            not_finite("strength", self.strength, dtype),
            (self.strength < 0, "strength must be finite and >= 0"),
            (self.strength > _largest_strength(self.displacement), "strength must keep the warp within the image"),
        ]


def _sines(length: int, grid: int) -> Float[np.ndarray, "length grid"]:
    """The interpolation by sines from points inside an interval, and 0 at its ends, to its pixels."""
    waves = np.arange(1, grid + 1)
    at_pixels = np.sin(np.pi * np.outer(np.arange(length) / (length - 1), waves))
    at_pixels[[0, -1]] = 0  # not by a rounding
    return at_pixels @ np.sin(np.pi * np.outer(waves, waves) / (grid + 1)) * (2 / (grid + 1))


def _largest_strength(displacement: Array) -> Array:
    """The largest at which no pixel is taken from outside of the image."""
    before = _places(displacement)
    room = jnp.where(displacement < 0, before, before[::-1, ::-1])
    size = jnp.abs(displacement)
    return jnp.min(jnp.where(size > 0, room / jnp.where(size > 0, size, 1), jnp.inf))


def _places(displacement: Array) -> Int[np.ndarray, "H W 2"]:
    """Row and column of each pixel."""
    return np.moveaxis(np.indices(displacement.shape[:2]), 0, 2)
