"""Labelled grids of any law, over every axis, on every device."""

from kpoison.sweep.axes import parse_axis
from kpoison.sweep.quantities import quantity_names
from kpoison.sweep.run import sweep

__all__ = ["parse_axis", "quantity_names", "sweep"]
