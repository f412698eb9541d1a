"""Laws of the typical training set against what is simulated."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kpoison.plotting._style import COLOURS, label_narrow_axis, style

__all__ = ["LawCurve", "LawPanel", "draw_laws"]

_MARKERS = ("o", "s", "^", "D")
_DOTS: dict[str, Any] = {"markerfacecolor": "none", "markersize": 4.5, "capsize": 2, "linewidth": 1.0}
Points = Sequence[float] | np.ndarray


class LawCurve(NamedTuple):
    """A law, or what is measured beside it.

    Attributes:
        label: in the legend, which has each once.
        x, y: numbers.
        spread: of y: a band about a law, bars about dots; None for none.
        kind: a law's line, or dots.
        colour: an index; a law and its dots share one.
    """

    label: str
    x: Points
    y: Points
    spread: Points | None = None
    kind: Literal["law", "dots"] = "law"
    colour: int = 0


class LawPanel(NamedTuple):
    """One pair of axes.

    Attributes:
        title, xlabel, ylabel: of it.
        curves: to draw.
        logarithmic: axes, of "x" and "y".
        ylim: of the axis; None for what matplotlib finds.
    """

    title: str
    xlabel: str
    ylabel: str
    curves: list[LawCurve]
    logarithmic: str = ""
    ylim: tuple[float, float] | None = None


def draw_panel(ax: Axes, panel: LawPanel) -> Axes:
    """One panel."""
    dots: dict[str, set[int]] = {}
    for curve in panel.curves:
        place = curve.colour % 4
        colour = COLOURS[curve.colour % len(COLOURS)]
        x, y = np.asarray(curve.x), np.asarray(curve.y)
        if curve.kind == "law":
            ax.plot(x, y, color=colour, label=curve.label, linestyle=("-", "--", "-.", ":")[place])
            if curve.spread is not None:
                ax.fill_between(x, y - curve.spread, y + curve.spread, color=colour, alpha=0.15, linewidth=0)
        else:
            dots.setdefault(curve.label, set()).add(curve.colour)
            ax.errorbar(x, y, yerr=curve.spread, fmt=_MARKERS[place], color=colour, **_DOTS)
    for label, colours in dots.items():  # those of several laws are told by their markers, and in grey in the legend
        first = min(colours)
        colour = COLOURS[first % len(COLOURS)] if len(colours) == 1 else "0.35"
        ax.errorbar([], [], yerr=[], fmt=_MARKERS[first % 4], color=colour, label=label, **_DOTS)
    ax.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    for axis in panel.logarithmic:
        getattr(ax, f"set_{axis}scale")("log")
        label_narrow_axis(getattr(ax, f"{axis}axis"))
    if panel.ylim is not None:
        ax.set_ylim(*panel.ylim)
    ax.legend()
    return ax


def draw_laws(panels: Sequence[LawPanel]) -> Figure:
    """Panels beside each other."""
    with style():
        figure = Figure(figsize=(4.8 * len(panels), 3.9), layout="constrained")
        for ax, panel in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
            draw_panel(ax, panel)
    return figure
