"""The neural tangent kernel of a network of finite width at its parameters, trained or not."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from kpoison._batches import in_parts
from kpoison._memory import peak_bytes
from kpoison._validation import check_finite
from kpoison.kernels._batched import COPIES, BudgetedKernel, at_once, checked_options
from kpoison.kernels._blocks import by_blocks, check_result, mirrored

__all__ = ["EmpiricalNTK", "empirical_ntk"]


class EmpiricalNTK(BudgetedKernel):
    """The empirical neural tangent kernel; made by `empirical_ntk`.

    Attributes:
        parameters: what the network is differentiated by; a leaf of the kernel, so that `jax.grad` goes through it.
        constants: the network's other arrays.
        rest: what is left of it.
    """

    parameters: PyTree
    constants: PyTree
    rest: Any = eqx.field(static=True)

    def block(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """(1/C) Σ_c ∂_θ f_c(x) · ∂_θ f_c(z) on all pairs at once."""
        first = self._jacobians(X1)
        return _product(first, first if X1 is X2 else self._jacobians(X2))

    def gram(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """The product of two Jacobians, in blocks that keep them within `memory`."""
        n1, n2 = len(X1), len(X2)
        check_result(n1, n2, X1.dtype.itemsize)
        points = max(1, self._points_at_once(X1.shape[1:], X1.dtype) // 2)  # a block of either side
        if max(n1, n2) <= points:
            gram = self.block(X1, X2)
            return mirrored(gram) if X1 is X2 else gram
        first, second = in_parts(X1, points), in_parts(X2, points)
        rows, columns = first.shape[1], second.shape[1]
        if X1 is X2:
            return by_blocks(lambda i, j: self.block(first[i], first[j]), (n1, n1), (rows, rows), symmetric=True)

        def of_rows(i, _):
            """The Jacobians of some rows with those of every column."""
            jacobians = self._jacobians(first[i])
            return by_blocks(lambda _, j: _product(jacobians, self._jacobians(second[j])), (rows, n2), (rows, columns))

        return by_blocks(of_rows, (n1, n2), (rows, n2))

    def pairwise(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """The same matrix: nothing cancels in it."""
        return self.gram(X1, X2)

    def pair_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of temporaries of one pair of points of this shape, by estimate."""
        return 2 * self._point_bytes(shape, jnp.result_type(float))

    def pairs_at_once(self, shape: tuple[int, ...]) -> int:
        """How many pairs of points of this shape may be under way together within `memory`."""
        return max(1, self._points_at_once(shape, jnp.result_type(float)) // 2)

    def _jacobians(self, X: Float[Array, "n ..."]) -> list[Float[Array, "n C _"]]:
        """∂_θ f at each point, one array for each array of parameters."""
        parameters, constants = jax.tree.map(
            lambda leaf: leaf.astype(X.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
            (self.parameters, self.constants),
        )

        def outputs(parameters: PyTree, x: Array) -> Array:
            result = self.rest(parameters, constants, x)
            if not (isinstance(result, jax.Array) and jnp.issubdtype(result.dtype, jnp.floating) and result.ndim <= 1):
                got = f"{result.dtype} of shape {result.shape}" if hasattr(result, "shape") else type(result).__name__
                raise ValueError(f"the network must give one number, or a vector (C,), for one point, got {got}")
            return jnp.atleast_1d(result)

        jacobians = jax.vmap(jax.jacrev(outputs), in_axes=(None, 0))(parameters, X)
        return [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(jacobians)]

    def _points_at_once(self, shape: tuple[int, ...], dtype: Any) -> int:
        return at_once(self._point_bytes(shape, dtype), self.memory, f"the Jacobian at one point of shape {shape}")

    def _point_bytes(self, shape: tuple[int, ...], dtype: Any) -> int:
        return COPIES * peak_bytes(self._jacobians, jax.ShapeDtypeStruct((1, *shape), dtype))


def _product(first: list[Float[Array, "n1 C _"]], second: list[Float[Array, "n2 C _"]]) -> Float[Array, "n1 n2"]:
    """The mean over outputs of the products of Jacobians."""
    terms = [jnp.einsum("icp,jcp->ij", a, b, precision="highest") for a, b in zip(first, second, strict=True)]
    return sum(terms[1:], terms[0]) / first[0].shape[1]


class _Combine(eqx.Module):
    """A network taken apart, called at one point."""

    rest: Any

    def __call__(self, parameters: PyTree, constants: PyTree, x: Array) -> Array:
        return eqx.combine(parameters, constants, self.rest)(x)


class _Apply(eqx.Module):
    """A function of parameters and of many points, called at one."""

    function: Callable[[Any, Array], Array]

    def __call__(self, parameters: PyTree, constants: PyTree, x: Array) -> Array:
        return self.function(eqx.combine(parameters, constants), x[None])[0]


def empirical_ntk(
    network: Callable[..., Array],
    parameters: PyTree | Callable[[Any], PyTree] | None = None,
    *,
    point_ndim: int = 1,
    smoothness: int | float = 0,
    memory: int | None = None,
) -> EmpiricalNTK:
    """The neural tangent kernel of a network at its present parameters θ, (1/C) Σ_c ∂_θ f_c(x) · ∂_θ f_c(z).

    The kernel of the network linearised in its parameters: every law on it is a law of that linear model (Jacot et al.
    2018).  Of C outputs it is the mean, as in ``neural_tangents.empirical_ntk_fn``: as the width grows the kernels
    between different outputs vanish and those of each tend to one limit, so that outputs decouple.

    Args:
        network: an Equinox module that is called on single points, such as `kpoison.networks.Network`; or, with
            `parameters`, a function (θ, X) → (n, C) of many points, such as the ``apply_fn`` of neural-tangents.
        parameters: θ, a pytree of arrays; for a module None for all of its floating-point arrays, or a function that
            picks them, such as ``lambda network: network.parameters``.
        point_ndim: axes of one input: 1 for vectors, 3 for images (height, width, channels).
        smoothness: the caller's word on `Kernel.smoothness`; 0 promises nothing. The kernel has one derivative less
            than the network: with ReLU it is not even continuous.
        memory: bytes that Jacobians and the temporaries of computing them may take; by default a quarter of what is
            available, at most 1 GiB. A Jacobian at one point takes C times the parameters.

    Raises:
        TypeError: where network is not callable, or parameters are given by a function to what is no module.
        ValueError: where there are no floating-point parameters, or they are not finite; by the kernel, where the
            network does not give a number or a vector, or the Jacobian at one point does not fit in memory.

    >>> import jax.numpy as jnp
    >>> kernel = empirical_ntk(lambda theta, X: jnp.tanh(X @ theta), jnp.ones((2, 1)))
    >>> float(kernel.evaluate(jnp.array([0.5, -0.5]), jnp.array([1.0, -1.0])))
    1.0
    """
    if not callable(network):
        raise TypeError(f"network must be callable, got {type(network).__name__}")
    options = checked_options(memory, point_ndim, smoothness)
    if parameters is None or (callable(parameters) and not isinstance(parameters, eqx.Module)):
        if not isinstance(network, eqx.Module):
            raise TypeError(
                f"parameters must be given as a pytree of arrays where the network is no Equinox module, got a "
                f"{type(network).__name__} as network"
            )
        chosen, constants, rest = _taken_apart(network, parameters)
        rest = _Combine(rest)
    else:
        chosen, constants = eqx.partition(jax.tree.map(jnp.asarray, parameters), eqx.is_inexact_array)
        rest = _Apply(network)
    leaves = jax.tree.leaves(chosen)
    if not any(leaf.size for leaf in leaves):
        raise ValueError("the network has no floating-point parameters")
    for place, leaf in enumerate(leaves):
        check_finite(f"parameters, array {place},", leaf)
    return EmpiricalNTK(*options, chosen, constants, rest)


def _taken_apart(network: eqx.Module, pick: Callable[[Any], PyTree] | None) -> tuple[PyTree, PyTree, PyTree]:
    network = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, network)
    arrays, rest = eqx.partition(network, eqx.is_array)  # what is left must be hashable
    if pick is None:
        parameters, constants = eqx.partition(arrays, eqx.is_inexact_array)
        return parameters, constants, rest
    nothing = jax.tree.map(lambda _: False, arrays)
    spec = eqx.tree_at(pick, nothing, jax.tree.map(eqx.is_inexact_array, pick(arrays)))
    parameters, constants = eqx.partition(arrays, spec)
    return parameters, constants, rest
