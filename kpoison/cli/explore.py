"""`kpoison explore`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from kpoison.cli.outputs import check_output

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Explore"]

_OURS = ("kpoison_version", "jax_version")  # of what the commands write, before and since the former was everywhere


@dataclasses.dataclass(frozen=True)
class Explore:
    """Make one page of a result, to look at in a browser: maps, cross-sections, thresholds moved by hand, every number.

    The page needs nothing else, not even a network.  Needs the extra `explore`.  Exit status 0, or 2 for wrong
    arguments.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """FILE.nc or FILE.zarr of `kpoison sweep`, `flow`, `tradeoff` or `matrix`.  Several, of one grid, are laid beside
    each other along a dimension `file`, such as the exact and the isolated law."""

    out: Path | None = None
    """FILE.html; by default that of the (first) file's name, beside it."""

    quantities: tuple[str, ...] = ()
    """What to keep; by default all."""

    select: tuple[str, ...] = ()
    """Part of a dimension, as NAME=VALUE (of numbers the nearest) or NAME=LOWEST:LARGEST, where the whole is too
    large."""

    def run(self) -> int:
        """Make the page; returns the exit status."""
        if not self.files:
            raise ValueError("FILE must be one or several, got none")
        check_output("--out", self.out, ".html")
        out = self.files[0].with_suffix(".html") if self.out is None else self.out
        from kpoison.plotting import explore

        dataset = _together(self.files)
        for part in self.select:
            dataset = _selected(dataset, part)
        title = " and ".join(path.stem for path in self.files)
        try:
            page = explore(dataset, quantities=self.quantities or None, title=title)
        except ImportError as error:
            raise ValueError(error) from error
        print(f"page: {page.write(out)}")
        return 0


def _together(paths: tuple[Path, ...]) -> "xr.Dataset":
    """The files' results, several along a new dimension.

    Raises:
        ValueError: where a file holds none of ours, or they do not fit each other.
    """
    import xarray as xr

    results = [_read(path.expanduser()) for path in paths]
    if len(results) == 1:
        return results[0]
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    try:
        # What one of them lacks is NaN, "no result".
        return xr.concat(results, xr.DataArray(names, dims="file", name="file"), data_vars="all", coords="minimal",
                         compat="override", join="exact", combine_attrs="drop_conflicts")  # fmt: skip
    except ValueError as error:
        raise ValueError(f"files must be of one grid and the same quantities: {error}") from error


def _read(path: Path) -> "xr.Dataset":
    import xarray as xr

    if not path.exists():
        raise FileNotFoundError(f"FILE must exist, got {path}")
    if path.suffix not in (".nc", ".zarr"):
        raise ValueError(f"FILE must end in .nc or .zarr, got {path}")
    try:
        if path.suffix == ".nc":
            with xr.open_dataset(path, engine="h5netcdf") as opened:
                dataset = opened.load()
        else:
            dataset = xr.open_zarr(path).load()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"FILE must be a result of kpoison, {path} cannot be read: {error}") from error
    if not set(_OURS) & set(dataset.attrs):
        found = ", ".join(map(str, dataset.data_vars)) or "nothing"
        raise ValueError(
            f"FILE must be a result of kpoison sweep, flow, tradeoff or matrix, which say their version; {path} holds "
            f"{found}: of any dataset of numbers kpoison.plotting.explore(dataset) makes a page"
        )
    return dataset


def _selected(dataset: "xr.Dataset", part: str) -> "xr.Dataset":
    """Part of one dimension; says which number is taken."""
    import numpy as np

    name, equals, wanted = part.partition("=")
    if not equals or name not in dataset.dims:
        dims = ", ".join(map(str, dataset.dims))
        raise ValueError(f"--select must be NAME=VALUE or NAME=LOWEST:LARGEST of {dims}, got {part!r}")
    values = dataset[name].values
    if values.dtype.kind not in "fiu":
        if wanted not in values.astype(str):
            raise ValueError(f"--select {name} must be of {', '.join(map(str, values))}, got {wanted!r}")
        return dataset.isel({name: [int(np.argmax(values.astype(str) == wanted))]})
    low, colon, high = wanted.partition(":")
    try:
        ends = float(low), float(high if colon else low)
    except ValueError:
        raise ValueError(f"--select {name} must be a number or LOWEST:LARGEST, got {wanted!r}") from None
    if colon:
        kept = np.flatnonzero((values >= ends[0]) & (values <= ends[1]))
        if not kept.size:
            raise ValueError(f"--select {name} must hold one of {values.min()} to {values.max()}, got {wanted}")
        return dataset.isel({name: kept})
    with np.errstate(invalid="ignore"):  # ∞ − ∞, of a time that is asked for as inf
        nearest = int(np.argmin(np.where(values == ends[0], -1.0, np.abs(values - ends[0]))))
    print(f"{name} = {values[nearest]:g}")
    return dataset.isel({name: [nearest]})
