"""Gram matrices: against single pairs, exactness, positivity, algebra, precision, transformations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import CLASSICAL, COMPOSITE, dear_are_slow, networks, quadratures
from hypothesis import given, settings
from hypothesis import strategies as st

from kpoison import kernels as kk
from kpoison.kernels import base
from kpoison.kernels.stationary import Stationary

CUSTOM = {"custom": kk.Custom(lambda x, z: jnp.exp(jnp.sum(x * z)) + jnp.sum(x * z) ** 2)}
ALL = CLASSICAL | COMPOSITE | networks(depths=(1,)) | quadratures() | CUSTOM
COVER = [*CLASSICAL, *COMPOSITE, *networks(depths=(1,), every=False), *quadratures(), *CUSTOM]
STATIONARY = {name: kernel for name, kernel in CLASSICAL.items() if isinstance(kernel, Stationary)}
CUSPED = ("laplace", "NTK-relu", "NTK-leaky_relu")
KINKED = (*CUSPED[1:], "NNGP-relu", "NNGP-leaky_relu")

EPS = float(np.finfo(float).eps)
RNG = np.random.default_rng(0)
X1, X2 = jnp.asarray(RNG.normal(size=(6, 3))), jnp.asarray(RNG.normal(size=(6, 3)))  # of one size: compiled once
WITH_DUPLICATES = X1[jnp.array([0, 1, 2, 1, 3, 1])]


def size(kernel, a, b):
    """√(k(x, x) k(z, z)) for all pairs: what k(x, z) is small against, if it is small."""
    return np.sqrt(np.outer(kernel.diagonal(a), kernel.diagonal(b)))


# --- Against single pairs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", dear_are_slow(COVER))
def test_gram_is_evaluate_on_all_pairs(name):
    """For points in general position a product costs a few roundings of ‖x‖‖z‖."""
    kernel = ALL[name]
    pairs = kernel.pairwise(X1, X2)
    assert np.all(np.abs(kernel(X1, X2) - pairs) < 100 * EPS * size(kernel, X1, X2))
    singly = jax.vmap(kernel.evaluate)(X1, X2)
    np.testing.assert_allclose(np.diag(pairs), singly, rtol=100 * EPS)


@pytest.mark.parametrize(
    "name",
    [
        "rbf",
        "polynomial",
        pytest.param("NTK-relu-1-bias", marks=pytest.mark.slow),
        pytest.param("NTK-erf-1-bias", marks=pytest.mark.slow),
        "product",
        "custom",
    ],
)
def test_numbers_of_points_differ(name):
    kernel = ALL[name]
    full = kernel(X1, X2)
    assert kernel(X1, X2[:4]).shape == kernel.pairwise(X1, X2[:4]).shape == (6, 4)
    np.testing.assert_allclose(kernel(X1[:2], X2), full[:2], rtol=100 * EPS, atol=100 * EPS)
    np.testing.assert_allclose(kernel(X1, X2[:4]), full[:, :4], rtol=100 * EPS, atol=100 * EPS)
    np.testing.assert_allclose(kernel(X1, X2), kernel(X2, X1).T, rtol=100 * EPS, atol=100 * EPS)


@pytest.mark.parametrize("coordinates", [1, 40, 72])
def test_pairwise_in_blocks(monkeypatch, coordinates):
    """Rows at a time, so that many pairs of large images fit into memory; the last block may be smaller."""
    kernel = kk.Matern32(1.3)
    whole = kernel.pairwise(X1, X2)
    monkeypatch.setattr("kpoison._batches.BYTES_AT_ONCE", 8 * coordinates)
    np.testing.assert_allclose(kernel.pairwise(X1, X2), whole, rtol=10 * EPS)
    np.testing.assert_allclose(kernel.pairwise(X1[:5], X2), whole[:5], rtol=10 * EPS)


class Halved(kk.RBF):
    """Of half the variance in a matrix: `gram` is its own."""

    def gram(self, X1, X2):
        return 0.5 * super().gram(X1, X2)


@pytest.mark.parametrize(
    "kernel",
    [
        kk.RBF(np.linspace(3.0, 9.0, 40)),
        pytest.param(kk.Matern52(7.0) * (kk.RBF(6.0) + 0.3 * kk.NTK(1, "erf")) ** 2 + 0.1, marks=pytest.mark.slow),
        Halved(6.0),
    ],
    ids=["length scales", "algebra", "own gram"],
)
def test_blocks_of_what_is_known_of_each_point(monkeypatch, kernel):
    """In many coordinates, where points are centred once; far from the origin, with a point that is there twice."""
    X = 50 + np.random.default_rng(4).normal(size=(19, 40))
    X[17] = X[2]
    whole = np.asarray(kernel(X))
    monkeypatch.setattr(base, "_BLOCKS_FROM", 19)
    monkeypatch.setattr(base, "_BLOCK_ROWS", 5)
    blocks = np.asarray(kernel(X))
    assert np.max(np.abs(blocks - whole)) <= 100 * EPS * np.max(whole)
    np.testing.assert_array_equal(blocks[:5, 14:], blocks[14:, :5].T)
    assert blocks[17, 2] == pytest.approx(blocks[2, 2], rel=1e-12)


@pytest.mark.parametrize("name", dear_are_slow(COVER))
def test_symmetric_gram(name):
    kernel = ALL[name]
    gram = np.asarray(kernel(X1))
    np.testing.assert_array_equal(gram, kernel(X1, X1))
    # A matrix product of X and Xᵀ need not be symmetric to the last bit.
    assert np.all(np.abs(gram - gram.T) <= 10 * EPS * size(kernel, X1, X1))
    assert np.all(np.abs(gram - kernel.pairwise(X1, X1)) < 100 * EPS * size(kernel, X1, X1))


@pytest.mark.parametrize("name", ["rbf", "laplace", pytest.param("NTK-relu-1-bias", marks=pytest.mark.slow), "linear"])
@pytest.mark.parametrize("number", [12, 13, 15])
def test_symmetric_gram_by_blocks(monkeypatch, name, number):
    """The last block overlaps the one before, also where that holds a part of the diagonal."""
    kernel, X = ALL[name], jnp.asarray(np.random.default_rng(3).normal(size=(number, 3)))

    def program():
        def not_yet_traced(points):
            return kernel(points)

        return str(jax.make_jaxpr(not_yet_traced)(X))

    whole, of_traced = np.asarray(kernel(X)), program()
    monkeypatch.setattr(base, "_BLOCKS_FROM", number)
    monkeypatch.setattr(base, "_BLOCK_ROWS", 4)
    blocks = np.asarray(kernel(X))
    assert np.all(np.abs(blocks - whole) <= 100 * EPS * size(kernel, X, X))
    np.testing.assert_allclose(np.diag(blocks), np.diag(whole), rtol=EPS)
    # In a block on the diagonal a compiler may round (x, z) and (z, x) differently.
    assert np.all(np.abs(blocks - blocks.T) <= 10 * EPS * size(kernel, X, X))
    np.testing.assert_array_equal(blocks[-3:, :3], blocks[:3, -3:].T)
    # Traced points have no blocks.
    assert program() == of_traced


@pytest.mark.parametrize("name", dear_are_slow(COVER))
def test_diagonal_is_exact(name):
    """Not that of a small distance, of which a cusp would take the square root, but of none."""
    kernel = ALL[name]
    np.testing.assert_allclose(np.diag(kernel(X1)), kernel.diagonal(X1), rtol=10 * EPS)
    if name in STATIONARY:
        np.testing.assert_array_equal(np.diag(kernel(X1 + 1e5)), 1)
    elif name.startswith(KINKED):
        np.testing.assert_allclose(np.diag(kernel(1e3 * X1)), kernel.diagonal(1e3 * X1), rtol=10 * EPS)


@pytest.mark.parametrize("name", dear_are_slow(COVER))
def test_duplicate_rows_count_as_one_point(name):
    """k(x, x), as for the diagonal, though a matrix product leaves a distance of √eps between them."""
    kernel = ALL[name]
    gram, same = kernel(WITH_DUPLICATES), np.ix_([1, 3, 5], [1, 3, 5])
    expected = float(kernel.evaluate(X1[1], X1[1]))
    np.testing.assert_allclose(np.asarray(gram)[same], expected, rtol=10 * EPS)
    np.testing.assert_allclose(kernel(WITH_DUPLICATES, X1[1:2])[np.array([1, 3, 5]), 0], expected, rtol=10 * EPS)


@pytest.mark.parametrize(
    "name", ["rbf", "laplace", "matern32", "NTK-relu-1-free", "NTK-relu-1-bias", "NNGP-relu-1-free"]
)
@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6, 1e-9])
def test_the_documented_loss_for_near_pairs(name, distance):
    """A product knows ‖x − z‖² to about eps·‖x‖², so that r errs by less than √(20 eps)·‖x‖ and by eps·‖x‖²/r."""
    kernel = ALL[name]
    near = X1 + distance * jnp.array([0.48, 0.36, 0.8])[None]
    norm = float(jnp.max(jnp.linalg.norm(X1, axis=1)))
    error_of_distance = min(20 * EPS * norm**2 / distance, np.sqrt(20 * EPS) * norm)
    error = np.abs(kernel(X1, near) - kernel.pairwise(X1, near)) / size(kernel, X1, near)
    cusp = name.startswith(CUSPED)
    slope = 1.0 if cusp else distance + error_of_distance  # |dk/dr| at this distance, in these units
    assert error.max() < slope * error_of_distance + 100 * EPS


@pytest.mark.parametrize("name", STATIONARY)
@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_far_from_the_origin(name, offset):
    """Distances are taken about the data's centre: an offset costs only what rounding the points has cost."""
    kernel = STATIONARY[name]
    a, b = X1 + offset, X2 + offset
    np.testing.assert_allclose(kernel(a, b), kernel.pairwise(a, b), rtol=0, atol=100 * EPS)
    np.testing.assert_allclose(kernel(a), kernel.pairwise(a, a), rtol=0, atol=100 * EPS)
    np.testing.assert_allclose(kernel(a, b), kernel(X1, X2), rtol=0, atol=10 * EPS * offset)


@pytest.mark.parametrize("name", ["laplace", pytest.param("NTK-relu-1-bias", marks=pytest.mark.slow), "NTK-erf-1-bias"])
def test_one_point_and_wide_points(name):
    kernel = ALL[name]
    assert kernel(X1[:1]).shape == (1, 1)
    wide = jnp.asarray(RNG.normal(size=(3, 784)))
    np.testing.assert_allclose(kernel(wide), kernel.pairwise(wide, wide), rtol=1e-12)
    one = X1[:, :1]
    np.testing.assert_allclose(kernel(one), kernel.pairwise(one, one), rtol=1e-6 if name in CUSPED else 1e-12)


# --- Positive semi-definite ------------------------------------------------------------------------------------


@st.composite
def point_sets(draw):
    """Few shapes, so that few programs are compiled; all scales, with duplicates and near duplicates."""
    n, d = draw(st.sampled_from([(1, 1), (8, 2), (20, 5)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    points = rng.normal(size=(n, d)) * 10.0 ** draw(st.floats(-2, 1))
    if draw(st.booleans()):
        points[n // 2 :] = points[: n - n // 2]
        points[n // 2 :] += 10.0 ** draw(st.floats(-10, 0)) * rng.normal(size=(n - n // 2, d))
    return jnp.asarray(points)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(points=point_sets(), name=st.sampled_from([*CLASSICAL, *COMPOSITE, *networks(depths=(1,), biases=(0.3,))]))
def test_positive_semi_definite(points, name):
    kernel = ALL[name]
    gram = np.asarray(kernel(points))
    smallest = np.linalg.eigvalsh(gram)[0]
    # Each entry errs by some eps·k(x, x) times the powers of ‖x‖/ℓ that its logarithmic derivatives hold; at a
    # cusp by the square root of that, for near pairs, as documented.
    growth = 1 + float(jnp.max(jnp.sum(points**2, axis=1)))
    entry = np.sqrt(20 * EPS * growth) if name.startswith(CUSPED) else 20 * EPS * growth
    assert smallest > -len(points) * entry * np.max(np.diag(gram))


# --- Algebra ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sums_products_and_scalings():
    a, b, c = kk.RBF(1.3), kk.NTK(1, "erf", 1.4, 0.3), kk.Linear()
    for method in (lambda k: k(X1, X2), lambda k: k(X1), lambda k: k.pairwise(X1, X2), lambda k: k.diagonal(X1)):
        one, two, three = map(method, (a, b, c))
        for kernel, expected in (
            (a + b, one + two),
            (a * b, one * two),
            (2.5 * a, 2.5 * one),
            (a * 2.5, 2.5 * one),
            (a + b * c, one + two * three),
            ((a + b) * c, (one + two) * three),
            (0.5 * (a + 2.0 * (b * c)), 0.5 * one + two * three),
        ):
            np.testing.assert_allclose(method(kernel), expected, rtol=20 * EPS, atol=20 * EPS)


def test_integers_are_real_numbers():
    """The checks ask for a real number, and so must the annotations."""
    for kernel, same in (
        (kk.RBF(2), kk.RBF(2.0)),
        (3 * kk.RBF(2.0), 3.0 * kk.RBF(2.0)),
        (kk.Polynomial(2, 1), kk.Polynomial(2, 1.0)),
        (kk.NTK(1, "relu", 1, 0), kk.NTK(1, "relu", 1.0, 0.0)),
    ):
        np.testing.assert_array_equal(kernel(X1), same(X1))


def test_properties_of_combinations():
    images = kk.Custom(lambda x, z: jnp.sum(x * z), point_ndim=3)
    custom = CUSTOM["custom"]
    assert (kk.RBF(1.0) + kk.Linear()).rotation_invariant
    assert (2.0 * kk.NTK()).rotation_invariant
    assert not (kk.RBF(1.0) * custom).rotation_invariant
    assert kk.Custom(lambda x, z: jnp.sum(x * z), rotation_invariant=True).rotation_invariant
    assert [kernel.point_ndim for kernel in (images, 2.0 * images, images + images, custom)] == [3, 3, 3, 1]


@pytest.mark.slow
def test_rotation_invariance():
    rotation = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    for name, kernel in ALL.items():
        if kernel.rotation_invariant:
            turned = kernel(X1 @ rotation, X2 @ rotation)
            assert np.all(np.abs(turned - kernel(X1, X2)) < 200 * EPS * size(kernel, X1, X2)), name


def test_custom_kernels():
    linear = kk.Custom(lambda x, z: x @ z)
    np.testing.assert_allclose(linear(X1, X2), kk.Linear()(X1, X2), rtol=1e-14, atol=10 * EPS)
    np.testing.assert_allclose(linear.diagonal(X1), jnp.sum(X1**2, axis=1), rtol=1e-14)
    images = jnp.asarray(RNG.normal(size=(3, 4, 4, 2)))
    flat = images.reshape(3, -1)
    pixels = kk.Custom(lambda x, z: jnp.exp(-0.5 * jnp.sum((x - z) ** 2)), point_ndim=3)
    np.testing.assert_allclose(pixels(images), kk.RBF(1.0)(flat), rtol=1e-12)
    np.testing.assert_allclose(pixels(images, images[:2]), kk.RBF(1.0)(flat)[:, :2], rtol=1e-12)


def test_activations_of_the_callers_own():
    """A function, an `Activation` and a name for the same network."""
    by_name = kk.NTK(1, "tanh")(X1)
    np.testing.assert_array_equal(kk.NTK(1, jnp.tanh)(X1), by_name)
    np.testing.assert_array_equal(kk.NTK(1, kk.Quadrature(jnp.tanh))(X1), by_name)


@pytest.mark.parametrize("name", kk.activation_names)
def test_the_kernel_is_that_of_the_activation_it_applies(name):
    """E[φ(u)φ(v)] and E[φ'(u)φ'(v)] by simulation with `activation` itself, within five standard errors."""
    kernel = kk.NTK(1, name, 1.0, 0.3)
    x, z = jnp.array([0.8, -0.3]), jnp.array([0.2, 0.9])
    covariance = np.array([[float(a @ b) / 2 + 0.3**2 for b in (x, z)] for a in (x, z)])
    draws = jnp.asarray(np.random.default_rng(1).multivariate_normal([0, 0], covariance, size=200_000))
    phi = kernel.activation(draws)
    slope = jax.jvp(kernel.activation, (draws,), (jnp.ones_like(draws),))[1]
    samples = jnp.prod(phi, axis=1) + covariance[0, 1] * jnp.prod(slope, axis=1)
    standard_error = float(jnp.std(samples)) / np.sqrt(len(samples))
    assert abs(float(kernel.evaluate(x, z)) - 0.3**2 - float(jnp.mean(samples))) < 5 * standard_error


# --- Precision -------------------------------------------------------------------------------------------------


EPS32 = float(np.finfo(np.float32).eps)


@pytest.mark.parametrize("name", dear_are_slow(COVER))
def test_float32(name):
    """The dtype is kept, and for points in general position the error is a few roundings, as in float64."""
    kernel = ALL[name]
    points = X1.astype(jnp.float32), X2.astype(jnp.float32)
    narrow, wide = kernel(*points), kernel(*(x.astype(float) for x in points))
    assert narrow.dtype == jnp.float32
    assert np.all(np.abs(narrow - wide) < 100 * EPS32 * size(kernel, X1, X2))


@pytest.mark.parametrize(
    "name",
    [
        "rbf",
        "matern52",
        pytest.param("NTK-relu-1-free", marks=pytest.mark.slow),
        pytest.param("NTK-erf-1-bias", marks=pytest.mark.slow),
        "NNGP-gelu-1-bias",
    ],
)
def test_float32_pairs(name):
    kernel = ALL[name]
    narrow = kernel.pairwise(X1.astype(jnp.float32), X2.astype(jnp.float32))
    assert narrow.dtype == jnp.float32
    assert np.all(np.abs(narrow - kernel.pairwise(X1, X2)) < 100 * EPS32 * size(kernel, X1, X2))


@pytest.mark.parametrize("name", ["matern52", pytest.param("NTK-relu-1-free", marks=pytest.mark.slow)])
@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6])
def test_float32_derivatives_near_the_diagonal(name, distance):
    """Where cos θ rounded to float32 has lost the angle, the difference of the points has not."""
    kernel = ALL[name]
    z = X1[0].astype(jnp.float32)
    x = z + jnp.float32(distance) * jnp.array([0.48, 0.36, 0.8], jnp.float32)

    @jax.jit
    def derivatives(x, z):
        return jax.grad(kernel.evaluate)(x, z), jax.hessian(kernel.evaluate)(x, z)

    for narrow, wide in zip(derivatives(x, z), derivatives(x.astype(float), z.astype(float)), strict=True):
        assert narrow.dtype == jnp.float32
        assert np.max(np.abs(narrow - wide)) < 100 * EPS32 * np.max(np.abs(wide))


def test_numbers_of_another_precision_do_not_widen():
    kernel = kk.RBF(np.float64(1.5)) + jnp.float64(2.0) * kk.NTK(1, "relu", np.float64(1.4), jnp.float64(0.1))
    narrow = X1.astype(jnp.float32)
    assert kernel(narrow).dtype == jnp.float32
    assert kernel(narrow, X2).dtype == jnp.float32
    assert kernel.pairwise(narrow, narrow).dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ["NTK-relu-1-free", "NNGP-leaky_relu-1-free"])
def test_bright_and_dim_points(name, dtype):
    """Images of very different norm: nothing cancels, so nothing may be lost: k(cx, z) = c k(x, z)."""
    kernel = ALL[name]
    dim = jnp.asarray([1e-9, 1e-7, 1e-5, 1e-3, 1e-1, 1], dtype)
    values, gradients = jax.vmap(jax.value_and_grad(kernel.evaluate), (0, None))(
        dim[:, None] * X1[:1].astype(dtype), X2[0].astype(dtype)
    )
    rounding = 100 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(values, np.asarray(dim) * np.asarray(values[-1]), rtol=rounding)
    np.testing.assert_allclose(gradients, np.stack([gradients[-1]] * 6), rtol=0, atol=rounding * np.max(gradients[-1]))


# --- Transformations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["laplace", "rational_quadratic", "product", "NTK-relu-1-bias", "NNGP-gelu-1-bias"])
def test_jit_with_the_kernel_as_an_argument(name):
    kernel = ALL[name]
    for jit in (jax.jit, eqx.filter_jit):
        np.testing.assert_allclose(
            jit(lambda k, a, b: k(a, b))(kernel, X1, X2), kernel(X1, X2), rtol=100 * EPS, atol=EPS
        )
        np.testing.assert_allclose(jit(lambda k, a: k(a))(kernel, X1), kernel(X1), rtol=100 * EPS, atol=1e-15)


def test_other_numbers_do_not_compile_again():
    """Hyper-parameters are inputs of the compiled program, not constants in it."""
    traces = []

    @eqx.filter_jit
    def gram(kernel, points):
        traces.append(kernel)
        return kernel(points)

    for number in (0.5, 1.5, 2.5):
        gram(kk.NTK(1, "relu", jnp.asarray(number), jnp.asarray(0.1)), X1)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (kk.RBF, (0.7, 1.3, 2.0)),
        (lambda a: kk.RationalQuadratic(1.3, a), (0.7, 1.3, 2.0)),
        (lambda a: kk.Polynomial(2, a), (0.0, 0.5, 1.0)),
        (lambda a: a * kk.Matern32(1.3), (0.7, 1.3, 2.0)),
        pytest.param(lambda a: kk.NTK(2, "relu", a, 0.3), (0.7, 1.3, 2.0), marks=pytest.mark.slow),
        (lambda a: kk.NNGP(2, "erf", 1.4, a), (0.0, 0.5, 1.0)),
        (lambda a: kk.NTK(1, kk.LeakyReLU(a), 1.4, 0.3), (0.0, 0.01, 0.5)),
    ],
    ids=["length_scale", "alpha", "offset", "scale", "weight_std", "bias_std", "slope"],
)
def test_vmap_over_hyper_parameters(make, numbers):
    grams = jax.vmap(lambda number: make(number)(X1, X2))(jnp.asarray(numbers))
    for gram, number in zip(grams, numbers, strict=True):
        np.testing.assert_allclose(gram, make(number)(X1, X2), rtol=100 * EPS, atol=10 * EPS)
    # and over a kernel whose leaves carry the batch
    batched = jax.vmap(make)(jnp.asarray(numbers))
    np.testing.assert_allclose(jax.vmap(lambda k: k(X1, X2))(batched), grams, rtol=100 * EPS, atol=10 * EPS)


def test_vmap_over_points():
    batch = jnp.stack([X1, X2])
    for kernel in (kk.RBF(1.3), kk.NTK(1, "relu", 1.4, 0.3)):
        grams = jax.vmap(kernel)(batch)
        for gram, points in zip(grams, batch, strict=True):
            np.testing.assert_allclose(gram, kernel(points), rtol=100 * EPS, atol=10 * EPS)


@pytest.mark.parametrize(
    "name", ["rbf", "laplace", "matern32", "rational_quadratic", "NTK-relu-1-bias", "NTK-erf-1-free"]
)
def test_non_finite_numbers_under_a_trace_stay_visible(name):
    """No exception can be raised there: NaN in, NaN out, and never the k(x, x) of coincident points."""
    kernel = ALL[name]
    gram = np.asarray(jax.jit(kernel)(X1.at[1, 0].set(jnp.nan)))
    assert np.all(np.isnan(gram[1, :]))
    assert np.all(np.isnan(gram[:, 1]))
    cross = np.asarray(jax.jit(lambda points: kernel(points, X2))(X1.at[1, 0].set(jnp.nan)))
    assert np.all(np.isnan(cross[1]))
    make = kk.RBF if name in CLASSICAL else lambda number: kk.NTK(2, "relu", number)
    assert np.all(np.isnan(jax.jit(lambda number: make(number)(X1, X2))(jnp.nan)))
