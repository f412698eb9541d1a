"""T2: gradient flow in closed form, with and without a gradient penalty, against an integrated equation."""

import jax.numpy as jnp
import numpy as np

import kpoison as kp
from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import FiniteWidth, compare_with_networks, rmse_slope, without_next_order
from theory_checks.penalised import ODE_TOLERANCE, few_points, penalised_pair
from theory_checks.record import Comparison, Panel, Record, compare, curve, of_square
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_POINTS = 24
_COUNT = 3
_R_OVER_L = np.array([0.0, 0.1, 1.0])
_SHOWN = 1
_TIMES = np.array([0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0])
_PENALTIES = (0.0, 1e-2, 1e-1)  # in units of ℓ²
_NETWORK_PENALTY = 0.03
_NETWORK_TIMES = (0.3, 3.0, 30.0)
_REASON = f"integration with rtol 1e-10 per step: {ODE_TOLERANCE:g} of the largest value"


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Predictions, Δf and Λ along t for several γ; the paper's own penalty beside them; finite width."""
    if setting.kernel.smoothness < 2:
        return None
    small = few_points(setting, _POINTS)
    probes, poison = small.probes(_R_OVER_L), small.poison(_COUNT)
    unit = small.length_scale**2
    problems = penalised_pair(small, _COUNT, probes)
    comparisons, efficacies, spikes = [], [], []
    for penalty in _PENALTIES:
        clean = kp.fit(small.kernel, small.X, small.y, gradient_penalty=penalty * unit)
        stopped = [laws.early_stopped(clean, time) for time in _TIMES]
        before, after = (problem.flow(penalty * unit, _TIMES) for problem in problems)
        values, gradients = (np.array([getattr(s, name) for s in after]) for name in ("values", "gradients"))
        efficacy = values - np.array([solved.values for solved in before])
        spike = np.sum((gradients - np.array([solved.gradients for solved in before])) ** 2, axis=2)
        predicted = np.array([kp.predict(posterior, probes, small.ridge, poison) for posterior in stopped])
        efficacy_by_law, spike_by_law = (
            np.array([law(posterior, poison, probes, small.ridge) for posterior in stopped])
            for law in (laws.efficacy, laws.spike)
        )
        # Of the values and gradients that are subtracted.
        error = 2 * ODE_TOLERANCE * np.abs(values).max()
        steepest = np.linalg.norm(gradients, axis=2).max()
        comparisons += [
            compare(f"{quantity} along t, γ = {penalty:g} ℓ²", "simulation", law, reference, tolerance, _REASON)
            for quantity, law, reference, tolerance in (
                ("poisoned prediction", predicted, values, error),
                ("Δf", efficacy_by_law, efficacy, error),
                ("Λ", spike_by_law, spike, of_square(spike, 2 * ODE_TOLERANCE * steepest)),
            )
        ]
        efficacies.append(np.abs([efficacy_by_law, efficacy])[:, :, _SHOWN])
        spikes.append(unit * np.array([spike_by_law, spike])[:, :, _SHOWN])
    panels = [_along_time("|Δf|", efficacies), _along_time("spike Λ ℓ²", spikes)]
    finding, panel = _loss_gradient(small, unit * _PENALTIES[-1])
    panels.append(panel)
    findings = [finding]
    if setting.networks is not None:
        compared, finding, panel = _finite_width(setting.networks, laws)
        comparisons += compared
        findings.append(finding)
        panels.append(panel)
    return setting.record(
        STATEMENTS["T2"], comparisons, findings, panels, ridge=small.ridge, n_c=len(small.X), times=_TIMES.tolist()
    )


def _along_time(quantity: str, curves: list[np.ndarray]) -> Panel:
    """Of each penalty but the middle one, by law and integrated."""
    series = []
    for penalty, (law, reference) in zip(_PENALTIES[::2], curves[::2], strict=True):
        series += [
            curve(f"closed form, γ = {penalty:g} ℓ²", "line", _TIMES, law),
            curve(f"integrated, γ = {penalty:g} ℓ²", "dots", _TIMES, reference),
        ]
    return Panel(f"m = {_COUNT}, r/ℓ = {_R_OVER_L[_SHOWN]:g}", "training time t", quantity, series)


def _loss_gradient(setting: Setting, penalty: float) -> tuple[str, Panel]:
    """The paper's penalty on the gradient of the loss, beside that on the gradient of f, for labels ±1."""
    labels = jnp.where(setting.y > 0, 1.0, -1.0)
    probes, poison = setting.probes(_R_OVER_L[_SHOWN : _SHOWN + 1]), setting.poison(_COUNT)
    clean = kp.fit(setting.kernel, setting.X, labels, gradient_penalty=penalty)
    plain = kp.fit(setting.kernel, setting.X, labels)
    closed, none = (
        np.asarray(kp.flow.trajectory(kp.efficacy, posterior, _TIMES, poison, probes, setting.ridge))[:, 0]
        for posterior in (clean, plain)
    )
    total = len(setting.X) + _COUNT
    without, with_poison = (
        np.asarray(kp.flow.loss_gradient_flow(clean, setting.ridge, _TIMES, poisoned, total=total)(probes))[:, 0]
        for poisoned in (setting.poison(0), poison)  # no clones: one compiled program for both
    )
    integrated = with_poison - without
    apart = np.abs(integrated - closed) / np.maximum(np.abs(none - closed), np.finfo(float).tiny)
    text = ", ".join(f"{t:g}: {a:.2g}" for t, a in zip(_TIMES[::2], apart[::2], strict=True))
    return (
        f"penalty on the gradient of the loss (γ = {_PENALTIES[-1]:g} ℓ², labels ±1), distance of its Δf from the "
        f"closed form over the closed form's from no penalty, at t = {text}: equal at first, where residuals are 1, "
        "and the penalty fades as the data are fitted",
        Panel(
            f"Two penalties, γ = {_PENALTIES[-1]:g} ℓ², r/ℓ = {_R_OVER_L[_SHOWN]:g}",
            "training time t",
            "|Δf|",
            [
                curve("on ∇f, closed form", "line", _TIMES, np.abs(closed)),
                curve("none", "dashed", _TIMES, np.abs(none)),
                curve("on ∇ loss, integrated", "dots", _TIMES, np.abs(integrated)),
            ],
        ),
    )


def _finite_width(networks: FiniteWidth, laws: Laws) -> tuple[list[Comparison], str, Panel]:
    """Networks that flow in their parameters, with the gradient penalty on their outputs."""
    setting, count = networks.setting, networks.setting.counts[-1]
    penalty = _NETWORK_PENALTY * setting.length_scale**2
    clean = kp.fit(setting.kernel, setting.X, setting.y, gradient_penalty=penalty)
    poison, probes = setting.poison(count), networks.probes
    comparisons, shown, slopes = [], [], []
    flows = networks.flow(count, _NETWORK_TIMES, penalty)
    for time, found in zip(_NETWORK_TIMES, flows, strict=True):
        stopped = laws.early_stopped(clean, time)
        law = np.asarray(laws.efficacy(stopped, poison, probes, setting.ridge))
        samples = without_next_order(law, found.efficacy, found.widths)
        slope = rmse_slope(law, samples, found.widths, 0.95)
        comparisons += [
            compare_with_networks(f"Δf at t = {time:g}, γ > 0", law, found.efficacy, found.widths),
            compare_with_networks(
                f"Λ at t = {time:g}, γ > 0",
                np.asarray(laws.spike(stopped, poison, probes, setting.ridge)),
                found.spike,
                found.widths,
            ),
        ]
        slopes.append(f"{slope.slope:.2f} [{slope.interval[0]:.2f}, {slope.interval[1]:.2f}] at t = {time:g}")
        shown.append((law[_SHOWN], found.efficacy[:, :, _SHOWN]))
    laws_shown, samples_shown = zip(*shown, strict=True)
    panel = flows[0].panel(
        f", γ > 0, m = {count}",
        "training time t",
        f"Δf at r/ℓ = {networks.r_over_l[_SHOWN - 1]:g}",
        _NETWORK_TIMES,
        laws_shown,
        np.stack(samples_shown, axis=-1),
        yscale="linear",
    )
    return comparisons, f"slope in width of the rmse of Δf (95 %): {', '.join(slopes)}; expected −1/2", panel
