"""Exact, differentiable theory of data poisoning in the kernel and NTK regime."""

from kpoison import curvature, flow, kernels
from kpoison._failures import with_failures
from kpoison.laws import (
    coupling_floor,
    coupling_ratio,
    efficacy,
    efficacy_gradient,
    gain,
    lag,
    m_success,
    m_visible,
    predict,
    predictor,
    prepare,
    spike,
    spike_components,
    spike_efficacy_ratio,
)
from kpoison.poison import Blend, Patch, Poison, Sinusoid, Trigger, attack_success_rate, clean_accuracy
from kpoison.ridge import (
    Cholesky,
    ConjugateGradients,
    IllConditionedWarning,
    Krylov,
    Posterior,
    Spectral,
    Tridiagonal,
    choose_solver,
    fit,
)
from kpoison.sweep import sweep

__version__ = "0.1.0"

__all__ = [
    "Blend",
    "Cholesky",
    "ConjugateGradients",
    "IllConditionedWarning",
    "Krylov",
    "Patch",
    "Poison",
    "Posterior",
    "Sinusoid",
    "Spectral",
    "Tridiagonal",
    "Trigger",
    "attack_success_rate",
    "choose_solver",
    "clean_accuracy",
    "coupling_floor",
    "coupling_ratio",
    "curvature",
    "efficacy",
    "efficacy_gradient",
    "fit",
    "flow",
    "gain",
    "kernels",
    "lag",
    "m_success",
    "m_visible",
    "predict",
    "predictor",
    "prepare",
    "spike",
    "spike_components",
    "spike_efficacy_ratio",
    "sweep",
    "with_failures",
]
