"""Kernels of any neural-tangents architecture."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._validation import between_points, check_integer, check_name
from kpoison.kernels._neural_tangents import load_neural_tangents
from kpoison.kernels.base import Kernel

__all__ = ["StaxKernel", "from_stax"]


class StaxKernel(Kernel):
    """A neural-tangents ``kernel_fn``; made by `from_stax`."""

    kernel_fn: Callable[..., Any] = eqx.field(static=True)
    get: str = eqx.field(static=True)
    _point_ndim: int = eqx.field(static=True)
    _smoothness: int | float = eqx.field(static=True)

    @between_points
    def evaluate(self, x: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, ""]:
        """kernel_fn on two single points, in neural-tangents' own precision near the diagonal."""
        return self.kernel_fn(x[None], z[None], self.get)[0, 0].astype(x.dtype)

    def gram(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """kernel_fn on all pairs."""
        gram = self.kernel_fn(X1, None if X1 is X2 else X2, self.get)
        if X1 is X2:  # neural-tangents' symmetric Gram matrices are symmetric to rounding only
            gram = 0.5 * (gram + gram.T)
        return jnp.asarray(gram, X1.dtype)

    @property
    def smoothness(self) -> int | float:
        """As given to `from_stax`."""
        return self._smoothness

    @property
    def point_ndim(self) -> int:
        """As given to `from_stax`."""
        return self._point_ndim


def from_stax(
    kernel_fn: Callable[..., Any],
    get: Literal["ntk", "nngp"] = "ntk",
    *,
    point_ndim: int = 1,
    smoothness: int | float = 0,
) -> StaxKernel:
    """The kernel of any neural-tangents architecture.

    Args:
        kernel_fn: the third part of a ``stax`` triple, or any function of its signature.
        get: which of its kernels.
        point_ndim: axes of one input: 1 for vectors, 3 for images (height, width, channels).
        smoothness: the caller's word on `Kernel.smoothness`; 0 promises nothing.

    Near coincident points neural-tangents loses half of the digits, and its second derivatives there may be wrong
    without notice; for fully connected networks use `NTK` and `NNGP`, which are exact.

    Raises:
        ImportError: where neural-tangents is not installed or does not work with the installed JAX.
        TypeError, ValueError: for arguments that do not fit.
    """
    if not callable(kernel_fn):
        raise TypeError(f"kernel_fn must be callable, as stax.serial returns it, got {type(kernel_fn).__name__}")
    check_name("get", get, ("ntk", "nngp"))
    check_integer("point_ndim", point_ndim, 1)
    load_neural_tangents()
    return StaxKernel(kernel_fn, get, point_ndim, smoothness)
