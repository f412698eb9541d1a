"""What a function of Python refers to besides its arguments: globals, closures and defaults."""

import dis
import functools
import types
from collections.abc import Iterator
from typing import Any

__all__ = ["globals_of", "kept_by"]


def globals_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a function, or one inside of it, looks up, by name; not those that it assigns itself."""
    looked_up, assigned = _names(function.__code__)
    for name in looked_up:
        if name in function.__globals__ and name not in assigned:
            yield name, function.__globals__[name]


def kept_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Its defaults and what it closes over, by name; not variables of others that it assigns itself."""
    yield "__defaults__", function.__defaults__
    yield "__kwdefaults__", tuple(sorted((function.__kwdefaults__ or {}).items()))
    assigned = _names(function.__code__)[1]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name not in assigned:
            try:
                yield name, cell.cell_contents
            except ValueError:  # not assigned yet
                yield name, "empty"


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> tuple[tuple[str, ...], frozenset[str]]:
    """Names that code and the functions inside of it may look up among globals, sorted; variables that they assign."""
    looked_up, assigned = set(code.co_names), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_DEREF", "STORE_GLOBAL"):
            assigned.add(instruction.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names, own = _names(inner)
            looked_up |= set(names)
            assigned |= own
    return tuple(sorted(looked_up)), frozenset(assigned)
