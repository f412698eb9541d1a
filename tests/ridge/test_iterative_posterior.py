"""Laws on a posterior of conjugate gradients are those on the dense one, at n(1 + r) numbers and beyond."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp

RNG = np.random.default_rng(3)
X = jnp.asarray(RNG.normal(size=(15, 4)))
Y = jnp.asarray(RNG.normal(size=15))
Y2 = jnp.stack([Y, Y**2], axis=1)
ZETA = jnp.asarray(RNG.normal(size=4))
PROBES = jnp.asarray(RNG.normal(size=(4, 4)))
METRIC = jnp.diag(jnp.array([1.0, 0.5, 0.2, 0.0]))
RIDGE, PENALTY = 1e-2, 0.3
# Residuals of 1e-10 times a condition number of at most trace/ρ, about 400.
RTOL = 1e-7
CG = kp.ConjugateGradients()


def pair(kernel=kp.kernels.RBF(1.5), y=Y, penalty=PENALTY, metric=METRIC):  # noqa: B008
    return tuple(
        kp.fit(kernel, X, y, gradient_penalty=penalty, metric=metric, solver=solver) for solver in (kp.Spectral(), CG)
    )


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=RTOL * float(jnp.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "penalty"),
    [
        (kp.kernels.RBF(1.5), 0.0),
        (kp.kernels.NTK(1, "erf", 1.4, 0.1), PENALTY),
        (kp.kernels.Matern32(2.0) + kp.kernels.Linear(), PENALTY),
    ],
    ids=["rbf", "erf", "sum"],
)
def test_laws_are_those_of_the_dense_posterior(kernel, penalty):
    dense, iterative = pair(kernel, penalty=penalty)
    poison = kp.Poison(ZETA, -1.0, 3)
    for law in (kp.efficacy, kp.spike):
        assert_close(law(iterative, poison, PROBES, RIDGE), law(dense, poison, PROBES, RIDGE))
    assert_close(kp.predict(iterative, PROBES, RIDGE), kp.predict(dense, PROBES, RIDGE))
    assert_close(kp.predict(iterative, PROBES, RIDGE, poison), kp.predict(dense, PROBES, RIDGE, poison))
    assert_close(kp.efficacy(iterative, poison, PROBES, RIDGE, "isolated"),
                 kp.efficacy(dense, poison, PROBES, RIDGE, "isolated"))  # fmt: skip


@pytest.mark.slow
def test_clusters_and_outputs():
    dense, iterative = pair(y=Y2)
    poison = kp.Poison(jnp.stack([ZETA, -ZETA]), jnp.array([[-1.0, 1.0], [0.5, 2.0]]), jnp.array([2.0, 0.0]))
    assert_close(kp.spike(iterative, poison, PROBES, RIDGE), kp.spike(dense, poison, PROBES, RIDGE))


@pytest.mark.slow
def test_thresholds_and_stopped_predictors():
    dense, iterative = pair()
    poison = kp.Poison(ZETA, -1.0, 3)
    for time in (0.0, 2.0, 100.0):
        stopped = [kp.flow.early_stopped(posterior, time) for posterior in (dense, iterative)]
        expected, found = (kp.efficacy(posterior, poison, PROBES, RIDGE) for posterior in stopped)
        assert_close(found, expected)
    expected, found = (kp.flow.energies(posterior, RIDGE, poison, metric=METRIC) for posterior in (dense, iterative))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(a, b)


@pytest.mark.slow
def test_derivatives_in_ridge_count_and_data():
    def law(solver, ridge, count, X):
        clean = kp.fit(kp.kernels.RBF(1.5), X, Y, gradient_penalty=PENALTY, solver=solver)
        return kp.efficacy(clean, kp.Poison(ZETA, -1.0, count), PROBES[0], ridge)

    arguments = (jnp.asarray(RIDGE), jnp.asarray(3.0), X)
    expected, found = (
        jax.grad(lambda *a: law(solver, *a), argnums=(0, 1, 2))(*arguments)  # noqa: B023
        for solver in (kp.Spectral(), CG)
    )
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


@pytest.mark.slow
def test_the_loss_gradient_flow_needs_no_matrix():
    dense, iterative = pair()
    expected, found = (kp.flow.loss_gradient_flow(p, RIDGE, [1.0, 10.0])(PROBES) for p in (dense, iterative))
    assert_close(found, expected)


@pytest.mark.slow
def test_a_sweep_over_penalties():
    axes = {"direction": jnp.ones(4), "r_over_l": [0.1], "m": [1.0, 3.0], "ridge": [1e-2], "quantities": ["spike"]}
    expected, found = (
        kp.sweep(p, kp.Poison(ZETA, -1.0, 1), gradient_penalty=[0.1, 0.5], **axes).spike.values for p in pair()
    )
    assert_close(found, expected)


@pytest.mark.slow
def test_more_slopes_than_a_matrix_could_hold():
    """40 points in 400 dimensions, 16,040 numbers; dense through the span of the data, in which all slopes lie."""
    points = jnp.asarray(RNG.normal(size=(41, 400)))
    data, zeta, labels = points[:-1], points[-1], jnp.sign(points[:-1, 0])
    basis = jnp.linalg.qr(points.T)[0]
    probes = zeta[None] + 0.1 * jnp.asarray(RNG.normal(size=(3, 400)))
    kernel, poison = kp.kernels.RBF(28.0), kp.Poison(zeta, -1.0, 5)
    with pytest.raises(ValueError, match="ConjugateGradients"):
        kp.fit(kernel, data, labels, gradient_penalty=8.0)
    iterative = kp.fit(kernel, data, labels, gradient_penalty=8.0, solver=CG)
    dense = kp.fit(kernel, data, labels, gradient_penalty=8.0, metric=basis @ basis.T)
    for law in (kp.efficacy, kp.spike):
        assert_close(law(iterative, poison, probes, 1e-3), law(dense, poison, probes, 1e-3))


@pytest.mark.slow
def test_float32():
    clean = kp.fit(kp.kernels.RBF(1.5), X.astype(jnp.float32), Y.astype(jnp.float32), gradient_penalty=0.3, solver=CG)
    poison = kp.Poison(ZETA.astype(jnp.float32), -1.0, 3)
    found = kp.efficacy(clean, poison, PROBES.astype(jnp.float32), RIDGE)
    dense = kp.fit(kp.kernels.RBF(1.5), X, Y, gradient_penalty=0.3)
    assert found.dtype == jnp.float32
    expected = kp.efficacy(dense, kp.Poison(ZETA, -1.0, 3), PROBES, RIDGE)
    # Residuals of 1e-5 times the condition number, about 400.
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-3 * float(jnp.abs(expected).max()))


@pytest.mark.slow
def test_a_solve_that_does_not_converge_is_an_error():
    clean = kp.fit(kp.kernels.RBF(1.5), X, Y, gradient_penalty=PENALTY, solver=kp.ConjugateGradients(max_iterations=2))
    with pytest.raises(Exception, match="have not converged to the tolerance on relative residuals in 2 iterations"):
        kp.predict(clean, PROBES, RIDGE).block_until_ready()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(
            lambda: kp.gain(pair()[1], kp.Poison(ZETA, -1.0, 3), RIDGE),
            "dense solver for the gain",
            marks=pytest.mark.slow,
        ),
        (lambda: kp.ConjugateGradients(tolerance=0.0), "tolerance must be finite and > 0"),
        (lambda: kp.ConjugateGradients(max_iterations=0), "max_iterations must be an integer >= 1"),
        (
            lambda: kp.fit(kp.kernels.Laplace(1.0), X, Y, gradient_penalty=1.0, solver=CG),
            "twice continuously",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_the_smallest_penalty_is_looked_for_without_a_matrix(monkeypatch):
    monkeypatch.setattr("kpoison.ridge.solvers.dense.DENSE_UP_TO", len(X))
    clean = kp.fit(kp.kernels.RBF(1.5), X, Y, solver=CG)
    poison = kp.Poison(ZETA, -1.0, 3)
    target = 0.9 * float(jnp.abs(kp.efficacy(clean, poison, ZETA, RIDGE)))
    choice = kp.flow.smallest_gradient_penalty(clean, poison, ZETA, RIDGE, target, rtol=1e-2)
    assert choice.value <= target
