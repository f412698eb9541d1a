"""The paper's table: success, accuracy and overlap of several triggers, against the fraction and the penalty."""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from kpoison import plotting
from kpoison.experiments.joint_defence import stable_penalty
from kpoison.experiments.options import ArchitectureName, Options
from kpoison.experiments.pictures import legend_beside, mean_and_range, shares, shown, ticks_at
from kpoison.experiments.plan import Plan, Work, plan
from kpoison.experiments.result import Claim, Experiment, Table, above, below
from kpoison.experiments.training import Arm, Trainer, trigger_margin
from kpoison.networks import DivergedError
from kpoison.problems import IMAGE_SHAPES, make_trigger
from kpoison.statistics import Interval, t_interval

__all__ = ["Row", "run"]

Poisons = Literal["fixed", "stochastic"]
TRIGGERS = ("additive", "warp", "patch")
POISONS: tuple[Poisons, ...] = ("fixed", "stochastic")
_PENALTIES = 6  # over five decades
_BEYOND_STABLE = 10.0  # accuracy falls there, of most networks; descent of few breaks down
_EIGENVECTORS = 5
_PENALTY_IMAGES = 200
_QUANTITIES = ("success", "clean run's", "accuracy")
_OVERLAPS = ("hessian cos²", "clean cos²", f"first {_EIGENVECTORS}", "logits cos²")


class Row(NamedTuple):
    """One training, over the seeds.

    Attributes:
        trigger, poisons, augmented, fraction, penalty: how it was poisoned and trained.
    """

    trigger: str
    poisons: Poisons
    augmented: bool
    fraction: float
    penalty: float


Measured = dict[str, np.ndarray]
"""By quantity: shape (seeds, lengths)."""


def run(
    options: Options, architectures: Sequence[ArchitectureName] = ("lenet", "mlp"), folder: Path | None = None
) -> Experiment:
    """Train one network with each trigger, fixed and stochastic poisons, with and without augmentation.

    Against the fraction without a penalty, and against the penalty over five decades at the middle fraction.

    Args:
        options: data and sizes; its trigger and poisons are not used.
        architectures: in the order in which they are tried, see `plan`.
        folder: where the plan and checkpoints are kept, so that the same call goes on from there.
    """
    fractions = tuple(sorted({*options.fractions, options.fraction}))
    each = 2 * len(TRIGGERS) * len(POISONS) * options.seeds
    # Augmentation takes next to no time, so that all count as augmented; each trigger is compared with clean runs, too.
    work = [
        Work(Arm("mlp", options.fraction, True, penalty), number)
        for penalty, number in ((0.0, each * len(fractions) + each // len(POISONS)), (1e-3, each * _PENALTIES))
    ]
    _say(
        f"{sum(part.number for part in work)} trainings of {options.epochs} epochs, of the first of "
        f"{', '.join(architectures)} that there is time for in {options.minutes:g} minutes: {', '.join(TRIGGERS)}; "
        f"{' and '.join(POISONS)} poisons; with and without augmentation; fractions "
        f"{', '.join(f'{fraction:g}' for fraction in fractions)} without penalty, {options.fraction:g} with "
        f"{_PENALTIES} penalties; {options.seeds} seeds"
    )
    for trigger, seed in itertools.product(TRIGGERS, options.every_seed):
        # Refused before the first training rather than after hours of them.
        own = dataclasses.replace(options, trigger=trigger)
        make_trigger(own, IMAGE_SHAPES[options.data], margin=trigger_margin(options), seed=seed)
    chosen = plan(options, architectures, work, options.minutes, folder, _EIGENVECTORS)
    _say(chosen.words)
    sized = dataclasses.replace(options, train=chosen.train)
    found, gammas, diverged, trainer = _trained(sized, chosen, fractions, each, folder)
    notes = [
        f"{chosen.words}.",
        f"{trainer.first.data}; {options.seeds} seeds; mean ± 95 % t-interval; width "
        f"{options.width_of(chosen.architecture)}; success of images that are not of the target class; the "
        "clean run's: of a network trained on the same images without poison, as augmented, without penalty.",
        f"Penalty: the largest is {trainer.penalty_in_words(gammas[-1])}; the others are ten times smaller each.",
        "cos²: of the leading eigenvector with the mean displacement by the trigger; hessian: input Hessian of the "
        f"cross-entropy, its first {_EIGENVECTORS} eigenvectors summed, and the clean run's; logits: JᵀJ; by chance "
        f"{trainer.chance:.2g} for each eigenvector.",
        f"Augmented: {_augmented(options)}.",
    ]
    if diverged:
        notes.append(f"Diverged, and left out: {'; '.join(diverged)}.")
    return Experiment(
        "table",
        f"Triggers, fractions and penalties: {trainer.first.data}",
        sized,
        (chosen.architecture,),
        _tables(found, options),
        _claims(found, fractions, gammas, options),
        notes,
        {
            "rows": [row._asdict() | measured for row, measured in found.items()],
            "lengths": options.every_length,
            "plan": dataclasses.asdict(chosen),
        },
        lambda: _figure(found, fractions, gammas, options, trainer.chance),
        trainer.seconds,
    )


def _say(words: str) -> None:
    """To whoever waits, beside the table."""
    print(f"table: {words}", file=sys.stderr, flush=True)


def _augmented(options: Options) -> str:
    if options.crop is not None:
        return f"random pieces of {options.crop} pixels a side, half of them mirrored"
    return "crops, cut-out, and of colour images flips and colour jitter"


def _trained(
    options: Options, chosen: Plan, fractions: tuple[float, ...], each: int, folder: Path | None
) -> tuple[dict[Row, Measured], list[float], list[str], Trainer]:
    """Every row, the penalties, what diverged, and the last trainer."""
    found: dict[Row, Measured] = {}
    diverged, gammas, last = [], [], None
    clean: dict[tuple[str, bool], Measured] = {}
    for trigger, poisons in itertools.product(TRIGGERS, POISONS):
        own = dataclasses.replace(options, trigger=trigger, poisons=poisons)
        place = None if folder is None else folder / f"{trigger}-{poisons}"
        total = 2 * (len(fractions) + _PENALTIES + (poisons == POISONS[0])) * options.seeds
        with Trainer(own, fractions, 0, 1, place, total, _EIGENVECTORS) as trainer:
            if not gammas:
                largest = options.penalty or _BEYOND_STABLE * min(
                    stable_penalty(trainer.initial(chosen.architecture, seed), problem.images[:_PENALTY_IMAGES])
                    for seed, problem in trainer.problems.items()
                )
                gammas = [largest * 10.0**-i for i in reversed(range(_PENALTIES))]
            settings = [(f, 0.0) for f in fractions] + [(options.fraction, gamma) for gamma in gammas]
            for augmented in (False, True):
                if (trigger, augmented) not in clean:
                    (histories,) = trainer.histories(Arm(chosen.architecture, 0.0, augmented), throughout=False)
                    clean[trigger, augmented] = _measured(histories)
            for augmented, (fraction, gamma) in itertools.product((False, True), settings):
                arm = Arm(chosen.architecture, fraction, augmented, gamma)
                try:
                    (histories,) = trainer.histories(arm, throughout=False)
                except DivergedError as error:
                    diverged.append(f"{trigger}, {poisons}, {arm}: {error}")
                    continue
                reference = clean[trigger, augmented]
                found[Row(trigger, poisons, augmented, fraction, gamma)] = _measured(histories) | {
                    "clean run's": reference["success"],
                    "clean cos²": reference["hessian cos²"],
                }
            _say(f"{trigger}, {poisons} poisons: done in {trainer.seconds / 60:.1f} minutes")
            last = trainer
    assert last is not None
    return found, gammas, diverged, last


def _stacked(histories: Sequence[xr.Dataset], name: str) -> np.ndarray:
    return np.stack([history[name].values for history in histories]).astype(float)


def _measured(histories: Sequence[xr.Dataset]) -> Measured:
    return {
        "success": _stacked(histories, "success"),
        "accuracy": _stacked(histories, "accuracy"),
        "hessian cos²": _stacked(histories, "hessian_alignment") ** 2,
        f"first {_EIGENVECTORS}": _stacked(histories, "hessian_overlaps").sum(axis=-1),
        "logits cos²": _stacked(histories, "logits_alignment") ** 2,
    }


def _tables(found: dict[Row, Measured], options: Options) -> list[Table]:
    """One for each trigger, with a line for each length of training."""
    header = ["poisons", "augmented", "fraction", "γ", "epochs", *_QUANTITIES, *_OVERLAPS]
    tables = []
    for trigger in TRIGGERS:
        rows = [
            [
                row.poisons, "yes" if row.augmented else "no", f"{row.fraction:g}", f"{row.penalty:.2g}", str(length),
                *(str(t_interval(measured[name][:, i])) for name in _QUANTITIES),
                *(_finely(t_interval(measured[name][:, i])) for name in _OVERLAPS),
            ]
            for row, measured in found.items()
            if row.trigger == trigger
            for i, length in enumerate(options.every_length)
        ]  # fmt: skip
        tables.append(Table(trigger, header, rows))
    return tables


def _finely(overlap: Interval) -> str:
    """With the decimals that tell it from chance."""
    return f"{overlap.mean:.4f} ± {overlap.half_width:.4f}"


def _claims(
    found: dict[Row, Measured], fractions: tuple[float, ...], gammas: list[float], options: Options
) -> list[Claim]:
    """What the paper reports, at the end of training, for fixed poisons without augmentation and with."""
    claims = []
    for trigger, augmented in itertools.product(TRIGGERS, (False, True)):
        name = f"{trigger}, {'augmented' if augmented else 'not augmented'}"

        def at(fraction: float, gamma: float, trigger=trigger, augmented=augmented) -> Measured | None:
            return found.get(Row(trigger, "fixed", augmented, fraction, gamma))

        few, many, plain = at(fractions[0], 0.0), at(fractions[-1], 0.0), at(options.fraction, 0.0)
        missing = "a training diverged"
        claims.append(
            above(
                f"{name}: the leading eigenvector of the input Hessian turns to the trigger, cos² at θ = "
                f"{fractions[-1]:g} less that at {fractions[0]:g}",
                None if few is None or many is None
                else t_interval(many["hessian cos²"][:, -1] - few["hessian cos²"][:, -1]),
                0.0,
                missing,
            )
        )  # fmt: skip
        summed = f"first {_EIGENVECTORS}"
        claims.append(
            above(
                f"{name}: so do the first {_EIGENVECTORS} together",
                None if few is None or many is None else t_interval(many[summed][:, -1] - few[summed][:, -1]),
                0.0,
                missing,
            )
        )
        for gamma in gammas[-2:]:
            held = at(options.fraction, gamma)
            claims.append(
                below(
                    f"{name}: the penalty γ = {gamma:.2g} lowers success, less that without it",
                    None if held is None or plain is None
                    else t_interval(held["success"][:, -1] - plain["success"][:, -1]),
                    0.0,
                    missing,
                )
            )  # fmt: skip
    return claims


def _figure(
    found: dict[Row, Measured], fractions: tuple[float, ...], gammas: list[float], options: Options, chance: float
) -> Figure:
    """A column for each trigger: success and cos² against the fraction, then success and accuracy against γ."""
    figure = Figure(figsize=(4.0 * len(TRIGGERS) + 2.6, 13.5), layout="constrained")
    axes = figure.subplots(4, len(TRIGGERS), squeeze=False)
    kinds = list(itertools.product(POISONS, (False, True)))
    for column, trigger in zip(axes.T, TRIGGERS, strict=True):
        for (poisons, augmented), colour in zip(kinds, plotting.COLOURS, strict=False):
            label = f"{poisons}, {'augmented' if augmented else 'as they are'}"
            along = {
                (row.fraction, row.penalty): measured
                for row, measured in found.items()
                if (row.trigger, row.poisons, row.augmented) == (trigger, poisons, augmented)
            }
            by_fraction = [(f, 0.0) for f in fractions]
            by_penalty = [(options.fraction, gamma) for gamma in gammas]
            quantities = ("success", "hessian cos²", "success", "accuracy")
            for ax, places, quantity in zip(column, (by_fraction,) * 2 + (by_penalty,) * 2, quantities, strict=True):
                there = [place for place in places if place in along]
                if not there:
                    continue
                x = [gamma if places is by_penalty else fraction for fraction, gamma in there]
                values = np.stack([along[place][quantity][:, -1] for place in there], axis=1)
                mean_and_range(ax, x, values, label, colour, dashed=augmented)
        shares(column[0], f"{trigger}: success", "poisoned fraction θ")
        clean = [measured["clean cos²"][:, -1].mean() for row, measured in found.items() if row.trigger == trigger]
        column[1].axhline(float(np.mean(clean)), color="black", linewidth=1, linestyle="--", label="clean runs")
        column[1].axhline(chance, color="black", linewidth=1, linestyle=":", label="by chance")
        shares(column[1], "cos² of the first eigenvector with the trigger", "poisoned fraction θ", "cos²")
        column[1].set(yscale="log", ylim=(chance / 30, 1.5))
        shares(column[2], f"success, θ = {options.fraction:g}", "penalty γ")
        shares(column[3], f"clean accuracy, θ = {options.fraction:g}", "penalty γ")
    shown(
        figure,
        f"Triggers, {options.data}, {options.every_length[-1]} epochs: mean and range over {options.seeds} seeds",
    )
    for row in axes:
        legend_beside(row)
    for ax in axes[:2].ravel():
        ticks_at(ax, fractions)
    return figure
