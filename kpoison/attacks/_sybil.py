"""Sybil clients of a federation: how many identical ones there are is the multiplicity m of the gain law."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._typing import Scalar
from kpoison._validation import boundary, check_integers, check_real, is_concrete, known_number
from kpoison.attacks.aggregators import Aggregator, Mean
from kpoison.attacks.clients import Clients
from kpoison.attacks.federated import Federation, federate, mean_aggregated
from kpoison.attacks.poisoned import PoisonedData, poisoned_data
from kpoison.kernels.base import Kernel, check_kernel
from kpoison.laws import predict
from kpoison.poison import Poison, check_poison
from kpoison.ridge import fit
from kpoison.ridge.features import kernel_features

__all__ = ["SybilAttack", "shared_features", "sybil"]


def shared_features(kernel: Kernel, point_sets: Sequence[Float[ArrayLike, "..."]]) -> list[Float[Array, "_ p"]]:
    """Coordinates of several sets of points in the span of all of them in the kernel's feature space.

    As many coordinates as points, principal axes of all points together (see `kernel_features`).  With
    ``kp.kernels.empirical_ntk(network)`` these are a network's tangent features, rotated.

    Args:
        kernel: k.
        point_sets: such as the clients' inputs, the poison's location and probes.

    Raises:
        TypeError, ValueError: for no sets, or points that do not fit the kernel or each other.

    >>> import kpoison as kp
    >>> a, b = shared_features(kp.kernels.Linear(), [jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 1.0]])])
    >>> round(float((a @ b.T)[0, 0]), 4)
    4.0
    """
    check_kernel("kernel", kernel)
    if len(point_sets) == 0:
        raise ValueError("point_sets must hold at least one set of points, got none")
    sets: list[Array] = []
    for place, points in enumerate(point_sets):
        like = sets[0] if sets else None
        sets.append(kernel.points(f"point_sets[{place}]", points, like=like, like_name="point_sets[0]"))
    coordinates = kernel_features(kernel, jnp.concatenate(sets))
    return jnp.split(coordinates, np.cumsum([len(points) for points in sets])[:-1])


class SybilAttack(eqx.Module):
    """Sybil clients, what the gain law says of them, and what rounds of training have given; made by `sybil`.

    Every Δf is the prediction with the Sybils less the clean ridge predictor, both at ρ = (n_c + Σm)λ.

    Attributes:
        data: all data together, the Sybils' last; its `efficacy` is the law's Δf, where the mean of updates ends (with
            one local step in a round).
        closed_form: Δf of the mean of updates after these rounds, exactly, shape (q,) or (q, C).
        simulated: Δf after these rounds with the server's rule, shape (q,) or (q, C).
        clients: who took part, in features.
        federation: the rounds.
    """

    data: PoisonedData
    closed_form: Float[Array, "q *C"]
    simulated: Float[Array, "q *C"]
    clients: Clients
    federation: Federation


def _check_sybil(arguments: dict[str, Any]) -> None:
    check_kernel("kernel", arguments["kernel"])
    poison, inputs, targets = (arguments[name] for name in ("poison", "inputs", "targets"))
    check_poison(poison)
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise ValueError(f"inputs and targets must hold one array for each client, got {len(inputs)}, {len(targets)}")
    if not is_concrete(poison.count):
        raise TypeError("poison.count must be known: it is the number of Sybil clients")
    count = np.asarray(poison.count)
    if np.any(count != np.round(count)) or count.sum() < 1:
        raise ValueError(f"poison.count must be whole, it is the number of Sybil clients, and at least 1, got {count}")
    for client, own in enumerate(targets):
        check_real(f"targets[{client}]", own)
    check_integers(arguments, rounds=1)
    check_integers(arguments, optional=True, local_steps=1)
    arguments["target"] = known_number(arguments["target"])


@boundary(_check_sybil)
def sybil(
    kernel: Kernel,
    inputs: Sequence[Float[ArrayLike, "..."]],
    targets: Sequence[Num[ArrayLike, "..."]],
    poison: Poison,
    probes: Float[ArrayLike, "q ..."],
    ridge: Scalar,
    *,
    aggregator: Aggregator = Mean(),  # noqa: B008 - it is immutable
    rounds: int = 1000,
    step_size: Scalar | None = None,
    local_steps: int | None = 1,
    target: int | None = None,
) -> SybilAttack:
    """Sybil clients that hold nothing but the dirty point: their number is the multiplicity m of the gain law (L1).

    m clients with the one example (ζ, y_t) each train honestly.  With the mean of updates, weighted by numbers of
    examples, and one local step, the rounds end in the ridge predictor with ``kp.Poison(ζ, y_t, m)``, exactly, so that
    their effect is the law's efficacy (Douceur 2002 names the attack; Fung et al. 2020 in federated learning).

    Args:
        kernel: k.
        inputs: each honest client's points, K arrays of shape (n_k, d).
        targets: each honest client's targets, K arrays of shape (n_k,) or (n_k, C).
        poison: the dirty point and the number of Sybils; a cluster has Sybils at each location.  Whole numbers.
        probes: where the attacker wants another prediction, shape (q, d).
        ridge: λ > 0 of every client's mean loss.
        aggregator: the server's rule; the law is that of the mean.
        rounds: how many.
        step_size: as in `federate`.
        local_steps: as in `federate`; the law is that of 1.
        target: the class that the attacker wants, see `PoisonedData`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, and as `federate`.

    Warns:
        GuaranteeVoidWarning: where there are more Sybils than a robust rule tolerates.

    >>> import kpoison as kp
    >>> inputs, targets = [jnp.array([[0.0]]), jnp.array([[1.0]])], [jnp.array([1.0]), jnp.array([1.0])]
    >>> poison = kp.Poison(jnp.array([2.0]), label=-1.0, count=3)
    >>> attack = sybil(kp.kernels.RBF(1.0), inputs, targets, poison, jnp.array([[2.0]]), ridge=0.1)
    >>> bool(jnp.allclose(attack.simulated, attack.data.efficacy, atol=1e-4))
    True
    """
    honest = [kernel.points(f"inputs[{client}]", points) for client, points in enumerate(inputs)]
    labels = [jnp.asarray(own, honest[0].dtype) for own in targets]
    # Clients check the shapes of targets before anything is fitted.
    Clients([points.reshape(len(points), -1) for points in honest], labels)
    probes = kernel.points("probes", probes, like=honest[0], like_name="inputs[0]")
    X, y = jnp.concatenate(honest), jnp.concatenate(labels)
    clean = fit(kernel, X, y)
    data = poisoned_data(clean, poison, probes, ridge, target)

    locations, dirty, counts = poison.observations(X.shape[1:], clean.outputs, X.dtype)
    places = np.repeat(np.arange(len(locations)), np.asarray(counts).astype(int))
    before = predict(clean, probes, ridge * (len(X) + len(places)) / len(X))

    *own, poisons, wanted = shared_features(kernel, [*honest, locations, probes])
    dirty = dirty[:, 0] if y.ndim == 1 else dirty
    clients = Clients(
        [*own, *(poisons[place : place + 1] for place in places)], [*labels, *(dirty[p : p + 1] for p in places)]
    )
    federation = federate(
        clients, ridge, aggregator=aggregator, rounds=rounds, step_size=step_size, local_steps=local_steps,
        malicious=range(len(own), len(own) + len(places)),
    )  # fmt: skip
    exact = mean_aggregated(clients, ridge, rounds, step_size=step_size, local_steps=local_steps)
    return SybilAttack(
        data,
        jnp.matmul(wanted, exact, precision="highest") - before,
        jnp.matmul(wanted, federation.parameters, precision="highest") - before,
        clients,
        federation,
    )
