"""Failures as values until there is someone to tell.

A calculation says what is wrong with its result by `checked_result`.  What becomes of that depends on who is there:

- numbers that are known: an exception, or a warning, at once;
- a `program` called from Python: the failures are collected while it is traced, the compiled program returns them
  beside its result, and Python raises.  There is no host callback in it, so that JAX's persistent cache keeps it and
  `jax.export` lowers it for other platforms;
- `collect` (sweeps): nobody is told, and the caller gets the failures;
- a transformation of the user's (`jit`, `vmap`, `grad`): an error at run time, `equinox.error_if`; no warnings.

A collector takes failures of its own trace only.  Those of an inner one (`jax.vmap`, a loop) come out by `mapped`,
`one_by_one` and `scan`; without them they are errors at run time, which is right but brings the callback back.
"""

import contextvars
import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array, Bool

__all__ = [
    "Failure",
    "checked_result",
    "collect",
    "mapped",
    "one_by_one",
    "program",
    "scan",
    "silently",
    "with_failures",
    "without_derivative",
]

T = TypeVar("T")
P = ParamSpec("P")


class Failure(eqx.Module):
    """One thing that may be wrong.

    Attributes:
        failed: whether it is, an array of any shape.
        message: what is wrong, with fields of `str.format` for the numbers.
        numbers: of the message, each of the shape of `failed`.
        kind: the exception; or a warning, which alone may have numbers, as it is only given where they are known.
    """

    failed: Any
    message: str = eqx.field(static=True)
    numbers: tuple[Any, ...] = ()
    kind: type[Exception] = eqx.field(static=True, default=ValueError)

    def tell(self) -> None:
        """Raise or warn; `failed` and `numbers` are known, and something has failed."""
        message = self.message
        if self.numbers:
            first = int(np.argmax(np.asarray(self.failed)))
            message = message.format(*(float(np.ravel(np.asarray(number))[first]) for number in self.numbers))
        if issubclass(self.kind, Warning):
            warnings.warn(message, self.kind, stacklevel=_frames_to_the_caller())
        else:
            raise self.kind(message)

    def any(self) -> "Failure":
        """The same as one failure, with the numbers of the first place that failed."""
        first = jnp.argmax(jnp.ravel(self.failed))
        numbers = tuple(jnp.ravel(number)[first] for number in self.numbers)
        return Failure(jnp.any(self.failed), self.message, numbers, self.kind)


def _frames_to_the_caller() -> int:
    """The stack level, for `warnings.warn` in the function that asks, of whoever called kpoison."""
    found, level, frame = 1, 1, sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("kpoison."):
            found = level + 1
        frame, level = frame.f_back, level + 1
    return found


class _Collector:
    """Failures of one trace."""

    def __init__(self) -> None:
        self.trace = get_opaque_trace_state()
        self.failures: list[Failure] = []


_COLLECTOR: contextvars.ContextVar["_Collector | Literal['silence'] | None"] = contextvars.ContextVar(
    "collector of failures", default=None
)


def _active() -> "_Collector | Literal['silence'] | None":
    """Who collects here; None in an inner trace."""
    found = _COLLECTOR.get()
    if isinstance(found, _Collector) and found.trace != get_opaque_trace_state():
        return None
    return found


@contextmanager
def _collecting(collector: "_Collector | Literal['silence']") -> Iterator[None]:
    token = _COLLECTOR.set(collector)
    try:
        yield
    finally:
        _COLLECTOR.reset(token)


def silently():
    """Context in which failures are dropped: where the same calculation is done again, such as for a derivative."""
    return _collecting("silence")


def with_failures(function: Callable[P, T]) -> Callable[P, tuple[T, tuple[Failure, ...]]]:
    """A law that returns its failures beside its result, in place of an error: for `jax.jit`, `jax.vmap`, `jax.export`.

    Args:
        function: any function of this package that takes arrays, or of yours that calls such.

    Returns:
        A function of the same arguments that returns (result, failures).  Each of the `failures` says by `failed`, a
        boolean array, whether its `message` holds; warnings are among them.  Where one has failed the result is not to
        be used.  What it compiles to has no host callback.

    Wrong shapes, names and types, and numbers that are known, are still refused by an exception.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0]))
    >>> value, failures = jax.jit(kp.with_failures(kp.predict))(clean, jnp.array([0.0]), -1.0)
    >>> [failure.message for failure in failures if failure.failed][0]
    'ridge must be finite and > 0'
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> tuple[T, tuple[Failure, ...]]:
        return collect(functools.partial(function, **kwargs), *args)

    in_one_program = eqx.filter_jit(called)

    @functools.wraps(function)
    def returning(*args: P.args, **kwargs: P.kwargs) -> tuple[T, tuple[Failure, ...]]:
        return (in_one_program if _in_python() else called)(*args, **kwargs)

    return returning


def collect(function: Callable[..., T], *arguments: Any) -> tuple[T, tuple[Failure, ...]]:
    """What a function returns, and its failures, of which nobody is told."""
    collector = _Collector()
    with _collecting(collector):
        result = function(*arguments)
    return result, tuple(collector.failures)


def mapped(transform: Callable[[Callable[..., Any]], Callable[..., Any]], function: Callable[..., T]) -> Any:
    """`transform(function)`, for a transform that stacks results (`jax.vmap`), whose failures come out of it."""

    def called(*arguments: Any) -> Any:
        if _passes_by():
            return transform(function)(*arguments)
        results, failures = transform(functools.partial(collect, function))(*arguments)
        return checked_result(results, [failure.any() for failure in failures])

    return called


def scan(step: Callable[..., Any], state: Any, steps: Any) -> tuple[Any, Any]:
    """`jax.lax.scan`, whose failures come out of it."""
    if _passes_by():
        return jax.lax.scan(step, state, steps)

    def collecting(state: Any, x: Any) -> tuple[Any, Any]:
        (state, result), failures = collect(step, state, x)
        return state, (result, failures)

    state, (results, failures) = jax.lax.scan(collecting, state, steps)
    return checked_result((state, results), [failure.any() for failure in failures])


def one_by_one(function: Callable[..., T], items: Any, *, batch_size: int | None = None) -> Any:
    """`jax.lax.map`, whose failures come out of it."""
    return mapped(lambda called: functools.partial(jax.lax.map, called, batch_size=batch_size), function)(items)


def _passes_by() -> bool:
    """Whether failures of an inner trace are not taken here: errors at run time in it, or silence."""
    collector = _active()
    return collector == "silence" or (collector is None and not _in_python())


@functools.cache
def _trace_of_python() -> Any:
    """The state in which nothing is traced: a new thread's, as the first to ask may be a trace."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(get_opaque_trace_state).result()


def _in_python() -> bool:
    return get_opaque_trace_state() == _trace_of_python()


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def without_derivative(value: Array, message: str) -> Array:
    """The value; whoever asks for a derivative in it gets a TypeError, where autodiff would give NaN or another's."""
    return value


@without_derivative.defjvp
def _refused(message: str, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    raise TypeError(message)


def checked_result(result: T, failures: Sequence[Failure | tuple[Any, str]]) -> T:
    """`result`, with what may be wrong with it: see the head of this file."""
    collector = _active()
    for given in failures:
        failure = given if isinstance(given, Failure) else Failure(*given)
        if not isinstance(failure.failed, jax.core.Tracer):
            if bool(np.any(np.asarray(failure.failed))):
                failure.tell()
        elif isinstance(collector, _Collector):
            collector.failures.append(failure)
        elif collector is None and not issubclass(failure.kind, Warning):
            result = eqx.error_if(result, failure.failed, failure.message)
    return result


def _flags(failures: Sequence[Failure]) -> Bool[Array, " k"]:
    return jnp.stack([jnp.any(failure.failed) for failure in failures]) if failures else jnp.zeros(0, bool)


def program(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: a function that is one compiled program; called from Python it raises its failures."""
    raising = eqx.filter_jit(function)

    @eqx.filter_jit
    @functools.wraps(function)
    def returning(*args: P.args, **kwargs: P.kwargs) -> tuple[T, Array, tuple[Failure, ...]]:
        result, failures = collect(functools.partial(function, **kwargs), *args)
        return result, _flags(failures), failures

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        if _active() is not None:  # a part of a larger program
            return function(*args, **kwargs)
        if not _in_python():
            return raising(*args, **kwargs)
        result, flags, failures = returning(*args, **kwargs)
        if isinstance(flags, jax.core.Tracer):  # arguments of a trace that JAX has set aside for a while
            return checked_result(result, failures)
        for failed, failure in zip(np.asarray(flags), failures, strict=True):
            if failed:
                failure.tell()
        return result

    return called
