"""Where the finished chunks of a sweep go: into memory, or to disk so that a killed sweep can be continued.

On disk a sweep in the making is a folder `FILE.parts`: a manifest of what is being computed, and one file per finished
chunk, written under another name and renamed, so that it is there as a whole or not at all, and named after its own
checksum.  When all are there they are copied into the final file, which appears by a rename too.
"""

import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ChunkStore", "Variable", "in_memory", "open_result", "still_to_make", "to_file"]

_FORMAT = 1


def still_to_make(out: Path, identity: str) -> bool:
    """Whether the final file is still to be made; checks that it can be.

    Raises:
        FileExistsError: where `out` exists and is not this sweep's result.
        FileNotFoundError, PermissionError: where it could not be written.
        ValueError: for a suffix other than .nc or .zarr.
    """
    if out.suffix not in (".nc", ".zarr"):
        raise ValueError(f"out must end in .nc (netCDF) or .zarr, got {out}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"out must lie in a folder that exists, got {out}")
    if out.exists():
        found = _identity_in(out)
        if found != identity:
            raise FileExistsError(
                f"{out} holds {'another sweep' if found else 'something that is no sweep'}: its arguments differ from "
                "these. Move it away or choose another name."
            )
        return False
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"out must lie in a folder that can be written, got {out}")
    return True


def _identity_in(out: Path) -> str | None:
    try:
        with open_result(out) as dataset:
            return dataset.attrs.get("identity")
    except (OSError, ValueError, KeyError):
        return None


def open_result(out: Path) -> "xr.Dataset":
    """The result of a finished sweep, read from disk where it is used."""
    import xarray as xr

    if out.suffix == ".nc":
        return xr.open_dataset(out, engine="h5netcdf")
    return xr.open_zarr(out, consolidated=False, chunks=None)


class ChunkStore:
    """The folder of finished chunks.

    Args:
        folder: its path.
        manifest: what is being computed, JSON-able; a folder with another one is refused.
        plan: how it is cut into chunks; of a folder that exists, its own plan is taken.
        create: whether this process makes the folder.

    Attributes:
        whole, part: what messages call the work and a piece of it.
    """

    whole: ClassVar[str] = "sweep"
    part: ClassVar[str] = "chunk"

    def __init__(self, folder: Path, manifest: Mapping[str, Any], plan: Mapping[str, Any], *, create: bool = True):
        self.folder = folder
        path = folder / "manifest.json"
        if create and not path.exists():
            folder.mkdir(exist_ok=True)
            self._keep(manifest, plan)
        try:
            found = json.loads(path.read_text())
            self.plan = found["plan"]
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete {folder} to start again") from None
        self._finished = {path.name.split("-")[0]: path for path in folder.glob("*-*.npz")}
        expected, known = json.loads(json.dumps(manifest)), found.get("manifest", {})
        if found.get("format") != _FORMAT or not (known == expected or self.goes_on(known, expected)):
            different = [key for key in sorted({*expected, *known}) if known.get(key) != expected.get(key)]
            raise FileExistsError(
                f"{folder} holds a {self.whole} in the making with other arguments ({', '.join(different)}): give the "
                "same ones to continue it, or delete it"
            )
        if known != expected:
            self._keep(manifest, self.plan)

    def goes_on(self, known: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
        """Whether another manifest than the known one asks for the same and more."""
        return False

    def __contains__(self, index: int) -> bool:
        """Whether a chunk is finished."""
        return f"{index:06d}" in self._finished

    def write(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a finished chunk.

        Raises:
            OSError: saying what was kept, where the disk is full.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        content = buffer.getbuffer()
        name = f"{index:06d}-{hashlib.blake2b(content, digest_size=16).hexdigest()}.npz"
        try:
            self._write(self.folder / name, content)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self.part} {index} could not be written ({error.strerror}); {len(self._finished)} finished ones are "
                "kept: make room and give the same command again",
                str(self.folder),
            ) from error
        self._finished[f"{index:06d}"] = self.folder / name

    def read(self, index: int) -> dict[str, np.ndarray]:
        """A finished chunk.

        Raises:
            ValueError: where the file is not what was written.
        """
        path = self._finished.get(f"{index:06d}") or self._look_again(index)
        content = path.read_bytes()
        checksum = hashlib.blake2b(content, digest_size=16).hexdigest()
        if f"{index:06d}-{checksum}.npz" != path.name:
            raise ValueError(
                f"{path} is damaged: its checksum is {checksum}. Delete it to compute that {self.part} again"
            )
        with np.load(io.BytesIO(content)) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def verify(self) -> None:
        """Read every finished chunk, so that damage is known before anything is computed."""
        for name in sorted(self._finished):
            self.read(int(name))

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

    def _look_again(self, index: int) -> Path:
        found = list(self.folder.glob(f"{index:06d}-*.npz"))
        if not found:
            raise FileNotFoundError(f"{self.part} {index} is missing in {self.folder}")
        return found[0]

    def _keep(self, manifest: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        content = json.dumps({"format": _FORMAT, "manifest": manifest, "plan": plan}, indent=1)
        self._write(self.folder / "manifest.json", content.encode())

    @staticmethod
    def _write(path: Path, content: bytes | memoryview) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Variable:
    """A variable of the result, to be filled piece by piece."""

    dims: tuple[str, ...]
    dtype: Any
    attributes: Mapping[str, str]

    @property
    def missing(self) -> float | int:
        """What stands where nothing was computed."""
        return np.nan if np.issubdtype(self.dtype, np.floating) else -1

    @property
    def fill(self) -> float | None:
        """The same in a file; with one for integers they would be read as floats."""
        return np.nan if np.issubdtype(self.dtype, np.floating) else None

    def filled(self, array: np.ndarray, other: np.ndarray) -> np.ndarray:
        """`array` with `other`'s values where its own are missing."""
        return np.where(np.isnan(array) if np.isnan(self.missing) else array == self.missing, other, array)


Pieces = Iterable[tuple[str, tuple[slice | int, ...], np.ndarray]]
"""Name of a variable, where a piece of it goes, and the piece."""


def in_memory(coordinates: "xr.Dataset", variables: Mapping[str, Variable], pieces: Pieces) -> "xr.Dataset":
    """The whole result as one dataset."""
    sizes = coordinates.sizes
    arrays = {
        name: np.full([sizes[dim] for dim in variable.dims], variable.missing, variable.dtype)
        for name, variable in variables.items()
    }
    for name, where, piece in pieces:
        arrays[name][where] = piece
    return coordinates.assign(
        {name: (variable.dims, arrays[name], variable.attributes) for name, variable in variables.items()}
    )


def to_file(out: Path, coordinates: "xr.Dataset", variables: Mapping[str, Variable], pieces: Pieces) -> None:
    """The whole result as a netCDF-4 file or a Zarr store, which appears at once when it is complete."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}{out.suffix}")
    try:
        (_to_netcdf if out.suffix == ".nc" else _to_zarr)(temporary, coordinates, variables, pieces)
        temporary.replace(out)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def _to_netcdf(path: Path, coordinates: "xr.Dataset", variables: Mapping[str, Variable], pieces: Pieces) -> None:
    import h5netcdf

    _empty_hdf5(path)
    coordinates.to_netcdf(path, mode="a", engine="h5netcdf")
    with h5netcdf.File(path, "a") as file:
        for name, variable in variables.items():
            stored = file.create_variable(name, variable.dims, variable.dtype, fillvalue=variable.fill)
            stored.attrs.update(variable.attributes)
        for name, where, piece in pieces:
            file.variables[name][where] = piece


def _empty_hdf5(path: Path) -> None:
    """A file that keeps no time of its making, so that equal sweeps are equal files; in the order netCDF asks for."""
    import h5py

    settings = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    settings.set_obj_track_times(False)
    order = h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED
    settings.set_link_creation_order(order)
    settings.set_attr_creation_order(order)
    h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_EXCL, fcpl=settings).close()


def _to_zarr(path: Path, coordinates: "xr.Dataset", variables: Mapping[str, Variable], pieces: Pieces) -> None:
    import zarr

    # Format 3 has no settled way to store text, such as the names of kernels.
    coordinates.to_zarr(path, zarr_format=2, consolidated=False)
    group = zarr.open_group(path, mode="a")
    for name, variable in variables.items():
        shape = tuple(coordinates.sizes[dim] for dim in variable.dims)
        group.create_array(
            name,
            shape=shape,
            dtype=variable.dtype,
            fill_value=variable.fill,
            attributes={**variable.attributes, "_ARRAY_DIMENSIONS": list(variable.dims)},
        )
    for name, where, piece in pieces:
        group[name][where] = piece  # pyright: ignore
