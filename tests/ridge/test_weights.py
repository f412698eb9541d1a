"""Points with multiplicities and an unpenalised constant: against repeated points and the bordered system."""

import numpy as np
import pytest

import kpoison as kp

RNG = np.random.default_rng(0)
N = 14
X = RNG.normal(size=(N, 2))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] ** 2], axis=1)
COUNTS = np.array([1, 3, 2, 0, 1, 1, 4, 1, 2, 1, 0, 1, 1, 2])
PROBES = RNG.normal(size=(5, 2))
POISON = kp.Poison(np.array([0.3, -0.4]), np.array([2.0, -1.0]), 3.0)
CLUSTER = kp.Poison(RNG.normal(size=(2, 2)), RNG.normal(size=(2, 2)), np.array([1.0, 2.5]))
KERNEL = kp.kernels.RBF(1.3)
RIDGE = 1e-2

SOLVERS = {
    "spectral": kp.Spectral(),
    "tridiagonal": kp.Tridiagonal(),
    "cholesky": kp.Cholesky(),
    "krylov": kp.Krylov(rank=8, tolerance=1e-13),
    "conjugate gradients": kp.ConjugateGradients(tolerance=1e-13),
}

LAWS = {
    "predict": lambda clean, poison: kp.predict(clean, PROBES, RIDGE),
    "predict with poison": lambda clean, poison: kp.predict(clean, PROBES, RIDGE, poison),
    "gain": lambda clean, poison: kp.gain(clean, poison, RIDGE),
    "efficacy": lambda clean, poison: kp.efficacy(clean, poison, PROBES, RIDGE),
    "efficacy_gradient": lambda clean, poison: kp.efficacy_gradient(clean, poison, PROBES, RIDGE),
    "spike": lambda clean, poison: kp.spike(clean, poison, PROBES, RIDGE),
    "ratio": lambda clean, poison: kp.spike_efficacy_ratio(clean, POISON, PROBES, RIDGE),
    "covariance": lambda clean, poison: kp.posterior_covariance(clean, PROBES, RIDGE, poison),
    "curvature": lambda clean, poison: kp.curvature.gauss_newton(clean, poison, PROBES, RIDGE),
}


def repeated(counts=COUNTS):
    places = np.repeat(np.arange(N), counts)
    return X[places], Y[places]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("intercept", [False, True])
def test_weights_are_repeated_points(law, intercept):
    poison = CLUSTER if law in ("efficacy", "covariance", "predict with poison") else POISON
    weighted = kp.fit(KERNEL, X, Y, weights=COUNTS.astype(float), intercept=intercept)
    plain = kp.fit(KERNEL, *repeated(), intercept=intercept)
    np.testing.assert_allclose(LAWS[law](weighted, poison), LAWS[law](plain, poison), rtol=1e-10, atol=1e-12)


def bordered(w, rho, x, poison=None):
    """f(x) of points with weights and a constant, from the bordered system of all of them."""
    points, targets, weights = X, Y, w
    if poison is not None:
        location = np.atleast_2d(poison.location)
        points = np.concatenate([points, location])
        targets = np.concatenate([targets, np.broadcast_to(poison.label, (len(location), 2))])
        weights = np.concatenate([weights, np.broadcast_to(poison.count, len(location))])
    there = weights > 0
    points, targets, weights = points[there], targets[there], weights[there]
    n = len(points)

    def k(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2 / 1.3**2)

    system = np.block(
        [[k(points, points) + rho * np.diag(1 / weights), np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]]
    )
    solved = np.linalg.solve(system, np.concatenate([targets, np.zeros((1, 2))]))
    return k(x, points) @ solved[:-1] + solved[-1]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("poison", [POISON, CLUSTER], ids=["clones", "cluster"])
def test_an_intercept_is_the_bordered_system(solver, poison):
    w = COUNTS + RNG.random(N)
    clean = kp.fit(KERNEL, X, Y, weights=w, intercept=True, solver=SOLVERS[solver])
    n = w.sum() + np.sum(poison.count)
    before, after = bordered(w, n * RIDGE, PROBES), bordered(w, n * RIDGE, PROBES, poison)
    np.testing.assert_allclose(kp.efficacy(clean, poison, PROBES, RIDGE), after - before, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(kp.predict(clean, PROBES, RIDGE, poison), after, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        kp.predict(clean, PROBES, RIDGE), bordered(w, w.sum() * RIDGE, PROBES), rtol=1e-8, atol=1e-10
    )
