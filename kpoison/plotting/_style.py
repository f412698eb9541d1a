"""Pictures: one style, and how a law, a refit and finite networks are drawn.  Every function takes and returns axes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from jaxtyping import ArrayLike, Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = ["COLOURS", "dashed", "dots", "errorbars", "label_narrow_axis", "line", "pen", "style", "threshold"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette: distinct in every common form of colour blindness, and by lightness in grey."""

_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "figure.dpi": 120,
    "font.size": 10,
    "grid.alpha": 0.25,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.bbox": "tight",
}

Points = Float[ArrayLike, " n"] | Sequence[float]


@contextmanager
def style() -> Iterator[None]:
    """The style of all pictures, for a `with` block; matplotlib's own settings are left as they were."""
    with plt.rc_context(_STYLE):
        yield


def pen(index: int) -> dict[str, Any]:
    """Dashes and colour of one of several curves."""
    return {"linestyle": ("-", "--", "-.", ":")[index % 4], "color": COLOURS[index % len(COLOURS)]}


def line(ax: Axes, x: Points, y: Points, label: str, colour: str = COLOURS[0]) -> Axes:
    """A law: a full line."""
    ax.plot(x, y, label=label, color=colour)
    return ax


def dashed(ax: Axes, x: Points, y: Points, label: str, colour: str = COLOURS[2]) -> Axes:
    """A law under an assumption, or a guide to the eye: a dashed line."""
    ax.plot(x, y, "--", label=label, color=colour, linewidth=1.3)
    return ax


def dots(ax: Axes, x: Points, y: Points, label: str, colour: str = COLOURS[1]) -> Axes:
    """A refit: open circles, so that the law shows through."""
    ax.plot(x, y, "o", label=label, color=colour, markerfacecolor="none", markersize=5)
    return ax


def threshold(ax: Axes, x: float, label: str, colour: str = COLOURS[2]) -> Axes:
    """Where something sets in: a dotted vertical line."""
    ax.axvline(x, label=label, color=colour, linestyle=":", linewidth=1.3)
    return ax


def errorbars(ax: Axes, x: Points, y: Points, error: Points, label: str, colour: str = COLOURS[3]) -> Axes:
    """Finite networks: mean and standard error over seeds."""
    ax.errorbar(x, y, yerr=error, fmt="s", label=label, color=colour, markersize=4, capsize=3)
    return ax


def label_narrow_axis(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis of few decades, whose default labels are sparse or overlap."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    if decades < 3:
        steps = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0) if decades < 0.7 else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=steps))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
