"""The axes of a sweep: from what the user gives to checked values with names and units."""

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._identity import hash_of, program_hash, tree_hash
from kpoison._validation import check_floating, check_real
from kpoison.kernels import Kernel
from kpoison.kernels.base import with_array_parameters
from kpoison.poison import Poison
from kpoison.ridge import Fitted
from kpoison.ridge.metric import checked_metric

__all__ = [
    "INNER_AXES",
    "Axis",
    "Grid",
    "Places",
    "Training",
    "TrainingCell",
    "kernel_identities",
    "numbers",
    "parse_axis",
]

INNER_AXES = ("r_over_l", "m", "ridge")
"""The axes of every sweep; what a quantity does not depend on, it does not have."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """A named axis.

    Attributes:
        name: of the dimension.
        values: its coordinate, shape (N,); numbers or strings.
        description, units: for the attributes of the coordinate.
        points: what stands behind an index, shape (N, ...), where the coordinate is only one.
    """

    name: str
    values: np.ndarray
    description: str
    units: str
    points: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of values."""
        return len(self.values)


def parse_axis(text: str) -> np.ndarray:
    """An axis from text: one number, numbers with commas, or START:STOP:NUMBER[:log|:lin].

    Raises:
        ValueError: saying what is wrong with the text.

    >>> parse_axis("0.01:10:4:log").tolist()
    [0.01, 0.1, 1.0, 10.0]
    >>> parse_axis("0:1:3").tolist()
    [0.0, 0.5, 1.0]
    >>> parse_axis("1,3,10").tolist()
    [1.0, 3.0, 10.0]
    """
    expected = "a number, numbers with commas, or START:STOP:NUMBER[:log|:lin]"
    try:
        if ":" not in text:
            return np.array([float(part) for part in text.split(",")])
        start, stop, number, *spacing = text.split(":")
        ends, count = (float(start), float(stop)), int(number)
        scale = spacing[0] if spacing else "lin"
        if len(spacing) > 1 or scale not in ("log", "lin"):
            raise ValueError
    except ValueError:
        raise ValueError(f"an axis must be {expected}, got {text!r}") from None
    if not np.all(np.isfinite(ends)) or count < 1 or (count > 1 and ends[0] >= ends[1]):
        raise ValueError(f"an axis must rise from START to STOP in at least one step, got {text!r}")
    if scale == "log":
        if ends[0] <= 0:
            raise ValueError(f"a logarithmic axis must start above 0, got {text!r}")
        values = np.geomspace(*ends, count)
    else:
        values = np.linspace(*ends, count)
    return values


@dataclasses.dataclass(frozen=True)
class TrainingCell:
    """How the predictor of one cell is trained.

    Attributes:
        kernel: k.
        unit: its unit of length, see `kpoison.sweep`; None: ‖ζ‖.
        penalty: γ; None: that of the posterior that is swept.
        time: t; None: that of the posterior that is swept, by default the end.
    """

    kernel: Kernel
    unit: float | None
    penalty: float | None
    time: float | None


@dataclasses.dataclass(frozen=True)
class Training:
    """The predictors of a sweep.

    Attributes:
        axes: of kernels, their hyper-parameters, penalties and times; those that were given.
        cells: the predictor of every cell of these axes, the last axis fastest.
        metric: M of the penalties; None: the identity.
    """

    axes: tuple[Axis, ...]
    cells: tuple[TrainingCell, ...]
    metric: np.ndarray | None

    @classmethod
    def of(
        cls,
        clean: Fitted,
        kernels: Mapping[str, Kernel] | None,
        hyperparameters: Mapping[str, Any] | None,
        length_scale: float | None,
        gradient_penalty: Any,
        metric: Any,
        time: Any,
    ) -> "Training":
        """Those that `sweep` is asked for."""
        axes, cells = _kernel_axes(clean, kernels, hyperparameters, length_scale)
        penalties, times = [None], [None]
        if gradient_penalty is not None:
            axes.append(numbers("gradient_penalty", gradient_penalty, "gradient penalty γ", "input²", zero=True))
            penalties = axes[-1].values.tolist()
        if time is not None:
            axes.append(numbers("time", time, "training time t of the gradient flow", "1/k", zero=True, infinite=True))
            times = axes[-1].values.tolist()
        if metric is not None and gradient_penalty is None:
            raise ValueError("metric is that of gradient_penalty, which is not given")
        metric = checked_metric(metric, math.prod(clean.X.shape[1:]), clean.X.dtype)
        trained = [
            TrainingCell(kernel, unit, penalty, t) for kernel, unit in cells for penalty in penalties for t in times
        ]
        return cls(tuple(axes), tuple(trained), None if metric is None else np.asarray(metric))


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the poison is, what it is labelled, and where the probes are from there.

    Attributes:
        axes: of locations, directions and labels; those that were given.
        locations: ζ, shape (N, d).
        directions: u, shape (N, d).
        labels: y_t, shape (L,) or (L, C).
    """

    axes: tuple[Axis, ...]
    locations: np.ndarray
    directions: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, clean: Fitted, poison: Poison, location: Any, direction: Any, label: Any) -> "Places":
        """Those that `sweep` is asked for."""
        shape = clean.X.shape[1:]
        locations = _points("location", poison.location if location is None else location, shape)
        directions = _points("direction", direction, shape)
        norms = np.linalg.norm(directions.reshape(len(directions), -1), axis=1)
        if np.any(norms == 0):
            raise ValueError("direction must not be 0")
        directions = directions / norms.reshape(-1, *[1] * len(shape))
        axes = [
            Axis(name, np.arange(len(points)), text, "index", points)
            for name, given, points, text in (
                ("location", location, locations, "poison location ζ"),
                ("direction", direction, directions, "unit vector u of x0 = ζ + r u"),
            )
            if given is not None and np.ndim(given) == len(shape) + 1
        ]
        labels = np.asarray(poison.label)[None]
        if label is not None:
            axes.append(_label_axis(label))
            labels = axes[-1].values if axes[-1].points is None else axes[-1].points
        for values in labels:
            Poison(jnp.asarray(locations[0], clean.X.dtype), values, 1.0).check_shapes(shape, clean.outputs)
        return cls(tuple(axes), locations, directions, labels)


def _label_axis(label: Any) -> Axis:
    check_real("label", label)
    labels = np.asarray(label, float)
    if labels.ndim not in (1, 2) or labels.size == 0 or not np.all(np.isfinite(labels)):
        raise ValueError(f"label must be a list of finite numbers, or of shape (N, C), got shape {labels.shape}")
    index, points = (labels, None) if labels.ndim == 1 else (np.arange(len(labels)), labels)
    return Axis("label", index, "poison label y_t", "y", points)


@dataclasses.dataclass(frozen=True)
class Grid:
    """All axes of a sweep, checked.

    Attributes:
        distance: r/ℓ of the probe from the poison.
        count: multiplicity m of the poison.
        ridge: λ.
        training: what changes the predictor.
        places: what moves and labels the poison, and moves the probes.
    """

    distance: Axis
    count: Axis
    ridge: Axis
    training: Training
    places: Places

    def __post_init__(self):
        """Names of axes must differ.

        Raises:
            ValueError: where they do not.
        """
        moved = [axis for axis in self.places.axes if axis.name != "label"]
        names = [axis.name for axis in (*self.training.axes, *moved)]
        if len(set(names) | {*INNER_AXES, "label", "output"}) < len(names) + 5:
            raise ValueError(f"every axis must have a name of its own, got {names}")

    @property
    def inner(self) -> tuple[Axis, Axis, Axis]:
        """The axes of every sweep, which one factorisation serves."""
        return self.distance, self.count, self.ridge

    @property
    def leading(self) -> tuple[Axis, ...]:
        """The dimensions before these, in the order of the result: those that were given."""
        return *self.training.axes, *self.places.axes


def numbers(name: str, values: Any, description: str, units: str, *, zero: bool, infinite: bool = False) -> Axis:
    """A strictly rising axis of real numbers, the last of which may be ∞.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    check_real(name, values)
    array = np.atleast_1d(np.asarray(values, float))
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a number or a list of numbers, not empty, got shape {np.shape(values)}")
    allowed = array >= 0 if zero else array > 0
    if not np.all((np.isfinite(array) | (infinite & (array == np.inf))) & allowed):
        raise ValueError(f"{name} must be finite and {'>= 0' if zero else '> 0'}, got {array[~allowed][:3]}")
    if np.any(np.diff(array) <= 0):
        raise ValueError(f"{name} must rise strictly: a grid has one place for each value, got {array[:6]}")
    return Axis(name, array, description, units)


def _points(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Points (N, d) from one (d,) or several."""
    array = np.asarray(check_floating(name, values))
    if array.shape[-len(shape) :] != shape or array.ndim not in (len(shape), len(shape) + 1) or array.size == 0:
        raise ValueError(f"{name} must have shape {shape} or (N, {', '.join(map(str, shape))}), got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite")
    return array.reshape(-1, *shape)


def _is_integer(cls: type, field: str) -> bool:
    """Whether a class declares a field as an integer; what it holds says nothing: RBF(1) may well become RBF(1.5)."""
    try:
        declared = typing.get_type_hints(cls)[field]
    except Exception:  # an annotation that cannot be resolved
        declared = next(f.type for f in dataclasses.fields(cls) if f.name == field)
    declared = typing.get_args(declared)[0] if typing.get_origin(declared) is typing.Annotated else declared
    of_union = typing.get_origin(declared) in (typing.Union, types.UnionType)
    kinds = [kind for kind in (typing.get_args(declared) if of_union else (declared,)) if kind is not type(None)]
    return all(
        kind == "int" or (isinstance(kind, type) and issubclass(kind, int | np.integer) and kind is not bool)
        for kind in kinds
    )


def _with_field(kernel: Kernel, field: str, value: float) -> Kernel:
    """The kernel, rebuilt (so that it is checked) with another hyper-parameter."""
    name = type(kernel).__name__
    fields = {f.name: getattr(kernel, f.name) for f in dataclasses.fields(kernel) if f.init}
    if field not in fields:
        raise ValueError(f"hyperparameters must be fields of {name} {sorted(fields)}, got {field!r}")
    if np.shape(fields[field]) != ():
        raise ValueError(
            f"hyperparameters must be fields that hold one number, but {field} of {name} has shape "
            f"{np.shape(fields[field])}: give the kernels themselves as kernels="
        )
    if _is_integer(type(kernel), field):
        if value != int(value):
            raise ValueError(f"{field} of {name} among hyperparameters must be integers, got {value}")
        value = int(value)
    given = fields | {field: value}
    try:
        inspect.signature(type(kernel)).bind(**given)
    except TypeError as error:
        raise ValueError(
            f"hyperparameters must be those of a kernel that is made of its fields, but {name} is not ({error}): give "
            "the kernels themselves as kernels="
        ) from None
    return type(kernel)(**given)


def _kernel_axes(
    clean: Fitted,
    kernels: Mapping[str, Kernel] | None,
    hyperparameters: Mapping[str, Any] | None,
    length_scale: float | None,
) -> tuple[list[Axis], list[tuple[Kernel, float | None]]]:
    axes, cells = [], [clean.kernel]
    if kernels is not None:
        if not isinstance(kernels, Mapping) or not kernels or not all(isinstance(k, Kernel) for k in kernels.values()):
            raise TypeError(f"kernels must be a mapping from names to kernels, not empty, got {kernels!r}")
        axes.append(Axis("kernel", np.array(list(kernels), dtype=object), "kernel", ""))
        cells = list(kernels.values())
    for field, values in (hyperparameters or {}).items():
        axis = numbers(field, values, f"hyper-parameter {field} of the kernel", "", zero=True)
        axes.append(axis)
        # Checked by the kernel itself, with its own message.
        cells = [_with_field(kernel, field, value) for kernel in cells for value in axis.values.tolist()]
    return axes, [(kernel, _unit_of_length(kernel, length_scale)) for kernel in cells]


def _unit_of_length(kernel: Kernel, length_scale: float | None) -> float | None:
    """The kernel's length scale; where it has none, or one for each coordinate, that given, or None for ‖ζ‖."""
    own = getattr(kernel, "length_scale", None)
    if own is None or callable(own) or np.shape(own) != ():
        return length_scale
    return float(own)


def kernel_text(kernel: Kernel) -> str:
    """The kernel with the values of its hyper-parameters, for a reader: arrays by shape, functions by name."""
    leaves = jax.tree.map(lambda leaf: float(leaf) if eqx.is_array(leaf) and leaf.ndim == 0 else leaf, kernel)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(leaves))


def kernel_identities(kernels: Sequence[Kernel], like: Float[Array, "n ..."]) -> list[list[str]]:
    """For each kernel on points of this shape and dtype: its text, the hash of its numbers and that of its program."""
    point = jax.ShapeDtypeStruct(like.shape[1:], like.dtype)
    pair = jax.ShapeDtypeStruct((2, *like.shape[1:]), like.dtype)

    def values(kernel, x, z, X, Z):
        return kernel.evaluate(x, z), kernel.gram(X, Z)

    def slopes(kernel, x, Z):
        return kernel.gradients(x, Z)

    def program_of(numbers):
        program = program_hash(values, numbers, point, point, pair, pair)
        try:
            return program + program_hash(slopes, numbers, point, pair)
        except Exception:  # a kernel without a gradient
            return program + "-"

    programs: dict[Any, str] = {}  # of kernels that differ in their numbers only
    found = []
    for kernel in kernels:
        numbers = jax.tree.map(
            lambda leaf: leaf.astype(like.dtype) if eqx.is_array(leaf) and leaf.ndim == 0 and eqx.is_inexact_array(leaf)
            else leaf,
            with_array_parameters(kernel, like.dtype),
        )  # fmt: skip
        key = _own_structure(numbers) or _structure(numbers)
        if key not in programs:
            # A program is made anew at every sweep, in a tenth of a second: ours follows from the version.
            words = key if isinstance(key, str) else program_of(numbers)
            words = f"{type(kernel).__qualname__} {kernel.smoothness} {kernel.rotation_invariant} {words}"
            programs[key] = hash_of(np.frombuffer(words.encode(), np.uint8))
        found.append([kernel_text(kernel), tree_hash(numbers), programs[key]])
    return found


def _own_structure(part: Any) -> str | None:
    """What a kernel of this library is made of, but for the numbers in its arrays; None where there is a user's part.

    Its program follows from that and the library's version.
    """
    if isinstance(part, eqx.Module):
        if not type(part).__module__.startswith("kpoison."):
            return None
        inner = [_own_structure(getattr(part, field.name)) for field in dataclasses.fields(part)]
        return None if None in inner else f"{type(part).__module__}.{type(part).__qualname__}{inner}"
    if isinstance(part, tuple | list):
        inner = [_own_structure(each) for each in part]
        return None if None in inner else f"{inner}"
    if eqx.is_array(part):
        return f"{part.dtype}{part.shape}"
    return repr(part) if isinstance(part, int | float | str | None) else None


def _structure(kernel: Kernel) -> Any:
    """What kernels have in common whose program is the same; of itself where something in it cannot be compared."""
    kind = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)) if eqx.is_array(leaf) else leaf, kernel)
    key = (tuple(jax.tree.leaves(kind, is_leaf=lambda leaf: isinstance(leaf, tuple))), jax.tree.structure(kernel))
    try:
        hash(key)
    except TypeError:
        return object()
    return key
