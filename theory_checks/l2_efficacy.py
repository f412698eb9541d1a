"""L2: Δf(x) = s k̃(x, ζ) for every x; linear in m at first, then saturating."""

import jax
import numpy as np

from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import compare_with_networks
from theory_checks.record import Panel, Record, compare, curve
from theory_checks.refit import compare_with_refit
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_R_OVER_L = np.concatenate([[0.0], np.logspace(-6, 0.5, 12)])
_UNBOUNDED = 1e12


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """Efficacy at probes from on top of ζ to far away, at the clean points, with f there, and its two limits in m."""
    clean, ridge, X = setting.clean, setting.ridge, setting.X
    probes = setting.probes(_R_OVER_L)
    comparisons, by_count = [], []
    for count in setting.counts:
        poison = setting.poison(count)
        refit = setting.refitter.change(ridge, setting.location, setting.label, count, probes)
        law = np.asarray(laws.efficacy(clean, poison, probes, ridge))
        by_count.append((law, refit.efficacy))
        comparisons.append(
            compare_with_refit(
                f"efficacy Δf(x0) for r/ℓ from 0 to 3, m = {count}", law, refit.efficacy, refit.efficacy_rounding
            )
        )
    # The same number of points, so that no further program is compiled.
    elsewhere = X[: len(_R_OVER_L)]
    count = setting.middle_count
    refit = setting.refitter.change(ridge, setting.location, setting.label, count, elsewhere)
    poisoned = setting.refitter.pair(ridge, setting.location, setting.label, count)[1].evaluate(elsewhere)
    predictions = {}
    if setting.thorough:
        predictions["predict"] = laws.predict(clean, elsewhere, ridge, setting.poison(count))
        predictions["predictor"] = jax.vmap(laws.predictor(clean, ridge, setting.poison(count)))(elsewhere)
    comparisons += [
        compare_with_refit(f"f at clean points, poisoned, by `{name}`", found, poisoned[0], poisoned[2])
        for name, found in predictions.items()
    ]
    law = laws.efficacy(clean, setting.poison(count), elsewhere, ridge)
    comparisons.append(compare_with_refit("efficacy Δf at clean points", law, refit.efficacy, refit.efficacy_rounding))
    comparisons.append(_saturation(setting, laws, probes))
    at, size = len(_R_OVER_L) // 2, np.abs(by_count)  # (counts, law and refit, probes)
    panels = [
        Panel(
            f"Efficacy against m, r/ℓ = {_R_OVER_L[at]:.1e}",
            "multiplicity m",
            "|Δf(x0)|",
            [
                curve("law", "line", setting.counts, size[:, 0, at]),
                curve("refit", "dots", setting.counts, size[:, 1, at]),
            ],
        ),
        Panel(
            f"Efficacy against distance, m = {count}",
            "r/ℓ",
            "|Δf(x0)|",
            [
                curve("law", "line", _R_OVER_L[1:], size[len(size) // 2, 0, 1:]),
                curve("refit", "dots", _R_OVER_L[1:], size[len(size) // 2, 1, 1:]),
            ],
        ),
    ]
    if setting.networks is not None:
        networks = setting.networks
        trained, law = networks.middle, networks.by_law(laws.efficacy)
        comparisons.append(compare_with_networks("efficacy Δf(x0)", law, trained.efficacy, networks.widths))
        panels.append(
            trained.panel(
                f", m = {networks.setting.middle_count}",
                "r/ℓ",
                "|Δf(x0)|",
                networks.r_over_l,
                np.abs(law[1:]),
                np.abs(trained.efficacy[..., 1:]),
            )
        )
    return setting.record(
        STATEMENTS["L2"],
        comparisons,
        [
            "with ρ = (n_c + m)λ the limit m → ∞ is y_t k(x, ζ)/(k(ζ, ζ) + λ): the ridge grows with m, the clean data "
            "are forgotten, and the saturation at fixed ρ, k̃(x, ζ)(y_t − f_c(ζ))/k̃(ζ, ζ), is passed on the way"
        ],
        panels,
    )


def _saturation(setting: Setting, laws: Laws, probes):
    """m → ∞ at fixed λ: only the poison is left, y_t k(x, ζ)/(k(ζ, ζ) + λ)."""
    law = np.asarray(laws.efficacy(setting.clean, setting.poison(_UNBOUNDED), probes, setting.ridge))
    cross = np.asarray(setting.kernel.pairwise(probes, setting.location[None]))[:, 0]
    own = float(setting.kernel.evaluate(setting.location, setting.location))
    limit = setting.label * cross / (own + setting.ridge)
    # What is neglected is f_c and k̃ − k, of relative size n_c k/(mλ).
    neglected = len(setting.X) * max(own, 1.0) / (_UNBOUNDED * setting.ridge)
    return compare(
        "efficacy in the limit m → ∞",
        "closed form",
        law,
        limit,
        10 * neglected * np.max(np.abs(limit)),
        f"terms of order n_c k/(mλ) at m = {_UNBOUNDED:.0e}",
    )
