"""T6: augmentation, the gradient penalty, and both, against the length of training."""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kpoison import plotting
from theory_checks.experiments.architectures import ArchitectureName
from theory_checks.experiments.curves import Curves
from theory_checks.experiments.intervals import t_interval
from theory_checks.experiments.measuring import MATRICES
from theory_checks.experiments.options import Options
from theory_checks.experiments.pictures import against_edge, mean_and_range, shares, shown
from theory_checks.experiments.result import Claim, Experiment, Table, above, below
from theory_checks.experiments.training import Arm, Trainer

__all__ = ["DEFENCES", "run"]

DEFENCES = ("none", "augmentation", "penalty", "both")
_ORDER_ONE = 0.5


def run(
    options: Options, architectures: Sequence[ArchitectureName] = ("lenet",), folder: Path | None = None
) -> Experiment:
    """Train one architecture with each defence, poisoned and clean, for each seed.

    Args:
        options: data and sizes.
        architectures: the classifier, one.
        folder: where checkpoints are kept, so that the same call goes on from there.

    Raises:
        ValueError: for more than one architecture.
    """
    start = time.perf_counter()
    if len(architectures) != 1:
        raise ValueError(f"joint-defence takes one architecture, got {' '.join(architectures)}")
    (name,) = architectures
    gamma = float(options.penalty or 0)
    arms = {
        defence: Arm(name, options.fraction, augmented, penalty)
        for defence, (penalty, augmented) in zip(
            DEFENCES, itertools.product((0.0, gamma), (False, True)), strict=True
        )
    }  # fmt: skip
    curves = {}
    with Trainer(options, (options.fraction,), 3, 1, folder, 2 * len(arms) * options.seeds) as trainer:
        for defence, arm in arms.items():
            pairs = [
                [trainer.train(each, seed).history for seed in options.every_seed] for each in (arm, arm.reference)
            ]
            curves[defence] = Curves.of(*pairs)
        problem = trainer.problems[options.seed]
    notes = [
        f"{problem.data}, {name} of width {options.width_of(name)}: {len(problem.images)} training images, "
        f"{options.fraction:.1%} poisoned; batches of {options.batch_size}; penalty (γ/2) mean ‖∇ℓ‖², γ = {gamma:g}; "
        f"{options.seeds} seeds; mean ± 95 % t-interval.",
        "Training is at a constant rate, so that its state after a number of steps is a training of that length.",
        "Δp: the target's mean probability over triggered test images of other classes, less that of a network trained "
        "with the same defence, images and seed without poison.",
        "hessian, logits: λ₁/edge as in the experiment `lag`; 'seen': seeds at which the leading eigenvector is an "
        "outlier and the trigger's (alignment ≥ 0.5).",
    ]
    return Experiment(
        "joint-defence",
        f"T6, joint defence: {problem.data}",
        options,
        architectures,
        [_table(curves)],
        _claims(curves),
        notes,
        {defence: value.numbers() for defence, value in curves.items()},
        lambda: _figure(curves, f"T6, joint defence, {options.data}, {name}, γ = {gamma:g}: mean and range over "
                        f"{options.seeds} seeds"),
        time.perf_counter() - start,
    )  # fmt: skip


def _table(curves: dict[str, Curves]) -> Table:
    rows = []
    for defence, found in curves.items():
        for i, step in enumerate(found.steps):
            if step == 0:
                continue
            rows.append(
                [
                    defence,
                    str(step),
                    str(t_interval(found.poisoned["success"][:, i])),
                    str(t_interval(found.change[:, i])),
                    str(t_interval(found.poisoned["accuracy"][:, i])),
                    str(t_interval(found.clean["accuracy"][:, i])),
                    *(str(t_interval(found.over_edge[matrix][:, i])) for matrix in MATRICES),
                    f"{np.sum(found.visible('hessian')[:, i])}, {np.sum(found.visible('logits')[:, i])}",
                ]
            )
    header = ["defence", "steps", "success", "Δp", "accuracy", "clean run's", "hessian", "logits", "seen"]
    return Table("Defences and the length of training", header, rows)


def _claims(curves: dict[str, Curves]) -> list[Claim]:
    """T6 in three parts, and what they rest on."""
    end = {defence: found.change[:, -1] for defence, found in curves.items()}
    both = curves["both"]
    trained = np.flatnonzero(both.steps > 0)
    frontier = both.poisoned["accuracy"] - both.poisoned["success"]
    first, last = trained[0], trained[-1]
    order = f"of order one means > {_ORDER_ONE:g}"
    return [
        above(f"without a defence Δp is of order one ({order})", t_interval(end["none"]), _ORDER_ONE),
        above("augmentation alone leaves Δp of order one", t_interval(end["augmentation"]), _ORDER_ONE),
        below("with augmentation and the penalty Δp is not of order one", t_interval(end["both"]), _ORDER_ONE),
        above(
            "the penalty lowers Δp under augmentation (Δp augmentation − Δp both, paired)",
            t_interval(end["augmentation"] - end["both"]),
            0.0,
        ),
        below("the penalty without augmentation leaves Δp below order one", t_interval(end["penalty"]), _ORDER_ONE),
        above(
            f"longer training improves the frontier of both: accuracy − success at {both.steps[last]} steps less that "
            f"at {both.steps[first]}, paired",
            t_interval(frontier[:, last] - frontier[:, first]),
            0.0,
        ),
        above(
            f"the same from {both.steps[trained[-2]]} to {both.steps[last]} steps",
            t_interval(frontier[:, last] - frontier[:, trained[-2]]),
            0.0,
        ),
    ]


def _figure(curves: dict[str, Curves], title: str) -> Figure:
    """Success, accuracy, Δp and visibility against the length of training; accuracy against success."""
    figure = Figure(figsize=(14, 7.4), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for (defence, found), colour in zip(curves.items(), plotting.COLOURS, strict=False):
        steps = found.steps[1:]
        quantities = (
            found.poisoned["success"], found.poisoned["accuracy"], found.change,
            found.over_edge["hessian"], found.over_edge["logits"],
        )  # fmt: skip
        for ax, values in zip(axes, quantities, strict=False):
            mean_and_range(ax, steps, values[:, 1:], defence, colour)
        x, y = (found.poisoned[key][:, 1:].mean(axis=0) for key in ("success", "accuracy"))
        axes[5].plot(x, y, "-", color=colour, label=defence, linewidth=1.2)
        for i, (a, b) in enumerate(zip(x, y, strict=True)):
            axes[5].plot(a, b, "o", color=colour, markersize=3 + 2 * i)
    names = ("attack success rate", "clean accuracy", "Δp: change of the target's probability")
    for ax, name in zip(axes, names, strict=False):
        shares(ax, name, "steps of training")
    for ax, matrix in zip(axes[3:], MATRICES, strict=False):
        against_edge(ax, "steps of training", f"visibility: {matrix}")
    axes[5].set(title="frontier: larger dots, longer training", xlabel="attack success rate", ylabel="clean accuracy",
                xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))  # fmt: skip
    axes[5].legend()
    shown(figure, title)
    return figure
