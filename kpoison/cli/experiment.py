"""`kpoison experiment`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

__all__ = ["Experiment"]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Train image classifiers on poisoned data and measure what the theory speaks of; nothing is assumed.

    Prints tables with intervals over seeds, and which of the paper's claims agree.  Exit status 0 when the experiment
    ran, whatever it found; 2 for wrong arguments.
    """

    name: Annotated[Literal["lag", "joint-defence", "collapse"], tyro.conf.Positional]
    """lag: attack success and spectral visibility along training and along the poisoned fraction; joint-defence:
    augmentation, the gradient penalty and both against the length of training (T6); collapse: distances among poisons
    in input, kernel and trained feature space."""

    data: Literal["digits", "mnist", "cifar10", "cifar100"] = "digits"
    """Images; digits are embedded, the others are read from --data-dir."""

    architecture: tuple[Literal["linear", "mlp", "lenet", "resnet"], ...] = ()
    """Networks to train; by default linear mlp lenet for lag, lenet for the others.  ResNet is for a GPU."""

    scale: Literal["quick", "full"] = "quick"
    """quick: two cores, minutes; full: all images, wider networks and longer training, for a GPU."""

    out: Path | None = None
    """Folder for NAME.json, NAME.png and the checkpoints, from which the same command goes on when it was killed."""

    labels: Literal["coarse", "fine"] = "coarse"
    """Of CIFAR-100: 20 classes or 100."""

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
    """γ of the gradient penalty (γ/2) mean ‖∇ℓ‖²; by default 10."""

    target: int = 0
    """The attacker's class."""

    learning_rate: float = 0.02
    """Constant, of stochastic gradient descent with momentum 0.9."""

    train: int | None = None
    """Training images; by default by data and scale."""

    test: int | None = None
    """Test images; likewise."""

    probes: int | None = None
    """Test images whose input spectra are taken; likewise."""

    epochs: int | None = None
    """Likewise."""

    batch_size: int | None = None
    """Likewise."""

    width: int | None = None
    """Neurons per layer of the MLP, channels of the first convolution of LeNet and ResNet; likewise."""

    precision: Literal["float32", "float64"] = "float32"
    """Of networks and images."""

    data_dir: str | None = None
    """Folder with the official files; by default $KPOISON_DATA."""

    def run(self) -> int:
        """Run it; returns the exit status."""
        from kpoison.networks import DivergedError
        from theory_checks.experiments import EXPERIMENTS, Options

        jax.config.update("jax_enable_x64", True)
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(Options)}
        options = Options(**own)
        folder = None
        if self.out is not None:
            folder = self.out / "checkpoints" / self.name
            folder.mkdir(parents=True, exist_ok=True)
        chosen = {"architectures": self.architecture} if self.architecture else {}
        try:
            found = EXPERIMENTS[self.name](options, folder=folder, **chosen)
        except DivergedError as error:
            raise ValueError(f"--learning-rate or --penalty: {error}") from error
        print(found)
        if self.out is not None:
            for path in found.write(self.out):
                print(f"written: {path}")
        return 0
