"""What lying clients of a federation send instead of their updates."""

import abc
from statistics import NormalDist

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from kpoison._typing import Scalar
from kpoison._validation import check_finite, check_finite_scalar, check_floating, check_mask, check_positive, flag

__all__ = ["ALittleIsEnough", "FixedUpdates", "GaussianUpdates", "ModelReplacement", "SignFlip", "UpdateAttack"]


class UpdateAttack(eqx.Module):
    """A rule of the malicious clients, a pure function of everybody's honest updates."""

    def check(self, malicious: Bool[np.ndarray, " K"], size: int) -> None:
        """Refuse clients or a number of parameters that do not fit.

        Raises:
            ValueError: naming what does not fit.
        """

    @abc.abstractmethod
    def sent(
        self,
        updates: Float[Array, "K P"],
        malicious: Bool[np.ndarray, " K"],
        weights: Float[Array, " K"],
        parameters: Float[Array, " P"],
        key: PRNGKeyArray,
    ) -> Float[Array, "K P"]:
        """What malicious clients send; the other rows are not looked at.

        Args:
            updates: what every client would send if it were honest.
            malicious: who is not, shape (K,).
            weights: of the clients, that add up to 1.
            parameters: θ, which the server has sent.
            key: of this round.
        """

    def __call__(
        self,
        updates: Float[Array, "K P"],
        malicious: Bool[np.ndarray, " K"],
        weights: Float[Array, " K"],
        parameters: Float[Array, " P"],
        key: PRNGKeyArray,
    ) -> Float[Array, "K P"]:
        """The updates as the server gets them; arguments as in `sent`, `malicious` also integers that are 0 or 1."""
        malicious = np.asarray(check_mask("malicious", malicious, (len(updates),), "client"))
        sent = self.sent(updates, malicious, weights, parameters, key)
        return jnp.where(jnp.asarray(malicious)[:, None], sent, updates)


class SignFlip(UpdateAttack):
    """The client's own honest update times −scale.

    Attributes:
        scale: > 0.
    """

    scale: Scalar = 1.0

    def __check_init__(self):
        check_positive("scale", self.scale)

    def sent(self, updates, malicious, weights, parameters, key):
        """−scale · u."""
        return -jnp.asarray(self.scale, updates.dtype) * updates


class ModelReplacement(UpdateAttack):
    """boost · (θ* − θ): the boosted model replacement of Bagdasaryan et al. (2020).

    Attributes:
        target: θ*, the parameters that the attacker wants, shape (p,) or (p, C).
        boost: by default one over the malicious clients' share of the weights.  The server's mean is then
            θ* − θ plus the weighted honest updates, which vanish as these converge.
    """

    target: Float[Array, "..."]
    boost: Scalar | None

    def __init__(self, target: Float[ArrayLike, "..."], boost: Scalar | None = None):
        self.target = _finite_array("target", target)
        if boost is not None:
            check_positive("boost", boost)
        self.boost = boost

    def check(self, malicious, size):
        """As many parameters as the model has."""
        _check_size("target", self.target, size)

    def sent(self, updates, malicious, weights, parameters, key):
        """boost · (θ* − θ)."""
        malicious = check_mask("malicious", malicious, (len(updates),), "client")
        share = jnp.sum(jnp.where(jnp.asarray(malicious), weights, 0))
        boost = 1 / share if self.boost is None else jnp.asarray(self.boost, updates.dtype)
        change = boost * (self.target.reshape(-1).astype(updates.dtype) - parameters)
        return jnp.broadcast_to(change[None], updates.shape)


class GaussianUpdates(UpdateAttack):
    """Independent normal numbers, each client's own in each round (Blanchard et al. 2017).

    Attributes:
        std: > 0, by default that of the paper's experiments.
    """

    std: Scalar = 200.0

    def __check_init__(self):
        check_positive("std", self.std)

    def sent(self, updates, malicious, weights, parameters, key):
        """N(0, std²)."""
        return jnp.asarray(self.std, updates.dtype) * jax.random.normal(key, updates.shape, updates.dtype)


class FixedUpdates(UpdateAttack):
    """The same update in each round, whatever it is.

    Attributes:
        update: shape (p,) or (p, C), for every malicious client.
    """

    update: Float[Array, "..."]

    def __init__(self, update: Float[ArrayLike, "..."]):
        self.update = _finite_array("update", update)

    def check(self, malicious, size):
        """As many numbers as the model has parameters."""
        _check_size("update", self.update, size)

    def sent(self, updates, malicious, weights, parameters, key):
        """The update."""
        return jnp.broadcast_to(self.update.reshape(1, -1).astype(updates.dtype), updates.shape)


class ALittleIsEnough(UpdateAttack):
    """μ − zσ in each coordinate: a change that hides among the honest updates' own spread (Baruch et al. 2019).

    Attributes:
        deviations: z.  By default the paper's: with K clients, f of them malicious and s = ⌊K/2 + 1⌋ − f supporters
            to be won for a majority, the z that a normal number stays below with probability (K − f − s)/(K − f).
        omniscient: whether μ and σ are those of the honest clients' updates; if not, of what the malicious clients
            would send if they were honest, as in the paper.
    """

    deviations: Scalar | None = None
    omniscient: bool = eqx.field(static=True, default=True, converter=flag("omniscient"))

    def __check_init__(self):
        if self.deviations is not None:
            check_finite_scalar("deviations", self.deviations)

    def check(self, malicious, size):
        """Two updates to take σ of, and a z."""
        malicious = np.asarray(check_mask("malicious", malicious, np.shape(malicious), "client"))
        clients, liars = len(malicious), int(malicious.sum())
        seen = clients - liars if self.omniscient else liars
        if seen < 2:
            whose = "honest" if self.omniscient else "malicious"
            raise ValueError(f"malicious must make for at least two {whose} clients, to take a spread of, got {seen}")
        if self.deviations is None:
            self._default(clients, liars)

    def sent(self, updates, malicious, weights, parameters, key):
        """μ − zσ."""
        malicious = np.asarray(check_mask("malicious", malicious, (len(updates),), "client"))
        z = self._default(len(malicious), int(malicious.sum())) if self.deviations is None else self.deviations
        known = updates[~malicious if self.omniscient else malicious]
        update = jnp.mean(known, axis=0) - jnp.asarray(z, updates.dtype) * jnp.std(known, axis=0)
        return jnp.broadcast_to(update[None], updates.shape)

    @staticmethod
    def _default(clients: int, malicious: int) -> float:
        supporters = clients // 2 + 1 - malicious
        probability = (clients - malicious - supporters) / (clients - malicious)
        if not 0 < probability < 1:
            raise ValueError(
                f"deviations must be given for {malicious} malicious of {clients} clients: the default needs honest "
                "supporters to win, and others beside them"
            )
        return NormalDist().inv_cdf(probability)


def _finite_array(name: str, value: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    array = check_floating(name, value)
    check_finite(name, array)
    return array


def _check_size(name: str, array: Float[Array, "..."], size: int) -> None:
    if array.size != size:
        raise ValueError(f"{name} must have the model's {size} parameters, got shape {array.shape}")
