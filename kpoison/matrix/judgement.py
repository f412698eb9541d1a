"""Predictions of the matrix held against what was measured."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from kpoison._validation import check_positive
from kpoison.statistics import Agreement, over_seeds

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CHANCE", "QUANTITIES", "Judgement", "judge", "measured_text", "seed_values", "worst"]

QUANTITIES = {
    "success": "attack success",
    "clean_accuracy": "clean accuracy",
    "true_positive": "poisons suspected",
    "false_positive": "clean points suspected",
    "auroc": "AUROC",
}
"""What numbers of the matrix are called."""

CHANCE = 0.5
"""AUROC of a detector that sees nothing."""


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A prediction beside its measurement.

    Attributes:
        agreement: the verdict.
        statement: the prediction, the measurement and the verdict in words.
    """

    agreement: Agreement
    statement: str


def judge(result: "xr.Dataset", attack: str, defence: str, *, tolerance: float = 0.1) -> list[Judgement]:
    """Every prediction for one attack against one defence, held against its measurement.

    A predicted success or AUROC agrees where the whole 95 % t-interval of measured − predicted (paired by seed) lies
    within ± tolerance, disagrees where all of it lies outside, and is undecided otherwise; with one seed the difference
    itself takes the interval's place.  A predicted blind spot agrees with a seed where the AUROC is at most 0.5 +
    tolerance, a predicted visibility where it is above; the verdict is that of the seeds where they are of one mind.

    Args:
        result: the matrix, see `write_page`.
        attack: one of its names.
        defence: one of its names.
        tolerance: a difference that does not matter, > 0.

    Returns:
        One judgement for each prediction that there is; none where there is no prediction.

    Raises:
        ValueError: for a tolerance that is not positive.
        KeyError: for names that are not in the result.
    """
    check_positive("tolerance", tolerance)
    cell = result.sel(attack=attack, defence=defence)
    found = [
        _compared(QUANTITIES[name], seed_values(cell, name), seed_values(cell, f"predicted_{name}"), tolerance)
        for name in ("success", "auroc")
    ]
    found.append(_seen(seed_values(cell, "auroc"), seed_values(cell, "predicted_visible"), tolerance))
    return [judgement for judgement in found if judgement is not None]


def seed_values(cell: "xr.Dataset", name: str) -> np.ndarray:
    """A variable of one cell, shape (seed,); NaN where the result has none."""
    if name not in cell:
        return np.full(cell.sizes["seed"], np.nan)
    return np.asarray(cell[name].values, float)


def _compared(name: str, measured: np.ndarray, predicted: np.ndarray, tolerance: float) -> Judgement | None:
    if not np.isfinite(predicted).any():
        return None
    law = float(over_seeds(predicted)[0])
    difference, half_width, count = (value.item() for value in over_seeds(measured - predicted))
    if count == 0:
        return Judgement(Agreement.UNDECIDED, f"{name} {law:.2f} predicted, not measured")
    reach = 0.0 if count == 1 else half_width
    if abs(difference) + reach <= tolerance:
        verdict = Agreement.AGREES
    elif abs(difference) - reach > tolerance:
        verdict = Agreement.DISAGREES
    else:
        verdict = Agreement.UNDECIDED
    interval = "one seed" if count == 1 else f"± {half_width:.3f}"
    return Judgement(
        verdict,
        f"{name} {law:.2f} predicted, {measured_text(measured)} measured: {verdict} "
        f"(measured − predicted {f'{difference:+.3f}'.replace('-', '−')}, {interval})",
    )


def _seen(auroc: np.ndarray, visible: np.ndarray, tolerance: float) -> Judgement | None:
    predictions = visible[np.isfinite(visible)]
    if not predictions.size:
        return None
    blind = int((predictions == 0).sum())
    if blind == len(predictions):
        prediction = "blind"
    elif blind == 0:
        prediction = "visible"
    else:
        prediction = f"blind with {blind} of {len(predictions)} seeds"
    both = np.isfinite(visible) & np.isfinite(auroc)
    if not both.any():
        return Judgement(Agreement.UNDECIDED, f"predicted {prediction}, not measured")
    right = int(((auroc[both] > CHANCE + tolerance) == (visible[both] > 0)).sum())
    verdict = {0: Agreement.DISAGREES, int(both.sum()): Agreement.AGREES}.get(right, Agreement.UNDECIDED)
    return Judgement(
        verdict,
        f"predicted {prediction}, AUROC {measured_text(auroc)}: {verdict} (right with {right} of {both.sum()} seeds)",
    )


def measured_text(values: np.ndarray) -> str:
    """Mean ± half width, and how many seeds where some have no number; a dash where none has."""
    mean, half_width, count = (value.item() for value in over_seeds(values))
    if count == 0:
        return "–"
    interval = f" ± {half_width:.2f}" if count > 1 else ""
    return f"{mean:.2f}{interval}{f' ({count} of {len(values)} seeds)' if count < len(values) else ''}"


def worst(judgements: Iterable[Judgement]) -> Agreement | None:
    """The worst verdict; None of none."""
    verdicts = {judgement.agreement for judgement in judgements}
    return next((v for v in (Agreement.DISAGREES, Agreement.UNDECIDED, Agreement.AGREES) if v in verdicts), None)
