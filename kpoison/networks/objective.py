"""What a centred network is trained on: fit, ridge and, by double back-propagation, the penalty on input gradients."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_positive, is_concrete
from kpoison.networks.architecture import Architecture, Network, Parameters
from kpoison.ridge.metric import checked_metric

__all__ = ["Penalty", "centred_objective", "checked_penalty", "shifted"]


class Penalty(eqx.Module):
    """(γ/2n) Σ_i w_i Σ_c ‖∇g_c(x_i)‖²_M.

    Attributes:
        strength: γ.
        metric: M, shape (d, d); None for the identity.
    """

    strength: Float[Array, ""]
    metric: Float[Array, "d d"] | None

    def squared_norm(self, gradients: Float[Array, "C n d"]) -> Float[Array, "C n"]:
        """γ ‖·‖²_M of each gradient; by M itself, since its root is not differentiable where eigenvalues coincide."""
        mapped = gradients
        if self.metric is not None:
            mapped = matrix_product(gradients.reshape(-1, gradients.shape[-1]), self.metric).reshape(gradients.shape)
        return self.strength * jnp.sum(gradients * mapped, axis=-1)


def checked_penalty(
    gradient_penalty: Scalar, metric: Any, architecture: Architecture, point_shape: tuple[int, ...], dtype
):
    """The `Penalty` of these arguments; None where it is known to be 0.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    check_positive("gradient_penalty", gradient_penalty, zero=True)
    metric = checked_metric(metric, math.prod(point_shape), dtype)
    if is_concrete(gradient_penalty) and bool(np.asarray(gradient_penalty) == 0):
        return None
    smoothness = min(architecture.activation.smoothness)
    if smoothness < 2:
        raise ValueError(
            f"activation {type(architecture.activation).__name__} has a kink (its NTK smoothness {smoothness}): a "
            "gradient penalty needs an NTK that is twice continuously differentiable at coincident points, since the "
            "slopes of infinitely wide networks have no variance otherwise, and an objective without jumps, which a "
            "rounded kink does not give.  Use erf, gelu or another smooth activation instead"
        )
    return Penalty(jnp.asarray(gradient_penalty, dtype), None if metric is None else jnp.asarray(metric, dtype))


def shifted(network: Network, shift: Parameters) -> Network:
    """The network at θ0 + shift."""
    return eqx.tree_at(lambda net: net.parameters, network, jax.tree.map(jnp.add, network.parameters, shift))


def centred_objective(
    network: Network, X: Array, y: Array, weights: Array, total: Array, ridge: Array, penalty: Penalty | None
) -> Callable[[Parameters], Float[Array, ""]]:
    """(1/2n) Σ_i w_i (‖g(x_i) − y_i‖² + γ Σ_c ‖∇g_c(x_i)‖²_M) + (λ/2)‖shift‖² of g = f(θ0 + shift) − f(θ0)."""
    import optax

    share = (weights / total).reshape(-1, *[1] * (y.ndim - 1))
    target = network.outputs(X) + y

    def unpenalised(shift: Parameters) -> Array:
        residual = shifted(network, shift).outputs(X) - target
        return 0.5 * (jnp.sum(share * residual**2) + ridge * optax.tree.norm(shift, squared=True))

    if penalty is None:
        return unpenalised
    before = _input_gradients(network, X)

    def objective(shift: Parameters) -> Array:
        gradients = _input_gradients(shifted(network, shift), X) - before
        return unpenalised(shift) + 0.5 * jnp.sum(share.reshape(1, -1) * penalty.squared_norm(gradients))

    return objective


def _input_gradients(network: Network, X: Float[Array, "n ..."]) -> Float[Array, "C n d"]:
    """∇f_c(x_i), of the whole batch at once: backward for few outputs, forward where coordinates are fewer.

    The axes of a point are flattened.
    """

    def outputs(points: Array) -> Array:
        return network.outputs(points).reshape(len(points), -1)

    # A line search may try parameters of a higher precision.
    X = X.astype(network.dtype)
    number, dimension = len(X), math.prod(X.shape[1:])
    count = 1 if network.scalar else network.output_shape[0]
    if count <= dimension:
        pullback = jax.vjp(outputs, X)[1]
        chosen = jnp.broadcast_to(jnp.eye(count, dtype=X.dtype)[:, None], (count, number, count))
        return jax.vmap(lambda cotangent: pullback(cotangent)[0].reshape(number, -1))(chosen)

    def along(direction: Array) -> Array:
        return jax.jvp(outputs, (X,), (jnp.broadcast_to(direction.reshape(X.shape[1:]), X.shape),))[1]

    return jax.vmap(along, out_axes=-1)(jnp.eye(dimension, dtype=X.dtype)).transpose(1, 0, 2)
