"""Kernels on a torus: the sum over images, against mpmath, direct sums and Poisson's formula."""

import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import kpoison as kp
from kpoison import kernels as kk

EPS = float(np.finfo(float).eps)
KERNELS = {
    "rbf": kk.RBF,
    "laplace": kk.Laplace,
    "matern32": kk.Matern32,
    "matern52": kk.Matern52,
}


def profile(name, r):
    """In mpmath, with ℓ = 1."""
    match name:
        case "rbf":
            return mp.exp(-(r**2) / 2)
        case "laplace":
            return mp.exp(-r)
        case "matern32":
            return (1 + mp.sqrt(3) * r) * mp.exp(-mp.sqrt(3) * r)
        case "matern52":
            return (1 + mp.sqrt(5) * r + 5 * r**2 / 3) * mp.exp(-mp.sqrt(5) * r)
    raise ValueError(name)


@pytest.mark.parametrize("length_scale", [0.1, 0.7, 3.0])
@pytest.mark.parametrize("name", KERNELS)
def test_the_sum_over_images_is_exact_to_rounding(name, length_scale):
    kernel, period = kk.Periodic(KERNELS[name](length_scale), 2.0), 2
    for x, z in ((0.3, 1.7), (0.25, 0.25), (-0.4, 5.1)):
        with mp.workdps(30):
            images = range(-120, 121)
            difference = mp.mpf(x) - mp.mpf(z)
            exact = mp.fsum(profile(name, abs(difference + period * s) / mp.mpf(length_scale)) for s in images)
        found = kernel.evaluate(jnp.array([x]), jnp.array([z]))
        # Each distance has the rounding of the coordinates, relative to ℓ.
        np.testing.assert_allclose(float(found), float(exact), rtol=20 * EPS * (1 + 6 / length_scale))


@pytest.mark.slow
def test_sides_of_different_length_in_two_dimensions():
    kernel = kk.Periodic(kk.Matern52(0.8), np.array([2.0, 3.0]))
    x, z = jnp.array([0.1, 2.9]), jnp.array([1.8, 0.2])
    shifts = np.stack(np.meshgrid(2.0 * np.arange(-14, 15), 3.0 * np.arange(-10, 11)), axis=-1).reshape(-1, 2)
    direct = sum(float(kk.Matern52(0.8).evaluate(x + shift, z)) for shift in jnp.asarray(shifts))
    np.testing.assert_allclose(float(kernel.evaluate(x, z)), direct, rtol=1e-14)


@pytest.mark.parametrize("name", KERNELS)
def test_it_has_the_period_and_the_symmetry_of_the_torus(name):
    kernel = kk.Periodic(KERNELS[name](0.5), 1.7)
    x, z, shift = jnp.array([0.2, 0.5]), jnp.array([1.3, -0.4]), jnp.array([1.7, -5.1])
    value = float(kernel.evaluate(x, z))
    for other in (kernel.evaluate(x + shift, z), kernel.evaluate(z, x), kernel.evaluate(x, z - shift)):
        np.testing.assert_allclose(float(other), value, rtol=1e-13)


@pytest.mark.slow
def test_derivatives_are_those_of_the_sum_also_at_coincident_points():
    kernel, ell, period = kk.Periodic(kk.RBF(0.6), 1.5), 0.6, 1.5
    for x, z in ((0.9, 0.2), (0.4, 0.4), (0.0, 0.75)):
        shifted = x - z + period * np.arange(-8, 9)
        k = np.exp(-0.5 * (shifted / ell) ** 2)
        gradient = jax.grad(kernel.evaluate)(jnp.array([x]), jnp.array([z]))
        hessian = jax.hessian(kernel.evaluate)(jnp.array([x]), jnp.array([z]))
        np.testing.assert_allclose(gradient[0], np.sum(-shifted / ell**2 * k), rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(hessian[0, 0], np.sum((shifted**2 / ell**4 - 1 / ell**2) * k), rtol=1e-13)


def test_it_is_positive_definite_and_its_eigenvalues_are_the_folded_spectral_density():
    """Poisson's formula: on a uniform ring the Gram matrix has the eigenvalues (n/V) Σ k̂(ω + alias)."""
    side, n, ell = 3.0, 16, 0.4
    X = jnp.asarray(side / n * np.arange(n)[:, None])
    kernel = kk.Periodic(kk.RBF(ell), side)
    waves = 2 * np.pi / side * (np.arange(n)[:, None] + n * np.arange(-6, 7)[None])
    density = math.sqrt(2 * np.pi) * ell * np.exp(-0.5 * (ell * waves) ** 2)
    expected = np.sort(n / side * np.sum(density, axis=1))
    np.testing.assert_allclose(np.linalg.eigvalsh(np.asarray(kernel(X))), expected, atol=20 * EPS * expected[-1])


def test_sums_products_and_scalings_are_wrapped_as_one_kernel():
    """The images of a product are not products of images."""
    inner = 2.0 * kk.RBF(0.7) * kk.Matern32(1.1) + kk.Laplace(0.3)
    x, z = jnp.array([0.1]), jnp.array([1.2])
    direct = sum(float(inner.evaluate(x + 2.0 * s, z)) for s in range(-30, 31))
    np.testing.assert_allclose(float(kk.Periodic(inner, 2.0).evaluate(x, z)), direct, rtol=1e-14)
    assert kk.Periodic(inner, 2.0).smoothness == 0
    assert not kk.Periodic(kk.RBF(1.0), 2.0).rotation_invariant


@pytest.mark.slow
def test_a_penalised_fit_has_the_period():
    X = jnp.asarray(np.random.default_rng(0).uniform(0, 2.0, size=(7, 1)))
    clean = kp.fit(kk.Periodic(kk.Matern52(0.5), 2.0), X, jnp.sin(np.pi * X[:, 0]), gradient_penalty=0.1)
    probes = jnp.array([[0.3], [2.3], [-3.7]])
    values = np.asarray(kp.predict(clean, probes, 1e-3))
    np.testing.assert_allclose(values, values[0], rtol=1e-11)


@pytest.mark.slow
def test_jit_vmap_and_grad_through_length_scale_and_period():
    x, z = jnp.array([0.2, 0.9]), jnp.array([1.4, 0.1])

    def value(length_scale, period):
        return kk.Periodic(kk.RBF(length_scale), period, images=8).evaluate(x, z)

    here = (jnp.array(0.5), jnp.array([1.6, 2.1]))
    np.testing.assert_allclose(jax.jit(value)(*here), kk.Periodic(kk.RBF(0.5), here[1]).evaluate(x, z), rtol=1e-14)
    many = jax.vmap(value, in_axes=(0, None))(jnp.array([0.3, 0.5]), here[1])
    np.testing.assert_allclose(many[1], value(*here), rtol=1e-14)
    slope, step = jax.grad(value)(*here), 1e-5
    difference = (value(here[0] + step, here[1]) - value(here[0] - step, here[1])) / (2 * step)
    # A central difference: step² from its curvature, eps/step from rounding.
    np.testing.assert_allclose(slope, difference, rtol=1e-8)
    kernel = kk.Periodic(kk.RBF(0.5), here[1])
    slopes = jax.grad(lambda kernel: kernel.evaluate(x, z), allow_int=True)(kernel)
    np.testing.assert_allclose(slopes.kernel.length_scale, slope, rtol=1e-13)


def test_float32():
    X = np.random.default_rng(1).uniform(0, 3, size=(6, 2))
    exact = kk.Periodic(kk.Matern32(0.7), 3.0)(X)
    single = kk.Periodic(kk.Matern32(0.7), 3.0)(X.astype(np.float32))
    assert single.dtype == jnp.float32
    # Differences of coordinates up to 3 are right to eps · 3, against ℓ = 0.7; slopes of the profile are below 1.
    np.testing.assert_allclose(single, exact, atol=float(np.finfo(np.float32).eps) * 2**0.5 * 3 / 0.7 * 2)


@pytest.mark.parametrize("kernel", [kk.RBF, kk.Laplace, kk.Matern32, kk.Matern52], ids=lambda kind: kind.__name__)
def test_the_table_of_reaches(kernel):
    """There the profile is 2⁻⁶⁰."""
    value = kernel(0.5).evaluate(jnp.zeros(1), jnp.array([kernel(0.5).reach()]))
    np.testing.assert_allclose(value, 2.0**-60, rtol=1e-12)


def test_images_that_no_longer_suffice_give_nan():
    """Where the length scale grows after the number of images was chosen."""
    x, z = jnp.array([0.2]), jnp.array([1.4])

    @jax.jit
    def value(length_scale):
        return kk.Periodic(kk.RBF(length_scale), 2.0, images=2).evaluate(x, z)

    assert np.isfinite(value(0.5))
    assert np.isnan(value(5.0))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: kk.Periodic(kk.RationalQuadratic(1.0), 2.0), TypeError, "RBF, Laplace.*got RationalQuadratic.*slowly"),
        (lambda: kk.Periodic(kk.Linear(), 2.0), TypeError, "kernel must be RBF.*got Linear"),
        (lambda: kk.Periodic(kk.RBF(1.0) + kk.NTK(1), 2.0), TypeError, "got NTK"),
        (lambda: kk.Periodic(kk.RBF(1.0), -2.0), ValueError, "period must be finite and > 0"),
        (lambda: kk.Periodic(kk.RBF(1.0), np.ones((2, 2))), ValueError, r"shape \(d,\), got shape \(2, 2\)"),
        (lambda: kk.Periodic(kk.RBF(1.0), 2.0, images=-1), ValueError, "images must be an integer >= 0, got -1"),
        (lambda: kk.Periodic(kk.RBF(1.0), np.ones(2), images=(1,)), ValueError, "one number or 2"),
        (lambda: kk.Periodic(kk.RBF(1e6), 2.0), ValueError, "period must be longer"),
        (lambda: kk.Periodic(kk.RBF(1.0), np.ones(2)).evaluate(jnp.ones(3), jnp.ones(3)), ValueError, r"shape \(2,\)"),
        (lambda: jax.jit(lambda l: kk.Periodic(kk.RBF(l), 2.0).images)(1.0), ValueError, "images must be given"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
