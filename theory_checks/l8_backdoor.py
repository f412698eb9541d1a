"""L8 on images: success and visibility of a patch backdoor against its size, by the cluster law and by refits."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax import Array

import kpoison as kp
from kpoison.laws import Predictor
from kpoison.problems.backdoor import Backdoor, Outcome, make_backdoor
from theory_checks.catalogue import STATEMENTS
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.refit import compare_log_ratios, weighted_refit
from theory_checks.setting import KERNELS, Laws, Setting

__all__ = ["check"]

_POISONS = 20  # triggered images that share the multiplicity
_SEEDS = 5
_RIDGE = 1e-3
_COUNTS = np.geomspace(0.01, 100, 13)
_LEADING = 8


@dataclasses.dataclass(frozen=True)
class _Case:
    """Classes to tell apart, a patch, and the fractions of the probes that carry it."""

    classes: tuple[int, ...]
    size: int
    opacity: float
    fractions: tuple[float, ...] = (0.1,)

    def __str__(self) -> str:
        return f"{len(self.classes)} classes, {self.size}×{self.size} patch of opacity {self.opacity:g}"

    def sizes(self, setting: Setting) -> tuple[int, int]:
        """Clean training images and test images."""
        return (200, 100) if setting.data == "digits" and len(self.classes) == 2 else (400, 300)

    def draw(self, setting: Setting, seed: int) -> Backdoor:
        """Training, poison and test images."""
        train, test = self.sizes(setting)
        return make_backdoor(
            setting.data,  # pyright: ignore[reportArgumentType]
            kp.Patch(self.size, (-self.size - 1, -self.size - 1), 1.0, self.opacity),
            classes=self.classes,
            train=train,
            test=test,
            poisons=_POISONS,
            data_dir=setting.data_dir,
            seed=seed,
        )


_QUICK = (
    _Case((0, 1), 3, 1.0, (0.1, 0.03, 0.3)),
    _Case((0, 1), 3, 0.3),
    _Case((0, 1), 2, 1.0),
)
_FULL = (*_QUICK, _Case((0, 1), 4, 1.0), _Case((0, 1), 3, 0.6), _Case(tuple(range(10)), 3, 1.0))


@dataclasses.dataclass(frozen=True)
class _Draw:
    """One draw of images: predicted on one half of the test images by law, measured on the other by refits.

    Attributes:
        outcomes: (law, refit), at every one of _COUNTS.
        clean: the clean predictor over the half of the refits.
    """

    outcomes: tuple[list[Outcome], list[Outcome]]
    clean: Outcome

    def thresholds(self) -> tuple[float, float, float, float]:
        """m_success and m_visible by law, then by refit."""
        return (*_thresholds(self.outcomes[0]), *_thresholds(self.outcomes[1]))


def _refit(clean: kp.Posterior, backdoor: Backdoor, count: float) -> Predictor:
    """Trained on the clean images and the poisons at once."""
    points = jnp.concatenate([backdoor.X, backdoor.locations])
    weights = np.append(np.ones(len(backdoor.X)), np.full(_POISONS, count / _POISONS))
    label = np.broadcast_to(np.asarray(backdoor.target_vector()), (_POISONS, *backdoor.y.shape[1:]))
    targets, rho = np.concatenate([np.asarray(backdoor.y), label]), (len(backdoor.X) + count) * _RIDGE
    return weighted_refit(clean.kernel, points, np.asarray(clean.kernel(points)), targets, weights, rho)


def _law(clean: kp.Posterior, backdoor: Backdoor, count: float) -> Predictor:
    """The same by L7."""
    return kp.predictor(clean, _RIDGE, kp.Poison(backdoor.locations, backdoor.target_vector(), count / _POISONS))


def _half(backdoor: Backdoor, half: int) -> Backdoor:
    """Every other test image."""

    def part(values: Array) -> Array:
        return values[half::2]

    return dataclasses.replace(
        backdoor,
        clean=part(backdoor.clean),
        labels=part(backdoor.labels),
        triggered=part(backdoor.triggered),
    )


def _crossing(values: np.ndarray, level: float) -> float:
    """Where on _COUNTS, between two of them, a curve first reaches a level; 0 if at the start already, ∞ if never."""
    over = np.flatnonzero(values >= level)
    if len(over) == 0:
        return math.inf
    i = over[0]
    if i == 0:
        return 0.0
    part = (level - values[i - 1]) / (values[i] - values[i - 1])
    return float(np.exp(np.log(_COUNTS[i - 1]) + part * np.log(_COUNTS[i] / _COUNTS[i - 1])))


def _thresholds(outcomes: list[Outcome]) -> tuple[float, float]:
    """m_success (half of the triggered images succeed) and m_visible (λ₁ at the edge)."""
    success = np.array([outcome.success for outcome in outcomes])
    shown = np.array([float(outcome.visibility.eigenvalue / outcome.visibility.edge) for outcome in outcomes])
    return _crossing(success, 0.5), _crossing(np.log(shown), 0.0)


def _run(case: _Case, setting: Setting, seed: int) -> tuple[dict[float, _Draw], Comparison]:
    """For every fraction; and the spectrum by law beside that of a refit on the same images."""
    backdoor = case.draw(setting, seed)
    clean = kp.fit(KERNELS[setting.kernel_name](backdoor.median_distance), backdoor.X, backdoor.y)
    halves = [_half(backdoor, half) for half in (0, 1)]
    reference = kp.predictor(clean, _RIDGE)
    edges = [half.clean_edge(reference) for half in halves]
    by_law, by_refit = (
        [make(clean, half, count) for count in _COUNTS] for half, make in zip(halves, (_law, _refit), strict=True)
    )
    draws = {}
    for fraction in case.fractions:
        law, refit = (
            [half.judge(f, edge, fraction, k=_LEADING) for f in predictors]
            for half, edge, predictors in zip(halves, edges, (by_law, by_refit), strict=True)
        )
        draws[fraction] = _Draw((law, refit), halves[1].judge(reference, edges[1], fraction, k=_LEADING))
    middle = len(_COUNTS) // 2
    same = halves[1].judge(by_law[middle], edges[1], case.fractions[0], k=_LEADING).spectrum.values
    other = draws[case.fractions[0]].outcomes[1][middle].spectrum.values
    return draws, compare(
        f"leading Fisher eigenvalues at m = {_COUNTS[middle]:.3g}: {case}",
        "refit",
        same,
        other,
        1e-6 * float(other[0]),
        "1e-6 of the largest, far above rounding",
    )


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Predicted and measured lag over draws; two and ten classes, sizes, opacities and fractions; figures of one."""
    if setting.data not in ("digits", "mnist"):
        return None
    comparisons, findings, panels = [], [], []
    for case in _QUICK if setting.scale == "quick" else _FULL:
        runs = [_run(case, setting, seed) for seed in range(setting.seed, setting.seed + _SEEDS)]
        comparisons.append(runs[0][1])
        lags = []
        for fraction in case.fractions:
            table = np.array([draws[fraction].thresholds() for draws, _ in runs])
            name = f"{case}, {fraction:g} of the probes triggered"
            if not np.all(np.isfinite(table) & (table > 0)):
                found = np.round(table, 3).tolist()
                findings.append(f"{name}: m_success, m_visible predicted and measured, per draw: {found}")
                continue
            log_predicted, log_measured = np.log(table[:, 1] / table[:, 0]), np.log(table[:, 3] / table[:, 2])
            log_ratio = log_measured - log_predicted
            quantity = f"log(measured lag/predicted lag): {name}"
            comparisons.append(compare_log_ratios(quantity, log_ratio, "training, poison and test images"))
            lags.append((fraction, np.exp(log_predicted), np.exp(log_measured)))
            success = np.exp(np.mean(np.log(table[:, 0])))
            findings.append(
                f"{name}: m_success {success:.3g} beside {case.sizes(setting)[0]} clean images, lag "
                f"predicted {np.exp(np.mean(log_predicted)):.3g}, measured "
                f"{np.exp(np.mean(log_measured)):.3g}, log ratio {np.mean(log_ratio):+.3f} ± "
                f"{scipy.stats.sem(log_ratio):.3f}"
            )
        panels += _panels(str(case), runs[0][0][case.fractions[0]])
        if len(lags) > 1:
            panels.append(_lag_panel(lags))
    return setting.record(
        STATEMENTS["L8-images"], comparisons, findings, panels, ridge=_RIDGE, seeds=_SEEDS, poisons=_POISONS
    )


def _lag_panel(lags: list[tuple[float, np.ndarray, np.ndarray]]) -> Panel:
    """Against the fraction of triggered probes."""
    lags = sorted(lags, key=lambda found: found[0])
    x = [fraction for fraction, _, _ in lags]
    spread = [float(np.std(measured, ddof=1) / np.sqrt(_SEEDS)) for _, _, measured in lags]
    return Panel(
        "Lag against the share of triggered probes",
        "fraction of the probes",
        "m_visible/m_success",
        [
            curve("predicted", "line", x, [float(np.mean(predicted)) for _, predicted, _ in lags]),
            curve(f"refits, {_SEEDS} draws", "errorbar", x, [float(np.mean(m)) for _, _, m in lags], spread),
        ],
    )


def _panels(name: str, draw: _Draw) -> list[Panel]:
    """Success, alignment and visibility against m on one axis; spectra of clean, hidden and visible attacks."""
    counts, (law, refit), clean = _COUNTS, draw.outcomes, draw.clean
    ranks = np.arange(1, len(clean.spectrum.values) + 1)
    visible = [bool(outcome.visibility.visible) for outcome in law]
    hidden, shown = max(0, visible.index(True) - 1 if True in visible else -1), len(law) - 1
    over_edge = [math.log10(float(o.visibility.eigenvalue / o.visibility.edge)) for o in law]
    alignment = [float(o.visibility.alignment) for o in refit]

    def at(place: int) -> str:
        return f"m = {counts[place]:.3g}, success {law[place].success:.0%}"

    return [
        Panel(
            name,
            "multiplicity m",
            "share, or log₁₀(λ₁/edge)",
            [
                curve("attack success, law", "line", counts, [o.success for o in law]),
                curve("attack success, refit on other images", "dots", counts, [o.success for o in refit]),
                curve("log₁₀(λ₁/edge), law: visible above 0", "dashed", counts, over_edge),
                curve("alignment |⟨v₁, u⟩|, refit", "errorbar", counts, alignment, np.zeros(len(counts))),
            ],
            yscale="linear",
        ),
        Panel(
            "Leading eigenvalues of the input Fisher matrix",
            "rank",
            "eigenvalue",
            [
                curve("clean", "line", ranks, clean.spectrum.values),
                curve(at(hidden), "dots", ranks, law[hidden].spectrum.values),
                curve(at(shown), "errorbar", ranks, law[shown].spectrum.values, np.zeros(len(ranks))),
                curve("edge of the clean bulk", "dashed", ranks[[0, -1]], [float(clean.visibility.edge)] * 2),
            ],
            xscale="linear",
        ),
    ]
