"""How probable the labels are under the kernel's prior."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._failures import checked_result, program
from kpoison._typing import Scalar
from kpoison._validation import public
from kpoison.laws.inputs import CleanInputs
from kpoison.ridge import Posterior

__all__ = ["log_marginal_likelihood"]


@public
def log_marginal_likelihood(clean: Posterior, ridge: Scalar) -> Float[Array, ""]:
    """log p(y) = −½ yᵀA⁻¹y − ½ log det A − (n/2) log 2π of a Gaussian process with noise, summed over outputs.

    A = K + ρ diag(1/w) at ρ = nλ: ρ is the variance of the noise of a point of weight 1.  With an intercept, of which
    nothing is known before, it is the likelihood of what the labels say beside it (restricted likelihood): with
    P̃ = A⁻¹ − A⁻¹e eᵀA⁻¹/σ and σ = eᵀA⁻¹e it is −½ yᵀP̃y − ½ log det A − ½ log σ − ((n − 1)/2) log 2π.

    Args:
        clean: the fitted clean posterior, by a solver that factorises, without a gradient penalty.
        ridge: λ > 0 of the mean loss.

    Returns:
        A number, in nats.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for weights of 0, of which the noise is infinite.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0]]), jnp.array([2.0]))
    >>> round(float(kp.log_marginal_likelihood(clean, ridge=1.0)), 4)  # −½·4/2 − ½ log 2 − ½ log 2π
    -2.2655
    """
    inputs = CleanInputs.of(clean, ridge)
    if inputs.clean.observations.slopes:
        raise ValueError("clean must be fitted without gradient_penalty for the marginal likelihood: flat slopes are "
                         "no data")  # fmt: skip
    able = inputs.clean.factor.abilities
    if not (able.factorised and able.any_right_hand_side):
        raise ValueError(
            f"clean must be fitted by a solver that factorises, not by {type(inputs.clean.factor.solver).__name__}, "
            "nor be prepared for one poison: the marginal likelihood takes a determinant"
        )
    return _log_marginal_likelihood(inputs)


@program
def _log_marginal_likelihood(inputs: CleanInputs) -> Float[Array, ""]:
    clean, reference = inputs.clean, inputs.reference("the marginal likelihood is that")
    weights = clean.observations.multiplicities
    number = len(clean.X) - int(clean.observations.constant)
    misfit = jnp.sum(clean.targets * reference.dual())
    volume = clean.outputs * (clean.factor.log_determinant(reference.rho) + number * math.log(2 * math.pi))
    no_noise = (jnp.any(weights <= 0), "weights must be > 0 here: of others the noise is infinite")
    return checked_result(-0.5 * (misfit + volume), [no_noise])
