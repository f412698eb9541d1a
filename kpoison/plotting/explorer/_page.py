"""The page: the plotting library, the numbers, and the program that draws them."""

import dataclasses
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kpoison._reports import cell, escaped, heading, page, table, write_whole
from kpoison.plotting.explorer._numbers import described, dimension, kept_variables, packed

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LARGEST", "Explorer", "explore"]

LARGEST = 8_000_000
"""Bytes of a page."""

_PROGRAM = ("1_numbers.js", "2_controls.js", "3_map.js", "4_curves.js", "5_reading.js")


@dataclasses.dataclass(frozen=True, repr=False)
class Explorer:
    """A page that needs nothing else; a notebook shows it in place.

    Attributes:
        html: the page.
    """

    html: str

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page, which appears as a whole or not at all; returns its path.

        Raises:
            FileNotFoundError: where the folder does not exist.
        """
        return write_whole(path, self.html)

    def __repr__(self) -> str:
        return f"Explorer: a page of {len(self.html.encode()) / 1e6:.1f} MB; write(path) keeps it"

    def _repr_html_(self) -> str:
        # A frame of its own: the page's style and program and the notebook's do not meet.
        return (
            f"<iframe title='explorer' srcdoc='{escaped(self.html)}' "
            "style='width: 100%; height: 60rem; border: 1px solid #8888'></iframe>"
        )


def explore(dataset: "xr.Dataset", *, quantities: Sequence[str] | None = None, title: str | None = None) -> Explorer:
    """One page with every number of a result, to look at in a browser without anything else.

    It draws heat maps and cross-sections over any two dimensions, with sliders for the others; where an attack succeeds
    and where it is visible, from thresholds that are moved by hand, and between them the wedge of attacks unseen; one
    law against another; and writes pictures as PNG, numbers as CSV.  NaN is shown as "no result", ∞ as "never".

    Args:
        dataset: of `kpoison.sweep`, `kpoison.flow.tradeoff` or `kpoison.matrix.attack_defence_matrix`, or any other of
            real numbers with at least two along some dimension.
        quantities: names of the variables to keep; by default all of real numbers.
        title: of the page; by default the dataset's own.

    Returns:
        The page, below 8 MB.  Numbers are as precise as in the dataset, or in single precision where there is no room
        for that, as the page then says.

    Raises:
        ImportError: plotly is not installed (``pip install "kpoison[explore]"``).
        TypeError: for what is no dataset.
        ValueError: for one of which nothing can be drawn, and for one that is too large, saying what to select.
    """
    library = _library()
    if not (hasattr(dataset, "data_vars") and hasattr(dataset, "sizes")):
        raise TypeError(f"dataset must be an xarray.Dataset, got {type(dataset).__name__}")
    if isinstance(quantities, str):
        raise TypeError(f"quantities must be a sequence of names, got {quantities!r}")
    names = kept_variables(dataset, quantities)
    _check(dataset, names)
    title = str(dataset.attrs.get("title", "Explorer")) if title is None else title
    used = list(dict.fromkeys(dim for name in names for dim in dataset[name].dims))
    held: dict[str, Any] = {"dimensions": [dimension(dataset, dim) for dim in used]}
    held["quantities"] = [described(dataset[name]) for name in names]
    empty = _html(title, dataset, names, library, held)
    packed(dataset, held["quantities"], LARGEST - len(empty.encode()))
    return Explorer(_html(title, dataset, names, library, held))


def _check(dataset: "xr.Dataset", names: Sequence[str]) -> None:
    if 0 in dataset[list(names)].sizes.values():
        raise ValueError(f"dataset must hold numbers, got the sizes {dict(dataset[list(names)].sizes)}")
    if all(dataset[name].size < 2 for name in names):
        raise ValueError(
            "dataset must hold several values along some dimension, got one point: print it, there is nothing to draw"
        )
    if not any(np.any(np.isfinite(dataset[name].values)) for name in names):
        raise ValueError(f"dataset must hold a finite number, got only NaN or ∞ in {', '.join(names)}")


def _library() -> str:
    """The plotting library's program, as its Python package holds it."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError("plotly is not installed: pip install 'kpoison[explore]'", name="plotly") from error
    return get_plotlyjs()


def _html(title: str, dataset: "xr.Dataset", names: Sequence[str], library: str, held: dict[str, Any]) -> str:
    here = files("kpoison.plotting.explorer")
    style, body = (here.joinpath(f"explorer.{kind}").read_text("utf-8") for kind in ("css", "html"))
    program = "\n".join(here.joinpath(name).read_text("utf-8") for name in _PROGRAM)
    left_out = [str(name) for name in dataset.data_vars if str(name) not in names]
    rows = [(str(name), str(value)) for name, value in dataset.attrs.items()]
    rows += [("not in this page", ", ".join(left_out))] if left_out else []
    about = table((), ([heading(name), cell(f"<pre>{escaped(value)}</pre>")] for name, value in rows))
    # Within a script "<" could end it; a number that is not finite has no JSON and is not among these.
    numbers = json.dumps(held, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return page(
        title,
        f"{body}<details><summary>What was computed</summary>{about}</details>"
        f"<script type='application/json' id='held'>{numbers}</script>"
        f'<script>{library}</script><script>(() => {{\n"use strict";\n{program}}})();</script>',
        style=style,
    )
