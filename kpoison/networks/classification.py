"""Training of image classifiers by softmax cross-entropy: mini-batches, augmentation, input-gradient penalty."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Num, PRNGKeyArray, Shaped

from kpoison._identity import function_hash, hash_of, identity_of, tree_hash
from kpoison._progress import progress_bar
from kpoison._validation import (
    check_integer,
    check_points,
    check_positive,
    check_real,
    is_integer,
    known_number,
    plain_array,
)
from kpoison._version import __version__
from kpoison.networks.checkpoints import Checkpoints, arrays_of, with_arrays
from kpoison.networks.measurements import Measure, Measurements
from kpoison.networks.steps import Setup, State, advance, epoch_order, program_hash

if TYPE_CHECKING:
    import optax
    import xarray as xr

__all__ = ["SGD", "ClassifierEnsemble", "DivergedError", "TrainedClassifier", "train_classifier", "train_classifiers"]

Optimiser: TypeAlias = "optax.GradientTransformation | Callable[[int], optax.GradientTransformation]"


class DivergedError(RuntimeError):
    """The loss, or its gradient, stopped being finite."""


class SGD(eqx.Module):
    """Stochastic gradient descent with momentum, weight decay and a learning rate that falls to 0 like a cosine.

    Weight decay adds weight_decay · θ to the gradient, before the momentum.  Call it with the number of steps for the
    optax transformation.

    Args:
        learning_rate: at the first step, > 0.
        momentum: of the past in the direction, 0 <= momentum < 1.
        weight_decay: >= 0.
    """

    learning_rate: int | float = eqx.field(static=True, default=0.05, converter=known_number)
    momentum: int | float = eqx.field(static=True, default=0.9, converter=known_number)
    weight_decay: int | float = eqx.field(static=True, default=5e-4, converter=known_number)

    def __check_init__(self):
        check_positive("learning_rate", self.learning_rate)
        check_positive("momentum", self.momentum, zero=True)
        check_positive("weight_decay", self.weight_decay, zero=True)
        if self.momentum >= 1:
            raise ValueError(f"momentum must be < 1, got {self.momentum}")

    def __call__(self, steps: int) -> "optax.GradientTransformation":
        """The transformation for a training of so many steps."""
        return _sgd(self.learning_rate, self.momentum, self.weight_decay, check_integer("steps", steps, 1))


@functools.cache
def _sgd(
    learning_rate: int | float, momentum: int | float, weight_decay: int | float, steps: int
) -> "optax.GradientTransformation":
    """Cached, so that equal ones share what is compiled."""
    import optax

    schedule = optax.schedules.cosine_decay_schedule(learning_rate, steps)
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum))


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """What a training run gave.

    Attributes:
        model: the classifier at the end.
        loss: cross-entropy of each step's batch, in the dtype of the model, shape (steps,).
        penalty: (γ/2)·mean ‖∇_x ℓ_i‖² of each step's batch, shape (steps,); 0 without a penalty.
        history: what `measure` gave, over the dimension `step`.
        manifest: what is needed to repeat the run.
    """

    model: Any
    loss: np.ndarray
    penalty: np.ndarray
    history: "xr.Dataset"
    manifest: dict[str, Any]


@dataclass(frozen=True, eq=False)
class ClassifierEnsemble:
    """Training runs that differ in their seed.

    Attributes:
        runs: one per seed.
        history: what `measure` gave, over the dimensions `seed` and `step`.
    """

    runs: tuple[TrainedClassifier, ...]
    history: "xr.Dataset"


def train_classifier(
    model: Callable[[Array], Array],
    images: Num[ArrayLike, "..."],
    labels: Shaped[ArrayLike, "..."],
    *,
    epochs: int,
    batch_size: int = 128,
    optimiser: Optimiser = SGD(),  # noqa: B008 - immutable
    poisoning: Callable[[Array, Array, PRNGKeyArray], tuple[Array, Array]] | None = None,
    augmentation: Callable[[Array, PRNGKeyArray], Array] | None = None,
    gradient_penalty: int | float = 0.0,
    seed: int = 0,
    measure: Measure | None = None,
    measure_at: Iterable[int] | None = None,
    folder: str | os.PathLike[str] | None = None,
    metadata: Mapping[str, str | int | float] | None = None,
    progress: bool | None = None,
) -> TrainedClassifier:
    """Train a classifier on labelled images by mini-batches.

    Each step lowers (1/B) Σ_i [ℓ_i + (γ/2) ‖∇_x ℓ_i‖²] over a batch of B images, ℓ_i the softmax cross-entropy of image
    i and ∇_x its gradient in the pixels, after augmentation and by double back-propagation: the paper's penalty (T6),
    on the gradient of the loss, not on that of the logits as in T1.  Every epoch takes the images in a new random
    order, ⌊n/B⌋ batches of them.  Everything random follows from the seed and the number of the step, so that a run
    that was killed and is continued gives what it would have given, on a CPU bit for bit.

    Args:
        model: a function of one image (height, width, channels) with logits (C,) as its result, an Equinox module all
            of whose floating-point arrays are trained: a `Classifier`, or any other.
        images: shape (n, height, width, channels); they are brought to the dtype of the model.
        labels: classes 0..C − 1, integers or booleans, shape (n,).
        epochs: passes over the images, an integer >= 1.
        batch_size: B, an integer from 1 to n.
        optimiser: an optax transformation, or a function that makes one for a number of steps.
        poisoning: (image, label, key) → image, label, at every visit of an image and before its augmentation, such as
            `StochasticPoison`.
        augmentation: (image, key) → image of the same shape and dtype, such as those of this package.
        gradient_penalty: γ >= 0; steps with it take 2 to 5 times as long.  0 costs nothing.
        seed: of the order of the images and of their augmentation, an integer >= 0.
        measure: (model, step) → numbers, or arrays, by name, for the history.
        measure_at: the steps at which it is called, from 0 (before training) to the last; by default before training
            and after every epoch.
        folder: where a checkpoint is kept after every epoch and measurement: the same call continues from there, and
            when all is done reads the result.  A call with more epochs goes on from there too, where the optimiser does
            not depend on their number (`SGD`'s learning rate does): the result is that of one run of them all.
        metadata: anything else that tells this run from another, such as the name of the data, or what is in a list, a
            dictionary or an ordinary object that `measure` reads; of the rest it closes over a change is noticed.
        progress: a progress bar; by default on a terminal and in a notebook.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; ValueError also for a damaged checkpoint.
        DivergedError: naming the step at which the loss or its gradient was not finite.
        FileExistsError: `folder` holds something else: a run with other arguments, on another platform, with other
            versions.
        OSError: a checkpoint cannot be written.

    >>> import jax
    >>> from kpoison.datasets import load_digits
    >>> from kpoison.networks import LinearSoftmax
    >>> digits = load_digits()
    >>> model = LinearSoftmax((8, 8, 1), 10, key=jax.random.key(0))
    >>> result = train_classifier(model, digits.images, digits.labels, epochs=10)
    >>> result.loss.shape, bool(result.loss[-1] < 0.5 * result.loss[0])
    ((140,), True)
    """
    images, labels = _checked_data(model, images, labels)
    epochs, batch_size = check_integer("epochs", epochs, 1), check_integer("batch_size", batch_size, 1)
    if batch_size > len(images):
        raise ValueError(f"batch_size must be at most the number of images, {len(images)}, got {batch_size}")
    seed = check_integer("seed", seed, 0)
    check_positive("gradient_penalty", gradient_penalty, zero=True)
    _check_poisoning(poisoning, images[0], labels[0])
    _check_augmentation(augmentation, images[0])
    for name, value in (metadata or {}).items():
        if not isinstance(value, str):
            check_real(f"metadata[{name!r}]", value)
    steps_per_epoch = len(images) // batch_size
    steps = epochs * steps_per_epoch
    measurements = Measurements.checked(measure, measure_at, steps, steps_per_epoch)
    transformation = _as_transformation(optimiser, steps)

    trained, rest = eqx.partition(model, eqx.is_inexact_array)
    # A key of its own: the model may have been drawn with the plain one.
    key = jax.random.fold_in(jax.random.key(seed), 0x7472616E)
    penalty = jnp.asarray(gradient_penalty, images.dtype) if np.asarray(gradient_penalty) > 0 else None
    setup = Setup(rest, transformation, poisoning, augmentation, penalty, key, batch_size, steps_per_epoch)
    one_epoch = State.initial(trained, transformation, steps_per_epoch, images.dtype)
    state = one_epoch.recording(steps)
    manifest = {
        **_versions(),
        "dtype": str(images.dtype),
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "gradient_penalty": float(gradient_penalty),
        "measure": None if measure is None else function_hash(measure),
        "measure_at": [int(step) for step in measurements.at],
        "data_hash": hash_of(images, labels),
        "metadata": dict(metadata or {}),
    }
    checkpoints = None
    if folder is not None:
        # Of one epoch, so that more epochs are the same run, going on.
        manifest["initial_hash"] = tree_hash((one_epoch, setup))
        manifest["program_hash"] = program_hash(setup, one_epoch, images, labels)
        checkpoints = Checkpoints(Path(folder).expanduser(), manifest)
        state = _resumed(checkpoints, state, measurements)

    ends = {*range(steps_per_epoch, steps + 1, steps_per_epoch), *measurements.at} - {0}
    step = int(state.step)
    if step == 0:
        measurements.take(model, 0)
    with progress_bar(progress, unit="step")(total=steps, initial=step) as bar:
        for end in sorted(end for end in ends if end > step):
            order = epoch_order(key, jnp.asarray(step // steps_per_epoch, jnp.int32), len(images))
            state = advance(setup, state, order, images, labels, end)
            _check_finite(state, steps_per_epoch)
            measurements.take(eqx.combine(state.trained, rest), end)
            if checkpoints is not None:
                checkpoints.keep(end, arrays_of(state) | measurements.arrays())
            bar.update(end - step)
            step = end
    result = eqx.combine(state.trained, rest)
    manifest |= {"identity": identity_of(manifest)}
    return TrainedClassifier(
        result, np.asarray(state.loss), np.asarray(state.penalty), measurements.dataset(), manifest
    )


def train_classifiers(
    create: Callable[[PRNGKeyArray], Any],
    images: Num[ArrayLike, "..."],
    labels: Shaped[ArrayLike, "..."],
    *,
    seeds: int | Sequence[int],
    optimiser: Optimiser = SGD(),  # noqa: B008 - immutable
    folder: str | os.PathLike[str] | None = None,
    **options: Any,
) -> ClassifierEnsemble:
    """`train_classifier` for several seeds, one after the other: each has its own initial model and order of images.

    Args:
        create: a random key → a model, such as ``lambda key: LeNet((28, 28, 1), 10, key=key)``.
        images: as for `train_classifier`.
        labels: as for `train_classifier`.
        seeds: the seeds, different integers >= 0; or how many, from 0 on.
        optimiser: as for `train_classifier`.
        folder: where each seed gets a folder of its own, `seed-N`, with its checkpoints.
        **options: further arguments of `train_classifier`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; others as `train_classifier`.
    """
    import optax
    import xarray as xr

    given: Any = seeds
    chosen = list(range(check_integer("seeds", seeds, 1))) if is_integer(seeds) else list(given)
    chosen = [check_integer("seeds", seed, 0) for seed in chosen]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds must be different and at least one, got {chosen}")
    if not callable(create):
        raise TypeError(f"create must be a function of a random key, got {type(create).__name__}")
    if folder is not None:
        folder = Path(folder).expanduser()
        folder.mkdir(exist_ok=True)
    if not isinstance(optimiser, optax.GradientTransformation) and callable(optimiser):
        optimiser = functools.cache(optimiser)  # one transformation for all, so that the training is compiled once
    runs = tuple(
        train_classifier(
            create(jax.random.key(seed)),
            images,
            labels,
            seed=seed,
            optimiser=optimiser,
            folder=None if folder is None else folder / f"seed-{seed}",
            **options,
        )
        for seed in chosen
    )
    return ClassifierEnsemble(runs, xr.concat([run.history for run in runs], xr.IndexVariable("seed", chosen)))


def _checked_data(model: Any, images: Any, labels: Any) -> tuple[Array, Array]:
    """Images in the dtype of the model, and labels."""
    trained = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    if not callable(model) or not trained:
        raise TypeError(f"model must be a function of one image with arrays to train, got {type(model).__name__}")
    images = check_points("images", images, 3).astype(jnp.result_type(*trained))
    try:
        logits = eqx.filter_eval_shape(model, images[0])
    except (TypeError, ValueError) as error:
        raise ValueError(f"model must accept an image of shape {images.shape[1:]}: {error}") from error
    if getattr(logits, "ndim", None) != 1 or len(logits.shape) != 1 or logits.shape[0] < 2:
        raise ValueError(f"model must return logits (C,) with C >= 2 for one image, got {logits}")
    labels = plain_array("labels", labels)
    labels = np.asarray(labels.astype(int) if labels.dtype == bool else labels)
    check_real("labels", labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels must be integers, got dtype {labels.dtype}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels must have shape ({len(images)},), one for each image, got {labels.shape}")
    if labels.min() < 0 or labels.max() >= logits.shape[0]:
        raise ValueError(
            f"labels must lie in 0..{logits.shape[0] - 1}, as model has {logits.shape[0]} logits, got {labels.min()} "
            f"to {labels.max()}"
        )
    return images, jnp.asarray(labels, jnp.int32)


def _check_poisoning(poisoning: Any, image: Array, label: Array) -> None:
    if poisoning is None:
        return
    if not callable(poisoning):
        raise TypeError(f"poisoning must be a function (image, label, key), got {type(poisoning).__name__}")
    made = eqx.filter_eval_shape(poisoning, image, label, jax.random.key(0))
    found = [(getattr(each, "shape", None), getattr(each, "dtype", None)) for each in jax.tree.leaves(made)]
    if found != [(image.shape, image.dtype), ((), label.dtype)]:
        raise ValueError(
            f"poisoning must keep shapes and dtypes, {image.shape} {image.dtype} and () {label.dtype}, got {found}"
        )


def _check_augmentation(augmentation: Any, image: Array) -> None:
    if augmentation is None:
        return
    if not callable(augmentation):
        raise TypeError(f"augmentation must be a function (image, key), got {type(augmentation).__name__}")
    made = eqx.filter_eval_shape(augmentation, image, jax.random.key(0))
    found = getattr(made, "shape", None), getattr(made, "dtype", None)
    if found != (image.shape, image.dtype):
        raise ValueError(
            f"augmentation must keep shape and dtype, {image.shape} {image.dtype}, got {found[0]} {found[1]}"
        )


def _as_transformation(optimiser: Any, steps: int) -> "optax.GradientTransformation":
    import optax

    made = optimiser
    if not isinstance(optimiser, optax.GradientTransformation) and callable(optimiser):
        made = optimiser(steps)
    if not isinstance(made, optax.GradientTransformation):
        raise TypeError(
            "optimiser must be an optax.GradientTransformation, or a function of the number of steps that makes one, "
            f"got {type(optimiser).__name__}"
        )
    return made


def _resumed(checkpoints: Checkpoints, state: State, measurements: Measurements) -> State:
    """The state and the measurements of the newest checkpoint, where there is one."""
    newest = checkpoints.newest()
    if newest is None:
        return state
    arrays = checkpoints.read(newest)
    measurements.restore(arrays)
    return with_arrays(state, arrays).recording(len(state.loss))


def _check_finite(state: State, steps_per_epoch: int) -> None:
    failed = int(state.failed)
    if failed > 0:
        raise DivergedError(
            f"the loss or its gradient is not finite at step {failed} (epoch {(failed - 1) // steps_per_epoch + 1}): "
            f"the loss is {float(state.loss[failed - 1])}.  Lower the learning rate or the gradient penalty"
        )


def _versions() -> dict[str, str]:
    import optax

    return {
        "kpoison_version": __version__,
        "jax_version": jax.__version__,
        "optax_version": optax.__version__,
        "platform": jax.default_backend(),
        "device": jax.local_devices()[0].device_kind,
    }
