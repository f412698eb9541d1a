"""Means over seeds, and how sure they are."""

import numpy as np
from jaxtyping import ArrayLike, Float

__all__ = ["over_seeds"]


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
    import scipy.stats

    numbers = np.asarray(values, float)
    there = np.isfinite(numbers)
    count = there.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, numbers, 0).sum(axis=-1) / count
        variance = np.where(there, (numbers - mean[..., None]) ** 2, 0).sum(axis=-1) / (count - 1)
        half_width = scipy.stats.t.ppf(0.975, count - 1) * np.sqrt(variance / count)
    return np.asarray(mean), np.where(count > 1, half_width, np.nan), np.asarray(count)
