"""Classes and the targets that stand for them: −1 and 1 in one column, or one column of y for each."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kpoison._failures import checked_result
from kpoison._validation import check_finite, check_integer, check_real, is_concrete, is_integer, known_number
from kpoison.ridge import Fitted

__all__ = ["checked_target", "checked_targets", "class_indices", "common_class"]


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


def checked_target(clean: Fitted, target: Any) -> tuple[int, int]:
    """A target, −1 or 1 or a column of y, as a Python integer, and its class index.

    Raises:
        ValueError: where it is none.
    """
    known = (-1, 1) if clean.outputs == 1 else tuple(range(clean.outputs))
    number = known_number(target)
    if is_concrete(target) and isinstance(number, float) and number in known:
        number = int(number)
    if not is_integer(number) or not is_concrete(number) or number not in known:
        raise ValueError(f"target must be one of {', '.join(map(str, known))}, got {target!r}")
    number = check_integer("target", number, None)
    return number, known.index(number)


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
