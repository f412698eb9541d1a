"""What the attacker did: where, with which label, how often."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._validation import check_finite, check_floating, check_positive, check_real

__all__ = ["Poison"]


class Poison(eqx.Module):
    """Identical training points (clones) at one location, or a cluster of several locations.

    Args:
        location: ζ, shape (d,): clones; shape (p, d): a cluster of p locations.
        label: y_t. Clones: a number, or shape (C,) for C outputs. Cluster: shape (p,) or (p, C), or one label for
            all locations.
        count: multiplicity m, real and >= 0. Clones: a number. Cluster: shape (p,), or one number for each.

    A count is the weight of an observation, so it need not be whole and laws are differentiable in it.

    Raises:
        TypeError: for a location that is not a floating-point array, or labels or counts that are not real.
        ValueError: for non-finite values and negative counts. Shapes are checked against the clean data by the law.

    >>> import jax.numpy as jnp
    >>> Poison(jnp.zeros(3), label=-1.0, count=5).location.shape
    (3,)
    """

    location: Float[Array, "..."]
    label: Float[Array, "..."]
    count: Float[Array, "..."]

    def __init__(self, location: Float[ArrayLike, "..."], label: Num[ArrayLike, "..."], count: Num[ArrayLike, "..."]):
        self.location = check_floating("location", location)
        check_finite("location", location)
        check_real("label", label)
        check_finite("label", label)
        check_positive("count", count, zero=True, scalar=False)
        self.label = jnp.asarray(label, self.location.dtype)
        self.count = jnp.asarray(count, self.location.dtype)

    def observations(
        self, point_shape: tuple[int, ...], outputs: int, dtype
    ) -> tuple[Float[Array, "p ..."], Float[Array, "p C"], Float[Array, " p"]]:
        """Locations (p, ...), labels (p, C) and counts (p,), checked against the clean data's shapes.

        Raises:
            ValueError: where location, label or count do not fit them.
        """
        shape = self.location.shape
        cluster = len(shape) == len(point_shape) + 1
        if shape[len(shape) - len(point_shape) :] != point_shape or not (cluster or shape == point_shape):
            raise ValueError(
                f"poison.location must have shape {point_shape} or (p, {', '.join(map(str, point_shape))}) to match "
                f"the clean inputs, got {shape}"
            )
        locations = jnp.asarray(self.location, dtype).reshape(-1, *point_shape)
        number = len(locations)
        if number == 0:
            raise ValueError(f"poison.location must hold at least one point, got shape {shape}")
        return locations, self._labels(cluster, number, outputs, dtype), self._counts(cluster, number, dtype)

    def _labels(self, cluster: bool, number: int, outputs: int, dtype) -> Array:
        label = jnp.asarray(self.label, dtype)
        allowed: list[tuple[int, ...]] = [(outputs,)] if outputs > 1 else [(), (1,)]
        if cluster:
            allowed += [(number, outputs)] + ([(number,)] if outputs == 1 else [])
        if label.shape not in allowed:
            raise ValueError(
                f"poison.label must have shape {' or '.join(map(str, allowed))} for {number} location(s) and "
                f"{outputs} output(s), got {label.shape}"
            )
        if cluster and label.shape in ((number,), (number, outputs)) and (outputs == 1 or label.ndim == 2):
            return label.reshape(number, outputs)
        return jnp.broadcast_to(label.reshape(1, outputs), (number, outputs))

    def _counts(self, cluster: bool, number: int, dtype) -> Array:
        count = jnp.asarray(self.count, dtype)
        allowed = [(), (number,)] if cluster else [()]
        if count.shape not in allowed:
            raise ValueError(
                f"poison.count must have shape {' or '.join(map(str, allowed))} for {number} location(s), "
                f"got {count.shape}"
            )
        return jnp.broadcast_to(count, (number,))
