"""What a sweep can compute: the laws by name, and any function of the user's."""

import abc
import dataclasses
import enum
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array

from kpoison._failures import mapped
from kpoison._identity import program_hash
from kpoison._typing import Law
from kpoison._validation import check_name
from kpoison.asymptotics import efficacy_deviation, redraw_deviation
from kpoison.laws import (
    coupling_floor,
    coupling_ratio,
    degrees_of_freedom,
    efficacy,
    gain,
    m_success,
    predict,
    spike,
    spike_efficacy_ratio,
)
from kpoison.poison import Poison
from kpoison.ridge import Fitted
from kpoison.sweep.axes import INNER_AXES

__all__ = ["Needs", "Quantity", "as_quantities", "quantity_names"]


class Needs(enum.StrEnum):
    """What a quantity takes from the clean posterior."""

    POISON = "poison"
    """A⁻¹k(X, ζ)."""

    TARGETS = "targets"
    """A⁻¹y too."""

    ALL = "all"
    """Whatever a function of the user's may ask for."""


@dataclasses.dataclass(frozen=True)
class Quantity(abc.ABC):
    """One variable of a sweep.

    Attributes:
        name: of the variable.
        function: (clean, poison, x, ridge, law) → array; x has shape (R, d) where it depends on `r_over_l`.
        axes: which of r_over_l, m, ridge it depends on.
        description, units: for the attributes of the variable.
        needs: what of the clean posterior.
    """

    name: str
    function: Callable[..., Array]
    axes: tuple[str, ...]
    description: str
    units: str
    needs: Needs = Needs.POISON

    @property
    def of_probes(self) -> bool:
        """Whether it depends on where it is asked."""
        return "r_over_l" in self.axes

    @property
    def of_counts(self) -> bool:
        """Whether it depends on the multiplicity."""
        return "m" in self.axes

    @abc.abstractmethod
    def outputs(self, clean: Fitted, poison: Poison, law: Law) -> tuple[int, ...]:
        """(C,) for a variable with an axis of outputs, else ()."""

    @abc.abstractmethod
    def identity(self, clean: Fitted, poison: Poison, law: Law) -> str:
        """What tells it from others of its name."""


@dataclasses.dataclass(frozen=True)
class OfLaw(Quantity):
    """A law, which its name tells from others; `per_output`: it has an axis for the outputs where y has one."""

    per_output: bool = True

    def outputs(self, clean: Fitted, poison: Poison, law: Law) -> tuple[int, ...]:
        """Those of y, or none."""
        return clean.y.shape[1:] if self.per_output else ()

    def identity(self, clean: Fitted, poison: Poison, law: Law) -> str:
        """That it is a law."""
        return "law"


class OfUser(Quantity):
    """A function of the user's, which only its program tells from others."""

    def _at_numbers(self, clean: Fitted, poison: Poison, law: Law) -> tuple[Any, ...]:
        """A function of a posterior, a probe, a multiplicity and a ridge, and shapes of what it takes."""

        def one(clean, x, m, ridge):
            return self.function(clean, Poison(poison.location, poison.label, m), x, ridge, law)

        number = jax.ShapeDtypeStruct((), clean.X.dtype)
        return one, clean, jax.ShapeDtypeStruct((1, *clean.X.shape[1:]), clean.X.dtype), number, number

    def outputs(self, clean: Fitted, poison: Poison, law: Law) -> tuple[int, ...]:
        """Those that it returns for one probe.

        Raises:
            ValueError: where it fails, or returns neither a number nor a vector.
        """
        one, clean, *numbers = self._at_numbers(clean, poison, law)
        try:
            result = jax.eval_shape(functools.partial(one, clean), *numbers)
        except Exception as error:
            raise ValueError(f"{self.name} among quantities cannot be evaluated: {error}") from error
        shape = getattr(result, "shape", None)
        if shape is None or len(shape) not in (1, 2):
            raise ValueError(f"{self.name} among quantities must return a number or (C,) for a probe, got {shape}")
        return shape[1:]

    def identity(self, clean: Fitted, poison: Poison, law: Law) -> str:
        """The hash of its program."""
        return program_hash(*self._at_numbers(clean, poison, law))


def _law(function: Callable[..., Array], axes: tuple[str, ...], description: str, units: str, **other: Any) -> OfLaw:
    """A law of the poison at x, or of the poison alone."""

    def of_poison_alone(clean, poison, x, ridge, law):
        return function(clean, poison, ridge, law)

    call = function if "r_over_l" in axes else of_poison_alone
    return OfLaw(function.__name__, call, axes, description, units, **other)


def _degrees(clean: Fitted, poison: Poison, x: Any, ridge: Array, law: Law) -> Array:
    """Those of the predictor with the poison in its training set."""
    factor = clean.factor
    if not factor.abilities.factorised:
        raise ValueError(
            "degrees_of_freedom among quantities must be of a solver that factorises, got "
            f"{type(factor.solver).__name__}(): kpoison.degrees_of_freedom estimates them by random probes"
        )
    return degrees_of_freedom(clean, ridge, poison)


_KNOWN = {
    quantity.name: quantity
    for quantity in (
        _law(gain, ("m", "ridge"), "poison gain S (L1)", "1/k", per_output=False),
        _law(efficacy, INNER_AXES, "efficacy Δf (L2)", "y"),
        _law(spike, INNER_AXES, "spike Λ = ‖∇Δf‖² (L3)", "y²/input²"),
        _law(
            spike_efficacy_ratio,
            INNER_AXES,
            "q = ‖∇k̃‖²/k̃² of the spike–efficacy law (L4)",
            "1/input²",
            per_output=False,
        ),
        _law(coupling_floor, ("m", "ridge"), "coupling floor q(ζ, ζ) (L6)", "1/input²", per_output=False),
        OfLaw(
            "coupling_ratio",
            lambda clean, poison, x, ridge, law: coupling_ratio(clean, poison, x, ridge),
            INNER_AXES,
            "exact over isolated q (L6)",
            "1",
            per_output=False,
        ),
        OfLaw(
            "degrees_of_freedom",
            _degrees,
            ("m", "ridge"),
            "degrees of freedom tr H of the poisoned predictor (T7, L14)",
            "1",
            per_output=False,
            needs=Needs.ALL,
        ),
        OfLaw(
            "prediction",
            lambda clean, poison, x, ridge, law: predict(clean, x, ridge, poison),
            INNER_AXES,
            "poisoned prediction f",
            "y",
            needs=Needs.TARGETS,
        ),
        OfLaw(
            "prediction_deviation",
            lambda clean, poison, x, ridge, law: redraw_deviation(clean, x, ridge, poison),
            INNER_AXES,
            "standard deviation of f over redrawn clean data (R4)",
            "y",
            needs=Needs.ALL,
        ),
        OfLaw(
            "efficacy_deviation",
            lambda clean, poison, x, ridge, law: efficacy_deviation(clean, poison, x, ridge),
            INNER_AXES,
            "standard deviation of Δf over redrawn clean data (R4)",
            "y",
            needs=Needs.ALL,
        ),
        OfLaw(
            "m_success",
            lambda clean, poison, x, ridge, law: m_success(clean, poison, x, ridge),
            ("r_over_l", "ridge"),
            "smallest multiplicity at which the prediction flips (L8)",
            "1",
            per_output=False,
            needs=Needs.TARGETS,
        ),
    )
}

quantity_names = tuple(_KNOWN)
"""Names that `sweep` takes as quantities."""


def as_quantities(quantities: Sequence[str | Callable[..., Array]]) -> tuple[Quantity, ...]:
    """Quantities by name, and functions (clean, poison, x, ridge) → () or (C,) of one probe x (d,).

    Raises:
        TypeError, ValueError: for unknown names, for none, and for two of one name.
    """
    if isinstance(quantities, str) or callable(quantities) or not isinstance(quantities, Sequence):
        raise TypeError(f"quantities must be a sequence of names and functions, got {quantities!r}")
    found = []
    for quantity in quantities:
        if callable(quantity):
            found.append(_of_user(quantity))
        else:
            found.append(_KNOWN[check_name("quantities", quantity, quantity_names)])
    names = [quantity.name for quantity in found]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"quantities must be different and at least one, got {names}")
    return tuple(found)


def _of_user(function: Callable[..., Array]) -> OfUser:
    name = getattr(function, "__name__", type(function).__name__)
    if not name.isidentifier():
        raise ValueError(f"a function among quantities must have a name to go by, got {name!r}: use def, not lambda")

    def at_every_probe(clean, poison, x, ridge, law):
        return mapped(jax.vmap, lambda probe: function(clean, poison, probe, ridge))(x)

    description = (inspect.getdoc(function) or name).splitlines()[0]
    return OfUser(name, at_every_probe, INNER_AXES, description, "", Needs.ALL)
