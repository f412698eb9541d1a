"""The kernels that the tests of this folder go through, by name."""

import itertools

import jax.numpy as jnp
import pytest
from covering import pairwise

from kpoison import kernels as kk
from kpoison.kernels.neural import NeuralKernel

CLASSICAL: dict[str, kk.Kernel] = {
    "rbf": kk.RBF(1.3),
    "laplace": kk.Laplace(1.3),
    "matern32": kk.Matern32(1.3),
    "matern52": kk.Matern52(1.3),
    "rational_quadratic": kk.RationalQuadratic(1.3, 0.7),
    "linear": kk.Linear(),
    "polynomial": kk.Polynomial(3, 0.5),
}

KINKED = ("relu", "leaky_relu")
SMOOTH = ("erf", "gelu", "sin", "cos")
ACTIVATIONS: dict[str, kk.Activation] = {
    "relu": kk.ReLU(),
    "leaky_relu": kk.LeakyReLU(0.1),
    "erf": kk.Erf(),
    "gelu": kk.GELU(),
    "sin": kk.Sin(),
    "cos": kk.Cos(),
}

COMPOSITE: dict[str, kk.Kernel] = {
    "sum": kk.RBF(1.3) + kk.Polynomial(2, 0.5),
    "product": kk.Matern52(1.3) * kk.NNGP(1, "erf", 1.4, 0.3),
    "scaled": 2.5 * kk.Matern32(1.3),
    "power": kk.Matern32(1.3) ** 3,
    "shifted": kk.Polynomial(2, 0.5) + 0.7,
}


def networks(*, kinds=("NTK", "NNGP"), activations=tuple(ACTIVATIONS), depths=(2,), biases=(0.0, 0.3), every=True):
    """Kernels of fully connected networks by name: every combination, or enough for every pair of two of its parts."""
    design = itertools.product if every else pairwise
    return {
        f"{kind}-{activation}-{depth}-{'bias' if bias else 'free'}": getattr(kk, kind)(
            depth, ACTIVATIONS[activation], 1.4, bias
        )
        for kind, activation, depth, bias in design(kinds, activations, depths, biases)
    }


DEAR = (
    *("product", "NTK-tanh", "NTK-gelu-1-bias", "NTK-gelu-1-free", "NTK-sin-1-free"),
    *("NTK-leaky_relu-1-free", "NTK-leaky_relu-1-bias", "NNGP-leaky_relu-1-free"),
)


def dear_are_slow(names, *depths: int) -> list:
    """The names as parameters; networks that deep are slow, and what is made of parts that others show."""
    return [
        pytest.param(name, marks=pytest.mark.slow if name in DEAR or any(f"-{d}-" in name for d in depths) else ())
        for name in names
    ]


def quadratures() -> dict[str, kk.Kernel]:
    """A network whose activation has no closed form; with few nodes, where accuracy is not what is tested."""
    return {"NTK-tanh": kk.NTK(1, kk.Quadrature(jnp.tanh, 16), 1.4, 0.3)}


def is_kinked(kernel: kk.Kernel) -> bool:
    """Whether it is the kernel of a (leaky) ReLU network."""
    return isinstance(kernel, NeuralKernel) and isinstance(kernel.activation, kk.LeakyReLU)


def is_cone(kernel: kk.Kernel) -> bool:
    """Whether it is that of a (leaky) ReLU network without biases: k(cx, z) = c k(x, z), a cone at the origin."""
    return is_kinked(kernel) and not kernel.bias_std
