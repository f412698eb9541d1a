"""What every kernel is: k(x, z) on single points, and Gram matrices on top."""

import abc
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._batches import in_batches
from kpoison._linear_algebra import matrix_product
from kpoison._validation import check_points, is_concrete
from kpoison.kernels._blocks import lower_half, overlapping_parts
from kpoison.kernels.pairs import PairDerivatives

__all__ = [
    "Kernel",
    "Traits",
    "WithTraits",
    "check_kernel",
    "made_by_halves",
    "symmetric_gram",
    "with_array_parameters",
]


_BLOCK_ROWS, _BLOCKS = 700, 4  # at most, and at least: so that those on the diagonal, made whole, are a small part
_BLOCKS_FROM = 2000  # points; with fewer a second compilation costs more than half of the matrix saves


class Traits(NamedTuple):
    """What is known of a kernel beside its values: its attributes of the same names."""

    smoothness: int | float
    rotation_invariant: bool = False
    translation_invariant: bool = False
    point_ndim: int = 1
    makes_half: bool = False

    @classmethod
    def of(cls, *kernels: "Kernel") -> "Traits":
        """Those of a smooth function of the kernels' values at the same two points."""
        return cls(
            min(kernel.smoothness for kernel in kernels),
            all(kernel.rotation_invariant for kernel in kernels),
            all(kernel.translation_invariant for kernel in kernels),
            kernels[0].point_ndim,
            # Where one does: blocks under way together would exceed its memory.
            any(kernel.makes_half for kernel in kernels),
        )


class Kernel(eqx.Module):
    """A positive-definite kernel k(x, z).

    Subclasses define `evaluate` on single points, and `smoothness`; the rest they may know better than what stands
    here.  A kernel is a pytree: its hyper-parameters are leaves, so `jax.jit`, `jax.vmap` and `jax.grad` go through
    them.  Calculations are done in the dtype of the points.
    """

    @abc.abstractmethod
    def evaluate(self, x: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, ""]:
        """k(x, z) for two single points of the same shape, exact to rounding at every distance."""

    @property
    @abc.abstractmethod
    def smoothness(self) -> int | float:
        """How often x ↦ k(x, z) is continuously differentiable at x = z (`math.inf`: always)."""

    def points(
        self, name: str, value: Any, *, like: Array | None = None, like_name: str = "X", single: bool = False
    ) -> Float[Array, "..."]:
        """An argument of a public function as points of this kernel.

        Args:
            name: of the argument, for the message.
            value: the points, shape (n, ...).
            like: points whose shape and dtype they must have.
            like_name: what these are.
            single: whether one point, shape (...), is welcome too.

        Raises:
            TypeError, ValueError: for what are none.
        """
        return check_points(name, value, self.point_ndim, like=like, like_name=like_name, single=single)

    @property
    def traits(self) -> Traits:
        """The smoothness, and what else the attributes below say unless a subclass defines them by themselves."""
        return Traits(self.smoothness)

    @property
    def rotation_invariant(self) -> bool:
        """Whether k(Ux, Uz) = k(x, z) for every orthogonal U, so that gradients split about the ray of x."""
        return self.traits.rotation_invariant

    @property
    def translation_invariant(self) -> bool:
        """Whether k(x + t, z + t) = k(x, z) for every t, so that a pair can be moved to where it has all its digits."""
        return self.traits.translation_invariant

    @property
    def point_ndim(self) -> int:
        """Number of axes of one point: 1 for vectors, 3 for images (height, width, channels), 0 for indices."""
        return self.traits.point_ndim

    @property
    def makes_half(self) -> bool:
        """Whether `gram` of a symmetric matrix makes the lower half only, in blocks within memory."""
        return self.traits.makes_half

    def on_subspace(self, dimension: int) -> "Kernel | None":
        """The kernel on points of so many coordinates of which all but a few are 0, as a kernel of those few.

        What a rotation-invariant kernel does to two points then needs only the plane that holds them.  None where the
        kernel does not know.
        """
        return None

    def pair_derivatives(self, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> PairDerivatives | None:
        """The kernel as a function of ‖x − z‖², ‖x‖² and ‖z‖², and its derivatives; None where it is not known as such.

        Stationary, dot-product and smooth neural kernels are, their sums, products and multiples too.
        """
        return None

    def reach(self) -> float | None:
        """Where a stationary kernel has fallen to rounding, in units of the inputs; None where that is not known yet.

        Raises:
            TypeError: for a kernel that is not stationary, or falls like a power of the distance.
        """
        raise TypeError(
            f"kernel must be RBF, Laplace, Matern32 or Matern52, or made of these by scaling, sums and products, got "
            f"{type(self).__name__}: images of other kernels are not equal, or fall too slowly to be summed"
        )

    def spectral_parts(self, scale: Any = 1.0) -> "list[tuple[Kernel, Any]]":
        """The kernels of known spectral density (`SpectralKernel`) whose sum it is, each with its factor.

        Args:
            scale: a number before all of them.

        Raises:
            TypeError: for a kernel that is no such sum.
        """
        raise TypeError(
            "kernel must be one of RBF, Laplace, Matern32, Matern52, RationalQuadratic, or made of these by scaling "
            f"and sums, got {type(self).__name__}"
        )

    def __call__(self, X1: Num[ArrayLike, "n1 ..."], X2: Num[ArrayLike, "n2 ..."] | None = None) -> Array:
        """Gram matrix K[i, j] = k(X1[i], X2[j]), through a matrix product where the kernel allows it.

        Args:
            X1: points, shape (n1, d), or (n1, height, width, channels) for image kernels; indices, shape (n1,), for
                `Precomputed`.
            X2: points, shape (n2, d); by default, and when the same object as `X1`, the symmetric Gram matrix,
                whose diagonal is exact.

        Returns:
            The Gram matrix, shape (n1, n2), in the dtype of the points.

        The matrix product costs pairs at a distance r ≪ ‖x‖ about eps·(‖x‖/r)² of their relative distance;
        pairs closer than its resolution (r < 3·√eps·‖x‖) count as coincident.  `pairwise` has no such loss.

        Raises:
            TypeError: where points are not floating-point arrays (or indices not integers).
            ValueError: where shapes do not match, or points are empty or not finite.
        """
        symmetric = X2 is None or X2 is X1
        X1 = self.points("X1", X1)
        kernel = with_array_parameters(self, X1.dtype)
        if symmetric:
            return symmetric_gram(kernel, X1)
        return _cross_gram(kernel, X1, self.points("X2", X2, like=X1, like_name="X1"))

    def gram(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """`__call__` without the checks; symmetric where `X1 is X2`."""
        return self.pairwise(X1, X2)

    def sides(self, X: Float[Array, "n ..."]) -> Any:
        """What `gram` takes of each point alone: arrays of n rows, made once for all blocks of a matrix."""
        return X

    def gram_of_sides(self, first: Any, second: Any) -> Float[Array, "n1 n2"]:
        """`gram` of some rows of `sides`, and of others; symmetric where `first is second`."""
        return self.gram(first, second)

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

    def floats_per_product(self, point_shape: tuple[int, ...], columns: int) -> int:
        """The same of `gradient_products` with so many columns."""
        return self.floats_per_pair(point_shape) + columns

    def rounding_factor(self, X: Float[Array, "n ..."]) -> Float[Array, ""]:
        """How many times eps `gram(X, X)` may be further from k than `pairwise` is."""
        return jnp.ones((), X.dtype)

    def diagonal(self, X: Float[Array, "n ..."]) -> Float[Array, " n"]:
        """k(x, x) at each point."""
        return jax.vmap(lambda x: self.evaluate(x, x))(X)

    def __add__(self, other: "Kernel | ArrayLike") -> "Kernel":
        """The sum with another kernel, or with a number >= 0, a constant kernel."""
        from kpoison.kernels.algebra import plus

        return plus(self, other)

    __radd__ = __add__

    def __mul__(self, other: "Kernel | ArrayLike") -> "Kernel":
        """The product with another kernel, or the kernel scaled by a positive number."""
        from kpoison.kernels.algebra import Product, Scaled

        return Product(self, other) if isinstance(other, Kernel) else Scaled(self, other)

    __rmul__ = __mul__

    def __truediv__(self, divisor: ArrayLike) -> "Kernel":
        """The kernel divided by a positive number."""
        from kpoison.kernels.algebra import divided

        return divided(self, divisor)

    def __pow__(self, exponent: int) -> "Kernel":
        """The product of so many of the kernel, an integer >= 1."""
        from kpoison.kernels.algebra import Power

        return Power(self, exponent)

    # NumPy would otherwise multiply every number of an array with the kernel by itself.
    __array_ufunc__ = None


class WithTraits(Kernel):
    """A kernel whose traits, smoothness among them, are made of those of others, or as its caller gives them."""

    @property
    @abc.abstractmethod
    def traits(self) -> Traits:
        """All of them."""

    @property
    def smoothness(self) -> int | float:
        """As the traits say."""
        return self.traits.smoothness


def check_kernel(name: str, value: object) -> None:
    """Refuse what is no kernel.

    Raises:
        TypeError: naming the argument.
    """
    if not isinstance(value, Kernel):
        got = f"the class {value.__name__} itself" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{name} must be a kpoison.kernels.Kernel, got {got}; one is made as kpoison.kernels.RBF(1.0)")


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
    count = max(_BLOCKS, -(-len(X) // _BLOCK_ROWS))
    parts = _parts(kernel, X, count)
    return lower_half(lambda x, z: _block(kernel, x, None if x is z else z), parts, len(X), X.dtype)


@eqx.filter_jit
def _symmetric_gram(kernel: Kernel, X: Float[Array, "n ..."]) -> Float[Array, "n n"]:
    return kernel.gram(X, X)


@eqx.filter_jit
def _parts(kernel: Kernel, X: Float[Array, "n ..."], count: int) -> list[Any]:
    """The sides of `overlapping_parts`."""
    sides, places = kernel.sides(X), overlapping_parts(len(X), count)
    return [jax.tree.map(lambda side, place=place: side[slice(*place)], sides) for place in places]


@eqx.filter_jit
def _block(kernel: Kernel, first: Any, second: Any) -> Float[Array, "m m"]:
    """Of one side with itself where there is no second."""
    return kernel.gram_of_sides(first, first if second is None else second)


@eqx.filter_jit
def _cross_gram(kernel: Kernel, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
    return kernel.gram(X1, X2)
