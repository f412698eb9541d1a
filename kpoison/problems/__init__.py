"""Problems by name: which kernels, data, attacks and defences the command line offers.  Nothing here loads JAX."""

from kpoison._names import (
    AttackName,
    ClassLabels,
    DataName,
    DefenceName,
    Downloadable,
    Images,
    KernelName,
    LawName,
    MatrixImages,
    MatrixKernelName,
    QuantityName,
)
from kpoison.problems.kernels import KERNELS, KERNELS_WITH_DERIVATIVES, MATRIX_KERNELS

__all__ = [
    "KERNELS",
    "KERNELS_WITH_DERIVATIVES",
    "MATRIX_KERNELS",
    "AttackName",
    "ClassLabels",
    "DataName",
    "DefenceName",
    "Downloadable",
    "Images",
    "KernelName",
    "LawName",
    "MatrixImages",
    "MatrixKernelName",
    "QuantityName",
]
