"""Leading eigenpairs, the density and the trace, of known spectra and of real operators."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_matrix import Dense

import kpoison as kp
from kpoison.curvature import (
    UnconvergedSpectrumError,
    gauss_newton,
    input_hessian,
    spectral_density,
    top_eigenpairs,
    trace,
)
from kpoison.curvature.operators import GaussNewtonRows
from kpoison.datasets import load_digits
from kpoison.networks import MLP

D = 120


@functools.cache
def rotation(dimension):
    return np.linalg.qr(np.random.default_rng(dimension).normal(size=(dimension, dimension)))[0]


def with_spectrum(values):
    U = rotation(len(values))
    return Dense(jnp.asarray(U * values @ U.T))


def check(found, matrix, k, which="largest", tolerance=1e-8):
    """The eigenpairs are what they say, and those of the matrix."""
    matrix, values, vectors = np.asarray(matrix), np.asarray(found.values), np.asarray(found.vectors)
    truth = np.linalg.eigvalsh(matrix)
    scale = np.abs(truth).max()
    truth = truth[:k] if which == "smallest" else truth[::-1][:k]
    assert values.shape == found.residuals.shape == found.converged.shape == (k,)
    assert np.all(found.converged)
    np.testing.assert_allclose(values, truth, rtol=0, atol=tolerance * scale + 1e-300)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), atol=1e-11)
    residuals = np.linalg.norm(matrix @ vectors.T - values * vectors.T, axis=0)
    assert np.all(residuals <= 1.01 * tolerance * scale)
    np.testing.assert_allclose(found.residuals, residuals, rtol=1e-3, atol=1e-13 * scale)


REST = np.linspace(-0.5, 0.9, D)
SPECTRA = {
    "separated": np.concatenate([[5.0, 4.0, 3.0, 2.0, 1.5], REST[5:]]),
    "multiple": np.concatenate([[5.0, 5.0, 4.0, 4.0, 4.0], REST[5:]]),
    "a multiplicity beyond k": np.concatenate([[3.0] * 11, REST[11:]]),
    "clustered": np.concatenate([2 + 1e-7 * np.arange(8), REST[8:]]),
    "negative": -1 - np.arange(D) / D,
    "indefinite, the largest in size negative": np.concatenate([[-9.0, -7.0], REST[2:]]),
    "identity": np.full(D, 2.0),
    "zero": np.zeros(D),
    "rank one": np.concatenate([[4.0], np.zeros(D - 1)]),
    "rank one, negative": np.concatenate([[-4.0], np.zeros(D - 1)]),
    "tiny": 1e-40 * np.concatenate([[5.0, 5.0], REST[2:]]),
    "dense at the edge": 1 - np.linspace(0, 1, D) ** 3,
}


@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra(name):
    operator = with_spectrum(SPECTRA[name])
    check(top_eigenpairs(operator, 5), operator.matrix, 5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("multiple", marks=pytest.mark.slow),
        pytest.param("indefinite, the largest in size negative", marks=pytest.mark.slow),
        "rank one, negative",
    ],
)
def test_the_smallest(name):
    operator = with_spectrum(SPECTRA[name])
    found = top_eigenpairs(operator, 5, which="smallest", key=jax.random.key(3))
    check(found, operator.matrix, 5, "smallest")
    assert found.products > 0


@pytest.mark.parametrize("values", [np.arange(6.0) - 2, np.ones(6), np.repeat([3.0, -1.0], 3), np.zeros(6)])
def test_all_of_them(values):
    operator = with_spectrum(values)
    check(top_eigenpairs(operator, 6), operator.matrix, 6)


def test_one_coordinate():
    check(top_eigenpairs(Dense(jnp.array([[-3.0]])), 1), [[-3.0]], 1)


@pytest.mark.parametrize("shape", [pytest.param((3, 7), marks=pytest.mark.slow), (7, 3), (4, 4)])
@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_the_thin_form(shape, which):
    rows = np.random.default_rng(0).normal(size=shape)
    rows[1] = 2 * rows[0]  # not of full rank
    for k in range(1, shape[1] + 1):
        found = top_eigenpairs(GaussNewtonRows(jnp.asarray(rows)), k, which=which)
        check(found, rows.T @ rows, k, which)
        assert found.products == 0


@settings(max_examples=10, deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(0, 2**31))
def test_scaled_rows_have_eigenvalues_scaled_quadratically(factor, seed):
    rows = np.random.default_rng(seed).normal(size=(5, 6))
    plain, scaled = (top_eigenpairs(GaussNewtonRows(jnp.asarray(c * rows)), 6) for c in (1.0, factor))
    np.testing.assert_allclose(scaled.values, factor**2 * plain.values, rtol=1e-10, atol=1e-14 * factor**2 * 40)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=6, max_size=6), st.floats(-5, 5))
def test_shifts_add_and_signs_turn_the_spectrum(values, shift):
    # Whole numbers: many are multiple.
    operator = with_spectrum(np.asarray(values, float))
    shifted = Dense(operator.matrix + shift * jnp.eye(6))
    largest, smallest = top_eigenpairs(operator, 3), top_eigenpairs(Dense(-operator.matrix), 3, which="smallest")
    np.testing.assert_allclose(largest.values, np.sort(values)[::-1][:3], atol=1e-7)
    np.testing.assert_allclose(largest.values, -smallest.values, atol=1e-7)
    np.testing.assert_allclose(top_eigenpairs(shifted, 3).values, largest.values + shift, atol=1e-7)


@pytest.mark.slow
def test_not_converged():
    operator = with_spectrum(SPECTRA["dense at the edge"])
    with pytest.raises(
        UnconvergedSpectrumError, match=r"[1-5] of 5 eigenpairs did not converge to 1.0e-08 within 2\d "
    ):
        top_eigenpairs(operator, 5, max_products=20)
    found = top_eigenpairs(operator, 5, max_products=20, throw=False)
    assert found.values.shape == (5,)
    assert not np.all(found.converged)
    values, vectors = np.asarray(found.values), np.asarray(found.vectors)
    residuals = np.linalg.norm(np.asarray(operator.matrix) @ vectors.T - values * vectors.T, axis=0)
    np.testing.assert_allclose(found.residuals, residuals, rtol=1e-6)
    assert np.max(found.residuals) > 1e-8
    # Those of a run that no second one has confirmed are not marked as converged, whatever their residuals.
    alone = top_eigenpairs(with_spectrum(SPECTRA["separated"]), 1, max_products=42, throw=False)
    assert alone.residuals[0] < 1e-8
    assert not alone.converged[0]
    # A coarser tolerance is reached.
    check(top_eigenpairs(operator, 5, tolerance=1e-2), operator.matrix, 5, tolerance=1e-2)


@pytest.mark.slow
def test_float32():
    operator = with_spectrum(SPECTRA["multiple"])
    found = top_eigenpairs(Dense(operator.matrix.astype(jnp.float32)), 5)
    assert found.values.dtype == found.vectors.dtype == found.residuals.dtype == jnp.float32
    assert np.all(found.converged)
    np.testing.assert_allclose(found.values, SPECTRA["multiple"][:5], rtol=1e-5)


@functools.cache
def real():
    """A predictor of an NTK and ten probes."""
    rng = np.random.default_rng(1)
    X, y, x = rng.normal(size=(30, 12)), rng.normal(size=30), rng.normal(size=(10, 12))
    f = kp.predictor(kp.fit(kp.kernels.NTK(1, "erf", 1.4, 0.3), X, y), 1e-2, kp.Poison(x[0] + 0.1, 3.0, 4.0))
    return f, x, rng.normal(size=10)


@pytest.mark.slow
def test_a_real_hessian():
    f, x, targets = real()
    operator = input_hessian(f, x, targets)
    # Less optimised code is ready sooner.
    dense = jax.jit(
        jax.vmap(lambda p, t: jax.hessian(lambda p: 0.5 * (f(p) - t) ** 2)(p)),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    matrix = np.mean(dense(x, targets), axis=0)
    found = top_eigenpairs(operator, 3)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(matrix)[::-1][:3], rtol=1e-6)
    check(found, operator.dense(), 3)
    value, error = trace(operator)
    assert float(value) == pytest.approx(np.trace(matrix), rel=1e-10)
    assert error == 0


@pytest.mark.slow
def test_the_trace():
    f, x, targets = real()
    thin = gauss_newton(f, x)
    assert [float(a) for a in trace(thin)] == [pytest.approx(np.trace(thin.dense()), rel=1e-12), 0]
    # By automatic differentiation the parts are not known.
    operator = input_hessian(lambda p: jnp.sum(jnp.sin(p) * jnp.roll(p, 1) ** 2), x, targets)
    truth = np.trace(np.asarray(operator.dense()))
    value, error = trace(operator, key=jax.random.key(2), probes=50)
    assert 0 < error < 0.5 * abs(truth)
    assert abs(value - truth) <= 4 * error
    # The error falls like the root of the number; that of signs is 2 Σ_{i≠j} H_ij² for one vector.
    off = np.asarray(operator.dense()) * (1 - np.eye(12))
    assert float(error) == pytest.approx(np.sqrt(2 * np.sum(off**2) / 50), rel=0.4)
    assert trace(operator)[0] == trace(operator, key=jax.random.key(0), probes=30)[0]


@pytest.mark.slow
def test_the_density():
    values = SPECTRA["separated"]
    operator = with_spectrum(values)
    found = spectral_density(operator, key=jax.random.key(1), probes=20, depth=60, width=0.05)
    grid, density, error = (np.asarray(a) for a in (found.grid, found.density, found.standard_error))
    assert found.nodes.shape == found.weights.shape == (20, 60)
    assert grid.shape == (400,)
    np.testing.assert_allclose(np.sum(found.weights, axis=1), 1, rtol=1e-12)
    # Four widths hold all of a Gaussian but 6e-5; trapezia are exact for Gaussians of more than two steps.
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-4)
    # Moments: of each vector one estimate.
    for power in (1, 2, 3):
        estimates = np.sum(np.asarray(found.weights) * np.asarray(found.nodes) ** power, axis=1)
        assert np.std(estimates) > 0
        assert abs(estimates.mean() - np.mean(values**power)) <= 4 * np.std(estimates, ddof=1) / 20**0.5
    mean = np.trapezoid(grid * density, grid)
    assert mean == pytest.approx(float(jnp.mean(jnp.sum(found.weights * found.nodes, axis=1))), abs=1e-3)
    bells = np.exp(-0.5 * ((grid[:, None] - values[None]) / 0.05) ** 2) / (0.05 * np.sqrt(2 * np.pi))
    truth = bells.mean(axis=1)
    assert np.all(np.abs(density - truth) <= 6 * error + 1e-3 * truth.max())
    assert np.median(np.abs(density - truth) / (error + 1e-12)) < 1.5
    assert grid[0] < values.min() - 3.9 * 0.05
    assert grid[-1] == pytest.approx(5 + 4 * 0.05, abs=1e-3)


@pytest.mark.slow
def test_densities_without_a_range():
    # Nodes on one number; the Krylov space has one vector.
    for size in (2.0, 0.0):
        found = spectral_density(Dense(size * jnp.eye(6)), probes=3)
        assert found.nodes.shape == (3, 6)
        assert np.all(np.isfinite(found.density))
        assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-4)
        weighted = np.sum(np.asarray(found.weights * found.nodes), axis=1)
        np.testing.assert_allclose(weighted, size, atol=1e-12)
        peak = float(found.grid[int(jnp.argmax(found.density))])
        assert peak == pytest.approx(size, abs=float(found.width))


@pytest.mark.slow
def test_the_default_width_is_a_hundredth_of_the_range():
    found = spectral_density(Dense(jnp.diag(jnp.arange(6.0))), probes=2, points=50)
    assert float(found.width) == pytest.approx(0.05, rel=1e-10)
    assert found.grid.shape == (50,)


@pytest.mark.slow
def test_an_exhausted_krylov_space():
    """Of a Hessian of low rank; what Lanczos finds beyond its range is noise over noise."""
    digits = load_digits()
    model = MLP((8, 8, 1), 10, width=7, hidden_layers=2, key=jax.random.key(1), dtype=float)
    images, labels = jnp.asarray(digits.images[:20]), jnp.asarray(digits.labels[:20])
    hessian = kp.curvature.input_hessian(model, images, labels, loss="softmax")
    found = top_eigenpairs(hessian, 1)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(hessian.dense())[-1:], rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dimension", [1, 6])
@pytest.mark.parametrize("size", [3e-8, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.7, 1.0, 1e6 / 3))])
def test_a_multiple_of_the_identity_has_mass_one(dtype, dimension, size):
    for points in (400, 2000):
        found = spectral_density(Dense(jnp.asarray(size * np.eye(dimension), dtype)), points=points)
        assert found.density.dtype == dtype
        mass = np.trapezoid(np.asarray(found.density, float), np.asarray(found.grid, float))
        assert mass == pytest.approx(1, abs=2e-3), points
        assert len(np.unique(found.grid)) == points


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-4, 1e-2])
def test_nearly_a_multiple_of_the_identity_in_float32(spread):
    found = spectral_density(Dense(jnp.diag(jnp.asarray(1 + spread * np.arange(8), np.float32))))
    assert np.trapezoid(np.asarray(found.density, float), np.asarray(found.grid, float)) == pytest.approx(1, abs=5e-3)


def test_a_width_that_the_dtype_does_not_resolve():
    with pytest.raises(ValueError, match="width must be larger for 400 points of float32"):
        spectral_density(Dense(jnp.eye(1, dtype=np.float32)), width=1e-6)
