"""L6: clean data near ζ keep the exact q above a floor as the probe approaches the poison."""

import numpy as np

import kpoison as kp
from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import compare_with_networks
from theory_checks.record import Panel, Record, compare, curve
from theory_checks.refit import compare_with_refit
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_R_OVER_L = np.concatenate([[0.0], np.logspace(-9, 0.5, 12)])
_TWICE_DIFFERENTIABLE = 2


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """The floor against the gradient of refits at ζ, and as the limit of q; the exact q over the isolated one.

    `spike` and `spike_efficacy_ratio` are shown beside them only, in findings and the figure; L3 and L4 hold their
    scale.
    """
    clean, ridge, count = setting.clean, setting.ridge, setting.middle_count
    poison, probes = setting.poison(count), setting.probes(_R_OVER_L)
    floor = float(laws.coupling_floor(clean, poison, ridge))
    refit = setting.refitter.change(ridge, setting.location, setting.label, count, probes)
    ratio, rounding = refit.ratio, refit.ratio_rounding
    comparisons = [compare_with_refit("floor q(ζ, ζ)", [floor], ratio[:1], rounding[:1])]
    exact = np.asarray(laws.spike_efficacy_ratio(clean, poison, probes, ridge))
    isolated = np.asarray(laws.spike_efficacy_ratio(clean, poison, probes, ridge, law="isolated"))
    smooth = setting.kernel.smoothness >= _TWICE_DIFFERENTIABLE
    if smooth:
        # q is differentiable at ζ: at r/ℓ = 1e-9 it has moved by the order of 1e-9.
        comparisons.append(
            compare(
                "limit of the refitted q as r/ℓ → 1e-9",
                "refit",
                [floor],
                ratio[1:2],
                rounding[1:2] + 1e-7 * floor,
                "first order in r/ℓ",
            )
        )
    spikes = np.asarray(laws.spike(clean, poison, probes, ridge))
    if setting.thorough and np.all(isolated[1:] > 0):
        alone = np.asarray(kp.spike_efficacy_ratio(clean, poison, probes, ridge, law="isolated"))[1:]
        found = laws.coupling_ratio(clean, poison, probes[1:], ridge)
        comparisons.append(compare_with_refit("exact over isolated q", found, ratio[1:] / alone, rounding[1:] / alone))
    findings = [
        f"exact q(ζ, ζ) = {floor:.4g}; at r/ℓ = 1e-9 the isolated law says {isolated[1]:.3g} and the exact one "
        f"{exact[1]:.3g}; at r = ℓ or so ({_R_OVER_L[-2]:.2g}) {isolated[-2]:.3g} and {exact[-2]:.3g}",
        f"exact spike at r/ℓ = 1e-9: {spikes[1]:.3g} at m = {count}",
    ]
    if not smooth:
        findings.append(
            "the kernel has a cusp at ζ: q(ζ, ζ) holds the symmetric part of the gradient, q(r → 0) the one-sided one"
        )
    x = _R_OVER_L[1:]
    series = [
        curve("law, exact", "line", x, exact[1:]),
        curve("refit", "dots", x, ratio[1:]),
        curve("law, isolated", "dashed", x, isolated[1:]),
        curve("floor q(ζ, ζ)", "dashed", x[[0, -1]], [floor, floor]),
    ]
    if setting.networks is not None:
        networks, small = setting.networks, setting.networks.setting
        samples = (networks.middle.spike / networks.middle.efficacy**2)[:, :, :1]
        law = np.asarray(laws.coupling_floor(small.clean, small.poison(small.middle_count), small.ridge))
        if smooth:
            comparisons.append(compare_with_networks("floor q(ζ, ζ)", law, samples, networks.widths))
        else:
            findings.append(
                "not compared with finite networks: the gradient of a trained ReLU network at a training point is one "
                "of the one-sided ones"
            )
    return setting.record(
        STATEMENTS["L6"], comparisons, findings, [Panel("Coupling floor", "r/ℓ", "q = Λ/Δf²", series)]
    )
