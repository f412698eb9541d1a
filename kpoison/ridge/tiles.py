"""The Gram matrix of many points by square tiles of its lower half: kept, or evaluated anew at each product."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from kpoison._linear_algebra import matrix_product
from kpoison.kernels.base import Kernel, with_array_parameters
from kpoison.ridge.placement import OneDevice

__all__ = [
    "ScaledGram",
    "TiledGram",
    "gram_bytes",
    "in_dtype",
    "tile_size",
]

_TILE = 2048  # points: products are then bound by arithmetic, and what an evaluation needs beside them stays small


def tile_size(n: int) -> int:
    """Points of a tile: as many tiles as the largest allows, of equal size."""
    return -(-n // -(-n // _TILE))


def gram_bytes(n: int, dtype, devices: int = 1) -> int:
    """Bytes of the kept tiles, on all devices together."""
    return _tile_count(n, devices) * tile_size(n) ** 2 * np.dtype(dtype).itemsize


def _tile_count(n: int, devices: int) -> int:
    along = -(-n // tile_size(n))
    return math.ceil(along * (along + 1) / 2 / devices) * devices


class TiledGram(eqx.Module):
    """K(X, X) as a linear operator, each tile of the lower half read or made once for both its places.

    Attributes:
        kernel, X: in the dtype in which K is evaluated and multiplied.
        tiles: shape (T, b, b), or None where they are made anew at each product.
        placement: of the tiles.
    """

    kernel: Kernel
    X: Float[Array, "n ..."]
    tiles: Float[Array, "T b b"] | None = None
    placement: OneDevice = OneDevice()

    @property
    def number(self) -> int:
        """n."""
        return len(self.X)

    @property
    def dtype(self) -> np.dtype:
        """In which K is evaluated and multiplied."""
        return self.X.dtype

    def kept(self) -> "TiledGram":
        """The same with its tiles kept; in place, so that nothing but they and a few tiles is in memory."""
        return TiledGram(self.kernel, self.X, _make_tiles(self), self.placement)

    def scaled(self, factors: Float[Array, " n"]) -> "ScaledGram":
        """D K D."""
        return ScaledGram(self, factors)

    def diagonal(self) -> Float[Array, " n"]:
        """k(x, x) at each point."""
        return self.kernel.diagonal(self.X)

    def columns(self, places: Array) -> Float[Array, "n s"]:
        """K[:, places]."""
        return self.kernel.gram(self.X, self.X[places])

    def product(self, x: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """K x in the dtype of x: tiles are multiplied in their own dtype and summed in that of x.

        Rows beyond n, which are 0, are kept.
        """
        if jnp.iscomplexobj(x):
            both = self.product(jnp.concatenate([x.real, x.imag], axis=1))
            return both[:, : x.shape[1]] + 1j * both[:, x.shape[1] :]
        along, size = self._shape()
        surplus = ((0, len(x) - self.number), (0, 0))
        x = x[: self.number]
        scale = jnp.ones((1, 1), x.dtype)
        if x.dtype != self.dtype:  # of columns, so that a narrower dtype loses no exponent
            largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axis=0, keepdims=True)
            scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
        filled = jnp.pad(x / scale, ((0, along * size - self.number), (0, 0))).reshape(along, size, -1)
        divided = jnp.asarray(self._places()), self.tiles
        result = self.placement.summed(self._local_product, divided, self._parts(), filled)
        return jnp.pad(result.reshape(along * size, -1)[: self.number] * scale, surplus)

    def _shape(self) -> tuple[int, int]:
        size = tile_size(self.number)
        return -(-self.number // size), size

    def _places(self) -> np.ndarray:
        """Row, column and weight of each tile, filled up to as many for each device."""
        rows, columns = np.tril_indices(self._shape()[0])
        surplus = _tile_count(self.number, self.placement.devices) - len(rows)
        places = np.stack([rows, columns, np.ones_like(rows)], axis=1).astype(np.int32)
        return np.concatenate([places, np.zeros((surplus, 3), np.int32)])

    def _parts(self) -> Float[Array, "along b ..."]:
        """The points of each row of tiles; the last is filled up with the last point."""
        along, size = self._shape()
        inside = np.minimum(np.arange(along * size), self.number - 1)
        return self.X[inside].reshape(along, size, *self.X.shape[1:])

    def _tile(self, parts: Array, place: Array) -> Float[Array, "b b"]:
        """One tile; on the diagonal symmetric to the last bit and with the exact diagonal of the kernel."""
        tile = self.kernel.gram(parts[place[0]], parts[place[1]])

        def mended(tile):
            lower = jnp.tril(tile, -1)
            return lower + lower.T + jnp.diag(self.kernel.diagonal(parts[place[0]]))

        return jax.lax.cond(place[0] == place[1], mended, lambda tile: tile, tile)

    def _local_product(self, places: Array, tiles: Array | None, parts: Array, x: Array) -> Array:
        def add(totals, at):
            """The tile times columns, and rows times the tile: its transpose times columns would take thrice as long.

            The latter are added up as rows: a compiler would make columns of them by that very product.
            """
            (columns, rows), (place, tile) = totals, at
            if tile is None:
                tile = self._tile(parts, place)
            i, j, weight = place
            narrow = x.astype(tile.dtype)
            below = matrix_product(tile, narrow[j]).astype(x.dtype)
            above = matrix_product(narrow[i].T, tile).astype(x.dtype)
            return (columns.at[i].add(weight * below), rows.at[j].add(weight * (i != j) * above)), None

        # What a tile holds is not kept for derivatives.
        start = jnp.zeros_like(x), jnp.zeros_like(jnp.swapaxes(x, 1, 2))
        columns, rows = jax.lax.scan(jax.checkpoint(add), start, (places, tiles))[0]
        return columns + jnp.swapaxes(rows, 1, 2)


class ScaledGram(eqx.Module):
    """D K D as a linear operator, D diagonal.

    Attributes:
        gram: K.
        scales: of D.
    """

    gram: TiledGram
    scales: Float[Array, " n"]

    @property
    def number(self) -> int:
        """n."""
        return self.gram.number

    @property
    def dtype(self) -> np.dtype:
        """That of K."""
        return self.gram.dtype

    @property
    def placement(self) -> OneDevice:
        """That of K's tiles."""
        return self.gram.placement

    def diagonal(self) -> Float[Array, " n"]:
        """Of D K D."""
        return self.scales**2 * self.gram.diagonal()

    def columns(self, places: Array) -> Float[Array, "n s"]:
        """Of D K D."""
        return self.scales[:, None] * self.gram.columns(places) * self.scales[places][None]

    def product(self, x: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """D K D x; rows beyond n, which are 0, are kept."""
        scales = jnp.pad(self.scales, (0, len(x) - self.number))[:, None].astype(x.real.dtype)
        return scales * self.gram.product(scales * x)


@eqx.filter_jit
def _make_tiles(gram: TiledGram) -> Float[Array, "T b b"]:
    places, parts = jnp.asarray(gram._places()), gram._parts()

    def make(places, parts):
        return jax.lax.map(lambda place: gram._tile(parts, place), places)

    return gram.placement.each(make, places, parts)


def in_dtype(kernel: Kernel, X: Array, dtype) -> tuple[Kernel, Array]:
    """Kernel and points in the dtype of the products."""

    def cast(leaf):
        return leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(cast, with_array_parameters(kernel, dtype)), X.astype(dtype)
