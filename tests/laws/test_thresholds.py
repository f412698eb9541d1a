"""m_success: the prediction flips there and not before, by refits; its derivatives; never is infinite.

m_visible: the spike crosses the threshold there and not before; lag is their ratio.
"""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.optimize

import kpoison as kp

RNG = np.random.default_rng(5)
X = jnp.asarray(RNG.normal(size=(40, 3)))
Y = jnp.sign(X[:, 0])
ZETA = jnp.array([1.2, 0.3, -0.2])
PROBES = jnp.asarray(np.asarray(ZETA) + np.outer([0.0, 0.1, 0.5], [0.0, 1.0, 0.0]))


def refit(y, x, ridge, label, count):
    """Prediction by NumPy of a predictor trained on the clean data and a weighted poison."""
    points = np.concatenate([X, ZETA[None]])

    def k(a, b):
        return np.exp(-0.5 * np.sum((np.asarray(a)[:, None] - np.asarray(b)[None]) ** 2, axis=-1))

    weights = np.concatenate([np.ones(len(X)), [count]])
    targets = np.concatenate([np.asarray(y).reshape(len(X), -1), np.reshape(label, (1, -1))])
    system = weights[:, None] * k(points, points) + (len(X) + count) * ridge * np.eye(len(points))
    return k(x, points) @ np.linalg.solve(system, weights[:, None] * targets)


@pytest.mark.slow
@pytest.mark.parametrize("ridge", [1e-4, 1e-2])
def test_the_prediction_flips_there_and_not_before(ridge):
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y)
    thresholds = kp.m_success(clean, kp.Poison(ZETA, -1.0, 7.0), PROBES, ridge)
    assert np.all(np.isfinite(thresholds))
    for x, m in zip(PROBES, np.asarray(thresholds), strict=True):
        before, after = (refit(Y, x[None], ridge, -1.0, m * factor)[0, 0] for factor in (1 - 1e-6, 1 + 1e-6))
        assert before > 0 > after
        assert np.all([refit(Y, x[None], ridge, -1.0, part * m)[0, 0] > 0 for part in np.linspace(0, 0.999, 20)])


@pytest.mark.slow
def test_several_outputs():
    targets = jax.nn.one_hot((X[:, 0] > 0).astype(int), 3)
    clean = kp.fit(kp.kernels.RBF(1.0), X, targets)
    label = np.array([0.0, 0.0, 1.0])
    m = float(kp.m_success(clean, kp.Poison(ZETA, label, 1.0), PROBES[1], 1e-2))
    before, after = (
        np.argmax(refit(targets, PROBES[1:2], 1e-2, label, m * factor)[0]) for factor in (1 - 1e-6, 1 + 1e-6)
    )
    assert (before, after) == (1, 2)


@pytest.mark.slow
def test_already_and_never():
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y)
    assert float(kp.m_success(clean, kp.Poison(ZETA, 1.0, 1.0), PROBES[0], 1e-2)) == 0
    far = kp.fit(kp.kernels.Custom(lambda x, z: jnp.maximum(0, 1 - jnp.sum((x - z) ** 2)) ** 3), X, Y)
    other = kp.Poison(ZETA + 100, -1.0, 1.0)
    assert float(kp.m_success(far, other, X[jnp.argmax(Y)], 1e-2)) == np.inf


@pytest.mark.slow
def test_derivatives_are_those_of_the_implicit_function():
    def threshold(length_scale, ridge, zeta, x):
        clean = kp.fit(kp.kernels.RBF(length_scale), X, Y)
        return kp.m_success(clean, kp.Poison(zeta, -1.0, 1.0), x, ridge)

    at = (1.0, 1e-2, ZETA, PROBES[1])
    gradients = jax.jit(jax.grad(threshold, argnums=(0, 1, 2, 3)))(*at)
    for position, gradient in enumerate(gradients):
        step = 1e-5 * (1 if position != 1 else 1e-2)
        direction = jnp.ones_like(jnp.asarray(at[position]))
        moved = [
            threshold(*(a + sign * step * direction if i == position else a for i, a in enumerate(at)))
            for sign in (1, -1)
        ]
        expected = float(moved[0] - moved[1]) / (2 * step)
        assert float(jnp.sum(gradient * direction)) == pytest.approx(expected, rel=1e-5)


def test_bad_input():
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y)
    with pytest.raises(ValueError, match="poison must be clones at one location"):
        kp.m_success(clean, kp.Poison(X[:2], -1.0, 1.0), PROBES, 1e-2)
    with pytest.raises(ValueError, match="ridge must be finite and > 0"):
        kp.m_success(clean, kp.Poison(ZETA, -1.0, 1.0), PROBES, 0.0)


RIDGE = 1e-2
ACROSS = jnp.array([0.0, 0.6, 0.8])


@jax.jit
def spike(clean, location, label, x, m):
    """Λ(m), added up over the outputs."""
    return jnp.sum(kp.spike(clean, kp.Poison(location, label, m), x, RIDGE))


LARGEST = 4e7
"""10⁶ n_c."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("y", "label"),
    [(Y, -1.0), (jax.nn.one_hot((X[:, 0] > 0).astype(int), 3), np.array([0.0, 0.0, 1.0]))],
    ids=["one output", "three outputs"],
)
def test_the_spike_crosses_the_threshold_there_and_not_before(y, label):
    clean = kp.fit(kp.kernels.RBF(1.0), X, y)
    poison = kp.Poison(ZETA, label, 7.0)
    # The spike shrinks again where ρ, which grows with m, drowns the clean data.
    logs = np.linspace(np.log(4e-5), np.log(LARGEST), 200)
    curves = np.array([[float(spike(clean, ZETA, poison.label, x, np.exp(log))) for log in logs] for x in PROBES])
    assert np.all(curves.argmax(axis=1) < 190)
    for share in (1e-6, 0.5, 0.9):
        threshold = share * curves[1].max()
        counts = np.asarray(kp.m_visible(clean, poison, PROBES, RIDGE, threshold))
        assert counts.shape == (3,)
        for x, found, curve in zip(PROBES, counts, curves, strict=True):

            def excess(log, x=x, threshold=threshold):
                return float(spike(clean, ZETA, poison.label, x, np.exp(log))) / threshold - 1

            first = int(np.argmax(curve > threshold))
            if first == 0:
                assert found == np.inf
                continue
            root = scipy.optimize.brentq(excess, *logs[first - 1 : first + 1], xtol=1e-13)
            assert found == pytest.approx(np.exp(root), rel=1e-9)


@pytest.mark.slow
def test_one_probe():
    clean, poison = kp.fit(kp.kernels.RBF(1.0), X, Y), kp.Poison(ZETA, -1.0, 1.0)
    together, alone = (kp.lag(clean, poison, x, RIDGE, 1e-3) for x in (PROBES, PROBES[1]))
    assert (together.shape, alone.shape) == ((3,), ())
    assert float(alone) == pytest.approx(float(together[1]), rel=1e-9)


# Clean data on one side of ζ and far from it, probes across: the isolated law nearly holds, so that Λ ~ r² while the
# prediction flips at every r.
CLUSTER = jnp.asarray(0.3 * RNG.normal(size=(40, 3)) - np.array([2.5, 0.0, 0.0]))
NEAR = jnp.asarray(np.outer([0.9, 0.6, 0.2, 1e-2, 1e-4, 0.0], ACROSS))


@pytest.mark.slow
def test_the_lag_grows_without_bound_towards_the_clone():
    clean, poison, threshold = (
        kp.fit(kp.kernels.RBF(1.0), CLUSTER, jnp.ones(40)),
        kp.Poison(jnp.zeros(3), -1.0, 1.0),
        0.02,
    )
    visible, success, lag = (
        np.concatenate([function(clean, poison, x, RIDGE, *more) for x in (NEAR[:3], NEAR[3:])])
        for function, more in ((kp.m_visible, (threshold,)), (kp.m_success, ()), (kp.lag, (threshold,)))
    )
    assert np.all(np.isfinite(success) & (success > 0))
    largest = np.array([float(spike(clean, jnp.zeros(3), jnp.asarray(-1.0), x, LARGEST)) for x in NEAR])
    seen = largest > threshold
    assert seen.tolist() == [True] * 3 + [False] * 3  # r²/ℓ⁴ exp(−r²/ℓ²)
    np.testing.assert_allclose(lag[seen], visible[seen] / success[seen], rtol=1e-12)
    assert np.all(np.diff(lag[seen]) > 0)
    assert lag[2] > 5 * lag[0] > 5
    # However large the attack.
    assert np.all(visible[~seen] == np.inf)
    assert np.all(lag[~seen] == np.inf)


@pytest.mark.slow
def test_special_values_of_the_lag():
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y)
    # The prediction is the label's without poison, whether or not it shows.
    for threshold in (1e-6, 1e6):
        assert np.all(kp.lag(clean, kp.Poison(ZETA, 1.0, 1.0), PROBES, RIDGE, threshold) == np.inf)
    # Too far to flip it; Λ is of order 1e-15, which shows or not.
    far = X[jnp.argmax(Y)]
    x = jnp.stack([far] * 3)
    poison = kp.Poison(far + 3.5, -1.0, 1.0)
    assert np.all(kp.m_success(clean, poison, x, RIDGE) == np.inf)
    assert np.all(kp.lag(clean, poison, x, RIDGE, 1e-18) == 0)
    assert np.all(np.isnan(kp.lag(clean, poison, x, RIDGE, 1e6)))


@pytest.mark.slow
def test_derivatives_of_the_visible_count():
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y)

    def count(threshold, label, zeta):
        return kp.m_visible(clean, kp.Poison(zeta, label, 1.0), PROBES, RIDGE, threshold)[2]

    at = (0.05, -1.0, ZETA)
    gradients = jax.jit(jax.grad(count, argnums=(0, 1, 2)))(*at)
    for position, (gradient, direction) in enumerate(zip(gradients, (0.01, 1.0, ACROSS), strict=True)):
        step = 1e-5
        moved = [
            float(count(*(a + sign * step * direction if i == position else a for i, a in enumerate(at))))
            for sign in (1, -1)
        ]
        found = float(jnp.sum(gradient * direction))
        assert abs(found) > 1e-3
        assert found == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5)


@pytest.mark.slow
def test_derivatives_of_the_lag():
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y)

    def along(threshold, t):
        poison = kp.Poison(ZETA + t * ACROSS, -1.0 - 0.3 * t, 1.0)
        return kp.lag(clean, poison, PROBES - t * ACROSS[None], RIDGE * (1 + t), threshold * (1 - t))[2]

    slope = jax.jit(lambda threshold: jax.jvp(lambda t: along(threshold, t), (0.0,), (1.0,)))
    value, found = (float(a) for a in slope(0.05))
    assert np.isfinite(value)
    expected = float(along(0.05, 1e-6) - along(0.05, -1e-6)) / 2e-6
    assert found == pytest.approx(expected, rel=1e-5)
    # Where it is never seen nothing moves, and no derivative is NaN.
    assert [float(a) for a in slope(1e9)] == [np.inf, 0]


@pytest.fixture
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("function", [pytest.param(kp.m_visible, marks=pytest.mark.slow), kp.lag])
def test_bad_thresholds(function, what_a_user_sees):
    clean, poison = kp.fit(kp.kernels.RBF(1.0), X, Y), kp.Poison(ZETA, -1.0, 1.0)
    for threshold in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"threshold must be finite and > 0, got {threshold}"):
            function(clean, poison, PROBES, RIDGE, threshold)
    for threshold, error, message in (
        ("0.1", TypeError, "threshold must be real, got str"),
        (None, TypeError, "threshold must be real, got NoneType"),
        (1j, TypeError, "threshold must be real, got complex"),
        ([0.1, 0.2], ValueError, r"threshold must be a single number, got shape \(2,\)"),
    ):
        with pytest.raises(error, match=message):
            function(clean, poison, PROBES, RIDGE, threshold)
    with pytest.raises(ValueError, match="poison must be clones at one location"):
        function(clean, kp.Poison(X[:2], -1.0, 1.0), PROBES, RIDGE, 0.1)
    with pytest.raises(ValueError, match="ridge must be finite and > 0"):
        function(clean, poison, PROBES, -1.0, 0.1)
    if function is kp.lag:
        return
    with pytest.raises((RuntimeError, ValueError), match="threshold must be finite and > 0"):
        jax.block_until_ready(jax.jit(lambda t: function(clean, poison, PROBES, RIDGE, t))(-0.1))


def test_other_numbers_are_no_other_program():
    """Ridge, threshold, count, label and places are inputs of one program."""
    clean = kp.fit(kp.kernels.RBF(1.0), np.eye(3), np.array([1.0, 1.0, -1.0]))

    def poison(number):
        return kp.Poison(np.full(3, number), -number, number)

    laws = {
        "visible": lambda number: kp.m_visible(clean, poison(number), np.full(3, number), number, number),
        "spike": lambda number: kp.spike(clean, poison(number), np.full(3, number), number),
        "predict": lambda number: kp.predict(clean, np.full(3, number), number),
    }
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    try:
        for law in laws.values():
            law(0.25)
            compiled.clear()
            law(0.5)
            assert not [event for event in compiled if "backend_compile" in event]
    finally:
        jax.monitoring.clear_event_listeners()
