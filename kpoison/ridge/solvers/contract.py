"""What a solver promises, and what its factor answers; one final class and one file for each solver."""

import abc
from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact

from kpoison._failures import one_by_one
from kpoison._linear_algebra import matrix_product
from kpoison.kernels.base import Kernel
from kpoison.ridge.expansion import Span, span_of
from kpoison.ridge.observations import Observations
from kpoison.ridge.projection import RidgeStatus

__all__ = ["Abilities", "Factor", "Failures", "GramProduct", "Solver", "WrappedFactor", "condition_number"]

_COLUMNS_AT_ONCE = 64  # right-hand sides that share the products of a search

Failures = list[tuple[Array, str]]
"""Where something is wrong, and what."""


def condition_number(bounds: tuple[Float[Array, ""], Float[Array, ""]], rho: Inexact[Array, ""]) -> Float[Array, ""]:
    """Of K + ρI, at most, from bounds on the eigenvalues of K."""
    lowest, highest = jnp.maximum(bounds[0], 0), bounds[1]
    nearest = jnp.abs(jnp.where(lowest + jnp.real(rho) >= 0, lowest + rho, jnp.imag(rho)))
    return (highest + jnp.abs(rho)) / nearest


class Abilities(NamedTuple):
    """What a factor may be asked.

    Attributes:
        any_right_hand_side: whether it solves for every b, or only for those that it was prepared for.
        factorised: whether many right-hand sides cost little beside one.
        one_at_a_time: whether each solve is a long calculation of its own, better done one after the other.
        gain_by_columns: whether conditioning on slopes may take a solve for each of them.
        searched: whether `restricted` searches, and its status tells how well it found.
    """

    any_right_hand_side: bool = True
    factorised: bool = False
    one_at_a_time: bool = False
    gain_by_columns: bool = True
    searched: bool = False


class Factor(eqx.Module):
    """What is kept of the Gram matrix K of N observations, to solve with A = K + ρI; ρ may be complex.

    It answers everything that callers ask: nobody asks for its type.

    """

    @property
    def abilities(self) -> Abilities:
        """What it may be asked."""
        return Abilities()

    @property
    @abc.abstractmethod
    def solver(self) -> "Solver":
        """What made it."""

    @property
    @abc.abstractmethod
    def number(self) -> int:
        """N."""

    @abc.abstractmethod
    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"]) -> Inexact[Array, "N k"]:
        """A⁻¹b, with derivatives of every order in K, ρ and b."""

    @abc.abstractmethod
    def inverse_product(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"], c: Inexact[Array, "N l"]
    ) -> Inexact[Array, "k l"]:
        """bᵀA⁻¹c, with the same derivatives."""

    @abc.abstractmethod
    def bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """On the eigenvalues of K, from below and from above."""

    @abc.abstractmethod
    def restricted(self, b: Float[Array, "N k"], rho: tuple[float, float], largest_rank: float) -> "Factor":
        """The same for these right-hand sides and an interval of ρ only, at less per solve; itself where there is none.

        Its derivatives in ρ hold; those in kernel, data and b do not.
        """

    def residuals(self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"]) -> Inexact[Array, "N k"]:
        """Sb = (b − KA⁻¹b)/ρ, what the observations b leave over ρ; S = A⁻¹ where they have no weights."""
        return self.solve(rho, b)

    def diagonals(self, rho: Inexact[Array, ""], first: int) -> tuple[Inexact[Array, " m"], Inexact[Array, " m"]]:
        """Those of S and of the hat matrix I − ρS, see `residuals`, of the first m, with derivatives of every order.

        Raises:
            TypeError: where it does not solve for any right-hand side.
        """
        if not self.abilities.any_right_hand_side:
            raise TypeError("a posterior prepared for one poison knows no diagonal: ask the one it was made from")
        places = jnp.arange(-(-first // _COLUMNS_AT_ONCE) * _COLUMNS_AT_ONCE) % first

        def entries(places):
            columns = jax.nn.one_hot(places, self.number, dtype=self.bounds()[1].dtype, axis=0)
            return self.solve(rho, columns)[places, jnp.arange(_COLUMNS_AT_ONCE)]

        of_inverse = one_by_one(entries, places.reshape(-1, _COLUMNS_AT_ONCE)).ravel()[:first]
        return of_inverse, 1 - rho * of_inverse

    def log_determinant(self, rho: Float[Array, ""]) -> Float[Array, ""]:
        """log det A, with derivatives of every order in K and ρ.

        Raises:
            TypeError: where the matrix is not factorised.
        """
        raise TypeError(f"{type(self.solver).__name__} knows no determinant: fit with a solver that factorises")

    def spectrum(self) -> Float[Array, " N"]:
        """The eigenvalues of what is factorised, W^½KW^½ of observations with weights; a constant to autodiff.

        Raises:
            TypeError: where none are known.
        """
        raise TypeError(f"{type(self.solver).__name__} knows no eigenvalues: fit with kpoison.Spectral()")

    def matrix(self) -> Float[Array, "N N"]:
        """K, where it is formed.

        Raises:
            TypeError: where it is not.
        """
        raise TypeError(f"{type(self.solver).__name__} forms no Gram matrix")

    def span(self, kernel: Kernel, observations: Observations) -> Span:
        """What `coordinates` are coefficients of: the observations themselves, or a basis that the factor has."""
        return span_of(kernel, observations)

    def coordinates(self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"]) -> Inexact[Array, "p k"]:
        """A⁻¹b in the span."""
        return self.solve(rho, b)

    def coefficients(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"], weights: Inexact[Array, "k C"]
    ) -> Inexact[Array, "p C"]:
        """A⁻¹b · weights in the span."""
        return self.coordinates(rho, matrix_product(b, weights))

    @property
    def search_status(self) -> RidgeStatus | None:
        """How well a search found what it was made from; None where there was no search."""
        return None

    def unwatched(self) -> "Factor":
        """The same, to which a ridge that the search did not solve for is no failure."""
        return self

    def failures(self, rho: Inexact[Array, ""]) -> Failures:
        """Why there is no right solution at ρ."""
        error = jax.lax.stop_gradient(self.rounding(rho))
        return [(~(error < 1), self.no_digits())]

    def condition_number(self, rho: Inexact[Array, ""]) -> Float[Array, ""]:
        """Upper bound on the condition number of A."""
        return condition_number(self.bounds(), rho)

    def rounding(self, rho: Inexact[Array, ""]) -> Float[Array, ""]:
        """eps · condition number: bound on the relative rounding error of a solve."""
        return jnp.finfo(self.bounds()[1].dtype).eps * self.condition_number(rho)

    def no_digits(self) -> str:
        """What is said where that is 1 or more."""
        return (
            f"K + ρI is too ill-conditioned for {self.bounds()[1].dtype}: no digit of the result would be right. "
            "Use a larger ridge or float64."
        )


@runtime_checkable
class GramProduct(Protocol):
    """K as an operator, which derivatives in kernel and points go through."""

    def product(self, x: Inexact[Array, "N k"], /) -> Inexact[Array, "N k"]:
        """K x."""
        ...


class WrappedFactor(Factor):
    """A factor made of another one, which answers for it where nothing else is said."""

    inner: eqx.AbstractVar[Factor]

    @property
    def abilities(self) -> Abilities:
        """Those of the inner factor."""
        return self.inner.abilities

    @property
    def solver(self) -> "Solver":
        """That of the inner factor."""
        return self.inner.solver

    @property
    def number(self) -> int:
        """That of the inner factor."""
        return self.inner.number

    def bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Those of the inner factor."""
        return self.inner.bounds()

    def spectrum(self) -> Float[Array, " N"]:
        """That of the inner factor."""
        return self.inner.spectrum()

    @property
    def search_status(self) -> RidgeStatus | None:
        """That of the inner factor."""
        return self.inner.search_status

    def unwatched(self) -> Factor:
        """With the inner factor unwatched."""
        return eqx.tree_at(lambda factor: factor.inner, self, self.inner.unwatched())

    def failures(self, rho: Inexact[Array, ""]) -> Failures:
        """Those of the inner factor."""
        return self.inner.failures(rho)

    def no_digits(self) -> str:
        """As the inner factor says it."""
        return self.inner.no_digits()


class Solver(eqx.Module):
    """How the Gram matrix of observations is prepared for solves; a value passed to `fit`."""

    @property
    def devices(self) -> Mesh | None:
        """Among which the matrix is divided, where it is."""
        return None

    @abc.abstractmethod
    def prepare(self, kernel: Kernel, observations: Observations) -> Factor:
        """The factor of the observations' Gram matrix.

        Raises:
            ValueError: where it does not fit into the memory, where the solver cannot observe slopes and some are, and
                for a kernel that is not symmetric and positive semi-definite on the points.
        """

    @abc.abstractmethod
    def bytes(self, number: int, dtype: DTypeLike) -> int:
        """What it takes of the memory for so many observations, about."""

    def prepare_weighted(self, kernel: Kernel, observations: Observations) -> tuple[Factor, GramProduct]:
        """The factor of W^½KW^½, a constant to autodiff, and K, which derivatives go through.

        Raises:
            ValueError: as `prepare`; and by a solver that knows nothing of weights.
        """
        raise ValueError(f"solver={type(self).__name__}() takes no weights")

    def at_one_ridge(self) -> "Solver":
        """The solver of its kind that does the least for a single ridge."""
        return self
