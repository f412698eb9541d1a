"""Every attack against every defence, drawn from the dataset of the matrix."""

import textwrap
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kpoison._validation import check_name
from kpoison.plotting._style import style
from kpoison.statistics import over_seeds

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["attack_defence_figure", "attack_defence_matrix"]

_CELL = (0.66, 0.58)  # width and height in inches, in which three lines of numbers are read without a glass
_MISSING = "#e4e4e4"
_DIMS = ("attack", "defence", "seed")
_TITLES = {
    "success": ("Attack success", "success rate\n[fraction of attacked inputs]"),
    "clean_accuracy": ("Clean accuracy", "accuracy\n[fraction of clean test inputs]"),
    "true_positive": ("Poisons that are suspected", "true-positive rate\n[fraction of poisons]"),
    "false_positive": ("Clean points that are suspected", "false-positive rate\n[fraction of clean points]"),
    "auroc": ("Detection", "AUROC\n[probability; 0.5 is chance]"),
}


def _variable(result: "xr.Dataset", name: str) -> np.ndarray:
    """A variable as (attack, defence, seed).

    Raises:
        ValueError: where there is none, or it has other dimensions.
    """
    name = check_name("quantity", name, [str(known) for known in result.data_vars if known != "picture"])
    if set(result[name].dims) != set(_DIMS):
        found = ", ".join(map(str, result[name].dims))
        raise ValueError(f"result must hold {name} over {', '.join(_DIMS)}, got {found or 'no dimension'}")
    return np.asarray(result[name].transpose(*_DIMS).values, float)


def _shades(means: np.ndarray, quantity: str) -> Normalize:
    """From 0 to 1 where all numbers are fractions, but for accuracies, which differ little."""
    known = means[np.isfinite(means)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if low >= -1e-6 and high <= 1 + 1e-6:
        low, high = (min(np.floor(10 * low) / 10, 0.9) if quantity == "clean_accuracy" else 0.0), 1.0
    return Normalize(low, high if high > low else low + 1)


def attack_defence_matrix(
    result: "xr.Dataset", quantity: str = "success", ax: Axes | None = None, predicted: bool = True
) -> Axes:
    """A number for each attack (row) and defence (column): mean over seeds, its interval, and the law's prediction.

    Beneath the mean stand, smaller, the half width of its 95 % interval from Student's t (with two or more seeds), and
    after a p the predicted value, also a mean over seeds.  A triangle marks where the defence is predicted to be
    blind to the attack, a circle where it is with some seeds.  Cells without a number are grey, with a dash.

    Args:
        result: variables over attack, defence and seed: the quantity; `predicted_` with its name and
            `predicted_visible` (1 visible, 0 blind) if there is a prediction, NaN where there is none.
        quantity: such as "success", "clean_accuracy", "true_positive", "false_positive" or "auroc".
        ax: axes to draw on; by default those of a new figure of a fitting size.
        predicted: whether to show predictions.

    Raises:
        ValueError: for a quantity that `result` does not hold, or not over these dimensions.
    """
    values = _variable(result, quantity)
    attacks, defences = ([str(name) for name in result[dim].values] for dim in _DIMS[:2])
    if not values.size:
        raise ValueError(f"result must have at least one attack, defence and seed, got {dict(result.sizes)}")
    if ax is None:
        with style():
            ax = Figure(figsize=_size(attacks, defences), layout="constrained").add_subplot()
            return attack_defence_matrix(result, quantity, ax, predicted)
    means, half_widths, _ = over_seeds(values)
    law = _law(result, f"predicted_{quantity}", predicted, means.shape)
    visible = _law(result, "predicted_visible", predicted, means.shape)
    shades = _shades(means, quantity)
    colours = colormaps["viridis"].with_extremes(bad=_MISSING)
    edges = [np.arange(length + 1) - 0.5 for length in means.shape]
    shown = ax.pcolormesh(edges[1], edges[0], np.ma.masked_invalid(means), cmap=colours, norm=shades,
                          edgecolors="white", linewidth=1.2)  # fmt: skip
    decimals = 3 if shades.vmax is not None and shades.vmin is not None and shades.vmax - shades.vmin < 0.3 else 2
    size = float(np.clip(_cell_width(ax, len(defences)) * 0.21, 4, 9))
    for row, column in np.ndindex(means.shape):
        _write_cell(ax, (row, column), *(float(each[row, column]) for each in (means, half_widths, law)),
                    decimals=decimals, size=size, dark=_is_dark(colours(shades(means[row, column]))))  # fmt: skip
        if visible[row, column] < 1:
            _mark_blind(ax, (row, column), whole=bool(visible[row, column] == 0), size=size)
    title, label = _TITLES.get(quantity, (quantity.replace("_", " "), quantity.replace("_", " ")))
    ax.set(xlim=(-0.5, len(defences) - 0.5), ylim=(len(attacks) - 0.5, -0.5))
    ax.set_yticks(range(len(attacks)), attacks, parse_math=False)
    ax.set_xticks(range(len(defences)), defences, rotation=45, ha="left", rotation_mode="anchor",
                  parse_math=False)  # fmt: skip
    ax.xaxis.set_ticks_position("top")
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_title(f"{title}\nattacks (rows), defences (columns)", loc="left")
    ax.figure.colorbar(shown, ax=ax, pad=0.015, fraction=0.06, aspect=25).set_label(label)
    _explain(ax, means, half_widths, law, visible, result.sizes["seed"])
    return ax


def attack_defence_figure(
    result: "xr.Dataset",
    quantities: tuple[str, ...] = ("success", "auroc", "clean_accuracy"),
    *,
    predicted: bool = True,
) -> Figure:
    """Several matrices in one figure: side by side, or one above the other where there are many defences.

    Args:
        result: see `attack_defence_matrix`.
        quantities: one matrix each.
        predicted: whether to show predictions.

    Raises:
        ValueError: for no quantity, or one that `result` does not hold.
    """
    if not quantities:
        raise ValueError("quantities must name at least one, got none")
    for quantity in quantities:
        _variable(result, quantity)
    attacks, defences = ([str(name) for name in result[dim].values] for dim in _DIMS[:2])
    width, height = _size(attacks, defences)
    across = len(defences) <= 6
    number = len(quantities)
    with style():
        figure = Figure(figsize=(width * number, height) if across else (width, height * number), layout="constrained")
        axes = figure.subplots(1, number, squeeze=False) if across else figure.subplots(number, 1, squeeze=False)
        for ax, quantity in zip(axes.ravel(), quantities, strict=True):
            attack_defence_matrix(result, quantity, cast(Axes, ax), predicted)
    return figure


def _size(attacks: list[str], defences: list[str]) -> tuple[float, float]:
    """Of a figure, in inches: cells, names, the colour bar and the legend."""
    across, down = max(map(len, attacks)), max(map(len, defences))
    width = max(_CELL[0] * len(defences), 3.2) + 0.09 * across + 0.05 * down + 1.2
    return width, max(_CELL[1] * len(attacks), 2.2) + 0.06 * down + 1.4


def _cell_width(ax: Axes, columns: int) -> float:
    """In points, before the layout is known; of axes of the caller's own, as they are."""
    figure = ax.get_figure(root=True)
    if figure is None:
        return 72 * _CELL[0]
    return min(72 * ax.get_window_extent().width / figure.dpi / columns, 72 * _CELL[0])


def _law(result: "xr.Dataset", name: str, wanted: bool, shape: tuple[int, ...]) -> np.ndarray:
    """The mean of a prediction over seeds, NaN where there is none."""
    if not wanted or name not in result:
        return np.full(shape, np.nan)
    return over_seeds(_variable(result, name))[0]


def _is_dark(colour: Any) -> bool:
    """Whether white is the better to read on a colour: by its relative luminance (sRGB, Rec. 709)."""
    linear = np.where(np.asarray(colour[:3]) <= 0.04045, np.asarray(colour[:3]) / 12.92,
                      ((np.asarray(colour[:3]) + 0.055) / 1.055) ** 2.4)  # fmt: skip
    return float(linear @ (0.2126, 0.7152, 0.0722)) < 0.179


def _write_cell(ax: Axes, where: tuple[int, int], mean: float, half_width: float, law: float, *,
                decimals: int, size: float, dark: bool) -> None:  # fmt: skip
    there = bool(np.isfinite(mean))
    text: dict[str, Any] = {"color": "white" if dark and there else "black", "ha": "center", "va": "center"}
    lines = [(f"{mean:.{decimals}f}" if there else "–", size)]
    if np.isfinite(half_width):
        lines.append((f"±{half_width:.{decimals}f}", 0.78 * size))
    if np.isfinite(law):
        lines.append((f"p {law:.{decimals}f}", 0.78 * size))
    offsets = {1: (0.0,), 2: (-0.15, 0.17), 3: (-0.24, 0.05, 0.31)}[len(lines)]
    for (line, height), offset in zip(lines, offsets, strict=True):
        ax.text(where[1], where[0] + offset, line, fontsize=height, **text)


_BLIND: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": "black", "markeredgewidth": 0.8,
                          "linestyle": "none"}  # fmt: skip
_ALWAYS, _SOMETIMES = "v", "o"  # blind with all seeds, with some


def _mark_blind(ax: Axes, where: tuple[int, int], *, whole: bool, size: float) -> None:
    row, column = where
    ax.plot(column + 0.39, row - 0.36, _ALWAYS if whole else _SOMETIMES, markersize=0.62 * size, **_BLIND)


def _explain(ax: Axes, means: np.ndarray, half_widths: np.ndarray, law: np.ndarray, visible: np.ndarray,
             seeds: int) -> None:  # fmt: skip
    """A legend of what is to be seen, below the cells."""
    words = [f"mean over {seeds} seeds" if seeds > 1 else "one seed, no interval"]
    if np.isfinite(half_widths).any():
        words.append("± half of its 95 % t-interval")
    if np.isfinite(law).any():
        words.append("p: predicted")
    handles: list[Artist] = []
    if (visible == 0).any():
        handles.append(Line2D([], [], marker=_ALWAYS, label="predicted blind spot", **_BLIND))
    if ((visible > 0) & (visible < 1)).any():
        handles.append(Line2D([], [], marker=_SOMETIMES, label="predicted blind with some seeds", **_BLIND))
    if not np.isfinite(means).all():
        handles.append(Patch(facecolor=_MISSING, label="–: no such number"))
    narrow = means.shape[1] <= 6
    handles = handles or [Line2D([], [], linestyle="none", label=" ")]  # a legend of none would lose its title
    legend = ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), ncols=1 if narrow else 3,
                       borderaxespad=0.2, title=textwrap.fill("; ".join(words), 36 if narrow else 100),
                       title_fontsize=8, alignment="left")  # fmt: skip
    legend.get_title().set_multialignment("left")
