"""Dense and convolutional layers in standard and NTK parameterisation, and what stands between them."""

import math
from typing import Literal, NamedTuple, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from kpoison._validation import check_name, check_positive

__all__ = ["Convolution", "Dense", "Drawing", "GroupNorm", "Parameterisation", "average_pool", "convolve", "patches"]

Parameterisation: TypeAlias = Literal["standard", "ntk"]
"""`"standard"`: W x + b with W ~ N(0, weight_std²/fan_in) and b ~ N(0, bias_std²), so b starts at 0 by default (He et
al. 2015); `"ntk"`: weight_std/√fan_in · W x + bias_std · b with standard normal W and b, and no b where bias_std is 0
(Jacot et al. 2018).  Both start as the same random function; plain gradient steps differ."""


class Drawing(NamedTuple):
    """How the parameters of a network are drawn.

    Attributes:
        parameterisation: "standard" or "ntk".
        weight_std, bias_std: standard deviations, see `Parameterisation`.
        dtype: of the parameters.
    """

    parameterisation: Parameterisation
    weight_std: int | float
    bias_std: int | float
    dtype: jnp.dtype

    @classmethod
    def checked(cls, parameterisation: str, weight_std: int | float, bias_std: int | float, dtype) -> "Drawing":
        """These, by default in JAX's default float.

        Raises:
            TypeError, ValueError: naming the argument that does not fit.
        """
        parameterisation = check_name("parameterisation", parameterisation, get_args(Parameterisation))
        check_positive("weight_std", weight_std)
        check_positive("bias_std", bias_std, zero=True)
        dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"dtype must be floating, got {dtype}")
        return cls(parameterisation, float(weight_std), float(bias_std), dtype)  # pyright: ignore[reportArgumentType]

    def affine(self, key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int, fan_out: int) -> "Affine":
        """Weights of this shape, biases (fan_out,), and what each is multiplied with in the network."""
        weight_key, bias_key = jax.random.split(key)
        weight = jax.random.normal(weight_key, shape, self.dtype)
        bias = jax.random.normal(bias_key, (fan_out,), self.dtype)
        scale = self.weight_std / math.sqrt(fan_in)
        if self.parameterisation == "standard":
            return Affine(scale * weight, self.bias_std * bias, 1.0, 1.0)
        return Affine(weight, bias if self.bias_std > 0 else None, scale, self.bias_std)


class Affine(NamedTuple):
    """What an affine layer holds; see `Drawing.affine`."""

    weight: Array
    bias: Array | None
    weight_scale: float
    bias_scale: float


class _AffineLayer(eqx.Module):
    """A linear map and a shift of its outputs.

    Attributes:
        weight, bias: what is trained.
        weight_scale, bias_scale: what they are multiplied with: 1 in standard parameterisation.
    """

    weight: Float[Array, "..."]
    bias: Float[Array, " fan_out"] | None
    weight_scale: float = eqx.field(static=True)
    bias_scale: float = eqx.field(static=True)

    def shift(self, outputs: Array) -> Array:
        """The scaled outputs of the linear map plus the biases, along the last axis."""
        outputs = self.weight_scale * outputs if self.weight_scale != 1 else outputs
        if self.bias is None:
            return outputs
        bias = self.bias_scale * self.bias if self.bias_scale != 1 else self.bias
        return outputs + bias.reshape(*[1] * (outputs.ndim - 1), -1)


class Dense(_AffineLayer):
    """A dense layer; weights (fan_out, fan_in)."""

    def __init__(self, inputs: int, outputs: int, drawing: Drawing, *, key: PRNGKeyArray):
        affine = drawing.affine(key, (outputs, inputs), inputs, outputs)
        self.weight, self.bias, self.weight_scale, self.bias_scale = affine

    def __call__(self, x: Float[Array, " fan_in"]) -> Float[Array, " fan_out"]:
        """W x + b, each scaled."""
        return self.shift(self.weight @ x)


class Convolution(_AffineLayer):
    """A convolution of an image, padded with zeros so that stride 1 keeps its size; weights (k, k, inputs, outputs)."""

    stride: int = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, size: int, drawing: Drawing, *, stride: int = 1, key: PRNGKeyArray):
        affine = drawing.affine(key, (size, size, inputs, outputs), size * size * inputs, outputs)
        self.weight, self.bias, self.weight_scale, self.bias_scale = affine
        self.stride = stride

    def __call__(self, x: Float[Array, "height width inputs"]) -> Float[Array, "rows columns outputs"]:
        """The convolved image."""
        return self.shift(convolve(x[None], self.weight, self.stride)[0])


def convolve(
    images: Float[Array, "n height width inputs"], weight: Float[Array, "k k inputs outputs"], stride: int = 1
) -> Float[Array, "n rows columns outputs"]:
    """The convolution of deep learning (a correlation) with zero padding, neural-tangents' and TensorFlow's "SAME"."""
    if weight.dtype == jnp.float64:
        # XLA's own reads past the end of its arrays on some CPUs and ends the process (jaxlib 0.8.2 to 0.10.2).
        size, _, inputs, outputs = weight.shape
        windows = patches(images, size, stride)
        return jnp.matmul(windows, weight.reshape(size * size * inputs, outputs), precision="highest")
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, weight, (stride, stride), "SAME", dimension_numbers=axes)


def patches(
    images: Float[Array, "n height width inputs"], size: int, stride: int = 1
) -> Float[Array, "n rows columns fan_in"]:
    """The size × size pixels about each pixel (with a stride, about some), zeros beyond the border, as "SAME" has them.

    A convolution by a matrix product: on a CPU faster than XLA's inside of loops.
    """
    height, width = images.shape[1:3]
    rows, columns = -(-height // stride), -(-width // stride)
    margins = [max((number - 1) * stride + size - pixels, 0) for number, pixels in ((rows, height), (columns, width))]
    padded = jnp.pad(images, ((0, 0), *((margin // 2, margin - margin // 2) for margin in margins), (0, 0)))
    ends = (rows - 1) * stride + 1, (columns - 1) * stride + 1
    shifted = [padded[:, i : i + ends[0] : stride, j : j + ends[1] : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifted, axis=-1)


class GroupNorm(eqx.Module):
    """Group normalisation (Wu, He 2018): mean 0 and variance 1 in each group of channels, then a gain and an offset.

    The number of groups is the greatest common divisor of 8 and the number of channels.

    Attributes:
        gain, offset: one number per channel, 1 and 0 at the start.
    """

    gain: Float[Array, " channels"]
    offset: Float[Array, " channels"]

    def __init__(self, channels: int, dtype):
        self.gain, self.offset = jnp.ones(channels, dtype), jnp.zeros(channels, dtype)

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, "height width channels"]:
        """The normalised image."""
        height, width, channels = x.shape
        grouped = x.reshape(height * width, math.gcd(8, channels), -1)
        centred = grouped - jnp.mean(grouped, axis=(0, 2), keepdims=True)
        variance = jnp.mean(centred**2, axis=(0, 2), keepdims=True)
        normal = (centred * lax.rsqrt(variance + 1e-5)).reshape(x.shape)
        return normal * self.gain[None, None] + self.offset[None, None]


def average_pool(x: Float[Array, "height width channels"]) -> Float[Array, "rows columns channels"]:
    """Means of 2×2 pixels; the last row or column of an odd number is left out."""
    rows, columns = x.shape[0] // 2, x.shape[1] // 2
    blocks = x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1)
    return jnp.mean(blocks, axis=(1, 3))
