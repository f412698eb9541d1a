"""What every attack returns: the training set as the defender gets it, and what the law says of it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kpoison._typing import Scalar
from kpoison._validation import check_mask, plain_array
from kpoison.attacks.classes import Wanted
from kpoison.laws import efficacy
from kpoison.poison import Poison
from kpoison.ridge import Fitted

__all__ = ["PoisonedData", "poisoned_data"]


def _mask(value: Any) -> Any:
    """`is_poison` as booleans; what is no array at all is a tree's placeholder."""
    if not isinstance(value, np.ndarray | jax.Array | list | tuple):
        return value
    mask = plain_array("is_poison", value)
    return jnp.asarray(check_mask("is_poison", mask, mask.shape, "point"))


class PoisonedData(eqx.Module):
    """A training set with an attacker's points in it.

    Attributes:
        X: inputs, shape (n, ...), the attacker's among them.
        y: targets, shape (n,) of −1 and 1, or (n, C) with one column for each class.
        is_poison: which points the attacker added or changed, shape (n,): booleans, or integers that are 0 or 1.
        probes: inputs at which the attacker wants another prediction, shape (q, ...).
        efficacy: Δf at the probes by the law, shape (q,) or (q, C): the prediction with the attack less that without
            it, both at the ρ = nλ of the attacked training set.
        target: the class that the attacker wants at the probes, −1 or 1 or a column of y; a mapping from their true
            classes to the class wanted for each; one class for each probe; or None where any wrong prediction will do.
    """

    X: Float[Array, "n ..."]
    y: Float[Array, "n *C"]
    is_poison: Bool[Array, " n"] = eqx.field(converter=_mask)
    probes: Float[Array, "q ..."]
    efficacy: Float[Array, "q *C"]
    target: Wanted | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        number, shape = np.shape(self.X)[:1], np.shape(self.is_poison)
        if shape != number:
            raise ValueError(f"is_poison must have shape {number}, one for each point, got {shape}")


def poisoned_data(
    clean: Fitted, poison: Poison, probes: Float[Array, "q ..."], ridge: Scalar, target: int | None
) -> PoisonedData:
    """The clean points and after them the poison's, each as often as its whole count says, with the law's efficacy."""
    locations, labels, counts = poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)
    times = np.asarray(counts).astype(int)
    added = jnp.repeat(locations, times, axis=0)
    given = jnp.repeat(labels, times, axis=0).reshape(-1, *clean.y.shape[1:])
    return PoisonedData(
        X=jnp.concatenate([clean.X, added]),
        y=jnp.concatenate([clean.y, given.astype(clean.y.dtype)]),
        is_poison=jnp.arange(len(clean.X) + len(added)) >= len(clean.X),
        probes=probes,
        efficacy=efficacy(clean, poison, probes, ridge),
        target=target,
    )
