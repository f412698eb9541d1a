"""The Hessian of the loss in a network's parameters, beside that in its inputs."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._validation import public
from kpoison.curvature.losses import Loss, loss_value
from kpoison.curvature.matrices import Probed
from kpoison.curvature.operators import Operator, outputs_at

__all__ = ["parameter_hessian"]

_AT_ONCE = 256  # examples, whose activations reverse differentiation keeps


class ParameterHessian(Operator):
    """The mean Hessian of the loss in all floating-point arrays of a model, by forward over reverse differentiation.

    Attributes:
        model: a function of one point, an Equinox module.
        x: examples, shape (N, ...).
        targets: as vectors, shape (N, C).
        loss: the loss.
    """

    model: Callable[[Array], Array]
    x: Float[Array, "N ..."]
    targets: Float[Array, "N C"]
    loss: Loss = eqx.field(static=True)

    @property
    def dimension(self) -> int:
        """How many parameters."""
        return sum(math.prod(leaf.shape) for leaf in _parameters(self.model))

    @property
    def dtype(self) -> np.dtype:
        """That of the parameters."""
        return jnp.result_type(*_parameters(self.model))

    def exact_trace(self) -> None:
        """Not known."""
        return

    def products(self, V: Float[Array, "D k"]) -> Float[Array, "D k"]:
        """One Hessian–vector product for each vector and batch of examples."""
        trained, rest = eqx.partition(self.model, eqx.is_inexact_array)
        flat, as_tree = ravel_pytree(trained)

        def add(total, part):
            def of_batch(parameters):
                model = eqx.combine(as_tree(parameters), rest)
                return jnp.sum(jax.vmap(lambda x, t: loss_value(self.loss, outputs_at(model, x), t))(*part))

            linear = jax.linearize(jax.grad(of_batch), flat)[1]
            return total + jax.vmap(linear, in_axes=1, out_axes=1)(V), None

        count = len(self.x)
        batch = min(count, _AT_ONCE)
        full = count // batch * batch
        parts = self.x, self.targets
        total = jax.lax.scan(add, jnp.zeros_like(V), tuple(a[:full].reshape(-1, batch, *a.shape[1:]) for a in parts))[0]
        if full < count:
            total = add(total, tuple(a[full:] for a in parts))[0]
        return total / count


def _parameters(model: Any) -> list[Array]:
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


@public
def parameter_hessian(
    model: Callable[[Array], Array],
    x: Float[ArrayLike, "q ..."],
    targets: Num[ArrayLike, "q ..."],
    *,
    loss: Loss = "squared",
) -> Operator:
    """The Hessian of the mean loss in a model's parameters, which `top_eigenpairs` and `spectral_density` take.

    What arXiv 2505.15175 sets beside the input Hessian; never formed.  Weight decay would add a multiple of the
    identity, and is left out.

    Args:
        model: a function of one point, an Equinox module such as those of `kpoison.networks`; the coordinates are its
            floating-point arrays, flattened one after the other.
        x: examples, shape (q, d) or (q, height, width, channels), in the dtype of the parameters.
        targets: as for `input_hessian`.
        loss: "squared" or "softmax".

    Returns:
        An operator over the D parameters.

    Raises:
        TypeError, ValueError: as in `input_hessian`; TypeError also for a model without parameters.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from kpoison.networks import LinearSoftmax
    >>> model = LinearSoftmax((2, 2, 1), 3, key=jax.random.key(0))
    >>> parameter_hessian(model, jnp.ones((5, 2, 2, 1)), jnp.zeros(5, int), loss="softmax").dimension
    15
    """
    if callable(model) and not _parameters(model):
        raise TypeError(f"model must have floating-point arrays, got {type(model).__name__} without any")
    probed = Probed.of(model, x, loss)
    dtype = jnp.result_type(*_parameters(model))
    return ParameterHessian(model, probed.x.astype(dtype), probed.vectors(targets).astype(dtype), probed.loss)
