"""Parts of the experiments' figures."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from kpoison.experiments.measuring import Matrix
from kpoison.plotting import label_narrow_axis

__all__ = [
    "MATRIX_NAMES",
    "against_edge",
    "legend_beside",
    "mean_and_range",
    "overlaps_by_rank",
    "shares",
    "shown",
    "ticks_at",
]

MATRIX_NAMES: dict[Matrix, str] = {"hessian": "Hessian of the loss", "logits": "JᵀJ of the logits"}


def mean_and_range(ax: Axes, x, values: np.ndarray, label: str, colour: str, *, dashed: bool = False) -> None:
    """Mean over seeds as a line, and the range of them as a band; values (seeds, points)."""
    ax.plot(x, values.mean(axis=0), "--" if dashed else "-", color=colour, label=label, marker=".", markersize=4)
    ax.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.1 if dashed else 0.2, linewidth=0)


def shares(ax: Axes, title: str, xlabel: str, ylabel: str = "share") -> None:
    """Axes of rates between 0 and 1, or of what is drawn of their differences."""
    ax.set(title=title, xscale="log", xlabel=xlabel, ylabel=ylabel, ylim=(min(0.0, ax.dataLim.ymin) - 0.03, 1.03))
    ax.legend()


def against_edge(ax: Axes, xlabel: str, title: str = "") -> None:
    """Axes of λ₁ over the edge of the clean runs, which is marked."""
    ax.axhline(1.0, color="black", linewidth=1, linestyle=":", label="edge: visible above, if aligned")
    ax.set(title=title, xscale="log", yscale="log", xlabel=xlabel, ylabel="λ₁ / edge of clean runs")
    ax.legend()


def legend_beside(row: Sequence[Axes] | np.ndarray) -> None:
    """One legend for axes side by side, to the right of the last, in place of their own that hide curves."""
    fullest = max(row, key=lambda ax: len(ax.get_legend_handles_labels()[1]))
    for ax in row:
        if (legend := ax.get_legend()) is not None:
            legend.remove()
    row[-1].legend(*fullest.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.02, 0.5))


def overlaps_by_rank(ax: Axes, fractions: Sequence[float], overlaps: np.ndarray) -> None:
    """cos² (fractions, ranks) with the trigger as a map: the poison moves to the first eigenvectors with θ."""
    number = overlaps.shape[1]
    picture = ax.imshow(overlaps.T, origin="upper", aspect="auto", cmap="viridis", vmin=0, vmax=1)
    for (place, rank), value in np.ndenumerate(overlaps):
        if value >= 0.05:
            ink = "black" if value > 0.5 else "white"
            ax.text(place, rank, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
    ax.set_xticks(range(len(fractions)), [f"{fraction:g}" if fraction else "clean" for fraction in fractions])
    ax.set_yticks(range(number), [str(rank + 1) for rank in range(number)])
    ax.set(xlabel="poisoned fraction θ", ylabel="eigenvector by rank")
    ax.grid(visible=False)
    ax.figure.colorbar(picture, ax=ax, label="cos²")


def ticks_at(ax: Axes, places) -> None:
    """Ticks at these few numbers alone."""
    ax.set_xticks(places, [f"{place:g}" for place in places])
    ax.xaxis.set_minor_locator(NullLocator())


def shown(figure: Figure, title: str) -> None:
    """A title, and plain numbers on logarithmic axes of few decades."""
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if axis.get_scale() == "log":
                label_narrow_axis(axis)
    figure.suptitle(title)
