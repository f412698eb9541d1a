"""How trained networks scatter: against neural-tangents, and against NumPy where it has no such network."""

import numpy as np
import pytest
from scipy.linalg import expm

import kpoison as kp
from kpoison.kernels._neural_tangents import load_neural_tangents

RNG = np.random.default_rng(0)
X, PROBES = RNG.normal(size=(8, 3)), RNG.normal(size=(4, 3))
Y = np.sin(X[:, 0])
NETWORK = {"hidden_layers": 1, "activation": "erf", "weight_std": 1.5, "bias_std": 0.1}
NTK, NNGP = kp.kernels.NTK(**NETWORK), kp.kernels.NNGP(**NETWORK)


@pytest.mark.slow
@pytest.mark.parametrize(("time", "ridge"), [(0.0, 0.0), (2.0, 0.0), (None, 0.0), (2.0, 0.02), (None, 0.02)])
def test_it_is_that_of_neural_tangents(time, ridge):
    nt = load_neural_tangents()
    dense = nt.stax.Dense(1, NETWORK["weight_std"], NETWORK["bias_std"])
    kernel_fn = nt.stax.serial(dense, nt.stax.Erf(), dense)[2]
    predict = nt.predict.gradient_descent_mse_ensemble(
        kernel_fn, X, Y[:, None], diag_reg=len(X) * ridge, diag_reg_absolute_scale=True
    )
    mean, covariance = predict(time, PROBES, "ntk", compute_cov=True)
    trained = kp.flow.early_stopped(kp.fit(NTK, X, Y), 1e9 if time is None else time)
    found = kp.flow.ensemble_covariance(trained, NNGP, PROBES, ridge)
    np.testing.assert_allclose(kp.predict(trained, PROBES, ridge), np.asarray(mean)[:, 0], atol=1e-8)
    np.testing.assert_allclose(found, covariance, atol=1e-8)


@pytest.mark.parametrize("time", [None, 3.0])
def test_with_a_ridge_it_is_that_of_linear_maps(time):
    ridge, n = 0.02, len(X)
    A = np.asarray(NTK(X)) + n * ridge * np.eye(n)
    decay = np.zeros((n, n)) if time is None else expm(-A * time / n)
    F = np.asarray(NTK(PROBES, X)) @ np.linalg.solve(A, np.eye(n) - decay)
    L = np.concatenate([np.eye(len(PROBES)), -F], axis=1)
    both = np.concatenate([PROBES, X])
    expected = L @ np.asarray(NNGP(both)) @ L.T
    clean = kp.fit(NTK, X, Y)
    trained = clean if time is None else kp.flow.early_stopped(clean, time)
    found = kp.flow.ensemble_covariance(trained, NNGP, PROBES, ridge)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    variances = kp.flow.ensemble_covariance(trained, NNGP, PROBES, ridge, diagonal=True)
    np.testing.assert_allclose(variances, np.diag(expected), rtol=1e-10)
    assert float(kp.flow.ensemble_covariance(trained, NNGP, PROBES[0], ridge)) == pytest.approx(expected[0, 0])


def test_weights_are_multiplicities_and_a_constant_is_free():
    weights, ridge = np.array([2.0, 1, 1, 3, 1, 1, 0, 1]), 0.02
    kernel = kp.kernels.RBF(1.3)
    repeated = np.repeat(X, weights.astype(int), axis=0)
    n = len(repeated)
    gram = np.exp(-((repeated[:, None] - repeated[None]) ** 2).sum(-1) / 2 / 1.3**2)
    cross = np.exp(-((PROBES[:, None] - repeated[None]) ** 2).sum(-1) / 2 / 1.3**2)
    bordered = np.block([[gram + n * ridge * np.eye(n), np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    F = np.linalg.solve(bordered, np.concatenate([cross, np.ones((len(PROBES), 1))], axis=1).T).T[:, :n]
    L = np.concatenate([np.eye(len(PROBES)), -F], axis=1)
    expected = L @ np.asarray(NNGP(np.concatenate([PROBES, repeated]))) @ L.T
    clean = kp.fit(kernel, X, Y, weights=weights, intercept=True)
    np.testing.assert_allclose(kp.flow.ensemble_covariance(clean, NNGP, PROBES, ridge), expected, rtol=1e-9)


@pytest.mark.slow
def test_a_penalty_presses_the_slopes_of_the_start():
    # Of one input, values and slopes under exp(−r²/2): the optimum over all functions, by the joint system (T1).
    x, probes, ridge, gamma = np.array([0.0, 0.7, 2.0]), np.array([0.4, 1.1]), 0.05, 0.3
    n = len(x)

    def joint(a, b):
        r = a[:, None] - b[None]
        k = np.exp(-(r**2) / 2)
        return np.block([[k, r * k], [-r * k, (1 - r**2) * k]])

    A = joint(x, x) + n * ridge * np.diag(np.repeat([1, 1 / gamma], n))
    F = joint(probes, x)[: len(probes)] @ np.linalg.inv(A)
    start = joint(probes, x)[: len(probes)]
    expected = joint(probes, probes)[: len(probes), : len(probes)] - F @ start.T - start @ F.T + F @ joint(x, x) @ F.T
    kernel = kp.kernels.RBF(1.0)
    clean = kp.fit(kernel, x[:, None], np.sin(x), gradient_penalty=gamma)
    found = kp.flow.ensemble_covariance(clean, kernel, probes[:, None], ridge)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_bad_input():
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y, gradient_penalty=0.1)
    rough, smooth = kp.kernels.Laplace(1.0), kp.kernels.RBF(1.0)
    with pytest.raises(ValueError, match="initial must be twice differentiable"):
        kp.flow.ensemble_covariance(clean, rough, PROBES, 0.1)
    with pytest.raises(TypeError, match="initial must be a"):
        kp.flow.ensemble_covariance(clean, "nngp", PROBES, 0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="x must"):
        kp.flow.ensemble_covariance(clean, smooth, PROBES[:, :2], 0.1)
    prepared = kp.laws.prepare(kp.fit(smooth, X, Y), kp.Poison(X[0], 1.0, 1), 0.1)
    with pytest.raises(ValueError, match="prepared for one poison"):
        kp.flow.ensemble_covariance(prepared, smooth, PROBES, 0.1)
