"""L10: how many poisons it takes as the training set grows."""

import jax.numpy as jnp
import numpy as np
import scipy.optimize

import kpoison as kp
from kpoison.statistics import t_half_width
from theory_checks.catalogue import STATEMENTS
from theory_checks.linear_backdoor import Classes, TrainingSet
from theory_checks.record import FALSE_ALARM, Comparison, Panel, Record, Series, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_DIMENSION = 40
_TOTAL_RIDGE, _RIDGE = 0.5, 0.002  # nλ, or λ, as the data grow
_ALONG = {0.0: 0.15, 0.03: 0.15, 0.1: 0.15, 0.5: 1.0}  # σ_u, and a strength at which it takes at least a few poisons


def _population(laws: Laws) -> Comparison:
    """The law against the root of the population's score: n → ∞, where λ_e = λ."""
    asked, expected = [], []
    for along, strength in ((0.0, 0.5), (0.3, 1.0), (1.0, 2.0), (1.0, 10.0)):
        for ridge, test_strength in ((0.05, 1.0), (0.5, 4.0)):
            classes = Classes.of(5, along)
            clean = -classes.score(1.0, 0.0, 0.0, ridge)
            asked.append((strength, test_strength, along**2 + ridge, clean))

            def score(fraction, alpha=strength, probe=test_strength, classes=classes, ridge=ridge):
                return classes.score(alpha, probe, fraction, ridge)

            expected.append(scipy.optimize.root_scalar(score, bracket=(0, 1), xtol=1e-15, rtol=1e-14).root)
    found = laws.needed_fraction(*np.array(asked).T)
    reason = "1e-12 of each: the root finding and thousands of roundings"
    return compare("needed fraction of the population", "closed form", found, expected, 1e-12, reason)


def _stiffness(setting: Setting, laws: Laws) -> Comparison:
    """κ of a training set from its covariance by NumPy."""
    data = TrainingSet.of(Classes.of(_DIMENSION, 0.3), np.random.default_rng([setting.seed, 10]), 200, 1)
    clean = kp.fit(kp.kernels.Linear(), data.X, data.y)
    found, expected = [], []
    for ridge in (1e-3, 0.1):
        expected.append(data.stiffness(ridge))
        found.append(float(laws.trigger_stiffness(clean, jnp.eye(_DIMENSION)[0], ridge)))
    reason = "1e-10 of it: the condition number of the linear kernel's matrix"
    return compare("stiffness κ", "closed form", found, expected, 1e-10 * np.array(expected), reason)


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Counts by law and by training sets that grow; the law of the population in closed form.

    About two classes and a linear model of their own: checked once, on the RBF kernel's turn.
    """
    if setting.kernel_name != "rbf":
        return None
    full = setting.scale == "full"
    numbers = np.array([200, 800, 3200] if not full else [200, 400, 800, 1600, 3200, 6400])
    seeds = 6 if not full else 16
    comparisons, findings = [_population(laws), _stiffness(setting, laws)], []
    series: list[Series] = []
    ratios = []
    for held, ridges in (("nλ", _TOTAL_RIDGE / numbers), ("λ", np.full(len(numbers), _RIDGE))):
        for along, strength in _ALONG.items():
            if held == "λ" and not full and along > 0:
                continue
            trained, stiffness, clean = np.zeros((3, seeds, len(numbers)))
            for seed in range(seeds):
                for i, (n, ridge) in enumerate(zip(numbers, ridges, strict=True)):
                    generator = np.random.default_rng([setting.seed, seed, n])
                    data = TrainingSet.of(Classes.of(_DIMENSION, along), generator, int(n), int(n) // 2)
                    trained[seed, i] = data.needed(strength, strength, ridge)
                    stiffness[seed, i], clean[seed, i] = data.stiffness(ridge), -data.score(1.0, 0.0, 0, ridge)
            fraction = np.asarray(laws.needed_fraction(np.float64(strength), np.float64(strength), stiffness, clean))
            counts = np.stack([trained, numbers * fraction / (1 - fraction)])
            logs = np.log(counts)
            slopes = np.polyfit(np.log(numbers), logs.reshape(-1, len(numbers)).T, 1)[0].reshape(2, seeds)
            measured, law = slopes.mean(axis=1)
            error = float(np.std(slopes[0] - slopes[1], ddof=1)) / seeds**0.5
            findings.append(
                f"{held} fixed, σ_u = {along:g}: m ∝ n^{measured:.2f} ± {error:.2f} measured, n^{law:.2f} by law"
            )
            tolerance = t_half_width(error, seeds, FALSE_ALARM) + _next_order(numbers)
            reason = f"t-interval over {seeds} draws at {FALSE_ALARM:g}, and the next order in 1/n"
            comparisons.append(
                compare(
                    f"exponent of m in n, {held} fixed, σ_u = {along:g}", "exponent", law, measured, tolerance, reason
                )
            )
            ratios.append(np.mean(logs[0] - logs[1], axis=0))
            if held == "nλ":
                series.append(curve(f"law, σ_u = {along:g}", "line", numbers, np.exp(logs[1].mean(axis=0))))
                series.append(curve(f"trained, σ_u = {along:g}", "dots", numbers, np.exp(logs[0].mean(axis=0))))
    worst = np.abs(np.array(ratios)).max(axis=0)
    findings.append(
        "log(measured/law) of the count is at most "
        + ", ".join(f"{ratio:.2f} at n = {n}" for n, ratio in zip(numbers, worst, strict=True))
    )
    panel = Panel("Poisons needed, nλ = 0.5", "training points n", "multiplicity m", series)
    return setting.record(STATEMENTS["L10"], comparisons, findings, [panel], seeds=seeds)


def _next_order(numbers: np.ndarray) -> float:
    """How far a factor 1 + d/n, which the limit of large n leaves out, tilts the line through the logarithms."""
    return float(abs(np.polyfit(np.log(numbers), np.log1p(_DIMENSION / numbers), 1)[0]))
