"""Functions of the user's inside compiled programs: compiled anew when what they refer to has changed.

JAX takes a function for the same program as long as it is the same object, whatever has become of the globals and
closures that it reads.  A `Watched` function tells JAX what they hold at every call.
"""

import functools
import hashlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from kpoison._references import globals_of, kept_by

__all__ = ["Watched", "watched"]

_DEPTH = 8
_CONSTANT = frozenset({"builtins", "equinox", "functools", "jax", "jaxlib", "jaxtyping", "kpoison", "neural_tangents",
                       "numpy", "scipy"})  # fmt: skip
"""Packages whose functions and objects do not change what they do."""


@jax.tree_util.register_pytree_node_class
class Watched:
    """A function as a pytree without leaves, whose structure holds the values that the function refers to.

    Attributes:
        function: what it calls.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        """That of the function."""
        return repr(self.function)

    def __eq__(self, other: object) -> bool:
        """Whether both call the same function."""
        return isinstance(other, Watched) and self.function == other.function

    def __hash__(self) -> int:
        """That of the function."""
        return hash(self.function)

    def __reduce__(self) -> tuple[Any, ...]:
        """As made from the function."""
        return Watched, (self.function,)

    def tree_flatten(self) -> tuple[tuple[()], tuple[Any, ...]]:
        """No leaves; the function and what it refers to now."""
        return (), (self.function, _referred(self.function, _DEPTH, ()))

    @classmethod
    def tree_unflatten(cls, structure: tuple[Any, ...], _: Any) -> "Watched":
        """The function."""
        return cls(structure[0])


def watched(value: Any) -> Any:
    """A function as `Watched`; a module of equinox, whose numbers JAX sees, as it is."""
    return value if isinstance(value, eqx.Module | Watched) or not callable(value) else Watched(value)


class _Same:
    """Equal to itself only; kept alive, so that nothing else gets its place in memory."""

    def __init__(self, value: Any):
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def _package(name: str | None) -> str:
    return (name or "").partition(".")[0]


def _referred(function: Any, depth: int, seen: tuple[int, ...]) -> Any:
    """The values of the globals, closures, defaults and bound arguments that a function refers to, to be compared."""
    if id(function) in seen or depth == 0:
        return None
    seen = (*seen, id(function))

    def value(held: Any) -> Any:
        return _comparable(held, depth - 1, seen)

    if isinstance(function, functools.partial):
        return value(function.func), value(function.args), value(function.keywords)
    if isinstance(function, types.MethodType):
        return value(function.__func__), value(function.__self__)
    if not isinstance(function, types.FunctionType) or _package(function.__module__) in _CONSTANT:
        return None
    found = (*kept_by(function), *globals_of(function))
    return value(getattr(function, "__wrapped__", None)), tuple((name, value(held)) for name, held in found)


def _comparable(value: Any, depth: int, seen: tuple[int, ...]) -> Any:
    """Something hashable that is equal as long as the value is the same."""
    kind = type(value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | type | types.ModuleType):
        return kind, repr(value) if isinstance(value, float | complex) else value  # NaN is equal to itself
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        array = np.asarray(value)
        return kind, np.shape(value), str(array.dtype), hashlib.blake2b(array.tobytes()).digest()
    if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
        return value, _referred(value, depth, seen)
    held = _held(value)
    if held is None or id(value) in seen or depth == 0:
        return _Same(value)  # JAX's arrays among them, which do not change
    seen = (*seen, id(value))
    parts = tuple((repr(name), _comparable(part, depth - 1, seen)) for name, part in held)
    return (kind, parts) if isinstance(value, Mapping | list | tuple | set | frozenset) else (_Same(value), parts)


def _held(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """What a container or an object of the user's holds, by name or number."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, list | tuple | set | frozenset):
        return enumerate(value)
    if _package(type(value).__module__) in _CONSTANT or not isinstance(getattr(value, "__dict__", None), dict):
        return None
    return vars(value).items()
