"""What a choice of kernel and ridge is judged by; a new objective is a function here and a line in `OBJECTIVES`.

Each is a pure function of a posterior, a ridge and, for "held-out", other data; the smaller the better.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison.laws import degrees_of_freedom, leave_one_out, log_marginal_likelihood, predict
from kpoison.ridge import Posterior

__all__ = ["OBJECTIVES", "HeldOut", "Objective"]

HeldOut = tuple[Float[Array, "q ..."], Float[Array, "q *C"]]
"""Points and targets that nothing is fitted to."""


def _mean_square(residuals: Array, weights: Array) -> Float[Array, ""]:
    """Over points by their weights, summed over outputs."""
    squares = jnp.sum(residuals.reshape(len(residuals), -1) ** 2, axis=1)
    return jnp.sum(weights * squares) / jnp.sum(weights)


def _left_out(clean: Posterior, ridge: Array, held_out: HeldOut | None) -> Float[Array, ""]:
    return _mean_square(clean.y - leave_one_out(clean, ridge), clean.observations.multiplicities)


def _generalised(clean: Posterior, ridge: Array, held_out: HeldOut | None) -> Float[Array, ""]:
    """Generalised cross-validation (Golub, Heath, Wahba 1979): every leverage taken as the mean one."""
    weights = clean.observations.multiplicities
    residuals = clean.y - predict(clean, clean.X, ridge)
    left = 1 - degrees_of_freedom(clean, ridge) / jnp.sum(weights)
    return _mean_square(residuals, weights) / left**2


def _evidence(clean: Posterior, ridge: Array, held_out: HeldOut | None) -> Float[Array, ""]:
    """−log p(y) for each point."""
    return -log_marginal_likelihood(clean, ridge) / len(clean.X)


def _held_out(clean: Posterior, ridge: Array, held_out: HeldOut | None) -> Float[Array, ""]:
    assert held_out is not None
    points, targets = held_out
    return _mean_square(targets - predict(clean, points, ridge), jnp.ones(len(points), points.dtype))


class Objective(NamedTuple):
    """What is minimised.

    Attributes:
        value: of a posterior at a ridge, and other data.
        positive: whether it is, so that its logarithm is searched.
    """

    value: Callable[[Posterior, Array, HeldOut | None], Float[Array, ""]]
    positive: bool = True


OBJECTIVES = {
    "leave-one-out": Objective(_left_out),
    "generalised-cross-validation": Objective(_generalised),
    "marginal-likelihood": Objective(_evidence, positive=False),
    "held-out": Objective(_held_out),
}
