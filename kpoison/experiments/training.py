"""Trains the classifiers of an experiment, with their clean references; a killed one goes on from its folder."""

import dataclasses
import functools
import hashlib
import inspect
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import xarray as xr

from kpoison._identity import hash_of
from kpoison._progress import progress_bar
from kpoison.experiments import measuring
from kpoison.experiments.architectures import Cropped, create, middle
from kpoison.experiments.measuring import Measurement
from kpoison.experiments.options import ArchitectureName, Options, geometric_steps
from kpoison.experiments.problem import Problem, crops_with_flips, make_problem, usual_augmentation
from kpoison.networks import Augmentation, Classifier, TrainedClassifier, train_classifier
from kpoison.problems import IMAGE_SHAPES

__all__ = ["Arm", "Trainer", "constant_rate", "trigger_margin"]


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


@functools.cache
def constant_rate(rate: float) -> optax.GradientTransformation:
    """Descent at a constant rate, so that a training looked at on its way is a shorter training."""
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, 0.9))


def trigger_margin(options: Options) -> int:
    """Pixels between trigger and corner: one off the corner of what is seen of every image, whichever piece it is."""
    return 1 + max(0, IMAGE_SHAPES[options.data][0] - options.crop) if options.crop else 1


class Trainer:
    """Trains the arms of an experiment for each seed.

    Args:
        options: of the experiment.
        fractions: that will be poisoned.
        octaves, per_octave: the steps at which is measured, as in `geometric_steps`.
        folder: where checkpoints are kept; None for nowhere.
        total: trainings to come, for the progress bar.
        eigenvectors: how many are compared with the trigger, of clean runs as of poisoned ones; by default none, and
            clean runs give the edge of the others' spectra.

    Attributes:
        problems: by seed.
        first: that of the first seed.
        steps: at which is measured.
        at_lengths: the same of trainings that are looked at where they end, or at each of the lengths asked for.
    """

    def __init__(
        self,
        options: Options,
        fractions: Sequence[float],
        octaves: int,
        per_octave: int,
        folder: Path | None,
        total: int,
        eigenvectors: int = 0,
    ):
        self.started = time.perf_counter()
        self.options, self.folder, self.eigenvectors = options, folder, eigenvectors
        self.problems = {seed: self._problem(seed) for seed in options.every_seed}
        self.first = self.problems[options.seed]
        batches = len(self.first.images) // _given(options.batch_size)
        if batches == 0:
            raise ValueError(f"batch_size must be at most the training images, {len(self.first.images)}")
        self.steps = geometric_steps(_given(options.epochs) * batches, octaves, per_octave)
        self.at_lengths = [length * batches for length in options.every_length]
        if options.lengths and octaves > 0:
            raise ValueError(
                f"lengths are of the table; here every length up to epochs is shown, got {options.lengths}"
            )
        if options.crop is not None:
            crops_with_flips(self.first, options.crop)
        for problem in self.problems.values():
            # All that can be refused is, before hours of training.
            problem.probes(_given(options.probes), options.probe_fraction)
            for fraction in fractions:
                problem.count(fraction)
        self.bar = progress_bar(unit="training", leave=False)(total=total)

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    @property
    def seconds(self) -> float:
        """Since the experiment began."""
        return time.perf_counter() - self.started

    @property
    def words(self) -> str:
        """What is trained on, and for how long."""
        options = self.options
        return (
            f"{self.first.data}: {len(self.first.images)} training images, {options.fraction:.1%} of them poisoned "
            f"({options.trigger}, {options.poisons} poisons); "
            f"{self.steps[-1]} steps of {options.batch_size}; {options.seeds} seeds"
        )

    @property
    def chance(self) -> float:
        """cos² with the trigger of a unit vector among all inputs that networks see."""
        whole = self.first.direction.reshape(self.first.image_shape)
        seen = whole if self.options.crop is None else middle(whole, self.options.crop, self.options.crop)
        return float(np.sum(seen**2)) / seen.size

    def penalty_in_words(self, gamma: float) -> str:
        """γ in every convention that is in use: a number alone says nothing of its strength."""
        scale, batch = self.first.scale, _given(self.options.batch_size)
        return (
            f"γ = {gamma:.3g} in (γ/2) mean ‖∇ℓ_i‖², of the gradient of each image's loss in normalised input; the "
            f"same penalty has κ = {gamma * scale**2:.3g} in pixels of [0, 1], and {batch} times as much, "
            f"{gamma * batch:.3g} and {gamma * batch * scale**2:.3g}, "
            "of the gradient of a batch's mean loss in all its inputs"
        )

    def _problem(self, seed: int) -> Problem:
        o = self.options
        return make_problem(
            o.data, train=o.train, test=o.test, trigger=o, target=o.target, labels=o.labels, data_dir=o.data_dir,
            seed=seed, dtype=o.dtype, margin=trigger_margin(o),
        )  # fmt: skip

    def histories(self, *arms: Arm, throughout: bool = True) -> list[list[xr.Dataset]]:
        """What is measured of each arm at each seed."""
        return [[trained.history for trained in found] for found in self.train(*arms, throughout=throughout)]

    def train(self, *arms: Arm, throughout: bool = True) -> list[list[TrainedClassifier]]:
        """Each arm at each seed, measured at all steps, or at `at_lengths` only.

        Two at a time on a CPU: the operations of a small network are too short for more than one core.
        """
        seeds = self.options.every_seed
        pairs = [(arm, seed) for arm in arms for seed in seeds]
        with ThreadPoolExecutor(2 if jax.default_backend() == "cpu" else 1) as threads:
            running = [threads.submit(self._train, *pair, throughout) for pair in pairs]
            try:
                found = [each.result() for each in running]
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise
        return [found[i : i + len(seeds)] for i in range(0, len(found), len(seeds))]

    def measurement(self, arm: Arm, seed: int) -> Measurement:
        """What is measured of an arm."""
        options, problem = self.options, self.problems[seed]
        edges = self.eigenvectors == 0
        return Measurement(
            problem, _given(options.probes), options.probe_fraction, edges and arm.fraction == 0,
            unmarked=edges, eigenvectors=self.eigenvectors,
        )  # fmt: skip

    def few_steps(
        self, arm: Arm, steps: int, measure: Callable[[Any, int], dict[str, Any]], measure_at: Sequence[int]
    ) -> TrainedClassifier:
        """So many steps of an arm on as many batches of the first seed's images, of which nothing is kept."""
        number = min(len(self.first.images), steps * _given(self.options.batch_size))
        epochs = -(-steps // (number // _given(self.options.batch_size)))
        return self._fitted(arm, self.options.seed, epochs, number, measure=measure, measure_at=measure_at)

    def _train(self, arm: Arm, seed: int, throughout: bool) -> TrainedClassifier:
        measurement = self.measurement(arm, seed)
        folder = None
        if self.folder is not None:
            folder = self.folder / str(arm) / f"seed-{seed}"
            folder.parent.mkdir(parents=True, exist_ok=True)
        self.bar.set_description(f"{arm} seed {seed}")
        trained = self._fitted(
            arm,
            seed,
            _given(self.options.epochs),
            None,
            measure=measurement,
            measure_at=self.steps if throughout else self.at_lengths,
            folder=folder,
            metadata=self._identity(measurement),
        )
        self.bar.update()
        return trained

    def _fitted(self, arm: Arm, seed: int, epochs: int, number: int | None, **keeping: Any) -> TrainedClassifier:
        """An arm trained on so many of a seed's images, by default all; measured and kept as asked."""
        options, problem = self.options, self.problems[seed]
        stochastic = options.poisons == "stochastic" and arm.fraction > 0
        images, labels = (problem.images, problem.labels) if stochastic else problem.training_set(arm.fraction)
        return train_classifier(
            self.initial(arm.architecture, seed),
            images[:number],
            labels[:number],
            epochs=epochs,
            batch_size=_given(options.batch_size),
            optimiser=constant_rate(options.learning_rate),
            poisoning=problem.stochastic_poison(arm.fraction) if stochastic else None,
            augmentation=self._augmentation(problem) if arm.augmentation else None,
            gradient_penalty=arm.penalty,
            seed=seed,
            progress=False,
            **keeping,
        )

    def _augmentation(self, problem: Problem) -> Augmentation:
        crop = self.options.crop
        return usual_augmentation(problem) if crop is None else crops_with_flips(problem, crop)

    def initial(self, architecture: ArchitectureName, seed: int) -> Classifier:
        """The classifier of a seed before training."""
        width = self.options.width_of(architecture)
        problem = self.first
        seen = problem.image_shape
        if self.options.crop is not None:
            seen = (self.options.crop, self.options.crop, seen[2])
        draw = create(architecture, width, seen, problem.classes, self.options.dtype, self.options.blocks)
        model = draw(jax.random.key(seed))
        return model if self.options.crop is None else Cropped(problem.image_shape, model)

    def _identity(self, measurement: Measurement) -> dict[str, Any]:
        """What the measurements depend on beside the model."""
        problem = measurement.problem
        return {
            "data": problem.data,
            "target": problem.target,
            "probes": measurement.probes,
            "probe_fraction": measurement.probe_fraction,
            "repeats": measurement.repeats,
            "unmarked": int(measurement.unmarked),
            "eigenvectors": measurement.eigenvectors,
            "measurement": hashlib.sha256(inspect.getsource(measuring).encode()).hexdigest(),
            "test_hash": hash_of(problem.test_images, problem.test_labels, problem.test_triggered),
        }


def _given(value: int | None) -> int:
    assert value is not None  # `Options` has filled it in
    return value
