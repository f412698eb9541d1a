"""Parts of the experiments' figures."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory_checks.figures import label_narrow_axis

__all__ = ["against_edge", "mean_and_range", "shares", "shown"]


def mean_and_range(ax: Axes, x, values: np.ndarray, label: str, colour: str, *, dashed: bool = False) -> None:
    """Mean over seeds as a line, and the range of them as a band; values (seeds, points)."""
    ax.plot(x, values.mean(axis=0), "--" if dashed else "-", color=colour, label=label, marker=".", markersize=4)
    ax.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.1 if dashed else 0.2, linewidth=0)


def shares(ax: Axes, title: str, xlabel: str) -> None:
    """Axes of rates between 0 and 1."""
    ax.set(title=title, xscale="log", xlabel=xlabel, ylabel="share", ylim=(-0.03, 1.03))
    ax.legend()


def against_edge(ax: Axes, xlabel: str, title: str = "") -> None:
    """Axes of λ₁ over the edge of the clean runs, which is marked."""
    ax.axhline(1.0, color="black", linewidth=1, linestyle=":", label="edge: visible above, if aligned")
    ax.set(title=title, xscale="log", yscale="log", xlabel=xlabel, ylabel="λ₁ / edge of clean runs")
    ax.legend()


def shown(figure: Figure, title: str) -> None:
    """A title, and plain numbers on logarithmic axes of few decades."""
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if axis.get_scale() == "log":
                label_narrow_axis(axis)
    figure.suptitle(title)
