"""Checks at the public boundary: which argument, what came, what was expected.

Shapes and dtypes are always known and always checked.  Values are checked where they are concrete; under a trace
`_failures.checked_result` carries the same conditions into the compiled program.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

__all__ = [
    "between_points",
    "boundary",
    "check_finite",
    "check_finite_scalar",
    "check_floating",
    "check_integer",
    "check_name",
    "check_points",
    "check_positive",
    "check_range",
    "check_real",
    "in_dtype",
    "is_concrete",
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
P = ParamSpec("P")


def boundary(check: Callable[[dict[str, Any]], None]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator: `check` sees the arguments by name, raises or replaces them, before the function runs."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            check(bound.arguments)
            return function(*bound.args, **bound.kwargs)

        return checked

    return decorate


def is_concrete(value: Any) -> bool:
    """Whether the numbers are known now, rather than being traced."""
    return not isinstance(value, jax.core.Tracer)


def in_dtype(value: Any, dtype: Any) -> Any:
    """Numbers as an array of a dtype, without a call to the device where they are none of JAX yet."""
    if isinstance(value, jax.Array):
        return value if value.dtype == dtype else value.astype(dtype)
    return np.asarray(value, dtype)


def check_finite(name: str, value: Any) -> None:
    """Refuse NaN and infinities, where the value is known."""
    if is_concrete(value):
        bad = ~np.isfinite(np.asarray(value))
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            where = f", the first at index {first}" if first else ""
            raise ValueError(f"{name} must be finite, got {int(bad.sum())} non-finite value(s){where}")


def check_real(name: str, value: Any) -> None:
    """Refuse what is neither a real number nor a real array."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        dtype = np.asarray(value).dtype
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(f"{name} must be real, got {type(value).__name__} of dtype {dtype}")


def check_positive(name: str, value: Any, *, zero: bool = False, scalar: bool = True) -> None:
    """Refuse what is not finite, real and > 0 (or >= 0), where the value is known."""
    check_real(name, value)
    if scalar and np.shape(value) != ():
        raise ValueError(f"{name} must be a single number, got shape {np.shape(value)}")
    if is_concrete(value):
        number = np.asarray(value)
        if not np.all(np.isfinite(number)) or np.any(number < 0) or (not zero and np.any(number == 0)):
            raise ValueError(f"{name} must be finite and {'>= 0' if zero else '> 0'}, got {value}")


def check_finite_scalar(name: str, value: Any) -> None:
    """Refuse what is not one finite real number."""
    check_real(name, value)
    if np.shape(value) != ():
        raise ValueError(f"{name} must be a single number, got shape {np.shape(value)}")
    check_finite(name, value)


def check_range(name: str, value: Any) -> tuple[float, float] | None:
    """The range as floats; refuse what is no pair of finite numbers low < high.  None stands for no range."""
    if value is None:
        return None
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{name} must be None or (low, high), got {value!r}")
    for end in value:
        check_finite_scalar(name, end)
    low, high = float(value[0]), float(value[1])
    if low >= high:
        raise ValueError(f"{name} must be (low, high) with low < high, got {value!r}")
    return low, high


def check_integer(name: str, value: Any, least: int) -> int:
    """The value as a Python integer; refuse what is no integer >= `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def check_name(name: str, value: Any, known: Sequence[str]) -> None:
    """Refuse an unknown name."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def check_floating(name: str, value: Any) -> jax.Array:
    """The value as a JAX array of a floating dtype."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} must be an array: {error}") from None
        dtype = value.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be a floating-point array, got dtype {dtype}")
    if jnp.finfo(dtype).bits < 32:
        raise TypeError(f"{name} must be float32 or float64, in which its Gram matrix can be solved, got dtype {dtype}")
    return jnp.asarray(value)


def check_points(
    name: str,
    value: Any,
    point_ndim: int,
    *,
    like: jax.Array | None = None,
    like_name: str = "X",
    single: bool = False,
) -> jax.Array:
    """Points (n, ...) with `point_ndim` axes each, as a JAX array; with `like`, of its point shape and dtype.

    With `single` one point without the first axis is welcome too.
    """
    points = check_floating(name, value)
    shape = (1, *points.shape) if single and points.ndim == point_ndim else points.shape
    if len(shape) != point_ndim + 1:
        expected = "(n, d)" if point_ndim == 1 else f"(n, {', '.join(['...'] * point_ndim)})"
        raise ValueError(f"{name} must have shape {expected}, got {points.shape}")
    if points.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {points.shape}")
    if like is not None:
        if shape[1:] != like.shape[1:]:
            raise ValueError(f"{name} must hold points of shape {like.shape[1:]}, as {like_name} does, got {shape[1:]}")
        if points.dtype != like.dtype:
            points = points.astype(like.dtype)
    check_finite(name, points)
    return points


def between_points(evaluate: F) -> F:
    """Decorator of a kernel's `evaluate`: two single points of one shape, which nothing may broadcast."""

    @functools.wraps(evaluate)
    def checked(self, x, z):
        x, z = check_floating("x", x), check_floating("z", z)
        if x.shape != z.shape:
            raise ValueError(f"z must have the shape of x, {x.shape}, got {z.shape}")
        return evaluate(self, x, z)

    return cast(F, checked)
