"""Finite-width networks in NTK parameterisation: trained to the ridge optimum (N1), along time (T2), and ensembles."""

from kpoison.flow.integration import IncompleteFlowError
from kpoison.networks.architecture import Architecture, Centred, Network, Parameters
from kpoison.networks.ensembles import Ensemble, ensemble, train_pair
from kpoison.networks.flow import Flow, Integration, gradient_flow
from kpoison.networks.flow_ensembles import FlowEnsemble, flow_ensemble
from kpoison.networks.scaling import PowerLaw, WidthErrors, fit_power_law, width_errors
from kpoison.networks.training import Trained, Training, UnconvergedError, train

__all__ = [
    "Architecture",
    "Centred",
    "Ensemble",
    "Flow",
    "FlowEnsemble",
    "IncompleteFlowError",
    "Integration",
    "Network",
    "Parameters",
    "PowerLaw",
    "Trained",
    "Training",
    "UnconvergedError",
    "WidthErrors",
    "ensemble",
    "fit_power_law",
    "flow_ensemble",
    "gradient_flow",
    "train",
    "train_pair",
    "width_errors",
]
