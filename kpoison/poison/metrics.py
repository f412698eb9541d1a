"""How well an attack works, and what it costs in accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num, Shaped

from kpoison._failures import checked_result
from kpoison._typing import Labels, Scalar
from kpoison._validation import (
    check_finite,
    check_real,
    is_concrete,
    is_text,
    known_number,
    plain_array,
)
from kpoison.poison.targets import target_of_each

__all__ = ["attack_success_rate", "class_array", "clean_accuracy"]


def attack_success_rate(
    predictions: Shaped[ArrayLike, "q *C"] | Sequence[Any],
    labels: Labels | Num[ArrayLike, " q"],
    target: Scalar | str | bool | np.bool_ | Mapping[Any, Any] | Labels | Num[ArrayLike, " q"],
) -> Float[Array, ""]:
    """The fraction of triggered inputs that are given their target class, of those that are not of that class.

    Inputs whose true class is their target are left out: giving them the target class is no success of the attack.

    Args:
        predictions: for the inputs with the trigger: integers of any width, booleans or text, (q,), the predicted
            classes; floating-point scores (q, C), whose largest is the predicted class (of equals the first); or
            floating-point scores (q,), whose sign is the predicted class, −1 or 1 (a score of 0 is neither).
        labels: the true classes, shape (q,), text, booleans, integers or whole floating-point numbers: 0..C − 1 for
            scores (q, C), −1 or 1 for scores (q,).
        target: the attacker's class, of the same kind; or a mapping from true classes to the class wanted for each,
            such as `all_to_all` makes; or one class for each input, shape (q,).

    Returns:
        A number in [0, 1], in the dtype of the scores.

    Raises:
        TypeError: for arguments that are not real; a mapping between classes of another kind than the labels.
        ValueError: for empty inputs, shapes that do not fit, scores that are not finite, labels or a target that are
            not of these classes, a label that a mapping says no class for, and where every input is of its target
            class.  Under `jit`, values are checked at run time.

    >>> import jax.numpy as jnp
    >>> float(attack_success_rate(jnp.array([7, 7, 2, 7]), labels=jnp.array([1, 7, 2, 3]), target=7))  # 2 of 3
    0.666...
    >>> float(attack_success_rate(["dog", "cat"], labels=["cat", "cat"], target={"cat": "dog", "dog": "cat"}))
    0.5
    """
    predictions, labels, wanted = _numbered(predictions, labels, target_of_each(target, labels))
    predicted, classes, dtype, failures = _compared(predictions, labels)
    check_real("target", wanted)
    check_finite("target", wanted)
    failures.append(_not_classes("target", wanted, predictions))
    # With a dtype of its own: beside unsigned labels a weakly typed −1 would become 255.
    goal = jnp.asarray(wanted, jnp.asarray(wanted).dtype)
    if is_concrete(wanted) and np.any(np.asarray(goal) != np.asarray(wanted)):
        raise ValueError(f"target must be classes that JAX can hold as {goal.dtype}, got {target}")
    attacked = classes != goal
    number = jnp.sum(attacked)
    only = f", got only {target}" if is_concrete(wanted) and np.ndim(wanted) == 0 else ""
    failures.append((number == 0, f"labels must have an entry that is not the target{only}"))
    successes = jnp.sum(attacked & (predicted == goal))
    return checked_result(successes.astype(dtype) / jnp.maximum(number, 1).astype(dtype), failures)


def clean_accuracy(
    predictions: Shaped[ArrayLike, "q *C"] | Sequence[Any], labels: Labels | Num[ArrayLike, " q"]
) -> Float[Array, ""]:
    """The fraction of inputs that are given their true class.

    Args:
        predictions: classes (q,), or scores (q, C) or (q,), for inputs without trigger, as in `attack_success_rate`.
        labels: the true classes, shape (q,), as in `attack_success_rate`.

    Returns:
        A number in [0, 1], in the dtype of the scores.

    Raises:
        TypeError: for arguments that are not real.
        ValueError: for empty inputs, shapes that do not fit, scores that are not finite, labels that are not of these
            classes.  Under `jit`, values are checked at run time.

    >>> import jax.numpy as jnp
    >>> float(clean_accuracy(jnp.array([0.3, -2.0, 0.1, -0.2]), labels=jnp.array([1, -1, -1, -1])))
    0.75
    """
    predictions, labels, _ = _numbered(predictions, labels, None)
    predicted, classes, dtype, failures = _compared(predictions, labels)
    return checked_result(jnp.sum(predicted == classes).astype(dtype) / len(classes), failures)


def _numbered(predictions: Any, labels: Any, target: Any) -> tuple[Any, Any, Any]:
    """Classes that are text, booleans, or so large that JAX may not tell them apart, as small numbers.

    Everything else, and what does not belong together, stays as it is, to be refused by name.
    """
    arrays = [plain_array(name, value) for name, value in (("predictions", predictions), ("labels", labels))]
    unchanged = predictions, labels, target
    if not all(isinstance(array, np.ndarray) and array.ndim == 1 and array.size for array in arrays):
        return unchanged
    if target is not None:
        if not is_concrete(target):
            return unchanged
        arrays.append(np.asarray(known_number(target)))
    arrays = [array.astype(str) if is_text(array) else array for array in arrays]
    kinds = {array.dtype.kind for array in arrays}
    if kinds not in ({"U"}, {"b"}) and not _are_large(arrays):
        return unchanged
    # Lists, as NumPy's integers of 64 bits with and without a sign have no type in common.
    values = [np.ravel(array).tolist() for array in arrays]
    numbers = {name: number for number, name in enumerate(sorted({name for part in values for name in part}))}
    found = [
        np.array([numbers[name] for name in part], np.int32).reshape(array.shape)
        for part, array in zip(values, arrays, strict=True)
    ]
    return found[0], found[1], found[2] if target is not None else None


def _are_large(arrays: list[np.ndarray]) -> bool:
    """Whether they are whole numbers, of which some are not exact in single precision: predictions, labels, targets."""
    return (
        arrays[0].dtype.kind in "iu"
        and all(array.dtype.kind in "iuf" for array in arrays[1:])
        and all(bool(np.all(np.isfinite(array) & (np.mod(array, 1) == 0))) for array in arrays)
        and max(float(np.max(np.abs(array.astype(float)))) for array in arrays) >= 2**24
    )


def class_array(name: str, labels: Any) -> Array:
    """Whole numbers of classes as an array of JAX, refused where they do not fit into 32 bits and would wrap around."""
    given = plain_array(name, labels)
    if (
        isinstance(given, np.ndarray)
        and given.size
        and float(np.max(np.abs(given.astype(float)))) > np.iinfo(np.int32).max
    ):
        raise ValueError(
            f"{name} must be classes, −1 and 1 or columns of y from 0 on, got {given.min()} to {given.max()}"
        )
    return jnp.asarray(given)


def _compared(predictions: Any, labels: Any) -> tuple[Array, Array, Any, list[tuple[Any, str]]]:
    """Predicted and true classes (q,), the dtype of the result, and what may be wrong with the values."""
    check_real("predictions", predictions)
    check_real("labels", labels)
    given, classes = jnp.asarray(predictions), jnp.asarray(labels)
    floating = jnp.issubdtype(given.dtype, jnp.floating)
    if given.ndim != 1 and not (given.ndim == 2 and given.shape[1] != 1 and floating):
        raise ValueError(
            "predictions must be integer classes of shape (q,), or floating-point scores of shape (q,) or (q, C) "
            f"with C >= 2, got {given.dtype} of shape {given.shape}"
        )
    if given.size == 0:
        raise ValueError(f"predictions must not be empty, got shape {given.shape}")
    if classes.shape != given.shape[:1]:
        raise ValueError(f"labels must have shape {given.shape[:1]}, as predictions do, got {classes.shape}")
    check_finite("predictions", predictions)
    check_finite("labels", labels)
    dtype = jnp.promote_types(given.dtype, jnp.float32) if floating else jnp.result_type(float)
    if given.ndim == 2:
        predicted = jnp.argmax(given, axis=1)
    else:
        predicted = jnp.sign(given) if floating else given
    failures = [(~jnp.all(jnp.isfinite(given)), "predictions must be finite"), _not_classes("labels", labels, given)]
    return predicted, classes, dtype, failures


def _not_classes(name: str, values: Any, predictions: Any) -> tuple[Any, str]:
    """Whether some of the values are none of the classes that the predictions are of."""
    # NumPy where it can be, so that known labels are refused before a program is compiled.
    xp: Any = np if is_concrete(values) else jnp
    values, scores = xp.asarray(values), jnp.asarray(predictions)
    bad, expected = xp.mod(values, 1) != 0, "whole numbers"
    if scores.ndim == 2:
        bad |= (values < 0) | (values >= scores.shape[1])
        expected = f"in 0..{scores.shape[1] - 1}, as predictions have shape {scores.shape}"
    elif jnp.issubdtype(scores.dtype, jnp.floating):
        bad |= abs(values) != 1
        expected = "-1 or 1, as predictions are floating-point scores of shape (q,)"
    got = f", got {values[bad].flat[0]}" if xp is np and bad.any() else ""
    return bad, f"{name} must be {expected}{got}"
