"""Types that several rooms share."""

from typing import Literal, TypeAlias

from jaxtyping import ArrayLike, Num

__all__ = ["Law", "Scalar"]

Scalar: TypeAlias = Num[ArrayLike, ""]
"""A real number, traced or not."""

Law: TypeAlias = Literal["exact", "isolated"]
"""`"exact"` conditions on the clean data; `"isolated"` is the paper's assumption k(ζ, X) = 0, f_c = 0."""
