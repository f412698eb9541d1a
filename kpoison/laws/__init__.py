"""The laws of the poison: gain, efficacy, spike, and how they relate; exact and isolated."""

from kpoison.laws._blind import blind_radius, rbf_blind_radius
from kpoison.laws._capacity import EstimatedDegrees, degrees_of_freedom
from kpoison.laws._covariance import posterior_covariance
from kpoison.laws._efficacy import efficacy, gain
from kpoison.laws._evidence import log_marginal_likelihood
from kpoison.laws._feature import FeatureEffect, feature_effect
from kpoison.laws._left_out import leave_one_out, without_group
from kpoison.laws._spike import (
    coupling_floor,
    coupling_ratio,
    efficacy_gradient,
    spike,
    spike_components,
    spike_efficacy_ratio,
)
from kpoison.laws._trigger_strength import backdoor_score, best_strength, needed_fraction, trigger_stiffness
from kpoison.laws.prediction import Predictor, predict, predictor
from kpoison.laws.preparation import prepare
from kpoison.laws.thresholds import lag, m_success, m_visible

__all__ = [
    "EstimatedDegrees",
    "FeatureEffect",
    "Predictor",
    "backdoor_score",
    "best_strength",
    "blind_radius",
    "coupling_floor",
    "coupling_ratio",
    "degrees_of_freedom",
    "efficacy",
    "efficacy_gradient",
    "feature_effect",
    "gain",
    "lag",
    "leave_one_out",
    "log_marginal_likelihood",
    "m_success",
    "m_visible",
    "needed_fraction",
    "posterior_covariance",
    "predict",
    "predictor",
    "prepare",
    "rbf_blind_radius",
    "spike",
    "spike_components",
    "spike_efficacy_ratio",
    "trigger_stiffness",
    "without_group",
]
