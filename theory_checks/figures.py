"""Draws the panels of a record: law as a line, refit as dots, finite width with error bars."""

import io
from collections import Counter
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kpoison import plotting
from theory_checks.record import Panel, Record

__all__ = ["draw", "draw_panel", "draw_panels"]

_PANELS_PER_ROW = 4
_SHADES = {"line": (0, 4), "dots": (1, 5), "dashed": (2, 6, 4), "errorbar": (3, 5, 1), "threshold": (2, 6)}
_SHORT_LEGEND = 4


def draw_panel(ax: Axes, panel: Panel) -> Axes:
    """One panel on the given axes."""
    used = dict.fromkeys(_SHADES, 0)
    number = Counter(series.kind for series in panel.series)
    for series in panel.series:
        shades = _SHADES[series.kind]
        if number[series.kind] > len(shades):  # a colour for each: lines and dots of one place have the same
            shades = range(len(plotting.COLOURS))
        colour = plotting.COLOURS[shades[used[series.kind] % len(shades)]]
        used[series.kind] += 1
        match series.kind:
            case "line":
                plotting.line(ax, series.x, series.y, series.label, colour)
            case "dashed":
                plotting.dashed(ax, series.x, series.y, series.label, colour)
            case "dots":
                plotting.dots(ax, series.x, series.y, series.label, colour)
            case "threshold":
                plotting.threshold(ax, series.x[0], series.label, colour)
            case "errorbar":
                plotting.errorbars(ax, series.x, series.y, series.error or [], series.label, colour)
    ax.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel, xscale=panel.xscale, yscale=panel.yscale)
    for axis, scale in ((ax.xaxis, panel.xscale), (ax.yaxis, panel.yscale)):
        if scale == "log":
            plotting.label_narrow_axis(axis)
    entries = sum(not series.label.startswith("_") for series in panel.series)
    if entries > _SHORT_LEGEND:  # below, where it hides nothing
        # At a distance in the size of letters, whatever the height of the axes: below the name of the abscissa.
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4.5, fontsize="small")
    else:
        ax.legend()
    return ax


def draw(record: Record) -> bytes:
    """The record's figure as a PNG."""
    title = f"{record.statement.number} · {record.statement.title} · {record.kernel} on {record.data}"
    return draw_panels(record.panels, title)


def draw_panels(panels: Sequence[Panel], title: str) -> bytes:
    """Panels beside each other under one title, as a PNG."""
    with plotting.style():
        columns = min(len(panels), _PANELS_PER_ROW)
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(4.6 * columns, 3.6 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, panel in zip(axes, panels, strict=False):
            draw_panel(ax, panel)
        for ax in axes[len(panels) :]:
            ax.remove()
        figure.suptitle(title)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=mpl.rcParams["figure.dpi"])
    return buffer.getvalue()
