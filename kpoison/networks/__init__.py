"""Finite-width networks: trained to the ridge optimum (N1) or along time (T2), ensembles of them; image classifiers."""

from kpoison.flow.integration import IncompleteFlowError
from kpoison.networks.architecture import Architecture, Centred, Network, Parameters
from kpoison.networks.augmentation import Augmentation, ColourJitter, Compose, CutOut, HorizontalFlip, RandomCrop
from kpoison.networks.classification import (
    SGD,
    ClassifierEnsemble,
    DivergedError,
    TrainedClassifier,
    train_classifier,
    train_classifiers,
)
from kpoison.networks.classifiers import MLP, Classifier, LeNet, LinearSoftmax, ResNet
from kpoison.networks.convolutional import ConvolutionalArchitecture, ConvolutionalNetwork
from kpoison.networks.ensembles import Ensemble, ensemble, train_pair
from kpoison.networks.flow import Flow, Integration, gradient_flow
from kpoison.networks.flow_ensembles import FlowEnsemble, flow_ensemble
from kpoison.networks.poisoning import StochasticPoison
from kpoison.networks.scaling import PowerLaw, WidthErrors, fit_power_law, width_errors
from kpoison.networks.training import Trained, Training, UnconvergedError, train

__all__ = [
    "MLP",
    "SGD",
    "Architecture",
    "Augmentation",
    "Centred",
    "Classifier",
    "ClassifierEnsemble",
    "ColourJitter",
    "Compose",
    "ConvolutionalArchitecture",
    "ConvolutionalNetwork",
    "CutOut",
    "DivergedError",
    "Ensemble",
    "Flow",
    "FlowEnsemble",
    "HorizontalFlip",
    "IncompleteFlowError",
    "Integration",
    "LeNet",
    "LinearSoftmax",
    "Network",
    "Parameters",
    "PowerLaw",
    "RandomCrop",
    "ResNet",
    "StochasticPoison",
    "Trained",
    "TrainedClassifier",
    "Training",
    "UnconvergedError",
    "WidthErrors",
    "ensemble",
    "fit_power_law",
    "flow_ensemble",
    "gradient_flow",
    "train",
    "train_classifier",
    "train_classifiers",
    "train_pair",
    "width_errors",
]
