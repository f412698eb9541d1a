"""What a posterior is conditioned on: values of a function at points and, with a penalty, its slopes there (T1)."""

import math
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Inexact, Int

from kpoison._batches import in_batches
from kpoison._linear_algebra import matrix_product
from kpoison.kernels.base import Kernel

__all__ = ["Observations", "WeightedObservations", "covariance", "gram", "observing", "root_of_weights"]


@runtime_checkable
class Scalable(Protocol):
    """A matrix that is not formed."""

    def scaled(self, factors: Array) -> Any:
        """With rows and columns of so many times the size."""
        ...


T = TypeVar("T", bound=Scalable)


class Observations(eqx.Module):
    """The functionals f ↦ f(zᵢ) for n points and f ↦ R̃∇f(zᵢ), one for each of the r rows of R̃: n(1 + r) numbers.

    Penalising (γ/2n) Σ ‖∇f(zᵢ)‖²_M is observing R̃∇f(zᵢ) = 0, R̃ = √γ R with RᵀR = M, with the noise of the values.
    Values come first, then slopes, those of one point together.  With an unpenalised constant beside the kernel there
    is one more number, the last: its covariance with every value is 1, and with slopes and itself 0.

    Attributes:
        points: z, shape (n, ...).
        slope_operator: R̃, shape (r, D), D the number of coordinates of a point; r = 0 without a penalty.
        constant: whether there is an unpenalised constant.
        weighted: whether points have weights; here each is observed once.
    """

    points: Float[Array, "n ..."]
    slope_operator: Float[Array, "r D"]
    constant: bool = eqx.field(static=True)
    weighted: ClassVar[bool] = False

    def __init__(
        self,
        points: Float[Array, "n ..."],
        slope_operator: Float[Array, "r D"] | None = None,
        *,
        constant: bool = False,
    ):
        self.points = points
        if slope_operator is None:
            slope_operator = jnp.zeros((0, math.prod(points.shape[1:])), points.dtype)
        self.slope_operator = slope_operator
        self.constant = constant

    @property
    def slopes(self) -> int:
        """How many of each point are observed: r."""
        return len(self.slope_operator)

    @property
    def number(self) -> int:
        """How many numbers are observed, N, without the constant."""
        return len(self.points) * (1 + self.slopes)

    @property
    def total(self) -> Float[Array, ""] | int:
        """How many points there are with their weights, Σw."""
        return len(self.points)

    @property
    def multiplicities(self) -> Float[Array, " n"]:
        """w, also where it is 1."""
        return jnp.ones(len(self.points), self.points.dtype)

    @property
    def border(self) -> Float[Array, "N 1"]:
        """Covariances with the constant: 1 for values, 0 for slopes."""
        return self.with_flat_slopes(jnp.ones((len(self.points), 1), self.points.dtype))

    def at(self, points: Float[Array, "m ..."]) -> "Observations":
        """The same of each of other points, once, without the constant."""
        return Observations(points, self.slope_operator)

    def with_points(self, points: Float[Array, "m ..."], weights: Float[Array, " m"]) -> "WeightedObservations":
        """The same of other points, each so often."""
        return WeightedObservations(points, self.slope_operator, weights, constant=self.constant)

    def with_weights(self, weights: Float[Array, " n"]) -> "WeightedObservations":
        """The same, each point so often."""
        return self.with_points(self.points, weights)

    def some(self, places: Int[ArrayLike, " m"]) -> "Observations":
        """Of some of the points."""
        return Observations(self.points[places], self.slope_operator, constant=self.constant)

    def repeat(self, per_point: Float[Array, "n ..."]) -> Float[Array, "N ..."]:
        """What each point has, for each of its observations."""
        if not self.slopes:
            return per_point
        return jnp.concatenate([per_point, jnp.repeat(per_point, self.slopes, axis=0)])

    def scaled(self, gram: Float[Array, "N N"]) -> Float[Array, "N N"]:
        """W^½ · gram · W^½, a constant to autodiff."""
        return gram

    def scaled_operator(self, operator: T) -> T | Any:
        """The same of a matrix that is not formed, one factor for each point."""
        return operator

    def with_flat_slopes(self, targets: Float[Array, "n C"]) -> Float[Array, "N C"]:
        """These values, and derivatives of 0."""
        missing = self.number - len(targets)
        return jnp.concatenate([targets, jnp.zeros((missing, targets.shape[1]), targets.dtype)]) if missing else targets

    def with_constant(self, rows: Float[Array, "N k"], last: Float[Array, "1 k"]) -> Float[Array, "M k"]:
        """With a row for the constant, where there is one."""
        return jnp.concatenate([rows, last]) if self.constant else rows

    def right_hand_side(self, targets: Float[Array, "n k"]) -> Float[Array, "M k"]:
        """Targets, slopes of 0, and 0 for the constant."""
        return self.with_constant(self.with_flat_slopes(targets), jnp.zeros((1, targets.shape[1]), targets.dtype))

    def dual(self, coefficients: Inexact[Array, "N C"]) -> tuple[Inexact[Array, "n C"], Inexact[Array, "n C D"]]:
        """Weights w and slopes v of Σ w k(x, z) + v·∂_z k(x, z), from one coefficient for each observation."""
        number = len(self.points)
        derivatives = coefficients[number:].reshape(number, self.slopes, coefficients.shape[1])
        return coefficients[:number], jnp.einsum("irc,rd->icd", derivatives, self.slope_operator, precision="highest")


class WeightedObservations(Observations):
    """The same of points that have weights.

    Attributes:
        weights: w, shape (n,): how often each point is observed, >= 0.
    """

    weights: Float[Array, " n"]
    weighted: ClassVar[bool] = True

    def __init__(
        self,
        points: Float[Array, "n ..."],
        slope_operator: Float[Array, "r D"] | None,
        weights: Float[Array, " n"],
        *,
        constant: bool = False,
    ):
        super().__init__(points, slope_operator, constant=constant)
        self.weights = weights

    @property
    def total(self) -> Float[Array, ""]:
        """Σw."""
        return jnp.sum(self.weights)

    @property
    def multiplicities(self) -> Float[Array, " n"]:
        """w."""
        return self.weights

    def some(self, places: Int[ArrayLike, " m"]) -> Observations:
        """Of some of the points, with their weights."""
        return super().some(places).with_weights(self.weights[places])

    def scaled(self, gram: Float[Array, "N N"]) -> Float[Array, "N N"]:
        """W^½ · gram · W^½, a constant to autodiff."""
        roots = self.repeat(root_of_weights(self.weights))
        return roots[:, None] * gram * roots[None]

    def scaled_operator(self, operator: Scalable) -> Any:
        """The same of a matrix that is not formed."""
        return operator.scaled(root_of_weights(self.weights))


def root_of_weights(weights: Float[Array, " N"]) -> Float[Array, " N"]:
    """W^½, a constant: its derivative is infinite at 0."""
    return jnp.sqrt(jax.lax.stop_gradient(weights))


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
