"""What every trigger is: a change of images, and its direction; each kind has a file of its own."""

import abc
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import checked_result
from kpoison._validation import check_finite, check_floating, check_integer, is_concrete

__all__ = ["Trigger", "check_image_shape", "not_finite", "single"]

_CHANNELS = 4  # grey, with opacity, colours, with opacity: a longer last axis is the width of grey images


class Trigger(eqx.Module):
    """A change of images that is the same at every call, `trigger(images)`: x ↦ Wx + b, after which it may be clipped.

    A trigger is a pytree: opacity, pixel values, amplitude and frequency are leaves, so `jit`, `vmap` and `grad` go
    through them; sizes, positions and `clip` are static.  Calculations are done in the dtype of the images.

    Attributes:
        clip: (low, high), the range of the pixels, to which triggered images are clipped; None: no clipping.
    """

    clip: tuple[float, float] | None = eqx.field(static=True)

    @abc.abstractmethod
    def _apply(self, images: Float[Array, "n H W C"]) -> Float[Array, "n H W C"]:
        """The triggered images, before they are clipped."""

    @abc.abstractmethod
    def _displacement(self, images: Float[Array, "n H W C"]) -> Float[Array, "n H W C"]:
        """`_apply(images) − images`, without the cancellation."""

    @abc.abstractmethod
    def _failures(self, dtype: Any) -> list[tuple[Any, str]]:
        """What may be wrong with the numbers, in the dtype of the images, for `checked_result`."""

    def __call__(
        self, images: Float[ArrayLike, "..."], image_shape: Sequence[int] | None = None
    ) -> Float[Array, "..."]:
        """The images with the trigger.

        Args:
            images: shape (n, H, W, C), or (H, W, C) for one of up to 4 channels; grey ones also (n, H, W), which three
                axes are where the last is longer than 4.  With `image_shape`, which leaves nothing to be guessed, also
                (n, H·W·C) or (H·W·C,), and (n, H, W) or (H, W) for C = 1.
            image_shape: (H, W, C) of flattened images, and of one image of more than 4 channels.

        Returns:
            An array of the shape and dtype of `images`.

        Raises:
            TypeError: for images that are not a floating-point array.
            ValueError: for images that are empty, not finite, or of a shape that the trigger or `image_shape` does not
                fit; for numbers of the trigger that its constructor would refuse (under `jit`, at run time).
        """
        images = check_floating("images", images)
        stack = _as_stack(images, image_shape)
        failures = self._failures(images.dtype)
        result = self._apply(stack)
        if self.clip is not None:
            result = jnp.clip(result, *self.clip)
        return checked_result(result, failures).reshape(images.shape)

    def direction(
        self, images: Float[ArrayLike, "..."], image_shape: Sequence[int] | None = None
    ) -> Float[Array, "..."]:
        """The unit vector u from each image to the triggered one: trigger(x) = x + r u with r > 0.

        It keeps its digits however faint the trigger is.

        Args:
            images: shape (n, H, W, C), or (H, W, C) for one of up to 4 channels; grey ones also (n, H, W), which three
                axes are where the last is longer than 4.  With `image_shape`, which leaves nothing to be guessed, also
                (n, H·W·C) or (H·W·C,), and (n, H, W) or (H, W) for C = 1.
            image_shape: (H, W, C) of flattened images, and of one image of more than 4 channels.

        Returns:
            An array of the shape and dtype of `images`, of Euclidean norm 1 for each image.

        Raises:
            TypeError, ValueError: as a call; ValueError too where the trigger does not change an image (under `jit`,
                at run time).

        >>> import jax.numpy as jnp
        >>> import kpoison as kp
        >>> kp.Patch(size=1, position=(0, 1), opacity=0.5).direction(jnp.zeros((1, 2, 1))).ravel().tolist()
        [0.0, 1.0]
        """
        images = check_floating("images", images)
        stack = _as_stack(images, image_shape)
        failures = self._failures(images.dtype)
        change = self._displacement(stack)
        if self.clip is not None:
            change = jnp.clip(change, self.clip[0] - stack, self.clip[1] - stack)
        # Divided by the largest entry first: the squares of a faint trigger would underflow.
        largest = jnp.max(jnp.abs(change), axis=(1, 2, 3), keepdims=True)
        unchanged = largest == 0
        change = change / jnp.where(unchanged, 1, largest)
        squares = jnp.sum(change * change, axis=(1, 2, 3), keepdims=True)
        direction = change / jnp.sqrt(jnp.where(unchanged, 1, squares))
        which = f", got no change of image {int(jnp.argmax(unchanged))}" if is_concrete(unchanged) else ""
        failures.append((unchanged, f"images must be changed by the trigger to have a direction{which}"))
        return checked_result(direction, failures).reshape(images.shape)


def _as_stack(images: Array, image_shape: Any) -> Float[Array, "n H W C"]:
    """Images with an axis for their number and their own three, checked."""
    if image_shape is None:
        if images.ndim not in (3, 4):
            raise ValueError(
                "images must have shape (n, H, W, C), (H, W, C) or (n, H, W), flattened ones need "
                f"image_shape=(H, W, C), got {images.shape}"
            )
        # As readers of grey images give them: taken for one image they would get a single trigger.
        grey = images.ndim == 3 and images.shape[2] > _CHANNELS
        shape = (*images.shape[1:], 1) if grey else images.shape[-3:]
    else:
        shape = check_image_shape(image_shape)
        own = [(math.prod(shape),), shape] + ([shape[:2]] if shape[2] == 1 else [])
        if images.shape not in own and images.shape[1:] not in own:
            raise ValueError(
                f"images must have shape (n, {own[0][0]}) or {own[0]}, as image_shape is {shape}, got {images.shape}"
            )
    if images.size == 0:
        raise ValueError(f"images must not be empty, got shape {images.shape}")
    check_finite("images", images)
    return images.reshape(-1, *shape)


def check_image_shape(image_shape: Any) -> tuple[int, int, int]:
    """(H, W, C) as Python's integers."""
    if not isinstance(image_shape, tuple | list) or len(image_shape) != 3:
        raise ValueError(f"image_shape must be three integers (H, W, C), got {image_shape!r}")
    height, width, channels = (check_integer("image_shape", length, 1) for length in image_shape)
    return height, width, channels


def single(name: str, number: Array) -> None:
    """Refuse a batch of triggers that was not mapped over."""
    if number.shape != ():
        raise ValueError(f"{name} must be a single number, got shape {number.shape}; map over several with jax.vmap")


def not_finite(name: str, number: Array, dtype: Any) -> tuple[Any, str]:
    """For `checked_result`."""
    return ~jnp.all(jnp.isfinite(jnp.asarray(number, dtype))), f"{name} must be finite in {dtype}"
