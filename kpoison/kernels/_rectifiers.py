"""ReLU and leaky ReLU, whose duals have a kink where points are parallel: by angles, exact up to there."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from kpoison._batches import in_batches
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_finite_scalar
from kpoison.kernels import _versines
from kpoison.kernels._activation import Activation, Angular, Wedge
from kpoison.kernels._cusp import arc_excess, at_apex, cusp_sqrt, versine_angle
from kpoison.kernels._versines import Slope, Versines, is_relu

__all__ = ["LeakyReLU", "ReLU"]


class LeakyReLU(Activation[Angular]):
    """φ(u) = max(u, 0) + slope·min(u, 0) (Cho, Saul 2009 for slope 0).

    Its dual has a kink of order θ³ where the points are parallel and E[φ'φ'] a cusp of order θ, so the state
    carries sin²(θ/2) beside cos θ, from which every layer's angle follows without cancellation.
    """

    slope: Scalar = 0.01

    def __check_init__(self):
        check_finite_scalar("slope", self.slope)

    def __call__(self, u: Array) -> Array:
        """max(u, 0) + slope·min(u, 0)."""
        return jnp.where(u > 0, u, jnp.asarray(self.slope, u.dtype) * u)

    def _slope(self, dtype) -> Slope:
        """The slope, as a Python number where it is one."""
        return float(self.slope) if isinstance(self.slope, int | float) else jnp.asarray(self.slope, dtype)

    def input_state(self, x: Array, z: Array, weight_variance: Array, bias_variance: Array) -> Wedge:
        """Wedge of the first layer at two points."""
        norm_x, norm_z = (cusp_sqrt(weight_variance * jnp.sum(point * point) + bias_variance) for point in (x, z))
        covariance = weight_variance * jnp.sum(x * z) + bias_variance
        return _first_wedge(x, z, norm_x, norm_z, covariance, weight_variance, bias_variance)

    def input_pairs(self, X1: Array, X2: Array, weight_variance: Array, bias_variance: Array) -> Wedge:
        """The same at all pairs: what is known of one point is taken once."""
        norms, others = (
            cusp_sqrt(weight_variance * jnp.sum(points * points, axis=1) + bias_variance) for points in (X1, X2)
        )
        covariances = weight_variance * matrix_product(X1, X2.T) + bias_variance

        def row(point):
            x, norm, covariances = point

            def pair(z, other, covariance):
                return _first_wedge(x, z, norm, other, covariance, weight_variance, bias_variance)

            return jax.vmap(pair)(X2, others, covariances)

        return in_batches(row, (X1, norms, covariances), 3 * X2.size)

    def input_gram(self, X1: Array, X2: Array, weight_variance: Array, bias_variance: Array) -> Versines:
        """Angles of the first layer at all pairs."""
        return _versines.first_layer(X1, X2, weight_variance, bias_variance)

    def mean_square(self, variance: Array) -> Array:
        """½(1 + slope²) times the variance."""
        return 0.5 * (1 + jnp.asarray(self.slope, variance.dtype) ** 2) * variance

    def tangent_kernel(self, state: Angular, hidden_layers: int, weight_variance: Array, bias_variance: Array) -> Array:
        """Neural tangent kernel of a network with this first layer."""
        if isinstance(state, Versines):
            slope = self._slope(state.versine.dtype)
            return _versines.tangent_kernel(state, hidden_layers, slope, weight_variance, bias_variance)
        state = state._replace(covariance=at_apex(state.covariance, state.norm_x * state.norm_z == 0))
        return super().tangent_kernel(state, hidden_layers, weight_variance, bias_variance)

    def activated(self, state: Angular) -> Angular:
        """State of φ(u) and φ(v), in sums of non-negative terms only (for slope >= 0)."""
        if isinstance(state, Versines):
            return _versines.activated(state, self._slope(state.versine.dtype))
        slope = self._slope(state.covariance.dtype)
        product = state.norm_x * state.norm_z
        # From the nearer of the two poles, parallel or antiparallel, so that nothing cancels.
        near, acute = _nearer_pole(state)
        excess = arc_excess(near) / jnp.pi
        # ‖a‖‖b‖ times the arc-cosine kernel of degree 1; where a vector vanishes the mean of both poles, see `NTK`.
        arc = jnp.where(product > 0, jnp.where(acute, 1, 0), 0.5) * state.covariance + product * excess
        versine = jnp.where(acute, state.versine, 0.5) - 0.5 * excess
        scale = self.mean_square(jnp.ones_like(near)) ** 0.5
        norm_x, norm_z, gap = (scale * number for number in (state.norm_x, state.norm_z, state.gap))
        if is_relu(slope):
            return Wedge(norm_x, norm_z, gap, 0.5 * arc, versine, None)
        kink, whole, far = 0.5 * (1 - slope) ** 2, scale**2, state.coversine
        assert far is not None  # ReLU's alone are None
        coversine = jnp.where(acute, far, 0.5) + 0.5 * excess
        return Wedge(
            norm_x,
            norm_z,
            gap,
            slope * state.covariance + kink * arc,
            (slope * state.versine + kink * versine) / whole,
            (slope * far + kink * coversine) / whole,
        )

    def derivative_covariance(self, state: Angular) -> Array:
        """slope + ½(1 − slope)² (1 − θ/π)."""
        if isinstance(state, Versines):
            return _versines.derivative_covariance(state, self._slope(state.versine.dtype))
        slope = self._slope(state.covariance.dtype)
        near, acute = _nearer_pole(state)
        turn = versine_angle(near) / jnp.pi
        return slope + 0.5 * (1 - slope) ** 2 * jnp.where(acute, 1 - turn, turn)

    @property
    def smoothness(self) -> tuple[int | float, int | float]:
        """E[φφ] has two derivatives where points coincide, E[φ'φ'] none."""
        return 2, 0


def _first_wedge(
    x: Array, z: Array, norm_x: Array, norm_z: Array, covariance: Array, weight_variance: Array, bias_variance: Array
) -> Wedge:
    """Of the first layer at two points, a = (√w x, √b) and c = (√w z, √b), from what is known of each and a·c."""
    total, vanishing, acute = norm_x + norm_z, norm_x * norm_z == 0, covariance >= 0
    exact_gap = weight_variance * _sum((x - z) * (x + z)) / jnp.where(total > 0, total, 1)
    gap = norm_x - norm_z
    gap += jax.lax.stop_gradient(exact_gap - gap)
    sign = jnp.where(acute, 1, -1).astype(x.dtype)
    norms = (jnp.where(vanishing, 1, norm) for norm in (norm_x, norm_z))
    near = _half_squared(x, z, *norms, gap, weight_variance, bias_variance, sign)
    # Exactly collinear points leave only rounding noise, whose direction would decide the derivative.
    noise = 8 * jnp.finfo(x.dtype).eps * gap / jnp.where(vanishing, 1, jnp.maximum(norm_x, norm_z))
    near = _snap(near, near <= noise**2)
    near = jnp.where(vanishing, 0.5, near)
    far = 1 - near
    return Wedge(norm_x, norm_z, gap, covariance, jnp.where(acute, near, far), jnp.where(acute, far, near))


@jax.custom_jvp
def _half_squared(
    x: Array, z: Array, norm_x: Array, norm_z: Array, gap: Array, weight_variance: Array, bias_variance: Array,
    sign: Array,
) -> Array:  # fmt: skip
    """‖½(a/‖a‖ ∓ c/‖c‖)‖²: sin² of half the angle, or cos² for the sign −1.

    With u the vector in the norm, its differential is ½ u·(da/‖a‖ ∓ dc/‖c‖) − ‖u/2‖² d log ‖a‖‖c‖: products with u,
    in which nothing cancels, where autodiff would sum over coordinates once for every factor in u.
    """
    of_points, of_bias = _unit_difference(x, z, norm_x, norm_z, gap, sign)
    return 0.25 * (weight_variance * _sum(of_points * of_points) + bias_variance * of_bias**2)


@functools.partial(_half_squared.defjvp, symbolic_zeros=True)
def _half_squared_jvp(primals, tangents):
    x, z, norm_x, norm_z, gap, weight_variance, _, sign = primals
    dx, dz, d_norm_x, d_norm_z, _, d_weight, d_bias, _ = tangents
    of_points, of_bias = _unit_difference(x, z, norm_x, norm_z, gap, sign)
    value = _half_squared(*primals)
    tangent = jnp.zeros_like(value)
    for change, factor in ((dx, 1 / norm_x), (dz, -sign / norm_z)):
        if not isinstance(change, SymbolicZero):
            tangent += 0.5 * weight_variance * factor * _sum(of_points * change)
    for change, norm in ((d_norm_x, norm_x), (d_norm_z, norm_z)):
        if not isinstance(change, SymbolicZero):
            tangent -= value * (change / norm)
    if not isinstance(d_weight, SymbolicZero):
        tangent += 0.25 * _sum(of_points * of_points) * d_weight
    if not isinstance(d_bias, SymbolicZero):
        tangent += 0.25 * of_bias**2 * d_bias
    return value, tangent


def _unit_difference(
    x: Array, z: Array, norm_x: Array, norm_z: Array, gap: Array, sign: Array
) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    """x/‖a‖ ∓ z/‖c‖ and 1/‖a‖ ∓ 1/‖c‖.

    The former as (x ∓ z)/‖a‖ ∓ z(‖c‖ − ‖a‖)/‖a‖‖c‖ where ‖c‖ <= ‖a‖, and as much the other way round: nothing cancels
    for points that are close, nor for points of very different norm.
    """
    # Products with 0 and ±1: a choice for each coordinate would be no vector code, and take three times as long.
    of_x = jnp.where(norm_x <= norm_z, 1, 0).astype(x.dtype)
    of_z = sign * (1 - of_x)
    over_longer = 1 / jnp.where(norm_x <= norm_z, norm_z, norm_x)
    over_product = 1 / (norm_x * norm_z)
    of_points = over_longer * (x - sign * z) - (gap * over_product) * (of_x * x + of_z * z)
    return of_points, jnp.where(sign > 0, -gap, norm_x + norm_z) * over_product


def _sum(terms: Float[Array, " d"]) -> Float[Array, ""]:
    """As a product with ones: of many pairs at once a matrix's, which is vector code where their sums are not."""
    return jnp.dot(terms, jnp.ones_like(terms), precision="highest")


def _nearer_pole(state: Wedge) -> tuple[Array, Array | bool]:
    """sin² of half the angle to the nearer of parallel and antiparallel, and whether that is parallel."""
    if state.coversine is None:
        return state.versine, True
    acute = state.versine <= state.coversine
    return jnp.where(acute, state.versine, state.coversine), acute


def _snap(value: Array, to_zero: Array) -> Array:
    """0 where told, with the derivatives of `value` kept."""
    return jnp.where(to_zero, value - jax.lax.stop_gradient(value), value)


class ReLU(LeakyReLU):
    """φ(u) = max(u, 0)."""

    slope: Scalar = eqx.field(static=True, default=0.0)
