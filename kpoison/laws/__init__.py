"""The laws of the poison: gain, efficacy, spike, and how they relate; exact and isolated."""

from kpoison.laws._efficacy import efficacy, gain
from kpoison.laws._spike import (
    coupling_floor,
    coupling_ratio,
    efficacy_gradient,
    spike,
    spike_components,
    spike_efficacy_ratio,
)
from kpoison.laws.prediction import Predictor, predict, predictor
from kpoison.laws.preparation import prepare
from kpoison.laws.thresholds import lag, m_success, m_visible

__all__ = [
    "Predictor",
    "coupling_floor",
    "coupling_ratio",
    "efficacy",
    "efficacy_gradient",
    "gain",
    "lag",
    "m_success",
    "m_visible",
    "predict",
    "predictor",
    "prepare",
    "spike",
    "spike_components",
    "spike_efficacy_ratio",
]
