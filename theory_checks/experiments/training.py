"""Trains the classifiers of an experiment, with their clean references; a killed one goes on from its folder."""

import dataclasses
import functools
import hashlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from kpoison.networks import TrainedClassifier, train_classifier
from kpoison.sweep.storage import hash_of
from theory_checks.experiments import measuring
from theory_checks.experiments.architectures import ArchitectureName, create
from theory_checks.experiments.measuring import Measurement
from theory_checks.experiments.options import Options, geometric_steps
from theory_checks.experiments.problem import Problem, make_problem, usual_augmentation

__all__ = ["Arm", "Trainer"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """How a classifier is trained.

    Attributes:
        architecture: its name.
        fraction: of the training images that is poisoned; 0 for a clean reference.
        augmentation: whether training images are augmented.
        penalty: γ >= 0.
    """

    architecture: ArchitectureName
    fraction: float
    augmentation: bool = False
    penalty: float = 0.0

    @property
    def reference(self) -> "Arm":
        """The same without poison."""
        return dataclasses.replace(self, fraction=0.0)

    def __str__(self) -> str:
        augmented = "-augmented" if self.augmentation else ""
        penalised = f"-penalty-{self.penalty:g}" if self.penalty > 0 else ""
        return f"{self.architecture}-poison-{self.fraction:g}{augmented}{penalised}"


class Trainer:
    """Trains the arms of an experiment for each seed.

    Args:
        options: of the experiment.
        fractions: that will be poisoned.
        octaves, per_octave: the steps at which is measured, as in `geometric_steps`.
        folder: where checkpoints are kept; None for nowhere.
        total: trainings to come, for the progress bar.
    """

    def __init__(
        self,
        options: Options,
        fractions: Sequence[float],
        octaves: int,
        per_octave: int,
        folder: Path | None,
        total: int,
    ):
        self.options, self.folder = options, folder
        self.problems = {seed: self._problem(seed) for seed in options.every_seed}
        first = self.problems[options.seed]
        batches = len(first.images) // _given(options.batch_size)
        if batches == 0:
            raise ValueError(f"batch_size must be at most the training images, {len(first.images)}")
        self.steps = geometric_steps(_given(options.epochs) * batches, octaves, per_octave)
        for problem in self.problems.values():
            # All that can be refused is, before hours of training.
            problem.probes(_given(options.probes), options.probe_fraction)
            for fraction in fractions:
                problem.count(fraction)
        self.bar = tqdm(total=total, disable=not sys.stderr.isatty(), unit="training", leave=False)

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def _problem(self, seed: int) -> Problem:
        o = self.options
        return make_problem(
            o.data, train=o.train, test=o.test, target=o.target, labels=o.labels, data_dir=o.data_dir, seed=seed,
            dtype=o.dtype,
        )  # fmt: skip

    def train(self, arm: Arm, seed: int, *, throughout: bool = True) -> TrainedClassifier:
        """One classifier, measured at all steps, or at the last one only."""
        options, problem = self.options, self.problems[seed]
        images, labels = problem.training_set(arm.fraction)
        measurement = Measurement(problem, _given(options.probes), options.probe_fraction, arm.fraction == 0)
        folder = None
        if self.folder is not None:
            folder = self.folder / str(arm) / f"seed-{seed}"
            folder.parent.mkdir(parents=True, exist_ok=True)
        self.bar.set_description(f"{arm} seed {seed}")
        trained = train_classifier(
            self._create(arm.architecture)(jax.random.key(seed)),
            images,
            labels,
            epochs=_given(options.epochs),
            batch_size=_given(options.batch_size),
            optimiser=options.optimiser(),
            augmentation=usual_augmentation(problem) if arm.augmentation else None,
            gradient_penalty=arm.penalty,
            seed=seed,
            measure=measurement,
            measure_at=self.steps if throughout else self.steps[-1:],
            folder=folder,
            metadata=self._identity(measurement),
            progress=False,
        )
        self.bar.update()
        return trained

    @functools.cache  # noqa: B019 - a trainer lives as long as its experiment
    def _create(self, architecture: ArchitectureName):
        first = self.problems[self.options.seed]
        width = self.options.width_of(architecture)
        return create(architecture, width, first.image_shape, first.classes, self.options.dtype)

    def _identity(self, measurement: Measurement) -> dict[str, Any]:
        """What the measurements depend on beside the model."""
        problem = measurement.problem
        return {
            "data": problem.data,
            "target": problem.target,
            "probes": measurement.probes,
            "probe_fraction": measurement.probe_fraction,
            "repeats": measurement.repeats,
            "measurement": hashlib.sha256(inspect.getsource(measuring).encode()).hexdigest(),
            "test_hash": hash_of(problem.test_images, problem.test_labels, problem.test_triggered),
        }


def _given(value: int | None) -> int:
    assert value is not None  # `Options` has filled it in
    return value
