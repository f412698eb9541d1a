"""L8 on images: success and visibility of a patch backdoor against its size, by the cluster law and by refits."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.stats
from jax import Array

import kpoison as kp
from kpoison.laws import Predictor
from kpoison.ridge import KernelExpansion
from theory_checks.backdoor import Backdoor, Outcome, make_backdoor
from theory_checks.record import Panel, Record, Series, compare
from theory_checks.setting import KERNELS, Laws, Setting

__all__ = ["check"]

_POISONS = 20  # triggered images that share the multiplicity
_FRACTION = 0.1
_SEEDS = 5
_RIDGE = 1e-3
_COUNTS = np.geomspace(0.3, 100, 9)
_FALSE_ALARM = 1e-3
_CASES: tuple[tuple[tuple[int, ...], int, float], ...] = (
    ((0, 1), 3, 1.0),
    ((0, 1), 3, 0.3),
    (tuple(range(10)), 3, 1.0),
)
"""Classes, size of the patch in pixels, opacity; the last one in full runs only."""


def _refit(clean: kp.Posterior, backdoor: Backdoor, count: float) -> Predictor:
    """Trained on the clean images and the poisons at once: (K + ρ diag(1/w)) α = y."""
    points = jnp.concatenate([backdoor.X, backdoor.locations])
    weights = np.append(np.ones(len(backdoor.X)), np.full(_POISONS, count / _POISONS))
    label = np.broadcast_to(np.asarray(backdoor.target_vector()), (_POISONS, *backdoor.y.shape[1:]))
    targets = np.concatenate([np.asarray(backdoor.y), label])
    system = np.asarray(clean.kernel(points)) + np.diag((len(backdoor.X) + count) * _RIDGE / weights)
    alpha = scipy.linalg.solve(system, targets, assume_a="pos").reshape(len(points), -1)
    return Predictor(KernelExpansion(clean.kernel, points, jnp.asarray(alpha)), backdoor.classes == 2)


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
    """The count at which a curve over _COUNTS first reaches a level, between two of them; ∞ where it does not."""
    over = np.flatnonzero(values >= level)
    if len(over) == 0:
        return math.inf
    i = over[0]
    if i == 0:
        return float(_COUNTS[0])
    part = (level - values[i - 1]) / (values[i] - values[i - 1])
    return float(np.exp(np.log(_COUNTS[i - 1]) + part * np.log(_COUNTS[i] / _COUNTS[i - 1])))


def _thresholds(outcomes: list[Outcome]) -> tuple[float, float]:
    """m_success (half of the triggered images succeed) and m_visible (λ₁ at the edge)."""
    success = np.array([outcome.success for outcome in outcomes])
    shown = np.array([float(outcome.visibility.eigenvalue / outcome.visibility.edge) for outcome in outcomes])
    return _crossing(success, 0.5), _crossing(np.log(shown), 0.0)


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Predicted and measured lag over draws, for two and ten classes and two opacities; figures of the first draw."""
    if setting.data not in ("digits", "mnist"):
        return None
    comparisons, findings, panels = [], [], []
    for classes, size, opacity in _CASES[: 2 if setting.scale == "quick" else None]:
        name = f"{len(classes)} classes, {size}×{size} patch of opacity {opacity:g}"
        trigger = kp.Patch(size, (-size - 1, -size - 1), 1.0, opacity)
        found: list[tuple[float, float, float, float]] = []
        for seed in range(setting.seed, setting.seed + _SEEDS):
            few = setting.data == "digits" and len(classes) == 2
            backdoor = make_backdoor(
                setting.data,  # pyright: ignore[reportArgumentType]
                trigger,
                classes=classes,
                train=200 if few else 400,
                test=100 if few else 300,
                poisons=_POISONS,
                data_dir=setting.data_dir,
                seed=seed,
            )
            clean = kp.fit(KERNELS[setting.kernel_name](backdoor.median_distance), backdoor.X, backdoor.y)
            halves = [_half(backdoor, half) for half in (0, 1)]
            reference = kp.predictor(clean, _RIDGE)
            edges = [half.clean_edge(reference) for half in halves]
            k = 8
            curves = [
                [half.judge(make(clean, half, count), edge, _FRACTION, k=k) for count in _COUNTS]
                for half, edge, make in zip(halves, edges, (_law, _refit), strict=True)
            ]
            found.append((*_thresholds(curves[0]), *_thresholds(curves[1])))
            if seed == setting.seed:
                both = [(make(clean, halves[1], 10.0), edges[1], _FRACTION) for make in (_law, _refit)]
                by_law, by_refit = (halves[1].judge(*arguments, k=k) for arguments in both)
                comparisons.append(
                    compare(
                        f"leading Fisher eigenvalues at m = 10: {name}",
                        "refit",
                        by_law.spectrum.values,
                        by_refit.spectrum.values,
                        1e-6 * float(by_refit.spectrum.values[0]),
                        "1e-6 of the largest, far above rounding",
                    )
                )
                panels += _panels(name, curves, halves[1].judge(reference, edges[1], _FRACTION, k=k))
        table = np.array(found)
        usable = np.all(np.isfinite(table), axis=1)
        lag, measured = table[usable, 1] / table[usable, 0], table[usable, 3] / table[usable, 2]
        if usable.sum() >= _SEEDS:
            log_ratio = np.log(measured / lag)
            error = float(np.std(log_ratio, ddof=1) / np.sqrt(len(log_ratio)))
            comparisons.append(
                compare(
                    f"log(measured lag/predicted lag): {name}",
                    "refit",
                    0.0,
                    float(np.mean(log_ratio)),
                    scipy.stats.t.ppf(1 - _FALSE_ALARM / 2, len(log_ratio) - 1) * error,
                    f"t-interval over {len(log_ratio)} draws of training, poison and test images at {_FALSE_ALARM:g}",
                )
            )
            findings.append(
                f"{name}: lag predicted {np.exp(np.mean(np.log(lag))):.3g}, measured "
                f"{np.exp(np.mean(np.log(measured))):.3g}, log ratio {np.mean(log_ratio):+.3f} ± {error:.3f}"
            )
        else:
            findings.append(
                f"{name}: m_success, m_visible predicted and measured, per draw: {np.round(table, 2).tolist()}"
            )
    return Record(
        "L8-images",
        "Backdoor on images",
        "A backdoor succeeds and shows at the multiplicities that the cluster law predicts on other images.",
        setting.kernel_name,
        setting.data,
        comparisons,
        findings,
        panels,
        setting.arguments() | {"ridge": _RIDGE, "fraction": _FRACTION, "seeds": _SEEDS, "poisons": _POISONS},
    )


def _panels(name: str, curves: list[list[Outcome]], clean: Outcome) -> list[Panel]:
    """Success, alignment and visibility against m on one axis; spectra of clean, hidden and visible attacks."""
    counts, (law, refit) = _COUNTS.tolist(), curves
    ranks = np.arange(1, len(clean.spectrum.values) + 1).astype(float).tolist()
    visible = [bool(outcome.visibility.visible) for outcome in law]
    hidden, shown = max(0, visible.index(True) - 1 if True in visible else -1), len(law) - 1
    return [
        Panel(
            name,
            "multiplicity m",
            "share, or log₁₀(λ₁/edge)",
            [
                Series("attack success, law", "line", counts, [o.success for o in law]),
                Series("attack success, refit on other images", "dots", counts, [o.success for o in refit]),
                Series(
                    "log₁₀(λ₁/edge), law: visible above 0",
                    "dashed",
                    counts,
                    [math.log10(float(o.visibility.eigenvalue / o.visibility.edge)) for o in law],
                ),
                Series(
                    "alignment |⟨v₁, u⟩|, refit", "errorbar", counts, [float(o.visibility.alignment) for o in refit],
                    [0.0] * len(counts),
                ),
            ],
            yscale="linear",
        ),
        Panel(
            "Leading eigenvalues of the input Fisher matrix",
            "rank",
            "eigenvalue",
            [
                Series("clean", "line", ranks, clean.spectrum.values.tolist()),
                Series(f"m = {counts[hidden]:.3g}, success {law[hidden].success:.0%}", "dots", ranks,
                       law[hidden].spectrum.values.tolist()),
                Series(f"m = {counts[shown]:.3g}, success {law[shown].success:.0%}", "errorbar", ranks,
                       law[shown].spectrum.values.tolist(), [0.0] * len(ranks)),
                Series("edge of the clean bulk", "dashed", [ranks[0], ranks[-1]], [float(clean.visibility.edge)] * 2),
            ],
            xscale="linear",
        ),
    ]  # fmt: skip
