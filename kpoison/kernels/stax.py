"""Kernels of any neural-tangents architecture."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._batches import in_parts
from kpoison._memory import peak_bytes
from kpoison._validation import check_name
from kpoison.kernels._batched import COPIES, BudgetedKernel, at_once, checked_options
from kpoison.kernels._blocks import block_sizes, by_blocks, check_result

__all__ = ["StaxKernel", "from_stax"]

_WORTH_BLOCKS = 2**24  # bytes of temporaries from which half of a symmetric matrix is saved
_BLOCKS = 8


class StaxKernel(BudgetedKernel):
    """A neural-tangents ``kernel_fn``; made by `from_stax`."""

    kernel_fn: Callable[..., Any] = eqx.field(static=True)
    get: str = eqx.field(static=True)

    def block(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """kernel_fn on all pairs at once, in neural-tangents' own precision near the diagonal."""
        return jnp.asarray(self.kernel_fn(X1, X2, self.get), X1.dtype)

    def gram(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """kernel_fn on all pairs, in blocks that keep its temporaries within `memory`."""
        n1, n2 = len(X1), len(X2)
        check_result(n1, n2, X1.dtype.itemsize)
        symmetric = X1 is X2
        pairs = self.pairs_at_once(X1.shape[1:])
        if symmetric and n1 * n1 * self.pair_bytes(X1.shape[1:]) > _WORTH_BLOCKS:
            pairs = min(pairs, (-(-n1 // _BLOCKS)) ** 2)
        rows, columns = block_sizes(n1, n2, pairs, symmetric=symmetric)
        first, second = in_parts(X1, rows), in_parts(X2, columns)
        return by_blocks(lambda i, j: self.block(first[i], second[j]), (n1, n2), (rows, columns), symmetric=symmetric)

    def pairwise(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """The same matrix; neural-tangents knows no other way."""
        return self.gram(X1, X2)

    # --- Memory ---

    def pair_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of temporaries of one pair of points of this shape, by estimate."""
        return _pair_bytes(self.kernel_fn, self.get, shape)

    def pairs_at_once(self, shape: tuple[int, ...]) -> int:
        """How many pairs of points of this shape may be under way together within `memory`.

        Raises:
            ValueError: where kernel_fn has no such kernel of such points, or not one pair fits.
        """
        one, what = self.pair_bytes(shape), f"one pair of points of shape {shape}"
        return at_once(one, self.memory, what, lambda limit: self._what_fits(shape, limit))

    def _what_fits(self, shape: tuple[int, ...], limit: int) -> str:
        if len(shape) < 2:
            return ""
        while max(shape[:-1]) > 1:
            shape = (*(max(1, size // 2) for size in shape[:-1]), shape[-1])
            try:
                if self.pair_bytes(shape) <= limit:
                    return f"; points of shape {shape} would fit"
            except ValueError:  # too small for its filters
                break
        return ""


def _pair_bytes(kernel_fn: Callable[..., Any], get: str, shape: tuple[int, ...]) -> int:
    """Temporaries of kernel_fn on one pair of points, in float64.

    Raises:
        ValueError: where kernel_fn has no such kernel of such points.
    """
    return _cached_pair_bytes(kernel_fn, get, tuple(shape))


@functools.lru_cache(maxsize=256)
def _cached_pair_bytes(kernel_fn: Callable[..., Any], get: str, shape: tuple[int, ...]) -> int:
    result: Any = None

    def pair(X1: Array, X2: Array) -> Any:
        nonlocal result
        result = kernel_fn(X1, X2, get)
        return result

    with jax.enable_x64(True):
        point = jax.ShapeDtypeStruct((1, *shape), jnp.float64)
        try:
            needed = peak_bytes(pair, point, point)
        except Exception as error:  # neural-tangents raises of every kind
            raise ValueError(
                f"kernel_fn does not give the {get!r} kernel of two points of shape {shape}: "
                f"{type(error).__name__}: {error}"
            ) from error
    if result is None:
        raise ValueError(f"kernel_fn has no {get!r} kernel: it returns None for get={get!r}")
    if np.shape(result) != (1, 1):
        raise ValueError(
            f"kernel_fn must return one number for two points, shape (1, 1), got shape {np.shape(result)} for points "
            f"of shape {shape} and get={get!r}; an architecture ends with Flatten() or GlobalAvgPool(), and Dense(1)"
        )
    return COPIES * max(needed, 1)


def from_stax(
    kernel_fn: Callable[..., Any],
    get: Literal["ntk", "nngp"] = "ntk",
    *,
    point_ndim: int = 1,
    smoothness: int | float = 0,
    memory: int | None = None,
) -> StaxKernel:
    """The kernel of any neural-tangents architecture.

    Args:
        kernel_fn: the third part of a ``stax`` triple, or any function of its signature.
        get: which of its kernels.
        point_ndim: axes of one input: 1 for vectors, 3 for images (height, width, channels).
        smoothness: the caller's word on `Kernel.smoothness`; 0 promises nothing.
        memory: bytes that the temporaries of a Gram matrix, of a diagonal or of the gradient at one point may take
            beside the result; by default a quarter of what is available, at most 1 GiB. Pairs are computed in as large
            blocks as fit, by an estimate from the shapes (four times the intermediate results that live at once).

    Near coincident points neural-tangents loses half of the digits, and its second derivatives there may be wrong
    without notice; for fully connected networks use `NTK` and `NNGP`, which are exact. Where x64 is on it computes in
    float64, and the result is rounded to the dtype of the points. Where it is off, the kernel of ReLU networks is wrong
    by up to 1e-3 at coincident points, the diagonal of a Gram matrix included: switch x64 on for this kernel.

    Convolutions in these kernels are computed without XLA's, whose float64 code may end the process on a CPU.

    Raises:
        ImportError: where neural-tangents is not installed or does not work with the installed JAX.
        TypeError, ValueError: for arguments that do not fit; by the kernel, where the architecture has no such kernel,
            or not one number for two points of this shape, or where one pair or the matrix does not fit in memory.
    """
    from kpoison.kernels._neural_tangents import load_neural_tangents

    if not callable(kernel_fn):
        raise TypeError(f"kernel_fn must be callable, as stax.serial returns it, got {type(kernel_fn).__name__}")
    get = check_name("get", get, ("ntk", "nngp"))
    options = checked_options(memory, point_ndim, smoothness)
    load_neural_tangents()
    return StaxKernel(*options, kernel_fn, get)
