"""Spectral visibility behind attack success, along training and along the poisoned fraction (L8 in classifiers)."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kpoison import plotting
from kpoison.experiments.architectures import infinite_width
from kpoison.experiments.curves import Curves, is_visible
from kpoison.experiments.events import Lag, lag_of
from kpoison.experiments.kernels import attack_kernel
from kpoison.experiments.measuring import MATRICES, pooled_edge
from kpoison.experiments.options import ArchitectureName, Options
from kpoison.experiments.pictures import (
    MATRIX_NAMES,
    against_edge,
    legend_beside,
    mean_and_range,
    shares,
    shown,
    ticks_at,
)
from kpoison.experiments.result import Claim, Experiment, Table, above
from kpoison.experiments.training import Arm, Trainer
from kpoison.statistics import t_interval

__all__ = ["run"]

_SUCCEEDS = 0.5


def run(
    options: Options, architectures: Sequence[ArchitectureName] = ("linear", "mlp", "lenet"), folder: Path | None = None
) -> Experiment:
    """Train every architecture for each seed at each fraction, and solve the ridge problem of its kernel.

    Args:
        options: data and sizes.
        architectures: the classifiers.
        folder: where checkpoints are kept, so that the same call goes on from there.
    """
    fractions = tuple(sorted({*options.fractions, options.fraction}))
    total = len(architectures) * options.seeds * (1 + len(fractions))
    found = {}
    with Trainer(options, fractions, 5, 2, folder, total) as trainer:
        for name in architectures:
            found[name] = _of_architecture(trainer, name, fractions)
    tables = [
        _training_table(found, options),
        _fraction_table(found, options, fractions),
        _values_table(found, options),
    ]
    notes = [
        f"{trainer.words}.",
        "Succeeds: attack success rate, less that of the clean run of the same seed, at least 0.5 from this step on.",
        f"Visible: the largest eigenvalue over {options.probes} probes, {options.probe_fraction:.0%} triggered, "
        "above the 99 % quantile over resampled clean probes of clean runs at the same step, and its eigenvector "
        "aligned with the trigger by 0.5 or more.",
        "Lag: visible/success of the first such step (fraction), geometric mean and 95 % t-interval over seeds; "
        "'≥' where some seed never shows: a bound from below.",
        "hessian: input Hessian of the cross-entropy (softmax Fisher); logits: JᵀJ of the logits.",
    ]
    return Experiment(
        "lag",
        f"Lag of spectral visibility behind attack success: {trainer.first.data}",
        options,
        architectures,
        tables,
        _claims(found),
        notes,
        {name: _numbers(value) for name, value in found.items()} | {"fractions": fractions},
        lambda: _figure(found, fractions, options),
        trainer.seconds,
    )


def _of_architecture(trainer: Trainer, name: ArchitectureName, fractions: tuple[float, ...]) -> dict[str, Any]:
    """Curves along training and along the fraction, and the kernel's."""
    options = trainer.options
    clean, poisoned = trainer.histories(Arm(name, 0.0), Arm(name, options.fraction))
    curves = Curves.of(poisoned, clean)
    others = [fraction for fraction in fractions if fraction != options.fraction]
    at_ends = trainer.histories(*(Arm(name, fraction) for fraction in others), throughout=False)
    found = {fraction: Curves.of(end, clean) for fraction, end in zip(others, at_ends, strict=True)}
    ends = [found.get(fraction, curves) for fraction in fractions]
    trained = curves.steps > 0
    at_end = {
        "success": np.stack([end.excess[:, -1] for end in ends], axis=1),
        "raw_success": np.stack([end.poisoned["success"][:, -1] for end in ends], axis=1),
        "accuracy": np.stack([end.poisoned["accuracy"][:, -1] for end in ends], axis=1),
    }
    lags = {}
    for matrix in MATRICES:
        along_steps = lag_of(
            curves.steps[trained],
            _from_then_on(curves.excess >= _SUCCEEDS)[:, trained],
            curves.visible(matrix)[:, trained],
        )
        visible = np.stack([end.visible(matrix)[:, -1] for end in ends], axis=1)
        lags[matrix] = along_steps, lag_of(fractions, at_end["success"] >= _SUCCEEDS, visible)
        at_end[matrix] = np.stack([end.over_edge[matrix][:, -1] for end in ends], axis=1)
        at_end[f"{matrix}_alignment"] = np.stack([end.poisoned[f"{matrix}_alignment"][:, -1] for end in ends], axis=1)
    return {"curves": curves, "at_end": at_end, "lags": lags, "kernel": _of_kernel(trainer, name, fractions)}


def _from_then_on(true: np.ndarray) -> np.ndarray:
    """Whether it is true from this step on: in its first steps a network may give all images one class."""
    return np.logical_and.accumulate(true[:, ::-1], axis=1)[:, ::-1]


def _of_kernel(trainer: Trainer, name: ArchitectureName, fractions: tuple[float, ...]) -> dict[str, Any] | None:
    kernel, words = infinite_width(name)
    if kernel is None:
        return None
    options = trainer.options
    attacks = [
        attack_kernel(kernel, problem, fractions, options.probes or 0, options.probe_fraction)
        for problem in trainer.problems.values()
    ]
    found: dict[str, Any] = {
        "words": f"{words}, {attacks[0].images} images",
        "success": np.stack([attack.success for attack in attacks]),
        "accuracy": np.stack([attack.accuracy for attack in attacks]),
    }
    if all(attack.spectrum is not None for attack in attacks):
        spectra = [attack.spectrum for attack in attacks if attack.spectrum is not None]
        edge = float(pooled_edge(np.stack([spectrum.samples for spectrum in spectra])).edge)
        found["over_edge"] = np.stack([spectrum.eigenvalue for spectrum in spectra]) / edge
        found["alignment"] = np.stack([spectrum.alignment for spectrum in spectra])
        visible = is_visible(found["over_edge"], found["alignment"])
        found["lag"] = lag_of(fractions, found["success"] >= _SUCCEEDS, visible)
    return found


def _places(values: list[float], form: str = "{:g}") -> str:
    return " ".join("never" if np.isinf(value) else form.format(value) for value in values)


def _lag_table(title: str, lags: Iterable[tuple[str, str, Lag]], seeds: int) -> Table:
    """A row for each network and matrix."""
    rows = [
        [name, matrix, _places(lag.success), _places(lag.visible), str(lag), f"{lag.censored}/{seeds}"]
        for name, matrix, lag in lags
    ]
    return Table(title, ["network", "matrix", "succeeds at", "visible at", "lag", "never visible"], rows)


def _training_table(found: dict[str, Any], options: Options) -> Table:
    lags = [(name, matrix, lag) for name, value in found.items() for matrix, (lag, _) in value["lags"].items()]
    title = f"Along training, {options.fraction:.1%} of the training images poisoned (steps of each seed)"
    return _lag_table(title, lags, options.seeds)


def _fraction_table(found: dict[str, Any], options: Options, fractions: tuple[float, ...]) -> Table:
    lags = []
    for name, value in found.items():
        lags += [(name, matrix, lag) for matrix, (_, lag) in value["lags"].items()]
        kernel = value["kernel"]
        if kernel is not None and "lag" in kernel:
            lags.append((name, "logits, kernel", kernel["lag"]))
    listed = " ".join(f"{fraction:g}" for fraction in fractions)
    title = f"Along the poisoned fraction, at the end of training (first of {listed}, of each seed)"
    return _lag_table(title, lags, options.seeds)


def _values_table(found: dict[str, Any], options: Options) -> Table:
    rows = []
    for name, value in found.items():
        curves: Curves = value["curves"]
        poisoned, clean, over = curves.poisoned, curves.clean, curves.over_edge
        columns = (poisoned["success"], clean["success"], poisoned["accuracy"], clean["accuracy"], *over.values())
        rows.append([name, *(str(t_interval(values[:, -1])) for values in columns)])
    return Table(
        f"At the end of training, {options.fraction:.1%} poisoned (mean ± 95 % t-interval over seeds)",
        ["network", "success", "clean run's", "accuracy", "clean run's", "hessian λ₁/edge", "logits λ₁/edge"],
        rows,
    )


def _claims(found: dict[str, Any]) -> list[Claim]:
    """Visibility lags behind success: log(visible/success) > 0."""
    claims = []
    for name, value in found.items():
        for matrix, lags in value["lags"].items():
            for along, lag in zip(("training", "the fraction"), lags, strict=True):
                statement = f"{name}, {matrix}: log(visible/success) along {along}"
                measured, reason = lag.log_ratio, "the attack does not succeed at every seed"
                if measured is not None and measured.high < 0 and lag.censored:
                    measured, reason = None, "it never shows at some seed, at others before it succeeds"
                claims.append(above(statement, measured, 0.0, reason))
    return claims


def _numbers(value: dict[str, Any]) -> dict[str, Any]:
    def plain(lag: Lag) -> dict[str, Any]:
        ratio = lag.log_ratio
        interval = None if ratio is None else {"mean": ratio.mean, "low": ratio.low, "high": ratio.high}
        return {"success": lag.success, "visible": lag.visible, "log_ratio": interval, "censored": lag.censored}

    lags = {m: {"training": plain(a), "fraction": plain(b)} for m, (a, b) in value["lags"].items()}
    kernel = value["kernel"]
    if kernel is not None:
        kernel = {name: plain(item) if isinstance(item, Lag) else item for name, item in kernel.items()}
    return {"curves": value["curves"].numbers(), "at_end": value["at_end"], "lags": lags, "kernel": kernel}


def _figure(found: dict[str, Any], fractions: tuple[float, ...], options: Options) -> Figure:
    """A column for each architecture: rates and eigenvalues along training, then along the fraction."""
    figure = Figure(figsize=(4.0 * len(found) + 2.4, 11.5), layout="constrained")
    axes = figure.subplots(4, len(found), squeeze=False)
    colours = plotting.COLOURS
    for column, (name, value) in zip(axes.T, found.items(), strict=True):
        curves: Curves = value["curves"]
        steps = curves.steps[1:]
        ax = column[0]
        mean_and_range(ax, steps, curves.poisoned["success"][:, 1:], "attack success", colours[1])
        mean_and_range(ax, steps, curves.clean["success"][:, 1:], "the same, clean run", colours[1], dashed=True)
        mean_and_range(ax, steps, curves.poisoned["accuracy"][:, 1:], "clean accuracy", colours[0])
        alignment = curves.poisoned["logits_alignment"][:, 1:]
        mean_and_range(ax, steps, alignment, "alignment |⟨v₁, u⟩| (logits)", colours[2])
        shares(ax, f"{name}: training, {options.fraction:.1%} poisoned", "step")
        ax = column[1]
        for matrix, colour in zip(MATRICES, (colours[3], colours[2]), strict=True):
            mean_and_range(ax, steps, curves.over_edge[matrix][:, 1:], MATRIX_NAMES[matrix], colour)
            label = f"{MATRIX_NAMES[matrix]}, no probe triggered"
            mean_and_range(ax, steps, curves.unmarked[matrix][:, 1:], label, colour, dashed=True)
        against_edge(ax, "step")
        ax = column[2]
        at_end, kernel = value["at_end"], value["kernel"]
        mean_and_range(ax, fractions, at_end["raw_success"], "attack success", colours[1])
        mean_and_range(ax, fractions, at_end["accuracy"], "clean accuracy", colours[0])
        if kernel is not None:
            mean_and_range(ax, fractions, kernel["success"], "success, kernel", colours[1], dashed=True)
            mean_and_range(ax, fractions, kernel["accuracy"], "accuracy, kernel", colours[0], dashed=True)
        mean_and_range(ax, fractions, at_end["logits_alignment"], "alignment (logits)", colours[2])
        shares(ax, "end of training", "poisoned fraction")
        ax = column[3]
        for matrix, colour in zip(MATRICES, (colours[3], colours[2]), strict=True):
            mean_and_range(ax, fractions, at_end[matrix], MATRIX_NAMES[matrix], colour)
        if kernel is not None and "over_edge" in kernel:
            label = f"{MATRIX_NAMES['logits']}, kernel"
            mean_and_range(ax, fractions, kernel["over_edge"], label, colours[2], dashed=True)
        against_edge(ax, "poisoned fraction")
    shown(figure, f"Success and spectral visibility, {options.data}: mean and range over {options.seeds} seeds")
    for row in axes:
        legend_beside(row)
    for ax in axes[2:].ravel():
        ticks_at(ax, fractions)
    return figure
