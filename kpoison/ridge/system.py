"""(K̄ + ρI)x = b for the Gram matrix K̄ of values and slopes, by conjugate gradients and without forming it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kpoison._linear_algebra import eigh, matrix_product
from kpoison._typing import Scalar
from kpoison.kernels.base import Kernel
from kpoison.ridge._conjugate_gradients import IterationStatus, conjugate_gradients
from kpoison.ridge.observations import Observations
from kpoison.ridge.operator import CovarianceOperator, PairOperator, gram_operator

__all__ = ["GramSystem", "gram_system"]


class _Basis(eqx.Module):
    """Orthogonal coordinates in which the diagonal blocks of the Gram matrix, or what stands for them, are diagonal.

    Values: K = QΜQᵀ.  Slopes: the part S ⊗ RRᵀ of their covariance, through S = PΣPᵀ and RRᵀ = UΓUᵀ; where the kernel
    has none, the diagonal itself.  They serve every ρ.

    Attributes:
        values: Q.
        slopes: P, or None for the identity.
        rotation: U, or None for the identity.
        diagonal: Μ, then Σ ⊗ Γ.
    """

    values: Float[Array, "n n"]
    slopes: Float[Array, "n n"] | None
    rotation: Float[Array, "r r"] | None
    diagonal: Float[Array, " N"]

    def rotate(self, coefficients: Array, back: bool = False) -> Array:
        """Uᵀ, or U, on the slopes."""
        if self.rotation is None:
            return coefficients
        n, columns = len(self.values), coefficients.shape[1]
        slopes = coefficients[n:].reshape(n, len(self.rotation), columns)
        turn = self.rotation if back else self.rotation.T
        turned = jnp.einsum("sr,irc->isc", turn, slopes, precision="highest")
        return jnp.concatenate([coefficients[:n], turned.reshape(-1, columns)])

    def onto(self, coefficients: Array, back: bool = False) -> Array:
        """Qᵀ and Pᵀ, or Q and P."""
        n, columns = len(self.values), coefficients.shape[1]

        def turn(basis, part):
            return matrix_product(basis if back else basis.T, part)

        values, slopes = turn(self.values, coefficients[:n]), coefficients[n:]
        if self.slopes is not None:
            slopes = turn(self.slopes, slopes.reshape(n, -1)).reshape(-1, columns)
        return jnp.concatenate([values, slopes])


class GramSystem(eqx.Module):
    """K̄ with what solves with K̄ + ρI at every ρ; made by `gram_system`.

    Attributes:
        operator: K̄, which derivatives go through.
        trace: of K̄, an upper bound on its largest eigenvalue.
    """

    operator: CovarianceOperator
    trace: Float[Array, ""]
    _turned: CovarianceOperator
    _basis: _Basis

    def solve(
        self,
        rho: Inexact[Array, ""],
        b: Inexact[Array, "N C"],
        *,
        tolerance: Scalar = 1e-10,
        max_iterations: int = 1000,
    ) -> tuple[Inexact[Array, "N C"], IterationStatus]:
        """x with ‖b − (K̄ + ρI)x‖ <= tolerance ‖b‖ in every column, and how it was found.

        Args:
            rho: ρ > 0, or complex and away from −1 times the eigenvalues of K̄: x is then complex.
            b: shape (N, C), values first, as in `Observations`.
            tolerance: on the relative residual of every column.
            max_iterations: products with K̄; the condition number's root, about, is what a solve takes.

        Derivatives in K̄ (kernel, points, root), ρ and b, of first and higher order, are further solves, of the same
        tolerance; of the status there are none.
        """
        dtype = jnp.result_type(b, rho)
        rho, b = jnp.asarray(rho, dtype), b.astype(dtype)
        constant = jax.lax.stop_gradient(rho)

        def run(_, b):
            def product(x):
                image = self._turned.product(self._basis.onto(x, back=True))
                return self._basis.onto(image) + constant * x

            x, status = conjugate_gradients(
                product,
                self._basis.onto(self._basis.rotate(b)),
                preconditioner=lambda power, x: (self._basis.diagonal + constant)[:, None] ** power * x,
                tolerance=tolerance,
                max_iterations=max_iterations,
            )
            return self._basis.rotate(self._basis.onto(x, back=True), back=True), status

        return jax.lax.custom_linear_solve(
            lambda x: self.operator.product(x) + rho * x, b, run, symmetric=True, has_aux=True
        )


def gram_system(kernel: Kernel, X: Observations) -> GramSystem:
    """The Gram matrix of values and slopes at X, prepared for solves: O(n²d + n³ + r³) once, O(n(n + d) + r²) memory.

    Args:
        kernel: twice differentiable at coincident points.
        X: the observations; where they have weights K̄ is W^½K̄W^½, with no derivative in W.

    Raises:
        ValueError: as `gram_operator`.
    """
    operator = X.scaled_operator(gram_operator(kernel, X))
    constant = jax.lax.stop_gradient(operator)
    diagonal = constant.diagonal()
    spectrum, values = _eigenpairs(constant.values())
    slopes = rotation = None
    turned, rest = constant, diagonal[len(X.points) :]
    if isinstance(constant, PairOperator):
        straight, slopes = _eigenpairs(-2 * constant.pairs.parts["s"])
        squares, rotation = _eigenpairs(constant.mixed)
        turned = constant.rotated(rotation, squares)
        rest = (straight[:, None] * squares[None]).ravel()
    basis = _Basis(values, slopes, rotation, jnp.concatenate([spectrum, rest]))
    return GramSystem(operator, jnp.sum(diagonal), turned, basis)


def _eigenpairs(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Of a positive semi-definite matrix, without what rounding adds below 0."""
    eigenvalues, eigenvectors = eigh(matrix)
    return jnp.maximum(eigenvalues, 0), eigenvectors
