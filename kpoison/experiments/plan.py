"""Which network, and how many images, a table of trainings has time for, by timing a few steps."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kpoison._identity import identity_of
from kpoison.experiments.options import ArchitectureName, Options
from kpoison.experiments.training import Arm, Trainer

__all__ = ["Plan", "Work", "plan"]

_STEPS = 4  # timed, after as many for compiling


@dataclasses.dataclass(frozen=True)
class Work:
    """Trainings of one kind.

    Attributes:
        arm: one of them, of any architecture.
        number: of trainings, over all seeds.
    """

    arm: Arm
    number: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was chosen, and why.

    Attributes:
        architecture: the classifier.
        train: training images.
        minutes: the estimate.
        words: of it, for a reader.
    """

    architecture: ArchitectureName
    train: int
    minutes: float
    words: str


def plan(
    options: Options,
    architectures: Sequence[ArchitectureName],
    work: Sequence[Work],
    minutes: float,
    folder: Path | None,
    eigenvectors: int = 0,
) -> Plan:
    """The first architecture that can be trained on all of `options.train` in time, else the last one on fewer images.

    A plan is kept in the folder, so that the same call goes on with it whatever the steps take then.  What is timed is
    said on stderr.

    Raises:
        ValueError: where a fiftieth of the images is too many.
    """
    identity = identity_of({"options": options.arguments(), "architectures": list(architectures), "minutes": minutes})
    kept = None if folder is None else folder / "plan.json"
    if kept is not None and kept.exists():
        written = json.loads(kept.read_text(encoding="utf-8"))
        if written.pop("identity") == identity:
            return Plan(**written)
    found = _timed(options, architectures, work, minutes, eigenvectors)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(dataclasses.asdict(found) | {"identity": identity}, ensure_ascii=False), "utf-8")
    return found


@dataclasses.dataclass(frozen=True)
class _Timed:
    """Seconds of a step and of what is done once, for each kind of training of one architecture."""

    architecture: ArchitectureName
    work: Sequence[Work]
    seconds: list[tuple[float, float]]
    batch: int
    epochs: int

    def steps(self, train: int) -> int:
        return self.epochs * (train // self.batch)

    def minutes(self, train: int) -> float:
        """Of all trainings, so many at a time."""
        each = zip(self.work, self.seconds, strict=True)
        total = sum(part.number * (self.steps(train) * step + once) for part, (step, once) in each)
        return total / _side_by_side() / 60

    def plan(self, train: int) -> Plan:
        kinds = zip(self.work, self.seconds, strict=True)
        each = ", ".join(f"{1e3 * step:.1f} ms ({_kind(part.arm)})" for part, (step, _) in kinds)
        words = (
            f"{sum(part.number for part in self.work)} trainings of {self.architecture} on {train} images, "
            f"{self.steps(train)} steps of {self.batch} each: about {self.minutes(train):.2g} minutes, from {each} a "
            f"step, {_side_by_side()} at a time, and compiling"
        )
        return Plan(self.architecture, train, self.minutes(train), words)


def _kind(arm: Arm) -> str:
    parts = [name for name, given in (("augmented", arm.augmentation), ("penalised", arm.penalty > 0)) if given]
    return " and ".join(parts) or "plain"


def _timed(
    options: Options,
    architectures: Sequence[ArchitectureName],
    work: Sequence[Work],
    minutes: float,
    eigenvectors: int,
) -> Plan:
    with Trainer(options, (options.fraction,), 0, 1, None, 0, eigenvectors) as trainer:
        images, batch, epochs = len(trainer.first.images), options.batch_size or 1, options.epochs or 1
        # The dearest first; what is given up on is not tried with fewer images while another is left.
        for place, name in enumerate(architectures):
            print(f"plan: timing {_STEPS} steps of {name}", file=sys.stderr, flush=True)
            once = _measuring(trainer, name)
            steps = [_step(trainer, dataclasses.replace(part.arm, architecture=name)) for part in work]
            timed = _Timed(name, work, [(step, once) for step in steps], batch, epochs)
            if timed.minutes(images) <= minutes:
                return timed.plan(images)
            if place < len(architectures) - 1:
                continue
            smallest = max(trainer.first.classes, batch, images // 50)
            for train in range(images - images % batch, smallest - 1, -batch):
                if timed.minutes(train) <= minutes:
                    return timed.plan(train)
            least = np.ceil(timed.minutes(smallest))
            raise ValueError(f"minutes must be at least {least:.0f} for {smallest} images, got {minutes:g}")
    raise ValueError("architectures must be at least one, got none")


def _side_by_side() -> int:
    return 2 if jax.default_backend() == "cpu" else 1


def _step(trainer: Trainer, arm: Arm) -> float:
    """Seconds of a step."""

    def run() -> float:
        times: list[float] = []

        def note(model: Any, step: int) -> dict[str, float]:
            times.append(time.perf_counter())
            return {"steps": float(step)}

        trainer.few_steps(arm, 2 * _STEPS, note, [_STEPS, 2 * _STEPS])
        return (times[1] - times[0]) / _STEPS

    return _as_in_the_table(run)


def _measuring(trainer: Trainer, name: ArchitectureName) -> float:
    """Seconds of all measurements of a training."""
    options = trainer.options
    model = trainer.initial(name, options.seed)
    measurement = trainer.measurement(Arm(name, options.fraction), options.seed)

    def run() -> float:
        begun = time.perf_counter()
        measurement(model, 0)
        return time.perf_counter() - begun

    return len(options.every_length) * _as_in_the_table(run)


def _as_in_the_table(run: Callable[[], float]) -> float:
    """The longest of as many at a time as in the table, after one that compiles."""
    run()
    with ThreadPoolExecutor(_side_by_side()) as threads:
        return max(each.result() for each in [threads.submit(run) for _ in range(_side_by_side())])
