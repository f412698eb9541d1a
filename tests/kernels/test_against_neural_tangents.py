"""Gram matrices and derivatives against neural-tangents, the reference implementation of NNGP and NTK."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from catalogue import ACTIVATIONS
from covering import pairwise

from kpoison import kernels as kk
from kpoison.kernels._neural_tangents import load_neural_tangents

AGREEMENT = 1e-10  # what the project promises
STDS = [(1.4, 0.0), (1.1, 0.3), (2.0, 1.0)]
RNG = np.random.default_rng(0)
X1, X2 = jnp.asarray(RNG.normal(size=(5, 4))), jnp.asarray(RNG.normal(size=(6, 4)))


@pytest.fixture(scope="module")
def stax():
    return load_neural_tangents().stax


def peer(stax, activation, depth, weight_std, bias_std):
    """The network's kernel function there."""
    layer = {
        "relu": stax.Relu(),
        "leaky_relu": stax.LeakyRelu(ACTIVATIONS["leaky_relu"].slope),
        "erf": stax.Erf(),
        "gelu": stax.Gelu(),
        "sin": stax.Sin(),
        "cos": stax.Cos(),
    }[activation]
    hidden = [stax.Dense(1, weight_std, bias_std), layer] * depth
    return stax.serial(*hidden, stax.Dense(1, weight_std, bias_std))[2]


EVERY_PAIR = [
    pytest.param(*case, marks=[pytest.mark.slow] if case[1] > 1 else [])
    for case in pairwise(ACTIVATIONS, (1, 2, 3), STDS)
]


@pytest.mark.parametrize(("activation", "depth", "stds"), EVERY_PAIR)
def test_gram_matrices(stax, activation, depth, stds):
    weight_std, bias_std = stds
    kernel_fn = peer(stax, activation, depth, weight_std, bias_std)
    theirs = kernel_fn(X1, X2, ("nngp", "ntk")), kernel_fn(X1, None, ("nngp", "ntk"))
    for kind, get in ((kk.NNGP, "nngp"), (kk.NTK, "ntk")):
        kernel = kind(depth, ACTIVATIONS[activation], weight_std, bias_std)
        cross, symmetric = (getattr(gram, get) for gram in theirs)
        np.testing.assert_allclose(kernel(X1, X2), cross, rtol=AGREEMENT)
        np.testing.assert_allclose(kernel(X1), symmetric, rtol=AGREEMENT)


@pytest.mark.parametrize(("get", "kind"), [("nngp", kk.NNGP), ("ntk", kk.NTK)])
def test_names_and_defaults_are_theirs(stax, get, kind):
    """weight_std √2 and no biases, ReLU, one hidden layer: the documented defaults, and LeakyReLU's slope 0.01."""
    np.testing.assert_allclose(kind()(X1, X2), peer(stax, "relu", 1, 2**0.5, 0.0)(X1, X2, get), rtol=AGREEMENT)
    leaky = stax.serial(stax.Dense(1, 2**0.5, 0.0), stax.LeakyRelu(0.01), stax.Dense(1, 2**0.5, 0.0))[2]
    np.testing.assert_allclose(kind(1, "leaky_relu")(X1, X2), leaky(X1, X2, get), rtol=AGREEMENT)


@pytest.mark.parametrize(("get", "kind"), [("nngp", kk.NNGP), ("ntk", kk.NTK)])
def test_from_stax_is_the_same_kernel(stax, get, kind):
    ours, theirs = kind(2, "erf", 1.1, 0.3), kk.from_stax(peer(stax, "erf", 2, 1.1, 0.3), get=get)
    np.testing.assert_allclose(theirs(X1, X2), ours(X1, X2), rtol=AGREEMENT)
    np.testing.assert_allclose(theirs(X1), ours(X1), rtol=AGREEMENT)
    assert float(theirs.evaluate(X1[0], X2[0])) == pytest.approx(float(ours.evaluate(X1[0], X2[0])), rel=AGREEMENT)
    assert (theirs.smoothness, theirs.point_ndim) == (0, 1)


def gradient_and_hessian(function):
    """Both derivatives in the first argument, from one pass."""

    def twice(x, z):
        gradient = jax.grad(function)(x, z)
        return gradient, gradient

    def both(x, z):
        hessian, gradient = jax.jacfwd(twice, has_aux=True)(x, z)
        return gradient, hessian

    return both


@pytest.mark.slow
def test_near_the_diagonal_ours_is_right_and_theirs_is_not(stax):
    """At r = 1e-6 an arc-cosine recursion has lost the angle; its second derivative at 1e-9 is 100 % wrong."""
    zeta = np.array([0.75, -1.25, 0.5])
    across = np.array([0.48, 0.36, 0.8])
    ours, kernel_fn = kk.NTK(1, "relu", 2**0.5, 0.0), peer(stax, "relu", 1, 2**0.5, 0.0)

    def theirs(x, z):
        return kernel_fn(x[None], z[None], "ntk")[0, 0]

    distances = (1e-6, 1e-9)
    points = np.stack([zeta + r * across for r in distances])
    exact = [oracles.jet(ours, x, zeta) for x in points]
    errors = {}
    for name, function in (("ours", ours.evaluate), ("theirs", theirs)):
        both = jax.jit(jax.vmap(gradient_and_hessian(function), (0, None)))
        gradients, hessians = both(jnp.asarray(points), jnp.asarray(zeta))
        for r, gradient, hessian, (_, *jet) in zip(distances, gradients, hessians, exact, strict=True):
            errors[name, r] = [oracles.relative_error(*pair) for pair in zip((gradient, hessian), jet, strict=True)]
    for r in distances:
        assert max(errors["ours", r]) < AGREEMENT
    assert errors["theirs", 1e-6][0] > 1e-6
    assert errors["theirs", 1e-6][1] > 1e-6
    assert errors["theirs", 1e-9][1] > 0.99
