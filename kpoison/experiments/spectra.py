"""Where the poison shows: spectra of the loss's Hessian in inputs and in parameters, and which eigenvector it is."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from kpoison import curvature, plotting
from kpoison.experiments.options import ArchitectureName, Options
from kpoison.experiments.pictures import MATRIX_NAMES, legend_beside, overlaps_by_rank, shown
from kpoison.experiments.problem import Problem
from kpoison.experiments.result import Claim, Experiment, Table, above
from kpoison.experiments.training import Arm, Trainer
from kpoison.networks import Classifier
from kpoison.statistics import t_interval

__all__ = ["parameter_spectrum", "run"]

_EIGENVECTORS = 10
_EXAMPLES = 400  # training images over which the parameter Hessian is averaged
_TOLERANCE = 1e-3

Spectra = dict[str, np.ndarray]
"""By quantity: shape (seeds, fractions + 1, eigenvectors), clean runs first; rates without the last axis."""


def run(
    options: Options, architectures: Sequence[ArchitectureName] = ("mlp",), folder: Path | None = None
) -> Experiment:
    """Train each architecture clean and at each fraction, and compare both Hessians of the loss at the end.

    Args:
        options: data and sizes.
        architectures: the classifiers.
        folder: where checkpoints are kept, so that the same call goes on from there.
    """
    fractions = tuple(sorted({*options.fractions, options.fraction}))
    total = len(architectures) * options.seeds * (1 + len(fractions))
    with Trainer(options, fractions, 0, 1, folder, total, _EIGENVECTORS) as trainer:
        found: dict[str, Spectra] = {name: _of_architecture(trainer, name, (0.0, *fractions)) for name in architectures}
    chance = trainer.chance
    notes = [
        f"{trainer.words}.",
        f"input: Hessian of the cross-entropy in the input, over {options.probes} test images, "
        f"{options.probe_fraction:.0%} of them triggered (JᵀSJ, whatever the labels); clean runs over the same images.",
        f"parameters: Hessian of the training loss in all parameters, over {_EXAMPLES} of the images trained on with "
        "the labels trained on, by Lanczos on Hessian–vector products; without weight decay.",
        "poison's share: of the curvature along the first eigenvector, how much poisoned images contribute.",
        f"cos²: of an eigenvector of the input Hessian with the trigger; by chance {chance:.2g}.",
    ]
    return Experiment(
        "spectra",
        f"Hessians in inputs and in parameters: {trainer.first.data}",
        options,
        architectures,
        [_table(name, spectra, fractions) for name, spectra in found.items()],
        [claim for name, spectra in found.items() for claim in _claims(name, spectra, fractions)],
        notes,
        {name: {**spectra, "fractions": (0.0, *fractions)} for name, spectra in found.items()},
        lambda: _figure(found, fractions, options),
        trainer.seconds,
    )


def _of_architecture(trainer: Trainer, name: ArchitectureName, fractions: Sequence[float]) -> Spectra:
    collected: dict[str, list[list[np.ndarray]]] = {}
    for place, fraction in enumerate(fractions):
        (trained,) = trainer.train(Arm(name, fraction), throughout=False)
        for seed, each in zip(trainer.options.every_seed, trained, strict=True):
            last = {str(key): np.asarray(value.values)[-1] for key, value in each.history.data_vars.items()}
            values, share = parameter_spectrum(each.model, trainer.problems[seed], fraction, seed)
            last |= {"parameter_eigenvalues": values, "poison_share": np.asarray(share)}
            for key, value in last.items():
                collected.setdefault(key, [[] for _ in fractions])[place].append(value)
    return {key: np.swapaxes(np.array(value), 0, 1) for key, value in collected.items()}


def parameter_spectrum(model: Classifier, problem: Problem, fraction: float, seed: int) -> tuple[np.ndarray, float]:
    """The first eigenvalues of the loss's Hessian in the parameters, and the poison's share along the first one.

    Over some of the images trained on, as many of them poisoned as in all; the share is v₁ᵀH_P v₁/v₁ᵀHv₁, H_P the sum
    over the poisoned images.
    """
    images, labels = problem.training_set(fraction)
    poisoned = np.zeros(len(images), bool)
    poisoned[problem.order[: problem.count(fraction)]] = True
    number = min(_EXAMPLES, len(images))
    of_poison = round(poisoned.sum() * number / len(images))
    drawn = np.random.default_rng((seed, 3))
    groups = [np.flatnonzero(poisoned), np.flatnonzero(~poisoned)]
    # The same clean images at every fraction, but for those that make room.
    chosen = [
        drawn.permutation(group)[:size] for group, size in zip(groups, (of_poison, number - of_poison), strict=True)
    ]

    def hessian(places: np.ndarray) -> curvature.Operator:
        return curvature.parameter_hessian(
            model, jnp.asarray(images[places]), jnp.asarray(labels[places]), loss="softmax"
        )

    k = _EIGENVECTORS
    pairs = curvature.top_eigenpairs(hessian(np.concatenate(chosen)), k, tolerance=_TOLERANCE, throw=False)
    if of_poison == 0:
        return np.asarray(pairs.values, float), 0.0
    v = pairs.vectors[0]
    own = of_poison / number * float(v @ hessian(chosen[0])(v))
    largest = float(pairs.values[0])
    return np.asarray(pairs.values, float), own / largest if largest > 0 else 0.0


def _table(name: str, spectra: Spectra, fractions: Sequence[float]) -> Table:
    header = ["fraction", "success", "accuracy", "λ₁ input", "λ₁ parameters", "poison's share", "cos² first",
              f"first {_EIGENVECTORS} summed", "at its largest"]  # fmt: skip
    rows = []
    for place, fraction in enumerate((0.0, *fractions)):
        overlaps = spectra["hessian_overlaps"][:, place]
        shares = [t_interval(values) for values in (overlaps[:, 0], overlaps.sum(axis=1))]
        rows.append(
            [
                f"{fraction:g}" if fraction else "clean",
                *(str(t_interval(spectra[key][:, place])) for key in ("success", "accuracy")),
                *(
                    f"{spectra[key][:, place, 0].mean():.3g}"
                    for key in ("hessian_eigenvalues", "parameter_eigenvalues")
                ),
                str(t_interval(spectra["poison_share"][:, place])),
                *(f"{share.mean:.4f} ± {share.half_width:.4f}" for share in shares),
                ", ".join(str(rank + 1) for rank in overlaps.argmax(axis=1)),
            ]
        )
    return Table(f"{name}: means over seeds; by seed, which eigenvector has the largest cos²", header, rows)


def _claims(name: str, spectra: Spectra, fractions: Sequence[float]) -> list[Claim]:
    """The contrast that arXiv 2505.15175 draws, at the largest fraction against the clean run of the same seed."""
    largest = {key: spectra[f"{key}_eigenvalues"][:, [0, -1], 0] for key in ("hessian", "parameter")}
    dead = any(np.any(values <= 0) for values in largest.values())
    growth = {key: np.zeros(2) if dead else np.log(values[:, 1] / values[:, 0]) for key, values in largest.items()}
    reason = "a network whose outputs do not depend on its inputs"
    overlaps = spectra["hessian_overlaps"][:, :, 0]
    theta = f"θ = {fractions[-1]:g}"
    return [
        above(
            f"{name}: log of λ₁ of the input Hessian over the clean run's, {theta}",
            None if dead else t_interval(growth["hessian"]),
            0.0,
            reason,
        ),
        above(
            f"{name}: less the same of the parameter Hessian (paired)",
            None if dead else t_interval(growth["hessian"] - growth["parameter"]),
            0.0,
            reason,
        ),
        above(
            f"{name}: cos² of the input Hessian's first eigenvector with the trigger, {theta}, less the clean run's",
            t_interval(overlaps[:, -1] - overlaps[:, 0]),
            0.0,
        ),
        above(
            f"{name}: the poison's share along the parameter Hessian's first eigenvector, {theta}, less θ",
            t_interval(spectra["poison_share"][:, -1] - fractions[-1]),
            0.0,
        ),
    ]


def _figure(found: dict[str, Spectra], fractions: Sequence[float], options: Options) -> Figure:
    """A row for each architecture: eigenvalues of both Hessians by rank, and cos² by rank and fraction."""
    figure = Figure(figsize=(13.5, 3.9 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), 3, squeeze=False)
    for row, (name, spectra) in zip(axes, found.items(), strict=True):
        for ax, key, title in (
            (row[0], "hessian_eigenvalues", f"{MATRIX_NAMES['hessian']} in inputs"),
            (row[1], "parameter_eigenvalues", f"{MATRIX_NAMES['hessian']} in parameters"),
        ):
            values = np.maximum(spectra[key], 1e-12)
            ranks = np.arange(1, values.shape[2] + 1)
            for place, fraction in enumerate((0.0, *fractions)):
                mean = np.exp(np.log(values[:, place]).mean(axis=0))
                colour = "0.5" if place == 0 else plotting.COLOURS[(place - 1) % len(plotting.COLOURS)]
                label = "clean" if place == 0 else f"θ = {fraction:g}"
                ax.plot(ranks, mean, "--o" if place == 0 else "-o", color=colour, markersize=3, label=label)
            ax.set(title=f"{name}: {title}", xlabel="eigenvalue by rank", ylabel="eigenvalue", yscale="log")
        overlaps_by_rank(row[2], (0.0, *fractions), spectra["hessian_overlaps"].mean(axis=0))
        row[2].set_title(f"{name}: cos² with the trigger, inputs")
        legend_beside(row[:2])
    shown(figure, f"Where the poison shows, {options.data}: means over {options.seeds} seeds")
    return figure
