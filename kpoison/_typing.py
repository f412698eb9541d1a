"""Types that several rooms share."""

from collections.abc import Sequence
from typing import TypeAlias

from jaxtyping import ArrayLike, Bool, Integer, Num, Shaped

from kpoison._names import LawName as Law
from kpoison._names import ThresholdLawName as ThresholdLaw
from kpoison._names import VisibilityName as Criterion

__all__ = ["Criterion", "Labels", "Law", "Mask", "Numbers", "PerInput", "Scalar", "ThresholdLaw"]

Scalar: TypeAlias = Num[ArrayLike, ""]
"""A real number, traced or not."""

PerInput: TypeAlias = Num[ArrayLike, ""] | Num[ArrayLike, "_"]
"""A real number, or one for each input."""

Numbers: TypeAlias = Num[ArrayLike, "..."] | Sequence[float | int]
"""Real numbers: one, an array or a list."""

Labels: TypeAlias = Shaped[ArrayLike, "_"] | Sequence[int | bool | str]
"""Classes of points: integers of any width, booleans or text."""

Mask: TypeAlias = Bool[ArrayLike, "_"] | Integer[ArrayLike, "_"] | Sequence[int | bool]
"""Which of the points: booleans, or integers that are 0 or 1."""
