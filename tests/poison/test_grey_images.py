"""Grey images without an axis of channels, and images of few channels, under every trigger."""

import jax
import numpy as np
import pytest
from trigger_catalogue import RNG

import kpoison as kp

GREY = [
    kp.Patch(3, (-3, -3)),
    kp.Blend(RNG.random((8, 9, 1)), 0.3, clip=(0, 1)),
    kp.Sinusoid(0.2, 2),
    kp.Additive.cross((8, 9, 1), 0.3),
    kp.Warp.random((8, 9, 1), 0.2),
]


@pytest.mark.parametrize("trigger", GREY)
def test_a_stack_of_grey_images_is_no_image_of_many_channels(trigger):
    stack = RNG.random((6, 8, 9))
    expected = np.asarray(trigger(stack[..., None]))[..., 0]
    np.testing.assert_array_equal(trigger(stack), expected)
    np.testing.assert_allclose(trigger.direction(stack), np.asarray(trigger.direction(stack[..., None]))[..., 0])
    for shape in [(8, 9, 1), [8, 9, 1]]:
        np.testing.assert_array_equal(trigger(stack, image_shape=shape), expected)
        np.testing.assert_array_equal(trigger(stack[0], image_shape=shape), expected[0])
        np.testing.assert_array_equal(trigger(stack.reshape(6, -1), image_shape=shape), expected.reshape(6, -1))
    np.testing.assert_allclose(jax.jit(lambda images: trigger(images) + 0)(stack), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_raw_grey_images_get_their_patch_each(dtype):
    """As readers of IDX files give them: 9 pixels in each of 100."""
    images = np.zeros((100, 28, 28), dtype)
    changed = np.asarray(kp.Patch(3, (-3, -3))(images)) != 0
    np.testing.assert_array_equal(changed.reshape(100, -1).sum(axis=1), 9)
    assert changed[:, -3:, -3:].all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_an_image_of_few_channels_is_one(channels):
    image = RNG.random((5, 6, channels))
    found = np.asarray(kp.Patch(2, (0, 0), 7.0)(image))
    np.testing.assert_array_equal(found[:2, :2], 7)
    np.testing.assert_array_equal(found[2:], image[2:])
    many = RNG.random((5, 6, 12))
    np.testing.assert_array_equal(np.asarray(kp.Patch(2, (0, 0), 7.0)(many, image_shape=(5, 6, 12)))[:2, :2], 7)
