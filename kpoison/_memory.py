"""How much memory a calculation takes, from its shapes alone, and how much there is."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["available_memory", "in_words", "peak_bytes"]


def available_memory() -> int:
    """Bytes that are free on the device that has the least, or in the machine."""
    import psutil

    free = psutil.virtual_memory().available
    for device in jax.local_devices():
        statistics = device.memory_stats() or {}
        if "bytes_limit" in statistics:
            free = min(free, statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    return free


def in_words(count: int | float) -> str:
    """A number of bytes for a message: "1.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB" if count < 10_000 else f"{count:.2e} GiB"


def peak_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """Bytes that `function` needs beside its arguments if each intermediate result is freed after its last use.

    Args:
        function: traceable by JAX; nothing is computed.
        arguments: arrays or `jax.ShapeDtypeStruct`.

    A compiler that fuses elementwise operations needs less.
    """
    return _peak(jax.make_jaxpr(function)(*arguments).jaxpr)


def _peak(jaxpr: Any) -> int:
    last = {var: place for place, equation in enumerate(jaxpr.eqns) for var in _variables(equation.invars)}
    last |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
    inputs = {*jaxpr.invars, *jaxpr.constvars}
    held = peak = 0
    for place, equation in enumerate(jaxpr.eqns):
        inner = max((_peak(inner) for inner in _inner_jaxprs(equation.params.values())), default=0)
        results = sum(_bytes(var.aval) for var in equation.outvars)
        # What a loop or a call returns is among what it holds at its end.
        peak = max(peak, held + max(inner, results))
        held += sum(_bytes(var.aval) for var in equation.outvars if var in last)
        read = {var for var in _variables(equation.invars) if var not in inputs}
        held -= sum(_bytes(var.aval) for var in read if last[var] == place)
    return peak


def _variables(atoms: Iterable[Any]) -> list[Any]:
    from jax.extend.core import Literal  # brings along Pallas and more, which nothing else here needs

    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _inner_jaxprs(parameters: Iterable[Any]) -> list[Any]:
    found = []
    for value in parameters:
        if hasattr(value, "eqns"):
            found.append(value)
        elif hasattr(value, "jaxpr"):
            found.append(value.jaxpr)
        elif isinstance(value, tuple | list):
            found += _inner_jaxprs(value)
    return found


def _bytes(aval: Any) -> int:
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return 0
    itemsize = dtype.itemsize if not jnp.issubdtype(dtype, jax.dtypes.extended) else 16
    return math.prod(aval.shape) * itemsize
