"""Poisons that are drawn anew at every visit of an image."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from kpoison._typing import Scalar
from kpoison._validation import check_fraction, check_integer

__all__ = ["StochasticPoison"]


class StochasticPoison(eqx.Module):
    """A dirty-label backdoor for `train_classifier` whose poisons are drawn at every visit.

    An image that is not of the target class is shown with the trigger and the target's label with probability θ, else
    as it is, each time that a batch takes it.  In expectation the loss gives it the weight 1 − θ as it is, and θ with
    the trigger (L13).  Of the whole training set the share θ · (images of other classes)/n is poisoned, on average.

    Args:
        trigger: a function of one image (height, width, channels), of the same shape and dtype.
        target: the attacker's class.
        probability: θ, 0 < θ <= 1.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """

    trigger: Callable[[Array], Array]
    target: int = eqx.field(static=True)
    probability: Float[Array, ""]

    def __init__(self, trigger: Callable[[Array], Array], target: int, probability: Scalar):
        if not callable(trigger):
            raise TypeError(f"trigger must be a function of one image, got {type(trigger).__name__}")
        probability = check_fraction("probability", probability, one=True)
        self.trigger, self.target = trigger, check_integer("target", target, 0)
        self.probability = jnp.asarray(probability, float)

    def __call__(
        self, image: Float[Array, "height width channels"], label: Int[Array, ""], key: PRNGKeyArray
    ) -> tuple[Float[Array, "height width channels"], Int[Array, ""]]:
        """The image and its label at one visit."""
        chosen: Bool[Array, ""] = jax.random.bernoulli(key, self.probability) & (label != self.target)
        poisoned = jnp.where(chosen, self.trigger(image), image)
        return poisoned, jnp.where(chosen, jnp.asarray(self.target, label.dtype), label)
