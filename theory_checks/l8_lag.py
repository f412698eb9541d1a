"""L8: how much poison succeeds, how much shows, and the lag between the two; spikes and bulks of section 4."""

import dataclasses
import functools
import math
from collections.abc import Callable

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
from kpoison.ridge import KernelExpansion, Representers
from kpoison.statistics import t_half_width
from theory_checks.catalogue import STATEMENTS
from theory_checks.record import Comparison, Panel, Record, Series, compare
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_R_OVER_L = {"quick": (0.1,), "full": (0.01, 0.03, 0.1, 0.3, 1.0)}
_FRACTION = 0.3
_SEEDS = 8
_ENOUGH = 5  # draws with a finite lag, for an error bar
_WEAK = 0.1  # of the clean targets
_SOME = 3.0
_MOST = 1e5  # of the multiplicities tried
_FALSE_ALARM = 1e-3  # probability that sampling alone fails one comparison


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
        """Trained on the clean data and a poison of this weight: (K + ρ diag(1/w)) α = y, ρ = total·λ."""
        setting, refitter = self.setting, self.setting.refitter
        cross, own = (np.asarray(part) for part in self._cross)
        gram = np.block([[refitter.gram, cross.T], [cross, own]])
        weights = np.append(np.ones(len(setting.X)), count)
        if count == 0:
            gram, weights = refitter.gram, weights[:-1]
        rho = (len(setting.X) + count if total is None else total) * self.ridge
        targets = np.append(refitter.y, setting.label)[: len(weights)]
        alpha = scipy.linalg.solve(gram + np.diag(rho / weights), targets, assume_a="pos")
        # Of all counts one shape, so that everything compiles once.
        alpha = np.append(alpha, np.zeros(len(setting.X) + 1 - len(alpha)))
        centres = jnp.concatenate([setting.X, setting.location[None]])
        return Predictor(KernelExpansion(Representers(setting.kernel, centres), jnp.asarray(alpha)[:, None]), True)

    @functools.cached_property
    def _cross(self) -> tuple[jnp.ndarray, jnp.ndarray]:
        """k(ζ, X) and k(ζ, ζ)."""
        location = self.setting.location[None]
        return self.setting.kernel.pairwise(location, self.setting.X), self.setting.kernel.pairwise(location, location)

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
    quantile = float(t_half_width(1 / np.sqrt(repeats), repeats, _FALSE_ALARM))
    position, overlap = (np.asarray(f(sizes, 1.0, aspect)) for f in (curvature.outlier_eigenvalue,
                                                                     curvature.outlier_overlap))  # fmt: skip
    root = np.sqrt(aspect)
    # The edge itself fluctuates on Tracy and Widom's scale, about a mean 1.2 of them below; outliers are of next order
    # 1/N, times the factors that diverge at the threshold.
    edge_scale = (1 + root) * (1 + 1 / root) ** (1 / 3) * root * number ** (-2 / 3)
    next_order = 10 / number * position
    reason = f"t-interval over {repeats} draws at {_FALSE_ALARM:g}, and the next order in 1/N"
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


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """m_success, m_visible and lag by law against refits; the lag against measured spectra over seeds.

    Of `efficacy_gradient` only the direction counts, and `efficacy` does not: L3 and L2 hold their scale.
    """
    if setting.data == "synthetic":
        # Else the gradients of the signal drown any poison: the attack succeeds and never shows.
        setting = dataclasses.replace(setting, y=_WEAK * setting.y)
    r_over_l = np.array(_R_OVER_L[setting.scale])
    ridge = 100 * setting.ridge
    comparisons, findings = [], []
    lags: list[list[float]] = [[] for _ in r_over_l]
    measured_lags: list[list[float]] = [[] for _ in r_over_l]
    ratios: list[list[float]] = [[] for _ in r_over_l]
    unlike: list[list[float]] = [[] for _ in r_over_l]
    isotropic: list[float] = []
    for seed in range(_SEEDS):
        drawn = setting if seed == 0 else setting.redrawn(setting.seed + 1000 * seed)
        if seed and setting.data == "synthetic":
            drawn = dataclasses.replace(drawn, y=_WEAK * drawn.y)
        poison = drawn.poison(1.0)
        for i, (r, probe) in enumerate(zip(r_over_l, drawn.probes(r_over_l), strict=True)):
            attack = _Attack(drawn, probe, ridge)
            success = float(laws.m_success(drawn.clean, poison, probe, ridge))
            trained = _root(attack.prediction, success, 1e-10)
            if math.isinf(success) or success == 0:
                findings.append(f"r/ℓ = {r:g}, seed {seed}: m_success is {success:g} by law and {trained:g} by refit")
            comparisons.append(
                compare(
                    f"m_success at r/ℓ = {r:g}, seed {seed}",
                    "refit",
                    min(success, _MOST),
                    min(trained, _MOST),
                    1e-6 * min(trained, _MOST),
                    "1e-6 of it: the root finding of both",
                )
            )
            comparisons.append(
                compare(
                    f"m_visible at r/ℓ = {r:g}, seed {seed}, for the spike of {_SOME:g} copies",
                    "refit",
                    float(laws.m_visible(drawn.clean, poison, probe, ridge, attack.spike(_SOME))),
                    _SOME,
                    1e-6 * _SOME,
                    "1e-6 of it: the root finding",
                )
            )
            if 0 < trained < _MOST:
                comparisons.append(
                    compare(
                        f"lag at r/ℓ = {r:g}, seed {seed}, for the spike of {_SOME:g} copies",
                        "refit",
                        float(laws.lag(drawn.clean, poison, probe, ridge, attack.spike(_SOME))),
                        _SOME / trained,
                        2e-6 * _SOME / trained,
                        "1e-6 of both counts: the root finding",
                    )
                )
            alone = attack.alone(laws)
            visible = _root(attack.predicted_excess, alone, 1e-4)
            shown = _root(attack.measured_excess, visible, 1e-4)
            if math.isinf(visible) or math.isinf(shown) or 0 in (visible, shown):
                findings.append(f"r/ℓ = {r:g}, seed {seed}: m_visible predicted {visible:.3g}, measured {shown:.3g}")
                continue
            unlike[i].append(alone / visible)
            variance = float(curvature.trace(attack.clean_bulk(0))[0]) / drawn.X.shape[1]
            aspect = drawn.X.shape[1] / (len(drawn.held_out) // 2)
            flat = np.float64(curvature.visibility_threshold(variance, aspect)) / _FRACTION
            isotropic.append(float(laws.m_visible(drawn.clean, poison, probe, ridge, flat)) / visible)
            ratios[i].append(shown / visible)
            if 0 < success < math.inf:
                lags[i].append(visible / success)
                measured_lags[i].append(shown / success)
    for i, found in enumerate(ratios):
        if len(found) < _ENOUGH:
            findings.append(f"r/ℓ = {r_over_l[i]:g}: m_visible is finite in {len(found)} of {_SEEDS} draws only")
            continue
        log_ratio = np.log(found)
        error = float(np.std(log_ratio, ddof=1) / np.sqrt(len(found)))
        comparisons.append(
            compare(
                f"log(measured lag/predicted lag) at r/ℓ = {r_over_l[i]:g}",
                "refit",
                0.0,
                float(np.mean(log_ratio)),
                float(t_half_width(error, len(found), _FALSE_ALARM)),
                f"t-interval over {len(found)} draws of data, poison and probes at {_FALSE_ALARM:g}",
            )
        )
        findings.append(
            f"r/ℓ = {r_over_l[i]:g}: log(measured/predicted m_visible) {np.mean(log_ratio):+.3f} ± {error:.3f} over "
            f"{len(found)} draws; section 4, where a poison touches the attacked probes only, would put m_visible at "
            f"{np.exp(np.mean(np.log(unlike[i]))):.3g} times the prediction"
        )
    settled = [i for i, found in enumerate(lags) if len(found) >= _ENOUGH]
    if isotropic:
        findings.append(
            "an isotropic bulk of the same trace (Marchenko–Pastur, BBP) would put m_visible at "
            f"{np.min(isotropic):.2g} to {np.max(isotropic):.2g} of what the bulk as it is does"
        )
    comparisons += _planted_spikes(setting.seed)
    return Record(
        STATEMENTS["L8"],
        setting.kernel_name,
        setting.data,
        comparisons,
        findings,
        _panels(setting, laws, ridge, r_over_l, settled, lags, measured_lags),
        setting.arguments() | {"ridge": ridge, "fraction": _FRACTION, "seeds": _SEEDS},
    )


def _panels(
    setting: Setting,
    laws: Laws,
    ridge: float,
    r_over_l: np.ndarray,
    settled: list[int],
    lags: list[list[float]],
    measured: list[list[float]],
) -> list[Panel]:
    """The lag against distance; success and visibility against m; three spectra."""
    panels = []
    if settled:
        x = [float(r_over_l[i]) for i in settled]
        # Lags of different draws differ by far more than by law and by refit of one draw.
        means = [float(scipy.stats.gmean(measured[i])) for i in settled]
        errors = [
            mean * float(scipy.stats.sem(np.log(np.divide(measured[i], lags[i]))))
            for i, mean in zip(settled, means, strict=True)
        ]
        panels.append(
            Panel(
                f"Lag, a fraction {_FRACTION:g} of the probes attacked",
                "r/ℓ",
                "m_visible/m_success",
                [
                    Series("predicted", "line", x, [float(scipy.stats.gmean(lags[i])) for i in settled]),
                    Series("measured, error of measured/predicted", "errorbar", x, means, errors),
                ],
            )
        )
    far, near = (_Attack(setting, setting.probes(np.array([r]))[0], ridge) for r in (1.0, r_over_l[0]))
    counts = np.geomspace(0.1, 1000, 13)
    poison, grid = setting.poison(1.0), counts.tolist()
    by_law = {
        "m_success by law": float(laws.m_success(setting.clean, poison, near.probe, ridge)),
        "m_visible by law": _root(near.predicted_excess, 1.0, 1e-4),
    }
    success, visible = (
        [Series(label, "threshold", [m], [])] if 0 < m < math.inf else [] for label, m in by_law.items()
    )
    where = f"as the poison grows, r = {r_over_l[0]:g} ℓ"
    zero = Series("where the prediction turns", "dashed", [grid[0], grid[-1]], [0.0, 0.0])
    edge = Series("edge of the clean bulk", "dashed", [grid[0], grid[-1]], [1.0, 1.0])
    panels += [
        Panel(
            f"Success {where}",
            "multiplicity m",
            "y_t f(x0): the target class above 0",
            [Series("refit", "dots", grid, [near.prediction(m) for m in counts]), zero, *success],
            yscale="linear",
        ),
        Panel(
            f"Visibility {where}",
            "multiplicity m",
            "λ₁/edge",
            [Series("refit", "dots", grid, [1 + near.measured_excess(m) for m in counts]), edge, *visible],
        ),
    ]
    k = min(15, setting.X.shape[1])
    ranks = np.arange(1, k + 1).astype(float).tolist()
    beside = near.leading(near.refit(1000.0), 1, k)
    panels.append(
        Panel(
            "Leading eigenvalues of the input Fisher matrix, m = 1000",
            "rank",
            "eigenvalue",
            [
                Series("clean", "line", ranks, far.leading(far.refit(0.0), 1, k).tolist()),
                Series("poison at r = ℓ", "dots", ranks, far.leading(far.refit(1000.0), 1, k).tolist()),
                Series(f"poison at r = {r_over_l[0]:g} ℓ", "dots", ranks, beside.tolist()),
                Series("edge of the clean bulk", "dashed", [1.0, float(k)], [far.edge(1)] * 2),
            ],
            xscale="linear",
        )
    )
    return panels
