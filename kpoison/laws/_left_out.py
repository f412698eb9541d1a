"""Predictions of points that were left out, without a refit."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from kpoison._failures import program
from kpoison._linear_algebra import linear_solve
from kpoison._typing import Labels, Scalar
from kpoison._validation import check_classes, public
from kpoison.laws.inputs import CleanInputs
from kpoison.ridge import Observations, Posterior

__all__ = ["leave_one_out", "without_group"]

_ASKED = "the prediction without a point is that"


@public
def leave_one_out(clean: Posterior, ridge: Scalar, *, groups: Labels | None = None) -> Float[Array, "n *C"]:
    """The prediction at each training point of the predictor that was fitted without it, at the same ρ: no refit.

    f₋ᵢ(x_i) = y_i − (A⁻¹y)_i/(A⁻¹)_ii, A = K + ρ diag(1/w) at ρ = nλ of all points; in the mean loss without point i
    its ridge is λn/(n − w_i).  A point is left out with its whole weight, with its slopes where they are penalised, and
    the intercept is fitted anew.  Where points are left out together it is y_g − ((A⁻¹)_gg)⁻¹(A⁻¹y)_g.

    Args:
        clean: the fitted clean posterior, trained to the end.
        ridge: λ > 0 of the mean loss of all points.
        groups: a label for each point, integers, booleans or text, the same for those that are left out together:
            copies of an image, say, which would tell each other's labels.  By default each point alone.

    Returns:
        In the shape and units of y.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for a posterior that is stopped early or prepared
            for one poison.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> apart = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [0.0], [50.0]]), jnp.array([1.0, 1.0, -1.0]))
    >>> kp.leave_one_out(apart, 0.1).round(3).tolist()  # the copy tells, 1/(1 + 0.3)
    [0.769, 0.769, 0.0]
    >>> kp.leave_one_out(apart, 0.1, groups=[0, 0, 1]).round(3).tolist()
    [0.0, 0.0, 0.0]
    """
    inputs = _checked(clean, ridge)
    if groups is None and not inputs.clean.observations.slopes:
        residuals = _alone(inputs)
    else:
        observed = inputs.clean.observations
        residuals = _together(
            inputs, np.arange(observed.number), *_places(observed, _members(len(observed.points), groups))
        )
    return inputs.clean.y - residuals[: len(inputs.clean.X)].reshape(inputs.clean.y.shape)


def without_group(clean: Posterior, ridge: Scalar, group: Int[np.ndarray, " s"]) -> Float[Array, "s *C"]:
    """`leave_one_out` of one group alone, at its points: s solves in place of n, and a system of s equations.

    Args:
        clean: as there.
        ridge: λ > 0 of the mean loss of all points.
        group: the places of its points in X, all different.

    Raises:
        TypeError, ValueError: as there.
    """
    inputs = _checked(clean, ridge)
    named = _observations_of(inputs.clean.observations, group)
    places = np.arange(len(named))[None]
    residuals = _together(inputs, named, places, np.ones(places.shape, bool))[: len(group)]
    return inputs.clean.y[group] - residuals.reshape(len(group), *inputs.clean.y.shape[1:])


def _checked(clean: object, ridge: object) -> CleanInputs:
    inputs = CleanInputs.of(clean, ridge)
    if not inputs.clean.factor.abilities.any_right_hand_side:
        raise ValueError("clean must not be prepared for one poison: ask the posterior that it was made from")
    return inputs


def _observations_of(observed: Observations, group: Int[np.ndarray, " s"]) -> Int[np.ndarray, " m"]:
    """The values at these points, and after them the slopes."""
    r = observed.slopes
    return np.concatenate([group, (len(observed.points) + group[:, None] * r + np.arange(r)).ravel()])


def _members(number: int, groups: Labels | None) -> Int[np.ndarray, " n"]:
    """The group of each point, numbered from 0."""
    if groups is None:
        return np.arange(number)
    members, labels = check_classes("groups", groups, number, "points of X")
    if labels is None:
        raise TypeError("groups must be known, got traced ones: they decide what is solved")
    return members


def _places(observed: Observations, members: Int[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """Of each group the places of its observations, shape (groups, size), and which of them are no filling."""
    found = [_observations_of(observed, np.flatnonzero(members == group)) for group in range(members.max() + 1)]
    places = np.zeros((len(found), max(map(len, found))), int)
    real = np.zeros(places.shape, bool)
    for row, group in enumerate(found):
        places[row, : len(group)], real[row, : len(group)] = group, True
    return places, real


@program
def _alone(inputs: CleanInputs) -> Float[Array, "n C"]:
    return inputs.reference(_ASKED).left_out_residuals()


@program
def _together(
    inputs: CleanInputs,
    named: Int[ArrayLike, " m"],
    places: Int[ArrayLike, "groups size"],
    real: Bool[ArrayLike, "groups size"],
) -> Float[Array, "m C"]:
    """(S_gg)⁻¹(Sy)_g of the named observations, g their groups, by places among them; S the residuals' operator."""
    reference, named = inputs.reference(_ASKED), jnp.asarray(named)
    targets = reference.posterior.observed_targets
    columns = jax.nn.one_hot(named, len(targets), dtype=targets.dtype, axis=0)
    both = reference.posterior.factor.residuals(reference.rho, jnp.concatenate([columns, targets], axis=1))[named]
    S, left = both[:, : len(named)], both[:, len(named) :]

    def solve(group):
        places, real = group
        block = jnp.where(real[:, None] & real[None], S[places][:, places], jnp.eye(len(places), dtype=S.dtype))
        return linear_solve(block, jnp.where(real[:, None], left[places], 0))

    solved = jax.lax.map(solve, (jnp.asarray(places), jnp.asarray(real)))
    # What fills a group goes nowhere.
    where = jnp.where(jnp.asarray(real), jnp.asarray(places), len(named)).ravel()
    found = jnp.zeros((len(named) + 1, left.shape[1]), S.dtype)
    return found.at[where].set(solved.reshape(len(where), -1))[: len(named)]
