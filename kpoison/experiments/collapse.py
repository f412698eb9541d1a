"""Feature collapse: distances among poisons in input space, in kernel feature space, and in trained feature spaces."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import kpoison as kp
from kpoison import plotting
from kpoison.experiments.architectures import infinite_width
from kpoison.experiments.options import ArchitectureName, Options
from kpoison.experiments.pictures import shown
from kpoison.experiments.problem import Problem
from kpoison.experiments.result import Claim, Experiment, Table, below
from kpoison.experiments.training import Arm, Trainer
from kpoison.statistics import t_interval

__all__ = ["Spaces", "distances_of_features", "distances_of_kernel", "mean_distance", "run"]

_POISONS = 40
_OF_CLASS = 40
_KERNEL_POISONS = 20  # of Gram matrices of finite networks and of images, which are dear

Spaces = dict[str, np.ndarray]
"""Distances (3p, 3p) by the name of the space: among p poisons, the same images without trigger, the target class."""


def distances_of_features(features: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, n) of rows (n, k)."""
    features = np.asarray(features, float).reshape(len(features), -1)
    squares = np.sum(features**2, axis=1)
    return np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * features @ features.T, 0))


def distances_of_kernel(gram: np.ndarray) -> np.ndarray:
    """Distances (n, n) in the kernel's feature space, √(k(x,x) + k(z,z) − 2k(x,z))."""
    gram = np.asarray(gram, float)
    diagonal = np.diagonal(gram)
    return np.sqrt(np.maximum(diagonal[:, None] + diagonal[None] - 2 * gram, 0))


def mean_distance(distances: np.ndarray, first: np.ndarray, second: np.ndarray | None = None) -> float:
    """The mean over pairs of different points, of one group or of two."""
    if second is None:
        block = distances[np.ix_(first, first)]
        return float(np.mean(block[np.triu_indices(len(first), 1)]))
    return float(np.mean(distances[np.ix_(first, second)]))


def run(
    options: Options, architectures: Sequence[ArchitectureName] = ("lenet",), folder: Path | None = None
) -> Experiment:
    """Train each architecture, poisoned and clean, for each seed, and compare distances.

    Args:
        options: data and sizes.
        architectures: the classifiers.
        folder: where checkpoints are kept, so that the same call goes on from there.
    """
    tables, claims, numbers, pictures = [], [], {}, {}
    with Trainer(options, (options.fraction,), 0, 1, folder, 2 * len(architectures) * options.seeds) as trainer:
        for name in architectures:
            ratios: dict[str, dict[str, list[float]]] = {}
            trained = trainer.train(Arm(name, options.fraction), Arm(name, 0.0))
            for seed, poisoned, clean in zip(options.every_seed, *trained, strict=True):
                images = _images(trainer.problems[seed])
                for space, distances in _spaces(name, poisoned.model, clean.model, images).items():
                    for quantity, value in _ratios(distances).items():
                        ratios.setdefault(space, {}).setdefault(quantity, []).append(value)
                if seed == options.seed:
                    pictures[name] = _pictured(poisoned.model, images)
            tables.append(_table(name, ratios))
            claims += _claims(name, ratios)
            numbers[name] = ratios
    notes = [
        f"{trainer.words}; ratios of mean distances, geometric mean and 95 % t-interval.",
        f"Poisons: {_POISONS} triggered test images that are not of the target class ({_KERNEL_POISONS} for empirical "
        "and convolutional kernels); untriggered: the same images as they are; target: as many of the target class.",
        "among/untriggered: poisons among each other over the same images without trigger (1: nothing collapses); "
        "among/target: over the target class among itself; to target/to own: poisons to the target class over poisons "
        "to the untriggered images of other classes (below 1: they have moved to the target).",
    ]
    return Experiment(
        "collapse",
        f"Feature collapse: {trainer.first.data}",
        options,
        architectures,
        tables,
        claims,
        notes,
        numbers,
        lambda: _figure(pictures, options),
        trainer.seconds,
    )


def _images(problem: Problem) -> np.ndarray:
    """Poisons, the same without trigger, and images of the target class: test images, (3p, height, width, channels)."""
    others = np.flatnonzero(problem.attacked)
    own = np.flatnonzero(~problem.attacked)
    number = min(_POISONS, _OF_CLASS, len(others), len(own))
    return np.concatenate(
        [
            problem.test_triggered[others[:number]],
            problem.test_images[others[:number]],
            problem.test_images[own[:number]],
        ]
    )


def _few(images: np.ndarray) -> np.ndarray:
    """The first of each group."""
    groups = images.reshape(3, -1, *images.shape[1:])[:, :_KERNEL_POISONS]
    return groups.reshape(-1, *images.shape[1:])


@eqx.filter_jit
def _penultimate(model: Any, images: jax.Array) -> jax.Array:
    return jax.vmap(model.features)(images)


def _spaces(name: ArchitectureName, poisoned: Any, clean: Any, images: np.ndarray) -> Spaces:
    """Distances in every space."""
    kernel, words = infinite_width(name)
    found = {"input": distances_of_features(images)}
    if kernel is not None:
        of_images = kernel.point_ndim == 3
        chosen = jnp.asarray(_few(images) if of_images else images.reshape(len(images), -1), float)
        found[words] = distances_of_kernel(np.asarray(kernel(chosen)))
    few = jnp.asarray(_few(images))
    for label, model in (("clean", clean), ("poisoned", poisoned)):
        tangent = kp.kernels.empirical_ntk(model, point_ndim=3)
        found[f"empirical NTK, {label} network"] = distances_of_kernel(np.asarray(tangent(few), float))
    for label, model in (("clean", clean), ("poisoned", poisoned)):
        features = np.asarray(_penultimate(model, jnp.asarray(images)))
        found[f"penultimate features, {label} network"] = distances_of_features(features)
    return found


def _ratios(distances: np.ndarray) -> dict[str, float]:
    poisons, untriggered, target = np.arange(len(distances)).reshape(3, -1)
    among = mean_distance(distances, poisons)
    return {
        "among/untriggered": among / mean_distance(distances, untriggered),
        "among/target": among / mean_distance(distances, target),
        "to target/to own": mean_distance(distances, poisons, target) / mean_distance(distances, poisons, untriggered),
    }


def _table(name: str, ratios: dict[str, dict[str, list[float]]]) -> Table:
    def cell(values: list[float]) -> str:
        found = t_interval(np.log(values))
        low, mean, high = np.exp([found.low, found.mean, found.high])
        return f"{mean:.3f} [{low:.3f}, {high:.3f}]"

    quantities = list(next(iter(ratios.values())))
    rows = [[space, *(cell(values[quantity]) for quantity in quantities)] for space, values in ratios.items()]
    return Table(f"{name}: ratios of mean distances", ["space", *quantities], rows)


def _claims(name: str, ratios: dict[str, dict[str, list[float]]]) -> list[Claim]:
    """Poisons collapse where features were learnt from them, and not before."""
    logs = {space: np.log(values["among/untriggered"]) for space, values in ratios.items()}
    trained, clean = (logs[f"penultimate features, {label} network"] for label in ("poisoned", "clean"))
    moved = np.log(ratios["penultimate features, poisoned network"]["to target/to own"])
    return [
        below(f"{name}: poisons collapse in penultimate features, log(among/untriggered)", t_interval(trained), 0.0),
        below(
            f"{name}: more than in input space (difference of the logarithms, paired)",
            t_interval(trained - logs["input"]),
            0.0,
        ),
        below(f"{name}: more than in a clean network's features (paired)", t_interval(trained - clean), 0.0),
        below(f"{name}: poisons have moved to the target class, log(to target/to own)", t_interval(moved), 0.0),
    ]


def _pictured(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """First two principal components of input and penultimate features."""
    return {
        "input space": principal_components(images.reshape(len(images), -1)),
        "penultimate features of the poisoned network": principal_components(
            np.asarray(_penultimate(model, jnp.asarray(images)))
        ),
    }


def principal_components(points: np.ndarray) -> np.ndarray:
    """The first two principal components (n, 2) of points (n, k), centred."""
    centred = np.asarray(points, float) - np.mean(points, axis=0, dtype=float)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :2] * singular[:2]


def _figure(pictures: dict[str, dict[str, np.ndarray]], options: Options) -> Figure:
    """A row for each architecture: input space and penultimate features."""
    figure = Figure(figsize=(10, 4.6 * len(pictures)), layout="constrained")
    axes = figure.subplots(len(pictures), 2, squeeze=False)
    groups = (("poisons", "x", 1), ("the same without trigger", "o", 0), ("target class", "s", 2))
    for row, (name, spaces) in zip(axes, pictures.items(), strict=True):
        for ax, (space, points) in zip(row, spaces.items(), strict=True):
            for part, (label, marker, colour) in zip(points.reshape(3, -1, 2), groups, strict=True):
                face = "none" if marker != "x" else plotting.COLOURS[colour]
                edge = {"edgecolors": plotting.COLOURS[colour]} if marker != "x" else {}
                ax.scatter(*part.T, marker=marker, s=26, facecolors=face, label=label, **edge)
            ax.set(title=f"{name}: {space}", xlabel="first principal component", ylabel="second principal component")
            ax.legend()
    shown(figure, f"Poisons before and after learning, {options.data}, seed {options.seed}")
    return figure
