"""One eigendecomposition of the Gram matrix."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._linear_algebra import eigh, matrix_product
from kpoison.ridge.solvers.dense import DenseSolver, Factorisation

__all__ = ["Spectral", "SpectralFactorisation"]


class SpectralFactorisation(Factorisation):
    """K = Q diag(μ) Qᵀ."""

    eigenvalues: Float[Array, " p"]
    eigenvectors: Float[Array, "n p"]

    @property
    def solver(self) -> "Spectral":
        """What made it."""
        return Spectral()

    def spectrum(self) -> Float[Array, " p"]:
        """μ."""
        return self.eigenvalues

    def rotate(self, b: Inexact[Array, "n k"]) -> Inexact[Array, "p k"]:
        """Qᵀb."""
        return matrix_product(self.eigenvectors.T, b)

    def rotate_back(self, c: Inexact[Array, "p k"]) -> Inexact[Array, "n k"]:
        """Q c."""
        return matrix_product(self.eigenvectors, c)

    def rotated_product(self, c: Inexact[Array, "p k"]) -> Inexact[Array, "p k"]:
        """μ c."""
        return self.eigenvalues[:, None] * c

    def rotated_solve(self, rho: Inexact[Array, ""], c: Inexact[Array, "p k"]) -> Inexact[Array, "p k"]:
        """(μ + ρ)⁻¹c."""
        return c / (self.eigenvalues + rho)[:, None]

    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Q (μ + ρ)⁻¹ Qᵀb: O(n²) per right-hand side."""
        return self.rotate_back(self.rotated_solve(rho, self.rotate(b)))

    def diagonals(
        self, rho: Inexact[Array, ""], identity: Float[Array, "n n"]
    ) -> tuple[Inexact[Array, " n"], Inexact[Array, " n"]]:
        """Those of A⁻¹ and of KA⁻¹: O(n²)."""
        columns = jnp.stack([1 / (self.eigenvalues + rho), self.eigenvalues / (self.eigenvalues + rho)], axis=1)
        both = matrix_product(self.eigenvectors**2, columns)
        return both[:, 0], both[:, 1]

    def log_determinant(self, rho: Float[Array, ""], identity: Float[Array, "n n"]) -> Float[Array, ""]:
        """Σ log(μ + ρ)."""
        return jnp.sum(jnp.log(self.eigenvalues + rho))

    def bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The smallest and the largest eigenvalue."""
        return self.eigenvalues[0], self.eigenvalues[-1]


class Spectral(DenseSolver):
    """One eigendecomposition, then every ridge (the default of few points, and on accelerators)."""

    def factorise(self, gram: Float[Array, "n n"]) -> SpectralFactorisation:
        """Symmetric eigendecomposition, about 9n³ flops."""
        return SpectralFactorisation(*eigh(gram))
