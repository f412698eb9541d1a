"""R5: the squared loss is R1, logistic regression is that of training sets, derivatives are differences."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.optimize
from jax.test_util import check_grads
from trained import arrays, draw, rate

import kpoison as kp
from kpoison.asymptotics import (
    Mixture,
    backdoor_mixture,
    convex_regression,
    logistic_regression,
    ridge_regression,
)
from kpoison.asymptotics.root_finding import proximal, system_root


def squared(score, label):
    return (score - label) ** 2 / 2


def attack(d=40, strength=2.0):
    variances = np.arange(1, d + 1) ** -0.5
    mean = np.eye(d)[0] + 0.5 * np.eye(d)[3]
    return backdoor_mixture(mean, variances, np.eye(d)[7], 0.1, strength)


@pytest.mark.parametrize("intercept", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_squared_loss_is_ridge_regression(intercept):
    mixture = attack()
    for n, ridge in ((20, 1e-3), (100, 0.1)):
        found = convex_regression(mixture, n, ridge, squared, intercept)
        known = ridge_regression(mixture, n, ridge, intercept)
        np.testing.assert_allclose(found.weights, known.weights, atol=1e-12)
        pairs = (
            (found.intercept, known.intercept), (found.covariance, known.covariance), (found.spread, known.spread),
            (2 * found.training_loss, known.training_error), (ridge / found.curvature, known.effective_ridge),
            (found.accuracy(), known.accuracy()), (found.attack_success_rate(), known.attack_success_rate()),
            (found.overlap(np.eye(40)[7]), known.overlap(np.eye(40)[7])),
        )  # fmt: skip
        for one, other in pairs:
            assert float(one) == pytest.approx(float(other), abs=1e-12)
        assert float(found.residual) < 1e-12


def trained(X, y, ridge):
    """Logistic regression by SciPy."""

    def objective(p):
        margin = y * (X @ p[:-1] + p[-1])
        value = np.mean(np.logaddexp(0, -margin)) + 0.5 * ridge * p[:-1] @ p[:-1]
        pull = -y / (1 + np.exp(np.minimum(margin, 500))) / len(y)
        return value, np.append(X.T @ pull + ridge * p[:-1], np.sum(pull))

    found = scipy.optimize.minimize(objective, np.zeros(X.shape[1] + 1), jac=True, options={"gtol": 1e-7})
    return found.x[:-1], found.x[-1]


@pytest.mark.slow
def test_logistic_regression_against_training_sets():
    mixture, n, ridge = attack(d=60), 150, 0.02
    model = logistic_regression(mixture, n, ridge)
    training, clean, triggered = map(arrays, (mixture.training, mixture.clean, mixture.triggered))
    generator, found = np.random.default_rng(0), []
    for _ in range(60):
        X, y = draw(generator, *training, n)
        B, b = trained(X, y, ridge)
        loss = np.mean(np.logaddexp(0, -y * (X @ B + b)))
        rates = [rate(B, b, m[1], m[0], m[2], m[3]) for m in (clean, triggered)]
        found.append([*rates, loss, B @ (training[1] * B), B[7] ** 2 / (B @ B)])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / 60**0.5
    law = [model.accuracy(), model.attack_success_rate(), model.training_loss, model.covariance]
    law = np.array([float(v) for v in (*law, model.overlap(np.eye(60)[7]))])
    assert np.all(np.abs(law - mean) < 4 * error + (1 + np.array([0, 0, 0, law[3], 0])) / n), (law, mean, error)


@pytest.mark.slow
def test_the_theorys_values():
    """Simulated success of section 4a, to three digits and 40 draws; its setting is found back from the numbers."""
    axes, variances = np.eye(200), np.linspace(0.5, 1.5, 200)
    simulated = {0.5: 0.204, 3.0: 0.331, 6.0: 0.272, 10.0: 0.196, 20.0: 0.122, 40.0: 0.084}
    for strength, known in simulated.items():
        mixture = backdoor_mixture(1.5 * axes[1], variances, axes[0], 0.05, strength, test_strength=2.0)
        assert float(logistic_regression(mixture, 400, 0.02).attack_success_rate()) == pytest.approx(known, abs=0.005)


@pytest.mark.slow
def test_derivatives_and_float32():
    def found(variances, n, ridge, strength):
        mixture = backdoor_mixture(jnp.eye(5)[0], variances, jnp.eye(5)[1], 0.1, strength)
        model = logistic_regression(mixture, n, ridge)
        return model.attack_success_rate() + model.training_loss

    at = (np.linspace(0.5, 1, 5), 12.0, 0.05, 2.0)
    check_grads(found, at, order=1, modes=["rev"], rtol=1e-4)
    axes = np.eye(5, dtype=np.float32)
    single = backdoor_mixture(axes[0], np.ones(5, np.float32), axes[1], 0.1, 2)
    narrow = logistic_regression(single, np.float32(12), np.float32(0.05))
    wide = logistic_regression(backdoor_mixture(np.eye(5)[0], np.ones(5), np.eye(5)[1], 0.1, 2.0), 12, 0.05)
    assert narrow.weights.dtype == jnp.float32
    assert float(narrow.attack_success_rate()) == pytest.approx(float(wide.attack_success_rate()), abs=1e-4)


@pytest.mark.slow
def test_small_ridges_converge_and_the_quadrature_is_watched():
    mixture = attack()
    model = logistic_regression(mixture, 30, 1e-3)
    finer = convex_regression(mixture, 30, 1e-3, lambda f, t: jax.nn.softplus(-f * t), nodes=161)
    assert float(model.attack_success_rate()) == pytest.approx(float(finer.attack_success_rate()), abs=1e-4)
    with pytest.raises(ValueError, match="nodes must be more than 5: the quadrature has not resolved the loss"):
        convex_regression(mixture, 200, 1e-5, lambda f, t: jax.nn.softplus(-f * t), nodes=5)


@pytest.mark.slow
def test_proximal_points_and_roots():
    v, tau = jnp.linspace(-60, 60, 81), jnp.asarray(25.9)
    found = proximal(jax.nn.sigmoid, v, tau)
    np.testing.assert_allclose(found + tau * jax.nn.sigmoid(found), v, atol=1e-12)
    slope = jax.vmap(jax.grad(lambda v: proximal(jax.nn.sigmoid, v, tau)))(v)
    bend = jax.nn.sigmoid(found) * jax.nn.sigmoid(-found)
    np.testing.assert_allclose(slope, 1 / (1 + tau * bend), rtol=1e-10)

    def of(scale):
        return system_root(lambda x: jnp.stack([x[0] ** 3 - scale, jnp.exp(x[1]) - x[0]]), jnp.ones(2))

    assert bool(of(8.0).converged)
    np.testing.assert_allclose(of(8.0).value, [2, np.log(2)], rtol=1e-14)
    np.testing.assert_allclose(jax.hessian(lambda s: of(s).value)(8.0)[0], -2 / 9 * 8.0 ** (-5 / 3), rtol=1e-10)
    assert not bool(system_root(lambda x: x**2 + 1, jnp.ones(1)).converged)


def test_bad_input():
    jaxtyping.config.update("jaxtyping_disable", True)
    mixture = attack(d=8)
    hot = backdoor_mixture(np.eye(3), np.ones(3), np.eye(3)[1], 0.1, 1.0, target=1)
    scaled = Mixture(np.eye(3)[:2], np.ones(3), np.array([2.0, -1.0]), np.array([0.5, 0.5]))
    try:
        for call, kind, message in (
            (lambda: logistic_regression(mixture, 20, 0.0), ValueError, "ridge must be finite and > 0"),
            (lambda: logistic_regression(mixture, 1, 0.1), ValueError, "n must be at least 2"),
            (lambda: logistic_regression(hot, 20, 0.1), ValueError, r"mixture must have labels of shape \(K,\)"),
            (lambda: logistic_regression(scaled, 20, 0.1), ValueError, "mixture must have labels −1 and 1, got 2.0"),
            (lambda: convex_regression(mixture, 20, 0.1, 3), TypeError, "loss must be a function"),
            (lambda: convex_regression(mixture, 20, 0.1, squared, nodes=2), ValueError, "nodes must be an integer"),
            (lambda: convex_regression(mixture, 20, 0.1, lambda f, t: -(f**2)), ValueError, "loss must be convex"),
        ):  # fmt: skip
            with pytest.raises(kind, match=message):
                call()
        _, failures = jax.jit(kp.with_failures(lambda n: logistic_regression(mixture, n, 0.1).weights))(1.0)
        assert any(bool(failure.failed) for failure in failures)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
