"""The classifiers of the experiments, by name, and the kernel of each one's infinite width."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

import kpoison as kp
from kpoison.experiments.options import ArchitectureName
from kpoison.kernels.activations import as_activation
from kpoison.networks import MLP, Classifier, LeNet, LinearSoftmax, ResNet

__all__ = ["Cropped", "create", "infinite_width", "middle"]


class Cropped(Classifier):
    """A classifier of the middle of larger images.

    Attributes:
        image_shape: of the larger images.
        middle: of their middle.
    """

    middle: Classifier

    def __init__(self, image_shape: tuple[int, int, int], middle: Classifier):
        self.image_shape, self.classes, self.middle = image_shape, middle.classes, middle

    @property
    def readout(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The last layer."""
        return self.middle.readout

    def hidden(self, image: Float[Array, "height width channels"]) -> Float[Array, " k"]:
        """Features of the middle."""
        height, width, _ = self.middle.image_shape
        return self.middle.hidden(middle(image, height, width))


def middle(image: Any, height: int, width: int) -> Any:
    """So many rows and columns of an image (rows, columns, channels), an array of JAX or NumPy."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def create(
    name: ArchitectureName,
    width: int,
    image_shape: tuple[int, int, int],
    classes: int,
    dtype=jnp.float32,
    blocks: int | None = None,
) -> Callable[[Any], Classifier]:
    """A function of a random key that draws the classifier; ReLU, standard parameterisation.

    `width`: neurons of each of the MLP's two hidden layers; channels of the first convolution of LeNet, of the first
    stage of ResNet; without meaning for the linear one.  `blocks`: in each of ResNet's three stages, in pre-activation
    form; by default one in the form of 2015.
    """
    match name:
        case "linear":
            return lambda key: LinearSoftmax(image_shape, classes, key=key, dtype=dtype)
        case "mlp":
            return lambda key: MLP(image_shape, classes, width=width, key=key, dtype=dtype)
        case "lenet":
            return lambda key: LeNet(image_shape, classes, width=width, key=key, dtype=dtype)
        case "resnet":
            depth = {} if blocks is None else {"blocks": blocks, "preactivation": True}
            return lambda key: ResNet(image_shape, classes, width=width, key=key, dtype=dtype, **depth)
    raise ValueError(f"architecture must be linear, mlp, lenet or resnet, got {name}")


def infinite_width(name: ArchitectureName) -> tuple[kp.kernels.Kernel | None, str]:
    """The neural tangent kernel of the architecture at infinite width, and in words how near it is to it.

    None for ResNet, of whose kernel there is no closed form here.
    """
    match name:
        case "linear":
            return kp.kernels.Linear(), "linear kernel"
        case "mlp":
            return kp.kernels.NTK(2, "relu", 2**0.5, 0.0), "NTK of the MLP"
        case "lenet":
            kernel = kp.kernels.ConvolutionalNTK(
                2, as_activation("relu"), 2**0.5, 0.0, filter_size=5, readout="flatten"
            )
            return kernel, "NTK of two 5×5 convolutions and a dense layer (LeNet without pooling)"
    return None, "no kernel"
