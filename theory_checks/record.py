"""What a check returns: comparisons with their tolerances, a verdict, and the figure that shows them."""

import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from theory_checks.catalogue import Statement

__all__ = [
    "FALSE_ALARM",
    "Comparison",
    "Panel",
    "Record",
    "Series",
    "Verdict",
    "compare",
    "compare_signs",
    "curve",
    "of_square",
    "two_curves",
]

FALSE_ALARM = 1e-3
"""Probability that sampling alone fails one comparison."""

Against = Literal["refit", "finite width", "closed form", "exponent", "slope", "simulation"]
Kind = Literal["line", "dots", "errorbar", "dashed", "threshold"]


class Verdict(enum.StrEnum):
    """Whether the law held within its tolerances."""

    HOLDS = "holds"
    FAILS = "FAILS"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One quantity by the law and by an independent route.

    Attributes:
        quantity: what was compared, with its symbol.
        against: the independent route.
        law, reference: the values, equally long.
        tolerance: largest |law − reference| that rounding or sampling explains, one per value.
        reason: where the tolerance comes from.
    """

    quantity: str
    against: Against
    law: list[float]
    reference: list[float]
    tolerance: list[float]
    reason: str

    @property
    def worst_ratio(self) -> float:
        """Largest |law − reference|/tolerance; the comparison passes where it is at most 1."""
        error = np.abs(np.subtract(self.law, self.reference))
        tolerance = np.asarray(self.tolerance)
        ratio = np.where(error == 0, 0.0, error / np.where(tolerance > 0, tolerance, np.finfo(float).tiny))
        return float(np.max(np.where(np.isfinite(ratio), ratio, np.inf)))

    @property
    def worst_relative_error(self) -> float | None:
        """Largest |law − reference| over the largest |reference|; None where the law is 0 and has no size."""
        scale = np.max(np.abs(self.reference))
        if not np.any(self.law):
            return None
        return float(np.max(np.abs(np.subtract(self.law, self.reference))) / (scale if scale > 0 else 1.0))

    @property
    def passed(self) -> bool:
        """Whether every value agrees within its tolerance."""
        return self.worst_ratio <= 1


def compare(quantity: str, against: Against, law: Any, reference: Any, tolerance: Any, reason: str) -> Comparison:
    """A `Comparison` of arrays of any equal shape, with a tolerance that broadcasts to it."""
    law, reference = np.asarray(law, float), np.asarray(reference, float)
    if law.shape != reference.shape:
        raise ValueError(f"{quantity}: law has shape {law.shape}, reference {reference.shape}")
    tolerance = np.broadcast_to(np.asarray(tolerance, float), law.shape)
    return Comparison(
        quantity, against, law.ravel().tolist(), reference.ravel().tolist(), tolerance.ravel().tolist(), reason
    )


def compare_signs(quantity: str, signs: Any, against: Against = "closed form", reason: str = "exact") -> Comparison:
    """That statements are true, such as that a number rises: 1 for each that must be, against 1 where it is."""
    true = np.asarray(signs, bool)
    return compare(f"{quantity}: 1 where they do", against, np.ones(true.shape), true.astype(float), 0.0, reason)


def of_square(square: ArrayLike, error: ArrayLike) -> np.ndarray:
    """How far a square can be off, by an error of its root g: (g + δ)² − g²."""
    return np.asarray(error) * (2 * np.sqrt(square) + error)


@dataclasses.dataclass(frozen=True)
class Series:
    """One curve: the law as a line, a refit as dots, finite width with error bars; a threshold at its only x."""

    label: str
    kind: Kind
    x: list[float]
    y: list[float]
    error: list[float] | None = None


def curve(label: str, kind: Kind, x: ArrayLike, y: ArrayLike, error: ArrayLike | None = None) -> Series:
    """A `Series` of arrays."""

    def plain(values: ArrayLike) -> list[float]:
        return np.asarray(values, float).tolist()

    return Series(label, kind, plain(x), plain(y), None if error is None else plain(error))


@dataclasses.dataclass(frozen=True)
class Panel:
    """One set of axes."""

    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    xscale: Literal["linear", "log"] = "log"
    yscale: Literal["linear", "log"] = "log"


def two_curves(
    title: str,
    x: tuple[str, ArrayLike],
    ylabel: str,
    line: tuple[str, ArrayLike],
    dashed: tuple[str, ArrayLike],
    **scales: Any,
) -> Panel:
    """A panel of a line and a dashed one over the same x; each with its label."""
    xlabel, places = x
    series = [curve(line[0], "line", places, line[1]), curve(dashed[0], "dashed", places, dashed[1])]
    return Panel(title, xlabel, ylabel, series, **scales)


@dataclasses.dataclass(frozen=True)
class Record:
    """The outcome of one statement's check on one kernel and data set.

    Attributes:
        statement: what was checked.
        kernel, data: on what it was checked.
        comparisons: every number that was compared.
        findings: truths that are results rather than failures, and what was not compared and why.
        panels: the figure.
        arguments: what is needed to repeat the check.
        seconds: wall time.
        error: the exception that ended the check, with its message; empty where it came to its end.
        traceback: where that exception came from.
    """

    statement: Statement
    kernel: str
    data: str
    comparisons: list[Comparison]
    findings: list[str]
    panels: list[Panel]
    arguments: dict[str, Any]
    seconds: float = 0.0
    error: str = ""
    traceback: str = ""

    @classmethod
    def of_failure(cls, statement: Statement, kernel: str, data: str, error: str, traceback: str = "") -> "Record":
        """The record of a check that did not come to its end."""
        return cls(statement, kernel, data, [], [], [], {}, error=error, traceback=traceback)

    @property
    def worst_ratio(self) -> float:
        """Largest error over tolerance of all comparisons; infinite without any."""
        return max((comparison.worst_ratio for comparison in self.comparisons), default=math.inf)

    @property
    def verdict(self) -> Verdict:
        """The statement holds where something was compared and every comparison passed."""
        return Verdict.HOLDS if self.comparisons and all(c.passed for c in self.comparisons) else Verdict.FAILS

    @property
    def failed(self) -> bool:
        """Whether the verdict is that it fails."""
        return self.verdict is Verdict.FAILS

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        plain = dataclasses.asdict(self)
        number, title, claim = self.statement[:3]
        plain |= {"statement": number, "title": title, "claim": claim}
        for comparison, written in zip(self.comparisons, plain["comparisons"], strict=True):
            written.update(
                worst_ratio=comparison.worst_ratio,
                worst_relative_error=comparison.worst_relative_error,
                passed=comparison.passed,
            )
        return plain | {"verdict": str(self.verdict)}
