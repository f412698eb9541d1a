"""Convolutional networks in NTK parameterisation: against neural-tangents, trained towards its kernel (N1)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.datasets import load_digits
from kpoison.kernels._neural_tangents import load_neural_tangents
from kpoison.networks import (
    Architecture,
    ConvolutionalArchitecture,
    Training,
    ensemble,
    train,
    train_pair,
    width_errors,
)

DIGITS = load_digits()


def stax_network(width, hidden_layers, activation, weight_std, bias_std, filter_size, readout, outputs=1):
    stax = load_neural_tangents().stax
    act = {"relu": stax.Relu(), "erf": stax.Erf()}[activation]
    size = (filter_size, filter_size)
    hidden = [stax.Conv(width, size, (1, 1), "SAME", weight_std, bias_std), act] * hidden_layers
    pool = stax.Flatten() if readout == "flatten" else stax.GlobalAvgPool()
    return stax.serial(*hidden, pool, stax.Dense(outputs, weight_std, bias_std))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("readout", "bias_std", "outputs", "filter_size"),
    [("flatten", 0.4, 2, 3), ("pool", 0.0, None, 3), ("pool", 0.4, None, 5)],
)
def test_equals_the_network_of_neural_tangents(readout, bias_std, outputs, filter_size):
    options = (2, "erf", 1.3, bias_std)
    _, apply, _ = stax_network(6, *options, filter_size, readout, outputs or 1)
    architecture = ConvolutionalArchitecture(6, *options, filter_size=filter_size, readout=readout)
    network = architecture.initialise(jax.random.key(0), (5, 4, 2), outputs)
    X = np.random.default_rng(0).standard_normal((3, 5, 4, 2))
    (first, second, last), biases = network.parameters
    shifts = [b[None, None, None] for b in biases[:2]] + [b[None] for b in biases[2:]] or [0.0] * 3
    theirs = [(first, shifts[0]), (), (second, shifts[1]), (), (), (last.T, shifts[2])]
    expected = apply(theirs, X)
    np.testing.assert_allclose(network.outputs(X).reshape(3, -1), expected, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(network)(X), network.outputs(X), rtol=1e-12)
    assert network.point_shape == (5, 4, 2)


def problem(points, size, seed=0):
    """Two classes of digits cut to size × size pixels, a poison with a bright corner, and probes beside it."""
    pair = DIGITS.subset(np.flatnonzero(DIGITS.labels < 2)[: points + 3])
    low = (8 - size) // 2
    images = pair.images[:, low : low + size, low : low + size] * 2
    y = np.where(pair.labels == 1, 1.0, -1.0)
    location = images[points].copy()
    location[-2:, -2:] = 2.0
    probes = images[points + 1 :].copy()
    probes[:, -2:, -2:] = 2.0
    return images[:points], y[:points], kp.Poison(location, -float(y[points]), 4.0), probes


@pytest.mark.slow
def test_ensemble_is_train_pair_on_images():
    X, y, poison, x = problem(5, 4)
    architecture = ConvolutionalArchitecture(4, 1, "erf", readout="pool")
    keys = jax.random.split(jax.random.key(1), 2)
    result = ensemble(architecture, keys, X, y, poison, 0.1, x)
    clean, poisoned = train_pair(architecture.initialise(keys[1], (4, 4, 1)), X, y, poison, 0.1)
    np.testing.assert_allclose(result.efficacy[1], poisoned.outputs(x) - clean.outputs(x), rtol=1e-6, atol=1e-9)
    gradient = jax.vmap(jax.grad(lambda p: poisoned(p) - clean(p)))(jnp.asarray(x))
    assert result.gradient.shape == (2, 2, 4, 4, 1)
    np.testing.assert_allclose(result.gradient[1], gradient, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(result.spike[1], jnp.sum(gradient**2, axis=(1, 2, 3)), rtol=1e-5)


@pytest.mark.slow
def test_gradient_penalty_on_images():
    X, y, _, _ = problem(4, 3)
    network = ConvolutionalArchitecture(3, 1, "erf").initialise(jax.random.key(0), (3, 3, 1))

    def energy(result):
        return float(jnp.sum(jax.vmap(jax.grad(result))(jnp.asarray(X)) ** 2))

    strong, weak = (train(network, X, y, 0.1, gradient_penalty=gamma) for gamma in (1.0, 1e-6))
    assert energy(strong) < 0.8 * energy(weak)


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["flatten", pytest.param("pool", marks=pytest.mark.slow)])
def test_the_empirical_ntk_approaches_the_kernel(readout):
    """Over 16 draws: its mean is the kernel, and it scatters about that like width^(−1/2)."""
    X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 4, 1)))
    kernel = kp.kernels.ConvolutionalNTK(2, "relu", 1.4, 0.3, readout=readout)
    limit, scatter = kernel(X), {}
    for width in (16, 256):
        architecture = ConvolutionalArchitecture.matching(kernel, width, rounding=0.0)

        def gram(key, architecture=architecture):
            network = architecture.initialise(key, X.shape[1:])
            return kp.kernels.empirical_ntk(network, point_ndim=3).gram(X, X)

        grams = jax.lax.map(gram, jax.random.split(jax.random.key(0), 16))
        scatter[width] = float(jnp.linalg.norm(grams - limit[None]) / 4 / jnp.linalg.norm(limit))
        standard_error = jnp.std(grams, axis=0, ddof=1) / 4
        assert np.all(np.abs(jnp.mean(grams, axis=0) - limit) < 5 * standard_error)
    assert scatter[256] < 2 / 256**0.5
    assert 2 < scatter[16] / scatter[256] < 8  # √16 = 4


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["pool"])
def test_trained_networks_approach_the_kernel(readout):
    """N1 for convolutions: rmse over seeds falls like width^(−1/2) about the ridge predictor of the infinite width."""
    X, y, poison, x = problem(6, 4)
    ridge, kernel = 0.05, kp.kernels.ConvolutionalNTK(2, "erf", 1.5, 0.1, readout=readout)
    clean = kp.fit(kernel, X, y)
    laws = {"efficacy": kp.efficacy(clean, poison, x, ridge)}
    laws["clean"] = kp.predict(clean, x, ridge, kp.Poison(poison.location, poison.label, 0.0))
    laws["clean"] = kp.predict(clean, x, ridge, poison) - laws["efficacy"]
    architectures = [ConvolutionalArchitecture.matching(kernel, width) for width in (8, 24, 72)]
    # What this tolerance leaves of training is a thousandth of what the width does.
    training = Training(tolerance=1e-6)
    errors = width_errors(
        architectures, jax.random.key(0), (24, 16, 10), X, y, poison, ridge, x,
        laws=laws, batch_size=1, training=training,
    )  # fmt: skip
    for name, found in errors.items():
        law = found.power_law(0.99)
        print(name, readout, found.rmse, law)
        assert law.interval[0] < -0.5 < law.interval[1], (name, law)
        assert law.slope < -0.3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvolutionalArchitecture(4, filter_size=4), "filter_size must be odd, got 4"),
        (lambda: ConvolutionalArchitecture(4, readout="max"), "readout must be one of 'pool', 'flatten'"),
        (lambda: ConvolutionalArchitecture(0), "width must be an integer >= 1"),
        (lambda: ConvolutionalArchitecture(4).initialise(jax.random.key(0), 9), "inputs must be the shape of an image"),
        (lambda: ConvolutionalArchitecture(4).initialise(jax.random.key(0), (3, 0, 1)), "each number of inputs"),
        (lambda: Architecture(4).initialise(jax.random.key(0), (3, 3, 1)), "inputs must be an integer"),
    ],
)
def test_refuses_bad_architectures(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_refuses_points_that_are_not_its_images():
    network = ConvolutionalArchitecture(3).initialise(jax.random.key(0), (3, 3, 1))
    X, y = np.ones((2, 3, 3, 1)), np.ones(2)
    with pytest.raises(ValueError, match=r"X must have shape \(n, 3, 3, 1\), as the network's inputs, got \(2, 3, 4"):
        train(network, np.ones((2, 3, 4, 1)), y, 0.1)
    with pytest.raises(ValueError, match="X must have shape"):
        train(network, X.reshape(2, 9), y, 0.1)
    for kernel in (kp.kernels.RBF(1.0), kp.kernels.NTK()):
        with pytest.raises(TypeError, match="kernel must be a ConvolutionalNTK or a ConvolutionalNNGP, got"):
            ConvolutionalArchitecture.matching(kernel, 8)
