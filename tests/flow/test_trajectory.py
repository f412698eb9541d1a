"""Stopped predictors against the eigendecomposition of theory.md's T2, and under every transform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kpoison as kp
from kpoison.ridge.early_stopping import at_time
from kpoison.ridge.observations import Observations, covariance

EPS = float(np.finfo(float).eps)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(30, 4)))
Y = jnp.asarray(RNG.normal(size=30))
Y2 = jnp.stack([Y, jnp.sin(Y)], axis=1)
ZETA = jnp.asarray(RNG.normal(size=4))
PROBES = jnp.asarray(RNG.normal(size=(5, 4)))
KERNELS = {"rbf": kp.kernels.RBF(2.0), "erf": kp.kernels.NTK(1, "erf", 1.4, 0.1), "matern32": kp.kernels.Matern32(2.0)}
TIMES = (0.0, 1e-9, 1e-3, 1.0, 30.0, 1e3, 1e6)
RIDGE, COUNT, LABEL = 1e-3, 3, -1.0
POISON = kp.Poison(ZETA, LABEL, COUNT)


def flow_by_eigenvectors(clean, points, targets, x):
    """c(t) = Q diag((1 − e^{−(μ+ρ)t/n})/(μ+ρ)) Qᵀȳ (T2), poisons copied; values at x and their rounding."""
    seen = clean.observations.at(points)
    gram = np.asarray(jax.jit(covariance)(clean.kernel, seen, seen))
    eigenvalues, vectors = np.linalg.eigh(gram)
    targets = np.asarray(seen.with_flat_slopes(targets.reshape(len(points), -1)))
    cross = np.asarray(jax.jit(covariance)(clean.kernel, seen, Observations(x)))

    def at(n, ridge, time):
        rates = eigenvalues + n * ridge
        with np.errstate(divide="ignore", invalid="ignore"):
            filtered = np.where(rates * time / n < 1e-12, time / n, -np.expm1(-rates * time / n) / rates)
        coefficients = vectors @ (filtered[:, None] * (vectors.T @ targets))
        condition = 1 + (eigenvalues[-1] + n * ridge) * filtered[0]
        size = np.linalg.norm(cross, axis=0).max() * np.linalg.norm(coefficients)
        return cross.T @ coefficients, 100 * EPS * condition * size

    return at


def with_copies(y):
    label = jnp.full((COUNT, *y.shape[1:]), LABEL)
    return jnp.concatenate([X, jnp.tile(ZETA, (COUNT, 1))]), jnp.concatenate([y, label])


@pytest.mark.parametrize("penalty", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["rbf", *(pytest.param(name, marks=pytest.mark.slow) for name in ("erf", "matern32"))])
def test_predictions_and_efficacy_are_those_of_the_flow(name, penalty):
    clean = kp.fit(KERNELS[name], X, Y, gradient_penalty=penalty)
    points, targets = with_copies(Y)
    n = len(points)
    without, poisoned = flow_by_eigenvectors(clean, X, Y, PROBES), flow_by_eigenvectors(clean, points, targets, PROBES)

    @jax.jit
    def laws(time):
        stopped = kp.flow.early_stopped(clean, time)
        return (
            kp.predict(stopped, PROBES, RIDGE, POISON),
            kp.efficacy(stopped, POISON, PROBES, RIDGE),
            kp.predict(stopped, PROBES, RIDGE),
        )

    for time in TIMES:
        before, e0 = without(n, RIDGE, time)
        after, e1 = poisoned(n, RIDGE, time)
        alone, e2 = without(len(X), RIDGE, time)
        references = (after, e1), (after - before, e0 + e1), (alone, e2)
        for law, (reference, error) in zip(laws(time), references, strict=True):
            np.testing.assert_allclose(law, reference[:, 0], rtol=0, atol=error + 1e-300)


@pytest.mark.slow
def test_every_output_flows():
    clean = kp.fit(KERNELS["rbf"], X, Y2, gradient_penalty=0.1)
    poison = kp.Poison(ZETA, jnp.array([LABEL, LABEL]), COUNT)
    points, targets = with_copies(Y2)
    reference, error = flow_by_eigenvectors(clean, points, targets, PROBES)(len(points), RIDGE, 10.0)
    stopped = kp.flow.early_stopped(clean, 10.0)
    np.testing.assert_allclose(kp.predict(stopped, PROBES, RIDGE, poison), reference, rtol=0, atol=error)


def test_without_ridge_training_is_stopped_by_time_alone():
    clean = kp.fit(KERNELS["rbf"], X, Y)
    flow = flow_by_eigenvectors(clean, X, Y, PROBES)
    for time in (1e-3, 1.0, 1e3):
        reference, error = flow(len(X), 0.0, time)
        law = kp.predict(kp.flow.early_stopped(clean, time), PROBES, 0.0)
        np.testing.assert_allclose(law, reference[:, 0], rtol=0, atol=error)


@pytest.mark.slow
def test_a_cluster_flows():
    Z = jnp.stack([ZETA, -ZETA])
    poison = kp.Poison(Z, jnp.array([-1.0, 0.5]), jnp.array([2.0, 1.0]))
    clean = kp.fit(KERNELS["rbf"], X, Y)
    points, targets = jnp.concatenate([X, Z[:1], Z]), jnp.concatenate([Y, jnp.array([-1.0, -1.0, 0.5])])
    reference, error = flow_by_eigenvectors(clean, points, targets, PROBES)(len(points), RIDGE, 20.0)
    law = kp.predict(kp.flow.early_stopped(clean, 20.0), PROBES, RIDGE, poison)
    np.testing.assert_allclose(law, reference[:, 0], rtol=0, atol=error)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [kp.Spectral(), kp.Cholesky(), kp.Tridiagonal()])
def test_the_end_of_training_is_the_ridge_predictor(solver):
    clean = kp.fit(KERNELS["rbf"], X, Y, solver=solver, gradient_penalty=0.2)
    for time in (1e9, np.inf):
        stopped = kp.flow.early_stopped(clean, time)
        for law in (kp.efficacy, kp.spike):
            expected = law(clean, POISON, PROBES, RIDGE)
            np.testing.assert_allclose(
                law(stopped, POISON, PROBES, RIDGE), expected, rtol=0, atol=1e-10 * np.abs(expected).max()
            )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@settings(max_examples=30, deadline=None)
@given(exponent=st.floats(-30, 30))
def test_the_contour_is_accurate_for_every_rate(dtype, exponent):
    rate, time, ridge = jnp.asarray(np.exp(exponent), dtype), jnp.asarray(2.0, dtype), jnp.asarray(0.0, dtype)
    found = float(at_time(lambda rho: 1 / (rate + rho), 1.0, ridge, time))
    expected = -np.expm1(-2.0 * float(rate)) / float(rate)
    # Quadrature, and rounding amplified by the size of its terms, e^{0.17 N}.
    assert abs(found / expected - 1) < {jnp.float64: 1e-13, jnp.float32: 4e-6}[dtype]


@pytest.mark.slow
def test_spike_is_the_squared_gradient_of_the_efficacy():
    stopped = kp.flow.early_stopped(kp.fit(KERNELS["rbf"], X, Y), 7.0)
    gradients = jax.vmap(jax.grad(lambda x: kp.efficacy(stopped, POISON, x, RIDGE)))(PROBES)
    np.testing.assert_allclose(kp.spike(stopped, POISON, PROBES, RIDGE), jnp.sum(gradients**2, axis=1), rtol=1e-11)
    f = kp.predictor(stopped, RIDGE, POISON)
    np.testing.assert_allclose(jax.vmap(f)(PROBES), kp.predict(stopped, PROBES, RIDGE, POISON), rtol=1e-12)
    rows = kp.curvature.fisher(f, PROBES).dense()
    J = jax.vmap(jax.grad(f))(PROBES)
    np.testing.assert_allclose(rows, J.T @ J / len(PROBES), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_derivatives_in_time_ridge_count_and_data_are_finite_differences(penalty):
    def law(time, ridge, count, zeta, scale):
        clean = kp.fit(kp.kernels.RBF(scale), X, Y, gradient_penalty=penalty)
        return kp.efficacy(kp.flow.early_stopped(clean, time), kp.Poison(zeta, LABEL, count), PROBES[0], ridge)

    arguments = (jnp.asarray(5.0), jnp.asarray(1e-2), jnp.asarray(3.0), ZETA, jnp.asarray(2.0))
    gradients = jax.grad(law, argnums=tuple(range(5)))(*arguments)
    step = 1e-5
    for i, gradient in enumerate(gradients):
        direction = jnp.ones_like(arguments[i])
        ends = [law(*arguments[:i], arguments[i] + sign * step * direction, *arguments[i + 1 :]) for sign in (1, -1)]
        difference = (ends[0] - ends[1]) / (2 * step)
        # Of second order in the step, and the law's rounding over the step.
        assert abs(float(jnp.sum(gradient) - difference)) < 1e-7 * max(1.0, abs(float(difference)))


def test_the_flow_starts_at_zero_with_the_slope_of_the_loss():
    clean = kp.fit(KERNELS["rbf"], X, Y)

    def prediction(time):
        return kp.predict(kp.flow.early_stopped(clean, time), PROBES[0], RIDGE)

    value, slope = jax.value_and_grad(prediction)(0.0)
    assert float(value) == 0
    expected = float((KERNELS["rbf"](PROBES[:1], X) @ Y / len(X))[0])
    np.testing.assert_allclose(slope, expected, rtol=1e-12)


@pytest.mark.slow
def test_trajectory_is_the_law_at_each_time():
    clean = kp.fit(KERNELS["rbf"], X, Y)
    times = jnp.array([0.0, 1.0, 10.0, jnp.inf])
    found = kp.flow.trajectory(kp.efficacy, clean, times, POISON, PROBES, RIDGE)
    for time, row in zip(times, found, strict=True):
        expected = kp.efficacy(kp.flow.early_stopped(clean, time), POISON, PROBES, RIDGE)
        np.testing.assert_allclose(row, expected, rtol=1e-12, atol=1e-14)
    jitted = jax.jit(lambda t: kp.flow.trajectory(kp.efficacy, clean, t, POISON, PROBES, RIDGE))(times)
    np.testing.assert_allclose(jitted, found, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_thresholds_along_the_flow():
    clean = kp.fit(KERNELS["rbf"], X, jnp.abs(Y))
    stopped = kp.flow.early_stopped(clean, 20.0)
    m = float(kp.m_success(stopped, POISON, ZETA, RIDGE))
    assert 0 < m < np.inf

    def prediction(count):
        return float(kp.predict(stopped, ZETA, RIDGE, kp.Poison(ZETA, LABEL, count)))

    assert prediction(m * (1 + 1e-9)) < 0 < prediction(m * (1 - 1e-9))


@pytest.mark.slow
def test_float32_is_close_to_float64():
    clean = kp.fit(KERNELS["rbf"], X, Y)
    short = kp.fit(kp.kernels.RBF(2.0), X.astype(jnp.float32), Y.astype(jnp.float32))
    for time in (0.0, 1e-3, 10.0, 1e5):
        exact = np.asarray(kp.predict(kp.flow.early_stopped(clean, time), PROBES, 1e-2, POISON))
        found = kp.predict(kp.flow.early_stopped(short, time), PROBES.astype(jnp.float32), 1e-2, POISON)
        assert found.dtype == jnp.float32
        condition = float(clean.condition_number(jnp.asarray(33 * (1e-2 + 1 / max(time, 1e-12)))))
        tolerance = 20 * float(jnp.finfo(jnp.float32).eps) * condition * np.abs(exact).max()
        np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance)


CLEAN = kp.fit(KERNELS["rbf"], X, Y)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kp.flow.early_stopped(X, 1.0), TypeError, "clean must be a Posterior"),
        (lambda: kp.flow.early_stopped(CLEAN, -1.0), ValueError, "time must be >= 0, got -1"),
        (lambda: kp.flow.early_stopped(CLEAN, np.nan), ValueError, "time must be >= 0"),
        (lambda: kp.flow.early_stopped(CLEAN, [1.0, 2.0]), ValueError, "time must be a single number"),
        (lambda: kp.flow.trajectory(kp.predict, CLEAN, [1.0, -1.0], X, 1.0), ValueError, "times must be >= 0"),
        (lambda: kp.flow.trajectory(kp.predict, CLEAN, [2.0, 1.0], X, 1.0), ValueError, "times must rise strictly"),
        (lambda: kp.flow.trajectory(kp.predict, CLEAN, 1.0, X, 1.0), ValueError, r"times must have shape \(T,\)"),
        (lambda: kp.gain(kp.flow.early_stopped(CLEAN, 1.0), POISON, 1.0), ValueError, "trained to the end"),
        (
            lambda: kp.spike_efficacy_ratio(kp.flow.early_stopped(CLEAN, 1.0), POISON, ZETA, 1.0),
            ValueError,
            "trained to the end",
        ),
        (lambda: kp.predict(CLEAN, X, 0.0), ValueError, "ridge must be finite and > 0"),
        (lambda: kp.predict(kp.flow.early_stopped(CLEAN, 1.0), X, -1.0), ValueError, "ridge must be finite and >= 0"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_traced_bad_times_are_refused():
    def law(time):
        return kp.predict(kp.flow.early_stopped(CLEAN, time), ZETA, RIDGE)

    with pytest.raises(Exception, match="time must be >= 0"):
        jax.jit(law)(jnp.asarray(-1.0)).block_until_ready()
    with pytest.raises(Exception, match="rise strictly"):
        jax.jit(lambda t: kp.flow.trajectory(kp.predict, CLEAN, t, ZETA, RIDGE))(
            jnp.array([2.0, 1.0])
        ).block_until_ready()
