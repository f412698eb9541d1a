"""How the server of a federation combines its clients' updates: the mean, and rules that some liars cannot move far."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import checked_result
from kpoison._typing import Mask, Scalar
from kpoison._validation import boundary, check_finite, check_floating, check_mask, check_positive, integer, is_concrete
from kpoison.attacks._distances import Neighbours
from kpoison.attacks._geometric_median import geometric_median

__all__ = ["Aggregator", "Bulyan", "CoordinateMedian", "GeometricMedian", "Krum", "Mean", "TrimmedMean"]


def _check_updates(arguments: dict[str, Any]) -> None:
    updates = check_floating("updates", arguments["updates"])
    if updates.ndim != 2 or updates.size == 0:
        raise ValueError(f"updates must have shape (K, p), one row for each client, got {updates.shape}")
    check_finite("updates", updates)
    number = len(updates)
    arguments["self"].check(number)
    weights = np.ones(number) if arguments["weights"] is None else arguments["weights"]
    check_positive("weights", weights, zero=True, scalar=False)
    weights = jnp.asarray(weights, updates.dtype)
    if weights.shape != (number,):
        raise ValueError(f"weights must have shape ({number},), one for each client, got {weights.shape}")
    arguments.update(updates=updates, weights=weights)


def _liars(malicious: Any, weights: Any) -> np.ndarray:
    return np.asarray(check_mask("malicious", malicious, np.shape(weights), "client"))


class Aggregator(eqx.Module):
    """A server's rule, a pure function of updates: `aggregator(updates, weights)`; traceable by `jit` and `vmap`."""

    @abc.abstractmethod
    def _combine(self, updates: Float[Array, "K p"], weights: Float[Array, " K"]) -> Float[Array, " p"]:
        """The combined update; the weights add up to 1."""

    @abc.abstractmethod
    def tolerates(self, clients: int) -> int:
        """How many of so many clients may send anything whatever without moving the result arbitrarily far."""

    def guarantees(self, malicious: Mask, weights: Float[ArrayLike, " K"]) -> bool:
        """Whether the rule tolerates these of its clients; the weights are those it is called with.

        Args:
            malicious: who lies, shape (K,): booleans, or integers that are 0 or 1.
            weights: shape (K,).
        """
        liars = _liars(malicious, weights)
        return int(liars.sum()) <= self.tolerates(len(liars))

    def check(self, clients: int) -> None:
        """Refuse a number of clients that the rule is not defined for.

        Raises:
            ValueError: naming the option that does not fit.
        """

    @boundary(_check_updates)
    def __call__(
        self, updates: Float[ArrayLike, "K p"], weights: Float[ArrayLike, " K"] | None = None
    ) -> Float[Array, " p"]:
        """The combined update.

        Args:
            updates: one row for each client, shape (K, p), finite.
            weights: >= 0, shape (K,), such as numbers of examples; by default the same for all.  `Mean` and
                `GeometricMedian` use them; the other rules count every client once, as their guarantees do: a liar
                would claim many examples.

        Raises:
            TypeError, ValueError: naming the argument that does not fit, or the option of the rule that so many
                clients do not allow.
        """
        updates, weights = jnp.asarray(updates), jnp.asarray(weights)
        largest = jnp.max(weights)
        failures = [
            (~jnp.all(jnp.isfinite(updates)), "updates must be finite"),
            (~jnp.all(weights >= 0) | ~(largest > 0), "weights must be >= 0, and one of them > 0"),
        ]
        updates, weights = checked_result((updates, weights), failures)
        # Divided by the largest first, so that no sum overflows; of large ones the reciprocal would underflow.
        unit = jnp.where(largest > 1, 0.0625, 1).astype(weights.dtype)
        weights = (unit * weights) / jnp.where(largest > 0, unit * largest, 1)
        return self._combine(updates, weights / jnp.where(largest > 0, jnp.sum(weights), 1))


class Mean(Aggregator):
    """The weighted mean, federated averaging (McMahan et al. 2017); one client can move it anywhere.

    >>> Mean()(jnp.array([[1.0], [4.0]]), jnp.array([1.0, 2.0])).tolist()
    [3.0]
    """

    def _combine(self, updates: Float[Array, "K p"], weights: Float[Array, " K"]) -> Float[Array, " p"]:
        return jnp.einsum("kp,k->p", updates, weights, precision="highest")

    def tolerates(self, clients: int) -> int:
        """0."""
        return 0


class CoordinateMedian(Aggregator):
    """The median of each coordinate (Yin et al. 2018); of an even number of clients the mean of the middle two.

    It depends on the basis of the parameters: a rotation of the features changes it.

    >>> CoordinateMedian()(jnp.array([[0.0, 5.0], [1.0, 0.0], [9.0, 1.0]])).tolist()
    [1.0, 1.0]
    """

    def _combine(self, updates: Float[Array, "K p"], weights: Float[Array, " K"]) -> Float[Array, " p"]:
        return jnp.median(updates, axis=0)

    def tolerates(self, clients: int) -> int:
        """Fewer than half."""
        return (clients - 1) // 2


class TrimmedMean(Aggregator):
    """The mean of each coordinate without its `trim` smallest and `trim` largest values (Yin et al. 2018).

    It depends on the basis of the parameters, as the coordinates' median does.

    Attributes:
        trim: how many are left out at either end; 2 trim < K.

    Raises:
        ValueError: for a trim that is no integer >= 0, and when called with too few clients.

    >>> TrimmedMean(1)(jnp.array([[0.0], [1.0], [3.0], [100.0]])).tolist()
    [2.0]
    """

    trim: int = eqx.field(static=True, converter=integer("trim", 0))

    def check(self, clients: int) -> None:
        """2 trim < K."""
        if 2 * self.trim >= clients:
            raise ValueError(
                f"trim must be less than half of the {clients} clients, as {self.trim} at either end leave none, "
                f"got {self.trim}"
            )

    def _combine(self, updates: Float[Array, "K p"], weights: Float[Array, " K"]) -> Float[Array, " p"]:
        return jnp.mean(jnp.sort(updates, axis=0)[self.trim : len(updates) - self.trim], axis=0)

    def tolerates(self, clients: int) -> int:
        """As many as are trimmed at one end."""
        return self.trim


class Krum(Aggregator):
    """The update that is closest to its K − f − 2 nearest others (Blanchard et al. 2017).

    Squared distances are added up.  Of equal scores the first client's is taken.  Multi-Krum is the mean of the
    `selected` updates of smallest score.  Distances do not depend on the basis of the parameters, as long as it is
    orthonormal.

    Attributes:
        byzantine: f, how many clients are expected to lie; K >= 2f + 3.
        selected: how many updates are averaged; the guarantee holds for at most K − f − 2 (El Mhamdi et al. 2018).

    Raises:
        ValueError: for options that are no integers, f < 0, selected < 1, and when called with too few clients.

    >>> Krum(1)(jnp.array([[0.0], [1.0], [3.0], [4.5], [100.0]])).tolist()
    [1.0]
    """

    byzantine: int = eqx.field(static=True, converter=integer("byzantine", 0))
    selected: int = eqx.field(static=True, default=1, converter=integer("selected", 1))

    def check(self, clients: int) -> None:
        """K >= 2f + 3, K >= selected."""
        if clients < 2 * self.byzantine + 3:
            raise ValueError(
                f"byzantine must be at most (K - 3)/2 of K = {clients} clients: Krum needs K >= 2 byzantine + 3, got "
                f"{self.byzantine}"
            )
        if self.selected > clients:
            raise ValueError(f"selected must be at most the number of clients, {clients}, got {self.selected}")

    def _combine(self, updates: Float[Array, "K p"], weights: Float[Array, " K"]) -> Float[Array, " p"]:
        everyone = jnp.ones(len(updates), bool)
        scores = Neighbours.of(updates).scores(everyone, len(updates) - self.byzantine - 2)
        return jnp.mean(updates[jnp.argsort(scores)[: self.selected]], axis=0)

    def tolerates(self, clients: int) -> int:
        """F; 0 where more than K − f − 2 updates are averaged."""
        return self.byzantine if self.selected <= clients - self.byzantine - 2 else 0


class Bulyan(Aggregator):
    """Krum's choices, one after the other, and of each coordinate the values that are nearest to their median.

    El Mhamdi, Guerraoui, Rouault (2018), "The hidden vulnerability of distributed learning in Byzantium": what is
    close to others in distance may still be far off in one of many coordinates.  Of K updates θ = K − 2f are taken,
    each the one that Krum chooses from those that are left, and of each coordinate the θ − 2f values nearest to the
    median of the θ are averaged; of two that are equally near the smaller first.  The median of an even number is the
    mean of the middle two.

    Where no more than f + 2 updates are left, which is no neighbour for Krum to measure by, it is the nearest one.  Of
    equal scores the first client's is taken, as in Krum, and the two that are each other's nearest have equal ones:
    the order of clients may matter.  It depends on the basis of the parameters, as `TrimmedMean` does.

    Attributes:
        byzantine: f, how many clients are expected to lie; K >= 4f + 3.

    Raises:
        ValueError: for f that is no integer >= 0, and when called with too few clients.

    >>> Bulyan(1)(jnp.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [100.0]])).tolist()
    [2.0]
    """

    byzantine: int = eqx.field(static=True, converter=integer("byzantine", 0))

    def check(self, clients: int) -> None:
        """K >= 4f + 3."""
        if clients < 4 * self.byzantine + 3:
            raise ValueError(
                f"byzantine must be at most (K - 3)/4 of K = {clients} clients: Bulyan needs K >= 4 byzantine + 3, got "
                f"{self.byzantine}"
            )

    def _combine(self, updates: Float[Array, "K p"], weights: Float[Array, " K"]) -> Float[Array, " p"]:
        neighbours = Neighbours.of(updates)
        taken = len(updates) - 2 * self.byzantine

        def choose(left: Array, _) -> tuple[Array, Array]:
            scores = neighbours.scores(left, jnp.maximum(jnp.sum(left) - self.byzantine - 2, 1))
            best = jnp.argmin(jnp.where(left, scores, jnp.inf))
            return left.at[best].set(False), best

        _, chosen = jax.lax.scan(choose, jnp.ones(len(updates), bool), length=taken)
        values = jnp.sort(updates[chosen], axis=0)
        order = jnp.argsort(jnp.abs(values - jnp.median(values, axis=0)[None]), axis=0)
        return jnp.mean(jnp.take_along_axis(values, order[: taken - 2 * self.byzantine], axis=0), axis=0)

    def tolerates(self, clients: int) -> int:
        """F."""
        return self.byzantine


class GeometricMedian(Aggregator):
    """The point of smallest weighted distance Σ w_i ‖z − u_i‖ to the updates (Pillutla et al. 2022).

    By Weiszfeld's iteration as Vardi and Zhang (2000) mended it, from the update of smallest distance: where an update
    is the median it is returned as it is, and no later iterate can meet an update.  It ends when the distance's
    subgradient is small, and it is an error if it does not.  Where all updates lie on a line the median need not be
    unique; one of them is returned.  Derivatives are those of the equation that the median solves; of a median at an
    update they are the update's.

    Attributes:
        tolerance: largest norm of the subgradient, the weights' sum being 1; by default the root of the dtype's
            resolution.
        max_iterations: after how many steps to give up.

    Raises:
        ValueError: for a tolerance that is not > 0, and where the iteration has not converged; in compiled code a
            runtime error.

    >>> GeometricMedian()(jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 9.0], [0.0, 0.0]])).tolist()
    [0.0, 0.0]
    """

    tolerance: Scalar | None = None
    max_iterations: int = eqx.field(static=True, default=10_000, converter=integer("max_iterations", 1))

    def __check_init__(self):
        if self.tolerance is not None:
            check_positive("tolerance", self.tolerance)

    def _combine(self, updates: Float[Array, "K p"], weights: Float[Array, " K"]) -> Float[Array, " p"]:
        default = float(jnp.finfo(updates.dtype).eps) ** 0.5
        tolerance = jnp.asarray(default if self.tolerance is None else self.tolerance, updates.dtype)
        median, excess = geometric_median(self.max_iterations, updates, weights, tolerance)
        reached = f", the subgradient is {float(excess):.2g}" if is_concrete(excess) else ""
        message = f"the geometric median has not converged in max_iterations = {self.max_iterations} steps{reached}"
        return checked_result(median, [(~(excess <= tolerance), message)])

    def tolerates(self, clients: int) -> int:
        """Fewer than half, of clients of the same weight."""
        return (clients - 1) // 2

    def guarantees(self, malicious: Mask, weights: Float[ArrayLike, " K"]) -> bool:
        """Whether less than half of the weight is theirs."""
        numbers = np.asarray(weights)
        return bool(2 * numbers[_liars(malicious, weights)].sum() < numbers.sum())
