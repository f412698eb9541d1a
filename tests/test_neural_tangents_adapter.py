"""neural-tangents through its adapter, against oracles of their own; JAX is left as it was."""

import importlib.abc
import itertools
import subprocess
import sys
import textwrap

import jax
import jax.core
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.interpreters import ad

from kpoison.kernels._neural_tangents import (
    StructuredDerivativesError,
    _without_known_equations,
    load_neural_tangents,
)

W_STD, B_STD = 1.3, 0.2


pytestmark = pytest.mark.slow  # the library takes longer to import and to compile than what is asked of it here


@pytest.fixture(autouse=True)
def _precision():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def nt():
    return load_neural_tangents()


@pytest.fixture
def stax(nt):
    return nt.stax


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def close(actual, expected, rtol=1e-10):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol)


def mlp(stax, width=16, outputs=2):
    def dense(units):
        return stax.Dense(units, W_STD, B_STD)

    return stax.serial(dense(width), stax.Erf(), dense(width), stax.Relu(), dense(outputs))


# --- Kernels of infinite width ------------------------------------------------------------------------------


def arc_cosine(uv, uu, vv, slope=0.0):
    """E[f(u)f(v)] and E[f'(u)f'(v)] of a leaky ReLU f, in closed form."""
    norm = np.sqrt(uu * vv)
    theta = np.arccos(np.clip(uv / norm, -1, 1))

    def relu(theta, norm):
        return norm * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)

    value = (1 + slope**2) * relu(theta, norm) - 2 * slope * relu(np.pi - theta, norm)
    return value, ((1 + slope**2) * (np.pi - theta) + 2 * slope * theta) / (2 * np.pi)


def gaussian_density(x):
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def quadrature(fn, derivative):
    """The same of any smooth activation, by the trapezoidal rule in two dimensions."""
    nodes = np.linspace(-9, 9, 181)
    weights = gaussian_density(nodes) * 0.1

    def moments(uv, uu, vv):
        a = np.sqrt(uu)
        b, c = uv / a, np.sqrt(np.maximum(vv - (uv / a) ** 2, 0))
        u, v = a[..., None, None] * nodes[:, None], b[..., None, None] * nodes[:, None] + c[..., None, None] * nodes
        w = weights[:, None] * weights
        return tuple((f(u) * f(v) * w).sum((-2, -1)) for f in (fn, derivative))

    return moments


ACTIVATIONS = {
    "Relu": ((), arc_cosine),
    "LeakyRelu": ((0.2,), lambda *k: arc_cosine(*k, slope=0.2)),
    "Erf": ((), quadrature(scipy.special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2)))),
    "Gelu": (
        (),
        quadrature(lambda x: x * scipy.special.ndtr(x), lambda x: scipy.special.ndtr(x) + x * gaussian_density(x)),
    ),
    "Sin": ((), quadrature(np.sin, np.cos)),
    "Cos": ((), quadrature(np.cos, lambda x: -np.sin(x))),
    "ElementwiseNumerical": ((jnp.tanh, 100), quadrature(np.tanh, lambda x: 1 / np.cosh(x) ** 2)),
}


@pytest.mark.filterwarnings("ignore:Numerical Activation Layer:UserWarning")
@pytest.mark.filterwarnings("ignore:Using JAX autodiff:UserWarning")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dense_kernels(stax, name):
    args, moments = ACTIVATIONS[name]
    dense = stax.Dense(1, W_STD, B_STD)
    layers = [dense, getattr(stax, name)(*args), dense, getattr(stax, name)(*args), dense]
    _, _, kernel_fn = stax.serial(*layers)
    x, z = normal(4, 5), normal(3, 5, seed=1)
    kernel = jax.jit(lambda x, z: kernel_fn(x, z, ("nngp", "ntk")))(x, z)

    def affine(k):
        return W_STD**2 * k + B_STD**2

    uv, uu, vv = (affine(k) for k in (x @ z.T / 5, (x**2).mean(1)[:, None], (z**2).mean(1)[None]))
    ntk = uv
    for _ in range(2):
        value, slope = moments(*np.broadcast_arrays(uv, uu, vv))
        ntk = affine(value) + W_STD**2 * ntk * slope
        uv, uu, vv = affine(value), affine(moments(uu, uu, uu)[0]), affine(moments(vv, vv, vv)[0])
    rtol = 1e-5 if name == "ElementwiseNumerical" else 1e-9
    close(kernel.nngp, uv, rtol)
    close(kernel.ntk, ntk, rtol)


@pytest.mark.parametrize("readout", ["Flatten", "GlobalAvgPool"])
def test_convolutional_kernels(stax, readout):
    _, _, kernel_fn = stax.serial(
        stax.Conv(1, (3, 3), padding="SAME", W_std=W_STD, b_std=B_STD),
        stax.Relu(),
        getattr(stax, readout)(),
        stax.Dense(1, W_STD, B_STD),
    )
    x, z = normal(3, 4, 4, 2), normal(2, 4, 4, 2, seed=1)
    kernel = jax.jit(lambda x, z: kernel_fn(x, z, ("nngp", "ntk")))(x, z)

    def patches(images):
        padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows = [padded[:, i : i + 3, j : j + 3].reshape(len(images), -1) for i in range(4) for j in range(4)]
        return np.stack(rows, 1)  # (images, pixels, patch)

    def covariance(a, b):
        return W_STD**2 * np.einsum("ipc,jqc->ijpq", a, b) / 18 + B_STD**2

    px, pz = patches(x), patches(z)
    uu = W_STD**2 * (px**2).mean(-1)[:, None, :, None] + B_STD**2
    vv = W_STD**2 * (pz**2).mean(-1)[None, :, None, :] + B_STD**2
    uv = covariance(px, pz)
    value, slope = arc_cosine(uv, uu, vv)
    if readout == "Flatten":
        pool = lambda k: np.einsum("ijpp->ij", k) / 16  # noqa: E731
    else:
        pool = lambda k: k.mean((2, 3))  # noqa: E731
    nngp = W_STD**2 * pool(value) + B_STD**2
    close(kernel.nngp, nngp)
    close(kernel.ntk, nngp + W_STD**2 * pool(uv * slope))


@pytest.mark.filterwarnings("ignore:Linear scaling attention used:UserWarning")
def test_attention_under_jit_and_after(stax):
    _, _, kernel_fn = stax.serial(
        stax.GlobalSelfAttention(1, 1, 1, 1, linear_scaling=True, attention_mechanism="IDENTITY", pos_emb_type="SUM"),
        stax.GlobalAvgPool(),
        stax.Dense(1),
    )
    x = normal(2, 3, 4)
    # Its cached positional embedding must not be a tracer.
    close(jax.jit(lambda x: kernel_fn(x, None, "ntk"))(x), kernel_fn(x, None, "ntk"))


@pytest.mark.parametrize("device_count", [0, -1])
def test_batch(nt, stax, device_count):
    kernel_fn = mlp(stax)[2]
    x, z = normal(6, 5), normal(4, 5, seed=1)
    batched = nt.batch(kernel_fn, batch_size=2, device_count=device_count, store_on_device=False)
    close(batched(x, z, "ntk"), kernel_fn(x, z, "ntk"))
    close(batched(x, None, ("nngp", "ntk")).nngp, kernel_fn(x, None, "nngp"))


def test_kernel_under_transformations(stax):
    kernel_fn = mlp(stax)[2]
    x, z = jnp.asarray(normal(4, 5)), normal(3, 5, seed=1)

    def row(x):
        return kernel_fn(x[None], z, "ntk")[0]

    direction, step = normal(5, seed=2), 1e-5
    slope = jax.jit(jax.vmap(jax.jacobian(row)))(x) @ direction
    close(slope, [(row(a + step * direction) - row(a - step * direction)) / (2 * step) for a in x], 1e-8)


# --- Predictions --------------------------------------------------------------------------------------------


def test_predict_ensemble(nt, stax):
    kernel_fn = mlp(stax)[2]
    x, z, y = normal(6, 5), normal(4, 5, seed=1), normal(6, 2, seed=2)
    predict = nt.predict.gradient_descent_mse_ensemble(kernel_fn, x, y, diag_reg=1e-3, diag_reg_absolute_scale=True)
    train = np.asarray(kernel_fn(x, None, "ntk")) + 1e-3 * np.eye(6)
    test = np.asarray(kernel_fn(z, x, "ntk"))
    close(predict(x_test=z, get="ntk"), test @ np.linalg.solve(train, y), 1e-8)

    values, vectors = np.linalg.eigh(train)
    decay = vectors * (-np.expm1(-values * 5.0 / y.size) / values) @ vectors.T
    both = predict(t=5.0, x_test=z, get=("nngp", "ntk"), compute_cov=True)
    close(both.ntk.mean, test @ decay @ y, 1e-8)
    assert both.nngp.covariance.shape == (4, 4)


@pytest.mark.parametrize("t", [None, 2.0])
def test_predict_under_jit_and_after(nt, stax, t):
    kernel_fn = mlp(stax)[2]
    x, z, y = normal(6, 5), normal(4, 5, seed=1), normal(6, 2, seed=2)
    predict = nt.predict.gradient_descent_mse(kernel_fn(x, None, "ntk"), y)

    def test_values(z):
        return predict(t, jnp.zeros((6, 2)), jnp.zeros((4, 2)), kernel_fn(z, x, "ntk"))[1]

    # The factorisation it caches must not be a tracer.
    close(jax.jit(test_values)(z), test_values(z), 1e-8)


def test_predict_of_traced_kernels(nt, stax):
    kernel_fn = mlp(stax)[2]
    x, z, y = normal(6, 5), normal(4, 5, seed=1), normal(6, 2, seed=2)

    def test_values(x):
        predict = nt.predict.gradient_descent_mse_ensemble(kernel_fn, x, y, diag_reg=1e-3)
        return predict(x_test=z, get="ntk")

    close(jax.jit(test_values)(x), test_values(x), 1e-8)


def test_max_learning_rate(nt, stax):
    kernel = mlp(stax)[2](normal(6, 5), None, "ntk")
    close(nt.predict.max_learning_rate(kernel, 12, eps=0.0), 24 / np.linalg.eigvalsh(kernel)[-1])


# --- Networks of finite width -------------------------------------------------------------------------------


def explicit_ntk(f, params, x, z):
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    jacobian = jax.jit(jax.jacobian(lambda flat, x: f(unravel(flat), x)))
    jacobians = jacobian(flat, x), jacobian(flat, z)
    return np.einsum("iap,jbp->ijab", *jacobians)


def own_network(params, x):
    """Nested `jit`, a custom derivative, `vmap`, a loop, and a parameter used twice."""
    hidden = jax.jit(jax.nn.silu)(x @ params["in"])
    hidden = jax.lax.fori_loop(0, 2, lambda _, h: jnp.tanh(h @ params["loop"]), hidden)
    hidden = jax.vmap(lambda h: jax.nn.relu(params["loop"] @ h))(hidden)
    return jax.nn.log_softmax(hidden @ params["out"] + params["bias"][None])


def finite_networks(stax):
    key = jax.random.key(0)
    x, z = normal(3, 5), normal(2, 5, seed=1)
    init_fn, apply_fn, _ = mlp(stax)
    yield apply_fn, init_fn(key, x.shape)[1], x, z

    params = {"in": normal(5, 4), "loop": normal(4, 4), "out": normal(4, 3), "bias": normal(3)}
    yield own_network, jax.tree.map(jnp.asarray, params), x, z

    images = normal(3, 6, 6, 2), normal(2, 6, 6, 2, seed=1)
    convolution = stax.serial(
        stax.Conv(4, (3, 3), padding="VALID"),
        stax.Gelu(),
        stax.AvgPool((2, 2)),
        stax.GlobalAvgPool(),
        stax.LayerNorm(),
        stax.Dense(2),
    )
    yield convolution[1], convolution[0](key, images[0].shape)[1], *images


@pytest.mark.parametrize("network", range(3), ids=["dense", "own", "convolution"])
def test_empirical_ntk_implementations(nt, stax, network):
    f, params, x, z = next(itertools.islice(finite_networks(stax), network, None))
    expected = explicit_ntk(f, params, x, z)
    for implementation in (1, 2, 3):
        kernel_fn = nt.empirical_ntk_fn(f, trace_axes=(), vmap_axes=0, implementation=implementation)
        close(jax.jit(kernel_fn)(x, z, params), expected)


def small_network(params, x):
    return jnp.tanh(x @ params["in"]) @ params["out"], jnp.ones((len(x), 2))


SMALL = {"in": normal(5, 4), "out": normal(4, 3)}


@pytest.mark.parametrize("implementation", [0, 1, 2, 3])
def test_empirical_ntk_outputs(nt, implementation):
    x, z = normal(3, 5), normal(2, 5, seed=1)
    kernel, zero = nt.empirical_ntk_fn(small_network, implementation=implementation)(x, z, SMALL)
    expected = explicit_ntk(lambda p, x: small_network(p, x)[0], SMALL, x, z)
    close(kernel, np.einsum("ijaa->ij", expected) / 3)
    close(zero, np.zeros((3, 2)))


@pytest.mark.parametrize(
    "options",
    [{"_j_rules": False}, {"_s_rules": False, "_j_rules": False, "_fwd": True}],
)
def test_structured_derivatives_without_rules(nt, stax, options):
    f, params, x, z = next(finite_networks(stax))
    kernel_fn = nt.empirical_ntk_fn(f, trace_axes=(), implementation=3, **options)
    close(jax.jit(kernel_fn)(x, z, params), explicit_ntk(f, params, x, z))


def test_structured_derivatives_fail_alone(nt, monkeypatch):
    x = normal(3, 5)
    expected = nt.empirical_ntk_fn(small_network)(x, None, SMALL)[0]

    def broken(*_, **__):
        raise TypeError("JAX has changed")

    monkeypatch.setattr(sys.modules["neural_tangents._src.utils.rules"], "get_structure_cache", broken)
    for implementation in (0, 1, 2):
        kernel_fn = nt.empirical_ntk_fn(small_network, implementation=implementation)
        close(kernel_fn(x, None, SMALL)[0], expected)
    message = rf"neural-tangents .* and JAX {jax.__version__}; use implementation 1 or 2.*JAX has changed"
    with pytest.raises(StructuredDerivativesError, match=message):
        nt.empirical_ntk_fn(small_network, implementation=3)(x, None, SMALL)


def test_equations_known_beforehand_are_evaluated():
    weights = np.arange(1.0, 4.0)
    closed = jax.make_jaxpr(lambda x: x * jnp.sin(weights))(weights)
    assert [str(equation.primitive) for equation in closed.jaxpr.eqns] == ["sin", "mul"]
    jaxpr, constants = _without_known_equations(closed)
    assert [str(equation.primitive) for equation in jaxpr.eqns] == ["mul"]
    close(constants[-1], np.sin(weights))


def test_monte_carlo(nt, stax):
    init_fn, apply_fn, kernel_fn = mlp(stax, width=128, outputs=1)
    x, z = normal(4, 5), normal(3, 5, seed=1)
    sampled = nt.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(0), 50, vmap_axes=0)(x, z, "ntk")
    exact = kernel_fn(x, z, "ntk")
    assert np.linalg.norm(sampled - exact) < 0.05 * np.linalg.norm(exact)


def test_linearize_and_taylor(nt, stax):
    f, params, x, _ = next(finite_networks(stax))
    step = jax.tree.map(lambda w: 1e-2 * jnp.ones_like(w), params)
    moved = jax.tree.map(jnp.add, params, step)

    @jax.jit
    def slope_at(params):
        return jax.jvp(lambda p: f(p, x), (params,), (step,))[1]

    value, slope = f(params, x), slope_at(params)
    bend = jax.jvp(slope_at, (params,), (step,))[1]
    close(jax.jit(nt.linearize(f, params))(moved, x), value + slope)
    close(jax.jit(nt.taylor_expand(f, params, 2))(moved, x), value + slope + bend / 2)


# --- What importing it does ---------------------------------------------------------------------------------

UNPATCHED = """
    import sys, warnings
    import jax, jax.core, jax.example_libraries.stax, jax.flatten_util, jax.interpreters.ad
    import kpoison, kpoison.kernels, kpoison.kernels._neural_tangents as adapter
    assert not any(name.startswith("neural_tangents") for name in sys.modules)

    owners = jax, jax.core, jax.interpreters.ad, jax.numpy
    before = [dict(vars(owner)) for owner in owners]
    warnings.simplefilter("error")
    nt = adapter.load_neural_tangents()
    assert nt is sys.modules["neural_tangents"] is adapter.load_neural_tangents()
    assert [dict(vars(owner)) for owner in owners] == before
    assert "jax.util" not in sys.modules and not hasattr(jax, "util")
    assert not {"tensorflow", "tf2jax", "neural_tangents.experimental"} & set(sys.modules)
"""


def test_lazy_and_jax_unpatched():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(UNPATCHED)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def unloaded(monkeypatch):
    """As if neural-tangents had not been imported; afterwards, as it was."""
    for name in [name for name in sys.modules if name.split(".")[0] == "neural_tangents"]:
        monkeypatch.delitem(sys.modules, name)
    return monkeypatch


def test_not_installed(unloaded):
    unloaded.setitem(sys.modules, "neural_tangents", None)
    with pytest.raises(ImportError, match=r"kpoison\[neural-tangents\]"):
        load_neural_tangents()


class Refusing(importlib.abc.MetaPathFinder):
    """Fails the import of one module."""

    def __init__(self, refused):
        self.refused = refused

    def find_spec(self, fullname, path, target=None):
        if fullname == self.refused:
            raise AttributeError("JAX has changed")


def test_failing_import(unloaded):
    owners = jax.core, ad
    before = [dict(vars(owner)) for owner in owners]
    # Late in the import, when names have been lent and half of its modules are there.
    unloaded.setattr(sys, "meta_path", [Refusing("neural_tangents._src.monte_carlo"), *sys.meta_path])
    with pytest.raises(ImportError, match=rf"neural-tangents \S+ and JAX {jax.__version__} .*JAX has changed"):
        load_neural_tangents()
    assert [dict(vars(owner)) for owner in owners] == before
    assert "jax.util" not in sys.modules
    assert not any(name.startswith("neural_tangents") for name in sys.modules)
