"""How much poison an attack takes (L8), in closed form where only the gain depends on it (L9)."""

from collections.abc import Callable
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import checked_result, mapped, program
from kpoison._typing import Criterion, Scalar, ThresholdLaw
from kpoison._validation import check_name, check_positive, in_dtype, public
from kpoison.laws.by_gain import ByGainAlone, by_gain_alone
from kpoison.laws.crossing import first_crossing
from kpoison.laws.effect import PoisonEffect
from kpoison.laws.inputs import LawInputs, Probes
from kpoison.poison import Poison
from kpoison.ridge import Fitted

__all__ = ["checked_threshold", "lag", "m_success", "m_visible", "of_clones"]


def of_clones(clean: Any, poison: Any, ridge: Any, law: Any) -> LawInputs:
    """A question about clones; errors as of `LawInputs.of`, and for a cluster."""
    inputs = LawInputs.of(clean, poison, ridge, law)
    if not inputs.at_one_location:
        raise ValueError(
            f"poison must be clones at one location, shape {clean.X.shape[1:]}, got {poison.location.shape}"
        )
    return inputs


def checked_threshold(clean: Fitted, threshold: Any) -> Scalar:
    """The threshold of visibility > 0, as an array, for another number not to be another program."""
    check_positive("threshold", threshold)
    return in_dtype(threshold, clean.X.dtype)


def _of_clones(clean: Any, poison: Any, x: Any, ridge: Any, law: Any) -> tuple[LawInputs, Probes, bool]:
    """The question, where, and whether the count is in the gain alone."""
    law = check_name("law", law, get_args(ThresholdLaw))
    inputs = of_clones(clean, poison, ridge, "isolated" if law == "isolated" else "exact")
    return inputs, Probes.of(clean, x), law != "exact"


def _with_count(inputs: LawInputs, count: Array) -> LawInputs:
    return inputs._replace(poison=eqx.tree_at(lambda p: p.count, inputs.poison, count))


def _success_margin(inputs: LawInputs, point: Array) -> Array:
    """How far the prediction at one point is on the side of the poison's label."""

    def prediction(effect: PoisonEffect) -> Array:
        return effect.mean(point[None])[0] + effect.change().values(point[None])[0]

    values, label, outputs = inputs.linear(prediction), inputs.poison.label.reshape(-1), inputs.clean.outputs
    if outputs == 1:
        return values[0] * jnp.sign(label[0])
    target = jnp.argmax(label)
    others = jnp.where(jnp.arange(outputs) == target, -jnp.inf, values)
    return values[target] - jnp.max(others)


def _crossings(inputs: LawInputs, probes: Probes, margin: Callable[[LawInputs, Array], Array]) -> Float[Array, "..."]:
    """`first_crossing` of the margin at each probe, up to 10⁶ n_c."""
    X = inputs.clean.X

    def at(point):
        return first_crossing(lambda count: margin(_with_count(inputs, count), point), len(X), X.dtype)

    return probes.each(mapped(jax.vmap, at)(probes.points))


def _by_gain(inputs: LawInputs, probes: Probes, gain: Callable[[ByGainAlone, Array], Array]) -> Float[Array, "..."]:
    """The count that has the gain needed at each probe."""
    alone = by_gain_alone(inputs)
    return probes.each(jax.vmap(lambda point: alone.count_of(gain(alone, point)))(probes.points))


@public
def m_success(
    clean: Fitted, poison: Poison, x: Float[ArrayLike, "..."], ridge: Scalar, law: ThresholdLaw = "exact"
) -> Float[Array, "..."]:
    """The smallest multiplicity at which the prediction at x is the poison's label (L8, L9).

    One output: the prediction has the sign of the label.  C outputs: its largest entry is the label's.

    By the exact law ρ = (n_c + m)λ grows with m, so the prediction need not change monotonically and may never flip.
    The first change of side is looked for from m = 0 on, at eight counts per decade from 10⁻⁶ n_c to 10⁶ n_c, then
    bisected.  `law="fixed-rho"` and `"isolated"` are closed forms: the gain that is needed, for two classes
    s = |f_c(x)|/(|y_t − f_c(ζ)| k̃(x, ζ)), is that of m = ρs/(1 − s k̃(ζ, ζ)) clones at the ρ of the poison's own count,
    or isolated of m = n_c λs/(1 − s(λ + k(ζ, ζ))), with f_c(x) at ρ = n_c λ and 0 for f_c(ζ).

    Args:
        clean: the fitted clean posterior.
        poison: clones at one location; its count is used by `law="fixed-rho"` alone, for ρ.
        x: probes, shape (q, d), or (d,) for one.
        ridge: λ > 0 of the mean loss.
        law: "exact", "fixed-rho" or "isolated".

    Returns:
        Shape (q,) or (): m >= 0; 0 where the prediction is the label's already, ∞ where no count makes it so (by the
        exact law, up to 10⁶ n_c).  Differentiable in every number, by the implicit function theorem.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for closed forms also a gradient penalty or a
            posterior that is stopped early.
    """
    return _success(*_of_clones(clean, poison, x, ridge, law))


@program
def _success(inputs: LawInputs, probes: Probes, closed: bool) -> Float[Array, "..."]:
    if not closed:
        return _crossings(inputs, probes, _success_margin)
    label = inputs.poison.label.reshape(-1)
    return _by_gain(inputs, probes, lambda alone, point: alone.gain_of_success(point, label))


@public
def m_visible(
    clean: Fitted,
    poison: Poison,
    x: Float[ArrayLike, "..."],
    ridge: Scalar,
    threshold: Scalar,
    law: ThresholdLaw = "exact",
    *,
    criterion: Criterion = "absolute",
) -> Float[Array, "..."]:
    """The smallest multiplicity at which the poison's spike at x exceeds a threshold (L8, L9).

    For an attack on a fraction ε of the probes, the spike leaves the bulk of the input Fisher matrix above
    `kpoison.curvature.visibility_threshold(σ², d/N)`/ε (section 4).  The paper's criterion is another (Remark 3.5 of
    arXiv 2602.00822): `criterion="relative"`, Λ(x) >= τ‖∇f_c(x)‖².  It leaves the cross term of ‖∇f_c + ∇Δf‖² out.  By
    the exact law f_c depends on m through ρ, and flattens as m grows: by that criterion every poison shows at last.

    Args:
        clean: the fitted clean posterior.
        poison: clones at one location; its count is used by `law="fixed-rho"` alone, for ρ.
        x: probes, shape (q, d), or (d,) for one.
        ridge: λ > 0 of the mean loss.
        threshold: Λ > 0 from which the spike, added up over the outputs, is visible; or τ > 0.
        law: as in `m_success`; the gain that is needed is √(Λ or τ‖∇f_c(x)‖²)/(‖y_t − f_c(ζ)‖ ‖∇k̃(x, ζ)‖).
        criterion: "absolute" for Λ, "relative" for τ.

    Returns:
        Shape (q,) or (): m > 0; ∞ where the spike stays below the threshold however large the attack (by the exact law,
        up to 10⁶ n_c).  Differentiable in every number, by the implicit function theorem.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; see also `m_success`.
    """
    return _visible(
        *_of_clones(clean, poison, x, ridge, law), checked_threshold(clean, threshold), _relative(criterion)
    )


def _relative(criterion: Any) -> bool:
    return check_name("criterion", criterion, get_args(Criterion)) == "relative"


@program
def _visible(inputs: LawInputs, probes: Probes, closed: bool, threshold: Scalar, relative: bool) -> Float[Array, "..."]:
    threshold = jnp.asarray(threshold, inputs.clean.X.dtype)
    threshold = checked_result(
        threshold, [(~((threshold > 0) & jnp.isfinite(threshold)), "threshold must be finite and > 0")]
    )

    def gain(alone: ByGainAlone, point: Array) -> Array:
        unit = alone.clean_slope(point) if relative else 1
        return alone.gain_of_visibility(point, jnp.sqrt(threshold) * unit)

    def margin(inputs: LawInputs, point: Array) -> Array:
        # Of the order of one, so that its derivatives neither underflow nor overflow.
        if not relative:
            return jnp.sum(inputs.change().squared_gradient_norms(point[None])[0]) / threshold - 1
        spike, bulk = (jnp.sum(term.squared_gradient_norms(point[None])[0]) for term in inputs.terms())
        return excess(spike, threshold * bulk)

    return _by_gain(inputs, probes, gain) if closed else _crossings(inputs, probes, margin)


def excess(spike: Array, least: Array) -> Array:
    """How far a spike is above what is visible, between −1 and 1; −1 where both are 0."""
    total = spike + least
    return jnp.where(total > 0, (spike - least) / jnp.where(total > 0, total, 1), -1)


@public
def lag(
    clean: Fitted,
    poison: Poison,
    x: Float[ArrayLike, "..."],
    ridge: Scalar,
    threshold: Scalar,
    law: ThresholdLaw = "exact",
    *,
    criterion: Criterion = "absolute",
) -> Float[Array, "..."]:
    """m_visible/m_success: how many times more poison shows than succeeds (L8, L9).

    Above 1 the attack succeeds unseen; where the kernel has a near-clone regime it grows without bound as x → ζ.
    Arguments and errors as in `m_visible`.

    Returns:
        Shape (q,) or (): ∞ where the attack succeeds and never shows, or where the prediction is the label's without
        poison; 0 where it shows and never succeeds; NaN where it does neither.
    """
    return _lag(*_of_clones(clean, poison, x, ridge, law), checked_threshold(clean, threshold), _relative(criterion))


@program
def _lag(inputs: LawInputs, probes: Probes, closed: bool, threshold: Scalar, relative: bool) -> Float[Array, "..."]:
    visible, success = _visible(inputs, probes, closed, threshold, relative), _success(inputs, probes, closed)
    never = jnp.isinf(success)
    # ∞/∞ and 0·∞ are kept away from the derivative.
    both = jnp.isfinite(visible) & jnp.isfinite(success) & (success > 0)
    ratio = jnp.where(both, visible, 1) / jnp.where(both, success, 1)
    undefined = jnp.where(jnp.isinf(visible), jnp.nan, 0)
    return jnp.where(both, ratio, jnp.where(never, undefined, jnp.inf))
