"""The laws of the poison: gain, efficacy, spike, and how they relate; exact and isolated."""

from kpoison.laws.efficacy import efficacy, gain, predict
from kpoison.laws.spike import (
    coupling_floor,
    coupling_ratio,
    efficacy_gradient,
    spike,
    spike_components,
    spike_efficacy_ratio,
)
from kpoison.laws.thresholds import m_success

__all__ = [
    "coupling_floor",
    "coupling_ratio",
    "efficacy",
    "efficacy_gradient",
    "gain",
    "m_success",
    "predict",
    "spike",
    "spike_components",
    "spike_efficacy_ratio",
]
