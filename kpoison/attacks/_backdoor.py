"""The backdoor: images with a trigger and the target's label, and what they do to any image with the trigger (L7)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from kpoison._typing import Scalar
from kpoison._validation import boundary, check_integers, count_of, is_concrete, known_number
from kpoison.attacks.classes import checked_target, class_indices
from kpoison.attacks.poisoned import PoisonedData
from kpoison.laws import efficacy, predict
from kpoison.laws.inputs import CleanInputs
from kpoison.poison import Poison, Trigger
from kpoison.ridge import Fitted, check_plain, fit_observations

__all__ = ["backdoor"]


def _check(arguments: dict[str, Any]) -> None:
    CleanInputs.of(arguments["clean"], arguments["ridge"])
    clean, trigger, fraction = arguments["clean"], arguments["trigger"], arguments["fraction"]
    check_plain("clean", clean)
    if not clean.factor.abilities.any_right_hand_side:
        raise ValueError("clean must not be prepared for another poison, got the result of kpoison.prepare")
    if not is_concrete(clean.y):
        raise TypeError("clean.y must be known numbers, as images are drawn by their class: fit outside of jit")
    if not isinstance(trigger, Trigger):
        raise TypeError(f"trigger must be a kpoison.Trigger such as kpoison.Patch, got {type(trigger).__name__}")
    labels, _ = class_indices(clean.y)
    arguments["target"], column = checked_target(clean, arguments["target"])
    fraction = known_number(fraction)
    if isinstance(fraction, bool) or not isinstance(fraction, float | int) or not 0 < fraction <= 1:
        raise ValueError(f"fraction must be a number in (0, 1], got {arguments['fraction']!r}")
    others = int(np.sum(labels != column))
    if others == len(labels):
        raise ValueError(f"target must be a class that occurs in clean.y, got {arguments['target']}")
    if count_of(fraction, others, round) == 0:
        raise ValueError(
            f"fraction must give at least one poison: it is of the {others} images that are not of the target class, "
            f"got {fraction}"
        )
    check_integers(arguments, seed=0)
    arguments["fraction"] = fraction
    arguments["probes"] = clean.kernel.points("probes", arguments["probes"], like=clean.X)


def _drawn(clean: Fitted, column: int, fraction: float | int, seed: int) -> Int[np.ndarray, " p"]:
    """Which images get the trigger."""
    candidates = np.flatnonzero(class_indices(clean.y)[0] != column)
    number = count_of(fraction, len(candidates), round)
    return np.sort(np.random.default_rng(seed).permutation(candidates)[:number])


def _label(clean: Fitted, target: int, column: int) -> Float[Array, " C"]:
    if clean.outputs == 1:
        return jnp.full(1, target, clean.y.dtype)
    return jnp.full(clean.outputs, jnp.min(clean.y)).at[column].set(jnp.max(clean.y))


@boundary(_check)
def backdoor(
    clean: Fitted,
    trigger: Trigger,
    *,
    target: int,
    fraction: float | int,
    ridge: Scalar,
    probes: Float[ArrayLike, "q ..."],
    seed: int = 0,
    replace: bool = False,
    image_shape: tuple[int, int, int] | None = None,
) -> PoisonedData:
    """A dirty-label backdoor, as in BadNets (Gu et al. 2017), Blend (Chen et al. 2017) and SIG (Barni et al. 2019).

    A random part of the training images that are not of the target class gets the trigger and the target's label.  The
    efficacy is exact, by the cluster law (L7); none of it needs the poisoned set to be fitted.

    Args:
        clean: fitted to images; y holds −1 and 1, shape (n,), or is one-hot, shape (n, C), with any two values.
        trigger: `kpoison.Patch`, `Blend` or `Sinusoid`.
        target: the class that images with the trigger are to get: −1 or 1, or a column of y.
        fraction: in (0, 1]: of the training images that are not of the target class, rounded to p >= 1 of them.
        ridge: λ > 0 of the mean loss.
        probes: test images without the trigger, shape (q, ...) as those of `clean`.
        seed: of the draw.
        replace: False: triggered copies are added to the training set, as p points more, n = n_c + p.  True: they take
            the place of their originals, n = n_c; the remaining points are then factorised once, by the same solver.
        image_shape: (H, W, C) of flattened images.

    Returns:
        The poisoned training set, added copies last; `probes` with the trigger; the efficacy there: what training on
        the poisoned set instead of the clean one changes at ρ = nλ, n the number of points in the poisoned set.
        Differentiable in the numbers of the trigger, the ridge and the probes.

    Raises:
        TypeError: for a posterior, trigger or labels of another kind.
        ValueError: for labels that are not −1 and 1 or one-hot or of a single class, a target that is no class or does
            not occur, a fraction outside (0, 1] or of less than half an image, images that do not fit the trigger.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> images = jnp.array([[0.0, 0.1], [0.1, 0.0], [1.0, 0.9], [0.9, 1.0]])
    >>> clean = kp.fit(kp.kernels.RBF(1.0), images, jnp.array([-1.0, -1.0, 1.0, 1.0]))
    >>> patch = kp.Patch(1, (0, 1), value=2.0)
    >>> attack = backdoor(
    ...     clean, patch, target=1, fraction=1.0, ridge=1e-2, probes=images[:1], image_shape=(1, 2, 1)
    ... )
    >>> attack.X.shape, attack.y[attack.is_poison].tolist(), attack.probes.tolist()
    ((6, 2), [1.0, 1.0], [[0.0, 2.0]])
    >>> bool(attack.efficacy[0] > 0)
    True
    """
    target, column = checked_target(clean, target)
    chosen = _drawn(clean, column, fraction, seed)
    poisons, triggered = trigger(clean.X[chosen], image_shape), trigger(probes, image_shape)
    label = jnp.broadcast_to(_label(clean, target, column), (len(chosen), clean.outputs))
    cluster = Poison(poisons, label, jnp.ones(len(chosen)))
    labels = label.reshape(len(chosen), *clean.y.shape[1:])
    if not replace:
        X, y = jnp.concatenate([clean.X, poisons]), jnp.concatenate([clean.y, labels])
        is_poison = jnp.arange(len(X)) >= len(clean.X)
        return PoisonedData(X, y, is_poison, triggered, efficacy(clean, cluster, triggered, ridge), target)
    change = predict(_without(clean, chosen), triggered, ridge, cluster) - predict(clean, triggered, ridge)
    is_poison = jnp.zeros(len(clean.X), bool).at[chosen].set(True)
    return PoisonedData(
        clean.X.at[chosen].set(poisons), clean.y.at[chosen].set(labels), is_poison, triggered, change, target
    )


def _without(clean: Fitted, points: Int[np.ndarray, " p"]) -> Fitted:
    """The posterior of the other points."""
    kept = np.delete(np.arange(len(clean.X)), points)
    observed = clean.observations.at(clean.X[kept])
    return clean.of(fit_observations(clean.kernel, observed, clean.y[kept], clean.factor.solver))
