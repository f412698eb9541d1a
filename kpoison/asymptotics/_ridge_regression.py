"""Ridge regression on poisoned mixtures: scores, accuracy and attack success without training (R1, R2)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._effective_ridge import EffectiveRidge
from kpoison._failures import checked_result, program
from kpoison._linear_algebra import linear_solve, matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_flag, public
from kpoison.asymptotics._linear_model import LinearModel, check_problem, number_failures
from kpoison.asymptotics.mixture import Backdoor, Mixture

__all__ = ["RidgeRegression", "ridge_regression"]


class RidgeRegression(LinearModel):
    """What ridge regression on a mixture does, on average over training sets and in the proportional limit.

    Attributes:
        weights, intercept, covariance, spread, mixture: as of every linear model (`LinearModel`): B̄ (d, C), b̄ (C,), V
            of the scores (C, C), the covariance of an output's weights summed over the inputs (C, C), and what it is
            trained on; without the axis C for labels (K,).
        effective_ridge: λ_e.
        degrees_of_freedom: df1 = tr Σ(Σ + λ_e)⁻¹.
        error: E, the mean outer product of residuals at new points of the training mixture, (C, C).
        training_error: the mean squared residual at the training points, summed over outputs.
    """

    effective_ridge: Float[Array, ""]
    degrees_of_freedom: Float[Array, ""]
    error: Float[Array, "..."]
    training_error: Float[Array, ""]


@public
def ridge_regression(
    mixture: Mixture | Backdoor, n: Scalar, ridge: Scalar, intercept: bool | np.bool_ = True
) -> RidgeRegression:
    """Ridge regression on n points of a mixture, without training: the proportional limit (R1, R2).

    Of the minimiser of (1/2n) Σ‖Bᵀx_i + b − y_i‖² + (λ/2)‖B‖², b free: the weights and scores of a training set
    differ from these by O(1/√n) each, rates by O(1/n) on average.  n, λ and all numbers of the mixture can be
    differentiated in; without a ridge it is the interpolant of least norm below the rank and least squares above it.

    Args:
        mixture: that training points are drawn from; a `Backdoor` also knows what is asked of it.
        n: training points, at least as many as classes.
        ridge: λ >= 0 of the mean loss.
        intercept: whether b is fitted, or 0.

    Returns:
        A `RidgeRegression`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit: fractions, a covariance that is not positive
            semi-definite, no ridge for a covariance of lower rank than n.

    >>> import numpy as np
    >>> from kpoison.asymptotics import backdoor_mixture
    >>> attack = backdoor_mixture(np.eye(50)[0], np.ones(50), np.eye(50)[1], fraction=0.1, strength=3.0)
    >>> model = ridge_regression(attack, n=200, ridge=0.1)
    >>> round(float(model.accuracy()), 3), round(float(model.attack_success_rate()), 3)
    (0.75, 0.698)
    """
    training = check_problem(mixture, n, ridge)
    fit = check_flag("intercept", intercept)
    dtype = training.means.dtype
    found = _solved(training, jnp.asarray(n, dtype), jnp.asarray(ridge, dtype), fit)
    effective, training_error, weights, offset, error, covariance, spread = found
    return RidgeRegression(
        weights, offset, covariance, spread, mixture, effective.value, effective.df1, error, training_error
    )


@program
def _solved(
    mixture: Mixture, n: Array, ridge: Array, intercept: bool
) -> tuple[EffectiveRidge, Array, Array, Array, Array, Array, Array]:
    sigma, M, pi = mixture.decomposed(), mixture.means, mixture.fractions
    pi = checked_result(pi, [*mixture.failures(sigma), *number_failures(mixture, n, ridge)])
    T = mixture.labels.reshape(len(M), -1)
    effective = sigma.effective_ridge(n, ridge)
    x = effective.value
    singular = (x == 0) & ~(sigma.smallest() > 0)
    x = checked_result(x, [(singular, "ridge must be > 0 where n exceeds the rank of a singular covariance")])
    mean_input, mean_label = (pi @ M, pi @ T) if intercept else (jnp.zeros_like(M[0]), jnp.zeros_like(T[0]))
    centred, targets = M - mean_input[None], T - mean_label[None]
    spanned = sigma.solve(x, centred.T)  # (d, K)
    gram = matrix_product(centred, spanned)
    # Not symmetric, so that a component of fraction 0 is an ordinary one.
    inner = linear_solve(jnp.eye(len(M), dtype=M.dtype) + pi[:, None] * gram, pi[:, None] * targets)
    B = matrix_product(spanned, inner)
    b = mean_label - mean_input @ B
    residuals = matrix_product(M, B) + b[None] - T
    signal = matrix_product(B.T, sigma.product(B))
    E = (signal + matrix_product(residuals.T, pi[:, None] * residuals)) * effective.sensitivity
    V = signal + E * effective.df2 / n
    spread = E * sigma.trace(1, 2, x) / n
    training_error = effective.shrinkage**2 * jnp.trace(E)
    if mixture.outputs == ():
        B, b, E, V, spread = B[:, 0], b[0], E[0, 0], V[0, 0], spread[0, 0]
    return effective, training_error, B, b, E, V, spread
