"""L4: the spike is q·Δf²: efficacy linear and curvature quadratic in the gain."""

import numpy as np

from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import compare_with_networks
from theory_checks.record import Panel, Record, compare, curve
from theory_checks.refit import compare_with_refit
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_R_OVER_L = np.logspace(-2, 0.3, 13)


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """Λ by law from q and Δf against refits, over m and r; and the exponent 2 against refits alone."""
    # A large ridge, so that the counts span linear response and the efficacy two decades.
    clean, ridge = setting.clean, 100 * setting.ridge
    probes = setting.probes(_R_OVER_L)
    at = 6
    comparisons, efficacies, spikes, laws_at, residuals, residual_errors = [], [], [], [], [], []
    for count in setting.counts:
        poison = setting.poison(count)
        refit = setting.refitter.change(ridge, setting.location, setting.label, count, probes)
        ratio = np.asarray(laws.spike_efficacy_ratio(clean, poison, probes, ridge))
        law = np.asarray(laws.spike(clean, poison, probes, ridge))
        comparisons += [
            compare_with_refit(f"Λ by law, m = {count}", law, refit.spike, refit.spike_rounding),
            compare_with_refit(
                f"q·Δf² with Δf by refit, m = {count}",
                ratio * refit.efficacy**2,
                refit.spike,
                refit.spike_rounding
                + 2 * ratio * np.abs(refit.efficacy) * refit.efficacy_rounding
                + ratio * refit.efficacy_rounding**2,
            ),
        ]
        efficacies.append(abs(float(refit.efficacy[at])))
        spikes.append(float(refit.spike[at]))
        laws_at.append(float(law[at]))
        residuals.append(np.log(spikes[-1] / float(ratio[at])))
        residual_errors.append(refit.spike_rounding[at] / spikes[-1])
    order = np.argsort(efficacies)
    x, y = np.log(efficacies)[order], np.array(residuals)[order]
    exponent = np.polyfit(x, y, 1)[0]
    # The misfit of log(Λ/q) of each point divided by the lever arm bounds the error of a fitted slope.
    reach = 2 * np.max(residual_errors) * np.sqrt(len(x)) / np.linalg.norm(x - x.mean()) + 1e-10
    comparisons.append(
        compare(
            "exponent of Λ/q in |Δf| as m grows",
            "exponent",
            [2.0],
            [exponent],
            [reach],
            "rounding of the refits over the spread of log|Δf|",
        )
    )
    panels = [
        Panel(
            f"Spike against efficacy as m grows, r/ℓ = {_R_OVER_L[at]:.2g}",
            "|Δf(x0)|",
            "Λ(x0)",
            [
                curve("law", "line", np.array(efficacies)[order], np.array(laws_at)[order]),
                curve("refit", "dots", efficacies, spikes),
                curve("slope 2", "dashed", efficacies, [spikes[-1] * (e / efficacies[-1]) ** 2 for e in efficacies]),
            ],
        )
    ]
    findings = [f"exponent of Λ/q in |Δf| over the refits: {exponent:.9f}"]
    if setting.networks is not None:
        networks, small = setting.networks, setting.networks.setting
        ratios, law = [], []
        for count in small.counts:
            trained = networks.clones(count)
            ratios.append(trained.spike[:, :, -1] / trained.efficacy[:, :, -1] ** 2)
            law.append(
                float(laws.spike_efficacy_ratio(small.clean, small.poison(count), networks.probes[-1], small.ridge))
            )
        samples = np.stack(ratios, axis=-1)
        comparisons.append(
            compare_with_networks("q = Λ/Δf² at r = ℓ", np.array(law), samples, networks.widths, kinks=networks.kinks)
        )
        panels.append(networks.middle.panel(", r = ℓ", "multiplicity m", "q = Λ/Δf²", small.counts, law, samples))
    return setting.record(STATEMENTS["L4"], comparisons, findings, panels, ridge=ridge)
