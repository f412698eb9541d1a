"""Work in chunks: kept as it goes on, continued where it was left, divided among processes."""

import abc
import functools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np

from kpoison._identity import identity_of
from kpoison.resumable.processes import together
from kpoison.resumable.storage import ChunkStore, Pieces, Variable, in_memory, open_result, still_to_make, to_file

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ChunkedWork", "ProgressBar"]

ProgressBar = Callable[[Iterable[Any]], Iterable[Any]]
"""Passes chunks, or their indices, on, and shows how many there are."""


class ChunkedWork(abc.ABC):
    """A dataset that is computed chunk by chunk.

    Attributes:
        title: what messages call the work.
        plan: how it is cut into chunks.
    """

    title: ClassVar[str]
    plan: Mapping[str, int]

    @abc.abstractmethod
    def manifest(self) -> dict[str, Any]:
        """Everything that determines the numbers; JSON-able."""

    @abc.abstractmethod
    def coordinates(self) -> "xr.Dataset":
        """The axes of the result."""

    @abc.abstractmethod
    def variables(self) -> dict[str, Variable]:
        """The variables of the result."""

    @abc.abstractmethod
    def chunks(self, plan: Mapping[str, int]) -> Sequence[Any]:
        """Every chunk, in the order of their index."""

    @abc.abstractmethod
    def compute(self, chunk: Any) -> dict[str, np.ndarray]:
        """The arrays of one chunk."""

    @abc.abstractmethod
    def pieces(self, chunk: Any, arrays: Mapping[str, np.ndarray]) -> Pieces:
        """Where the arrays of a chunk belong in the result."""

    def findings(self, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
        """Attributes of the result that only a finished chunk tells."""
        return {}

    def in_memory(self, bar: ProgressBar) -> "xr.Dataset":
        """The result as arrays."""
        processes, process = jax.process_count(), jax.process_index()
        coordinates, variables = self._described(), self.variables()
        findings: dict[str, str] = {}

        def pieces() -> Iterator[tuple[str, tuple[slice | int, ...], np.ndarray]]:
            for chunk in bar(self.chunks(self.plan)[process::processes]):
                arrays = self.compute(chunk)
                findings.update(findings or self.findings(arrays))
                yield from self.pieces(chunk, arrays)

        with together(self.title):
            dataset = in_memory(coordinates, variables, pieces())
        if processes > 1:
            from jax.experimental import multihost_utils

            for name, variable in variables.items():
                # Each process has its own chunks; elsewhere what is missing.
                gathered = np.asarray(multihost_utils.process_allgather(dataset[name].values))
                dataset[name].values = functools.reduce(variable.filled, gathered)
        return dataset.assign_attrs(findings)

    def to_disk(self, out: Path, bar: ProgressBar) -> "xr.Dataset":
        """The result in a file, by way of a folder of finished chunks.

        Raises:
            FileExistsError, FileNotFoundError, PermissionError, ValueError: where `out` can't be made.
            OSError: where the disk is too small.
            RuntimeError: in a process whose own work went well, where another's did not.
        """
        processes, process = jax.process_count(), jax.process_index()
        coordinates, variables = self._described(), self.variables()
        folder = out.with_name(out.name + ".parts")
        with together(f"{self.title}, looking for finished chunks"):
            finished = not still_to_make(out, coordinates.attrs["identity"])
            if not finished:
                _check_disk(out, folder, coordinates, variables)
            if not finished and process == 0:
                ChunkStore(folder, self.manifest(), self.plan)
        if finished:
            return open_result(out)
        with together(f"{self.title}, chunks"):
            parts = ChunkStore(folder, self.manifest(), self.plan, create=False)
            parts.verify()
            chunks = self.chunks(parts.plan)
            for index in bar(range(process, len(chunks), processes)):
                if index not in parts:
                    parts.write(index, self.compute(chunks[index]))
        with together(f"{self.title}, final file"):
            if process == 0:
                coordinates = coordinates.assign_attrs(self.findings(parts.read(0)))
                finished_chunks = (self.pieces(chunk, parts.read(index)) for index, chunk in enumerate(chunks))
                to_file(out, coordinates, variables, (piece for pieces in finished_chunks for piece in pieces))
                parts.remove()
        return open_result(out)

    def _described(self) -> "xr.Dataset":
        """The coordinates with the manifest, its identity and the machine as attributes."""
        manifest, device = self.manifest(), jax.local_devices()[0]
        return self.coordinates().assign_attrs(
            {
                key: value if isinstance(value, str | int | float) else json.dumps(value)
                for key, value in manifest.items()
            }
            | {
                "identity": identity_of(manifest),
                "device": f"{jax.device_count()} × {device.device_kind} ({device.platform})",
            }
        )


def _check_disk(out: Path, folder: Path, coordinates: "xr.Dataset", variables: Mapping[str, Variable]) -> None:
    needed = sum(
        variable.dtype.itemsize * int(np.prod([coordinates.sizes[dim] for dim in variable.dims]))
        for variable in variables.values()
    )
    kept = sum(path.stat().st_size for path in folder.glob("*.npz"))
    free = shutil.disk_usage(out.parent).free
    if free < 2 * needed - kept:  # once in the chunks, once in the final file
        raise OSError(
            f"out needs {(2 * needed - kept) / 2**30:.2f} GiB on the disk of {out.parent}, of which "
            f"{free / 2**30:.2f} GiB are free"
        )
