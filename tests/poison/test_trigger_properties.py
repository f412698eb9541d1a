"""Triggers on images against NumPy, and what all of them have in common."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trigger_catalogue import EPS, EVERY, IMAGES, PATTERN, SHAPE, TRIGGERS, norms, oracle

import kpoison as kp


@st.composite
def triggers(draw):
    """How to make any trigger that fits an image of SHAPE."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    opacity, clip = draw(st.floats(0, 1)), draw(st.sampled_from([None, (0.2, 0.7)]))
    kind = draw(st.sampled_from([kp.Patch, kp.Blend, kp.Sinusoid, kp.Additive, kp.Warp]))
    if kind is kp.Blend:
        return functools.partial(kp.Blend, rng.normal(size=SHAPE), opacity, clip=clip)
    if kind is kp.Sinusoid:
        return functools.partial(kp.Sinusoid, draw(st.floats(-2, 2)), draw(st.floats(0.01, 30)), clip=clip)
    if kind is kp.Additive:
        return functools.partial(kp.Additive, rng.normal(size=SHAPE), draw(st.floats(-2, 2)))
    if kind is kp.Warp:
        grid, seed = draw(st.integers(1, 4)), draw(st.integers(0, 2**32 - 1))
        return functools.partial(kp.Warp.random, SHAPE, draw(st.floats(0, 0.3)), grid, seed, clip=clip)
    size = draw(st.integers(1, SHAPE[0])), draw(st.integers(1, SHAPE[1]))
    position = tuple(draw(st.integers(0, edge - s)) for s, edge in zip(size, SHAPE[:2], strict=True))
    if draw(st.booleans()):
        position = position[0] - SHAPE[0], position[1] - SHAPE[1]
    value = rng.normal(size=draw(st.sampled_from([(), SHAPE[2:], (*size, SHAPE[2])])))
    return functools.partial(kp.Patch, size, position, value, opacity, clip=clip)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(triggers(), st.integers(0, 2**32 - 1))
def test_is_the_definition(make, seed):
    trigger = make()
    images = np.random.default_rng(seed).uniform(size=(3, *SHAPE))
    expected = np.stack([oracle(trigger, image) for image in images])
    found = trigger(images)
    assert found.dtype == images.dtype
    # Angles up to 2π·30 round in the oracle.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2 * 200 * EPS)
    np.testing.assert_array_equal(trigger(images[1]), found[1])


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(triggers())
def test_flattened_images_are_images(make):
    trigger = make()
    flat, image_shape = IMAGES.reshape(len(IMAGES), -1), SHAPE
    found = trigger(IMAGES)
    np.testing.assert_array_equal(trigger(flat, image_shape=image_shape), found.reshape(flat.shape))
    np.testing.assert_array_equal(trigger(flat[0], image_shape=image_shape), found[0].ravel())
    np.testing.assert_array_equal(trigger(IMAGES, image_shape=image_shape), found)
    np.testing.assert_array_equal(trigger(IMAGES[0], image_shape=image_shape), found[0])


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(triggers())
def test_the_direction_is_that_of_the_change(make):
    trigger = make()
    change = np.asarray(trigger(IMAGES)) - IMAGES
    size = norms(change)
    if np.any(size < 1e-6):  # the difference itself has lost its digits
        return
    found = trigger.direction(IMAGES)
    np.testing.assert_allclose(norms(found), 1, rtol=8 * EPS)
    expected = change / size.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=100 * EPS / size.min())
    flat = trigger.direction(IMAGES.reshape(len(IMAGES), -1), image_shape=SHAPE)
    np.testing.assert_array_equal(flat, found.reshape(flat.shape))


@pytest.mark.parametrize("strength", [0.3, 1.0])
@EVERY
def test_is_affine(make, strength):
    """x ↦ Wx + b: one Jacobian at every image, that of the definition."""
    trigger, size = make(strength), np.prod(SHAPE)
    jacobian = jax.jit(jax.jacfwd(lambda image: trigger(image, image_shape=SHAPE)))
    W = np.asarray(jacobian(IMAGES[0].ravel()))
    np.testing.assert_array_equal(jacobian(IMAGES[1].ravel()), W)
    b = oracle(trigger, np.zeros(SHAPE)).ravel()
    columns = [oracle(trigger, unit.reshape(SHAPE)).ravel() - b for unit in np.eye(size)]
    np.testing.assert_allclose(W, np.stack(columns, axis=1), rtol=0, atol=20 * EPS)
    found = trigger(IMAGES.reshape(len(IMAGES), -1), image_shape=SHAPE)
    np.testing.assert_allclose(found, IMAGES.reshape(len(IMAGES), -1) @ W.T + b, rtol=0, atol=20 * EPS)


@EVERY
def test_strength_zero_changes_nothing(make):
    np.testing.assert_array_equal(make(0.0)(IMAGES), IMAGES)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_opacity_one_replaces(dtype):
    images = (1e3 * IMAGES).astype(dtype)  # so that image + (value − image) would round
    patched = np.asarray(kp.Patch((2, 3), (1, 4), 0.1)(images))
    np.testing.assert_array_equal(patched[:, 1:3, 4:7], dtype(0.1))
    np.testing.assert_array_equal(kp.Blend(PATTERN, 1.0)(images), np.broadcast_to(dtype(PATTERN), images.shape))


def test_pixels_outside_the_patch_stay():
    outside = np.ones(SHAPE[:2], bool)
    outside[1:3, 4:7] = False
    for opacity in (0.3, 1.0):
        patched = np.asarray(kp.Patch((2, 3), (1, 4), 0.1, opacity)(IMAGES))
        np.testing.assert_array_equal(patched[:, outside], IMAGES[:, outside])
        assert np.all(patched[:, ~outside] != IMAGES[:, ~outside])


def test_a_whole_number_of_periods_has_mean_zero():
    wave = np.asarray(kp.Sinusoid(1.0, 6)(np.zeros((1, 28, 1)))).ravel()
    np.testing.assert_allclose(wave[:14], wave[14:], atol=10 * EPS)
    assert abs(wave.sum()) < 28 * EPS
    assert abs(np.fft.rfft(wave)[6]) == pytest.approx(14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@EVERY
def test_the_dtype_of_the_images_is_kept(make, dtype):
    images, trigger = IMAGES.astype(dtype), make(0.25)
    assert trigger(images).dtype == trigger.direction(images).dtype == dtype
    exact = trigger(images.astype(float))
    np.testing.assert_allclose(trigger(images), exact, rtol=0, atol=8 * np.finfo(dtype).eps)
    with jax.enable_x64(False):
        assert make(0.25)(images).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name in TRIGGERS if name != "warp"])
def test_the_direction_of_a_faint_trigger_keeps_its_digits(name, dtype):
    make = TRIGGERS[name]
    images = IMAGES.astype(dtype)
    faint = make(1e-30)  # its square is 0 in float32
    np.testing.assert_array_equal(faint(images), images)
    np.testing.assert_allclose(
        faint.direction(images), make(1.0).direction(images), rtol=0, atol=8 * np.finfo(dtype).eps
    )
