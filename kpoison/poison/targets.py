"""Which class the attacker wants for an image: one for all, one for each class (all-to-all), or one for each image."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from kpoison._failures import checked_result
from kpoison._typing import Labels
from kpoison._validation import (
    check_integer,
    check_real,
    is_concrete,
    is_integer,
    is_text,
    known_number,
    plain_array,
    public,
)
from kpoison.datasets.labels import distinct_classes

__all__ = ["all_to_all", "target_of_each"]


@public
def all_to_all(classes: int | Labels) -> dict[Any, Any]:
    """The targets of the all-to-all attack of BadNets (Gu et al. 2017): each class is to be taken for the next one.

    Args:
        classes: C, for classes 0..C − 1, of which y goes to (y + 1) mod C; or the classes in their order, integers,
            booleans or text, the last of which goes to the first: [-1, 1] for targets of one column.

    Returns:
        The target of each class, for `attack_success_rate` and `kpoison.attacks.backdoor`, which take any such mapping.

    Raises:
        TypeError: for classes of another kind, or traced ones.
        ValueError: for fewer than two classes, or one that is named twice.

    >>> all_to_all(3)
    {0: 1, 1: 2, 2: 0}
    >>> all_to_all(["cat", "dog"])
    {'cat': 'dog', 'dog': 'cat'}
    """
    if np.ndim(classes) == 0:
        names: list[Any] = list(range(check_integer("classes", classes, 2)))
    else:
        names = distinct_classes(classes)
        if len(names) < 2:
            raise ValueError(f"classes must be two or more, got {classes!r}")
    return dict(zip(names, names[1:] + names[:1], strict=True))


def target_of_each(target: Any, labels: Any, name: str = "target") -> Any:
    """The attacker's class for images of these true classes: the one place where it is determined.

    Args:
        target: one class for all images; a mapping, from every class that occurs to the class wanted for it; or one
            class for each image, shape (q,).  Of the kind of the labels: numbers, booleans or text.
        labels: true classes, shape (q,).
        name: of the target, for messages.

    Returns:
        A single class as it came; otherwise an array of classes, shape (q,).  An image whose target is its own class
        is not attacked.

    Raises:
        TypeError: for a mapping between classes of other kinds than the labels are.
        ValueError: for a class without a target (under `jit`, at run time), or another shape.
    """
    if isinstance(target, Mapping):
        return _looked_up(target, labels, name)
    targets = plain_array(name, target)
    if targets.ndim == 0:
        return target
    if targets.shape != np.shape(labels):
        raise ValueError(
            f"{name} must be a single class, a mapping from classes to classes, or of shape {np.shape(labels)}, one "
            f"class for each image, got shape {targets.shape}"
        )
    return targets


def _looked_up(target: Mapping[Any, Any], labels: Any, name: str) -> Any:
    """What a mapping says of every label."""
    classes = plain_array("labels", labels)
    if classes.ndim != 1:
        raise ValueError(f"labels must have shape (q,), one for each image, got {classes.shape}")
    if not is_concrete(classes):
        return _selected(target, classes, name)
    classes = np.asarray(classes)
    kind = "text" if is_text(classes) else "booleans" if classes.dtype == bool else "numbers"
    entries = (classes.astype(str) if kind == "text" else classes).tolist()
    table = {_entry(kind, key, name): _entry(kind, value, name) for key, value in target.items()}
    missing = [entry for entry in entries if entry not in table]
    if missing:
        raise ValueError(f"{name} must say a class for every class in labels, got none for {missing[0]!r}")
    goals = [table[entry] for entry in entries]
    if not all(map(is_concrete, goals)):
        return jnp.stack([jnp.asarray(goal) for goal in goals])
    # NumPy would round a list of integers of which some exceed 63 bits.
    large = all(map(is_integer, goals)) and max(goals, default=0) >= 2**63
    return np.asarray(goals, np.uint64 if large and min(goals) >= 0 else None)


def _entry(kind: str, value: Any, name: str) -> Any:
    """A class of a mapping as a scalar of Python."""
    entry = bool(value) if isinstance(value, np.bool_) else known_number(value)
    if isinstance(entry, bool):
        found = "booleans"
    elif isinstance(entry, str):
        entry, found = str(entry), "text"
    else:
        check_real(name, entry)
        found = "numbers"
    if found != kind or np.ndim(entry) != 0:
        raise TypeError(f"{name} must map {kind} to {kind}, as labels are {kind}, got {value!r}")
    return entry


def _selected(target: Mapping[Any, Any], labels: Any, name: str) -> Any:
    """The same of labels that are traced, and so numbers."""
    if not target:
        raise ValueError(f"{name} must say a class for every class in labels, got an empty mapping")
    try:
        keys, values = (
            jnp.stack([jnp.asarray(_entry("numbers", entry, name)) for entry in part])
            for part in (target, target.values())
        )
    except OverflowError:
        raise ValueError(f"{name} must hold classes that fit into JAX's integers, got {target!r}") from None
    matches = labels[:, None] == keys[None]
    failures = [(~jnp.any(matches, axis=1), f"{name} must say a class for every class in labels")]
    return checked_result(values[jnp.argmax(matches, axis=1)], failures)
