"""What a posterior is conditioned on: values of a function at points and, with a penalty, its slopes there (T1)."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._batches import in_batches
from kpoison._linear_algebra import matrix_product
from kpoison.kernels.base import Kernel

__all__ = ["Observations", "covariance", "gram", "observing"]


class Observations(eqx.Module):
    """The functionals f ↦ f(zᵢ) for n points and f ↦ R̃∇f(zᵢ), one for each of the r rows of R̃: n(1 + r) numbers.

    Penalising (γ/2n) Σ ‖∇f(zᵢ)‖²_M is observing R̃∇f(zᵢ) = 0, R̃ = √γ R with RᵀR = M, with the noise of the values.
    Values come first, then slopes, those of one point together.

    Attributes:
        points: z, shape (n, ...).
        slope_operator: R̃, shape (r, D), D the number of coordinates of a point; r = 0 without a penalty.
    """

    points: Float[Array, "n ..."]
    slope_operator: Float[Array, "r D"]

    def __init__(self, points: Float[Array, "n ..."], slope_operator: Float[Array, "r D"] | None = None):
        self.points = points
        if slope_operator is None:
            slope_operator = jnp.zeros((0, math.prod(points.shape[1:])), points.dtype)
        self.slope_operator = slope_operator

    @property
    def slopes(self) -> int:
        """How many of each point are observed: r."""
        return len(self.slope_operator)

    @property
    def number(self) -> int:
        """How many numbers are observed."""
        return len(self.points) * (1 + self.slopes)

    def at(self, points: Float[Array, "m ..."]) -> "Observations":
        """The same of each of other points."""
        return Observations(points, self.slope_operator)

    def repeat(self, per_point: Float[Array, "n ..."]) -> Float[Array, "N ..."]:
        """What each point has, for each of its observations."""
        if not self.slopes:
            return per_point
        return jnp.concatenate([per_point, jnp.repeat(per_point, self.slopes, axis=0)])

    def with_flat_slopes(self, targets: Float[Array, "n C"]) -> Float[Array, "N C"]:
        """These values, and derivatives of 0."""
        missing = self.number - len(targets)
        return jnp.concatenate([targets, jnp.zeros((missing, targets.shape[1]), targets.dtype)]) if missing else targets

    def dual(self, coefficients: Inexact[Array, "N C"]) -> tuple[Inexact[Array, "n C"], Inexact[Array, "n C D"] | None]:
        """Weights w and slopes v of Σ w k(x, z) + v·∂_z k(x, z), from one coefficient for each observation."""
        if not self.slopes:
            return coefficients, None
        number = len(self.points)
        derivatives = coefficients[number:].reshape(number, self.slopes, -1)
        return coefficients[:number], jnp.einsum("irc,rd->icd", derivatives, self.slope_operator, precision="highest")


def observing(Z: Observations | Array) -> Observations:
    """Observations as they are; points as those of values there."""
    return Z if isinstance(Z, Observations) else Observations(Z)


def covariance(kernel: Kernel, first: Observations, second: Observations) -> Float[Array, "N1 N2"]:
    """Covariance of the observations under the kernel's prior: [[K, K01], [K10, K11]] with slope operators applied."""
    values = kernel.pairwise(first.points, second.points)
    if not (first.slopes or second.slopes):
        return values
    rows = [[values], []]
    if second.slopes:
        rows[0].append(_derivatives(kernel, second, first.points).T)
    if first.slopes:
        rows[1].append(_derivatives(kernel, first, second.points))
        if second.slopes:
            rows[1].append(_second_derivatives(kernel, first, second))
    return jnp.concatenate([jnp.concatenate(row, axis=1) for row in rows if row], axis=0)


def gram(kernel: Kernel, X: Observations, values: Float[Array, "n n"]) -> Float[Array, "N N"]:
    """`covariance(kernel, X, X)` with its values as given, symmetric to the last bit."""
    if not X.slopes:
        return values
    mixed, second = _derivatives(kernel, X, X.points), _second_derivatives(kernel, X, X)
    return jnp.block([[values, mixed.T], [mixed, 0.5 * (second + second.T)]])


def _derivatives(kernel: Kernel, at: Observations, Z: Array) -> Float[Array, "nr q"]:
    """R̃ ∂_c k(c, z) for every point c of `at` and every z."""

    def row(c):
        slopes = jax.vmap(lambda z: jax.grad(kernel.evaluate)(c, z).ravel())(Z)
        return matrix_product(at.slope_operator, slopes.T)

    return in_batches(row, at.points, Z.size).reshape(-1, len(Z))


def _second_derivatives(kernel: Kernel, first: Observations, second: Observations) -> Float[Array, "nr mr"]:
    """R̃ (∂_c ∂_zᵀ k(c, z)) R̃ᵀ for every pair."""
    directions = second.slope_operator.reshape(-1, *second.points.shape[1:])

    def row(c):
        def slope(z):
            return jax.grad(kernel.evaluate)(c, z)

        def at(z):
            columns = jax.vmap(lambda v: jax.jvp(slope, (z,), (v,))[1].ravel())(directions)
            return matrix_product(first.slope_operator, columns.T)

        return jax.vmap(at)(second.points).transpose(1, 0, 2)

    floats = second.points.size * len(directions)
    return in_batches(row, first.points, floats).reshape(len(first.points) * first.slopes, -1)
