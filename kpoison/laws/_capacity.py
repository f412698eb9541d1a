"""How much of the labels the predictor takes in: its degrees of freedom (T7, L14)."""

from collections.abc import Callable
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from kpoison._failures import program
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_integer, public
from kpoison.laws.effect import EffectByGain, PoisonEffect, by_refit
from kpoison.laws.inputs import CleanInputs, LawInputs, trained_on
from kpoison.poison import Poison
from kpoison.ridge import Fitted, Process

__all__ = ["EstimatedDegrees", "degrees_of", "degrees_of_freedom"]


class EstimatedDegrees(NamedTuple):
    """Degrees of freedom by a stochastic trace.

    Attributes:
        value: the mean over random signs.
        standard_error: of that mean.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]


@overload
def degrees_of_freedom(
    clean: Fitted, ridge: Scalar, poison: Poison | None = None, *, probes: None = None, key: None = None
) -> Float[Array, ""]: ...
@overload
def degrees_of_freedom(
    clean: Fitted, ridge: Scalar, poison: Poison | None = None, *, probes: int, key: PRNGKeyArray
) -> EstimatedDegrees: ...
@public
def degrees_of_freedom(
    clean: Fitted,
    ridge: Scalar,
    poison: Poison | None = None,
    *,
    probes: int | None = None,
    key: PRNGKeyArray | None = None,
) -> Float[Array, ""] | EstimatedDegrees:
    """tr H of the map H from the labels to the fitted values, one for each training point with its weight (T7, L14).

    H = K(K + ρ diag(1/w))⁻¹ at ρ = nλ; with a gradient penalty that of the values, with an early-stopped posterior that
    of the flow at its time.  m clones of a poison are m labels: with a poison it grows (here without weights) by
    tr(G k̃(Z, Z)) − ρ tr(G CᵀC), C = A⁻¹k(X, Z), which is below 1 for clones (L14), at ρ = (n_c + Σm)λ.

    Args:
        clean: the fitted clean posterior.
        ridge: λ > 0 of the mean loss.
        poison: clones or a cluster; None for the clean predictor.
        probes: by how many vectors of random signs the trace is estimated; needed for `Krylov` and
            `ConjugateGradients`, for which the exact one would take a solve for each point.
        key: of the signs, a JAX key; needed with `probes`.

    Returns:
        A number between 0 and n; with `probes` an `EstimatedDegrees`, of which the poison's part is exact.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [50.0]]), jnp.array([1.0, -1.0]))
    >>> round(float(kp.degrees_of_freedom(clean, ridge=0.5)), 3)  # 2 · 1/(1 + 2·0.5)
    1.0
    """
    inputs = trained_on(clean, ridge, poison)
    able = inputs.clean.factor.abilities
    if not able.any_right_hand_side:
        raise ValueError("clean must not be prepared for one poison: ask the posterior that it was made from")
    if probes is None:
        if not able.factorised:
            raise ValueError(
                f"probes must be given for solver={type(inputs.clean.factor.solver).__name__}(): the exact trace would "
                f"take {len(inputs.clean.X):,} solves"
            )
        return _degrees(inputs)
    if key is None:
        raise ValueError("key must be given with probes: a JAX key, of the random signs")
    return _estimated(inputs, check_integer("probes", probes, 2), key)


def degrees_of(inputs: CleanInputs | LawInputs) -> Float[Array, ""]:
    """`degrees_of_freedom` of what is checked, for a solver that factorises."""
    return _trace(inputs, lambda clean: jnp.sum(clean.leverages()))


_degrees = program(degrees_of)


@program
def _estimated(inputs: CleanInputs | LawInputs, probes: int, key: PRNGKeyArray) -> EstimatedDegrees:
    X = inputs.clean.X
    signs = jax.random.rademacher(key, (len(X), probes), X.dtype)
    samples = _trace(inputs, lambda clean: clean.hat_quadratics(signs))
    return EstimatedDegrees(jnp.mean(samples), jnp.std(samples, ddof=1) / probes**0.5)


def _trace(inputs: CleanInputs | LawInputs, of_clean: Callable[[Process], Array]) -> Array:
    """tr H from the part of the clean data; of the poison's values k̃(Z, Z)G, less what they take from those."""
    if isinstance(inputs, CleanInputs):
        return inputs.linear(of_clean)
    if by_refit(inputs.clean):
        inputs.effect()  # says why not

    def at(effect: PoisonEffect) -> Array:
        assert isinstance(effect, EffectByGain)
        clean, Z, gain = effect.reference, effect.locations, effect.gain
        values = slice(len(Z.points))
        own = jnp.trace(matrix_product(clean.covariance(Z), gain)[values, values])
        return of_clean(clean) + own - clean.trace_taken(Z, gain)

    return inputs.linear(at)
