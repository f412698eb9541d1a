"""Exact, differentiable theory of data poisoning in the kernel and NTK regime."""

from kpoison import kernels
from kpoison.laws import (
    coupling_floor,
    coupling_ratio,
    efficacy,
    efficacy_gradient,
    gain,
    m_success,
    predict,
    spike,
    spike_components,
    spike_efficacy_ratio,
)
from kpoison.poison import Poison
from kpoison.ridge import Cholesky, IllConditionedWarning, Posterior, Spectral, fit
from kpoison.sweep import sweep

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
    "m_success",
    "predict",
    "spike",
    "spike_components",
    "spike_efficacy_ratio",
    "sweep",
]
