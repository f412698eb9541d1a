"""The covariance of values and slopes as a linear map that is applied and never formed."""

import abc
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._batches import at_once, in_batches, in_chunks
from kpoison._linear_algebra import matrix_product
from kpoison.kernels.base import Kernel, with_array_parameters
from kpoison.ridge.observations import Observations
from kpoison.ridge.pairs import PairDerivatives, pair_derivatives

__all__ = [
    "CovarianceOperator",
    "DerivativeOperator",
    "PairOperator",
    "Projected",
    "ValueOperator",
    "covariance_operator",
    "gram_operator",
]


class CovarianceOperator(eqx.Module):
    """`covariance(kernel, first, second)` of `observations`, known by its products; made by `covariance_operator`."""

    @abc.abstractmethod
    def transpose(self) -> "CovarianceOperator":
        """The covariance of second and first."""

    @abc.abstractmethod
    def scaled(self, first: Float[Array, " n"], second: Float[Array, " m"]) -> "CovarianceOperator":
        """Every observation of a point times a number of that point."""

    @abc.abstractmethod
    def diagonal(self) -> Float[Array, " N"]:
        """The variances, where first and second are the same."""

    @abc.abstractmethod
    def values(self) -> Float[Array, "n m"]:
        """The covariance of the values, as a matrix."""

    @abc.abstractmethod
    def _real_product(self, coefficients: Float[Array, "M C"]) -> Float[Array, "N C"]: ...

    def product(self, coefficients: Inexact[Array, "M C"]) -> Inexact[Array, "N C"]:
        """The covariance times C columns: O(nmd) time for each, O(nm + (n + m)d) memory.

        Values come first, then slopes point by point, as in `Observations`.
        """
        if not jnp.iscomplexobj(coefficients):
            return self._real_product(coefficients)
        parts = jnp.concatenate([coefficients.real, coefficients.imag], axis=1)
        return jax.lax.complex(*jnp.split(self._real_product(parts), 2, axis=1))


def covariance_operator(kernel: Kernel, first: Observations, second: Observations) -> CovarianceOperator:
    """The covariance of two sets of observations under the kernel's prior.

    Raises:
        ValueError: where slopes are observed and the kernel is not twice differentiable at coincident points.
    """
    kernel = with_array_parameters(kernel, first.points.dtype)
    sloped = first.slopes or second.slopes
    if sloped and kernel.smoothness < 2:
        raise ValueError(
            f"kernel {type(kernel).__name__} (smoothness {kernel.smoothness}) must be twice continuously "
            "differentiable at coincident points where slopes are observed"
        )
    if not sloped:
        return ValueOperator(kernel.gram(first.points, second.points))
    pairs = pair_derivatives(kernel, first.points, second.points) if first.points.ndim == 2 else None
    if pairs is None:
        return DerivativeOperator(kernel, first, second)
    # Differences are taken about the data's own centre, where less of them cancels.
    centre = jnp.mean(second.points, axis=0)

    def through(observed):
        if not observed.slopes:
            return None
        root = observed.slope_operator
        here, there = (matrix_product(points - centre[None], root.T) for points in (first.points, second.points))
        return Projected(here, there, matrix_product(centre[None], root.T)[0])

    mixed = None
    if first.slopes and second.slopes:
        mixed = matrix_product(first.slope_operator, second.slope_operator.T)
    return PairOperator(pairs, through(first), through(second), mixed)


def gram_operator(kernel: Kernel, X: Observations) -> CovarianceOperator:
    """The Gram matrix of values and slopes, of shape (N, N) with N = n(1 + r).

    Raises:
        ValueError: as `covariance_operator`.
    """
    return covariance_operator(kernel, X, X)


class ValueOperator(CovarianceOperator):
    """The covariance of values alone: a matrix."""

    matrix: Float[Array, "n m"]

    def transpose(self) -> "ValueOperator":
        """The covariance of second and first."""
        return ValueOperator(self.matrix.T)

    def scaled(self, first: Float[Array, " n"], second: Float[Array, " m"]) -> "ValueOperator":
        """Every observation of a point times a number of that point."""
        return ValueOperator(first[:, None] * self.matrix * second[None])

    def diagonal(self) -> Float[Array, " n"]:
        """The variances, where first and second are the same."""
        return jnp.diagonal(self.matrix)

    def values(self) -> Float[Array, "n m"]:
        """The matrix."""
        return self.matrix

    def _real_product(self, coefficients: Float[Array, "m C"]) -> Float[Array, "n C"]:
        return matrix_product(self.matrix, coefficients)


class Projected(eqx.Module):
    """A root times the points of both sides of a covariance, about a centre, and times the centre."""

    first: Float[Array, "n r"]
    second: Float[Array, "m r"]
    centre: Float[Array, " r"]

    def transpose(self) -> "Projected":
        """The sides exchanged."""
        return Projected(self.second, self.first, self.centre)

    def rotated(self, rotation: Float[Array, "r r"]) -> "Projected":
        """With coordinates combined by the columns of `rotation`."""
        centre = matrix_product(self.centre[None], rotation)[0]
        return Projected(matrix_product(self.first, rotation), matrix_product(self.second, rotation), centre)


class _AlongSlopes(NamedTuple):
    """(x − z)·v and z·v for every pair and column, v the slope at z; a stationary κ needs the first alone."""

    differences: Float[Array, "n C m"]
    second: Float[Array, "C m"] | None


class _OnEnds(NamedTuple):
    """What every pair and column puts on x − z and on 2x in the slope at x; a stationary κ has the first alone."""

    differences: Float[Array, "n C m"]
    first: Float[Array, "n C m"] | None


def _at_pairs(part: Float[Array, "n m"], weights: Float[Array, "... C m"]) -> Float[Array, "n C m"]:
    """A number of the pairs times one of the columns, of all pairs or of every z."""
    return part[:, None] * weights


def _gathered(by_first: Projected, ends: _OnEnds) -> Float[Array, "n C r"]:
    """The first root · Σ [A (x − z) + B 2x] of all pairs: ΣAz is a matrix product, x comes after the sums."""
    here, there, on_differences = by_first.first, by_first.second, ends.differences
    n, C, m = on_differences.shape
    bent = jnp.sum(on_differences, axis=2)[:, :, None] * here[:, None]
    bent -= matrix_product(on_differences.reshape(n * C, m), there).reshape(bent.shape)
    if ends.first is not None:
        bent += 2 * jnp.sum(ends.first, axis=2)[:, :, None] * (here + by_first.centre[None])[:, None]
    return bent


class PairOperator(CovarianceOperator):
    """By matrix products, for kernels that `pair_derivatives` knows: three of n·m·r multiplications for a column.

    Of the coefficients a of the values, shape (m,), and of the slopes, whose directions are v = (second root)ᵀ b at
    each z, with the derivatives of `PairDerivatives`:

        value at x   Σ_z κ a  +  Σ_z −2κ_s (x − z)·v + 2κ_w z·v
        slope at x   first root · Σ_z [A (x − z) + B 2x − 2κ_s v]
                     A = 2κ_s a  −  4κ_ss (x − z)·v + 4κ_sw z·v
                     B = κ_p a   +  2(κ_pw z·v − κ_sp (x − z)·v)

    Both lines have a block of values and one of slopes.  A and B are numbers of pairs and columns, shape (n, C, m); no
    array of shape (n, m, r) is made.  The product of a Gram operator with the identity is symmetric to rounding.

    Attributes:
        pairs: κ and its derivatives at all pairs.
        by_first, by_second: points through the root of the first and of the second observations, where it has one.
        mixed: first root · (second root)ᵀ, shape (r, q), or its diagonal where it is known to be diagonal.
    """

    pairs: PairDerivatives
    by_first: Projected | None
    by_second: Projected | None
    mixed: Float[Array, "r *q"] | None

    def transpose(self) -> "PairOperator":
        """The covariance of second and first."""
        first, second = (None if part is None else part.transpose() for part in (self.by_second, self.by_first))
        return PairOperator(self.pairs.transpose(), first, second, None if self.mixed is None else self.mixed.T)

    def scaled(self, first: Float[Array, " n"], second: Float[Array, " m"]) -> "PairOperator":
        """Every observation of a point times a number of that point."""
        pairs = self.pairs.scaled(first[:, None] * second[None])
        return PairOperator(pairs, self.by_first, self.by_second, self.mixed)

    def rotated(self, rotation: Float[Array, "r r"], squares: Float[Array, " r"]) -> "PairOperator":
        """A Gram operator with the rows of the root combined by the columns of `rotation`.

        They are then orthogonal and have these squared norms.
        """
        first, second = (None if part is None else part.rotated(rotation) for part in (self.by_first, self.by_second))
        return PairOperator(self.pairs, first, second, squares)

    def diagonal(self) -> Float[Array, " N"]:
        """The variances, where first and second are the same."""
        values = jnp.diagonal(self.pairs.value)
        if self.by_first is None or self.mixed is None:
            return values
        squares = self.mixed if self.mixed.ndim == 1 else jnp.diagonal(self.mixed)
        slopes = -2 * jnp.diagonal(self.pairs.s)[:, None] * squares[None]
        if self.pairs.pw is not None:
            coordinates = self.by_first.first + self.by_first.centre[None]
            slopes += 4 * jnp.diagonal(self.pairs.pw)[:, None] * coordinates**2
        return jnp.concatenate([values, slopes.ravel()])

    def values(self) -> Float[Array, "n m"]:
        """κ."""
        return self.pairs.value

    def _real_product(self, coefficients: Float[Array, "M C"]) -> Float[Array, "N C"]:
        largest = at_once(self.pairs.value.size, coefficients.dtype.itemsize)
        return in_chunks(lambda columns: self._columns(columns.T).T, coefficients.T, largest).T

    def _columns(self, coefficients: Float[Array, "M C"]) -> Float[Array, "N C"]:
        """The product; the three large matrix products take all columns at once."""
        m, C = self.pairs.value.shape[1], coefficients.shape[1]
        values, straight = coefficients[:m], None
        result, ends = self._values_of_values(values), self._slopes_of_values(values)
        if self.by_second is not None:
            slopes = coefficients[m:].reshape(m, -1, C)
            along = self._along_slopes(self.by_second, slopes)
            result += self._values_of_slopes(along)
            on_ends, straight = self._slopes_of_slopes(along, slopes)
            ends = jax.tree.map(jnp.add, ends, on_ends)
        if self.by_first is None:
            return result
        bent = _gathered(self.by_first, ends)
        if straight is not None:
            bent += straight
        return jnp.concatenate([result, bent.transpose(0, 2, 1).reshape(-1, C)])

    def _along_slopes(self, by_second: Projected, slopes: Float[Array, "m q C"]) -> _AlongSlopes:
        slopes = slopes.transpose(1, 2, 0)
        q, C, m = slopes.shape
        flat = slopes.reshape(q, C * m)
        own = jnp.sum(by_second.second.T[:, None] * slopes, axis=0)
        differences = matrix_product(by_second.first, flat).reshape(-1, C, m) - own[None]
        if self.pairs.in_norms is None:
            return _AlongSlopes(differences, None)
        return _AlongSlopes(differences, own + matrix_product(by_second.centre[None], flat).reshape(C, m))

    def _values_of_values(self, a: Float[Array, "m C"]) -> Float[Array, "n C"]:
        """Σ κ a."""
        return matrix_product(self.pairs.value, a)

    def _values_of_slopes(self, along: _AlongSlopes) -> Float[Array, "n C"]:
        """Σ ∂_z k·v = Σ −2κ_s (x − z)·v + 2κ_w z·v."""
        result = -2 * jnp.sum(_at_pairs(self.pairs.s, along.differences), axis=2)
        if self.pairs.w is None or along.second is None:
            return result
        return result + 2 * matrix_product(self.pairs.w, along.second.T)

    def _slopes_of_values(self, a: Float[Array, "m C"]) -> _OnEnds:
        """∂_x k a = 2κ_s a (x − z) + κ_p a 2x."""
        weights, p = a.T[None], self.pairs.p
        return _OnEnds(_at_pairs(2 * self.pairs.s, weights), None if p is None else _at_pairs(p, weights))

    def _slopes_of_slopes(
        self, along: _AlongSlopes, slopes: Float[Array, "m q C"]
    ) -> tuple[_OnEnds, Float[Array, "n C r"] | None]:
        """∂_x ∂_zᵀ k v: what is along x − z and 2x, and the rest, first root · Σ −2κ_s v, where it is observed."""
        on_differences, on_first = -_at_pairs(4 * self.pairs.ss, along.differences), None
        if self.pairs.in_norms is not None and along.second is not None:
            _, _, sp, sw, pw = self.pairs.in_norms
            second = along.second[None]
            on_differences += _at_pairs(4 * sw, second)
            on_first = 2 * (_at_pairs(pw, second) - _at_pairs(sp, along.differences))
        ends = _OnEnds(on_differences, on_first)
        if self.mixed is None:
            return ends, None
        m, q, C = slopes.shape
        straight = matrix_product(-2 * self.pairs.s, slopes.transpose(0, 2, 1).reshape(m, C * q)).reshape(-1, C, q)
        if self.mixed.ndim == 1:
            return ends, straight * self.mixed[None, None]
        return ends, matrix_product(straight.reshape(-1, q), self.mixed.T).reshape(len(straight), C, -1)


class DerivativeOperator(CovarianceOperator):
    """By derivatives of `kernel.evaluate` along the slopes, for every other kernel; pair after pair in batches."""

    kernel: Kernel
    first: Observations
    second: Observations
    first_factors: Float[Array, " n"] | None = None
    second_factors: Float[Array, " m"] | None = None

    def transpose(self) -> "DerivativeOperator":
        """The covariance of second and first."""
        return DerivativeOperator(self.kernel, self.second, self.first, self.second_factors, self.first_factors)

    def scaled(self, first: Float[Array, " n"], second: Float[Array, " m"]) -> "DerivativeOperator":
        """Every observation of a point times a number of that point."""
        factors = (
            new if old is None else old * new
            for old, new in ((self.first_factors, first), (self.second_factors, second))
        )
        return DerivativeOperator(self.kernel, self.first, self.second, *factors)

    def diagonal(self) -> Float[Array, " N"]:
        """The variances, where first and second are the same."""
        points, root = self.first.points, self.first.slope_operator
        result = self.kernel.diagonal(points)
        if len(root):
            directions = root.reshape(-1, *points.shape[1:])

            def of_point(point):
                def variance(direction):
                    def along(x):
                        return jax.jvp(lambda z: self.kernel.evaluate(x, z), (point,), (direction,))[1]

                    return jax.jvp(along, (point,), (direction,))[1]

                return in_batches(variance, directions, 8 * root.shape[1])

            result = jnp.concatenate([result, jax.lax.map(of_point, points).ravel()])
        if self.first_factors is None or self.second_factors is None:
            return result
        return result * self.first.repeat(self.first_factors * self.second_factors)

    def values(self) -> Float[Array, "n m"]:
        """The kernel's own Gram matrix."""
        matrix = self.kernel.gram(self.first.points, self.second.points)
        if self.first_factors is None or self.second_factors is None:
            return matrix
        return self.first_factors[:, None] * matrix * self.second_factors[None]

    def _real_product(self, coefficients: Float[Array, "M C"]) -> Float[Array, "N C"]:
        first, second = self.first, self.second
        if self.second_factors is not None:
            coefficients = second.repeat(self.second_factors)[:, None] * coefficients
        values, slopes = second.dual(coefficients)
        if slopes is not None:
            slopes = slopes.reshape(*values.shape, *second.points.shape[1:])
        # A pair holds about eight numbers for each coordinate and column.
        floats = 8 * math.prod(second.points.shape[1:]) * values.shape[1]

        @jax.checkpoint  # what a pair holds is not kept for derivatives
        def row(x):
            found = in_batches(lambda pair: self._pair(x, *pair), (second.points, values, slopes), floats)
            return jax.tree.map(lambda part: jnp.sum(part, axis=0), found)

        here, gradients = in_batches(row, first.points, floats * len(values))
        if gradients is not None:
            root = first.slope_operator
            flat = gradients.reshape(*gradients.shape[:2], -1)
            bent = jnp.einsum("icd,rd->irc", flat, root, precision="highest")
            here = jnp.concatenate([here, bent.reshape(-1, bent.shape[2])])
        return here if self.first_factors is None else first.repeat(self.first_factors)[:, None] * here

    def _pair(self, x: Array, z: Array, values: Float[Array, " C"], slopes: Float[Array, "C ..."] | None):
        """values k(x, z) + slopes·∂_z k(x, z) and, where it is observed, its gradient in x."""
        sloped = bool(self.first.slopes)
        if slopes is None:
            value, gradient = jax.value_and_grad(self.kernel.evaluate)(x, z)
            return values * value, jnp.tensordot(values, gradient, axes=0) if sloped else None

        def term(point, weight, direction):
            value, along = jax.jvp(lambda end: self.kernel.evaluate(point, end), (z,), (direction,))
            return weight * value + along

        if not sloped:
            return jax.vmap(lambda *column: term(x, *column))(values, slopes), None
        return jax.vmap(lambda *column: jax.value_and_grad(term)(x, *column))(values, slopes)
