"""Types that several rooms share."""

from collections.abc import Sequence
from typing import TypeAlias

from jaxtyping import ArrayLike, Num

from kpoison.problems.names import LawName as Law

__all__ = ["Law", "Numbers", "Scalar"]

Scalar: TypeAlias = Num[ArrayLike, ""]
"""A real number, traced or not."""

Numbers: TypeAlias = Num[ArrayLike, "..."] | Sequence[float | int]
"""Real numbers: one, an array or a list."""
