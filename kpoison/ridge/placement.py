"""Where the tiles of a Gram matrix and the rows of blocks lie: on one device, or divided among those of a mesh."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from kpoison._validation import is_concrete

__all__ = ["OneDevice", "OverMesh", "placement"]

T = TypeVar("T")


class OneDevice(eqx.Module):
    """All where it is made."""

    @property
    def devices(self) -> int:
        """How many."""
        return 1

    def everywhere(self, tree: T) -> T:
        """The same arrays on every device."""
        return tree

    def summed(self, function: Callable[..., Array], divided: Any, *whole: Any) -> Array:
        """The sum over devices of function(*divided, *whole), where each has its part of what is divided."""
        return function(*divided, *whole)

    def each(self, function: Callable[..., Array], divided: Array, *whole: Any) -> Array:
        """The same, one after the other in place of their sum."""
        return function(divided, *whole)

    def rows(self, x: Float[Array, "n k"]) -> Float[Array, "N k"]:
        """An array with its rows divided, and rows of 0 that make up a number."""
        return x

    def constrained_rows(self, x: Float[Array, "n ..."]) -> Float[Array, "N ..."]:
        """The same inside of a program."""
        return x

    def gathered(self, tree: T) -> T:
        """Arrays that are divided, whole on this process's first device."""
        return tree


class OverMesh(OneDevice):
    """Divided among the devices of a mesh, of this process or of all.

    Attributes:
        mesh: any number of axes, which are taken together.
    """

    mesh: Mesh = eqx.field(static=True)

    @property
    def devices(self) -> int:
        """How many."""
        return self.mesh.size

    def everywhere(self, tree: T) -> T:
        """On those of other processes too, which must hold the same numbers."""
        whole = NamedSharding(self.mesh, PartitionSpec())

        def put(leaf):
            return leaf if not eqx.is_array(leaf) or not is_concrete(leaf) else jax.device_put(np.asarray(leaf), whole)

        return jax.tree.map(put, tree)

    def summed(self, function: Callable[..., Array], divided: Any, *whole: Any) -> Array:
        """Sums over devices are the only communication."""

        def local(divided, *whole):
            return jax.lax.psum(function(*divided, *whole), self.mesh.axis_names)

        return self._mapped(local, len(whole), PartitionSpec())(divided, *whole)

    def each(self, function: Callable[..., Array], divided: Array, *whole: Any) -> Array:
        """Stays divided."""
        return self._mapped(function, len(whole), self._split)(divided, *whole)

    def _mapped(self, function: Callable[..., Array], whole: int, out_specs: PartitionSpec) -> Callable[..., Array]:
        in_specs = (self._split, *[PartitionSpec()] * whole)
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    @property
    def _split(self) -> PartitionSpec:
        return PartitionSpec(self.mesh.axis_names)

    def rows(self, x: Float[Array, "n k"]) -> Float[Array, "N k"]:
        """By NumPy: of several processes each has the whole, and gives its own devices their part."""
        filled = np.pad(np.asarray(x), ((0, -len(x) % self.devices), (0, 0)))
        return jax.device_put(filled, NamedSharding(self.mesh, self._split))

    def constrained_rows(self, x: Float[Array, "n ..."]) -> Float[Array, "N ..."]:
        """The same inside of a program."""
        filled = jnp.pad(x, ((0, -len(x) % self.devices), *[(0, 0)] * (x.ndim - 1)))
        return jax.lax.with_sharding_constraint(filled, NamedSharding(self.mesh, self._split))

    def gathered(self, tree: T) -> T:
        """By a program, as other processes' parts cannot be read."""
        whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(self.mesh, PartitionSpec()))(tree)
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)


def placement(mesh: Mesh | None) -> OneDevice:
    """That of a mesh; where none was given, this process's first device."""
    return OneDevice() if mesh is None else OverMesh(mesh)
