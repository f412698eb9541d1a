"""L4: the spike is q·Δf²: efficacy linear and curvature quadratic in the gain."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import FiniteWidth, compare_with_networks
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.refit import Change, compare_with_refit
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_R_OVER_L = np.logspace(-2, 0.3, 13)
_SHOWN = 6


class _Clones(NamedTuple):
    """What so many clones do at the probes: q and Λ by law, and a refit."""

    copies: int
    ratio: np.ndarray
    spike: np.ndarray
    refit: Change


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """Λ by law from q and Δf against refits, over m and r; and the exponent 2 against refits alone."""
    # A large ridge, so that the counts span linear response and the efficacy two decades.
    clean, ridge, probes = setting.clean, 100 * setting.ridge, setting.probes(_R_OVER_L)
    found = []
    for count in setting.counts:
        poison = setting.poison(count)
        ratio, spike = (
            np.asarray(law(clean, poison, probes, ridge)) for law in (laws.spike_efficacy_ratio, laws.spike)
        )
        refit = setting.refitter.change(ridge, setting.location, setting.label, count, probes)
        found.append(_Clones(count, ratio, spike, refit))
    exponent = _exponent(found)
    comparisons, panels = [*(one for clones in found for one in _compare(clones)), exponent], [_panel(found)]
    if setting.networks is not None:
        comparison, panel = _finite_width(setting.networks, laws)
        comparisons.append(comparison)
        panels.append(panel)
    findings = [f"exponent of Λ/q in |Δf| over the refits: {exponent.reference[0]:.9f}"]
    return setting.record(STATEMENTS["L4"], comparisons, findings, panels, ridge=ridge)


def _compare(clones: _Clones) -> list[Comparison]:
    """Λ by law, and q by law with Δf by refit."""
    copies, ratio, spike, refit = clones
    error, size = refit.efficacy_rounding, np.abs(refit.efficacy)
    rounding = refit.spike_rounding + ratio * error * (2 * size + error)
    return [
        compare_with_refit(f"Λ by law, m = {copies}", spike, refit.spike, refit.spike_rounding),
        compare_with_refit(f"q·Δf² with Δf by refit, m = {copies}", ratio * refit.efficacy**2, refit.spike, rounding),
    ]


def _exponent(found: Sequence[_Clones]) -> Comparison:
    """Slope of log(Λ/q) in log|Δf| as the count grows."""
    efficacy, spike, rounding, ratio = np.transpose(
        [
            (abs(refit.efficacy[_SHOWN]), refit.spike[_SHOWN], refit.spike_rounding[_SHOWN], ratio[_SHOWN])
            for _, ratio, _, refit in found
        ]
    )
    x = np.log(efficacy)
    exponent = np.polyfit(x, np.log(spike / ratio), 1)[0]
    # The misfit of log(Λ/q) of each point divided by the lever arm bounds the error of a fitted slope.
    reach = 2 * np.max(rounding / spike) * np.sqrt(len(x)) / np.linalg.norm(x - x.mean()) + 1e-10
    reason = "rounding of the refits over the spread of log|Δf|"
    return compare("exponent of Λ/q in |Δf| as m grows", "exponent", [2.0], [exponent], [reach], reason)


def _panel(found: Sequence[_Clones]) -> Panel:
    efficacy, law, spike = np.transpose(
        sorted((abs(refit.efficacy[_SHOWN]), law[_SHOWN], refit.spike[_SHOWN]) for _, _, law, refit in found)
    )
    return Panel(
        f"Spike against efficacy as m grows, r/ℓ = {_R_OVER_L[_SHOWN]:.2g}",
        "|Δf(x0)|",
        "Λ(x0)",
        [
            curve("law", "line", efficacy, law),
            curve("refit", "dots", efficacy, spike),
            curve("slope 2", "dashed", efficacy, spike[-1] * (efficacy / efficacy[-1]) ** 2),
        ],
    )


def _finite_width(networks: FiniteWidth, laws: Laws) -> tuple[Comparison, Panel]:
    """At r = ℓ, over the counts."""
    setting, ratios, law = networks.setting, [], []
    for count in setting.counts:
        trained, poison = networks.clones(count), setting.poison(count)
        ratios.append(trained.spike[:, :, -1] / trained.efficacy[:, :, -1] ** 2)
        law.append(float(laws.spike_efficacy_ratio(setting.clean, poison, networks.probes[-1], setting.ridge)))
    samples = np.stack(ratios, axis=-1)
    return (
        compare_with_networks("q = Λ/Δf² at r = ℓ", np.array(law), samples, networks.widths, kinks=networks.kinks),
        networks.middle.panel(", r = ℓ", "multiplicity m", "q = Λ/Δf²", setting.counts, law, samples),
    )
