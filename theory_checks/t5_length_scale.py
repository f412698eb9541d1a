"""T5: on a uniform grid a gradient penalty is a Fourier filter; locally it is a longer length scale."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array

import kpoison as kp
from theory_checks.catalogue import STATEMENTS
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_KERNELS = ("rbf", "matern32", "matern52", "rational-quadratic")
_EPS = float(np.finfo(float).eps)
# Of the filter: a ring and a torus, in units of ℓ, and penalties in units of ℓ².
_RING, _RING_POINTS = 16.0, 128
_TORUS, _TORUS_POINTS = np.array([6.0, 5.0]), (12, 10)
_METRIC = np.array([[1.0, 0.3], [0.3, 0.2]])
_PENALTIES = (0.0, 0.05, 1.0)
# Of the length scale: a long ring, and γ k̂(0)/(λV) in units of ℓ².
_LONG, _LONG_POINTS = 64.0, 768
_STRENGTHS = np.array([0.03, 0.1, 0.3, 1.0, 3.0])
_CONTRAST, _DRAWS = 0.5, 8
# Points of the sum over k_γ for each point of the uniform ring.
_FINER = 4


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """The multiplier against Fourier transforms of fits; ℓ_eff against second moments of the prior of flat slopes."""
    if setting.kernel_name not in _KERNELS:
        return None
    ridge = 10 * setting.ridge
    comparisons, findings, panels = _ring(setting, laws, ridge)
    if setting.kernel_name == "rational-quadratic":
        findings.append(
            "for α = 1 the kernel has no integral in two dimensions and no second moment in one: k̂(0) and ℓ_eff do "
            "not exist, so the torus and the length scale are not compared"
        )
    else:
        for more in (_torus(setting, laws, ridge), _uniform(setting, laws, ridge), _varying(setting, laws, ridge)):
            comparisons += more[0]
            findings += more[1]
            panels += more[2]
    return Record(
        STATEMENTS["T5"],
        setting.kernel_name,
        "uniform grids",
        comparisons,
        findings,
        panels,
        setting.arguments()
        | {"data": "ring and torus", "ridge": ridge, "n_c": _RING_POINTS, "d": 1, "long ring": _LONG_POINTS},
    )


_Part = tuple[list[Comparison], list[str], list[Panel]]


def _response(
    kernel: kp.kernels.Kernel, sides: np.ndarray, points: tuple[int, ...], ridge: float, penalty: float, metric
) -> tuple[Array, np.ndarray, float]:
    """Frequencies ω, the Fourier transform of the fit over that of its targets, and the rounding of the latter."""
    axes = [side / number * np.arange(number) for side, number in zip(sides, points, strict=True)]
    X = jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(sides)))
    # Targets of equal power at every frequency: a random sign for each.
    noise = np.fft.fftn(np.random.default_rng(0).standard_normal(points))
    spectrum = noise / np.abs(noise)
    y = jnp.asarray(np.fft.ifftn(spectrum).real.ravel())
    clean = kp.fit(kernel, X, y, gradient_penalty=penalty, metric=metric)
    fitted = np.asarray(kp.predict(clean, X, ridge)).reshape(points)
    waves = [2 * np.pi * np.fft.fftfreq(n, side / n) for side, n in zip(sides, points, strict=True)]
    omega = jnp.asarray(np.stack(np.meshgrid(*waves, indexing="ij"), axis=-1))
    condition = float(clean.factor.condition_number(jnp.asarray(len(X) * ridge)))
    # ‖y‖ = 1, and a Fourier sum of n errors is at most √n times their norm.
    return omega, (np.fft.fftn(fitted) / spectrum).real, 10 * _EPS * condition * len(X) ** 0.5


_ROUNDING = "10 · eps · condition number · √n"


def _ring(setting: Setting, laws: Laws, ridge: float) -> _Part:
    """The filter on a ring."""
    ell = setting.length_scale
    side, spacing = _RING * ell, _RING * ell / _RING_POINTS
    comparisons, curves, missed = [], [], 0.0
    for ratio in _PENALTIES:
        penalty, name = ratio * ell**2, f"γ = {ratio:g} ℓ²"
        omega, found, rounding = _response(
            _on_ring(setting, side), np.array([side]), (_RING_POINTS,), ridge, penalty, None
        )
        law = np.asarray(laws.multiplier(setting.kernel, omega, ridge, penalty, side, spacing=spacing))
        comparisons.append(compare(f"multiplier on a ring, {name}", "refit", law, found, rounding, _ROUNDING))
        alone = np.asarray(laws.multiplier(setting.kernel, omega, ridge, penalty, side))
        missed = max(missed, float(np.max(np.abs(alone - found))))
        if setting.kernel_name == "rbf":
            comparisons.append(compare(f"the same without aliases, {name}", "refit", alone, found, rounding, _ROUNDING))
        half = slice(1, _RING_POINTS // 2)
        shown = law[half] > 1e-6
        x = (np.asarray(omega)[half, 0] * ell)[shown]
        fine = np.geomspace(x[0], x[-1], 100)
        line = laws.multiplier(setting.kernel, fine[:, None] / ell, ridge, penalty, side, spacing=spacing)
        label = "no penalty" if ratio == 0 else name
        curves.append(curve(f"{label}, law", "dashed" if ratio == 0 else "line", fine, np.asarray(line)))
        if ratio:
            curves.append(curve(f"{label}, fit", "dots", x, found[half][shown]))
    finding = (
        f"on a ring with h = ℓ/{_RING_POINTS / _RING:g} the formula without aliases errs by at most {missed:.2g}: what "
        "the kernel has beyond the Nyquist frequency"
    )
    panel = Panel(f"Filter on a ring, h = ℓ/{_RING_POINTS / _RING:g}, λ = {ridge:g}", "ω ℓ", "multiplier", curves)
    return comparisons, [finding], [panel]


def _on_ring(setting: Setting, side: float) -> kp.kernels.Kernel:
    """The kernel summed over the images of a ring; for the rational quadratic (α = 1) in closed form."""
    if setting.kernel_name != "rational-quadratic":
        return kp.kernels.Periodic(setting.kernel, side)
    # Σ_s b²/(b² + (x + s)²) = (πb/L) sinh(2πb/L)/(cosh(2πb/L) − cos(2πx/L)) with b = √2 ℓ; the difference in the
    # denominator as a sum of squares.
    half = np.pi * 2**0.5 * setting.length_scale / side
    top = half * np.sinh(2 * half) / 2

    def images(x: Array, z: Array) -> Array:
        return top / (np.sinh(half) ** 2 + jnp.sin(np.pi / side * (x - z)[0]) ** 2)

    return kp.kernels.Custom(images)


def _torus(setting: Setting, laws: Laws, ridge: float) -> _Part:
    """The filter of an anisotropic penalty on a torus."""
    ell = setting.length_scale
    sides, penalty = _TORUS * ell, ell**2
    omega, found, rounding = _response(
        kp.kernels.Periodic(setting.kernel, sides), sides, _TORUS_POINTS, ridge, penalty, _METRIC
    )
    spacing = sides / np.array(_TORUS_POINTS)

    def law(omega: np.ndarray) -> np.ndarray:
        return np.asarray(
            laws.multiplier(setting.kernel, omega, ridge, penalty, np.prod(sides), _METRIC, spacing=spacing)
        )

    comparison = compare(
        "multiplier on a torus, M anisotropic, γ = 1 ℓ²", "refit", law(np.asarray(omega)), found, rounding, _ROUNDING
    )
    waves = np.asarray(omega) * ell
    curves = []
    for axis, name in enumerate(("first", "second")):
        along = tuple(slice(1, n // 2 + 1) if a == axis else 0 for a, n in enumerate(_TORUS_POINTS))
        x, M = np.abs(waves[(*along, axis)]), _METRIC[axis, axis]
        fine = np.geomspace(x[0], x[-1], 100)
        line = law(fine[:, None] / ell * np.eye(2)[axis])
        curves.append(curve(f"along the {name} axis (M = {M:g}), law", "line", fine, line))
        curves.append(curve(f"along the {name} axis, fit", "dots", x, found[along]))
    panel = Panel("Anisotropic filter on a torus, γ = 1 ℓ²", "ω ℓ", "multiplier", curves)
    return [comparison], [], [panel]


def _derivatives(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k, k' and k'' of the one-dimensional kernels with ℓ = 1."""
    if name == "rbf":
        value = np.exp(-0.5 * x**2)
        return value, -x * value, (x**2 - 1) * value
    t = {"matern32": 3**0.5, "matern52": 5**0.5}[name] * np.abs(x)
    decay = np.exp(-t)
    if name == "matern32":
        return (1 + t) * decay, -3 * x * decay, -3 * (1 - t) * decay
    return (1 + t + t**2 / 3) * decay, -5 / 3 * x * (1 + t) * decay, -5 / 3 * (1 + t - t**2) * decay


def _spectrum(name: str, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k̂ and ω k̂' of the same."""
    if name == "rbf":
        value = (2 * np.pi) ** 0.5 * np.exp(-0.5 * omega**2)
        return value, -(omega**2) * value
    nu, constant = {"matern32": (1.5, 12 * 3**0.5), "matern52": (2.5, 400 * 5**0.5 / 3)}[name]
    value = constant * (2 * nu + omega**2) ** (-nu - 0.5)
    return value, -(2 * nu + 1) * omega**2 / (2 * nu + omega**2) * value


def _wrapped(difference: np.ndarray) -> np.ndarray:
    """On the long ring; further images are below rounding."""
    return difference - _LONG * np.round(difference / _LONG)


class _FlatSlopes:
    """k_γ: the prior given flat slopes at points of the long ring, from the kernel's derivatives, with ℓ = 1."""

    def __init__(self, name: str, points: np.ndarray, strength: float, per_length_scale: int = 4):
        self.name, self.points = name, points
        # strength = γ k̂(0)/(λ V), so that the noise nλ/γ is n k̂(0)/(strength V).
        noise = len(points) * float(_spectrum(name, np.zeros(1))[0][0]) / (strength * _LONG)
        gram = noise * np.eye(len(points)) - _derivatives(name, _wrapped(points[:, None] - points[None]))[2]
        self.factor = scipy.linalg.cho_factor(gram, lower=True)
        number = round(_LONG * per_length_scale)
        self.x = _LONG * (np.arange(number) / number - 0.5)

    def around(self, centres: np.ndarray) -> np.ndarray:
        """k_γ(c, c + x), one row for each centre."""
        here = _derivatives(self.name, _wrapped(centres[:, None] - self.points[None]))[1]
        weights = scipy.linalg.cho_solve(self.factor, here.T)
        at = _wrapped(centres[:, None] + self.x[None])
        there = _derivatives(self.name, _wrapped(at[:, :, None] - self.points[None, None]))[1]
        return _derivatives(self.name, self.x)[0] - np.einsum("cxi,ic->cx", there, weights, optimize=True)

    def second_moments(self, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """∫ x² k_γ/∫ k_γ, how far the ring's finite length can have moved it, and k_γ/∫ k_γ dx."""
        values = self.around(centres)
        share = values / np.sum(values, axis=1, keepdims=True)
        moments = np.sum(share * self.x**2, axis=1)
        # An exponential tail from the ends on, of no more than the decay length √moment, and its images.
        ends = np.abs(share[:, :2]).max(axis=1) / (self.x[1] - self.x[0])
        return moments, 4 * ends * (_LONG / 2) ** 2 * np.sqrt(moments), share


def _law(setting: Setting, laws: Laws, ridge: float, strength: float) -> Callable[[float], float]:
    """ℓ_eff²/ℓ² as a function of V in units of ℓ, with the penalty that has this strength on the long ring."""
    ell = setting.length_scale
    penalty = _penalty(setting.kernel_name, ridge, strength) * ell**2
    v = jnp.ones(1)

    def squared(volume: float) -> float:
        found = laws.effective_length_scale(setting.kernel, v, ridge, penalty, volume * ell)
        return float(found / ell) ** 2

    return squared


def _penalty(name: str, ridge: float, strength: float) -> float:
    """γ/ℓ²."""
    return float(strength) * ridge * _LONG / float(_spectrum(name, np.zeros(1))[0][0])


def _uniform(setting: Setting, laws: Laws, ridge: float) -> _Part:
    """ℓ_eff against measured second moments on a uniform grid."""
    name = setting.kernel_name
    points = _LONG / _LONG_POINTS * np.arange(_LONG_POINTS)
    law, measured, tolerance = [], [], []
    for strength in _STRENGTHS:
        prior = _FlatSlopes(name, points, strength, per_length_scale=_FINER * _LONG_POINTS // round(_LONG))
        (moment,), (tail,), _ = prior.second_moments(np.zeros(1))
        law.append(_law(setting, laws, ridge, strength)(_LONG))
        measured.append(moment)
        tolerance.append(_alias_bound(name, strength, moment) + tail + 1e-9 * moment)
    root = np.sqrt(measured)
    reason = "aliases of the grid, the finite ring, 1e-9 for rounding"
    comparison = compare(
        "ℓ_eff/ℓ on a uniform ring", "refit", np.sqrt(law), root, np.array(tolerance) / (2 * root), reason
    )
    x = [_penalty(name, ridge, strength) for strength in _STRENGTHS]
    finding = (
        f"from γ = {x[0]:.2g} ℓ² to {x[-1]:.2g} ℓ² the length scale grows from {root[0]:.3g} ℓ to {root[-1]:.3g} ℓ; on "
        f"h = ℓ/{_LONG_POINTS / _LONG:g} the law errs by at most {comparison.worst_relative_error:.1e}"
    )
    fine = np.geomspace(_STRENGTHS[0], _STRENGTHS[-1], 40)
    line = [_law(setting, laws, ridge, strength)(_LONG) ** 0.5 for strength in fine]
    panel = Panel(
        f"Length scale against penalty, λV = {ridge * _LONG:g} ℓ",
        "γ/ℓ²",
        "ℓ_eff/ℓ",
        [
            curve("law", "line", [_penalty(name, ridge, strength) for strength in fine], line),
            curve("root mean square of k_γ, measured", "dots", x, root),
        ],
    )
    return [comparison], [finding], [panel]


def _alias_bound(name: str, strength: float, moment: float) -> float:
    """How far aliases can move the second moment on the uniform ring.

    What slopes on a grid see of aliases ±ω_j makes it ℓ_0² + 2s [k̂(0) + 2Σ(k̂ + ω k̂')]/(1 + 2s Σ k̂ ω²), s = γ/(λV).
    The sum over x sees those of a finer grid: in the integral of k_γ, in that bracket and as 2Σ k̂'' of the prior.
    """

    def sums(finer: int) -> tuple[float, float, float]:
        waves = 2 * np.pi * finer * _LONG_POINTS / _LONG * np.arange(1, 2000)
        density, slope = _spectrum(name, waves)
        mass = float(_spectrum(name, np.zeros(1))[0][0])
        slope = np.abs(slope)
        # |k̂''| is below 8 |k̂'|/ω for every kernel here.
        parts = (density * waves**2, density + slope, 8 * slope / waves**2)
        squares, first, second = (float(2 / mass * np.sum(part)) for part in parts)
        return squares, first, second

    squares, first, _ = sums(1)
    _, finer, curvature = sums(_FINER)
    return 2 * strength * (strength * squares + first + 2 * finer) + finer * moment + curvature


def _density(x: np.ndarray) -> np.ndarray:
    return (1 + _CONTRAST * np.cos(2 * np.pi * x / _LONG)) / _LONG


def _quantiles(probability: np.ndarray) -> np.ndarray:
    """Where the distribution function of the density has these values, by bisection."""
    low, high = np.zeros_like(probability), np.full_like(probability, _LONG)
    for _ in range(60):
        x = 0.5 * (low + high)
        below = x / _LONG + _CONTRAST * np.sin(2 * np.pi * x / _LONG) / (2 * np.pi) < probability
        low, high = np.where(below, x, low), np.where(below, high, x)
    return 0.5 * (low + high)


def _varying(setting: Setting, laws: Laws, ridge: float) -> _Part:
    """The law with V = 1/p(x), on points of a density p that varies over the ring."""
    name, strength = setting.kernel_name, 1.0
    centres = _LONG * np.arange(8) / 8
    law = np.array([_law(setting, laws, ridge, strength)(1 / p) for p in _density(centres)])
    prior = _FlatSlopes(name, _quantiles((np.arange(_LONG_POINTS) + 0.5) / _LONG_POINTS), strength)
    moments, tails, share = prior.second_moments(centres)
    comparisons = []
    if name == "rbf":
        # In the continuum the second moment is ℓ² + 2γk̂(0)/λ ⟨p + (x − x0)p'⟩ under k_γ, an identity: the law and what
        # a varying p adds to it.  Without aliases equidistant quantiles are the continuum.
        at = centres[:, None] + prior.x[None]
        p_slope = -2 * np.pi / _LONG**2 * _CONTRAST * np.sin(2 * np.pi * at / _LONG)
        change = _density(at) - _density(centres)[:, None] + prior.x[None] * p_slope
        added = 2 * strength * _LONG * np.sum(share * change, axis=1)
        comparisons.append(
            compare(
                "ℓ_eff²/ℓ² with V = 1/p(x), and what a varying p adds, on quantiles of a density",
                "refit",
                law + added,
                moments,
                tails + 1e-9 * moments,
                "the finite ring, 1e-9 for rounding",
            )
        )
    drawn, deviations = {}, {}
    generator = np.random.default_rng(setting.seed)
    for number in (_LONG_POINTS // 8, _LONG_POINTS):
        found = np.stack(
            [
                _FlatSlopes(name, _quantiles(generator.random(number)), strength).second_moments(centres)[0]
                for _ in range(_DRAWS)
            ]
        )
        drawn[number] = np.sqrt(found)
        deviations[number] = float(np.sqrt(np.mean((np.sqrt(found / law[None]) - 1) ** 2)))
    shown = drawn[_LONG_POINTS]
    finding = (
        f"on points of a density that varies by a factor {(1 + _CONTRAST) / (1 - _CONTRAST):g} over {_LONG:g} ℓ the "
        f"law with V = 1/p(x) errs by at most {np.max(np.abs(np.sqrt(law / moments) - 1)):.1%} on quantiles, and by "
        + " and ".join(f"{error:.1%} (root mean square) on n = {n} random points" for n, error in deviations.items())
    )
    fine = np.linspace(0, _LONG, 65)
    squared = _law(setting, laws, ridge, strength)
    panel = Panel(
        f"Length scale on points of a density, n = {_LONG_POINTS}",
        "x/ℓ",
        "ℓ_eff/ℓ",
        [
            curve("law, V = 1/p(x)", "line", fine, [squared(1 / p) ** 0.5 for p in _density(fine)]),
            curve("quantiles of p, measured", "dots", centres, np.sqrt(moments)),
            curve(
                f"{_DRAWS} random draws, mean and deviation",
                "errorbar",
                centres,
                np.mean(shown, axis=0),
                np.std(shown, axis=0, ddof=1),
            ),
        ],
        xscale="linear",
        yscale="linear",
    )
    return comparisons, [finding], [panel]
