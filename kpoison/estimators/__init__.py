"""Kernel ridge predictors with scikit-learn's interface, each with the posterior that laws are asked of."""

from kpoison.estimators.ridge import KernelRidge, KernelRidgeClassifier

__all__ = ["KernelRidge", "KernelRidgeClassifier"]
