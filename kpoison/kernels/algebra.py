"""Sums, products, powers and multiples of kernels: whatever is asked of them is asked of their parts."""

import abc
import functools
import math
import operator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._typing import Scalar
from kpoison._validation import between_points, check_positive, integer, is_concrete
from kpoison.kernels.base import Kernel, Traits, WithTraits, check_kernel
from kpoison.kernels.pairs import PairDerivatives

__all__ = ["Constant", "Power", "Product", "Scaled", "Sum", "divided", "plus"]


class _Combination(WithTraits):
    """A function of what other kernels, its parts, are at the same two points."""

    @property
    @abc.abstractmethod
    def parts(self) -> tuple[Kernel, ...]:
        """The kernels."""

    @abc.abstractmethod
    def combined(self, dtype: Any, *parts: Any) -> Any:
        """From values of the parts those of the kernel, in this dtype; also from `PairDerivatives`."""

    @abc.abstractmethod
    def with_parts(self, *parts: Kernel) -> Kernel:
        """The same function of other kernels."""

    def points(
        self, name: str, value: Any, *, like: Array | None = None, like_name: str = "X", single: bool = False
    ) -> Float[Array, "..."]:
        """As points of the first part; refused where they are none of another."""
        own, *_ = (part.points(name, value, like=like, like_name=like_name, single=single) for part in self.parts)
        return own

    @property
    def traits(self) -> Traits:
        """Those that the parts have together."""
        return Traits.of(*self.parts)

    def evaluate(self, x: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, ""]:
        """From k(x, z) of the parts."""
        return self.combined(x.dtype, *(part.evaluate(x, z) for part in self.parts))

    def gram(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """From their Gram matrices."""
        return self.combined(X1.dtype, *(part.gram(X1, X2) for part in self.parts))

    def sides(self, X: Float[Array, "n ..."]) -> tuple[Any, ...]:
        """Theirs."""
        return tuple(part.sides(X) for part in self.parts)

    def gram_of_sides(self, first: tuple[Any, ...], second: tuple[Any, ...]) -> Float[Array, "n1 n2"]:
        """From theirs."""
        grams = [part.gram_of_sides(*sides) for part, *sides in zip(self.parts, first, second, strict=True)]
        return self.combined(grams[0].dtype, *grams)

    def pairwise(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """From theirs."""
        return self.combined(X1.dtype, *(part.pairwise(X1, X2) for part in self.parts))

    def diagonal(self, X: Float[Array, "n ..."]) -> Float[Array, " n"]:
        """From theirs."""
        return self.combined(X.dtype, *(part.diagonal(X) for part in self.parts))

    def gradients(self, x: Float[Array, "..."], centres: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """From theirs, where the function is linear."""
        return self.combined(x.dtype, *(part.gradients(x, centres) for part in self.parts))

    def gradient_products(
        self, x: Float[Array, "..."], centres: Float[Array, "n ..."], basis: Float[Array, "n p"]
    ) -> Float[Array, "p ..."]:
        """From theirs, where the function is linear."""
        return self.combined(x.dtype, *(part.gradient_products(x, centres, basis) for part in self.parts))

    def rounding_factor(self, X: Float[Array, "n ..."]) -> Float[Array, ""]:
        """The largest of theirs."""
        return functools.reduce(jnp.maximum, (part.rounding_factor(X) for part in self.parts))

    def floats_per_pair(self, point_shape: tuple[int, ...]) -> int:
        """Those of all."""
        return sum(part.floats_per_pair(point_shape) for part in self.parts)

    def floats_per_product(self, point_shape: tuple[int, ...], columns: int) -> int:
        """Those of all."""
        return sum(part.floats_per_product(point_shape, columns) for part in self.parts)

    def on_subspace(self, dimension: int) -> Kernel | None:
        """The same of the parts there."""
        parts = [part.on_subspace(dimension) for part in self.parts]
        known = [part for part in parts if part is not None]
        return self.with_parts(*known) if len(known) == len(parts) else None

    def pair_derivatives(self, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> PairDerivatives | None:
        """From theirs."""
        parts = [part.pair_derivatives(X, Z) for part in self.parts]
        return None if any(part is None for part in parts) else self.combined(X.dtype, *parts)

    def reach(self) -> float | None:
        """The largest of theirs."""
        reaches = [part.reach() for part in self.parts]
        known = [reach for reach in reaches if reach is not None]
        return max(known) if len(known) == len(reaches) else None


class _Pair(_Combination):
    """Two kernels on the same points."""

    first: Kernel
    second: Kernel

    def __check_init__(self):
        check_kernel("first", self.first)
        check_kernel("second", self.second)
        if self.first.point_ndim != self.second.point_ndim:
            raise ValueError(
                f"kernels on points of {self.first.point_ndim} and {self.second.point_ndim} axes cannot be combined"
            )

    @property
    def parts(self) -> tuple[Kernel, Kernel]:
        """Both."""
        return self.first, self.second

    def with_parts(self, *parts: Kernel) -> Kernel:
        """The same of two others."""
        return type(self)(*parts)


class Sum(_Pair):
    """k₁(x, z) + k₂(x, z); written `k1 + k2`."""

    def combined(self, dtype: Any, *parts: Any) -> Any:
        """Their sum."""
        first, second = parts
        return first + second

    def spectral_parts(self, scale: Any = 1.0) -> list[tuple[Kernel, Any]]:
        """Those of both."""
        return self.first.spectral_parts(scale) + self.second.spectral_parts(scale)


class Product(_Pair):
    """k₁(x, z) k₂(x, z); written `k1 * k2`."""

    def combined(self, dtype: Any, *parts: Any) -> Any:
        """Their product, elementwise."""
        first, second = parts
        return first * second

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


class Power(_Combination):
    """k(x, z)ⁿ, n an integer >= 1; written `k ** n`.

    >>> import jax.numpy as jnp
    >>> from kpoison.kernels import Linear
    >>> (Linear() ** 3)(jnp.array([[2.0]])).tolist()
    [[64.0]]
    """

    kernel: Kernel
    exponent: int = eqx.field(static=True, converter=integer("exponent", 1))

    def __check_init__(self):
        check_kernel("kernel", self.kernel)

    @property
    def parts(self) -> tuple[Kernel]:
        """The one that is multiplied by itself."""
        return (self.kernel,)

    def combined(self, dtype: Any, *parts: Any) -> Any:
        """So many of it, multiplied."""
        return functools.reduce(operator.mul, parts * self.exponent)

    def with_parts(self, *parts: Kernel) -> Kernel:
        """That of another."""
        (kernel,) = parts
        return Power(kernel, self.exponent)

    def gradients(self, x: Float[Array, "..."], centres: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """n kⁿ⁻¹ ∇k."""
        return self._times_slope(self.kernel.gradients(x, centres), x, centres)

    def gradient_products(
        self, x: Float[Array, "..."], centres: Float[Array, "n ..."], basis: Float[Array, "n p"]
    ) -> Float[Array, "p ..."]:
        """Those of the kernel, with n kⁿ⁻¹ as weights."""
        return self.kernel.gradient_products(x, centres, self._times_slope(basis, x, centres))

    def _times_slope(self, rows: Float[Array, "n ..."], x: Array, centres: Array) -> Float[Array, "n ..."]:
        n = self.exponent
        return rows if n == 1 else _times(rows, n * self.kernel ** (n - 1), x, centres)


class Scaled(_Combination):
    """scale · k(x, z), scale > 0; written `scale * k`."""

    kernel: Kernel
    scale: Scalar

    def __check_init__(self):
        check_kernel("kernel", self.kernel)
        check_positive("scale", self.scale)

    @property
    def parts(self) -> tuple[Kernel]:
        """The one that is scaled."""
        return (self.kernel,)

    def combined(self, dtype: Any, *parts: Any) -> Any:
        """The scale times it."""
        (part,) = parts
        return jnp.asarray(self.scale, dtype) * part

    def with_parts(self, *parts: Kernel) -> Kernel:
        """Another, scaled."""
        (kernel,) = parts
        return Scaled(kernel, self.scale)

    def spectral_parts(self, scale: Any = 1.0) -> list[tuple[Kernel, Any]]:
        """Those of the kernel, scaled."""
        return self.kernel.spectral_parts(scale * self.scale)


class Constant(WithTraits):
    """A number for every pair of points: as if a constant of that variance were added to the function.

    Args:
        value: >= 0.
        point_ndim: number of axes of one point, as of the kernels that it is combined with.

    Written `k + value`, where it is on the points of k:

    >>> import jax.numpy as jnp
    >>> from kpoison.kernels import Linear
    >>> (0.5 + Linear())(jnp.array([[2.0]])).tolist()
    [[4.5]]
    """

    value: Scalar
    point_ndim: int = eqx.field(static=True, default=1, converter=integer("point_ndim", 0))

    def __check_init__(self):
        check_positive("value", self.value, zero=True)

    @between_points
    def evaluate(self, x: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, ""]:
        """The value."""
        return jnp.asarray(self.value, x.dtype)

    @property
    def traits(self) -> Traits:
        """Of what no motion changes."""
        return Traits(math.inf, rotation_invariant=True, translation_invariant=True, point_ndim=self.point_ndim)

    def on_subspace(self, dimension: int) -> Kernel:
        """Itself."""
        return self

    def pair_derivatives(self, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> PairDerivatives:
        """All 0."""
        none = jnp.zeros((len(X), len(Z)), X.dtype)
        return PairDerivatives({"": none + jnp.asarray(self.value, X.dtype), "s": none, "ss": none})


def plus(kernel: Kernel, other: Any) -> Kernel:
    """The sum of a kernel and another or a number; `sum([k1, k2])` begins with 0."""
    if isinstance(other, Kernel):
        return Sum(kernel, other)
    check_positive("what is added to a kernel", other, zero=True)
    return kernel if is_concrete(other) and other == 0 else Sum(kernel, Constant(other, kernel.point_ndim))


def divided(kernel: Kernel, divisor: Any) -> Kernel:
    """The kernel over a positive number."""
    check_positive("divisor", divisor)
    return Scaled(kernel, 1 / divisor)
