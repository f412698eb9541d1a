"""How much poison an attack takes (L8)."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._typing import Scalar
from kpoison._validation import boundary
from kpoison.laws.effect import as_points, check_law_arguments, poison_effect
from kpoison.poison import Poison
from kpoison.ridge import Posterior

__all__ = ["m_success"]

_DECADES = 6
_PER_DECADE = 8
_BISECTIONS = 60


def _margin(clean: Posterior, poison: Poison, point: Array, ridge: Array, count: Array) -> Array:
    """How far the prediction at one point is on the side of the poison's label, at this count."""
    poison = eqx.tree_at(lambda p: p.count, poison, count)
    effect = poison_effect(clean, poison, ridge, "exact")
    values = effect.reference.mean(point[None])[0] + effect.change().values(point[None])[0]
    label = poison.label.reshape(-1)
    if clean.outputs == 1:
        return values[0] * jnp.sign(label[0])
    target = jnp.argmax(label)
    others = jnp.where(jnp.arange(clean.outputs) == target, -jnp.inf, values)
    return values[target] - jnp.max(others)


def _check(arguments: dict) -> None:
    check_law_arguments(arguments)
    clean, poison = arguments["clean"], arguments["poison"]
    if poison.location.ndim != clean.X.ndim - 1:
        raise ValueError(
            f"poison must be clones at one location, shape {clean.X.shape[1:]}, got {poison.location.shape}"
        )


@boundary(_check)
@eqx.filter_jit
def m_success(clean: Posterior, poison: Poison, x: Float[ArrayLike, "..."], ridge: Scalar) -> Float[Array, "..."]:
    """The smallest multiplicity at which the prediction at x is the poison's label (L8), by the exact law.

    One output: the prediction has the sign of the label.  C outputs: its largest entry is the label's.  ρ = (n_c + m)λ
    grows with m, so the prediction need not change monotonically and may never flip.  The first change of side is
    looked for at eight counts per decade from 10⁻⁶ n_c to 10⁶ n_c, then bisected.

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
    x = jnp.asarray(x)
    dtype = clean.X.dtype
    ridge = jnp.asarray(ridge, dtype)
    logs = math.log(len(clean.X)) + jnp.linspace(-_DECADES, _DECADES, 2 * _DECADES * _PER_DECADE + 1, dtype=dtype) * (
        math.log(10)
    )

    def at(point):
        def margin(count):
            return _margin(clean, poison, point, ridge, count)

        fixed = jax.lax.stop_gradient
        reached = jax.lax.map(lambda log: margin(jnp.exp(log)) > 0, logs)
        first = jnp.argmax(reached)

        def bisect(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            over = margin(jnp.exp(middle)) > 0
            return jnp.where(over, low, middle), jnp.where(over, middle, high)

        # Below the smallest count of the scan the change is linear and the side that of m = 0.
        bracket = fixed((logs[jnp.maximum(first - 1, 0)], logs[first]))
        root = fixed(jnp.exp(jax.lax.fori_loop(0, _BISECTIONS, bisect, bracket)[1]))
        slope = fixed(jax.grad(margin)(root))
        there = margin(root)
        # Its value is the root's; its derivative that of the implicit function.
        root = root - (there - fixed(there)) / jnp.where(slope == 0, 1, slope)
        already = margin(jnp.zeros((), dtype)) > 0
        return jnp.where(already, 0, jnp.where(jnp.any(reached), root, jnp.inf))

    thresholds = jax.vmap(at)(as_points(clean, x))
    return thresholds[0] if x.ndim == clean.X.ndim - 1 else thresholds
