"""Kernels of convolutional layers at pairs of positions, for many pairs of images at once.

A convolution moves both positions of a pair together.  Pairs at one displacement (position p of one image, p + δ of the
other) therefore never mix with others, and everything here is elementwise over them but for averages over windows.
Arrays have shape (height, width, *lanes): the first position, then whatever pairs there are; the last axis is the one
that compilers turn into vector code, and no window slides along it.

With ⟨·⟩ the mean over a window, σ_w² and σ_b² the variances and F, F′ what the activation makes of a covariance, at
every position and layer by layer (`Layers.sums`), those of the layer before with a minus:

    Σ₁ = σ_w² ⟨x·z/channels⟩ + σ_b²       Θ₁ = Σ₁
    Σ  = σ_w² ⟨F(Σ₋)⟩ + σ_b²              Θ  = Σ + σ_w² ⟨F′(Σ₋) Θ₋⟩
    result: the sum over positions of F(Σ), or of F(Σ) + F′(Σ) Θ for the tangent kernel

What belongs to no pixel of both images is 0 before every window.  Of an image with itself at no displacement Σ is the
variance in `Side.spreads`, and its `defect` (`_Distances`) is 0.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._linear_algebra import matrix_product
from kpoison.kernels._cusp import cusp_sqrt
from kpoison.kernels.activations import Activation, Covariance, LeakyReLU, Wedge

__all__ = ["Layers", "Side", "window_sum"]

_NOISE = 64  # rounding errors, in units of eps, that may be left of exactly collinear vectors


def window_sum(values: Float[Array, "H W ..."], filter_size: int) -> Float[Array, "H W ..."]:
    """Sums over filter_size × filter_size windows of the first two axes; 0 where a window does not fit in.

    Products with band matrices.  Sums of shifted arrays would need fewer additions, but compilers merge them with the
    calculation of their terms into programs that are no vector code, ten times as slow.
    """
    height, width, lanes = values.shape[0], values.shape[1], values.shape[2:]
    rows, columns = (jnp.asarray(_band(size, filter_size), values.dtype) for size in (height, width))
    by_rows = matrix_product(rows, values.reshape(height, -1)).reshape(height, width, -1)
    return jnp.einsum("vw,hwl->hvl", columns, by_rows, precision="highest").reshape(height, width, *lanes)


def _band(size: int, filter_size: int) -> np.ndarray:
    """Which places the window about each place holds."""
    reach = filter_size // 2
    centre = np.arange(size)
    distance = np.abs(centre[:, None] - centre[None])
    return (distance <= reach) & ((centre >= reach) & (centre < size - reach))[:, None]


class Side(NamedTuple):
    """What depends on one image of a pair only; see `Layers.side`.  Zeros surround the image, as far as windows reach.

    Attributes:
        pixels: shape (channels, height, width, *lanes).
        spreads: for each layer the variances of the pre-activations, or, for a kinked activation, their standard
            deviations; shape (height, width, *lanes).
        inside: 1 inside the image and 0 around it.
    """

    pixels: Float[Array, "C H W ..."]
    spreads: tuple[Float[Array, "H W ..."], ...]
    inside: Float[Array, "H W ..."]


class Layers(eqx.Module):
    """Convolutional layers, each followed by the activation, all with the same variances of weights and biases.

    Attributes:
        tangent: whether `sums` is that of the tangent kernel or of the covariance.
    """

    activation: Activation
    weight_variance: Float[Array, ""]
    bias_variance: Float[Array, ""]
    number: int = eqx.field(static=True)
    filter_size: int = eqx.field(static=True)
    tangent: bool = eqx.field(static=True)

    @property
    def reach(self) -> int:
        """How far windows reach beyond the image."""
        return self.filter_size // 2

    def average(self, values: Float[Array, "H W ..."]) -> Float[Array, "H W ..."]:
        """weight_variance times the mean over windows; what surrounds an image counts, as it does in the network."""
        return self.weight_variance / self.filter_size**2 * window_sum(values, self.filter_size)

    def first_average(self, products: Float[Array, "C H W ..."]) -> Float[Array, "H W ..."]:
        """`average` of the mean over channels."""
        return self.average(jnp.sum(products, axis=0) / products.shape[0])

    def side(self, images: Float[Array, "n H W C"]) -> Side:
        """What depends on each of many images only, with one axis of lanes."""
        surround = [(0, 0), (self.reach, self.reach), (self.reach, self.reach), (0, 0)]
        pixels = jnp.pad(jnp.transpose(images, (3, 1, 2, 0)), surround)
        inside = jnp.pad(jnp.ones(images.shape[1:3], images.dtype), surround[1:3])[..., None]
        variances = [inside * (self.first_average(pixels * pixels) + self.bias_variance)]
        for _ in range(self.number - 1):
            mean_squares = inside * self.activation.mean_square(variances[-1])
            variances.append(inside * (self.average(mean_squares) + self.bias_variance))
        if isinstance(self.activation, LeakyReLU):
            # Around the image the square root has no second derivative that anybody asked for.
            variances = [inside * cusp_sqrt(jnp.where(inside > 0, variance, 1)) for variance in variances]
        return Side(pixels, tuple(variances), jnp.broadcast_to(inside, pixels.shape[1:]))

    def gaps(self, x: Side, z: Side) -> tuple[Float[Array, "H W ..."], ...] | None:
        """Differences of standard deviations at equal positions, layer by layer, where nothing cancels.

        Lanes broadcast.  None for a smooth activation, which needs none.
        """
        if not isinstance(self.activation, LeakyReLU):
            return None
        difference = self.first_average((x.pixels - z.pixels) * (x.pixels + z.pixels))
        gaps = []
        for norm_x, norm_z in zip(x.spreads, z.spreads, strict=True):
            if gaps:
                difference = self.average(self.activation.mean_square(difference))
            total = norm_x + norm_z
            gaps.append(difference / jnp.where(total > 0, total, 1))
        return tuple(gaps)

    def sums(self, x: Side, z: Side, gaps: tuple[Float[Array, "H W ..."], ...] | None = None) -> Float[Array, "P Q"]:
        """Kernel after the last activation, summed over positions; two axes of lanes, in which x and z broadcast.

        Args:
            x: one side.
            z: the other, moved by the displacement.
            gaps: norms of x minus norms of z, layer by layer; by default their difference.
        """
        inside = x.inside * z.inside
        moments: Any = _Distances if isinstance(self.activation, LeakyReLU) else _Covariances
        moments = moments(self, x, z, inside, gaps)
        state = activated = moments.first()
        tangent = state.covariance
        for layer in range(self.number):
            if layer > 0:
                state = moments.after(activated, layer)
                if self.tangent:
                    tangent = state.covariance + self.average(inside * tangent)
            if self.tangent:
                tangent = self.activation.derivative_covariance(state) * tangent
            activated = self.activation.activated(state)
        last = inside * (activated.covariance + tangent if self.tangent else activated.covariance)
        # As a product with ones, for the reason that `window_sum` gives.
        last = last.reshape(last.shape[0] * last.shape[1], *last.shape[2:])
        return jnp.einsum("p,pij->ij", jnp.ones(len(last), last.dtype), last, precision="highest")


class _Covariances(NamedTuple):
    """Covariances pass through windows as they are: for smooth activations."""

    layers: Layers
    x: Side
    z: Side
    inside: Array
    gaps: None

    def first(self) -> Covariance:
        """State of the first layer."""
        return self._state(self.layers.first_average(self.x.pixels * self.z.pixels), 0)

    def after(self, activated: Covariance, layer: int) -> Covariance:
        """State of a layer from that of the one before."""
        return self._state(self.layers.average(self.inside * activated.covariance), layer)

    def _state(self, average: Array, layer: int) -> Covariance:
        covariance = self.inside * (average + self.layers.bias_variance)
        return Covariance(self.x.spreads[layer], self.z.spreads[layer], covariance)


class _Distances(NamedTuple):
    """Half the squared distances ½‖a − b‖² = defect + ½ gap², defect = ‖a‖‖b‖ − a·b, pass through windows: for kinks.

    A sum of non-negative terms, so that nothing cancels where images are close.  What windows do to a defect itself
    is no average.  Its relative error is eps ‖a − b‖²/(2 defect), large only where a − b is nearly along a.
    """

    layers: Layers
    x: Side
    z: Side
    inside: Array
    gaps: tuple[Array, ...] | None

    def first(self) -> Wedge:
        """State of the first layer, antiparallel vectors as exact as parallel ones."""
        first = self.layers.first_average
        difference, total = self.x.pixels - self.z.pixels, self.x.pixels + self.z.pixels
        along = first(0.5 * total * total) + 2 * self.layers.bias_variance
        return self._wedge(first(0.5 * difference * difference), 0, along)

    def after(self, activated: Wedge, layer: int) -> Wedge:
        """State of a layer from that of the one before."""
        # Around one of the images a window sees the vectors of the other alone.
        gap = self._gap(layer - 1)
        product = activated.norm_x * activated.norm_z
        defect = jnp.where(product > 0, 2 * product * activated.versine, -activated.covariance)  # where 0, its slope
        half_square = self.inside * defect + 0.5 * self.layers.activation.mean_square(gap * gap)
        return self._wedge(self.layers.average(half_square), layer, None)

    def _gap(self, layer: int) -> Array:
        if self.gaps is not None:
            return self.gaps[layer]
        return self.x.spreads[layer] - self.z.spreads[layer]

    def _wedge(self, apart: Array, layer: int, along: Array | None) -> Wedge:
        """The state from ½‖a − b‖² and, where it is known, ½‖a + b‖²; a right angle outside of an image."""
        inside = self.inside > 0
        norm_x, norm_z = (jnp.where(s.inside > 0, s.spreads[layer], 1) for s in (self.x, self.z))
        gap = self._gap(layer)
        product, half_square = norm_x * norm_z, 0.5 * gap * gap
        defect = jnp.where(inside, _without_noise(apart - half_square, apart, product), product)

        def half(number):
            return jnp.where(product > 0, number / jnp.where(product > 0, 2 * product, 1), 0.5)

        versine = half(defect)
        coversine = 1 - versine
        if along is not None:
            coversine = half(jnp.where(inside, _without_noise(along - half_square, along, product), product))
        return Wedge(norm_x, norm_z, gap, product - defect, versine, coversine)


def _without_noise(value: Array, terms: Array, product: Array) -> Array:
    """0, with the derivatives of `value`, where it may be no more than what rounding has left of larger terms.

    The direction of rounding errors would decide the derivative of the angle there.
    """
    noise = (value <= _NOISE * jnp.finfo(value.dtype).eps * terms) | (product == 0)
    return jnp.where(noise, value - jax.lax.stop_gradient(value), value)
