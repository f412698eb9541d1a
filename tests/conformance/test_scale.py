"""Points anywhere and of any size: kernels and posteriors under x → s·x + t, against differences taken by NumPy."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import kpoison as kp
from kpoison import kernels
from kpoison.kernels import Kernel

PROFILES = {
    kernels.RBF: lambda r: np.exp(-0.5 * r**2),
    kernels.Laplace: lambda r: np.exp(-r),
    kernels.Matern32: lambda r: (1 + 3**0.5 * r) * np.exp(-(3**0.5) * r),
    kernels.Matern52: lambda r: (1 + 5**0.5 * r + 5 * r**2 / 3) * np.exp(-(5**0.5) * r),
    kernels.RationalQuadratic: lambda r: 1 / (1 + r**2 / 2),
}


def stationary() -> list[type[Kernel]]:
    """Every kernel of distances that is public."""
    named = [getattr(kernels, name) for name in kernels.__all__]
    found = [one for one in named if isinstance(one, type) and issubclass(one, kernels.stationary.Stationary)]
    return [one for one in found if one is not kernels.stationary.Stationary]


def test_no_kernel_of_distances_is_left_out():
    assert set(stationary()) == set(PROFILES)


def expected(profile, X, Z, length_scale):
    """In float64, from differences of the points as they are."""
    differences = np.asarray(X, float)[:, None] - np.asarray(Z, float)[None]
    return profile(np.sqrt(((differences / length_scale) ** 2).sum(axis=-1)))


@pytest.mark.parametrize("kernel", stationary(), ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize(("dtype", "size", "offset", "d"), [
    (np.float64, 1e-30, 0.0, 7), (np.float64, 1e30, 0.0, 1), (np.float32, 1e-18, 0.0, 1), (np.float32, 1e15, 0.0, 7),
    (np.float64, 1.0, 1e8, 7), (np.float64, 1.0, -1000.0, 1), (np.float32, 1.0, 1000.0, 7), (np.float32, 64.0, 1e5, 1),
])  # fmt: skip
def test_a_gram_matrix_is_that_of_the_points_wherever_they_are(kernel, dtype, size, offset, d):
    generator = np.random.default_rng(0)
    X = (size * generator.normal(size=(40, d)) + offset).astype(dtype)
    length_scale = float(size * d**0.5)
    k = kernel(length_scale)
    right = expected(PROFILES[kernel], X, X, length_scale)
    points = jnp.asarray(X)
    for found in map(np.asarray, (k(points), k.pairwise(points, points))):
        np.testing.assert_array_equal(found, found.T)
        # Distances from a matrix product: eps·‖x‖²/ℓ² about the centre, √ of it beside a cusp.
        lost = 64 * np.finfo(dtype).eps
        np.testing.assert_allclose(found, right, atol=lost if kernel(1.0).smoothness > 0 else lost**0.5)
    np.testing.assert_allclose(np.asarray(k.pairwise(points, points)), right, rtol=64 * np.finfo(dtype).eps)


@pytest.mark.parametrize("kernel", stationary(), ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_so_far_apart_that_squares_overflow_have_the_limits_values_and_gradients(kernel, dtype):
    far = np.array([0.0, np.finfo(dtype).max / 4], dtype)
    k, origin = kernel(1.0), np.zeros(2, dtype)
    value, gradient = jax.value_and_grad(k.evaluate)(jnp.asarray(far), jnp.asarray(origin))
    assert float(value) == 0
    np.testing.assert_array_equal(np.asarray(gradient), 0)


@pytest.mark.parametrize("solver", [kp.Spectral(), kp.Tridiagonal(), kp.Cholesky()], ids=lambda s: type(s).__name__)
def test_one_dimensional_data_with_an_offset(solver):
    X, y = np.array([[1000.0], [1001.0], [1002.0]]), np.array([1.0, -1.0, 1.0])
    clean = kp.fit(kernels.RBF(1.0), X, y, solver=solver)
    np.testing.assert_allclose(kp.predict(clean, X, 0.1), [0.4939, -0.2970, 0.4939], atol=5e-5)
    years = np.linspace(1958, 2001, 7)[:, None]
    K = expected(PROFILES[kernels.RBF], years, years, 5.0)
    y = np.sin(years[:, 0])
    right = K @ np.linalg.solve(K + 7 * 0.1 * np.eye(7), y)
    np.testing.assert_allclose(kp.predict(kp.fit(kernels.RBF(5.0), years, y, solver=solver), years, 0.1), right)


@pytest.mark.parametrize("outlier", [99_999.0, 1e7, 1e15])
@pytest.mark.parametrize(("number", "d"), [(300, 3), (700, 12)])  # by differences, and by a matrix product
def test_an_outlier_costs_the_others_no_digit(outlier, number, d):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(number, d)).astype(np.float32)
    X[17, 1] = outlier
    y = np.where(generator.normal(size=number) > 0, 1.0, -1.0)
    clean = kp.fit(kernels.RBF(1.0), X, y.astype(np.float32))
    K = expected(PROFILES[kernels.RBF], X, X, 1.0)
    right = K @ np.linalg.solve(K + number * 1e-2 * np.eye(number), y)
    np.testing.assert_allclose(kp.predict(clean, X, 1e-2), right, atol=2e-3)


@pytest.mark.slow
def test_far_clusters_are_fitted_by_differences_or_refused():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(900, 8)).astype(np.float32)
    X[::2] += np.float32(3000)
    y = np.sign(X[:, 1] - X[:, 0]).astype(np.float32)
    K = expected(PROFILES[kernels.RBF], X, X, 2.0)
    right = K @ np.linalg.solve(K + 900 * 1e-2 * np.eye(900), y)
    clean = kp.fit(kernels.RBF(2.0), X, y)
    np.testing.assert_allclose(kp.predict(clean, X, 1e-2), right, atol=1e-3)
    with pytest.raises(ValueError, match="too many length scales apart for float32"):
        kp.fit(kernels.RBF(2.0), np.tile(X, (1, 12)), y)


CUSPS = {
    "laplace": kernels.Laplace(1.0),
    "sum": 2.0 * kernels.Laplace(1.0) + kernels.RBF(1.0),
    "ntk relu with biases": kernels.NTK(1, "relu", 1.5, 0.5),
    "matern32": kernels.Matern32(1.0),
    "rbf": kernels.RBF(1.0),
}
BESIDE = {
    "float32": (np.float32, 1.0, 1e-6),
    "float32 far from the origin": (np.float32, 100.0, 1e-5),
    "float64": (np.float64, 1.0, 1e-13),
    "float64 far from the origin": (np.float64, 1e4, 1e-9),
    "not beside": (np.float32, 1.0, 1.0),
}
DIAGONALS = [(name, where) for i, name in enumerate(CUSPS) for j, where in enumerate(BESIDE) if (i + j) % 5 in (0, 3)]


@pytest.mark.parametrize(("name", "where"), [
    pytest.param(name, where, marks=[pytest.mark.slow] if "ntk" in name else [])
    for name, where in [*DIAGONALS, ("laplace", "float32 far from the origin")]
])  # fmt: skip
def test_gradients_beside_a_centre_are_those_of_the_predictor(name, where):
    kernel, (dtype, centre, distance) = CUSPS[name], BESIDE[where]
    generator = np.random.default_rng(3)
    c = centre * generator.normal(size=3)
    c = (c / np.linalg.norm(c) * centre).astype(dtype)
    others = (centre * generator.normal(size=(5, 3))).astype(dtype)
    x = (c + distance * np.array([2.0, -1.0, 0.5])).astype(dtype)
    clean = kp.fit(kernel, np.concatenate([c[None], others]), np.linspace(1, -1, 6).astype(dtype))
    f = kp.predictor(clean, ridge=0.1)
    found = kp.curvature.input_gradients(f, np.stack([x, x + 1]).astype(dtype))
    right = np.stack([jax.grad(f)(jnp.asarray(point)) for point in np.stack([x, x + 1]).astype(dtype)])
    size = np.abs(right).max()
    np.testing.assert_allclose(np.asarray(found), right, atol=300 * np.finfo(dtype).eps * size)


@pytest.mark.slow
def test_fisher_beside_a_centre():
    c = np.array([60.0, -64.0, 48.0], np.float32)
    x = (c + np.float32(1e-5) * np.array([2.0, -1.0, 0.5], np.float32)).astype(np.float32)
    if np.array_equal(x, c):
        x[2] = np.nextafter(c[2], np.float32(100))
    f = kp.predictor(kp.fit(kernels.Laplace(1.0), c[None], np.ones(1, np.float32)), ridge=0.1)
    value = float(f(jnp.asarray(x)))
    top = np.linalg.eigvalsh(np.asarray(kp.curvature.fisher(f, x[None]).dense()))[-1]
    np.testing.assert_allclose(top, value**2, rtol=1e-5)  # ‖∇f‖ = |f|/ℓ


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thresholds_below_the_scan(dtype):
    X, y = np.array([[0.0], [1.0]], dtype), np.ones(2, dtype)
    clean = kp.fit(kernels.RBF(1.0), X, y)
    poison, x = kp.Poison(np.array([7.0], dtype), -1.0, 1.0), np.array([7.1], dtype)
    tolerance = 1e-4 if dtype is np.float32 else 1e-3
    success = kp.m_success(clean, poison, x, 0.1)
    np.testing.assert_allclose(success, 9.27e-10, rtol=2e-3)
    at = kp.predict(clean, x, 0.1, kp.Poison(poison.location, -1.0, success))
    before = kp.predict(clean, x, 0.1)
    assert abs(float(at)) <= tolerance * abs(float(before))
    if dtype is np.float64:
        visible = kp.m_visible(clean, poison, x, 0.1, 5.6e-5)
        np.testing.assert_allclose(kp.lag(clean, poison, x, 0.1, 5.6e-5), visible / 9.2661e-10, rtol=1e-4)


def test_a_spike_that_is_visible_at_once():
    clean = kp.fit(kernels.RBF(1.0), np.array([[0.0], [1.0]]), np.ones(2))
    poison, x = kp.Poison(np.array([0.5]), -1.0, 1.0), np.array([0.9])
    m = kp.m_visible(clean, poison, x, 0.1, 1e-20)
    assert float(m) < 1e-9
    np.testing.assert_allclose(kp.spike(clean, kp.Poison(np.array([0.5]), -1.0, m), x, 0.1), 1e-20, rtol=1e-6)


DEEP = {
    "raw pixels": (lambda: 255 * np.random.default_rng(0).uniform(size=(12, 300)).round(2), 2, 1.5),
    "ten layers of steep slopes": (lambda: np.random.default_rng(0).uniform(size=(12, 10)), 10, 8.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["erf", "gelu"])
@pytest.mark.parametrize("case", DEEP)
def test_networks_with_large_pre_activations_keep_their_digits_in_float32(case, activation):
    points, layers, weight_std = DEEP[case]
    X = points().astype(np.float32)
    kernel = kernels.NTK(layers, activation, weight_std)
    right = np.asarray(kernel(jnp.asarray(X, float)))
    for single in (kernel(jnp.asarray(X)), kernel.pairwise(jnp.asarray(X), jnp.asarray(X))):
        np.testing.assert_allclose(np.asarray(single), right, rtol=64 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("activation", ["erf", "gelu"])
def test_a_point_is_itself_in_every_layer(activation):
    """k(x, x) from (x, x) is the limit of k(x, z), also in ten layers that multiply differences by 5 each."""
    x = np.random.default_rng(0).uniform(size=10)
    kernel = kernels.NTK(10, activation, 8.0)
    with mpmath.workdps(60):
        right = float(ntk_of_one_point(mpmath.mpf(float(64 * (x @ x) / 10)), 10, 64, activation))
    assert float(kernel.evaluate(jnp.asarray(x), jnp.asarray(x))) == pytest.approx(right, rel=1e-13)


def ntk_of_one_point(q, layers, weight_variance, activation):
    """Θ(x, x) of a network without biases, from E φ² and E φ'² in closed form."""
    tangent = q
    for _ in range(layers):
        root = mpmath.sqrt(1 + 2 * q)
        if activation == "erf":
            square, slope = 2 / mpmath.pi * mpmath.asin(2 * q / (1 + 2 * q)), 4 / mpmath.pi / mpmath.sqrt(1 + 4 * q)
        else:
            orthant = mpmath.mpf(1) / 4 + mpmath.asin(q / (1 + q)) / (2 * mpmath.pi)
            square = q * orthant + q**2 / (mpmath.pi * (1 + q) * root)
            slope = orthant + q * (3 + 2 * q + q**2 / (1 + 2 * q)) / (2 * mpmath.pi * root * (1 + q) ** 2)
        q, tangent = weight_variance * square, weight_variance * (square + slope * tangent)
    return tangent
