"""Sums with numbers, quotients and powers of kernels: against NumPy, also where laws go through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kpoison as kp
from kpoison import kernels as kk

RNG = np.random.default_rng(0)
X = RNG.normal(size=(9, 3))
Y = np.sign(X[:, 0])
K1, K2 = kk.Matern52(1.5), kk.Polynomial(2, 0.5)
VALUES = {
    "quotient": (K1 / 2, lambda k: k / 2),
    "by NumPy's number": (K1 / np.float32(0.5), lambda k: k / 0.5),
    "power": (K1**3, lambda k: k**3),
    "first power": (K1**1, lambda k: k),
    "and a constant": (K1 + 0.5, lambda k: k + 0.5),
    "a constant and": (np.float64(0.5) + K1, lambda k: k + 0.5),
    "a constant of JAX": (jnp.asarray(0.5) + K1, lambda k: k + 0.5),
    "all of them": ((2 * K1 + 1) ** 2 / 3, lambda k: (2 * k + 1) ** 2 / 3),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", VALUES)
def test_values(name, dtype):
    kernel, of_values = VALUES[name]
    points = X.astype(dtype)
    found, expected = kernel(points), of_values(np.asarray(K1(points), float))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=20 * np.finfo(dtype).eps)


def test_the_sum_of_a_list():
    assert all(kernel is K1 for kernel in (sum([K1]), 0 + K1, K1 + 0.0))
    np.testing.assert_allclose(sum([K1, K2, K1])(X), 2 * np.asarray(K1(X)) + np.asarray(K2(X)), rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("distance", [0.0, 1e-9, 0.3])
@pytest.mark.parametrize("power", [2, 5])
def test_gradients_of_a_power_keep_their_digits(power, distance):
    """n kⁿ⁻¹ ∇k, of a kernel whose gradients do."""
    x = jnp.asarray(X[0] + distance * np.array([0.6, -0.8, 0.0]))
    centres, basis = jnp.asarray(X), jnp.asarray(RNG.normal(size=(9, 2)))
    values, slopes = K1.pairwise(x[None], centres)[0], K1.gradients(x, centres)
    expected = np.asarray(power * values ** (power - 1))[:, None] * np.asarray(slopes)
    kernel = K1**power
    np.testing.assert_allclose(kernel.gradients(x, centres), expected, rtol=1e-13)
    np.testing.assert_allclose(jax.grad(kernel.evaluate)(x, centres[0]), expected[0], rtol=1e-13)
    np.testing.assert_allclose(kernel.gradient_products(x, centres, basis), basis.T @ expected, rtol=1e-12, atol=1e-13)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 4), m=st.integers(1, 4))
def test_powers_add_up(n, m):
    np.testing.assert_allclose((K2**n * K2**m)(X), (K2 ** (n + m))(X), rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [K1**2, K1 + 0.5, (K1 + 0.5) ** 2 / 3], ids=["power", "shifted", "both"])
def test_a_penalised_fit_by_matrix_products_is_that_by_derivatives(kernel):
    """`pair_derivatives` of sums with constants and of powers, against the dense matrix of `jax.grad`."""
    poison, probe = kp.Poison(X[0] + 0.1, -1.0, 3.0), X[0] + 0.2
    dense = kp.fit(kernel, X, Y, gradient_penalty=0.05)
    iterative = kp.fit(kernel, X, Y, gradient_penalty=0.05, solver=kp.ConjugateGradients(tolerance=1e-12))
    for law in (kp.efficacy, kp.spike):
        np.testing.assert_allclose(law(iterative, poison, probe, 0.1), law(dense, poison, probe, 0.1), rtol=1e-6)


def test_a_constant_is_felt_by_the_values_and_not_by_slopes():
    kernel, x = kk.Constant(2.0), jnp.asarray(X[0])
    assert kernel.evaluate(x, x) == 2.0
    np.testing.assert_array_equal(jax.hessian(kernel.evaluate)(x, x), np.zeros((3, 3)))
    assert (kernel.rotation_invariant, kernel.translation_invariant, kernel.smoothness) == (True, True, np.inf)
    image = kk.ConvolutionalNNGP(1) + 1.0
    assert image.point_ndim == 3
