"""Exact, differentiable theory of data poisoning in the kernel and NTK regime."""

from kpoison import kernels
from kpoison.laws import (
    coupling_floor,
    coupling_ratio,
    efficacy,
    efficacy_gradient,
    gain,
    predict,
    spike,
    spike_components,
    spike_efficacy_ratio,
)
from kpoison.poison import Poison
from kpoison.ridge import Cholesky, IllConditionedWarning, Posterior, Spectral, fit

__version__ = "0.1.0"

__all__ = [
    "Cholesky",
    "IllConditionedWarning",
    "Poison",
    "Posterior",
    "Spectral",
    "coupling_floor",
    "coupling_ratio",
    "efficacy",
    "efficacy_gradient",
    "fit",
    "gain",
    "kernels",
    "predict",
    "spike",
    "spike_components",
    "spike_efficacy_ratio",
]
