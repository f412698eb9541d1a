"""R5: the squared loss is R1, logistic regression is that of training sets, derivatives are differences."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from trained import arrays, draw, rate

import kpoison as kp
from kpoison.asymptotics import (
    Mixture,
    backdoor_mixture,
    convex_regression,
    logistic_regression,
    ridge_regression,
    softmax_regression,
)
from kpoison.asymptotics.root_finding import proximal, proximal_pull, system_root


def squared(score, label):
    return (score - label) ** 2 / 2


def squared_sum(scores, label):
    return jnp.sum(squared(scores, label))


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
    mixture, n, ridge = attack(), 100, 0.02
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
    law = np.array([float(v) for v in (*law, model.overlap(np.eye(40)[7]))])
    assert np.all(np.abs(law - mean) < 4 * error + (1 + np.array([0, 0, 0, law[3], 0])) / n), (law, mean, error)


def several(d, classes, covariance=None):
    """Classes with means of length 1.5 and more, the trigger along an axis across most of them."""
    means = 1.5 * np.eye(d)[:classes] + 0.02 * np.random.default_rng(2).normal(size=(classes, d))
    covariance = np.linspace(0.5, 1.5, d) if covariance is None else covariance
    return backdoor_mixture(means, covariance, np.eye(d)[classes], 0.1, 2.0, target=1, test_strength=1.5)


def dense(d):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0]
    covariance = (turn * np.linspace(0.5, 1.5, d)) @ turn.T
    return (covariance + covariance.T) / 2


def softmax_trained(X, Y, ridge):
    """Softmax regression by SciPy; its intercepts sum to 0, as their slopes do."""
    n, d = X.shape

    def objective(p):
        B, b = p[: d * Y.shape[1]].reshape(d, -1), p[d * Y.shape[1] :]
        scores = X @ B + b
        log = scores - scipy.special.logsumexp(scores, axis=1, keepdims=True)
        pull = (np.exp(log) - Y) / n
        slope = np.concatenate([(X.T @ pull + ridge * B).ravel(), pull.sum(axis=0)])
        return -np.mean(np.sum(Y * log, axis=1)) + 0.5 * ridge * np.sum(B**2), slope

    start = np.zeros((d + 1) * Y.shape[1])
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-7})
    return found.x[: d * Y.shape[1]].reshape(d, -1), found.x[d * Y.shape[1] :]


@pytest.mark.slow
@pytest.mark.parametrize("classes", [3, 4])
def test_softmax_regression_against_training_sets(classes):
    """Three classes with a dense covariance, four with a diagonal one."""
    d, n, ridge, draws = 40, 200, 0.05, 40
    mixture = several(d, classes, dense(d) if classes == 3 else None)
    model = softmax_regression(mixture, n, ridge)
    assert float(model.residual) < 1e-9
    training, clean, triggered = map(arrays, (mixture.training, mixture.clean, mixture.triggered))
    matrix = np.diag(training[1]) if training[1].ndim == 1 else training[1]
    generator, found = np.random.default_rng(0), []
    for _ in range(draws):
        X, Y = draw(generator, *training, n)
        B, b = softmax_trained(X, Y, ridge)
        scores = X @ B + b
        loss = np.mean(scipy.special.logsumexp(scores, axis=1) - np.sum(Y * scores, axis=1))
        rates = [rate(B, b, m[1], m[0], m[2], m[3]) for m in (clean, triggered)]
        parts = (B.T @ B, B.T @ matrix @ B, training[0] @ B + b)
        found.append(np.concatenate([[*rates, loss], *(part.ravel() for part in parts)]))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / draws**0.5
    keys = {"key": jax.random.key(0), "draws": 20_000} if classes > 3 else {}
    rates = [getattr(model, name)(**keys) for name in ("accuracy", "attack_success_rate")]
    rates = [float(getattr(one, "value", one)) for one in rates]
    gram, scores = model.weights.T @ model.weights + model.spread, model.scores(training[0]).mean
    parts = [np.asarray(part).ravel() for part in (gram, model.covariance, scores)]
    law = np.concatenate([[*rates, float(model.training_loss)], *parts])
    # The next order: 1/n of rates, and of quadratic forms of the weights.
    order = np.concatenate([np.ones(3), *(np.full(part.size, np.max(np.abs(part))) for part in parts)])
    assert np.all(np.abs(law - mean) < 4 * error + 2 * order / n), (law, mean, error)
    assert np.all(np.abs(law - mean)[:2] < 4 * error[:2] + 1 / n)


def test_softmax_of_two_classes_is_logistic_regression():
    """Of the difference of scores, whose ridge is half."""
    mixture, d = attack(), 40
    means = np.asarray(mixture.clean.means)
    hot = backdoor_mixture(means, mixture.training.covariance, np.eye(d)[7], 0.1, 2.0, target=1)
    found, known = softmax_regression(hot, 100, 0.1), logistic_regression(mixture, 100, 0.05)
    np.testing.assert_allclose(found.weights[:, 1] - found.weights[:, 0], known.weights, atol=1e-10)
    np.testing.assert_allclose(found.weights.sum(axis=1), 0, atol=1e-12)
    for name in ("accuracy", "attack_success_rate"):
        assert float(getattr(found, name)()) == pytest.approx(float(getattr(known, name)()), abs=1e-10)
    assert float(found.training_loss) == pytest.approx(float(known.training_loss), abs=1e-10)


@pytest.mark.slow
def test_the_squared_loss_of_several_scores_is_ridge_regression():
    """Of labels that are not one-hot, whose sum would be known."""
    given = several(12, 2).training
    labels = np.random.default_rng(3).normal(size=(3, 2))
    mixture = Mixture(given.means, given.covariance, labels, given.fractions)
    for n, ridge in ((8, 1e-2), (100, 0.1)):
        found = convex_regression(mixture, n, ridge, squared_sum)
        known = ridge_regression(mixture, n, ridge)
        for name in ("weights", "intercept", "covariance", "spread"):
            np.testing.assert_allclose(getattr(found, name), getattr(known, name), atol=1e-9)
        assert float(2 * found.training_loss) == pytest.approx(float(known.training_error), abs=1e-9)


@pytest.mark.slow
def test_derivatives_of_softmax_regression():
    """Of a batch, in every number; a value against a single call, slopes against differences."""
    d = 40
    change = np.random.default_rng(4).normal(size=(d, d)) / d
    change, given = change + change.T, several(d, 3, dense(d))

    def found(at):
        covariance = dense(d) + at[3] * change
        mixture = backdoor_mixture(
            given.clean.means * (1 + at[4]), covariance, np.eye(d)[3], at[2], 2.0, target=1, test_strength=1.5
        )
        model = softmax_regression(mixture, at[0], at[1])
        return model.attack_success_rate() + model.training_loss + model.overlap(np.eye(d)[3])

    at, sizes = np.array([200.0, 0.05, 0.1, 0.0, 0.0]), np.diag([1e-1, 1e-4, 1e-4, 1e-3, 1e-3])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(found)))(np.concatenate([at[None], at + sizes, at - sizes]))
    np.testing.assert_allclose(values[0], found(at), rtol=1e-8)
    differences = (values[1:6] - values[6:]) / (2 * np.diag(sizes))
    np.testing.assert_allclose(slopes[0], differences, rtol=1e-4, atol=1e-6)


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
    d = 40  # of the programs of other tests
    mean = np.eye(d)[0] + 0.5 * np.eye(d)[3]

    def found(variances, n, ridge, strength):
        model = logistic_regression(backdoor_mixture(mean, variances, np.eye(d)[7], 0.1, strength), n, ridge)
        return model.attack_success_rate() + model.training_loss

    both = jax.jit(jax.value_and_grad(found, argnums=(0, 1, 2, 3)))
    at = (np.arange(1, d + 1) ** -0.5, 60.0, 0.05, 2.0)
    value, slopes = both(*at)
    wide = logistic_regression(attack(), *at[1:3])
    assert float(value) == pytest.approx(float(wide.attack_success_rate() + wide.training_loss), rel=1e-10)
    for i, size in enumerate((1e-4 * np.eye(d)[7], 1e-3, 1e-5, 1e-3)):
        ends = [both(*at[:i], at[i] + sign * size, *at[i + 1 :])[0] for sign in (1, -1)]
        slope = slopes[0] @ np.eye(d)[7] if i == 0 else slopes[i]
        assert float(slope) == pytest.approx(float(ends[0] - ends[1]) / (2 * np.max(size)), rel=1e-4)
    axes = np.eye(d, dtype=np.float32)
    single = backdoor_mixture(axes[0] + axes[3] / 2, at[0].astype(np.float32), axes[7], 0.1, 2)
    narrow = logistic_regression(single, np.float32(60), np.float32(0.05))
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

    def softmax_loss(f):
        return jax.nn.logsumexp(f) - f[1]

    # Of vectors: fitted scores far out, and by how much they move.
    root = jnp.linalg.cholesky(10 * jnp.array([[1.0, 0.3, 0], [0.3, 0.5, 0.1], [0, 0.1, 2.0]]))
    far = 8 * jax.random.normal(jax.random.key(0), (500, 3))
    points = far - jax.vmap(lambda v: proximal_pull(softmax_loss, v, root))(far) @ root.T
    back = points + jax.vmap(jax.grad(softmax_loss))(points) @ (root @ root.T)
    np.testing.assert_allclose(back, far, atol=1e-11)

    assert bool(of(8.0).converged)
    np.testing.assert_allclose(of(8.0).value, [2, np.log(2)], rtol=1e-14)
    np.testing.assert_allclose(jax.hessian(lambda s: of(s).value)(8.0)[0], -2 / 9 * 8.0 ** (-5 / 3), rtol=1e-10)
    assert not bool(system_root(lambda x: x**2 + 1, jnp.ones(1)).converged)


def test_bad_input():
    jaxtyping.config.update("jaxtyping_disable", True)
    mixture = attack(d=8)
    hot = backdoor_mixture(np.eye(3), np.ones(3), np.eye(3)[1], 0.1, 1.0, target=1)
    many = backdoor_mixture(np.eye(6), np.ones(6), np.eye(6)[0], 0.1, 1.0, target=1)
    negative = Mixture(np.eye(3)[:2], np.ones(3), np.array([[1.0, -1.0], [0.0, 1.0]]), np.array([0.5, 0.5]))
    scaled = Mixture(np.eye(3)[:2], np.ones(3), np.array([2.0, -1.0]), np.array([0.5, 0.5]))
    try:
        for call, kind, message in (
            (lambda: logistic_regression(mixture, 20, 0.0), ValueError, "ridge must be finite and > 0"),
            (lambda: logistic_regression(mixture, 1, 0.1), ValueError, "n must be at least 2"),
            (lambda: logistic_regression(hot, 20, 0.1), ValueError, r"mixture must have labels of shape \(K,\)"),
            (lambda: softmax_regression(mixture, 20, 0.1), ValueError, r"mixture must have labels of shape \(K, C\)"),
            (lambda: softmax_regression(many, 20, 0.1), ValueError, "loss must depend on at most 4 combinations"),
            (lambda: softmax_regression(negative, 20, 0.1), ValueError, "mixture must have labels >= 0, got -1"),
            (lambda: convex_regression(hot, 20, 0.1, squared), ValueError, "loss must return a number"),
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
