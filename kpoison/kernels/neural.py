"""Infinite-width fully connected networks: the NNGP and the neural tangent kernel."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._typing import Scalar
from kpoison._validation import between_points, check_integer, check_positive
from kpoison.kernels.activations import Activation, Covariance, SmoothActivation, as_activation
from kpoison.kernels.base import Kernel, Traits, WithTraits
from kpoison.kernels.pairs import PairDerivatives

__all__ = ["NNGP", "NTK", "NeuralKernel"]


class NeuralKernel(Kernel):
    """Kernel of a fully connected network in NTK parameterisation, in the limit of infinite width.

    Every dense layer is weight_std/√fan_in · W x + bias_std · b with standard normal W and b, as in
    neural-tangents' ``stax.serial(Dense(w, weight_std, bias_std), Relu(), ..., Dense(1, weight_std, bias_std))``.

    Args:
        hidden_layers: number of hidden layers, an integer >= 1.
        activation: a name ("relu", "leaky_relu", "erf", "gelu", "sin", "cos", "tanh", "sigmoid", "softplus",
            "silu"), an `Activation`, or any smooth elementwise function.
        weight_std: standard deviation of the weights, > 0.
        bias_std: standard deviation of the biases, >= 0.
    """

    hidden_layers: int = eqx.field(static=True, default=1)
    activation: Activation = eqx.field(converter=as_activation, default="relu")  # pyright: ignore
    weight_std: Scalar = 2**0.5
    bias_std: Scalar = 0.0

    def __init__(
        self,
        hidden_layers: int = 1,
        activation: "str | Activation | Callable[[Array], Array]" = "relu",
        weight_std: Scalar = 2**0.5,
        bias_std: Scalar = 0.0,
    ):
        self.hidden_layers = check_integer("hidden_layers", hidden_layers, 1)
        check_positive("weight_std", weight_std)
        check_positive("bias_std", bias_std, zero=True)
        self.activation = as_activation(activation)
        self.weight_std = weight_std
        self.bias_std = bias_std

    def _variances(self, dtype) -> tuple[Array, Array]:
        """Variances of weights and biases."""
        return jnp.asarray(self.weight_std, dtype) ** 2, jnp.asarray(self.bias_std, dtype) ** 2

    def _recursion(self, state) -> Array:
        """The kernel from the state of the first layer."""
        raise NotImplementedError

    @between_points
    def evaluate(self, x: Float[Array, " d"], z: Float[Array, " d"]) -> Float[Array, ""]:
        """k(x, z) for two single points."""
        weight_variance, bias_variance = self._variances(x.dtype)
        return self._recursion(self.activation.input_state(x, z, weight_variance / x.size, bias_variance))

    def gram(self, X1: Float[Array, "n1 d"], X2: Float[Array, "n2 d"]) -> Float[Array, "n1 n2"]:
        """Gram matrix: one matrix product, then the elementwise recursion over layers."""
        weight_variance, bias_variance = self._variances(X1.dtype)
        return self._recursion(self.activation.input_gram(X1, X2, weight_variance / X1.shape[1], bias_variance))

    def pairwise(self, X1: Float[Array, "n1 d"], X2: Float[Array, "n2 d"]) -> Float[Array, "n1 n2"]:
        """From the first layer of every pair, exact near coincident points; the other layers elementwise."""
        weight_variance, bias_variance = self._variances(X1.dtype)
        return self._recursion(self.activation.input_pairs(X1, X2, weight_variance / X1.shape[1], bias_variance))

    @property
    def traits(self) -> Traits:
        """The first layer's weights are isotropic."""
        return Traits(self.smoothness, rotation_invariant=True)

    def pair_derivatives(self, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> PairDerivatives | None:
        """As a function of x·x, x·z and z·z, where the activation is smooth."""
        smooth = isinstance(self.activation, SmoothActivation)
        if not smooth or type(self).evaluate is not NeuralKernel.evaluate:
            return None
        weight_variance, bias_variance = self._variances(X.dtype)

        def function(p, q, w):
            return self._recursion(Covariance(*(weight_variance / X.shape[1] * a + bias_variance for a in (p, w, q))))

        return PairDerivatives.of_products(function, X, Z)

    def on_subspace(self, dimension: int) -> Kernel:
        """The same network with the first layer's 1/√fan_in taken from all coordinates."""
        return _OnSubspace(self, dimension)


class _OnSubspace(WithTraits):
    """A neural kernel on points of `dimension` coordinates of which only the given ones are not 0."""

    kernel: NeuralKernel
    dimension: int = eqx.field(static=True)

    def evaluate(self, x: Float[Array, " p"], z: Float[Array, " p"]) -> Float[Array, ""]:
        """k(x, z)."""
        scale = (x.size / self.dimension) ** 0.5
        return self.kernel.evaluate(scale * x, scale * z)

    @property
    def traits(self) -> Traits:
        """Those of the kernel."""
        return Traits.of(self.kernel)


class NNGP(NeuralKernel):
    """Covariance of the network's outputs at initialisation (Neal 1996, Lee et al. 2018).

    ReLU and leaky ReLU have two derivatives at coincident points, smooth activations all.  For a ReLU network
    without biases see the note on the origin and on rays in `NTK`.
    """

    def _recursion(self, state) -> Array:
        weight_variance, bias_variance = self._variances(state.covariance.dtype)
        for _ in range(self.hidden_layers):
            state = self.activation.layer(state, weight_variance, bias_variance)
        return state.covariance

    @property
    def smoothness(self) -> int | float:
        """2 for ReLU and leaky ReLU, infinite for smooth activations."""
        return self.activation.smoothness[0]


class NTK(NeuralKernel):
    """Neural tangent kernel (Jacot, Gabriel, Hongler 2018).

    For ReLU and leaky ReLU it has a cusp where the points coincide, and without biases wherever they are
    collinear.  There its gradient is returned as the symmetric part (the mean of one-sided derivatives, which
    is the radial derivative) and its Hessian, which does not exist, is refused with an error.  At the origin of
    such a network without biases the kernel is a cone; its gradient is returned as if at a right angle.

    >>> import jax.numpy as jnp
    >>> kernel = NTK(hidden_layers=1, activation="relu", weight_std=2**0.5)
    >>> round(float(kernel.evaluate(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]))), 6)
    2.0
    """

    def _recursion(self, state) -> Array:
        return self.activation.tangent_kernel(state, self.hidden_layers, *self._variances(state.covariance.dtype))

    @property
    def smoothness(self) -> int | float:
        """0 for ReLU and leaky ReLU, infinite for smooth activations."""
        return min(self.activation.smoothness)
