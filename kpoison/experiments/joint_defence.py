"""T6: augmentation, the gradient penalty, and both, against the length of training."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kpoison import plotting
from kpoison.experiments.curves import Curves
from kpoison.experiments.measuring import MATRICES, probe_rows
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
from kpoison.experiments.result import Claim, Experiment, Table, above, below
from kpoison.experiments.training import Arm, Trainer
from kpoison.networks import Classifier
from kpoison.statistics import t_interval

__all__ = ["DEFENCES", "run", "stable_penalty"]

DEFENCES = ("none", "augmentation", "penalty", "both")
_ORDER_ONE = 0.5
_PENALTY_IMAGES = 200


def stable_penalty(model: Classifier, images: np.ndarray) -> float:
    """γ with which the penalty's curvature is at most that of the loss: 1/Λ, Λ the largest input-Fisher eigenvalue.

    At an image let r = ∂ℓ/∂f, S = ∂²ℓ/∂f² and J = ∂f/∂x of the logits f, so that ∇ℓ = Jᵀr.  Parameters that change
    the logits by δ change ℓ by ½ δᵀSδ to second order, and ∇ℓ by JᵀSδ, so that (γ/2)‖∇ℓ‖² changes by
    (γ/2) δᵀSJJᵀSδ <= γΛ · ½ δᵀSδ with Λ the largest eigenvalue of JᵀSJ.  Where γΛ <= 1 the Gauss–Newton curvature of
    loss and penalty is at most twice that of the loss, whatever the scale of the input and the network: steps half as
    long as the longest that the loss bears remain stable.  What changes J itself is not bounded by this, nor is Λ
    later in training: with γ = 100/Λ an MLP on digits diverges within 30 steps, with 12/Λ one of six trainings does.

    Args:
        model: before training.
        images: normalised, shape (n, height, width, channels).
    """
    rows = probe_rows(model, images, ["softmax"])["softmax"]
    return float(1 / np.max(np.linalg.norm(rows.astype(float), 2, axis=(1, 2)) ** 2))


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
    if len(architectures) != 1:
        raise ValueError(f"joint-defence takes one architecture, got {' '.join(architectures)}")
    (name,) = architectures
    curves = {}
    with Trainer(options, (options.fraction,), 3, 1, folder, 2 * len(DEFENCES) * options.seeds) as trainer:
        gamma = options.penalty or min(
            stable_penalty(trainer.initial(name, seed), problem.images[:_PENALTY_IMAGES])
            for seed, problem in trainer.problems.items()
        )
        choices = itertools.product((0.0, gamma), (False, True))
        for defence, (penalty, augmented) in zip(DEFENCES, choices, strict=True):
            arm = Arm(name, options.fraction, augmented, penalty)
            curves[defence] = Curves.of(*trainer.histories(arm, arm.reference))
    notes = [
        f"{trainer.words}; mean ± 95 % t-interval; {name} of width {options.width_of(name)}.",
        f"Penalty: {trainer.penalty_in_words(gamma)}.",
        "Training is at a constant rate, so that its state after a number of steps is a training of that length.",
        "Δp: the target's mean probability over triggered test images of other classes, less that of a network trained "
        "with the same defence, images and seed without poison.",
        "hessian, logits: λ₁/edge as in the experiment `lag`; 'seen': seeds at which the leading eigenvector is an "
        "outlier and the trigger's (alignment ≥ 0.5).",
    ]
    return Experiment(
        "joint-defence",
        f"T6, joint defence: {trainer.first.data}",
        options,
        architectures,
        [_table(curves)],
        _claims(curves),
        notes,
        {defence: value.numbers() for defence, value in curves.items()} | {"gamma": gamma},
        lambda: _figure(curves, f"T6, joint defence, {options.data}, {name}, γ = {gamma:.3g}: mean and range over "
                        f"{options.seeds} seeds"),
        trainer.seconds,
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
    figure = Figure(figsize=(15.5, 7.4), layout="constrained")
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
    shares(axes[0], "attack success rate", "steps of training")
    shares(axes[1], "clean accuracy", "steps of training")
    shares(axes[2], "Δp: change of the target's probability", "steps of training", "poisoned less clean run")
    for ax, matrix in zip(axes[3:], MATRICES, strict=False):
        against_edge(ax, "steps of training", f"visibility: {MATRIX_NAMES[matrix]}")
    axes[5].set(title="frontier: larger dots, longer training", xlabel="attack success rate", ylabel="clean accuracy",
                xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))  # fmt: skip
    axes[5].legend()
    shown(figure, title)
    for row in (axes[:3], axes[3:]):
        legend_beside(row)
    for ax in axes[:5]:
        ticks_at(ax, next(iter(curves.values())).steps[1:])
    return figure
