"""Kernels of neural-tangents architectures: bounded memory, half of the work, no crash, and clear refusals."""

import inspect
import itertools
import subprocess
import sys
import textwrap

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison import _memory
from kpoison.kernels import _batched, _blocks
from kpoison.kernels import _neural_tangents as adapter
from kpoison.kernels import stax as room
from kpoison.kernels._neural_tangents import load_neural_tangents

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(11, 6, 5, 2)))
VECTORS = jnp.asarray(RNG.normal(size=(11, 7)))


@pytest.fixture(scope="module")
def stax():
    return load_neural_tangents().stax


@pytest.fixture(scope="module")
def architectures(stax):
    def dense():
        return stax.Dense(1, 1.4, 0.1)

    def convolution():
        return stax.Conv(1, (3, 3), padding="SAME", W_std=1.4, b_std=0.1)

    pooled = [convolution(), stax.Relu(), stax.GlobalAvgPool(), dense()]
    shrunk = [convolution(), stax.Erf(), stax.AvgPool((2, 2), (2, 2)), convolution(), stax.Erf(), stax.GlobalAvgPool()]
    return {
        "dense": stax.serial(dense(), stax.Relu(), dense(), stax.Erf(), dense())[2],
        "pooled": stax.serial(*pooled)[2],
        "flattened": stax.serial(convolution(), stax.Relu(), stax.Flatten(), dense())[2],
        "shrunk": stax.serial(*shrunk, dense())[2],
        "spatial": stax.serial(convolution(), stax.Relu())[2],
    }


def points_of(name):
    return VECTORS if name == "dense" else IMAGES


def kernel_of(architectures, name, **options):
    return kp.kernels.from_stax(architectures[name], point_ndim=points_of(name).ndim - 1, **options)


# --- Blocks -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("dense", 7),
        pytest.param("dense", 1, marks=pytest.mark.slow),
        pytest.param("pooled", 40, marks=pytest.mark.slow),
    ],
)
def test_blocks_change_nothing(architectures, name, pairs):
    X = points_of(name)
    whole = kernel_of(architectures, name, memory=2**40)
    one = room._pair_bytes(architectures[name], "ntk", X.shape[1:])
    blocks = kernel_of(architectures, name, memory=pairs * one + 1)
    assert blocks.pairs_at_once(X.shape[1:]) == pairs
    for X1, X2 in ((X, None), (X[:3], X)):
        expected = architectures[name](X1, X2, "ntk")
        for kernel in (whole, blocks):
            gram = kernel(X1, X2)
            np.testing.assert_allclose(gram, expected, rtol=1e-7)  # half of the digits at coincident points
            if X2 is None:
                # In a block on the diagonal a compiler may round (x, z) and (z, x) differently.
                size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
                assert np.all(np.abs(gram - gram.T) <= 10 * np.finfo(float).eps * size)
            if X2 is None and kernel is blocks:
                np.testing.assert_array_equal(gram[-1, 0], gram[0, -1])
    np.testing.assert_array_equal(blocks.pairwise(X, X[:4]), blocks(X, X[:4]))
    np.testing.assert_allclose(blocks.diagonal(X), np.diag(whole(X)), rtol=1e-7)


@pytest.mark.slow
def test_a_gradient_goes_through_blocks(architectures):
    one = room._pair_bytes(architectures["dense"], "ntk", VECTORS.shape[1:])
    whole, blocks = (kernel_of(architectures, "dense", memory=memory) for memory in (2**40, 9 * one))
    weights = jnp.asarray(RNG.normal(size=(11, 11)))
    weights = weights - jnp.diag(jnp.diag(weights))  # where neural-tangents has no derivative

    def slope(kernel, symmetric):
        X2 = None if symmetric else VECTORS + 0.1
        return jax.jit(jax.grad(lambda X: jnp.sum(weights * kernel(X, X2))))(VECTORS)

    for symmetric in (True, False):
        np.testing.assert_allclose(slope(blocks, symmetric), slope(whole, symmetric), rtol=1e-8, atol=1e-10)

    basis = jnp.asarray(RNG.normal(size=(11, 2)))
    x = VECTORS[0] + 0.3
    expected = jax.jacobian(lambda x: whole(x[None], VECTORS)[0] @ basis)(x)
    np.testing.assert_allclose(blocks.gradient_products(x, VECTORS, basis), expected, rtol=1e-9)


@pytest.mark.slow
def test_half_of_a_symmetric_matrix_is_computed(architectures, monkeypatch):
    monkeypatch.setattr(room, "_WORTH_BLOCKS", 0)
    computed = []

    def counting(X1, X2, get):
        jax.debug.callback(lambda: computed.append(len(X1) * len(X2)))
        return architectures["dense"](X1, X2, get)

    X = jnp.asarray(RNG.normal(size=(64, 3)))
    gram = kp.kernels.from_stax(counting)(X)
    jax.effects_barrier()
    assert sum(computed) <= 0.57 * 64**2
    np.testing.assert_allclose(gram, architectures["dense"](X, None, "ntk"), rtol=1e-7)


def compiled_bytes(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    "name",
    [
        "dense",
        pytest.param("pooled", marks=pytest.mark.slow),
        "flattened",
        pytest.param("shrunk", marks=pytest.mark.slow),
    ],
)
def test_the_estimate_covers_what_the_compiler_takes(architectures, name):
    """And not by far, so that it does not refuse what fits easily."""
    kernel = kernel_of(architectures, name)
    shape = (12, 12, 3) if points_of(name).ndim > 2 else (50,)
    estimate = room._pair_bytes(architectures[name], "ntk", shape)
    one = jax.ShapeDtypeStruct(shape, jnp.float64)
    assert estimate / 16 < compiled_bytes(kernel.evaluate, one, one) < estimate
    assert compiled_bytes(jax.grad(kernel.evaluate), one, one) < _batched.SLOPES * estimate


@pytest.mark.slow
def test_temporaries_stay_within_the_memory(architectures):
    one = room._pair_bytes(architectures["pooled"], "ntk", (6, 6, 1))
    memory = 20 * one
    kernel = kernel_of(architectures, "pooled", memory=memory)
    X = jax.ShapeDtypeStruct((60, 6, 6, 1), jnp.float64)
    result = 60 * 60 * 8
    assert compiled_bytes(lambda X: kernel.gram(X, X), X) < memory + 6 * result
    assert compiled_bytes(lambda X: architectures["pooled"](X, None, "ntk"), X) > 20 * memory
    # Gradients with every centre, weighted or not.
    x, basis = jax.ShapeDtypeStruct((6, 6, 1), jnp.float64), jax.ShapeDtypeStruct((60, 2), jnp.float64)
    assert compiled_bytes(kernel.gradients, x, X) < memory + 4 * X.size * 8
    assert compiled_bytes(kernel.gradient_products, x, X, basis) < memory + 4 * X.size * 8
    assert compiled_bytes(jax.vmap(jax.grad(kernel.evaluate), (None, 0)), x, X) > memory + 4 * X.size * 8


# --- Derivatives that ended the process ---------------------------------------------------------------------

SETTING = """
    import jax, jax.numpy as jnp, numpy as np
    import kpoison as kp
    from kpoison.kernels._neural_tangents import load_neural_tangents

    jax.config.update("jax_enable_x64", True)
    stax = load_neural_tangents().stax
    rng = np.random.default_rng(0)

    def kernel_fn(layers, activation):
        convolution = stax.Conv(1, (3, 3), padding="SAME", W_std=1.4, b_std=0.1)
        return stax.serial(*[convolution, activation()] * layers, stax.GlobalAvgPool(), stax.Dense(1))[2]
"""
CRASHED = {
    "pair": """
    kernel = kp.kernels.from_stax(kernel_fn(1, stax.Relu), "nngp", point_ndim=3)
    x, z, v = (jnp.asarray(rng.normal(size=(8, 8, 1))) for _ in range(3))
    forward = jax.jit(jax.vmap(jax.jacfwd(kernel.evaluate)))(x[None], z[None])[0]
    step = (kernel.evaluate(x + 1e-5 * v, z) - kernel.evaluate(x - 1e-5 * v, z)) / 2e-5
    np.testing.assert_allclose(jnp.sum(forward * v), step, rtol=1e-6)
    """,
    "laws": """
    X = jnp.asarray(rng.normal(size=(4, 8, 8, 3)))
    kernel = kp.kernels.from_stax(kernel_fn(2, stax.Erf), point_ndim=3)
    gradient = jax.jit(jax.grad(lambda X: jnp.sum(kernel(X, X[:2] + 1.0))))(X)
    assert np.isfinite(gradient).all()
    clean = kp.fit(kernel, X, jnp.asarray([1.0, -1.0, 1.0, -1.0]))
    poison, x, v = kp.Poison(X[0] + 0.1, 1.0, 2.0), X[:1] + 0.2, jnp.asarray(rng.normal(size=(1, 8, 8, 3)))
    slope = kp.efficacy_gradient(clean, poison, x, 1e-3)
    step = (kp.efficacy(clean, poison, x + 1e-5 * v, 1e-3) - kp.efficacy(clean, poison, x - 1e-5 * v, 1e-3)) / 2e-5
    np.testing.assert_allclose(jnp.sum(slope * v), step[0], rtol=1e-5)
    np.testing.assert_allclose(kp.spike(clean, poison, x, 1e-3)[0], jnp.sum(slope**2), rtol=1e-8)
    """,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pair", pytest.param("laws", marks=pytest.mark.slow)])
def test_no_derivative_ends_the_process(case):
    """These did with XLA's float64 convolution, on a CPU with AVX-512 and jaxlib 0.8.2 to 0.10.2."""
    script = [sys.executable, "-c", textwrap.dedent(SETTING) + textwrap.dedent(CRASHED[case])]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield str(equation.primitive)
        for inner in _memory._inner_jaxprs(equation.params.values()):
            yield from primitives(inner)


@pytest.mark.parametrize("layer", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
def test_kernels_hold_no_convolution(stax, layer, padding):
    """Sampled networks say that they are the right kernels nevertheless: see test_convolutions_of_kernels."""
    strides = (1, 1) if padding == "CIRCULAR" and layer == "ConvTranspose" else (2, 2)
    layers = [getattr(stax, layer)(1, (3, 3), strides, padding), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1)]
    kernel_fn = stax.serial(*layers)[2]
    jaxpr = jax.make_jaxpr(jax.grad(lambda X: jnp.sum(kernel_fn(X, None, "ntk"))))(IMAGES[:2]).jaxpr
    found = set(primitives(jaxpr))
    assert "pad" in found or "concatenate" in found
    if (layer, padding) != ("ConvTranspose", "CIRCULAR"):
        assert "conv_general_dilated" not in found


@pytest.mark.slow
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_convolutions_of_kernels(transposed, padding):
    numbers = ("NCHW", "OIHW", "NCHW")
    for size, stride, shape in itertools.product((1, 2, 3, 5), (1, 2, 3), ((6, 6), (7, 5))):
        covariance = jnp.asarray(RNG.normal(size=(3, 1, *shape)))
        diagonal = (jnp.eye(size) / size)[None, None]
        theirs = jax.lax.conv_transpose if transposed else jax.lax.conv_general_dilated
        ours = adapter._transposed_correlation if transposed else adapter._correlation
        expected = theirs(covariance, diagonal, (stride, stride), padding, dimension_numbers=numbers)
        np.testing.assert_allclose(ours(covariance, size, stride, padding), expected, atol=1e-13)


# --- Precision ----------------------------------------------------------------------------------------------


def test_float32_points_with_x64_keep_their_digits(architectures):
    exact = kernel_of(architectures, "dense")(VECTORS.astype(jnp.float32).astype(jnp.float64))
    rounded = kernel_of(architectures, "dense")(VECTORS.astype(jnp.float32))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, rtol=2e-7)


def test_without_x64_the_loss_is_as_documented(architectures):
    exact = kernel_of(architectures, "dense")(VECTORS)
    with jax.enable_x64(False):
        rounded = np.asarray(kernel_of(architectures, "dense")(VECTORS.astype(jnp.float32)))
    np.testing.assert_allclose(rounded, exact, rtol=1e-3)
    off = ~np.eye(len(VECTORS), dtype=bool)
    np.testing.assert_allclose(rounded[off], np.asarray(exact)[off], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_gradient_through_the_hyper_parameters(stax):
    def value(weight_std):
        kernel = kp.kernels.from_stax(stax.serial(stax.Dense(1, weight_std), stax.Erf(), stax.Dense(1))[2])
        return jnp.sum(kernel(VECTORS)) + kernel.evaluate(VECTORS[0], VECTORS[1])

    expected = (value(1.3 + 1e-6) - value(1.3 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.jit(jax.grad(value))(1.3), expected, rtol=1e-7)


# --- Refusals -----------------------------------------------------------------------------------------------


def refused(message):
    return pytest.raises(ValueError, match=message)


def unknown(kernel, **_):
    raise NotImplementedError("Gelu of sines")


def test_architectures_without_the_kernel(architectures, stax):
    with refused(r"shape \(1, 1\), got shape \(1, 1, .*\) .* ends with Flatten\(\) or GlobalAvgPool"):
        kernel_of(architectures, "spatial")(IMAGES)
    with refused(r"shape \(1, 1\), got shape \(\) .*get='ntk'"):
        kp.kernels.from_stax(stax.Identity()[2])(VECTORS)
    with refused("no 'ntk' kernel: it returns None"):
        kp.kernels.from_stax(lambda x, z, get: None).evaluate(VECTORS[0], VECTORS[1])
    with refused("does not give the 'ntk' kernel of two points of shape .*NotImplementedError: Gelu of sines"):
        kp.kernels.from_stax(stax.serial(stax.Dense(1), (*stax.Erf()[:2], unknown))[2])(VECTORS)


def test_points_that_do_not_fit_the_architecture(architectures):
    with refused(r"does not give the 'ntk' kernel of two points of shape \(60,\)"):
        kp.kernels.from_stax(architectures["pooled"])(IMAGES.reshape(11, -1))
    with refused(r"X1 must have shape \(n, .*\), got \(11, 7\)"):
        kernel_of(architectures, "pooled")(VECTORS)
    with refused(r"x must be one point of 3 axes \(point_ndim\), got shape \(6, 5\)"):
        kernel_of(architectures, "pooled").evaluate(IMAGES[0, :, :, 0], IMAGES[1, :, :, 0])


@pytest.mark.slow
def test_sizes_that_cannot_fit(architectures, monkeypatch):
    small = kernel_of(architectures, "pooled", memory=2**16)
    with refused(
        r"one pair of points of shape \(32, 32, 1\) takes about .*iB .*64 KiB are allowed by memory; points of"
    ):
        small(np.ones((2, 32, 32, 1)))
    with refused(r"shape \(32, 32, 1\)") as refusal:
        small.evaluate(np.ones((32, 32, 1)), np.ones((32, 32, 1)))
    fitting = eval(str(refusal.value).split("points of shape ")[-1].removesuffix(" would fit"))
    assert np.isfinite(small.evaluate(np.ones(fitting), np.ones(fitting)))
    for module in (_batched, _blocks):
        monkeypatch.setattr(module, "available_memory", lambda: 2**33)
    kernel = kernel_of(architectures, "pooled")
    with refused(r"of temporaries, but 8 GiB are available; points of shape \(64, 64, 1\) would fit"):
        jax.eval_shape(kernel.evaluate, *[jax.ShapeDtypeStruct((512, 512, 1), jnp.float64)] * 2)
    huge = jax.ShapeDtypeStruct((200_000, 7), jnp.float64)
    dense = kernel_of(architectures, "dense")
    for function, arguments in ((lambda X: dense.gram(X, X), [huge]), (dense.gram, [huge, huge])):
        with refused(r"shape \(200000, 200000\) takes about 596 GiB .* 8 GiB are available; 23,170 points would fit"):
            jax.eval_shape(function, *arguments)
    for memory in (0, -1, 1.5, "1GB", True):
        with refused("memory must be an integer >= 1"):
            inspect.unwrap(kp.kernels.from_stax)(max, memory=memory)
