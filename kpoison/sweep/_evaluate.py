"""One chunk of a sweep as one compiled program, divided among devices."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from kpoison._failures import Failure, collect
from kpoison._typing import Law
from kpoison.poison import Poison
from kpoison.ridge import Fitted
from kpoison.sweep.quantities import Quantity

__all__ = ["MESH_AXIS", "Cell", "evaluate"]

MESH_AXIS = "probes"
"""Name of the only axis of the mesh."""


class Cell(NamedTuple):
    """What the quantities of one chunk are evaluated at.

    Attributes:
        zeta: the poison's location.
        labels: y_t, shape (L,) or (L, C).
        counts: m, shape (M,).
        ridges: λ, shape (Λ,).
        probes: x0, shape (R, d), as many for each device.
    """

    zeta: Array
    labels: Array
    counts: Array
    ridges: Array
    probes: Array


@eqx.filter_jit
def evaluate(
    posteriors: tuple[Fitted, ...], cell: Cell, quantities: tuple[Quantity, ...], law: Law, mesh: Mesh
) -> tuple[tuple[Array, tuple[Failure, ...]], ...]:
    """Every quantity, of the posterior beside it, over labels, its axes among (probes, counts, ridges), and outputs.

    Nobody is told of a failure: it comes beside the values, over labels and the quantity's axes among (counts, ridges).
    """
    arrays, rest = eqx.partition(posteriors, eqx.is_array)

    def on_one_device(arrays, cell):
        posteriors = eqx.combine(arrays, rest)
        return tuple(
            _over_axes(quantity, posterior, cell, law)
            for quantity, posterior in zip(quantities, posteriors, strict=True)
        )

    split, whole = PartitionSpec(MESH_AXIS), PartitionSpec()
    results = tuple((PartitionSpec(None, MESH_AXIS) if q.of_probes else whole, whole) for q in quantities)
    return jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(whole, jax.tree.unflatten(jax.tree.structure(cell), (whole, whole, whole, whole, split))),
        out_specs=results,
        check_vma=False,
    )(arrays, cell)


def _over_axes(quantity: Quantity, clean: Fitted, cell: Cell, law: Law) -> tuple[Array, tuple[Failure, ...]]:
    """The law under `vmap`; what does not depend on a mapped number is computed once."""

    def at(label, count, ridge):
        poison = Poison(cell.zeta, label, count)
        return collect(quantity.function, clean, poison, cell.probes if quantity.of_probes else None, ridge, law)

    counts, probes_first = cell.counts, int(quantity.of_probes)
    mapped = jax.vmap(at, (None, None, 0), (probes_first, 0))
    if quantity.of_counts:
        mapped = jax.vmap(mapped, (None, 0, None), (probes_first, 0))
    else:
        counts = jnp.ones((), counts.dtype)
    values, failures = jax.vmap(mapped, (0, None, None))(cell.labels, counts, cell.ridges)
    if quantity.of_probes:  # each device has seen its own
        failures = jax.tree.map(lambda failed: jax.lax.pmax(failed, MESH_AXIS), failures)
    return values, failures
