"""Triggers on images by hand: where they lie, what they mix, in which direction they go."""

import numpy as np
import pytest
from trigger_catalogue import EPS

import kpoison as kp


@pytest.mark.parametrize(
    ("position", "rows"),
    [
        ((0, 0), ["110", "110", "000"]),
        ((1, 1), ["000", "011", "011"]),
        ((-2, -2), ["000", "011", "011"]),
        ((-3, 1), ["011", "011", "000"]),
        ((1, -3), ["000", "110", "110"]),
    ],
)
def test_where_a_patch_lies(position, rows):
    expected = [[float(pixel) for pixel in row] for row in rows]
    np.testing.assert_array_equal(kp.Patch(2, position)(np.zeros((3, 3, 1)))[..., 0], expected)


def test_size_is_height_and_width():
    expected = [[0.0, 0.0, 0.0, 0.0], [0.0, 7.0, 7.0, 7.0]]
    np.testing.assert_array_equal(kp.Patch((1, 3), (1, 1), 7)(np.zeros((2, 4, 1)))[..., 0], expected)


def test_mixture_of_a_patch():
    # 0.75·2 + 0.25·(−2) = 1 in the one pixel, 2 elsewhere.
    patched = kp.Patch(1, (0, 1), -2.0, 0.25)(np.full((1, 2, 2), 2.0))
    np.testing.assert_array_equal(patched, [[[2.0, 2.0], [1.0, 1.0]]])


def test_colour_and_pattern_of_a_patch():
    coloured = kp.Patch((1, 2), (0, 1), [1.0, 2.0])(np.zeros((1, 3, 2)))
    np.testing.assert_array_equal(coloured, [[[0.0, 0.0], [1.0, 2.0], [1.0, 2.0]]])
    chequered = kp.Patch(2, (0, 0), np.array([[[1.0], [0.0]], [[0.0], [1.0]]]))(np.full((2, 3, 1), 5.0))
    np.testing.assert_array_equal(chequered[..., 0], [[1.0, 0.0, 5.0], [0.0, 1.0, 5.0]])


def test_blend():
    pattern = np.array([[[0.0, 4.0], [8.0, 1.0]]])
    blended = kp.Blend(pattern, 0.25)(np.array([[[4.0, 0.0], [0.0, 1.0]]]))
    np.testing.assert_array_equal(blended, [[[3.0, 1.0], [2.0, 1.0]]])


@pytest.mark.slow
def test_sinusoid():
    # One period over four columns: 0, 1, 0, −1; two rows and two channels alike.
    wave = kp.Sinusoid(amplitude=0.5, frequency=1)(np.ones((2, 4, 2)))
    np.testing.assert_allclose(wave, np.broadcast_to([[[1.0], [1.5], [1.0], [0.5]]], (2, 4, 2)), rtol=EPS)
    # Half a period over six columns: sines of 0, 30, 60, 90, 120 and 150 degrees.
    wave = kp.Sinusoid(2.0, 0.5)(np.zeros((1, 6, 1)))
    np.testing.assert_allclose(wave.ravel(), [0, 1, np.sqrt(3), 2, np.sqrt(3), 1], rtol=4 * EPS)


def test_clip():
    image = np.array([[[0.0], [0.9], [0.5], [0.3]]])
    np.testing.assert_allclose(kp.Sinusoid(0.4, 1, clip=(0, 1))(image).ravel(), [0, 1, 0.5, 0], atol=EPS)
    np.testing.assert_allclose(kp.Sinusoid(0.4, 1)(image).ravel(), [0, 1.3, 0.5, -0.1], atol=EPS)
    np.testing.assert_array_equal(kp.Patch(1, (0, 0), 7.0, clip=(0, 1))(image).ravel(), [1, 0.9, 0.5, 0.3])
    blended = kp.Blend(image - 1, 1.0, clip=(-0.6, 1))(image)
    np.testing.assert_allclose(blended.ravel(), [-0.6, -0.1, -0.5, -0.6], atol=EPS)


def test_direction():
    # From (0.25, 0.5) to (1, 1): (0.75, 0.5) of length √13/4, whatever the opacity.
    for opacity in (1.0, 0.5, 1e-3):
        direction = kp.Patch((1, 2), (0, 0), 1.0, opacity).direction(np.array([[[0.25], [0.5], [0.0]]]))
        np.testing.assert_allclose(direction.ravel(), np.array([3, 2, 0]) / np.sqrt(13), rtol=4 * EPS)
    # One period: (0, 1, 0, −1)/√2; down, where the amplitude is negative.
    direction = kp.Sinusoid(-3.0, 1).direction(np.ones((1, 4, 1)))
    np.testing.assert_allclose(direction.ravel(), np.array([0, -1, 0, 1]) / np.sqrt(2), atol=EPS)


def test_direction_is_that_of_the_clipped_image():
    # +0.4 is cut to +0.3 in the second column, −0.4 to −0.0 in the fourth.
    direction = kp.Sinusoid(0.4, 1, clip=(0, 1)).direction(np.array([[[0.5], [0.7], [0.5], [0.0]]]))
    np.testing.assert_allclose(direction.ravel(), [0, 1, 0, 0], atol=EPS)


def test_additive():
    pattern = np.array([[[1.0, 0.0], [-2.0, 0.5]]])
    added = kp.Additive(pattern, 0.5)(np.ones((1, 2, 2)))
    np.testing.assert_array_equal(added, [[[1.5, 1.0], [0.0, 1.25]]])


def test_cross():
    cross = kp.Additive.cross((4, 5, 2), -0.5, size=3, position=(-3, 1))
    rows = ["00000", "00100", "01110", "00100"]
    expected = 1 - 0.5 * np.array([[float(pixel) for pixel in row] for row in rows])
    np.testing.assert_array_equal(cross(np.ones((4, 5, 2))), np.stack([expected, expected], axis=2))
    assert np.sum(kp.Additive.cross((9, 9, 1), 1.0, size=9, position=(0, 0)).pattern) == 17
