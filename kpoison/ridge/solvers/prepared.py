"""A factor restricted to what one poison needs of it, over a whole range of ridges."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Inexact

from kpoison._linear_algebra import matrix_product
from kpoison.kernels.base import Kernel
from kpoison.ridge.expansion import Reduced
from kpoison.ridge.observations import Observations
from kpoison.ridge.projection import Projection, RidgeStatus
from kpoison.ridge.solvers.contract import Abilities, Factor, Failures, Solver, condition_number
from kpoison.ridge.solvers.dense import Factorisation
from kpoison.ridge.solvers.spectral import SpectralFactorisation

__all__ = ["Prepared", "from_factorisation", "from_search"]

# Between ridges whose logarithms are this far apart the solutions are interpolated to rounding: log-equispaced poles
# err like exp(−π²/spacing).
_LOG_SPACING = 0.25
_UNCONVERGED = (
    "at this ρ = (n_c + Σm)λ the solves have not converged, or clean was not prepared for it: see "
    "clean.factor.status, raise the ridge, or the rank, tolerance or max_products of kpoison.Krylov"
)
_PADDED_TO = 4  # so that the compressed posteriors of many ζ share a compiled program


class Prepared(Factor):
    """A factor for a few right-hand sides and an interval of ρ: O(rank) per solve.

    The vectors (K + ρI)⁻¹b over an interval of ρ span a space of low numerical rank (a rational Krylov space;
    Beckermann, Townsend 2017).  K is projected onto it (Galerkin), so that the eigenpairs of the small projected
    matrix take the place of those of K.  Derivatives in ρ hold; those in the kernel, the data or the right-hand sides
    do not.

    Attributes:
        eigenvalues, eigenvectors: of the projection, (p,) and (N, p).
        lowest, highest: bounds on the eigenvalues of K.
        made_by: the solver of the whole.
        status: where the space was searched, how well it holds the solutions; None where nobody is to be told.
    """

    eigenvalues: Float[Array, " p"]
    eigenvectors: Float[Array, "N p"]
    lowest: Float[Array, ""]
    highest: Float[Array, ""]
    made_by: Solver
    status: RidgeStatus | None = None

    @property
    def abilities(self) -> Abilities:
        """Many, but not any, right-hand sides."""
        return Abilities(any_right_hand_side=False, factorised=True)

    @property
    def number(self) -> int:
        """N."""
        return len(self.eigenvectors)

    @property
    def solver(self) -> Solver:
        """That of the whole."""
        return self.made_by

    def span(self, kernel: Kernel, observations: Observations) -> Reduced:
        """Of the eigenvectors."""
        return Reduced(kernel, observations.points, self.eigenvectors)

    def coordinates(self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"]) -> Inexact[Array, "p k"]:
        """A⁻¹b in the span."""
        return matrix_product(self.eigenvectors.T, b) / (self.eigenvalues + rho)[:, None]

    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"]) -> Inexact[Array, "N k"]:
        """A⁻¹b for those b that it was prepared for."""
        return matrix_product(self.eigenvectors, self.coordinates(rho, b))

    def inverse_product(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"], c: Inexact[Array, "N l"]
    ) -> Inexact[Array, "k l"]:
        """bᵀA⁻¹c."""
        return matrix_product(matrix_product(self.eigenvectors.T, b).T, self.coordinates(rho, c))

    def coefficients(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"], weights: Inexact[Array, "k C"]
    ) -> Inexact[Array, "p C"]:
        """A⁻¹b · weights in the span, where the weights may be of any number of sets."""
        return matrix_product(self.coordinates(rho, b), weights)

    def bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Those of K."""
        return self.lowest, self.highest

    @property
    def search_status(self) -> RidgeStatus | None:
        """The status."""
        return self.status

    def unwatched(self) -> "Prepared":
        """Without the status: factors of several searches then share a compiled program, too."""
        return Prepared(self.eigenvalues, self.eigenvectors, self.lowest, self.highest, self.made_by)

    def failures(self, rho: Inexact[Array, ""]) -> Failures:
        """Those of every solve, and what the search says of this ρ."""
        unsolved = [] if self.status is None else [(~self.status.at(jax.lax.stop_gradient(rho))[1], _UNCONVERGED)]
        return super().failures(rho) + unsolved

    def restricted(self, b: Float[Array, "N k"], rho: tuple[float, float], largest_rank: float) -> "Prepared":
        """Itself."""
        return self

    def times(self, scale: Float[Array, "N 1"]) -> "Prepared":
        """Of D A⁻¹ D, D the diagonal matrix of some scales."""
        return eqx.tree_at(lambda factor: factor.eigenvectors, self, scale * self.eigenvectors)


def from_factorisation(
    factorisation: Factorisation, b: Array, rho: tuple[float, float], largest_rank: float
) -> Prepared | None:
    """By solves at a few ridges; None where they span no small space, or a check between them fails."""
    n, dtype, poles = len(b), b.dtype, _poles(rho)
    if poles.size * b.shape[1] > n:
        return None
    # In the basis of the factorisation, where solves are cheapest; norms and ranks are the same in all.
    rotated, solutions = _rotated_solutions(factorisation, poles.astype(dtype), b)
    basis, rank = _orthonormal_basis(np.asarray(solutions))
    if rank > largest_rank * n:
        return None
    several = len(poles) > 1
    between = np.geomspace(*rho, 9) if several else poles
    bounds = factorisation.bounds()
    small, status, agrees = _project(factorisation, bounds, basis, between.astype(dtype), rotated, compare=several)
    return _prepared(small, bounds, factorisation.solver, status) if agrees else None


def from_search(found: Projection, bounds: tuple[Array, Array], solver: Solver, rho: tuple[float, float]) -> Prepared:
    """By a Krylov search, whose space is larger than what its solutions span."""
    whole, rotated = SpectralFactorisation(found.eigenvalues, found.vectors), found.right_hand_sides
    solutions = _solutions(whole, _poles(rho).astype(rotated.dtype), rotated)
    basis, rank = _orthonormal_basis(np.asarray(solutions))
    if rank < len(found.eigenvalues):
        between = np.geomspace(*rho, 9).astype(rotated.dtype)
        small, _, agrees = _project(whole, bounds, basis, between, rotated, compare=True)
        if agrees:
            return _prepared(small, bounds, solver, found.status)
    return _prepared(whole, bounds, solver, found.status)


def _prepared(
    small: SpectralFactorisation, bounds: tuple[Array, Array], solver: Solver, status: RidgeStatus
) -> Prepared:
    return Prepared(small.eigenvalues, small.eigenvectors, *bounds, solver, status)


def _poles(rho: tuple[float, float]) -> np.ndarray:
    """Ridges whose solutions hold those of all between."""
    if rho[0] == rho[1]:
        return np.asarray(rho[:1])
    # A few beyond both ends, where interpolation is at its worst.
    low, high = rho[0] / math.e, rho[1] * math.e
    return np.geomspace(low, high, 2 + math.ceil(math.log(high / low) / _LOG_SPACING))


def _status(factor: Factorisation, small: SpectralFactorisation, rhos: Array, rotated: Array) -> RidgeStatus:
    """Residuals of the reduced solves; what a factorisation gives counts as converged."""
    norms = jnp.linalg.norm(rotated, axis=0)

    def residual(rho):
        x = small.solve(rho, rotated)
        left = jnp.linalg.norm(rotated - factor.rotated_product(x) - rho * x, axis=0)
        return jnp.max(left / jnp.where(norms > 0, norms, 1))

    none = jnp.asarray(0)
    return RidgeStatus(rhos, jax.vmap(residual)(rhos), jnp.ones(len(rhos), bool), none, none, none)


@eqx.filter_jit
def _rotated_solutions(factor: Factorisation, rhos: ArrayLike, b: Array) -> tuple[Array, Float[Array, "n m"]]:
    """The right-hand sides in the factor's basis, and `_solutions` for them."""
    rotated = factor.rotate(b)
    return rotated, _solutions(factor, rhos, rotated)


@eqx.filter_jit
def _solutions(factor: Factorisation, rhos: ArrayLike, rotated: Array) -> Float[Array, "n m"]:
    """(K + ρI)⁻¹b of unit norm, for every ρ and b."""
    solutions = _at_each(jnp.asarray(rhos), factor, lambda rho: factor.rotated_solve(rho, rotated))
    columns = jnp.moveaxis(solutions, 1, 0).reshape(len(rotated), -1)
    norms = jnp.linalg.norm(columns, axis=0)
    return columns / jnp.where(norms > 0, norms, 1)[None]


def _orthonormal_basis(columns: np.ndarray) -> tuple[np.ndarray, int]:
    """An orthonormal basis of the columns, padded with zeros to a multiple of a few, and their numerical rank."""
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    rank = max(1, int(np.sum(singular > 4 * np.finfo(columns.dtype).eps * singular[0])))
    basis = np.zeros((len(columns), -(-rank // _PADDED_TO) * _PADDED_TO), columns.dtype)
    basis[:, :rank] = left[:, :rank]
    return basis, rank


@eqx.filter_jit
def _project(
    factor: Factorisation,
    bounds: tuple[Array, Array],
    basis: ArrayLike,
    rhos: ArrayLike,
    rotated: Array,
    *,
    compare: bool,
) -> tuple[SpectralFactorisation, RidgeStatus, Bool[Array, ""]]:
    """The matrix projected onto a basis, with its status at some ρ, and whether it solves there as the factor does."""
    basis, rhos = jnp.asarray(basis), jnp.asarray(rhos)
    values, vectors = jnp.linalg.eigh(matrix_product(basis.T, factor.rotated_product(basis)))
    values, vectors = jnp.maximum(values, 0), matrix_product(basis, vectors)
    small = SpectralFactorisation(values, vectors)
    agrees = _agrees(factor, bounds, small, rhos, rotated) if compare else jnp.ones((), bool)
    status = _status(factor, small, rhos, rotated)
    return SpectralFactorisation(values, factor.rotate_back(vectors)), status, agrees


def _agrees(
    factor: Factorisation, bounds: tuple[Array, Array], small: SpectralFactorisation, rhos: Array, rotated: Array
) -> Array:
    """Whether both solve to rounding."""
    eps = jnp.finfo(rotated.dtype).eps

    def error_over_rounding(rho):
        full, reduced = factor.rotated_solve(rho, rotated), small.solve(rho, rotated)
        norms = jnp.linalg.norm(full, axis=0)
        error = jnp.linalg.norm(full - reduced, axis=0) / jnp.where(norms > 0, norms, 1)
        # The basis leaves out what is below a few eps of a solution.
        return jnp.max(error) / (10 * eps * condition_number(bounds, rho) + 1000 * eps)

    return jnp.all(_at_each(rhos, factor, error_over_rounding) < 1)


def _at_each(rhos: Array, factor: Factorisation, function: Callable) -> Array:
    """`function` at each ρ: together, or one after the other where each takes a factorisation."""
    if len(rhos) == 1:  # within a loop a compiler would move the matrix into LAPACK's layout
        return function(rhos[0])[None]
    return jax.lax.map(function, rhos) if factor.one_at_a_time else jax.vmap(function)(rhos)
