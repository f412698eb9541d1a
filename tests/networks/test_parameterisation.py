"""Finite-width networks: their parameterisation, against neural-tangents and against the kernel of infinite width."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wide_networks import numpy_ntk

from kpoison.kernels import NTK
from kpoison.kernels._neural_tangents import load_neural_tangents
from kpoison.networks import (
    Architecture,
)


@pytest.mark.parametrize(
    ("activation", "hidden_layers", "bias_std", "outputs"),
    [(name, 3, 0.7, 2) for name in ("relu", "leaky_relu", "erf", "gelu", "sin", "cos")] + [("relu", 1, 0.0, None)],
)
def test_equals_the_network_of_neural_tangents(activation, hidden_layers, bias_std, outputs):
    stax = load_neural_tangents().stax
    layer = {
        "relu": stax.Relu(),
        "leaky_relu": stax.LeakyRelu(0.01),
        "erf": stax.Erf(),
        "gelu": stax.Gelu(),
        "sin": stax.Sin(),
        "cos": stax.Cos(),
    }[activation]
    hidden = [stax.Dense(16, 1.3, bias_std), layer] * hidden_layers
    _, apply, _ = stax.serial(*hidden, stax.Dense(outputs or 1, 1.3, bias_std))
    architecture = Architecture(16, hidden_layers, activation, 1.3, bias_std, rounding=0)
    network = architecture.initialise(jax.random.key(0), 5, outputs)
    X = np.random.default_rng(0).standard_normal((7, 5))
    weights, biases = network.parameters
    theirs = []
    for index, weight in enumerate(weights):
        theirs += [(weight.T, biases[index][None] if biases else jnp.zeros((1, len(weight)))), ()]
    expected = apply(theirs[:-1], X).reshape(network.outputs(X).shape)
    np.testing.assert_allclose(network.outputs(X), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(network)(X), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", [pytest.param("relu", marks=pytest.mark.slow), "erf"])
def test_empirical_ntk_tends_to_the_kernel(activation):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((3, 4))
    expected = np.array([[numpy_ntk(activation, a, b) for b in X] for a in X])
    np.testing.assert_allclose(NTK(1, activation)(X), expected, rtol=1e-9)

    def gram(key):
        network = Architecture(4096, 1, activation).initialise(key, 4)
        gradients = jax.vmap(lambda x: eqx.filter_grad(lambda net: net(x))(network))(X)
        flat = jnp.concatenate([leaf.reshape(3, -1) for leaf in jax.tree.leaves(gradients.parameters)], axis=1)
        return flat @ flat.T

    found = jax.lax.map(gram, jax.random.split(jax.random.key(0), 16))
    error = np.std(found, axis=0) / 4
    assert np.all(np.abs(np.mean(found, axis=0) - expected) < 4 * error)
    assert np.all(error < 0.02 * np.abs(expected).max())


@pytest.mark.slow
def test_parameters_are_standard_normal():
    weights, biases = Architecture(512, 2, bias_std=0.1).initialise(jax.random.key(2), 300).parameters
    for parameter in (*weights[:2], jnp.concatenate([weights[2][0], *biases])):
        assert abs(float(jnp.mean(parameter))) < 5 / parameter.size**0.5
        assert abs(float(jnp.var(parameter)) - 1) < 8 / parameter.size**0.5
    assert Architecture(512, 2).initialise(jax.random.key(2), 300).parameters.biases == ()


def test_matches_a_kernel():
    kernel = NTK(3, "gelu", weight_std=1.1, bias_std=0.2)
    architecture = Architecture.matching(kernel, 64)
    assert (architecture.hidden_layers, architecture.width) == (3, 64)
    assert (architecture.weight_std, architecture.bias_std) == (1.1, 0.2)
    assert architecture.activation is kernel.activation


def test_rounding_is_local_and_smooth():
    u = jnp.linspace(-1, 1, 2001)
    for name, slope in (("relu", 0.0), ("leaky_relu", 0.01)):
        exact = Architecture(100, activation=name, rounding=0).activate(u)
        rounded = Architecture(100, activation=name, rounding=0.5).activate
        outside = jnp.abs(u) >= 0.05
        np.testing.assert_allclose(rounded(u)[outside], exact[outside], atol=1e-15)
        assert float(jnp.max(jnp.abs(rounded(u) - exact))) <= 0.05 / 4 + 1e-12
        slopes = jax.vmap(jax.grad(lambda v, f=rounded: f(v)))(u)
        assert float(jnp.min(slopes)) >= slope
        assert float(jnp.max(jnp.abs(jnp.diff(slopes)))) < 0.02


def test_any_elementwise_function_is_an_activation():
    network = Architecture(8, 1, lambda u: u / jnp.sqrt(1 + u**2)).initialise(jax.random.key(0), 3)
    assert network(jnp.ones(3)).shape == ()
