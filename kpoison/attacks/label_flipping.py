"""Label flipping: f is linear in y, so the worst flips, and how many a prediction survives, are exact.

f(x) = w(x)ᵀy with w(x) = A⁻¹k(X, x), and the inputs, hence w, stay as they are.  For label flips on exact NTK
predictors see arXiv 2604.11416.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from kpoison._batches import in_chunks
from kpoison._failures import program
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import boundary, check_integer, check_name, is_concrete
from kpoison.attacks.class_pairs import ClassPairs, label_gains, memberships
from kpoison.attacks.classes import checked_target, class_indices
from kpoison.attacks.poisoned import PoisonedData
from kpoison.laws.inputs import CleanInputs, Probes
from kpoison.ridge import Fitted, check_plain, checked_ridge
from kpoison.ridge.observations import covariance, observing

__all__ = ["FlippedLabels", "class_costs", "flip_certificate", "flip_labels"]

Objective = Literal["changed", "margin"]

_FLOATS_AT_ONCE = 2**19  # of weights: a few MiB, which stay in a processor's cache
_DIFFERENCES_UP_TO = 2**26


class FlippedLabels(PoisonedData):
    """A training set with flipped labels; its inputs are the clean ones.

    Attributes:
        changed: whether the prediction at each probe is what the attacker wants, shape (q,).  Ties count.
        bound: no flips within the budget change more predictions than this.
    """

    changed: Bool[Array, " q"] = eqx.field(kw_only=True)
    bound: Int[Array, ""] = eqx.field(kw_only=True)


def _traced_classes(clean: Fitted) -> tuple[Int[Array, " n"], int]:
    labels, classes = class_indices(clean.y)
    return jnp.asarray(labels), classes


def _check(arguments: dict) -> None:
    clean, ridge = CleanInputs.of(arguments["clean"], arguments["ridge"])
    arguments.update(ridge=ridge, x=Probes.of(clean, arguments["x"]).x)
    check_plain("clean", clean)
    if not (clean.factor.abilities.factorised and clean.factor.abilities.any_right_hand_side):
        raise ValueError(
            "clean must be fitted by a solver that factorises (Spectral, Cholesky, Tridiagonal) and not be prepared "
            f"for a poison, got {type(clean.factor).__name__}: each test point needs A⁻¹k(X, x)"
        )
    if is_concrete(clean.y):
        class_indices(clean.y)


def _check_flips(arguments: dict) -> None:
    _check(arguments)
    clean, target = arguments["clean"], arguments["target"]
    arguments["budget"] = check_integer("budget", arguments["budget"], 1)
    if arguments["budget"] > len(clean.X):
        raise ValueError(f"budget must be at most {len(clean.X)}, the number of labels, got {arguments['budget']}")
    arguments["objective"] = check_name("objective", arguments["objective"], get_args(Objective))
    if target is not None:
        arguments["target"], _ = checked_target(clean, target)


def _dual(clean: Fitted, ridge: Scalar, b: Float[Array, "N k"]) -> Float[Array, "n k"]:
    """The rows of A⁻¹b that belong to values at the training points, in one solve; early-stopped where clean is."""

    def at(rho: Array) -> Array:
        return clean.posterior.at(rho).solve(b)[: len(clean.X)]

    return clean.combined(at, len(clean.X), checked_ridge(clean, ridge), in_turn=True)


def _cross(clean: Fitted, x: Float[Array, "q ..."], exact: bool) -> Float[Array, "N q"]:
    if not clean.observations.slopes and not exact:
        return clean.kernel.gram(clean.X, x)
    return covariance(clean.kernel, clean.observations, observing(x))


def _of_weights(
    clean: Fitted, x: Float[Array, "q ..."], ridge: Scalar, function: Callable[[Float[Array, "b n"]], Array]
) -> Array:
    """`function` of the rows w(x) = A⁻¹k(X, x), block by block.

    Up to as many points as there are observations, one solve with all columns.  More share the inverse: a matrix
    product for each block then replaces its solve, and the memory does not grow with their number.
    """
    number = clean.observations.number
    exact = len(clean.X) * x.size <= _DIFFERENCES_UP_TO
    size = max(1, _FLOATS_AT_ONCE // len(clean.X))
    if len(x) <= number:
        return in_chunks(function, _dual(clean, ridge, _cross(clean, x, exact)).T, size)
    inverse = _dual(clean, ridge, jnp.eye(number, dtype=clean.X.dtype))

    def at(points: Array) -> Array:
        return function(matrix_product(_cross(clean, points, exact).T, inverse.T))

    return in_chunks(at, x, size)


@boundary(_check)
@program
def flip_certificate(clean: Fitted, x: Float[ArrayLike, "..."], ridge: Scalar) -> Int[Array, "..."]:
    """The smallest number of training labels that, set to other classes, change the prediction at x: exact.

    With fewer flips, whichever they are, the prediction is the clean one.  A tie counts as changed, so a certificate of
    0 says that the clean prediction is a tie.  Some number of flips always suffices: all that help turn a margin of
    Σ w_i v_i into −Σ|w_i|.

    Exact, because in f_c − f_c' = w(x)ᵀ(y_c − y_c') each label adds a term of its own: the least that k flips leave
    is the difference less the k largest of the single reductions.  The prediction is no longer c where some c' is
    level with it, under some flips: the smallest number over both is the least over c' of the smallest for each c'.

    Args:
        clean: fitted by a solver that factorises; y holds −1 and 1, shape (n,), and f's sign is the prediction, or
            is one-hot, shape (n, C), with any two values, and f's largest entry is the prediction.
        x: test points, shape (q, d), or (d,) for one.
        ridge: λ > 0 of the mean loss; ρ = nλ.

    Returns:
        Shape (q,), or () for one point: from 0 to n.  Correct to the rounding of w: where several flips leave a margin
        of a few eps, it may be one off.

    One solve with all test points, or, of more than n, a matrix product with A⁻¹ in blocks of bounded memory: 2n²
    flops for each, which outweigh the rest, O(n C).

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for labels that are not −1 and 1 or one-hot, of a
            single class; for solvers that do not factorise, and posteriors prepared for a poison.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [0.5], [3.0]]), jnp.array([1.0, 1.0, -1.0]))
    >>> flip_certificate(clean, jnp.array([[0.2], [3.0]]), ridge=0.1).tolist()
    [1, 1]
    """
    probes = Probes.of(clean, x)
    labels, classes = _traced_classes(clean)
    everything = jnp.ones(len(labels), bool)

    def certify(weights: Float[Array, "b n"]) -> Int[Array, " b"]:
        scores = matrix_product(weights, memberships(labels, classes, weights.dtype))
        return ClassPairs(jnp.argmax(scores, axis=1), classes).costs(weights, labels, everything)[0]

    return probes.each(_of_weights(clean, probes.points, ridge, certify))


@program
def class_costs(
    clean: Fitted, points: Float[Array, "q ..."], ridge: Scalar, labels: Int[Array, " n"], classes: int
) -> Int[Array, "q C"]:
    """How many flips it takes at least that each class is level with the predicted one, for which it takes 0.

    Of two classes that is the `flip_certificate`, and exact; of more, the new class must be level with the others too,
    and the number is a lower bound, of which the smallest is the certificate.

    Args:
        clean: as in `flip_certificate`, but for its targets, which are not asked for.
        points: test points.
        ridge: λ.
        labels: classes, which may all be the same.
        classes: C.
    """

    def certify(weights: Float[Array, "b n"]) -> Int[Array, "b C"]:
        members = memberships(labels, classes, weights.dtype)
        return ClassPairs(jnp.argmax(matrix_product(weights, members), axis=1), classes).each_cost(weights, members)

    return _of_weights(clean, points, ridge, certify)


@boundary(_check_flips)
def flip_labels(
    clean: Fitted,
    x: Float[ArrayLike, "..."],
    ridge: Scalar,
    *,
    budget: int,
    target: int | None = None,
    objective: Objective = "changed",
) -> FlippedLabels:
    """At most `budget` flipped training labels that do most harm at x.

    For a single point they are exact: no others lower its margin more, and so they change the prediction if any do.
    The margin is f_c − f_c', c the clean prediction and c' the class that can get ahead of it most; with a target, c
    is the strongest class but the target and c' the target (with more than two classes a third may then win).
    Labels of which every flip would raise the margin stay, so fewer than `budget` may be flipped.

    For several points there are two objectives:

    - "changed": the number of predictions that change, greedily: the points that take the fewest further flips
      first, until the budget does not suffice for one more.  At least one changes where one can.  The best number
      is at most `bound`, how many points have a certificate of their own within the budget.
    - "margin": the mean margin over all points, with c' the runner-up: exact, by the largest sums of influences.

    Args:
        clean: as in `flip_certificate`.
        x: test points, shape (q, d), or (d,) for one; q·n weights are kept.
        ridge: λ > 0 of the mean loss; ρ = nλ.
        budget: from 1 to n.
        target: the class that the attacker wants: −1 or 1, or a column of y; None: any but the clean prediction.
        objective: for several points, "changed" or "margin".

    Returns:
        The training set with its flips, `probes` the test points, `changed` where the attacker has what he wants (ties
        count, and, with a target, predictions that were the target's already), and `bound`.

    Raises:
        TypeError, ValueError: as `flip_certificate`; also for a budget that is no integer from 1 to n, an unknown
            target or objective.
    """
    points = Probes.of(clean, x).points
    column = None if target is None else checked_target(clean, target)[1]
    # One compilation for all budgets.
    flips = _flips(clean, points, ridge, jnp.asarray(budget), column, objective)
    return FlippedLabels(X=clean.X, probes=points, target=target, **flips)


@program
def _flips(
    clean: Fitted,
    points: Float[Array, "q ..."],
    ridge: Scalar,
    budget: Int[Array, ""],
    column: int | None,
    objective: Objective,
) -> dict[str, Array]:
    """What `flip_labels` finds."""
    labels, classes = _traced_classes(clean)
    weights = _of_weights(clean, points, ridge, lambda block: block)
    scores = matrix_product(weights, memberships(labels, classes, weights.dtype))
    pairs = ClassPairs(jnp.argmax(scores, axis=1), classes, column)
    alone = pairs.costs(weights, labels, jnp.ones(len(labels), bool))
    if objective == "margin" or len(points) == 1:
        flipped = _least_margin(weights, labels, pairs, scores, budget)
    else:
        flipped = _greedy(weights, labels, pairs, alone, budget)
    y = _as_targets(flipped, clean.y, classes)
    change = matrix_product(weights, (y - clean.y).reshape(len(y), -1))
    return {
        "y": y,
        "is_poison": flipped != labels,
        "efficacy": change[:, 0] if clean.y.ndim == 1 else change,
        "changed": pairs.reached(matrix_product(weights, memberships(flipped, classes, weights.dtype))),
        "bound": jnp.sum(alone[0] <= budget),
    }


def _as_targets(labels: Int[Array, " n"], like: Float[Array, "n *C"], classes: int) -> Float[Array, "n *C"]:
    members = memberships(labels, classes, like.dtype)
    if like.size == len(like):
        return (2 * members[:, 1] - 1).reshape(like.shape)
    low = jnp.min(like)
    return low + (jnp.max(like) - low) * members


def _among_largest(gains: Float[Array, " n"], number: Int[Array, ""]) -> Bool[Array, " n"]:
    """Whether each is among so many of the largest."""
    return jnp.zeros(len(gains), bool).at[jnp.argsort(-gains)].set(jnp.arange(len(gains)) < number)


def _least_margin(
    weights: Float[Array, "q n"],
    labels: Int[Array, " n"],
    pairs: ClassPairs,
    scores: Float[Array, "q C"],
    budget: Int[Array, ""],
) -> Int[Array, " n"]:
    """The labels, at most `budget` of them new, with the least sum of margins."""

    def flipped(losing: Array, winning: Array) -> tuple[Array, Array]:
        """New labels for one pair at each point, and by how much they lower the sum of margins."""
        wanted = memberships(losing, pairs.classes, weights.dtype) - memberships(winning, pairs.classes, weights.dtype)
        added = matrix_product(weights.T, wanted)
        gains = jnp.take_along_axis(added, labels[:, None], axis=1)[:, 0] - jnp.min(added, axis=1)
        chosen = (gains > 0) & _among_largest(gains, budget)
        return jnp.where(chosen, jnp.argmin(added, axis=1), labels), jnp.sum(jnp.where(chosen, gains, 0))

    margins = pairs.margins(scores)
    if len(weights) > 1 or pairs.target is not None:
        offset = (jnp.argmin if pairs.target is None else jnp.argmax)(margins, axis=0) + 1
        return flipped(*pairs.at(offset))[0]
    # Of one point each rival is tried.
    results, gains = jax.lax.map(lambda offset: flipped(*pairs.at(offset)), jnp.arange(1, pairs.classes))
    return results[jnp.argmin(margins[:, 0] - gains)]


class _Candidate(NamedTuple):
    """The point whose prediction changes with the fewest further flips, how many, and to which class (`ClassPairs`)."""

    point: Int[Array, ""]
    needed: Int[Array, ""]
    offset: Int[Array, ""]


class _Flips(NamedTuple):
    """Where `_greedy` stands.

    Attributes:
        current, free: labels, and which of them are still those given, shape (n,).
        best, most: the labels so far that changed most predictions, shape (n,), and how many.
        following: whose turn it is.
    """

    current: Int[Array, " n"]
    free: Bool[Array, " n"]
    best: Int[Array, " n"]
    most: Int[Array, ""]
    following: _Candidate


def _greedy(
    weights: Float[Array, "q n"],
    labels: Int[Array, " n"],
    pairs: ClassPairs,
    costs: tuple[Int[Array, " q"], Int[Array, " q"]],
    budget: Int[Array, ""],
) -> Int[Array, " n"]:
    """The labels after flips for one point after the other, the cheapest first; those of which most points changed.

    Each round flips, among the labels that are still free, the `needed` ones with the largest gains for the cheapest
    point that is not reached, and asks anew what every point costs.  A label is flipped once at most, so that the
    number of labels that are not free is what has been spent; it stays within the budget.  Flips for one point may undo
    another, so the last labels need not be the best; `most`, of `best`, never falls.
    """

    def reached(current: Array) -> Bool[Array, " q"]:
        return pairs.reached(matrix_product(weights, memberships(current, pairs.classes, weights.dtype)))

    def cheapest(reached: Array, costs: tuple[Array, Array]) -> _Candidate:
        needed = jnp.where(reached, len(labels) + 1, costs[0])
        point = jnp.argmin(needed)
        return _Candidate(point, needed[point], costs[1][point])

    def affordable(state: _Flips) -> Array:
        return jnp.sum(~state.free) + state.following.needed <= budget

    def flip(state: _Flips) -> _Flips:
        point, needed, offset = state.following
        losing, winning = (side[point] for side in pairs.at(offset))
        influence, members = weights[point], memberships(state.current, pairs.classes, weights.dtype)
        gains = state.free * label_gains(influence[None], members, losing[None], winning[None])[0]
        chosen = _among_largest(gains, needed)
        current = jnp.where(chosen, jnp.where(influence > 0, winning, losing), state.current)
        free = state.free & ~chosen
        now = reached(current)
        number = jnp.sum(now)
        best = jnp.where(number > state.most, current, state.best)
        following = cheapest(now, pairs.costs(weights, current, free))
        return _Flips(current, free, best, jnp.maximum(number, state.most), following)

    at_start = reached(labels)
    everything = jnp.ones(len(labels), bool)
    start = _Flips(labels, everything, labels, jnp.sum(at_start), cheapest(at_start, costs))
    return jax.lax.while_loop(affordable, flip, start).best
