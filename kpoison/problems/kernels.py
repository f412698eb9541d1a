"""Kernels by the name that `--kernel` takes, made from one length scale."""

from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

import kpoison as kp
from kpoison._names import KernelName, MatrixKernelName

if TYPE_CHECKING:
    from kpoison.kernels import Kernel

__all__ = ["KERNELS", "KERNELS_WITH_DERIVATIVES", "MATRIX_KERNELS"]

KERNELS: "dict[str, Callable[[float], Kernel]]" = {
    "rbf": lambda length_scale: kp.kernels.RBF(length_scale),  # noqa: PLW0108 - `kp.kernels.RBF` would load JAX
    "laplace": lambda length_scale: kp.kernels.Laplace(length_scale),  # noqa: PLW0108
    "matern32": lambda length_scale: kp.kernels.Matern32(length_scale),  # noqa: PLW0108
    "matern52": lambda length_scale: kp.kernels.Matern52(length_scale),  # noqa: PLW0108
    "rational-quadratic": lambda length_scale: kp.kernels.RationalQuadratic(length_scale, alpha=1.0),
    "linear": lambda _: kp.kernels.Linear(),
    "ntk-relu": lambda _: kp.kernels.NTK(2, activation="relu", weight_std=2**0.5, bias_std=0.1),
    "ntk-erf": lambda _: kp.kernels.NTK(2, activation="erf", weight_std=1.5, bias_std=0.1),
    "nngp-relu": lambda _: kp.kernels.NNGP(2, activation="relu", weight_std=2**0.5, bias_std=0.1),
}
"""Kernels by name, as functions of a length scale (which linear and neural kernels do not have)."""

assert tuple(KERNELS) == get_args(KernelName)

MATRIX_KERNELS: "dict[str, Callable[[float], Kernel]]" = {name: KERNELS[name] for name in get_args(MatrixKernelName)}
"""Those of the matrix of attacks and defences."""

KERNELS_WITH_DERIVATIVES = ("rbf", "matern32", "matern52", "rational-quadratic", "linear", "ntk-erf", "nngp-relu")
"""Those that a gradient penalty takes: twice continuously differentiable."""
