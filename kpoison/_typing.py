"""Types that several rooms share."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from jaxtyping import ArrayLike, Num

__all__ = ["Law", "Numbers", "Scalar"]

Scalar: TypeAlias = Num[ArrayLike, ""]
"""A real number, traced or not."""

Numbers: TypeAlias = Num[ArrayLike, "..."] | Sequence[float | int]
"""Real numbers: one, an array or a list."""

Law: TypeAlias = Literal["exact", "isolated"]
"""`"exact"` conditions on the clean data; `"isolated"` is the paper's assumption k(ζ, X) = 0, f_c = 0."""
