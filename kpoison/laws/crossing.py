"""Where a margin changes its side first: the search behind thresholds in m and in r (L8, L9)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._failures import Failure, checked_result, collect, scan, silently
from kpoison._typing import Scalar

__all__ = ["first_crossing"]

_DECADES = 6
_BISECTIONS = 60


class _Search(NamedTuple):
    """Where the margin changes its side.

    Attributes:
        low, high: logarithms of a number before the first one that is known to be over, and of that one.
        found: whether there is one.
        already: whether the margin is over at 0.
    """

    low: Array
    high: Array
    found: Array
    already: Array


def first_crossing(margin: Callable[[Array], Array], unit: Scalar, dtype, per_decade: int = 8) -> Float[Array, ""]:
    """The smallest number m at which `margin(m)` is positive: 0 if it is at m = 0, ∞ if it is nowhere up to 10⁶ units.

    Looked for at so many numbers per decade from 10⁻⁶ units, then bisected; below, where the margin is a straight line
    or (a spike's) a parabola in m, bisected at once.  Its derivatives are those of the implicit function.
    """
    grid = math.log(10) * np.linspace(-_DECADES, _DECADES, 2 * _DECADES * per_decade + 1)
    grid = jax.lax.stop_gradient(jnp.log(jnp.asarray(unit, dtype))) + jnp.asarray(grid, dtype)
    # m = 0, the grid, then steps that halve the bracket: one loop, in which the margin is compiled once.
    logs = jnp.concatenate([jnp.full(1, -jnp.inf, dtype), grid, jnp.zeros(_BISECTIONS, dtype)])
    halving = np.arange(len(logs)) > len(grid)
    least = jnp.log(jnp.finfo(dtype).tiny)

    def step(search: _Search, now: tuple[Array, Array]) -> tuple[_Search, None]:
        log, halving = now
        at = jnp.where(halving, 0.5 * (search.low + search.high), log)
        over = margin(jnp.exp(at)) > 0
        none = log == -jnp.inf
        first = over & ~halving & ~none & ~search.found
        # Before the smallest number of the grid comes 0.
        before = jnp.where(log == logs[1], least, at - math.log(10) / per_decade)
        low = jnp.where(first, before, jnp.where(halving & ~over, at, search.low))
        high = jnp.where(first | (halving & over), at, search.high)
        return _Search(low, high, search.found | first, search.already | (over & none)), None

    def solve(_: Any, start: Array) -> tuple[Array, tuple[_Search, tuple[Failure, ...]]]:
        no = jnp.zeros_like(start, bool)
        search, failures = collect(lambda: scan(step, _Search(start, start, no, no), (logs, jnp.asarray(halving)))[0])
        # As numbers: of what is returned beside the root, JAX differentiates no booleans.
        return jnp.exp(search.high), jax.tree.map(lambda leaf: leaf.astype(dtype), (search, failures))

    def unheard(number: Array) -> Array:
        with silently():
            return margin(number)

    def tangent(linear: Callable[[Array], Array], y: Array) -> Array:
        slope = linear(jnp.ones_like(y))
        return y / jnp.where(slope == 0, 1, slope)

    root, (search, failures) = jax.lax.custom_root(unheard, logs[len(grid)], solve, tangent, has_aux=True)
    root = checked_result(root, jax.tree.map(lambda failed: failed > 0, failures))
    return jnp.where(search.already > 0, 0, jnp.where(search.found > 0, root, jnp.inf))
