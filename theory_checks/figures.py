"""Draws the panels of a record: law as a line, refit as dots, finite width with error bars."""

import io

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kpoison import plotting
from theory_checks.record import Panel, Record

__all__ = ["draw", "draw_panel"]

_SHADES = {"line": (0, 4), "dots": (1, 5), "dashed": (2, 6, 4), "errorbar": (3, 5)}


def draw_panel(ax: Axes, panel: Panel) -> Axes:
    """One panel on the given axes."""
    used = dict.fromkeys(_SHADES, 0)
    for series in panel.series:
        shades = _SHADES[series.kind]
        colour = plotting.COLOURS[shades[used[series.kind] % len(shades)]]
        used[series.kind] += 1
        match series.kind:
            case "line":
                plotting.line(ax, series.x, series.y, series.label, colour)
            case "dashed":
                plotting.dashed(ax, series.x, series.y, series.label, colour)
            case "dots":
                plotting.dots(ax, series.x, series.y, series.label, colour)
            case "errorbar":
                plotting.errorbars(ax, series.x, series.y, series.error or [], series.label, colour)
    ax.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel, xscale=panel.xscale, yscale=panel.yscale)
    low, high = ax.get_ylim()
    if panel.yscale == "log" and high / low < 10:  # less than a decade: a log axis would have no labelled ticks
        ax.set_yscale("linear")
        ax.set_ylim(bottom=0)
    ax.legend()
    return ax


def draw(record: Record) -> bytes:
    """The record's figure as a PNG."""
    with plotting.style():
        figure = Figure(figsize=(4.6 * len(record.panels), 3.6), layout="constrained")
        for ax, panel in zip(figure.subplots(1, len(record.panels), squeeze=False)[0], record.panels, strict=True):
            draw_panel(ax, panel)
        figure.suptitle(f"{record.statement} · {record.title} · {record.kernel} on {record.data}")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=mpl.rcParams["figure.dpi"])
    return buffer.getvalue()
