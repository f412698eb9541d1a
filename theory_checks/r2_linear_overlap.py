"""R2: how far a linear model's leading direction turns to the trigger, and that it lags behind attack success."""

import numpy as np

from theory_checks.catalogue import STATEMENTS
from theory_checks.mixtures import ridge, simulated, standard_attack
from theory_checks.record import Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """cos² of the leading eigenvector of BBᵀ with the trigger, and attack success, against training sets.

    A counterexample to "a linear kernel has no lag": in the overlap it has.  About a linear model of its own: checked
    once, on the RBF kernel's turn.
    """
    if setting.kernel_name != "rbf":
        return None
    full = setting.scale == "full"
    d, n, strength = 120, 240, 2.0  # of fewer points the next order, 1/n, would hide an overlap wrong by 5 %
    draws, fractions = (2000, (0.025, 0.05, 0.1, 0.2)) if full else (500, (0.05, 0.2))
    law, mean, width = np.zeros((3, 2, len(fractions)))
    for i, fraction in enumerate(fractions):
        attack = standard_attack(d, fraction, strength, strength)
        model = laws.ridge_regression(attack, n, 0.05)
        law[:, i] = float(model.overlap(np.eye(d)[0])), float(model.attack_success_rate())
        measured = simulated(attack, n, ridge(0.05), draws, [setting.seed, 201, i])
        mean[:, i] = measured.mean["overlap"], measured.mean["success"]
        width[:, i] = measured.half_width("overlap") + 1 / n, measured.half_width("success") + 1 / n
    reason = f"t-interval over {draws} training sets, and the next order, 1/n"
    compared = [
        compare("cos² of the leading direction and the trigger", "refit", law[0], mean[0], width[0], reason),
        compare("attack success of ridge regression", "refit", law[1], mean[1], width[1], reason),
    ]
    rows = ["; ".join(f"{a:.2f}/{b:.2f}" for a, b in zip(law[k], mean[k], strict=True)) for k in (1, 0)]
    finding = (
        f'"a linear kernel has no lag" fails by the overlap: at θ = {", ".join(f"{f:g}" for f in fractions)} attack '
        f"success (law/trained) is {rows[0]}, cos² of the leading direction with the trigger {rows[1]}"
    )
    series = [
        one
        for k, name in ((1, "success"), (0, "cos²"))
        for one in (
            curve(f"{name}, law", "line", fractions, law[k]),
            curve(f"{name}, trained", "errorbar", fractions, mean[k], width[k]),
        )
    ]
    panel = Panel("A linear model lags, too", "poisoned fraction θ", "attack success, cos²", series, yscale="linear")
    return setting.record(STATEMENTS["R2"], compared, [finding], [panel])
