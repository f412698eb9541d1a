"""Gradient flow and input-gradient regularisation: early stopping, trade-off, effective length scale (T2–T5)."""

from kpoison.flow._energies import Energies, energies
from kpoison.flow._tradeoff import tradeoff
from kpoison.flow._trajectory import early_stopped, trajectory
from kpoison.flow.filter import (
    effective_length_scale,
    multiplier,
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
    "loss_gradient_flow",
    "multiplier",
    "penalised_spectral_density",
    "smallest_gradient_penalty",
    "spectral_density",
    "tradeoff",
    "trajectory",
]
