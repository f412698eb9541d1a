"""A wave along the rows."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._typing import Scalar
from kpoison._validation import check_finite_scalar, check_positive, check_range
from kpoison.poison.triggers.contract import Trigger, not_finite, single

__all__ = ["Sinusoid"]


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
        single("amplitude", self.amplitude)
        single("frequency", self.frequency)
        return [
            not_finite("amplitude", self.amplitude, dtype),
            not_finite("frequency", self.frequency, dtype),
            (self.frequency <= 0, "frequency must be finite and > 0"),
        ]
