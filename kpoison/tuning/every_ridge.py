"""A posterior that a search looks at: at every ridge from one eigendecomposition, and with derivatives at one of them.

Derivatives of a left-out error take A⁻¹ and products of it, which at the ridge that is best for a kernel are worth
their time, and at the fifty that were looked at to find it are not.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact

from kpoison._linear_algebra import matrix_product
from kpoison.kernels.base import Kernel
from kpoison.ridge import Observations, Posterior, Solver, Spectral
from kpoison.ridge.gram import gram_matrix
from kpoison.ridge.solvers.dense import DenseFactor, Factorisation
from kpoison.ridge.solvers.preparation import prepared
from kpoison.ridge.solvers.spectral import SpectralFactorisation
from kpoison.ridge.solvers.weighted import MatrixProduct

__all__ = ["is_definite", "posterior_at_every_ridge", "with_inverse"]


class _Inverse(Factorisation):
    """(K + ρI)⁻¹ for the ρ that it was made for, whatever is asked: at this place a search asks for no other."""

    eigenpairs: SpectralFactorisation
    inverse: Float[Array, "n n"]

    @property
    def solver(self) -> Spectral:
        """What it is like."""
        return Spectral()

    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """By the inverse."""
        return matrix_product(self.inverse, b)

    def diagonals(
        self, rho: Inexact[Array, ""], identity: Float[Array, "n n"]
    ) -> tuple[Inexact[Array, " n"], Inexact[Array, " n"]]:
        """Those of A⁻¹ and of KA⁻¹."""
        of_inverse = jnp.diagonal(self.inverse)
        return of_inverse, 1 - rho * of_inverse

    def log_determinant(self, rho: Float[Array, ""], identity: Float[Array, "n n"]) -> Float[Array, ""]:
        """By the spectrum."""
        return self.eigenpairs.log_determinant(rho, identity)

    def rotated_product(self, c: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """K c: it has no basis of its own."""
        eigenpairs = self.eigenpairs
        return eigenpairs.rotate_back(eigenpairs.rotated_product(eigenpairs.rotate(c)))

    def bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Those of the spectrum."""
        return self.eigenpairs.bounds()


class _Unchecked(Solver):
    """`Spectral` without its checks: what a search tries need not be positive definite."""

    def prepare(self, kernel: Kernel, observations: Observations) -> DenseFactor:
        """Of K."""
        gram = gram_matrix(kernel, observations.points)
        return DenseFactor(gram, Spectral().factorise(jax.lax.stop_gradient(gram)))

    def prepare_weighted(self, kernel: Kernel, observations: Observations) -> tuple[DenseFactor, MatrixProduct]:
        """Of W^½KW^½."""
        gram = gram_matrix(kernel, observations.points)
        scaled = jax.lax.stop_gradient(observations.scaled(gram))
        return DenseFactor(scaled, Spectral().factorise(scaled)), MatrixProduct(gram)

    def bytes(self, number: int, dtype: DTypeLike) -> int:
        """The Gram matrix, its eigenvectors, its inverse, and what LAPACK works in."""
        return 6 * int(number) ** 2 * jnp.dtype(dtype).itemsize


def posterior_at_every_ridge(kernel: Kernel, observed: Observations, y: Float[Array, "n *C"]) -> Posterior:
    """`fit` by `Spectral`, without its checks."""
    return Posterior(kernel, observed, y, prepared(_Unchecked(), kernel, observed))


def _is_spectrum(node: object) -> bool:
    return isinstance(node, SpectralFactorisation)


def with_inverse(posterior: Posterior, rho: Float[Array, ""]) -> Posterior:
    """The same with (K + ρI)⁻¹ in place of the spectrum: for this ρ alone, where derivatives need it often."""

    def inverted(node):
        if not _is_spectrum(node):
            return node
        Q, values = node.eigenvectors, node.eigenvalues
        return _Inverse(node, matrix_product(Q / (values + jax.lax.stop_gradient(rho))[None], Q.T))

    return eqx.tree_at(
        lambda posterior: posterior.factor,
        posterior,
        jax.tree.map(inverted, posterior.factor, is_leaf=_is_spectrum),
    )


def is_definite(posterior: Posterior, rho: Float[Array, ""]) -> Array:
    """Whether K + ρI (W^½KW^½ + ρI) is positive definite beyond what rounding does to its eigenvalues."""
    (spectrum,) = (node for node in jax.tree.leaves(posterior.factor, is_leaf=_is_spectrum) if _is_spectrum(node))
    lowest, highest = spectrum.bounds()
    rounding = len(spectrum.eigenvalues) * jnp.finfo(highest.dtype).eps * highest
    return (lowest + rho > 0) & (rho > rounding)
