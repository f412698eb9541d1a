"""Problems by name: which kernels, data, attacks and defences the command line offers.  Nothing here loads JAX."""

from kpoison import _names
from kpoison._names import *  # noqa: F403
from kpoison.problems.kernels import KERNELS, KERNELS_WITH_DERIVATIVES, MATRIX_KERNELS
from kpoison.problems.triggers import IMAGE_SHAPES, TRIGGERS, TriggerArguments, make_trigger

__all__ = [
    "IMAGE_SHAPES",
    "KERNELS",
    "KERNELS_WITH_DERIVATIVES",
    "MATRIX_KERNELS",
    "TRIGGERS",
    "TriggerArguments",
    "make_trigger",
]
__all__ += _names.__all__
