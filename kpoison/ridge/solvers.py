"""Factorisations of the Gram matrix, and linear algebra with A = K + ρI from them; ρ may be complex.

A solver is a value passed to `fit`.  Factorisations are constants to autodiff: derivatives come from the solved
equation itself, A dx = db − dA x, so clusters of eigenvalues and duplicated points do no harm.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from kpoison._linear_algebra import cholesky, cholesky_solve, eigh, linear_solve, lower_solve, matrix_product
from kpoison.ridge.projection import RidgeStatus

__all__ = [
    "Cholesky",
    "CholeskyFactor",
    "DenseFactor",
    "DenseSolver",
    "Factor",
    "ReducedFactor",
    "Solver",
    "Spectral",
    "SpectralFactor",
    "implicit_inverse_product",
    "implicit_solve",
    "sample_places",
]


_PROVED_UP_TO = 2000  # points
_SAMPLE = 512


def sample_places(n: int) -> np.ndarray:
    """Points here and there, on which a kernel that is indefinite is likely to show it."""
    return np.linspace(0, n - 1, min(n, _SAMPLE)).astype(int)


class Factor(eqx.Module):
    """What is kept of a Gram matrix K to solve with A = K + ρI."""

    @property
    def iterative(self) -> bool:
        """Whether each solve is a long calculation of its own, better done one after the other."""
        return False

    @property
    @abc.abstractmethod
    def solver(self) -> "Solver":
        """What made it."""

    @abc.abstractmethod
    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """A⁻¹b, without derivatives in K."""

    @abc.abstractmethod
    def inverse_product(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"], c: Inexact[Array, "n l"]
    ) -> Inexact[Array, "k l"]:
        """bᵀA⁻¹c, without derivatives in K."""

    @abc.abstractmethod
    def extreme_eigenvalues(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Lower and upper bound on the eigenvalues of K."""


class DenseFactor(Factor):
    """A factorisation, which may work in an orthonormal basis Q of its own, where solves for many ρ are cheap."""

    def inverse_product(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"], c: Inexact[Array, "n l"]
    ) -> Inexact[Array, "k l"]:
        """bᵀA⁻¹c, without derivatives in K; O(n) per pair and ridge once Qᵀb, Qᵀc are known."""
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


class Solver(eqx.Module):
    """How `fit` prepares the Gram matrix for solves."""


class DenseSolver(Solver):
    """A solver that factorises the matrix."""

    @abc.abstractmethod
    def factorise(self, gram: Float[Array, "n n"]) -> DenseFactor:
        """The factorisation of a symmetric positive semi-definite matrix."""


class SpectralFactor(DenseFactor):
    """K = Q diag(μ) Qᵀ."""

    eigenvalues: Float[Array, " p"]
    eigenvectors: Float[Array, "n p"]

    @property
    def solver(self) -> "Spectral":
        """What made it."""
        return Spectral()

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

    def extreme_eigenvalues(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The smallest and the largest eigenvalue."""
        return self.eigenvalues[0], self.eigenvalues[-1]


class ReducedFactor(SpectralFactor):
    """Eigenpairs (n, p) of K projected onto a space that holds every solution asked for; made by `compress`.

    Attributes:
        lowest, highest: bounds on the eigenvalues of K.
        status: where the space was searched, how well it holds the solutions.
    """

    lowest: Float[Array, ""]
    highest: Float[Array, ""]
    status: RidgeStatus | None = None

    def coordinates(self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"]) -> Inexact[Array, "p k"]:
        """A⁻¹b in the basis of the eigenvectors."""
        return self.rotated_solve(rho, self.rotate(b))

    def extreme_eigenvalues(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Those of K."""
        return self.lowest, self.highest


class Spectral(DenseSolver):
    """One eigendecomposition, then every ridge (the default)."""

    def factorise(self, gram: Float[Array, "n n"]) -> SpectralFactor:
        """Symmetric eigendecomposition, about 9n³ flops."""
        return SpectralFactor(*eigh(gram))


class CholeskyFactor(DenseFactor):
    """K itself; A = LLᵀ is computed at each ridge that is asked for."""

    gram: Float[Array, "n n"]
    lowest: Float[Array, ""]
    highest: Float[Array, ""]

    @property
    def solver(self) -> "Cholesky":
        """What made it."""
        return Cholesky()

    def _lower(self, rho: Float[Array, ""]) -> Float[Array, "n n"]:
        return cholesky(self.gram + rho * jnp.eye(len(self.gram), dtype=self.gram.dtype))

    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Two triangular solves after an n³/3 factorisation; LU for complex ρ, with which A is not Hermitian."""
        if jnp.iscomplexobj(rho):
            return linear_solve(self.gram + rho * jnp.eye(len(self.gram), dtype=self.gram.dtype), b)
        lower = self._lower(rho)
        # The product says what is transposed where b is differentiated; it is not computed.
        return jax.lax.custom_linear_solve(
            lambda x: matrix_product(lower, matrix_product(lower.T, x)),
            b,
            lambda _, b: cholesky_solve(lower, b),
            symmetric=True,
        )

    def inverse_product(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"], c: Inexact[Array, "n l"]
    ) -> Inexact[Array, "k l"]:
        """(L⁻¹b)ᵀ(L⁻¹c)."""
        if jnp.iscomplexobj(rho):
            return matrix_product(b.T, self.solve(rho, c))
        lower = self._lower(rho)
        left = lower_solve(lower, b)
        right = lower_solve(lower, c)
        return matrix_product(left.T, right)

    def rotated_product(self, c: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """K c."""
        return matrix_product(self.gram, c)

    def extreme_eigenvalues(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """0 for a positive semi-definite matrix, else −∞, and the largest row sum of |K|."""
        return self.lowest, self.highest


class Cholesky(DenseSolver):
    """A fresh Cholesky factorisation at each ridge: the least work where there is only one."""

    def factorise(self, gram: Float[Array, "n n"]) -> CholeskyFactor:
        """Keeps the matrix, after a factorisation that tells whether it is positive semi-definite.

        Of many points that is one of a part of them, as it would cost as much as a law.
        """
        part = gram
        if len(gram) > _PROVED_UP_TO:
            places = sample_places(len(gram))
            part = gram[np.ix_(places, places)]
        highest = _largest_row_sum(gram)
        # Divided by its size first: of 0, which is positive semi-definite, the rounding would be 0 too.
        unit = jnp.where(highest > 0, highest, 1)
        shift = 10 * len(gram) * jnp.finfo(gram.dtype).eps
        lower = cholesky(part / unit + shift * jnp.eye(len(part), dtype=gram.dtype))
        lowest = jnp.where(jnp.all(jnp.isfinite(lower)), 0.0, -jnp.inf).astype(gram.dtype)
        return CholeskyFactor(gram, lowest, highest)


@jax.jit
def _largest_row_sum(gram: Float[Array, "n n"]) -> Float[Array, ""]:
    """Upper bound on |eigenvalues|."""
    return jnp.max(jnp.sum(jnp.abs(gram), axis=1))


def implicit_solve(factor: Factor, gram: Array, rho: Array, b: Array) -> Array:
    """A⁻¹b with derivatives of every order in K (through `gram`), ρ and b.

    The solve states the product that it inverts: each derivative is that of A x = b, and again such a solve.  A rule
    that acted on a tangent by the factor, a constant in K, would be right once and wrong from the second order on.
    """
    constant, shift = jax.lax.stop_gradient((factor, rho))
    return jax.lax.custom_linear_solve(
        lambda x: matrix_product(gram, x) + rho * x,
        b.astype(jnp.result_type(gram, rho, b)),
        lambda _, right: constant.solve(shift, right),
        symmetric=True,
    )


@jax.custom_jvp
def implicit_inverse_product(factor: Factor, gram: Array, rho: Array, b: Array, c: Array) -> Array:
    """bᵀA⁻¹c with derivatives of every order in K (through `gram`), ρ, b and c; the first by two solves."""
    return factor.inverse_product(rho, b, c)


@implicit_inverse_product.defjvp
def _implicit_inverse_product_jvp(primals, tangents):
    factor, gram, rho, b, c = primals
    _, d_gram, d_rho, d_b, d_c = tangents
    left, right = implicit_solve(factor, gram, rho, b), implicit_solve(factor, gram, rho, c)
    tangent = matrix_product(d_b.T, right) + matrix_product(left.T, d_c)
    tangent -= matrix_product(left.T, matrix_product(d_gram, right) + d_rho * right)
    return implicit_inverse_product(factor, gram, rho, b, c), tangent
