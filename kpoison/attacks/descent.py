"""What every attack that moves inputs shares: the set of allowed inputs, and projected descent in it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._typing import Scalar
from kpoison._validation import check_positive, check_real, is_concrete

if TYPE_CHECKING:
    import optax

__all__ = ["AllowedInputs", "Norm", "allowed_inputs", "check_history", "descend"]

Parameters = TypeVar("Parameters")
Norm: TypeAlias = Literal["linf", "l2"]


class AllowedInputs(eqx.Module):
    """A box, and a ball about where a point starts; either may be missing.

    Attributes:
        low, high: of the box, of the shape of a point.
        radius: of the ball.
        norm: the ball's.
    """

    low: Float[Array, "..."] | None
    high: Float[Array, "..."] | None
    radius: Float[Array, ""] | None
    norm: Norm = eqx.field(static=True)

    def project(self, point: Float[Array, "..."], start: Float[Array, "..."]) -> Float[Array, "..."]:
        """The nearest allowed point, in the Euclidean norm, for a start within the box."""
        if self.radius is None:
            return self._boxed(point)
        if self.norm == "linf":
            return self._boxed(jnp.clip(point, start - self.radius, start + self.radius))
        shift, radius = point - start, self.radius
        length = jnp.linalg.norm(shift)
        largest = radius / jnp.maximum(length, radius)  # at most 1
        if self.low is None:
            return start + largest * shift

        # The nearest point of box and ball is the box's to start + t·shift: a Lagrange multiplier of the ball scales
        # the shift.  The distance from the start grows with t, and is within the radius at `largest`.
        def halve(_, bounds):
            inside, outside = bounds
            middle = 0.5 * (inside + outside)
            fits = jnp.linalg.norm(self._boxed(start + middle * shift) - start) <= radius
            return jnp.where(fits, middle, inside), jnp.where(fits, outside, middle)

        bits = jnp.finfo(point.dtype).nmant + 1
        scale, _ = jax.lax.fori_loop(0, bits, halve, (largest, jnp.ones_like(largest)))
        fits = jnp.linalg.norm(self._boxed(point) - start) <= radius
        return self._boxed(start + jnp.where(fits, 1, scale) * shift)

    def _boxed(self, point: Float[Array, "..."]) -> Float[Array, "..."]:
        return point if self.low is None else jnp.clip(point, self.low, self.high)


def allowed_inputs(
    start: Float[Array, "p ..."],
    box: Sequence[Num[ArrayLike, "..."]] | None,
    ball: Scalar | None,
    norm: Norm,
    name: str,
    box_name: str = "box",
) -> AllowedInputs:
    """The set, checked: bounds that fit the points, and starts within them; names are what the caller calls these.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    if ball is not None:
        check_positive("ball", ball)
        ball = jnp.asarray(ball, start.dtype)
    if box is None:
        return AllowedInputs(None, None, ball, norm)
    low, high = _bounds(box_name, box, start.shape[1:], start.dtype)
    if is_concrete(start) and is_concrete(low) and is_concrete(high):
        outside = (np.asarray(start) < np.asarray(low)[None]) | (np.asarray(start) > np.asarray(high)[None])
        if outside.any():
            first = tuple(int(i) for i in np.argwhere(outside)[0])
            raise ValueError(
                f"{name} must lie in {box_name}, got {int(outside.sum())} number(s) outside of it, the first at index "
                f"{first}: {np.asarray(start)[first]}"
            )
    return AllowedInputs(low, high, ball, norm)


def _bounds(name: str, bounds: Any, shape: tuple[int, ...], dtype) -> tuple[Array, Array]:
    """Lower and upper bounds, broadcast to a shape."""
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(f"{name} must be a pair (low, high), got {type(bounds).__name__} {bounds!r}")
    for bound in bounds:
        check_real(name, bound)
        if np.shape(bound) not in ((), shape):
            raise ValueError(f"{name} must hold numbers or arrays of shape {shape}, got shape {np.shape(bound)}")
    low, high = (jnp.broadcast_to(jnp.asarray(bound, dtype), shape) for bound in bounds)
    if is_concrete(low) and is_concrete(high) and not np.all(np.asarray(low) < np.asarray(high)):
        raise ValueError(f"{name} must be (low, high) with low < high, got {bounds!r}")
    return low, high


def descend(
    function: Callable[[Parameters], Float[Array, ""]],
    start: Parameters,
    project: Callable[[Parameters], Parameters],
    optimiser: "optax.GradientTransformation",
    steps: int,
) -> tuple[Parameters, Float[Array, " s"]]:
    """Projected descent by any optimiser of optax: the best parameters seen, and the function along the way.

    s = steps + 1.  Traceable.  The best rather than the last, because a step of fixed length, or one that was projected
    after a line search, may go up.
    """
    import optax

    method = optax.with_extra_args_support(optimiser)

    def keep(best, lowest, parameters, value):
        kept = jax.tree.map(lambda old, new: jnp.where(value < lowest, new, old), best, parameters)
        return kept, jnp.minimum(lowest, value)

    def step(carry, _):
        parameters, state, best, lowest = carry
        value, slope = jax.value_and_grad(function)(parameters)
        best, lowest = keep(best, lowest, parameters, value)
        update, state = method.update(slope, state, parameters, value=value, grad=slope, value_fn=function)
        moved = project(optax.apply_updates(parameters, update))  # pyright: ignore[reportArgumentType]
        return (moved, state, best, lowest), value

    first = jax.eval_shape(function, start)
    carry = (start, method.init(start), start, jnp.full(first.shape, jnp.inf, first.dtype))  # pyright: ignore
    (last, _, best, lowest), values = jax.lax.scan(step, carry, length=steps)
    value = function(last)
    return keep(best, lowest, last, value)[0], jnp.append(values, value)


def check_history(history: Float[Array, "..."]) -> None:
    """Refuse a descent that has met NaN or infinities.

    Raises:
        ValueError: with the first such step.
    """
    bad = ~np.isfinite(np.asarray(history))
    if bad.any():
        first = int(np.argwhere(bad)[0][-1])
        raise ValueError(
            f"the objective must stay finite, but is not after {first} step(s): bound the inputs by a box or a ball, "
            "take shorter steps, or look at the kernel's values there"
        )
