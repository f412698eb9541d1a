"""The covariance of values and slopes as a linear map that is applied and never formed."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._batches import at_once, in_batches, in_chunks
from kpoison._linear_algebra import matrix_product
from kpoison.kernels.base import Kernel, with_array_parameters
from kpoison.kernels.pairs import PairDerivatives
from kpoison.ridge.observations import Observations

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
    def scaled(self, factors: Float[Array, " n"]) -> "CovarianceOperator":
        """Of first and second the same: every observation of a point times a number of that point."""

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
    pairs = kernel.pair_derivatives(first.points, second.points) if first.points.ndim == 2 else None
    if pairs is None:
        return DerivativeOperator(kernel, first, second)
    # Differences are taken about the data's own centre, where less of them cancels.
    centre = jnp.mean(second.points, axis=0)

    def through(observed):
        root = observed.slope_operator
        here, there = (matrix_product(points - centre[None], root.T) for points in (first.points, second.points))
        return Projected(here, there, matrix_product(centre[None], root.T)[0])

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

    def scaled(self, factors: Float[Array, " n"]) -> "ValueOperator":
        """Every observation of a point times a number of that point."""
        return ValueOperator(factors[:, None] * self.matrix * factors[None])

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


class PairOperator(CovarianceOperator):
    """By matrix products, for kernels that know their `pair_derivatives`: three of n·m·r multiplications for a column.

    Attributes:
        pairs: κ and its derivatives at all pairs.
        by_first, by_second: points through the root of the first and of the second observations, r and q rows.
        mixed: first root · (second root)ᵀ, shape (r, q), or its diagonal where it is known to be diagonal.
    """

    pairs: PairDerivatives
    by_first: Projected
    by_second: Projected
    mixed: Float[Array, "r *q"]

    def transpose(self) -> "PairOperator":
        """The covariance of second and first."""
        by_first, by_second = self.by_second.transpose(), self.by_first.transpose()
        return PairOperator(self.pairs.transpose(), by_first, by_second, self.mixed.T)

    def scaled(self, factors: Float[Array, " n"]) -> "PairOperator":
        """Every observation of a point times a number of that point."""
        pairs = (factors[:, None] * factors[None]) * self.pairs
        return PairOperator(pairs, self.by_first, self.by_second, self.mixed)

    def rotated(self, rotation: Float[Array, "r r"], squares: Float[Array, " r"]) -> "PairOperator":
        """A Gram operator with the rows of the root combined by the columns of `rotation`.

        They are then orthogonal and have these squared norms.
        """
        return PairOperator(self.pairs, self.by_first.rotated(rotation), self.by_second.rotated(rotation), squares)

    def diagonal(self) -> Float[Array, " N"]:
        """The variances, where first and second are the same."""
        kappa = self.pairs.parts
        squares = self.mixed if self.mixed.ndim == 1 else jnp.diagonal(self.mixed)
        slopes = -2 * jnp.diagonal(kappa["s"])[:, None] * squares[None]
        if not self.pairs.stationary:
            coordinates = self.by_first.first + self.by_first.centre[None]
            slopes += 4 * jnp.diagonal(kappa["pw"])[:, None] * coordinates**2
        return jnp.concatenate([jnp.diagonal(kappa[""]), slopes.ravel()])

    def values(self) -> Float[Array, "n m"]:
        """κ."""
        return self.pairs.value

    def _real_product(self, coefficients: Float[Array, "M C"]) -> Float[Array, "N C"]:
        largest = at_once(self.pairs.value.size, coefficients.dtype.itemsize)
        return in_chunks(lambda columns: self._columns(columns.T).T, coefficients.T, largest).T

    def _columns(self, coefficients: Float[Array, "M C"]) -> Float[Array, "N C"]:
        """The product, at every x, with the coefficients w(z) of values and v(z) = R̃ᵀ · those of slopes.

            values:  Σ_z κ w − 2κ_s (x − z)·v + 2κ_w z·v
            slopes:  R̃ Σ_z (x − z) [2κ_s w − 4κ_ss (x − z)·v + 4κ_sw z·v]
                   + R̃ x Σ_z [2κ_p w − 4κ_sp (x − z)·v + 4κ_pw z·v]  −  2 R̃ Σ_z κ_s v.

        x and z are about a centre in x − z, and whole elsewhere; κ_p, κ_w, κ_sp, κ_sw and κ_pw are 0 for a stationary
        kernel.  Numbers of a pair and a column have the shape (n, C, m), so that the three large matrix products take
        all columns at once.
        """
        kappa, general = self.pairs.parts, not self.pairs.stationary
        (n, m), C = kappa[""].shape, coefficients.shape[1]
        r, q = len(self.by_first.centre), len(self.by_second.centre)

        def at_pairs(part, weights):
            return part[:, None] * weights

        values, slopes = coefficients[:m], coefficients[m:].reshape(m, q, C).transpose(1, 2, 0)  # (m, C), (q, C, m)
        flat, weights = slopes.reshape(q, C * m), values.T[None]
        own = jnp.sum(self.by_second.second.T[:, None] * slopes, axis=0)  # z·v about the centre, (C, m)
        across = matrix_product(self.by_second.first, flat).reshape(n, C, m) - own[None]  # (x − z)·v

        result = matrix_product(kappa[""], values) - 2 * jnp.sum(at_pairs(kappa["s"], across), axis=2)
        on_differences = at_pairs(2 * kappa["s"], weights) - at_pairs(4 * kappa["ss"], across)
        if general:
            own += matrix_product(self.by_second.centre[None], flat).reshape(C, m)
            result += 2 * matrix_product(kappa["w"], own.T)
            on_differences += at_pairs(4 * kappa["sw"], own[None])

        x, z = self.by_first.first, self.by_first.second
        bent = jnp.sum(on_differences, axis=2)[:, :, None] * x[:, None]
        bent -= matrix_product(on_differences.reshape(n * C, m), z).reshape(n, C, r)
        if general:
            on_first = at_pairs(kappa["p"], weights)
            on_first += 2 * (at_pairs(kappa["pw"], own[None]) - at_pairs(kappa["sp"], across))
            bent += 2 * jnp.sum(on_first, axis=2)[:, :, None] * (x + self.by_first.centre[None])[:, None]
        straight = matrix_product(-2 * kappa["s"], slopes.transpose(2, 1, 0).reshape(m, C * q)).reshape(n, C, q)
        if self.mixed.ndim == 1:
            bent += straight * self.mixed[None, None]
        else:
            bent += matrix_product(straight.reshape(n * C, q), self.mixed.T).reshape(n, C, r)
        return jnp.concatenate([result, bent.transpose(0, 2, 1).reshape(n * r, C)])


class DerivativeOperator(CovarianceOperator):
    """By derivatives of `kernel.evaluate` along the slopes, for every other kernel; pair after pair in batches."""

    kernel: Kernel
    first: Observations
    second: Observations

    def transpose(self) -> "DerivativeOperator":
        """The covariance of second and first."""
        return DerivativeOperator(self.kernel, self.second, self.first)

    def scaled(self, factors: Float[Array, " n"]) -> "_ScaledOperator":
        """Every observation of a point times a number of that point."""
        return _ScaledOperator(self, factors)

    def diagonal(self) -> Float[Array, " N"]:
        """The variances, where first and second are the same."""
        points, root = self.first.points, self.first.slope_operator
        result = self.kernel.diagonal(points)
        if not len(root):
            return result
        directions = root.reshape(-1, *points.shape[1:])

        def of_point(point):
            def variance(direction):
                def along(x):
                    return jax.jvp(lambda z: self.kernel.evaluate(x, z), (point,), (direction,))[1]

                return jax.jvp(along, (point,), (direction,))[1]

            return in_batches(variance, directions, 8 * root.shape[1])

        return jnp.concatenate([result, jax.lax.map(of_point, points).ravel()])

    def values(self) -> Float[Array, "n m"]:
        """The kernel's own Gram matrix."""
        return self.kernel.gram(self.first.points, self.second.points)

    def _real_product(self, coefficients: Float[Array, "M C"]) -> Float[Array, "N C"]:
        first, second = self.first, self.second
        values, slopes = second.dual(coefficients)
        slopes = slopes.reshape(*values.shape, *second.points.shape[1:])
        # A pair holds about eight numbers for each coordinate and column.
        floats = 8 * math.prod(second.points.shape[1:]) * values.shape[1]

        @jax.checkpoint  # what a pair holds is not kept for derivatives
        def row(x):
            found = in_batches(lambda pair: self._pair(x, *pair), (second.points, values, slopes), floats)
            return jax.tree.map(lambda part: jnp.sum(part, axis=0), found)

        here, gradients = in_batches(row, first.points, floats * len(values))
        flat = gradients.reshape(*gradients.shape[:2], -1)
        bent = jnp.einsum("icd,rd->irc", flat, first.slope_operator, precision="highest")
        return jnp.concatenate([here, bent.reshape(first.number - len(here), here.shape[1])])

    def _pair(
        self, x: Array, z: Array, values: Float[Array, " C"], slopes: Float[Array, "C ..."]
    ) -> tuple[Float[Array, " C"], Float[Array, "C ..."]]:
        """values k(x, z) + slopes·∂_z k(x, z), and its gradient in x."""

        def term(point, weight, direction):
            value, along = jax.jvp(lambda end: self.kernel.evaluate(point, end), (z,), (direction,))
            return weight * value + along

        return jax.vmap(lambda *column: jax.value_and_grad(term)(x, *column))(values, slopes)


class _ScaledOperator(CovarianceOperator):
    """A Gram operator with every observation of a point times a number of that point."""

    whole: DerivativeOperator
    factors: Float[Array, " n"]

    def transpose(self) -> "_ScaledOperator":
        """The covariance of second and first."""
        return _ScaledOperator(self.whole.transpose(), self.factors)

    def scaled(self, factors: Float[Array, " n"]) -> "_ScaledOperator":
        """Once more."""
        return _ScaledOperator(self.whole, self.factors * factors)

    def diagonal(self) -> Float[Array, " N"]:
        """The variances, where first and second are the same."""
        return self.whole.diagonal() * self._repeated() ** 2

    def values(self) -> Float[Array, "n m"]:
        """The covariance of the values, as a matrix."""
        return self.factors[:, None] * self.whole.values() * self.factors[None]

    def _real_product(self, coefficients: Float[Array, "M C"]) -> Float[Array, "N C"]:
        repeated = self._repeated()[:, None]
        return repeated * self.whole.product(repeated * coefficients)

    def _repeated(self) -> Float[Array, " N"]:
        return self.whole.first.repeat(self.factors)
