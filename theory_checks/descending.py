"""Descent of a finite network on an objective of a check's own: its flow from any start, and its minimum.

Small programs: what a quick check of networks costs is compiling them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

__all__ = ["flow", "minimum"]


def flow(
    velocity: Callable[[Any], Any], start: Any, times: Array, look: Callable[[Any], Array], steps: Array | int
) -> Array:
    """What `look` sees along θ̇ = v(θ) at T rising times >= 0, by so many Runge–Kutta steps of order 4 to each.

    Whoever calls it compares with twice the steps: the program is the same.
    """
    shares, weights = jnp.array([0.0, 0.5, 0.5, 1.0]), jnp.array([1.0, 2.0, 2.0, 1.0]) / 6

    def added(point: Any, factor: Array, change: Any) -> Any:
        return jax.tree.map(lambda p, c: p + factor * c, point, change)

    def step(point: Any, h: Array) -> Any:
        def stage(carry: tuple[Any, Any], share_and_weight: tuple[Array, Array]) -> tuple[tuple[Any, Any], None]:
            slope, total = carry
            share, weight = share_and_weight
            slope = velocity(added(point, h * share, slope))
            return (slope, added(total, weight, slope)), None

        nothing = jax.tree.map(jnp.zeros_like, point)
        (_, total), _ = jax.lax.scan(stage, (nothing, nothing), (shares, weights))
        return added(point, h, total)

    def to_next(point: Any, gap: Array) -> tuple[Any, Array]:
        point = jax.lax.fori_loop(0, steps, lambda _, point: step(point, gap / steps), point)
        return point, look(point)

    return jax.lax.scan(to_next, start, jnp.diff(times, prepend=0.0))[1]


def minimum(
    gradient: Callable[[Any], Any],
    start: Any,
    steepest: Array | float,
    flattest: float,
    tolerance: float,
    max_steps: int,
) -> tuple[Any, Array]:
    """Where descent with momentum ends, and ‖∇J‖ there over that at the start; not above `tolerance` if it converged.

    Args:
        gradient: ∇J.
        start: θ.
        steepest: bound from above on the eigenvalues of ∇²J, which gives rate and momentum (Polyak 1964).
        flattest: bound from below.
        tolerance: descent ends where ‖∇J‖ is so much smaller than at the start.
        max_steps: or after so many steps.
    """
    ratio = (flattest / steepest) ** 0.5
    rate, momentum = (2 / (1 + ratio)) ** 2 / steepest, ((1 - ratio) / (1 + ratio)) ** 2

    def step(carry):
        point, pace, slope, count = carry
        pace = jax.tree.map(lambda p, g: momentum * p - rate * g, pace, slope)
        point = jax.tree.map(jnp.add, point, pace)
        return point, pace, gradient(point), count + 1

    first = gradient(start)
    size = optax.tree.norm(first)
    point, _, slope, _ = jax.lax.while_loop(
        lambda carry: (carry[3] < max_steps) & (optax.tree.norm(carry[2]) > tolerance * size),
        step,
        (start, jax.tree.map(jnp.zeros_like, start), first, 0),
    )
    return point, optax.tree.norm(slope) / size
