"""Hashed partitions of a training set, and a predictor on each: what ensembles that vote are made of."""

import hashlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from kpoison._validation import (
    boundary,
    check_finite,
    check_integers,
    check_points,
    check_positive,
    check_real,
    is_concrete,
)
from kpoison.kernels.base import Kernel, Traits, WithTraits, check_kernel
from kpoison.poison import check_poison
from kpoison.ridge import Cholesky, Posterior, fit

__all__ = [
    "Weighted",
    "check_ensemble",
    "content_order",
    "fitted_part",
    "padded",
    "partition_of",
    "with_weights",
]


def _check_hashed(arguments: dict[str, Any]) -> None:
    check_integers(arguments, partitions=1, seed=0)
    arguments["X"] = check_points("X", arguments["X"], max(np.ndim(arguments["X"]) - 1, 1))
    if not is_concrete(arguments["X"]):
        raise TypeError("X must be known numbers, as points are hashed: call outside of jit, vmap and grad")


@boundary(_check_hashed)
def partition_of(X: Float[ArrayLike, "n ..."], partitions: int, seed: int = 0) -> Int[np.ndarray, " n"]:
    """The partition of each point: a hash of its coordinates' bits, whatever the other points and their order.

    Labels are not hashed, so that a changed label stays in its partition and touches one vote, not two.  Identical
    points are in the same partition: m clones of one point change one vote at the most, however large m is.  The hash
    (BLAKE2b) is no secret: an attacker can find a near-clone of any point in any partition.

    Args:
        X: points, shape (n, d) or (n, height, width, channels); rounded to another dtype they are other points.
        partitions: how many, >= 1.
        seed: >= 0, of another draw of the hash.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> partition_of(np.array([[0.5], [1.5], [0.5]]), partitions=1000).tolist()
    [936, 237, 936]
    """
    return np.array([_digest(row, seed) % partitions for row in _content(np.asarray(X))])


def _content(points: np.ndarray) -> list[bytes]:
    """Each row's bits as float64; 0 and −0 are the same."""
    rows = (points.astype("<f8") + 0.0).reshape(len(points), -1)
    return [row.tobytes() for row in rows]


def _digest(content: bytes, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, salt=seed.to_bytes(16, "little")).digest(), "little")


class Weighted(WithTraits):
    """w w' k(x, x') on points (w, x): a point of weight 0 has no features, so that it trains nothing.

    Partitions of unequal sizes become arrays of a few sizes, each compiled once.
    """

    kernel: Kernel
    shape: tuple[int, ...] = eqx.field(static=True)

    def _apart(self, X: Float[Array, "n D"]) -> tuple[Float[Array, " n"], Float[Array, "n ..."]]:
        return X[:, 0], X[:, 1:].reshape(-1, *self.shape)

    def evaluate(self, x: Float[Array, " D"], z: Float[Array, " D"]) -> Float[Array, ""]:
        """w w' k(x, x')."""
        return x[0] * z[0] * self.kernel.evaluate(x[1:].reshape(self.shape), z[1:].reshape(self.shape))

    def gram(self, X1: Float[Array, "n1 D"], X2: Float[Array, "n2 D"]) -> Float[Array, "n1 n2"]:
        """That of the kernel, times weights."""
        w1, x1 = self._apart(X1)
        w2, x2 = (w1, x1) if X1 is X2 else self._apart(X2)
        return w1[:, None] * self.kernel.gram(x1, x2) * w2[None]

    def pairwise(self, X1: Float[Array, "n1 D"], X2: Float[Array, "n2 D"]) -> Float[Array, "n1 n2"]:
        """That of the kernel, times weights."""
        w1, x1 = self._apart(X1)
        w2, x2 = (w1, x1) if X1 is X2 else self._apart(X2)
        return w1[:, None] * self.kernel.pairwise(x1, x2) * w2[None]

    @property
    def traits(self) -> Traits:
        """As smooth as the kernel; points are flat."""
        return Traits(self.kernel.smoothness)


def check_ensemble(arguments: dict[str, Any]) -> None:
    """The arguments of an ensemble; a check for `boundary`."""
    kernel, poison = arguments["kernel"], arguments.get("poison")
    check_kernel("kernel", kernel)
    X = kernel.points("X", arguments["X"])
    check_real("y", arguments["y"])
    y = jnp.asarray(arguments["y"], X.dtype)
    if y.ndim not in (1, 2) or len(y) != len(X) or (y.ndim == 2 and y.shape[1] < 2):
        raise ValueError(f"y must have shape ({len(X)},), or ({len(X)}, C) with C >= 2 classes, got {y.shape}")
    check_finite("y", y)
    x = kernel.points("x", arguments["x"], like=X)
    check_positive("ridge", arguments["ridge"])
    check_integers(arguments, partitions=1, seed=0)
    if poison is not None:
        check_poison(poison)
    if not all(is_concrete(leaf) for leaf in jax.tree.leaves((kernel, X, y, x, arguments["ridge"], poison))):
        raise TypeError("arguments must be known numbers, as points are hashed: call outside of jit, vmap and grad")
    arguments.update(X=X, y=y, x=x)


def with_weights(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Points (w, x) of a `Weighted` kernel."""
    return np.concatenate([weights[:, None].astype(points.dtype), points.reshape(len(points), -1)], axis=1)


def content_order(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Training points sorted by what they are, so that not even rounding depends on the order they came in."""
    keys = [a + b for a, b in zip(_content(points), _content(targets), strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__))


def padded_size(number: int, least: int = 16) -> int:
    """The next of 16, 24, 32, 48, ...: of `number` alone, so that no other partition touches the rounding.

    Fewer than the least are no cheaper, and would be compiled for.
    """
    number = max(number, least)
    power = 1 << max(number - 1, 0).bit_length()
    return 3 * power // 4 if power >= 4 and number <= 3 * power // 4 else power


def padded(members: Int[np.ndarray, " m"]) -> tuple[Int[np.ndarray, " size"], Float[np.ndarray, " size"]]:
    """The points of a partition, and after them copies of weight 0 up to one of a few sizes; weights."""
    padding = padded_size(len(members)) - len(members)
    filled = np.concatenate([members, np.full(padding, members[0] if len(members) else 0)])
    return filled, np.repeat([1.0, 0.0], [len(members), padding])


def fitted_part(
    weighted: Weighted, points: np.ndarray, targets: np.ndarray, members: Int[np.ndarray, " m"]
) -> tuple[Posterior, int]:
    """The posterior of a partition, padded by copies of weight 0, and the number of its points with these."""
    filled, weights = padded(members)
    y = targets[filled] * weights.reshape(-1, *[1] * (targets.ndim - 1)).astype(targets.dtype)
    return fit(weighted, with_weights(points[filled], weights), y, solver=Cholesky()), len(filled)
