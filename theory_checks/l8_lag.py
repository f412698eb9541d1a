"""L8: how much poison succeeds, how much shows, and the lag between the two; spikes and bulks of section 4."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.stats

import kpoison as kp
from kpoison import curvature
from kpoison.curvature.operators import GaussNewtonRows
from kpoison.laws import Predictor
from kpoison.statistics import t_half_width
from theory_checks.catalogue import STATEMENTS
from theory_checks.record import FALSE_ALARM, Comparison, Panel, Record, compare, curve
from theory_checks.refit import compare_log_ratios, weighted_refit
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_R_OVER_L = {"quick": (0.1,), "full": (0.01, 0.03, 0.1, 0.3, 1.0)}
_FRACTION = 0.3
_SEEDS = 8
_ENOUGH = 5  # draws with a finite lag, for an error bar
_SOME = 3.0
_MOST = 1e5  # of the multiplicities tried


@dataclasses.dataclass(frozen=True, eq=False)
class _Attack:
    """One poison at one probe x0 = ζ + r u, seen by a defender through two independent sets of probes.

    Attributes:
        setting: clean data and poison.
        probe: x0.
        ridge: λ.
    """

    setting: Setting
    probe: jnp.ndarray
    ridge: float

    def refit(self, count: float, total: float | None = None) -> Predictor:
        """Trained on the clean data and a poison of this weight, at ρ = total·λ, by default of all that is there."""
        setting, refitter = self.setting, self.setting.refitter
        total = len(setting.X) + count if total is None else total
        return weighted_refit(
            setting.kernel,
            self._points,
            self._gram,
            np.append(refitter.y, setting.label),
            np.append(np.ones(len(setting.X)), count),
            total * self.ridge,
        )

    @functools.cached_property
    def _points(self) -> jnp.ndarray:
        return jnp.concatenate([self.setting.X, self.setting.location[None]])

    @functools.cached_property
    def _gram(self) -> np.ndarray:
        """Of the clean data and ζ, whose covariances are taken from differences."""
        refitter, location = self.setting.refitter, self.setting.location[None]
        cross, own = (np.asarray(self.setting.kernel.pairwise(location, x)) for x in (self.setting.X, location))
        return np.block([[refitter.gram, cross.T], [cross, own]])

    def probes(self, half: int) -> tuple[jnp.ndarray, np.ndarray]:
        """One half of the held-out points, a fraction of them replaced by x0, and which."""
        number = len(self.setting.held_out) // 2
        points = self.setting.held_out[half * number : (half + 1) * number]
        attacked = np.arange(number) < _FRACTION * number
        return jnp.where(attacked[:, None], self.probe[None], points), attacked

    @functools.cache  # noqa: B019 - the object lives as long as the run
    def clean_bulk(self, half: int) -> GaussNewtonRows:
        """Fisher matrix of the clean predictor over the clean points of one half."""
        number = len(self.setting.held_out) // 2
        points = self.setting.held_out[half * number : (half + 1) * number]
        bulk = curvature.fisher(kp.predictor(self.setting.clean, self.ridge), points)
        assert isinstance(bulk, GaussNewtonRows)
        return bulk

    @functools.cache  # noqa: B019
    def edge(self, half: int) -> float:
        """Of that bulk, from the gradients themselves."""
        rows = self.clean_bulk(half).rows
        return float(curvature.bulk_edge_from_clean(rows * len(rows) ** 0.5).edge)

    def alone(self, laws: Laws) -> float:
        """m_visible where the poison touches the attacked probes and no other (section 4); 0 if they show without."""
        setting = self.setting
        points, attacked = self.probes(0)
        gradients = curvature.input_gradients(kp.predictor(setting.clean, self.ridge), points)
        direction = laws.efficacy_gradient(setting.clean, setting.poison(1.0), self.probe, self.ridge)
        threshold = float(curvature.spike_threshold(gradients, jnp.asarray(attacked), direction, self.edge(0)))
        if threshold == 0:
            return 0.0
        return float(laws.m_visible(setting.clean, setting.poison(1.0), self.probe, self.ridge, np.float64(threshold)))

    def leading(self, f: Predictor, half: int, k: int = 1) -> np.ndarray:
        """Leading eigenvalues of a predictor's input Fisher matrix over one half of the probes."""
        return np.asarray(curvature.top_eigenpairs(curvature.fisher(f, self.probes(half)[0]), k).values)

    def predicted_excess(self, count: float) -> float:
        """λ₁/edge − 1 by law, over the first half: the attack shows where it is positive."""
        f = kp.predictor(self.setting.clean, self.ridge, self.setting.poison(count))
        return float(self.leading(f, 0)[0]) / self.edge(0) - 1

    def measured_excess(self, count: float) -> float:
        """The same of a refit, over the second half."""
        return float(self.leading(self.refit(count), 1)[0]) / self.edge(1) - 1

    def spike(self, count: float) -> np.float64:
        """‖∇Δf(x0)‖² by two refits at the same ρ."""
        pair = (self.refit(count), self.refit(0.0, len(self.setting.X) + count))
        poisoned, clean = (np.asarray(curvature.input_gradients(f, self.probe[None])) for f in pair)
        return np.sum((poisoned - clean) ** 2)

    def prediction(self, count: float) -> float:
        """y_t f(x0) of the refit: the attack succeeds where it is positive."""
        return float(_value(self.refit(count), self.probe)) * self.setting.label

    def thresholds(self, laws: Laws) -> "_Thresholds":
        """Of this poison at this probe, by law and by refits."""
        setting = self.setting
        clean, poison = setting.clean, setting.poison(1.0)
        success = float(laws.m_success(clean, poison, self.probe, self.ridge))
        alone = self.alone(laws)
        visible = _root(self.predicted_excess, alone, 1e-4)
        variance = float(curvature.trace(self.clean_bulk(0))[0]) / setting.X.shape[1]
        aspect = setting.X.shape[1] / (len(setting.held_out) // 2)
        flat = np.float64(curvature.visibility_threshold(variance, aspect)) / _FRACTION
        return _Thresholds(
            success,
            _root(self.prediction, success, 1e-10),
            visible,
            _root(self.measured_excess, visible, 1e-4),
            alone,
            float(laws.m_visible(clean, poison, self.probe, self.ridge, flat)),
        )


class _Thresholds(NamedTuple):
    """Multiplicities: 0 where the attack succeeds, or shows, without the poison, ∞ where it never does.

    Attributes:
        success, flipped: m_success by law and by refit.
        visible, shown: m_visible by law over one half of the probes, and by refit over the other.
        alone: m_visible where the poison touches the attacked probes and no other (section 4).
        isotropic: m_visible in an isotropic bulk of the same trace (Marchenko–Pastur, BBP).
    """

    success: float
    flipped: float
    visible: float
    shown: float
    alone: float
    isotropic: float

    @property
    def settled(self) -> bool:
        """Whether the poison shows at a number of copies, by law and by refit."""
        return all(0 < m < math.inf for m in (self.visible, self.shown))


_value = eqx.filter_jit(lambda f, x: f(x))


def _root(margin: Callable[[float], float], guess: float, rtol: float) -> float:
    """Where it becomes positive, by bracketing from a guess; 0 or ∞ where it is always or never up to _MOST."""
    if margin(0.0) > 0:
        return 0.0
    low = high = guess if 0 < guess < _MOST else 1.0
    while margin(low) > 0:
        low /= 2
    while margin(high) <= 0:
        if high > _MOST:
            return math.inf
        high *= 2
    return scipy.optimize.root_scalar(margin, bracket=(low, high), method="brentq", rtol=rtol).root


def _planted_spikes(seed: int) -> list[Comparison]:
    """Position and overlap of a spike in an isotropic bulk, in closed form against simulation."""
    number, d, repeats = 400, 100, 30
    generator = np.random.default_rng(seed)
    aspect = d / number
    threshold = float(curvature.visibility_threshold(1.0, aspect))
    found, overlaps = [], []
    sizes = np.array([0.4, 2.0, 3.0, 6.0]) * threshold
    for size in sizes:
        values, squares = [], []
        for _ in range(repeats):
            rows = generator.standard_normal((number, d))
            rows[:, 0] *= np.sqrt(1 + size)
            eigenvalues, vectors = np.linalg.eigh(rows.T @ rows / number)
            values.append(eigenvalues[-1])
            squares.append(vectors[0, -1] ** 2)
        found.append(values)
        overlaps.append(squares)
    quantile = float(t_half_width(1 / np.sqrt(repeats), repeats, FALSE_ALARM))
    position, overlap = (np.asarray(f(sizes, 1.0, aspect)) for f in (curvature.outlier_eigenvalue,
                                                                     curvature.outlier_overlap))  # fmt: skip
    root = np.sqrt(aspect)
    # The edge itself fluctuates on Tracy and Widom's scale, about a mean 1.2 of them below; outliers are of next order
    # 1/N, times the factors that diverge at the threshold.
    edge_scale = (1 + root) * (1 + 1 / root) ** (1 / 3) * root * number ** (-2 / 3)
    next_order = 10 / number * position
    reason = f"t-interval over {repeats} draws at {FALSE_ALARM:g}, and the next order in 1/N"
    return [
        compare(
            "position of a planted spike (BBP)",
            "simulation",
            position,
            np.mean(found, axis=1),
            quantile * np.std(found, axis=1, ddof=1) + np.where(sizes < threshold, 3 * edge_scale, next_order),
            reason,
        ),
        compare(
            "squared overlap of its eigenvector",
            "simulation",
            overlap,
            np.mean(overlaps, axis=1),
            quantile * np.std(overlaps, axis=1, ddof=1) + 10 / number,
            reason,
        ),
    ]


def _compare(attack: _Attack, found: _Thresholds, laws: Laws, where: str) -> list[Comparison]:
    """Each law against the roots of refits."""
    of, spike = f"at {where}, for the spike of {_SOME:g} copies", attack.spike(_SOME)
    arguments = attack.setting.clean, attack.setting.poison(1.0), attack.probe, attack.ridge, spike
    success, flipped = min(found.success, _MOST), min(found.flipped, _MOST)
    visible, reason = float(laws.m_visible(*arguments)), "1e-6 of it: the root finding"
    compared = [
        compare(f"m_success at {where}", "refit", success, flipped, 1e-6 * flipped, f"{reason} of both"),
        compare(f"m_visible {of}", "refit", visible, _SOME, 1e-6 * _SOME, reason),
    ]
    if 0 < flipped < _MOST:
        lag, expected = float(laws.lag(*arguments)), _SOME / flipped
        reason = "1e-6 of both counts: the root finding"
        compared.append(compare(f"lag {of}", "refit", lag, expected, 2e-6 * expected, reason))
    return compared


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """m_success, m_visible and lag by law against refits; the lag against measured spectra over seeds.

    Of `efficacy_gradient` only the direction counts, and `efficacy` does not: L3 and L2 hold their scale.
    """
    setting = setting.weak()
    r_over_l, ridge = np.array(_R_OVER_L[setting.scale]), 100 * setting.ridge
    comparisons, findings = [], []
    settled: list[list[_Thresholds]] = [[] for _ in r_over_l]
    for seed in range(_SEEDS):
        drawn = setting if seed == 0 else setting.redrawn(setting.seed + 1000 * seed).weak()
        for r, probe, kept in zip(r_over_l, drawn.probes(r_over_l), settled, strict=True):
            attack, where = _Attack(drawn, probe, ridge), f"r/ℓ = {r:g}, seed {seed}"
            found = attack.thresholds(laws)
            comparisons += _compare(attack, found, laws, where)
            if math.isinf(found.success) or found.success == 0:
                findings.append(f"{where}: m_success is {found.success:g} by law and {found.flipped:g} by refit")
            if found.settled:
                kept.append(found)
            else:
                findings.append(f"{where}: m_visible predicted {found.visible:.3g}, measured {found.shown:.3g}")
    for r, kept in zip(r_over_l, settled, strict=True):
        if len(kept) < _ENOUGH:
            findings.append(f"r/ℓ = {r:g}: m_visible is finite in {len(kept)} of {_SEEDS} draws only")
            continue
        log_ratio = np.log([m.shown / m.visible for m in kept])
        quantity = f"log(measured lag/predicted lag) at r/ℓ = {r:g}"
        comparisons.append(compare_log_ratios(quantity, log_ratio, "data, poison and probes"))
        findings.append(
            f"r/ℓ = {r:g}: log(measured/predicted m_visible) {np.mean(log_ratio):+.3f} ± "
            f"{scipy.stats.sem(log_ratio):.3f} over {len(kept)} draws; section 4, where a poison touches the attacked "
            f"probes only, would put m_visible at {scipy.stats.gmean([m.alone / m.visible for m in kept]):.3g} times "
            "the prediction"
        )
    isotropic = [m.isotropic / m.visible for kept in settled for m in kept]
    if isotropic:
        findings.append(
            "an isotropic bulk of the same trace (Marchenko–Pastur, BBP) would put m_visible at "
            f"{np.min(isotropic):.2g} to {np.max(isotropic):.2g} of what the bulk as it is does"
        )
    return setting.record(
        STATEMENTS["L8"],
        comparisons + _planted_spikes(setting.seed),
        findings,
        [*_lag_panel(r_over_l, settled), *_panels(setting, laws, ridge, r_over_l[0])],
        ridge=ridge,
        fraction=_FRACTION,
        seeds=_SEEDS,
    )


def _lag_panel(r_over_l: np.ndarray, settled: list[list[_Thresholds]]) -> list[Panel]:
    """The lag against distance, where enough draws have one."""
    x, predicted, measured, errors = [], [], [], []
    for r, kept in zip(r_over_l, settled, strict=True):
        table = np.array([m for m in kept if 0 < m.success < math.inf])
        if len(table) < _ENOUGH:
            continue
        success, _, visible, shown, *_ = table.T
        x.append(r)
        predicted.append(scipy.stats.gmean(visible / success))
        measured.append(scipy.stats.gmean(shown / success))
        # Lags of different draws differ by far more than by law and by refit of one draw.
        errors.append(measured[-1] * scipy.stats.sem(np.log(shown / visible)))
    if not x:
        return []
    series = [
        curve("predicted", "line", x, predicted),
        curve("measured, error of measured/predicted", "errorbar", x, measured, errors),
    ]
    return [Panel(f"Lag, a fraction {_FRACTION:g} of the probes attacked", "r/ℓ", "m_visible/m_success", series)]


def _panels(setting: Setting, laws: Laws, ridge: float, nearest: float) -> list[Panel]:
    """Success and visibility against m; three spectra."""
    far, near = (_Attack(setting, setting.probes(np.array([r]))[0], ridge) for r in (1.0, nearest))
    counts = np.geomspace(0.1, 1000, 13)
    poison, ends = setting.poison(1.0), counts[[0, -1]]
    by_law = {
        "m_success by law": float(laws.m_success(setting.clean, poison, near.probe, ridge)),
        "m_visible by law": _root(near.predicted_excess, 1.0, 1e-4),
    }
    success, visible = ([curve(label, "threshold", [m], [])] if 0 < m < math.inf else [] for label, m in by_law.items())
    where = f"as the poison grows, r = {nearest:g} ℓ"
    zero = curve("where the prediction turns", "dashed", ends, [0.0, 0.0])
    edge = curve("edge of the clean bulk", "dashed", ends, [1.0, 1.0])
    k = min(15, setting.X.shape[1])
    ranks = np.arange(1, k + 1)
    beside = near.leading(near.refit(1000.0), 1, k)
    return [
        Panel(
            f"Success {where}",
            "multiplicity m",
            "y_t f(x0): the target class above 0",
            [curve("refit", "dots", counts, [near.prediction(m) for m in counts]), zero, *success],
            yscale="linear",
        ),
        Panel(
            f"Visibility {where}",
            "multiplicity m",
            "λ₁/edge",
            [curve("refit", "dots", counts, [1 + near.measured_excess(m) for m in counts]), edge, *visible],
        ),
        Panel(
            "Leading eigenvalues of the input Fisher matrix, m = 1000",
            "rank",
            "eigenvalue",
            [
                curve("clean", "line", ranks, far.leading(far.refit(0.0), 1, k)),
                curve("poison at r = ℓ", "dots", ranks, far.leading(far.refit(1000.0), 1, k)),
                curve(f"poison at r = {nearest:g} ℓ", "dots", ranks, beside),
                curve("edge of the clean bulk", "dashed", [1, k], [far.edge(1)] * 2),
            ],
            xscale="linear",
        ),
    ]
