"""The matrix-free covariance of values and slopes against the dense one, kernel by kernel."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kpoison import kernels as kk
from kpoison.ridge.observations import Observations, covariance
from kpoison.ridge.operator import DerivativeOperator, PairOperator, covariance_operator, gram_operator

RNG = np.random.default_rng(0)
D = 4
POINTS = RNG.normal(size=(6, D))
# Coincident and collinear points, which inner products alone cannot tell from rounding.
POINTS[3], POINTS[5] = POINTS[1], 2 * POINTS[0]
POINTS = jnp.asarray(POINTS)
OTHERS = jnp.concatenate([jnp.asarray(RNG.normal(size=(3, D))), POINTS[:2]])
LOW, FULL = jnp.asarray(RNG.normal(size=(2, D))), jnp.asarray(RNG.normal(size=(D, D)))

STRUCTURED = {
    "rbf": kk.RBF(1.3),
    "matern32": kk.Matern32(1.3),
    "matern52": kk.Matern52(1.3),
    "rational_quadratic": kk.RationalQuadratic(1.3, 0.7),
    "linear": kk.Linear(),
    "polynomial": kk.Polynomial(3, 0.5),
    "NTK-erf": kk.NTK(1, "erf", 1.4, 0.3),
    "NTK-erf deep": kk.NTK(2, "erf", 1.4, 0.0),
    "NNGP-gelu": kk.NNGP(1, "gelu", 1.4, 0.3),
    "NNGP-tanh": kk.NNGP(1, kk.Quadrature(jnp.tanh, 16), 1.4, 0.3),
    "sum": kk.RBF(1.3) + kk.Polynomial(2, 0.5),
    "product": kk.Matern52(1.3) * kk.NNGP(1, "erf", 1.4, 0.3),
    "stationary product": kk.Matern32(1.3) * kk.RBF(0.9),
    "scaled": 2.5 * kk.Matern32(1.3),
}
OTHER = {
    "NNGP-relu": kk.NNGP(1, "relu", 1.4, 0.3),
    "custom": kk.Custom(lambda x, z: jnp.exp(-0.3 * jnp.sum((x - z) ** 2 * jnp.arange(1.0, 1 + x.size)))),
    "sum with another": kk.RBF(1.3) + kk.Custom(lambda x, z: jnp.exp(0.2 * jnp.sum(x * z))),
}


@eqx.filter_jit
def both(kernel, first, second, right, left):
    """By operator and by matrix: products, products with the transpose."""
    operator, matrix = covariance_operator(kernel, first, second), covariance(kernel, first, second)
    found = operator.product(right), operator.transpose().product(left)
    return found, (matrix @ right, matrix.T @ left)


@eqx.filter_jit
def gram_both(kernel, X, right):
    operator, matrix = gram_operator(kernel, X), covariance(kernel, X, X)
    return (operator.product(right), operator.diagonal()), (matrix @ right, jnp.diagonal(matrix))


def columns(observed, number=3, dtype=float):
    return jnp.asarray(RNG.normal(size=(observed.number, number)), dtype)


def assert_products_agree(results):
    """Sums of some tens of terms, each rounded relative to the largest."""
    eps = np.finfo(float).eps
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=100 * eps * np.max(np.abs(expected)))


SLOW_TO_COMPILE = ("NTK-erf", "NTK-erf deep", "NNGP-tanh", "NNGP-relu", "NNGP-gelu", "product")
EVERY = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW_TO_COMPILE)) for name in STRUCTURED | OTHER]


@pytest.mark.parametrize("name", EVERY)
def test_products_are_those_of_the_dense_covariance(name):
    kernel = (STRUCTURED | OTHER)[name]
    first, second = Observations(POINTS, LOW), Observations(OTHERS, FULL)
    operator = covariance_operator(kernel, first, second)
    assert isinstance(operator, PairOperator if name in STRUCTURED else DerivativeOperator)
    assert_products_agree(both(kernel, first, second, columns(second), columns(first)))
    assert_products_agree(gram_both(kernel, second, columns(second)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rbf", "polynomial", "NTK-erf", "custom"])
@pytest.mark.parametrize("roots", [(None, FULL), (LOW, None), (None, None)], ids=["values", "slopes", "neither"])
def test_slopes_may_be_observed_on_one_side_only(name, roots):
    first, second = (Observations(X, root) for X, root in zip((POINTS, OTHERS), roots, strict=True))
    assert_products_agree(both((STRUCTURED | OTHER)[name], first, second, columns(second), columns(first)))


@pytest.mark.parametrize("name", ["rbf", pytest.param("NTK-erf", marks=pytest.mark.slow), "custom"])
@pytest.mark.parametrize("size", [(1, 1), (1, D)])
def test_one_point(name, size):
    rng = np.random.default_rng(1)  # of its own: what other tests have drawn is no part of it
    X = Observations(jnp.asarray(rng.normal(size=(1, size[1]))), jnp.asarray(rng.normal(size=size)))
    assert_products_agree(gram_both((STRUCTURED | OTHER)[name], X, columns(X, 1)))


@pytest.mark.parametrize("kernel", [kk.RBF(1.3), kk.Matern32(1.3)], ids=str)
def test_close_points_far_from_the_origin_keep_their_digits(kernel):
    """About a common centre; squared distances of a kernel of finite smoothness come from differences."""
    close = POINTS[0][None] + 1e-6 * RNG.normal(size=(5, D)) + 100
    X = Observations(jnp.concatenate([close, close[:1]]), FULL)
    found, expected = gram_both(kernel, X, columns(X))
    # Coordinates about 100 are known to 100 eps of themselves, whatever is computed from them.
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e4 * np.finfo(float).eps * 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["matern32", "NTK-erf", "sum"])
def test_float32(name):
    kernel, root = STRUCTURED[name], jnp.asarray(FULL, jnp.float32)
    X = Observations(jnp.asarray(POINTS, jnp.float32), root)
    V = columns(X, dtype=jnp.float32)
    exact = Observations(X.points.astype(float), root.astype(float))
    found, expected = gram_operator(kernel, X).product(V), covariance(kernel, exact, exact) @ V.astype(float)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=100 * np.finfo(np.float32).eps * np.max(np.abs(expected)))


@pytest.mark.slow
def test_complex_columns_are_their_two_parts():
    X = Observations(POINTS, FULL)
    V = columns(X) + 1j * columns(X)
    for kernel in (STRUCTURED["polynomial"], OTHER["custom"]):
        matrix = covariance(kernel, X, X)
        np.testing.assert_allclose(gram_operator(kernel, X).product(V), matrix @ V, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rbf", "NTK-erf", "custom"])
def test_scaled_observations(name):
    kernel, X = (STRUCTURED | OTHER)[name], Observations(POINTS, LOW)
    factors = jnp.asarray(RNG.uniform(0.5, 2, size=len(POINTS)))
    every = X.repeat(factors)
    matrix = every[:, None] * covariance(kernel, X, X) * every[None]
    operator = gram_operator(kernel, X).scaled(factors)
    V = columns(X)
    np.testing.assert_allclose(operator.product(V), matrix @ V, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(operator.diagonal(), jnp.diagonal(matrix), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(operator.values(), matrix[: len(POINTS), : len(POINTS)], rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_images_of_several_axes():
    kernel = kk.Custom(lambda x, z: jnp.exp(-0.5 * jnp.sum((x - z) ** 2)), point_ndim=3)
    image, flat = (Observations(X, LOW) for X in (POINTS.reshape(-1, 2, 2, 1), POINTS))
    V = columns(flat)
    found, expected = gram_operator(kernel, image).product(V), gram_operator(kk.RBF(1.0), flat).product(V)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_many_columns_and_batches_of_pairs(monkeypatch):
    """The products are cut so that they fit in memory, and the cuts leave no trace."""
    X = Observations(POINTS, FULL)
    for kernel in (STRUCTURED["sum"], OTHER["custom"]):
        V = columns(X, 7)
        whole = gram_operator(kernel, X).product(V)
        with monkeypatch.context() as patch:
            patch.setattr("kpoison._batches.BYTES_AT_ONCE", 8 * 100)
            cut = gram_operator(kernel, X).product(V)
        np.testing.assert_allclose(cut, whole, rtol=1e-12, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rbf", "matern32", "NTK-erf", "product"])
def test_memory_is_of_the_order_of_the_gram_matrix_and_the_data(name):
    n, d = 100, 300
    X = Observations(jnp.asarray(RNG.normal(size=(n, d))), jnp.eye(d))
    V = columns(X, 1)

    def product(points, coefficients):
        observed = X.at(points)
        return gram_operator(STRUCTURED[name], observed).product(coefficients)

    memory = jax.jit(product).lower(X.points, V).compile().memory_analysis()
    # Eight scalar matrices and the projected points; differences of all pairs would take n²d = 75 n(n + d).
    assert memory.temp_size_in_bytes < 20 * 8 * n * (n + d)
    operator = gram_operator(STRUCTURED[name], X)
    applied = jax.jit(lambda operator, V: operator.product(V)).lower(operator, V).compile().memory_analysis()
    assert applied.temp_size_in_bytes < 10 * 8 * n * (n + d)


@pytest.mark.slow
def test_products_of_other_kernels_take_bounded_memory():
    n, d = 60, 300
    X = Observations(jnp.asarray(RNG.normal(size=(n, d))), jnp.eye(d))
    operator = gram_operator(kk.NNGP(1, "relu", 1.4, 0.3), X)
    applied = jax.jit(lambda operator, V: operator.product(V))
    memory = applied.lower(operator, columns(X, 1)).compile().memory_analysis()
    # A batch of pairs (`BYTES_AT_ONCE`, 32 MiB) and no n²d = 8.6 MB for each of the layers' dozens of numbers.
    assert memory.temp_size_in_bytes < 4 * 8 * 2**22


@pytest.mark.parametrize("name", ["matern32", pytest.param("NTK-erf", marks=pytest.mark.slow), "custom"])
def test_derivatives_in_the_root_and_the_kernel(name):
    """Those of Matérn-3/2 too, which the dense covariance refuses: the third derivative it meets is multiplied by 0."""
    kernel = (STRUCTURED | OTHER)[name]
    V = jnp.asarray(RNG.normal(size=(len(POINTS) * (1 + D), 1)))

    @jax.jit
    def value(scale, gamma):
        parameters = jax.tree.map(lambda leaf: scale * leaf, kernel)
        return jnp.sum(jnp.sin(gram_operator(parameters, Observations(POINTS, gamma * FULL)).product(V)))

    found, step = jax.jit(jax.grad(value, (0, 1)))(1.0, 0.7), 1e-5
    differences = value(1 + step, 0.7) - value(1 - step, 0.7), value(1.0, 0.7 + step) - value(1.0, 0.7 - step)
    # Differences are wrong by step² third derivatives and eps/step of the value.
    np.testing.assert_allclose(found, np.divide(differences, 2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kernel", [kk.Laplace(1.0), kk.NTK(1, "relu")], ids=str)
def test_kernels_without_slopes_are_refused(kernel):
    with pytest.raises(ValueError, match="twice continuously differentiable"):
        gram_operator(kernel, Observations(POINTS, FULL))
