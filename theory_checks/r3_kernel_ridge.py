"""R3: kernel ridge regression on training sets drawn from a pool, against sets that are drawn."""

import dataclasses
import functools
import os
from pathlib import Path

import numpy as np

import kpoison as kp
from kpoison.problems import IMAGE_SHAPES, Images
from kpoison.problems.backdoor import make_backdoor
from kpoison.statistics import t_half_width
from theory_checks.catalogue import STATEMENTS
from theory_checks.record import FALSE_ALARM, Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["Pool", "check", "image_pools"]

_SUCCESS = 0.03  # of the law, beside the sampling
_SPREAD = 0.15


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Clean points and poisons to draw training sets from, and triggered probes; everything by NumPy.

    Attributes:
        name: for messages.
        kernel: k, of all points.
        X, y: clean points and ±1.
        poisons: locations, all with the label 1.
        probes: triggered points, of the class −1.
        ridge: λ.
    """

    name: str
    kernel: kp.kernels.Kernel
    X: np.ndarray
    y: np.ndarray
    poisons: np.ndarray
    probes: np.ndarray
    ridge: float

    @functools.cached_property
    def points(self) -> np.ndarray:
        """Clean points and poisons."""
        return np.concatenate([self.X, self.poisons])

    @functools.cached_property
    def targets(self) -> np.ndarray:
        """Their labels."""
        return np.concatenate([self.y, np.ones(len(self.poisons))])

    @functools.cached_property
    def gram(self) -> np.ndarray:
        """K of all points."""
        return np.asarray(self.kernel(self.points))

    @functools.cached_property
    def cross(self) -> np.ndarray:
        """k(points, probes)."""
        return np.asarray(self.kernel(self.points, self.probes))

    def poison(self, count: float) -> kp.Poison:
        """Drawn evenly from the locations."""
        return kp.Poison(self.poisons, 1.0, count / len(self.poisons))

    def drawn(self, n: int, poisons: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Predictions at the probes of one training set for each number of poisons, by solves."""
        found = []
        for m in poisons:
            clean = generator.integers(len(self.X), size=n - m)
            places = np.concatenate([clean, len(self.X) + generator.integers(len(self.poisons), size=m)])
            system = self.gram[np.ix_(places, places)] + n * self.ridge * np.eye(n)
            found.append(self.cross[places].T @ np.linalg.solve(system, self.targets[places]))
        return np.array(found)

    def formula(self, n: int, count: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """λ_e and λ_p by iteration, mean, deviation and mean without the poison, all by inverses."""
        sizes = [len(self.X), len(self.poisons)]
        group, pi = np.repeat([0, 1], sizes), np.array([1 - count / n, count / n])
        s = np.repeat([1 / sizes[0], 1 / sizes[1]], sizes)
        w, centre = s * pi[group], np.eye(len(s))
        centre[sizes[0] :, sizes[0] :] -= 1 / sizes[1]  # takes off what the poisons share
        ridges, before, P, left = np.ones(2), np.zeros(2), centre, centre
        while np.max(np.abs(ridges - before) / ridges) > 1e-13:
            before, P = ridges, np.linalg.inv(self.gram + np.diag(ridges[group] / w))
            left = self.gram - self.gram @ P @ self.gram
            apart = np.diag(left).copy()
            apart[sizes[0] :] -= left[sizes[0] :, sizes[0] :].mean()
            ridges = self.ridge + np.bincount(group, s * apart) / n
        strengths = pi / ridges**2 / n
        squares = (centre @ left @ centre.T) ** 2
        slopes = np.array([[np.mean(squares[group == g][:, group == h]) for h in (0, 1)] for g in (0, 1)])
        seen = np.bincount(group, s * (self.gram @ P @ self.targets - self.targets) ** 2)
        errors = np.linalg.solve(np.eye(2) - slopes * strengths, seen)
        covariance = (self.cross.T - self.cross.T @ P @ self.gram) @ centre.T
        variance = covariance**2 @ (s * (strengths * errors)[group])
        effective = ridges[0]
        own = slice(len(self.X))
        clean = np.linalg.solve(self.gram[own, own] + effective * np.diag(1 / w[own]), self.y)
        mean = self.cross.T @ P @ self.targets
        return ridges, mean, np.sqrt(variance), mean - self.cross[own].T @ clean


def synthetic_pool(seed: int, size: int = 400, dimension: int = 30) -> Pool:
    """Two classes of normal points, of which one triggered along an axis of its own is to be taken for the other."""
    generator = np.random.default_rng([seed, 3])
    y = np.where(np.arange(size) % 2, 1.0, -1.0)
    X = generator.standard_normal((size, dimension))
    X[:, 0] += y
    trigger = 3 * np.eye(dimension)[1]
    probes = generator.standard_normal((60, dimension)) - np.eye(dimension)[0] + trigger
    kernel = kp.kernels.RBF(np.float64(np.sqrt(2 * dimension)))
    return Pool("synthetic", kernel, X, y, X[y < 0] + trigger, probes, 1e-2)


def image_pools(
    data_dir: str | None, names: tuple[Images, ...] = ("mnist", "cifar10"), size: int = 600, *, blend: bool = False
) -> list[Pool]:
    """Patches, or a blend, on MNIST's 3 and 8 and CIFAR-10's airplanes and ships, where the folder has them."""
    folder = Path(data_dir or os.environ.get("KPOISON_DATA") or ".")
    there = {"mnist": folder / "mnist", "cifar10": folder / "cifar-10-batches-bin"}
    pools = []
    for name in names:
        if not there[name].is_dir():
            continue
        classes = (8, 3) if name == "mnist" else (8, 0)
        shape = IMAGE_SHAPES[name]
        trigger = kp.Blend(np.random.default_rng(3).random(shape), 0.1) if blend else None
        made = make_backdoor(name, trigger, classes=classes, target=1, train=size, poisons=200, data_dir=data_dir)
        triggered = np.asarray(made.triggered)[np.asarray(made.labels) != made.target]
        X, y, poisons = (np.asarray(part) for part in (made.X, made.y, made.locations))
        label = f"{name}, blend" if blend else name
        pools.append(
            Pool(label, kp.kernels.RBF(np.float64(made.median_distance)), X, y, poisons, triggered[:100], 1e-3)
        )
    return pools


def _exact(pool: Pool, n: int, count: float, law: kp.asymptotics.TypicalKernelRidge) -> list[Comparison]:
    """The statement's formula, at rounding."""
    ridges, mean, deviation, efficacy = pool.formula(n, count)
    tolerance = 1e-8
    reason = "1e-8 of the largest: condition numbers of the weighted matrix, squared for variances"
    return [
        compare(name, "closed form", found, expected, tolerance * np.max(np.abs(expected)), reason)
        for name, found, expected in (
            ("effective ridges λ_e and λ_p", np.array([law.effective.value, law.poison_ridge]), ridges),
            ("mean", law.mean(pool.probes), mean),
            ("deviation", law.deviation(pool.probes), deviation),
            ("mean efficacy", law.efficacy(pool.probes), efficacy),
        )
    ]


def _simulated(
    pool: Pool,
    n: int,
    count: int,
    draws: int,
    law: kp.asymptotics.TypicalKernelRidge,
    generator: np.random.Generator,
) -> tuple[list[Comparison], str, float, float, float]:
    """Success, deviation and mean of the law and of training sets that are drawn."""
    number = law.number
    poisons = np.full(draws, count) if number == "fixed" else generator.binomial(n, count / n, draws)
    f = pool.drawn(n, poisons, generator)
    rates = np.mean(f > 0, axis=1)
    success, error = float(law.attack_success_rate(pool.probes, 1)), float(np.std(rates, ddof=1)) / draws**0.5
    measured = float(np.sqrt(np.mean(np.var(f, axis=0, ddof=1))))
    predicted = float(np.sqrt(np.mean(np.square(law.deviation(pool.probes)))))
    mean_error = float(np.std(np.mean(f, axis=1), ddof=1)) / draws**0.5
    what = f"{pool.name}, n = {n}, {number} number of {count} poisons"
    interval = f"t-interval over {draws} training sets at {FALSE_ALARM:g}"
    found = [
        compare(
            f"attack success, {what}", "simulation", success, rates.mean(),
            t_half_width(error, draws, FALSE_ALARM) + _SUCCESS, f"{interval}, and {_SUCCESS:g} of the limit of large n",
        ),
        compare(
            f"mean over probes, {what}", "simulation", np.mean(law.mean(pool.probes)), np.mean(f),
            t_half_width(mean_error, draws, FALSE_ALARM) + 1 / n, f"{interval}, and 1/n",
        ),
        compare(
            f"deviation, {what}", "simulation", predicted, measured,
            (_SPREAD + 3 / draws**0.5) * measured, f"{_SPREAD:g} of it, and 3/√draws",
        ),
    ]  # fmt: skip
    finding = (
        f"{what}: success {success:.3f} by law, {rates.mean():.3f} ± {error:.3f} measured; deviation {predicted:.3f} "
        f"and {measured:.3f}"
    )
    return found, finding, success, float(rates.mean()), error


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """The formula at rounding; means, deviations and success against training sets drawn and solved by NumPy.

    About pools of its own: checked once, on the RBF kernel's turn.  On MNIST and CIFAR-10 in a full run, where the
    folder has them.
    """
    if setting.kernel_name != "rbf":
        return None
    full = setting.scale == "full"
    generator = np.random.default_rng([setting.seed, 33])
    pool = synthetic_pool(setting.seed, 400 if full else 200)
    comparisons: list[Comparison] = []
    findings: list[str] = []
    points: dict[str, list[tuple[float, ...]]] = {}
    runs = [(pool, 100, 4, 150, "fixed")]
    if full:
        runs += [(pool, 100, 4, 150, "binomial")]
        runs += [(pool, n, n // 25, 150, number) for n in (50, 200) for number in ("fixed", "binomial")]
        for images in image_pools(setting.data_dir):
            runs += [(images, n, n // 25, 60, "fixed") for n in (100, 200, 400)]
        # A few poisons that share much.
        runs += [(images, 100, 4, 60, "fixed") for images in image_pools(setting.data_dir, blend=True)]
    for pool, n, count, draws, number in runs:
        law = laws.kernel_ridge(
            pool.kernel, pool.X, pool.y, None, float(n), pool.ridge, poison=pool.poison(count), number=number
        )
        found, finding, *rates = _simulated(pool, n, count, draws, law, generator)
        comparisons += found + (_exact(pool, n, count, law) if pool.name == "synthetic" and number == "fixed" else [])
        findings.append(finding)
        points.setdefault(f"{pool.name}, {number}", []).append((n, *rates))
    series = []
    for name, rows in points.items():
        numbers, law, measured, error = np.array(sorted(rows)).T
        series += [
            curve(f"law, {name}", "line", numbers, law),
            curve(f"measured, {name}", "errorbar", numbers, measured, error),
        ]
    return setting.record(
        STATEMENTS["R3"], comparisons, findings, [Panel("Attack success", "training points n", "success", series)]
    )
