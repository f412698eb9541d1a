"""Neural Cleanse: the class that a small patch sends every image to is the backdoor's target (Wang et al. 2019)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from kpoison._failures import checked_result, program
from kpoison._typing import Scalar
from kpoison._validation import (
    boundary,
    check_finite,
    check_floating,
    check_integer,
    check_integers,
    check_numbers,
    check_range,
    check_real,
    is_concrete,
)
from kpoison._watched import watched
from kpoison.defences._strip import class_scores
from kpoison.defences.detection import in_order_of_content

__all__ = ["NeuralCleanse", "anomaly_index", "neural_cleanse"]

ASSUMES = (
    "the trigger covers few pixels, so that its class is reached by a smaller mask than the others; at most a minority "
    "of three or more classes are targets"
)

_CONSISTENCY = 1.4826  # median absolute deviation to standard deviation, of a normal distribution


class NeuralCleanse(eqx.Module):
    """Triggers found by turning a predictor around, one for each class, and which classes are suspected.

    Attributes:
        masks: opacity of the trigger at each pixel, from 0 to 1, shape (C, H, W).
        patterns: its pixels, shape (C, H, W, channels); they mean little where the mask is near 0.
        norms: ‖mask‖₁, shape (C,); ∞ where no mask took enough images to the class (masks and patterns are then the
            last ones), 0 where f gives it to every image as it is.
        success_rates: the fraction of the images not of the class that the trigger sends to it, shape (C,); NaN where
            there are none.
        anomaly_index: of the norms, shape (C,).
        suspected: classes with an index above 2 and a norm below the median, shape (C,).
        assumes: what the defence takes for granted, in words.
    """

    masks: Float[Array, "C H W"]
    patterns: Float[Array, "C H W channels"]
    norms: Float[Array, " C"]
    success_rates: Float[Array, " C"]
    anomaly_index: Float[Array, " C"]
    suspected: Bool[Array, " C"]
    assumes: str = eqx.field(static=True)


def anomaly_index(norms: Float[ArrayLike, " C"]) -> Float[Array, " C"]:
    """|norm − median|/(1.4826 · MAD), MAD the median of |norm − median|, over the norms that are finite.

    Of a normal distribution 5 % are above 2.  Two norms have both an index of 1/1.4826 whatever they are, so that
    nothing can be told from it.  Where more than half are equal the MAD is 0: the index is 0 for them and ∞ for others.
    Norms that differ by less than the root of the precision of their dtype are equal.

    Args:
        norms: shape (C,); those that are not finite have the index NaN.

    Raises:
        TypeError, ValueError: for what is not a floating-point array of one axis.

    >>> import jax.numpy as jnp
    >>> [round(float(index), 3) for index in anomaly_index(jnp.array([10.0, 12.0, 1.0, 14.0]))]
    [0.337, 0.337, 3.372, 1.012]
    """
    norms = check_floating("norms", norms)
    if norms.ndim != 1 or norms.size == 0:
        raise ValueError(f"norms must have shape (C,), got {norms.shape}")
    values = jnp.where(jnp.isfinite(norms), norms, jnp.nan)
    median = jnp.nanmedian(values)
    deviations = jnp.abs(values - median)
    deviations = jnp.where(deviations <= jnp.finfo(norms.dtype).eps ** 0.5 * jnp.abs(median), 0, deviations)
    return jnp.where(deviations == 0, 0, deviations / (_CONSISTENCY * jnp.nanmedian(deviations)))


def _check(arguments: dict[str, Any]) -> None:
    f, images, shape = arguments["f"], check_floating("images", arguments["images"]), arguments["image_shape"]
    if not callable(f):
        raise TypeError(f"f must be a function of a batch of images, got {type(f).__name__}")
    if images.size == 0:
        raise ValueError(f"images must not be empty, got shape {images.shape}")
    if shape is None:
        if images.ndim != 4:
            raise ValueError(
                f"images must have shape (n, H, W, C), flattened ones need image_shape=(H, W, C), got {images.shape}"
            )
        arguments["image_shape"] = images.shape[1:]
    else:
        shape = tuple(check_integer("image_shape", length, 1) for length in shape)
        own = [shape, (math.prod(shape),)] + ([shape[:2]] if shape[2:] == (1,) else [])
        if len(shape) != 3 or images.shape[1:] not in own:
            raise ValueError(
                f"image_shape must be (H, W, C) of images of shape {images.shape[1:]}, got {arguments['image_shape']}"
            )
        arguments["image_shape"] = shape
    check_finite("images", images)
    arguments["images"] = images
    check_integers(arguments, steps=1, patience=1, seed=0)
    check_integers(arguments, optional=True, classes_at_once=1)
    check_numbers(arguments, "success", "cost", "multiplier", "learning_rate", "temperature")
    if float(arguments["success"]) > 1:
        raise ValueError(f"success must be a rate > 0 and <= 1, got {arguments['success']}")
    if not float(arguments["multiplier"]) > 1:
        raise ValueError(f"multiplier must be > 1, got {arguments['multiplier']}")
    arguments["clip"] = check_range("clip", arguments["clip"])
    try:
        outputs = jax.eval_shape(f, images)
    except (TypeError, ValueError) as error:
        raise ValueError(f"f must accept a batch of shape {images.shape} and be traceable by JAX: {error}") from error
    check_real("what f returns", outputs)


@boundary(_check)
def neural_cleanse(
    f: Callable[[Array], Array],
    images: Float[ArrayLike, "n ..."],
    *,
    image_shape: Sequence[int] | None = None,
    clip: tuple[float | int, float | int] | None = None,
    steps: int = 500,
    success: Scalar = 0.99,
    cost: Scalar = 1e-3,
    patience: int = 5,
    multiplier: Scalar = 2.0,
    learning_rate: Scalar = 0.1,
    temperature: Scalar = 1.0,
    seed: int = 0,
    classes_at_once: int | None = None,
) -> NeuralCleanse:
    """Find for each class the smallest trigger that sends clean images there (Wang et al., IEEE S&P 2019).

    Adam minimises the cross-entropy of f((1 − m)·x + m·pattern) with the class, plus a cost times ‖m‖₁, over masks m
    and patterns in the range of the pixels.  The cost begins at 0, becomes `cost` after `patience` steps of success in
    a row, then is multiplied by the multiplier after as many more, and divided by its 1.5-th power after as many steps
    without.  Of all masks with success the smallest is kept.  Unlike in the paper, images that f gives the class anyway
    count for nothing there.

    With two classes (f of shape (n,), whose classes are −1 and 1 in this order, or (n, 2)) both have the anomaly index
    1/1.4826 and none is suspected, whatever the norms: compare these.  With three or four the median absolute deviation
    is that of a handful of numbers, and a clean predictor often has a class with an index above 2.

    Args:
        f: a function of a batch, of the shape of `images`, that JAX can differentiate: sign scores (n,) or scores
            (n, C), such as ``jax.vmap(kp.predictor(clean, ridge, poison))`` or ``jax.vmap(network)``.
        images: clean ones, of several classes, shape (n, H, W, channels), or (n, D) with `image_shape`.  Each step
            takes the gradient of f at all of them for every class: some hundred are enough.
        image_shape: (H, W, channels) of flattened images, or of grey ones (n, H, W).
        clip: (low, high), the range of the pixels; by default the least and the largest one.
        steps: of Adam.
        success: the rate of images sent to the class that counts as success.
        cost: λ at first, in units of the cross-entropy in nats for each pixel that is covered.
        patience: steps after which the cost is changed.
        multiplier: of the cost, > 1.
        learning_rate: of Adam, whose β are (0.5, 0.9), on arctanh(2m − 1) and the same of the pattern.
        temperature: T > 0 by which the scores are divided to be logits.
        seed: of the masks and patterns at the start.
        classes_at_once: how many classes are optimised side by side; by default all.  Fewer need less memory.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import jax.numpy as jnp
    >>> found = neural_cleanse(lambda x: x[:, 0, 0, 0] - 0.5, jnp.zeros((3, 2, 2, 1)), clip=(0, 1), steps=300)
    >>> [round(float(norm), 1) for norm in found.norms]  # all are of the first class; half a pixel makes the second
    [0.0, 0.5]
    """
    images = jnp.asarray(images)
    if is_concrete(images):
        images = images[in_order_of_content(np.asarray(images))[0]]
    assert image_shape is not None
    height, width, channels = image_shape
    low, high = (jnp.min(images), jnp.max(images)) if clip is None else (jnp.asarray(c, images.dtype) for c in clip)
    numbers = (success, cost, multiplier, learning_rate, temperature)
    search = _Search((height, width, channels), steps, patience, *(jnp.asarray(v, images.dtype) for v in numbers))
    found = _search_all(watched(f), search, images, low, high, jax.random.key(seed), classes_at_once)
    index = anomaly_index(found.norm)
    reached = jnp.where(jnp.isfinite(found.norm), found.norm, jnp.nan)
    suspected = (index > 2) & (reached < jnp.nanmedian(reached))
    return NeuralCleanse(found.mask[..., 0], found.pattern, found.norm, found.success, index, suspected, ASSUMES)


class _Trigger(eqx.Module):
    """A mask and a pattern, with the mask's norm and success; with an axis for classes or without."""

    mask: Float[Array, "*K H W 1"]
    pattern: Float[Array, "*K H W channels"]
    norm: Float[Array, "*K"]
    success: Float[Array, "*K"]


class _Search(eqx.Module):
    """The search for one class's trigger, as `neural_cleanse` describes it."""

    image_shape: tuple[int, int, int] = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    patience: int = eqx.field(static=True)
    success: Float[Array, ""]
    cost: Float[Array, ""]
    multiplier: Float[Array, ""]
    learning_rate: Float[Array, ""]
    temperature: Float[Array, ""]

    def run(
        self, f: Callable, images: Array, given: Array, low: Array, high: Array, wanted: Array, key: PRNGKeyArray
    ) -> _Trigger:
        """The smallest trigger found for the class `wanted`; `given` are the classes of the images as they are."""
        import optax

        stack = images.reshape(-1, *self.image_shape)
        others = (given != wanted).astype(images.dtype)
        number = jnp.sum(others)
        weights = others / jnp.maximum(number, 1)

        def trigger(parameters):
            mask, pattern = (0.5 * (jnp.tanh(part) + 1) for part in parameters)
            return mask, low + (high - low) * pattern

        def objective(parameters, cost):
            mask, pattern = trigger(parameters)
            marked = (1 - mask)[None] * stack + (mask * pattern)[None]
            scores = class_scores(f(marked.reshape(images.shape)), len(images))
            logarithms = jax.nn.log_softmax(scores / self.temperature, axis=1)
            entropy = -jnp.sum(weights * jnp.take(logarithms, wanted, axis=1))
            success = jnp.sum(weights * (jnp.argmax(scores, axis=1) == wanted))
            return entropy + cost * jnp.sum(mask), success

        adam = optax.adam(self.learning_rate, b1=0.5, b2=0.9)

        def step(state, _):
            parameters, moments, best, cost, ups, downs = state
            (_, success), slopes = jax.value_and_grad(objective, has_aux=True)(parameters, cost)
            mask, pattern = trigger(parameters)
            now = _Trigger(mask, pattern, jnp.sum(mask), success)
            good = success >= self.success
            # Until one has succeeded the last one is kept, with an infinite norm.
            failed = eqx.tree_at(lambda t: t.norm, now, jnp.full_like(now.norm, jnp.inf))
            latest = jax.tree.map(lambda a, b: jnp.where(good, a, b), now, failed)
            better = jnp.where(jnp.isinf(best.norm), True, good & (now.norm < best.norm))
            best = jax.tree.map(lambda a, b: jnp.where(better, a, b), latest, best)
            ups, downs = jnp.where(good, ups + 1, 0), jnp.where(good, 0, downs + 1)
            raised = jnp.where(cost == 0, self.cost, cost * self.multiplier)
            cost = jnp.where(ups >= self.patience, raised, cost)
            cost = jnp.where(downs >= self.patience, cost / self.multiplier**1.5, cost)
            ups, downs = (jnp.where(count >= self.patience, 0, count) for count in (ups, downs))
            changes, moments = adam.update(slopes, moments, parameters)
            return (optax.apply_updates(parameters, changes), moments, best, cost, ups, downs), None

        parameters = self._start(key, images.dtype)
        mask, pattern = trigger(parameters)
        worst = _Trigger(mask, pattern, jnp.full((), jnp.inf, images.dtype), jnp.zeros((), images.dtype))
        none = jnp.zeros((), int)
        state = (parameters, adam.init(parameters), worst, jnp.zeros((), images.dtype), none, none)
        best = jax.lax.scan(step, state, length=self.steps)[0][2]
        unneeded = _Trigger(
            jnp.zeros_like(mask), best.pattern, jnp.zeros_like(best.norm), jnp.full_like(number, jnp.nan)
        )
        return jax.tree.map(lambda a, b: jnp.where(number == 0, a, b), unneeded, best)

    def _start(self, key: PRNGKeyArray, dtype) -> tuple[Array, Array]:
        """Uniform masks and patterns, as tanh takes them."""
        height, width, channels = self.image_shape
        shapes = ((height, width, 1), (height, width, channels))
        uniform = (
            jax.random.uniform(own, shape, dtype, -0.999, 0.999)
            for own, shape in zip(jax.random.split(key), shapes, strict=True)
        )
        mask, pattern = (jnp.arctanh(part) for part in uniform)
        return mask, pattern


@program
def _search_all(
    f: Callable, search: _Search, images: Array, low: Array, high: Array, key: PRNGKeyArray, at_once: int | None
) -> _Trigger:
    scores = class_scores(f(images), len(images))
    scores = checked_result(scores, [(~jnp.all(jnp.isfinite(scores)), "f must be finite at the images")])
    given, classes = jnp.argmax(scores, axis=1), scores.shape[1]

    def one(each):
        wanted, own = each
        return search.run(f, images, given, low, high, wanted, own)

    every = (jnp.arange(classes), jax.random.split(key, classes))
    return jax.vmap(one)(every) if at_once is None else jax.lax.map(one, every, batch_size=at_once)
