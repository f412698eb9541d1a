"""Whole figures of a sweep, for the command line and for a first look."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from kpoison.plotting._style import style
from kpoison.plotting.laws import phase_diagram, phase_handles

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["draw_sweep"]


def draw_sweep(dataset: "xr.Dataset", *, success: float = 0.5, visible: float = 1e-3) -> Figure:
    """The phase diagram of every kernel, side by side, at the middle one of the ridges.

    Args:
        dataset: a sweep of efficacy and spike over r_over_l and m; of other axes but `kernel` and `ridge`, one value.
        success: |Δf| from which the attack succeeds, see `phase_diagram`.
        visible: Λ from which the spike is seen, see `phase_diagram`.

    Raises:
        ValueError: where the dataset does not fit.
    """
    dataset = dataset.isel(ridge=dataset.sizes["ridge"] // 2)
    cells = [dataset.sel(kernel=name) for name in dataset.kernel.values] if "kernel" in dataset.dims else [dataset]
    columns = min(3, len(cells))
    rows = -(-len(cells) // columns)
    with style():
        figure = Figure(figsize=(4.8 * columns, 4.0 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, cell in zip(axes, cells, strict=False):
            phase_diagram(ax, cell, success=success, visible=visible, legend=False)
            name = f"{cell.kernel.item()}, " if "kernel" in cell.coords else ""
            ax.set_title(f"{name}λ = {float(cell.ridge):.2g}")
        for ax in np.asarray(axes[len(cells) :]):
            ax.remove()
        handles = phase_handles(dataset, success, visible)
        columns = 2 if len(handles) > 3 else 3
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=3)
    return figure
