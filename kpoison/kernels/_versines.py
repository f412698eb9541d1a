"""Gram matrices of (leaky) ReLU networks: per layer and pair one angle, everything else per point.

The angle of a `Wedge` has all its digits, since the difference of single points is known.  A Gram matrix knows inner
products to rounding only, and then v = sin²(θ/2) is all there is to know of a pair: in a third of the time.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._linear_algebra import matrix_product
from kpoison.kernels._cusp import arc_excess, cusp_sqrt, versine_angle

__all__ = ["Slope", "Versines", "activated", "derivative_covariance", "first_layer", "is_relu", "tangent_kernel"]

Slope = float | Array  # an array where it may be traced


class Versines(NamedTuple):
    """Covariance of the pre-activations of a layer at all pairs of two sets of points.

    Attributes:
        norm_x, norm_z: standard deviations, shapes (n1, 1) and (1, n2).
        versine: v = sin²(θ/2) = (1 − cos θ)/2, shape (n1, n2); exactly 0 for points that count as coincident.
        acute: whether no angle can be more than 90°.
    """

    norm_x: Float[Array, "n1 1"]
    norm_z: Float[Array, "1 n2"]
    versine: Float[Array, "n1 n2"]
    acute: bool = False

    @property
    def cosine(self) -> Float[Array, "n1 n2"]:
        """cos θ."""
        return 1 - 2 * self.versine

    @property
    def covariance(self) -> Float[Array, "n1 n2"]:
        """K(x, z) = ‖a‖‖b‖ cos θ."""
        return self.norm_x * self.norm_z * self.cosine

    def share(self, weight_variance: Array, bias_variance: Array) -> Float[Array, "n1 n2"]:
        """weight_variance ‖a‖‖b‖/‖a'‖‖b'‖ for a' = (√weight_variance a, √bias_variance)."""
        first_x, first_z = (_halved(norm, weight_variance, bias_variance)[1] for norm in (self.norm_x, self.norm_z))
        return 4 * first_x * first_z

    def dense(self, weight_variance: Array, bias_variance: Array) -> "Versines":
        """After a dense layer, a' = (√weight_variance a, √bias_variance).

        v' is that of the 2-vectors (√weight_variance ‖a‖, √bias_variance)/‖a'‖, from differences of numbers of one
        point each, and, times the product of their first coordinates, that of a.
        """
        norm_x, first_x, second_x = _halved(self.norm_x, weight_variance, bias_variance)
        norm_z, first_z, second_z = _halved(self.norm_z, weight_variance, bias_variance)
        apart = (first_x - first_z) ** 2 + (second_x - second_z) ** 2
        return Versines(norm_x, norm_z, 4 * first_x * first_z * self.versine + apart, self.acute)


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


def activated(state: Versines, slope: Slope) -> Versines:
    """After leaky ReLU."""
    near, scale = _nearer_pole(state), _mean_square(slope) ** 0.5
    # (1 − κ)/2 for the arc-cosine kernel κ of degree 1; from the nearer pole, where it does not cancel.
    arc_versine = _at_poles(state, near, 0.5) - arc_excess(near, relative=False) / (2 * jnp.pi)
    versine = _over_mean_square(slope, state.versine, arc_versine)
    return Versines(scale * state.norm_x, scale * state.norm_z, versine, acute=is_relu(slope))


def derivative_covariance(state: Versines, slope: Slope) -> Float[Array, "n1 n2"]:
    """slope + ½(1 − slope)² (1 − θ/π)."""
    return _mean_square(slope) * _derivative_cosine(state, slope)


def tangent_kernel(
    state: Versines, hidden_layers: int, slope: Slope, weight_variance: Array, bias_variance: Array
) -> Float[Array, "n1 n2"]:
    """Neural tangent kernel of the network with this first layer.

    Its recursion divided by ‖a‖‖b‖: with numbers of one point each that `dense` has already taken.
    """
    tangent = state.cosine
    for _ in range(hidden_layers):
        derivative, hidden = _derivative_cosine(state, slope), activated(state, slope)
        share, state = hidden.share(weight_variance, bias_variance), hidden.dense(weight_variance, bias_variance)
        tangent = state.cosine + share * derivative * tangent
    return state.norm_x * state.norm_z * tangent


def _derivative_cosine(state: Versines, slope: Slope) -> Float[Array, "n1 n2"]:
    """E[φ'(u)φ'(v)]/E[φ'(u)²]: for ReLU 1 − θ/π."""
    turn = versine_angle(_nearer_pole(state)) / jnp.pi
    return _over_mean_square(slope, 1, _at_poles(state, 1 - turn, turn))


def _mean_square(slope: Slope) -> Slope:
    """E[φ(u)²]/E[u²] = E[φ'(u)²]."""
    return 0.5 * (1 + slope**2)


def _over_mean_square(slope: Slope, linear: Array | int, arc: Array) -> Array:
    """(slope · linear + ½(1 − slope)² arc)/½(1 + slope²)."""
    if is_relu(slope):
        return arc
    return (slope / _mean_square(slope)) * linear + (0.5 * (1 - slope) ** 2 / _mean_square(slope)) * arc


def is_relu(slope: Slope) -> bool:
    """Whether the slope is known to be 0."""
    return isinstance(slope, int | float) and slope == 0


def _nearer_pole(state: Versines) -> Float[Array, "n1 n2"]:
    """The versine of the angle to the nearer of parallel and antiparallel."""
    if state.acute:  # to rounding
        return jnp.minimum(state.versine, 0.5)
    return _at_poles(state, state.versine, 1 - state.versine)


def _at_poles(state: Versines, parallel: Array, antiparallel: Array | float) -> Float[Array, "n1 n2"]:
    """One number for angles of at most 90°, and another beyond."""
    return parallel if state.acute else jnp.where(state.versine <= 0.5, parallel, antiparallel)


def _halved(norm: Array, weight_variance: Array, bias_variance: Array) -> tuple[Array, Array, Array]:
    """‖a'‖, and the 2-vector (√weight_variance ‖a‖, √bias_variance)/2‖a'‖."""
    new = cusp_sqrt(weight_variance * norm**2 + bias_variance)
    # Quotients, and not products with an inverse, which a compiler would take again for every pair.
    twice = 2 * jnp.where(new > 0, new, 1)
    return new, cusp_sqrt(weight_variance) * norm / twice, cusp_sqrt(bias_variance) / twice


def _inverse(norm: Array) -> Array:
    """1/norm; 0 for 0."""
    return jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)
