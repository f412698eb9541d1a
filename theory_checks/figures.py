"""Draws the panels of a record: law as a line, refit as dots, finite width with error bars."""

import io
from collections import Counter
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kpoison import plotting
from theory_checks.record import Panel, Record, Series

__all__ = ["draw", "draw_first", "draw_panel", "draw_panels"]

_PANELS_PER_ROW = 2  # wider figures are shrunk by a page until nothing can be read
_SHADES = {"line": (0, 4), "dots": (1, 5), "dashed": (2, 6, 4), "errorbar": (3, 5, 1), "threshold": (2, 6)}
_SHORT_LEGEND = 4
# Of several lines or dots in one panel, so that they are told apart in grey too.
_DASHES = ("solid", (0, (9, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.2)))
_GUIDES = ("--", (0, (1.5, 1)), (0, (4, 1, 1, 1)))  # of dashed lines
_MARKERS = ("o", "s", "^", "D")


def draw_panel(ax: Axes, panel: Panel) -> Axes:
    """One panel on the given axes."""
    used = dict.fromkeys(_SHADES, 0)
    number = Counter(series.kind for series in panel.series)
    for series in panel.series:
        shades = _SHADES[series.kind]
        place = used[series.kind]
        if number[series.kind] > len(shades):  # a colour for each: lines and dots of one place have the same
            shades = range(len(plotting.COLOURS))
        colour = plotting.COLOURS[shades[place % len(shades)]]
        used[series.kind] += 1
        _draw_series(ax, series, colour, place)
    ax.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel, xscale=panel.xscale, yscale=panel.yscale)
    _set_range(ax, panel)
    for axis, scale in ((ax.xaxis, panel.xscale), (ax.yaxis, panel.yscale)):
        if scale == "log":
            plotting.label_narrow_axis(axis)
    if panel.xlabel == "rank":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if _entries(panel) > _SHORT_LEGEND:  # below, where it hides nothing
        # At a distance in the size of letters, whatever the height of the axes: below the name of the abscissa.
        ax.legend(
            loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4.5, fontsize="small", ncols=_columns(panel)
        )
    else:
        ax.legend()
    return ax


def _draw_series(ax: Axes, series: Series, colour: str, place: int) -> None:
    """One curve, the so many-th of its kind."""
    before = len(ax.lines)
    match series.kind:
        case "line":
            plotting.line(ax, series.x, series.y, series.label, colour)
            ax.lines[before].set(linestyle=_DASHES[place % len(_DASHES)])
            if len(series.x) == 1:  # of which no line would be seen
                ax.lines[before].set(marker="_", markersize=22, markeredgewidth=2)
        case "dashed":
            plotting.dashed(ax, series.x, series.y, series.label, colour)
            ax.lines[before].set(linestyle=_GUIDES[place % len(_GUIDES)])
        case "dots":
            plotting.dots(ax, series.x, series.y, series.label, colour)
            ax.lines[before].set(marker=_MARKERS[place % len(_MARKERS)])
        case "threshold":
            plotting.threshold(ax, series.x[0], series.label, colour)
        case "errorbar":
            plotting.errorbars(ax, series.x, series.y, series.error or [], series.label, colour)
            ax.lines[before].set(marker=_MARKERS[(place + 1) % len(_MARKERS)])


def _entries(panel: Panel) -> int:
    """Of the legend."""
    return sum(not series.label.startswith("_") for series in panel.series)


def _columns(panel: Panel) -> int:
    """Of a long legend: two where their names have room for that beside each other."""
    return 2 if max(len(series.label) for series in panel.series) <= 30 else 1


def _set_range(ax: Axes, panel: Panel) -> None:
    """About a single place, where matplotlib would show two orders of magnitude."""
    places = {x for series in panel.series for x in series.x}
    if len(places) == 1 and panel.xscale == "log":
        (x,) = places
        ax.set_xlim(x / 1.5, 1.5 * x)
        ax.margins(y=0.6)  # room for the legend beside the two marks


def draw(record: Record) -> bytes:
    """The record's figure as a PNG."""
    return draw_panels(record.panels, _title(record))


def draw_first(record: Record) -> bytes:
    """The first of its panels as a PNG."""
    return draw_panels(record.panels[:1], _title(record))


def _title(record: Record) -> str:
    return f"{record.statement.number} · {record.kernel} on {record.data}"


def draw_panels(panels: Sequence[Panel], title: str) -> bytes:
    """Panels beside each other under one title, as a PNG."""
    with plotting.style():
        columns = min(len(panels), _PANELS_PER_ROW)
        rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
        heights = [3.4 + max(_legend_height(panel) for panel in row) for row in rows]
        figure = Figure(figsize=(4.8 * columns, sum(heights)), layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights).ravel()
        for ax, panel in zip(axes, panels, strict=False):
            draw_panel(ax, panel)
        for ax in axes[len(panels) :]:
            ax.remove()
        figure.suptitle(title)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=mpl.rcParams["figure.dpi"])
    return buffer.getvalue()


def _legend_height(panel: Panel) -> float:
    """In inches, of one that stands below the axes."""
    entries = _entries(panel)
    return 0.2 * -(-entries // _columns(panel)) + 0.2 if entries > _SHORT_LEGEND else 0.0
