"""The names that the command line takes, for its help and for type checkers.

`tests/test_startup.py` holds each against what it names.
"""

from typing import Literal, TypeAlias

__all__ = [
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
    "MnistName",
    "QuantityName",
    "ThresholdLawName",
    "VisibilityName",
    "TriggerName",
]

KernelName: TypeAlias = Literal[
    "rbf", "laplace", "matern32", "matern52", "rational-quadratic", "linear", "ntk-relu", "ntk-erf", "nngp-relu"
]
"""Of `problems.KERNELS`."""

MatrixKernelName: TypeAlias = Literal["rbf", "laplace", "matern32", "matern52", "ntk-relu", "ntk-erf"]
"""Kernels of the matrix of attacks and defences."""

DataName: TypeAlias = Literal["synthetic", "digits", "mnist"]
"""Clean data of one problem of regression."""

Images: TypeAlias = Literal["digits", "mnist", "cifar10", "cifar100"]
"""Data sets of images."""

MatrixImages: TypeAlias = Literal["digits", "mnist", "cifar10"]
"""Data sets of images with ten classes."""

Downloadable: TypeAlias = Literal["mnist", "cifar10", "cifar100"]
"""Data sets that `datasets.download` fetches; digits come with scikit-learn."""

MnistName: TypeAlias = Literal[
    "mnist",
    "fashion-mnist",
    "kmnist",
    "qmnist",
    "emnist-balanced",
    "emnist-byclass",
    "emnist-bymerge",
    "emnist-digits",
    "emnist-letters",
    "emnist-mnist",
]
"""Data sets of MNIST's format, for `datasets.load_mnist`."""

ClassLabels: TypeAlias = Literal["coarse", "fine"]
"""Labels of CIFAR-100."""

TriggerName: TypeAlias = Literal["patch", "blend", "sinusoid", "additive", "warp"]
"""Of `problems.TRIGGERS`."""

AttackName: TypeAlias = Literal[
    "near-clone", "patch", "blend", "sinusoid", "additive", "warp", "label-flip", "feature-collision", "bilevel"
]
"""Of `matrix.ATTACKS`."""

DefenceName: TypeAlias = Literal[
    "none",
    "nearest-neighbours",
    "centroid",
    "leave-one-out",
    "spectral-signatures",
    "activation-clustering",
    "exclusionary-reclassification",
    "pidan",
    "strip",
    "neural-cleanse",
    "input-spectrum",
    "input-projection",
    "projected-training",
    "partition-aggregation",
    "gradient-penalty",
    "augmentation",
]
"""Of `matrix.DEFENCES`."""

LawName: TypeAlias = Literal["exact", "isolated"]
"""`"exact"` conditions on the clean data; `"isolated"` is the paper's assumption k(ζ, X) = 0, f_c = 0."""

ThresholdLawName: TypeAlias = Literal["exact", "fixed-rho", "isolated"]
"""How a threshold in m takes it: `"exact"` with ρ = (n_c + m)λ in everything; `"fixed-rho"` with the ρ of the poison's
own count in everything, so that m is in the gain alone; `"isolated"` with k(ζ, X) = 0 and f_c at ρ = n_c λ."""

VisibilityName: TypeAlias = Literal["absolute", "relative"]
"""When a spike is visible: `"absolute"` from Λ on; `"relative"` from Λ = τ‖∇f_c‖² on, the paper's criterion (L9)."""

QuantityName: TypeAlias = Literal[
    "gain",
    "efficacy",
    "spike",
    "spike_efficacy_ratio",
    "coupling_floor",
    "coupling_ratio",
    "degrees_of_freedom",
    "prediction",
    "prediction_deviation",
    "efficacy_deviation",
    "m_success",
]
"""Of `sweep.quantity_names`."""
