"""What a sweep can compute: the laws by name, and any function of the user's."""

import dataclasses
import enum
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Array

from kpoison._failures import mapped
from kpoison._validation import check_name
from kpoison.laws import coupling_floor, coupling_ratio, efficacy, gain, m_success, predict, spike, spike_efficacy_ratio
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
class Quantity:
    """One variable of a sweep.

    Attributes:
        name: of the variable.
        function: (clean, poison, x, ridge, law) → array; x has shape (R, d) where it depends on `r_over_l`.
        axes: which of r_over_l, m, ridge it depends on.
        description, units: for the attributes of the variable.
        per_output: whether it has an axis for the outputs where y has one.
        needs: what of the clean posterior.
        is_law: whether its name tells it from others; of a function only its program does.
    """

    name: str
    function: Callable[..., Array]
    axes: tuple[str, ...]
    description: str
    units: str
    per_output: bool = True
    needs: Needs = Needs.POISON
    is_law: bool = True

    @property
    def of_probes(self) -> bool:
        """Whether it depends on where it is asked."""
        return "r_over_l" in self.axes

    @property
    def of_counts(self) -> bool:
        """Whether it depends on the multiplicity."""
        return "m" in self.axes


def _law(function: Callable[..., Array], axes: tuple[str, ...], description: str, units: str, **other: Any) -> Quantity:
    """A law of the poison at x, or of the poison alone."""

    def of_poison_alone(clean, poison, x, ridge, law):
        return function(clean, poison, ridge, law)

    call = function if "r_over_l" in axes else of_poison_alone
    return Quantity(function.__name__, call, axes, description, units, **other)


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
        Quantity(
            "coupling_ratio",
            lambda clean, poison, x, ridge, law: coupling_ratio(clean, poison, x, ridge),
            INNER_AXES,
            "exact over isolated q (L6)",
            "1",
            per_output=False,
        ),
        Quantity(
            "prediction",
            lambda clean, poison, x, ridge, law: predict(clean, x, ridge, poison),
            INNER_AXES,
            "poisoned prediction f",
            "y",
            needs=Needs.TARGETS,
        ),
        Quantity(
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


def _of_user(function: Callable[..., Array]) -> Quantity:
    name = getattr(function, "__name__", type(function).__name__)
    if not name.isidentifier():
        raise ValueError(f"a function among quantities must have a name to go by, got {name!r}: use def, not lambda")

    def at_every_probe(clean, poison, x, ridge, law):
        import jax

        return mapped(jax.vmap, lambda probe: function(clean, poison, probe, ridge))(x)

    return Quantity(
        name,
        at_every_probe,
        INNER_AXES,
        (inspect.getdoc(function) or name).splitlines()[0],
        "",
        needs=Needs.ALL,
        is_law=False,
    )
