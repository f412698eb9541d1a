"""What an experiment runs on, and how large: two cores in minutes, or a GPU."""

import dataclasses
import functools
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import optax

from kpoison._validation import check_integer, check_positive
from theory_checks.backdoor import ClassLabels, Images
from theory_checks.experiments.architectures import ArchitectureName

__all__ = ["Options", "Scale", "geometric_steps"]

Scale = Literal["quick", "full"]

_QUICK = {
    "digits": {"train": 800, "test": 400, "probes": 100, "batch_size": 32, "epochs": 30, "penalty": 10.0},
    "mnist": {"train": 2000, "test": 500, "probes": 100, "batch_size": 64, "epochs": 16, "penalty": 10.0},
    "cifar10": {"train": 2000, "test": 500, "probes": 100, "batch_size": 64, "epochs": 12, "penalty": 10.0},
    "cifar100": {"train": 2000, "test": 500, "probes": 100, "batch_size": 64, "epochs": 12, "penalty": 10.0},
}
_FULL = {
    "digits": {"train": None, "test": None, "epochs": 60},
    "mnist": {"train": None, "test": None, "probes": 1000, "batch_size": 128, "epochs": 20},
    "cifar10": {"train": None, "test": None, "probes": 1000, "batch_size": 128, "epochs": 60},
    "cifar100": {"train": None, "test": None, "probes": 500, "batch_size": 128, "epochs": 60},
}
_WIDTHS = {
    "quick": {"linear": 1, "mlp": 128, "lenet": 6, "resnet": 8},
    "full": {"linear": 1, "mlp": 1024, "lenet": 24, "resnet": 16},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Of an experiment; what is None is chosen by data and scale.

    Attributes:
        data: name of the data set.
        labels: of CIFAR-100, "coarse" or "fine".
        scale: "quick" (two cores, minutes) or "full" (a GPU).
        seeds: how many, from `seed` on; each draws images, poisons, initial network and order of the images.
        seed: the first.
        fraction: of the training images that is poisoned.
        fractions: the fractions of the lag along them.
        probe_fraction: of the probes that carry the trigger.
        penalty: γ of the gradient penalty (γ/2) mean ‖∇_x ℓ‖², in normalised input.
        target: the attacker's class.
        learning_rate: constant, of stochastic gradient descent with momentum 0.9 and weight decay 5·10⁻⁴.
        train, test, probes: numbers of images.
        epochs, batch_size: of the training.
        width: see `architectures.create`.
        precision: of networks and images.
        data_dir: folder with the official files.
    """

    data: Images = "digits"
    labels: ClassLabels = "coarse"
    scale: Scale = "quick"
    seeds: int = 3
    seed: int = 0
    fraction: float = 0.05
    fractions: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05, 0.1)
    probe_fraction: float = 0.1
    penalty: float | None = None
    target: int = 0
    learning_rate: float = 0.02
    train: int | None = None
    test: int | None = None
    probes: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    width: int | None = None
    precision: Literal["float32", "float64"] = "float32"
    data_dir: str | None = None

    def __post_init__(self):
        check_integer("seeds", self.seeds, 2)
        check_integer("seed", self.seed, 0)
        if self.data not in _QUICK:
            raise ValueError(f"data must be among {', '.join(_QUICK)}, got {self.data}")
        if self.scale not in _WIDTHS:
            raise ValueError(f"scale must be quick or full, got {self.scale}")
        for name in ("fraction", "probe_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if len(set(self.fractions)) < 2 or not all(0 < value < 1 for value in self.fractions):
            raise ValueError(f"fractions must be two or more different ones between 0 and 1, got {self.fractions}")
        if self.penalty is not None:
            check_positive("penalty", self.penalty)
        check_positive("learning_rate", self.learning_rate)
        sizes = _QUICK[self.data] | (_FULL[self.data] if self.scale == "full" else {})
        for name, value in sizes.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("probes", "epochs", "batch_size"):
            check_integer(name, getattr(self, name), 1)

    def width_of(self, architecture: ArchitectureName) -> int:
        """The width of an architecture."""
        return _WIDTHS[self.scale][architecture] if self.width is None else self.width

    @property
    def every_seed(self) -> range:
        """The seeds."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def dtype(self) -> Any:
        """Of networks and images."""
        return jnp.dtype(self.precision)

    def optimiser(self) -> optax.GradientTransformation:
        """With a constant rate, so that a training looked at on its way is a shorter training."""
        return _constant_rate(self.learning_rate)

    def arguments(self) -> dict[str, Any]:
        """As plain values, for a report."""
        return dataclasses.asdict(self)


@functools.cache
def _constant_rate(rate: float) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, 0.9))


def geometric_steps(last: int, octaves: int, per_octave: int) -> list[int]:
    """Steps up to the last one, so many to each factor of 2, and step 0."""
    steps = np.round(last * 2.0 ** (-np.arange(octaves * per_octave + 1) / per_octave)).astype(int)
    return sorted({0, *(int(step) for step in steps if step > 0)})
