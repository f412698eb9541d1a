"""Classes and the targets that stand for them: −1 and 1 in one column, or one column of y for each."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kpoison._failures import checked_result
from kpoison._validation import (
    check_finite,
    check_integer,
    check_real,
    is_concrete,
    is_integer,
    known_number,
    plain_array,
)
from kpoison.ridge import Fitted

__all__ = [
    "ClassMap",
    "Wanted",
    "checked_target",
    "checked_targets",
    "checked_wanted",
    "class_indices",
    "class_values",
    "common_class",
]


class ClassMap(Mapping[int, int]):
    """A mapping from classes to the class wanted for each that does not change, so that programs can depend on it."""

    def __init__(self, classes: Mapping[int, int]):
        self._classes = dict(classes)

    def __getitem__(self, key: int) -> int:
        return self._classes[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __hash__(self) -> int:
        return hash(frozenset(self._classes.items()))

    def __repr__(self) -> str:
        return f"ClassMap({self._classes})"


Wanted: TypeAlias = int | ClassMap | tuple[int, ...]
"""The class that an attacker wants: one for all images, one for each class, or one for each image."""


def class_indices(
    y: Float[Array | np.ndarray, "n *C"], name: str = "clean.y"
) -> tuple[Int[Array | np.ndarray, " n"], int]:
    """The class of each point, and how many classes there are.

    One output: 0 for −1 and 1 for 1.  C outputs: the column that is larger than the others.  The name is for messages.

    Raises:
        ValueError: for values other than −1 and 1 in one column, rows that are not one-hot in several, a single class;
            in compiled code at run time.
    """
    # Known labels stay known inside of a trace.
    numpy: Any = np if is_concrete(y) else jnp
    targets = numpy.asarray(y).reshape(len(y), -1)
    if targets.shape[1] == 1:
        labels = (targets[:, 0] > 0).astype(int)
        wrong = numpy.any(numpy.abs(targets) != 1)
        expected = f"{name} must hold −1 and 1"
    else:
        labels = numpy.argmax(targets, axis=1)
        high = numpy.sum(targets == numpy.max(targets), axis=1)
        low = numpy.sum(targets == numpy.min(targets), axis=1)
        wrong = numpy.any((high != 1) | (low != targets.shape[1] - 1))
        expected = f"{name} must be one-hot: one value in the column of the class, another in all others"
    alike = numpy.all(labels == labels[0]) & ~wrong
    came = ""
    if is_concrete(y):
        rows = np.unique(targets, axis=0)
        came = f", got {len(rows)} kind(s) of row, the first {rows[0].tolist()}"
    failures = [(wrong, expected + came), (alike, f"{name} must hold at least two classes" + came)]
    return checked_result(labels, failures), max(2, targets.shape[1])


def class_values(clean: Fitted) -> tuple[int, ...]:
    """The classes as targets name them: −1 and 1, or the columns of y."""
    return (-1, 1) if clean.outputs == 1 else tuple(range(clean.outputs))


def checked_target(clean: Fitted, target: Any, name: str = "target") -> tuple[int, int]:
    """A target, −1 or 1 or a column of y, as a Python integer, and its class index.

    Raises:
        ValueError: where it is none.
    """
    known = class_values(clean)
    number = known_number(target)
    if is_concrete(target) and isinstance(number, float) and number in known:
        number = int(number)
    if not is_integer(number) or not is_concrete(number) or number not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {target!r}")
    number = check_integer(name, number, None)
    return number, known.index(number)


def checked_wanted(name: str, clean: Fitted, target: Any, number: int, each: str) -> Wanted:
    """One class for all of so many images, a mapping of classes, or a class for each image, as Python's integers.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    if isinstance(target, Mapping):
        classes, goals = (
            [checked_target(clean, entry, name)[0] for entry in part] for part in (target, target.values())
        )
        return ClassMap(dict(zip(classes, goals, strict=True)))
    given = plain_array(name, target)
    if given.ndim == 0:
        return checked_target(clean, target, name)[0]
    if given.shape != (number,):
        raise ValueError(
            f"{name} must be one class, a mapping from classes to classes, or of shape ({number},), one class for each "
            f"{each}, got shape {given.shape}"
        )
    if not is_concrete(given):
        raise TypeError(f"{name} must be known classes, got traced ones: give them outside of jit, vmap and grad")
    check_real(name, given)
    classes, known = np.asarray(given), class_values(clean)
    wrong = ~np.isin(classes, known)
    if wrong.any():
        raise ValueError(f"{name} must hold classes, {', '.join(map(str, known))}, got {classes[wrong][0]}")
    return tuple(classes.astype(int).tolist())


def checked_targets(
    name: str, targets: Any, number: int, each: str, y: Float[Array, "n *C"]
) -> Float[Array, "number *C"]:
    """Targets of so many points, in the shape and dtype of y: one for each of them, or one for all.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    check_real(name, targets)
    given, shape = jnp.asarray(targets, y.dtype), (number, *y.shape[1:])
    if given.shape not in (shape, shape[1:]):
        raise ValueError(f"{name} must have shape {shape}, one for each {each}, or {shape[1:]}, got {given.shape}")
    check_finite(name, given)
    return jnp.broadcast_to(given, shape)


def common_class(targets: Float[Array, "q *C"]) -> int | None:
    """The class of all these targets, the sign or the column of the largest; None where they differ.

    Of one column it is the sign, whether or not the column has an axis of its own.
    """
    values = np.asarray(targets).reshape(len(targets), -1)
    classes = np.where(values[:, 0] > 0, 1, -1) if values.shape[1] == 1 else np.argmax(values, axis=1)
    return int(classes[0]) if np.all(classes == classes[0]) else None
