"""Defended trainings against refits of all points, and kernels averaged by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.attacks import PoisonedData
from kpoison.defences import (
    AveragedKernel,
    augmented_training,
    averaged_training,
    draw_transformations,
    penalised_training,
    remaining_efficacy,
)
from kpoison.networks import HorizontalFlip, RandomCrop

DRAW = np.random.default_rng(0)
SHAPE, RIDGE = (3, 3, 1), 1e-2
KERNEL = kp.kernels.RBF(2.0)


def flip(image):
    return image[:, ::-1]


def shift(image):
    return jnp.roll(image, 1, axis=0).at[0].set(0)


def attack(outputs):
    """16 images of which 4 are poisons, flattened; one output or several."""
    X = DRAW.normal(size=(16, 9))
    y = np.sign(X[:, 0]) if outputs == 1 else np.eye(outputs)[np.argmax(X[:, :outputs], axis=1)]
    chosen = np.isin(np.arange(16), [1, 5, 6, 11])
    X[chosen, 8] = 3.0
    y[chosen] = 1.0 if outputs == 1 else np.eye(outputs)[1]
    probes = DRAW.normal(size=(5, 9))
    probes[:, 8] = 3.0
    data = [jnp.asarray(part) for part in (X, y, chosen, probes)]
    clean = kp.fit(KERNEL, X[~chosen], y[~chosen])
    efficacy = kp.efficacy(clean, kp.Poison(X[chosen], y[chosen], 1.0), probes, RIDGE)
    return PoisonedData(*data, efficacy, target=1)


TRAININGS = {
    "penalty": lambda X, y: penalised_training(KERNEL, X, y, gradient_penalty=0.3),
    "iterative penalty": lambda X, y: penalised_training(
        KERNEL, X, y, gradient_penalty=0.3, solver=kp.ConjugateGradients()
    ),
    "copies": lambda X, y: augmented_training(KERNEL, X, y, [flip, shift], image_shape=SHAPE),
    "averaged": lambda X, y: averaged_training(KERNEL, X, y, [flip, shift], image_shape=SHAPE),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_what_remains_is_that_of_two_trainings(name):
    poisoned = attack(outputs=3)
    train, chosen = TRAININGS[name], np.asarray(poisoned.is_poison)
    remaining = remaining_efficacy(train, poisoned, RIDGE)
    attacked = train(poisoned.X, poisoned.y).posterior
    clean = train(poisoned.X[~chosen], poisoned.y[~chosen]).posterior
    # The same ρ on both sides.
    same = RIDGE * len(attacked.X) / len(clean.X)
    expected = kp.predict(attacked, poisoned.probes, RIDGE) - kp.predict(clean, poisoned.probes, same)
    assert remaining.shape == poisoned.efficacy.shape
    np.testing.assert_allclose(remaining, expected, rtol=1e-7, atol=1e-9)
    assert float(jnp.max(jnp.abs(remaining - poisoned.efficacy))) > 1e-2


@pytest.mark.slow
def test_derivatives_and_limits_of_the_penalty():
    poisoned = attack(outputs=1)

    def left(penalty):
        return remaining_efficacy(
            lambda X, y: penalised_training(KERNEL, X, y, gradient_penalty=penalty), poisoned, RIDGE
        )

    def size(penalty):
        return jnp.sqrt(jnp.sum(left(penalty) ** 2))

    np.testing.assert_allclose(left(1e-9), poisoned.efficacy, rtol=1e-5, atol=1e-6)
    slope = jax.jit(jax.grad(size))(0.3)
    assert float(slope) == pytest.approx(float(size(0.3003) - size(0.2997)) / 6e-4, rel=1e-5)
    # With a linear kernel the penalty is so much more ridge (T1).
    linear = kp.kernels.Linear()
    penalised = penalised_training(linear, poisoned.X, poisoned.y, gradient_penalty=0.3).posterior
    expected = kp.predict(kp.fit(linear, poisoned.X, poisoned.y), poisoned.probes, RIDGE + 0.3)
    np.testing.assert_allclose(kp.predict(penalised, poisoned.probes, RIDGE), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_averaged_kernels_by_hand():
    x, z = (jnp.asarray(DRAW.normal(size=(n, *SHAPE))) for n in (4, 3))
    kernel = AveragedKernel(kp.kernels.Custom(lambda a, b: jnp.exp(jnp.sum(a * b) / 4), point_ndim=3), [flip, shift])

    def orbit(image):
        return [image, flip(image), shift(image)]

    by_hand = [[np.mean([np.exp(np.sum(a * b) / 4) for a in orbit(p) for b in orbit(q)]) for q in z] for p in x]
    np.testing.assert_allclose(kernel(x, z), by_hand, rtol=1e-12)
    np.testing.assert_allclose(kernel.evaluate(x[1], z[2]), by_hand[1][2], rtol=1e-12)
    same = np.asarray(kernel(x))
    np.testing.assert_allclose(same, same.T, rtol=1e-14)
    np.testing.assert_allclose(same, kernel(x, jnp.array(x, copy=True)), rtol=1e-12)
    # Flattened points and a length scale that derivatives go through.
    flat = x.reshape(4, -1)

    def trace(length_scale):
        return jnp.sum(AveragedKernel(kp.kernels.RBF(length_scale), [flip], SHAPE)(flat))

    assert float(jax.grad(trace)(1.3)) == pytest.approx(float(trace(1.3001) - trace(1.2999)) / 2e-4, rel=1e-6)


@pytest.mark.slow
def test_a_group_makes_the_predictor_invariant_and_float32_stays():
    X, y = DRAW.normal(size=(12, *SHAPE)).astype(np.float32), DRAW.normal(size=12)
    kernel = kp.kernels.ConvolutionalNTK(1, "erf", readout="flatten")
    defended = averaged_training(kernel, X, y, [flip])
    there, mirrored = (kp.predict(defended.posterior, points, 0.1) for points in (X, X[:, :, ::-1]))
    assert there.dtype == np.float32
    np.testing.assert_allclose(there, mirrored, rtol=1e-4, atol=1e-5)
    copied = augmented_training(kp.kernels.RBF(2.0), X.reshape(12, -1), y, [flip], image_shape=SHAPE)
    assert copied.posterior.X.shape == (24, 9)
    np.testing.assert_array_equal(copied.posterior.X[12:].reshape(X.shape), X[:, :, ::-1])
    np.testing.assert_array_equal(copied.posterior.y[:12], copied.posterior.y[12:])


def test_drawn_transformations_stay_as_they_were_drawn():
    image = jnp.asarray(DRAW.normal(size=(6, 6, 1)))
    drawn = draw_transformations(RandomCrop(2), 4, seed=3)
    first = [transform(image) for transform in drawn]
    for transform, once in zip(draw_transformations(RandomCrop(2), 4, seed=3), first, strict=True):
        np.testing.assert_array_equal(transform(image), once)
    assert len({once.tobytes() for once in map(np.asarray, first)}) > 1
    np.testing.assert_array_equal(draw_transformations(HorizontalFlip(1.0), 1)[0](image), image[:, ::-1])


IMAGES, LABELS = DRAW.normal(size=(4, *SHAPE)), np.array([1.0, -1.0, 1.0, -1.0])
FLAT = IMAGES.reshape(4, -1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: penalised_training(KERNEL, FLAT, LABELS, gradient_penalty=0.0), ValueError, "> 0"),
        (
            lambda: penalised_training(kp.kernels.Laplace(1.0), FLAT, LABELS, gradient_penalty=1.0),
            ValueError,
            "twice continuously",
        ),
        (lambda: augmented_training(KERNEL, FLAT, LABELS, [flip]), ValueError, "image_shape"),
        (lambda: averaged_training(KERNEL, IMAGES, LABELS, [flip]), ValueError, "X must have shape"),
        (
            lambda: augmented_training(KERNEL, FLAT, LABELS, [], image_shape=SHAPE),
            ValueError,
            "least one",
        ),
        (
            lambda: augmented_training(KERNEL, FLAT, LABELS, [3], image_shape=SHAPE),
            TypeError,
            "functions",
        ),
        (
            lambda: augmented_training(KERNEL, FLAT, LABELS[:2], [flip], image_shape=SHAPE),
            ValueError,
            "y must have shape",
        ),
        (
            lambda: averaged_training(KERNEL, FLAT, LABELS, [lambda i: i[1:]], image_shape=SHAPE),
            ValueError,
            "keep shape",
        ),
        (
            lambda: averaged_training(KERNEL, np.zeros((0, 9)), LABELS[:0], [flip], image_shape=SHAPE),
            ValueError,
            "empty",
        ),
        (lambda: draw_transformations(RandomCrop(1), 0), ValueError, "number must be"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("marked", [np.zeros(4, bool), np.ones(4, bool)])
def test_something_must_be_poison_and_not_all(marked):
    X = jnp.asarray(FLAT)
    data = PoisonedData(X, jnp.asarray(LABELS), jnp.asarray(marked), X[:1], jnp.zeros(1))
    with pytest.raises(ValueError, match="is_poison must mark some"):
        remaining_efficacy(TRAININGS["penalty"], data, RIDGE)
