"""One chunk of a sweep as one compiled program, divided among devices."""

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

__all__ = ["MESH_AXIS", "evaluate"]

MESH_AXIS = "probes"
"""Name of the only axis of the mesh."""


@eqx.filter_jit
def evaluate(
    posteriors: tuple[Fitted, ...],
    zeta: Array,
    labels: Array,
    counts: Array,
    ridges: Array,
    probes: Array,
    quantities: tuple[Quantity, ...],
    law: Law,
    mesh: Mesh,
) -> tuple[tuple[Array, tuple[Failure, ...]], ...]:
    """Every quantity over labels, its axes among (probes, counts, ridges), and outputs; and where it failed.

    Nobody is told of a failure, whose `failed` goes over labels and the quantity's axes among (counts, ridges).
    """
    arrays, rest = eqx.partition(posteriors, eqx.is_array)

    def on_one_device(arrays, zeta, labels, counts, ridges, probes):
        posteriors = eqx.combine(arrays, rest)
        return tuple(
            _over_axes(quantity, posterior, zeta, labels, counts, ridges, probes, law)
            for quantity, posterior in zip(quantities, posteriors, strict=True)
        )

    split = PartitionSpec(MESH_AXIS)
    whole = PartitionSpec()
    specs = tuple((PartitionSpec(None, MESH_AXIS) if "r_over_l" in q.axes else whole, whole) for q in quantities)
    return jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(whole, whole, whole, whole, whole, split),
        out_specs=specs,
        check_vma=False,
    )(arrays, zeta, labels, counts, ridges, probes)


def _over_axes(
    quantity: Quantity,
    clean: Fitted,
    zeta: Array,
    labels: Array,
    counts: Array,
    ridges: Array,
    probes: Array,
    law: Law,
) -> tuple[Array, tuple[Failure, ...]]:
    """The law under `vmap`; what does not depend on a mapped number is computed once."""
    has_probes = "r_over_l" in quantity.axes

    def at(label, count, ridge):
        poison = Poison(zeta, label, count)
        return collect(quantity.function, clean, poison, probes if has_probes else None, ridge, law)

    behind_probes = 1 if has_probes else 0
    mapped = jax.vmap(at, (None, None, 0), (behind_probes, 0))
    if "m" in quantity.axes:
        mapped = jax.vmap(mapped, (None, 0, None), (behind_probes, 0))
    else:
        counts = jnp.ones((), counts.dtype)
    values, failures = jax.vmap(mapped, (0, None, None))(labels, counts, ridges)
    if has_probes:  # each device has seen its own
        failures = jax.tree.map(lambda failed: jax.lax.pmax(failed, MESH_AXIS), failures)
    return values, failures
