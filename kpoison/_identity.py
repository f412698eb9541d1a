"""What tells one calculation from another: the bits of its arrays, and the program that its functions become.

Names, shapes and representations do not: two networks have arrays of one shape, and two functions may be called `f`.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import re
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kpoison._failures import collect
from kpoison._references import globals_of, kept_by

__all__ = ["function_hash", "hash_of", "identity_of", "lowered_hash", "program_hash", "tree_hash"]


def identity_of(manifest: Mapping[str, Any]) -> str:
    """Hash of everything that determines the numbers of a calculation."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def hash_of(*arrays: Any) -> str:
    """Hash of the numbers, shapes and dtypes of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        _feed_array(digest, array)
    return digest.hexdigest()


def tree_hash(tree: Any) -> str:
    """Hash of the arrays in a tree and of their places."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(eqx.filter(tree, eqx.is_array))[0]:
        digest.update(jax.tree_util.keystr(path).encode())
        _feed_array(digest, leaf)
    return digest.hexdigest()


def program_hash(function: Callable[..., Any], *arguments: Any) -> str:
    """Hash of the program that a function becomes, with every constant in it.

    Arrays in `arguments`, or shapes in their place, are its inputs, of which only shape and dtype count.  It is traced
    anew, so that a closure or a global counts as it is now.
    """
    arrays, rest = eqx.partition(arguments, lambda leaf: eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct))

    def traced(arrays):
        return eqx.filter(collect(function, *eqx.combine(arrays, rest)), eqx.is_array)

    found = jax.jit(traced).trace(arrays)
    return lowered_hash(found.lower(), found.jaxpr.consts)


def lowered_hash(lowered: Any, constants: Any = ()) -> str:
    """Hash of the text of a lowered program, and of constants that JAX keeps beside it."""
    # Addresses of callbacks in this process say nothing.
    text = re.sub(r'backend_config = "\d+"', "", lowered.as_text())
    return hash_of(np.frombuffer(text.encode(), np.uint8), *constants)


def function_hash(function: Any) -> str:
    """Hash of what a function of Python that cannot be traced does: code, defaults, what it closes over, globals.

    Not seen is what may change while it is called: lists, dictionaries and sets, attributes of ordinary objects, and
    variables that it assigns itself.  Functions and classes of installed packages go by their names.
    """
    digest = hashlib.sha256()
    _feed(digest, function, {})
    return digest.hexdigest()


def _feed_array(digest: Any, array: Any) -> None:
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        digest.update(str(jax.random.key_impl(array)).encode())
        array = jax.random.key_data(array)
    array = np.ascontiguousarray(array)
    digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(array.tobytes())


@functools.cache
def _installed() -> tuple[str, ...]:
    """Folders of what goes by its name: versions of what counts are in every manifest."""
    return tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _goes_by_name(value: Any) -> bool:
    module = inspect.getmodule(value)
    path = getattr(module, "__file__", None)
    if module is None or module.__name__ == "__main__":
        return False
    return module.__name__.partition(".")[0] == "kpoison" or path is None or path.startswith(_installed())


def _feed(digest: Any, value: Any, seen: dict[int, tuple[int, Any]]) -> None:
    """Add a value to a digest; one that is met again, as in a recursion, as the place where it was met first."""
    digest.update(f"<{type(value).__module__}.{type(value).__qualname__}>".encode())
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        _feed_array(digest, value)
    elif isinstance(value, float | complex | int | str | bytes | None):
        digest.update(repr(value).encode())
    elif id(value) in seen:
        digest.update(f"{seen[id(value)][0]}".encode())
    else:
        seen[id(value)] = len(seen), value  # kept, so that nothing else has its id
        for part in _parts(value):
            if isinstance(part, str):
                digest.update(f"{part};".encode())
            else:
                _feed(digest, part[0], seen)


def _parts(value: Any) -> Iterator[str | tuple[Any]]:  # noqa: PLR0912 - one branch for each kind
    """What an object is: texts, and further values as tuples of one."""
    if isinstance(value, tuple):
        yield from ((part,) for part in value)
    elif isinstance(value, frozenset):
        yield from sorted(function_hash(part) for part in value)
    elif isinstance(value, functools.partial):
        yield from ((part,) for part in (value.func, value.args, tuple(sorted(value.keywords.items()))))
    elif isinstance(value, types.MethodType):
        yield from ((part,) for part in (value.__func__, value.__self__))
    elif isinstance(value, types.CodeType):
        yield f"{value.co_code!r} {value.co_names} {value.co_varnames} {value.co_argcount} {value.co_flags}"
        yield (value.co_consts,)
    elif isinstance(value, types.ModuleType):
        yield value.__name__
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, type):
        yield f"{value.__module__}.{value.__qualname__}"
        if not _goes_by_name(value):
            for name, member in sorted(vars(value).items()):
                inner = [getattr(member, f) for f in ("__func__", "fget", "func") if hasattr(member, f)]
                if isinstance(function := (inner or [member])[0], types.FunctionType):
                    yield name
                    yield (function,)
            yield from ((base,) for base in value.__bases__)
    elif dataclasses.is_dataclass(value):
        yield (type(value),)
        for field in dataclasses.fields(value):
            yield field.name
            yield (getattr(value, field.name, None),)
    elif callable(getattr(value, "__wrapped__", None)):  # made by jax.jit, functools.wraps and their like
        yield (value.__wrapped__,)
    elif isinstance(value, list | dict | set):
        return
    else:
        yield (type(value),)
        yield from (
            text
            for text in (getattr(value, name, "") for name in ("__module__", "__qualname__", "__name__"))
            if isinstance(text, str)
        )


def _of_function(function: types.FunctionType) -> Iterator[str | tuple[Any]]:
    by_name = _goes_by_name(function)
    yield f"{function.__module__}.{function.__qualname__}" if by_name else "function"
    if not by_name:
        yield (function.__code__,)
        for name, value in globals_of(function):
            yield name
            yield (value,)
    for name, value in kept_by(function):
        yield name
        yield (value,)
