"""Fully connected networks in NTK parameterisation: the finite-width partner of each `NTK` kernel."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from kpoison._typing import Scalar
from kpoison._validation import check_integer, check_positive, integer, known_number
from kpoison.kernels.activations import Activation, LeakyReLU, as_activation
from kpoison.kernels.neural import NeuralKernel

__all__ = ["Architecture", "Centred", "Network", "Parameters"]


class Parameters(NamedTuple):
    """What is trained.

    Attributes:
        weights: one (fan_out, fan_in) array per dense layer.
        biases: one (fan_out,) array per dense layer; empty where bias_std is the number 0, so that no parameter
            without an effect is carried.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]


class Architecture(eqx.Module):
    """A fully connected network before its parameters are drawn.

    Every dense layer is weight_std/√fan_in · W x + bias_std · b with standard normal W and b (Jacot et al. 2018), as in
    neural-tangents' ``stax.serial(Dense(width, weight_std, bias_std), Relu(), ..., Dense(C, weight_std, bias_std))``
    with ``parameterization="ntk"``.

    Args:
        width: neurons in each hidden layer, an integer >= 1.
        hidden_layers: number of hidden layers, an integer >= 1.
        activation: as for `NTK`: a name, an `Activation` or an elementwise function.
        weight_std: standard deviation of the weights, > 0.
        bias_std: standard deviation of the biases, >= 0.
        rounding: half-width, times √width, of the interval about 0 in which a parabola replaces the kink of (leaky)
            ReLU; 0 for the exact kink. Other activations ignore it.

    Why rounding: at the minimum of a ReLU network's loss some neurons rest exactly on their kink at a training point,
    where the gradient jumps, so that no gradient norm can certify convergence (it stalls near 2e-3 of its initial
    value). Training moves pre-activations by O(1/√width); with a kink rounded over a few percent of that, the
    gradient vanishes at a point that is stationary in Clarke's sense to that resolution. Tripling the default moves
    trained outputs by about 1e-4 at width 4096 and 2e-3 at width 32, a hundredth of their spread over seeds.
    """

    width: int = eqx.field(static=True, converter=integer("width", 1))
    hidden_layers: int = eqx.field(static=True, default=1, converter=integer("hidden_layers", 1))
    activation: Activation = eqx.field(converter=as_activation, default="relu")  # pyright: ignore
    weight_std: Scalar = 2**0.5
    bias_std: Scalar = 0.0
    rounding: int | float = eqx.field(static=True, default=0.03, converter=known_number)

    def __check_init__(self):
        check_positive("weight_std", self.weight_std)
        check_positive("bias_std", self.bias_std, zero=True)
        check_positive("rounding", self.rounding, zero=True)

    @classmethod
    def matching(cls, kernel: NeuralKernel, width: int, *, rounding: int | float = 0.03) -> "Architecture":
        """The architecture whose neural tangent kernel tends to that of `kernel`'s network as the width grows.

        Raises:
            TypeError: for a kernel that is no `NTK` or `NNGP`.
        """
        if not isinstance(kernel, NeuralKernel):
            raise TypeError(f"kernel must be an NTK or an NNGP, got {type(kernel).__name__}")
        return cls(width, kernel.hidden_layers, kernel.activation, kernel.weight_std, kernel.bias_std, rounding)

    @property
    def point_ndim(self) -> int:
        """Number of axes of a point: 1."""
        return 1

    def initialise(
        self, key: PRNGKeyArray, inputs: int | Sequence[int], outputs: int | None = None, dtype=None
    ) -> "Network":
        """Draw the parameters.

        Args:
            key: a JAX random key.
            inputs: input dimension d, an integer >= 1, or the shape of a point, (d,).
            outputs: number of outputs C, an integer >= 1; None for a scalar output.
            dtype: of the parameters and of everything computed with them; by default JAX's default float.
        """
        if isinstance(inputs, Sequence) and len(inputs) == 1:
            (inputs,) = inputs
        outputs = None if outputs is None else check_integer("outputs", outputs, 1)
        sizes = [check_integer("inputs", inputs, 1), *[self.width] * self.hidden_layers, outputs or 1]
        shapes = [(b, a) for a, b in itertools.pairwise(sizes)]
        return Network(self._draw(key, shapes, sizes[1:], outputs, dtype), self, outputs is None)

    def _draw(
        self, key: PRNGKeyArray, shapes: Sequence[tuple[int, ...]], neurons: Sequence[int], outputs: int | None, dtype
    ) -> Parameters:
        """Standard normal weights of these shapes, and biases for so many neurons in each layer."""
        dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
        keys = jax.random.split(key, (2, len(shapes)))
        weights = tuple(jax.random.normal(keys[0, i], shape, dtype) for i, shape in enumerate(shapes))
        biases = ()
        if not isinstance(self.bias_std, (int, float)) or self.bias_std > 0:
            biases = tuple(jax.random.normal(keys[1, i], (number,), dtype) for i, number in enumerate(neurons))
        return Parameters(weights, biases)

    def activate(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """The activation, elementwise, with its kink rounded."""
        if not isinstance(self.activation, LeakyReLU) or self.rounding == 0:
            return self.activation(u)
        half = self.rounding / self.width**0.5
        slope = jnp.asarray(self.activation.slope, u.dtype)
        # The mean of ReLU over an interval of this half-width.
        ramp = jnp.where(jnp.abs(u) < half, (u + half) ** 2 / (4 * half), jax.nn.relu(u))
        return slope * u + (1 - slope) * ramp


class Network(eqx.Module):
    """A fully connected network in NTK parameterisation; call it on a single point.

    Attributes:
        parameters: what is trained.
        architecture: everything else.
        scalar: whether the output is a number instead of a vector (C,).
    """

    parameters: Parameters
    architecture: Architecture
    scalar: bool = eqx.field(static=True)

    def __call__(self, x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """f(x) at one point (d,): shape () or (C,)."""
        return self.outputs(jnp.asarray(x)[None])[0]

    def outputs(self, X: Float[ArrayLike, "n ..."]) -> Float[Array, "n ..."]:
        """f at n points: shape (n,) or (n, C)."""
        architecture = self.architecture
        weights, biases = self.parameters
        hidden = jnp.asarray(X, self.dtype)
        for layer, weight in enumerate(weights):
            if layer > 0:
                hidden = architecture.activate(hidden)
            inputs, matrix = self._as_product(layer, hidden, weight)
            scale = jnp.asarray(architecture.weight_std, self.dtype) / len(matrix) ** 0.5
            # "highest": accelerators round float32 factors to 10 bits by default.
            hidden = scale * jnp.matmul(inputs, matrix, precision="highest")
            if biases:
                bias = jnp.asarray(architecture.bias_std, self.dtype) * biases[layer]
                hidden = hidden + bias.reshape(*[1] * (hidden.ndim - 1), -1)
        return hidden[:, 0] if self.scalar else hidden

    def _as_product(self, layer: int, hidden: Array, weight: Array) -> tuple[Array, Array]:
        """What a layer sees (..., fan_in) and the matrix (fan_in, fan_out) that it is multiplied with."""
        return hidden, weight.T

    @property
    def dtype(self):
        """Dtype of the parameters."""
        return self.parameters.weights[0].dtype

    @property
    def point_shape(self) -> tuple[int, ...]:
        """Shape of a point: (d,)."""
        return self.parameters.weights[0].shape[1:]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """() or (C,)."""
        return () if self.scalar else (self.parameters.weights[-1].shape[0],)


class Centred(eqx.Module):
    """A centred network; call it on a single point for g(x) = f(θ)(x) − f(θ0)(x).

    Attributes:
        initial, final: the network at θ0 and at θ.
    """

    initial: Network
    final: Network

    def __call__(self, x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """g(x) at one point (d,): shape () or (C,)."""
        return self.final(x) - self.initial(x)

    def outputs(self, X: Float[ArrayLike, "n ..."]) -> Float[Array, "n ..."]:
        """g at n points: shape (n,) or (n, C)."""
        return self.final.outputs(X) - self.initial.outputs(X)
