"""The best attack and the best defence, before any data are drawn: strength, direction, fraction and ridge (R1).

Of ridge regression on two classes of means ±μ.  One number is sought on nested grids, each of which refines the best
places of the one before, so that several peaks do no harm; a direction by quasi-Newton steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

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
from kpoison.asymptotics._ridge_regression import RidgeRegression, ridge_regression
from kpoison.asymptotics.mixture import Backdoor, Mixture, backdoor_mixture
from kpoison.asymptotics.rates import EstimatedRate

__all__ = ["Direction", "Optimum", "best_ridge", "best_training_strength", "needed_poison_fraction", "worst_direction"]

_POINTS, _ROUNDS = 65, 7
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


def _two_classes(mean: Any) -> Array:
    mean = check_floating("mean", mean)
    if mean.ndim != 1:
        raise ValueError(f"mean must have shape (d,), of two classes of means ±μ, got {mean.shape}")
    return mean


def _number(rate: Float[Array, ""] | EstimatedRate) -> Float[Array, ""]:
    """Of one output, whose rates are not sampled."""
    assert not isinstance(rate, EstimatedRate)
    return rate


def _optimum(value: Array, model: RidgeRegression, failures: list[Failure]) -> Optimum:
    rates = jnp.stack([value, _number(model.attack_success_rate()), _number(model.accuracy())])
    rates = without_derivative(checked_result(rates, failures), _MESSAGE)
    return Optimum(rates[0], rates[1], rates[2])


@public
def best_training_strength(
    mean: Float[ArrayLike, " d"],
    covariance: Num[ArrayLike, "..."],
    trigger: Float[ArrayLike, " d"],
    fraction: Scalar,
    test_strength: Scalar,
    n: Scalar,
    ridge: Scalar,
    intercept: bool | np.bool_ = True,
) -> Optimum:
    """The training strength α* of largest attack success at a given strength of the test's trigger (R1, L11).

    Near (θ uᵀ(Σ + λ_e)⁻¹u)^(−1/2), around which it is sought over a factor of 10³ to either side.

    Args:
        mean: μ of two classes ±μ, (d,).
        covariance: as `backdoor_mixture` takes it.
        trigger: u, (d,).
        fraction: θ in (0, ½).
        test_strength: α_t > 0.
        n: training points.
        ridge: λ >= 0.
        intercept: whether it is fitted.

    Returns:
        An `Optimum`, without derivatives.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for success that has no peak there.
    """
    mean, fit = _two_classes(mean), check_flag("intercept", intercept)
    fraction = check_fraction("fraction", fraction)
    check_positive("test_strength", test_strength)
    u = check_floating("trigger", trigger).astype(mean.dtype)

    def model(strength: Array) -> RidgeRegression:
        attack = backdoor_mixture(mean, covariance, u, fraction, strength, test_strength=test_strength)
        return ridge_regression(attack, n, ridge, fit)

    model(jnp.ones((), mean.dtype))  # says what does not fit

    @program
    def sought(u: Array, theta: Array) -> Optimum:
        mixture = Mixture(mean[None], covariance, jnp.ones(1, mean.dtype), jnp.ones(1, mean.dtype))
        sigma = mixture.decomposed()
        effective = sigma.effective_ridge(jnp.asarray(n, mean.dtype), jnp.asarray(ridge, mean.dtype)).value
        stiffness = 1 / (u @ sigma.solve(effective, u[:, None])[:, 0])
        guess = 0.5 * jnp.log(stiffness / theta)
        reach = jnp.asarray(np.log(1e3), mean.dtype)

        def judged(log: Array) -> Array:
            return _number(model(jnp.exp(log)).attack_success_rate())

        place, _, at_end = _refined(judged, guess - reach, guess + reach)
        failure = Failure(at_end, "attack success must have a peak in the strength, got none within a factor of 1,000")
        return _optimum(jnp.exp(place), model(jnp.exp(place)), [failure])

    return sought(u, jnp.asarray(fraction, mean.dtype))


@public
def needed_poison_fraction(
    mean: Float[ArrayLike, " d"],
    covariance: Num[ArrayLike, "..."],
    trigger: Float[ArrayLike, " d"],
    strength: Scalar,
    success: Scalar,
    n: Scalar,
    ridge: Scalar,
    intercept: bool | np.bool_ = True,
    *,
    test_strength: Scalar | None = None,
) -> Optimum:
    """The least fraction θ of poisons whose attack success is as wanted (R1, L10).

    Args:
        mean: μ of two classes ±μ, (d,).
        covariance: as `backdoor_mixture` takes it.
        trigger: u, (d,).
        strength: α of the training trigger.
        success: wanted, in (0, 1).
        n: training points.
        ridge: λ >= 0.
        intercept: whether it is fitted.
        test_strength: α_t; by default α.

    Returns:
        An `Optimum`, without derivatives, whose value is θ.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; where no fraction below ½ is enough.
    """
    mean, fit = _two_classes(mean), check_flag("intercept", intercept)
    success = check_fraction("success", success)

    def model(theta: Array) -> RidgeRegression:
        attack = backdoor_mixture(mean, covariance, trigger, theta, strength, test_strength=test_strength)
        return ridge_regression(attack, n, ridge, fit)

    model(jnp.zeros((), mean.dtype))

    @program
    def sought(wanted: Array) -> Optimum:
        def judged(theta: Array) -> Array:
            """Largest at the least fraction that is enough."""
            return jnp.where(_number(model(theta).attack_success_rate()) >= wanted, -theta, -1)

        zero, half = jnp.zeros((), mean.dtype), jnp.asarray(0.5, mean.dtype)
        place, best, _ = _refined(judged, zero, half)
        failure = Failure(best <= -1, "success must be reached by a fraction below 1/2, got none")
        return _optimum(place, model(place), [failure])

    return sought(jnp.asarray(success, mean.dtype))


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
        attack: of one output, such as `backdoor_mixture` makes of μ (d,).
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
    if attack.training.outputs:
        raise ValueError(f"attack must have labels of shape (K,), got {attack.training.labels.shape}")
    fit, wanted = check_flag("intercept", intercept), check_fraction("accuracy", accuracy)
    low, high = between
    for value in between:
        check_positive("between", value)
    dtype = attack.training.means.dtype
    ridge_regression(attack, n, jnp.ones((), dtype), fit)

    @program
    def sought(attack: Backdoor, wanted: Array) -> Optimum:
        given = attack.training.covariance
        scale = jnp.mean(given if given.ndim == 1 else jnp.diag(given))

        def judged(log: Array) -> Array:
            model = ridge_regression(attack, n, jnp.exp(log), fit)
            return jnp.where(_number(model.accuracy()) >= wanted, -_number(model.attack_success_rate()), -2)

        place, best, _ = _refined(judged, jnp.log(low * scale), jnp.log(high * scale))
        failure = Failure(best <= -2, "accuracy must be reached by a ridge of the range, got none")
        return _optimum(jnp.exp(place), ridge_regression(attack, n, jnp.exp(place), fit), [failure])

    return sought(attack, jnp.asarray(wanted, dtype))


@public
def worst_direction(
    mean: Float[ArrayLike, " d"],
    covariance: Num[ArrayLike, "..."],
    fraction: Scalar,
    strength: Scalar,
    n: Scalar,
    ridge: Scalar,
    intercept: bool | np.bool_ = True,
    *,
    test_strength: Scalar | None = None,
    subspace: Float[ArrayLike, "d k"] | None = None,
) -> Direction:
    """The direction of unit length along which a trigger has the largest attack success (R1).

    Across the means it is the least eigenvector of Σ; tilted towards the target's mean it is worse.  By quasi-Newton
    steps from the least-varying direction of the subspace and from that of the mean's, the better of both.

    Args:
        mean: μ of two classes ±μ, (d,).
        covariance: as `backdoor_mixture` takes it.
        fraction: θ in (0, ½).
        strength: α > 0 of the training trigger, the radius of the ball.
        n: training points.
        ridge: λ >= 0.
        intercept: whether it is fitted.
        test_strength: α_t; by default α.
        subspace: spanned by columns, (d, k), that the trigger stays in; by default all.

    Returns:
        A `Direction`; of numbers that are known, not inside of `jit`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; where the search ends before its optimum.
    """
    import scipy.optimize

    mean, fit = _two_classes(mean), check_flag("intercept", intercept)
    fraction = check_fraction("fraction", fraction)
    check_positive("strength", strength)
    d = len(mean)
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
    basis = jnp.asarray(basis, mean.dtype)

    def success(w: Array) -> Array:
        u = basis @ (w / jnp.linalg.norm(w))
        attack = backdoor_mixture(mean, covariance, u, fraction, strength, test_strength=test_strength)
        return _number(ridge_regression(attack, n, ridge, fit).attack_success_rate())

    # What is wrong with the problem is wrong everywhere, and is told here.
    success(jnp.eye(given.shape[1], dtype=mean.dtype)[0])

    def searched(w: Array) -> Array:
        with silently():
            return success(w)

    rise = jax.jit(jax.value_and_grad(searched))

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = rise(jnp.asarray(w, mean.dtype))
        return -float(value), -np.asarray(slope, np.float64)

    matrix = np.asarray(covariance, np.float64)
    matrix = np.diag(matrix) if matrix.ndim == 1 else matrix
    inside = np.asarray(basis, np.float64)
    least = np.linalg.eigh(inside.T @ matrix @ inside)[1][:, 0]
    along = inside.T @ np.asarray(mean, np.float64)
    length = np.linalg.norm(along)
    tilt = along / length if length > 1e-12 * np.linalg.norm(np.asarray(mean)) else 0 * along
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
    return Direction(basis @ jnp.asarray(w, mean.dtype), jnp.asarray(-best.fun, mean.dtype), gradient)
