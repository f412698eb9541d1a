"""Trainings that defend themselves: penalised slopes (T1), augmentation (T6); and what is left of an attack."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._typing import Scalar
from kpoison._validation import (
    between_points,
    boundary,
    check_integer,
    check_mask,
    check_positive,
    check_real,
    is_concrete,
    plain_array,
)
from kpoison._watched import watched
from kpoison.attacks.poisoned import PoisonedData
from kpoison.kernels.base import Kernel, Traits, WithTraits, check_kernel
from kpoison.laws import efficacy
from kpoison.networks.augmentation import Augmentation
from kpoison.poison import Poison
from kpoison.ridge import ConjugateGradients, Posterior, Solver, fit

__all__ = [
    "AveragedKernel",
    "DefendedTraining",
    "Transformation",
    "augmented_training",
    "averaged_training",
    "draw_transformations",
    "penalised_training",
    "remaining_efficacy",
]

Transformation: TypeAlias = Callable[[Array], Array]
"""A function of one image (height, width, channels) that keeps its shape, traceable by JAX."""

_DENSE_UP_TO = 3000  # values and slopes


class DefendedTraining(eqx.Module):
    """A predictor trained on data that may be poisoned, and how.

    Attributes:
        posterior: the fitted predictor, for `kp.predict`, `kp.predictor` and every law, at any ridge.
        copies: what the training makes of points and targets before it fits them; the poisons among them too.
        assumes: what the defence takes for granted, in words.
    """

    posterior: Posterior
    copies: Callable[[Array, Array], tuple[Array, Array]] = eqx.field(static=True)
    assumes: str = eqx.field(static=True)


def _check_penalty(arguments: dict[str, Any]) -> None:
    check_positive("gradient_penalty", arguments["gradient_penalty"])
    arguments["X"] = plain_array("X", arguments["X"])


def _check_images(arguments: dict[str, Any]) -> None:
    kernel, shape = arguments["kernel"], arguments["image_shape"]
    check_kernel("kernel", kernel)
    X, chosen = kernel.points("X", arguments["X"]), _checked(arguments["transformations"])
    point = X.shape[1:] if shape is None else tuple(check_integer("image_shape", length, 1) for length in shape)
    if len(point) != 3 or X.shape[1:] not in (point, (math.prod(point),)):
        raise ValueError(
            "X must hold images (n, H, W, channels), or flattened ones with image_shape=(H, W, channels), got "
            f"{X.shape} with image_shape={shape}"
        )
    for transform in chosen:
        made = eqx.filter_eval_shape(transform, jax.ShapeDtypeStruct(point, X.dtype))
        if (made.shape, made.dtype) != (point, X.dtype):
            raise ValueError(
                f"transformations must keep shape and dtype, {point} {X.dtype}, got {made.shape} {made.dtype}"
            )
    check_real("y", arguments["y"])
    targets = np.shape(arguments["y"])
    if targets[:1] != (len(X),):
        raise ValueError(f"y must have shape ({len(X)},) or ({len(X)}, C), as X has {len(X)} images, got {targets}")
    arguments.update(X=X, transformations=chosen, image_shape=None if X.ndim == 4 else point)


@boundary(_check_penalty)
def penalised_training(
    kernel: Kernel,
    X: Float[ArrayLike, "n ..."],
    y: Num[ArrayLike, "n *C"],
    *,
    gradient_penalty: Scalar,
    metric: Float[ArrayLike, "D D"] | None = None,
    solver: Solver | None = None,
) -> DefendedTraining:
    """Train with (γ/2n) Σ ‖∇f(x_i)‖²_M beside the fit and the ridge (T1).

    Args:
        kernel: k, twice differentiable at coincident points.
        X: training inputs, the poisons among them, as for `kp.fit`.
        y: their targets.
        gradient_penalty: γ > 0.
        metric: M, by default the identity.
        solver: by default `Spectral()`, but `ConjugateGradients()` from 3,000 values and slopes on, as of images.

    Raises:
        TypeError, ValueError: as `kp.fit`.
    """
    return DefendedTraining(
        _fit(kernel, X, y, gradient_penalty, solver, metric),
        _as_they_are,
        "a poison must bend the predictor steeply to act where it is wanted, and the clean function is less steep than "
        "that: what the penalty takes from both, it takes from the poison first",
    )


@boundary(_check_images)
def augmented_training(
    kernel: Kernel,
    X: Float[ArrayLike, "n ..."],
    y: Num[ArrayLike, "n *C"],
    transformations: Sequence[Transformation],
    *,
    image_shape: Sequence[int] | None = None,
    gradient_penalty: Scalar = 0.0,
    solver: Solver | None = None,
) -> DefendedTraining:
    """Train on the images and a copy of each by every transformation (T6); with a gradient penalty, if wanted.

    n is the number of images with their copies: T + 1 times as many points, over which the loss is a mean.

    Args:
        kernel: k.
        X: training images, the poisons among them, shape (n, H, W, channels), or (n, D) with `image_shape`.
        y: targets, shape (n,) or (n, C).
        transformations: T >= 1 functions of one image; those of `kpoison.networks` by `draw_transformations`.
        image_shape: (H, W, channels) of flattened images.
        gradient_penalty: γ >= 0, see `penalised_training`.
        solver: as there with a penalty, as for `kp.fit` without.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, and as `kp.fit`.
    """
    apply = _on_points(tuple(transformations), None if image_shape is None else tuple(image_shape))
    copies = partial(_with_copies, apply)
    points, targets = copies(jnp.asarray(X), jnp.asarray(y))
    return DefendedTraining(_fit(kernel, points, targets, gradient_penalty, solver), copies, _INVARIANT)


@boundary(_check_images)
def averaged_training(
    kernel: Kernel,
    X: Float[ArrayLike, "n ..."],
    y: Num[ArrayLike, "n *C"],
    transformations: Sequence[Transformation],
    *,
    image_shape: Sequence[int] | None = None,
    gradient_penalty: Scalar = 0.0,
    solver: Solver | None = None,
) -> DefendedTraining:
    """Train with the kernel averaged over the transformations of both images (T6): `AveragedKernel`.

    Arguments and errors as in `augmented_training`; n stays the number of images.
    """
    averaged = AveragedKernel(kernel, transformations, image_shape)
    return DefendedTraining(_fit(averaged, X, y, gradient_penalty, solver), _as_they_are, _INVARIANT)


_INVARIANT = "the true classes do not change under the transformations, and the trigger does not outlast them"


def _check_poisoned(arguments: dict[str, Any]) -> None:
    poisoned = arguments["poisoned"]
    if not isinstance(poisoned, PoisonedData):
        raise TypeError(f"poisoned must be a kpoison.attacks.PoisonedData, got {type(poisoned).__name__}")
    chosen = np.asarray(check_mask("poisoned.is_poison", poisoned.is_poison, (len(poisoned.X),), "point"))
    if not chosen.any() or chosen.all():
        raise ValueError(
            f"poisoned.is_poison must mark some points and not all, got {int(chosen.sum())} of {chosen.size}"
        )


@boundary(_check_poisoned)
def remaining_efficacy(
    train: Callable[[Array, Array], DefendedTraining], poisoned: PoisonedData, ridge: Scalar
) -> Float[Array, "q *C"]:
    """Δf at the attack's probes when the training defends itself, by the law (L7; T1 with a penalty), not by a refit.

    The defended training is fitted to the clean points, and its posterior conditioned on the poisons as that training
    sees them, with their slopes or copies; both sides at the ρ = nλ of all points.  To be compared with
    `poisoned.efficacy` of the training without defence, where the poisons were added: changed points count as added.

    Args:
        train: (X, y) → DefendedTraining, such as
            ``lambda X, y: penalised_training(kernel, X, y, gradient_penalty=0.1)``.
        poisoned: the attack's data; some of its points, and not all, are poison.
        ridge: λ > 0 of the mean loss.

    Returns:
        Shape (q,) or (q, C), as y.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, and as the training.
    """
    chosen = np.asarray(poisoned.is_poison, bool)
    defended = train(poisoned.X[~chosen], poisoned.y[~chosen])
    if not isinstance(defended, DefendedTraining):
        raise TypeError(f"train must return a DefendedTraining, got {type(defended).__name__}")
    locations, labels = defended.copies(poisoned.X[chosen], poisoned.y[chosen])
    return efficacy(defended.posterior, Poison(locations, labels, 1.0), poisoned.probes, ridge)


def draw_transformations(augmentation: Augmentation, number: int, *, seed: int = 0) -> tuple[Transformation, ...]:
    """So many random draws of an augmentation of `kpoison.networks`, the same for every image.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import jax.numpy as jnp
    >>> from kpoison.networks import RandomCrop
    >>> [shift(jnp.ones((2, 2, 1))).shape for shift in draw_transformations(RandomCrop(1), 2)]
    [(2, 2, 1), (2, 2, 1)]
    """
    if not callable(augmentation):
        raise TypeError(f"augmentation must be a function (image, key), got {type(augmentation).__name__}")
    number, seed = check_integer("number", number, 1), check_integer("seed", seed, 0)
    return tuple(partial(augmentation, key=key) for key in jax.random.split(jax.random.key(seed), number))


class AveragedKernel(WithTraits):
    """The mean of k(g x, h z) over all pairs of the identity and the given transformations g and h.

    Its functions are unchanged by the transformations where these are a group, such as flips; else (shifts that push
    pixels out of the image) only about so.

    Args:
        kernel: k.
        transformations: functions of one image.
        image_shape: (H, W, channels) where points are flattened images.

    Raises:
        TypeError, ValueError: for arguments that do not fit.
    """

    kernel: Kernel
    transformations: tuple[Transformation, ...]
    image_shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self, kernel: Kernel, transformations: Sequence[Transformation], image_shape: Sequence[int] | None = None
    ):
        check_kernel("kernel", kernel)
        self.kernel = kernel
        self.transformations = tuple(watched(transform) for transform in _checked(transformations))
        self.image_shape = (
            None if image_shape is None else tuple(check_integer("image_shape", length, 1) for length in image_shape)
        )

    def _orbit(self, x: Array) -> Float[Array, "T ..."]:
        """A point and its transformations."""
        apply = _on_points(self.transformations, self.image_shape)
        return jnp.stack([x, *(transformed[0] for transformed in apply(x[None]))])

    @between_points
    def evaluate(self, x: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, ""]:
        """The mean over the pairs."""
        return jnp.mean(self.kernel.pairwise(self._orbit(x), self._orbit(z)))

    def gram(self, X1: Float[Array, "n1 ..."], X2: Float[Array, "n2 ..."]) -> Float[Array, "n1 n2"]:
        """From the Gram matrices of the transformed points; of equal arguments every pair of them once."""
        apply = _on_points(self.transformations, self.image_shape)
        first = [X1, *apply(X1)]
        if X1 is X2:
            total = sum(self.kernel.gram(points, points) for points in first)
            crossed = sum(self.kernel.gram(one, other) for one, other in itertools.combinations(first, 2))
            return (total + crossed + jnp.asarray(crossed).T) / len(first) ** 2
        second = [X2, *apply(X2)]
        total = sum(self.kernel.gram(one, other) for one in first for other in second)
        return jnp.asarray(total) / len(first) ** 2

    @property
    def traits(self) -> Traits:
        """Of the kernel's what no transformation takes away."""
        return Traits(self.kernel.smoothness, point_ndim=self.kernel.point_ndim)

    def floats_per_pair(self, point_shape: tuple[int, ...]) -> int:
        """Those of the kernel, for every pair of transformations."""
        return (len(self.transformations) + 1) ** 2 * self.kernel.floats_per_pair(point_shape)


def _fit(kernel: Kernel, X: Any, y: Any, penalty: Scalar, solver: Solver | None, metric: Any = None) -> Posterior:
    penalised = not is_concrete(penalty) or bool(np.any(np.asarray(penalty) != 0))
    if solver is None and penalised and np.size(X) + len(X) > _DENSE_UP_TO:
        solver = ConjugateGradients()
    return fit(kernel, X, y, gradient_penalty=penalty, metric=metric, solver=solver)


def _as_they_are(X: Array, y: Array) -> tuple[Array, Array]:
    return X, y


def _with_copies(apply: Callable[[Array], list[Array]], X: Array, y: Array) -> tuple[Array, Array]:
    """The points, then all copies of the first transformation, and so on, each with its point's target."""
    points = [X, *apply(X)]
    return jnp.concatenate(points), jnp.concatenate([y] * len(points))


def _on_points(
    transformations: tuple[Transformation, ...], image_shape: tuple[int, ...] | None
) -> Callable[[Array], list[Array]]:
    """Each transformation of many points, flattened or not."""

    def apply(X: Array) -> list[Array]:
        images = X if image_shape is None else X.reshape(-1, *image_shape)
        return [jax.vmap(transform)(images).reshape(X.shape) for transform in transformations]

    return apply


def _checked(transformations: Any) -> tuple[Transformation, ...]:
    chosen = tuple(transformations)
    if not chosen:
        raise ValueError("transformations must be at least one, got none")
    for transform in chosen:
        if not callable(transform):
            raise TypeError(f"transformations must be functions of one image, got {type(transform).__name__}")
    return chosen
