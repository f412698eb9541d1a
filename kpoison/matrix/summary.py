"""What a matrix says, over its seeds."""

from typing import TYPE_CHECKING

import numpy as np

from kpoison.statistics import over_seeds

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["as_table", "summarise"]

_SHOWN = ("success", "predicted_success", "clean_accuracy", "true_positive", "false_positive", "auroc",
          "predicted_auroc", "predicted_visible")  # fmt: skip


def summarise(result: "xr.Dataset") -> "xr.Dataset":
    """Mean over seeds and half the width of its 95 % interval from Student's t, along a new first axis `statistic`.

    Args:
        result: of `attack_defence_matrix`.

    Returns:
        The same variables over statistic ("mean", "half_width"), attack and defence; seeds without a number are left
        out, and the half width is NaN for fewer than two.
    """
    import xarray as xr

    found = {}
    for name, variable in result.data_vars.items():
        if "seed" in variable.dims:
            mean, half_width, _ = over_seeds(variable.transpose("attack", "defence", "seed").values)
            found[name] = (("statistic", "attack", "defence"), np.stack([mean, half_width]))
    coordinates = {"statistic": ["mean", "half_width"], "attack": result.attack, "defence": result.defence}
    return xr.Dataset(found, coordinates, result.attrs)


def as_table(summary: "xr.Dataset") -> str:
    """A block of lines for each attack, one for each defence: means, ± half widths, – where there is no number."""
    width = max(len(str(name)) for name in summary.defence.values)
    header = "".join(f"{name.replace('_', ' '):>19}" for name in _SHOWN)
    lines = []
    for attack in summary.attack.values:
        lines.append(f"{attack}\n  {'':{width}}{header}")
        for defence in summary.defence.values:
            cell = summary.sel(attack=attack, defence=defence)
            numbers = "".join(f"{_number(cell[name].values):>19}" for name in _SHOWN)
            lines.append(f"  {defence:{width}}{numbers}")
    return "\n".join(lines)


def _number(values: np.ndarray) -> str:
    mean, half_width = values.tolist()
    if np.isnan(mean):
        return "–"
    return f"{mean:.2f}" if np.isnan(half_width) else f"{mean:.2f} ± {half_width:.2f}"
