"""What is known of a kernel beside its values, as one value that kernels made of others put together by one rule."""

import abc
from typing import NamedTuple

from kpoison.kernels.base import Kernel

__all__ = ["Traits", "WithTraits"]


class Traits(NamedTuple):
    """The attributes of a kernel of the same names."""

    smoothness: int | float
    rotation_invariant: bool = False
    translation_invariant: bool = False
    point_ndim: int = 1
    makes_half: bool = False

    @classmethod
    def of(cls, *kernels: Kernel) -> "Traits":
        """Those of a smooth function of some kernels' values at the same two points."""
        return cls(
            min(kernel.smoothness for kernel in kernels),
            all(kernel.rotation_invariant for kernel in kernels),
            all(kernel.translation_invariant for kernel in kernels),
            kernels[0].point_ndim,
            # Where one does: blocks under way together would exceed its memory.
            any(kernel.makes_half for kernel in kernels),
        )


class WithTraits(Kernel):
    """A kernel whose traits are one value: made of those of others, or as its caller gives them."""

    @property
    @abc.abstractmethod
    def traits(self) -> Traits:
        """What the attributes of the same names are read from."""

    @property
    def smoothness(self) -> int | float:
        """As the traits say."""
        return self.traits.smoothness

    @property
    def rotation_invariant(self) -> bool:
        """As the traits say."""
        return self.traits.rotation_invariant

    @property
    def translation_invariant(self) -> bool:
        """As the traits say."""
        return self.traits.translation_invariant

    @property
    def point_ndim(self) -> int:
        """As the traits say."""
        return self.traits.point_ndim

    @property
    def makes_half(self) -> bool:
        """As the traits say."""
        return self.traits.makes_half
