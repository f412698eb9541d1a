"""Random transformations of training images: crops, flips, colour jitter, cut-out, and compositions of them."""

import abc
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Num, PRNGKeyArray

from kpoison._validation import check_finite_scalar, check_floating, check_positive, integer, known_number

__all__ = ["Augmentation", "ColourJitter", "Compose", "CutOut", "HorizontalFlip", "RandomCrop"]

Image: TypeAlias = Float[Array, "height width channels"]

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
_COLOURS = 3


class Augmentation(eqx.Module):
    """A random transformation; call it as ``augment(image, key)`` on a single image (height, width, channels).

    Shape and dtype stay as they are.  `jit` and `vmap` work: ``jax.vmap(augment)(images, jax.random.split(key, n))``.
    """

    def __call__(self, image: Num[ArrayLike, "..."], key: PRNGKeyArray) -> Image:
        """The transformed image.

        Raises:
            TypeError: for an image that is not floating.
            ValueError: for one that is not of shape (height, width, channels).
        """
        image = check_floating("image", image)
        if image.ndim != 3 or image.size == 0:
            raise ValueError(f"image must be a single one, (height, width, channels), got shape {image.shape}")
        return self.apply(image, key)

    @abc.abstractmethod
    def apply(self, image: Image, key: PRNGKeyArray) -> Image:
        """The transformation of an image that has been checked."""


class Compose(Augmentation):
    """Several transformations, the first one first, each with a key of its own.

    Args:
        *augmentations: at least one.

    >>> import jax
    >>> augment = Compose(RandomCrop(2), HorizontalFlip(), CutOut(4))
    >>> augment(jax.numpy.ones((8, 8, 1)), jax.random.key(0)).shape
    (8, 8, 1)
    """

    augmentations: tuple[Augmentation, ...]

    def __init__(self, *augmentations: Augmentation):
        if not augmentations:
            raise ValueError("augmentations must be at least one, got none")
        for augmentation in augmentations:
            if not callable(augmentation):
                raise TypeError(f"augmentations must be functions (image, key), got {type(augmentation).__name__}")
        self.augmentations = augmentations

    def apply(self, image: Image, key: PRNGKeyArray) -> Image:
        """One after the other."""
        for augmentation, own in zip(self.augmentations, jax.random.split(key, len(self.augmentations)), strict=True):
            image = augmentation(image, own)
        return image


class RandomCrop(Augmentation):
    """The image shifted by up to `padding` pixels in each direction, every shift equally likely.

    Args:
        padding: pixels of `fill` put around the image, from which a piece of its size is cut, an integer >= 0.
        fill: their value, in the scale of the images.
    """

    padding: int = eqx.field(static=True, default=4, converter=integer("padding", 0))
    fill: int | float = eqx.field(static=True, default=0.0, converter=known_number)

    def __check_init__(self):
        check_finite_scalar("fill", self.fill)

    def apply(self, image: Image, key: PRNGKeyArray) -> Image:
        """A random piece of the padded image."""
        margin = (self.padding, self.padding)
        padded = jnp.pad(image, (margin, margin, (0, 0)), constant_values=self.fill)
        row, column = jax.random.randint(key, (2,), 0, 2 * self.padding + 1)
        return lax.dynamic_slice(padded, (row, column, jnp.zeros_like(row)), image.shape)


class HorizontalFlip(Augmentation):
    """The image mirrored left to right.

    Args:
        probability: of the mirror image, between 0 and 1.
    """

    probability: int | float = eqx.field(static=True, default=0.5, converter=known_number)

    def __check_init__(self):
        check_positive("probability", self.probability, zero=True)
        if self.probability > 1:
            raise ValueError(f"probability must be <= 1, got {self.probability}")

    def apply(self, image: Image, key: PRNGKeyArray) -> Image:
        """The image or its mirror image."""
        return jnp.where(jax.random.bernoulli(key, float(self.probability)), image[:, ::-1], image)


class ColourJitter(Augmentation):
    """Brightness, contrast and saturation multiplied by random factors, in this order; images in [0, 1] stay there.

    Each factor is uniform in [max(0, 1 − s), 1 + s] with its own s.  Brightness multiplies the image, contrast its
    distance from its mean grey, saturation each pixel's distance from its own grey; after each the image is clipped to
    [0, 1].  Grey is 0.299 R + 0.587 G + 0.114 B; images of another number than three channels have the mean of their
    channels for grey, and no saturation.

    Args:
        brightness, contrast, saturation: s of each, >= 0; with 0 there is none.
    """

    brightness: int | float = eqx.field(static=True, default=0.2, converter=known_number)
    contrast: int | float = eqx.field(static=True, default=0.2, converter=known_number)
    saturation: int | float = eqx.field(static=True, default=0.2, converter=known_number)

    def __check_init__(self):
        for name in ("brightness", "contrast", "saturation"):
            check_positive(name, getattr(self, name), zero=True)

    def apply(self, image: Image, key: PRNGKeyArray) -> Image:
        """The image with other colours."""
        keys = jax.random.split(key, 3)
        colours = image.shape[-1] == _COLOURS

        def grey(picture: Array) -> Array:
            if not colours:
                return jnp.mean(picture, axis=-1, keepdims=True)
            return jnp.sum(picture * jnp.asarray(_LUMA, picture.dtype)[None, None], axis=-1, keepdims=True)

        def spread(picture: Array, centre: Array, strength: int | float, own: Array) -> Array:
            factor = jax.random.uniform(own, (), picture.dtype, max(0.0, 1 - strength), 1 + strength)
            return jnp.clip(centre + factor * (picture - centre), 0, 1)

        if self.brightness > 0:
            image = spread(image, jnp.zeros_like(image), self.brightness, keys[0])
        if self.contrast > 0:
            image = spread(image, jnp.full_like(image, jnp.mean(grey(image))), self.contrast, keys[1])
        if self.saturation > 0 and colours:
            image = spread(image, jnp.broadcast_to(grey(image), image.shape), self.saturation, keys[2])
        return image


class CutOut(Augmentation):
    """A square of the image covered (DeVries, Taylor 2017).

    Its centre is any pixel with equal probability, so that at the border a part of the square lies outside.

    Args:
        size: edge of the square in pixels, an integer >= 1.
        fill: what covers it, in the scale of the images.
    """

    size: int = eqx.field(static=True, converter=integer("size", 1))
    fill: int | float = eqx.field(static=True, default=0.0, converter=known_number)

    def __check_init__(self):
        check_finite_scalar("fill", self.fill)

    def apply(self, image: Image, key: PRNGKeyArray) -> Image:
        """The image with the square."""
        height, width, _ = image.shape
        top, left = (
            jax.random.randint(own, (), 0, length) - self.size // 2
            for own, length in zip(jax.random.split(key), (height, width), strict=True)
        )
        rows, columns = jnp.arange(height), jnp.arange(width)
        covered_rows = (rows >= top) & (rows < top + self.size)
        covered_columns = (columns >= left) & (columns < left + self.size)
        covered = covered_rows[:, None, None] & covered_columns[None, :, None]
        return jnp.where(covered, jnp.asarray(self.fill, image.dtype), image)
