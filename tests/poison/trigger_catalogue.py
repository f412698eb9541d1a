"""The triggers that the tests of this folder go through, and what each does, pixel by pixel."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

import kpoison as kp

EPS = np.finfo(float).eps
SHAPE = (6, 8, 3)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(4, *SHAPE))
PATTERN = RNG.uniform(size=SHAPE)
FIELD = 0.6 * np.asarray(kp.Warp.random(SHAPE, 0.1, grid=2, seed=3).displacement)
TRIGGERS = {
    "patch": lambda strength: kp.Patch((2, 3), (-3, 1), [0.9, 0.1, 0.5], strength),
    "blend": lambda strength: kp.Blend(PATTERN, strength),
    "sinusoid": lambda strength: kp.Sinusoid(strength, 2.7),
    "additive": lambda strength: kp.Additive(PATTERN - 0.4, strength),
    "warp": lambda strength: kp.Warp(FIELD, strength),
}
EVERY = pytest.mark.parametrize("make", TRIGGERS.values(), ids=TRIGGERS)
NUMBERS = {
    "patch": ("value", "opacity"),
    "blend": ("pattern", "opacity"),
    "sinusoid": ("amplitude", "frequency"),
    "additive": ("pattern", "amplitude"),
    "warp": ("displacement", "strength"),
}
RUN_TIME = (RuntimeError, ValueError)


def oracle(trigger, image):
    """Pixel by pixel, from the definitions in the papers."""
    H, W, C = image.shape
    result = image.copy()
    if isinstance(trigger, kp.Patch):
        (height, width), (top, left) = trigger.size, trigger.position
        values = np.broadcast_to(np.asarray(trigger.value), (height, width, C))
        opacity = float(trigger.opacity)
        for i in range(height):
            for j in range(width):
                row, column = range(H)[top] + i, range(W)[left] + j
                result[row, column] = (1 - opacity) * image[row, column] + opacity * values[i, j]
    elif isinstance(trigger, kp.Blend):
        opacity = float(trigger.opacity)
        result = (1 - opacity) * image + opacity * np.asarray(trigger.pattern)
    elif isinstance(trigger, kp.Additive):
        result += float(trigger.amplitude) * np.asarray(trigger.pattern)
    elif isinstance(trigger, kp.Warp):
        places = np.indices((H, W)) + float(trigger.strength) * np.moveaxis(np.asarray(trigger.displacement), 2, 0)
        result = np.stack([map_coordinates(image[..., c], places, order=1) for c in range(C)], axis=2)
    else:
        for column in range(W):
            angle = 2 * np.pi * column * float(trigger.frequency) / W
            result[:, column] += float(trigger.amplitude) * np.sin(angle)
    return result if trigger.clip is None else np.clip(result, *trigger.clip)


def norms(images):
    return np.linalg.norm(np.asarray(images).reshape(len(images), -1), axis=1)
