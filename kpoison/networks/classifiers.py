"""Image classifiers of finite width: softmax regression, multilayer perceptron, a LeNet and a small ResNet."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from kpoison._validation import check_flag, check_integer, check_name
from kpoison.kernels.activations import Activation, as_activation
from kpoison.networks.layers import Convolution, Dense, Drawing, GroupNorm, average_pool

__all__ = ["Classifier", "LeNet", "LinearSoftmax", "MLP", "ResNet"]

AnyActivation: TypeAlias = str | Activation | Callable[[Array], Array]


class Classifier(eqx.Module):
    """An image classifier; call it on a single image (height, width, channels) for its logits (classes,).

    Images are brought to the dtype of the parameters.  Products are taken in JAX's default precision, which on
    accelerators rounds float32 factors; see `jax.default_matmul_precision`.

    Attributes:
        image_shape: (height, width, channels).
        classes: number of classes C >= 2.
        readout: the last layer.
    """

    image_shape: tuple[int, int, int] = eqx.field(static=True)
    classes: int = eqx.field(static=True)
    readout: eqx.AbstractVar[Dense]

    @abc.abstractmethod
    def hidden(self, image: Float[Array, "height width channels"]) -> Float[Array, " k"]:
        """`features` of an image that has been checked."""

    def features(self, image: Float[ArrayLike, "..."]) -> Float[Array, " k"]:
        """The penultimate features, inputs of the last layer, of a single image.

        Raises:
            ValueError: for an image of another shape.
        """
        image = jnp.asarray(image, self.dtype)
        if image.shape != self.image_shape:
            raise ValueError(f"image must be a single one of shape {self.image_shape}, got {image.shape}")
        return self.hidden(image)

    def __call__(self, image: Float[ArrayLike, "..."]) -> Float[Array, " classes"]:
        """The logits of a single image.

        Raises:
            ValueError: for an image of another shape.
        """
        return self.readout(self.features(image))

    @property
    def dtype(self):
        """Dtype of the parameters."""
        return self.readout.weight.dtype


def _dense_layers(layers: Sequence[Dense], activation: Activation, hidden: Float[Array, " k"]) -> Float[Array, " m"]:
    for layer in layers:
        hidden = activation(layer(hidden))
    return hidden


def _checked(image_shape: Sequence[int], classes: int) -> tuple[tuple[int, int, int], int]:
    shape = tuple(image_shape)
    if len(shape) != 3:
        raise ValueError(f"image_shape must be (height, width, channels), got {image_shape}")
    height, width, channels = (check_integer("each number of image_shape", size, 1) for size in shape)
    return (height, width, channels), check_integer("classes", classes, 2)


class LinearSoftmax(Classifier):
    """Softmax regression: one dense layer on the pixels, which are its features.

    Args:
        image_shape: (height, width, channels).
        classes: number of classes, an integer >= 2.
        key: a JAX random key.
        dtype: of the parameters; by default JAX's default float.
        parameterisation: "standard" or "ntk", see `kpoison.networks.layers.Parameterisation`.
        weight_std: standard deviation of the weights times √fan_in, > 0.
        bias_std: standard deviation of the biases, >= 0.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import jax
    >>> model = LinearSoftmax((8, 8, 1), 10, key=jax.random.key(0))
    >>> model(jax.numpy.zeros((8, 8, 1))).shape
    (10,)
    """

    readout: Dense

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        key: PRNGKeyArray,
        dtype=None,
        parameterisation: str = "standard",
        weight_std: int | float = 1.0,
        bias_std: int | float = 0.0,
    ):
        self.image_shape, self.classes = _checked(image_shape, classes)
        drawing = Drawing.checked(parameterisation, weight_std, bias_std, dtype)
        height, width, channels = self.image_shape
        self.readout = Dense(height * width * channels, self.classes, drawing, key=key)

    def hidden(self, image: Float[Array, "height width channels"]) -> Float[Array, " k"]:
        """The pixels."""
        return image.ravel()


class MLP(Classifier):
    """A multilayer perceptron on the pixels.

    Args:
        image_shape: (height, width, channels).
        classes: number of classes, an integer >= 2.
        width: neurons in each hidden layer, an integer >= 1.
        hidden_layers: number of hidden layers, an integer >= 1.
        activation: as for `kpoison.kernels.NTK`.
        key, dtype, parameterisation, weight_std, bias_std: as for `LinearSoftmax`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """

    layers: tuple[Dense, ...]
    readout: Dense
    activation: Activation

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        width: int = 128,
        hidden_layers: int = 2,
        activation: AnyActivation = "relu",
        key: PRNGKeyArray,
        dtype=None,
        parameterisation: str = "standard",
        weight_std: int | float = 2**0.5,
        bias_std: int | float = 0.0,
    ):
        self.image_shape, self.classes = _checked(image_shape, classes)
        drawing = Drawing.checked(parameterisation, weight_std, bias_std, dtype)
        width, hidden_layers = check_integer("width", width, 1), check_integer("hidden_layers", hidden_layers, 1)
        self.activation = as_activation(activation)
        height, columns, channels = self.image_shape
        sizes = [height * columns * channels, *[width] * hidden_layers]
        *keys, last = jax.random.split(key, hidden_layers + 1)
        self.layers = tuple(Dense(a, b, drawing, key=k) for a, b, k in zip(sizes[:-1], sizes[1:], keys, strict=True))
        self.readout = Dense(width, self.classes, drawing, key=last)

    def hidden(self, image: Float[Array, "height width channels"]) -> Float[Array, " k"]:
        """The last hidden layer."""
        return _dense_layers(self.layers, self.activation, image.ravel())


class LeNet(Classifier):
    """A convolutional network after LeNet-5 (LeCun et al. 1998): two 5×5 convolutions with pooling, two dense layers.

    At width 6 it has LeNet-5's 6 and 16 channels, 120 and 84 neurons; all grow in proportion to the width.  Unlike
    LeNet-5, both convolutions are padded with zeros, so that images from 4×4 pixels on fit; every hidden layer has the
    same activation, and pooling takes plain means, so that a smooth activation makes a smooth network.

    Args:
        image_shape: (height, width, channels), at least 4×4 pixels.
        classes: number of classes, an integer >= 2.
        width: channels of the first convolution, an integer >= 1.
        activation: as for `kpoison.kernels.NTK`.
        key, dtype, parameterisation, weight_std, bias_std: as for `LinearSoftmax`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """

    convolutions: tuple[Convolution, Convolution]
    layers: tuple[Dense, Dense]
    readout: Dense
    activation: Activation

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        width: int = 6,
        activation: AnyActivation = "relu",
        key: PRNGKeyArray,
        dtype=None,
        parameterisation: str = "standard",
        weight_std: int | float = 2**0.5,
        bias_std: int | float = 0.0,
    ):
        self.image_shape, self.classes = _checked(image_shape, classes)
        drawing = Drawing.checked(parameterisation, weight_std, bias_std, dtype)
        width = check_integer("width", width, 1)
        self.activation = as_activation(activation)
        height, columns, channels = self.image_shape
        if min(height, columns) < 4:
            raise ValueError(f"image_shape must have at least 4×4 pixels, got {image_shape}")
        keys = jax.random.split(key, 5)
        more = 8 * width // 3
        pixels = (height // 2 // 2) * (columns // 2 // 2)
        self.convolutions = (
            Convolution(channels, width, 5, drawing, key=keys[0]),
            Convolution(width, more, 5, drawing, key=keys[1]),
        )
        self.layers = (
            Dense(pixels * more, 20 * width, drawing, key=keys[2]),
            Dense(20 * width, 14 * width, drawing, key=keys[3]),
        )
        self.readout = Dense(14 * width, self.classes, drawing, key=keys[4])

    def hidden(self, image: Float[Array, "height width channels"]) -> Float[Array, " k"]:
        """The second dense layer."""
        hidden = image
        for convolution in self.convolutions:
            hidden = average_pool(self.activation(convolution(hidden)))
        return _dense_layers(self.layers, self.activation, hidden.ravel())


class _Block(eqx.Module):
    """φ(branch + shortcut), the branch two 3×3 convolutions, the shortcut the image or a strided 1×1 convolution."""

    normalises_its_input: ClassVar[bool] = False

    convolutions: tuple[Convolution, Convolution]
    norms: tuple[GroupNorm, GroupNorm] | None
    shortcut: Convolution | None
    activation: Activation

    def __init__(self, inputs, outputs, stride, activation, normalisation, drawing: Drawing, key):
        keys = jax.random.split(key, 3)
        self.convolutions = (
            Convolution(inputs, outputs, 3, drawing, stride=stride, key=keys[0]),
            Convolution(outputs, outputs, 3, drawing, key=keys[1]),
        )
        changes = stride > 1 or inputs != outputs
        self.shortcut = Convolution(inputs, outputs, 1, drawing, stride=stride, key=keys[2]) if changes else None
        first = inputs if self.normalises_its_input else outputs
        pair = (GroupNorm(first, drawing.dtype), GroupNorm(outputs, drawing.dtype))
        self.norms = pair if normalisation == "group" else None
        self.activation = activation

    def __call__(self, image):
        first, second = self.convolutions
        shortcut = image if self.shortcut is None else self.shortcut(image)
        if self.norms is None:
            # Half of the sum of two variances: else they would double with every block.
            return self.activation((second(self.activation(first(image))) + shortcut) / 2**0.5)
        branch = self.norms[1](second(self.activation(self.norms[0](first(image)))))
        return self.activation(branch + shortcut)


class _PreactivationBlock(_Block):
    """x + branch, normalised and activated before each of the branch's convolutions instead of after the sum.

    So the signal passes from the first block to the last as it is, which trains a hundred layers (He et al. 2016,
    arXiv 1603.05027).  A shortcut that changes the shape is a 1×1 convolution of what the branch begins with.
    """

    normalises_its_input: ClassVar[bool] = True

    def __call__(self, image):
        first, second = self.convolutions
        before, between = (lambda x: x, lambda x: x) if self.norms is None else self.norms
        begun = self.activation(before(image))
        shortcut = image if self.shortcut is None else self.shortcut(begun)
        total = shortcut + second(self.activation(between(first(begun))))
        return total if self.norms is not None else total / 2**0.5


class ResNet(Classifier):
    """A small residual network (He et al. 2016): a 3×3 convolution, three stages of blocks, global average pooling.

    The second and the third stage halve the image (rounding up) and double the channels.  Works from one pixel on.

    Args:
        image_shape: (height, width, channels).
        classes: number of classes, an integer >= 2.
        width: channels of the first stage, an integer >= 1.
        blocks: blocks in each stage, an integer >= 1; 3 with width 16 is ResNet-20, 18 ResNet-110.
        preactivation: norm and activation before each convolution of a branch, and after the last block, rather than
            after the sum: the form for many blocks.
        normalisation: "group", beside each convolution of a branch; or None, where branch and shortcut are added over
            √2.  No batch norm: with it the logits of an image depend on the others of its batch, so that there is no
            ∇_x ℓ_i of one image alone, which the penalty and the input spectra are made of, and statistics of a batch
            tell poisons from clean images by their own share.
        activation: as for `kpoison.kernels.NTK`.
        key, dtype, parameterisation, weight_std, bias_std: as for `LinearSoftmax`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """

    stem: Convolution
    norm: GroupNorm | None
    blocks: tuple[_Block | _PreactivationBlock, ...]
    readout: Dense
    activation: Activation
    preactivation: bool = eqx.field(static=True)

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        *,
        width: int = 16,
        blocks: int = 1,
        preactivation: bool = False,
        normalisation: str | None = "group",
        activation: AnyActivation = "relu",
        key: PRNGKeyArray,
        dtype=None,
        parameterisation: str = "standard",
        weight_std: int | float = 2**0.5,
        bias_std: int | float = 0.0,
    ):
        self.image_shape, self.classes = _checked(image_shape, classes)
        drawing = Drawing.checked(parameterisation, weight_std, bias_std, dtype)
        width, blocks = check_integer("width", width, 1), check_integer("blocks", blocks, 1)
        if normalisation is not None:
            normalisation = check_name("normalisation", normalisation, ("group",))
        preactivation = check_flag("preactivation", preactivation)
        self.activation = as_activation(activation)
        first, last, *keys = jax.random.split(key, 2 + 3 * blocks)
        self.stem = Convolution(self.image_shape[2], width, 3, drawing, key=first)
        self.preactivation = preactivation
        block_of: Any = _PreactivationBlock if preactivation else _Block
        channels, found = width, []
        for index, block_key in enumerate(keys):
            stage, place = divmod(index, blocks)
            outputs, stride = width * 2**stage, 2 if stage > 0 and place == 0 else 1
            block = block_of(channels, outputs, stride, self.activation, normalisation, drawing, block_key)
            channels = outputs
            found.append(block)
        self.blocks = tuple(found)
        # After the stem, or after the last block where each has its own before it.
        normalised = channels if preactivation else width
        self.norm = GroupNorm(normalised, drawing.dtype) if normalisation == "group" else None
        self.readout = Dense(channels, self.classes, drawing, key=last)

    def hidden(self, image: Float[Array, "height width channels"]) -> Float[Array, " k"]:
        """Means of the last stage's channels over the pixels."""
        hidden = self.stem(image)
        if not self.preactivation:
            hidden = self._activated(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        if self.preactivation:
            hidden = self._activated(hidden)
        return jnp.mean(hidden, axis=(0, 1))

    def _activated(self, image: Float[Array, "height width channels"]) -> Float[Array, "height width channels"]:
        return self.activation(image if self.norm is None else self.norm(image))
