"""Class labels as targets of a fit, and scores as the caller's own labels again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import ArrayLike, Float, Num, Shaped

from kpoison._typing import Labels
from kpoison._validation import check_classes, check_finite, check_integer, check_real, plain_array, public
from kpoison.datasets.images import check_labels, floating_dtype

__all__ = ["distinct_classes", "one_hot", "predicted_classes", "signed"]


@public
def one_hot(
    labels: Labels, classes: int | Labels | None = None, dtype: npt.DTypeLike = np.float64
) -> Float[np.ndarray, "n classes"]:
    """Turn class labels (n,) into targets (n, classes) that are 1 in the label's column and 0 elsewhere.

    Args:
        labels: integers, booleans or text, shape (n,).
        classes: the classes in the order of the columns; or C, for labels 0..C−1; by default those that occur,
            ascending, as `numpy.unique` gives them.
        dtype: of the targets.

    Raises:
        TypeError: `labels` or `classes` of another kind, or traced ones.
        ValueError: `labels` is empty, not one-dimensional, or not among the classes; a class is named twice.

    >>> one_hot([0, 2], 3)
    array([[1., 0., 0.],
           [0., 0., 1.]])
    >>> one_hot(["dog", "cat", "dog"])
    array([[0., 1.],
           [1., 0.],
           [0., 1.]])
    """
    dtype = floating_dtype(dtype)
    places, number = _places(labels, classes)
    return np.equal.outer(places, np.arange(number)).astype(dtype)


@public
def signed(labels: Labels, classes: Labels | None = None, dtype: npt.DTypeLike = np.float64) -> Float[np.ndarray, " n"]:
    """Turn labels (n,) of two classes into targets (n,): −1 for the first class, 1 for the second.

    Args:
        labels: integers, booleans or text, shape (n,).
        classes: both classes, in this order; by default those that occur, ascending.
        dtype: of the targets.

    Raises:
        TypeError, ValueError: as `one_hot` does, and for another number of classes than two.

    >>> signed(["dog", "cat", "dog"]).tolist()
    [1.0, -1.0, 1.0]
    """
    dtype = floating_dtype(dtype)
    places, number = _places(labels, classes)
    if number != 2:
        raise ValueError(
            f"labels must be of two classes, got {number}: name both by classes, or encode several by one_hot"
        )
    return (2.0 * places - 1).astype(dtype)


@public
def predicted_classes(scores: Num[ArrayLike, "q *C"] | Sequence[Any], classes: Labels) -> Shaped[np.ndarray, " q"]:
    """The class that each input is given, as the caller names it: what undoes `one_hot` and `signed`.

    Args:
        scores: such as `kpoison.predict` gives: shape (q, C), whose largest wins, or (q,), whose sign does; among
            equals the first class, and the first for 0.
        classes: the C classes in the order of the columns, or both in the order −1, 1.  Where the targets were encoded
            without naming them, `numpy.unique(labels)`.

    Returns:
        Entries of `classes`, shape (q,).

    Raises:
        TypeError: `scores` that are not real, `classes` that are no labels.
        ValueError: shapes that do not fit, scores that are not finite, a class named twice.

    >>> import kpoison as kp
    >>> X, labels = np.array([[0.0], [0.2], [3.0]]), ["left", "left", "right"]
    >>> clean = kp.fit(kp.kernels.RBF(1.0), X, kp.signed(labels))
    >>> predicted_classes(kp.predict(clean, np.array([[2.5], [0.1]]), ridge=1e-3), ["left", "right"]).tolist()
    ['right', 'left']
    """
    number = len(distinct_classes(classes))
    check_real("scores", scores)
    check_finite("scores", scores)
    scores = np.asarray(plain_array("scores", scores))
    if scores.shape[1:] not in ((), (number,)) or scores.ndim == 0 or (scores.ndim == 1 and number != 2):
        raise ValueError(
            f"scores must have shape (q, {number}){', or (q,)' * (number == 2)}, as there are {number} classes, got "
            f"{scores.shape}"
        )
    places = np.argmax(scores, axis=1) if scores.ndim == 2 else (scores > 0).astype(int)
    return np.asarray(plain_array("classes", classes))[places]


def _places(labels: Any, classes: Any) -> tuple[np.ndarray, int]:
    """Each label's place among the classes, and the number of these."""
    array = plain_array("labels", labels)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"labels must be non-empty and of shape (n,), got shape {array.shape}")
    if classes is not None and np.ndim(classes) == 0:
        number = check_integer("classes", classes, 1)
        numbers = np.asarray(array.astype(int) if array.dtype == bool else array)
        check_labels("labels", numbers, number)
        return numbers, number
    numbers, found = check_classes("labels", labels, len(array), "labels")
    if found is None:
        raise TypeError("labels must be known, got traced ones: jax.nn.one_hot encodes these")
    if classes is None:
        return numbers, len(found)
    known = {label: place for place, label in enumerate(distinct_classes(classes))}
    unknown = [label for label in found.tolist() if label not in known]
    if unknown:
        raise ValueError(f"labels must be among classes, {', '.join(map(repr, known))}, got {unknown[0]!r}")
    return np.array([known[label] for label in found.tolist()])[numbers], len(known)


def distinct_classes(classes: Any) -> list[Any]:
    """The classes as scalars of Python, in their order.

    Raises:
        TypeError: for classes of another kind, or traced ones.
        ValueError: for a class that is named twice.
    """
    numbers, found = check_classes("classes", classes, np.size(plain_array("classes", classes)), "classes")
    if found is None:
        raise TypeError("classes must be known, got traced ones")
    if len(found) < len(numbers):
        raise ValueError(f"classes must differ from each other, got {classes}")
    return found[numbers].tolist()
