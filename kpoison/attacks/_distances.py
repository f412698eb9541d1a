"""Distances between clients' updates, whose squares may leave the range of float32."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

__all__ = ["Neighbours", "distances_from", "row_lengths"]


def row_lengths(rows: Float[Array, "K p"]) -> Float[Array, " K"]:
    """Norms, divided by the largest entry first: squares of what is beyond 1e19 or below 1e-23 leave float32."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    there = (largest > 0) & jnp.isfinite(largest)
    # Of numbers beyond 1e38 the reciprocal would underflow.
    unit = jnp.where(largest > 1, 0.0625, 1).astype(rows.dtype)
    scaled = jnp.where(there, (unit * rows) / jnp.where(there, unit * largest, 1), 0)
    # The root's derivative at 0 would be NaN.
    return largest[:, 0] * jnp.sqrt(jnp.where(there[:, 0], jnp.sum(scaled**2, axis=1), 1))


def distances_from(z: Float[Array, " p"], updates: Float[Array, "K p"]) -> Float[Array, " K"]:
    """‖u_i − z‖ of each update."""
    return row_lengths(updates - z[None])


class Neighbours(eqx.Module):
    """Of each update the others, nearest first: (K, K − 1) distances, and whose they are."""

    distances: Float[Array, "K others"]
    clients: Int[Array, "K others"]

    @classmethod
    def of(cls, updates: Float[Array, "K p"]) -> "Neighbours":
        # Row by row: all differences at once would take K² p numbers.
        distances = jax.lax.map(lambda update: distances_from(update, updates), updates)
        others = jnp.where(jnp.eye(len(updates), dtype=bool), jnp.inf, distances)
        order = jnp.argsort(others, axis=1)[:, :-1]
        return cls(jnp.take_along_axis(others, order, axis=1), order)

    def scores(self, left: Bool[Array, " K"], number: Int[ArrayLike, ""]) -> Float[Array, " K"]:
        """Krum's, from the given number of nearest neighbours among the clients that are left.

        The roots of the sums of squares have the same order, and do not overflow.
        """
        present = left[self.clients]
        counted = present & (jnp.cumsum(present, axis=1) <= number)
        return row_lengths(jnp.where(counted, self.distances, 0))
