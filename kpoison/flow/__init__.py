"""Gradient flow and input-gradient regularisation: early stopping, trade-off, length scales, capacity (T2–T12)."""

from kpoison.flow._energies import Energies, energies
from kpoison.flow._ensemble_covariance import ensemble_covariance
from kpoison.flow._restriction import restricted_degrees_of_freedom
from kpoison.flow._slopes import slope_contraction
from kpoison.flow._tradeoff import tradeoff
from kpoison.flow._trajectory import early_stopped, trajectory
from kpoison.flow.filter import (
    effective_length_scale,
    multiplier,
    near_clone_length_scale,
    penalised_spectral_density,
    spectral_density,
)
from kpoison.flow.integration import IncompleteFlowError
from kpoison.flow.loss_gradient import LossGradientFlow, loss_gradient_flow
from kpoison.flow.penalty_choice import PenaltyChoice, smallest_gradient_penalty

__all__ = [
    "Energies",
    "IncompleteFlowError",
    "LossGradientFlow",
    "PenaltyChoice",
    "early_stopped",
    "effective_length_scale",
    "energies",
    "ensemble_covariance",
    "loss_gradient_flow",
    "multiplier",
    "near_clone_length_scale",
    "penalised_spectral_density",
    "restricted_degrees_of_freedom",
    "slope_contraction",
    "smallest_gradient_penalty",
    "spectral_density",
    "tradeoff",
    "trajectory",
]
