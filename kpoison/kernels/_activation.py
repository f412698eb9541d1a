"""Dual activations: what one hidden layer does to the covariance of its pre-activations.

For (u, v) jointly Gaussian with covariance [[qx, K], [K, qz]] and an activation φ, a layer maps K to
E[φ(u)φ(v)] (its dual activation: Daniely, Frostig, Singer 2016), and the NTK also needs E[φ'(u)φ'(v)], which
is the derivative of the dual with respect to K (Price's theorem).
"""

import abc
from typing import Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from kpoison._batches import in_batches
from kpoison.kernels._cusp import cusp_sqrt
from kpoison.kernels._versines import Versines

__all__ = ["Activation", "Angular", "Covariance", "Wedge"]


class Covariance(NamedTuple):
    """Covariance of the pre-activations of a layer at two points; broadcastable arrays.

    Attributes:
        variance_x: qx = K(x, x).
        variance_z: qz = K(z, z).
        covariance: K(x, z).
    """

    variance_x: Array
    variance_z: Array
    covariance: Array

    def dense(self, weight_variance: Array, bias_variance: Array) -> "Covariance":
        """After a dense layer."""
        return Covariance(*(weight_variance * number + bias_variance for number in self))


class Wedge(NamedTuple):
    """The same covariance, in numbers that keep full relative precision for (anti)parallel points.

    Attributes:
        norm_x, norm_z: standard deviations √K(x, x) and √K(z, z).
        gap: norm_x − norm_z.
        covariance: K(x, z) = norm_x norm_z cos θ.
        versine: sin²(θ/2) = (1 − cos θ)/2; where a norm is 0 the angle is a right one.
        coversine: cos²(θ/2) = (1 + cos θ)/2; None where no angle can be more than 90°.
    """

    norm_x: Array
    norm_z: Array
    gap: Array
    covariance: Array
    versine: Array
    coversine: Array | None

    def dense(self, weight_variance: Array, bias_variance: Array) -> "Wedge":
        """After a dense layer, in sums of non-negative terms only."""
        norm_x, norm_z, gap, covariance, versine, coversine = self
        new_x = cusp_sqrt(weight_variance * norm_x**2 + bias_variance)
        new_z = cusp_sqrt(weight_variance * norm_z**2 + bias_variance)
        total, product, kept = new_x + new_z, new_x * new_z, weight_variance * norm_x * norm_z
        inverse = jnp.where(product > 0, 1 / jnp.where(product > 0, product, 1), 0)
        share, bias_share, right = kept * inverse, bias_variance * inverse, jnp.where(product > 0, 0, 0.5)
        # (√((a+b)(c+b)) − √(ac) − b)/2√((a+b)(c+b)) for the bias variance b, without cancellation.
        divisor = product + kept + bias_variance
        bias_versine = 0.5 * bias_share * weight_variance * (gap**2 / jnp.where(product > 0, divisor, 1)) + right
        return Wedge(
            norm_x=new_x,
            norm_z=new_z,
            gap=weight_variance * gap * ((norm_x + norm_z) / jnp.where(total > 0, total, 1)),
            covariance=weight_variance * covariance + bias_variance,
            versine=share * versine + bias_versine,
            coversine=None if coversine is None else share * coversine + bias_versine + bias_share,
        )


Angular = Wedge | Versines
State = TypeVar("State", bound=Covariance | Angular)


class Activation(eqx.Module, Generic[State]):
    """An activation function φ and its effect on covariances.

    `input_state` and `input_gram` start the recursion with the first dense layer's pre-activations, of covariance
    weight_variance · x·z + bias_variance (weight_variance already divided by the input dimension).
    """

    @abc.abstractmethod
    def __call__(self, u: Array) -> Array:
        """φ(u), elementwise: what a finite network applies."""

    @abc.abstractmethod
    def input_state(self, x: Array, z: Array, weight_variance: Array, bias_variance: Array) -> State:
        """State of the first layer at two single points, computed from their difference."""

    def input_pairs(self, X1: Array, X2: Array, weight_variance: Array, bias_variance: Array) -> State:
        """The same at all pairs, computed from their differences."""

        def row(x):
            return jax.vmap(lambda z: self.input_state(x, z, weight_variance, bias_variance))(X2)

        return in_batches(row, X1, X2.size)

    @abc.abstractmethod
    def input_gram(self, X1: Array, X2: Array, weight_variance: Array, bias_variance: Array) -> State:
        """State of the first layer at all pairs, computed from a matrix product."""

    def layer(self, state: State, weight_variance: Array, bias_variance: Array) -> State:
        """State after φ and one more dense layer."""
        return self.activated(state).dense(weight_variance, bias_variance)  # pyright: ignore[reportReturnType]

    def tangent_kernel(self, state: State, hidden_layers: int, weight_variance: Array, bias_variance: Array) -> Array:
        """Neural tangent kernel of a network with this first layer."""
        tangent = state.covariance
        for _ in range(hidden_layers):
            slope = weight_variance * self.derivative_covariance(state)
            state = self.layer(state, weight_variance, bias_variance)
            tangent = state.covariance + slope * tangent
        return tangent

    @abc.abstractmethod
    def mean_square(self, variance: Array) -> Array:
        """E[φ(u)²], elementwise."""

    @abc.abstractmethod
    def activated(self, state: State) -> State:
        """State of φ(u) and φ(v), before any further layer."""

    @abc.abstractmethod
    def derivative_covariance(self, state: State) -> Array:
        """E[φ'(u)φ'(v)]; not a part of `layer`, since E[φφ] has derivatives where this has none."""

    @property
    @abc.abstractmethod
    def smoothness(self) -> tuple[int | float, int | float]:
        """How often E[φφ] and E[φ'φ'] are continuously differentiable at coincident points."""
