"""Infinite-width convolutional networks: the NNGP and the neural tangent kernel of images."""

from collections.abc import Callable
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._batches import at_once, in_parts
from kpoison._typing import Scalar
from kpoison._validation import between_points, check_integer, check_name, check_positive
from kpoison.kernels._batched import BatchedKernel
from kpoison.kernels._blocks import block_sizes, by_blocks, check_result
from kpoison.kernels._positions import Layers, Side
from kpoison.kernels.activations import Activation, as_activation
from kpoison.kernels.base import Traits

__all__ = ["ConvolutionalKernel", "ConvolutionalNNGP", "ConvolutionalNTK", "Readout"]

Readout = Literal["pool", "flatten"]
"""Global average pooling, or a weight of its own for every pixel and channel."""

_FLOATS_PER_POSITION = 16  # about ten arrays are under way together in a Gram matrix, and some of their copies


class ConvolutionalKernel(BatchedKernel):
    """Kernel of a convolutional network in NTK parameterisation, in the limit of infinitely many channels.

    Every convolution has stride 1 and zero padding that keeps the size of the image ("SAME"), every layer is
    weight_std/√fan_in · W x + bias_std · b with standard normal W and b, as in neural-tangents' ``stax.serial(
    Conv(w, (f, f), (1, 1), "SAME", weight_std, bias_std), Relu(), ..., GlobalAvgPool(), Dense(1, weight_std,
    bias_std))``, or with ``Flatten()`` in place of ``GlobalAvgPool()``.  fan_in is f² times the number of channels at
    the border, too.  Points are images, shape (height, width, channels).

    A pair of images of P pixels takes hidden_layers · P steps with "flatten" and hidden_layers · P² with "pool".
    Temporaries of a Gram matrix or of gradients stay below 256 MiB for images of up to 128 × 128 pixels, beside the
    images themselves and hidden_layers + 1 numbers for each of their pixels.

    Args:
        hidden_layers: number of convolutions, each followed by the activation, an integer >= 1.
        activation: a name ("relu", "leaky_relu", "erf", "gelu", "sin", "cos", "tanh", "sigmoid", "softplus",
            "silu"), an `Activation`, or any smooth elementwise function.
        weight_std: standard deviation of the weights, > 0.
        bias_std: standard deviation of the biases, >= 0.
        filter_size: f, side of the filters in pixels, an odd integer >= 1.
        readout: "pool" (global average pooling) or "flatten".

    Raises:
        TypeError, ValueError: for arguments that do not fit; ValueError, too, for a filter of which some weights would
            never see a pixel of the images (filter_size > 2 min(height, width) − 1) and for Gram matrices that do not
            fit in memory.
    """

    hidden_layers: int = eqx.field(static=True)
    activation: Activation
    weight_std: Scalar
    bias_std: Scalar
    filter_size: int = eqx.field(static=True)
    readout: Readout = eqx.field(static=True)

    def __init__(
        self,
        hidden_layers: int = 3,
        activation: "str | Activation | Callable[[Array], Array]" = "relu",
        weight_std: Scalar = 2**0.5,
        bias_std: Scalar = 0.0,
        filter_size: int = 3,
        readout: Readout = "pool",
    ):
        self.hidden_layers = check_integer("hidden_layers", hidden_layers, 1)
        self.activation = as_activation(activation)
        check_positive("weight_std", weight_std)
        check_positive("bias_std", bias_std, zero=True)
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.filter_size = check_integer("filter_size", filter_size, 1)
        if self.filter_size % 2 == 0:
            raise ValueError(f"filter_size must be odd, got {filter_size}")
        self.readout = check_name("readout", readout, get_args(Readout))

    @property
    def _tangent(self) -> bool:
        """Whether it is the tangent kernel."""
        raise NotImplementedError

    @property
    def traits(self) -> Traits:
        """Of images, in blocks."""
        return Traits(self.smoothness, point_ndim=3, makes_half=True)

    @between_points
    def evaluate(self, x: Float[Array, "H W C"], z: Float[Array, "H W C"]) -> Float[Array, ""]:
        """k(x, z) for two single images."""
        if x.ndim != self.point_ndim:
            raise ValueError(f"x must be an image of shape (height, width, channels), got shape {x.shape}")
        return self.pairs(x[None], z[None])[0]

    def gram(self, X1: Float[Array, "n1 H W C"], X2: Float[Array, "n2 H W C"]) -> Float[Array, "n1 n2"]:
        """Gram matrix, block by block; of equal arguments the lower half."""
        return self._matrix(X1, X2, exact_gaps=False)

    def pairwise(self, X1: Float[Array, "n1 H W C"], X2: Float[Array, "n2 H W C"]) -> Float[Array, "n1 n2"]:
        """The same with the digits of `evaluate`, at little more cost."""
        return self._matrix(X1, X2, exact_gaps=True)

    def pairs(self, X: Float[Array, "n H W C"], Z: Float[Array, "n H W C"]) -> Float[Array, " n"]:
        """k(x_i, z_i), all at once."""
        layers = self._layers(X)
        x, z = (_with_lanes(layers.side(images), -2) for images in (X, Z))
        return self._readout(layers, x, z, exact_gaps=True)[0]

    def pair_bytes(self, shape: tuple[int, ...]) -> int:
        """Four numbers of float64 for each pair of positions that are under way together, and layer."""
        return 32 * self.hidden_layers * self._positions(*shape[:2])

    def pairs_at_once(self, shape: tuple[int, ...]) -> int:
        """So many that they have about 2¹⁸ pairs of positions, at least one."""
        return at_once(_FLOATS_PER_POSITION * self._positions(*shape[:2]))

    # --- Blocks ---

    def _layers(self, images: Float[Array, "n H W C"]) -> Layers:
        """The convolutions, checked against the images."""
        height, width = images.shape[1:3]
        if self.filter_size > 2 * min(height, width) - 1:
            raise ValueError(
                f"filter_size must be at most {2 * min(height, width) - 1} for images of shape ({height}, {width}): "
                f"some weights would never see a pixel, got {self.filter_size}"
            )
        weights, biases = (jnp.asarray(std, images.dtype) ** 2 for std in (self.weight_std, self.bias_std))
        return Layers(self.activation, weights, biases, self.hidden_layers, self.filter_size, self._tangent)

    def _positions(self, height: int, width: int) -> int:
        """Pairs of positions of two images that are under way together: with pooling those of one row displacement."""
        reach = self.filter_size // 2
        positions = (height + 2 * reach) * (width + 2 * reach)
        return positions * (width + reach) if self.readout == "pool" else positions

    def _matrix(self, X1: Array, X2: Array, *, exact_gaps: bool) -> Array:
        layers = self._layers(X1)
        n1, n2 = len(X1), len(X2)
        check_result(n1, n2, X1.dtype.itemsize)
        rows, columns = block_sizes(n1, n2, self.pairs_at_once(X1.shape[1:]), symmetric=X1 is X2)
        first = jax.tree.map(lambda part: in_parts(part, rows, axis=-1), layers.side(X1))
        second = first if X1 is X2 else jax.tree.map(lambda part: in_parts(part, columns, axis=-1), layers.side(X2))

        def block(i, j):
            x = _with_lanes(jax.tree.map(lambda part: part[i], first), -1)
            z = _with_lanes(jax.tree.map(lambda part: part[j], second), -2)
            return self._readout(layers, x, z, exact_gaps=exact_gaps)

        return by_blocks(block, (n1, n2), (rows, columns), symmetric=X1 is X2)

    def _readout(self, layers: Layers, x: Side, z: Side, *, exact_gaps: bool) -> Float[Array, "P Q"]:
        """The kernel of pairs: lanes of x are (P, 1) or, for pairs one by one, (1, Q), those of z (1, Q)."""
        gaps = layers.gaps(x, z) if exact_gaps else None
        height, width = (size - 2 * layers.reach for size in z.pixels.shape[1:3])
        if self.readout == "flatten":
            mean = layers.sums(x, z, gaps) / (height * width)
        else:
            mean = _sum_of_displacements(layers, x, z, gaps) / (height * width) ** 2
        return layers.weight_variance * mean + layers.bias_variance


def _with_lanes(side: Side, axis: int) -> Side:
    """One axis of lanes made two."""
    return jax.tree.map(lambda part: jnp.expand_dims(part, axis), side)


def _sum_of_displacements(layers: Layers, x: Side, z: Side, gaps: tuple[Array, ...] | None) -> Float[Array, "P Q"]:
    """`Layers.sums` over all displacements of z, all of one row displacement at once.

    Images are laid on a torus with a gap as wide as windows reach, so that one turn around it has every displacement,
    forth and back, and windows never see both ends of an image.

    In the order of the code, for images of (height, width) with the zeros around them and the torus (around, across):

        turned   z by every column displacement          (height + around, width, 1, Q·across), lanes last
        there    height of its rows, from one displacement on   (height, width, 1, Q·across)
        moved    gaps to that z, layer by layer          (height, width, P, Q·across)
        sums     the kernel, summed over positions       (P, Q·across); over column displacements (P, Q)

    Every pair of positions comes once: x.inside · there.inside, summed over positions and all displacements, is the
    square of the number of pixels.
    """
    reach = layers.reach
    height, width = z.pixels.shape[1:3]
    around, across = height - reach, width - reach  # of the torus
    columns = (np.arange(width)[:, None] + np.arange(across)[None]) % across
    rows = np.arange(height + around) % around
    pairs = z.pixels.shape[-1]

    def repeated(values):
        """For every column displacement."""
        return jnp.repeat(values, across, axis=-1)

    def displaced(values):
        """By every column displacement, on rows that go round the torus."""
        values = values[..., :around, :across, 0, :][..., columns, :]
        values = jnp.swapaxes(jnp.take(values, rows, axis=-4), -1, -2)
        return values.reshape(*values.shape[:-2], 1, pairs * across)

    # Position 0 of the torus is that of the surrounding zeros in the top left corner.
    turned = jax.tree.map(displaced, z)
    if x.pixels.shape[-1] > 1:
        x = jax.tree.map(repeated, x)
    here = () if gaps is None else tuple(map(repeated, z.spreads))
    gaps = None if gaps is None else tuple(map(repeated, gaps))

    @jax.checkpoint
    def add(total, displacement):
        there = jax.tree.map(
            lambda part: jax.lax.dynamic_slice_in_dim(part, displacement, height, axis=part.ndim - 4), turned
        )
        moved = None
        if gaps is not None:
            moved = tuple(map(_moved_gap, gaps, x.spreads, here, there.spreads))
        sums = layers.sums(x, there, moved)
        return total + jnp.sum(sums.reshape(len(sums), pairs, across), axis=2), None

    lanes = jnp.broadcast_shapes(x.pixels.shape[-2:-1], (1,))[0]
    return jax.lax.scan(add, jnp.zeros((lanes, pairs), z.pixels.dtype), jnp.arange(around))[0]


def _moved_gap(gap: Array, norm_x: Array, here: Array, there: Array) -> Array:
    """norm_x − there, from gap = norm_x − here where that is the more exact way: where it is small."""
    return jnp.where(jnp.abs(gap) <= 0.5 * norm_x, gap + (here - there), norm_x - there)


class ConvolutionalNNGP(ConvolutionalKernel):
    """Covariance of the network's outputs at initialisation (Novak et al. 2019, Garriga-Alonso et al. 2019).

    ReLU and leaky ReLU have two derivatives at coincident images, smooth activations all.  For networks without
    biases see the note on blank windows in `ConvolutionalNTK`.
    """

    @property
    def _tangent(self) -> bool:
        return False

    @property
    def smoothness(self) -> int | float:
        """2 for ReLU and leaky ReLU, infinite for smooth activations."""
        return self.activation.smoothness[0]


class ConvolutionalNTK(ConvolutionalKernel):
    """Neural tangent kernel of a convolutional network (Arora et al. 2019).

    For ReLU and leaky ReLU it has a cusp wherever windows of the two images coincide, with pooling at any two places,
    and without biases wherever they are collinear.  There its gradient is returned as the symmetric part (the mean of
    one-sided derivatives) and its Hessian, which does not exist, is refused with an error.  Where a window is blank
    and there are no biases the kernel is a cone; its gradient is returned as if at a right angle.
    Gradients keep their digits at any distance, unless the change of every window is nearly along the window itself:
    an angle φ between the two costs eps/φ² of the part that comes from the cusp.

    >>> import jax.numpy as jnp
    >>> kernel = ConvolutionalNTK(hidden_layers=1, filter_size=1, readout="flatten")
    >>> round(float(kernel.evaluate(jnp.ones((2, 2, 1)), jnp.ones((2, 2, 1)))), 6)
    4.0
    """

    @property
    def _tangent(self) -> bool:
        return True

    @property
    def smoothness(self) -> int | float:
        """0 for ReLU and leaky ReLU, infinite for smooth activations."""
        return min(self.activation.smoothness)
