"""Clean-label feature collision (Poison Frogs): a point that looks like its base and is the target to the kernel."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._typing import Scalar
from kpoison._validation import (
    boundary,
    check_floating,
    check_integers,
    check_name,
    check_points,
    check_positive,
    is_concrete,
)
from kpoison.attacks.classes import checked_targets, common_class
from kpoison.attacks.descent import AllowedInputs, Norm, allowed_inputs, check_history, descend
from kpoison.attacks.poisoned import PoisonedData, poisoned_data
from kpoison.kernels.base import Kernel
from kpoison.poison import Poison
from kpoison.ridge import Fitted, check_fitted

if TYPE_CHECKING:
    import optax

__all__ = ["FeatureCollision", "collision_objective", "feature_collision"]


class FeatureCollision(eqx.Module):
    """Poisons that collide with a target in feature space.

    Attributes:
        data: the poisoned training set; its one probe is the target, and its target the class of the bases.
        poison: the same poisons for the laws of kpoison.
        squared_distance: ‖φ(x) − φ(t)‖²_H of the bases and of the poisons, shape (2, p), in the kernel's units.
        history: the objective after each step, shape (p, s), s = steps + 1.
    """

    data: PoisonedData
    poison: Poison
    squared_distance: Float[Array, "2 p"]
    history: Float[Array, "p s"]


def collision_objective(
    kernel: Kernel, x: Float[Array, "..."], target: Float[Array, "..."], base: Float[Array, "..."], beta: Scalar
) -> Float[Array, ""]:
    """‖φ(x) − φ(t)‖²_H + β‖x − b‖² at one point: k(x, x) − 2k(x, t) + k(t, t) + β‖x − b‖².

    For a kernel with a cusp at coincident points (Laplace, the NTK of ReLU: smoothness 0) it is not differentiable at
    x = t, where the distance grows like ‖x − t‖^½: what is returned as the gradient there is its symmetric part.
    """
    similarity = kernel.evaluate(x, x) - 2 * kernel.evaluate(x, target) + kernel.evaluate(target, target)
    return similarity + jnp.asarray(beta, x.dtype) * jnp.sum((x - base) ** 2)


def _check_collision(arguments: dict) -> None:
    clean = arguments["clean"]
    check_fitted("clean", clean)
    bases = check_points("bases", arguments["bases"], clean.X.ndim - 1, like=clean.X)
    target = check_floating("target", arguments["target"])
    target = check_points("target", target[None], clean.X.ndim - 1, like=clean.X)[0]
    if not (is_concrete(bases) and is_concrete(target)):
        raise TypeError("bases and target must be known numbers: call feature_collision outside of jit, vmap and grad")
    labels = checked_targets("labels", arguments["labels"], len(bases), "base", clean.y)
    check_positive("beta", arguments["beta"], zero=True)
    arguments["norm"] = check_name("norm", arguments["norm"], get_args(Norm))
    check_integers(arguments, steps=1)
    check_positive("ridge", arguments["ridge"])
    arguments.update(bases=bases, target=target, labels=labels)


@boundary(_check_collision)
def feature_collision(
    clean: Fitted,
    bases: Float[ArrayLike, "p ..."],
    labels: Num[ArrayLike, "..."],
    target: Float[ArrayLike, "..."],
    ridge: Scalar,
    *,
    beta: Scalar = 0.0,
    box: Sequence[Num[ArrayLike, "..."]] | None = None,
    ball: Scalar | None = None,
    norm: Norm = "linf",
    optimiser: "optax.GradientTransformation | None" = None,
    steps: int = 100,
) -> FeatureCollision:
    """Clean-label feature collision ("Poison Frogs": Shafahi et al. 2018, arXiv 1804.00792) for any kernel.

    Each base b is moved to the x that minimises ‖φ(x) − φ(t)‖²_H + β‖x − b‖², keeps its own, right label and is added
    to the training set, whose predictor then gives the target t some of that label.  Bases are independent of each
    other and are done at once.

    Args:
        clean: the clean posterior, whose kernel has the features.
        bases: inputs of the class that the target is to be given, shape (p, ...).
        labels: their clean labels, shape (p,) or (p, C), or one for all.
        target: t, one input.
        ridge: λ > 0 of the mean loss, for the predicted efficacy with n = n_c + p.
        beta: β >= 0, the price of leaving the base, in units of k per squared unit of the inputs.
        box: (low, high), numbers or arrays of the shape of an input, that inputs have to lie in.
        ball: the furthest that a poison may be from its base, > 0.
        norm: the ball's, "linf" or "l2".
        optimiser: of optax; by default L-BFGS without constraints, Adam of rate 0.01 with them.  Every step is
            followed by the projection onto box and ball.
        steps: how many, >= 1.

    Returns:
        The best poisons seen, with the law's efficacy at the target.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, also where a base lies outside of the box; where
            the objective becomes infinite or NaN.

    A kernel with a cusp at coincident points (Laplace, the NTK of ReLU) has a kink at x = t: a poison that gets there
    is left there, since the best point seen is returned.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [2.0]]), jnp.array([1.0, -1.0]))
    >>> attack = feature_collision(clean, jnp.array([[1.2]]), -1.0, jnp.array([0.0]), 0.1, ball=0.5)
    >>> round(float(attack.poison.location[0, 0]), 3), bool(attack.data.efficacy[0] < 0)
    (0.7, True)
    """
    import optax

    X, t = jnp.asarray(bases), jnp.asarray(target)
    allowed = allowed_inputs(X, box, ball, norm, "bases")
    if optimiser is None:
        optimiser = optax.lbfgs() if box is None and ball is None else optax.adam(1e-2)
    beta = jnp.asarray(beta, X.dtype)
    moved, history, distances = _collide(clean.kernel, X, t, beta, allowed, optimiser, steps)
    check_history(history)
    poison = Poison(moved, jnp.asarray(labels), 1.0)
    data = poisoned_data(clean, poison, t[None], ridge, common_class(jnp.asarray(labels)))
    return FeatureCollision(data, poison, distances, history)


@eqx.filter_jit
def _collide(
    kernel: Kernel,
    bases: Float[Array, "p ..."],
    target: Float[Array, "..."],
    beta: Float[Array, ""],
    allowed: AllowedInputs,
    optimiser: "optax.GradientTransformation",
    steps: int,
) -> tuple[Array, Array, Array]:
    """Poisons, histories and squared distances."""

    def one(base):
        moved, history = descend(
            lambda x: collision_objective(kernel, x, target, base, beta),
            base,
            lambda x: allowed.project(x, base),
            optimiser,
            steps,
        )
        distances = jnp.stack([collision_objective(kernel, x, target, x, beta) for x in (base, moved)])
        return moved, history, distances

    moved, histories, distances = jax.vmap(one)(bases)
    return moved, histories, distances.T
