"""Means over seeds, how sure they are, and what they say of a claim."""

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike, Float

__all__ = ["Agreement", "Interval", "over_seeds", "t_half_width", "t_interval"]

LEVEL = 0.95
"""Of every interval that says nothing else."""


class Agreement(enum.StrEnum):
    """Whether a claim or a prediction agrees with what was measured."""

    AGREES = "agrees"
    DISAGREES = "disagrees"
    UNDECIDED = "undecided"


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over seeds with Student's t-interval at 95 %.

    Attributes:
        mean: over the seeds.
        half_width: of the interval.
        values: of each seed.
    """

    mean: float
    half_width: float
    values: list[float]

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.half_width:.2f}"


def t_half_width(
    standard_error: float | np.ndarray, number: int | np.integer | np.ndarray, false_alarm: float = 1 - LEVEL
) -> np.ndarray:
    """Half the width of Student's t-interval of a mean, from its standard error over so many independent values.

    >>> t_half_width(1.0, np.array([2, 3, 1000])).round(2).tolist()
    [12.71, 4.3, 1.96]
    """
    import scipy.stats

    return np.asarray(scipy.stats.t.ppf(1 - false_alarm / 2, np.asarray(number) - 1) * standard_error)


def t_interval(values: Sequence[float] | np.ndarray, *, smallest_variance: float = 0.0) -> Interval:
    """Student's t-interval of the mean over independent seeds, at 95 %; it may reach beyond the range of a share.

    Args:
        values: one for each seed.
        smallest_variance: of a value, where its resolution is known; the sample's is not taken for less.

    Raises:
        ValueError: for fewer than two values, or such as are not finite.
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"values must be two or more finite numbers, one for each seed, got {values.tolist()}")
    error = np.sqrt(max(np.var(values, ddof=1), smallest_variance) / len(values))
    return Interval(float(np.mean(values)), float(t_half_width(error, len(values))), values.tolist())


def over_seeds(values: Float[ArrayLike, "*cells seeds"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds, and how well it is known.

    Args:
        values: one number for each seed along the last axis; what is not finite is left out.

    Returns:
        The mean, NaN where no seed has a number; half the width of its 95 % interval from Student's t, NaN where
        fewer than two have one; how many have one.  Each of shape (*cells,).

    >>> mean, half_width, count = over_seeds(np.array([[0.25, 0.75], [0.5, np.nan]]))
    >>> mean.tolist(), half_width.round(2).tolist(), count.tolist()
    ([0.5, 0.5], [3.18, nan], [2, 1])
    """
    numbers = np.asarray(values, float)
    there = np.isfinite(numbers)
    count = there.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, numbers, 0).sum(axis=-1) / count
        variance = np.where(there, (numbers - mean[..., None]) ** 2, 0).sum(axis=-1) / (count - 1)
        half_width = t_half_width(np.sqrt(variance / count), count)
    return np.asarray(mean), np.where(count > 1, half_width, np.nan), np.asarray(count)
