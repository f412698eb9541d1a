"""Gradient flow and trade-off, drawn from the dataset of `kpoison.flow.tradeoff`."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kpoison.plotting._style import pen, style

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["against_penalty", "along_time", "draw_flow", "draw_tradeoff", "frontier"]


def _variable(dataset: "xr.Dataset", name: str) -> "xr.DataArray":
    """A variable, averaged over probes, outputs and, for Fisher eigenvalues, without all but the largest."""
    if name not in dataset:
        raise ValueError(f"dataset must hold {name}, got {', '.join(map(str, dataset.data_vars))}")
    values = abs(dataset[name])
    if "mode" in values.dims:
        values = values.isel(mode=0)
    return values.mean([dim for dim in values.dims if dim not in ("gradient_penalty", "time")])


def _penalty(value: float, unit: float) -> str:
    return "no penalty" if value == 0 else f"γ = {value / unit:.2g}{'' if unit == 1 else ' ℓ²'}"


def along_time(ax: Axes, dataset: "xr.Dataset", name: str, *, unit: float = 1.0) -> Axes:
    """A variable along training, one line for each penalty; of several probes the mean magnitude.

    Args:
        ax: axes to draw on.
        dataset: from `kpoison.flow.tradeoff`, with several times, of which ∞ is left out.
        name: such as "efficacy", "spike", "fisher_eigenvalue" (the largest) or "poison_component".
        unit: of γ in the legend: 1, or ℓ².

    Raises:
        ValueError: where the dataset does not fit.
    """
    values = _variable(dataset, name)
    kept = np.isfinite(dataset.time.values) & (dataset.time.values > 0)
    if kept.sum() < 2:
        raise ValueError(f"dataset must have several finite times > 0, got {dataset.time.values.tolist()}")
    for index, penalty in enumerate(dataset.gradient_penalty.values):
        curve = values.sel(gradient_penalty=penalty).values[kept]
        ax.plot(dataset.time.values[kept], curve, **pen(index), label=_penalty(penalty, unit))
    ax.set(xscale="log", yscale="log", xlabel="training time t", ylabel=_label(dataset, name))
    ax.legend()
    return ax


def against_penalty(ax: Axes, dataset: "xr.Dataset", names: tuple[str, ...], *, unit: float = 1.0) -> Axes:
    """Variables against γ at the last time, one line each.

    Args:
        ax: axes to draw on.
        dataset: from `kpoison.flow.tradeoff`, with several penalties, of which 0 is left out.
        names: of variables in the same units.
        unit: of γ: 1, or ℓ².

    Raises:
        ValueError: where the dataset does not fit.
    """
    penalties = dataset.gradient_penalty.values
    kept = penalties > 0
    if kept.sum() < 2:
        raise ValueError(f"dataset must have several penalties > 0, got {penalties.tolist()}")
    for index, name in enumerate(names):
        values = _variable(dataset, name).isel(time=-1).values[kept]
        ax.plot(penalties[kept] / unit, values, **pen(index), label=name.replace("_", " "))
    ax.set(xscale="log", xlabel="γ" if unit == 1 else "γ/ℓ²")
    ax.legend()
    return ax


def frontier(ax: Axes, dataset: "xr.Dataset", *, safety: str = "efficacy") -> Axes:
    """What is left of the attack against what its prevention costs in fit: a curve over γ for each time.

    Args:
        ax: axes to draw on.
        dataset: from `kpoison.flow.tradeoff`, with several penalties.
        safety: the variable on the vertical axis: "efficacy", "spike" or "attack_success_rate".

    Raises:
        ValueError: where the dataset does not fit.
    """
    fits, values = _variable(dataset, "training_fit"), _variable(dataset, safety)
    for index, time in enumerate(dataset.time.values):
        label = "trained to the end" if np.isinf(time) else f"stopped at t = {time:.3g}"
        x, y = fits.sel(time=time).values, values.sel(time=time).values
        ax.plot(x, y, marker=".", **pen(index), label=label)
        ax.annotate("γ = 0" if dataset.gradient_penalty.values[0] == 0 else "least γ", (x[0], y[0]),
                    textcoords="offset points", xytext=(4, 4), fontsize="small")  # fmt: skip
    ax.set(xlabel=_label(dataset, "training_fit"), ylabel=_label(dataset, safety))
    ax.legend()
    return ax


def _label(dataset: "xr.Dataset", name: str) -> str:
    short = {
        "efficacy": "mean |Δf| at the triggered inputs",
        "spike": "mean spike Λ at the triggered inputs",
        "fisher_eigenvalue": "largest eigenvalue of F",
        "poison_component": "component uᵀFu of F along the poison",
        "training_fit": "mean squared residual on the training set",
        "attack_success_rate": "attack success rate",
    }
    return short.get(name, str(dataset[name].attrs.get("long_name", name)))


def draw_flow(dataset: "xr.Dataset", *, unit: float = 1.0) -> Figure:
    """Efficacy, spike, largest Fisher eigenvalue and the poison's component along training, for each penalty."""
    with style():
        figure = Figure(figsize=(9.6, 7.2), layout="constrained")
        names = ("efficacy", "spike", "fisher_eigenvalue", "poison_component")
        for ax, name in zip(figure.subplots(2, 2).ravel(), names, strict=True):
            along_time(ax, dataset, name, unit=unit)
    return figure


def draw_tradeoff(dataset: "xr.Dataset", *, unit: float = 1.0) -> Figure:
    """The frontier of efficacy and fit; energies against γ; success and accuracy where they were asked for."""
    rates = tuple(name for name in ("attack_success_rate", "clean_accuracy") if name in dataset)
    with style():
        columns = 3 if rates else 2
        figure = Figure(figsize=(4.8 * columns, 3.8), layout="constrained")
        axes = figure.subplots(1, columns)
        frontier(axes[0], dataset)
        against_penalty(axes[1], dataset, ("objective", "penalty_energy", "spike"), unit=unit)
        axes[1].set(yscale="log", ylabel="energy")
        if rates:
            against_penalty(axes[2], dataset, rates, unit=unit)
            axes[2].set(ylabel="rate", ylim=(-0.03, 1.03))
    return figure
