"""Feature collision: closed forms for the linear kernel, constraints, and the law's efficacy against refits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kpoison as kp
from kpoison.attacks import collision_objective, feature_collision
from kpoison.attacks.descent import allowed_inputs

RIDGE = 1e-2


def problem(kernel, outputs=None, dtype=jnp.float64):
    """A clean posterior of ten points, three bases with labels, and a target."""
    rng = np.random.default_rng(3)
    X, bases = (jnp.asarray(rng.uniform(size=(m, 4)), dtype) for m in (10, 3))
    y = jnp.asarray(np.sign(rng.normal(size=10 if outputs is None else (10, outputs))), dtype)
    labels = 1.0 if outputs is None else jnp.eye(outputs, dtype=dtype)[1]
    return kp.fit(kernel, X, y), bases, labels, jnp.asarray(rng.uniform(size=4), dtype)


@pytest.mark.parametrize(
    "kernel",
    [
        kp.kernels.RBF(0.8),
        pytest.param(kp.kernels.NTK(1, "relu", 1.3, 0.2), marks=pytest.mark.slow),
        kp.kernels.Laplace(0.8),
    ],
    ids=lambda k: str(k)[:3],
)
def test_gradient_is_that_of_finite_differences(kernel):
    _, bases, _, target = problem(kernel)
    function = jax.jit(lambda x: collision_objective(kernel, x, target, bases[1], 0.3))
    slope, step = jax.grad(function)(bases[0]), 1e-5
    for i in range(4):
        high, low = (function(bases[0].at[i].add(sign * step)) for sign in (1, -1))
        np.testing.assert_allclose(slope[i], (high - low) / (2 * step), atol=1e-8)


@pytest.mark.slow
def test_at_the_target_gradients_are_finite_also_at_a_cusp():
    # k(x, x) − 2k(x, t) + k(t, t): the parts of its symmetric derivative cancel where x = t.
    target = jnp.array([0.3, -0.2, 0.5])
    for kernel in (kp.kernels.Laplace(1.0), kp.kernels.NTK(1, "relu", 1.3, 0.2), kp.kernels.Matern32(1.0)):
        slope = jax.grad(lambda x, k=kernel: collision_objective(k, x, target, target, 1.0))(target)
        np.testing.assert_allclose(slope, 0, atol=1e-14)


@pytest.mark.slow
def test_linear_kernel_without_constraints_in_closed_form():
    # ‖x − t‖² + β‖x − b‖² is least at (t + βb)/(1 + β).
    clean, bases, labels, target = problem(kp.kernels.Linear())
    attack = feature_collision(clean, bases, labels, target, RIDGE, beta=0.5, steps=15)
    expected = (target[None] + 0.5 * bases) / 1.5
    np.testing.assert_allclose(attack.poison.location, expected, atol=1e-9)
    distances = jnp.stack([jnp.sum((points - target[None]) ** 2, axis=1) for points in (bases, expected)])
    np.testing.assert_allclose(attack.squared_distance, distances, atol=1e-9)
    assert attack.history.shape == (3, 16)


def nearest(point, start, low, high, radius):
    """Dykstra's alternating projections onto box and Euclidean ball."""
    x, p, q = point, 0 * point, 0 * point
    for _ in range(20_000):
        shift = x + p - start
        y = start + shift * min(1, radius / np.linalg.norm(shift))
        p = x + p - y
        x = np.clip(y + q, low, high)
        q = y + q - x
    return x


@pytest.mark.slow
def test_projection_is_the_nearest_point_of_box_and_ball():
    rng = np.random.default_rng(4)
    start, points = rng.uniform(size=(6, 4)), rng.normal(size=(6, 4))
    points[5] = start[5] + 0.01  # already within, unless near the box's side
    box = (jnp.zeros(4), jnp.asarray([1.0, 1.0, 0.99, 1.0]))
    start = np.clip(start, 0.0, box[1])
    allowed = allowed_inputs(jnp.asarray(start), box, 0.5, "l2", "start")
    found = jax.vmap(allowed.project)(jnp.asarray(points), jnp.asarray(start))
    for x, point, base in zip(found, points, start, strict=True):
        np.testing.assert_allclose(x, nearest(point, base, 0, np.asarray(box[1]), 0.5), atol=1e-6)
    free = allowed_inputs(jnp.asarray(start), None, 0.5, "l2", "start")
    shift = points - start
    length = np.linalg.norm(shift, axis=1, keepdims=True)
    np.testing.assert_allclose(
        jax.vmap(free.project)(jnp.asarray(points), jnp.asarray(start)), start + shift * np.minimum(1, 0.5 / length)
    )


@pytest.mark.slow
@pytest.mark.parametrize("norm", [pytest.param("linf", marks=pytest.mark.slow), "l2"])
def test_constrained_collision_of_a_linear_kernel_is_a_projection(norm):
    # The objective is isotropic: least where the free minimum is projected to.  Descent of rate 1/2 takes one step.
    clean, bases, labels, target = problem(kp.kernels.Linear())
    box, ball = (0.1, 0.9), 0.25
    bases = jnp.clip(bases, *box)
    attack = feature_collision(
        clean, bases, labels, target, RIDGE, box=box, ball=ball, norm=norm, optimiser=optax.sgd(0.5), steps=3
    )
    for x, base in zip(attack.poison.location, np.asarray(bases), strict=True):
        if norm == "linf":
            expected = np.clip(np.clip(target, *box), base - ball, base + ball)
        else:
            expected = nearest(np.asarray(target), base, *box, ball)
        np.testing.assert_allclose(x, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [None, 3])
def test_poisons_collide_keep_their_labels_and_have_the_efficacy_of_a_refit(outputs):
    kernel = kp.kernels.RBF(0.8)
    clean, bases, labels, target = problem(kernel, outputs)
    attack = feature_collision(clean, bases, labels, target, RIDGE, beta=0.01, box=(0, 1), ball=0.2, steps=60)
    before, after = attack.squared_distance
    assert np.all(after < 0.7 * before)
    moved, data = attack.poison.location, attack.data
    assert np.all((moved >= 0) & (moved <= 1))
    assert np.max(np.abs(moved - bases)) <= 0.2 + 1e-12
    np.testing.assert_array_equal(data.y[10:], jnp.broadcast_to(jnp.asarray(labels), (3, *clean.y.shape[1:])))
    np.testing.assert_array_equal(data.is_poison, np.arange(13) >= 10)
    # Both at ρ = 13 λ.
    after, before = kp.fit(kernel, data.X, data.y), clean
    change = kp.predict(after, target[None], RIDGE) - kp.predict(before, target[None], RIDGE * 13 / 10)
    np.testing.assert_allclose(data.efficacy, change, atol=1e-11)
    assert data.target == 1
    static = kp.efficacy(clean, kp.Poison(bases, jnp.asarray(labels), 1.0), target, RIDGE)
    assert jnp.vdot(change.ravel(), jnp.asarray(labels)) > jnp.vdot(static, jnp.asarray(labels))


@pytest.mark.slow
def test_float32():
    clean, bases, labels, target = problem(kp.kernels.Matern32(0.8), dtype=jnp.float32)
    attack = feature_collision(clean, bases, labels, target, RIDGE, ball=0.1, norm="l2", steps=20)
    assert attack.data.X.dtype == attack.history.dtype == jnp.float32
    assert np.all(attack.squared_distance[1] < attack.squared_distance[0])
    assert np.all(jnp.linalg.norm(attack.poison.location - bases, axis=1) <= 0.1 * (1 + 1e-5))


def test_bad_input():
    clean, bases, labels, target = problem(kp.kernels.RBF(0.8))

    def attack(clean=clean, bases=bases, labels=labels, target=target, ridge=RIDGE, **options):
        return feature_collision(clean, bases, labels, target, ridge, steps=options.pop("steps", 1), **options)

    for options, message in [
        ({"box": (0.4, 0.6)}, "bases must lie in box, got .* number"),
        ({"box": (1, 0)}, "box must be .low, high. with low < high"),
        ({"ball": 0.0}, "ball must be finite and > 0"),
        ({"norm": "l0"}, "norm must be one of 'linf', 'l2', got 'l0'"),
        ({"beta": -1.0}, "beta must be finite and >= 0"),
        ({"steps": 0}, "steps must be an integer >= 1"),
        ({"ridge": -1.0}, "ridge must be finite and > 0"),
        ({"labels": jnp.ones(2)}, r"labels must have shape \(3,\), one for each base, or \(\), got \(2,\)"),
        ({"bases": bases[0]}, r"bases must have shape \(n, d\)"),
        ({"bases": bases[:0]}, "bases must not be empty"),
        ({"target": target[:2]}, r"target must hold points of shape \(4,\)"),
        ({"target": target.at[0].set(jnp.nan)}, "target must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            attack(**options)
    with pytest.raises(TypeError, match="clean must be a Posterior"):
        attack(clean=bases)
    with pytest.raises(TypeError, match="call feature_collision outside of jit"):
        jax.jit(lambda b: attack(bases=b).history)(bases)


@pytest.mark.parametrize("column", [False, True])
def test_the_target_is_the_class_whether_or_not_y_is_a_column(column):
    y = np.array([1.0, -1.0])
    clean = kp.fit(kp.kernels.RBF(1.0), np.array([[0.0], [2.0]]), y[:, None] if column else y)
    for label in (-1.0, 1.0):
        labels = np.full((2, 1), label) if column else np.full(2, label)
        found = kp.attacks.feature_collision(
            clean, np.array([[1.2], [1.0]]), labels, np.array([0.0]), 0.1, ball=0.5, steps=2
        )
        assert found.data.target == label
        assert found.data.y.shape == (4, 1) if column else (4,)
