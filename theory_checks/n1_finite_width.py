"""N1: trained networks approach the NTK ridge predictor; the error falls like width^(−1/2)."""

import numpy as np

from theory_checks.finite_width import rmse_slope, without_next_order
from theory_checks.record import Panel, Record, Series, compare
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_CONFIDENCE = 0.99


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Slope in width of the errors of Δf and Λ; None for kernels that are no NTK."""
    networks = setting.networks
    if networks is None:
        return None
    small = networks.setting
    count = small.middle_count
    trained, poison = networks.clones(count), small.poison(count)
    probes = networks.probes[1:]
    quantities = {
        "Δf": (np.asarray(laws.efficacy(small.clean, poison, probes, small.ridge)), trained.efficacy[:, :, 1:]),
        "Λ": (np.asarray(laws.spike(small.clean, poison, probes, small.ridge)), trained.spike[:, :, 1:]),
    }
    comparisons, findings, series = [], [], []
    widths = networks.widths
    for symbol, (law, samples) in quantities.items():
        plain = rmse_slope(law, samples, widths, _CONFIDENCE)
        fit = rmse_slope(law, without_next_order(law, samples, widths), widths, _CONFIDENCE)
        lower, upper = fit.interval
        comparisons.append(
            compare(
                f"slope in width of the error of {symbol}, its next order 1/width taken out",
                "slope",
                [-0.5],
                [fit.slope],
                [(upper - lower) / 2],
                f"{_CONFIDENCE:.0%} confidence interval over {networks.seeds} seeds",
            )
        )
        findings.append(
            f"error of {symbol} ∝ width^{fit.slope:.3f}, {_CONFIDENCE:.0%} interval [{lower:.3f}, {upper:.3f}]; with "
            f"its next order left in, width^{plain.slope:.3f} [{plain.interval[0]:.3f}, {plain.interval[1]:.3f}]"
        )
        rmse = np.sqrt(((samples - law) ** 2).mean(axis=(1, 2)))
        reach = rmse * np.sqrt(1 / (2 * networks.seeds))
        series += [
            Series(f"rmse of {symbol}", "errorbar", widths.tolist(), rmse.tolist(), reach.tolist()),
            Series(
                f"{symbol}: slope −1/2",
                "dashed",
                widths.tolist(),
                (rmse[-1] * (widths / widths[-1]) ** -0.5).tolist(),
            ),
        ]
    return Record(
        "N1",
        "Finite width",
        "A trained network converges to the NTK ridge predictor; the rmse over seeds falls like width^(−1/2).",
        setting.kernel_name,
        small.data,
        comparisons,
        findings,
        [Panel("Error of finite networks", "width", "rmse over seeds and probes", series)],
        small.arguments() | networks.arguments(),
    )
