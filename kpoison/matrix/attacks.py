"""The attacks of the matrix by name: what each makes of a problem, and at which inputs it wants another prediction.

All that add points add as many, so that arrays have the same shapes for every attack and seed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kpoison.attacks import (
    Bilevel,
    FeatureCollision,
    PoisonedData,
    backdoor,
    bilevel,
    feature_collision,
    flip_labels,
    greedy_bases,
)
from kpoison.attacks.poisoned import poisoned_data
from kpoison.matrix.problem import CLONED, Problem
from kpoison.poison import Poison, Trigger
from kpoison.problems import TRIGGERS, TriggerArguments, TriggerName, make_trigger

if TYPE_CHECKING:
    import optax

__all__ = ["ATTACKS", "ATTACK_OPTIONS", "Attack"]

VICTIMS = 50
"""Most test images that are shown with a trigger."""

_DISTANCE = 0.05  # of near-clones, in length scales, or lengths of ζ
_DIRECTIONS = 4
_BALL = 0.3  # how far a pixel may be moved, of [0, 1]: the usual one for MNIST
_STEPS, _RATE = 60, 2e-2

ATTACK_OPTIONS = {
    "most_victims": VICTIMS,
    "near-clone": {"places": CLONED, "r_over_l": _DISTANCE, "directions": _DIRECTIONS},
    "feature-collision and bilevel": {"ball": _BALL, "adam_steps": _STEPS, "adam_rate": _RATE},
}
"""What was chosen for the attacks; it determines the numbers."""


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack on one problem.

    Attributes:
        data: the training set with the attacker's points in it.
        victims: inputs at which the attacker wants another prediction, as they come at test time, (v, D).
        victim_labels: their true classes, (v,).
        untouched: the same inputs without what the attacker did to them, (v, D).
        change: what the attacker added to the first victim, or else to the first poison, (D,).
        poison: the same points for the laws; None where labels were changed.
        target: the class that the attacker wants; None where any wrong one will do.
    """

    data: PoisonedData
    victims: Float[Array, "v D"]
    victim_labels: Int[np.ndarray, " v"]
    untouched: Float[Array, "v D"]
    change: Float[Array, " D"]
    poison: Poison | None
    target: int | None


def near_clone(problem: Problem) -> Attack:
    """Clones of a few held-out images with the target's label; victims are right beside them (L5).

    The victims are ζ + r u, u any direction in the space of pixels, of which r is so little that they are not clipped.
    """
    generator = np.random.default_rng((problem.seed, 1))
    zeta = problem.targeted[:CLONED]
    u = generator.standard_normal((CLONED, _DIRECTIONS, zeta.shape[1]))
    u /= np.linalg.norm(u, axis=2, keepdims=True)
    unit = getattr(problem.kernel, "length_scale", None)
    r = _DISTANCE * (jnp.linalg.norm(zeta, axis=1) if unit is None else jnp.full(CLONED, unit))
    victims = zeta[:, None] + r[:, None, None] * jnp.asarray(u)
    budget = problem.settings.budget
    # As many places as other attacks have points, those after the first few of count 0.
    places = np.arange(budget)
    counts = np.where(places < CLONED, budget // CLONED + (places < budget % CLONED), 0)
    poison = Poison(zeta[places % CLONED], _target_labels(problem, budget), counts.astype(float))
    flat = victims.reshape(-1, zeta.shape[1])
    untouched = jnp.repeat(zeta, _DIRECTIONS, axis=0)
    return Attack(
        data=poisoned_data(problem.clean, poison, flat, problem.settings.ridge, problem.target_value),
        victims=flat,
        victim_labels=np.repeat(problem.targeted_labels[:CLONED], _DIRECTIONS),
        untouched=untouched,
        change=flat[0] - untouched[0],
        poison=poison,
        target=problem.target,
    )


def _target_labels(problem: Problem, number: int) -> Float[Array, "p *C"]:
    return problem.targets(np.full(number, problem.target))


def _backdoor(problem: Problem, trigger: Trigger) -> Attack:
    others = problem.test_labels != problem.target
    untouched = problem.test[np.flatnonzero(others)[:VICTIMS]]
    data = backdoor(
        problem.clean,
        trigger,
        target=problem.target_value,
        fraction=problem.settings.budget / int(np.sum(problem.labels != problem.target)),
        ridge=problem.settings.ridge,
        probes=untouched,
        seed=problem.seed,
        image_shape=problem.image_shape,
    )
    return Attack(
        data=data,
        victims=data.probes,
        victim_labels=problem.test_labels[others][:VICTIMS],
        untouched=untouched,
        change=data.probes[0] - untouched[0],
        poison=Poison(data.X[data.is_poison], data.y[data.is_poison], jnp.ones(problem.settings.budget)),
        target=problem.target,
    )


def triggered(problem: Problem, name: TriggerName) -> Attack:
    """A dirty-label backdoor by a trigger as `kpoison spectrum` makes it, but a patch of a tenth of the image.

    Patch and cross lie in the lower right corner, of images of more than 8 pixels one off it.
    """
    height = problem.image_shape[0]
    options = TriggerArguments(trigger=name, size=max(1, height // 10) if name == "patch" else None)
    return _backdoor(
        problem, make_trigger(options, problem.image_shape, margin=int(height > 8), seed=(problem.seed, 2))
    )


def label_flip(problem: Problem) -> Attack:
    """The flips that change most predictions at the test images; no target."""
    data = flip_labels(problem.clean, problem.test, problem.settings.ridge, budget=problem.settings.budget)
    return Attack(
        data=PoisonedData(data.X, data.y, data.is_poison, data.probes, data.efficacy),
        victims=problem.test,
        victim_labels=problem.test_labels,
        untouched=problem.test,
        change=jnp.zeros_like(problem.test[0]),
        poison=None,
        target=None,
    )


@functools.lru_cache(maxsize=1)
def _adam() -> "optax.GradientTransformation":
    """One object: compiled programs are kept by it."""
    import optax

    return optax.adam(_RATE)


def _moved(problem: Problem, bases: Float[Array, "p D"], found: FeatureCollision | Bilevel, victims: int) -> Attack:
    """What was made of images of the target class, for the first of the targeted images as they are."""
    return Attack(
        data=found.data,
        victims=problem.targeted[:victims],
        victim_labels=problem.targeted_labels[:victims],
        untouched=problem.targeted[:victims],
        change=found.poison.location[0] - bases[0],
        poison=found.poison,
        target=problem.target,
    )


def collide(problem: Problem) -> Attack:
    """Images of the target class, the nearest to one victim, moved to it in feature space; their label is right."""
    target = problem.targeted[0]
    own = problem.of_target_class()
    nearest = np.argsort(-np.asarray(problem.kernel(problem.X[own], target[None]))[:, 0], kind="stable")
    bases = problem.X[own[nearest[: problem.settings.budget]]]
    found = feature_collision(
        problem.clean,
        bases,
        _target_labels(problem, len(bases)),
        target,
        problem.settings.ridge,
        box=(0, 1),
        ball=_BALL,
        optimiser=_adam(),
        steps=_STEPS,
    )
    return _moved(problem, bases, found, victims=1)


def gradients(problem: Problem) -> Attack:
    """Images of the target class, chosen and moved by gradients through training for 20 victims; their label is right.

    The victims are images as they are, without a trigger.
    """
    settings, own = problem.settings, problem.of_target_class()
    target = problem.targets(np.array([problem.target]))[0]
    chosen = greedy_bases(
        problem.clean,
        problem.X[own],
        target,
        settings.ridge,
        number=settings.budget,
        probes=problem.targeted,
        target=target,
    )
    bases = problem.X[own[np.asarray(chosen)]]
    found = bilevel(
        problem.clean,
        Poison(bases, _target_labels(problem, len(bases)), jnp.ones(len(bases))),
        settings.ridge,
        probes=problem.targeted,
        target=target,
        box=(0, 1),
        ball=_BALL,
        optimiser=_adam(),
        steps=_STEPS,
    )
    return _moved(problem, bases, found, victims=len(problem.targeted))


ATTACKS: dict[str, Callable[[Problem], Attack]] = {
    "near-clone": near_clone,
    **{name: functools.partial(triggered, name=name) for name in TRIGGERS},
    "label-flip": label_flip,
    "feature-collision": collide,
    "bilevel": gradients,
}
"""Every attack, by the name that `--attacks` takes."""
