"""L9: how near to the poison no probe sees it, and what success and visibility take where only the gain grows."""

import dataclasses
import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
from jax import Array

import kpoison as kp
from theory_checks.catalogue import STATEMENTS
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_ANY = 1e13  # copies: as good as any number of them, to 1e-12/λ
_SOME = 3.0
_GRID = 200  # radii at a time, among which refits are searched for the first that sees
_EPS = float(np.finfo(float).eps)


@eqx.filter_jit
def _evaluate(kernel: kp.kernels.Kernel, centres: Array, weights: Array, x: Array) -> tuple[Array, Array]:
    """Σ_i w_i k(x, c_i) and its gradient, of each column of weights."""

    def at(x):
        values, slopes = jax.vmap(lambda c: jax.value_and_grad(kernel.evaluate)(x, c))(centres)
        return values @ weights, weights.T @ slopes

    return jax.lax.map(at, x)


@dataclasses.dataclass(frozen=True, eq=False)
class _Refits:
    """The clean data and a weighted poison, trained by brute force.

    Attributes:
        setting: clean data and poison.
        ridge: λ.
    """

    setting: Setting
    ridge: float

    @functools.cached_property
    def _gram(self) -> np.ndarray:
        """Of the clean data and ζ."""
        refitter, location = self.setting.refitter, self.setting.location[None]
        cross, own = (np.asarray(self.setting.kernel.pairwise(location, x)) for x in (self.setting.X, location))
        return np.block([[refitter.gram, cross.T], [cross, own]])

    def dual(self, count: float, rho: float) -> np.ndarray:
        """(K + ρ diag(1/w))⁻¹y with so much of the poison, the last point."""
        targets = np.append(self.setting.refitter.y, self.setting.label)
        used = len(targets) - (count == 0)
        noise = np.append(np.full(used - (count > 0), rho), rho / count if count > 0 else [])
        system = self._gram[:used, :used] + np.diag(noise)
        return np.append(scipy.linalg.solve(system, targets[:used], assume_a="pos"), [0.0] * (count == 0))

    def rho(self, count: float) -> float:
        """(n_c + m)λ."""
        return (len(self.setting.X) + count) * self.ridge

    def rounding(self, rho: float) -> float:
        """10 · eps · condition number."""
        return 10 * _EPS * (self.setting.refitter.largest + rho) / rho

    def at(self, r: np.ndarray, *duals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (q, k) and gradients (q, k, d) of k predictors at ζ + ru."""
        points = jnp.concatenate([self.setting.X, self.setting.location[None]])
        x = self.setting.probes(r / float(self.setting.length_scale))
        values, slopes = _evaluate(self.setting.kernel, points, jnp.asarray(np.stack(duals, axis=1)), x)
        return np.asarray(values), np.asarray(slopes)

    def slopes(self, count: float, rho: float, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """‖∇Δf‖² and ‖∇f_c‖², both at this ρ."""
        poisoned, clean = np.moveaxis(self.at(r, self.dual(count, rho), self.dual(0.0, rho))[1], 1, 0)
        return np.sum((poisoned - clean) ** 2, axis=1), np.sum(clean**2, axis=1)


def _root(margin: Callable[[float], float], low: float, high: float) -> float:
    found = scipy.optimize.root_scalar(margin, bracket=(low, high), method="brentq", xtol=1e-14, rtol=1e-13)
    return float(found.root)


def _radii(refits: _Refits, laws: Laws) -> tuple[list[Comparison], list[str], list[Panel]]:
    """The exact radius, of one count and of any, against the first of a grid of refits that sees, ever finer."""
    setting, unit, rho = refits.setting, float(refits.setting.length_scale), refits.rho(_SOME)
    comparisons, findings, series = [], [], []
    for count, any_count, named in ((_ANY, True, "any number of copies"), (_SOME, False, f"{_SOME:g} copies")):
        if count == _SOME and setting.scale == "quick":
            continue
        radii = unit * np.geomspace(1e-3, 3, _GRID)
        spike, bulk = refits.slopes(count, rho, radii)
        found = spike / bulk
        # Between what is visible at ζ itself, by coupling to the clean data (L6), and at its best.
        threshold = np.sqrt(found[0] * found.max())
        series.append(curve(f"refit, {named}", "line", radii / unit, found))
        for _ in range(5):
            first = int(np.argmax(found > threshold))
            radii = np.linspace(radii[first - 1], radii[first], _GRID)
            spike, bulk = refits.slopes(count, rho, radii)
            found = spike / bulk
        expected = radii[np.argmax(found > threshold)]
        arguments = setting.clean, setting.poison(_SOME), setting.direction, refits.ridge, threshold
        law = laws.blind_radius(*arguments, any_count=any_count)
        # Cancelled digits of ∇Δf, and 1/m in place of 0.
        tolerance = 10 * expected * (refits.rounding(rho) * np.sqrt(bulk[0] / spike[0]) + 1e-12 / refits.ridge)
        reason = "10 · eps · condition number, times ‖∇f_c‖/‖∇Δf‖; 1e13 copies in place of any number"
        comparisons.append(compare(f"blind radius of {named}", "refit", law, expected, tolerance, reason))
        findings.append(
            f"nearer than r = {float(law) / unit:.3g} ℓ no probe sees {named} at ρ = {rho:.3g}, for τ = {threshold:.3g}"
        )
        series.append(curve(f"blind radius, {named}", "threshold", [float(law) / unit], []))
        series.append(curve(f"τ = {threshold:.3g}: visible above", "dashed", [1e-3, 3], [threshold, threshold]))
    panel = Panel("Visibility by the paper's criterion", "r/ℓ", "Λ/‖∇f_c‖²", series)
    return comparisons, findings, [panel]


def _counts(refits: _Refits, laws: Laws) -> list[Comparison]:
    """m_visible where ρ stays; in a full run m_success and lag too, and where ρ grows with m, and isolated."""
    setting = refits.setting
    r = np.full(_GRID, 0.5 * float(setting.length_scale))  # one radius, in the shape that is compiled
    poison, x = setting.poison(7.0), setting.location + r[0] * setting.direction
    arguments = setting.clean, poison, x, refits.ridge
    comparisons, reason = [], "1e-9 of it: the rounding of both, and that of the law's root finding"
    threshold = np.float64(0)
    exact = [("exact", refits.rho(_SOME))] if setting.scale == "full" else []  # a search, dear to compile
    for law, rho in (*exact, ("fixed-rho", refits.rho(7.0))):
        spike, bulk = refits.slopes(_SOME, rho, r)
        threshold = np.float64(spike[0] / bulk[0])
        visible = float(laws.m_visible(*arguments, threshold, law, criterion="relative"))
        named = f"m_visible, relative, {law}"
        comparisons.append(compare(named, "refit", visible, _SOME, 1e-9 * _SOME, reason))
    # At a fixed ρ, with the threshold of three copies there.
    kernels = _kernels(refits, x)
    success = float(laws.m_success(*arguments, "fixed-rho")) if setting.scale == "full" else 0.0
    if 0 < success < math.inf:
        flips = _root(lambda m: float(kernels @ refits.dual(m, refits.rho(7.0))), 1e-9, 1e6)
        comparisons.append(compare("m_success, fixed-rho", "refit", success, flips, 1e-9 * flips, reason))
        lag, expected = float(laws.lag(*arguments, threshold, "fixed-rho", criterion="relative")), _SOME / flips
        comparisons.append(compare("lag, fixed-rho", "refit", lag, expected, 2e-9 * expected, reason))
    return comparisons + (_isolated_counts(refits, laws, x, r) if setting.scale == "full" else [])


def _kernels(refits: _Refits, x: Array) -> np.ndarray:
    """k(x, ·) of the clean data and ζ."""
    setting = refits.setting
    points = jnp.concatenate([setting.X, setting.location[None]])
    return np.asarray(setting.kernel.pairwise(x[None], points))[0]


def _isolated_counts(refits: _Refits, laws: Laws, x: Array, r: np.ndarray) -> list[Comparison]:
    """The same isolated: the paper's formulas, evaluated forwards and inverted by root finding."""
    setting, ridge, n = refits.setting, refits.ridge, len(refits.setting.X)
    arguments = setting.clean, setting.poison(7.0), x, ridge
    clean = refits.dual(0.0, refits.rho(0.0))
    (start, k0), (slope, bend) = (part[0] for part in refits.at(r, clean, np.eye(n + 1)[n]))
    own = refits.setting.kernel.diagonal(setting.location[None])[0]

    def gain(m):
        return m / ((n + m) * ridge + m * float(own))

    threshold = np.float64((setting.label * gain(_SOME)) ** 2 * np.sum(bend**2) / np.sum(slope**2))
    visible = float(laws.m_visible(*arguments, threshold, "isolated", criterion="relative"))
    reason = "1e-9 of it: the clean predictor's rounding"
    found = [compare("m_visible, relative, isolated", "closed form", visible, _SOME, 1e-9 * _SOME, reason)]
    if start * setting.label < 0:
        flips = _root(lambda m: start + setting.label * gain(m) * k0, 0.0, 1e9)
        success = float(laws.m_success(*arguments, "isolated"))
        found.append(compare("m_success, isolated", "closed form", success, flips, 1e-9 * flips, reason))
    return found


def _closed(setting: Setting, ridge: float, laws: Laws) -> list[Comparison]:
    """Lambert's W against the first r at which the paper's Λ = (y_t S(∞))² (r/ℓ²)² exp(−r²/ℓ²) is τ‖∇f_c‖²."""
    unit, shares = float(setting.length_scale), np.array([1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999])
    largest = (setting.label / (1 + ridge)) ** 2 / (np.e * unit**2)
    slope = 0.3
    thresholds = shares * largest / slope**2

    def spike(r):
        return (setting.label / (1 + ridge)) ** 2 * (r / unit**2) ** 2 * np.exp(-((r / unit) ** 2))

    expected = np.array(
        [_root(lambda r, tau=tau: spike(r) / (tau * slope**2) - 1, 1e-9 * unit, unit) for tau in thresholds]
    )
    poison = setting.poison(_SOME)
    by_formula = [laws.rbf_blind_radius(unit, ridge, tau, slope, setting.label) for tau in thresholds]
    by_law = [
        laws.blind_radius(setting.clean, poison, setting.direction, ridge, tau, "isolated", clean_slope=slope)
        for tau in thresholds
    ]
    never = float(laws.rbf_blind_radius(unit, ridge, 1.001 * largest / slope**2, slope, setting.label))
    # Where Λ is at its largest the root moves as √ of what it is rounded by.
    tolerance, reason = 1e-12 / np.sqrt(1 - shares) * expected, "rounding, over the slope of Λ in r"
    return [
        compare("isolated blind radius by Lambert's W", "closed form", by_formula, expected, tolerance, reason),
        compare("isolated blind radius of the kernel", "closed form", by_law, expected, tolerance, reason),
        compare(
            "one over the radius where every r is blind", "closed form", 1 / never, 0.0, 0.0, "infinite: ω² >= 1/e"
        ),
    ]


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Blind radii and counts against refits; the closed forms against bisection of the paper's formulas."""
    if setting.kernel.smoothness < 2:
        return None  # by no law is anything blind to a cusp: the spike does not vanish there
    setting = setting.weak()
    refits = _Refits(setting, 10 * setting.ridge)
    comparisons, findings, panels = _radii(refits, laws)
    comparisons += _counts(refits, laws)
    if setting.kernel_name == "rbf":
        comparisons += _closed(setting, refits.ridge, laws)
    findings.append(
        "where f_c is taken at ρ = (n_c + m)λ too it flattens as m grows, and by the paper's criterion every poison "
        "shows at last: a radius at which none does is one of a fixed ρ, or of the isolated law"
    )
    return setting.record(STATEMENTS["L9"], comparisons, findings, panels, ridge=refits.ridge)
