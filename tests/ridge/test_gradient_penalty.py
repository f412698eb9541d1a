"""The gradient-penalised posterior (T1) is the minimiser of the penalised loss; laws on it are refits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison import kernels as kk

RNG = np.random.default_rng(0)
N, D, ELL, RIDGE, GAMMA = 9, 3, 1.4, 0.02, 0.3
X, Y = RNG.normal(size=(N, D)), RNG.normal(size=(N, 2))
ZETA, LABEL = RNG.normal(size=D), np.array([1.0, -0.5])
PROBES = np.concatenate([RNG.normal(size=(5, D)), [ZETA, X[3]]])
ROOT = RNG.normal(size=(D, D))
METRICS = {"identity": np.eye(D), "full": ROOT.T @ ROOT, "rank 1": np.outer(ROOT[0], ROOT[0])}


class Dense:
    """The theory's own system, unscaled, with the closed-form derivatives of the RBF kernel, by NumPy."""

    def __init__(self, points, targets, weights, total, metric, gamma=GAMMA, ridge=RIDGE):
        self.points = points
        n, C = targets.shape
        K, K01, K11 = self.blocks(points, points)
        rho, inverse = total * ridge, np.linalg.pinv(metric)
        # Observations of zero gradient exist along the range of the metric only.
        values, vectors = np.linalg.eigh(metric)
        span = vectors[:, values > 1e-12]
        S = np.kron(np.eye(n), span)
        noise = np.kron(np.diag(rho / (gamma * weights)), span.T @ inverse @ span)
        system = np.block([[K + np.diag(rho / weights), K01 @ S], [S.T @ K01.T, S.T @ K11 @ S + noise]])
        solved = np.linalg.solve(system, np.concatenate([targets, np.zeros((S.shape[1], C))]))
        self.a, self.b = solved[:n], S @ solved[n:]

    @staticmethod
    def blocks(P, Q):
        """k, ∂_q k and ∂_p ∂_qᵀ k."""
        differences = P[:, None] - Q[None]
        k = np.exp(-0.5 * np.sum(differences**2, axis=-1) / ELL**2)
        first = k[..., None] * differences / ELL**2
        outer = differences[..., :, None] * differences[..., None, :] / ELL**4
        second = k[..., None, None] * (np.eye(P.shape[1]) / ELL**2 - outer)
        n, q, d = first.shape
        return k, first.reshape(n, q * d), second.transpose(0, 2, 1, 3).reshape(n * d, q * d)

    def __call__(self, x):
        k, k01, _ = self.blocks(x, self.points)
        return k @ self.a + k01 @ self.b

    def gradients(self, x):
        """Shape (q, C, D)."""
        _, k01, k11 = self.blocks(self.points, x)
        q, d = x.shape
        along = k01.T @ self.a + k11.T @ self.b
        return along.reshape(q, d, -1).transpose(0, 2, 1)


def clean_refit(metric, total=N):
    return Dense(X, Y, np.ones(N), total, metric)


def poisoned_refit(metric, count):
    """m physical copies when the count is an integer."""
    copies = int(count)
    points = np.concatenate([X, np.repeat(ZETA[None], copies, axis=0)])
    targets = np.concatenate([Y, np.repeat(LABEL[None], copies, axis=0)])
    return Dense(points, targets, np.ones(N + copies), N + copies, metric)


def fitted(metric=None, gamma=GAMMA, dtype=float, solver=None):
    kernel = kk.RBF(ELL)
    solver = kp.Spectral() if solver is None else solver
    X_, Y_ = X.astype(dtype), Y.astype(dtype)
    return kp.fit(kernel, X_, Y_, gradient_penalty=gamma, metric=metric, solver=solver)


@pytest.mark.parametrize("solver", [kp.Spectral(), kp.Cholesky()])
@pytest.mark.parametrize("metric", METRICS)
def test_prediction_is_the_penalised_minimiser(metric, solver):
    clean, refit = fitted(METRICS[metric], solver=solver), clean_refit(METRICS[metric])
    np.testing.assert_allclose(kp.predict(clean, PROBES, RIDGE), refit(PROBES), rtol=1e-10, atol=1e-12)
    gradients = jax.vmap(jax.jacrev(kp.predictor(clean, RIDGE)))(jnp.asarray(PROBES))
    np.testing.assert_allclose(gradients, refit.gradients(PROBES), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "metric", [pytest.param("identity", id="equal eigenvalues"), pytest.param("full", marks=pytest.mark.slow)]
)
def test_first_and_second_derivatives_in_the_metric(metric):
    """Also where its eigenvalues are equal, at which eigenvectors have no derivative; by differences of refits."""
    turn, step = RNG.normal(size=(D, D)), 1e-3
    turn += turn.T

    @jax.jit
    def value(t):
        clean = fitted(jnp.asarray(METRICS[metric]) + t * turn)
        return jnp.sum(kp.predict(clean, PROBES[:2], RIDGE))

    def refit(t):
        return np.sum(clean_refit(METRICS[metric] + t * turn)(PROBES[:2]))

    below, at, above = (refit(t) for t in (-step, 0.0, step))
    further = refit(-2 * step), refit(2 * step)
    slope = (8 * (above - below) - (further[1] - further[0])) / (12 * step)
    bend = (16 * (above + below) - sum(further) - 30 * at) / (12 * step**2)
    np.testing.assert_allclose(jax.grad(value)(0.0), slope, rtol=1e-7)
    np.testing.assert_allclose(jax.jacfwd(jax.grad(value))(0.0), bend, rtol=1e-4)


def test_what_has_no_derivative_is_refused():
    """√γ at 0, though the fit has one there, and the root of a metric of lower rank."""
    with pytest.raises(ValueError, match="gradient_penalty must be > 0 to be differentiated"):
        jax.grad(lambda gamma: jnp.sum(kp.predict(fitted(gamma=gamma), PROBES[:2], RIDGE)))(0.0)
    with pytest.raises(ValueError, match="metric must be positive definite to be differentiated"):
        jax.grad(lambda scale: jnp.sum(kp.predict(fitted(scale * METRICS["rank 1"]), PROBES[:2], RIDGE)))(1.0)


@pytest.mark.slow
def test_no_direction_lowers_the_penalised_loss():
    """The functional itself, at the predictor and beside it, without the system that solves it."""
    clean = fitted(METRICS["full"])
    basis = jnp.asarray(np.concatenate([X, RNG.normal(size=(4, D))]))
    kernel, f = clean.kernel, kp.predictor(clean, RIDGE)
    own, root = f.expansion, jnp.linalg.cholesky(jnp.asarray(METRICS["full"])).T

    def energy(bump):
        """Of f + Σ bump_i k(·, b_i), the RKHS norm's cross terms by the reproducing property."""

        def value(x):
            return f(x)[0] + kernel.pairwise(x[None], basis)[0] @ bump

        fit = jnp.mean((jax.vmap(value)(clean.X) - clean.y[:, 0]) ** 2)
        slopes = jax.vmap(jax.grad(value))(clean.X) @ root.T
        # ⟨f, k(·, b)⟩ = f(b): ‖f + g‖² = ‖f‖² + 2 Σ bump f(b) + bumpᵀ K bump.
        norm = 2 * jnp.asarray([f(b)[0] for b in basis]) @ bump + bump @ kernel.pairwise(basis, basis) @ bump
        return 0.5 * (fit + GAMMA * jnp.mean(jnp.sum(slopes**2, axis=1)) + RIDGE * norm)

    assert bool(jnp.any(own.slopes() != 0))
    zero = jnp.zeros(len(basis))
    np.testing.assert_allclose(jax.grad(energy)(zero), 0, atol=1e-13)
    assert bool(jnp.all(jnp.linalg.eigvalsh(jax.hessian(energy)(zero)) > 0))


@pytest.mark.slow
@pytest.mark.parametrize("metric", [pytest.param(m, marks=[pytest.mark.slow] * (m != "full")) for m in METRICS])
@pytest.mark.parametrize("count", [1, 4])
def test_efficacy_and_spike_are_refits_with_physical_copies(metric, count):
    clean, poison = fitted(METRICS[metric]), kp.Poison(ZETA, LABEL, count)
    before = clean_refit(METRICS[metric], N + count)
    after = poisoned_refit(METRICS[metric], count)
    np.testing.assert_allclose(kp.efficacy(clean, poison, PROBES, RIDGE), after(PROBES) - before(PROBES), rtol=1e-9)
    change = after.gradients(PROBES) - before.gradients(PROBES)
    np.testing.assert_allclose(kp.efficacy_gradient(clean, poison, PROBES, RIDGE), change, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(kp.spike(clean, poison, PROBES, RIDGE), np.sum(change**2, axis=2), rtol=1e-8)
    np.testing.assert_allclose(kp.predict(clean, PROBES, RIDGE, poison), after(PROBES), rtol=1e-9)
    parts = kp.spike_components(clean, poison, PROBES, RIDGE)
    np.testing.assert_allclose(sum(parts), kp.spike(clean, poison, PROBES, RIDGE), rtol=1e-9)


@pytest.mark.slow
def test_the_poisoned_predictor_and_its_gradients_are_refits():
    f, after = kp.predictor(fitted(), RIDGE, kp.Poison(ZETA, LABEL, 4.0)), poisoned_refit(np.eye(D), 4)
    np.testing.assert_allclose(jax.vmap(f)(jnp.asarray(PROBES)), after(PROBES), rtol=1e-9)
    np.testing.assert_allclose(kp.curvature.input_gradients(f, PROBES), after.gradients(PROBES), rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_a_cluster_is_a_refit():
    locations, labels, counts = RNG.normal(size=(3, D)), RNG.normal(size=(3, 2)), np.array([1.0, 2.0, 3.0])
    clean = fitted()
    total = N + int(counts.sum())
    points = np.concatenate([X, np.repeat(locations, counts.astype(int), axis=0)])
    targets = np.concatenate([Y, np.repeat(labels, counts.astype(int), axis=0)])
    after = Dense(points, targets, np.ones(total), total, np.eye(D))
    before = clean_refit(np.eye(D), total)
    poison = kp.Poison(locations, labels, counts)
    np.testing.assert_allclose(kp.efficacy(clean, poison, PROBES, RIDGE), after(PROBES) - before(PROBES), rtol=1e-9)
    assert kp.gain(clean, poison, RIDGE).shape == (3, 3)
    # L1 for clones, through the Schur complement of the slopes.
    single = kp.Poison(ZETA, LABEL, 2.0)
    assert kp.gain(clean, single, RIDGE).shape == ()


def test_clones_are_one_weighted_observation():
    """Clone collapse with gradient observations: real counts, by weights, equal physical copies."""
    copies = poisoned_refit(np.eye(D), 3)
    points, targets = np.concatenate([X, ZETA[None]]), np.concatenate([Y, LABEL[None]])
    weighted = Dense(points, targets, np.append(np.ones(N), 3.0), N + 3, np.eye(D))
    np.testing.assert_allclose(weighted(PROBES), copies(PROBES), rtol=1e-11)
    clean = fitted()
    half = Dense(points, targets, np.append(np.ones(N), 0.5), N + 0.5, np.eye(D))
    found = kp.predict(clean, PROBES, RIDGE, kp.Poison(ZETA, LABEL, 0.5))
    np.testing.assert_allclose(found, half(PROBES), rtol=1e-10)


def test_none_is_the_ordinary_posterior_bit_for_bit():
    plain, zero = kp.fit(kk.RBF(ELL), X, Y), fitted(METRICS["full"], gamma=0.0)
    assert zero.observations.slopes == 0
    poison = kp.Poison(ZETA, LABEL, 2.0)
    for law in (kp.efficacy, kp.spike):
        np.testing.assert_array_equal(law(zero, poison, PROBES, RIDGE), law(plain, poison, PROBES, RIDGE))
    np.testing.assert_array_equal(zero.factor.gram, plain.factor.gram)
    assert fitted(np.zeros((D, D))).observations.slopes == 0


def test_a_small_penalty_is_nearly_none():
    plain = kp.predict(kp.fit(kk.RBF(ELL), X, Y), PROBES, RIDGE)
    differences = [
        np.max(np.abs(kp.predict(fitted(gamma=gamma), PROBES, RIDGE) - plain)) for gamma in (1e-4, 1e-5, 1e-6)
    ]
    np.testing.assert_allclose(np.divide(differences[:-1], differences[1:]), 10, rtol=2e-2)


@pytest.mark.parametrize("gamma", [pytest.param(0.01, marks=pytest.mark.slow), 1.0, 30.0])
def test_a_linear_kernel_has_ridge_plus_penalty(gamma):
    """γ‖w‖² is one more ridge: λ + γ, also for the poisoned predictor."""
    penalised, plain = kp.fit(kk.Linear(), X, Y, gradient_penalty=gamma), kp.fit(kk.Linear(), X, Y)
    for poison in (None, kp.Poison(ZETA, LABEL, 3.0)):
        found, expected = (
            kp.predict(clean, PROBES, ridge, poison) for clean, ridge in ((penalised, RIDGE), (plain, RIDGE + gamma))
        )
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernel", [kk.Matern32(1.3), kk.Matern52(1.3), kk.RationalQuadratic(1.3, 1.0), kk.NTK(1, "erf", 1.4, 0.2)], ids=str
)
def test_slopes_at_the_data_shrink_as_the_penalty_grows(kernel):
    """B(f) of T3 falls and A(f) of T4 rises, for every kernel that has the derivatives."""
    energies, fits = [], []
    for gamma in (0.0, 0.01, 0.1, 1.0):
        clean = kp.fit(kernel, X, Y[:, 0], gradient_penalty=gamma)
        f = kp.predictor(clean, RIDGE)
        energies.append(float(jnp.sum(kp.curvature.input_gradients(f, X) ** 2)))
        fits.append(float(jnp.sum((kp.predict(clean, X, RIDGE) - Y[:, 0]) ** 2)))
    assert energies == sorted(energies, reverse=True)
    assert fits == sorted(fits)


@pytest.mark.slow
def test_images_of_several_axes():
    kernel = kk.Custom(lambda x, z: jnp.exp(-0.5 * jnp.sum((x - z) ** 2) / ELL**2), point_ndim=3)
    images = X.reshape(N, D, 1, 1)
    clean = kp.fit(kernel, images, Y, gradient_penalty=GAMMA)
    flat = fitted()
    poison, same = (kp.Poison(z, LABEL, 2.0) for z in (ZETA.reshape(D, 1, 1), ZETA))
    probes = PROBES.reshape(-1, D, 1, 1)
    np.testing.assert_allclose(
        kp.efficacy(clean, poison, probes, RIDGE), kp.efficacy(flat, same, PROBES, RIDGE), rtol=1e-10
    )
    np.testing.assert_allclose(kp.spike(clean, poison, probes, RIDGE), kp.spike(flat, same, PROBES, RIDGE), rtol=1e-9)


@pytest.mark.slow
def test_derivatives_in_the_penalty_and_the_length_scale():
    poison = kp.Poison(ZETA, LABEL[0], 2.0)

    def value(gamma, length_scale):
        clean = kp.fit(kk.RBF(length_scale), X, Y[:, 0], gradient_penalty=gamma)
        return kp.efficacy(clean, poison, PROBES[0], RIDGE)

    found = jax.jit(jax.grad(value, (0, 1)))(GAMMA, ELL)
    step = 1e-5
    expected = [
        (value(GAMMA + step, ELL) - value(GAMMA - step, ELL)) / (2 * step),
        (value(GAMMA, ELL + step) - value(GAMMA, ELL - step)) / (2 * step),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    many = jax.vmap(value, (0, None))(jnp.array([0.1, 0.3]), ELL)
    np.testing.assert_allclose(many[1], value(0.3, ELL), rtol=1e-12)


@pytest.mark.slow
def test_float32():
    clean, exact = fitted(dtype=np.float32), fitted()
    poison = kp.Poison(ZETA, LABEL, 2.0)
    found = kp.efficacy(clean, kp.Poison(ZETA.astype(np.float32), LABEL, 2.0), PROBES.astype(np.float32), RIDGE)
    assert found.dtype == jnp.float32
    error = np.abs(found - kp.efficacy(exact, poison, PROBES, RIDGE))
    condition = float(exact.condition_number(jnp.asarray((N + 2) * RIDGE)))
    assert np.max(error) <= 10 * np.finfo(np.float32).eps * condition


@pytest.mark.slow
def test_the_input_hessian_and_thresholds():
    """Everything else that takes a posterior."""
    clean = kp.fit(kk.RBF(ELL), X, Y[:, 0], gradient_penalty=GAMMA)
    f = kp.predictor(clean, RIDGE)
    dense = np.mean([np.outer(g, g) for g in jax.vmap(jax.grad(f))(jnp.asarray(X))], axis=0)
    np.testing.assert_allclose(kp.curvature.fisher(f, X).dense(), dense, rtol=1e-10)
    poison, x = kp.Poison(ZETA, 5.0, 1.0), PROBES[0]
    m = float(kp.m_success(clean, poison, x, RIDGE))
    if 0 < m < np.inf:
        at = kp.predict(clean, x, RIDGE, kp.Poison(ZETA, 5.0, m))
        np.testing.assert_allclose(at, 0, atol=1e-9)


@pytest.mark.slow
def test_a_sweep_is_the_law():
    clean = kp.fit(kk.RBF(ELL), X, Y[:, 0], gradient_penalty=GAMMA)
    poison, u = kp.Poison(ZETA, 1.0, 1.0), np.array([1.0, 0.0, 0.0])
    found = kp.sweep(clean, poison, direction=u, r_over_l=[0.1, 1.0], m=[1.0, 5.0], ridge=[0.01, 0.1])
    for i, r in enumerate([0.1, 1.0]):
        for j, m in enumerate([1.0, 5.0]):
            law = kp.efficacy(clean, kp.Poison(ZETA, 1.0, m), ZETA + r * ELL * u, 0.1)
            np.testing.assert_allclose(found.efficacy.values[i, j, 1], law, rtol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gradient_penalty": -1.0}, "gradient_penalty must"),
        ({"gradient_penalty": np.nan}, "gradient_penalty must"),
        ({"gradient_penalty": 1.0, "metric": np.eye(D + 1)}, r"metric must have shape \(3, 3\)"),
        ({"gradient_penalty": 1.0, "metric": np.triu(np.ones((D, D)))}, "metric must be symmetric"),
        ({"gradient_penalty": 1.0, "metric": -np.eye(D)}, "metric must be positive semi-definite"),
        ({"gradient_penalty": 1.0, "metric": np.full((D, D), np.nan)}, "metric must be finite|finite"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        kp.fit(kk.RBF(ELL), X, Y, **arguments)


@pytest.mark.parametrize("kernel", [kk.Laplace(1.0), kk.NTK(1, "relu")], ids=str)
def test_kernels_without_slopes_are_refused(kernel):
    with pytest.raises(ValueError, match=r"twice continuously differentiable.*Use RBF"):
        kp.fit(kernel, X, Y, gradient_penalty=1.0)


def test_too_many_numbers_are_refused():
    with pytest.raises(ValueError, match=r"dense matrix over n\(1 \+ r\) = 14000"):
        kp.fit(kk.RBF(ELL), RNG.normal(size=(20, 699)), np.zeros(20), gradient_penalty=1.0)


def test_the_ratio_is_refused():
    with pytest.raises(ValueError, match="without a gradient penalty"):
        kp.spike_efficacy_ratio(fitted(), kp.Poison(ZETA, LABEL, 1.0), PROBES, RIDGE)
