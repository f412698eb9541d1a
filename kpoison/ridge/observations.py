"""What a posterior is conditioned on: values of a function at points and, with a penalty, its slopes there (T1)."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._linear_algebra import matrix_product
from kpoison.kernels.base import Kernel

__all__ = ["Observations", "covariance", "gram", "observing"]

_FLOATS_AT_ONCE = 2**22


class Observations(eqx.Module):
    """The functionals f ↦ f(zᵢ) for n points and, where there is a `root`, f ↦ root ∇f(zᵢ), one for each of its rows.

    Penalising (γ/2n) Σ ‖∇f(zᵢ)‖²_M is observing √γ R ∇f(zᵢ) = 0, RᵀR = M, with the noise of the values.  Values come
    first, then derivatives, those of one point together: n(1 + r) numbers.

    Attributes:
        points: z, shape (n, ...).
        root: √γ R, shape (r, D), D the number of coordinates of a point; None without a penalty.
    """

    points: Float[Array, "n ..."]
    root: Float[Array, "r D"] | None = None

    @property
    def number(self) -> int:
        """How many numbers are observed."""
        return len(self.points) * (1 if self.root is None else 1 + len(self.root))

    def repeat(self, per_point: Float[Array, "n ..."]) -> Float[Array, "N ..."]:
        """What each point has, for each of its observations."""
        if self.root is None:
            return per_point
        return jnp.concatenate([per_point, jnp.repeat(per_point, len(self.root), axis=0)])

    def with_flat_slopes(self, targets: Float[Array, "n C"]) -> Float[Array, "N C"]:
        """These values, and derivatives of 0."""
        missing = self.number - len(targets)
        return jnp.concatenate([targets, jnp.zeros((missing, targets.shape[1]), targets.dtype)]) if missing else targets

    def dual(self, coefficients: Inexact[Array, "N C"]) -> tuple[Inexact[Array, "n C"], Inexact[Array, "n C D"] | None]:
        """Weights w and slopes v of Σ w k(x, z) + v·∂_z k(x, z), from one coefficient for each observation."""
        if self.root is None:
            return coefficients, None
        number = len(self.points)
        derivatives = coefficients[number:].reshape(number, len(self.root), -1)
        return coefficients[:number], jnp.einsum("irc,rd->icd", derivatives, self.root, precision="highest")


def observing(Z: Observations | Array) -> Observations:
    """Observations as they are; points as those of values there."""
    return Z if isinstance(Z, Observations) else Observations(Z)


def covariance(kernel: Kernel, first: Observations, second: Observations) -> Float[Array, "N1 N2"]:
    """Covariance of the observations under the kernel's prior: [[K, K01], [K10, K11]] with roots applied."""
    values = kernel.pairwise(first.points, second.points)
    if first.root is None and second.root is None:
        return values
    rows = [[values], []]
    if second.root is not None:
        rows[0].append(_derivatives(kernel, second, first.points).T)
    if first.root is not None:
        rows[1].append(_derivatives(kernel, first, second.points))
        if second.root is not None:
            rows[1].append(_second_derivatives(kernel, first, second))
    return jnp.concatenate([jnp.concatenate(row, axis=1) for row in rows if row], axis=0)


def gram(kernel: Kernel, X: Observations, values: Float[Array, "n n"]) -> Float[Array, "N N"]:
    """`covariance(kernel, X, X)` with its values as given, symmetric to the last bit."""
    if X.root is None:
        return values
    mixed, second = _derivatives(kernel, X, X.points), _second_derivatives(kernel, X, X)
    return jnp.block([[values, mixed.T], [mixed, 0.5 * (second + second.T)]])


def _derivatives(kernel: Kernel, at: Observations, Z: Array) -> Float[Array, "nr q"]:
    """root ∂_c k(c, z) for every point c of `at` and every z."""
    root = at.root
    assert root is not None

    def row(c):
        slopes = jax.vmap(lambda z: jax.grad(kernel.evaluate)(c, z).ravel())(Z)
        return matrix_product(root, slopes.T)

    return _each(row, at.points, Z.size).reshape(-1, len(Z))


def _second_derivatives(kernel: Kernel, first: Observations, second: Observations) -> Float[Array, "nr mr"]:
    """root (∂_c ∂_zᵀ k(c, z)) rootᵀ for every pair."""
    root, other = first.root, second.root
    assert root is not None
    assert other is not None
    directions = other.reshape(-1, *second.points.shape[1:])

    def row(c):
        def slope(z):
            return jax.grad(kernel.evaluate)(c, z)

        def at(z):
            columns = jax.vmap(lambda v: jax.jvp(slope, (z,), (v,))[1].ravel())(directions)
            return matrix_product(root, columns.T)

        return jax.vmap(at)(second.points).transpose(1, 0, 2)

    floats = second.points.size * len(directions)
    return _each(row, first.points, floats).reshape(len(first.points) * len(root), -1)


def _each(row: Callable, points: Array, floats: int) -> Array:
    """`row` at every point, in batches that bound the memory."""
    return jax.lax.map(row, points, batch_size=min(len(points), max(1, _FLOATS_AT_ONCE // max(1, floats))))
