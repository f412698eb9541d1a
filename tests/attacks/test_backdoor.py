"""Backdoors: the predicted efficacy against refits of the poisoned training set."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.attacks import backdoor

SHAPE = (4, 3, 1)
RIDGE = 1e-3
PATCH = kp.Patch(2, (-2, -2), value=1.5)
PATTERN = np.random.default_rng(1).uniform(size=SHAPE)
TRIGGERS = {
    "patch": PATCH,
    "blend": kp.Blend(PATTERN, 0.4),
    "sinusoid": kp.Sinusoid(0.5, 1.0),
}


def images(number, seed=0):
    return np.random.default_rng(seed).uniform(size=(number, 12))


def fitted(classes, n=24, solver=None, dtype=float):
    labels = np.arange(n) % classes
    y = 2.0 * labels - 1 if classes == 2 else np.eye(classes)[labels] - 1 / classes
    return kp.fit(kp.kernels.RBF(1.5), images(n).astype(dtype), y.astype(dtype), solver=solver)


def attacked(clean, trigger=PATCH, **options):
    chosen = {"target": 1, "fraction": 0.4, "ridge": RIDGE, "probes": images(5, seed=9), "image_shape": SHAPE}
    return backdoor(clean, trigger, **(chosen | options))


def refit_difference(clean, attack, ridge=RIDGE):
    """Trained on the poisoned set less trained on the clean one, both at ρ = nλ of the poisoned set."""
    poisoned = kp.fit(clean.kernel, attack.X, attack.y)
    same_rho = ridge * len(attack.X) / len(clean.X)
    return kp.predict(poisoned, attack.probes, ridge) - kp.predict(clean, attack.probes, same_rho)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classes", "replace"), [("patch", 3, False), ("blend", 2, True), ("sinusoid", 2, False)]
)
def test_efficacy_is_the_difference_of_refits(name, classes, replace):
    clean = fitted(classes)
    attack = attacked(clean, TRIGGERS[name], replace=replace)
    np.testing.assert_allclose(attack.efficacy, refit_difference(clean, attack), atol=1e-8)
    # Towards the target.
    assert np.mean(attack.efficacy if classes == 2 else attack.efficacy[:, 1]) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("replace", [False, True])
def test_what_is_poisoned(replace):
    clean = fitted(3, solver=kp.Cholesky())
    attack = attacked(clean, target=0, fraction=0.5, replace=replace)
    added, labels = np.asarray(attack.is_poison), np.argmax(attack.y, axis=1)
    assert added.sum() == 8  # half of the 16 images that are not of the target class
    assert len(attack.X) == (24 if replace else 32)
    np.testing.assert_array_equal(labels[added], 0)
    np.testing.assert_array_equal(np.unique(attack.y), np.unique(clean.y))
    marked = np.asarray(PATCH(clean.X, SHAPE))
    origin = [int(np.flatnonzero(np.all(marked == row, axis=1))[0]) for row in np.asarray(attack.X)[added]]
    assert len(set(origin)) == 8
    assert np.all(np.array(origin) % 3 != 0)
    if replace:
        np.testing.assert_array_equal(origin, np.flatnonzero(added))
        np.testing.assert_array_equal(attack.X[~added], clean.X[~added])
    else:
        np.testing.assert_array_equal(attack.X[:24], clean.X)
    np.testing.assert_array_equal(attack.probes, PATCH(images(5, seed=9), SHAPE))
    again, other = attacked(clean, target=0, fraction=0.5), attacked(clean, target=0, fraction=0.5, seed=1)
    np.testing.assert_array_equal(again.X[24:], attacked(clean, target=0, fraction=0.5).X[24:])
    assert not np.array_equal(again.X[24:], other.X[24:])


@pytest.mark.slow
def test_a_posterior_that_is_penalised_and_stopped_early():
    clean = fitted(2, n=8)

    def fit(y):
        return kp.flow.early_stopped(kp.fit(kp.kernels.RBF(1.5), clean.X, y, gradient_penalty=0.1), time=5.0)

    attack = attacked(fit(clean.y), replace=True)
    poisoned = kp.fit(kp.kernels.RBF(1.5), attack.X, attack.y, gradient_penalty=0.1)
    change = kp.predict(kp.flow.early_stopped(poisoned, time=5.0), attack.probes, RIDGE)
    change -= kp.predict(fit(clean.y), attack.probes, RIDGE)
    np.testing.assert_allclose(attack.efficacy, change, atol=1e-8)


@pytest.mark.slow
def test_gradient_in_opacity_and_float32():
    clean = fitted(2)

    def strength(opacity):
        return jnp.sum(attacked(clean, eqx.tree_at(lambda patch: patch.opacity, PATCH, jnp.asarray(opacity))).efficacy)

    slope = jax.jit(jax.grad(strength))(0.7)
    step = 1e-5
    np.testing.assert_allclose(slope, (strength(0.7 + step) - strength(0.7 - step)) / (2 * step), rtol=1e-6)
    single = attacked(fitted(2, dtype=np.float32))
    assert single.efficacy.dtype == np.float32
    np.testing.assert_allclose(single.efficacy, attacked(clean).efficacy, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, r"fraction must be a number in \(0, 1\], got 0.0"),
        ({"fraction": 1.5}, r"fraction must be a number in \(0, 1\], got 1.5"),
        ({"fraction": 0.01}, "fraction must give at least one poison.* of the 12 images.* got 0.01"),
        ({"target": 0}, "target must be one of -1, 1, got 0"),
        ({"seed": -1}, "seed must be an integer >= 0"),
        ({"probes": images(3)[:, :5]}, "probes must hold points of shape"),
        ({"image_shape": (4, 4, 1)}, "image_shape"),
        ({"ridge": -1.0}, "ridge must be finite and > 0"),
    ],
)
def test_options_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        attacked(fitted(2), **options)


def test_labels_and_triggers_that_are_none():
    clean = fitted(2)
    with pytest.raises(ValueError, match="at least two classes"):
        attacked(kp.fit(clean.kernel, clean.X, jnp.ones(24)))
    empty = np.eye(3)[np.arange(24) % 2]
    with pytest.raises(ValueError, match=r"target must be a class that occurs in clean.y, got 2"):
        attacked(kp.fit(clean.kernel, clean.X, empty), target=2)
    with pytest.raises(TypeError, match=r"trigger must be a kpoison\.Trigger"):
        attacked(clean, trigger=abs)
    ready = kp.prepare(clean, kp.Poison(clean.X[0], 1.0, 1.0), RIDGE)
    with pytest.raises(ValueError, match="clean must not be prepared"):
        attacked(ready)
