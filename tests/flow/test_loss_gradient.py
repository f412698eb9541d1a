"""The loss-gradient flow against SciPy's integrator on the theory's own equations, and against T2 where they agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import kpoison as kp
from kpoison.ridge.observations import Observations, covariance

RNG = np.random.default_rng(2)
X = jnp.asarray(RNG.normal(size=(8, 2)))
Y = jnp.sign(jnp.asarray(RNG.normal(size=8)))
ZETA = jnp.asarray(RNG.normal(size=2))
POISON = kp.Poison(ZETA, -1.0, 3)
KERNEL = kp.kernels.RBF(1.5)
METRIC = jnp.array([[1.0, 0.3], [0.3, 0.5]])
PENALTY, RIDGE = 0.7, 1e-2
TIMES = np.array([0.0, 0.3, 3.0, 30.0])
PROBES = jnp.asarray(RNG.normal(size=(4, 2)))


def integrated(targets):
    """Σ a k + b·∂k with ċ = −∂J/∂(values, slopes) − λc, J = (1/2n) Σ [r² + γ ‖(r·∇f)‖²_M], poisons copied."""
    points = jnp.concatenate([X, jnp.tile(ZETA, (3, 1))])
    observed = Observations(points, jnp.eye(2))
    gram = np.asarray(covariance(KERNEL, observed, observed))
    n, outputs = targets.shape

    def loss(seen):
        residuals = seen[:n] - targets
        slopes = jnp.einsum("nc,ndc->nd", residuals, seen[n:].reshape(n, 2, outputs))
        return 0.5 / n * (jnp.sum(residuals**2) + PENALTY * jnp.einsum("nd,de,ne->", slopes, METRIC, slopes))

    gradient = jax.jit(jax.grad(loss))

    def velocity(_, flat):
        c = flat.reshape(-1, outputs)
        return (-np.asarray(gradient(gram @ c)) - RIDGE * c).ravel()

    solution = scipy.integrate.solve_ivp(
        velocity, (0, TIMES[-1]), np.zeros(gram.shape[0] * outputs), "DOP853", TIMES, rtol=1e-11, atol=1e-13
    )
    cross = np.asarray(covariance(KERNEL, observed, Observations(PROBES)))
    return np.stack([cross.T @ c.reshape(-1, outputs) for c in solution.y.T])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["explicit", "implicit"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_flow_is_that_of_the_loss_with_its_own_gradient_penalised(method, outputs):
    y = Y if outputs == 1 else jnp.stack([Y, 0.5 * Y**2], axis=1)
    label = jnp.full((3, outputs), -1.0)
    clean = kp.fit(KERNEL, X, y, gradient_penalty=PENALTY, metric=METRIC)
    poison = kp.Poison(ZETA, label[0] if outputs > 1 else -1.0, 3)
    result = kp.flow.loss_gradient_flow(clean, RIDGE, TIMES, poison, tolerance=1e-9, method=method)
    expected = integrated(jnp.concatenate([y.reshape(8, -1), label]))
    found = np.asarray(result(PROBES)).reshape(expected.shape)
    # A step's error of 1e-9 of the largest coefficient, over at most some hundred steps.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
    assert bool(result.completed)
    np.testing.assert_allclose(jax.vmap(result.predictor(2))(PROBES), np.asarray(result(PROBES))[2], rtol=1e-12)


@pytest.mark.slow
def test_early_in_training_it_is_the_closed_form():
    clean = kp.fit(KERNEL, X, Y, gradient_penalty=PENALTY)
    times = np.array([1e-4, 1e-3])
    loss = np.asarray(kp.flow.loss_gradient_flow(clean, RIDGE, times, POISON)(PROBES))
    closed = np.asarray(kp.flow.trajectory(kp.predict, clean, times, PROBES, RIDGE, POISON))
    plain = np.asarray(kp.flow.trajectory(kp.predict, kp.fit(KERNEL, X, Y), times, PROBES, RIDGE, POISON))
    # Labels ±1: residuals are 1 + O(t), so the two flows part at third order in t and the penalty shows at second.
    parted, shown = np.abs(loss - closed).max(axis=1), np.abs(plain - closed).max(axis=1)
    assert np.all(parted < 0.1 * shown)
    np.testing.assert_allclose(parted[1] / parted[0], 1000, rtol=0.2)


@pytest.mark.slow
def test_too_few_steps_are_reported():
    clean = kp.fit(KERNEL, X, Y, gradient_penalty=PENALTY)
    with pytest.raises(kp.flow.IncompleteFlowError, match="after 5 of at most 5 steps"):
        kp.flow.loss_gradient_flow(clean, RIDGE, TIMES, max_steps=5, method="explicit")
    result = kp.flow.loss_gradient_flow(clean, RIDGE, TIMES, max_steps=5, method="explicit", throw=False)
    assert not bool(result.completed)
    assert not np.isfinite(np.asarray(result.coefficients[-1])).all()


@pytest.mark.slow
def test_late_times_take_the_implicit_method():
    clean = kp.fit(KERNEL, X, Y, gradient_penalty=PENALTY)
    late = kp.flow.loss_gradient_flow(clean, RIDGE, np.array([1e6]), POISON)
    later = kp.flow.loss_gradient_flow(clean, RIDGE, np.array([1e7]), POISON)
    assert int(late.steps) < 2000
    np.testing.assert_allclose(late(PROBES), later(PROBES), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_float32_and_jit():
    clean = kp.fit(KERNEL, X.astype(jnp.float32), Y.astype(jnp.float32), gradient_penalty=PENALTY)

    @jax.jit
    def law(ridge):
        return kp.flow.loss_gradient_flow(clean, ridge, jnp.asarray(TIMES, jnp.float32), tolerance=1e-5)(
            PROBES.astype(jnp.float32)
        )

    exact = kp.flow.loss_gradient_flow(kp.fit(KERNEL, X, Y, gradient_penalty=PENALTY), RIDGE, TIMES)(PROBES)
    found = law(jnp.float32(RIDGE))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"clean": kp.fit(KERNEL, X, Y)}, ValueError, "clean must be fitted with a gradient penalty"),
        ({"times": [1.0, 0.5]}, ValueError, "times must rise strictly"),
        ({"times": [-1.0]}, ValueError, "times must be >= 0"),
        ({"times": [np.inf]}, ValueError, "times must be finite"),
        ({"method": "euler"}, ValueError, "method must be one of"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be finite and > 0"),
        ({"max_steps": 0}, ValueError, "max_steps must be an integer >= 1"),
        ({"ridge": -1.0}, ValueError, "ridge must be finite"),
    ],
)
def test_bad_input_is_refused(options, error, message):
    arguments = {"clean": kp.fit(KERNEL, X, Y, gradient_penalty=PENALTY), "ridge": RIDGE, "times": TIMES}
    with pytest.raises(error, match=message):
        kp.flow.loss_gradient_flow(**(arguments | options))
