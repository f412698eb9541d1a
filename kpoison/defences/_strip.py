"""STRIP: an input with a trigger keeps its prediction under any other image that is laid over it (Gao et al. 2019)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from kpoison._typing import Scalar
from kpoison._validation import (
    boundary,
    check_finite,
    check_floating,
    check_fraction,
    check_integers,
    check_name,
    check_numbers,
    check_range,
    is_concrete,
    plain_array,
)
from kpoison.defences.detection import Detection, in_order_of_content

__all__ = ["Entropy", "NullFit", "Superposition", "class_scores", "strip"]

Superposition: TypeAlias = Literal["blend", "sum"]
"""(1 − opacity)·input + opacity·overlay, or the paper's input + overlay, clipped to the range of the pixels."""

Entropy: TypeAlias = Literal["softmax", "votes"]
"""The mean entropy of softmax(scores/temperature), as in the paper, or the entropy of the predicted classes."""

NullFit: TypeAlias = Literal["normal", "empirical"]
"""The quantile of a normal distribution with the mean and the deviation of the clean entropies, or their own."""

_DRAWN_AT_ONCE = 128

ASSUMES = (
    "the trigger works on any input and outlasts another image laid over it, which changes what is predicted for a "
    "clean input; clean images of the same kind are at hand"
)


def class_scores(outputs: Any, number: int) -> Float[Array, "q C"]:
    """What a predictor makes of so many inputs, as one score for each class; a sign score f becomes (−f, f).

    Raises:
        TypeError, ValueError: for outputs that are not floating, not finite, or neither (q,) nor (q, C) with C >= 2.
    """
    outputs = check_floating("what f returns", outputs)
    if outputs.shape[:1] != (number,) or outputs.ndim > 2 or (outputs.ndim == 2 and outputs.shape[1] < 2):
        raise ValueError(
            f"f must return scores of shape ({number},) or ({number}, C) with C >= 2 for {number} inputs, got "
            f"{outputs.shape}"
        )
    check_finite("what f returns", outputs)
    return jnp.stack([-outputs, outputs], axis=1) if outputs.ndim == 1 else outputs


def _check(arguments: dict[str, Any]) -> None:
    if not callable(arguments["f"]):
        raise TypeError(f"f must be a function of a batch of inputs, got {type(arguments['f']).__name__}")
    x, clean = (check_floating(name, arguments[name]) for name in ("x", "clean"))
    for name, points, least in (("x", x, 1), ("clean", clean, 2)):
        if points.ndim < 2 or len(points) < least or points.size == 0:
            raise ValueError(f"{name} must hold at least {least} input(s), shape (q, ...), got {points.shape}")
        check_finite(name, points)
    if clean.shape[1:] != x.shape[1:]:
        raise ValueError(f"clean must hold inputs of shape {x.shape[1:]}, as x does, got {clean.shape[1:]}")
    given = plain_array("clean", arguments["clean"])
    if is_concrete(given):  # by NumPy, as under a trace JAX would make a traced array of it
        rows = np.asarray(given)
        clean = jnp.asarray(rows[in_order_of_content(rows)[0]])
    arguments.update(x=x, clean=clean.astype(x.dtype))
    check_integers(arguments, overlays=1, seed=0, points_at_once=1)
    for name, known in (("superposition", Superposition), ("entropy", Entropy), ("null", NullFit)):
        arguments[name] = check_name(name, arguments[name], get_args(known))
    check_numbers(arguments, "temperature")
    for name in ("opacity", "false_rejection"):
        arguments[name] = check_fraction(name, arguments[name])
    arguments["clip"] = check_range("clip", arguments["clip"])


@boundary(_check)
def strip(
    f: Callable[[Array], Array],
    x: Float[ArrayLike, "q ..."],
    clean: Float[ArrayLike, "m ..."],
    *,
    overlays: int = 100,
    superposition: Superposition = "blend",
    opacity: Scalar = 0.5,
    clip: tuple[float | int, float | int] | None = None,
    entropy: Entropy = "softmax",
    temperature: Scalar = 1.0,
    false_rejection: Scalar = 0.01,
    null: NullFit = "normal",
    seed: int = 0,
    points_at_once: int = 4096,
) -> Detection:
    """Suspect inputs whose prediction hardly depends on what is laid over them (STRIP: Gao et al., ACSAC 2019).

    Each input is superimposed with clean images drawn at random; the entropy H of the predictions is small where a
    trigger decides them all.  Suspected are inputs with an H below the `false_rejection` quantile of clean inputs,
    whose entropies are found in the same way, each without itself among its overlays.  What is drawn for an input
    depends on what it is, not on its place: equal inputs have equal scores, and the order of inputs and of clean images
    does not matter (of clean images under a trace it decides what is drawn).

    The scores of a ridge predictor are no probabilities: `softmax` takes them as logits in units of the temperature
    (a sign score f as (−f, f), so that p = 1/(1 + exp(−2f/T))), of which with T far above the scores only their
    squares matter and with T far below only those near a decision; `votes` needs none.  For a network with logits T = 1
    is the paper's.

    Args:
        f: a function of a batch (b, ...): sign scores (b,) or scores (b, C), such as
            ``lambda x: kp.predict(clean, x, ridge, poison)`` or ``jax.vmap(network)``; it need not be traceable.
        x: inputs to judge, shape (q, ...).
        clean: inputs without trigger, at least two and not among x, shape (m, ...).
        overlays: N, clean inputs laid over each one, drawn with replacement.
        superposition: "blend" or "sum".
        opacity: of the overlay in a blend, between 0 and 1.
        clip: (low, high), the range of the pixels, to which superpositions are clipped; None: no clipping.
        entropy: "softmax" or "votes".
        temperature: T > 0, in units of the scores.
        false_rejection: the quantile of the clean entropies; of new clean inputs that fraction is suspected where m is
            large.
        null: how the quantile is found: "normal", as in the paper, or "empirical", for 1/false_rejection and more
            clean inputs.
        seed: of the overlays.
        points_at_once: how many superpositions f is given at a time, at least those of one input.

    Returns:
        Scores −H in bits, shape (q,).  Where f is constant all entropies are equal and nothing is suspected.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, and for scores that are not finite.

    >>> import jax.numpy as jnp
    >>> clean = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.8, 0.0], [-0.7, 0.0]])
    >>> found = strip(lambda x: x[:, 0] + 5 * x[:, 1], jnp.array([[1.0, 9.0]]), clean, overlays=20)
    >>> found.suspected.tolist()
    [True]
    """
    x, clean = jnp.asarray(x), jnp.asarray(clean)
    many, keys = len(clean), jax.random.split(jax.random.key(seed))
    others = _draws(keys[0], clean, overlays, many - 1)
    others += others >= jnp.arange(many)[:, None]

    def entropies(inputs: Array, chosen: Int[Array, "n N"]) -> Array:
        step = min(len(inputs), max(1, points_at_once // overlays))
        # Rows that fill the last batch, so that f is compiled for one shape.
        missing = -len(inputs) % step
        inputs, chosen = (jnp.concatenate([rows, rows[:1].repeat(missing, axis=0)]) for rows in (inputs, chosen))
        parts = []
        for start in range(0, len(inputs), step):
            batch, laid_over = inputs[start : start + step, None], clean[chosen[start : start + step]]
            mixed = _superimposed(batch, laid_over, jnp.asarray(opacity, x.dtype), clip, superposition)
            scores = class_scores(f(mixed.reshape(-1, *x.shape[1:])), step * overlays)
            parts.append(_entropy(scores.reshape(step, overlays, -1), entropy, temperature))
        return jnp.concatenate(parts)[: len(inputs) - missing]

    quantile = _quantile(entropies(clean, others), false_rejection, null)
    scores = -entropies(x, _draws(keys[1], x, overlays, many))
    # Equal entropies may be told apart by rounding.
    threshold = 16 * jnp.finfo(x.dtype).eps * (1 + jnp.abs(quantile)) - quantile
    return Detection(scores, scores > threshold, threshold, ASSUMES)


def _draws(key: PRNGKeyArray, inputs: Float[Array, "n ..."], overlays: int, many: int) -> Int[Array, "n N"]:
    """Which of so many are laid over each input; compiled for a few numbers of inputs."""
    number = len(inputs)
    filled = jnp.pad(inputs, ((0, -number % _DRAWN_AT_ONCE), *[(0, 0)] * (inputs.ndim - 1)))
    return _drawn(key, filled, jnp.asarray(many), overlays)[:number]


@partial(jax.jit, static_argnames=("overlays",))
def _drawn(key: PRNGKeyArray, inputs: Float[Array, "n ..."], many: Int[Array, ""], overlays: int) -> Int[Array, "n N"]:
    """By a key of each input's own that its numbers in single precision make."""
    flat = inputs.reshape(len(inputs), -1).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(jnp.where(flat == 0, 0, flat), jnp.uint32)  # 0 and −0 are the same
    factors = jax.random.bits(key, bits.shape[1:], jnp.uint32) | 1
    hashes = jnp.sum(bits * factors[None], axis=1, dtype=jnp.uint32)

    def own(number: Array) -> Array:
        return jax.random.randint(jax.random.fold_in(key, number), (overlays,), 0, many)

    return jax.vmap(own)(hashes)


@partial(jax.jit, static_argnames=("superposition",))
def _superimposed(
    batch: Float[Array, "q 1 ..."],
    laid_over: Float[Array, "q N ..."],
    opacity: Float[Array, ""],
    clip: tuple[Scalar, Scalar] | None,
    superposition: Superposition,
) -> Float[Array, "q N ..."]:
    mixed = (1 - opacity) * batch + opacity * laid_over if superposition == "blend" else batch + laid_over
    return mixed if clip is None else jnp.clip(mixed, *clip)


@partial(jax.jit, static_argnames=("entropy",))
def _entropy(scores: Float[Array, "q N C"], entropy: Entropy, temperature: Scalar) -> Float[Array, " q"]:
    """H of each input over its overlays, in bits."""
    if entropy == "softmax":
        logarithms = jax.nn.log_softmax(scores / jnp.asarray(temperature, scores.dtype), axis=2)
        return -jnp.mean(jnp.sum(jnp.exp(logarithms) * logarithms, axis=2), axis=1) / jnp.log(2)
    votes = jax.nn.one_hot(jnp.argmax(scores, axis=2), scores.shape[2], dtype=scores.dtype)
    return jnp.sum(jax.scipy.special.entr(jnp.mean(votes, axis=1)), axis=1) / jnp.log(2)


def _quantile(entropies: Float[Array, " m"], level: Scalar, null: NullFit) -> Float[Array, ""]:
    level = jnp.asarray(level, entropies.dtype)
    if null == "empirical":
        return jnp.quantile(entropies, level)
    # From the first one, so that equal ones have it as their mean to the last bit.
    mean = entropies[0] + jnp.mean(entropies - entropies[0])
    return mean + jax.scipy.special.ndtri(level) * jnp.std(entropies - mean, ddof=1)
