"""Image triggers: how the attacker marks an image, so that the poisoned predictor gives it the target class."""

import abc
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import checked_result
from kpoison._typing import Numbers, Scalar
from kpoison._validation import (
    check_finite,
    check_finite_scalar,
    check_floating,
    check_integer,
    check_positive,
    check_range,
    check_real,
    is_concrete,
    is_integer,
)

__all__ = ["Blend", "Patch", "Sinusoid", "Trigger"]

_CHANNELS = 4  # grey, with opacity, colours, with opacity: a longer last axis is the width of grey images


class Trigger(eqx.Module):
    """A change of images that is the same at every call: `trigger(images)`.

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
        >>> Patch(size=1, position=(0, 1), opacity=0.5).direction(jnp.zeros((1, 2, 1))).ravel().tolist()
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
        self.size = _size(size)
        self.position = _position(position)
        check_real("value", value)
        check_finite("value", value)
        self.value = jnp.asarray(value, float)
        if self.value.ndim not in (0, 1) and (self.value.ndim != 3 or self.value.shape[:2] != self.size):
            height, width = self.size
            raise ValueError(f"value must have shape (), (C,) or ({height}, {width}, C), got {self.value.shape}")
        self.opacity = _opacity(opacity)
        self.clip = check_range("clip", clip)

    def _placed(self, images: Array) -> tuple[slice, slice]:
        """Rows and columns of the rectangle."""
        (height, width), (row, column), (H, W) = self.size, self.position, images.shape[1:3]
        row, column = row + H if row < 0 else row, column + W if column < 0 else column
        if row < 0 or column < 0 or row + height > H or column + width > W:
            raise ValueError(
                f"position and size must lie within images of shape {images.shape[1:]}, "
                f"got position {self.position} and size {self.size}"
            )
        return slice(row, row + height), slice(column, column + width)

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
        rows, columns = self._placed(images)
        blended = _blended(images[:, rows, columns], self._pattern(images), self.opacity)
        return images.at[:, rows, columns].set(blended)

    def _displacement(self, images: Array) -> Array:
        rows, columns = self._placed(images)
        change = jnp.asarray(self.opacity, images.dtype) * (self._pattern(images) - images[:, rows, columns])
        return jnp.zeros_like(images).at[:, rows, columns].set(change)

    def _failures(self, dtype: Any) -> list[tuple[Any, str]]:
        return [_not_finite("value", self.value, dtype), _not_opacity(self.opacity)]


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
        self.pattern = check_floating("pattern", pattern)
        if self.pattern.ndim != 3 or self.pattern.size == 0:
            raise ValueError(f"pattern must have shape (H, W, C) and not be empty, got {self.pattern.shape}")
        check_finite("pattern", pattern)
        self.opacity = _opacity(opacity)
        self.clip = check_range("clip", clip)

    def _fitted(self, images: Array) -> Float[Array, "1 H W C"]:
        """The pattern, with an axis for the number of images."""
        if self.pattern.shape != images.shape[1:]:
            raise ValueError(f"pattern must have the shape {images.shape[1:]} of the images, got {self.pattern.shape}")
        return jnp.asarray(self.pattern, images.dtype)[None]

    def _apply(self, images: Array) -> Array:
        return _blended(images, self._fitted(images), self.opacity)

    def _displacement(self, images: Array) -> Array:
        return jnp.asarray(self.opacity, images.dtype) * (self._fitted(images) - images)

    def _failures(self, dtype: Any) -> list[tuple[Any, str]]:
        return [_not_finite("pattern", self.pattern, dtype), _not_opacity(self.opacity)]


class Sinusoid(Trigger):
    """A horizontal sinusoid added to the image, the SIG trigger of Barni et al. (2019).

    A pixel in column j = 0, ..., W − 1 becomes image + amplitude·sin(2π·j·frequency/W), in every row and channel.
    It is added, not blended: its strength is an amplitude (Barni's Δ), not an opacity.

    Args:
        amplitude: Δ, in the units of the images.
        frequency: f > 0, in periods per width of the image; need not be whole.
        clip: (low, high), the range of the pixels, to which triggered images are clipped; None: no clipping.

    Raises:
        TypeError: for numbers that are not real.
        ValueError: for numbers that are not finite, a frequency that is not > 0, a `clip` that is not low < high.

    >>> import jax.numpy as jnp
    >>> Sinusoid(amplitude=0.5, frequency=1)(jnp.ones((1, 4, 1))).ravel().tolist()
    [1.0, 1.5, 1.0, 0.5]
    """

    amplitude: Float[Array, ""]
    frequency: Float[Array, ""]

    def __init__(self, amplitude: Scalar, frequency: Scalar, *, clip: tuple[float | int, float | int] | None = None):
        check_finite_scalar("amplitude", amplitude)
        check_positive("frequency", frequency)
        self.amplitude = jnp.asarray(amplitude, float)
        self.frequency = jnp.asarray(frequency, float)
        self.clip = check_range("clip", clip)

    def _apply(self, images: Array) -> Array:
        return images + self._displacement(images)

    def _displacement(self, images: Array) -> Array:
        width, dtype = images.shape[2], images.dtype
        phase = jnp.arange(width, dtype=dtype) * jnp.asarray(self.frequency, dtype)  # in units of 2π/W
        phase = phase - width * jnp.round(phase / width)
        # Folded to a quarter turn about 0, the sine is exactly 0 at half turns: f = W/2 changes nothing, not by noise.
        phase = jnp.where(jnp.abs(phase) > width / 4, width / 2 * jnp.sign(phase) - phase, phase)
        wave = jnp.asarray(self.amplitude, dtype) * jnp.sin(2 * jnp.pi / width * phase)
        return jnp.broadcast_to(wave[None, None, :, None], images.shape)

    def _failures(self, dtype: Any) -> list[tuple[Any, str]]:
        _single("amplitude", self.amplitude)
        _single("frequency", self.frequency)
        return [
            _not_finite("amplitude", self.amplitude, dtype),
            _not_finite("frequency", self.frequency, dtype),
            (self.frequency <= 0, "frequency must be finite and > 0"),
        ]


def _blended(images: Array, pattern: Array, opacity: Array) -> Array:
    """The mixture, so written that it is exact at opacity 0 and 1."""
    opacity = jnp.asarray(opacity, images.dtype)
    return images * (1 - opacity) + pattern * opacity


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
        if not isinstance(image_shape, tuple | list) or len(image_shape) != 3:
            raise ValueError(f"image_shape must be three integers (H, W, C), got {image_shape!r}")
        shape = tuple(check_integer("image_shape", length, 1) for length in image_shape)
        own = [(math.prod(shape),), shape] + ([shape[:2]] if shape[2] == 1 else [])
        if images.shape not in own and images.shape[1:] not in own:
            raise ValueError(
                f"images must have shape (n, {own[0][0]}) or {own[0]}, as image_shape is {shape}, got {images.shape}"
            )
    if images.size == 0:
        raise ValueError(f"images must not be empty, got shape {images.shape}")
    check_finite("images", images)
    return images.reshape(-1, *shape)


def _size(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, tuple | list) and len(size) == 2 else (size, size)
    return check_integer("size", height, 1), check_integer("size", width, 1)


def _position(position: Any) -> tuple[int, int]:
    pair = isinstance(position, tuple | list) and len(position) == 2
    if not pair or not all(is_integer(p) for p in position):
        raise ValueError(f"position must be two integers (row, column), got {position!r}")
    return check_integer("position", position[0], None), check_integer("position", position[1], None)


def _opacity(opacity: Any) -> Float[Array, ""]:
    check_finite_scalar("opacity", opacity)
    if is_concrete(opacity) and not 0 <= float(opacity) <= 1:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity}")
    return jnp.asarray(opacity, float)


def _single(name: str, number: Array) -> None:
    """Refuse a batch of triggers that was not mapped over."""
    if number.shape != ():
        raise ValueError(f"{name} must be a single number, got shape {number.shape}; map over several with jax.vmap")


def _not_finite(name: str, number: Array, dtype: Any) -> tuple[Any, str]:
    return ~jnp.all(jnp.isfinite(jnp.asarray(number, dtype))), f"{name} must be finite in {dtype}"


def _not_opacity(opacity: Array) -> tuple[Any, str]:
    _single("opacity", opacity)
    return ~((opacity >= 0) & (opacity <= 1)), "opacity must lie in [0, 1]"
