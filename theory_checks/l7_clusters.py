"""L7: clusters of poisons are exact too; the clone law is their limit."""

import jax.numpy as jnp
import numpy as np

import kpoison as kp
from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import CLUSTER, compare_with_networks
from theory_checks.record import Panel, Record, compare, curve
from theory_checks.refit import compare_with_refit
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_R_OVER_L = np.concatenate([[0.0], np.logspace(-6, 0.5, 12)])
_RADII = np.logspace(-4, -3, 5)
_TWICE_DIFFERENTIABLE = 2


def _cluster(setting: Setting, radius: float, *, centred: bool) -> jnp.ndarray:
    """Locations about ζ at radius·ℓ; centred: opposite pairs."""
    generator = np.random.default_rng(setting.seed + 1)
    offsets = generator.standard_normal((CLUSTER, setting.X.shape[1]))
    if centred:
        offsets[CLUSTER // 2 :] = -offsets[: CLUSTER // 2]
    offsets /= np.linalg.norm(offsets, axis=1, keepdims=True)
    return setting.location[None] + radius * setting.length_scale * jnp.asarray(offsets)


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """A cluster with its own labels and counts against refits; the clone law's error in the radius."""
    clean, ridge, probes = setting.clean, setting.ridge, setting.probes(_R_OVER_L)
    locations = _cluster(setting, 0.3, centred=False)
    labels, counts = setting.label * np.array([1.0, 0.5, 1.0, -0.25]), np.array([5, 1, 2, 3])
    poison = kp.Poison(locations, labels, counts)
    refit = setting.refitter.change(ridge, locations, labels, counts, probes)
    law = np.asarray(laws.efficacy(clean, poison, probes, ridge))
    spike = np.asarray(laws.spike(clean, poison, probes, ridge))
    comparisons = [
        compare_with_refit("efficacy of a cluster", law, refit.efficacy, refit.efficacy_rounding),
        compare_with_refit("spike of a cluster", spike, refit.spike, refit.spike_rounding),
    ]
    smooth = setting.kernel.smoothness >= _TWICE_DIFFERENTIABLE
    curves, findings = [], []
    outside = setting.probes(np.logspace(-1, 0.5, len(_R_OVER_L)))
    for centred in (False, True):
        errors = []
        for radius in _RADII:
            cluster = kp.Poison(_cluster(setting, radius, centred=centred), setting.label, 2.0)
            clones = setting.poison(2 * CLUSTER)
            pair = [np.asarray(laws.efficacy(clean, p, outside, ridge)) for p in (cluster, clones)]
            # Over all probes: the first derivative may happen to be small at one of them.
            errors.append(float(np.linalg.norm(pair[0] - pair[1])))
        kind = "centred" if centred else "not centred"
        slope = float(np.polyfit(np.log(_RADII), np.log(errors), 1)[0])
        curves.append(curve(f"clone law, cluster {kind}", "dots", _RADII, errors))
        expected = 2.0 if centred else 1.0
        if smooth or not centred:
            comparisons.append(
                compare(
                    f"exponent of the clone law's error in the radius, {kind}",
                    "exponent",
                    [slope],
                    [expected],
                    [0.05],
                    "next order: radius/ℓ <= 1e-3, times the ratio of successive derivatives",
                )
            )
        else:
            findings.append(
                f"centred cluster, kernel with a cusp: the clone law's error falls like radius^{slope:.2f}, not radius²"
            )
    panels = [
        Panel(
            f"Cluster of {CLUSTER} poisons",
            "r/ℓ",
            "|Δf(x0)|",
            [
                curve("law", "line", _R_OVER_L[1:], np.abs(law[1:])),
                curve("refit", "dots", _R_OVER_L[1:], np.abs(refit.efficacy[1:])),
            ],
        ),
        Panel("Clone law for a cluster of radius ε", "ε/ℓ", "error of Δf over the probes", curves),
    ]
    # What a cluster tells of networks, the smooth ones tell; with kinks training takes twice as long.
    if setting.networks is not None and (setting.scale == "full" or not setting.networks.kinks):
        networks, small = setting.networks, setting.networks.setting
        poison = kp.Poison(_cluster(small, 0.3, centred=False), labels, counts)
        law = np.asarray(laws.efficacy(small.clean, poison, networks.probes, small.ridge))
        trained = networks.train(poison)
        comparisons.append(compare_with_networks("efficacy of a cluster", law, trained.efficacy, networks.widths))
        panels.append(
            trained.panel("", "r/ℓ", "|Δf(x0)|", networks.r_over_l, np.abs(law[1:]), np.abs(trained.efficacy[..., 1:]))
        )
    return setting.record(STATEMENTS["L7"], comparisons, findings, panels)
