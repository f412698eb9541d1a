"""When an attack succeeds, when it shows, and the lag between the two."""

import dataclasses

import numpy as np

from kpoison.statistics import Interval, t_interval

__all__ = ["Lag", "first_true", "lag_of"]


def first_true(x, values) -> float:
    """The first of increasing x at which a statement is true; ∞ if it never is.

    Raises:
        ValueError: for x and values of unequal length, or x that does not increase.
    """
    x, values = np.asarray(x, float), np.asarray(values, bool)
    if x.ndim != 1 or x.shape != values.shape or len(x) == 0 or np.any(np.diff(x) <= 0):
        raise ValueError(f"x and values must be equally long, and x increase, got {x.tolist()} and {values.tolist()}")
    return float(x[np.argmax(values)]) if values.any() else float("inf")


@dataclasses.dataclass(frozen=True)
class Lag:
    """When an attack succeeds and when it shows, for each seed.

    Attributes:
        success, visible: the first of the places looked at where it does; ∞ for nowhere.
        end: the last of them.
        log_ratio: interval of log(visible/success) over seeds, a spike that shows nowhere counting as one at the end,
            so that it is a bound from below; None where the attack does not succeed at every seed.
        censored: how many seeds never show.
    """

    success: list[float]
    visible: list[float]
    end: float
    log_ratio: Interval | None
    censored: int

    def __str__(self) -> str:
        if self.log_ratio is None:
            return "–"
        low, mean, high = (np.exp(v) for v in (self.log_ratio.low, self.log_ratio.mean, self.log_ratio.high))
        if self.censored:
            return f"≥ {mean:.2g}"
        return f"{mean:.2g} [{low:.2g}, {high:.2g}]"


def lag_of(x, succeeds, visible) -> Lag:
    """The lag of visibility behind success along x: steps, or fractions.

    Args:
        x: > 0 and increasing, shape (points,).
        succeeds: whether the attack does, shape (seeds, points).
        visible: whether it shows, shape (seeds, points).
    """
    x = np.asarray(x, float)
    if not np.all(x > 0):
        raise ValueError(f"x must be > 0, got {x.tolist()}")
    success_at = [first_true(x, seed) for seed in np.asarray(succeeds)]
    visible_at = [first_true(x, seed) for seed in np.asarray(visible)]
    end = float(x[-1])
    censored = sum(not np.isfinite(place) for place in visible_at)
    log_ratio = None
    if np.isfinite(success_at).all():
        logs = [np.log(min(v, end) / s) for s, v in zip(success_at, visible_at, strict=True)]
        # Both places are known up to a spacing of x: their difference has at least the variance of two uniform errors.
        spacing = float(np.max(np.diff(np.log(x)), initial=0.0))
        log_ratio = t_interval(logs, smallest_variance=spacing**2 / 6)
    return Lag(success_at, visible_at, end, log_ratio, censored)
