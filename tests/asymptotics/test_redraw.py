"""R4: error bars from one data set, against NumPy, copies of points, refits without each point, and redrawn data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.asymptotics import efficacy_deviation, redraw_deviation

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6))
Y = np.sign(X[:, 0] + 0.5 * RNG.normal(size=40))
KERNEL = kp.kernels.RBF(2.5)
RIDGE = 0.02
POISON = kp.Poison(RNG.normal(size=(3, 6)) + 2, np.array([1.0, 1.0, -1.0]), np.array([2.0, 1.0, 3.0]))
PROBES = RNG.normal(size=(5, 6)) + 1
CLEAN = kp.fit(KERNEL, X, Y)


def gram(x, z):
    return np.exp(-0.5 * np.sum((x[:, None] - z[None]) ** 2, axis=-1) / 2.5**2)


def by_hand(points, targets, ridge, x, clean):
    """‖y − Hy‖²/tr (I − H)² Σ c_i² over the clean points, of physical copies; and GCV's form of it over all."""
    n = len(points)
    system = gram(points, points) + n * ridge * np.eye(n)
    left = n * ridge * np.linalg.inv(system)
    c = np.linalg.solve(system, gram(points, x))
    noise = np.sum((left @ targets) ** 2) / np.trace(left @ left)
    return np.sqrt(noise * np.sum(c[:clean] ** 2, axis=0))


def test_is_its_formula():
    np.testing.assert_allclose(redraw_deviation(CLEAN, PROBES, RIDGE), by_hand(X, Y, RIDGE, PROBES, 40), rtol=1e-10)
    # As the statement has it: GCV (1 − df2/n) ‖A⁻¹k‖², 1 − df2/n from dλ_e/dλ by differences.
    s = np.linalg.eigvalsh(gram(X, X))

    def effective(ridge):
        return ridge / (1 - np.sum(s / (s + 40 * ridge)) / 40)

    step = 1e-6 * RIDGE
    slope = (effective(RIDGE + step) - effective(RIDGE - step)) / (2 * step)
    c = np.linalg.solve(gram(X, X) + 40 * RIDGE * np.eye(40), np.column_stack([gram(X, PROBES), Y]))
    mse = np.mean((40 * RIDGE * c[:, -1]) ** 2)
    gcv = mse / (1 - np.sum(s / (s + 40 * RIDGE)) / 40) ** 2
    expected = np.sqrt(gcv / slope * np.sum(c[:, :-1] ** 2, axis=0))
    np.testing.assert_allclose(redraw_deviation(CLEAN, PROBES, RIDGE), expected, rtol=1e-7)


@pytest.mark.slow
def test_with_a_poison_and_weights_it_is_that_of_copies():
    copies = np.concatenate([X, np.repeat(POISON.location, [2, 1, 3], axis=0)])
    targets = np.concatenate([Y, [1, 1, 1, -1, -1, -1]])
    expected = by_hand(copies, targets, RIDGE, PROBES, 40)
    np.testing.assert_allclose(redraw_deviation(CLEAN, PROBES, RIDGE, POISON), expected, rtol=1e-10)
    weights = 1.0 + np.arange(40) % 3
    weighted = kp.fit(KERNEL, X, Y, weights=weights)
    places = np.repeat(np.arange(40), weights.astype(int))
    expected = by_hand(X[places], Y[places], RIDGE, PROBES, len(places))
    np.testing.assert_allclose(redraw_deviation(weighted, PROBES, RIDGE), expected, rtol=1e-10)
    none = kp.Poison(POISON.location, POISON.label, 0.0)
    np.testing.assert_allclose(
        redraw_deviation(CLEAN, PROBES, RIDGE, none), redraw_deviation(CLEAN, PROBES, RIDGE), rtol=1e-12
    )
    np.testing.assert_array_equal(efficacy_deviation(CLEAN, none, PROBES, RIDGE), 0)


@pytest.mark.slow
def test_several_outputs():
    targets = np.stack([Y, -Y, np.cos(X[:, 1])], axis=1)
    several = kp.fit(KERNEL, X, targets, solver=kp.Cholesky())
    poison = kp.Poison(POISON.location, np.array([1.0, -1.0, 0.0]), POISON.count)
    alike = kp.Poison(POISON.location, 1.0, POISON.count)
    for law in (
        lambda c, p: redraw_deviation(c, PROBES, RIDGE, p),
        lambda c, p: efficacy_deviation(c, p, PROBES, RIDGE),
    ):
        found = law(several, poison)
        assert found.shape == (5, 3)
        np.testing.assert_allclose(found[:, 0], law(CLEAN, alike), rtol=1e-9)
        np.testing.assert_allclose(found[:, 1], found[:, 0], rtol=1e-12)
    assert redraw_deviation(several, PROBES[0], RIDGE).shape == (3,)
    assert efficacy_deviation(CLEAN, POISON, PROBES[0], RIDGE).shape == ()


def test_of_an_efficacy_is_the_jackknife_of_refits():
    n, rho = 46.0, 46 * RIDGE

    def efficacies(kept):
        Z, m = np.asarray(POISON.location), np.asarray(POISON.count)
        points = np.concatenate([X[kept], Z])
        noise = np.diag(np.concatenate([np.full(kept.sum(), rho), rho / m]))
        dual = np.linalg.solve(gram(points, points) + noise, np.concatenate([Y[kept], np.asarray(POISON.label)]))
        clean = np.linalg.solve(gram(X[kept], X[kept]) + rho * np.eye(kept.sum()), Y[kept])
        return gram(PROBES, points) @ dual - gram(PROBES, X[kept]) @ clean

    everything = np.ones(40, bool)
    changes = [efficacies(everything) - efficacies(np.arange(40) != i) for i in range(40)]
    copies = np.concatenate([X, np.repeat(POISON.location, [2, 1, 3], axis=0)])
    left = rho * np.linalg.inv(gram(copies, copies) + rho * np.eye(46))
    factor = np.trace(left) ** 2 / (n * np.trace(left @ left))
    expected = np.sqrt(factor * np.sum(np.square(changes), axis=0))
    np.testing.assert_allclose(efficacy_deviation(CLEAN, POISON, PROBES, RIDGE), expected, rtol=1e-9)


def test_it_is_linear_in_a_small_poison():
    """Where the efficacy is a billionth of the prediction, its deviation has its digits."""
    one, tiny = (efficacy_deviation(CLEAN, kp.Poison(POISON.location[0], 1.0, m), PROBES, RIDGE) for m in (1e-3, 1e-9))
    np.testing.assert_allclose(np.asarray(one) * 1e-6, tiny, rtol=3e-3)


@pytest.mark.slow
def test_derivatives_and_float32():
    def found(ridge, length, label):
        clean = kp.fit(kp.kernels.RBF(length), X, Y + label * X[:, 1])
        poison = kp.Poison(POISON.location[:2], 1.0, jnp.array([2.0, 1.0]) + label)
        return jnp.stack(
            [redraw_deviation(clean, PROBES[0], ridge, poison), efficacy_deviation(clean, poison, PROBES[0], ridge)]
        )

    def with_value(at):
        value = found(*at)
        return value, value

    both, at = jax.jit(jax.jacrev(with_value, has_aux=True)), np.array([RIDGE, 2.5, 0.3])  # one program
    slopes = np.asarray(both(at)[0])
    for i, step in enumerate(1e-5 * at):
        moved = step * np.eye(3)[i]
        difference = (both(at + moved)[1] - both(at - moved)[1]) / (2 * step)
        np.testing.assert_allclose(slopes[:, i], difference, rtol=1e-5)
    narrow = kp.fit(KERNEL, X.astype(np.float32), Y)
    for law in (lambda c: redraw_deviation(c, PROBES, RIDGE), lambda c: efficacy_deviation(c, POISON, PROBES, RIDGE)):
        values = law(narrow)
        assert values.dtype == jnp.float32
        np.testing.assert_allclose(values, law(CLEAN), rtol=2e-4)


def test_bad_input():
    with pytest.raises(ValueError, match="clean must be fitted without an intercept"):
        redraw_deviation(kp.fit(KERNEL, X, Y, intercept=True), PROBES, RIDGE)
    with pytest.raises(ValueError, match="clean must be fitted without a gradient penalty"):
        redraw_deviation(kp.fit(KERNEL, X, Y, gradient_penalty=0.1), PROBES, RIDGE)
    with pytest.raises(ValueError, match="clean must be fitted by a solver that factorises"):
        redraw_deviation(kp.fit(KERNEL, X, Y, solver=kp.ConjugateGradients()), PROBES, RIDGE)
    with pytest.raises(ValueError, match="clean must be trained to the end"):
        redraw_deviation(kp.flow.early_stopped(CLEAN, 1.0), PROBES, RIDGE)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="clean must be fitted without weights"):
        efficacy_deviation(kp.fit(KERNEL, X, Y, weights=np.ones(40)), POISON, PROBES, RIDGE)
    with pytest.raises(ValueError, match=r"of 40 labels .* degrees of freedom are left .* use a larger ridge"):
        redraw_deviation(CLEAN, PROBES, 1e-9)
    with pytest.raises(ValueError, match="ridge must be finite and > 0"):
        redraw_deviation(CLEAN, PROBES, 0.0)
    with pytest.raises(TypeError, match="clean must be a Posterior"):
        redraw_deviation(X, PROBES, RIDGE)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="x must hold points"):
        efficacy_deviation(CLEAN, POISON, PROBES[:, :2], RIDGE)
