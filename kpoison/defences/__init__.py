"""Defences against poisoned training sets: scores, decisions, and what each assumes."""

from kpoison.defences._activation_clustering import activation_clustering
from kpoison.defences._ensemble_certificate import EnsembleCertificate, ensemble_certificate
from kpoison.defences._exclusionary_reclassification import exclusionary_reclassification
from kpoison.defences._input_projection import InputProjection, input_projection
from kpoison.defences._input_spectrum import SpectrumDetection, SpectrumLaw, input_spectrum, input_spectrum_law
from kpoison.defences._neural_cleanse import NeuralCleanse, anomaly_index, neural_cleanse
from kpoison.defences._partition_aggregation import (
    PartitionAggregation,
    certified_radius,
    partition_aggregation,
)
from kpoison.defences._pidan import pidan
from kpoison.defences._spectral_signatures import spectral_signatures
from kpoison.defences._strip import strip
from kpoison.defences.defended_training import (
    AveragedKernel,
    DefendedTraining,
    augmented_training,
    averaged_training,
    draw_transformations,
    penalised_training,
    remaining_efficacy,
)
from kpoison.defences.detection import Detection, DetectionRates
from kpoison.defences.partitions import partition_of
from kpoison.defences.sanitisation import (
    centroid_distance,
    leave_one_out,
    leave_one_out_residuals,
    neighbour_disagreement,
)
from kpoison.defences.signature_visibility import (
    IsotropicVisibility,
    PredictedVisibility,
    isotropic_visibility,
    predicted_visibility,
    visible_count,
)
from kpoison.ridge.features import kernel_features

__all__ = [
    "AveragedKernel",
    "DefendedTraining",
    "Detection",
    "DetectionRates",
    "EnsembleCertificate",
    "InputProjection",
    "IsotropicVisibility",
    "NeuralCleanse",
    "PartitionAggregation",
    "PredictedVisibility",
    "SpectrumDetection",
    "SpectrumLaw",
    "activation_clustering",
    "anomaly_index",
    "augmented_training",
    "averaged_training",
    "centroid_distance",
    "certified_radius",
    "draw_transformations",
    "ensemble_certificate",
    "exclusionary_reclassification",
    "input_projection",
    "input_spectrum",
    "input_spectrum_law",
    "isotropic_visibility",
    "kernel_features",
    "leave_one_out",
    "leave_one_out_residuals",
    "neighbour_disagreement",
    "neural_cleanse",
    "partition_aggregation",
    "partition_of",
    "penalised_training",
    "pidan",
    "predicted_visibility",
    "remaining_efficacy",
    "spectral_signatures",
    "strip",
    "visible_count",
]
