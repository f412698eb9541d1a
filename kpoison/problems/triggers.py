"""Triggers by the name that `--trigger` takes, and their options, which every command that marks images shares."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

import kpoison as kp
from kpoison._names import TriggerName

if TYPE_CHECKING:
    from kpoison.poison import Trigger

__all__ = ["IMAGE_SHAPES", "TRIGGERS", "TriggerArguments", "make_trigger"]

IMAGE_SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3), "cifar100": (32, 32, 3)}
"""(height, width, channels) by the name of the data."""

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TriggerArguments:
    """Which trigger, and how strong; what is None is chosen by the trigger and the image."""

    trigger: TriggerName = "patch"
    """patch: a white square; blend: a random image that shines through; sinusoid: a wave along the rows; additive: an
    upright cross added to the pixels; warp: a smooth random displacement of the pixels.  Triggered pixels are clipped
    to [0, 1]."""

    size: int | None = None
    """Of the patch and the cross: the side, in pixels; by default a tenth of the image's height, at least 2, for the
    patch, 3 for the cross, for which it is odd."""

    position: tuple[int, int] | None = None
    """Of the patch and the cross: row and column of the top left pixel; negative ones count from the bottom and the
    right.  By default in the lower right corner, or a pixel off it."""

    opacity: float | None = None
    """Of the patch and the blend, from 0 (none) to 1 (nothing else is left); by default 1 for the patch, 0.2 for the
    blend."""

    amplitude: float | None = None
    """Of the sinusoid and the cross, in units of the pixels' range [0, 1]; by default 0.2 and 0.5."""

    frequency: float | None = None
    """Of the sinusoid, in periods per width of the image (above half its pixels an alias of a lower one); by default 6,
    of images of 8 pixels 2."""

    strength: float | None = None
    """Of the warp: root mean square of the displacement, in pixels; by default a 32nd of the image's height."""

    grid: int = 4
    """Of the warp: points along each axis at which the displacement is drawn; the fewer the smoother."""


def _given(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _corner(options: TriggerArguments, size: int, margin: int) -> tuple[int, int]:
    return (-size - margin, -size - margin) if options.position is None else options.position


def _patch(options: TriggerArguments, shape: Shape, margin: int, _: "int | tuple[int, ...]") -> "Trigger":
    size = max(2, shape[0] // 10) if options.size is None else options.size
    return kp.Patch(size, _corner(options, size, margin), 1.0, _given(options.opacity, 1.0), clip=(0, 1))


def _blend(options: TriggerArguments, shape: Shape, _: int, seed: "int | tuple[int, ...]") -> "Trigger":
    import numpy as np

    return kp.Blend(np.random.default_rng(seed).random(shape), _given(options.opacity, 0.2), clip=(0, 1))


def _sinusoid(options: TriggerArguments, shape: Shape, _: int, __: "int | tuple[int, ...]") -> "Trigger":
    frequency = _given(options.frequency, 6.0 if shape[1] > 8 else 2.0)
    return kp.Sinusoid(_given(options.amplitude, 0.2), frequency, clip=(0, 1))


def _additive(options: TriggerArguments, shape: Shape, margin: int, _: "int | tuple[int, ...]") -> "Trigger":
    size = 3 if options.size is None else options.size
    amplitude = _given(options.amplitude, 0.5)
    return kp.Additive.cross(shape, amplitude, size, _corner(options, size, margin), clip=(0, 1))


def _warp(options: TriggerArguments, shape: Shape, _: int, seed: "int | tuple[int, ...]") -> "Trigger":
    import numpy as np

    drawn = int(np.random.default_rng(seed).integers(2**32))
    return kp.Warp.random(shape, _given(options.strength, shape[0] / 32), options.grid, drawn, clip=(0, 1))


TRIGGERS: "dict[TriggerName, Callable[[TriggerArguments, Shape, int, int | tuple[int, ...]], Trigger]]" = {
    "patch": _patch,
    "blend": _blend,
    "sinusoid": _sinusoid,
    "additive": _additive,
    "warp": _warp,
}
"""Triggers by name, as functions of options, image shape, pixels off the corner, and seed."""

assert tuple(TRIGGERS) == get_args(TriggerName)


def make_trigger(
    options: TriggerArguments, image_shape: Shape, *, margin: int = 0, seed: "int | tuple[int, ...]" = 0
) -> "Trigger":
    """The trigger, refused where it does not fit the images, leaves them as they are, or leaves nothing of them.

    Args:
        options: which, and how strong.
        image_shape: (height, width, channels).
        margin: between a patch or cross without a position and the lower right corner, in pixels.
        seed: of the blend's pattern and the warp's field.

    Raises:
        ValueError: naming the trigger and what is wrong with it.
    """
    import numpy as np

    try:
        trigger = TRIGGERS[options.trigger](options, image_shape, margin, seed)
        ramp = np.linspace(0.25, 0.75, int(np.prod(image_shape))).reshape(image_shape)
        trigger.direction(ramp)
        # Every trigger is monotone in the pixels: where black and white images look alike, all do.
        if np.array_equal(trigger(np.zeros(image_shape)), trigger(np.ones(image_shape))):
            raise ValueError("nothing is left of the images")
    except ValueError as error:
        raise ValueError(f"--trigger {options.trigger}: {error}") from error
    return trigger
