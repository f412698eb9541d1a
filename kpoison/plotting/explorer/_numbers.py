"""What the page holds of a dataset: its dimensions with their scales, and its numbers as bytes."""

import base64
import math
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["described", "dimension", "kept_variables", "packed"]

_CROWDED = 30  # largest over smallest value from which numbers are drawn along a logarithmic axis
_PRECISE = {"float64": 8, "float32": 4, "int8": 1}  # how numbers are stored, and their bytes


def kept_variables(dataset: "xr.Dataset", names: Sequence[str] | None) -> list[str]:
    """The variables that hold real numbers, or those of them that are asked for.

    Raises:
        ValueError: where there is none, or for a name that is not among them.
    """
    known = [str(name) for name, variable in dataset.data_vars.items() if variable.dtype.kind in "fiub"]
    if not known:
        found = ", ".join(map(str, dataset.data_vars)) or "no variable"
        raise ValueError(f"dataset must hold variables of real numbers, got {found}")
    for name in names or ():
        if name not in known:
            raise ValueError(f"quantities must be of {', '.join(known)}, got {name!r}")
    return known if names is None else [name for name in known if name in names]


def dimension(dataset: "xr.Dataset", name: Hashable) -> dict[str, Any]:
    """A dimension as the page takes it: values as text, positions on a linear axis, and ticks there.

    Numbers of several orders of magnitude are placed by their logarithm; names, ∞, and 0 beside several orders of
    magnitude by their index, so that each value has a place of its own.
    """
    size = dataset.sizes[name]
    coordinate = dataset.coords.get(name)
    values = np.arange(size) if coordinate is None else coordinate.values
    attributes = {} if coordinate is None else coordinate.attrs
    numeric = values.dtype.kind in "fiu"
    scale = _scale(values.astype(float)) if numeric else "steps"
    if scale == "steps":
        positions = np.arange(size, dtype=float)
        ticks = [(float(i), _text(values[i], numeric)) for i in _thinned(size)]
    elif scale == "log":
        positions = np.log10(values.astype(float))
        ticks = list(_decades(float(values[0]), float(values[-1])))
    else:
        positions = values.astype(float)
        ticks = list(_round_numbers(float(positions[0]), float(positions[-1]), whole=values.dtype.kind in "iu"))
    return {
        "name": str(name),
        "label": str(attributes.get("long_name", str(name).replace("_", " "))),
        "units": _units(attributes),
        "numeric": numeric,
        "values": [str(value) for value in values],  # of numbers all digits
        "scale": scale,
        "positions": positions.tolist(),
        "ticks": [[place for place, _ in ticks], [text for _, text in ticks]],
        "downwards": name == "height",  # the rows of an image
    }


def _scale(values: np.ndarray) -> Literal["linear", "log", "steps"]:
    if len(values) < 2 or not np.all(np.isfinite(values)) or not np.all(np.diff(values) > 0):
        return "steps"
    low = values[values > 0].min() if np.any(values > 0) else math.inf
    if values[0] <= 0 < values[-1] and low < values[-1] / (2 * _CROWDED * len(values)):
        return "steps"
    return "log" if values[0] > 0 and values[-1] >= _CROWDED * values[0] else "linear"


def _units(attributes: Any) -> str:
    units = str(attributes.get("units", ""))
    return "" if units == "1" else units


def _text(value: Any, numeric: bool) -> str:
    if not numeric:
        return str(value)
    return "∞" if np.isposinf(value) else f"{value:.3g}"


def _thinned(size: int) -> Iterator[int]:
    yield from range(0, size, -(-size // 12))


def _decades(low: float, high: float) -> Iterator[tuple[float, str]]:
    """Ticks between two numbers: powers of ten, of a few decades twice and five times them as well."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = -(-(last - first) // 8)
    for power in range(first, last + 1):
        for digit in (1, 2, 5) if last - first <= 2 else (1,):
            value = digit * 10.0**power
            if power % every == 0 and low * (1 - 1e-9) <= value <= high * (1 + 1e-9):
                yield math.log10(value), f"{value:g}"


def _round_numbers(low: float, high: float, *, whole: bool) -> Iterator[tuple[float, str]]:
    rough = max((high - low) / 6, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough * (1 - 1e-9))
    for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        yield number * step, f"{number * step:.6g}"


def _stored(dtype: np.dtype, single: bool) -> str:
    if dtype.kind == "b" or dtype == np.int8:
        return "int8"
    return "float32" if single or dtype in (np.float32, np.float16) else "float64"


def described(variable: "xr.DataArray") -> dict[str, Any]:
    """A variable as the page takes it, still without its numbers."""
    return {
        "name": str(variable.name),
        "label": str(variable.attrs.get("long_name", str(variable.name).replace("_", " "))),
        "units": _units(variable.attrs),
        "dims": [str(dim) for dim in variable.dims],
        "dtype": "float64",
        "rounded": False,
        "data": "",
    }


def packed(dataset: "xr.Dataset", quantities: Sequence[dict[str, Any]], room: int) -> None:
    """Give each quantity its numbers, as precise as they are, or in single precision where there is no room for that.

    Args:
        dataset: of which to take them.
        quantities: see `described`.
        room: bytes of text that the numbers may take together.

    Raises:
        ValueError: where they do not fit, saying how many values of which dimension would.
    """
    names = [quantity["name"] for quantity in quantities]
    single = _bytes(dataset, names, False) > room and all(_has_single(dataset[name].values) for name in names)
    if _bytes(dataset, names, single) > room:
        raise ValueError(_too_large(dataset, names, room, single))
    for quantity in quantities:
        variable = dataset[quantity["name"]]
        dtype = _stored(variable.dtype, single)
        values = np.ascontiguousarray(variable.values, np.dtype(dtype).newbyteorder("<"))
        quantity["dtype"], quantity["rounded"] = dtype, variable.dtype == np.float64 and dtype == "float32"
        quantity["data"] = base64.b64encode(values.tobytes()).decode()


def _has_single(values: np.ndarray) -> bool:
    """Whether no number would become ∞ in single precision, which reads as "never"."""
    return not np.any(np.isfinite(values) & (np.abs(values) > np.finfo(np.float32).max))


def _bytes(dataset: "xr.Dataset", names: Sequence[str], single: bool, without: Hashable = None) -> int:
    """Of text; of the variables that have a dimension, for one of its values, where one is named."""
    total = 0
    for name in names:
        variable = dataset[name]
        number = math.prod(size for dim, size in variable.sizes.items() if dim != without)
        if without is None or without in variable.dims:
            total += 4 * -(-number * _PRECISE[_stored(variable.dtype, single)] // 3)
    return total


def _too_large(dataset: "xr.Dataset", names: Sequence[str], room: int, single: bool) -> str:
    whole = _bytes(dataset, names, single)
    fits = []
    for dim, size in dataset[list(names)].sizes.items():
        each = _bytes(dataset, names, single, dim)
        number = (room - (whole - size * each)) // each
        if size > 1 and number >= 1:
            fits.append(f"{number} of the {size} values of {dim}")
    advice = f"; there is room for {', or '.join(fits)}" if fits else ""
    sizes = ", ".join(f"{dim} {size}" for dim, size in dataset[list(names)].sizes.items())
    return (
        f"dataset takes {whole / 1e6:.1f} MB{' in single precision' if single else ''}, a page has room for "
        f"{room / 1e6:.1f} MB ({sizes}): select fewer values of a dimension, or fewer quantities{advice}"
    )
