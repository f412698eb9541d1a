"""ReLU and leaky ReLU, whose duals have a kink where points are parallel: by angles, exact up to there."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from kpoison._typing import Scalar
from kpoison._validation import check_finite_scalar
from kpoison.kernels import _versines
from kpoison.kernels._activation import Activation, Angular, Wedge
from kpoison.kernels._cusp import angle, arc_excess, cusp_sqrt
from kpoison.kernels._versines import Slope, Versines

__all__ = ["LeakyReLU", "ReLU"]


class LeakyReLU(Activation[Angular]):
    """φ(u) = max(u, 0) + slope·min(u, 0) (Cho, Saul 2009 for slope 0).

    Its dual has a kink of order θ³ where the points are parallel and E[φ'φ'] a cusp of order θ, so the state
    carries ‖a‖‖b‖(1 − cos θ) instead of cos θ, from which every layer's angle follows without cancellation.
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
        """Wedge of the first layer at two points, from x − z and x + z.

        With a = (√w x, √b), c likewise for z and ‖c‖ <= ‖a‖, the vector a‖c‖ − c‖a‖ is (a − c)‖c‖ − c(‖a‖ − ‖c‖),
        in which nothing cancels for points that are close, nor for points of very different norm.
        """
        root_w = jnp.sqrt(weight_variance)
        norm_x = cusp_sqrt(weight_variance * jnp.sum(x * x) + bias_variance)
        norm_z = cusp_sqrt(weight_variance * jnp.sum(z * z) + bias_variance)
        product, total = norm_x * norm_z, norm_x + norm_z
        difference, sum_ = root_w * (x - z), root_w * (x + z)
        vanishing = product == 0
        gap = jnp.sum(difference * sum_) / jnp.where(total > 0, total, 1)
        x_is_shorter = norm_x <= norm_z
        shorter, shorter_norm = root_w * jnp.where(x_is_shorter, x, z), jnp.where(x_is_shorter, norm_x, norm_z)
        sign = jnp.where(x_is_shorter, -1, 1)
        apart = sign * difference * shorter_norm - shorter * (sign * gap)
        along = sum_ * shorter_norm + shorter * (sign * gap)
        divisor = 2 * jnp.where(vanishing, 1, product)
        defect = (jnp.sum(apart * apart) + bias_variance * gap * gap) / divisor
        antidefect = (jnp.sum(along * along) + bias_variance * total * total) / divisor
        covariance = weight_variance * jnp.sum(x * z) + bias_variance

        # Exactly collinear points leave only rounding noise, whose direction would decide the derivative.
        noise = (16 * jnp.finfo(x.dtype).eps * shorter_norm) ** 2 / divisor
        defect = _snap(defect, defect <= noise * jnp.sum(difference * difference))
        antidefect = _snap(antidefect, antidefect <= noise * jnp.sum(sum_ * sum_))
        # Where a vector vanishes the two defects are 0 with derivatives −dK and dK: a right angle, see `NTK`.
        defect = jnp.where(vanishing, -covariance, defect)
        antidefect = jnp.where(vanishing, covariance, antidefect)
        return Wedge(norm_x, norm_z, gap, covariance, defect, antidefect)

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
        return super().tangent_kernel(state, hidden_layers, weight_variance, bias_variance)

    def activated(self, state: Angular) -> Angular:
        """State of φ(u) and φ(v), in sums of non-negative terms only (for slope >= 0)."""
        if isinstance(state, Versines):
            return _versines.activated(state, self._slope(state.versine.dtype))
        slope = jnp.asarray(self.slope, state.covariance.dtype)
        norm_x, norm_z, gap, covariance, defect, antidefect = state
        kink = 0.5 * (1 - slope) ** 2
        scale = jnp.sqrt(self.mean_square(jnp.ones_like(slope)))
        # ‖a‖‖b‖ times the arc-cosine kernel of degree 1, and times one minus it; from the nearer of the two
        # poles, parallel or antiparallel, so that neither cancels.
        acute, near, far = _nearer_pole(state)
        excess = arc_excess(near, far) / jnp.pi
        half_sum = 0.5 * (defect + antidefect)
        arc = jnp.where(acute, covariance, 0) + excess
        arc_defect = jnp.where(acute, defect, half_sum) - excess
        return Wedge(
            norm_x=scale * norm_x,
            norm_z=scale * norm_z,
            gap=scale * gap,
            covariance=slope * covariance + kink * arc,
            defect=slope * defect + kink * arc_defect,
            antidefect=slope * antidefect + kink * (half_sum + arc),
        )

    def derivative_covariance(self, state: Angular) -> Array:
        """slope + ½(1 − slope)² (1 − θ/π)."""
        if isinstance(state, Versines):
            return _versines.derivative_covariance(state, self._slope(state.versine.dtype))
        slope = jnp.asarray(self.slope, state.covariance.dtype)
        acute, near, far = _nearer_pole(state)
        turn = angle(near, far) / jnp.pi
        return slope + 0.5 * (1 - slope) ** 2 * jnp.where(acute, 1 - turn, turn)

    @property
    def smoothness(self) -> tuple[int | float, int | float]:
        """E[φφ] has two derivatives where points coincide, E[φ'φ'] none."""
        return 2, 0


def _nearer_pole(state: Wedge) -> tuple[Array, Array, Array]:
    """Whether the points are nearer to parallel than to antiparallel, and the smaller and the larger defect."""
    acute = state.defect <= state.antidefect
    near, far = jnp.where(acute, state.defect, state.antidefect), jnp.where(acute, state.antidefect, state.defect)
    return acute, near, far


def _snap(value: Array, to_zero: Array) -> Array:
    """0 where told, with the derivatives of `value` kept."""
    return jnp.where(to_zero, value - jax.lax.stop_gradient(value), value)


class ReLU(LeakyReLU):
    """φ(u) = max(u, 0)."""

    slope: Scalar = eqx.field(static=True, default=0.0)
