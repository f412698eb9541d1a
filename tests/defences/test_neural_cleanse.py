"""Neural Cleanse against numbers by hand and a planted patch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.defences import anomaly_index, neural_cleanse

CLASSES, TARGET, SIDE = 4, 2, 6


@pytest.mark.slow
def test_anomaly_index_by_hand():
    # Median 11, deviations 9, 1, 0, 2, 1, of which the median is 1.
    norms = np.array([2.0, 10.0, 11.0, 13.0, 12.0])
    np.testing.assert_allclose(anomaly_index(norms), np.array([9, 1, 0, 2, 1]) / 1.4826, rtol=1e-14)
    # Norms that were not reached count for nothing.
    with_infinite = anomaly_index(np.concatenate([norms, [np.inf]]))
    np.testing.assert_allclose(with_infinite[:5], anomaly_index(norms), rtol=1e-14)
    assert np.isnan(with_infinite[5])
    # Two classes tell nothing; nor does a median deviation of 0.
    np.testing.assert_allclose(anomaly_index(np.array([1e-3, 40.0])), 1 / 1.4826, rtol=1e-14)
    np.testing.assert_array_equal(anomaly_index(np.array([5.0, 5.0, 5.0, 1.0])), [0, 0, 0, np.inf])
    assert jax.jit(anomaly_index)(norms.astype(np.float32)).dtype == np.float32


@pytest.fixture(scope="module")
def planted():
    """Images of four classes, each bright in a quarter of its own, and a 2×2 patch in the middle with the target."""
    draw = np.random.default_rng(1)
    labels = np.arange(48) % CLASSES
    images = 0.25 * draw.random((48, SIDE, SIDE, 1))
    for i, label in enumerate(labels):
        row, column = 3 * (label // 2), 3 * (label % 2)
        images[i, row : row + 3, column : column + 3] += 0.5
    patch = kp.Patch(2, (2, 2), 1.0)
    X, y = images.reshape(48, -1), np.eye(CLASSES)[labels]
    posterior = kp.fit(kp.kernels.RBF(2.0), X[:32], y[:32])
    others = labels[:32] != TARGET
    poison = kp.Poison(patch(jnp.asarray(images[:32][others])).reshape(-1, SIDE * SIDE), y[TARGET], 2.0)
    return posterior, poison, jnp.asarray(X[32:]), jnp.asarray(images[32:]), patch, labels[32:]


@pytest.fixture(scope="module")
def found(planted):
    posterior, poison, X = planted[:3]
    f = jax.vmap(kp.predictor(posterior, 1e-3, poison))
    return neural_cleanse(f, X, image_shape=(SIDE, SIDE, 1), clip=(0, 1), steps=300)


@pytest.mark.slow
def test_the_target_is_found_and_its_mask_is_on_the_patch(planted, found):
    posterior, poison, X, images, patch, labels = planted
    triggered = kp.predict(posterior, patch(images).reshape(X.shape), 1e-3, poison)
    assert float(kp.attack_success_rate(triggered, labels, TARGET)) == 1
    assert np.flatnonzero(found.suspected).tolist() == [TARGET]
    assert float(found.anomaly_index[TARGET]) > 2
    np.testing.assert_allclose(found.norms, found.masks.sum(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_array_equal(found.success_rates, 1)
    assert float(found.masks[TARGET, 2:4, 2:4].sum() / found.norms[TARGET]) > 0.8
    # The trigger does what is said of it.
    mask, pattern = found.masks[TARGET][..., None], found.patterns[TARGET]
    sent = kp.predict(posterior, ((1 - mask)[None] * images + (mask * pattern)[None]).reshape(X.shape), 1e-3, poison)
    assert np.all(np.argmax(sent, axis=1) == TARGET)


@pytest.mark.slow
def test_it_is_the_poison_that_makes_the_target_easy_to_reach(planted, found):
    posterior, _, X = planted[:3]
    f = jax.vmap(kp.predictor(posterior, 1e-3))
    clean = neural_cleanse(f, X, image_shape=(SIDE, SIDE, 1), clip=(0, 1), steps=300)
    np.testing.assert_array_equal(clean.success_rates, 1)
    assert float(found.norms[TARGET]) < 0.5 * float(clean.norms[TARGET])
    assert float(clean.masks[TARGET, 2:4, 2:4].sum() / clean.norms[TARGET]) < 0.5


def linear(x):
    """Scores of three classes from three pixels; class 0 leads by 0.4 and 0.6 where they are 0."""
    flat = x.reshape(len(x), -1)
    return jnp.stack([0.6 + flat[:, 3] / 2, 0.2 + flat[:, 0], flat[:, 5]], axis=1)


@pytest.mark.slow
def test_smallest_masks_by_hand_seeds_dtypes_and_batches():
    images = jnp.zeros((4, 2, 3, 1))
    search = {"clip": (0, 1), "steps": 400}
    once = neural_cleanse(linear, images, **search)
    # Nothing to do for class 0; the others want m·1 of one pixel to make up for their lag.
    assert float(once.norms[0]) == 0
    assert np.isnan(once.success_rates[0])
    np.testing.assert_allclose(once.norms[1:], [0.4, 0.6], atol=0.02)
    np.testing.assert_allclose(once.masks[1:].reshape(2, -1)[[0, 1], [0, 5]], [0.4, 0.6], atol=0.02)
    again = neural_cleanse(linear, images, classes_at_once=2, **search)
    np.testing.assert_allclose(again.norms, once.norms, rtol=1e-9)
    other = neural_cleanse(linear, images, seed=1, **search)
    assert not np.array_equal(other.masks, once.masks)
    np.testing.assert_allclose(other.norms, once.norms, atol=0.02)
    single = neural_cleanse(linear, images.astype(jnp.float32), **search)
    assert single.masks.dtype == np.float32
    np.testing.assert_allclose(single.norms, once.norms, atol=0.02)


@pytest.mark.slow
def test_zero_gradients_and_two_classes():
    images = jnp.ones((3, 2, 2, 1)) * jnp.arange(3.0)[:, None, None, None]
    constant = neural_cleanse(lambda x: jnp.broadcast_to(jnp.array([[1.0, 0.0, 0.5]]), (len(x), 3)), images, steps=3)
    np.testing.assert_array_equal(constant.norms, [0, np.inf, np.inf])
    np.testing.assert_array_equal(constant.success_rates, [np.nan, 0, 0])
    assert not np.any(constant.suspected)
    two = neural_cleanse(lambda x: x[:, 0, 0, 0] - 1.5, images, steps=50)
    np.testing.assert_allclose(two.anomaly_index, 1 / 1.4826, rtol=1e-12)
    assert not np.any(two.suspected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": jnp.zeros((0, 2, 3, 1))}, ValueError, "images must not be empty"),
        ({"images": jnp.zeros((4, 6))}, ValueError, "images must have shape"),
        ({"image_shape": (2, 2, 1)}, ValueError, "image_shape must be"),
        ({"steps": 0}, ValueError, "steps must be"),
        ({"success": 1.5}, ValueError, "success must be"),
        ({"multiplier": 1.0}, ValueError, "multiplier must be > 1"),
        ({"cost": 0.0}, ValueError, "cost must be"),
        ({"clip": (1, 1)}, ValueError, "clip must be"),
        ({"f": 3}, TypeError, "f must be a function"),
        ({"f": lambda x: np.asarray(x).sum(axis=(1, 2, 3))}, ValueError, "traceable by JAX"),
        ({"f": lambda x: jnp.argmax(linear(x), axis=1)}, TypeError, "what f returns"),
        ({"f": lambda x: linear(x)[:, :1]}, ValueError, "f must return scores"),
        pytest.param({"f": lambda x: linear(x) / 0}, Exception, "finite", marks=pytest.mark.slow),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"f": linear, "images": jnp.zeros((4, 2, 3, 1)), "clip": (0, 1), "steps": 2} | change
    with pytest.raises(error, match=message):
        neural_cleanse(arguments.pop("f"), arguments.pop("images"), **arguments)
