"""R1 at random settings: two to five classes, from 50 to 400 inputs, any spectrum; law and training sets by NumPy."""

import jax
import numpy as np
from scipy.special import ndtr, ndtri

from kpoison.asymptotics import Backdoor, backdoor_mixture
from theory_checks.setting import Laws

__all__ = ["lattice", "rate_of", "within"]

_DIMENSIONS, _CLASSES = (50, 100, 200, 400), (2, 3, 4, 5)  # few shapes, each of which is compiled once
_POINTS = 1024  # of the probabilities of trained models of three classes and more
_ROUNDING = 2e-4  # of these, as a rate


def _drawn(generator: np.random.Generator) -> tuple[Backdoor, int, float]:
    """A backdoor whose components have whole numbers of n points, n and λ."""
    d, classes = int(generator.choice(_DIMENSIONS)), int(generator.choice(_CLASSES))
    n = int(generator.integers(max(d // 2, 40), 4 * d))
    share = generator.uniform(0.02, 0.2)
    per_class = n // classes
    poisons = max(1, round(share * per_class))  # of each attacked class
    attack = backdoor_mixture(
        generator.normal(size=(classes, d)) * generator.uniform(1, 3) / d**0.5,
        np.arange(1, d + 1) ** -generator.uniform(0, 1),
        np.eye(d)[int(generator.integers(d))],
        (classes - 1) * poisons / (classes * per_class),
        generator.uniform(0.5, 5),
        target=0,
    )
    return attack, classes * per_class, 10 ** generator.uniform(-2, 0)


def lattice() -> np.ndarray:
    """Uniform points for `rate_of`, whose conditional probabilities are smooth, of up to five classes."""
    return (np.arange(_POINTS)[None] * np.array([[1], [182667], [469891], [498753]]) / _POINTS + 0.5 / _POINTS) % 1


def _chance(mean: np.ndarray, spread: np.ndarray, uniform: np.ndarray) -> float:
    """P(all of a normal vector > 0), by one conditional probability after the other."""
    lower = np.linalg.cholesky(spread)
    chance, z = np.ones(uniform.shape[1]), np.zeros((0, uniform.shape[1]))
    for j in range(len(mean)):
        reached = ndtr((mean[j] + lower[j, :j] @ z) / lower[j, j])
        chance = chance * reached
        z = np.vstack([z, -ndtri(np.maximum(uniform[j] * reached, 1e-300))])
    return float(np.mean(chance))


def rate_of(B: np.ndarray, b: np.ndarray, mixture, variances: np.ndarray, uniform: np.ndarray) -> float:
    """How often a trained model gives the mixture's points the class of their label."""
    V, scores, total = B.T @ (variances[:, None] * B), np.asarray(mixture.means) @ B + b, 0.0
    for score, label, share in zip(scores, np.asarray(mixture.labels), np.asarray(mixture.fractions), strict=True):
        wanted = int(np.argmax(label))
        turn = np.delete(np.eye(len(label))[wanted] - np.eye(len(label)), wanted, axis=0)
        total += share * _chance(turn @ score, turn @ V @ turn.T, uniform)
    return total


def _trained(attack: Backdoor, n: int, ridge: float, generator: np.random.Generator, uniform: np.ndarray) -> np.ndarray:
    """Accuracy, attack success, errors at new and at training points of ridge regression on one training set."""
    training = attack.training
    M, variances, T, pi = map(np.asarray, (training.means, training.covariance, training.labels, training.fractions))
    component = np.repeat(np.arange(len(M)), np.round(pi * n).astype(int))
    X, Y = M[component] + generator.standard_normal((n, len(variances))) * np.sqrt(variances), T[component]
    centre, middle = X.mean(axis=0), Y.mean(axis=0)
    C, t = X - centre, Y - middle
    if len(variances) <= n:
        B = np.linalg.solve(C.T @ C + n * ridge * np.eye(len(variances)), C.T @ t)
    else:
        B = C.T @ np.linalg.solve(C @ C.T + n * ridge * np.eye(n), t)
    b = middle - centre @ B
    new = pi @ np.sum((M @ B + b - T) ** 2, axis=1) + np.sum(B**2 * variances[:, None])
    rates = [rate_of(B, b, mixture, variances, uniform) for mixture in (attack.clean, attack.triggered)]
    return np.array([*rates, new, np.mean(np.sum((X @ B + b - Y) ** 2, axis=1))])


def within(settings: int, draws: int, seed: int, laws: Laws) -> np.ndarray:
    """Whether |law − mean of training sets| is at most 3 standard errors and 1/n, (settings, 4).

    Of accuracy, attack success, and of errors at new and at training points relative to themselves.
    """
    generator, found = np.random.default_rng([seed, 104]), []
    uniform = lattice()
    for number in range(settings):
        attack, n, ridge = _drawn(generator)
        model, keys = laws.ridge_regression(attack, n, ridge), {}
        if attack.clean.outputs[0] > 3:
            keys = {"key": jax.random.key(number), "draws": 20_000}
        rates = [getattr(model, name)(**keys) for name in ("accuracy", "attack_success_rate")]
        law = np.array([*(float(getattr(rate, "value", rate)) for rate in rates),
                        np.trace(np.asarray(model.error)), float(model.training_error)])  # fmt: skip
        runs = np.array([_trained(attack, n, ridge, generator, uniform) for _ in range(draws)])
        mean, error = runs.mean(axis=0), runs.std(axis=0, ddof=1) / draws**0.5
        scale = np.array([1, 1, mean[2], mean[3]])
        rounding = np.array([_ROUNDING, _ROUNDING, 0, 0])
        found.append(np.abs(law - mean) <= 3 * error + scale / n + rounding)
    return np.array(found)
