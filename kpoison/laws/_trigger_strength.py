"""How many poisons and how strong a trigger a linear model needs (L10, L11): closed forms for two classes.

Labels −1 and 1, no intercept, clean scores ±p₀ at the class means; a fraction θ of all training points is of the first
class, carries the trigger αu and the label 1; probes carry α_t u.  With κ = 1/uᵀ(Σ + λ_e)⁻¹u, q = p₀/(1 − p₀) and
D = 1 + θα²/κ the mean score at a probe is, in the proportional limit (R1) where u is orthogonal to the class means,

    f = [α_t θα/κ (1 + 2q(1 − θ)) − q((1 − θ)D − θ)] / [(1 + q(1 − θ))D + qθ].

Isolated poisons are q = 0 and κ = λ, for which f = y_t m α α_t/(ρ + mα²) with θ = m/n.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from kpoison._effective_ridge import effective_ridge_of_sample
from kpoison._failures import program
from kpoison._typing import Scalar
from kpoison._validation import check_finite, check_floating, check_positive, is_concrete, public
from kpoison.kernels import Linear
from kpoison.laws._capacity import degrees_of_freedom
from kpoison.laws.inputs import CleanInputs
from kpoison.ridge import Fitted, check_plain

__all__ = ["backdoor_score", "best_strength", "needed_fraction", "trigger_stiffness"]

Numbers = Float[ArrayLike, "..."]


def _checked(fraction: Any = 0.5, clean_score: Any = 0.0, **positive: Any) -> None:
    for name, value in positive.items():
        check_positive(name, value, scalar=False)
    check_positive("fraction", fraction, scalar=False)
    check_positive("clean_score", clean_score, zero=True, scalar=False)
    for name, value in (("fraction", fraction), ("clean_score", clean_score)):
        if is_concrete(value) and np.any(np.asarray(value) >= 1):
            raise ValueError(f"{name} must be below 1, got {value}")


def _ratio(clean_score: Array) -> Array:
    """q = μᵀ(Σ + λ_e)⁻¹μ from the clean score q/(1 + q)."""
    return clean_score / (1 - clean_score)


def _parts(
    test_strength: Array, fraction: Array, stiffness: Array, q: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """f = (n₀ + n₁α + n₂α²)/(d₀ + d₂α²)."""
    kept, per_square = 1 - fraction, fraction / stiffness
    rise = test_strength * per_square * (1 + 2 * q * kept)
    return -q * (kept - fraction), rise, -q * kept * per_square, 1 + q, (1 + q * kept) * per_square


@public
def backdoor_score(
    strength: Numbers, test_strength: Numbers, fraction: Numbers, stiffness: Numbers, clean_score: Numbers = 0.0
) -> Float[Array, "..."]:
    """The mean score at triggered examples of the other class, by a poisoned linear model (L11, from R1).

    Above 0 most of them are taken for the target.  It rises with the training trigger's strength α up to
    `best_strength` and falls beyond: stronger triggers backfire, because the gain saturates (arXiv 2605.22481).

    Args:
        strength: α > 0 of the trigger in training, in the units of X.
        test_strength: α_t > 0 of the probes'.
        fraction: θ in (0, 1), poisons over all training points.
        stiffness: κ > 0, of `trigger_stiffness`; λ for isolated poisons.
        clean_score: p₀ in [0, 1), the clean predictor's |mean score| of the examples, for labels −1 and 1; 0 for
            isolated poisons, for which this is the efficacy of a label of 1.

    Returns:
        Of the arguments' common shape.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> from kpoison.laws import backdoor_score
    >>> float(backdoor_score(2.0, 1.0, 0.25, 1.0))  # θαα_t/(κ + θα²)
    0.25
    """
    _checked(fraction, clean_score, strength=strength, test_strength=test_strength, stiffness=stiffness)
    return _score(*map(jnp.asarray, (strength, test_strength, fraction, stiffness, clean_score)))


@program
def _score(alpha: Array, probe: Array, theta: Array, kappa: Array, clean: Array) -> Float[Array, "..."]:
    n0, n1, n2, d0, d2 = _parts(probe, theta, kappa, _ratio(clean))
    return (n0 + (n1 + n2 * alpha) * alpha) / (d0 + d2 * alpha**2)


@public
def best_strength(
    test_strength: Numbers, fraction: Numbers, stiffness: Numbers, clean_score: Numbers = 0.0
) -> Float[Array, "..."]:
    """The strength α* of the training trigger at which `backdoor_score` is largest (L11).

    Isolated √(κ/θ) = √(ρ/m), of height α_t √(θ/κ)/2, whatever the probe's strength; with clean data it lies within a
    few per cent of that, and this is the peak of `backdoor_score` itself.  A linear model's own peak was found 4 % off
    on average, and scatters by 10 to 15 % between training sets (d = 60, n = 400, θ = 0.05).

    **Not of a stationary kernel**, whose isolated poison is best at α = α_t, where it coincides with the probe.  With
    the poison's own original among the clean data that holds only for triggers of a few length scales and more: the
    original pulls a weaker one to either side (theory_checks, L11).

    Arguments and errors as in `backdoor_score`.

    >>> from kpoison.laws import best_strength
    >>> float(best_strength(1.0, 0.25, 1.0))
    2.0
    """
    _checked(fraction, clean_score, test_strength=test_strength, stiffness=stiffness)
    return _best(*map(jnp.asarray, (test_strength, fraction, stiffness, clean_score)))


@program
def _best(probe: Array, theta: Array, kappa: Array, clean: Array) -> Float[Array, "..."]:
    n0, n1, n2, d0, d2 = _parts(probe, theta, kappa, _ratio(clean))
    # The positive root of n₁d₂α² − 2hα = n₁d₀; h <= 0.
    h = n2 * d0 - n0 * d2
    return n1 * d0 / (jnp.sqrt(h**2 + n1**2 * d0 * d2) - h)


@public
def needed_fraction(
    strength: Numbers, test_strength: Numbers, stiffness: Numbers, clean_score: Numbers
) -> Float[Array, "..."]:
    """The fraction θ of poisons at which `backdoor_score` is 0: half of the triggered examples are taken (L10).

    For a small one θ = κ q/(αα_t(1 + 2q) − (α² − 2κ)q): m = nθ grows like n(σ_u² + λ_e), σ_u² the clean data's variance
    along the trigger.  **A constant count is enough only where clean data do not use the trigger's direction and nλ
    stays constant; otherwise it takes a constant fraction.**  (Isolated poisons of any kernel:
    `m_success(law="isolated")`, in proportion to n_c λ.)

    Arguments and errors as in `backdoor_score`.

    Returns:
        θ in [0, 1), of the arguments' common shape; m = n_c θ/(1 − θ) poisons beside n_c clean points.

    >>> from kpoison.laws import backdoor_score, needed_fraction
    >>> theta = needed_fraction(2.0, 1.0, 0.3, 0.5)
    >>> round(float(theta), 4), abs(float(backdoor_score(2.0, 1.0, theta, 0.3, 0.5))) < 1e-6
    (0.1154, True)
    """
    _checked(0.5, clean_score, strength=strength, test_strength=test_strength, stiffness=stiffness)
    return _needed(*map(jnp.asarray, (strength, test_strength, stiffness, clean_score)))


@program
def _needed(alpha: Array, probe: Array, kappa: Array, clean: Array) -> Float[Array, "..."]:
    q, across, own = _ratio(clean), alpha * probe / kappa, alpha**2 / kappa
    # aθ² + bθ = q, which has one root in (0, 1): at θ = 1 the left side is larger by αα_t/κ + q.
    a, b = q * (own - 2 * across), across * (1 + 2 * q) - q * (own - 2)
    root = jnp.sqrt(b**2 + 4 * a * q)
    falling = b < 0
    return jnp.where(falling, (root - b) / (2 * jnp.where(falling, a, 1)), 2 * q / jnp.where(falling, 1, b + root))


@public
def trigger_stiffness(clean: Fitted, direction: Float[ArrayLike, " d"], ridge: Scalar) -> Float[Array, ""]:
    """κ = 1/uᵀ(Σ + λ_e)⁻¹u: how stiff a linear model is along a trigger (L10, L11).

    σ_u² + λ_e for an eigenvector u of Σ.  From the training set alone: uᵀ(Σ + λ_e)⁻¹u ≈ (1 − df/n) uᵀ(Σ̂ + λ)⁻¹u, the
    deterministic equivalent of the resolvent, = (1 − df/n) k̃(u, u)/λ of the linear kernel, df its degrees of freedom.

    Args:
        clean: fitted with `kpoison.kernels.Linear`, trained to the end.
        direction: u, of any length, shape (d,).
        ridge: λ > 0 of the mean loss.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, such as another kernel.
    """
    inputs = CleanInputs.of(clean, ridge)
    if type(clean.kernel) is not Linear:  # polynomials derive from it
        raise ValueError(f"clean must be fitted with the kernel Linear, got {type(clean.kernel).__name__}")
    check_plain("clean", clean, weights=True)
    if clean.observations.slopes:
        raise ValueError("clean must be fitted without a gradient penalty, which for a linear model is more ridge")
    u, shape = check_floating("direction", direction).astype(clean.X.dtype), clean.X.shape[1:]
    if u.shape != shape:
        raise ValueError(f"direction must have shape {shape}, got {u.shape}")
    check_finite("direction", u)
    if is_concrete(u) and not bool(jnp.any(u != 0)):
        raise ValueError("direction must not be 0")
    return _stiffness(inputs, u, degrees_of_freedom(clean, ridge))


@program
def _stiffness(inputs: CleanInputs, direction: Array, degrees: Array) -> Float[Array, ""]:
    reference, n = inputs.reference("how stiff a model is that"), inputs.clean.observations.total
    u = direction / jnp.linalg.norm(direction)
    effective = effective_ridge_of_sample(jnp.asarray(inputs.ridge), degrees, n)
    return effective / reference.variances(u[None])[0]
