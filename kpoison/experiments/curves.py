"""Measurements of all seeds against the steps of training, beside the clean runs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from kpoison.experiments.measuring import MATRICES, Matrix, pooled_edge

__all__ = ["ALIGNED", "Curves", "is_visible"]

ALIGNED = 0.5


@dataclasses.dataclass(frozen=True)
class Curves:
    """Of S seeds at T steps.

    Attributes:
        steps: shape (T,).
        poisoned, clean: measurements by name, shape (S, T).
        over_edge: λ₁/edge of each matrix, (S, T), the edge that of the clean runs of all seeds at the same step.
        unmarked: the same of the poisoned network over probes without trigger: a control.
    """

    steps: np.ndarray
    poisoned: dict[str, np.ndarray]
    clean: dict[str, np.ndarray]
    over_edge: dict[Matrix, np.ndarray]
    unmarked: dict[Matrix, np.ndarray]

    @classmethod
    def of(cls, poisoned: Sequence[xr.Dataset], clean: Sequence[xr.Dataset]) -> "Curves":
        """From the histories of each seed's poisoned and clean run; of the clean ones only the steps of the others."""
        steps = poisoned[0]["step"].values
        clean = [history.sel(step=steps) for history in clean]
        edges, over, unmarked = {}, {}, {}
        for name in MATRICES:
            samples = np.stack([history[f"{name}_samples"].values for history in clean])
            edges[name] = np.array([float(pooled_edge(samples[:, i]).edge) for i in range(len(steps))])
            over[name] = _stacked(poisoned, name) / edges[name]
            unmarked[name] = _stacked(poisoned, f"{name}_unmarked") / edges[name]
        rates = ("accuracy", "success", "probability", "margin")
        names = [str(name) for name in poisoned[0].data_vars]
        return cls(
            steps,
            {name: _stacked(poisoned, name) for name in names},
            {name: _stacked(clean, name) for name in rates},
            over,
            unmarked,
        )

    @property
    def excess(self) -> np.ndarray:
        """Attack success above that of the clean run of the same seed, (S, T)."""
        return self.poisoned["success"] - self.clean["success"]

    @property
    def change(self) -> np.ndarray:
        """Δp: the poison's effect on the target's mean probability over triggered images, (S, T)."""
        return self.poisoned["probability"] - self.clean["probability"]

    def visible(self, name: Matrix) -> np.ndarray:
        """`is_visible` at each seed and step, (S, T)."""
        return is_visible(self.over_edge[name], self.poisoned[f"{name}_alignment"])

    def numbers(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "steps": self.steps,
            "poisoned": self.poisoned,
            "clean": self.clean,
            "over_edge": self.over_edge,
            "unmarked_over_edge": self.unmarked,
        }


def is_visible(over_edge: np.ndarray | Sequence[float], alignment: np.ndarray | Sequence[float]) -> np.ndarray:
    """Whether the leading eigenvalue is an outlier, and its eigenvector the trigger's, |⟨v₁, u⟩| ≥ ½.

    Without the second, the chance differences between two trained networks would count.
    """
    return (np.asarray(over_edge) > 1) & (np.asarray(alignment) >= ALIGNED)


def _stacked(histories: Sequence[xr.Dataset], name: str) -> np.ndarray:
    return np.stack([history[name].values for history in histories]).astype(float)
