"""Training sets of a mixture, drawn and solved one by one with NumPy: the dots beside the laws' lines."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from kpoison.asymptotics.mixture import Backdoor

__all__ = ["simulated_ridge_regression"]


def simulated_ridge_regression(
    attack: "Backdoor", n: int, ridge: float, draws: int, seed: tuple[int, ...], direction: Float[np.ndarray, " d"]
) -> dict[str, Float[np.ndarray, " draws"]]:
    """What trained ridge regressions do, each an exact number given the model.

    Args:
        attack: of two classes with a diagonal covariance; each component has n π points, rounded at random so that
            they are as many on average.
        n: training points.
        ridge: λ >= 0.
        draws: training sets.
        seed: of them.
        direction: u, that overlaps are asked with.

    Returns:
        accuracy, success, cos² with u, the mean square error at new training points, and the mean score of triggered
        inputs ("score") with its standard deviation within a training set ("width").
    """
    from scipy.special import ndtr

    training = attack.training
    parts = (training.means, training.covariance, training.labels, training.fractions)
    means, variances, labels, pi = map(np.asarray, parts)
    root = np.sqrt(variances)
    names = ("accuracy", "success", "overlap", "error", "score", "width")
    found = {name: np.zeros(draws) for name in names}
    generator = np.random.default_rng(seed)
    for i in range(draws):
        ends = np.floor(n * np.cumsum(pi) + generator.uniform())
        component = np.searchsorted(ends, np.arange(n), side="right").clip(max=len(pi) - 1)
        X = means[component] + generator.standard_normal((n, len(variances))) * root
        y = labels[component]
        centre, middle = X.mean(axis=0), y.mean()
        weights = _least_squares(X - centre, y - middle, ridge)
        intercept = middle - centre @ weights
        width = np.sqrt(weights @ (variances * weights))
        for name, mixture in (("accuracy", attack.clean), ("success", attack.triggered)):
            margins = np.asarray(mixture.labels) * (np.asarray(mixture.means) @ weights + intercept)
            found[name][i] = np.asarray(mixture.fractions) @ ndtr(margins / width)
        found["overlap"][i] = (weights @ direction) ** 2 / (weights @ weights) / (direction @ direction)
        found["error"][i] = pi @ (means @ weights + intercept - labels) ** 2 + width**2
        found["score"][i] = np.asarray(attack.triggered.fractions) @ (
            np.asarray(attack.triggered.means) @ weights + intercept
        )
        found["width"][i] = width
    return found


def _least_squares(C: Float[np.ndarray, "n d"], t: Float[np.ndarray, " n"], ridge: float) -> Float[np.ndarray, " d"]:
    n, d = C.shape
    if ridge == 0:
        return np.linalg.lstsq(C, t)[0]
    if d <= n:
        return np.linalg.solve(C.T @ C + n * ridge * np.eye(d), C.T @ t)
    return C.T @ np.linalg.solve(C @ C.T + n * ridge * np.eye(n), t)
