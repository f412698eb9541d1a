"""Gram matrices of (leaky) ReLU networks: per layer and pair one angle, everything else per point.

The defect of a `Wedge` is exact for single points, whose difference is known.  A Gram matrix knows inner products to
rounding only, and then v = sin²(θ/2) is all there is to know of a pair: without divisions, in a third of the time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison.kernels._cusp import arc_excess_of_versine, cusp_sqrt, versine_angle
from kpoison.kernels.base import matrix_product

__all__ = ["Versines", "activated", "derivative_covariance", "first_layer"]


class Versines(NamedTuple):
    """Covariance of the pre-activations of a layer at all pairs of two sets of points.

    Attributes:
        norm_x, norm_z: standard deviations, shapes (n1, 1) and (1, n2).
        versine: v = sin²(θ/2) = (1 − cos θ)/2, shape (n1, n2); exactly 0 for points that count as coincident.
    """

    norm_x: Float[Array, "n1 1"]
    norm_z: Float[Array, "1 n2"]
    versine: Float[Array, "n1 n2"]

    @property
    def covariance(self) -> Float[Array, "n1 n2"]:
        """K(x, z) = ‖a‖‖b‖ cos θ."""
        return self.norm_x * self.norm_z * (1 - 2 * self.versine)

    def dense(self, weight_variance: Array, bias_variance: Array) -> "Versines":
        """After a dense layer, a' = (√weight_variance a, √bias_variance).

        v' is that of the 2-vectors (√weight_variance ‖a‖, √bias_variance)/‖a'‖, from differences of numbers of one
        point each, and, times their first coordinates, that of a.
        """
        norm_x, first_x, second_x = _normalised(self.norm_x, weight_variance, bias_variance)
        norm_z, first_z, second_z = _normalised(self.norm_z, weight_variance, bias_variance)
        apart = 0.25 * ((first_x - first_z) ** 2 + (second_x - second_z) ** 2)
        return Versines(norm_x, norm_z, apart + first_x * first_z * self.versine)


def first_layer(
    X1: Float[Array, "n1 d"], X2: Float[Array, "n2 d"], weight_variance: Array, bias_variance: Array
) -> Versines:
    """From one matrix product; pairs beyond its resolution are parallel or antiparallel, and x with itself is."""
    norm_x = cusp_sqrt(weight_variance * jnp.sum(X1 * X1, axis=1)[:, None] + bias_variance)
    norm_z = cusp_sqrt(weight_variance * jnp.sum(X2 * X2, axis=1)[None, :] + bias_variance)
    product = weight_variance * matrix_product(X1, X2.T) + bias_variance
    # A vector of length 0 is at a right angle to all others: see `NTK`.
    versine = 0.5 - 0.5 * product * (_inverse(norm_x) * _inverse(norm_z))
    resolution = 4 * jnp.finfo(X1.dtype).eps
    # Compared so that NaN stays NaN.
    parallel = versine <= resolution
    if X1 is X2:
        parallel |= jnp.eye(len(X1), dtype=bool) & (norm_x > 0) & jnp.isfinite(versine)
    versine = jnp.where(parallel, 0, jnp.where(versine >= 1 - resolution, 1, versine))
    return Versines(norm_x, norm_z, versine)


def activated(state: Versines, slope: Array) -> Versines:
    """After leaky ReLU."""
    acute, near = _nearer_pole(state)
    mean_square, kink = 0.5 * (1 + slope**2), 0.5 * (1 - slope) ** 2
    # (1 − κ)/2 for the arc-cosine kernel κ of degree 1; from the nearer pole, where it does not cancel.
    arc_versine = jnp.where(acute, near, 0.5) - arc_excess_of_versine(near) / (2 * jnp.pi)
    scale = jnp.sqrt(mean_square)
    versine = (slope * state.versine + kink * arc_versine) / mean_square
    return Versines(scale * state.norm_x, scale * state.norm_z, versine)


def derivative_covariance(state: Versines, slope: Array) -> Float[Array, "n1 n2"]:
    """slope + ½(1 − slope)² (1 − θ/π)."""
    acute, near = _nearer_pole(state)
    turn = versine_angle(near) / jnp.pi
    return slope + 0.5 * (1 - slope) ** 2 * jnp.where(acute, 1 - turn, turn)


def _nearer_pole(state: Versines) -> tuple[Array, Array]:
    """Whether the angle is at most 90°, and the versine of the angle to the nearer of parallel and antiparallel."""
    acute = state.versine <= 0.5
    return acute, jnp.where(acute, state.versine, 1 - state.versine)


def _normalised(norm: Array, weight_variance: Array, bias_variance: Array) -> tuple[Array, Array, Array]:
    """‖a'‖, and the 2-vector (√weight_variance ‖a‖, √bias_variance)/‖a'‖."""
    new = cusp_sqrt(weight_variance * norm**2 + bias_variance)
    inverse = _inverse(new)
    # Else a compiler takes these roots and quotients again for every pair.
    return jax.lax.optimization_barrier(
        (new, cusp_sqrt(weight_variance) * norm * inverse, cusp_sqrt(bias_variance) * inverse)
    )


def _inverse(norm: Array) -> Array:
    """1/norm; 0 for 0."""
    return jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)
