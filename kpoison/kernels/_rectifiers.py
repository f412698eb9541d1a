"""ReLU and leaky ReLU, whose duals have a kink where points are parallel: by angles, exact up to there."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

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
        """Wedge of the first layer at two points, from their difference or their sum, whichever is the smaller.

        With a = (√w x, √b), c = ±(√w z, √b), the sign that of K, and ‖c‖ <= ‖a‖, the vector a/‖a‖ − c/‖c‖ is
        (a − c)/‖a‖ − c(‖a‖ − ‖c‖)/‖a‖‖c‖, in which nothing cancels for points that are close, nor for points of very
        different norm.  The square of half its length is sin² of half the angle.
        """
        root_w = jnp.sqrt(weight_variance)
        norm_x = cusp_sqrt(weight_variance * jnp.sum(x * x) + bias_variance)
        norm_z = cusp_sqrt(weight_variance * jnp.sum(z * z) + bias_variance)
        product, total = norm_x * norm_z, norm_x + norm_z
        vanishing = product == 0
        covariance = weight_variance * jnp.sum(x * z) + bias_variance
        gap = weight_variance * jnp.sum((x - z) * (x + z)) / jnp.where(total > 0, total, 1)
        acute, x_is_shorter = covariance >= 0, norm_x <= norm_z
        there = jnp.where(acute, z, -z)
        shorter, longer_norm = jnp.where(x_is_shorter, x, there), jnp.where(x_is_shorter, norm_z, norm_x)
        over_longer, over_product = (1 / jnp.where(vanishing, 1, number) for number in (longer_norm, product))
        apart = (root_w * over_longer) * (x - there) - (root_w * gap * over_product) * shorter
        of_biases = jnp.where(acute, gap, total) * over_product
        near = 0.25 * (jnp.sum(apart * apart) + bias_variance * of_biases**2)
        # Exactly collinear points leave only rounding noise, whose direction would decide the derivative.
        near = _snap(near, near <= (8 * jnp.finfo(x.dtype).eps * gap * over_longer) ** 2)
        near = jnp.where(vanishing, 0.5, near)
        far = 1 - near
        return Wedge(norm_x, norm_z, gap, covariance, jnp.where(acute, near, far), jnp.where(acute, far, near))

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
        kink, whole = 0.5 * (1 - slope) ** 2, scale**2
        coversine = jnp.where(acute, state.coversine, 0.5) + 0.5 * excess
        return Wedge(
            norm_x,
            norm_z,
            gap,
            slope * state.covariance + kink * arc,
            (slope * state.versine + kink * versine) / whole,
            (slope * state.coversine + kink * coversine) / whole,
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
