"""Random transformations of images: what they do, against NumPy, over many keys."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kpoison.networks import ColourJitter, Compose, CutOut, HorizontalFlip, RandomCrop

KEYS = jax.random.split(jax.random.key(0), 400)
IMAGE = np.random.default_rng(0).uniform(0.05, 0.95, size=(7, 5, 3))


def many(augment, image=IMAGE):
    return np.asarray(jax.jit(jax.vmap(augment, in_axes=(None, 0)))(image, KEYS))


@pytest.mark.parametrize(
    "augment",
    [
        pytest.param(RandomCrop(2), marks=pytest.mark.slow),
        pytest.param(HorizontalFlip(), marks=pytest.mark.slow),
        pytest.param(ColourJitter(), marks=pytest.mark.slow),
        pytest.param(CutOut(3), marks=pytest.mark.slow),
        pytest.param(
            Compose(RandomCrop(1), HorizontalFlip(), ColourJitter(0.4, 0.4, 0.4), CutOut(2)), marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_keeps_shape_dtype_and_range_and_is_a_function_of_the_key(augment, dtype, channels):
    image = IMAGE[..., :channels].astype(dtype)
    found = many(augment, image)
    assert found.shape == (400, *image.shape)
    assert found.dtype == dtype
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_allclose(augment(image, KEYS[7]), found[7], rtol=1e-6)
    assert len(np.unique(found.reshape(400, -1), axis=0)) > 1


def test_random_crop_takes_every_shift_equally_often():
    padded = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)), constant_values=0.5)
    shifts = {(i, j): padded[i : i + 7, j : j + 5] for i in range(5) for j in range(5)}
    found = many(RandomCrop(2, fill=0.5))
    counts = [int(sum(np.array_equal(image, shifted) for image in found)) for shifted in shifts.values()]
    assert sum(counts) == 400
    assert np.sum((np.array(counts) - 16) ** 2 / 16) < 51.2  # χ² with 24 degrees of freedom, 0.999
    np.testing.assert_array_equal(RandomCrop(0)(IMAGE, KEYS[0]), IMAGE)


def test_flip_mirrors_left_to_right_with_its_probability():
    found = many(HorizontalFlip(0.3))
    flipped = [np.array_equal(image, IMAGE[:, ::-1]) for image in found]
    assert sum(flipped) + sum(np.array_equal(image, IMAGE) for image in found) == 400
    assert abs(np.mean(flipped) - 0.3) < 4 * (0.3 * 0.7 / 400) ** 0.5
    np.testing.assert_array_equal(many(HorizontalFlip(1)), np.broadcast_to(IMAGE[:, ::-1], (400, 7, 5, 3)))


def test_cut_out_covers_one_square_and_nothing_else():
    found = many(CutOut(3, fill=2.0))
    covered = np.all(found == 2.0, axis=-1)
    np.testing.assert_array_equal(found[~covered], np.broadcast_to(IMAGE, found.shape)[~covered])
    centres = set()
    for mask in covered:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert np.array_equal(mask, np.outer(mask.any(1), mask.any(0)))
        assert 2 <= len(rows) <= 3
        assert 2 <= len(columns) <= 3
        assert len(rows) == rows[-1] - rows[0] + 1
        if len(rows) == 3 and len(columns) == 3:
            centres.add((rows[1], columns[1]))
    assert centres == {(i, j) for i in range(1, 6) for j in range(1, 4)}
    # Each pixel is a centre equally often, so an inner pixel is covered in 9 of 35 images.
    assert abs(covered[:, 3, 2].mean() - 9 / 35) < 4 * (9 / 35 * 26 / 35 / 400) ** 0.5


def grey(image):
    return image @ np.array([0.299, 0.587, 0.114])


def test_brightness_multiplies():
    image = 0.4 * IMAGE
    found = many(ColourJitter(0.5, 0, 0), image)
    factors = found[:, 0, 0, 0] / image[0, 0, 0]
    np.testing.assert_allclose(found, factors[:, None, None, None] * image, rtol=1e-12)
    assert 0.5 <= factors.min() < 0.53
    assert 1.47 < factors.max() <= 1.5
    # Beyond 1 the factor may reach 0 and no less.
    dark = many(ColourJitter(3, 0, 0), image)
    assert np.all((dark >= 0) & (dark <= 1))
    np.testing.assert_array_equal(many(ColourJitter(0.5, 0, 0), np.ones((2, 2, 1))).max(), 1)


def test_contrast_keeps_the_mean_grey():
    image = 0.4 + 0.2 * IMAGE
    found = many(ColourJitter(0, 0.5, 0), image)
    np.testing.assert_allclose(grey(found).mean((1, 2)), grey(image).mean(), rtol=1e-12)
    deviation = (found - grey(image).mean()) / (image - grey(image).mean())
    np.testing.assert_allclose(deviation, np.broadcast_to(deviation[:, :1, :1, :1], found.shape), rtol=1e-6)
    assert 0.5 <= deviation.min() < 0.55
    assert 1.45 < deviation.max() <= 1.5


def test_saturation_keeps_hue_and_grey_of_each_pixel():
    image = 0.4 + 0.2 * IMAGE
    found = many(ColourJitter(0, 0, 0.5), image)
    np.testing.assert_allclose(grey(found), np.broadcast_to(grey(image), found.shape[:3]), rtol=1e-12)
    for before, after in zip(image.reshape(-1, 3), found[11].reshape(-1, 3), strict=True):
        assert abs(colorsys.rgb_to_hsv(*before)[0] - colorsys.rgb_to_hsv(*after)[0]) < 1e-9
    chroma = np.ptp(found, axis=-1) / np.ptp(image, axis=-1)
    np.testing.assert_allclose(chroma, np.broadcast_to(chroma[:, :1, :1], chroma.shape), rtol=1e-9)
    assert 1.4 < chroma.max() <= 1.5
    # No colours, no saturation.
    np.testing.assert_array_equal(ColourJitter(0, 0, 0.5)(IMAGE[..., :2], KEYS[0]), IMAGE[..., :2])


def test_composition_is_in_order_with_own_keys():
    first, second = RandomCrop(2), CutOut(3)
    keys = jax.random.split(KEYS[5])
    np.testing.assert_array_equal(Compose(first, second)(IMAGE, KEYS[5]), second(first(IMAGE, keys[0]), keys[1]))
    both = Compose(HorizontalFlip(), HorizontalFlip())
    flips = [np.array_equal(image, IMAGE) for image in many(both)]
    assert abs(np.mean(flips) - 0.5) < 4 * 0.5 / 20  # one key for both would always give the image back


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RandomCrop(-1), ValueError, "padding must be an integer >= 0"),
        (lambda: RandomCrop(1, fill=np.nan), ValueError, "fill must be finite"),
        (lambda: HorizontalFlip(1.5), ValueError, "probability must be <= 1, got 1.5"),
        (lambda: HorizontalFlip(-0.5), ValueError, "probability must be finite and >= 0"),
        (lambda: ColourJitter(contrast=-0.1), ValueError, "contrast must be finite and >= 0"),
        (lambda: CutOut(0), ValueError, "size must be an integer >= 1"),
        (Compose, ValueError, "augmentations must be at least one"),
        (lambda: CutOut(2)(np.zeros((4, 4)), KEYS[0]), ValueError, r"single one, .* got shape \(4, 4\)"),
        (lambda: CutOut(2)(np.zeros((2, 4, 4, 1)), KEYS[0]), ValueError, "single one"),
        (lambda: CutOut(2)(np.zeros((4, 4, 1), int), KEYS[0]), TypeError, "image must be a floating-point array"),
    ],
)
def test_refuses_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.slow
def test_differentiable_in_the_image():
    augment = Compose(RandomCrop(1), HorizontalFlip(), ColourJitter(), CutOut(2))
    image = jnp.asarray(0.3 + 0.3 * IMAGE)
    gradient = jax.grad(lambda x: jnp.sum(augment(x, KEYS[3]) ** 2))(image)
    step = 1e-6 * np.random.default_rng(1).normal(size=image.shape)
    difference = jnp.sum(augment(image + step, KEYS[3]) ** 2) - jnp.sum(augment(image - step, KEYS[3]) ** 2)
    assert abs(float(difference / 2 - jnp.sum(gradient * step))) < 1e-10
