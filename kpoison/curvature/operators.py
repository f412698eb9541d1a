"""Symmetric matrices over input space that are known by their products with vectors, never formed."""

import abc
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from kpoison._batches import at_once
from kpoison._failures import program
from kpoison._linear_algebra import matrix_product
from kpoison.curvature.losses import Loss, curvature_rows, loss_value

__all__ = [
    "Operator",
    "PairCurvature",
    "ProbeGaussNewton",
    "ProbeHessian",
    "GaussNewtonRows",
    "SumOperator",
    "outputs_at",
]


class Operator(eqx.Module):
    """A symmetric (D, D) matrix over inputs of D coordinates (the axes of a point flattened)."""

    @property
    @abc.abstractmethod
    def dimension(self) -> int:
        """D."""

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype:
        """Of its numbers."""

    @abc.abstractmethod
    def products(self, V: Float[Array, "D k"]) -> Float[Array, "D k"]:
        """The matrix times k vectors."""

    @abc.abstractmethod
    def exact_trace(self) -> Float[Array, ""] | None:
        """The trace, where it costs no more than a product; None elsewhere."""

    def __call__(self, v: Float[ArrayLike, "D *k"]) -> Float[Array, "D *k"]:
        """The matrix times one vector (D,) or several (D, k)."""
        v = jnp.asarray(v, self.dtype)
        if v.ndim not in (1, 2) or len(v) != self.dimension:
            raise ValueError(f"v must have shape ({self.dimension},) or ({self.dimension}, k), got {v.shape}")
        return _products(self, v.reshape(self.dimension, -1)).reshape(v.shape)

    def dense(self) -> Float[Array, "D D"]:
        """The matrix itself: D products."""
        return self(jnp.eye(self.dimension, dtype=self.dtype))

    def __add__(self, other: "Operator") -> "Operator":
        """The sum of two of them."""
        return SumOperator(self, other) if isinstance(other, Operator) else NotImplemented


@program
def _products(operator: Operator, V: Array) -> Array:
    return operator.products(V)


class GaussNewtonRows(Operator):
    """RᵀR in its thin form: M rows, such as the gradients at the probes over √N."""

    rows: Float[Array, "M D"]

    @property
    def dimension(self) -> int:
        """D."""
        return self.rows.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """That of the rows."""
        return self.rows.dtype

    def products(self, V: Float[Array, "D k"]) -> Float[Array, "D k"]:
        """Rᵀ(RV)."""
        return matrix_product(self.rows.T, matrix_product(self.rows, V))

    def exact_trace(self) -> Float[Array, ""]:
        """‖R‖²."""
        return jnp.sum(self.rows**2)


class SumOperator(Operator):
    """The sum of two operators; written `a + b`."""

    first: Operator
    second: Operator

    def __check_init__(self):
        if self.first.dimension != self.second.dimension:
            raise ValueError(f"operators of dimensions {self.first.dimension} and {self.second.dimension} do not add")

    @property
    def dimension(self) -> int:
        """D."""
        return self.first.dimension

    @property
    def dtype(self) -> np.dtype:
        """That of the first."""
        return self.first.dtype

    def products(self, V: Float[Array, "D k"]) -> Float[Array, "D k"]:
        """The sum of both products."""
        return self.first.products(V) + self.second.products(V)

    def exact_trace(self) -> Float[Array, ""] | None:
        """The sum, where both are known."""
        first, second = self.first.exact_trace(), self.second.exact_trace()
        return None if first is None or second is None else first + second


class PairCurvature(Operator):
    """What Hessians of kernels k(x, c) at N probes x and n centres c add up to.

    tI + EᵀAE + EᵀPC + CᵀPᵀE + CᵀBC + EᵀQU + UᵀQE + UᵀRU.

    Attributes:
        shift: t.
        rays: E, x/‖x‖ of each probe, shape (N, D).
        centres: C, shape (n, D).
        on_rays, on_centres: the diagonals of A and B, shapes (N,) and (n,).
        mixed: P, shape (N, n).
        nearest: U, the direction across each ray of the centre nearest to it, shape (N, D).
        on_nearest, mixed_nearest: the diagonals of R and Q, shape (N,).
    """

    shift: Float[Array, ""]
    rays: Float[Array, "N D"]
    centres: Float[Array, "n D"]
    on_rays: Float[Array, " N"]
    mixed: Float[Array, "N n"]
    on_centres: Float[Array, " n"]
    nearest: Float[Array, "N D"]
    on_nearest: Float[Array, " N"]
    mixed_nearest: Float[Array, " N"]

    @property
    def dimension(self) -> int:
        """D."""
        return self.rays.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """That of the centres."""
        return self.centres.dtype

    def products(self, V: Float[Array, "D k"]) -> Float[Array, "D k"]:
        """In O((N + n)D + Nn) per vector."""
        rays, centres, nearest = (matrix_product(rows, V) for rows in (self.rays, self.centres, self.nearest))
        to_rays = self.on_rays[:, None] * rays + matrix_product(self.mixed, centres)
        to_rays = to_rays + self.mixed_nearest[:, None] * nearest
        to_centres = self.on_centres[:, None] * centres + matrix_product(self.mixed.T, rays)
        to_nearest = self.on_nearest[:, None] * nearest + self.mixed_nearest[:, None] * rays
        back = matrix_product(self.rays.T, to_rays) + matrix_product(self.centres.T, to_centres)
        return self.shift * V + back + matrix_product(self.nearest.T, to_nearest)

    def exact_trace(self) -> Float[Array, ""]:
        """From the inner products of rays and centres."""
        crossed = matrix_product(self.mixed, self.centres) + self.mixed_nearest[:, None] * self.nearest
        total = self.shift * self.dimension + 2 * jnp.sum(crossed * self.rays)
        for diagonal, rows in (
            (self.on_rays, self.rays),
            (self.on_centres, self.centres),
            (self.on_nearest, self.nearest),
        ):
            total = total + jnp.sum(diagonal * jnp.sum(rows**2, axis=1))
        return total


class _AtProbes(Operator):
    """The mean over probes of matrices that automatic differentiation multiplies with vectors.

    Attributes:
        f: the predictor.
        x: probes, shape (N, ...).
        loss: the loss.
    """

    f: Callable[[Array], Array]
    x: Float[Array, "N ..."]
    loss: Loss = eqx.field(static=True)

    @property
    def dimension(self) -> int:
        """D."""
        return math.prod(self.x.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """That of the probes."""
        return self.x.dtype

    def exact_trace(self) -> None:
        """Not known."""
        return

    def _mean(self, at_probe: Callable, arguments: tuple, V: Array) -> Array:
        """The mean over the probes of (D, k) arrays, in batches that bound the memory."""
        count = len(self.x)
        batch = min(count, at_once(V.size, V.dtype.itemsize))
        full = count // batch * batch

        def add(total, part):
            return total + jnp.sum(jax.vmap(at_probe)(*part), axis=0), None

        batches = tuple(a[:full].reshape(-1, batch, *a.shape[1:]) for a in arguments)
        total = jax.lax.scan(add, jnp.zeros_like(V), batches)[0]
        if full < count:
            total = add(total, tuple(a[full:] for a in arguments))[0]
        return total / count


class ProbeHessian(_AtProbes):
    """The mean input Hessian of the loss, by forward over reverse differentiation.

    Attributes:
        targets: y as vectors, shape (N, C).
    """

    targets: Float[Array, "N C"]

    def products(self, V: Float[Array, "D k"]) -> Float[Array, "D k"]:
        """One Hessian–vector product for each vector and probe."""

        def at_probe(x, target):
            def gradient(point):
                return jax.grad(lambda p: loss_value(self.loss, outputs_at(self.f, p), target))(point)

            linear = jax.linearize(gradient, x)[1]
            return jax.vmap(lambda v: linear(v.reshape(x.shape)).ravel(), in_axes=1, out_axes=1)(V)

        return self._mean(at_probe, (self.x, self.targets), V)


class ProbeGaussNewton(_AtProbes):
    """The mean Gauss–Newton matrix JᵀSJ, by one forward and one reverse derivative."""

    def products(self, V: Float[Array, "D k"]) -> Float[Array, "D k"]:
        """Two Jacobian–vector products for each vector and probe."""

        def at_probe(x):
            outputs, pullback = jax.vjp(lambda p: outputs_at(self.f, p), x)

            def one(v):
                tangent = jax.jvp(lambda p: outputs_at(self.f, p), (x,), (v.reshape(x.shape),))[1]
                # S = LLᵀ, applied as L(Lᵀ·).
                rows = curvature_rows(self.loss, outputs, jnp.eye(len(outputs), dtype=x.dtype))
                (back,) = pullback(rows.T @ (rows @ tangent))
                return back.ravel()

            return jax.vmap(one, in_axes=1, out_axes=1)(V)

        return self._mean(at_probe, (self.x,), V)


def outputs_at(f: Callable[[Array], Array], x: Float[Array, "..."]) -> Float[Array, " C"]:
    """f(x) with an axis for the outputs."""
    return jnp.atleast_1d(f(x))
