"""Kernels of convolutional networks against neural-tangents, at special pairs, and under every transformation."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from catalogue import ACTIVATIONS, KINKED

from kpoison import kernels as kk
from kpoison.kernels import convolutional
from kpoison.kernels._neural_tangents import load_neural_tangents

AGREEMENT = 1e-10
KINDS = {"ntk": kk.ConvolutionalNTK, "nngp": kk.ConvolutionalNNGP}
READOUTS = ("pool", "flatten")
RNG = np.random.default_rng(0)
X, Z = RNG.normal(size=(3, 4, 5, 2)), RNG.normal(size=(4, 4, 5, 2))
# Blank windows, equal and collinear ones at different places, as real images have them.
SPARSE = np.maximum(RNG.normal(size=(3, 6, 5, 1)) - 1, 0)
EVERY = pytest.mark.parametrize("readout", READOUTS)


@pytest.fixture(scope="module")
def stax():
    return load_neural_tangents().stax


def peer(stax, layers, activation, weight_std, bias_std, filter_size, readout):
    """The network's kernel function there."""
    activations = {
        "relu": stax.Relu(),
        "leaky_relu": stax.LeakyRelu(ACTIVATIONS["leaky_relu"].slope),
        "erf": stax.Erf(),
        "gelu": stax.Gelu(),
        "sin": stax.Sin(),
        "cos": stax.Cos(),
    }
    convolution = stax.Conv(1, (filter_size, filter_size), (1, 1), "SAME", W_std=weight_std, b_std=bias_std)
    last = {"pool": stax.GlobalAvgPool, "flatten": stax.Flatten}[readout]()
    return stax.serial(*[convolution, activations[activation]] * layers, last, stax.Dense(1, weight_std, bias_std))[2]


def assert_same(kernels, theirs, *points):
    """On the diagonal neural-tangents itself loses half of the digits of a ReLU network's angles."""
    for get, kernel in kernels.items():
        symmetric = len(points) == 1 and kernel.smoothness == 0
        np.testing.assert_allclose(kernel(*points), getattr(theirs, get), rtol=1e-8 if symmetric else AGREEMENT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "readout"),
    [
        pytest.param(
            *case, marks=[] if case in (("relu", "flatten"), ("erf", "pool"), ("erf", "flatten")) else pytest.mark.slow
        )
        for case in itertools.product(ACTIVATIONS, READOUTS)
    ],
)
def test_gram_matrices(stax, activation, readout):
    arguments = (1.3, 0.2, 3, readout)
    kernel_fn = peer(stax, 2, activation, *arguments)
    kernels = {get: kind(2, ACTIVATIONS[activation], *arguments) for get, kind in KINDS.items()}
    assert_same(kernels, kernel_fn(X, Z, ("nngp", "ntk")), X, Z)
    assert_same(kernels, kernel_fn(X, None, ("nngp", "ntk")), X)


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize(("layers", "bias_std", "filter_size"), [(1, 0.0, 3), (3, 0.0, 5), (2, 0.3, 1), (2, 0.0, 7)])
def test_depths_filters_and_biases(stax, layers, bias_std, filter_size, readout):
    arguments = (layers, "relu", 1.4, bias_std, filter_size, readout)
    theirs = peer(stax, *arguments)(X, Z, ("nngp", "ntk"))
    assert_same({get: kind(*arguments) for get, kind in KINDS.items()}, theirs, X, Z)


@pytest.mark.slow
def test_defaults_are_the_documented_ones(stax):
    """Three layers of ReLU, weight_std √2, no biases, 3 × 3 filters, global average pooling."""
    theirs = peer(stax, 3, "relu", 2**0.5, 0.0, 3, "pool")(X, Z, ("nngp", "ntk"))
    assert_same({get: kind() for get, kind in KINDS.items()}, theirs, X, Z)


@pytest.mark.slow
@EVERY
def test_a_filter_of_one_pixel_on_one_pixel_is_a_dense_network(readout):
    x, z = X[:, :1, :1], Z[:, :1, :1]
    for kind, dense in ((kk.ConvolutionalNTK, kk.NTK), (kk.ConvolutionalNNGP, kk.NNGP)):
        expected = dense(2, "relu", 1.3, 0.2)(x[:, 0, 0], z[:, 0, 0])
        np.testing.assert_allclose(kind(2, "relu", 1.3, 0.2, 1, readout)(x, z), expected, rtol=1e-13)


# --- Real images have blank windows, and the same window at many places ------------------------------------------


@pytest.mark.slow
@EVERY
def test_sparse_images(stax, readout):
    """neural-tangents loses half of the digits of an angle of 0; the NNGP does not feel it."""
    arguments = (2, "relu", 2**0.5, 0.0, 3, readout)
    theirs = peer(stax, *arguments)(SPARSE, None, ("nngp", "ntk"))
    np.testing.assert_allclose(kk.ConvolutionalNNGP(*arguments)(SPARSE), theirs.nngp, rtol=1e-10)
    np.testing.assert_allclose(kk.ConvolutionalNTK(*arguments)(SPARSE), theirs.ntk, rtol=1e-8)
    # Exactly equal or collinear windows in every layer: known from longer sums, in which noise would be visible.
    gram = kk.ConvolutionalNTK(*arguments)(SPARSE)
    scaled = kk.ConvolutionalNTK(*arguments)(SPARSE, 3 * SPARSE)
    np.testing.assert_allclose(scaled, 3 * gram, rtol=1e-12)


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_gradients_of_sparse_images_are_finite(activation, readout):
    kernel = kk.ConvolutionalNTK(2, activation, 2**0.5, 0.0, 3, readout)
    for x, z in ((SPARSE[0], SPARSE[1]), (SPARSE[0], SPARSE[0]), (0 * SPARSE[0], SPARSE[0]), (SPARSE[0], -SPARSE[0])):
        gradient = kernel.gradients(jnp.asarray(x), jnp.asarray(z)[None])
        assert np.all(np.isfinite(gradient))
        if activation == "relu":  # homogeneous
            assert float(jnp.vdot(gradient[0], x)) == pytest.approx(float(kernel.evaluate(x, z)), rel=1e-12)


# --- Near the diagonal -----------------------------------------------------------------------------------------


def exactly(kernel, x, z):
    """k(x, z) in 50 digits: the recursion over pairs of positions as the literature writes it."""
    mp = pytest.importorskip("mpmath")
    size, reach = x.shape[:2], kernel.filter_size // 2
    w, b = mp.mpf(float(kernel.weight_std)) ** 2, mp.mpf(float(kernel.bias_std)) ** 2
    places = [(i, j) for i in range(size[0]) for j in range(size[1])]
    steps = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]

    def window(table, p, q):
        pairs = (((p[0] + i, p[1] + j), (q[0] + i, q[1] + j)) for i, j in steps)
        return w / len(steps) * mp.fsum(table[pair] for pair in pairs if pair in table)

    def inner(a, c):
        numbers = {p: [mp.mpf(v) for v in a[p]] for p in places}, {p: [mp.mpf(v) for v in c[p]] for p in places}
        return {
            (p, q): mp.fsum(s * t for s, t in zip(numbers[0][p], numbers[1][q], strict=True)) / a.shape[2]
            for p in places
            for q in places
        }

    tables = {"xx": inner(x, x), "zz": inner(z, z), "xz": inner(x, z)}
    tangent = dict.fromkeys(tables["xz"], mp.mpf(0))
    for _ in range(kernel.hidden_layers):
        state = {name: {pair: window(table, *pair) + b for pair in table} for name, table in tables.items()}
        tangent = {pair: state["xz"][pair] + window(tangent, *pair) for pair in tangent}
        deviations = [{p: mp.sqrt(state[name][p, p]) for p in places} for name in ("xx", "zz")]

        def arc(name, pair, one, other, state=state):
            product = one[pair[0]] * other[pair[1]]
            if product == 0:
                return mp.mpf(0), mp.mpf(1) / 4
            cosine = max(-1, min(1, state[name][pair] / product))
            angle = mp.acos(cosine)
            return product * (mp.sin(angle) + (mp.pi - angle) * cosine) / (2 * mp.pi), (mp.pi - angle) / (2 * mp.pi)

        arcs = {pair: arc("xz", pair, *deviations) for pair in tangent}
        tangent = {pair: tangent[pair] * arcs[pair][1] for pair in tangent}
        tables = {
            "xz": {pair: value[0] for pair, value in arcs.items()},
            "xx": {pair: arc("xx", pair, deviations[0], deviations[0])[0] for pair in tangent},
            "zz": {pair: arc("zz", pair, deviations[1], deviations[1])[0] for pair in tangent},
        }
    total = {pair: tables["xz"][pair] + tangent[pair] for pair in tangent}
    if kernel.readout == "pool":
        return w * mp.fsum(total.values()) / len(places) ** 2 + b
    return w * mp.fsum(total[p, p] for p in places) / len(places) + b


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("bias_std", [0.0, 0.3])
def test_close_images_keep_their_digits(bias_std, readout):
    """What is left of k(x, z) without k(z, z), and the derivative along a direction, at distances down to 1e-9."""
    mp = pytest.importorskip("mpmath")
    kernel = kk.ConvolutionalNTK(2, "relu", 1.4, bias_std, 3, readout)
    # Along the line through both images errors of the gaps cancel, so that the derivative is taken across it.
    z, away, direction = RNG.normal(size=(3, 2, 3, 1))
    gradients = jax.jit(kernel.gradients)
    for r in (1e-3, 1e-6, 1e-9):
        x = z + r * away
        with mp.workdps(50):
            step = mp.mpf(10) ** -20
            ends = [exactly(kernel, x.astype(object) + sign * step * direction, z) for sign in (1, -1)]
            expected = float((ends[0] - ends[1]) / (2 * step)), float(exactly(kernel, x, z))
        slope = float(jnp.vdot(gradients(jnp.asarray(x), jnp.asarray(z)[None])[0], direction))
        assert slope == pytest.approx(expected[0], rel=1e-9)
        assert float(kernel.evaluate(x, z)) == pytest.approx(expected[1], rel=1e-14)


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("activation", KINKED)
def test_at_coincident_images_the_gradient_is_the_symmetric_part(activation, readout):
    """With biases: the mean of the one-sided derivatives along each direction; and half of the diagonal's."""
    kernel = kk.ConvolutionalNTK(2, ACTIVATIONS[activation], 1.4, 0.3, 3, readout)
    z, direction = jnp.asarray(X[0]), jnp.asarray(X[1])
    gradient = jax.grad(kernel.evaluate)(z, z)
    diagonal = jax.grad(lambda x: kernel.diagonal(x[None])[0])(z)
    np.testing.assert_allclose(gradient, diagonal / 2, rtol=1e-10, atol=1e-14)
    r = 1e-5
    sides = [float(kernel.evaluate(z + sign * r * direction, z)) for sign in (1, -1)]
    assert (sides[0] - sides[1]) / (2 * r) == pytest.approx(float(jnp.vdot(gradient, direction)), rel=1e-5)


@pytest.mark.slow
@EVERY
def test_second_derivatives_at_a_cusp_are_refused(readout):
    kernel = kk.ConvolutionalNTK(1, "relu", 1.4, 0.3, 3, readout)
    x, z = (jnp.asarray(images[0, :2, :2, :1]) for images in (X, Z))
    hessian = jax.jit(jax.hessian(kernel.evaluate))
    assert np.all(np.isfinite(hessian(x, z)))
    with pytest.raises((RuntimeError, ValueError), match=r"see kernel\.smoothness"):
        jax.block_until_ready(hessian(z, z))


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (kk.ConvolutionalNTK(), 0),
        (kk.ConvolutionalNNGP(), 2),
        (kk.ConvolutionalNTK(1, "leaky_relu"), 0),
        (kk.ConvolutionalNTK(1, "erf"), math.inf),
        (kk.ConvolutionalNNGP(1, "gelu"), math.inf),
    ],
)
def test_smoothness(kernel, expected):
    assert kernel.smoothness == expected
    assert kernel.point_ndim == 3
    assert not kernel.rotation_invariant


# --- Every way to the same numbers -----------------------------------------------------------------------------


@pytest.mark.slow
@EVERY
def test_blocks_chunks_and_single_pairs_agree(monkeypatch, readout):
    """Blocks that do not fit the matrix evenly; the symmetric matrix is exactly so, and half of the work."""
    kernel = kk.ConvolutionalNTK(2, "relu", 1.3, 0.2, 3, readout)
    whole = jax.jit(kernel.gram)(X, Z)
    small = kernel._positions(4, 5) * 5
    monkeypatch.setattr("kpoison._batches.BYTES_AT_ONCE", 8 * convolutional._FLOATS_PER_POSITION * small)
    many, few = jnp.asarray(np.concatenate([Z, X])), jnp.asarray(X)
    symmetric = kernel.gram(many, many)
    np.testing.assert_array_equal(symmetric, symmetric.T)
    np.testing.assert_allclose(symmetric[4:, :4], whole, rtol=1e-13)
    np.testing.assert_allclose(kernel.gram(few, many), symmetric[4:], rtol=1e-13)
    np.testing.assert_allclose(kernel.pairwise(few, many), symmetric[4:], rtol=1e-13)
    np.testing.assert_allclose(kernel.diagonal(many), jnp.diagonal(symmetric), rtol=1e-13)
    np.testing.assert_allclose(kernel.evaluate(few[1], many[2]), symmetric[5, 2], rtol=1e-13)
    gradients = kernel.gradients(few[0], many)
    expected = jax.vmap(lambda z: jax.grad(kernel.evaluate)(few[0], z))(many)
    np.testing.assert_allclose(gradients, expected, rtol=1e-10, atol=1e-15)


@pytest.mark.slow
@EVERY
def test_gradients_in_images_and_parameters(readout):
    """Against central differences, through the Gram matrix and through single pairs."""
    x, z, v = (jnp.asarray(images[0, :3, :3]) for images in (X, Z, RNG.normal(size=(1, 3, 3, 2))))

    def value(std, t):
        kernel = kk.ConvolutionalNTK(2, "relu", std[0], std[1], 3, readout)
        return kernel.evaluate(x + t * v, z), kernel.gram((x + t * v)[None], z[None])[0, 0]

    at, step = (jnp.array([1.3, 0.2]), jnp.zeros(())), 1e-5
    derivatives = jax.jit(jax.jacrev(value, (0, 1)))(*at)
    compiled = jax.jit(value)
    for single, through_gram in zip(*derivatives, strict=True):
        np.testing.assert_allclose(single, through_gram, rtol=1e-9)
    for axis in (0, 1):
        move = step * jnp.eye(2)[axis]
        plus, minus = (compiled(at[0] + sign * move, at[1])[0] for sign in (1, -1))
        assert float(derivatives[0][0][axis]) == pytest.approx(float((plus - minus) / (2 * step)), rel=1e-7)
    plus, minus = (compiled(at[0], sign * step)[0] for sign in (1, -1))
    assert float(derivatives[0][1]) == pytest.approx(float((plus - minus) / (2 * step)), rel=1e-6)


@pytest.mark.slow
@EVERY
def test_vmap_over_a_parameter(readout):
    stds = jnp.array([0.8, 1.4])

    def gram(std):
        return kk.ConvolutionalNTK(2, "relu", std, 0.1, 3, readout).gram(jnp.asarray(X), jnp.asarray(Z))

    for std, found in zip(stds, jax.jit(jax.vmap(gram))(stds), strict=True):
        np.testing.assert_allclose(found, gram(std), rtol=1e-12)


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_float32(activation, readout):
    kernel = kk.ConvolutionalNTK(3, activation, 2**0.5, 0.1, 3, readout)
    double, single = (np.concatenate([X, Z]).astype(dtype) for dtype in (np.float64, np.float32))
    gram = kernel(single)
    assert gram.dtype == np.float32
    # Beside the images' own values: an entry of odd activations is a sum of terms of both signs.
    exact = np.asarray(kernel(double))
    size = np.sqrt(np.diag(exact))
    np.testing.assert_allclose(
        gram / np.outer(size, size), exact / np.outer(size, size), rtol=0, atol=8 * np.finfo(np.float32).eps
    )
    gradients = kernel.gradients(jnp.asarray(single[0]), jnp.asarray(single[1:]))
    exact = kernel.gradients(jnp.asarray(double[0]), jnp.asarray(double[1:]))
    np.testing.assert_allclose(gradients, exact, atol=3e-5 * np.max(np.abs(exact)))


@pytest.mark.slow
@EVERY
def test_memory_does_not_grow_with_the_number_of_images(readout):
    """Beside the images and the result."""
    n, side = (64, 28) if readout == "flatten" else (8, 28)
    kernel = kk.ConvolutionalNTK(readout=readout)
    image = jax.ShapeDtypeStruct((side, side, 1), jnp.float64)
    images = jax.ShapeDtypeStruct((n, *image.shape), jnp.float64)
    for function, points in (
        (kernel.gram, (images, images)),
        (kernel.gradients, (image, images)),
        (jax.grad(kernel.evaluate), (image, image)),
    ):
        analysis = jax.jit(function).lower(*points).compile().memory_analysis()
        if analysis is None:
            pytest.skip("this compiler does not tell")
        assert analysis.temp_size_in_bytes < 2**28


# --- Bad input -------------------------------------------------------------------------------------------------


@pytest.fixture
def as_users_run_it():
    """Without the type checker of the tests, which is faster to complain."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"readout": "sum"}, "readout must be one of 'pool', 'flatten', got 'sum'"),
        ({"filter_size": 4}, "filter_size must be odd, got 4"),
        ({"filter_size": 0}, "filter_size must be an integer >= 1, got 0"),
        ({"filter_size": 3.0}, "filter_size must be an integer >= 1, got 3.0"),
        ({"hidden_layers": 0}, "hidden_layers must be an integer >= 1, got 0"),
        ({"weight_std": 0.0}, "weight_std must be finite and > 0"),
        ({"bias_std": -1.0}, "bias_std must be finite and >= 0"),
        ({"activation": "swish"}, "activation must be one of"),
    ],
)
@pytest.mark.parametrize("kind", KINDS.values())
def test_wrong_arguments(as_users_run_it, kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_wrong_images(as_users_run_it):
    kernel = kk.ConvolutionalNTK()
    with pytest.raises(ValueError, match=r"X1 must have shape \(n, \.\.\., \.\.\., \.\.\.\), got \(3, 20\)"):
        kernel(np.zeros((3, 20)))
    with pytest.raises(ValueError, match=r"X2 must hold points of shape \(4, 5, 2\), as X1 does, got \(4, 5, 1\)"):
        kernel(X, Z[..., :1])
    with pytest.raises(ValueError, match=r"x must be an image of shape \(height, width, channels\), got shape \(20,\)"):
        kernel.evaluate(np.zeros(20), np.zeros(20))
    with pytest.raises(ValueError, match=r"z must have the shape of x"):
        kernel.evaluate(X[0], Z[0, :3])
    with pytest.raises(ValueError, match=r"filter_size must be at most 7 for images of shape \(4, 5\).*got 9"):
        kk.ConvolutionalNTK(filter_size=9)(X)


def test_a_gram_matrix_that_cannot_fit_is_refused_at_once():
    kernel = kk.ConvolutionalNTK(readout="flatten")
    images = jax.ShapeDtypeStruct((10**8, 4, 5, 2), jnp.float64)
    with pytest.raises(ValueError, match=r"a Gram matrix of shape .* are available; [\d,]+ points would fit"):
        jax.eval_shape(functools.partial(kernel.gram), images, images)
