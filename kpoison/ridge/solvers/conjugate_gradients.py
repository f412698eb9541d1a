"""Conjugate gradients as a solver of `fit`: the Gram matrix of values and slopes is applied and never formed."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact

from kpoison._failures import checked_result, program
from kpoison._linear_algebra import matrix_product
from kpoison._validation import check_positive, integer, known_number
from kpoison.kernels.base import Kernel
from kpoison.ridge._conjugate_gradients import IterationStatus
from kpoison.ridge.observations import Observations
from kpoison.ridge.operator import CovarianceOperator, gram_operator
from kpoison.ridge.solvers.contract import Abilities, Factor, Solver
from kpoison.ridge.system import GramSystem, gram_system

__all__ = ["ConjugateGradients", "IterativeFactor", "converged", "default_tolerance"]


_ROUNDINGS = 10  # of size eps · condition number, that a sum of products may add up to


class ConjugateGradients(Solver):
    """Preconditioned block conjugate gradients, for gradient penalties in many dimensions.

    A product with the Gram matrix of n(1 + r) values and slopes takes O(n²d) time and O(n(n + d)) memory for kernels of
    distances and inner products (stationary, dot-product, smooth neural, and their sums and products); any other kernel
    goes through its Jacobian–vector products.  The n × n matrices themselves are formed.  With 500 images of 784 pixels
    a solve to 1e-8 takes about 45 products.

    Args:
        tolerance: largest relative residual of a solution; by default 1e-10 in float64 and 1e-5 in float32, or what
            rounding leaves of it (`default_tolerance`).
        max_iterations: products with the Gram matrix after which a solve is given up: an error.
    """

    tolerance: float | None = eqx.field(static=True, default=None, converter=known_number)
    max_iterations: int = eqx.field(static=True, default=1000, converter=integer("max_iterations", 1))

    def __check_init__(self):
        if self.tolerance is not None:
            check_positive("tolerance", self.tolerance)

    def prepare(self, kernel: Kernel, observations: Observations) -> "IterativeFactor":
        """The Gram matrix as an operator, with its preconditioner."""
        return _prepare(kernel, observations, self)

    def prepare_weighted(
        self, kernel: Kernel, observations: Observations
    ) -> tuple["IterativeFactor", CovarianceOperator]:
        """The scaled Gram matrix, and the plain one, as operators."""
        return _prepare(kernel, observations, self), gram_operator(kernel, observations)

    def bytes(self, number: int, dtype: DTypeLike) -> int:
        """Products with n × n matrices and their eigenvectors, n of the numbers being values; at most this."""
        return 8 * int(number) ** 2 * jnp.dtype(dtype).itemsize

    def solve(self, system: GramSystem, rho: Inexact[Array, ""], b: Inexact[Array, "N C"]) -> Inexact[Array, "N C"]:
        """(K̄ + ρI)⁻¹b, an error where it has not converged."""
        tolerance = default_tolerance(system.trace, rho) if self.tolerance is None else self.tolerance
        x, status = system.solve(rho, b, tolerance=tolerance, max_iterations=self.max_iterations)
        return converged(x, status, "max_iterations", self.max_iterations)


class IterativeFactor(Factor):
    """The Gram matrix as an operator; derivatives go through it."""

    system: GramSystem
    method: ConjugateGradients

    @property
    def abilities(self) -> Abilities:
        """One solve after the other."""
        return Abilities(one_at_a_time=True, gain_by_columns=False)

    @property
    def solver(self) -> ConjugateGradients:
        """What made it."""
        return self.method

    @property
    def number(self) -> int:
        """N."""
        return len(self.system.operator.diagonal())

    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"]) -> Inexact[Array, "N k"]:
        """Conjugate gradients, with derivatives in everything."""
        return self.method.solve(self.system, rho, b)

    def inverse_product(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "N k"], c: Inexact[Array, "N l"]
    ) -> Inexact[Array, "k l"]:
        """One solve for each column of c."""
        return matrix_product(b.T, self.solve(rho, c))

    def bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """0 and the trace."""
        return jnp.zeros_like(self.system.trace), self.system.trace

    def restricted(self, b: Float[Array, "N k"], rho: tuple[float, float], largest_rank: float) -> Factor:
        """Itself."""
        return self


@program
def _prepare(kernel: Kernel, observed: Observations, solver: ConjugateGradients) -> IterativeFactor:
    factor = IterativeFactor(gram_system(kernel, observed), solver)
    trace = factor.system.trace
    failures = [(~jnp.isfinite(trace), f"kernel {type(kernel).__name__} has non-finite values on X")]
    return eqx.tree_at(lambda f: f.system.trace, factor, checked_result(trace, failures))


def default_tolerance(largest: Float[Array, ""], rho: Inexact[Array, "..."]) -> Float[Array, "..."]:
    """On relative residuals at each ρ, given a bound on the largest eigenvalue.

    1e-10 in float64 and 1e-5 in float32, but not below what a product with K rounds: x is up to ‖b‖/ρ long, so that
    its residual has an error of eps(‖K‖ + ρ)/ρ.
    """
    precision = jnp.finfo(largest.dtype)
    size = jax.lax.stop_gradient(jnp.abs(rho))
    rounding = _ROUNDINGS * precision.eps * (jax.lax.stop_gradient(largest) + size) / size
    return jnp.maximum(1e-10 if precision.bits >= 64 else 1e-5, rounding)


def converged(x: Array, status: IterationStatus, name: str, limit: int) -> Array:
    """x, or an error where it is none."""
    failed = ~jnp.all(status.converged)
    message = (
        f"conjugate gradients have not converged to the tolerance on relative residuals in {limit} iterations: raise "
        f"the ridge, the tolerance or {name}, or use a dense solver"
    )
    return checked_result(x, [(failed, message)])
