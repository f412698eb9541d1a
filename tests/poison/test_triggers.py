"""Triggers on images: by hand, against NumPy, as properties, under transforms, and what they refuse."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dstn
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


# By hand.


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


# Against NumPy and SciPy, and as properties.


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


# Transforms.


@EVERY
def test_jit_in_the_trigger_and_its_numbers(make):
    traces = []

    @jax.jit
    def applied(trigger, images):
        traces.append(trigger)
        return trigger(images), trigger.direction(images)

    for strength in (0.25, 0.5):
        trigger = make(strength)
        for found, expected in zip(applied(trigger, IMAGES), (trigger(IMAGES), trigger.direction(IMAGES)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=4 * EPS)
    assert len(traces) == 1  # the numbers are no part of the program
    made = jax.jit(lambda strength: make(strength)(IMAGES))(0.25)
    np.testing.assert_allclose(made, make(0.25)(IMAGES), rtol=0, atol=4 * EPS)


@EVERY
def test_vmap(make):
    strengths = jnp.array([0.0, 0.25, 1.0])
    found = jax.vmap(lambda strength: make(strength)(IMAGES))(strengths)
    expected = np.stack([make(strength)(IMAGES) for strength in (0.0, 0.25, 1.0)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * EPS)
    np.testing.assert_allclose(jax.vmap(make(0.25))(IMAGES), expected[1], rtol=0, atol=4 * EPS)
    batch = eqx.filter_vmap(make)(strengths)
    batched = jax.vmap(lambda trigger: trigger(IMAGES))(batch)
    np.testing.assert_allclose(batched, expected, rtol=0, atol=4 * EPS)
    with pytest.raises(ValueError, match=r"(opacity|amplitude|strength) must be a single number, got shape \(3,\)"):
        batch(IMAGES)


@pytest.mark.parametrize("output", ["image", "direction"])
@pytest.mark.parametrize("name", TRIGGERS)
def test_grad_in_every_number_is_a_finite_difference(name, output):
    trigger = TRIGGERS[name](0.3)
    weights = RNG.normal(size=IMAGES.shape)

    @eqx.filter_jit
    def value(trigger, images):
        return jnp.sum(weights * (trigger(images) if output == "image" else trigger.direction(images)))

    gradient = eqx.filter_grad(value)(trigger, IMAGES)
    assert len(jax.tree.leaves(gradient)) == len(jax.tree.leaves(trigger)) == 2
    step = 1e-5
    for field in NUMBERS[name]:
        number = getattr(trigger, field)
        along = jnp.asarray(RNG.normal(size=number.shape) * (number != 0))  # the border of a warp stays

        def moved(sign, field=field, number=number, along=along):
            return value(eqx.tree_at(lambda t: getattr(t, field), trigger, number + sign * step * along), IMAGES)

        expected = (moved(1) - moved(-1)) / (2 * step)
        found = jnp.sum(getattr(gradient, field) * along)
        assert found == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
        if output == "image":
            assert abs(found) > 1e-2  # or the test could not fail
    at_images = jax.grad(value, argnums=1)(trigger, IMAGES)
    along = RNG.normal(size=IMAGES.shape)
    expected = (value(trigger, IMAGES + step * along) - value(trigger, IMAGES - step * along)) / (2 * step)
    assert np.sum(at_images * along) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)


def test_grad_at_the_ends_of_opacity():
    for opacity in (0.0, 1.0):
        slope = jax.grad(lambda o: jnp.sum(kp.Patch(2, (0, 0), 0.7, o)(IMAGES)))(opacity)
        assert slope == pytest.approx(np.sum(0.7 - IMAGES[:, :2, :2]), rel=1e-12)


# What is refused.


@pytest.fixture
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


IMAGE = np.zeros((3, 4, 1))
NAN = np.full((3, 4, 1), np.nan)
ONE = kp.Patch(1, (0, 0))
STILL, EDGE = np.zeros((3, 4, 2)), np.zeros((3, 4, 2))
EDGE[2, 2] = (-0.5, 0.25)  # 4 times as far is the first row and the last column
SINGLE = "must be a single number"
BAD = [
    (lambda: kp.Patch(0, (0, 0)), ValueError, "size must be an integer >= 1, got 0"),
    (lambda: kp.Patch(1.0, (0, 0)), ValueError, "size must be an integer >= 1, got 1.0"),
    (lambda: kp.Patch((2, -1), (0, 0)), ValueError, "size must be an integer >= 1, got -1"),
    (lambda: kp.Patch((2, 2, 1), (0, 0)), ValueError, r"size must be an integer >= 1, got \(2, 2, 1\)"),
    (lambda: kp.Patch(1, 0), ValueError, r"position must be two integers \(row, column\), got 0"),
    (lambda: kp.Patch(1, (0, 0.0)), ValueError, r"position must be two integers .*got \(0, 0.0\)"),
    (lambda: kp.Patch(1, (0, True)), ValueError, r"position must be two integers .*got \(0, True\)"),
    (lambda: kp.Patch(1, (0, 0, 0)), ValueError, r"position must be two integers .*got \(0, 0, 0\)"),
    (lambda: kp.Patch(1, "top"), ValueError, "position must be two integers .*got 'top'"),
    (lambda: kp.Patch(1, (0, 0), np.nan), ValueError, "value must be finite"),
    (lambda: kp.Patch(1, (0, 0), "white"), TypeError, "value must be real, got str"),
    (lambda: kp.Patch(2, (0, 0), np.ones((2, 2))), ValueError, r"value must have shape .*\(2, 2, C\), got \(2, 2\)"),
    (lambda: kp.Patch(2, (0, 0), np.ones((1, 2, 1))), ValueError, r"value must have shape .*, got \(1, 2, 1\)"),
    (lambda: kp.Patch(1, (0, 0), 1.0, 1.5), ValueError, r"opacity must lie in \[0, 1\], got 1.5"),
    (lambda: kp.Patch(1, (0, 0), 1.0, -0.1), ValueError, r"opacity must lie in \[0, 1\], got -0.1"),
    (lambda: kp.Patch(1, (0, 0), 1.0, np.nan), ValueError, "opacity must be finite"),
    (lambda: kp.Patch(1, (0, 0), 1.0, "full"), TypeError, "opacity must be real, got str"),
    (lambda: kp.Patch(1, (0, 0), 1.0, np.ones(2)), ValueError, rf"opacity {SINGLE}, got shape \(2,\)"),
    (lambda: kp.Patch(1, (0, 0), clip=1.0), ValueError, r"clip must be None or \(low, high\), got 1.0"),
    (lambda: kp.Patch(1, (0, 0), clip=(1, 0)), ValueError, r"clip must be .*low < high, got \(1, 0\)"),
    (lambda: kp.Patch(1, (0, 0), clip=(0, np.inf)), ValueError, "clip must be finite"),
    (lambda: kp.Patch(1, (0, 0), clip=(None, 1)), TypeError, "clip must be real, got NoneType"),
    (lambda: kp.Blend(np.ones((3, 4)), 0.5), ValueError, r"pattern must have shape \(H, W, C\).*got \(3, 4\)"),
    (lambda: kp.Blend(np.ones((0, 4, 1)), 0.5), ValueError, r"pattern must have shape .*got \(0, 4, 1\)"),
    (lambda: kp.Blend(np.ones((3, 4, 1), int), 0.5), TypeError, "pattern must be a floating-point .*got dtype int64"),
    (lambda: kp.Blend(NAN, 0.5), ValueError, r"pattern must be finite, got 12 non-finite"),
    (lambda: kp.Blend(IMAGE, 2), ValueError, r"opacity must lie in \[0, 1\], got 2"),
    (lambda: kp.Blend(IMAGE, None), TypeError, "opacity must be real, got NoneType"),
    (lambda: kp.Blend(IMAGE, 0.5, clip=(1,)), ValueError, r"clip must be None or \(low, high\), got \(1,\)"),
    (lambda: kp.Sinusoid(np.inf, 6), ValueError, "amplitude must be finite"),
    (lambda: kp.Sinusoid("20", 6), TypeError, "amplitude must be real, got str"),
    (lambda: kp.Sinusoid(np.ones(2), 6), ValueError, rf"amplitude {SINGLE}, got shape \(2,\)"),
    (lambda: kp.Sinusoid(1.0, 0), ValueError, "frequency must be finite and > 0, got 0"),
    (lambda: kp.Sinusoid(1.0, -6.0), ValueError, "frequency must be finite and > 0, got -6.0"),
    (lambda: kp.Sinusoid(1.0, np.nan), ValueError, "frequency must be finite and > 0, got nan"),
    (lambda: kp.Sinusoid(1.0, np.ones(2)), ValueError, rf"frequency {SINGLE}, got shape \(2,\)"),
    (lambda: kp.Sinusoid(1.0, 6, clip=(0, 0)), ValueError, r"clip must be .*low < high, got \(0, 0\)"),
    (lambda: kp.Additive(np.ones((3, 4)), 0.5), ValueError, r"pattern must have shape \(H, W, C\).*got \(3, 4\)"),
    (
        lambda: kp.Additive(np.ones((3, 4, 1), int), 0.5),
        TypeError,
        "pattern must be a floating-point .*got dtype int64",
    ),
    (lambda: kp.Additive(NAN, 0.5), ValueError, r"pattern must be finite, got 12 non-finite"),
    (lambda: kp.Additive(IMAGE, np.nan), ValueError, "amplitude must be finite"),
    (lambda: kp.Additive(IMAGE, "1"), TypeError, "amplitude must be real, got str"),
    (lambda: kp.Additive(IMAGE, np.ones(2)), ValueError, rf"amplitude {SINGLE}, got shape \(2,\)"),
    (lambda: kp.Additive(IMAGE, 1.0, clip=(1, 0)), ValueError, r"clip must be .*low < high, got \(1, 0\)"),
    (
        lambda: kp.Additive(IMAGE - 1, 1.0, clip=(0, 1))(IMAGE),
        ValueError,
        r"amplitude must leave something .*\(0.0, 1.0\)",
    ),
    (lambda: kp.Additive.cross((8, 8, 1), 1.0, 4), ValueError, "size must be odd, .* got 4"),
    (lambda: kp.Additive.cross((8, 8, 1), 1.0, 1), ValueError, "size must be an integer >= 3, got 1"),
    (lambda: kp.Additive.cross((8, 8), 1.0), ValueError, r"image_shape must be three integers .*got \(8, 8\)"),
    (lambda: kp.Additive.cross((8, 8, 1), 1.0, 9), ValueError, r"position and size must .*\(8, 8, 1\), got .*\(9, 9\)"),
    (lambda: kp.Additive.cross((8, 8, 1), 1.0, 3, 0), ValueError, r"position must be two integers .*got 0"),
    (lambda: kp.Warp(np.zeros((3, 4))), ValueError, r"displacement must have shape \(H, W, 2\) .*got \(3, 4\)"),
    (lambda: kp.Warp(IMAGE), ValueError, r"displacement must have shape \(H, W, 2\) .*got \(3, 4, 1\)"),
    (lambda: kp.Warp(np.zeros((3, 4, 2), int)), TypeError, "displacement must be a floating-point .*got dtype int64"),
    (lambda: kp.Warp(np.full((3, 4, 2), np.inf)), ValueError, "displacement must be finite, got 24 non-finite"),
    (lambda: kp.Warp(STILL, -0.5), ValueError, "strength must be finite and >= 0, got -0.5"),
    (lambda: kp.Warp(STILL, np.nan), ValueError, "strength must be finite and >= 0, got nan"),
    (lambda: kp.Warp(STILL, np.ones(2)), ValueError, rf"strength {SINGLE}, got shape \(2,\)"),
    (lambda: kp.Warp(STILL + 1), ValueError, "strength must keep the warp within the image, .* at most 0, got 1.0"),
    (lambda: kp.Warp(EDGE, 5), ValueError, "strength must keep the warp within the image, .* at most 4, got 5"),
    (lambda: kp.Warp.random((8, 8, 1), 30.0), ValueError, "strength must keep the warp within .*, got 30.0"),
    (lambda: kp.Warp.random((8, 8, 1), 0.1, 7), ValueError, "grid must be at most .* 6 of images of 8 by 8, got 7"),
    (lambda: kp.Warp.random((2, 8, 1), 0.1, 1), ValueError, "grid must be at most .* 0 of images of 2 by 8, got 1"),
    (lambda: kp.Warp.random((8, 8, 1), 0.1, 0), ValueError, "grid must be an integer >= 1, got 0"),
    (lambda: kp.Warp.random((8, 8, 1), 0.1, seed=-1), ValueError, "seed must be an integer >= 0, got -1"),
    (lambda: kp.Warp.random((8, 8), 0.1), ValueError, r"image_shape must be three integers .*got \(8, 8\)"),
    # That does not fit the images.
    (lambda: kp.Additive(IMAGE, 0.5)(IMAGE[:2]), ValueError, r"pattern must have the shape \(2, 4, 1\) .*\(3, 4, 1\)"),
    (lambda: kp.Warp(STILL)(IMAGE[:2]), ValueError, r"displacement must have the shape \(2, 4, 2\) .*got \(3, 4, 2\)"),
    (lambda: kp.Warp(1e300 * EDGE, 0.0)(np.float32(IMAGE)), ValueError, "displacement must be finite in float32"),
    (
        lambda: kp.Patch(2, (2, 0))(IMAGE),
        ValueError,
        r"position and size must lie within .*\(3, 4, 1\), got .*\(2, 0\)",
    ),
    (lambda: kp.Patch(2, (0, 3))(IMAGE), ValueError, r"position and size .*got position \(0, 3\) and size \(2, 2\)"),
    (lambda: kp.Patch(2, (-1, 0))(IMAGE), ValueError, r"position and size .*got position \(-1, 0\)"),
    (lambda: kp.Patch(1, (-4, 0))(IMAGE), ValueError, r"position and size .*got position \(-4, 0\)"),
    (lambda: kp.Patch(1, (0, -5))(IMAGE), ValueError, r"position and size .*got position \(0, -5\)"),
    (lambda: kp.Patch((4, 1), (0, 0))(IMAGE), ValueError, r"position and size .*size \(4, 1\)"),
    (lambda: kp.Patch(1, (0, 0), np.ones(3))(IMAGE), ValueError, r"value must have shape .* 1 channel.*got \(3,\)"),
    (lambda: kp.Patch(1, (0, 0), np.ones(1))(np.ones((3, 4, 3))), ValueError, r"value must have .*got \(1,\)"),
    (lambda: kp.Patch(1, (0, 0), np.ones((1, 1, 3)))(IMAGE), ValueError, r"value must have .*got \(1, 1, 3\)"),
    (lambda: kp.Blend(IMAGE, 0.5)(IMAGE[:2]), ValueError, r"pattern must have the shape \(2, 4, 1\) .*\(3, 4, 1\)"),
    (lambda: kp.Blend(IMAGE, 0.5)(np.ones((3, 4, 3))), ValueError, r"pattern must have the shape \(3, 4, 3\)"),
    (lambda: kp.Blend(IMAGE, 0.5)(np.ones((4, 3, 1))), ValueError, r"pattern must have the shape \(4, 3, 1\)"),
    (lambda: kp.Patch(1, (0, 0), 1e300)(np.float32(IMAGE)), ValueError, "value must be finite in float32"),
    # Images.
    (lambda: ONE(IMAGE.astype(np.uint8)), TypeError, "images must be a floating-point array, got dtype uint8"),
    (lambda: ONE(IMAGE > 0), TypeError, "images must be a floating-point array, got dtype bool"),
    (lambda: ONE(None), TypeError, "images must be a floating-point array"),
    (lambda: ONE(NAN), ValueError, r"images must be finite, got 12 non-finite value\(s\), the first at index"),
    (lambda: ONE(IMAGE[..., 0]), ValueError, r"images must have shape .*image_shape=\(H, W, C\), got \(3, 4\)"),
    (lambda: ONE(np.ones(12)), ValueError, r"images must have shape .*image_shape=\(H, W, C\), got \(12,\)"),
    (lambda: ONE(IMAGE[None, None]), ValueError, r"images must have shape .*got \(1, 1, 3, 4, 1\)"),
    (lambda: ONE(np.ones((0, 3, 4, 1))), ValueError, r"images must not be empty, got shape \(0, 3, 4, 1\)"),
    (lambda: ONE(np.ones((3, 4, 0))), ValueError, r"images must not be empty, got shape \(3, 4, 0\)"),
    (lambda: ONE(np.ones((2, 13)), (3, 4, 1)), ValueError, r"images must have shape \(n, 12\) or \(12,\).*\(2, 13\)"),
    (lambda: ONE(np.ones(11), (3, 4, 1)), ValueError, r"images must have shape .*got \(11,\)"),
    (lambda: ONE(IMAGE, (4, 3, 1)), ValueError, r"images must have shape .*\(4, 3, 1\), got \(3, 4, 1\)"),
    (lambda: ONE(np.ones((2, 3, 12)), (3, 4, 1)), ValueError, r"images must have shape .*got \(2, 3, 12\)"),
    (lambda: ONE(np.ones((2, 2, 3, 4, 1)), (3, 4, 1)), ValueError, r"images must have .*got \(2, 2, 3, 4, 1\)"),
    (lambda: ONE(np.ones((2, 1, 1, 12)), (3, 4, 1)), ValueError, r"images must have shape .*got \(2, 1, 1, 12\)"),
    (lambda: ONE(np.ones((0, 12)), (3, 4, 1)), ValueError, r"images must not be empty, got shape \(0, 12\)"),
    (lambda: ONE(np.ones(12), (3, 4)), ValueError, r"image_shape must be three integers .*got \(3, 4\)"),
    (lambda: ONE(np.ones(12), 12), ValueError, r"image_shape must be three integers .*got 12"),
    (lambda: ONE(np.ones(12), (3, 4, 0)), ValueError, "image_shape must be an integer >= 1, got 0"),
    (lambda: ONE(np.ones(12), (3, 4, 1.0)), ValueError, "image_shape must be an integer >= 1, got 1.0"),
    # No direction.
    (lambda: kp.Additive(IMAGE, 0.5).direction(IMAGE), ValueError, "images must be changed by the trigger"),
    (lambda: kp.Warp(EDGE, 0.5).direction(IMAGE + 1), ValueError, "images must be changed by the trigger"),
    (
        lambda: kp.Patch(1, (0, 0), 1.0, 0.0).direction(IMAGE),
        ValueError,
        "images must be changed by the trigger .*image 0",
    ),
    (
        lambda: ONE.direction(np.stack([IMAGE, IMAGE + 1])),  # white already
        ValueError,
        "images must be changed by the trigger to have a direction, got no change of image 1",
    ),
    (lambda: kp.Sinusoid(1.0, 2).direction(IMAGE), ValueError, "images must be changed"),  # f = W/2: always 0
    (lambda: kp.Patch(1, (0, 0), 2.0, clip=(0, 1)).direction(IMAGE + 1), ValueError, "images must be changed"),
    (lambda: kp.Patch(1, (3, 0)).direction(IMAGE), ValueError, "position and size must lie within"),
    (lambda: ONE.direction(NAN), ValueError, "images must be finite"),
]


@pytest.mark.usefixtures("what_a_user_sees")
@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "name", ["opacity", "value", "pattern", "amplitude", "frequency", "displacement", "strength", "negative", "outside"]
)
def test_bad_numbers_made_inside_a_program_are_refused(name):
    trigger, bad, message = {
        "opacity": (kp.Patch(1, (0, 0)), 1.5, r"opacity must lie in \[0, 1\]"),
        "value": (kp.Patch(1, (0, 0)), np.nan, "value must be finite"),
        "pattern": (kp.Blend(IMAGE, 0.5), NAN, "pattern must be finite"),
        "amplitude": (kp.Sinusoid(1.0, 6), np.inf, "amplitude must be finite"),
        "frequency": (kp.Sinusoid(1.0, 6), -1.0, "frequency must be finite and > 0"),
        "displacement": (kp.Warp(EDGE), STILL + np.nan, "displacement must be finite"),
        "strength": (kp.Warp(EDGE), np.nan, "strength must be finite"),
        "negative": (kp.Warp(EDGE), -1.0, "strength must be finite and >= 0"),
        "outside": (kp.Warp(EDGE), 4.1, "strength must keep the warp within the image"),
    }[name]
    name = "strength" if name in ("negative", "outside") else name
    changed = eqx.tree_at(lambda t: getattr(t, name), trigger, jnp.asarray(bad))
    for call in (lambda t: t(IMAGE), lambda t: t.direction(IMAGE)):
        with pytest.raises(ValueError, match=message):
            call(changed)
        with pytest.raises(RUN_TIME, match=message):
            jax.block_until_ready(eqx.filter_jit(call)(changed))


def test_one_bad_opacity_of_several_is_refused():
    with pytest.raises(RUN_TIME, match=r"opacity must lie in \[0, 1\]"):
        jax.block_until_ready(jax.vmap(lambda o: kp.Blend(IMAGE, o)(IMAGE))(jnp.array([0.5, -0.1])))


@pytest.mark.parametrize("width", [4, 7, 28, 49])
def test_no_direction_at_run_time(width):
    image = jnp.zeros((1, width, 1))
    with pytest.raises(RUN_TIME, match="images must be changed by the trigger to have a direction"):
        jax.block_until_ready(eqx.filter_jit(lambda f: kp.Sinusoid(1.0, f).direction(image))(jnp.asarray(width / 2)))


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
