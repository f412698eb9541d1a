"""N1: trained networks approach the NTK ridge predictor; the error falls like width^(−1/2)."""

import numpy as np

from kpoison.networks.scaling import errors_about
from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import compare_with_networks, rmse_slope, without_next_order
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_CONFIDENCE = 0.99


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """The limits of Δf and ∇Δf, and the slopes in width of their errors; None for kernels that are no NTK.

    The scale of `spike` drops out: a slope over these widths does not tell a law of Λ that is wrong by a few percent.
    L3 holds it, and here the limit of ∇Δf, of which Λ is the square.
    """
    networks = setting.networks
    if networks is None:
        return None
    small, trained = networks.setting, networks.middle
    # Arrays (q, components) by law, (W, S, q, components) by networks, and the expected slope; None: only reported.
    gradient_slope, spike_slope = (-0.25, None) if networks.kinks else (-0.5, -0.5)
    quantities = {
        "Δf": (laws.efficacy, trained.efficacy[:, :, 1:], -0.5),
        "∇Δf": (laws.efficacy_gradient, trained.gradient[:, :, 1:], gradient_slope),
        "Λ": (laws.spike, trained.spike[:, :, 1:], spike_slope),
    }
    widths = networks.widths
    comparisons, findings, series = _limits(setting, laws), [], []
    for symbol, (quantity, found, expected) in quantities.items():
        law = networks.by_law(quantity)[1:].ravel()
        samples = found.reshape(*found.shape[:2], -1)
        plain = rmse_slope(law, samples, widths, _CONFIDENCE)
        # The next order of a ReLU network's gradient is no 1/width, see `compare_with_networks`.
        fit = plain
        if not networks.kinks:
            fit = rmse_slope(law, without_next_order(law, samples, widths), widths, _CONFIDENCE)
        lower, upper = fit.interval
        if expected is not None:
            comparisons.append(
                compare(
                    f"slope in width of the error of {symbol}" + ("" if networks.kinks else ", less its next order"),
                    "slope",
                    [expected],
                    [fit.slope],
                    [(upper - lower) / 2],
                    f"{_CONFIDENCE:.0%} confidence interval over {networks.seeds} seeds",
                )
            )
        findings.append(
            f"error of {symbol} ∝ width^{fit.slope:.3f}, {_CONFIDENCE:.0%} interval [{lower:.3f}, {upper:.3f}]; "
            f"without any correction width^{plain.slope:.3f} [{plain.interval[0]:.3f}, {plain.interval[1]:.3f}]"
        )
        errors = errors_about(law, list(samples), widths)
        rmse = errors.rmse
        series.append(curve(f"rmse of {symbol}", "errorbar", widths, rmse, errors.standard_error))
        if expected is not None:
            guide = rmse[-1] * (widths / widths[-1]) ** expected
            series.append(curve(f"{symbol}: slope {expected:g}", "dashed", widths, guide))
    if networks.kinks:
        findings.append(
            "ReLU: ∇Δf errs like width^(−1/4), since O(√width) neurons are trained across their kink at the probe "
            "and each adds O(1/√width) to the gradient; Λ = ‖∇Δf‖² crosses over between −1/4 and −1/2 and is only "
            "reported"
        )
    return small.record(
        STATEMENTS["N1"],
        comparisons,
        findings,
        [Panel("Error of finite networks", "width", "rmse over seeds and probes", series)],
        **networks.arguments(),
    )


def _limits(setting: Setting, laws: Laws) -> list[Comparison]:
    """What Δf, and the slope of Δf in the direction where it is steepest by law, tend to."""
    networks = setting.networks
    assert networks is not None
    trained = networks.middle
    efficacy, gradient = (networks.by_law(law)[1:] for law in (laws.efficacy, laws.efficacy_gradient))
    steepness = np.linalg.norm(gradient, axis=1)
    along = np.einsum("wsqd,qd->wsq", trained.gradient[:, :, 1:], gradient / steepness[:, None])
    return [
        compare_with_networks("Δf", efficacy, trained.efficacy[:, :, 1:], networks.widths),
        compare_with_networks(
            "∇Δf along its direction by law", steepness, along, networks.widths, kinks=networks.kinks
        ),
    ]
