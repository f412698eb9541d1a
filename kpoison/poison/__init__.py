"""What the attacker did: poison in the training set, triggers on images, and how well the attack works."""

from kpoison.poison._tight import Tightness, tightness
from kpoison.poison.clones import Poison, check_poison
from kpoison.poison.expectation import ExpectedLoss, expected_poisoning
from kpoison.poison.metrics import attack_success_rate, clean_accuracy
from kpoison.poison.targets import all_to_all, target_of_each
from kpoison.poison.triggers import Additive, Blend, Patch, Sinusoid, Trigger, Warp

__all__ = [
    "Additive",
    "Blend",
    "ExpectedLoss",
    "Patch",
    "Poison",
    "Sinusoid",
    "Tightness",
    "Trigger",
    "Warp",
    "all_to_all",
    "attack_success_rate",
    "check_poison",
    "clean_accuracy",
    "expected_poisoning",
    "target_of_each",
    "tightness",
]
