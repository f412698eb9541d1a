"""R1: ridge regression on poisoned mixtures, against training sets; where two claims of arXiv 2605.22481 end."""

import numpy as np

from kpoison.asymptotics import backdoor_mixture
from theory_checks.catalogue import STATEMENTS
from theory_checks.mixtures import ridge, simulated, standard_attack
from theory_checks.random_mixtures import within
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_DIMENSION, _NUMBER, _RIDGE, _FRACTION = 60, 120, 0.1, 0.2
_SETTINGS, _SETS, _OUTSIDE = 200, 20, 0.02


def _against_training_sets(setting: Setting, laws: Laws) -> tuple[list[Comparison], Panel]:
    full = setting.scale == "full"
    strengths = (0.5, 1.0, 2.0, 3.0, 6.0, 12.0) if full else (0.5, 3.0)
    draws = 1000 if full else 200
    law = {name: [] for name in ("accuracy", "success", "error", "training")}
    found = {name: ([], []) for name in law}
    for i, strength in enumerate(strengths):
        attack = standard_attack(_DIMENSION, _FRACTION, strength, 2.0)
        model = laws.ridge_regression(attack, _NUMBER, _RIDGE)
        predicted = (model.accuracy(), model.attack_success_rate(), model.error, model.training_error)
        measured = simulated(attack, _NUMBER, ridge(_RIDGE), draws, [setting.seed, 101, i])
        for name, value in zip(law, predicted, strict=True):
            law[name].append(float(value))
            found[name][0].append(measured.mean[name])
            found[name][1].append(measured.half_width(name) + measured.mean[name] / _NUMBER)
    reason = f"t-interval over {draws} training sets, and the next order, 1/n of it"
    compared = [compare(f"{name} of ridge regression", "refit", law[name], *found[name], reason) for name in law]
    grid = np.geomspace(0.2, 30, 13)
    curves = []
    for n in (60, 120, 1200):
        rates = [
            float(laws.ridge_regression(standard_attack(_DIMENSION, _FRACTION, float(a), 2.0), n, _RIDGE)
                  .attack_success_rate()) for a in grid
        ]  # fmt: skip
        curves.append(curve(f"law, d/n = {_DIMENSION / n:g}", "line", grid, rates))
    curves.append(curve("trained, d/n = 0.5", "errorbar", strengths, found["success"][0], found["success"][1]))
    return compared, Panel(
        "Attack success before any data", "strength α of the trigger", "attack success", curves, yscale="linear"
    )


def _accuracy_falls(setting: Setting, laws: Laws) -> tuple[Comparison, str]:
    """Where "clean accuracy rises with the trigger's strength" ends: with many points for each input."""
    n, d, strengths, draws = 400, 20, (3.0, 8.0, 20.0), 1000 if setting.scale == "full" else 150
    law, mean, width = [], [], []
    attacks = [standard_attack(d, 0.1, strength, 2.0) for strength in (0.0, *strengths)]
    by_law = [float(laws.ridge_regression(attack, n, 0.02).accuracy()) for attack in attacks]
    # The same points for every strength.
    measured = [simulated(attack, n, ridge(0.02), draws, [setting.seed, 102]) for attack in attacks]
    for i in range(1, 4):
        law.append(by_law[i] - by_law[0])
        mean.append(measured[i].mean["accuracy"] - measured[0].mean["accuracy"])
        width.append(measured[i].half_width("accuracy") + measured[0].half_width("accuracy") + 0.5 / n)
    numbers = [", ".join(f"{value:.4f}" for value in values)
               for values in (by_law, [one.mean["accuracy"] for one in measured])]  # fmt: skip
    finding = (
        f'"clean accuracy rises with α" fails at d/n = {d / n:g}: at α = 0, 3, 8, 20 it is {numbers[0]} by law, '
        f"{numbers[1]} trained"
    )
    reason = f"t-intervals over {draws} training sets, and the next order"
    return compare("change of clean accuracy with α", "refit", law, mean, width, reason), finding


def _worst_direction(setting: Setting, laws: Laws) -> tuple[Comparison, str]:
    """Where "the worst direction is the least eigenvector of Σ" ends: only among those across the means it holds."""
    d, n, draws, angle = _DIMENSION, _NUMBER, 1000 if setting.scale == "full" else 200, 0.3
    axes = np.eye(d)
    law, mean, width = [], [], []
    for u in (axes[0], np.cos(angle) * axes[0] + np.sin(angle) * axes[1], axes[-1]):
        attack = backdoor_mixture(1.5 * axes[1], np.linspace(0.5, 1.5, d), u, _FRACTION, 2.0)
        measured = simulated(attack, n, ridge(_RIDGE), draws, [setting.seed, 103])
        law.append(float(laws.ridge_regression(attack, n, _RIDGE).attack_success_rate()))
        mean.append(measured.mean["success"])
        width.append(measured.half_width("success") + 1 / n)
    finding = (
        '"the worst direction is the least eigenvector of Σ" fails: attack success along it is '
        f"{law[0]:.3f} by law, {mean[0]:.3f} trained; tilted by {angle:g} to the target's mean {law[1]:.3f}, "
        f"{mean[1]:.3f}; along the largest eigenvector {law[2]:.3f}, {mean[2]:.3f}"
    )
    reason = f"t-interval over {draws} training sets, and the next order, 1/n"
    return compare("attack success by direction", "refit", law, mean, width, reason), finding


def _random_settings(setting: Setting, laws: Laws) -> tuple[list[Comparison], str]:
    """Of 200 settings at least 98 % are within three standard errors and 1/n of their training sets."""
    shares = np.mean(within(_SETTINGS, _SETS, setting.seed, laws), axis=0)
    names = ("accuracy", "attack success", "error at new points", "error at training points")
    reason = f"{_OUTSIDE:g} of the settings may be further off than 3 standard errors of {_SETS} sets and 1/n"
    compared = [
        compare(f"share of {_SETTINGS} random settings within, {name}", "refit", 1.0, share, _OUTSIDE + 1e-9, reason)
        for name, share in zip(names, shares, strict=True)
    ]
    said = ", ".join(f"{name} {share:.3f}" for name, share in zip(names, shares, strict=True))
    return compared, f"of {_SETTINGS} random settings within 3 standard errors and 1/n: {said}"


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Accuracy, attack success and errors of models that are trained on redrawn sets.

    About a linear model and mixtures of its own: checked once, on the RBF kernel's turn.
    """
    if setting.kernel_name != "rbf":
        return None
    compared, panel = _against_training_sets(setting, laws)
    accuracy, falls = _accuracy_falls(setting, laws)
    direction, tilted = _worst_direction(setting, laws)
    compared, findings = [*compared, accuracy, direction], [falls, tilted]
    if setting.scale == "full":
        more, said = _random_settings(setting, laws)
        compared, findings = [*compared, *more], [*findings, said]
    return setting.record(STATEMENTS["R1"], compared, findings, [panel])
