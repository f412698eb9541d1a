"""Kernels k(x, x') on single points, and their Gram matrices."""

from kpoison.kernels.activations import (
    GELU,
    Activation,
    Cos,
    Erf,
    LeakyReLU,
    Quadrature,
    ReLU,
    Sin,
    activation_names,
)
from kpoison.kernels.algebra import Constant, Power, Product, Scaled, Sum
from kpoison.kernels.base import Kernel
from kpoison.kernels.convolutional import ConvolutionalNNGP, ConvolutionalNTK
from kpoison.kernels.custom import Custom
from kpoison.kernels.dot_product import Linear, Polynomial
from kpoison.kernels.empirical import empirical_ntk
from kpoison.kernels.matern import Laplace, Matern32, Matern52
from kpoison.kernels.neural import NNGP, NTK
from kpoison.kernels.periodic import Periodic
from kpoison.kernels.precomputed import Precomputed
from kpoison.kernels.stationary import RBF, RationalQuadratic, Stationary
from kpoison.kernels.stax import from_stax

__all__ = [
    "GELU",
    "NNGP",
    "NTK",
    "RBF",
    "Activation",
    "Constant",
    "ConvolutionalNNGP",
    "ConvolutionalNTK",
    "Cos",
    "Custom",
    "Erf",
    "Kernel",
    "Laplace",
    "LeakyReLU",
    "Linear",
    "Matern32",
    "Matern52",
    "Periodic",
    "Polynomial",
    "Power",
    "Precomputed",
    "Product",
    "Quadrature",
    "RationalQuadratic",
    "ReLU",
    "Scaled",
    "Sin",
    "Stationary",
    "Sum",
    "activation_names",
    "empirical_ntk",
    "from_stax",
]
