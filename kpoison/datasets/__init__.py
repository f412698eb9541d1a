"""Image data: scikit-learn's digits, MNIST and its kin and CIFAR from their official files, and how to prepare them."""

from kpoison.datasets._download import download
from kpoison.datasets.cifar import load_cifar10, load_cifar100
from kpoison.datasets.digits import load_digits
from kpoison.datasets.files import read_idx
from kpoison.datasets.images import ImageDataset
from kpoison.datasets.labels import one_hot, predicted_classes, signed
from kpoison.datasets.mnist import load_mnist
from kpoison.datasets.preparation import balanced_subset, binary_problem, standardise, unit_sphere

__all__ = [
    "ImageDataset",
    "balanced_subset",
    "binary_problem",
    "download",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_mnist",
    "one_hot",
    "predicted_classes",
    "read_idx",
    "signed",
    "standardise",
    "unit_sphere",
]
