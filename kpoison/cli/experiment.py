"""`kpoison experiment`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kpoison.experiments.options import ArchitectureName, Arguments, Options

__all__ = ["Experiment"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Arguments):
    """Train image classifiers on poisoned data and measure what the theory speaks of; nothing is assumed.

    Prints tables with intervals over seeds, and which of the paper's claims agree.  Exit status 0 when the experiment
    ran, whatever it found; 2 for wrong arguments.
    """

    name: Annotated[Literal["lag", "joint-defence", "collapse", "table", "spectra", "linear"], tyro.conf.Positional]
    """lag: attack success and spectral visibility along training and along the poisoned fraction; joint-defence:
    augmentation, the gradient penalty and both against the length of training (T6); collapse: distances among poisons
    in input, kernel and trained feature space; table: success, accuracy and overlap with the trigger of cross, warp and
    patch, fixed and stochastic poisons, with and without augmentation, against the fraction and against the penalty;
    spectra: the loss's Hessian in inputs and in parameters, and which eigenvector is the trigger's; linear: least
    squares with an output for each class, beside the laws L13, R1 and R2."""

    architecture: tuple[ArchitectureName, ...] = ()
    """Networks to train; by default linear mlp lenet for lag, mlp for spectra, lenet for the others; the table takes
    the first that there is time for, of lenet mlp; linear takes none.  ResNet is for a GPU."""

    out: Path | None = None
    """Folder for NAME.json, NAME.png, NAME.html and the checkpoints, from which the same command goes on when it was
    killed."""

    def run(self) -> int:
        """Run it; returns the exit status."""
        import jax

        from kpoison.experiments.catalogue import EXPERIMENTS
        from kpoison.networks import DivergedError

        jax.config.update("jax_enable_x64", True)
        options = Options(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Arguments)})
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
