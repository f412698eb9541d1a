"""Conjugate gradients against dense solves, and the reports of those that fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kpoison import kernels as kk
from kpoison.ridge._conjugate_gradients import conjugate_gradients
from kpoison.ridge.observations import Observations, covariance
from kpoison.ridge.system import gram_system

RNG = np.random.default_rng(1)
N, D = 9, 3
POINTS, FULL = jnp.asarray(RNG.normal(size=(N, D))), jnp.asarray(RNG.normal(size=(D, D)))
POINTS = POINTS.at[4].set(POINTS[2])
X = Observations(POINTS, FULL)
B = jnp.asarray(RNG.normal(size=(X.number, 3)))
KERNELS = {
    "rbf": kk.RBF(1.3),
    "matern32": kk.Matern32(1.3),
    "polynomial": kk.Polynomial(3, 0.5),
    "NTK-erf": kk.NTK(1, "erf", 1.4, 0.3),
    "NNGP-relu": kk.NNGP(1, "relu", 1.4, 0.3),
}


def dense_solution(kernel, rho, b=B, observed=X):
    matrix = covariance(kernel, observed, observed)
    return jnp.linalg.solve(matrix + rho * jnp.eye(len(matrix)), b.astype(jnp.result_type(b, rho)))


def relative_error(found, expected):
    return float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected))


def matrix_and_block(size=40, columns=5, spread=1e4):
    vectors = np.linalg.qr(RNG.normal(size=(size, size)))[0]
    matrix = jnp.asarray(vectors * np.geomspace(1, spread, size) @ vectors.T)
    return 0.5 * (matrix + matrix.T), jnp.asarray(RNG.normal(size=(size, columns)))


def solved(matrix, b, tolerance=1e-10, max_iterations=200):
    return conjugate_gradients(
        lambda x: matrix @ x,
        b,
        preconditioner=lambda power, x: jnp.diagonal(matrix)[:, None] ** power * x,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 5, 60])
def test_solves_to_the_tolerance(columns):
    matrix, b = matrix_and_block(columns=columns)
    x, status = solved(matrix, b)
    residuals = jnp.linalg.norm(b - matrix @ x, axis=0) / jnp.linalg.norm(b, axis=0)
    assert bool(jnp.all(status.converged))
    assert float(jnp.max(residuals)) <= 1e-10
    np.testing.assert_allclose(status.relative_residuals, residuals, atol=1e-13)


@pytest.mark.slow
def test_a_block_takes_fewer_iterations_than_its_columns():
    matrix, b = matrix_and_block(size=100, columns=8)
    solve = jax.jit(solved)
    alone = [int(solve(matrix, b[:, i : i + 1])[1].iterations) for i in range(8)]
    assert int(solve(matrix, b)[1].iterations) < min(alone) / 2


@pytest.mark.slow
def test_dependent_equal_and_vanishing_columns():
    matrix, b = matrix_and_block()
    b = b.at[:, 1].set(b[:, 0]).at[:, 2].set(0).at[:, 3].set(b[:, 0] + 1e-9 * b[:, 4])
    x, status = solved(matrix, b)
    assert bool(jnp.all(status.converged))
    assert float(status.relative_residuals[2]) == 0
    np.testing.assert_array_equal(x[:, 2], 0)
    # eps·condition is 2e-12; the tolerance on the residual is 1e-10 times the condition number for the solution.
    np.testing.assert_allclose(x, jnp.linalg.solve(matrix, b), atol=1e-6 * float(jnp.max(jnp.abs(x))))


def test_columns_of_very_different_size_are_each_solved():
    matrix, b = matrix_and_block()
    sizes = jnp.array([1e-12, 1.0, 1e8, 1e-3, 1e3])
    x, status = solved(matrix, b * sizes[None])
    residuals = jnp.linalg.norm(b - matrix @ (x / sizes[None]), axis=0) / jnp.linalg.norm(b, axis=0)
    assert bool(jnp.all(status.converged))
    assert float(jnp.max(residuals)) <= 1.01e-10


def test_zero_right_hand_sides_take_no_iteration():
    matrix, b = matrix_and_block()
    x, status = solved(matrix, 0 * b)
    assert int(status.iterations) == 0
    assert bool(jnp.all(status.converged))
    np.testing.assert_array_equal(x, 0)


def test_too_few_iterations_are_reported():
    matrix, b = matrix_and_block()
    x, status = solved(matrix, b, max_iterations=3)
    assert int(status.iterations) == 3
    assert not bool(jnp.any(status.converged))
    np.testing.assert_allclose(
        status.relative_residuals, jnp.linalg.norm(b - matrix @ x, axis=0) / jnp.linalg.norm(b, axis=0), rtol=1e-8
    )


def test_a_tolerance_below_rounding_is_reported_and_ends():
    matrix, b = matrix_and_block(spread=1e8)
    _, status = solved(matrix, b, tolerance=1e-17, max_iterations=100_000)
    assert not bool(jnp.any(status.converged))
    assert int(status.iterations) < 2000
    # Rounding leaves about eps times the condition number.
    assert float(jnp.max(status.relative_residuals)) < 1e8 * np.finfo(float).eps * 10


@pytest.mark.slow
def test_a_singular_or_non_finite_system_is_reported():
    matrix, b = matrix_and_block()
    for bad in (jnp.zeros_like(matrix), matrix.at[0, 0].set(jnp.nan)):
        x, status = conjugate_gradients(
            lambda x, bad=bad: bad @ x, b, preconditioner=lambda _, x: x, tolerance=1e-8, max_iterations=50
        )
        assert not bool(jnp.any(status.converged))
        assert bool(jnp.all(jnp.isfinite(x)))
    assert not bool(jnp.any(solved(matrix, b.at[0, 0].set(jnp.nan))[1].converged[:1]))


@pytest.mark.parametrize("shift", [0.5 + 3j, -50 + 40j, -2 - 1j])
def test_complex_shifts(shift):
    matrix, b = matrix_and_block()
    shifted = matrix + shift * jnp.eye(len(matrix))
    x, status = solved(shifted, b.astype(complex), max_iterations=500)
    assert bool(jnp.all(status.converged))
    assert relative_error(x, jnp.linalg.solve(shifted, b.astype(complex))) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("NNGP-relu", "NTK-erf", "matern32"))) for name in KERNELS],
)
def test_the_system_is_solved_as_densely(name):
    kernel = KERNELS[name]
    system = jax.jit(lambda kernel: gram_system(kernel, X))(kernel)
    for rho in (0.3, 0.01, -0.2 + 0.3j):
        x, status = jax.jit(lambda system, rho: system.solve(rho, B))(system, jnp.asarray(rho))
        assert bool(jnp.all(status.converged)), status
        # The error is at most the condition number, 1e5 here, times the tolerance of 1e-10; asked is 1e-7.
        assert relative_error(x, dense_solution(kernel, rho)) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("root", [FULL[:1], None], ids=["low rank", "values alone"])
def test_roots_of_lower_rank(root):
    observed = Observations(POINTS, root)
    b = jnp.asarray(RNG.normal(size=(observed.number, 2)))
    x, status = gram_system(KERNELS["rbf"], observed).solve(jnp.asarray(0.1), b)
    assert bool(jnp.all(status.converged))
    assert relative_error(x, dense_solution(KERNELS["rbf"], 0.1, b, observed)) < 1e-8


@pytest.mark.slow
def test_the_preconditioner_serves_every_ridge():
    """Values alone are solved in one iteration, and one more where eps times the condition number is seen."""
    b = jnp.asarray(RNG.normal(size=(N, 2)))
    system = gram_system(KERNELS["rbf"], Observations(POINTS))
    for rho in (1e-3, 1e-1, 10.0):
        assert int(system.solve(jnp.asarray(rho), b)[1].iterations) <= 2


@pytest.mark.slow
def test_a_sweep_over_ridges_is_the_solves():
    system, rhos = gram_system(KERNELS["polynomial"], X), jnp.array([0.05, 0.5, 5.0])
    x, status = jax.jit(jax.vmap(lambda rho: system.solve(rho, B)))(rhos)
    assert status.converged.shape == (3, 3)
    assert bool(jnp.all(status.converged))
    for i, rho in enumerate(rhos):
        assert relative_error(x[i], dense_solution(KERNELS["polynomial"], rho)) < 1e-7


@pytest.mark.slow
def test_weighted_points_have_their_noise_divided():
    weights, rho = jnp.asarray(RNG.uniform(0.5, 4, size=N)), 0.2
    noise = rho / X.repeat(weights)
    expected = jnp.linalg.solve(covariance(KERNELS["rbf"], X, X) + jnp.diag(noise), B)
    roots = X.repeat(jnp.sqrt(weights))[:, None]
    weighted = X.with_weights(weights)
    x, status = gram_system(KERNELS["rbf"], weighted).solve(jnp.asarray(rho), roots * B)
    assert bool(jnp.all(status.converged))
    assert relative_error(roots * x, expected) < 1e-8


@pytest.mark.slow
def test_float32():
    single = Observations(POINTS.astype(jnp.float32), FULL.astype(jnp.float32))
    x, status = gram_system(KERNELS["rbf"], single).solve(jnp.asarray(0.5), B.astype(jnp.float32), tolerance=1e-5)
    assert x.dtype == jnp.float32
    assert bool(jnp.all(status.converged))
    condition = float(jnp.linalg.cond(covariance(KERNELS["rbf"], X, X) + 0.5 * jnp.eye(X.number)))
    assert relative_error(x, dense_solution(KERNELS["rbf"], 0.5)) < 1e-5 * condition


@pytest.mark.slow
def test_derivatives_are_those_of_the_dense_solve():
    distinct = Observations(POINTS.at[4].add(0.3), FULL)

    def by(solve):
        def value(length_scale, gamma, rho, b, points):
            observed = Observations(points, gamma * distinct.slope_operator)
            return jnp.sum(jnp.sin(solve(kk.RBF(length_scale), observed, rho, b)))

        return jax.jit(jax.grad(value, (0, 1, 2, 3, 4)))(1.3, 0.8, 0.2, B, distinct.points)

    found = by(lambda kernel, observed, rho, b: gram_system(kernel, observed).solve(rho, b)[0])
    expected = by(lambda kernel, observed, rho, b: dense_solution(kernel, rho, b, observed))
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-7


@pytest.mark.slow
def test_forward_and_second_derivatives_in_the_ridge():
    system = gram_system(KERNELS["rbf"], X)

    def value(rho, solve):
        return jnp.sum(solve(rho) ** 2)

    def ours(rho):
        return value(rho, lambda rho: system.solve(rho, B)[0])

    def theirs(rho):
        return value(rho, lambda rho: dense_solution(KERNELS["rbf"], rho))

    for derivative in (jax.jacfwd, jax.grad, lambda f: jax.jacfwd(jax.grad(f))):
        np.testing.assert_allclose(jax.jit(derivative(ours))(0.2), jax.jit(derivative(theirs))(0.2), rtol=1e-7)


@pytest.mark.slow
def test_the_trace_bounds_the_spectrum():
    for kernel in (KERNELS["polynomial"], KERNELS["NNGP-relu"]):
        matrix = covariance(kernel, X, X)
        np.testing.assert_allclose(gram_system(kernel, X).trace, jnp.trace(matrix), rtol=1e-12)
