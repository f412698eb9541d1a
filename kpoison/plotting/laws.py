"""What the laws look like, drawn from the dataset of a sweep."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kpoison._validation import check_positive
from kpoison.plotting._style import COLOURS, dashed, dots, line, pen

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["against_count", "near_clone", "phase_diagram", "phase_handles", "spike_against_efficacy"]


def _grid(dataset: "xr.Dataset", names: tuple[str, ...], dims: tuple[str, ...]) -> list[np.ndarray]:
    """Variables over these dimensions; every other dimension must have one value.

    Raises:
        ValueError: naming what is missing, or which dimension has to be chosen with `dataset.isel`.
    """
    for name in names:
        if name not in dataset:
            raise ValueError(f"dataset must hold {name}, got {', '.join(map(str, dataset.data_vars))}")
    wide = [dim for dim, size in dataset[list(names)].sizes.items() if dim not in dims and size > 1]
    if wide:
        raise ValueError(f"dataset must have one value of {', '.join(map(str, wide))}: choose one with dataset.isel")
    return [
        dataset[name].squeeze([d for d in dataset[name].dims if d not in dims]).transpose(*dims).values
        for name in names
    ]


# White lines with a black rim are seen on every shade.
_RIM = [patheffects.Stroke(linewidth=4.2, foreground="black"), patheffects.Normal()]


_DEVIATION = "efficacy_deviation"
_BAND: dict[str, Any] = {"facecolor": "none", "edgecolor": "black", "linewidth": 0.6}


def phase_handles(dataset: "xr.Dataset", success: float, visible: float) -> list[Artist]:
    """What a legend of phase diagrams of a sweep shows."""
    lines = {"color": "white", "linewidth": 2.2, "path_effects": _RIM}
    return [
        Line2D([], [], label=f"succeeds: |Δf| = {success:g}", **lines),
        Line2D([], [], linestyle="--", label=f"visible: Λ = {visible:g}", **lines),
        Patch(facecolor="none", edgecolor="black", hatch="///", label="succeeds unseen"),
        *([Patch(hatch="....", label="|Δf| within its deviation of that", **_BAND)] if _DEVIATION in dataset else []),
    ]


def phase_diagram(ax: Axes, dataset: "xr.Dataset", *, success: float, visible: float, legend: bool = True) -> Axes:
    """Where the poison succeeds and where it is seen, over (r/ℓ, m): the wedge between is the attack unseen.

    Args:
        ax: axes to draw on.
        dataset: a sweep of efficacy and spike over several r_over_l and m, and one of everything else.  Where it holds
            efficacy_deviation too, a band shows where success depends on the draw of the clean data: within one
            standard deviation of the line.
        success: |Δf| from which the attack succeeds, in units of y; 1 flips a prediction of ±1.
        visible: Λ from which the spike is seen, in y² per input².
        legend: whether to explain the lines below the axes.

    Raises:
        ValueError: where the dataset does not fit.
    """
    check_positive("success", success)
    check_positive("visible", visible)
    efficacy, spike = _grid(dataset, ("efficacy", "spike"), ("m", "r_over_l"))
    if min(efficacy.shape) < 2:
        raise ValueError(f"dataset must have several values of m and r_over_l, got {efficacy.shape}")
    r, m = dataset["r_over_l"].values, dataset["m"].values
    keep = r > 0, m > 0
    kept = np.ix_(*keep[::-1])
    r, m, efficacy, spike = r[keep[0]], m[keep[1]], efficacy[kept], spike[kept]
    tiny = np.finfo(float).tiny
    levels = np.log10(np.maximum(spike, tiny))
    top = float(np.ceil(levels.max()))
    shown = ax.pcolormesh(
        r, m, levels, cmap="cividis", vmin=max(top - 10, levels.min()), vmax=top, shading="gouraud", rasterized=True
    )
    bar = ax.figure.colorbar(shown, ax=ax, pad=0.02)
    bar.set_label("spike: log₁₀ Λ")
    margin, seen = np.log(np.maximum(np.abs(efficacy), tiny) / success), np.log(np.maximum(spike, tiny) / visible)
    unseen = np.minimum(margin, -seen)
    if unseen.max() > 0:
        ax.contourf(r, m, unseen, levels=[0, np.inf], colors="none", hatches=["///"])
    if _DEVIATION in dataset:
        (deviation,) = _grid(dataset, (_DEVIATION,), ("m", "r_over_l"))
        near = np.clip((np.abs(efficacy) - success) / np.maximum(deviation[kept], tiny), -3, 3)
        ax.contourf(r, m, near, levels=[-1, 1], colors="none", hatches=["...."])
        ax.contour(r, m, near, levels=[-1, 1], colors="black", linewidths=0.6, linestyles="solid")
    for values, dashes in ((margin, "solid"), (seen, "dashed")):
        if values.min() < 0 < values.max():
            contour = ax.contour(r, m, values, levels=[0], colors="white", linewidths=2.2, linestyles=dashes)
            contour.set_path_effects(_RIM)
    if legend:
        handles = phase_handles(dataset, success, visible)
        below = ax.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2 if len(handles) > 3 else 3
        )
        below.set_in_layout(False)  # or it would narrow the axes to its own width
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="distance r/ℓ",
        ylabel="multiplicity m",
        xlim=(r[0], r[-1]),
        ylim=(m[0], m[-1]),
    )
    ax.grid(visible=False)
    return ax


def against_count(ax: Axes, exact: "xr.Dataset", isolated: "xr.Dataset", quantity: str) -> Axes:
    """A law against the multiplicity: exact as a line, isolated dashed.

    Args:
        ax: axes to draw on.
        exact: a sweep by the exact law over m, with one value of everything else.
        isolated: the same by the isolated law.
        quantity: such as "gain" or "efficacy".

    Raises:
        ValueError: where a dataset does not fit.
    """
    for dataset, draw, label in ((exact, line, "exact"), (isolated, dashed, "isolated")):
        (values,) = _grid(dataset, (quantity,), ("m",))
        draw(ax, dataset["m"].values, np.abs(values), label)
    attributes = exact[quantity].attrs
    ax.set(xscale="log", yscale="log", xlabel="multiplicity m", ylabel=f"{attributes['long_name']}, magnitude")
    ax.legend()
    return ax


def spike_against_efficacy(ax: Axes, dataset: "xr.Dataset") -> Axes:
    """Spike against efficacy over all multiplicities, one line of dots for each distance, with the slope 2 of L4.

    Args:
        ax: axes to draw on.
        dataset: a sweep of efficacy and spike over m and a few r_over_l, and one of everything else.

    Raises:
        ValueError: where the dataset does not fit.
    """
    efficacy, spike = _grid(dataset, ("efficacy", "spike"), ("r_over_l", "m"))
    for index, r in enumerate(dataset["r_over_l"].values):
        colour = COLOURS[index % len(COLOURS)]
        x, y = np.abs(efficacy[index]), spike[index]
        kept = (x > 0) & (y > 0)
        if kept.any():
            dots(ax, x[kept], y[kept], f"r/ℓ = {r:.2g}", colour)
            ends = np.array([x[kept].min(), x[kept].max()])
            middle = np.median(y[kept] / x[kept] ** 2)
            ax.plot(ends, middle * ends**2, color=colour, linewidth=1)
    ax.plot([], [], color="black", linewidth=1, label="slope 2")
    ax.set(xscale="log", yscale="log", xlabel="efficacy |Δf|", ylabel="spike Λ")
    ax.legend()
    return ax


def near_clone(ax: Axes, dataset: "xr.Dataset") -> Axes:
    """q(r) ℓ² = ℓ² Λ/Δf² against r/ℓ for several kernels: which of them have a near-clone regime (L5).

    Args:
        ax: axes to draw on.
        dataset: a sweep of efficacy and spike over r_over_l and `kernel`, and one of everything else.

    Raises:
        ValueError: where the dataset does not fit.
    """
    efficacy, spike = _grid(dataset, ("efficacy", "spike"), ("kernel", "r_over_l"))
    r = dataset["r_over_l"].values
    for index, name in enumerate(dataset["kernel"].values):
        q = spike[index] / efficacy[index] ** 2
        reference = np.interp(0.0, np.log(r), np.log(np.maximum(q, np.finfo(float).tiny)))
        ax.plot(r, q / np.exp(reference), **pen(index), label=str(name))
    ax.set(xscale="log", yscale="log", xlabel="distance r/ℓ", ylabel="q(r) / q(ℓ),  q = Λ/Δf²")
    ax.legend()
    return ax
