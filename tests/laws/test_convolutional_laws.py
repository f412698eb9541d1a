"""S, Δf and Λ in the kernels of convolutional networks, on real images with a patch trigger, against a refit."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

import kpoison as kp
from kpoison.datasets import load_mnist

AGREEMENT = 1e-8  # what the project promises
RIDGE, COUNT = 1e-3, 7


def assert_laws_are_refits(kernel, images, labels):
    """m copies of the poison against none, both at the same ρ, solved in NumPy."""
    X, y = jnp.asarray(images[:-1]), labels[:-1]
    probe = jnp.asarray(images[-1])
    zeta = kp.poison.Patch(size=2, position=(-3, -3), value=1.0)(probe[None])[0]
    clean = kp.fit(kernel, X, y)
    poison = kp.Poison(zeta, 1.0, COUNT)

    order = np.concatenate([np.arange(len(X)), np.full(COUNT, len(X))])
    points = jnp.concatenate([X, zeta[None]])
    gram = np.asarray(kernel(points))[np.ix_(order, order)]
    targets = np.concatenate([y, np.ones(COUNT)])
    rho = len(order) * RIDGE
    n = len(X)
    alpha = np.linalg.solve(gram + rho * np.eye(len(order)), targets)
    before = np.linalg.solve(gram[:n, :n] + rho * np.eye(n), y)
    change = np.zeros(n + 1)
    np.add.at(change, order, alpha)
    change[:n] -= before
    values = np.asarray(kernel(probe[None], points))[0]
    gradients = np.asarray(kernel.gradients(probe, points)).reshape(n + 1, -1)
    gain = change[n] / (1 - gram[n, :n] @ before)

    assert float(kp.gain(clean, poison, RIDGE)) == pytest.approx(gain, rel=AGREEMENT)
    assert float(kp.efficacy(clean, poison, probe, RIDGE)) == pytest.approx(values @ change, rel=AGREEMENT)
    assert float(kp.spike(clean, poison, probe, RIDGE)) == pytest.approx(
        np.sum((change @ gradients) ** 2), rel=AGREEMENT
    )


def digits(number, size):
    """Cut to size × size pixels."""
    data, low = load_digits(), (8 - size) // 2
    images = data.images[:number, low : low + size, low : low + size, None] / 16.0
    return images, np.where(data.target[:number] < 5, -1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["pool", "flatten"])
def test_small_digits(readout):
    kernel = kp.kernels.ConvolutionalNTK(hidden_layers=1, bias_std=0.1, readout=readout)
    assert_laws_are_refits(kernel, *digits(8, 4))


@pytest.mark.slow
def test_pooling_on_digits():
    assert_laws_are_refits(kp.kernels.ConvolutionalNTK(), *digits(25, 8))


@pytest.mark.slow
def test_flattening_on_mnist(data_dir):
    data = load_mnist(data_dir, "test").subset(range(201))
    images = np.asarray(data.images, np.float64).reshape(201, 28, 28, 1)
    labels = np.where(np.asarray(data.labels) < 5, -1.0, 1.0)
    assert_laws_are_refits(kp.kernels.ConvolutionalNTK(readout="flatten"), images, labels)
