"""The best attack and the best defence, before any data are drawn: strength, direction, fraction and ridge (R1).

Of ridge regression on two classes of means ±μ, or on two or three of any means, of which attack success is known
without sampling.  One number is sought on nested grids, each of which refines the best places of the one before, so
that several peaks do no harm; a direction by quasi-Newton steps.  Calls of the same shapes share one compiled program.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Num

from kpoison._failures import Failure, checked_result, program, silently, without_derivative
from kpoison._typing import Scalar
from kpoison._validation import (
    check_finite,
    check_flag,
    check_floating,
    check_fraction,
    check_positive,
    is_concrete,
    public,
)
from kpoison.asymptotics._linear_model import check_problem
from kpoison.asymptotics._ridge_regression import RidgeRegression, ridge_regression
from kpoison.asymptotics.mixture import Backdoor, backdoor_mixture
from kpoison.asymptotics.rates import CLOSED_FORM, EstimatedRate

__all__ = ["Direction", "Optimum", "best_ridge", "best_training_strength", "needed_poison_fraction", "worst_direction"]

_POINTS, _ROUNDS = 65, 7
_REACH = 1e3  # of the search for a strength, to either side of the closed form's
_MESSAGE = "an optimum on a grid has no derivative: differentiate ridge_regression at its place"


class Optimum(NamedTuple):
    """Where a rate is best.

    Attributes:
        value: of the number that was chosen.
        attack_success_rate: there.
        accuracy: on clean test points, there.
    """

    value: Float[Array, ""]
    attack_success_rate: Float[Array, ""]
    accuracy: Float[Array, ""]


class Direction(NamedTuple):
    """A trigger's worst direction.

    Attributes:
        direction: u of unit length, (d,).
        attack_success_rate: of the trigger along it.
        gradient: the norm of the rate's gradient across u, which is 0 at an optimum.
    """

    direction: Float[Array, " d"]
    attack_success_rate: Float[Array, ""]
    gradient: float


def _refined(
    judged: Callable[[Array], Array], low: Float[Array, ""], high: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
    """The place between low and high of the largest value, that value, and whether the place is at an end."""

    def each(places: Array) -> Array:
        with silently():  # what fails is told where the model of the best place is made
            return jax.vmap(judged)(places)

    def narrow(ends: tuple[Array, Array], _: Any) -> tuple[tuple[Array, Array], None]:
        grid = jnp.linspace(*ends, _POINTS)
        best = jnp.argmax(each(grid))
        return (grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, _POINTS - 1)]), None

    (left, right), _ = jax.lax.scan(narrow, (low, high), None, length=_ROUNDS)
    places = jnp.linspace(left, right, 9)
    values = each(places)
    place = places[jnp.argmax(values)]
    width = (high - low) / (4 * _POINTS)
    return place, jnp.max(values), (place < low + width) | (place > high - width)


class _Plan(eqx.Module):
    """A backdoor and the ridge regression that it is made for, as arrays, of which an optimum varies some.

    Attributes:
        mean, covariance, trigger, fraction, strength, test_strength, target, source: of `backdoor_mixture`.
        n, ridge, intercept: of `ridge_regression`.
    """

    mean: Float[Array, "..."]
    covariance: Float[Array, "..."]
    trigger: Float[Array, " d"]
    fraction: Float[Array, ""]
    strength: Float[Array, ""]
    test_strength: Float[Array, ""]
    n: Float[Array, ""]
    ridge: Float[Array, ""]
    intercept: bool = eqx.field(static=True)
    target: int | None = eqx.field(static=True)
    source: int | None = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        mean: Any,
        covariance: Any,
        trigger: Any,
        fraction: Any,
        strength: Any,
        test_strength: Any,
        n: Any,
        ridge: Any,
        intercept: Any,
        target: Any,
        source: Any,
    ) -> "_Plan":
        """The arguments of a public function, checked."""
        mean, fit = check_floating("mean", mean), check_flag("intercept", intercept)
        if mean.ndim == 2 and len(mean) > CLOSED_FORM:
            raise ValueError(
                f"mean must be of at most {CLOSED_FORM} classes, got {len(mean)}: attack success of more is only known "
                "by sampling, see RidgeRegression.attack_success_rate"
            )
        test_strength = strength if test_strength is None else test_strength
        attack = backdoor_mixture(
            mean, covariance, trigger, fraction, strength, test_strength=test_strength, target=target, source=source
        )
        check_problem(attack, n, ridge)
        dtype = mean.dtype
        return cls(
            mean,
            attack.training.covariance,
            check_floating("trigger", trigger).astype(dtype),
            jnp.asarray(fraction, dtype),
            jnp.asarray(strength, dtype),
            jnp.asarray(test_strength, dtype),
            jnp.asarray(n, dtype),
            jnp.asarray(ridge, dtype),
            fit,
            *(None if number is None else int(number) for number in (target, source)),  # checked by `backdoor_mixture`
        )

    def attack(self) -> Backdoor:
        """The poisoned distribution."""
        return backdoor_mixture(
            self.mean,
            self.covariance,
            self.trigger,
            self.fraction,
            self.strength,
            test_strength=self.test_strength,
            target=self.target,
            source=self.source,
        )

    def model(self) -> RidgeRegression:
        """What is trained on it."""
        return ridge_regression(self.attack(), self.n, self.ridge, self.intercept)

    def success(self) -> Float[Array, ""]:
        """Of the attack."""
        return _number(self.model().attack_success_rate())

    def largest_fraction(self) -> float:
        """The share of the attacked classes, which are equally large."""
        if self.mean.ndim == 1:
            return 0.5
        classes = len(self.mean)
        return (1 if self.source is not None else classes - 1) / classes

    def to_the_target(self) -> Float[Array, " d"]:
        """From the mean of the attacked classes to the target's."""
        if self.mean.ndim == 1:
            return 2 * self.mean
        attack = self.attack()
        known = attack.triggered.means - self.test_strength * self.trigger[None]
        return self.mean[self.target] - attack.triggered.fractions @ known


def _number(rate: Float[Array, ""] | EstimatedRate) -> Float[Array, ""]:
    """Of classes whose rates are not sampled."""
    assert not isinstance(rate, EstimatedRate)
    return rate


def _optimum(value: Array, model: RidgeRegression, failures: list[Failure]) -> Optimum:
    rates = jnp.stack([value, _number(model.attack_success_rate()), _number(model.accuracy())])
    rates = without_derivative(checked_result(rates, failures), _MESSAGE)
    return Optimum(rates[0], rates[1], rates[2])


@public
def best_training_strength(
    mean: Float[ArrayLike, "..."],
    covariance: Num[ArrayLike, "..."],
    trigger: Float[ArrayLike, " d"],
    fraction: Scalar,
    test_strength: Scalar,
    n: Scalar,
    ridge: Scalar,
    intercept: bool | np.bool_ = True,
    *,
    target: int | None = None,
    source: int | None = None,
) -> Optimum:
    """The training strength α* of largest attack success at a given strength of the test's trigger (R1, L11).

    Near (θ uᵀ(Σ + λ_e)⁻¹u)^(−1/2), around which it is sought over a factor of 10³ to either side.

    Args:
        mean: μ of two classes ±μ, (d,); or the means of two or three classes, (K, d).
        covariance: as `backdoor_mixture` takes it.
        trigger: u, (d,).
        fraction: θ in (0, 1), below that of the attacked classes.
        test_strength: α_t > 0.
        n: training points.
        ridge: λ >= 0.
        intercept: whether it is fitted.
        target: as `backdoor_mixture` takes it.
        source: as `backdoor_mixture` takes it.

    Returns:
        An `Optimum`, without derivatives.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for success that has no peak there.
    """
    fraction = check_fraction("fraction", fraction)
    check_positive("test_strength", test_strength)
    given = (mean, covariance, trigger, fraction, 1.0, test_strength, n, ridge, intercept, target, source)
    return _best_strength(_Plan.of(*given))


@program
def _best_strength(plan: _Plan) -> Optimum:
    sigma = plan.attack().training.decomposed()
    effective = sigma.effective_ridge(plan.n, plan.ridge).value
    stiffness = 1 / (plan.trigger @ sigma.solve(effective, plan.trigger[:, None])[:, 0])
    guess, reach = 0.5 * jnp.log(stiffness / plan.fraction), np.log(_REACH)

    def at(log: Array) -> _Plan:
        return dataclasses.replace(plan, strength=jnp.exp(log))

    place, _, at_end = _refined(lambda log: at(log).success(), guess - reach, guess + reach)
    failure = Failure(
        at_end, f"attack success must have a peak in the strength, got none within a factor of {_REACH:,.0f}"
    )
    return _optimum(jnp.exp(place), at(place).model(), [failure])


@public
def needed_poison_fraction(
    mean: Float[ArrayLike, "..."],
    covariance: Num[ArrayLike, "..."],
    trigger: Float[ArrayLike, " d"],
    strength: Scalar,
    success: Scalar,
    n: Scalar,
    ridge: Scalar,
    intercept: bool | np.bool_ = True,
    *,
    test_strength: Scalar | None = None,
    target: int | None = None,
    source: int | None = None,
) -> Optimum:
    """The least fraction θ of poisons whose attack success is as wanted (R1, L10).

    Args:
        mean: μ of two classes ±μ, (d,); or the means of two or three classes, (K, d).
        covariance: as `backdoor_mixture` takes it.
        trigger: u, (d,).
        strength: α of the training trigger.
        success: wanted, in (0, 1).
        n: training points.
        ridge: λ >= 0.
        intercept: whether it is fitted.
        test_strength: α_t; by default α.
        target: as `backdoor_mixture` takes it.
        source: as `backdoor_mixture` takes it.

    Returns:
        An `Optimum`, without derivatives, whose value is θ.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; where no fraction of the attacked classes is
            enough.
    """
    wanted = check_fraction("success", success)
    plan = _Plan.of(mean, covariance, trigger, 0.0, strength, test_strength, n, ridge, intercept, target, source)
    return _needed_fraction(plan, jnp.asarray(wanted, plan.mean.dtype))


@program
def _needed_fraction(plan: _Plan, wanted: Array) -> Optimum:
    def at(theta: Array) -> _Plan:
        return dataclasses.replace(plan, fraction=theta)

    def judged(theta: Array) -> Array:
        """Largest at the least fraction that is enough."""
        return jnp.where(at(theta).success() >= wanted, -theta, -1)

    most = plan.largest_fraction()
    place, best, _ = _refined(judged, jnp.zeros_like(wanted), jnp.asarray(most, wanted.dtype))
    failure = Failure(best <= -1, f"success must be reached by a fraction below {most:g}, got none")
    return _optimum(place, at(place).model(), [failure])


@public
def best_ridge(
    attack: Backdoor,
    n: Scalar,
    accuracy: Scalar,
    intercept: bool | np.bool_ = True,
    *,
    between: tuple[float, float] = (1e-6, 1e3),
) -> Optimum:
    """The ridge of least attack success among those whose clean accuracy is as wanted (R1).

    Args:
        attack: of two classes, or three, such as `backdoor_mixture` makes.
        n: training points.
        accuracy: wanted on clean points, in (0, 1).
        intercept: whether it is fitted.
        between: the least and the largest ridge, over the mean variance.

    Returns:
        An `Optimum`, without derivatives; its value may be at an end of the range.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; where no ridge is as accurate.
    """
    if not isinstance(attack, Backdoor):
        raise TypeError(f"attack must be a Backdoor, got {type(attack).__name__}")
    outputs = attack.training.outputs
    if outputs and outputs[0] > CLOSED_FORM:
        raise ValueError(
            f"attack must be of at most {CLOSED_FORM} classes, got {outputs[0]}: attack success of more is only known "
            "by sampling, see RidgeRegression.attack_success_rate"
        )
    fit, wanted = check_flag("intercept", intercept), check_fraction("accuracy", accuracy)
    for value in between:
        check_positive("between", value)
    check_problem(attack, n, 1.0)
    dtype = attack.training.means.dtype
    ends = jnp.asarray(between, dtype)
    return _best_ridge(attack, jnp.asarray(n, dtype), fit, jnp.asarray(wanted, dtype), ends)


@program
def _best_ridge(attack: Backdoor, n: Array, intercept: bool, wanted: Array, ends: Array) -> Optimum:
    given = attack.training.covariance
    low, high = jnp.log(ends * jnp.mean(given if given.ndim == 1 else jnp.diag(given)))

    def at(log: Array) -> RidgeRegression:
        return ridge_regression(attack, n, jnp.exp(log), intercept)

    def judged(log: Array) -> Array:
        model = at(log)
        return jnp.where(_number(model.accuracy()) >= wanted, -_number(model.attack_success_rate()), -2)

    place, best, _ = _refined(judged, low, high)
    failure = Failure(best <= -2, "accuracy must be reached by a ridge of the range, got none")
    return _optimum(jnp.exp(place), at(place), [failure])


@public
def worst_direction(
    mean: Float[ArrayLike, "..."],
    covariance: Num[ArrayLike, "..."],
    fraction: Scalar,
    strength: Scalar,
    n: Scalar,
    ridge: Scalar,
    intercept: bool | np.bool_ = True,
    *,
    test_strength: Scalar | None = None,
    subspace: Float[ArrayLike, "d k"] | None = None,
    target: int | None = None,
    source: int | None = None,
) -> Direction:
    """The direction of unit length along which a trigger has the largest attack success (R1).

    Across the means it is the least eigenvector of Σ; tilted towards the target's mean it is worse.  By quasi-Newton
    steps from the least-varying direction of the subspace and from that to the target's mean, the better of both.

    Args:
        mean: μ of two classes ±μ, (d,); or the means of two or three classes, (K, d).
        covariance: as `backdoor_mixture` takes it.
        fraction: θ in (0, 1), below that of the attacked classes.
        strength: α > 0 of the training trigger, the radius of the ball.
        n: training points.
        ridge: λ >= 0.
        intercept: whether it is fitted.
        test_strength: α_t; by default α.
        subspace: spanned by columns, (d, k), that the trigger stays in; by default all.
        target: as `backdoor_mixture` takes it.
        source: as `backdoor_mixture` takes it.

    Returns:
        A `Direction`; of numbers that are known, not inside of `jit`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; where the search ends before its optimum.
    """
    import scipy.optimize

    fraction = check_fraction("fraction", fraction)
    check_positive("strength", strength)
    mean = check_floating("mean", mean)
    d = mean.shape[-1] if mean.ndim else 0
    given = (
        jnp.eye(d, dtype=mean.dtype) if subspace is None else check_floating("subspace", subspace).astype(mean.dtype)
    )
    if given.ndim != 2 or given.shape[0] != d or not 1 <= given.shape[1] <= d:
        raise ValueError(f"subspace must have shape ({d}, k) with k from 1 to {d}, got {given.shape}")
    if not all(map(is_concrete, (mean, given, covariance, fraction, strength, n, ridge))):
        raise TypeError("worst_direction needs numbers that are known: call it outside of jit, vmap and grad")
    check_finite("subspace", given)
    basis, triangle = np.linalg.qr(np.asarray(given, np.float64))
    if np.min(np.abs(np.diag(triangle))) < 1e-10 * np.max(np.abs(triangle)):
        raise ValueError("subspace must have columns that are independent")
    columns = jnp.asarray(basis, mean.dtype)
    first = columns[:, 0]
    plan = _Plan.of(mean, covariance, first, fraction, strength, test_strength, n, ridge, intercept, target, source)
    _success_along(plan)  # what is wrong with the problem is wrong everywhere, and is told here

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = _rise(plan, columns, jnp.asarray(w, mean.dtype))
        return -float(value), -np.asarray(slope, np.float64)

    matrix = np.asarray(covariance, np.float64)
    matrix = np.diag(matrix) if matrix.ndim == 1 else matrix
    least = np.linalg.eigh(basis.T @ matrix @ basis)[1][:, 0]
    goal = np.asarray(plan.to_the_target(), np.float64)
    along = basis.T @ goal
    length = np.linalg.norm(along)
    tilt = along / length if length > 1e-12 * np.linalg.norm(goal) else 0 * along
    found = [
        scipy.optimize.minimize(
            objective, start / np.linalg.norm(start), jac=True, method="BFGS", options={"gtol": 1e-7, "maxiter": 2000}
        )
        for start in (least + 0.1 * tilt, -least + 0.1 * tilt, least + tilt)
    ]
    best = min(found, key=lambda result: result.fun)
    w = best.x / np.linalg.norm(best.x)
    gradient = float(np.linalg.norm(objective(w)[1]))
    if not gradient < 1e3 * float(jnp.finfo(mean.dtype).eps) ** 0.5:
        raise ValueError(
            f"the search for the worst direction has ended at a gradient of {gradient:.3g}, not at an optimum"
        )
    return Direction(columns @ jnp.asarray(w, mean.dtype), jnp.asarray(-best.fun, mean.dtype), gradient)


@program
def _success_along(plan: _Plan) -> Float[Array, ""]:
    return plan.success()


@eqx.filter_jit
def _rise(plan: _Plan, columns: Array, w: Array) -> tuple[Float[Array, ""], Float[Array, " k"]]:
    """Success along the unit vector of columns @ w, and its slope in w."""

    def success(w: Array) -> Array:
        with silently():
            return dataclasses.replace(plan, trigger=columns @ (w / jnp.linalg.norm(w))).success()

    return jax.value_and_grad(success)(w)
