"""Solvers that form the Gram matrix and factorise it.

Factorisations are constants to autodiff: derivatives come from the solved equation itself, A dx = db − dA x, so
clusters of eigenvalues and duplicated points do no harm.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact

from kpoison._failures import checked_result, program
from kpoison._linear_algebra import matrix_product
from kpoison._memory import available_memory, in_words
from kpoison.kernels.base import Kernel, made_by_halves, symmetric_gram
from kpoison.ridge.gram import (
    checked_on_sample,
    gram_failures,
    gram_matrix,
    gram_rounding,
    lost_digits,
    takes_differences,
)
from kpoison.ridge.observations import Observations
from kpoison.ridge.observations import gram as observations_gram
from kpoison.ridge.solvers.contract import Abilities, Factor, Solver
from kpoison.ridge.solvers.weighted import MatrixProduct

__all__ = [
    "DENSE_UP_TO",
    "DenseFactor",
    "DenseSolver",
    "Factorisation",
    "implicit_inverse_product",
    "implicit_solve",
]

DENSE_UP_TO = 12_000  # numbers: a Gram matrix of 1.1 GiB in float64, and a factorisation of minutes


class Factorisation(eqx.Module):
    """Of a matrix K: solves with A = K + ρI without derivatives in K.

    It may work in an orthonormal basis Q of its own, where solves for many ρ are cheap.

    Attributes:
        one_at_a_time: whether each ρ takes a factorisation of its own.
    """

    one_at_a_time: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def solver(self) -> "DenseSolver":
        """What made it."""

    def spectrum(self) -> Float[Array, " n"] | None:
        """The eigenvalues of K, where it has them."""
        return None

    @abc.abstractmethod
    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """A⁻¹b."""

    @abc.abstractmethod
    def bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """On the eigenvalues of K."""

    def inverse_product(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"], c: Inexact[Array, "n l"]
    ) -> Inexact[Array, "k l"]:
        """bᵀA⁻¹c; O(n) per pair and ridge once Qᵀb, Qᵀc are known."""
        return matrix_product(self.rotate(b).T, self.rotated_solve(rho, self.rotate(c)))

    def rotate(self, b: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Qᵀb."""
        return b

    def rotate_back(self, c: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Q c."""
        return c

    @abc.abstractmethod
    def rotated_product(self, c: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """QᵀKQ c."""

    def rotated_solve(self, rho: Inexact[Array, ""], c: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """(QᵀAQ)⁻¹c."""
        return self.solve(rho, c)

    def diagonals(
        self, rho: Inexact[Array, ""], identity: Float[Array, "n n"]
    ) -> tuple[Inexact[Array, " n"], Inexact[Array, " n"]]:
        """Those of A⁻¹ and of KA⁻¹ = I − ρA⁻¹."""
        of_inverse = jnp.diagonal(self.solve(rho, identity))
        return of_inverse, 1 - rho * of_inverse

    def log_determinant(self, rho: Float[Array, ""], identity: Float[Array, "n n"]) -> Float[Array, ""]:
        """log det A."""
        return jnp.linalg.slogdet(self.rotated_product(identity) + rho * identity)[1]


class DenseFactor(Factor):
    """K itself, which derivatives go through, and its factorisation, a constant."""

    gram: Float[Array, "N N"]
    factorisation: Factorisation

    @property
    def abilities(self) -> Abilities:
        """Many right-hand sides."""
        return Abilities(factorised=True)

    @property
    def solver(self) -> "DenseSolver":
        """What made it."""
        return self.factorisation.solver

    @property
    def number(self) -> int:
        """N."""
        return len(self.gram)

    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"]) -> Inexact[Array, "N k"]:
        """By the factorisation."""
        return implicit_solve(self.factorisation, self.gram, rho, b)

    def inverse_product(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"], c: Inexact[Array, "N l"]
    ) -> Inexact[Array, "k l"]:
        """By the factorisation, O(N) per pair and ridge where it has a basis of its own."""
        return implicit_inverse_product(self.factorisation, self.gram, rho, b, c)

    def diagonals(self, rho: Inexact[Array, ""], first: int) -> tuple[Inexact[Array, " m"], Inexact[Array, " m"]]:
        """By the factorisation."""
        of_inverse, of_hat = _diagonals(self.factorisation, self.gram, rho)
        return of_inverse[:first], of_hat[:first]

    def log_determinant(self, rho: Float[Array, ""]) -> Float[Array, ""]:
        """By the factorisation."""
        return _log_determinant(self.factorisation, self.gram, rho)

    def spectrum(self) -> Float[Array, " N"]:
        """Those of the factorisation."""
        found = self.factorisation.spectrum()
        return super().spectrum() if found is None else jax.lax.stop_gradient(found)

    def matrix(self) -> Float[Array, "N N"]:
        """K."""
        return self.gram

    def bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Those of the factorisation."""
        return self.factorisation.bounds()

    def restricted(self, b: Float[Array, "N k"], rho: tuple[float, float], largest_rank: float) -> Factor:
        """By solves at a few ridges; itself where they span no small space, or a check between them fails."""
        from kpoison.ridge.solvers.prepared import from_factorisation

        return from_factorisation(self.factorisation, b, rho, largest_rank) or self


class DenseSolver(Solver):
    """A solver that factorises the matrix."""

    @abc.abstractmethod
    def factorise(self, gram: Float[Array, "N N"]) -> Factorisation:
        """The factorisation of a symmetric positive semi-definite matrix."""

    def prepare(self, kernel: Kernel, observations: Observations) -> DenseFactor:
        """The Gram matrix, checked, and its factorisation."""
        self._affordable(observations)
        X = observations.points
        differences = takes_differences(kernel, X)
        if observations.slopes or differences or not made_by_halves(kernel, X):
            return DenseFactor(*_factorised(kernel, observations, self, differences))
        # Symmetric as it is made, so that a kernel that is not shows on a sample only.  Not in one program, whose
        # results would be copies.  Not the sample first: LAPACK's threads spin on after its factorisation.
        gram = symmetric_gram(kernel, X)
        checked_on_sample(kernel, X)
        factorisation = self.factorise(gram)
        failures = lost_digits(kernel, X) + gram_failures(kernel, factorisation.bounds(), gram_rounding(gram))
        return DenseFactor(checked_result(gram, failures), factorisation)

    def prepare_weighted(self, kernel: Kernel, observations: Observations) -> tuple[DenseFactor, MatrixProduct]:
        """The Gram matrix, checked, and the factorisation of its scaled one."""
        self._affordable(observations)
        differences = takes_differences(kernel, observations.points)
        gram, scaled, factorisation = _factorised_with_weights(kernel, observations, self, differences)
        return DenseFactor(scaled, factorisation), MatrixProduct(gram)

    def bytes(self, number: int, dtype: DTypeLike) -> int:
        """The Gram matrix, its factorisation, and what LAPACK works in."""
        return 5 * int(number) ** 2 * jnp.dtype(dtype).itemsize

    def at_one_ridge(self) -> "DenseSolver":
        """`Cholesky`."""
        from kpoison.ridge.solvers.cholesky import Cholesky

        return Cholesky()

    def _affordable(self, observations: Observations) -> None:
        """Refuse what cannot fit, or would take hours: with the estimate, what would fit, and the alternative."""
        number, dtype = observations.number, observations.points.dtype
        if observations.slopes and number > DENSE_UP_TO:
            raise ValueError(
                f"gradient_penalty needs a dense matrix over n(1 + r) = {number} values and slopes, more than "
                f"{DENSE_UP_TO}: use solver=kpoison.ConjugateGradients(), fewer points, or a metric of lower rank r"
            )
        needed, available = self.bytes(number, dtype), available_memory()
        if needed > available:
            fits = int(number * (available / needed) ** 0.5)
            raise ValueError(
                f"solver={type(self).__name__}() of n = {number:,} numbers takes about {in_words(needed)}, of which "
                f"{in_words(available)} are available: use solver=kpoison.Krylov(), or at most {fits:,}"
            )


@program
def _factorised(
    kernel: Kernel, observed: Observations, solver: DenseSolver, differences: bool
) -> tuple[Array, Factorisation]:
    """The Gram matrix, by differences of points or by a matrix product, and its factorisation."""
    gram, _, factorisation = _factorised_with_weights(kernel, observed, solver, differences)
    return gram, factorisation


@program
def _factorised_with_weights(
    kernel: Kernel, observed: Observations, solver: DenseSolver, differences: bool
) -> tuple[Array, Array, Factorisation]:
    """The Gram matrix K, W^½KW^½ as a constant, and the factorisation of that."""
    X = observed.points
    gram = observations_gram(kernel, observed, gram_matrix(kernel, X, differences))
    constant = jax.lax.stop_gradient(gram)
    asymmetry = jnp.max(jnp.abs(constant - constant.T)) / gram_rounding(constant)
    scaled = observed.scaled(constant)
    rounding = gram_rounding(scaled)
    factorisation = solver.factorise(scaled)
    failures = [] if differences else lost_digits(kernel, X)
    failures += gram_failures(kernel, factorisation.bounds(), rounding, asymmetry * rounding)
    return checked_result(gram, failures), scaled, factorisation


def implicit_solve(factorisation: Factorisation, gram: Array, rho: Array, b: Array) -> Array:
    """A⁻¹b with derivatives of every order in K (through `gram`), ρ and b.

    The solve states the product that it inverts: each derivative is that of A x = b, and again such a solve.  A rule
    that acted on a tangent by the factorisation, a constant in K, would be right once, and wrong from the second
    order on.
    """
    constant, shift = jax.lax.stop_gradient((factorisation, rho))
    return jax.lax.custom_linear_solve(
        lambda x: matrix_product(gram, x) + rho * x,
        b.astype(jnp.result_type(gram, rho, b)),
        lambda _, right: constant.solve(shift, right),
        symmetric=True,
    )


@jax.custom_jvp
def implicit_inverse_product(factorisation: Factorisation, gram: Array, rho: Array, b: Array, c: Array) -> Array:
    """bᵀA⁻¹c with derivatives of every order in K (through `gram`), ρ, b and c; the first by two solves."""
    return factorisation.inverse_product(rho, b, c)


@implicit_inverse_product.defjvp
def _implicit_inverse_product_jvp(primals, tangents):
    factorisation, gram, rho, b, c = primals
    _, d_gram, d_rho, d_b, d_c = tangents
    left, right = implicit_solve(factorisation, gram, rho, b), implicit_solve(factorisation, gram, rho, c)
    tangent = matrix_product(d_b.T, right) + matrix_product(left.T, d_c)
    tangent -= matrix_product(left.T, matrix_product(d_gram, right) + d_rho * right)
    return implicit_inverse_product(factorisation, gram, rho, b, c), tangent


@jax.custom_jvp
def _diagonals(factorisation: Factorisation, gram: Array, rho: Array) -> tuple[Array, Array]:
    """Diagonals of A⁻¹ and KA⁻¹, with derivatives of every order in K and ρ."""
    return factorisation.diagonals(rho, _identity(gram))


@_diagonals.defjvp
def _diagonals_jvp(primals, tangents):
    factorisation, gram, rho = primals
    _, d_gram, d_rho = tangents
    identity = _identity(gram)
    inverse = implicit_solve(factorisation, gram, rho, identity)
    of_inverse, of_hat = _diagonals(factorisation, gram, rho)
    tangent = -jnp.sum(inverse.T * matrix_product(d_gram + d_rho * identity, inverse), axis=0)
    return (of_inverse, of_hat), (tangent, -d_rho * of_inverse - rho * tangent)


@jax.custom_jvp
def _log_determinant(factorisation: Factorisation, gram: Array, rho: Array) -> Array:
    """log det A, with derivatives of every order in K and ρ."""
    return factorisation.log_determinant(rho, _identity(gram))


@_log_determinant.defjvp
def _log_determinant_jvp(primals, tangents):
    factorisation, gram, rho = primals
    _, d_gram, d_rho = tangents
    inverse = implicit_solve(factorisation, gram, rho, _identity(gram))
    tangent = jnp.sum(inverse.T * d_gram) + d_rho * jnp.trace(inverse)
    return _log_determinant(factorisation, gram, rho), tangent


def _identity(gram: Array) -> Array:
    return jnp.eye(len(gram), dtype=gram.dtype)
