"""Roots with implicit derivatives of every order: of monotone equations for each number or vector, and of a system."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kpoison._linear_algebra import linear_solve

__all__ = ["Root", "fixed_point", "proximal", "proximal_pull", "small_cholesky", "small_solve", "system_root"]

_PROXIMAL_STEPS = 100
_STEPS = 200
_HALVINGS = 30
_SOLVED = 1e4  # times eps: what counts as a root
_SOLVED_POWER = 0.6  # of eps, for means over fitted points, which are rounded at each: 4e-10 in float64
_BROYDEN_STEPS, _SHARE, _NEAR, _WORSE, _ROUGH = 400, 0.5, 0.2, 3.0, 1e-3


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


def small_solve(matrix: Float[Array, "r r"], b: Float[Array, "r k"]) -> Float[Array, "r k"]:
    """matrix⁻¹b by elimination without a change of rows: of few rows and a positive definite or triangular matrix.

    Under `jax.vmap` it is arithmetic on whole batches, where LAPACK is called for one matrix after the other.
    """
    rows = len(matrix)
    table = jnp.concatenate([matrix, b.astype(matrix.dtype)], axis=1)
    for j in range(rows):
        row = table[j] / table[j, j]
        column = table[:, j].at[j].add(-1)
        table = table - column[:, None] * row[None]
    return table[:, rows:]


def small_cholesky(matrix: Float[Array, "r r"]) -> Float[Array, "r r"]:
    """The lower factor of a positive definite matrix of few rows, as `small_solve`; NaN of another."""
    lower = jnp.zeros_like(matrix)
    for j in range(len(matrix)):
        left = matrix[j:, j] - lower[j:, :j] @ lower[j, :j]
        lower = lower.at[j:, j].set(left / jnp.sqrt(left[0]))
    return lower


def proximal_pull(
    loss: Callable[[Array], Array], v: Float[Array, " r"], root: Float[Array, "r r"]
) -> Float[Array, " r"]:
    """u with u = Lᵀ∇ℓ(v − Lu): x = v − Lu is the proximal point of v, x + LLᵀ∇ℓ(x) = v, of a convex ℓ.

    The minimiser of ½‖u‖² + ℓ(v − Lu), by Newton's steps that are shortened until they bring its slope down.
    """

    def slope(u: Array) -> Array:
        return u - jax.grad(loss)(v - root @ u) @ root

    def solve(f: Callable[[Array], Array], start: Array) -> Array:
        eps = jnp.finfo(start.dtype).eps

        def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
            base, move, size, share, _, count = state
            u = base + share * move
            bend, value = jax.jacfwd(lambda u: (value := f(u), value), has_aux=True)(u)
            new = jnp.sum(value**2)
            enough = new <= (1 - 0.2 * share) * size
            newton = -small_solve(bend, value[:, None])[:, 0]
            small = jnp.all(jnp.abs(newton) <= 16 * eps * (1 + jnp.abs(u)))
            done = small | (share < eps)  # at rounding no share helps
            base, size = jnp.where(enough, u, base), jnp.where(enough, new, size)
            share = jnp.where(enough, 1.0, 0.25 * share)
            return base, jnp.where(enough, newton, move), size, share, done, count + 1

        def going(state: tuple[Array, ...]) -> Array:
            return ~state[4] & (state[5] < _PROXIMAL_STEPS)

        far = jnp.full((), jnp.inf, start.dtype)
        first = (start, jnp.zeros_like(start), far, jnp.ones_like(far), jnp.zeros((), bool), jnp.zeros((), int))
        return jax.lax.while_loop(going, step, first)[0]

    def tangent_solve(g: Callable[[Array], Array], y: Array) -> Array:
        slopes = jax.jacfwd(g)(jnp.zeros_like(y))
        inverse = small_solve(slopes, jnp.eye(len(y), dtype=y.dtype))  # once for all tangents
        return inverse @ y

    return jax.lax.custom_root(slope, jnp.zeros_like(v), solve, tangent_solve)


def fixed_point(
    image: Callable[[Array], Array],
    evaluated: Callable[[Array, Array], tuple[Array, Array]],
    start: Float[Array, " k"],
    *,
    at_once: int,
) -> Root:
    """Where x = image(x), by Broyden's method, first of a rough image: as few programs of it as can be.

    Args:
        image: of which derivatives are taken.
        evaluated: the same at (x, whether it is to be exact), and the size of each number, that residuals are over.
        start: where to begin.
        at_once: slopes to so many unknowns are made at a time, which bounds the memory.
    """
    eps = jnp.finfo(start.dtype).eps
    solved = eps**_SOLVED_POWER

    def solve(_: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
        everything = jnp.eye(len(x), dtype=x.dtype)

        def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
            x, left, inverse, size, exact, free, _, count = state
            move = inverse @ left
            at, sizes = evaluated(x + move, exact)
            new = at - (x + move)
            largest = jnp.max(jnp.abs(new) / sizes)
            # After a plain step, which converges slowly but surely, whatever comes is taken.
            good = (free & jnp.isfinite(largest)) | (largest <= _WORSE * size)
            turned = inverse @ (new - left)
            along = move @ turned
            better = inverse + jnp.outer(-move - turned, move @ inverse) / jnp.where(along == 0, 1, along)
            learnt = good & (largest < _NEAR) & jnp.isfinite(jnp.sum(better)) & (along != 0)
            inverse = jnp.where(learnt, better, _SHARE * everything)
            stuck = ~(largest < 0.5 * size) & (jnp.minimum(size, largest) <= solved)
            done = exact & ((largest <= 64 * eps) | stuck)
            ready = ~exact & (largest < _ROUGH)
            x, left = jnp.where(good, x + move, x), jnp.where(good, new, left)
            # Of the exact image nothing is known yet.
            left = jnp.where(ready, 0, left)
            size = jnp.where(ready, jnp.inf, jnp.where(good, largest, size))
            return x, left, inverse, size, exact | ready, ~learnt | ready, done, count + 1

        def going(state: tuple[Array, ...]) -> Array:
            return ~state[6] & (state[7] < _BROYDEN_STEPS)

        far, no = jnp.full((), jnp.inf, x.dtype), jnp.zeros((), bool)
        first = (x, jnp.zeros_like(x), _SHARE * everything, far, no, ~no, no, jnp.zeros((), int))
        found = jax.lax.while_loop(going, step, first)
        return found[0], jnp.where(found[4], found[3], jnp.inf)

    def tangent_solve(g: Callable[[Array], Array], y: Array) -> Array:
        return linear_solve(_slopes_of(g, jnp.zeros_like(y), at_once)[0], y[:, None])[:, 0]

    value, residual = jax.lax.custom_root(lambda x: image(x) - x, start, solve, tangent_solve, has_aux=True)
    residual = jax.lax.stop_gradient(residual)
    return Root(value, residual, residual <= solved)


def _slopes_of(function: Callable[[Array], Array], x: Array, at_once: int) -> tuple[Array, Array]:
    """The Jacobian, a few columns at a time, and the value."""
    value, linear = jax.linearize(function, x)
    return jax.lax.map(linear, jnp.eye(len(x), dtype=x.dtype), batch_size=min(at_once, len(x))).T, value


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
    return Root(value, residual, residual <= _SOLVED * eps)
