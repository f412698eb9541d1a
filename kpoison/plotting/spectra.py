"""Spectra of input curvature against the edge of their bulk, and eigenvectors as images."""

from typing import Any, cast

import numpy as np
from jaxtyping import ArrayLike, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from kpoison._validation import check_finite, check_integer
from kpoison.curvature import Density
from kpoison.plotting._style import COLOURS, style

__all__ = ["draw_image", "draw_spectrum", "draw_spectrum_figure"]

_MARKERS = ("s", "o", "^", "D", "v", "P", "X")
_RANGE = 1e-8  # smaller eigenvalues, relative to the largest, are rounding where the matrix has no full rank


def draw_spectrum(
    ax: Axes,
    eigenvalues: Float[ArrayLike, "..."],
    edge: float | None = None,
    density: Density | None = None,
    *,
    label: str,
    index: int = 0,
    edge_label: str = "edge of the bulk",
    unit: str = "",
) -> Axes:
    """Leading eigenvalues against their rank; with a density, as marks below the density of the whole spectrum.

    Args:
        ax: axes to draw on; several spectra may share them.
        eigenvalues: leading ones, in any order.  Their axis is logarithmic: those not above 1e-8 of the largest are
            left out, and the legend says how many remain.  With a density it is linear, and shows all.
        edge: where the bulk ends, drawn as a dashed line across.
        density: from `kpoison.curvature.spectral_density`.
        label: of this spectrum.
        index: of this spectrum on these axes, which chooses its colour and its marker.
        edge_label: of the edge.
        unit: of the eigenvalues.

    Raises:
        ValueError: for eigenvalues that are no list of finite numbers, an edge that is not finite.
    """
    values = np.asarray(eigenvalues, float)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"eigenvalues must have shape (k,) with k >= 1, got {values.shape}")
    check_finite("eigenvalues", values)
    index = check_integer("index", index, 0)
    colour, marker = COLOURS[index % len(COLOURS)], _MARKERS[index % len(_MARKERS)]
    marks: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "markerfacecolor": "none"}
    rule: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1.2, "label": edge_label}
    name = f"eigenvalue{f' [{unit}]' if unit else ''}"
    if edge is not None:
        check_finite("edge", edge)
    if density is None:
        values = np.sort(values)[::-1]
        kept = values > _RANGE * abs(values[0])
        if not kept.all():
            label = f"{label} ({kept.sum()} of {len(kept)} above 0)"
        ax.plot(np.flatnonzero(kept) + 1, values[kept], label=label, linewidth=0.8, **marks)
        if edge is not None:
            ax.axhline(edge, **rule)
        ax.set(xlabel="rank", ylabel=name, yscale="log")
        ax.set_xlim(left=0.5)  # there is no rank 0
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    else:
        ax.plot(density.grid, density.density, color=colour)
        # Below the axis, each spectrum on a line of its own, above the numbers of the axis.
        below = 9 * (index + 1)
        shift = ScaledTranslation(0, -below / 72, ax.figure.dpi_scale_trans)
        ax.plot(values, np.zeros(len(values)), transform=ax.get_xaxis_transform() + shift, linestyle="none",
                clip_on=False, label=label, **marks)  # fmt: skip
        if edge is not None:
            ax.axvline(edge, **rule)
        ax.set(xlabel=name, ylabel=f"density{f' [1/({unit})]' if unit else ''}")
        ax.tick_params(axis="x", pad=below + 5)
        ax.set_ylim(bottom=0)
    ax.legend()
    return ax


def draw_image(ax: Axes, vector: Float[ArrayLike, "..."], image_shape: tuple[int, int, int], title: str = "") -> Axes:
    """A direction in input space, such as an eigenvector or a trigger, as an image with 0 in the middle of the colours.

    Args:
        ax: axes to draw on.
        vector: one number for each pixel and channel.
        image_shape: (height, width, channels).  Three channels are shown as red, green and blue about a mid grey that
            is 0; of any other number of channels the mean, as the title then says.
        title: above the image.

    Raises:
        ValueError: for a vector that does not fit the shape or is not finite.
    """
    values = np.asarray(vector, float)
    image_shape = tuple(check_integer("image_shape", length, 1) for length in image_shape)  # pyright: ignore
    if len(image_shape) != 3 or values.size != np.prod(image_shape):
        raise ValueError(f"vector must have one number for each of {image_shape}, got shape {values.shape}")
    check_finite("vector", values)
    values = values.reshape(image_shape)
    colour = image_shape[2] == 3
    if not colour:
        values = values.mean(axis=2)
    limit = float(np.max(np.abs(values))) or 1.0
    if colour:
        ax.imshow(0.5 + 0.5 * values / limit)
        note = f"colours: −{limit:.2g} to {limit:.2g}, grey is 0"
    else:
        shown = ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.figure.colorbar(shown, ax=ax, shrink=0.8, pad=0.03).set_label("component")
        note = "" if image_shape[2] == 1 else f"mean over {image_shape[2]} channels"
    ax.set(xticks=[], yticks=[], xlabel=note)
    ax.set_title(title)
    ax.grid(visible=False)
    ax.spines[:].set_visible(True)
    return ax


def draw_spectrum_figure(
    clean: Float[ArrayLike, " k"],
    poisoned: Float[ArrayLike, " k"],
    edge: float,
    vector: Float[ArrayLike, " D"],
    direction: Float[ArrayLike, " D"],
    image_shape: tuple[int, int, int],
    *,
    method: str,
    title: str = "",
    alignment: float | None = None,
) -> Figure:
    """Clean against poisoned spectrum, and the poisoned one's leading eigenvector beside the trigger.

    Args:
        clean: leading eigenvalues of the clean predictor.
        poisoned: of the poisoned one.
        edge: where the bulk ends.
        vector: leading eigenvector of the poisoned spectrum; of its two signs the one along the trigger is shown.
        direction: of the trigger.
        image_shape: (height, width, channels).
        method: how the edge was found.
        title: of the figure.
        alignment: |⟨v₁, u⟩|, for the eigenvector's title.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    vector, direction = np.ravel(np.asarray(vector, float)), np.ravel(np.asarray(direction, float))
    along = -vector if vector.shape == direction.shape and vector @ direction < 0 else vector
    with style():
        figure = Figure(figsize=(10.5, 3.6), layout="constrained")
        axes = cast("list[Axes]", figure.subplots(1, 3, width_ratios=(1.5, 1, 1)))
        # One unit for kernels and networks: inputs are standardised, so that the label's is all that is left.
        unit = "label² per standardised input²"
        draw_spectrum(axes[0], clean, label="clean", index=0, unit=unit)
        draw_spectrum(axes[0], poisoned, edge, label="poisoned", index=1, edge_label=f"edge ({method})", unit=unit)
        axes[0].set_title("leading eigenvalues")
        note = "" if alignment is None else f"\nalignment with the trigger {alignment:.2f}"
        draw_image(axes[1], along, image_shape, f"leading eigenvector, poisoned{note}")
        draw_image(axes[2], direction, image_shape, "trigger\n(mean change, unit vector)")
        figure.suptitle(title, fontsize=11)
    return figure
