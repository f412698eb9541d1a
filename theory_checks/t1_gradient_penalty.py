"""T1: the gradient-penalised predictor is conditioning on flat slopes; the poison's laws hold for it unchanged."""

import jax.numpy as jnp
import numpy as np

import kpoison as kp
from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import FiniteWidth, compare_with_networks, rmse_slope, without_next_order
from theory_checks.penalised import ROUNDING, few_points, penalised_pair
from theory_checks.record import Comparison, Panel, Record, compare, curve, of_square
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_POINTS = 40
_COUNT = 3
_R_OVER_L = np.array([0.0, 0.01, 0.1, 0.3, 1.0])
_SHOWN = -2
_PENALTIES = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])  # in units of ℓ²
_NETWORK_PENALTY = 0.03
_EPS = float(np.finfo(float).eps)


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Prediction, efficacy and spike against refits with copied poisons; the linear kernel's identity; finite width."""
    if setting.kernel.smoothness < 2:
        return None
    small = few_points(setting, _POINTS)
    probes, poison, unit = small.probes(_R_OVER_L), small.poison(_COUNT), small.length_scale**2
    problems = penalised_pair(small, _COUNT, probes)
    comparisons: list[Comparison] = []
    shown = []
    for penalty in _PENALTIES:
        clean = kp.fit(small.kernel, small.X, small.y, gradient_penalty=penalty * unit)
        before, after = (problem.trained(penalty * unit) for problem in problems)
        efficacy, gradient = after.values - before.values, after.gradients - before.gradients
        spike, error = np.sum(gradient**2, axis=1), before.rounding + after.rounding
        found = (laws.efficacy(clean, poison, probes, small.ridge), laws.spike(clean, poison, probes, small.ridge))
        name, predicted = f"γ = {penalty:g} ℓ²", kp.predict(clean, probes, small.ridge, poison)
        comparisons += [
            compare(f"poisoned prediction, {name}", "refit", predicted, after.values, after.rounding, ROUNDING),
            compare(f"Δf, {name}", "refit", found[0], efficacy, error, ROUNDING),
            compare(f"Λ, {name}", "refit", found[1], spike, of_square(spike, error), ROUNDING),
        ]
        shown.append([abs(float(values[_SHOWN])) for values in (*found, efficacy, spike)])
    comparisons.append(_linear_identity(small, poison, probes))
    x, table = _PENALTIES, np.array(shown).T
    panels = [
        Panel(
            f"{name} against penalty, m = {_COUNT}, r/ℓ = {_R_OVER_L[_SHOWN]:g}",
            "γ/ℓ²",
            label,
            [curve("law", "line", x, law), curve("refit", "dots", x, refit)],
        )
        for name, label, law, refit in (
            ("Efficacy", "|Δf|", table[0], table[2]),
            ("Spike", "spike Λ ℓ²", table[1] * unit, table[3] * unit),
        )
    ]
    findings = [
        f"from γ = {x[0]:g} ℓ² to {x[-1]:g} ℓ², at r/ℓ = {_R_OVER_L[_SHOWN]:g}: |Δf| falls by a factor "
        f"{table[0, 0] / table[0, -1]:.3g}, the spike by {table[1, 0] / table[1, -1]:.3g}"
    ]
    if setting.networks is not None and not setting.networks.kinks:
        compared, finding, panel = _finite_width(setting.networks, laws)
        comparisons += compared
        findings.append(finding)
        panels.append(panel)
    return setting.record(STATEMENTS["T1"], comparisons, findings, panels, ridge=small.ridge, n_c=len(small.X))


def _linear_identity(setting: Setting, poison: kp.Poison, probes) -> Comparison:
    """A penalty γ on a linear kernel is one more ridge."""
    penalty, linear, X, ridge = 0.3, kp.kernels.Linear(), setting.X, setting.ridge
    penalised, plain = kp.fit(linear, X, setting.y, gradient_penalty=penalty), kp.fit(linear, X, setting.y)
    expected = np.asarray(kp.predict(plain, probes, ridge + penalty, poison))
    return compare(
        "linear kernel: γ acts as ridge λ + γ",
        "closed form",
        kp.predict(penalised, probes, ridge, poison),
        expected,
        # The condition numbers of both are those of XXᵀ over the smaller ridge.
        1e3 * _EPS * float(jnp.sum(X**2)) / (len(X) * ridge) * np.max(np.abs(expected)),
        "1000 · eps · condition number",
    )


def _finite_width(networks: FiniteWidth, laws: Laws) -> tuple[list[Comparison], str, Panel]:
    """Networks trained with the penalty on their input gradients, by double back-propagation."""
    setting, count = networks.setting, networks.setting.counts[-1]
    penalty = _NETWORK_PENALTY * setting.length_scale**2
    clean = kp.fit(setting.kernel, setting.X, setting.y, gradient_penalty=penalty)
    poison, found = setting.poison(count), networks.penalised(count, penalty)
    efficacy, spike = (
        np.asarray(law(clean, poison, networks.probes, setting.ridge)) for law in (laws.efficacy, laws.spike)
    )
    slope = rmse_slope(efficacy, without_next_order(efficacy, found.efficacy, found.widths), found.widths, 0.95)
    x = np.append(0.0, networks.r_over_l)
    return (
        [
            compare_with_networks("Δf, γ > 0", efficacy, found.efficacy, found.widths),
            compare_with_networks("Λ, γ > 0", spike, found.spike, found.widths),
        ],
        f"slope in width of the rmse of Δf with γ = {_NETWORK_PENALTY:g} ℓ²: {slope.slope:.2f} "
        f"[{slope.interval[0]:.2f}, {slope.interval[1]:.2f}] (95 %), expected −1/2",
        found.panel(
            f", γ = {_NETWORK_PENALTY:g} ℓ², m = {count}",
            "r/ℓ",
            "Δf",
            x,
            efficacy,
            found.efficacy,
            xscale="linear",
            yscale="linear",
        ),
    )
