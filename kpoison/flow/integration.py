"""Times of a flow, and whether its integration has reached them."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._failures import Failure, checked_result
from kpoison._validation import check_real, is_concrete

__all__ = ["IncompleteFlowError", "checked_times", "complete_only"]


class IncompleteFlowError(RuntimeError):
    """The solver stopped before the last time; its result is no data point."""


def checked_times(name: str, times: Any, dtype, *, finite: bool = False) -> Float[Array, " T"]:
    """Rising times >= 0, shape (T,); ∞ is the end of training, which no integration reaches.

    Raises:
        TypeError, ValueError: naming the argument; under a trace a runtime error.
    """
    check_real(name, times)
    times = jnp.asarray(times, dtype)
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"{name} must have shape (T,) with T >= 1, got {times.shape}")
    got = f", got {times.tolist()[:6]}" if is_concrete(times) else ""
    return checked_result(
        times,
        [
            (~jnp.all(times >= 0), f"{name} must be >= 0{got}"),
            (finite & jnp.any(jnp.isposinf(times)), f"{name} must be finite for a flow that is integrated{got}"),
            (jnp.any(jnp.diff(times) <= 0), f"{name} must rise strictly{got}"),
        ],
    )


def complete_only(result: Any, max_steps: int) -> Any:
    """`result`, with `completed` and `steps`, where the solver has reached the last time in all of its runs.

    Raises:
        IncompleteFlowError: where it has not; under a trace `equinox.error_if`.
    """
    completed, steps = result.completed, result.steps
    advice = "Raise max_steps or tolerance, or look at earlier times."
    if not is_concrete(completed):
        message = f"The flow has stopped before the last time. {advice}"
        return checked_result(result, [Failure(~jnp.all(completed), message, kind=IncompleteFlowError)])
    if not bool(jnp.all(completed)):
        raise IncompleteFlowError(
            f"{int(jnp.sum(~completed))} of {completed.size} flows have stopped before the last time, after "
            f"{int(jnp.max(steps))} of at most {max_steps} steps. {advice}"
        )
    return result
