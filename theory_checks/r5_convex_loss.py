"""R5: logistic regression on poisoned mixtures, against training sets; the squared loss is R1."""

import numpy as np

from theory_checks.catalogue import STATEMENTS
from theory_checks.mixtures import logistic, simulated, standard_attack
from theory_checks.record import Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Accuracy, attack success and overlap of logistic regressions that are trained on redrawn sets.

    About a linear model of its own: checked once, on the RBF kernel's turn.
    """
    if setting.kernel_name != "rbf":
        return None
    full = setting.scale == "full"
    # Many points for each input and many poisons, for sampling and the next order to hide no law that is wrong by 5 %.
    d, n, penalty, fraction = 30, 240, 0.05, 0.3
    strengths, draws = ((0.5, 2.0, 3.0, 6.0, 20.0), 600) if full else ((0.5, 3.0), 150)
    names = ("accuracy", "success", "overlap")
    law, mean, width = np.zeros((3, len(names), len(strengths)))
    for i, strength in enumerate(strengths):
        attack = standard_attack(d, fraction, strength, 2.0)
        model = laws.logistic_regression(attack, n, penalty)
        predicted = (model.accuracy(), model.attack_success_rate(), model.overlap(np.eye(d)[0]))
        law[:, i] = [float(value) for value in predicted]
        measured = simulated(attack, n, logistic(penalty), draws, [setting.seed, 501, i])
        mean[:, i] = [measured.mean[name] for name in names]
        width[:, i] = [measured.half_width(name) + 1 / n for name in names]
    reason = f"t-interval over {draws} training sets, and the next order, 1/n"
    compared = [
        compare(f"{name} of logistic regression", "refit", law[k], mean[k], width[k], reason)
        for k, name in enumerate(names)
    ]
    finding = "attack success of logistic regression (law/trained): " + ", ".join(
        f"{a:.3f}/{b:.3f} at α = {strength:g}" for strength, a, b in zip(strengths, law[1], mean[1], strict=True)
    )
    series = [
        curve("law", "dots", strengths, law[1]), curve("trained", "errorbar", strengths, mean[1], width[1]),
    ]  # fmt: skip
    panel = Panel("Logistic regression", "strength α of the trigger", "attack success", series, yscale="linear")
    return setting.record(STATEMENTS["R5"], compared, [finding], [panel])
