"""What training and test points are drawn from: Gaussian components of one covariance, each with a label."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._failures import Failure
from kpoison._typing import Scalar
from kpoison._validation import (
    check_finite,
    check_floating,
    check_integer,
    check_positive,
    check_real,
    is_concrete,
    plain_array,
    public,
)
from kpoison.asymptotics.covariances import Covariance, covariance_of

__all__ = ["Backdoor", "Mixture", "backdoor_mixture"]

_SUM = "fractions must sum to 1"


class Mixture(eqx.Module):
    """Points of component k are N(μ_k, Σ) and have the label t_k; a share π_k of all points is of it.

    Args:
        means: μ, floating point, shape (K, d).
        covariance: Σ, one for all components: a matrix (d, d); or variances (d,) of uncorrelated coordinates.  A
            covariance known by its eigenvalues is of the second kind in the coordinates along its eigenvectors, which
            the means and every direction asked for are then given in; it costs O(dK).
        labels: t, shape (K,) for one output, (K, C) for C.
        fractions: π >= 0, of sum 1, shape (K,).

    Raises:
        TypeError, ValueError: naming the argument that does not fit, such as a covariance that is not symmetric or has
            a negative variance.  That a matrix is positive semi-definite is checked where it is decomposed.
    """

    means: Float[Array, "K d"]
    covariance: Float[Array, "..."]
    labels: Float[Array, "K *C"]
    fractions: Float[Array, " K"]

    def __init__(
        self,
        means: Num[ArrayLike, "K d"],
        covariance: Num[ArrayLike, "..."],
        labels: Num[ArrayLike, "K *C"],
        fractions: Num[ArrayLike, " K"],
    ):
        self.means = check_floating("means", means)
        if self.means.ndim != 2 or self.means.size == 0:
            raise ValueError(f"means must have shape (K, d), one row for each component, got {self.means.shape}")
        check_finite("means", self.means)
        self.covariance = _checked_covariance(covariance, self.means.shape[1], self.means.dtype)
        number, dtype = len(self.means), self.means.dtype
        for name, value in (("labels", labels), ("fractions", fractions)):
            check_real(name, value)
            check_finite(name, value)
        self.labels = jnp.asarray(plain_array("labels", labels), dtype)
        if self.labels.ndim not in (1, 2) or len(self.labels) != number or self.labels.size == 0:
            raise ValueError(
                f"labels must have shape ({number},) or ({number}, C), one for each component, got {self.labels.shape}"
            )
        self.fractions = jnp.asarray(plain_array("fractions", fractions), dtype)
        if self.fractions.shape != (number,):
            raise ValueError(
                f"fractions must have shape ({number},), one for each component, got {self.fractions.shape}"
            )
        if is_concrete(self.fractions):
            known = np.asarray(self.fractions)
            check_positive("fractions", known, zero=True, scalar=False)
            if abs(known.sum() - 1) > _sum_rounding(known):
                raise ValueError(f"{_SUM}, got {known.sum():.6g}")

    @property
    def outputs(self) -> tuple[int, ...]:
        """() for labels (K,), (C,) for labels (K, C)."""
        return self.labels.shape[1:]

    def failures(self, covariance: Covariance) -> list[Failure]:
        """What may be wrong with numbers that were not known when this was made."""
        pi, sum_ = self.fractions, jnp.sum(self.fractions)
        finite = jnp.all(jnp.isfinite(self.means)) & jnp.all(jnp.isfinite(self.labels))
        return [
            Failure(~jnp.all((pi >= 0) & jnp.isfinite(pi)), "fractions must be finite and >= 0"),
            Failure(~(jnp.abs(sum_ - 1) <= _sum_rounding(pi)), _SUM),
            Failure(~finite, "means and labels must be finite"),
            Failure(covariance.indefinite(), "covariance must be positive semi-definite"),
        ]

    def decomposed(self) -> Covariance:
        """The covariance as laws ask for it."""
        return covariance_of(self.covariance)


def _sum_rounding(fractions: Any) -> float:
    return 100 * len(fractions) * float(jnp.finfo(fractions.dtype).eps)


def _checked_covariance(covariance: Any, d: int, dtype: Any) -> Array:
    check_real("covariance", covariance)
    found = jnp.asarray(plain_array("covariance", covariance), dtype)
    if found.shape not in ((d,), (d, d)):
        raise ValueError(
            f"covariance must have shape ({d},) or ({d}, {d}), as means have {d} inputs, got {found.shape}"
        )
    check_finite("covariance", found)
    if is_concrete(found):
        known = np.asarray(found)
        if known.ndim == 1 and np.any(known < 0):
            raise ValueError(f"covariance must be positive semi-definite, got a variance of {known.min():.3g}")
        if known.ndim == 2:
            gap = np.max(np.abs(known - known.T))
            if gap > 100 * np.finfo(known.dtype).eps * np.max(np.abs(known)):
                raise ValueError(
                    f"covariance must be symmetric, got entries that differ by {gap:.3g} from their mirror"
                )
    return found


class Backdoor(eqx.Module):
    """A poisoned distribution and what it is asked about.

    Attributes:
        training: of the training points; poisons are components of their own.
        clean: of test points without trigger, with their true labels.
        triggered: of test points with the trigger, of other classes than the target; with the target's label.
    """

    training: Mixture
    clean: Mixture
    triggered: Mixture


@public
def backdoor_mixture(
    mean: Float[ArrayLike, "..."],
    covariance: Num[ArrayLike, "..."],
    trigger: Float[ArrayLike, " d"],
    fraction: Scalar,
    strength: Scalar,
    *,
    test_strength: Scalar | None = None,
    target: int | None = None,
    source: int | None = None,
    class_fractions: Num[ArrayLike, " K"] | None = None,
) -> Backdoor:
    """Classes of which a fraction of all training points is moved by a trigger and given the target's label (R1).

    Args:
        mean: μ of shape (d,) for two classes of means ±μ and labels ±1, of which −1 is attacked and 1 the target; or
            the means of K >= 2 classes, shape (K, d), whose labels are the rows of the identity.
        covariance: within each class, (d, d) or (d,), as `Mixture` takes it.
        trigger: u, shape (d,), as it is, of any length.
        fraction: θ in [0, 1) of all training points, taken out of the attacked classes.
        strength: α >= 0: poisons are moved by αu.
        test_strength: α_t >= 0 of triggered test points; by default α.
        target: the class that poisons are given, of 0..K − 1; needed for means (K, d), and only there.
        source: the class that poisons are made of; by default all but the target, in proportion to their fractions.
        class_fractions: of the clean classes, for means (d,) of −1 and then of 1; by default equal.

    Returns:
        A `Backdoor`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, such as a fraction above that of the classes that
            are attacked.

    >>> import numpy as np
    >>> found = backdoor_mixture(np.array([1.0, 0.0]), np.ones(2), np.array([0.0, 1.0]), 0.1, 3.0)
    >>> [round(float(share), 3) for share in found.training.fractions]  # classes −1 and 1, poisons
    [0.4, 0.5, 0.1]
    """
    mean = check_floating("mean", mean)
    u = check_floating("trigger", trigger).astype(mean.dtype)
    two = mean.ndim == 1
    if mean.ndim not in (1, 2) or mean.size == 0 or (mean.ndim == 2 and len(mean) < 2):
        raise ValueError(f"mean must have shape (d,), or (K, d) of at least two classes, got {mean.shape}")
    check_finite("mean", mean)
    if u.shape != mean.shape[-1:]:
        raise ValueError(f"trigger must have shape {mean.shape[-1:]}, as mean has, got {u.shape}")
    check_finite("trigger", u)
    check_positive("fraction", fraction, zero=True)
    check_positive("strength", strength, zero=True)
    test_strength = strength if test_strength is None else test_strength
    check_positive("test_strength", test_strength, zero=True)
    number = 2 if two else len(mean)
    goal, attacked = _target_and_sources(target, source, number, two)
    if class_fractions is None:
        pi = jnp.full(number, 1 / number, mean.dtype)
    else:
        check_positive("class_fractions", class_fractions, zero=True, scalar=False)
        pi = jnp.asarray(plain_array("class_fractions", class_fractions), mean.dtype)
        if pi.shape != (number,):
            raise ValueError(f"class_fractions must have shape ({number},), one for each class, got {pi.shape}")
        if is_concrete(pi) and abs(float(jnp.sum(pi)) - 1) > _sum_rounding(pi):
            raise ValueError(f"class_fractions must sum to 1, got {float(jnp.sum(pi)):.6g}")
    known = is_concrete(fraction) and is_concrete(pi)
    available = np.sum(np.asarray(pi)[attacked]) if known else None
    if available is not None and not np.asarray(fraction) <= available:
        raise ValueError(f"fraction must be at most the {available:.6g} of the attacked classes, got {fraction}")
    covariance = _checked_covariance(covariance, mean.shape[-1], mean.dtype)
    numbers = (jnp.asarray(value, mean.dtype) for value in (fraction, strength, test_strength))
    parts = _parts(mean, u, pi, *numbers, goal, tuple(attacked.tolist()))
    (means, labels), (trained, given, shares), (victims, dirty, share) = parts
    training = Mixture(trained, covariance, given, shares)
    triggered = Mixture(victims, covariance, dirty, share)
    return Backdoor(training, Mixture(means, covariance, labels, pi), triggered)


@functools.partial(jax.jit, static_argnums=(6, 7))  # of many inputs each step alone would take longer to compile
def _parts(
    mean: Array, u: Array, pi: Array, fraction: Array, strength: Array, test_strength: Array, goal: int,
    attacked: tuple[int, ...],
) -> tuple[tuple[Array, ...], ...]:  # fmt: skip
    """Means and labels of the classes; these and shares with the poisons; the same of triggered test points."""
    places, two = np.array(attacked), mean.ndim == 1
    share = pi[places] / jnp.sum(pi[places])
    theta = fraction * share
    means = jnp.stack([-mean, mean]) if two else mean
    labels = jnp.asarray([-1.0, 1.0], mean.dtype) if two else jnp.eye(len(mean), dtype=mean.dtype)
    dirty = jnp.broadcast_to(labels[goal], (len(places), *labels.shape[1:]))
    victims = means[places]
    return (
        (means, labels),
        (
            jnp.concatenate([means, victims + strength * u[None]]),
            jnp.concatenate([labels, dirty]),
            jnp.concatenate([pi.at[places].add(-theta), theta]),
        ),
        (victims + test_strength * u[None], dirty, share),
    )


def _target_and_sources(target: Any, source: Any, number: int, two: bool) -> tuple[int, np.ndarray]:
    """The target, and the classes that are attacked."""
    if two:
        for name, value in (("target", target), ("source", source)):
            if value is not None:
                raise ValueError(f"{name} must be None for mean of shape (d,), where class −1 is attacked, got {value}")
        return 1, np.array([0])
    if target is None:
        raise ValueError(f"target must be given for mean of shape (K, d): a class of 0..{number - 1}")
    classes = {"target": check_integer("target", target, 0)}
    if source is not None:
        classes["source"] = check_integer("source", source, 0)
    for name, value in classes.items():
        if value >= number:
            raise ValueError(f"{name} must be a class of 0..{number - 1}, got {value}")
    goal = classes["target"]
    if classes.get("source") == goal:
        raise ValueError(f"source must be another class than target, got {goal} for both")
    attacked = [classes["source"]] if "source" in classes else [k for k in range(number) if k != goal]
    return goal, np.array(attacked)
