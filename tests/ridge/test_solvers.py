"""Factorisations of a Gram matrix K, and linear algebra with A = K + ρI, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covering import pairwise
from known_solvers import every_solver

import kpoison as kp
from benchmarks.exactness import EPS
from kpoison.ridge import Solver
from kpoison.ridge.observations import WeightedObservations
from kpoison.ridge.solvers.conjugate_gradients import default_tolerance
from kpoison.ridge.solvers.dense import DenseSolver, implicit_inverse_product, implicit_solve
from kpoison.ridge.solvers.preparation import prepared

RNG = np.random.default_rng(4)
N = 8
RHO = 0.05
SOLVERS = {name: solver for name, solver in every_solver().items() if isinstance(solver, DenseSolver)}


def gram(case):
    """Positive semi-definite matrices: well separated, of low rank (duplicates), all zero eigenvalues but one."""
    root = RNG.normal(size=(N, N))
    if case == "duplicates":
        root[N // 2 :] = root[: N // 2]
    if case == "rank_one":
        root = np.ones((N, 1))
    return root @ root.T


CASES = {case: gram(case) for case in ("plain", "duplicates", "rank_one")}


@pytest.fixture(name="K", params=CASES)
def matrix(request):
    return CASES[request.param]


@pytest.fixture(params=SOLVERS)
def solver(request):
    return SOLVERS[request.param]


def test_solve_and_inverse_product(K, solver):
    A = K + RHO * np.eye(N)
    b, c = RNG.normal(size=(N, 3)), RNG.normal(size=(N, 2))
    factor = solver.factorise(jnp.asarray(K))
    rounding = 10 * EPS * np.linalg.cond(A)
    expected = np.linalg.solve(A, b)
    bound = rounding * np.linalg.norm(np.linalg.inv(A), 2) * np.linalg.norm(b)
    np.testing.assert_allclose(factor.solve(jnp.asarray(RHO), jnp.asarray(b)), expected, rtol=0, atol=bound)
    found = factor.inverse_product(jnp.asarray(RHO), jnp.asarray(b), jnp.asarray(c))
    bound = bound * np.linalg.norm(c)
    np.testing.assert_allclose(found, b.T @ np.linalg.solve(A, c), rtol=0, atol=bound)


def test_eigenvalues_are_bounded(K, solver):
    lowest, highest = solver.factorise(jnp.asarray(K)).bounds()
    eigenvalues = np.linalg.eigvalsh(K)
    slack = N * EPS * eigenvalues[-1]
    assert lowest <= eigenvalues[0] + slack
    assert highest >= eigenvalues[-1] - slack
    # Cholesky's row sums are at most √n times too large, so a warning of it is at most that early.
    assert highest <= np.sqrt(N) * eigenvalues[-1] + slack


def test_every_solver_is_on_the_face():
    face = {kind for kind in vars(kp.ridge).values() if isinstance(kind, type) and issubclass(kind, Solver)}
    assert {type(solver) for solver in every_solver().values()} == face - {Solver}


def test_every_ridge_from_one_factorisation(K):
    expected = SOLVERS["Cholesky"].factorise(jnp.asarray(K))
    others = [solver.factorise(jnp.asarray(K)) for name, solver in SOLVERS.items() if name != "Cholesky"]
    b = jnp.asarray(RNG.normal(size=(N, 1)))
    for rho in (1e-6, 1e-2, 1e2):
        A = K + rho * np.eye(N)
        bound = 2 * 10 * EPS * np.linalg.cond(A) * np.linalg.norm(np.linalg.inv(A), 2) * np.linalg.norm(b)
        for factor in others:
            found = factor.solve(jnp.asarray(rho), b)
            np.testing.assert_allclose(found, expected.solve(jnp.asarray(rho), b), rtol=0, atol=bound)


def arguments(K):
    b, c = RNG.normal(size=(N, 3)), RNG.normal(size=(N, 2))
    return K, RHO, b, c


def tangents():
    d = RNG.normal(size=(N, N))
    return d + d.T, 0.7, RNG.normal(size=(N, 3)), RNG.normal(size=(N, 2))


def test_derivatives_are_those_of_the_equation(K, solver):
    # dx = A⁻¹(db − (dK + dρ) x) and d(bᵀA⁻¹c) likewise, by NumPy; forward and reverse.
    K, rho, b, c = arguments(K)
    dK, drho, db, dc = tangents()
    A = K + rho * np.eye(N)
    dA = dK + drho * np.eye(N)
    x, z = np.linalg.solve(A, b), np.linalg.solve(A, c)
    dx = np.linalg.solve(A, db - dA @ x)
    dproduct = db.T @ z + x.T @ dc - x.T @ dA @ z

    def functions(K, rho, b, c):
        factor = solver.factorise(jax.lax.stop_gradient(K))
        return implicit_solve(factor, K, rho, b), implicit_inverse_product(factor, K, rho, b, c)

    primal = tuple(jnp.asarray(a) for a in (K, rho, b, c))
    tangent = tuple(jnp.asarray(a) for a in (dK, drho, db, dc))
    _, (found, found_product) = jax.jvp(functions, primal, tangent)
    inverse = np.linalg.norm(np.linalg.inv(A), 2)
    # Each of two solves in a row loses 10·eps·cond.
    bound = (
        2
        * 10
        * EPS
        * np.linalg.cond(A)
        * inverse
        * (np.linalg.norm(db) + np.linalg.norm(dA, 2) * inverse * np.linalg.norm(b))
    )
    np.testing.assert_allclose(found, dx, rtol=0, atol=bound)
    bound = bound * np.linalg.norm(c) + 10 * EPS * np.linalg.cond(A) * np.linalg.norm(x) * np.linalg.norm(dc)
    np.testing.assert_allclose(found_product, dproduct, rtol=0, atol=bound)

    # Reverse: ⟨w, J t⟩ = ⟨Jᵀ w, t⟩.
    weights = RNG.normal(size=x.shape), RNG.normal(size=dproduct.shape)
    _, pullback = jax.vjp(functions, *primal)
    cotangents = pullback(tuple(jnp.asarray(w) for w in weights))
    forward = np.sum(weights[0] * found) + np.sum(weights[1] * found_product)
    backward = sum(np.sum(a * t) for a, t in zip(cotangents, tangent, strict=True))
    np.testing.assert_allclose(
        backward, forward, rtol=0, atol=bound * (np.linalg.norm(weights[0]) + np.linalg.norm(weights[1]))
    )


def test_solves_are_vectorised_over_ridges(K, solver):
    factor = solver.factorise(jnp.asarray(K))
    b = jnp.asarray(RNG.normal(size=(N, 2)))
    rhos = jnp.array([0.01, 0.1, 1.0])
    found = jax.vmap(lambda rho: implicit_solve(factor, jnp.asarray(K), rho, b))(rhos)
    for rho, one in zip(rhos, found, strict=True):
        A = K + float(rho) * np.eye(N)
        bound = 10 * EPS * np.linalg.cond(A) * np.linalg.norm(np.linalg.inv(A), 2) * np.linalg.norm(b)
        np.testing.assert_allclose(one, factor.solve(rho, b), rtol=0, atol=bound)


def test_complex_ridges(K, solver):
    # As early stopping has them, to the left of the imaginary axis too.
    factor, b = solver.factorise(jnp.asarray(K)), RNG.normal(size=(N, 2))
    for rho in (0.3 + 0.5j, -2.0 + 1.5j, -0.4 * np.trace(K) + 0.1j):
        A = K + rho * np.eye(N)
        bound = 10 * EPS * np.linalg.cond(A) * np.linalg.norm(np.linalg.inv(A), 2) * np.linalg.norm(b)
        found = factor.solve(jnp.asarray(rho), jnp.asarray(b))
        np.testing.assert_allclose(found, np.linalg.solve(A, b), rtol=0, atol=bound)
        product = factor.inverse_product(jnp.asarray(rho), jnp.asarray(b), jnp.asarray(b))
        np.testing.assert_allclose(product, b.T @ np.linalg.solve(A, b), rtol=0, atol=bound * np.linalg.norm(b))


def test_batches_of_matrices_and_of_right_hand_sides(solver):
    grams = jnp.stack([jnp.asarray(K) for K in CASES.values()])
    b = jnp.asarray(RNG.normal(size=(len(CASES), 2, N, 3)))
    factors = jax.vmap(solver.factorise)(grams)
    found = jax.vmap(lambda factor, b: jax.vmap(lambda b: factor.solve(jnp.asarray(RHO), b))(b))(factors, b)
    for K, one, right in zip(grams, found, b, strict=True):
        A = np.asarray(K) + RHO * np.eye(N)
        bound = 10 * EPS * np.linalg.cond(A) * np.linalg.norm(np.linalg.inv(A), 2) * np.linalg.norm(right)
        np.testing.assert_allclose(one, np.linalg.solve(A, right), rtol=0, atol=bound)


def test_float32_and_the_smallest_matrices(solver):
    for size in (1, 2, 3):
        root = RNG.normal(size=(size, size))
        K = jnp.asarray(root @ root.T, jnp.float32)
        b = jnp.asarray(RNG.normal(size=(size, 2)), jnp.float32)
        factor = solver.factorise(K)
        A = np.asarray(K, float) + 0.5 * np.eye(size)
        bound = 10 * float(jnp.finfo(jnp.float32).eps) * np.linalg.cond(A) * np.linalg.norm(np.linalg.inv(A), 2)
        found = factor.solve(jnp.asarray(0.5, jnp.float32), b)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, np.linalg.solve(A, b), rtol=0, atol=bound * np.linalg.norm(b))
        assert all(bound.dtype == jnp.float32 for bound in factor.bounds())


def test_sturm_finds_the_ends_of_the_spectrum():
    # Indefinite, and with clusters at both ends.
    vectors = np.linalg.qr(RNG.normal(size=(60, 60)))[0]
    for values in (np.linspace(-3, 8, 60), np.r_[np.full(20, 1e-3), np.full(20, 0.5), np.full(20, 70.0)], np.zeros(60)):
        lowest, highest = kp.Tridiagonal().factorise(jnp.asarray(vectors * values @ vectors.T)).bounds()
        slack = 60 * EPS * np.max(np.abs(values))
        np.testing.assert_allclose([lowest, highest], [values.min(), values.max()], rtol=0, atol=slack)


@pytest.mark.parametrize("name", ["Cholesky", "Spectral", "Tridiagonal"])
@pytest.mark.parametrize("number", [8, 70])  # with one part of the columns, and with two of which one is filled up
def test_diagonals_and_determinant(name, number):
    root = np.random.default_rng(number).normal(size=(number, number))
    K, rhos = root @ root.T, np.array([0.05, 3.0])
    factor = SOLVERS[name].factorise(jnp.asarray(K))
    identity = jnp.eye(number)
    found = jax.vmap(lambda r: (*factor.diagonals(r, identity), factor.log_determinant(r, identity)))(jnp.asarray(rhos))
    for i, rho in enumerate(rhos):
        A = K + rho * np.eye(number)
        inverse, bound = np.linalg.inv(A), 10 * EPS * np.linalg.cond(A)
        np.testing.assert_allclose(found[0][i], np.diag(inverse), rtol=0, atol=bound * np.linalg.norm(inverse, 2))
        np.testing.assert_allclose(found[1][i], np.diag(K @ inverse), rtol=0, atol=bound)
        np.testing.assert_allclose(found[2][i], np.linalg.slogdet(A)[1], rtol=0, atol=bound * number)


@pytest.mark.parametrize("solver", [kp.Spectral(), kp.Tridiagonal()])
def test_spectrum(K, solver):
    found = solver.factorise(jnp.asarray(K)).spectrum()
    np.testing.assert_allclose(found, np.linalg.eigvalsh(K), rtol=0, atol=10 * N * EPS * np.linalg.norm(K, 2))


def test_solvers_are_values():
    assert kp.Spectral() == kp.Spectral()
    assert hash(kp.Cholesky()) == hash(kp.Cholesky())
    leaves = jax.tree.leaves(kp.fit(kp.kernels.RBF(1.0), np.eye(3), np.ones(3), solver=kp.Cholesky()))
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)


@pytest.mark.parametrize(
    ("solver", "scale", "dtype"),
    [
        pytest.param(*case, marks=() if isinstance(case[0], DenseSolver) else pytest.mark.slow)
        for case in pairwise(
            [kp.Spectral(), kp.Tridiagonal(), kp.Cholesky(), kp.Krylov(), kp.ConjugateGradients()],
            [0.0, 1e-17, 1e12],
            [np.float32, np.float64],
        )
    ],
)
def test_a_gram_matrix_of_zeros_is_one(solver, scale, dtype):
    """Clean points without features: f = m y_t k/(ρ + m k(ζ, ζ)) with 3 poisons beside 3 points, −3/3.6."""
    X = scale * np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], dtype)  # singular at every scale
    clean = kp.fit(kp.kernels.Linear(), X, np.ones(3, dtype), solver=solver)
    if scale < 1:
        found = kp.predict(clean, np.array([0.0, 1.0], dtype), 0.1, kp.Poison(np.array([0.0, 1.0], dtype), -1.0, 3.0))
        assert float(found) == pytest.approx(-3 / 3.6, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver", [kp.Spectral(), kp.Krylov(rank=3, tolerance=1e-13), kp.ConjugateGradients(tolerance=1e-13)]
)
def test_weighted_points_are_divided_noise(solver):
    points, weights, b = RNG.normal(size=(6, 2)), np.array([1.0, 2.0, 0.5, 0.0, 1.0, 3.0]), RNG.normal(size=(6, 2))
    kernel, kept = kp.kernels.RBF(1.2), weights > 0
    factor = prepared(solver, kernel, WeightedObservations(jnp.asarray(points), None, jnp.asarray(weights)))
    found = factor.solve(jnp.asarray(0.3), jnp.asarray(b))
    gram = np.asarray(kernel(points))[np.ix_(kept, kept)]
    expected = np.zeros_like(b)
    expected[kept] = np.linalg.solve(gram + 0.3 * np.diag(1 / weights[kept]), b[kept])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


def test_no_smaller_residual_is_asked_for_than_a_rounded_solution_has():
    vectors = np.linalg.qr(RNG.normal(size=(60, 60)))[0]
    matrix, b, rho = vectors * np.geomspace(1e-6, 1e4, 60) @ vectors.T, RNG.normal(size=60), 1e-2
    single = np.linalg.solve(matrix + rho * np.eye(60), b).astype(np.float32)
    left = b - (matrix.astype(np.float32) @ single).astype(float) - rho * single.astype(float)
    residual = np.linalg.norm(left) / np.linalg.norm(b)
    assert 1e-4 < residual < float(default_tolerance(jnp.float32(1e4), jnp.float32(rho)))


@pytest.mark.parametrize(("old", "new"), [("gram", r"factor\.gram"), ("root", "slope_operator")])
def test_old_spellings_say_the_new_one(old, new):
    clean = kp.fit(kp.kernels.RBF(1.0), np.eye(2), np.ones(2))
    with pytest.raises(AttributeError, match=new):
        getattr(clean, old)


@pytest.mark.parametrize("number", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (64, 65, 66)), 130])
def test_reflections_of_every_number_of_blocks_are_orthogonal_and_make_the_matrix(number):
    half = np.random.default_rng(number).normal(size=(number, number))
    gram = half @ half.T
    made = kp.Tridiagonal().factorise(jnp.asarray(gram))
    Q = np.asarray(made.rotate_back(jnp.eye(number)))
    bound = 10 * number * EPS
    np.testing.assert_allclose(Q @ Q.T, np.eye(number), atol=bound)
    np.testing.assert_allclose(made.rotate(jnp.eye(number)), Q.T, atol=bound)
    found = Q @ np.asarray(made.rotated_product(jnp.asarray(Q.T)))
    np.testing.assert_allclose(found, gram, rtol=0, atol=bound * np.max(np.abs(gram)))
