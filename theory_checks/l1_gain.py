"""L1: m clones are one observation with noise ρ/m; the gain is S(m; λ) = m/(ρ + m k̃(ζ, ζ))."""

import numpy as np

from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import FiniteWidth, compare_with_networks, error_bars
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.refit import compare_with_refit
from theory_checks.setting import Laws, Setting

__all__ = ["check"]


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """Gain against the dual coefficients of physical copies, and of trained networks."""
    clean, ridge = setting.clean, setting.ridge
    law, isolated, refit, tolerance, spread, spread_tolerance = [], [], [], [], [], []
    for count in setting.counts:
        poison = setting.poison(count)
        law.append(float(laws.gain(clean, poison, ridge)))
        isolated.append(float(laws.gain(clean, poison, ridge, law="isolated")))
        before, after = setting.refitter.pair(ridge, setting.location, setting.label, count)
        values, _, rounding, _ = before.evaluate(setting.location[None])
        surprise = setting.label - values[0]
        refit.append(after.clone_coefficients.sum() / surprise)
        tolerance.append((after.rounding * np.sqrt(count) + abs(refit[-1]) * rounding[0]) / abs(surprise))
        spread.append(np.ptp(after.clone_coefficients))
        spread_tolerance.append(after.rounding)
    own = float(setting.kernel.evaluate(setting.location, setting.location))
    closed = [m / ((len(setting.X) + m) * ridge + m * own) for m in setting.counts]
    comparisons = [
        compare_with_refit("gain S(m; λ)", law, refit, tolerance),
        compare_with_refit(
            "spread of the copies' dual coefficients (0: they collapse)",
            np.zeros(len(spread)),
            spread,
            spread_tolerance,
        ),
        compare(
            "isolated gain m/(nλ + m k(ζ, ζ))",
            "closed form",
            isolated,
            closed,
            1e-14 * np.abs(closed),
            "a few roundings of float64",
        ),
    ]
    ratio = np.divide(law, isolated)
    findings = [
        f"exact gain / isolated gain: {ratio[0]:.4g} at m = {setting.counts[0]}, {ratio[-1]:.4g} at "
        f"m = {setting.counts[-1]}; it is 1 where the clean data do not reach ζ"
    ]
    panels = [
        Panel(
            "Poison gain",
            "multiplicity m",
            "S(m; λ)",
            [
                curve("law, exact", "line", setting.counts, law),
                curve("law, isolated", "dashed", setting.counts, isolated),
                curve("refit", "dots", setting.counts, refit),
            ],
        )
    ]
    if setting.networks is not None:
        comparison, panel = _finite_width(setting.networks, laws)
        comparisons.append(comparison)
        panels.append(panel)
    return setting.record(STATEMENTS["L1"], comparisons, findings, panels)


def _finite_width(networks: FiniteWidth, laws: Laws) -> tuple[Comparison, Panel]:
    """A trained network's dual coefficient of the poison is m (y_t − f(ζ))/(nλ), from its stationarity."""
    setting = networks.setting
    gains, law = [], []
    for count in setting.counts:
        trained = networks.clones(count)
        before = trained.clean[:, :, 0]
        after = before + trained.efficacy[:, :, 0]
        rho = (len(setting.X) + count) * setting.ridge
        gains.append(count * (setting.label - after) / (rho * (setting.label - before)))
        law.append(float(laws.gain(setting.clean, setting.poison(count), setting.ridge)))
    samples = np.stack(gains, axis=-1)
    panel = Panel(
        f"Gain in networks of width {networks.widths[-1]}",
        "multiplicity m",
        "S(m; λ)",
        [curve("law", "line", setting.counts, law), error_bars("networks", setting.counts, samples[-1])],
    )
    return compare_with_networks("gain S(m; λ)", np.array(law), samples, networks.widths), panel
