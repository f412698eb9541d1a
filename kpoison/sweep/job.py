"""What a sweep computes, and how it is cut into chunks."""

import functools
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kpoison._failures import Failure
from kpoison._identity import hash_of, tree_hash
from kpoison._memory import available_memory
from kpoison._typing import Law
from kpoison._version import __version__
from kpoison.poison import Poison
from kpoison.resumable.chunked import ChunkedWork
from kpoison.resumable.storage import Pieces, Variable
from kpoison.ridge import Fitted
from kpoison.sweep._evaluate import Cell, evaluate
from kpoison.sweep.axes import INNER_AXES, Grid, kernel_identities
from kpoison.sweep.posteriors import Posteriors
from kpoison.sweep.quantities import Needs, Quantity

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Job"]

_RESIDUAL = "relative_residual"  # a variable of sweeps whose solves are searched
_STATUS = "status"
_LARGEST_CHUNK = 2**28  # bytes of results at once: enough to fill the machine, small beside its memory
_COPIES = 4  # of a chunk's results that are alive at once, counting transposes and transfers
_COORDINATES = 64  # numbers per multiplicity and ridge, or of a gradient per probe: those of a compressed posterior


class Job(ChunkedWork):
    """One sweep: its grid, cut into chunks, and how a chunk is computed."""

    title = "kpoison.sweep"

    def __init__(
        self,
        clean: Fitted,
        grid: Grid,
        quantities: tuple[Quantity, ...],
        law: Law,
        mesh: Mesh,
        metadata: dict[str, Any],
        memory: int | None,
    ):
        self.clean, self.grid, self.quantities, self.mesh = clean, grid, quantities, mesh
        self.law: Law = law
        self.metadata = metadata
        of_searches = any(quantity.needs is not Needs.ALL for quantity in quantities)
        self.searched = law == "exact" and clean.factor.abilities.searched and of_searches
        self.poison = Poison(jnp.asarray(grid.places.locations[0], clean.X.dtype), grid.places.labels[0], 1.0)
        shapes = {q.name: q.outputs(clean, self.poison, law) for q in quantities}
        self.outputs = {name: shape for name, shape in shapes.items() if shape}
        trained, places = range(len(grid.training.cells)), grid.places
        self.cells = list(itertools.product(trained, range(len(places.locations)), range(len(places.directions))))
        self.plan = self._plan(memory)
        self.posteriors = Posteriors(clean, grid, quantities, law)

    # --- What is computed -------------------------------------------------------------------------------------

    def variables(self) -> dict[str, Variable]:
        """The variables of the result."""
        grid, found = self.grid, {}
        leading = [axis.name for axis in grid.leading]
        for quantity in self.quantities:
            dims = (*leading, *quantity.axes, *(["output"] if quantity.name in self.outputs else []))
            attributes = {"long_name": quantity.description, "units": quantity.units, "law": str(self.law)}
            found[quantity.name] = Variable(dims, np.dtype(self.clean.X.dtype), attributes)
        if self.searched:
            attributes = {"long_name": "largest relative residual of the solves", "units": "1"}
            dims = (*leading, "m", "ridge")
            found[_RESIDUAL] = Variable(dims, np.dtype(self.clean.X.dtype), attributes)
        attributes = {"long_name": "0 where every quantity was evaluated, 1 where one failed and is NaN"}
        found[_STATUS] = Variable((*leading, *INNER_AXES), np.dtype(np.int8), attributes)
        return found

    def coordinates(self) -> "xr.Dataset":
        """The coordinates with their units."""
        import xarray as xr

        coordinates: dict[str, Any] = {}
        for axis in (*self.grid.leading, *self.grid.inner):
            attributes = {"long_name": axis.description, "units": axis.units}
            values = axis.values.astype(str) if axis.values.dtype == object else axis.values
            coordinates[axis.name] = (axis.name, values, attributes)
            if axis.points is not None:
                inner = tuple(f"{axis.name}_axis{i}" for i in range(axis.points.ndim - 1))
                coordinates[f"{axis.name}_point"] = ((axis.name, *inner), axis.points, attributes)
        if self.outputs:
            number = max(shape[0] for shape in self.outputs.values())
            coordinates["output"] = ("output", np.arange(number), {"long_name": "output of the predictor"})
        return xr.Dataset(coords=coordinates)

    def manifest(self) -> dict[str, Any]:
        """Everything that determines the numbers."""
        clean, grid = self.clean, self.grid
        axes, trained = (*grid.leading, *grid.inner), grid.training.cells
        points = [grid.places.locations, grid.places.directions, grid.places.labels]
        return {
            "kpoison_version": __version__,
            "jax_version": jax.__version__,
            "dtype": str(clean.X.dtype),
            "law": self.law,
            "quantities": {q.name: q.identity(clean, self.poison, self.law) for q in self.quantities},
            "kernels": [[*found, cell.unit] for found, cell in zip(self._kernels, trained, strict=True)],
            "gradient_penalties": [cell.penalty for cell in trained],
            "times": [str(cell.time) for cell in trained],
            "solver": repr(clean.factor.solver).removesuffix("()"),
            "solver_hash": tree_hash(clean.factor.solver),
            "n_c": float(clean.observations.total) if clean.observations.weighted else clean.observations.total,
            "d": int(np.prod(clean.X.shape[1:])),
            "data_hash": tree_hash(
                {
                    "observations": clean.observations,
                    "y": clean.y,
                    "time": getattr(clean, "time", None),
                    "metric": grid.training.metric,
                }
            ),
            "points_hash": hash_of(*points, *(axis.values for axis in grid.inner)),
            "axes": [[axis.name, len(axis)] for axis in axes],
            "kernel_names": [str(name) for axis in axes if axis.name == "kernel" for name in axis.values],
            "metadata": self.metadata,
        }

    @functools.cached_property
    def _kernels(self) -> list[list[str]]:
        return kernel_identities([cell.kernel for cell in self.grid.training.cells], self.clean.X)

    # --- How it is cut ----------------------------------------------------------------------------------------

    def _plan(self, memory: int | None) -> dict[str, int]:
        """Sizes of the chunks along r_over_l and m."""
        r, m, ridges = (len(axis) for axis in self.grid.inner)
        available = memory if memory is not None else min(available_memory() // 4, _COPIES * _LARGEST_CHUNK)
        labels = len(self.grid.places.labels)
        outputs = max([shape[0] for shape in self.outputs.values()], default=1)
        per_point = (self.clean.X.dtype.itemsize * outputs * len(self.quantities) * _COPIES + 1) * labels
        coordinates = _COORDINATES * self.clean.X.dtype.itemsize * labels * outputs
        gradients = _COORDINATES * self.clean.X.dtype.itemsize * int(np.prod(self.clean.X.shape[1:]))
        m_chunk = int(np.clip(available / (ridges * (coordinates + per_point)), 1, m))
        left = available - m_chunk * ridges * coordinates
        r_chunk = int(np.clip(left / (m_chunk * ridges * per_point + gradients), 1, r))
        devices = self.mesh.size
        if r_chunk >= devices:
            r_chunk -= r_chunk % devices if r_chunk < r else 0
        return {"r_over_l": r_chunk, "m": m_chunk}

    def chunks(self, plan: Mapping[str, int]) -> list[tuple[tuple[int, int, int], slice, slice]]:
        """Cell, part of m and part of r_over_l of every chunk, in the order of their index."""
        r, m = len(self.grid.distance), len(self.grid.count)
        return [
            (cell, slice(i, min(i + plan["m"], m)), slice(j, min(j + plan["r_over_l"], r)))
            for cell in self.cells
            for i in range(0, m, plan["m"])
            for j in range(0, r, plan["r_over_l"])
        ]

    def pieces(self, chunk, arrays: Mapping[str, np.ndarray]) -> Pieces:
        """Where the arrays of a chunk belong in the result."""
        (trained, location, direction), m, r = chunk
        axes = self.grid.training.axes
        places = {"location": location, "direction": direction, "label": slice(None)}
        leading = [int(place) for place in np.unravel_index(trained, [len(axis) for axis in axes])] if axes else []
        leading += [places[axis.name] for axis in self.grid.places.axes]
        labels = slice(None) in leading
        inner = {"r_over_l": r, "m": m, "ridge": slice(None)}
        for quantity in self.quantities:
            if quantity.name in arrays:
                where = (*leading, *(inner[axis] for axis in quantity.axes))
                array = arrays[quantity.name]
                yield quantity.name, where, array if labels else array[0]
        if _RESIDUAL in arrays:
            array = arrays[_RESIDUAL]
            labels_too = np.broadcast_to(array, (len(self.grid.places.labels), *array.shape)) if labels else array
            yield _RESIDUAL, (*leading, m, slice(None)), labels_too
        array = arrays[_STATUS]
        yield _STATUS, (*leading, r, m, slice(None)), array if labels else array[0]

    # --- One chunk --------------------------------------------------------------------------------------------

    def compute(self, chunk) -> dict[str, np.ndarray]:
        """The quantities that this chunk is the first to hold, each of shape (label, *its axes, *output)."""
        (trained, location, direction), m, r = chunk
        grid, dtype = self.grid, self.clean.X.dtype
        quantities = tuple(
            quantity
            for quantity in self.quantities
            if (quantity.of_probes or r.start == 0) and (quantity.of_counts or m.start == 0)
        )
        posteriors = self.posteriors(trained, location)
        zeta, unit = grid.places.locations[location], grid.training.cells[trained].unit
        distances = grid.distance.values[r] * (np.linalg.norm(zeta) if unit is None else unit)
        probes = zeta + distances.reshape(-1, *[1] * zeta.ndim) * grid.places.directions[direction]
        # As many probes for each device; the surplus is dropped.
        surplus = -len(probes) % self.mesh.size
        probes = np.concatenate([probes, np.repeat(probes[-1:], surplus, axis=0)])
        numbers = zeta, grid.places.labels, grid.count.values[m], grid.ridge.values, probes
        results = evaluate(
            tuple(posteriors[quantity.needs] for quantity in quantities),
            Cell(*(jnp.asarray(part, dtype) for part in numbers)),
            quantities,
            self.law,
            self.mesh,
        )
        sizes = len(grid.places.labels), len(distances), m.stop - m.start, len(grid.ridge)
        found, status = {}, np.zeros(sizes, np.int8)
        for quantity, (result, failures) in zip(quantities, results, strict=True):
            array = np.asarray(result)
            array = array[:, : len(distances)] if quantity.of_probes else array
            failed = self._failed(quantity, failures, m)
            if failed.any():
                array = np.where(_along(failed, quantity, array.ndim), np.nan, array)
            found[quantity.name] = array
            status |= np.expand_dims(failed, [1] if quantity.of_counts else [1, 2])
        if self.searched and r.start == 0 and self.posteriors.status:
            found[_RESIDUAL] = np.max([self._status(needs, m)[0] for needs in self.posteriors.status], axis=0)
        return found | {_STATUS: status}

    def _status(self, needs: Needs, m: slice) -> tuple[np.ndarray, np.ndarray]:
        """Residual and convergence of a search at every multiplicity and ridge, shape (m, ridge)."""
        counts, ridges = jnp.asarray(self.grid.count.values[m]), jnp.asarray(self.grid.ridge.values)
        rho = jnp.outer(self.clean.observations.total + counts, ridges).astype(self.clean.X.dtype)
        residual, converged = jax.vmap(jax.vmap(self.posteriors.status[needs].at))(rho)
        return np.asarray(residual), np.asarray(converged)

    def _failed(self, quantity: Quantity, failures: Sequence[Failure], m: slice) -> np.ndarray:
        """Where a quantity has failed, over labels and its axes among m and ridge; with a warning that says why."""
        sizes = [
            len(self.grid.places.labels),
            *([m.stop - m.start] if quantity.of_counts else []),
            len(self.grid.ridge),
        ]
        failed = np.zeros(sizes, bool)
        reasons = {}
        for failure in failures:
            if not issubclass(failure.kind, Warning):
                reasons[failure.message] = np.asarray(failure.failed)
        if quantity.needs in self.posteriors.status:
            converged = self._status(quantity.needs, m)[1]
            reasons["solves have not converged"] = ~(converged if quantity.of_counts else converged[0])
        for reason, where in reasons.items():
            if where.any():
                failed |= where
                pairs = np.broadcast_to(where, failed.shape).any(axis=0)  # for one label or more
                warnings.warn(
                    f"{quantity.name}: {reason} for {pairs.sum()} of {pairs.size} pairs of multiplicity and ridge, "
                    f"which are NaN; see {_RESIDUAL if self.searched else _STATUS}",
                    stacklevel=2,
                )
        return failed


def _along(failed: np.ndarray, quantity: Quantity, ndim: int) -> np.ndarray:
    """Flags over (label, the quantity's axes among m and ridge) along its values, which have probes and outputs too."""
    if quantity.of_probes:
        failed = failed[:, None]
    return failed.reshape(*failed.shape, *[1] * (ndim - failed.ndim))
