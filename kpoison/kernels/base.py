"""What every kernel is: k(x, z) on single points, Gram matrices on top, and how to combine kernels."""

import abc
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._batches import in_batches
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import (
    between_points,
    check_flag,
    check_integer,
    check_points,
    check_positive,
    is_concrete,
    known_number,
)
from kpoison._watched import Watched
from kpoison.kernels._blocks import lower_half

__all__ = [
    "Custom",
    "Kernel",
    "Product",
    "Scaled",
    "Sum",
    "made_by_halves",
    "symmetric_gram",
    "with_array_parameters",
]


_BLOCK_ROWS = 900  # few enough that the blocks on the diagonal, made whole, are a small part of the matrix
_BLOCKS_FROM = 2000  # points; with fewer a second compilation costs more than half of the matrix saves


class Kernel(eqx.Module):
    """A positive-definite kernel k(x, z).

    Subclasses define `evaluate` on single points.  A kernel is a pytree: its hyper-parameters are leaves, so
    `jax.jit`, `jax.vmap` and `jax.grad` go through them.  Calculations are done in the dtype of the points.
    """

    @abc.abstractmethod
    def evaluate(self, x: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, ""]:
        """k(x, z) for two single points of the same shape, exact to rounding at every distance."""

    @property
    @abc.abstractmethod
    def smoothness(self) -> int | float:
        """How often x ↦ k(x, z) is continuously differentiable at x = z (`math.inf`: always)."""

    @property
    def rotation_invariant(self) -> bool:
        """Whether k(Ux, Uz) = k(x, z) for every orthogonal U, so that gradients split about the ray of x."""
        return False

    @property
    def translation_invariant(self) -> bool:
        """Whether k(x + t, z + t) = k(x, z) for every t, so that a pair can be moved to where it has all its digits."""
        return False

    @property
    def point_ndim(self) -> int:
        """Number of axes of one point: 1 for vectors, 3 for images (height, width, channels)."""
        return 1

    @property
    def makes_half(self) -> bool:
        """Whether `gram` of a symmetric matrix makes the lower half only, in blocks within memory."""
        return False

    def on_subspace(self, dimension: int) -> "Kernel | None":
        """The kernel on points of so many coordinates of which all but a few are 0, as a kernel of those few.

        What a rotation-invariant kernel does to two points then needs only the plane that holds them.  None where the
        kernel does not know.
        """
        return None

    def __call__(self, X1: Float[ArrayLike, "n1 ..."], X2: Float[ArrayLike, "n2 ..."] | None = None) -> Array:
        """Gram matrix K[i, j] = k(X1[i], X2[j]), through a matrix product where the kernel allows it.

        Args:
            X1: points, shape (n1, d), or (n1, height, width, channels) for image kernels.
            X2: points, shape (n2, d); by default, and when the same object as `X1`, the symmetric Gram matrix,
                whose diagonal is exact.

        Returns:
            The Gram matrix, shape (n1, n2), in the dtype of the points.

        The matrix product costs pairs at a distance r ≪ ‖x‖ about eps·(‖x‖/r)² of their relative distance;
        pairs closer than its resolution (r < 3·√eps·‖x‖) count as coincident.  `pairwise` has no such loss.

        Raises:
            TypeError: where points are not floating-point arrays.
            ValueError: where shapes do not match, or points are empty or not finite.
        """
        symmetric = X2 is None or X2 is X1
        X1 = check_points("X1", X1, self.point_ndim)
        kernel = with_array_parameters(self, X1.dtype)
        if symmetric:
            return symmetric_gram(kernel, X1)
        return _cross_gram(kernel, X1, check_points("X2", X2, self.point_ndim, like=X1, like_name="X1"))

    def gram(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """`__call__` without the checks; symmetric where `X1 is X2`."""
        return self.pairwise(X1, X2)

    def pairwise(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """The same matrix from `evaluate` on every pair: exact near coincident points, O(n1 n2 d) flops."""

        def row(x):
            return jax.vmap(lambda z: self.evaluate(x, z))(X2)

        return in_batches(row, X1, X2.size)

    def gradient_products(
        self, x: Float[Array, "..."], centres: Float[Array, "n ..."], basis: Float[Array, "n p"]
    ) -> Float[Array, "p ..."]:
        """Σ_i ∇_x k(x, c_i) basis_i: the gradients of p kernel expansions over the same centres at one point.

        A kernel may use a matrix product about the first centre: the rounding error of each term is then eps times its
        distance from there, so that terms of x near the first centre keep their digits.
        """
        slopes = self.gradients(x, centres)
        return matrix_product(basis.T, slopes.reshape(len(centres), -1)).reshape(-1, *x.shape)

    def gradients(self, x: Float[Array, "..."], centres: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """∇_x k(x, c_i) for each centre."""

        def gradient(centre):
            return jax.grad(self.evaluate)(x, centre)

        return in_batches(gradient, centres, self.floats_per_pair(x.shape))

    def floats_per_pair(self, point_shape: tuple[int, ...]) -> int:
        """About how many numbers are kept for one pair of points while its gradient is calculated: batches' measure."""
        return max(1, math.prod(point_shape))

    def rounding_factor(self, X: Float[Array, "n ..."]) -> Float[Array, ""]:
        """How many times eps `gram(X, X)` may be further from k than `pairwise` is."""
        return jnp.ones((), X.dtype)

    def diagonal(self, X: Float[Array, "n ..."]) -> Float[Array, " n"]:
        """k(x, x) at each point."""
        return jax.vmap(lambda x: self.evaluate(x, x))(X)

    def __add__(self, other: "Kernel") -> "Kernel":
        """The sum of two kernels."""
        return Sum(self, other) if isinstance(other, Kernel) else NotImplemented

    def __mul__(self, other: "Kernel | ArrayLike") -> "Kernel":
        """The product with another kernel, or the kernel scaled by a positive number."""
        return Product(self, other) if isinstance(other, Kernel) else Scaled(self, other)

    __rmul__ = __mul__

    # NumPy would otherwise multiply every number of an array with the kernel by itself.
    __array_ufunc__ = None


def with_array_parameters(kernel: Kernel, dtype) -> Kernel:
    """The kernel with its numbers as arrays, which compiled functions take as inputs rather than constants."""

    def as_array(leaf):
        return jnp.asarray(leaf, dtype) if isinstance(leaf, int | float) else leaf

    return jax.tree.map(as_array, kernel)


def made_by_halves(kernel: Kernel, X: Float[Array, "n ..."]) -> bool:
    """Whether `symmetric_gram` makes only the lower half itself, outside of a program, for points that are known."""
    known = all(is_concrete(leaf) for leaf in jax.tree.leaves((kernel, X)))
    on_cpu = known and {device.platform for device in X.devices()} == {"cpu"}
    return on_cpu and not kernel.makes_half and len(X) >= _BLOCKS_FROM


def symmetric_gram(kernel: Kernel, X: Float[Array, "n ..."]) -> Float[Array, "n n"]:
    """Compiled `kernel.gram(X, X)`; of many known points on a CPU only the lower half of its blocks."""
    if not made_by_halves(kernel, X):
        return _symmetric_gram(kernel, X)
    count = -(-len(X) // _BLOCK_ROWS)
    return lower_half(lambda x, z: _symmetric_gram(kernel, x) if x is z else _cross_gram(kernel, x, z), X, count)


@eqx.filter_jit
def _symmetric_gram(kernel: Kernel, X: Float[Array, "n ..."]) -> Float[Array, "n n"]:
    return kernel.gram(X, X)


@eqx.filter_jit
def _cross_gram(kernel: Kernel, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
    return kernel.gram(X1, X2)


def _check_kernel(name: str, value: object) -> None:
    if not isinstance(value, Kernel):
        raise TypeError(f"{name} must be a kpoison.kernels.Kernel, got {type(value).__name__}")


class _Pair(Kernel):
    """Two kernels on the same points."""

    first: Kernel
    second: Kernel

    def __check_init__(self):
        _check_kernel("first", self.first)
        _check_kernel("second", self.second)
        if self.first.point_ndim != self.second.point_ndim:
            raise ValueError(
                f"kernels on points of {self.first.point_ndim} and {self.second.point_ndim} axes cannot be combined"
            )

    @property
    def smoothness(self) -> int | float:
        """That of the less smooth of the two."""
        return min(self.first.smoothness, self.second.smoothness)

    @property
    def rotation_invariant(self) -> bool:
        """Where both are."""
        return self.first.rotation_invariant and self.second.rotation_invariant

    @property
    def translation_invariant(self) -> bool:
        """Where both are."""
        return self.first.translation_invariant and self.second.translation_invariant

    @property
    def point_ndim(self) -> int:
        """That of both."""
        return self.first.point_ndim

    @property
    def makes_half(self) -> bool:
        """Where either does: blocks under way together would exceed its memory."""
        return self.first.makes_half or self.second.makes_half

    def rounding_factor(self, X: Float[Array, "n ..."]) -> Float[Array, ""]:
        """The larger of the two."""
        return jnp.maximum(self.first.rounding_factor(X), self.second.rounding_factor(X))

    def floats_per_pair(self, point_shape: tuple[int, ...]) -> int:
        """Those of both."""
        return self.first.floats_per_pair(point_shape) + self.second.floats_per_pair(point_shape)

    def on_subspace(self, dimension: int) -> Kernel | None:
        """The pair of both on it."""
        first, second = self.first.on_subspace(dimension), self.second.on_subspace(dimension)
        return None if first is None or second is None else type(self)(first, second)


class Sum(_Pair):
    """k₁(x, z) + k₂(x, z); written `k1 + k2`."""

    def evaluate(self, x: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, ""]:
        """k₁(x, z) + k₂(x, z)."""
        return self.first.evaluate(x, z) + self.second.evaluate(x, z)

    def gram(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """Sum of the two Gram matrices."""
        return self.first.gram(X1, X2) + self.second.gram(X1, X2)

    def pairwise(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """Sum of the two."""
        return self.first.pairwise(X1, X2) + self.second.pairwise(X1, X2)

    def diagonal(self, X: Float[Array, "n ..."]) -> Float[Array, " n"]:
        """Sum of the two."""
        return self.first.diagonal(X) + self.second.diagonal(X)

    def gradients(self, x: Float[Array, "..."], centres: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Sum of the two."""
        return self.first.gradients(x, centres) + self.second.gradients(x, centres)

    def gradient_products(
        self, x: Float[Array, "..."], centres: Float[Array, "n ..."], basis: Float[Array, "n p"]
    ) -> Float[Array, "p ..."]:
        """Sum of the two."""
        return self.first.gradient_products(x, centres, basis) + self.second.gradient_products(x, centres, basis)


class Product(_Pair):
    """k₁(x, z) k₂(x, z); written `k1 * k2`."""

    def evaluate(self, x: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, ""]:
        """k₁(x, z) k₂(x, z)."""
        return self.first.evaluate(x, z) * self.second.evaluate(x, z)

    def gram(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """Elementwise product of the two Gram matrices."""
        return self.first.gram(X1, X2) * self.second.gram(X1, X2)

    def pairwise(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """Elementwise product of the two."""
        return self.first.pairwise(X1, X2) * self.second.pairwise(X1, X2)

    def diagonal(self, X: Float[Array, "n ..."]) -> Float[Array, " n"]:
        """Product of the two."""
        return self.first.diagonal(X) * self.second.diagonal(X)

    def gradients(self, x: Float[Array, "..."], centres: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """k₂ ∇k₁ + k₁ ∇k₂."""
        first, second = self.first.gradients(x, centres), self.second.gradients(x, centres)
        return _times(first, self.second, x, centres) + _times(second, self.first, x, centres)

    def gradient_products(
        self, x: Float[Array, "..."], centres: Float[Array, "n ..."], basis: Float[Array, "n p"]
    ) -> Float[Array, "p ..."]:
        """Those of either kernel, with the other's values as weights."""
        by_second, by_first = (_times(basis, other, x, centres) for other in (self.second, self.first))
        products = self.first.gradient_products(x, centres, by_second)
        return products + self.second.gradient_products(x, centres, by_first)


def _times(rows: Float[Array, "n ..."], kernel: Kernel, x: Array, centres: Array) -> Float[Array, "n ..."]:
    """Each row times k(x, c_i)."""
    return rows * kernel.pairwise(x[None], centres)[0].reshape(-1, *[1] * (rows.ndim - 1))


class Scaled(Kernel):
    """scale · k(x, z), scale > 0; written `scale * k`."""

    kernel: Kernel
    scale: Scalar

    def __check_init__(self):
        _check_kernel("kernel", self.kernel)
        check_positive("scale", self.scale)

    def evaluate(self, x: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, ""]:
        """scale · k(x, z)."""
        return jnp.asarray(self.scale, x.dtype) * self.kernel.evaluate(x, z)

    def gram(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """The scaled Gram matrix."""
        return jnp.asarray(self.scale, X1.dtype) * self.kernel.gram(X1, X2)

    def pairwise(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """That of the kernel, scaled."""
        return jnp.asarray(self.scale, X1.dtype) * self.kernel.pairwise(X1, X2)

    def diagonal(self, X: Float[Array, "n ..."]) -> Float[Array, " n"]:
        """That of the kernel, scaled."""
        return jnp.asarray(self.scale, X.dtype) * self.kernel.diagonal(X)

    def gradients(self, x: Float[Array, "..."], centres: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Those of the kernel, scaled."""
        return jnp.asarray(self.scale, x.dtype) * self.kernel.gradients(x, centres)

    def gradient_products(
        self, x: Float[Array, "..."], centres: Float[Array, "n ..."], basis: Float[Array, "n p"]
    ) -> Float[Array, "p ..."]:
        """Those of the kernel, scaled."""
        return jnp.asarray(self.scale, x.dtype) * self.kernel.gradient_products(x, centres, basis)

    @property
    def smoothness(self) -> int | float:
        """That of the kernel."""
        return self.kernel.smoothness

    @property
    def rotation_invariant(self) -> bool:
        """That of the kernel."""
        return self.kernel.rotation_invariant

    @property
    def translation_invariant(self) -> bool:
        """That of the kernel."""
        return self.kernel.translation_invariant

    @property
    def point_ndim(self) -> int:
        """That of the kernel."""
        return self.kernel.point_ndim

    @property
    def makes_half(self) -> bool:
        """As the kernel."""
        return self.kernel.makes_half

    def rounding_factor(self, X: Float[Array, "n ..."]) -> Float[Array, ""]:
        """That of the kernel."""
        return self.kernel.rounding_factor(X)

    def floats_per_pair(self, point_shape: tuple[int, ...]) -> int:
        """Those of the kernel."""
        return self.kernel.floats_per_pair(point_shape)

    def on_subspace(self, dimension: int) -> Kernel | None:
        """The scaled kernel on it."""
        kernel = self.kernel.on_subspace(dimension)
        return None if kernel is None else Scaled(kernel, self.scale)


class Custom(Kernel):
    """Any positive-definite function of two points, traceable by JAX.

    Args:
        function: (x, z) → scalar, on single points.  What it refers to (globals, closures) may change: compiled
            programs notice.  Hyper-parameters to be differentiated are fields of a subclass of `Kernel` instead.
        smoothness: the caller's word on `Kernel.smoothness`; by default infinitely often differentiable.
        rotation_invariant: the caller's word on `Kernel.rotation_invariant`.
        point_ndim: number of axes of one point.

    >>> import jax.numpy as jnp
    >>> kernel = Custom(lambda x, z: jnp.exp(x @ z))
    >>> float(kernel.evaluate(jnp.zeros(2), jnp.ones(2)))
    1.0
    """

    function: Watched
    _smoothness: int | float = eqx.field(static=True)
    _rotation_invariant: bool = eqx.field(static=True)
    _point_ndim: int = eqx.field(static=True)

    def __init__(
        self,
        function: Callable[[Array, Array], Array],
        *,
        smoothness: int | float = math.inf,
        rotation_invariant: bool = False,
        point_ndim: int = 1,
    ):
        if not callable(function):
            raise TypeError(f"function must be callable as function(x, z), got {type(function).__name__}")
        smoothness = known_number(smoothness)
        check_positive("smoothness", min(smoothness, 1e9) if isinstance(smoothness, float) else smoothness, zero=True)
        self.function = Watched(function)
        self._smoothness = smoothness
        self._rotation_invariant = check_flag("rotation_invariant", rotation_invariant)
        self._point_ndim = check_integer("point_ndim", point_ndim, 1)

    @between_points
    def evaluate(self, x: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, ""]:
        """function(x, z)."""
        value = jnp.asarray(self.function(x, z))
        if value.shape != ():
            raise ValueError(f"a custom kernel must return a scalar for two points, got shape {value.shape}")
        return value

    @property
    def smoothness(self) -> int | float:
        """As given."""
        return self._smoothness

    @property
    def rotation_invariant(self) -> bool:
        """As given."""
        return self._rotation_invariant

    @property
    def point_ndim(self) -> int:
        """As given."""
        return self._point_ndim
