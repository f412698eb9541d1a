"""Training sets of a mixture by brute force: what a trained linear model does to the mixture's test points."""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

from kpoison.asymptotics import Backdoor, Mixture
from kpoison.statistics import t_half_width
from theory_checks.record import FALSE_ALARM

__all__ = ["Trained", "logistic", "ridge", "simulated", "standard_attack"]

Fit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]]


def standard_attack(d: int, fraction: float, strength: float, test_strength: float) -> Backdoor:
    """Two classes of means ±1.5 e₂, variances from 0.5 to 1.5, the trigger along the least, e₁."""
    from kpoison.asymptotics import backdoor_mixture

    axes = np.eye(d)
    return backdoor_mixture(
        1.5 * axes[1], np.linspace(0.5, 1.5, d), axes[0], fraction, strength, test_strength=test_strength
    )


def draw(mixture: Mixture, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """n points of a diagonal mixture with fixed numbers of each component, and their labels."""
    means, labels = np.asarray(mixture.means), np.asarray(mixture.labels)
    shares = n * np.asarray(mixture.fractions)
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares)[: n - counts.sum()]] += 1
    component = np.repeat(np.arange(len(means)), counts)
    noise = generator.standard_normal((n, means.shape[1])) * np.sqrt(np.asarray(mixture.covariance))
    return means[component] + noise, labels[component]


def ridge(strength: float) -> Fit:
    """Ridge regression with an intercept, by the smaller of the two normal equations."""

    def fit(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
        mean, target = X.mean(axis=0), y.mean()
        C, t = X - mean, y - target
        n, d = C.shape
        if d <= n:
            weights = np.linalg.solve(C.T @ C + n * strength * np.eye(d), C.T @ t)
        else:
            weights = C.T @ np.linalg.solve(C @ C.T + n * strength * np.eye(n), t)
        return np.asarray(weights), float(target - mean @ weights)

    return fit


def logistic(strength: float) -> Fit:
    """Logistic regression with an intercept, by Newton's steps."""

    def fit(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
        n, d = X.shape
        design, p = np.column_stack([X, np.ones(n)]), np.zeros(d + 1)
        penalty = np.append(np.full(d, strength), 0.0)
        for _ in range(100):
            margin = np.clip(y * (design @ p), -500, 500)
            wrong = 1 / (1 + np.exp(margin))
            slope = -design.T @ (y * wrong) / n + penalty * p
            bend = (design.T * (wrong * (1 - wrong))) @ design / n + np.diag(penalty)
            move = np.linalg.solve(bend, slope)
            p = p - move * min(1.0, 5 / (1e-12 + np.max(np.abs(move))))
            if np.max(np.abs(move)) < 1e-9:
                return p[:-1], float(p[-1])
        raise RuntimeError("logistic regression has not converged")

    return fit


@dataclasses.dataclass(frozen=True)
class Trained:
    """Means over training sets, and intervals at which one in a thousand right laws lies outside.

    Attributes:
        accuracy, success, error, training, overlap: accuracy, attack success, mean squared residual at new points of
            the training mixture and at the training points, cos² of the weights with the trigger.
    """

    mean: dict[str, float]
    error: dict[str, float]
    draws: int

    def half_width(self, name: str) -> float:
        """Of the interval around the mean."""
        return float(t_half_width(self.error[name], self.draws, FALSE_ALARM))


def simulated(
    attack: Backdoor, n: int, fit: Fit, draws: int, seed: list[int], direction: np.ndarray | None = None
) -> Trained:
    """Train on redrawn sets; rates and errors of each model are exact."""
    variances = np.asarray(attack.training.covariance)
    u = np.eye(len(variances))[0] if direction is None else direction
    found: dict[str, list[float]] = {name: [] for name in ("accuracy", "success", "error", "training", "overlap")}
    for number in range(draws):
        X, y = draw(attack.training, np.random.default_rng([*seed, number]), n)
        weights, intercept = fit(X, y)
        variance = float(weights @ (variances * weights))
        for name, mixture in (("accuracy", attack.clean), ("success", attack.triggered)):
            margins = np.asarray(mixture.labels) * (np.asarray(mixture.means) @ weights + intercept)
            found[name].append(float(np.asarray(mixture.fractions) @ ndtr(margins / variance**0.5)))
        residual = np.asarray(attack.training.means) @ weights + intercept - np.asarray(attack.training.labels)
        found["error"].append(float(np.asarray(attack.training.fractions) @ residual**2) + variance)
        found["training"].append(float(np.mean((X @ weights + intercept - y) ** 2)))
        found["overlap"].append(float((weights @ u) ** 2 / (weights @ weights) / (u @ u)))
    return Trained(
        {name: float(np.mean(values)) for name, values in found.items()},
        {name: float(np.std(values, ddof=1)) / draws**0.5 for name, values in found.items()},
        draws,
    )
