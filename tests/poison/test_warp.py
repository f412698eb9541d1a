"""Warps: bilinear means of four pixels, by smooth fields that leave the border where it is."""

import jax
import numpy as np
import pytest
from scipy.fft import dstn
from trigger_catalogue import EPS, FIELD, IMAGES, SHAPE, norms

import kpoison as kp


@pytest.mark.slow
def test_warp():
    # Half a pixel down, then a whole one to the left; where nothing is said nothing moves.
    field = np.zeros((2, 3, 2))
    field[0, 0], field[1, 2] = (0.5, 0.0), (0.0, -1.0)
    image = np.arange(6.0).reshape(2, 3, 1)
    np.testing.assert_array_equal(kp.Warp(field)(image)[..., 0], [[1.5, 1, 2], [3, 4, 4]])
    # Twice as far: a row further down, and two columns to the left.
    np.testing.assert_array_equal(kp.Warp(field, 2.0)(image)[..., 0], [[3, 1, 2], [3, 4, 3]])
    # Between four pixels: 1/4 and 3/4 of the way along the rows and columns.
    field = np.zeros((2, 2, 2))
    field[0, 0] = (0.25, 0.75)
    found = kp.Warp(field)(np.array([[[1.0], [2.0]], [[4.0], [8.0]]]))
    assert found[0, 0, 0] == 0.75 * (0.25 * 1 + 0.75 * 2) + 0.25 * (0.25 * 4 + 0.75 * 8)


def test_a_warp_takes_means_of_four_pixels():
    W = np.asarray(jax.jacfwd(lambda x: kp.Warp(FIELD)(x, image_shape=SHAPE))(IMAGES[0].ravel()))
    assert np.all(W >= 0)
    assert np.max(np.sum(W > 0, axis=1)) == 4
    np.testing.assert_allclose(W.sum(axis=1), 1, rtol=4 * EPS)


def test_a_warp_of_a_ramp_is_exact():
    """Between pixels of an affine image there is an affine image."""
    rows, columns = np.indices(SHAPE[:2])[..., None]
    ramp = 0.3 + 2.0 * rows - 0.7 * columns
    moved = ramp + FIELD @ np.array([2.0, -0.7]).reshape(2, 1)
    np.testing.assert_allclose(kp.Warp(FIELD)(ramp), moved, rtol=0, atol=50 * EPS)


@pytest.mark.parametrize(("shape", "grid"), [((28, 28, 1), 4), ((8, 11, 3), 6), ((3, 3, 1), 1)])
def test_a_random_field_is_smooth_and_leaves_the_border(shape, grid):
    warp = kp.Warp.random(shape, 0.25, grid, seed=7)
    field = np.asarray(warp.displacement)
    inner = np.zeros(shape[:2], bool)
    inner[1:-1, 1:-1] = True
    np.testing.assert_array_equal(field[~inner], 0)
    assert np.sqrt(np.mean(np.sum(field**2, axis=2))) == pytest.approx(1, rel=1e-12)
    waves = dstn(field[1:-1, 1:-1], type=1, axes=(0, 1))
    scale = np.abs(waves).max()
    assert np.abs(waves[:grid, :grid]).min() > 1e-6 * scale  # nothing is missing
    np.testing.assert_allclose(waves[grid:], 0, atol=1e-12 * scale)
    np.testing.assert_allclose(waves[:, grid:], 0, atol=1e-12 * scale)
    assert not np.allclose(field, kp.Warp.random(shape, 0.25, grid, seed=8).displacement)
    np.testing.assert_array_equal(field, kp.Warp.random(shape, 0.1, grid, seed=7).displacement)


def test_a_random_field_goes_through_its_points():
    """Five spaces of two pixels between the borders: the four points of the grid are every second pixel."""
    at_points = np.asarray(kp.Warp.random((11, 11, 1), 0.1, 4, seed=5).displacement)[2:-2:2, 2:-2:2]
    drawn = np.random.default_rng(5).uniform(-1, 1, (4, 4, 2))
    ratio = at_points / drawn
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_direction_of_a_faint_warp_keeps_its_digits(dtype):
    """To first order in the strength it is the slope of the cell: towards the next pixel on that side."""
    images = IMAGES.astype(dtype)
    change = np.zeros(images.shape)
    for i, j in np.argwhere(np.any(FIELD != 0, axis=2)):
        down, right = np.where(FIELD[i, j] < 0, -1, 1)
        change[:, i, j] = np.abs(FIELD[i, j, 0]) * (images[:, i + down, j].astype(float) - images[:, i, j])
        change[:, i, j] += np.abs(FIELD[i, j, 1]) * (images[:, i, j + right].astype(float) - images[:, i, j])
    faint = kp.Warp(FIELD, 1e-30)
    np.testing.assert_array_equal(faint(images), images)
    expected = change / norms(change).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(faint.direction(images), expected, rtol=0, atol=8 * np.finfo(dtype).eps)
