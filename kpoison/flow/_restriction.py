"""The penalised fit among combinations of the kernels at the data alone, as papers have it, and its capacity (T7)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._failures import program
from kpoison._linear_algebra import eigh, linear_solve, matrix_product
from kpoison._typing import Scalar
from kpoison._validation import public
from kpoison.laws.inputs import CleanInputs
from kpoison.ridge import Posterior, check_plain

__all__ = ["restricted_degrees_of_freedom"]


@public
def restricted_degrees_of_freedom(clean: Posterior, ridge: Scalar) -> Float[Array, ""]:
    """tr of the hat matrix of the penalised fit restricted to f = Σ a_i k(·, x_i), without derivatives of k (T7).

    tr K(K² + ρK + γ K10ᵀ(I⊗M)K10)⁻¹K, the degrees of freedom tr K(K + nλI + κG)⁻¹ of arXiv 2602.00822 (its Theorem
    3.9; G = K⁻¹K10ᵀ(I⊗M)K10).  The fit over the whole space (T1), whose are `kpoison.degrees_of_freedom`, has more of
    them at every γ > 0: as γ → ∞ these fall to the dimension of what has flat slopes at all x_i, mostly 0 (1 for an odd
    number of points on a line), those do not.

    Args:
        clean: a posterior fitted with a gradient penalty γ, by a solver that factorises.
        ridge: λ > 0 of the mean loss, ρ = n_c λ.

    Returns:
        A number between 0 and n_c.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for weights, an intercept, early stopping, a
            posterior without a gradient penalty, or one whose solver does not factorise.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> X, y = jnp.array([[0.0], [0.7], [2.0], [2.5]]), jnp.ones(4)
    >>> for penalty in (1e-3, 1.0, 1e3):
    ...     clean = kp.fit(kp.kernels.RBF(1.0), X, y, gradient_penalty=penalty)
    ...     restricted = kp.flow.restricted_degrees_of_freedom(clean, 1e-2)
    ...     print(round(float(kp.degrees_of_freedom(clean, 1e-2)), 3), round(float(restricted), 3))
    3.389 3.389
    1.967 1.819
    1.509 0.053
    """
    inputs = CleanInputs.of(clean, ridge)
    check_plain("clean", clean)
    if not clean.ended:
        raise ValueError("clean must be trained to the end, got one stopped early")
    if not clean.observations.slopes:
        raise ValueError("clean must be fitted with a gradient penalty, whose γ and metric are taken, got none")
    if not clean.factor.abilities.factorised:
        raise ValueError(
            f"clean must be fitted by a solver that factorises, got {type(clean.factor.solver).__name__}()"
        )
    return _restricted(inputs)


@program
def _restricted(inputs: CleanInputs) -> Float[Array, ""]:
    clean, number = inputs.clean, len(inputs.clean.X)
    rho = inputs.reference("the restricted fit is that").rho
    both = clean.factor.matrix()
    K, slopes = both[:number, :number], both[number:, :number]
    system = matrix_product(K, K) + rho * K + matrix_product(slopes.T, slopes)
    values, scaled, inner = _reduced(*jax.lax.stop_gradient((K, slopes, rho)))

    def solve(_, b):
        return matrix_product(scaled, linear_solve(inner, matrix_product(scaled.T, b)))

    dual = jax.lax.custom_linear_solve(lambda x: matrix_product(system, x), K, solve, symmetric=True)
    found = jnp.sum(K * dual)
    # Derivatives are those of the equation; the value keeps the digits that its large dual coefficients cancel.
    trace = jnp.sum(values * jnp.diagonal(linear_solve(inner, jnp.eye(len(inner), dtype=inner.dtype))))
    return found + jax.lax.stop_gradient(trace - found)


def _reduced(K: Array, slopes: Array, rho: Array) -> tuple[Array, Array, Array]:
    """Eigenvalues μ and vectors q μ^(−1/2) of K where it is not 0 to rounding, and K² + ρK + BᵀB between these.

    That is Μ + ρ + CᵀC with C = BQΜ^(−1/2), whose rows are bounded by the slopes' variances: no digit is lost that a
    factorisation of the system itself would lose with K's condition number.
    """
    values, vectors = eigh(K)
    kept = values > len(K) * jnp.finfo(K.dtype).eps * values[-1]
    scaled = jnp.where(kept[None], vectors / jnp.sqrt(jnp.where(kept, values, 1))[None], 0)
    values, seen = jnp.where(kept, values, 0), matrix_product(slopes, scaled)
    return values, scaled, jnp.diag(values + rho) + matrix_product(seen.T, seen)
