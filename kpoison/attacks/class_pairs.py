"""Between which classes a prediction is to change, and what new labels of training points cost and gain there."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kpoison._linear_algebra import matrix_product

__all__ = ["ClassPairs", "label_gains", "memberships"]


class _Above(NamedTuple):
    """The gains above a threshold, for each of q points: their number and their sum."""

    threshold: Float[Array, " q"]
    number: Int[Array, " q"]
    total: Float[Array, " q"]


class _Bracket(NamedTuple):
    """After so many halvings: the sum reaches the margin for `low` and not for `high`, the larger threshold."""

    step: Int[Array, ""]
    low: _Above
    high: _Above


def _fewest(gains: Float[Array, "q n"], margin: Float[Array, " q"]) -> Int[Array, " q"]:
    """The smallest number of the gains >= 0 whose sum reaches the margin: 0 for one <= 0, n + 1 where all do not.

    The same as sorting and adding up, to rounding, by bisection for the k-th largest gain: XLA's sort on a CPU takes
    ten times as long.  Gains above `high` do not reach the margin, gains above `low` do; it ends where one gain, or
    some that are equal to rounding, are left between them.
    """

    def above(threshold: Array) -> _Above:
        larger = gains > threshold[:, None]
        return _Above(threshold, jnp.sum(larger, axis=1), jnp.sum(jnp.where(larger, gains, 0), axis=1))

    def unfinished(bracket: _Bracket) -> Array:
        several = bracket.low.number - bracket.high.number > 1
        return (bracket.step < jnp.finfo(gains.dtype).nmant + 4) & jnp.any(reached & several)

    def halve(bracket: _Bracket) -> _Bracket:
        step, low, high = bracket
        middle = above(0.5 * (low.threshold + high.threshold))
        enough = middle.total >= margin
        low = jax.tree.map(lambda new, old: jnp.where(enough, new, old), middle, low)
        return _Bracket(step + 1, low, jax.tree.map(lambda new, old: jnp.where(enough, old, new), middle, high))

    nothing = jnp.zeros_like(margin)
    everything = above(nothing)
    reached = everything.total >= margin
    none = _Above(jnp.max(gains, axis=1), jnp.zeros_like(everything.number), nothing)
    start = _Bracket(jnp.zeros_like(everything.number[0]), everything, none)
    _, low, high = jax.lax.while_loop(unfinished, halve, start)
    between = jnp.maximum(low.number - high.number, 1)
    mean = (low.total - high.total) / between
    more = jnp.ceil((margin - high.total) / jnp.where(mean > 0, mean, 1)).astype(between.dtype)
    fewest = high.number + jnp.clip(more, 1, between)
    return jnp.where(margin <= 0, 0, jnp.where(reached, fewest, gains.shape[1] + 1))


def memberships(labels: Int[Array, " n"], classes: int, dtype) -> Float[Array, "n C"]:
    """1 where a point is of a class, else 0.  Targets in these units: f_c − f_c' is as before, over the spacing."""
    return jax.nn.one_hot(labels, classes, dtype=dtype)


class ClassPairs(eqx.Module):
    """The classes between which predictions at q points are to change, from `losing` to `winning`, pair by pair.

    Without a target, `losing` is the class that was predicted first, and each other one may win.  With one,
    the target is to win, and against each other class.
    """

    predicted: Int[Array, " q"]
    classes: int = eqx.field(static=True)
    target: int | None = eqx.field(static=True, default=None)

    def at(self, offset: Array) -> tuple[Int[Array, " q"], Int[Array, " q"]]:
        """One of the pairs, for an offset from 1 to C − 1: (losing, winning)."""
        if self.target is None:
            return self.predicted, (self.predicted + offset) % self.classes
        winning = jnp.full_like(self.predicted, self.target)
        return (winning + offset) % self.classes, winning

    def each(self, function: Callable[[Array], Array]) -> Array:
        """`function` of every offset."""
        return jax.lax.map(function, jnp.arange(1, self.classes))

    def margins(self, scores: Float[Array, "q C"]) -> Float[Array, "o q"]:
        """How far each losing class is ahead."""

        def margin(offset: Array) -> Array:
            losing, winning = self.at(offset)
            rows = jnp.arange(len(scores))
            return scores[rows, losing] - scores[rows, winning]

        return self.each(margin)

    def reached(self, scores: Float[Array, "q C"]) -> Bool[Array, " q"]:
        """Whether the prediction is what the attacker wants."""
        margins = self.margins(scores)
        return (jnp.min(margins, axis=0) if self.target is None else jnp.max(margins, axis=0)) <= 0

    def costs(
        self, weights: Float[Array, "q n"], labels: Int[Array, " n"], free: Bool[Array, " n"]
    ) -> tuple[Int[Array, " q"], Int[Array, " q"]]:
        """How many flips of free labels each prediction takes at least, n + 1 for never, and the offset of that pair.

        Without a target one pair must change, with one all must: the number is then a lower bound if C > 2.
        """
        found = self._costs(weights, memberships(labels, self.classes, weights.dtype), free)
        pick = jnp.argmin if self.target is None else jnp.argmax
        place = pick(found, axis=0)
        return found[place, jnp.arange(len(weights))], place + 1

    def each_cost(self, weights: Float[Array, "q n"], members: Float[Array, "n C"]) -> Int[Array, "q C"]:
        """Without a target: how many flips each class takes at least to be level with the predicted one, 0 for that."""
        found = self._costs(weights, members, jnp.ones(len(members), bool))
        rows = jnp.arange(len(weights))
        columns = (self.predicted[None] + jnp.arange(1, self.classes)[:, None]) % self.classes
        return jnp.zeros((len(weights), self.classes), found.dtype).at[rows[None], columns].set(found)

    def _costs(
        self, weights: Float[Array, "q n"], members: Float[Array, "n C"], free: Bool[Array, " n"]
    ) -> Int[Array, "o q"]:
        """Flips of free labels that each pair takes."""
        margins = self.margins(matrix_product(weights, members))

        def cost(offset: Array) -> Array:
            losing, winning = self.at(offset)
            return _fewest(free[None] * label_gains(weights, members, losing, winning), margins[offset - 1])

        return self.each(cost)


def label_gains(
    weights: Float[Array, "q n"], members: Float[Array, "n C"], losing: Int[Array, " q"], winning: Int[Array, " q"]
) -> Float[Array, "q n"]:
    """By how much the best new label of each training point lowers f_losing − f_winning.

    A point adds w_i, −w_i or 0 to the difference: as a label it has the losing class, the winning one, or another.
    Where w_i > 0 the least that it can add is −w_i, as the winning class; else −|w_i|, as the losing one.  So it
    lowers the difference by |w_i| plus what it added.  Two classes: −2 w_i y_i towards the other sign, or 0.
    """
    return jnp.abs(weights) + weights * (members.T[losing] - members.T[winning])
