"""L5: how q(r) falls as the probe approaches the poison, and which kernels have a near-clone regime."""

import numpy as np

import kpoison as kp
from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import compare_with_networks
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.refit import compare_with_refit
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_NEAR = np.logspace(-9, -5, 13)
_R_OVER_L = np.logspace(-9, 0.5, 13)

# Power of r with which q (for kernels on the sphere its tangential part) falls: 2 is a near-clone regime.
_EXPONENT = {
    "rbf": 2.0,
    "matern32": 2.0,
    "matern52": 2.0,
    "rational-quadratic": 2.0,
    "laplace": 0.0,
    "linear": 0.0,
    "ntk-relu": 0.0,
    "ntk-erf": 2.0,
    "nngp-relu": 2.0,
}
_DECAYING = ("rbf", "laplace", "matern32", "matern52")
_ON_SPHERE = ("ntk-relu", "ntk-erf", "nngp-relu")


def _closed_form(setting: Setting, r: np.ndarray, probes: np.ndarray) -> np.ndarray | None:
    """q(r) of the isolated kernel, where the theory has one."""
    scale = setting.length_scale
    t, location = r / scale, np.asarray(setting.location)
    forms = {
        "rbf": lambda: r**2 / scale**4,
        "matern32": lambda: 9 * r**2 / (scale**2 * (scale + np.sqrt(3) * r) ** 2),
        "matern52": lambda: (5 / 3 * t * (1 + np.sqrt(5) * t) / (1 + np.sqrt(5) * t + 5 / 3 * t**2) / scale) ** 2,
        "rational-quadratic": lambda: (t / (1 + t**2 / 2) / scale) ** 2,
        "laplace": lambda: np.full_like(r, scale**-2),
        "linear": lambda: location @ location / (probes @ location) ** 2,
    }
    form = forms.get(setting.kernel_name)
    return None if form is None else form()


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """Isolated q against closed forms and its exponent at r/ℓ from 1e-9; the exact q against refits.

    On the sphere only the exponent of the tangential part is known: the scale of `spike_components` drops out of it,
    and so does that of `efficacy`; L3 and L2 hold them.
    """
    clean, ridge, count = setting.clean, setting.ridge, setting.middle_count
    poison, name = setting.poison(count), setting.kernel_name
    probes = setting.probes(_R_OVER_L)
    # The distance that the floating-point probe really has.
    r = np.linalg.norm(np.asarray(probes) - np.asarray(setting.location), axis=1)
    isolated = np.asarray(laws.spike_efficacy_ratio(clean, poison, probes, ridge, law="isolated"))
    exact = np.asarray(laws.spike_efficacy_ratio(clean, poison, probes, ridge))
    refit = setting.refitter.change(ridge, setting.location, setting.label, count, probes)
    comparisons = [
        compare_with_refit("exact q(x0, ζ) for r/ℓ from 1e-9 to 3", exact, refit.ratio, refit.ratio_rounding)
    ]
    closed = _closed_form(setting, r, np.asarray(probes))
    if closed is not None:
        comparisons.append(
            compare(
                "isolated q(r) for r/ℓ from 1e-9 to 3",
                "closed form",
                isolated,
                closed,
                1e-12 * closed,
                "rounding: thousands of operations of float64",
            )
        )
    if name in _DECAYING:
        comparisons.append(_far_from_clean_data(setting, laws))
    comparisons.append(_exponent(setting, laws))
    if name == "rbf":
        comparisons.append(_peak(setting, laws))
    findings = [_finding(name)]
    series = [
        curve("law, isolated", "dashed", _R_OVER_L, isolated),
        curve("law, exact", "line", _R_OVER_L, exact),
        curve("refit", "dots", _R_OVER_L, refit.ratio),
    ]
    if name in _ON_SPHERE:
        tangential = _tangential_ratio(setting, laws, _R_OVER_L)
        series.insert(1, curve("law, isolated, tangential part", "dashed", _R_OVER_L, tangential))
        findings.append(f"tangential part of the isolated q at r/ℓ = 1e-9: {tangential[0]:.3g}")
    panels = [Panel("Near-clone regime", "r/ℓ", "q = Λ/Δf²", series)]
    if setting.networks is not None:
        networks = setting.networks
        trained, law = networks.middle, networks.by_law(laws.spike_efficacy_ratio)[1:]
        samples = trained.spike[:, :, 1:] / trained.efficacy[:, :, 1:] ** 2
        comparisons.append(compare_with_networks("q = Λ/Δf²", law, samples, networks.widths, kinks=networks.kinks))
        panels.append(
            trained.panel(f", m = {networks.setting.middle_count}", "r/ℓ", "q = Λ/Δf²", networks.r_over_l, law, samples)
        )
    return setting.record(STATEMENTS["L5"], comparisons, findings, panels)


def _tangential_ratio(setting: Setting, laws: Laws, r_over_l: np.ndarray) -> np.ndarray:
    """Tangential part of the isolated q."""
    poison, probes = setting.poison(setting.middle_count), setting.probes(r_over_l)
    _, tangential = laws.spike_components(setting.clean, poison, probes, setting.ridge, law="isolated")
    efficacy = laws.efficacy(setting.clean, poison, probes, setting.ridge, law="isolated")
    return np.asarray(tangential / efficacy**2)


def _exponent(setting: Setting, laws: Laws) -> Comparison:
    """Slope of log q in log r over four decades next to ζ."""
    probes = setting.probes(_NEAR)
    if setting.kernel_name in _ON_SPHERE:
        ratio = _tangential_ratio(setting, laws, _NEAR)
    else:
        poison = setting.poison(setting.middle_count)
        ratio = np.asarray(laws.spike_efficacy_ratio(setting.clean, poison, probes, setting.ridge, law="isolated"))
    r = np.linalg.norm(np.asarray(probes) - np.asarray(setting.location), axis=1)
    slope = np.polyfit(np.log(r), np.log(ratio), 1)[0]
    # Coordinates of order 1 resolve a displacement of 1e-9 to about 1e-7, which turns the direction of x0 − ζ.
    return compare(
        "exponent of r in the isolated q" + (" (tangential part)" if setting.kernel_name in _ON_SPHERE else ""),
        "exponent",
        [slope],
        [_EXPONENT[setting.kernel_name]],
        [1e-4],
        "next order in r/ℓ <= 1e-5, and the resolution of the coordinates at r/ℓ = 1e-9",
    )


def _far_from_clean_data(setting: Setting, laws: Laws) -> Comparison:
    """The isolated law against refits where its assumption holds: a poison 60 length scales from the clean data."""
    location = setting.location + 60 * setting.length_scale * setting.direction
    probes = setting.probes(_R_OVER_L) + (location - setting.location)[None]
    count = setting.middle_count
    refit = setting.refitter.change(setting.ridge, location, setting.label, count, probes)
    poison = kp.Poison(location, setting.label, count)
    spike = np.asarray(laws.spike(setting.clean, poison, probes, setting.ridge, law="isolated"))
    return compare_with_refit(
        "isolated spike, poison 60 ℓ from the clean data", spike, refit.spike, refit.spike_rounding
    )


def _peak(setting: Setting, laws: Laws) -> Comparison:
    """For the RBF kernel the isolated spike is largest at r = ℓ, where it is (y_t S)²/(e ℓ²)."""
    poison, ridge = setting.poison(setting.middle_count), setting.ridge
    around = np.concatenate([[1.0], np.linspace(0.7, 1.3, 12)])
    spikes = np.asarray(laws.spike(setting.clean, poison, setting.probes(around), ridge, law="isolated"))
    gain = float(laws.gain(setting.clean, poison, ridge, law="isolated"))
    value = (setting.label * gain) ** 2 / (np.e * setting.length_scale**2)
    return compare(
        "largest isolated spike, at r = ℓ: (y_t S)²/(e ℓ²)",
        "closed form",
        [spikes[0], spikes.max()],
        [value, value],
        1e-12 * value,
        "rounding: thousands of operations of float64",
    )


def _finding(name: str) -> str:
    if _EXPONENT[name] == 0:
        where = " even across the sphere" if name in _ON_SPHERE else ""
        return f"{name} has no near-clone regime: its q stays constant as r → 0{where}"
    if name in _ON_SPHERE:
        return f"{name} has a near-clone regime only across the sphere: the radial part of q stays constant"
    return f"{name} has a near-clone regime: q falls like r²"
