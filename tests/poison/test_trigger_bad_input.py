"""What triggers on images refuse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from trigger_catalogue import RUN_TIME

import kpoison as kp


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
