"""Convolutional networks in NTK parameterisation: the finite-width partners of convolutional neural tangent kernels."""

import itertools
from collections.abc import Sequence
from typing import Any, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from kpoison._validation import check_integer, choice, integer
from kpoison.kernels.convolutional import ConvolutionalKernel, Readout
from kpoison.networks.architecture import Architecture, Network
from kpoison.networks.layers import patches

__all__ = ["ConvolutionalArchitecture", "ConvolutionalNetwork"]


class ConvolutionalArchitecture(Architecture):
    """A plain convolutional network before its parameters are drawn.

    Every hidden layer is a convolution with stride 1, zero padding that keeps the image's size, and the activation;
    then a dense layer on all pixels or on their means.  As in neural-tangents' ``stax.serial(Conv(width, (k, k),
    (1, 1), "SAME", weight_std, bias_std), Relu(), ..., Flatten(), Dense(C, weight_std, bias_std))``, with
    ``GlobalAvgPool()`` in place of ``Flatten()`` for readout "pool", all with ``parameterization="ntk"``.
    `train`, `train_pair`, `ensemble`, `gradient_flow`, `flow_ensemble` and `width_errors` take it like an
    `Architecture`; points are images (height, width, channels).

    Args:
        width: channels of each hidden layer, an integer >= 1.
        hidden_layers: number of convolutions, an integer >= 1.
        activation, weight_std, bias_std, rounding: as for `Architecture`.
        filter_size: k, pixels along each edge of the filters, an odd integer >= 1.
        readout: "pool" (global average pooling) or "flatten": the dense last layer sees only each channel's mean, or
            every pixel of every channel.
    """

    filter_size: int = eqx.field(static=True, default=3, converter=integer("filter_size", 1))
    readout: str = eqx.field(static=True, default="flatten", converter=choice("readout", get_args(Readout)))

    def __check_init__(self):
        if self.filter_size % 2 == 0:
            raise ValueError(f"filter_size must be odd, got {self.filter_size}")

    @classmethod
    def matching(cls, kernel, width: int, *, rounding: int | float = 0.03) -> "ConvolutionalArchitecture":
        """The architecture whose neural tangent kernel tends to that of `kernel`'s network as the width grows.

        Raises:
            TypeError: for a kernel that is no `ConvolutionalNTK` or `ConvolutionalNNGP`.
        """
        if not isinstance(kernel, ConvolutionalKernel):
            raise TypeError(f"kernel must be a ConvolutionalNTK or a ConvolutionalNNGP, got {type(kernel).__name__}")
        layers = (kernel.hidden_layers, kernel.activation, kernel.weight_std, kernel.bias_std)
        return cls(width, *layers, rounding, kernel.filter_size, kernel.readout)

    @property
    def point_ndim(self) -> int:
        """3: points are images."""
        return 3

    def initialise(
        self, key: PRNGKeyArray, inputs: int | Sequence[int], outputs: int | None = None, dtype=None
    ) -> "ConvolutionalNetwork":
        """Draw the parameters.

        Args:
            key: a JAX random key.
            inputs: shape of an image, (height, width, channels).
            outputs: number of outputs C, an integer >= 1; None for a scalar output.
            dtype: of the parameters and of everything computed with them; by default JAX's default float.
        """
        shape: Any = inputs
        if np.ndim(shape) == 0 or len(shape) != 3:
            raise ValueError(f"inputs must be the shape of an image, (height, width, channels), got {inputs}")
        height, width, channels = (check_integer("each number of inputs", size, 1) for size in shape)
        outputs = None if outputs is None else check_integer("outputs", outputs, 1)
        sizes = [channels, *[self.width] * self.hidden_layers]
        filters = [(self.filter_size, self.filter_size, a, b) for a, b in itertools.pairwise(sizes)]
        pixels = height * width if self.readout == "flatten" else 1
        parameters = self._draw(
            key, [*filters, (outputs or 1, pixels * self.width)], [*sizes[1:], outputs or 1], outputs, dtype
        )
        return ConvolutionalNetwork(parameters, self, outputs is None, (height, width, channels))


class ConvolutionalNetwork(Network):
    """A convolutional network in NTK parameterisation; call it on a single image.

    Attributes:
        architecture: everything else.
        parameters: filters (k, k, inputs, outputs) of each convolution and weights (C, fan_in) of the last layer.
        image_shape: (height, width, channels).
    """

    architecture: ConvolutionalArchitecture  # pyright: ignore[reportIncompatibleVariableOverride]
    image_shape: tuple[int, int, int] = eqx.field(static=True)

    def _as_product(self, layer: int, hidden: Array, weight: Array) -> tuple[Array, Array]:
        """A convolution sees windows, the last layer pixels or means."""
        if layer < self.architecture.hidden_layers:
            windows = patches(hidden, weight.shape[0])
            return windows, weight.reshape(windows.shape[-1], -1)
        pool = self.architecture.readout == "pool"
        return jnp.mean(hidden, axis=(1, 2)) if pool else hidden.reshape(len(hidden), -1), weight.T

    @property
    def point_shape(self) -> tuple[int, ...]:
        """Shape of an image."""
        return self.image_shape
