"""R1, R2: against training sets by NumPy, closed forms, the population, and differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.test_util import check_grads
from scipy.stats import multivariate_normal, norm
from trained import arrays, counts_of, draw, error_of, rate, ridge_regression

import kpoison as kp
from kpoison import asymptotics

KEY = jax.random.key(0)


def attack(d=60, along=0.5, fraction=0.1, strength=3.0, **more):
    """Two classes ±e₁ of unit variance but along the trigger e₂."""
    variances = np.ones(d)
    variances[1] = along**2
    return asymptotics.backdoor_mixture(np.eye(d)[0], variances, np.eye(d)[1], fraction, strength, **more)


def several_classes(d, classes=3, **more):
    generator = np.random.default_rng(0)
    rotation = np.linalg.qr(generator.normal(size=(d, d)))[0]
    covariance = (rotation * np.arange(1, d + 1) ** -0.7) @ rotation.T
    means = 0.15 * generator.normal(size=(classes, d))
    given = {"fraction": 0.1, "strength": 2.0, "test_strength": 1.5, "target": 1} | more
    return means, (covariance + covariance.T) / 2, rotation, given


def realised(training, n):
    """With the fractions that whole numbers of n points can have."""
    shares = np.asarray(counts_of(np.asarray(training.fractions), n)) / n
    return asymptotics.Mixture(training.means, training.covariance, training.labels, shares)


def compared(mixture, n, ridge, intercept, draws, seed=0):
    """Law and simulation of accuracy, attack success, training error and error at new points, and standard errors."""
    mixture = asymptotics.Backdoor(realised(mixture.training, n), mixture.clean, mixture.triggered)
    model = asymptotics.ridge_regression(mixture, n, ridge, intercept)
    law = [float(model.accuracy()), float(model.attack_success_rate())]
    law += [float(model.training_error), float(jnp.trace(model.error.reshape(-1, *model.error.shape[-1:])))
            if model.error.ndim else float(model.error)]  # fmt: skip
    training, clean, triggered = map(arrays, (mixture.training, mixture.clean, mixture.triggered))
    generator, found = np.random.default_rng(seed), []
    for _ in range(draws):
        X, Y = draw(generator, *training, n)
        B, b = ridge_regression(X, Y, ridge, intercept)
        both = [np.sum((X @ B + b - Y) ** 2) / n, error_of(B, b, *training)]
        found.append([rate(B, b, m[1], m[0], m[2], m[3]) for m in (clean, triggered)] + both)
    return np.array(law), np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / draws**0.5


def both_positive(mean, cov):
    """Of two normal variables, by conditioning on the first and adaptive quadrature."""
    (h, k), rho = mean / np.sqrt(np.diag(cov)), cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])

    def density(z):
        return norm.pdf(z) * norm.cdf((k + rho * z) / np.sqrt(1 - rho**2))

    return scipy.integrate.quad(density, -h, 12.0, epsabs=1e-15, epsrel=1e-13, limit=200)[0]


@pytest.mark.parametrize("intercept", [True, False])
def test_two_classes_against_training_sets(intercept):
    law, mean, error = compared(attack(), 200, 0.05, intercept, 40)
    assert np.all(np.abs(law - mean) < 4 * error + 1 / 200), (law, mean, error)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "ridge"), [(150, 0.0), (40, 0.0), (100, 0.02)])
def test_three_classes_and_the_limits_without_a_ridge(n, ridge):
    means, covariance, rotation, given = several_classes(80)
    mixture = asymptotics.backdoor_mixture(means, covariance, rotation[:, -3], **given)
    law, mean, error = compared(mixture, n, ridge, True, 60)
    # Beside the threshold, where the law itself has corrections of order 1/n to a large number.
    assert np.all(np.abs(law - mean) < 4 * error + 3 / n * np.maximum(1, law)), (law, mean, error)


@pytest.mark.slow
def test_random_settings():
    """A small version of the 200 settings of `kpoison verify --full`, d from 50 to 400, of which 98 % are within."""
    generator, outside, number = np.random.default_rng(5), 0, 0
    for seed in range(10):
        d, classes = 50, int(generator.integers(2, 4))
        n = int(generator.integers(d // 2, 4 * d))
        variances = np.arange(1, d + 1) ** -generator.uniform(0, 1)
        means = generator.normal(size=(classes, d)) * generator.uniform(1, 3) / d**0.5
        mixture = asymptotics.backdoor_mixture(
            means, variances, np.eye(d)[int(generator.integers(d))], generator.uniform(0.02, 0.2),
            generator.uniform(0.5, 5), target=0,
        )  # fmt: skip
        law, mean, error = compared(mixture, n, 10 ** generator.uniform(-2, 0), True, 30, seed)
        outside += np.sum(np.abs(law - mean)[:2] > 3 * error[:2] + 1 / n)
        number += 2
    assert outside <= 0.1 * number


def test_closed_form_without_intercept():
    """u orthogonal to the means in the metric of the resolvent: the poison is label noise of weight θ/D (R1)."""
    theta, alpha, ridge, n = 0.15, 2.5, 0.2, 150
    mixture = attack(along=0.7, fraction=theta, strength=alpha)
    model = asymptotics.ridge_regression(mixture, n, ridge, intercept=False)
    effective = float(model.effective_ridge)
    of_mean, of_trigger = 1 / (1 + effective), 1 / (0.49 + effective)
    D = 1 + theta * alpha**2 * of_trigger
    along = of_mean * (1 - theta - theta / D) / (1 + of_mean * (1 - theta + theta / D))
    np.testing.assert_allclose(model.weights[0], along, rtol=1e-12)
    np.testing.assert_allclose(model.weights[1], theta * alpha * of_trigger * (1 + along) / D, rtol=1e-12)
    assert float(model.intercept) == 0


def test_many_points_are_the_population():
    """n → ∞: λ_e = λ, no variance; the normal equations on moments."""
    mixture = attack(d=5, fraction=0.2)
    M, variances, t, pi = arrays(mixture.training)
    model = asymptotics.ridge_regression(mixture, 1e12, 0.3)
    mean, target = pi @ M, pi @ t
    second = np.diag(variances) + (M - mean).T @ np.diag(pi) @ (M - mean)
    B = np.linalg.solve(second + 0.3 * np.eye(5), (M - mean).T @ (pi * (t - target)))
    b = target - mean @ B
    np.testing.assert_allclose(model.weights, B, atol=1e-11)
    np.testing.assert_allclose(model.intercept, b, atol=1e-11)
    residual = np.sum(pi * (M @ B + b - t) ** 2) + B @ (variances * B)
    np.testing.assert_allclose([model.error, model.training_error], residual, rtol=1e-10)
    scores = model.scores(M)
    np.testing.assert_allclose(scores.mean, M @ B + b, atol=1e-11)
    np.testing.assert_allclose(scores.covariance, B @ (variances * B), rtol=1e-10)
    np.testing.assert_allclose(model.overlap(np.eye(5)[1]), B[1] ** 2 / (B @ B), rtol=1e-10)
    np.testing.assert_allclose(model.scores(M[0]).mean, scores.mean[0])


@pytest.mark.slow
def test_two_outputs_are_one_and_rotations_change_nothing():
    d = 12
    generator = np.random.default_rng(1)
    rotation = np.linalg.qr(generator.normal(size=(d, d)))[0]
    variances, mu, u = np.linspace(0.2, 2, d), generator.normal(size=d), generator.normal(size=d)
    signed = asymptotics.backdoor_mixture(mu, variances, u, 0.1, 2.0)
    dense = (rotation * variances) @ rotation.T
    classes = np.stack([-mu, mu]) @ rotation.T
    hot = asymptotics.backdoor_mixture(classes, (dense + dense.T) / 2, rotation @ u, 0.1, 2.0, target=1)
    one, two = (asymptotics.ridge_regression(m, 30, 0.1) for m in (signed, hot))
    for name in ("accuracy", "attack_success_rate"):
        assert float(getattr(one, name)()) == pytest.approx(float(getattr(two, name)()), rel=1e-11)
    assert float(one.overlap(u)) == pytest.approx(float(two.overlap(rotation @ u)), rel=1e-11)
    np.testing.assert_allclose(rotation.T @ (two.weights[:, 1] - two.weights[:, 0]), one.weights, atol=1e-12)
    assert float(one.error) == pytest.approx(2 * float(jnp.trace(two.error)), rel=1e-11)


@pytest.mark.slow
def test_many_classes_are_the_multivariate_normals():
    for classes in (3, 4):
        means, covariance, rotation, given = several_classes(20, classes)
        model = asymptotics.ridge_regression(
            asymptotics.backdoor_mixture(means, covariance, rotation[:, 2], **given), 60, 0.05
        )
        clean = arrays(model.mixture.clean)
        scores, V = model.scores(clean[0]).mean, np.asarray(model.covariance)
        expected = 0.0
        for k in range(classes):
            turn = np.delete(np.eye(classes)[k] - np.eye(classes), k, axis=0)
            mean, spread = turn @ np.asarray(scores[k]), turn @ V @ turn.T
            expected += (both_positive if classes == 3 else multivariate_normal.cdf)(mean, cov=spread) / classes
        if classes == 3:
            assert float(model.accuracy()) == pytest.approx(expected, abs=1e-13)
            continue
        found = model.accuracy(key=KEY, draws=20_000)
        assert abs(float(found.value) - expected) < 4 * float(found.standard_error) + 1e-5
        assert float(found.standard_error) < 2e-3


@pytest.mark.slow
def test_derivatives_in_every_number():
    means, covariance, rotation, _ = several_classes(4)

    @jax.jit
    def found(covariance, means, theta, alpha, n, ridge):
        covariance = (covariance + covariance.T) / 2 if covariance.ndim == 2 else covariance
        mixture = asymptotics.backdoor_mixture(means, covariance, rotation[:, 2], theta, alpha, target=1)
        model = asymptotics.ridge_regression(mixture, n, ridge)
        success = model.attack_success_rate()
        return success + model.overlap(rotation[:, 2]) + model.training_error

    at = (means, 0.1, 2.0, 12.0, 0.05)
    check_grads(found, (covariance, *at), order=1, modes=["rev"])
    check_grads(found, (np.diag(covariance), *at), order=1, modes=["rev"])
    # At θ = 0 from the right.
    slope = jax.grad(found, argnums=2)(covariance, means, 0.0, *at[2:])
    ends = [found(covariance, means, theta, *at[2:]) for theta in (0.0, 1e-6)]
    assert float(slope) == pytest.approx(float(ends[1] - ends[0]) / 1e-6, rel=1e-3)


@pytest.mark.slow
def test_second_derivatives_of_a_dense_covariance_with_equal_eigenvalues():
    means = np.eye(4)[:2]

    @jax.jit
    def found(change, ridge):
        covariance = jnp.eye(4) + (change + change.T) / 2
        mixture = asymptotics.backdoor_mixture(means, covariance, np.eye(4)[3], 0.1, 2.0, target=1)
        return asymptotics.ridge_regression(mixture, 12.0, ridge).attack_success_rate()

    check_grads(found, (np.zeros((4, 4)), 0.05), order=2, modes=["rev"])


def test_transformations_and_float32():
    variances = np.linspace(0.3, 1, 8)

    def success(n, ridge, strength, variances=variances):
        dtype = jnp.asarray(variances).dtype
        mixture = asymptotics.backdoor_mixture(
            jnp.eye(8, dtype=dtype)[0], variances, jnp.eye(8, dtype=dtype)[1], 0.1, strength
        )
        return asymptotics.ridge_regression(mixture, n, ridge).attack_success_rate()

    n, ridge, strength = np.linspace(4, 50, 5), np.geomspace(1e-3, 1, 5), np.linspace(0, 5, 5)
    many = jax.jit(jax.vmap(success))(n, ridge, strength)
    np.testing.assert_allclose(many, [success(*at) for at in zip(n, ridge, strength, strict=True)], rtol=1e-12)
    narrow = success(np.float32(9), np.float32(0.1), np.float32(2), variances.astype(np.float32))
    assert narrow.dtype == jnp.float32
    assert float(narrow) == pytest.approx(float(success(9.0, 0.1, 2.0)), rel=1e-5)


def test_the_threshold_of_interpolation():
    """Without a ridge the variance peaks at d = n, and scores are chance there."""
    variances = [
        float(asymptotics.ridge_regression(attack(d=40), n, 0.0).covariance) for n in (20, 30, 36, 39.9, 44, 50, 80)
    ]
    assert np.all(np.diff(variances[:4]) > 0)
    assert np.all(np.diff(variances[4:]) < 0)
    at = asymptotics.ridge_regression(attack(d=40), 40, 0.0)
    assert np.isinf(at.covariance)
    assert float(at.accuracy()) == 0.5
    near = asymptotics.ridge_regression(attack(d=40), 80, 1e-12)
    assert float(near.covariance) == pytest.approx(variances[-1], rel=1e-9)


@pytest.mark.slow
def test_many_inputs_cost_their_number():
    import time

    d = 10**6
    mean, u, variances = np.zeros(d), np.zeros(d), np.linspace(0.1, 1, d)
    mean[0], u[1] = 1.0, 1.0
    mixture = asymptotics.backdoor_mixture(mean, variances, u, 0.1, 2.0)
    jax.block_until_ready(asymptotics.ridge_regression(mixture, 2000, 0.1).weights)
    start = time.process_time()
    jax.block_until_ready(asymptotics.ridge_regression(mixture, 2100, 0.1).weights)
    assert time.process_time() - start < 1


def test_stronger_triggers_backfire_and_agree_with_the_simpler_law():
    """L11's score, with the effective ridge for the population's."""
    effective = float(asymptotics.ridge_regression(attack(), 200, 0.1, intercept=False).effective_ridge)
    strengths = np.array([0.5, 2.0, 8.0])
    scores = []
    for strength in strengths:
        mixture = attack(strength=strength, test_strength=2.0)
        model = asymptotics.ridge_regression(mixture, 200, 0.1, intercept=False)
        scores.append(float(model.scores(mixture.triggered.means[0]).mean))
    ratio = 1 / (1 + effective)
    expected = kp.laws.backdoor_score(strengths, 2.0, 0.1, 0.25 + effective, ratio / (1 + ratio))
    np.testing.assert_allclose(scores, expected, rtol=1e-11)
    assert scores[1] > max(scores[0], scores[2])


def test_three_classes_of_any_correlation_are_the_bivariate_normals():
    """Margins of correlation near −1 and 1, far out, and without a spread."""
    generator = np.random.default_rng(3)
    for rho in (-0.9999, -0.7, 0.2, 0.99, 0.999999):
        cov = np.array([[1.3, rho * np.sqrt(1.3 * 0.4)], [rho * np.sqrt(1.3 * 0.4), 0.4]])
        scores = np.zeros((3, 3))
        scores[1:, 1:] = cov  # of which the first is taken
        for mean in (*generator.normal(size=(4, 2)), np.array([1.1, 1.1 * np.sqrt(0.4 / 1.3)])):
            found = asymptotics.rates.rate_of_labels(
                jnp.array([[0.0, *-mean]]), jnp.asarray(scores), jnp.eye(3)[:1], jnp.ones(1), 2, None
            )
            assert float(found) == pytest.approx(both_positive(mean, cov), abs=1e-9)
    sure = asymptotics.rates.rate_of_labels(
        np.array([[0.1, 0.0, -3.0]]), 0 * scores, np.eye(3)[:1], np.ones(1), 2, None
    )
    assert float(sure) == 1


def test_success_without_a_spread_is_the_sign():
    probability = asymptotics.rates.rate_of_labels(
        jnp.array([0.2, -0.1]), jnp.array(0.0), jnp.array([1.0, 1.0]), jnp.array([0.3, 0.7]), 2, None
    )
    assert float(probability) == pytest.approx(0.3)
    spread = asymptotics.rates.rate_of_labels(
        jnp.array([0.2]), jnp.array(0.04), jnp.array([-2.0]), jnp.array([1.0]), 2, None
    )
    assert float(spread) == pytest.approx(norm.cdf(-1.0))
