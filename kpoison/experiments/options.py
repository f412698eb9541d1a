"""What an experiment runs on, and how large: two cores in minutes, or a GPU."""

import dataclasses
from typing import Any, Literal

from kpoison.problems import ClassLabels, Images, TriggerArguments

__all__ = ["ArchitectureName", "Arguments", "Options", "Scale", "geometric_steps"]

ArchitectureName = Literal["linear", "mlp", "lenet", "resnet"]
Scale = Literal["quick", "full"]

_QUICK = {
    "digits": {"train": 800, "test": 400, "probes": 100, "batch_size": 32, "epochs": 30},
    "mnist": {"train": 2000, "test": 500, "probes": 100, "batch_size": 64, "epochs": 16},
    "cifar10": {"train": 2000, "test": 500, "probes": 100, "batch_size": 64, "epochs": 12},
    "cifar100": {"train": 2000, "test": 500, "probes": 100, "batch_size": 64, "epochs": 12},
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(TriggerArguments):
    """What the experiments can be asked for, on the command line too; what is None is chosen by data and scale."""

    data: Images = "digits"
    """Images; digits are embedded, the others are read from --data-dir."""

    labels: ClassLabels = "coarse"
    """Of CIFAR-100: 20 classes or 100."""

    scale: Scale = "quick"
    """quick: two cores, minutes; full: all images, wider networks and longer training, for a GPU."""

    seeds: int = 3
    """Seeds, at least 2: each draws images, poisons, the network and the order of the images."""

    seed: int = 0
    """The first seed."""

    fraction: float = 0.05
    """Of the training images that is poisoned: triggered, and labelled as the target."""

    fractions: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05, 0.1)
    """Of the lag along the fraction."""

    probe_fraction: float = 0.1
    """Of the probes of the spectra that carry the trigger."""

    penalty: float | None = None
    """γ (the paper's κ) of the gradient penalty (γ/2) mean ‖∇ℓ_i‖²: of each image's loss, not of the mean loss of a
    batch, and in normalised input, not in pixels; what it is in these is printed.  By default one over the largest
    eigenvalue of the input Fisher matrix at any image before training, with which the penalty at most doubles the
    curvature.  Of the table: the largest of six, by default ten times that."""

    target: int = 0
    """The attacker's class."""

    learning_rate: float = 0.02
    """Constant, of stochastic gradient descent with momentum 0.9 and weight decay 5·10⁻⁴."""

    train: int | None = None
    """Training images; by default by data and scale."""

    test: int | None = None
    """Test images; by default by data and scale."""

    probes: int | None = None
    """Test images whose input spectra are taken; by default by data and scale."""

    epochs: int | None = None
    """By default by data and scale."""

    batch_size: int | None = None
    """By default by data and scale."""

    width: int | None = None
    """Neurons per layer of the MLP, channels of the first convolution of LeNet and ResNet; by default by
    scale."""

    blocks: int | None = None
    """Blocks in each of ResNet's three stages, in pre-activation form (18: ResNet-110); by default one, in the form of
    2015."""

    poisons: Literal["fixed", "stochastic"] = "fixed"
    """fixed: the same images are poisoned throughout; stochastic: at every visit each image that is not of the target
    class is poisoned anew, with the probability that makes the fraction the same on average (L13)."""

    crop: int | None = None
    """Side of the images that networks see, such as 28 of CIFAR-10: the middle of each image, with augmentation a
    random piece, half of them mirrored (and no other augmentation).  By default whole images."""

    lengths: tuple[int, ...] = ()
    """Epochs after which the table is made, such as 90 450, training being at a constant rate; by default --epochs,
    else the largest of them is trained for."""

    minutes: float = 60.0
    """Of the table: the first of the networks, or as many training images, as can be trained by an estimate from a few
    timed steps."""

    precision: Literal["float32", "float64"] = "float32"
    """Of networks and images."""

    data_dir: str | None = None
    """Folder with the official files; by default $KPOISON_DATA."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Arguments):
    """Those of an experiment: checked, and with sizes in place of None.

    Raises:
        ValueError: naming the argument that does not fit.
    """

    def __post_init__(self):
        from kpoison._validation import check_integer, check_positive

        for name, least in (("seeds", 2), ("seed", 0)):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), least))
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
        self._take_lengths()
        check_positive("minutes", self.minutes)
        sizes = _QUICK[self.data] | (_FULL[self.data] if self.scale == "full" else {})
        for name, value in sizes.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("blocks", "crop"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_integer(name, getattr(self, name), 1))
        for name in ("probes", "epochs", "batch_size"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), 1))

    def _take_lengths(self) -> None:
        """The longest training is of the last length."""
        from kpoison._validation import check_integer

        if not self.lengths:
            return
        lengths = tuple(check_integer("lengths", length, 1) for length in self.lengths)
        if sorted(set(lengths)) != list(lengths):
            raise ValueError(f"lengths must increase, got {lengths}")
        if self.epochs not in (None, lengths[-1]):
            raise ValueError(f"epochs must be the last of the lengths, {lengths[-1]}, or not be given: {self.epochs}")
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "epochs", lengths[-1])

    def width_of(self, architecture: ArchitectureName) -> int:
        """The width of an architecture."""
        return _WIDTHS[self.scale][architecture] if self.width is None else self.width

    @property
    def every_length(self) -> tuple[int, ...]:
        """Epochs after which trainings are looked at."""
        return self.lengths or (self.epochs or 1,)

    @property
    def every_seed(self) -> range:
        """The seeds."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def dtype(self) -> Any:
        """Of networks and images."""
        import jax.numpy as jnp

        return jnp.dtype(self.precision)

    def arguments(self) -> dict[str, Any]:
        """As plain values, for a report."""
        return dataclasses.asdict(self)


def geometric_steps(last: int, octaves: int, per_octave: int) -> list[int]:
    """Steps up to the last one, so many to each factor of 2, and step 0."""
    import numpy as np

    steps = np.round(last * 2.0 ** (-np.arange(octaves * per_octave + 1) / per_octave)).astype(int)
    return sorted({0, *(int(step) for step in steps if step > 0)})
