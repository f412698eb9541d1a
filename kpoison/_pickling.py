"""Functions of JAX in pickled objects.

`jnp.tanh` is a compiled function about another of the same name, which pickle looks up and finds to be none such:
`PicklingError: it's not the same object as ...`.  Kernels and networks hold such functions as activations.  They are
pickled by the name under which JAX offers them; others as before.
"""

import copyreg
import importlib
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["register"]

_PUBLIC = ("jax.numpy", "jax.nn", "jax.scipy.special", "jax.lax")


def _named(module: str, path: str) -> Any:
    """What a module calls by a name, such as a method of one of its classes."""
    found = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _reduced(function: Any) -> tuple[Any, ...]:
    """By name where a name leads back to it, else as without this file."""
    path = getattr(function, "__qualname__", None)
    for module in (*_PUBLIC, getattr(function, "__module__", None)):
        if not isinstance(module, str) or not isinstance(path, str) or module == "__main__":
            continue
        try:
            if _named(module, path) is function:
                return _named, (module, path)
        except (ImportError, AttributeError):
            continue
    return _as_before(function)


def _as_before(function: Any) -> Any:
    own: Any = type(function).__reduce_ex__
    return own(function, 4)


def register() -> None:
    """Let pickle, copy and joblib know; done where kernels are first loaded."""

    def identity(x: Any) -> Any:
        return x

    kinds: tuple[Callable[..., Any], ...] = (jax.jit(identity), jax.custom_jvp(identity), jax.custom_vjp(identity))
    for kind in map(type, kinds):
        copyreg.pickle(kind, _reduced)
