"""Federated training in rounds, honest clients beside malicious ones, and the mean of honest clients in closed form."""

import warnings
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import checked_result, program, scan
from kpoison._linear_algebra import eigh, linear_solve, matrix_product
from kpoison._typing import Scalar
from kpoison._validation import (
    boundary,
    check_finite,
    check_floating,
    check_integer,
    check_integers,
    check_points,
    check_positive,
)
from kpoison.attacks._distances import row_lengths
from kpoison.attacks.aggregators import Aggregator, Mean
from kpoison.attacks.byzantine import UpdateAttack
from kpoison.attacks.clients import Clients

__all__ = ["Federation", "GuaranteeVoidWarning", "federate", "mean_aggregated"]


class GuaranteeVoidWarning(UserWarning):
    """More clients lie than the server's rule tolerates: its guarantee is void."""


class Federation(eqx.Module):
    """What rounds of training have led to; made by `federate`.

    Attributes:
        parameters: θ after the last round, shape (p,) or (p, C).
        predictions: φ(probes)·θ after each round, shape (rounds, q) or (rounds, q, C); None without probes.
        movement: ‖Δθ‖ of each round, shape (rounds,); it tells whether the rounds have converged.
        malicious: the attacker's clients, by number.
        tolerated: how many malicious clients of the same weight the server's rule tolerates.
        guarantee_void: whether these are more than it tolerates (always, for the mean).
        assumes: what the rule's guarantee takes for granted, in words.
    """

    parameters: Float[Array, "p *C"]
    predictions: Float[Array, "rounds q *C"] | None
    movement: Float[Array, " rounds"]
    malicious: tuple[int, ...] = eqx.field(static=True)
    tolerated: int = eqx.field(static=True)
    guarantee_void: bool = eqx.field(static=True)
    assumes: str = eqx.field(
        static=True,
        default=(
            "honest clients' updates are alike: robust rules are biased where clients hold different data, also "
            "without any attack"
        ),
    )


def _check_training(arguments: dict[str, Any]) -> None:
    clients = arguments["clients"]
    if not isinstance(clients, Clients):
        raise TypeError(f"clients must be kpoison.attacks.Clients, got {type(clients).__name__}")
    check_positive("ridge", arguments["ridge"])
    if arguments["step_size"] is not None:
        check_positive("step_size", arguments["step_size"])
    check_integers(arguments, optional=True, local_steps=1)
    if arguments["start"] is not None:
        start = check_floating("start", arguments["start"]).astype(clients.features.dtype)
        size, outputs = clients.features.shape[2], clients.targets.shape[2]
        shape = (size,) if clients.scalar else (size, outputs)
        if start.shape != shape:
            raise ValueError(f"start must have shape {shape}, got {start.shape}")
        check_finite("start", start)
        arguments["start"] = start


def _check_federate(arguments: dict[str, Any]) -> None:
    _check_training(arguments)
    clients, aggregator, attack = (arguments[name] for name in ("clients", "aggregator", "attack"))
    number, _, size = clients.features.shape
    check_integers(arguments, rounds=1, seed=0)
    if not isinstance(aggregator, Aggregator):
        raise TypeError(f"aggregator must be a rule such as kpoison.attacks.Mean(), got {type(aggregator).__name__}")
    aggregator.check(number)
    malicious = [check_integer("malicious", client, 0) for client in arguments["malicious"]]
    if len(set(malicious)) != len(malicious) or any(client >= number for client in malicious):
        raise ValueError(f"malicious must be different clients of 0..{number - 1}, got {malicious}")
    arguments["malicious"] = tuple(malicious)
    if attack is not None:
        if not isinstance(attack, UpdateAttack):
            raise TypeError(f"attack must be one such as kpoison.attacks.SignFlip(), got {type(attack).__name__}")
        if not malicious:
            raise ValueError("malicious must name the clients that attack, got none")
        attack.check(_mask(arguments["malicious"], number), size * clients.targets.shape[2])
    if arguments["probes"] is not None:
        arguments["probes"] = check_points(
            "probes", arguments["probes"], 1, like=clients.features[0], like_name="the clients' features"
        )


@boundary(_check_federate)
def federate(
    clients: Clients,
    ridge: Scalar,
    *,
    aggregator: Aggregator = Mean(),  # noqa: B008 - it is immutable
    rounds: int = 100,
    step_size: Scalar | None = None,
    local_steps: int | None = 1,
    attack: UpdateAttack | None = None,
    malicious: Sequence[int] = (),
    start: Float[ArrayLike, "p *C"] | None = None,
    probes: Float[ArrayLike, "q p"] | None = None,
    seed: int = 0,
) -> Federation:
    """Train in rounds: the server sends θ, each client sends the change of θ that its own data ask for.

    The server adds what `aggregator` makes of these changes to θ; its weights are the clients' numbers of examples.
    With the mean and one local step this is gradient descent on the ridge loss of all data together, whose fixed point
    is their kernel ridge predictor at λ; with more local steps it is another one, where clients' data differ (client
    drift).  `mean_aggregated` has both in closed form.  Medians and trimmed means of coordinates depend on the basis of
    the features, the other rules do not.

    Args:
        clients: features and targets.
        ridge: λ > 0 of every client's mean loss.
        aggregator: the server's rule.
        rounds: how many.
        step_size: of gradient descent; by default one over an upper bound on every client's largest curvature, with
            which no client's loss rises.
        local_steps: full-batch gradient steps of a client in a round; None for its exact minimiser.
        attack: what malicious clients send instead of an honest update; None where their data alone are dirty.
        malicious: the attacker's clients, by number.
        start: θ before the first round, shape (p,) or (p, C); by default 0.
        probes: features at which predictions are kept after each round.
        seed: of attacks that draw random numbers.

    Returns:
        θ, predictions, and whether the rule's guarantee holds.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for a rule that is not defined for so many
            clients; where an update is not finite, as when the rounds diverge (in compiled code a runtime error).

    Warns:
        GuaranteeVoidWarning: where more clients are malicious than a robust rule tolerates.

    >>> clients = Clients([jnp.array([[1.0]]), jnp.array([[1.0]])], [jnp.array([1.0]), jnp.array([3.0])])
    >>> federate(clients, ridge=1.0, rounds=1, step_size=0.25).parameters.tolist()  # 0.25 · mean(1, 3)
    [0.5]
    """
    start = None if start is None else jnp.asarray(start)
    dtype, number = clients.features.dtype, len(clients.counts)
    mask, weights = _mask(malicious, number), np.asarray(clients.counts, float)
    void = not aggregator.guarantees(mask, weights)
    if void and not isinstance(aggregator, Mean):
        warnings.warn(
            f"the guarantee of {type(aggregator).__name__} is void: {len(malicious)} of {number} clients are "
            f"malicious, it tolerates {aggregator.tolerates(number)} of the same weight",
            GuaranteeVoidWarning,
            stacklevel=3,
        )
    probes = None if probes is None else jnp.asarray(probes)
    step_size = None if step_size is None else jnp.asarray(step_size, dtype)
    attack = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if isinstance(leaf, float | int) else leaf, attack)
    parameters, predictions, movement = _rounds(
        clients, jnp.asarray(ridge, dtype), aggregator, rounds, step_size, local_steps, attack, tuple(malicious), start,
        probes, jax.random.key(seed),
    )  # fmt: skip
    return Federation(
        clients.like_targets(parameters),
        None if predictions is None else clients.like_targets(predictions),
        movement,
        tuple(malicious),
        aggregator.tolerates(number),
        void,
    )


@program
def _rounds(
    clients: Clients,
    ridge: Array,
    aggregator: Aggregator,
    rounds: int,
    step_size: Scalar | None,
    local_steps: int | None,
    attack: UpdateAttack | None,
    malicious: tuple[int, ...],
    start: Array | None,
    probes: Array | None,
    key: Array,
) -> tuple[Array, Array | None, Array]:
    number, _, size = clients.features.shape
    shape = (size, clients.targets.shape[2])
    step, weights, mask = _step_size(clients, ridge, step_size), clients.weights, _mask(malicious, number)
    minima = clients.minimisers(ridge) if local_steps is None else None

    def honest(theta: Array) -> Array:
        if minima is not None:
            return minima - theta[None]
        own = jnp.broadcast_to(theta[None], (number, *shape))
        for_all = jax.lax.fori_loop(0, local_steps, lambda _, own: own - step * clients.gradients(ridge, own), own)
        return for_all - theta[None]

    def advance(theta: Array, key: Array) -> tuple[Array, tuple[Array | None, Array]]:
        updates = honest(theta).reshape(number, -1)
        if attack is not None:
            updates = attack(updates, mask, weights, theta.reshape(-1), key)
        change = aggregator(updates, weights)
        theta = theta + change.reshape(shape)
        seen = None if probes is None else matrix_product(probes, theta)
        return theta, (seen, row_lengths(change.reshape(1, -1))[0])

    first = jnp.zeros(shape, clients.features.dtype) if start is None else start.reshape(shape)
    theta, (predictions, movement) = scan(advance, first, jax.random.split(key, rounds))
    return theta, predictions, movement


def _mask(malicious: Sequence[int], number: int) -> np.ndarray:
    return np.isin(np.arange(number), np.asarray(malicious, int))


def _step_size(clients: Clients, ridge: Array, step_size: Scalar | None) -> Array:
    return clients.safe_step_size(ridge) if step_size is None else jnp.asarray(step_size, clients.features.dtype)


def _check_closed_form(arguments: dict[str, Any]) -> None:
    _check_training(arguments)
    check_integers(arguments, optional=True, rounds=0)


@boundary(_check_closed_form)
def mean_aggregated(
    clients: Clients,
    ridge: Scalar,
    rounds: int | None,
    *,
    step_size: Scalar | None = None,
    local_steps: int | None = 1,
    start: Float[ArrayLike, "p *C"] | None = None,
) -> Float[Array, "p *C"]:
    """θ after so many rounds with the mean as the server's rule, or their fixed point, in closed form.

    Local training on a quadratic loss is an affine map of θ, and so is a round: θ ↦ Pθ + c with
    P = Σ_k (n_k/n)(I − ηH_k)^E, H_k = Φ_kᵀΦ_k/n_k + λI, for E local steps of size η; P = 0 for exact minimisers.  Its
    t-th power takes about log₂ t products of p×p matrices, the fixed point one solve.  With one local step the fixed
    point is the ridge predictor of all data together, whatever the step size.

    Args:
        clients: features and targets.
        ridge: λ > 0 of every client's mean loss.
        rounds: t >= 0, or None for the fixed point (which does not depend on `start`).
        step_size: η, by default as in `federate`.
        local_steps: E, or None for exact minimisers.
        start: θ before the first round; by default 0.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for a fixed point that the rounds would not reach,
            as the step size is too large (in compiled code a runtime error).

    >>> clients = Clients([jnp.array([[1.0]]), jnp.array([[1.0]])], [jnp.array([1.0]), jnp.array([3.0])])
    >>> mean_aggregated(clients, 1.0, None).tolist()  # Σ y / (n + nλ) = 4 / (2 + 2)
    [1.0]
    """
    start = None if start is None else jnp.asarray(start)
    ridge = jnp.asarray(ridge, clients.features.dtype)
    step_size = None if step_size is None else jnp.asarray(step_size, ridge.dtype)
    return clients.like_targets(_closed_form(clients, ridge, rounds, step_size, local_steps, start))


@eqx.filter_jit
def _closed_form(
    clients: Clients,
    ridge: Array,
    rounds: int | None,
    step_size: Scalar | None,
    local_steps: int | None,
    start: Array | None,
) -> Float[Array, "p C"]:
    size, outputs = clients.features.shape[2], clients.targets.shape[2]
    dtype = clients.features.dtype
    step, identity = _step_size(clients, ridge, step_size), jnp.eye(size, dtype=dtype)

    def of_client(client: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        features, targets, count = client
        hessian = matrix_product(features.T, features) / count + ridge * identity
        return _power(identity - step * hessian, step * matrix_product(features.T, targets) / count, local_steps or 1)

    def add(total: tuple[Array, Array], client: tuple[tuple[Array, Array, Array], Array]):
        own, weight = client
        return jax.tree.map(lambda sum_, term: sum_ + weight * term, total, of_client(own)), None

    if local_steps is None:
        linear = jnp.zeros_like(identity)
        constant = jnp.einsum("k,kpc->pc", clients.weights, clients.minimisers(ridge), precision="highest")
    else:
        counts = jnp.asarray(clients.counts, dtype)
        nothing = (jnp.zeros_like(identity), jnp.zeros((size, outputs), dtype))
        own = (clients.features, clients.targets, counts)
        (linear, constant), _ = jax.lax.scan(add, nothing, (own, clients.weights))
    if rounds is not None:
        first = jnp.zeros((size, outputs), dtype) if start is None else start.reshape(size, outputs)
        linear, constant = _power(linear, constant, rounds)
        return matrix_product(linear, first) + constant
    contraction = jnp.max(jnp.abs(eigh(jax.lax.stop_gradient(linear))[0]))
    return checked_result(
        linear_solve(identity - linear, constant),
        [(~(contraction < 1), "step_size must be smaller: the rounds diverge, and have no fixed point to end in")],
    )


def _power(linear: Float[Array, "p p"], constant: Float[Array, "p C"], times: int) -> tuple[Array, Array]:
    """θ ↦ linear θ + constant, so many times over."""
    result = jnp.eye(len(linear), dtype=linear.dtype), jnp.zeros_like(constant)
    square = linear, constant
    while times:
        if times % 2:
            result = matrix_product(square[0], result[0]), matrix_product(square[0], result[1]) + square[1]
        times //= 2
        if times:
            square = matrix_product(square[0], square[0]), matrix_product(square[0], square[1]) + square[1]
    return result
