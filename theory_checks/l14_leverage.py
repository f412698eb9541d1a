"""L14: how much of the labels a predictor takes in, and what it predicts, and how surely, without one of them."""

import dataclasses

import numpy as np
import scipy.linalg
import scipy.stats

from theory_checks.catalogue import STATEMENTS
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_EPS = float(np.finfo(float).eps)


@dataclasses.dataclass(frozen=True)
class _Trained:
    """A training set with physical copies of the poison: its hat matrix by brute force.

    Attributes:
        gram: K of all points with their copies.
        rho: ρ = nλ.
    """

    gram: np.ndarray
    rho: float

    @property
    def system(self) -> np.ndarray:
        """A = K + ρI."""
        return self.gram + self.rho * np.eye(len(self.gram))

    @property
    def hat(self) -> np.ndarray:
        """H = KA⁻¹."""
        return scipy.linalg.solve(self.system, self.gram, assume_a="pos").T

    @property
    def rounding(self) -> float:
        """10 · eps · the condition number of A."""
        return 10 * _EPS * (float(np.linalg.norm(self.gram, 2)) + self.rho) / self.rho


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """Degrees of freedom with and without clones, left-out predictions, variances and the evidence, by brute force."""
    curves, comparisons = _degrees(setting, laws)
    comparisons += _clean(setting, laws)
    return setting.record(
        STATEMENTS["L14"],
        comparisons,
        [f"m clones take up {curves[1][-1]:.4g} degrees of freedom at m = {setting.counts[-1]}: below 1 for every m"],
        [
            Panel(
                "Degrees of freedom taken by m clones",
                "multiplicity m",
                "tr H with them − without",
                [
                    curve("law", "line", np.array(setting.counts), curves[0]),
                    curve("physical copies", "dots", np.array(setting.counts), curves[1]),
                ],
            )
        ],
    )


def _degrees(setting: Setting, laws: Laws) -> tuple[tuple[np.ndarray, np.ndarray], list[Comparison]]:
    """What clones add to tr H at the same ρ, and tr H of all labels, from a law and from physical copies."""
    gram, n = setting.refitter.gram, len(setting.X)
    location = setting.location[None]
    cross = np.asarray(setting.kernel.pairwise(location, setting.X))
    own = np.asarray(setting.kernel.pairwise(location, location))
    whole = np.block([[gram, cross.T], [cross, own]])
    law, brute, rounding = [], [], []
    for count in setting.counts:
        rho = (n + count) * setting.ridge
        rows = np.append(np.arange(n), np.full(int(count), n))
        poisoned, clean = _Trained(whole[np.ix_(rows, rows)], rho), _Trained(gram, rho)
        found = laws.degrees_of_freedom(setting.clean, setting.ridge, setting.poison(count))
        law.append(float(found) - float(laws.degrees_of_freedom(setting.clean, rho / n)))
        brute.append(np.trace(poisoned.hat) - np.trace(clean.hat))
        rounding.append((poisoned.rounding + clean.rounding) * n)
    reason = "10 · eps · condition number, times the number of points"
    below = compare("clones' share, below 1", "closed form", np.minimum(law, 1), law, [0.0] * len(law), "a bound")
    taken = compare("degrees of freedom of clones", "refit", law, brute, rounding, reason)
    return (np.array(law), np.array(brute)), [taken, below]


def _clean(setting: Setting, laws: Laws) -> list[Comparison]:
    """Of the clean predictor: tr H, predictions without each point, variances there and log p(y)."""
    clean, ridge, y = setting.clean, setting.ridge, setting.refitter.y
    trained, n = _Trained(setting.refitter.gram, len(setting.X) * ridge), len(y)
    left_out = []
    for i in range(n):
        rest = np.arange(n) != i
        without = _Trained(trained.gram[np.ix_(rest, rest)], trained.rho)
        left_out.append(trained.gram[i, rest] @ scipy.linalg.solve(without.system, y[rest], assume_a="pos"))
    variances = np.diagonal(trained.gram - trained.hat @ trained.gram)
    evidence = float(scipy.stats.multivariate_normal(cov=trained.system).logpdf(y))  # pyright: ignore[reportArgumentType]
    reason, size = "10 · eps · condition number, times the size of the numbers", trained.rounding * np.linalg.norm(y)
    return [
        compare(
            "degrees of freedom",
            "refit",
            laws.degrees_of_freedom(clean, ridge),
            np.trace(trained.hat),
            n * trained.rounding,
            reason,
        ),
        compare("predictions left out", "refit", laws.leave_one_out(clean, ridge), left_out, size, reason),
        compare(
            "variances",
            "refit",
            laws.posterior_covariance(clean, setting.X, ridge, diagonal=True),
            variances,
            np.max(np.diagonal(trained.gram)) * trained.rounding,
            reason,
        ),
        compare(
            "log p(y)",
            "closed form",
            laws.log_marginal_likelihood(clean, ridge),
            evidence,
            trained.rounding * (n + y @ scipy.linalg.solve(trained.system, y, assume_a="pos")),
            reason,
        ),
    ]
