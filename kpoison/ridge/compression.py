"""The clean posterior restricted to what one poison needs of it, over a whole range of ridges."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from kpoison._linear_algebra import matrix_product
from kpoison.ridge.krylov import KrylovFactor
from kpoison.ridge.posterior import Posterior
from kpoison.ridge.projection import RidgeStatus
from kpoison.ridge.solvers import CholeskyFactor, DenseFactor, ReducedFactor

__all__ = ["compress"]

# Between ridges whose logarithms are this far apart the solutions are interpolated to rounding: log-equispaced poles
# err like exp(−π²/spacing).
_LOG_SPACING = 0.25
_PADDED_TO = 4  # so that the compressed posteriors of many ζ share a compiled program


def compress(
    clean: Posterior, right_hand_sides: Float[Array, "n k"], rho: tuple[float, float], *, largest_rank: float = 0.25
) -> Posterior | None:
    """The same posterior, valid for these right-hand sides and these ridges only, at O(rank) per solve.

    The vectors (K + ρI)⁻¹b over an interval of ρ span a space of low numerical rank (a rational Krylov space;
    Beckermann, Townsend 2017).  K is projected onto it (Galerkin), so that the eigenpairs of the small projected
    matrix take the place of those of K.  Derivatives in ρ hold; those in the kernel, the data or the right-hand sides
    do not.

    Args:
        clean: the posterior, concrete.
        right_hand_sides: b, such as k(X, ζ) and, where f_c(x) is wanted, y.
        rho: the smallest and the largest ρ.
        largest_rank: give up where the rank exceeds this part of n.

    Returns:
        The compressed posterior, or None where its rank is not small, a check between the poles fails, slopes are
        observed too, or training is stopped early, which takes complex ρ.  With `Krylov` never None: solutions are
        searched, and `factor.status` tells how well they were found.
    """
    if clean.root is not None or clean.time is not None:
        return None
    if isinstance(clean.factor, KrylovFactor):
        return _searched(clean, clean.factor, right_hand_sides, rho)
    return _factorised(clean, right_hand_sides, rho, largest_rank) if isinstance(clean.factor, DenseFactor) else None


def _factorised(clean: Posterior, b: Array, rho: tuple[float, float], largest_rank: float) -> Posterior | None:
    """The same from solves at a few ridges."""
    factor, dtype = clean.factor, clean.X.dtype
    assert isinstance(factor, DenseFactor)
    poles = _poles(rho)
    if poles.size * b.shape[1] > len(clean.X):
        return None
    # In the basis of the factorisation, where solves are cheapest; norms and ranks are the same in all.
    rotated, solutions = _rotated_solutions(factor, poles.astype(dtype), b)
    basis, rank = _orthonormal_basis(np.asarray(solutions))
    if rank > largest_rank * len(clean.X):
        return None
    several = len(poles) > 1
    between = np.geomspace(*rho, 9) if several else poles
    reduced, agrees = _project(clean, factor, basis, between.astype(dtype), rotated, compare=several)
    return eqx.tree_at(lambda posterior: posterior.factor, clean, reduced) if agrees else None


def _poles(rho: tuple[float, float]) -> np.ndarray:
    """Ridges whose solutions hold those of all between."""
    if rho[0] == rho[1]:
        return np.asarray(rho[:1])
    # A few beyond both ends, where interpolation is at its worst.
    low, high = rho[0] / math.e, rho[1] * math.e
    return np.geomspace(low, high, 2 + math.ceil(math.log(high / low) / _LOG_SPACING))


def _searched(clean: Posterior, factor: KrylovFactor, b: Array, rho: tuple[float, float]) -> Posterior:
    """The same from a Krylov search, whose space is larger than what its solutions span."""
    found = factor.project(b, rho)
    whole = ReducedFactor(found.eigenvalues, found.vectors, *factor.extreme_eigenvalues(), found.status)
    rotated = found.right_hand_sides
    solutions = _solutions(whole, _poles(rho).astype(b.dtype), rotated)
    basis, rank = _orthonormal_basis(np.asarray(solutions))
    reduced = whole
    if rank < len(found.eigenvalues):
        between = np.geomspace(*rho, 9).astype(b.dtype)
        smaller, agrees = _project(clean, whole, basis, between, rotated, compare=True)
        if agrees:
            reduced = _with_status(smaller, found.status)
    return eqx.tree_at(lambda posterior: posterior.factor, clean, factor.on_one_device(reduced))


def _with_status(factor: ReducedFactor, status: RidgeStatus) -> ReducedFactor:
    return eqx.tree_at(lambda factor: factor.status, factor, status, is_leaf=lambda leaf: leaf is None)


def _status(factor: DenseFactor, small: ReducedFactor, rhos: Array, rotated: Array) -> RidgeStatus:
    """Residuals of the reduced solves; what a factorisation gives counts as converged."""
    norms = jnp.linalg.norm(rotated, axis=0)

    def residual(rho):
        x = small.solve(rho, rotated)
        left = jnp.linalg.norm(rotated - factor.rotated_product(x) - rho * x, axis=0)
        return jnp.max(left / jnp.where(norms > 0, norms, 1))

    none = jnp.asarray(0)
    return RidgeStatus(rhos, jax.vmap(residual)(rhos), jnp.ones(len(rhos), bool), none, none, none)


@eqx.filter_jit
def _rotated_solutions(factor: DenseFactor, rhos: ArrayLike, b: Array) -> tuple[Array, Float[Array, "n m"]]:
    """The right-hand sides in the factor's basis, and `_solutions` for them."""
    rotated = factor.rotate(b)
    return rotated, _solutions(factor, rhos, rotated)


@eqx.filter_jit
def _solutions(factor: DenseFactor, rhos: ArrayLike, rotated: Array) -> Float[Array, "n m"]:
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
    clean: Posterior, factor: DenseFactor, basis: ArrayLike, rhos: ArrayLike, rotated: Array, *, compare: bool
) -> tuple[ReducedFactor, Bool[Array, ""]]:
    """The matrix projected onto a basis, with its status at some ρ, and whether it solves there as the factor does."""
    basis, rhos = jnp.asarray(basis), jnp.asarray(rhos)
    values, vectors = jnp.linalg.eigh(matrix_product(basis.T, factor.rotated_product(basis)))
    values, vectors = jnp.maximum(values, 0), matrix_product(basis, vectors)
    extreme = factor.extreme_eigenvalues()
    small = ReducedFactor(values, vectors, *extreme)
    agrees = _agrees(clean, factor, small, rhos, rotated) if compare else jnp.ones((), bool)
    status = _status(factor, small, rhos, rotated)
    return ReducedFactor(values, factor.rotate_back(vectors), *extreme, status), agrees


def _agrees(clean: Posterior, factor: DenseFactor, small: ReducedFactor, rhos: Array, rotated: Array) -> Array:
    """Whether both solve to rounding."""

    def error_over_rounding(rho):
        full, reduced = factor.rotated_solve(rho, rotated), small.solve(rho, rotated)
        norms = jnp.linalg.norm(full, axis=0)
        error = jnp.linalg.norm(full - reduced, axis=0) / jnp.where(norms > 0, norms, 1)
        # The basis leaves out what is below a few eps of a solution.
        return jnp.max(error) / (10 * clean.rounding(rho) + 1000 * jnp.finfo(rotated.dtype).eps)

    return jnp.all(_at_each(rhos, factor, error_over_rounding) < 1)


def _at_each(rhos: Array, factor: DenseFactor, function: Callable) -> Array:
    """`function` at each ρ: together, or one after the other where each takes a factorisation."""
    if len(rhos) == 1:  # within a loop a compiler would move the matrix into LAPACK's layout
        return function(rhos[0])[None]
    return jax.lax.map(function, rhos) if isinstance(factor, CholeskyFactor) else jax.vmap(function)(rhos)
