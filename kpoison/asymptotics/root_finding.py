"""Roots with implicit derivatives of every order: of one monotone equation for each number, and of a small system."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kpoison._linear_algebra import linear_solve

__all__ = ["Root", "proximal", "system_root"]

_PROXIMAL_STEPS = 100
_STEPS = 200
_HALVINGS = 30


class Root(NamedTuple):
    """A root of a system.

    Attributes:
        value: (k,).
        residual: the largest of the equations' residuals.
        converged: whether Newton's steps ended at rounding.
    """

    value: Float[Array, " k"]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]


def proximal(slope: Callable[[Array], Array], v: Float[Array, "..."], tau: Float[Array, ""]) -> Float[Array, "..."]:
    """x with x + τ ℓ'(x) = v, elementwise, for ℓ' that does not fall; the proximal operator of τℓ.

    By Newton's steps, replaced by halving where they do not help or leave the interval between v and v − τℓ'(v), which
    holds x.
    """

    def equation(x: Array) -> Array:
        return x + tau * slope(x) - v

    def solve(f: Callable[[Array], Array], start: Array) -> Array:
        other = start - f(start)  # f(v) = τℓ'(v)
        low, high = jnp.minimum(start, other), jnp.maximum(start, other)
        eps = jnp.finfo(start.dtype).eps

        def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
            x, low, high, before, _, count = state
            value, rise = jax.jvp(f, (x,), (jnp.ones_like(x),))
            low, high = jnp.where(value <= 0, x, low), jnp.where(value >= 0, x, high)
            newton = x - value / rise
            # A residual that does not fall by half may be Newton's going round in a circle.
            trusted = (newton >= low) & (newton <= high) & (jnp.abs(value) <= 0.5 * before)
            new = jnp.where(trusted, newton, 0.5 * (low + high))
            done = jnp.all(jnp.abs(newton - x) <= 4 * eps * (jnp.abs(x) + jnp.abs(start)))
            return jnp.where(done, x, new), low, high, jnp.abs(value), done, count + 1

        def going(state: tuple[Array, ...]) -> Array:
            return ~state[4] & (state[5] < _PROXIMAL_STEPS)

        first = (0.5 * (low + high), low, high, jnp.full_like(start, jnp.inf), jnp.zeros((), bool), jnp.zeros((), int))
        return jax.lax.while_loop(going, step, first)[0]

    return jax.lax.custom_root(equation, v, solve, lambda g, y: y / g(jnp.ones_like(y)))


def system_root(equations: Callable[[Array], Array], start: Float[Array, " k"]) -> Root:
    """Where all of k equations are 0, by Newton's steps that are halved until they bring the residual down."""
    eps = jnp.finfo(start.dtype).eps

    def size(value: Array) -> Array:
        found = jnp.sqrt(jnp.sum(value**2))
        return jnp.where(jnp.isfinite(found), found, jnp.inf)

    def solve(f: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
        def with_value(x: Array) -> tuple[Array, Array]:
            value = f(x)
            return value, value

        def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
            x, _, _, count = state
            slopes, value = jax.jacfwd(with_value, has_aux=True)(x)
            move = linear_solve(slopes, value[:, None])[:, 0]

            def halve(inner: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                share, _, tries = inner
                share = 0.5 * share
                return share, f(x - share * move), tries + 1

            def too_far(inner: tuple[Array, Array, Array]) -> Array:
                share, there, tries = inner
                return ~(size(there) <= (1 - 0.25 * share) * size(value)) & (tries < _HALVINGS)

            whole = (jnp.full((), 2, x.dtype), jnp.full_like(x, jnp.inf), jnp.zeros((), int))
            share, there, tries = jax.lax.while_loop(too_far, halve, whole)
            # At rounding no step helps any more.
            stuck = tries >= _HALVINGS
            small = jnp.all(jnp.abs(move) <= 8 * eps * (1 + jnp.abs(x)))
            new, there = jnp.where(stuck, x, x - share * move), jnp.where(stuck, value, there)
            return new, there, stuck | small, count + 1

        def going(state: tuple[Array, ...]) -> Array:
            return ~state[2] & (state[3] < _STEPS)

        first = (x, jnp.full_like(x, jnp.inf), jnp.zeros((), bool), jnp.zeros((), int))
        found, value, _, _ = jax.lax.while_loop(going, step, first)
        return found, jnp.max(jnp.abs(value))

    def tangent_solve(g: Callable[[Array], Array], y: Array) -> Array:
        return linear_solve(jax.jacfwd(g)(jnp.zeros_like(y)), y[:, None])[:, 0]

    value, residual = jax.lax.custom_root(equations, start, solve, tangent_solve, has_aux=True)
    residual = jax.lax.stop_gradient(residual)
    return Root(value, residual, residual <= 1e4 * eps)
