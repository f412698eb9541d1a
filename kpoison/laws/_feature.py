"""What one feature more does to a predictor (L13)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import checked_result, program
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_finite, check_floating, check_real, in_dtype, is_concrete, public
from kpoison.laws.inputs import CleanInputs, Probes
from kpoison.ridge import Fitted

__all__ = ["FeatureEffect", "feature_effect"]


class FeatureEffect(NamedTuple):
    """What a feature does to a predictor.

    Attributes:
        change: Δf at the probes.
        coefficient: β, by how much of the feature it is.
        fall: by how much yᵀA⁻¹y falls, which is 2n times the least of the regularised loss.
    """

    change: Float[Array, "..."]
    coefficient: Float[Array, "*C"]
    fall: Float[Array, "*C"]


@public
def feature_effect(
    clean: Fitted,
    feature: Callable[[Array], Array],
    x: Float[ArrayLike, "..."],
    ridge: Scalar,
    variance: Scalar = math.inf,
) -> FeatureEffect:
    """Δf(x) = β(g(x) − k(x, X)A⁻¹g), β = gᵀA⁻¹y/(τ⁻² + gᵀA⁻¹g), of a feature g added to a fitted predictor (L13).

    With the feature the predictor is that of the kernel k(x, z) + τ²g(x)g(z) at the same ρ = nλ; with τ = ∞, the
    default, its coefficient is free of penalty, and with A a projector, as λ → 0, these are the stepwise formulas of
    arXiv 2505.15175.  yᵀA⁻¹y falls by (gᵀA⁻¹y)²/(τ⁻² + gᵀA⁻¹g).  Nothing is factorised anew.

    Args:
        clean: the fitted clean posterior, without a gradient penalty and trained to the end.
        feature: g of one point, a number, traceable by JAX; such as whether a trigger is there.
        x: probes, shape (q, d), or (d,) for one.
        ridge: λ > 0 of the mean loss.
        variance: τ² > 0, the prior's for the coefficient of g, in units of k/g²; infinite for none.

    Returns:
        `FeatureEffect`: the change of shape (q,), or (q, C) where y had C outputs, without the first axis for one
        probe; coefficient and fall of shape () or (C,).  Differentiable in every number.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for a feature that is no number, not finite, or
            for τ = ∞ of no length on the training points (gᵀA⁻¹g = 0, such as a constant beside an intercept).

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> X, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1.0, 2.0, 4.0])
    >>> clean, probe = kp.fit(kp.kernels.RBF(1.0), X, y), jnp.array([3.0])
    >>> with_constant = kp.predict(kp.fit(kp.kernels.RBF(1.0), X, y, intercept=True), probe, 0.1)
    >>> change = kp.laws.feature_effect(clean, lambda x: jnp.ones(()), probe, 0.1).change
    >>> bool(jnp.isclose(kp.predict(clean, probe, 0.1) + change, with_constant, rtol=1e-4))
    True
    """
    inputs, probes = CleanInputs.of(clean, ridge), Probes.of(clean, x)
    if clean.observations.slopes:
        raise ValueError("clean must be fitted without a gradient penalty, which acts on the feature's slopes too")
    if not clean.factor.abilities.any_right_hand_side:
        raise ValueError("clean must not be prepared for one poison: ask the posterior that it was made from")
    if not callable(feature):
        raise TypeError(f"feature must be a function of one point, got {type(feature).__name__}")
    check_real("variance", variance)
    if np.shape(variance) != () or (is_concrete(variance) and not bool(np.asarray(variance) > 0)):
        raise ValueError(f"variance must be one number > 0, infinite for no prior, got {variance}")
    of_data, of_probes = (_values(feature, points) for points in (clean.X, probes.points))
    return _effect(inputs, probes, of_data, of_probes, in_dtype(variance, clean.X.dtype))


def _values(feature: Callable[[Array], Array], points: Array) -> Float[Array, " n"]:
    """g at many points, evaluated outside of any program of ours: what the function reads may change."""
    values = check_floating("feature's values", jax.vmap(feature)(points))
    if values.shape != (len(points),):
        raise ValueError(f"feature must return one number for one point, got shape {values.shape[1:]}")
    check_finite("feature's values", values)
    return values.astype(points.dtype)


@program
def _effect(inputs: CleanInputs, probes: Probes, of_data: Array, of_probes: Array, variance: Array) -> FeatureEffect:
    clean, reference = inputs.clean, inputs.reference("what a feature adds is that")
    factor, g = clean.posterior.factor, clean.observations.right_hand_side(of_data[:, None])
    both = factor.inverse_product(reference.rho, g, jnp.concatenate([g, clean.posterior.observed_targets], axis=1))[0]
    length, along = 1 / jnp.asarray(variance) + both[0], both[1:]
    length = checked_result(
        length,
        [
            (~(variance > 0), "variance must be > 0"),
            (
                ~(both[0] > 10 * jnp.finfo(both.dtype).eps * jnp.sum(of_data**2) / reference.rho) & jnp.isinf(variance),
                "feature must have a length on the training points, gᵀA⁻¹g > 0, for variance=inf: nothing else bounds "
                "its coefficient",
            ),
        ],
    )
    coefficient, fall = along / length, along**2 / length
    smoothed = clean.posterior.mean_expansion(factor.coordinates(reference.rho, g)).values(probes.points)
    change = matrix_product(of_probes[:, None] - smoothed, coefficient[None])
    single = clean.y.ndim == 1
    return FeatureEffect(probes.outputs(change), *(part[0] if single else part for part in (coefficient, fall)))
