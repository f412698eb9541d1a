"""A linear model of two classes with a backdoor, by brute force: of the population, and of training sets."""

import dataclasses

import numpy as np

__all__ = ["Classes", "TrainingSet"]


@dataclasses.dataclass(frozen=True)
class Classes:
    """N(±μ, Σ), labels ±1, in equal shares; the trigger is along the first coordinate, μ along the second.

    Attributes:
        deviations: √Σ_ii, shape (d,); the first is σ_u.
        mean: ‖μ‖.
    """

    deviations: np.ndarray
    mean: float

    @classmethod
    def of(cls, dimension: int, along_trigger: float, mean: float = 1.0) -> "Classes":
        """Of unit variance in all directions but the trigger's."""
        deviations = np.ones(dimension)
        deviations[0] = along_trigger
        return cls(deviations, mean)

    def score(self, strength: float, test_strength: float, fraction: float, ridge: float) -> float:
        """The mean score of triggered examples of class −1 by the ridge regression of the whole population."""
        centre = np.zeros(len(self.deviations))
        centre[1] = self.mean
        trigger = np.eye(len(self.deviations))[0]
        poison, probe = -centre + strength * trigger, -centre + test_strength * trigger
        second = np.diag(self.deviations**2) + (1 - fraction) * np.outer(centre, centre)
        second += fraction * np.outer(poison, poison)
        first = (1 - fraction) * centre + fraction * poison
        return float(probe @ np.linalg.solve(second + ridge * np.eye(len(centre)), first))

    def draw(self, generator: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Examples of both classes in turn, and their labels."""
        labels = np.where(np.arange(number) % 2, 1.0, -1.0)
        examples = generator.standard_normal((number, len(self.deviations))) * self.deviations
        examples[:, 1] += self.mean * labels
        return examples, labels


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """Clean examples, and originals of class −1 that are to be poisoned.

    Attributes:
        classes: what they are drawn from.
        X, y: clean, shapes (n, d) and (n,).
        originals: shape (p, d).
    """

    classes: Classes
    X: np.ndarray
    y: np.ndarray
    originals: np.ndarray

    @classmethod
    def of(cls, classes: Classes, generator: np.random.Generator, number: int, poisons: int) -> "TrainingSet":
        """Drawn."""
        X, y = classes.draw(generator, number)
        return cls(classes, X, y, classes.draw(generator, 2 * poisons)[0][::2])

    def score(self, strength: float, test_strength: float, poisons: int, ridge: float) -> float:
        """The population's mean score of triggered examples, after training with the first so many poisons."""
        triggered = self.originals[:poisons].copy()
        triggered[:, 0] += strength
        points, labels = np.concatenate([self.X, triggered]), np.append(self.y, np.ones(poisons))
        system = points.T @ points + len(points) * ridge * np.eye(points.shape[1])
        found = np.linalg.solve(system, points.T @ labels)
        return float(test_strength * found[0] - self.classes.mean * found[1])

    def stiffness(self, ridge: float) -> float:
        """1/[(1 − df/n) uᵀ(Σ̂ + λ)⁻¹u] of the clean examples."""
        covariance = self.X.T @ self.X / len(self.X)
        resolvent = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
        return float(1 / ((1 - np.trace(covariance @ resolvent) / len(self.X)) * resolvent[0, 0]))

    def needed(self, strength: float, test_strength: float, ridge: float) -> float:
        """At how many poisons, between two numbers, that score is 0."""
        low, high = 0, len(self.originals)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.score(strength, test_strength, middle, ridge) > 0 else (middle, high)
        before, after = (self.score(strength, test_strength, number, ridge) for number in (low, high))
        return low + before / (before - after)
