"""A kernel that is known on some points only: by its matrix there, or by blocks of that matrix."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from kpoison._failures import checked_result
from kpoison._validation import check_finite, check_floating, check_integer, is_concrete
from kpoison._watched import Watched
from kpoison.kernels.base import Kernel, Traits

__all__ = ["Precomputed"]

_NO_SLOPE = (
    "kernel Precomputed has no gradient: its points are indices, between which nothing lies.  It has the laws of "
    "values (gain, efficacy, m_success, ...), not those of slopes and of curvature (spike, efficacy_gradient, "
    "m_visible, lag, ...)"
)


class Precomputed(Kernel):
    """A kernel on things of any kind, numbered from 0: points are their indices, integers of shape (n,).

    Laws of values take it as any other kernel; those of slopes and of curvature refuse it.  Derivatives in the matrix
    exist.

    Args:
        matrix: K, symmetric and positive semi-definite, shape (N, N), float32 or float64; or a function (i, j) →
            K[i, j] of indices (n,) and (m,), traceable by JAX, which returns a block of shape (n, m) where the whole
            does not fit into memory (`kpoison.Krylov(keep=False)`).
        number: N, for a function only.

    Raises:
        TypeError: for a matrix that is no floating-point array.
        ValueError: for a matrix that is not square, finite and symmetric to rounding, or a function without `number` or
            whose blocks have another shape; `fit` refuses one that is not positive semi-definite.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> kernel = kp.kernels.Precomputed(jnp.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    >>> clean = kp.fit(kernel, jnp.array([0, 2]), jnp.array([1.0, -1.0]))
    >>> kp.predict(clean, jnp.array([0, 1, 2]), ridge=0.5).tolist()
    [0.5, 0.25, -0.5]
    >>> round(float(kp.efficacy(clean, kp.Poison(2, label=1.0, count=5), 2, ridge=0.5)), 3)
    0.643
    """

    matrix: Float[Array, "N N"] | Watched
    number: int = eqx.field(static=True)

    def __init__(
        self,
        matrix: Float[ArrayLike, "N N"] | Callable[[Int[Array, " n"], Int[Array, " m"]], Float[Array, "n m"]],
        number: int | None = None,
    ):
        if callable(matrix):
            self.number = check_integer("number", number, 1)
            self.matrix = _checked_function(Watched(matrix))
        else:
            if number is not None:
                raise ValueError(f"number must be None beside a matrix, which knows it, got {number}")
            self.matrix = _checked_matrix(matrix)
            self.number = len(self.matrix)

    def points(
        self, name: str, value: Any, *, like: Array | None = None, like_name: str = "X", single: bool = False
    ) -> Float[Array, "..."]:
        """Indices, in the dtype of the matrix or of others.

        Raises:
            TypeError: for what are no integers.
            ValueError: for other shapes, and indices beyond the matrix.
        """
        indices = super().points(name, value, like=like, like_name=like_name, single=single)
        if like is None and not isinstance(self.matrix, Watched):
            indices = indices.astype(self.matrix.dtype)
        if self.number > 2 / jnp.finfo(indices.dtype).eps:
            raise ValueError(f"{name} must be float64 for {self.number:,} points: {indices.dtype} cannot number them")
        beyond = (indices < 0) | (indices >= self.number)
        came = f", got {int(np.asarray(indices)[np.asarray(beyond)].flat[0])}" if _any(beyond) else ""
        return checked_result(indices, [(beyond, f"{name} must hold indices from 0 to {self.number - 1}{came}")])

    def evaluate(self, x: Float[Array, ""], z: Float[Array, ""]) -> Float[Array, ""]:
        """K[x, z]."""
        return self.gram(x[None], z[None])[0, 0]

    def gram(self, X1: Float[Array, " n1"], X2: Float[Array, " n2"]) -> Float[Array, "n1 n2"]:
        """A block of K."""
        i, j = _index(X1), _index(X2)
        K = self.matrix
        return jnp.asarray(K(i, j) if isinstance(K, Watched) else K[i[:, None], j[None]], X1.dtype)

    def pairwise(self, X1: Float[Array, " n1"], X2: Float[Array, " n2"]) -> Float[Array, "n1 n2"]:
        """The same."""
        return self.gram(X1, X2)

    @property
    def smoothness(self) -> int | float:
        """0: there are no points beside a point."""
        return 0

    @property
    def traits(self) -> Traits:
        """Of points without axes."""
        return Traits(self.smoothness, point_ndim=0)


def _any(failed: Array) -> bool:
    return is_concrete(failed) and bool(np.any(np.asarray(failed)))


def _checked_matrix(matrix: Any) -> Float[Array, "N N"]:
    K = check_floating("matrix", matrix)
    if K.ndim != 2 or K.shape[0] != K.shape[1] or K.size == 0:
        raise ValueError(f"matrix must be square, shape (N, N), got {K.shape}")
    check_finite("matrix", K)
    asymmetry, size = jnp.max(jnp.abs(K - K.T)), jnp.max(jnp.abs(K))
    wrong = ~(asymmetry <= 10 * len(K) * jnp.finfo(K.dtype).eps * size)
    came = f", got entries that differ by {float(asymmetry):.3g}" if _any(wrong) else ""
    return checked_result(K, [(wrong, f"matrix must be symmetric{came}")])


def _checked_function(function: Watched) -> Watched:
    """Refused where its blocks are none."""
    block = jax.eval_shape(function, *(jax.ShapeDtypeStruct((size,), jnp.int32) for size in (2, 3)))
    shape = getattr(block, "shape", type(block).__name__)
    if shape != (2, 3):
        raise ValueError(f"matrix(i, j) must have shape (2, 3) for 2 and 3 indices, got {shape}")
    return function


@jax.custom_jvp
def _index(point: Float[Array, "..."]) -> Int[Array, "..."]:
    """A point as an index; nothing can be differentiated in it."""
    return point.astype(int)


@_index.defjvp
def _index_jvp(primals, tangents):
    raise TypeError(_NO_SLOPE)
