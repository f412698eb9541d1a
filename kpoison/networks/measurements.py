"""What a user's function measures along training."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from jaxtyping import ArrayLike, Num

from kpoison._validation import check_integer, check_real

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Measure", "Measurements"]

Measure: TypeAlias = Callable[[Any, int], Mapping[str, Num[ArrayLike, "..."]]]
"""(model, step) → numbers or arrays by name; the same names and shapes at every step."""


class Measurements:
    """The numbers measured so far.

    Args:
        measure: the user's function, or None.
        at: the steps at which it is called, increasing.
    """

    def __init__(self, measure: Measure | None, at: tuple[int, ...]):
        self.measure, self.at = measure, at
        self.steps: list[int] = []
        self.values: dict[str, list[np.ndarray]] = {}

    @classmethod
    def checked(cls, measure: Any, at: Iterable[int] | None, steps: int, steps_per_epoch: int) -> "Measurements":
        """Of a training of so many steps; by default at 0 and after every epoch.

        Raises:
            TypeError, ValueError: naming the argument that does not fit.
        """
        if measure is None:
            if at is not None:
                raise ValueError("measure_at is given without measure")
            return cls(None, ())
        if not callable(measure):
            raise TypeError(f"measure must be a function (model, step), got {type(measure).__name__}")
        steps_asked = range(0, steps + 1, steps_per_epoch) if at is None else at
        chosen = sorted({check_integer("each of measure_at", step, 0) for step in steps_asked})
        if not chosen or chosen[-1] > steps:
            raise ValueError(f"measure_at must hold at least one step from 0 to {steps}, got {chosen}")
        return cls(cast(Measure, measure), tuple(chosen))

    def take(self, model: Any, step: int) -> None:
        """Measure, where it is time to."""
        if self.measure is None or step not in self.at:
            return
        found = self.measure(model, step)
        if not isinstance(found, Mapping):
            raise TypeError(f"measure must return a mapping of numbers, got {type(found).__name__}")
        for name, value in found.items():
            if not isinstance(name, str) or name == "step":
                raise ValueError(f'measure must name what it returns by strings other than "step", got {name!r}')
            check_real(f"{name!r} of measure", value)
        values = {name: np.asarray(value) for name, value in found.items()}
        if self.steps:
            before = {name: column[0].shape for name, column in self.values.items()}
            now = {name: value.shape for name, value in values.items()}
            if now != before:
                raise ValueError(f"measure must return the same names and shapes at each step: {before}, then {now}")
        self.steps.append(step)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, for a checkpoint."""
        found = {f"measured:{name}": np.stack(column) for name, column in self.values.items()}
        return found | {"measured_steps": np.array(self.steps, np.int64)}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what a checkpoint holds."""
        self.steps = [int(step) for step in arrays["measured_steps"]]
        prefix = "measured:"
        self.values = {
            name.removeprefix(prefix): list(column) for name, column in arrays.items() if name.startswith(prefix)
        }

    def dataset(self) -> "xr.Dataset":
        """Over the dimension `step`; further axes of NAME are NAME_axis0, and so on."""
        import xarray as xr

        variables = {}
        for name, column in self.values.items():
            array = np.stack(column)
            variables[name] = (("step", *(f"{name}_axis{i}" for i in range(array.ndim - 1))), array)
        return xr.Dataset(variables, coords={"step": ("step", np.array(self.steps, np.int64))})
