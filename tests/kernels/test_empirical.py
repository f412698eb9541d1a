"""The empirical NTK against explicit Jacobians, neural-tangents, the infinite width, and refits of the laws."""

import inspect

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.kernels import empirical_ntk
from kpoison.kernels._neural_tangents import load_neural_tangents
from kpoison.networks import Architecture, train

RNG = np.random.default_rng(0)
X1, X2 = jnp.asarray(RNG.normal(size=(7, 5))), jnp.asarray(RNG.normal(size=(4, 5)))


def network(outputs=None, width=8, activation="erf", seed=0):
    return Architecture(width, 2, activation, 1.3, 0.2).initialise(jax.random.key(seed), 5, outputs, jnp.float64)


def explicit(module, pick, X1, X2):
    """The mean over outputs of J(x)·J(z), from whole Jacobians of one flat vector of parameters."""
    flat, unravel = jax.flatten_util.ravel_pytree(pick(module))

    def outputs(flat, x):
        return jnp.atleast_1d(eqx.tree_at(pick, module, unravel(flat))(x))

    jacobian = jax.jit(jax.vmap(jax.jacfwd(outputs), (None, 0)))
    first, second = np.asarray(jacobian(flat, X1)), np.asarray(jacobian(flat, X2))
    return np.einsum("icp,jcp->ij", first, second) / first.shape[1]


def whole(network):
    return network.parameters


def last_layer(network):
    return network.parameters.weights[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outputs", "pick"), [(None, None), pytest.param(3, None, marks=pytest.mark.slow), (3, whole), (3, last_layer)]
)
def test_explicit_jacobians(outputs, pick):
    module = network(outputs)
    expected = [explicit(module, pick or whole, X1, X) for X in (X1, X2)]
    for memory in (None, 30_000):  # all at once, and in blocks
        kernel = empirical_ntk(module, pick, memory=memory)
        if memory is not None and pick is None:
            assert kernel.pairs_at_once((5,)) < 3
        np.testing.assert_allclose(kernel(X1), expected[0], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(kernel(X1, X2), expected[1], rtol=1e-12, atol=1e-13)
        np.testing.assert_array_equal(kernel(X1), kernel(X1).T)
    np.testing.assert_allclose(kernel.diagonal(X1), np.diag(expected[0]), rtol=1e-12)
    np.testing.assert_allclose(kernel.evaluate(X1[1], X2[2]), expected[1][1, 2], rtol=1e-12)


def dense(stax):
    layers = [stax.Dense(9, 1.3, 0.2), stax.Relu(), stax.Dense(6, 1.3, 0.2), stax.Erf(), stax.Dense(2)]
    return stax.serial(*layers), (5,)


def convolutional(stax):
    layers = [stax.Conv(4, (3, 3), padding="VALID"), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(2)]
    return stax.serial(*layers), (6, 6, 2)


@pytest.mark.slow
@pytest.mark.parametrize("make", [dense, convolutional])
def test_neural_tangents(make):
    nt = load_neural_tangents()
    (init_fn, apply_fn, _), shape = make(nt.stax)
    x, z = (jnp.asarray(RNG.normal(size=(n, *shape))) for n in (4, 3))
    _, parameters = init_fn(jax.random.key(1), x.shape)
    kernel = empirical_ntk(apply_fn, parameters, point_ndim=len(shape))
    for implementation in (0, 1, 2, 3):
        kernel_fn = jax.jit(nt.empirical_ntk_fn(apply_fn, vmap_axes=0, implementation=implementation))
        np.testing.assert_allclose(kernel(x, z), kernel_fn(x, z, parameters), rtol=1e-10)
    np.testing.assert_allclose(kernel(x), kernel_fn(x, None, parameters), rtol=1e-10)


@pytest.mark.slow
def test_infinite_width():
    limit = kp.kernels.NTK(2, "erf", 1.3, 0.2)(X1)
    errors = [
        np.mean([np.linalg.norm(empirical_ntk(network(2, width, seed=seed))(X1) - limit) for seed in range(4)])
        for width in (64, 1024)
    ]
    errors /= np.linalg.norm(limit)
    assert errors[1] < 3 / 1024**0.5  # every layer adds a fluctuation of this order
    assert 2 < errors[0] / errors[1] < 8  # √16 = 4


@pytest.fixture(scope="module")
def trained():
    """A network trained on labels, its kernel, and a poison near one of its points."""
    y = jnp.sign(X1[:, 0])
    module = train(network(), X1, y, ridge=1e-2).final
    return module, empirical_ntk(module), y, kp.Poison(X1[0] + 0.3, -y[0], 3.0)


@pytest.mark.slow
def test_the_laws_hold_for_the_kernel_of_a_trained_network(trained):
    """Against a refit in NumPy with every clone a point of its own, and the explicit kernel."""
    module, kernel, y, poison = trained
    start = network()
    assert np.abs(explicit(module, whole, X1, X1) - explicit(start, whole, X1, X1)).max() > 1e-2  # training moved it
    ridge, count = 1e-2, 3
    probes = X2
    zeta = jnp.asarray(poison.location).reshape(1, -1)
    everything = jnp.concatenate([X1, jnp.repeat(zeta, count, axis=0)])
    labels = np.concatenate([y, np.full(count, float(jnp.ravel(poison.label)[0]))])
    n = len(everything)

    def fitted(points, targets):
        gram = explicit(module, whole, points, points)
        return np.linalg.solve(gram + n * ridge * np.eye(len(points)), targets)

    dirty, clean = fitted(everything, labels), fitted(X1, np.asarray(y))

    def change(x):
        return explicit(module, whole, x, everything) @ dirty - explicit(module, whole, x, X1) @ clean

    posterior = kp.fit(kernel, X1, y)
    np.testing.assert_allclose(kp.efficacy(posterior, poison, probes, ridge), change(probes), rtol=1e-8)
    steps = 1e-5 * jnp.eye(5)
    slopes = np.stack([(change(probes + step) - change(probes - step)) / 2e-5 for step in steps[:, None]], 1)
    np.testing.assert_allclose(kp.spike(posterior, poison, probes, ridge), (slopes**2).sum(1), rtol=1e-6)
    residual = labels[-1] - explicit(module, whole, zeta, X1) @ clean
    np.testing.assert_allclose(kp.gain(posterior, poison, ridge), dirty[-count:].sum() / residual[0], rtol=1e-8)


@pytest.mark.slow
def test_transformations(trained):
    _, kernel, _, _ = trained
    x, z, direction = X1[0], X2[0], X2[1]
    expected = (kernel.evaluate(x + 1e-5 * direction, z) - kernel.evaluate(x - 1e-5 * direction, z)) / 2e-5
    slope = jax.jit(jax.grad(kernel.evaluate))(x, z)
    np.testing.assert_allclose(slope @ direction, expected, rtol=1e-8)
    rows = jax.jit(jax.vmap(lambda x: jax.vmap(lambda z: kernel.evaluate(x, z))(X2)))(X1)
    np.testing.assert_allclose(rows, kernel(X1, X2), rtol=1e-12)
    basis = jnp.asarray(RNG.normal(size=(7, 2)))
    expected = jax.jacfwd(lambda x: kernel(x[None], X1)[0] @ basis)(z)
    np.testing.assert_allclose(kernel.gradient_products(z, X1, basis), expected, rtol=1e-10)

    small = empirical_ntk(trained[0], memory=30_000)
    move = jax.tree.map(jnp.ones_like, kernel.parameters)

    @eqx.filter_jit
    def total(step, kernel):
        moved = jax.tree.map(lambda p, m: p + step * m, kernel.parameters, move)
        return jnp.sum(eqx.tree_at(lambda k: k.parameters, kernel, moved)(X1) * jnp.cos(jnp.arange(49.0).reshape(7, 7)))

    for each in (kernel, small):
        slope = (total(1e-5, each) - total(-1e-5, each)) / 2e-5
        np.testing.assert_allclose(jax.grad(total)(0.0, each), slope, rtol=1e-7)


@pytest.mark.slow
def test_float32():
    kernel = empirical_ntk(network(2))
    rounded = kernel(X1.astype(jnp.float32), X2.astype(jnp.float32))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, kernel(X1, X2), rtol=1e-5, atol=1e-6)


class Scaling(eqx.Module):
    """With arrays that are no parameters, some of NumPy."""

    weight: jax.Array
    places: np.ndarray

    def __call__(self, x):
        return jnp.sum(self.weight * x[self.places])


def test_arrays_that_are_no_parameters():
    kernel = empirical_ntk(Scaling(jnp.ones(3), np.array([4, 0, 2])))
    np.testing.assert_allclose(kernel(X1, X2), X1[:, [4, 0, 2]] @ X2[:, [4, 0, 2]].T, rtol=1e-12)


@pytest.mark.slow
def test_memory(monkeypatch):
    module = network(3, width=64)
    kernel = empirical_ntk(module, memory=4 * 10**6)
    program = jax.jit(lambda X: kernel.gram(X, X + 1)).lower(jax.ShapeDtypeStruct((200, 5), jnp.float64)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * 10**6 + 4 * 200 * 200 * 8
    with pytest.raises(ValueError, match=r"the Jacobian at one point of shape \(5,\) takes .* 9.77 KiB are allowed"):
        empirical_ntk(module, memory=10_000)(X1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: inspect.unwrap(empirical_ntk)("net"), TypeError, "network must be callable, got str"),
        (lambda: empirical_ntk(lambda x: x), TypeError, "parameters must be given as a pytree of arrays"),
        (lambda: empirical_ntk(lambda p, x: x, lambda n: n), TypeError, "no Equinox module, got a function as network"),
        (lambda: empirical_ntk(lambda p, x: x, {}), ValueError, "no floating-point parameters"),
        (lambda: empirical_ntk(lambda p, x: x, [np.arange(3)]), ValueError, "no floating-point parameters"),
        (lambda: empirical_ntk(lambda p, x: x, np.array([1.0, np.nan])), ValueError, "parameters, array 0, .* finite"),
        (lambda: empirical_ntk(network(), point_ndim=0), ValueError, "point_ndim must be an integer >= 1"),
        (lambda: empirical_ntk(network(), smoothness=-1), ValueError, "smoothness must be"),
        (lambda: empirical_ntk(network(), memory=0), ValueError, "memory must be an integer >= 1"),
        (lambda: empirical_ntk(network()).evaluate(X1, X1), ValueError, r"one point of 1 axes .* got shape \(7, 5\)"),
        (
            lambda: empirical_ntk(lambda p, x: x[:, None] * p[None], jnp.ones((1, 5)))(X1),
            ValueError,
            r"a vector \(C,\), for one point, got float64 of shape \(1, 5\)",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
