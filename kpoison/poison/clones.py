"""What the attacker did: where, with which label, how often."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer, Num

from kpoison._validation import check_finite, check_floating, check_positive, check_real, plain_array

__all__ = ["Poison", "check_poison"]


class Poison(eqx.Module):
    """Identical training points (clones) at one location, or a cluster of several locations.

    Args:
        location: ζ, shape (d,): clones; shape (p, d): a cluster of p locations.  For a `kpoison.kernels.Precomputed`
            kernel an index, or indices of shape (p,).
        label: y_t. Clones: a number, or shape (C,) for C outputs. Cluster: shape (p,) or (p, C), or one label for
            all locations.
        count: multiplicity m, real and >= 0. Clones: a number. Cluster: shape (p,), or one number for each.

    A count is the weight of an observation, so it need not be whole and laws are differentiable in it.

    Raises:
        TypeError: for a location that is not a floating-point array, or labels or counts that are not real; for
            integers in place of coordinates, which may be indices, by the law.
        ValueError: for non-finite values and negative counts. Shapes are checked against the clean data by the law.

    >>> import jax.numpy as jnp
    >>> Poison(jnp.zeros(3), label=-1.0, count=5).location.shape
    (3,)
    """

    location: Float[Array, "..."] | Integer[Array, "..."]
    label: Float[Array, "..."]
    count: Float[Array, "..."]

    def __init__(self, location: Num[ArrayLike, "..."], label: Num[ArrayLike, "..."], count: Num[ArrayLike, "..."]):
        found = plain_array("location", location)
        indices = found.dtype.kind in "iu" and found.ndim <= 1
        self.location = jnp.asarray(found) if indices else check_floating("location", found)
        check_finite("location", found)
        check_real("label", label)
        check_finite("label", label)
        check_positive("count", count, zero=True, scalar=False)
        dtype = jnp.result_type(float) if indices else self.location.dtype
        self.label, self.count = jnp.asarray(label, dtype), jnp.asarray(count, dtype)

    def check_shapes(self, point_shape: tuple[int, ...], outputs: int) -> None:
        """Refuse what does not fit clean data of these shapes.

        Raises:
            TypeError: for coordinates that are integers, or indices that are not.
            ValueError: where location, label or count do not.
        """
        shape, dtype = self.location.shape, self.location.dtype
        if point_shape:
            check_floating("poison.location", self.location)
        elif not jnp.issubdtype(dtype, jnp.integer):
            raise TypeError(f"poison.location must be an index or indices of points, got dtype {dtype}")
        cluster = len(shape) == len(point_shape) + 1
        if shape[len(shape) - len(point_shape) :] != point_shape or not (cluster or shape == point_shape):
            raise ValueError(
                f"poison.location must have shape {point_shape} or (p, {', '.join(map(str, point_shape))}) to match "
                f"the clean inputs, got {shape}"
            )
        number = shape[0] if cluster else 1
        if number == 0:
            raise ValueError(f"poison.location must hold at least one point, got shape {shape}")
        labels: list[tuple[int, ...]] = [(outputs,)] if outputs > 1 else [(), (1,)]
        if cluster:
            labels += [(number, outputs)] + ([(number,)] if outputs == 1 else [])
        counts = [(), (number,)] if cluster else [()]
        for name, found, allowed, beside in (
            ("label", self.label, labels, f" for {number} location(s) and {outputs} output(s)"),
            ("count", self.count, counts, f" for {number} location(s)"),
        ):
            if found.shape not in allowed:
                raise ValueError(
                    f"poison.{name} must have shape {' or '.join(map(str, allowed))}{beside}, got {found.shape}"
                )

    def observations(
        self, point_shape: tuple[int, ...], outputs: int, dtype
    ) -> tuple[Float[Array, "p ..."], Float[Array, "p C"], Float[Array, " p"]]:
        """Locations (p, ...), labels (p, C) and counts (p,), checked against the clean data's shapes.

        Raises:
            ValueError: where location, label or count do not fit them.
        """
        self.check_shapes(point_shape, outputs)
        locations = jnp.asarray(self.location, dtype).reshape(-1, *point_shape)
        number = len(locations)
        label = jnp.asarray(self.label, dtype)
        # One label for all locations, or one for each.
        each = label.shape in ((number,), (number, outputs)) and (outputs == 1 or label.ndim == 2)
        labels = label.reshape(number if each else 1, outputs)
        count = jnp.asarray(self.count, dtype)
        return locations, jnp.broadcast_to(labels, (number, outputs)), jnp.broadcast_to(count, (number,))


def check_poison(value: Any) -> Poison:
    """The value, refused where it is no poison."""
    if not isinstance(value, Poison):
        raise TypeError(f"poison must be a kpoison.Poison, got {type(value).__name__}")
    return value
