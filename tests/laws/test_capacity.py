"""Degrees of freedom, covariances, left-out predictions and the evidence, against brute force in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp

RNG = np.random.default_rng(0)
N = 12
X = RNG.normal(size=(N, 2))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] ** 2], axis=1)
W = RNG.random(N) * 2 + 0.2
RIDGE = 2e-2
KERNEL = kp.kernels.RBF(1.3)
POISON = kp.Poison(np.array([0.3, -0.4]), np.array([2.0, -1.0]), 3.0)
CLUSTER = kp.Poison(RNG.normal(size=(2, 2)), RNG.normal(size=(2, 2)), np.array([1.0, 2.5]))
DENSE = {"spectral": kp.Spectral(), "tridiagonal": kp.Tridiagonal(), "cholesky": kp.Cholesky()}
SEARCHED = {"krylov": kp.Krylov(rank=8, tolerance=1e-12), "conjugate gradients": kp.ConjugateGradients(tolerance=1e-12)}
SLOW = pytest.mark.slow
MODES = [(False, False), (True, False), (False, True), (True, True)]


def k(a, b):
    return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2 / 1.3**2)


def smoother(points, weights, rho, *, intercept, at=None):
    """The matrix from targets to predictions, by the bordered system."""
    at = points if at is None else at
    n = len(points)
    A = k(points, points) + rho * np.diag(1 / weights)
    if not intercept:
        return k(at, points) @ np.linalg.inv(A)
    system = np.block([[A, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    inverse = np.linalg.inv(system)[:, :n]
    return np.concatenate([k(at, points), np.ones((len(at), 1))], axis=1) @ inverse


def with_poison(weights, poison):
    location = np.atleast_2d(poison.location)
    return np.concatenate([X, location]), np.concatenate([weights, np.broadcast_to(poison.count, len(location))])


def fitted(weighted, intercept, **more):
    return kp.fit(KERNEL, X, Y, weights=W if weighted else None, intercept=intercept, **more)


# Every pair of mode, solver and poison once.
COVERED = [
    (mode, list(DENSE)[(first + second) % 3], poison)
    for first, mode in enumerate(MODES)
    for second, poison in enumerate([None, POISON, CLUSTER])
]


@pytest.mark.parametrize(
    ("mode", "solver", "poison"),
    [pytest.param(*case, marks=pytest.mark.slow if case[1] == "tridiagonal" else ()) for case in COVERED],
)
def test_degrees_of_freedom(mode, solver, poison):
    weighted, intercept = mode
    weights = W if weighted else np.ones(N)
    points, all_weights = (X, weights) if poison is None else with_poison(weights, poison)
    expected = np.trace(smoother(points, all_weights, all_weights.sum() * RIDGE, intercept=intercept))
    found = kp.degrees_of_freedom(fitted(weighted, intercept, solver=DENSE[solver]), RIDGE, poison)
    assert float(found) == pytest.approx(expected, rel=1e-11)


def test_leverage_of_clones():
    # L14: S (k̃(ζ, ζ) − ρ‖A⁻¹k(X, ζ)‖²), below 1 however many.
    clean = fitted(False, False)
    for count in (1.0, 10.0, 1e5):
        poison = kp.Poison(POISON.location, POISON.label, count)
        rho = (N + count) * RIDGE
        ridge_of_clean = rho / N
        column = k(X, np.atleast_2d(POISON.location))
        A = k(X, X) + rho * np.eye(N)
        dual = np.linalg.solve(A, column)
        variance = 1 - (column * dual).sum()
        law = count / (rho + count * variance) * (variance - rho * (dual**2).sum())
        found = kp.degrees_of_freedom(clean, RIDGE, poison) - kp.degrees_of_freedom(clean, ridge_of_clean)
        assert float(found) == pytest.approx(law, rel=1e-10)
        assert 0 < float(found) < 1


@pytest.mark.parametrize(
    ("weighted", "intercept", "solver"),
    [
        (True, False, "conjugate gradients"),
        pytest.param(False, True, "krylov", marks=SLOW),
        pytest.param(True, True, "krylov", marks=SLOW),
    ],
)
def test_estimated_degrees_of_freedom(weighted, intercept, solver):
    clean = fitted(weighted, intercept, solver=SEARCHED[solver])
    exact = float(kp.degrees_of_freedom(fitted(weighted, intercept), RIDGE, CLUSTER))
    found = kp.degrees_of_freedom(clean, RIDGE, CLUSTER, probes=4000, key=jax.random.key(0))
    assert abs(float(found.value) - exact) < 4 * float(found.standard_error) < 0.3
    with pytest.raises(ValueError, match="probes must be given"):
        kp.degrees_of_freedom(clean, RIDGE)


LEFT_OUT = [
    ((False, False), "spectral"),
    ((True, True), "cholesky"),
    ((False, True), "tridiagonal"),
]
OTHERS = [(mode, solver) for solver in [*DENSE, *SEARCHED] for mode in MODES if (mode, solver) not in LEFT_OUT]


@pytest.mark.parametrize(("mode", "solver"), [*LEFT_OUT, *(pytest.param(*other, marks=SLOW) for other in OTHERS)])
def test_leave_one_out(mode, solver):
    weighted, intercept = mode
    weights = W if weighted else np.ones(N)
    rho = weights.sum() * RIDGE
    clean = fitted(weighted, intercept, solver=(DENSE | SEARCHED)[solver])
    expected = []
    for i in range(N):
        rest = np.arange(N) != i
        expected.append(smoother(X[rest], weights[rest], rho, intercept=intercept, at=X[i : i + 1]) @ Y[rest])
    np.testing.assert_allclose(kp.leave_one_out(clean, RIDGE), np.concatenate(expected), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("weighted", "intercept"), MODES)
def test_left_out_together(weighted, intercept):
    weights, groups = W if weighted else np.ones(N), np.array(list("aabcccdefghi"))
    rho = weights.sum() * RIDGE
    found = kp.leave_one_out(fitted(weighted, intercept), RIDGE, groups=groups)
    for group in np.unique(groups):
        rest = groups != group
        map_ = smoother(X[rest], weights[rest], rho, intercept=intercept, at=X[~rest])
        np.testing.assert_allclose(found[~rest], map_ @ Y[rest], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", [{"weights": W, "intercept": True}, {"gradient_penalty": 0.3}])
def test_one_group_alone_is_that_of_all_groups(options):
    clean, groups = kp.fit(KERNEL, X, Y, **options), np.array(list("aabcccdefghi"))
    together = kp.leave_one_out(clean, RIDGE, groups=groups)
    for group in "ac":
        members = np.flatnonzero(groups == group)
        found = kp.laws.without_group(clean, RIDGE, members[::-1].copy())
        np.testing.assert_allclose(found, together[members[::-1]], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("solver", [kp.Spectral(), kp.ConjugateGradients(tolerance=1e-13)], ids=["dense", "searched"])
def test_a_point_is_left_out_with_its_slopes(solver):
    clean = kp.fit(KERNEL, X, Y, gradient_penalty=0.3, solver=solver)
    found = kp.leave_one_out(clean, RIDGE)
    for i in range(0, N, 5):
        rest = np.arange(N) != i
        less = kp.fit(KERNEL, X[rest], Y[rest], gradient_penalty=0.3)
        expected = kp.predict(less, X[i], RIDGE * N / (N - 1))
        np.testing.assert_allclose(found[i], expected, rtol=1e-8, atol=1e-10)


def test_a_point_of_no_weight_is_left_out_already():
    weights = W.copy()
    weights[4] = 0
    clean = kp.fit(KERNEL, X, Y, weights=weights)
    np.testing.assert_allclose(kp.leave_one_out(clean, RIDGE)[4], kp.predict(clean, X[4], RIDGE), rtol=1e-12)
    assert float(kp.degrees_of_freedom(clean, RIDGE)) < N - 1


# Each mode, and each kind of poison, once: the others are slow.
QUICK = {(False, False): "clean", (False, True): "clean", (True, False): "clones", (True, True): "cluster"}
POISONS = {"clean": None, "clones": POISON, "cluster": CLUSTER}


@pytest.mark.parametrize(
    ("mode", "poison"),
    [pytest.param(mode, poison, marks=[] if QUICK[mode] == poison else SLOW) for mode in MODES for poison in POISONS],
)
def test_posterior_covariance(mode, poison):
    (weighted, intercept), poison = mode, POISONS[poison]
    weights = W if weighted else np.ones(N)
    points, all_weights = (X, weights) if poison is None else with_poison(weights, poison)
    probes = RNG.normal(size=(4, 2))
    rho = all_weights.sum() * RIDGE
    cross, n = k(probes, points), len(points)
    A = k(points, points) + rho * np.diag(1 / all_weights)
    border = np.ones((1, n)) if intercept else np.zeros((0, n))
    system = np.block([[A, border.T], [border, np.zeros((len(border),) * 2)]])
    wide = np.concatenate([cross, np.ones((4, len(border)))], axis=1)
    expected = k(probes, probes) - wide @ np.linalg.solve(system, wide.T)
    clean = fitted(weighted, intercept)
    found = kp.posterior_covariance(clean, probes, RIDGE, poison)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    variances = kp.posterior_covariance(clean, probes, RIDGE, poison, diagonal=True)
    np.testing.assert_allclose(variances, np.diagonal(expected), rtol=1e-9, atol=1e-12)
    assert kp.posterior_covariance(clean, probes[0], RIDGE, poison).shape == ()


@pytest.mark.parametrize("solver", DENSE)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_marginal_likelihood(solver, weighted):
    from scipy.stats import multivariate_normal

    weights = W if weighted else np.ones(N)
    A = k(X, X) + weights.sum() * RIDGE * np.diag(1 / weights)
    expected = sum(multivariate_normal(np.zeros(N), A).logpdf(column) for column in Y.T)
    found = kp.log_marginal_likelihood(fitted(weighted, False, solver=DENSE[solver]), RIDGE)
    assert float(found) == pytest.approx(expected, rel=1e-11)


def test_the_restricted_likelihood_is_that_of_contrasts():
    from scipy.stats import multivariate_normal

    # Of n − 1 orthonormal contrasts of the labels; the volumes differ by √n.
    contrasts = np.linalg.svd(np.ones((1, N)))[2][1:]
    A = k(X, X) + W.sum() * RIDGE * np.diag(1 / W)
    expected = sum(multivariate_normal(np.zeros(N - 1), contrasts @ A @ contrasts.T).logpdf(contrasts @ y) for y in Y.T)
    found = kp.log_marginal_likelihood(fitted(True, True), RIDGE)
    assert float(found) + 0.5 * Y.shape[1] * np.log(N) == pytest.approx(expected, rel=1e-11)


def test_scikit_learn_agrees():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

    process = GaussianProcessRegressor(RBF(1.3), alpha=N * RIDGE, optimizer=None).fit(X, Y[:, 0])
    clean = kp.fit(KERNEL, X, Y[:, 0])
    assert float(kp.log_marginal_likelihood(clean, RIDGE)) == pytest.approx(
        process.log_marginal_likelihood(), rel=1e-12
    )
    probes = RNG.normal(size=(3, 2))
    covariance = process.predict(probes, return_cov=True)[1]
    np.testing.assert_allclose(kp.posterior_covariance(clean, probes, RIDGE), covariance, rtol=1e-10, atol=1e-13)


def refitted_log_likelihood(length_scale, ridge, weights):
    points = jnp.asarray(X)
    gram = jnp.exp(-((points[:, None] - points[None]) ** 2).sum(-1) / 2 / length_scale**2)
    A = gram + jnp.sum(weights) * ridge * jnp.diag(1 / weights)
    y = jnp.asarray(Y)
    return -0.5 * jnp.sum(y * jnp.linalg.solve(A, y)) - jnp.linalg.slogdet(A)[1] - N * jnp.log(2 * jnp.pi)


def refitted_capacity(length_scale, ridge, weights):
    points = jnp.asarray(X)
    gram = jnp.exp(-((points[:, None] - points[None]) ** 2).sum(-1) / 2 / length_scale**2)
    A = gram + jnp.sum(weights) * ridge * jnp.diag(1 / weights)
    return jnp.trace(jnp.linalg.solve(A, gram))


def refitted_left_out(length_scale, ridge, weights):
    points = jnp.asarray(X)
    gram = jnp.exp(-((points[:, None] - points[None]) ** 2).sum(-1) / 2 / length_scale**2)
    inverse = jnp.linalg.inv(gram + jnp.sum(weights) * ridge * jnp.diag(1 / weights))
    left = inverse @ jnp.asarray(Y) / jnp.diagonal(inverse)[:, None]
    return jnp.sum(jnp.asarray(Y[:, ::-1]) * (jnp.asarray(Y) - left))


HESSIANS = {
    "evidence": (kp.log_marginal_likelihood, refitted_log_likelihood),
    "capacity": (kp.degrees_of_freedom, refitted_capacity),
    "left out": (lambda clean, ridge: jnp.sum(Y[:, ::-1] * kp.leave_one_out(clean, ridge)), refitted_left_out),
}


@pytest.mark.parametrize(
    ("law", "solver"),
    [pytest.param(law, solver, marks=SLOW) for law in HESSIANS for solver in DENSE],
)
def test_derivatives_to_second_order(law, solver):
    function, refitted = HESSIANS[law]

    def ours(length_scale, ridge, weights):
        clean = kp.fit(kp.kernels.RBF(length_scale), X, Y, weights=weights, solver=DENSE[solver])
        return function(clean, ridge)

    at = jnp.asarray(1.3), jnp.asarray(RIDGE), jnp.asarray(W)
    pairs = zip(
        jax.tree.leaves(jax.hessian(ours, (0, 1, 2))(*at)),
        jax.tree.leaves(jax.hessian(refitted, (0, 1, 2))(*at)),
        strict=True,
    )
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8 * np.max(np.abs(expected)))


def test_degrees_of_freedom_of_a_flow():
    # Of each mode 1 − exp(−(μ/n + λ)t) times μ/(μ + nλ).
    mu = np.linalg.eigvalsh(k(X, X))
    for time in (0.3, 5.0, 1e3):
        expected = np.sum(mu / (mu + N * RIDGE) * -np.expm1(-(mu / N + RIDGE) * time))
        found = kp.degrees_of_freedom(kp.flow.early_stopped(fitted(False, False), time), RIDGE)
        assert float(found) == pytest.approx(expected, rel=1e-9)


def test_a_penalty_takes_degrees_of_freedom():
    # T7: H_γ = K̃(K̃ + ρ)⁻¹, K̃ = K − K01(K11 + (ρ/γ)I)⁻¹K10.
    gamma, rho = 0.4, N * RIDGE
    both = np.asarray(kp.fit(KERNEL, X, Y, gradient_penalty=1.0).factor.matrix())
    K, K01, K11 = both[:N, :N], both[:N, N:], both[N:, N:]
    bent = K - K01 @ np.linalg.solve(K11 + rho / gamma * np.eye(len(K11)), K01.T)
    expected = np.trace(np.linalg.solve(bent + rho * np.eye(N), bent))
    found = kp.degrees_of_freedom(kp.fit(KERNEL, X, Y, gradient_penalty=gamma), RIDGE)
    assert float(found) == pytest.approx(expected, rel=1e-10)
    # df'(γ) in closed form, at γ and at 0.
    B = K11 + rho / gamma * np.eye(len(K11))
    slope = -(rho**2 / gamma**2) * np.sum(np.linalg.solve(B, K01.T @ np.linalg.inv(bent + rho * np.eye(N))) ** 2)
    ours = jax.grad(lambda g: kp.degrees_of_freedom(kp.fit(KERNEL, X, Y, gradient_penalty=g), RIDGE))(gamma)
    assert float(ours) == pytest.approx(slope, rel=1e-9)


REFUSED = {
    "stopped covariance": (lambda c: kp.posterior_covariance(kp.flow.early_stopped(c, 1.0), X, RIDGE), "to the end"),
    "stopped evidence": (lambda c: kp.log_marginal_likelihood(kp.flow.early_stopped(c, 1.0), RIDGE), "to the end"),
    "stopped left out": (lambda c: kp.leave_one_out(kp.flow.early_stopped(c, 1.0), RIDGE), "to the end"),
    "groups": (lambda c: kp.leave_one_out(c, RIDGE, groups=[0, 1]), "groups must have shape"),
    **{
        f"groups of {what}": (lambda c, groups=groups: kp.leave_one_out(c, RIDGE, groups=groups), "groups must be int")
        for what, groups in {
            "numbers with a point": np.arange(N) / 2,
            "NaN": np.full(N, np.nan),
            "None": np.full(N, None),
        }.items()
    },
    "traced groups": (
        lambda c: jax.jit(lambda groups: kp.leave_one_out(c, RIDGE, groups=groups))(jnp.arange(N)),
        "groups must be known",
    ),
    "slopes": (lambda c: kp.log_marginal_likelihood(kp.fit(KERNEL, X, Y, gradient_penalty=1.0), RIDGE), "slopes"),
    "searched": (lambda c: kp.log_marginal_likelihood(kp.fit(KERNEL, X, Y, solver=kp.Krylov()), RIDGE), "factorises"),
    "no weight": (lambda c: kp.log_marginal_likelihood(kp.fit(KERNEL, X, Y, weights=W * (W > 1)), RIDGE), "weights"),
    "prepared": (lambda c: kp.degrees_of_freedom(kp.prepare(c, POISON, RIDGE), RIDGE), "prepared"),
    "key": (lambda c: kp.degrees_of_freedom(c, RIDGE, probes=4), "key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    function, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message):
        function(fitted(False, False))
