"""Finite-width networks in NTK parameterisation, their training to the ridge optimum, and ensembles (N1)."""

from kpoison.networks.architecture import Architecture, Network, Parameters
from kpoison.networks.ensembles import Ensemble, ensemble, train_pair
from kpoison.networks.scaling import PowerLaw, WidthErrors, fit_power_law, width_errors
from kpoison.networks.training import Trained, Training, UnconvergedError, train

__all__ = [
    "Architecture",
    "Ensemble",
    "Network",
    "Parameters",
    "PowerLaw",
    "Trained",
    "Training",
    "UnconvergedError",
    "WidthErrors",
    "ensemble",
    "fit_power_law",
    "train",
    "train_pair",
    "width_errors",
]
