"""A problem of regression by name: kernel, clean data, poison, ridge; all from a few names and a seed."""

import dataclasses
import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

import kpoison as kp
from kpoison import datasets
from kpoison._names import DataName
from kpoison.datasets.preparation import median_distance
from kpoison.problems.kernels import KERNELS

__all__ = ["Scale", "Setting", "make_setting"]

Scale = Literal["quick", "full"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A clean problem of regression, and a poison.

    Attributes:
        kernel_name, kernel: the kernel.
        data: name of the data set.
        X, y: clean inputs (n_c, d) and targets (n_c,).
        location, label: ζ (d,) and y_t.
        direction: u (d,), a unit vector; probes are x0 = ζ + r u.
        length_scale: unit of r: the kernel's, or ‖ζ‖ for kernels that have none.
        held_out: clean inputs that are not trained on, (N, d).
        ridge: λ.
        counts: multiplicities m to check.
        scale: "quick" or "full".
        seed: of everything random.
        data_dir: where the data came from.
    """

    kernel_name: str
    kernel: kp.kernels.Kernel
    data: str
    X: Array
    y: Array
    location: Array
    label: float
    direction: Array
    length_scale: float
    held_out: Array
    ridge: float
    counts: tuple[int, ...]
    scale: Scale
    seed: int
    data_dir: str | None

    @functools.cached_property
    def clean(self) -> kp.Posterior:
        """The clean posterior."""
        return kp.fit(self.kernel, self.X, self.y)

    @property
    def middle_count(self) -> int:
        """A multiplicity between linear response and saturation."""
        return self.counts[len(self.counts) // 2]

    def poison(self, count: float | int) -> kp.Poison:
        """`count` clones at ζ."""
        return kp.Poison(self.location, self.label, count)

    def probes(self, r_over_l: np.ndarray) -> Array:
        """x0 = ζ + r u, shape (q, d)."""
        r = jnp.asarray(r_over_l) * self.length_scale
        return self.location[None, :] + r[:, None] * self.direction[None, :]

    def arguments(self) -> dict:
        """What identifies the setting in a report."""
        return {
            "kernel": self.kernel_name,
            "data": self.data,
            "n_c": self.X.shape[0],
            "d": self.X.shape[1],
            "ridge": float(self.ridge),
            "label": self.label,
            "length_scale": float(self.length_scale),
            "counts": list(self.counts),
            "scale": self.scale,
            "seed": self.seed,
        }


def make_setting(
    kernel: str, data: DataName = "synthetic", *, scale: Scale = "quick", data_dir: str | None = None, seed: int = 0
) -> Setting:
    """The standard setting for a kernel and a data set.

    Synthetic data are standard normal in d = 10 with a smooth noisy target; images are 1,000 digits with target +1
    for even and −1 for odd, standardised, and the poison is a held-out image with the opposite label.
    """
    generator = np.random.default_rng(seed)
    if data == "synthetic":
        number, d = (200 if scale == "quick" else 1000), 10
        inputs = generator.standard_normal((number + 1, d))
        others = np.random.default_rng([seed, 1]).standard_normal((400, d))
        signal = np.tanh(inputs @ generator.standard_normal(d) / np.sqrt(d))
        targets = signal + 0.1 * generator.standard_normal(number + 1)
    else:
        images = datasets.load_digits() if data == "digits" else datasets.load_mnist(data_dir)
        chosen = datasets.balanced_subset(images, 1410, seed=seed)
        inputs = datasets.standardise(chosen.inputs, chosen.inputs[:1010])[:1001]
        others = datasets.standardise(chosen.inputs, chosen.inputs[:1010])[1010:]
        targets = np.where(chosen.labels % 2 == 0, 1.0, -1.0)[:1001]
    X, y = jnp.asarray(inputs[:-1]), jnp.asarray(targets[:-1])
    location = jnp.asarray(inputs[-1])
    direction = generator.standard_normal(X.shape[1])
    direction /= np.linalg.norm(direction)
    median = median_distance(inputs[generator.permutation(len(inputs))[:200]])
    # NumPy's scalars, unlike Python's, are data to a compiled program: none is compiled anew for another seed or ridge.
    made = KERNELS[kernel](np.float64(median))
    return Setting(
        kernel_name=kernel,
        kernel=made,
        data=data,
        X=X,
        y=y,
        location=location,
        label=-1.0 if targets[-1] > 0 else 1.0,
        direction=jnp.asarray(direction),
        length_scale=np.float64(getattr(made, "length_scale", np.linalg.norm(inputs[-1]))),
        held_out=jnp.asarray(others),
        ridge=np.float64(1e-3),
        counts=(1, 3, 10, 30, 100) if scale == "quick" else (1, 2, 4, 8, 16, 32, 64, 128, 256),
        scale=scale,
        seed=seed,
        data_dir=data_dir,
    )
