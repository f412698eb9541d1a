"""Attacks on the training set of a kernel predictor, each with the law's prediction of what it does."""

from kpoison.attacks._backdoor import backdoor
from kpoison.attacks._bilevel import Bilevel, bilevel, greedy_bases
from kpoison.attacks._bilevel_objective import BilevelObjective, bilevel_objective
from kpoison.attacks._feature_collision import FeatureCollision, collision_objective, feature_collision
from kpoison.attacks._generalisation_attack import GeneralisationAttack, generalisation_attack
from kpoison.attacks._generalisation_objective import MovedObjective, generalisation_objective
from kpoison.attacks._sybil import SybilAttack, shared_features, sybil
from kpoison.attacks.aggregators import (
    Aggregator,
    Bulyan,
    CoordinateMedian,
    GeometricMedian,
    Krum,
    Mean,
    TrimmedMean,
)
from kpoison.attacks.byzantine import (
    ALittleIsEnough,
    FixedUpdates,
    GaussianUpdates,
    ModelReplacement,
    SignFlip,
    UpdateAttack,
)
from kpoison.attacks.clients import Clients
from kpoison.attacks.federated import Federation, GuaranteeVoidWarning, federate, mean_aggregated
from kpoison.attacks.label_flipping import FlippedLabels, flip_certificate, flip_labels
from kpoison.attacks.poisoned import PoisonedData

__all__ = [
    "ALittleIsEnough",
    "Aggregator",
    "Bilevel",
    "BilevelObjective",
    "Bulyan",
    "Clients",
    "CoordinateMedian",
    "FeatureCollision",
    "Federation",
    "FixedUpdates",
    "FlippedLabels",
    "GaussianUpdates",
    "GeneralisationAttack",
    "GeometricMedian",
    "GuaranteeVoidWarning",
    "Krum",
    "Mean",
    "ModelReplacement",
    "MovedObjective",
    "PoisonedData",
    "SignFlip",
    "SybilAttack",
    "TrimmedMean",
    "UpdateAttack",
    "backdoor",
    "bilevel",
    "bilevel_objective",
    "collision_objective",
    "feature_collision",
    "federate",
    "flip_certificate",
    "flip_labels",
    "generalisation_attack",
    "generalisation_objective",
    "greedy_bases",
    "mean_aggregated",
    "shared_features",
    "sybil",
]
