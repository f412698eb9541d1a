"""How much poison an attack takes (L8)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import Failure, checked_result, collect, mapped, program, scan, silently
from kpoison._typing import Scalar
from kpoison._validation import check_positive, in_dtype, public
from kpoison.laws.effect import PoisonEffect
from kpoison.laws.inputs import LawInputs, Probes
from kpoison.poison import Poison
from kpoison.ridge import Fitted

__all__ = ["lag", "m_success", "m_visible"]

_DECADES = 6
_PER_DECADE = 8
_BISECTIONS = 60


def _of_clones(clean: Any, poison: Any, x: Any, ridge: Any) -> tuple[LawInputs, Probes]:
    inputs, probes = LawInputs.of(clean, poison, ridge), Probes.of(clean, x)
    if not inputs.at_one_location:
        raise ValueError(
            f"poison must be clones at one location, shape {clean.X.shape[1:]}, got {poison.location.shape}"
        )
    return inputs, probes


def _checked_threshold(clean: Fitted, threshold: Any) -> Scalar:
    check_positive("threshold", threshold)
    # An array, for another number not to be another program.
    return in_dtype(threshold, clean.X.dtype)


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


class _Search(NamedTuple):
    """Where the margin changes its side.

    Attributes:
        low, high: logarithms of a count before the first one that is known to be over, and of that one.
        found: whether there is one.
        already: whether the margin is over at m = 0.
    """

    low: Array
    high: Array
    found: Array
    already: Array


def _first_crossing(margin: Callable[[Array], Array], n_c: int, dtype) -> Float[Array, ""]:
    """The smallest count m at which `margin(m)` is positive: 0 if it is at m = 0, ∞ if it is nowhere up to 10⁶ n_c.

    Looked for at eight counts per decade from 10⁻⁶ n_c, then bisected; below, where the margin is a straight line or
    (a spike's) a parabola in m, bisected at once.  Its derivatives are those of the implicit function.
    """
    grid = math.log(n_c) + math.log(10) * np.linspace(-_DECADES, _DECADES, 2 * _DECADES * _PER_DECADE + 1)
    # m = 0, the grid, then steps that halve the bracket: one loop, in which the margin is compiled once.
    logs = jnp.asarray(np.concatenate([[-np.inf], grid, np.zeros(_BISECTIONS)]), dtype)
    halving = np.arange(len(logs)) > len(grid)
    least = jnp.log(jnp.finfo(dtype).tiny)

    def step(search: _Search, now: tuple[Array, Array]) -> tuple[_Search, None]:
        log, halving = now
        at = jnp.where(halving, 0.5 * (search.low + search.high), log)
        over = margin(jnp.exp(at)) > 0
        none = log == -jnp.inf
        first = over & ~halving & ~none & ~search.found
        # Before the smallest count of the grid comes m = 0.
        before = jnp.where(log == logs[1], least, at - math.log(10) / _PER_DECADE)
        low = jnp.where(first, before, jnp.where(halving & ~over, at, search.low))
        high = jnp.where(first | (halving & over), at, search.high)
        return _Search(low, high, search.found | first, search.already | (over & none)), None

    def solve(_: Any, start: Array) -> tuple[Array, tuple[_Search, tuple[Failure, ...]]]:
        no = jnp.zeros_like(start, bool)
        search, failures = collect(lambda: scan(step, _Search(start, start, no, no), (logs, jnp.asarray(halving)))[0])
        # As numbers: of what is returned beside the root, JAX differentiates no booleans.
        return jnp.exp(search.high), jax.tree.map(lambda leaf: leaf.astype(dtype), (search, failures))

    def unheard(count: Array) -> Array:
        with silently():
            return margin(count)

    def tangent(linear: Callable[[Array], Array], y: Array) -> Array:
        slope = linear(jnp.ones_like(y))
        return y / jnp.where(slope == 0, 1, slope)

    root, (search, failures) = jax.lax.custom_root(unheard, logs[len(grid)], solve, tangent, has_aux=True)
    root = checked_result(root, jax.tree.map(lambda failed: failed > 0, failures))
    return jnp.where(search.already > 0, 0, jnp.where(search.found > 0, root, jnp.inf))


def _crossings(inputs: LawInputs, probes: Probes, margin: Callable[[LawInputs, Array], Array]) -> Float[Array, "..."]:
    """`_first_crossing` of the margin at each probe."""
    X = inputs.clean.X

    def at(point):
        return _first_crossing(lambda count: margin(_with_count(inputs, count), point), len(X), X.dtype)

    return probes.each(mapped(jax.vmap, at)(probes.points))


@public
def m_success(clean: Fitted, poison: Poison, x: Float[ArrayLike, "..."], ridge: Scalar) -> Float[Array, "..."]:
    """The smallest multiplicity at which the prediction at x is the poison's label (L8), by the exact law.

    One output: the prediction has the sign of the label.  C outputs: its largest entry is the label's.  ρ = (n_c + m)λ
    grows with m, so the prediction need not change monotonically and may never flip.  The first change of side is
    looked for from m = 0 on, at eight counts per decade from 10⁻⁶ n_c to 10⁶ n_c, then bisected.

    Args:
        clean: the fitted clean posterior.
        poison: clones at one location; its count is not used.
        x: probes, shape (q, d), or (d,) for one.
        ridge: λ > 0 of the mean loss.

    Returns:
        Shape (q,) or (): m >= 0; 0 where the prediction is the label's already, ∞ where it is not up to 10⁶ n_c.
        Differentiable in every number, by the implicit function theorem.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    return _success(*_of_clones(clean, poison, x, ridge))


@program
def _success(inputs: LawInputs, probes: Probes) -> Float[Array, "..."]:
    return _crossings(inputs, probes, _success_margin)


@public
def m_visible(
    clean: Fitted, poison: Poison, x: Float[ArrayLike, "..."], ridge: Scalar, threshold: Scalar
) -> Float[Array, "..."]:
    """The smallest multiplicity at which the poison's spike at x exceeds a threshold (L8), by the exact law.

    For an attack on a fraction ε of the probes, the spike leaves the bulk of the input Fisher matrix above
    `kpoison.curvature.visibility_threshold(σ², d/N)`/ε (section 4).

    Args:
        clean: the fitted clean posterior.
        poison: clones at one location; its count is not used.
        x: probes, shape (q, d), or (d,) for one.
        ridge: λ > 0 of the mean loss.
        threshold: Λ > 0 from which the spike, added up over the outputs, is visible.

    Returns:
        Shape (q,) or (): m > 0; ∞ where the spike stays below the threshold up to 10⁶ n_c, however large the attack.
        Differentiable in every number, by the implicit function theorem.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    return _visible(*_of_clones(clean, poison, x, ridge), _checked_threshold(clean, threshold))


@program
def _visible(inputs: LawInputs, probes: Probes, threshold: Scalar) -> Float[Array, "..."]:
    threshold = jnp.asarray(threshold, inputs.clean.X.dtype)
    threshold = checked_result(
        threshold, [(~((threshold > 0) & jnp.isfinite(threshold)), "threshold must be finite and > 0")]
    )

    def margin(inputs: LawInputs, point: Array) -> Array:
        norms = inputs.change().squared_gradient_norms(point[None])
        # Of the order of one, so that its derivatives neither underflow nor overflow.
        return jnp.sum(norms[0]) / threshold - 1

    return _crossings(inputs, probes, margin)


@public
def lag(
    clean: Fitted, poison: Poison, x: Float[ArrayLike, "..."], ridge: Scalar, threshold: Scalar
) -> Float[Array, "..."]:
    """m_visible/m_success: how many times more poison shows than succeeds (L8).

    Above 1 the attack succeeds unseen; where the kernel has a near-clone regime it grows without bound as x → ζ.
    Arguments and errors as in `m_visible`.

    Returns:
        Shape (q,) or (): ∞ where the attack succeeds and never shows, or where the prediction is the label's without
        poison; 0 where it shows and never succeeds; NaN where it does neither.
    """
    return _lag(*_of_clones(clean, poison, x, ridge), _checked_threshold(clean, threshold))


@program
def _lag(inputs: LawInputs, probes: Probes, threshold: Scalar) -> Float[Array, "..."]:
    visible, success = _visible(inputs, probes, threshold), _success(inputs, probes)
    never = jnp.isinf(success)
    # ∞/∞ and 0·∞ are kept away from the derivative.
    both = jnp.isfinite(visible) & jnp.isfinite(success) & (success > 0)
    ratio = jnp.where(both, visible, 1) / jnp.where(both, success, 1)
    undefined = jnp.where(jnp.isinf(visible), jnp.nan, 0)
    return jnp.where(both, ratio, jnp.where(never, undefined, jnp.inf))
