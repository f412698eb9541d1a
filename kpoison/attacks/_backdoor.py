"""The backdoor: images with a trigger and the target's label, and what they do to any image with the trigger (L7)."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Num

from kpoison._typing import Labels, Scalar
from kpoison._validation import boundary, check_integers, count_of, is_concrete, known_number
from kpoison.attacks.classes import Wanted, checked_wanted, class_indices, class_values
from kpoison.attacks.poisoned import PoisonedData
from kpoison.laws import efficacy, predict
from kpoison.laws.inputs import CleanInputs
from kpoison.poison import Poison, Trigger, target_of_each
from kpoison.ridge import Fitted, check_plain, fit_observations

__all__ = ["backdoor"]


def _check(arguments: dict[str, Any]) -> None:
    CleanInputs.of(arguments["clean"], arguments["ridge"])
    clean, fraction = arguments["clean"], arguments["fraction"]
    check_plain("clean", clean)
    if not clean.factor.abilities.any_right_hand_side:
        raise ValueError("clean must not be prepared for another poison, got the result of kpoison.prepare")
    if not is_concrete(clean.y):
        raise TypeError("clean.y must be known numbers, as images are drawn by their class: fit outside of jit")
    for name in ("trigger", "test_trigger"):
        given = arguments[name]
        if not isinstance(given, Trigger) and not (name == "test_trigger" and given is None):
            raise TypeError(f"{name} must be a kpoison.Trigger such as kpoison.Patch, got {type(given).__name__}")
    arguments["probes"] = clean.kernel.points("probes", arguments["probes"], like=clean.X)
    wanted = checked_wanted("target", clean, arguments["target"], len(clean.X), "training image")
    probes = arguments["probe_target"]
    if probes is not None:
        probes = checked_wanted("probe_target", clean, probes, len(arguments["probes"]), "probe")
    elif isinstance(wanted, tuple):
        raise ValueError("probe_target must be given, as target holds one class for each training image, got None")
    arguments["target"], arguments["probe_target"] = wanted, probes
    fraction = known_number(fraction)
    if isinstance(fraction, bool) or not isinstance(fraction, float | int) or not 0 < fraction <= 1:
        raise ValueError(f"fraction must be a number in (0, 1], got {arguments['fraction']!r}")
    labels, goals = _classes(clean, wanted)
    others = labels != goals
    absent = np.setdiff1d(goals[others], labels)
    if absent.size:
        raise ValueError(f"target must be a class that occurs in clean.y, got {class_values(clean)[absent[0]]}")
    number = int(np.sum(others))
    if number == 0:
        raise ValueError("target must be another class for at least one training image, got the own class of each")
    if count_of(fraction, number, round) == 0:
        raise ValueError(
            f"fraction must give at least one poison: it is of the {number} images that are not of their target class, "
            f"got {fraction}"
        )
    check_integers(arguments, seed=0)
    arguments["fraction"] = fraction


def _classes(clean: Fitted, wanted: Wanted) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Of each training image its class and the one that it is to be taken for, as indices."""
    labels, values = np.asarray(class_indices(clean.y)[0]), np.array(class_values(clean))
    goals = np.broadcast_to(target_of_each(wanted, values[labels]), labels.shape)
    return labels, np.searchsorted(values, goals)


def _drawn(others: Int[np.ndarray, " o"], fraction: float | int, seed: int) -> Int[np.ndarray, " p"]:
    """Which images get the trigger."""
    number = count_of(fraction, len(others), round)
    return np.sort(np.random.default_rng(seed).permutation(others)[:number])


def _labels(clean: Fitted, goals: Int[np.ndarray, " p"]) -> Float[Array, "p C"]:
    """The targets that stand for these classes."""
    if clean.outputs == 1:
        return jnp.asarray(np.array(class_values(clean))[goals][:, None], clean.y.dtype)
    members = goals[:, None] == np.arange(clean.outputs)
    return jnp.where(members, jnp.max(clean.y), jnp.min(clean.y))


@boundary(_check)
def backdoor(
    clean: Fitted,
    trigger: Trigger,
    *,
    target: Scalar | Mapping[int, int] | Labels | Num[ArrayLike, " n"],
    fraction: float | int,
    ridge: Scalar,
    probes: Float[ArrayLike, "q ..."],
    seed: int = 0,
    replace: bool = False,
    image_shape: tuple[int, int, int] | None = None,
    test_trigger: Trigger | None = None,
    probe_target: Scalar | Mapping[int, int] | Labels | Num[ArrayLike, " q"] | None = None,
) -> PoisonedData:
    """A dirty-label backdoor, as in BadNets (Gu et al. 2017), Blend (Chen et al. 2017) and SIG (Barni et al. 2019).

    A random part of the training images that are not of their target class gets the trigger and the target's label.
    The target is one class for all images (all-to-one), one for each class (all-to-all, Gu et al. 2017), or one for
    each image.  The efficacy is exact, by the cluster law (L7); none of it needs the poisoned set to be fitted.

    The trigger of training need not be that of the test, for which a fainter or a stronger one may be shown.  For a
    stationary kernel an isolated poison works best where both are the same; for a linear one its gain saturates, and
    from a strength α = √(ρ/m) of training on a stronger trigger works less (L11, after arXiv 2605.22481).  Clean images
    nearby, such as the poisons' own originals, move both optima.

    Args:
        clean: fitted to images; y holds −1 and 1, shape (n,), or is one-hot, shape (n, C), with any two values.
        trigger: `kpoison.Patch`, `Blend` or `Sinusoid`.
        target: the class that images with the trigger are to get, −1 or 1 or a column of y: one for all; a mapping from
            each class to the one wanted for it, such as `kpoison.all_to_all` makes; or one for each training image,
            shape (n_c,).
        fraction: in (0, 1]: of the training images that are not of their target class, rounded to p >= 1 of them.
        ridge: λ > 0 of the mean loss.
        probes: test images without the trigger, shape (q, ...) as those of `clean`.
        seed: of the draw.
        replace: False: triggered copies are added to the training set, as p points more, n = n_c + p.  True: they take
            the place of their originals, n = n_c; the remaining points are then factorised once, by the same solver.
        image_shape: (H, W, C) of flattened images.
        test_trigger: of the probes; by default that of training.
        probe_target: the classes wanted at the probes, which the result tells: as `target`, or one for each probe,
            shape (q,).  By default `target`; it must be given where that is one class for each training image.

    Returns:
        The poisoned training set, added copies last; `probes` with the trigger of the test; the efficacy there: what
        training on the poisoned set instead of the clean one changes at ρ = nλ, n the number of points in the poisoned
        set; and the target, which `kpoison.attack_success_rate` takes.  Differentiable in the numbers of the triggers,
        the ridge and the probes.

    Raises:
        TypeError: for a posterior, trigger or labels of another kind, or targets that are traced.
        ValueError: for labels that are not −1 and 1 or one-hot or of a single class; a target that is no class, does
            not occur, is every image's own, or says nothing of a class or an image; a fraction outside (0, 1] or of
            less than half an image; images that do not fit the trigger.

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
    wanted = checked_wanted("target", clean, target, len(clean.X), "training image")
    told = (
        wanted
        if probe_target is None
        else checked_wanted("probe_target", clean, probe_target, np.shape(probes)[0], "probe")
    )
    own, goals = _classes(clean, wanted)
    chosen = _drawn(np.flatnonzero(own != goals), fraction, seed)
    poisons = trigger(clean.X[chosen], image_shape)
    triggered = (trigger if test_trigger is None else test_trigger)(probes, image_shape)
    label = _labels(clean, goals[chosen])
    cluster = Poison(poisons, label, jnp.ones(len(chosen)))
    labels = label.reshape(len(chosen), *clean.y.shape[1:])
    if not replace:
        X, y = jnp.concatenate([clean.X, poisons]), jnp.concatenate([clean.y, labels])
        is_poison = jnp.arange(len(X)) >= len(clean.X)
        return PoisonedData(X, y, is_poison, triggered, efficacy(clean, cluster, triggered, ridge), told)
    change = predict(_without(clean, chosen), triggered, ridge, cluster) - predict(clean, triggered, ridge)
    is_poison = jnp.zeros(len(clean.X), bool).at[chosen].set(True)
    return PoisonedData(
        clean.X.at[chosen].set(poisons), clean.y.at[chosen].set(labels), is_poison, triggered, change, told
    )


def _without(clean: Fitted, points: Int[np.ndarray, " p"]) -> Fitted:
    """The posterior of the other points."""
    kept = np.delete(np.arange(len(clean.X)), points)
    observed = clean.observations.at(clean.X[kept])
    return clean.of(fit_observations(clean.kernel, observed, clean.y[kept], clean.factor.solver))
