"""L-BFGS over the logarithms of a kernel's parameters and the ridge, from several starts in one compiled program."""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int, Num

from kpoison._failures import collect, program
from kpoison._typing import Scalar
from kpoison._validation import check_integer, check_name, check_points, check_positive, is_concrete, public
from kpoison.kernels.base import Kernel, with_array_parameters
from kpoison.ridge import Cholesky, Observations, TrainingSet, checked_targets, fit_observations
from kpoison.tuning.objectives import OBJECTIVES, HeldOut

__all__ = ["Tuned", "TuningStatus", "tune"]

_SPREAD = 1.5  # standard deviation of the starts' logarithms about what was given: factors of 4.5
_FARTHEST = 12.0  # how far a logarithm may go from where it was: a factor of 160,000
_WALL = 1e6  # in place of an objective that is no number, on the scale of logarithms or nats
_LINE_STEPS = 15
_FLAT = 1e-6  # relative change of the objective over all starts below which nothing is to be chosen


class TuningStatus(enum.Enum):
    """How a search ended."""

    CONVERGED = "converged"
    LIMIT = "the iterations were used up before the gradient vanished"
    UNBOUNDED = "the objective still fell where a parameter was 160,000 times what was given"
    FLAT = "the objective is the same everywhere: the data choose nothing"
    FAILED = "no start had a finite objective"


class Tuned(NamedTuple):
    """What was chosen.

    Attributes:
        kernel: with the best parameters.
        ridge: λ.
        value: of the objective there.
        path: the objective at each iteration of each start, shape (starts, iterations + 1); NaN after its end.
        status: how the best start ended.
    """

    kernel: Kernel
    ridge: Float[Array, ""]
    value: Float[Array, ""]
    path: Float[Array, "starts iterations"]
    status: TuningStatus


@public
def tune(
    kernel: Kernel,
    X: Float[ArrayLike, "n ..."],
    y: Num[ArrayLike, "n *C"],
    ridge: Scalar,
    objective: str = "leave-one-out",
    *,
    held_out: tuple[Any, Any] | None = None,
    weights: Float[ArrayLike, " n"] | None = None,
    intercept: bool = False,
    starts: int = 3,
    max_iterations: int = 30,
    seed: int = 0,
) -> Tuned:
    """Choose the kernel's parameters and the ridge: L-BFGS on their logarithms, from several starts.

    Every parameter of the kernel that is a positive number, or an array of such, is chosen; others stay.  A step takes
    a Cholesky factorisation and the derivatives of it, a few n³ flops.

    Args:
        kernel: with the parameters of the first start; the others are drawn about them, by factors of about 4.
        X: points, shape (n, d).
        y: targets, shape (n,) or (n, C).
        ridge: λ of the first start.
        objective: "leave-one-out", the mean squared error of `leave_one_out`; "generalised-cross-validation", the same
            with every leverage taken as their mean; "marginal-likelihood", −log p(y)/n; "held-out", the mean squared
            error on `held_out`.
        held_out: other points and targets, for "held-out".
        weights: multiplicities, see `fit`.
        intercept: see `fit`.
        starts: searches, of which the best counts.
        max_iterations: of each search.
        seed: of the starts.

    Returns:
        The choice, with how it was found.  A minimum may be one of several; `status` says where it is none.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> X = jnp.linspace(0, 6, 20)[:, None]
    >>> chosen = kp.tune(kp.kernels.RBF(0.3), X, jnp.sin(X[:, 0]), 1e-2)
    >>> bool(chosen.kernel.length_scale > 1)
    True
    """
    name = check_name("objective", objective, OBJECTIVES)
    if (name == "held-out") != (held_out is not None):
        raise ValueError(f"held_out must be given for objective='held-out', and only for it, got {name!r}")
    kernel, observed, y = TrainingSet.of(kernel, X, y, weights, intercept)
    dtype = observed.points.dtype
    check_positive("ridge", ridge)
    kernel = with_array_parameters(kernel, dtype)
    chosen = tuple(_is_chosen(leaf) for leaf in jax.tree.leaves(kernel))
    given = _logarithms(kernel, chosen, jnp.asarray(ridge, dtype))
    apart = np.random.default_rng(check_integer("seed", seed, 0)).standard_normal(
        (check_integer("starts", starts, 1), given.size)
    )
    apart[0] = 0  # what was given
    begin = given + jnp.asarray(_SPREAD * apart, dtype)
    others = None if held_out is None else _checked_held_out(held_out, kernel, observed, y)
    limit = check_integer("max_iterations", max_iterations, 1)
    found = _from_each(begin, given, kernel, chosen, observed, y, others, name, limit)
    return _best(found, given, kernel, chosen, positive=OBJECTIVES[name].positive)


def _checked_held_out(held_out: Any, kernel: Kernel, observed: Observations, y: Array) -> HeldOut:
    if not isinstance(held_out, tuple) or len(held_out) != 2:
        raise TypeError(f"held_out must be a pair of points and targets, got {type(held_out).__name__}")
    points = check_points("held_out[0]", held_out[0], kernel.point_ndim, like=observed.points)
    targets = checked_targets("held_out[1]", held_out[1], "held_out[0]", points)
    if targets.shape[1:] != y.shape[1:]:
        raise ValueError(f"held_out[1] must have the outputs of y, {y.shape[1:]}, got {targets.shape[1:]}")
    return points, targets


def _is_chosen(leaf: Array) -> bool:
    """Whether a leaf of a kernel has a logarithm."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return False
    if not is_concrete(leaf):
        raise TypeError("kernel must have known parameters: call tune outside of jit, vmap and grad")
    return bool(np.all(np.asarray(leaf) > 0))


def _logarithms(kernel: Kernel, chosen: tuple[bool, ...], ridge: Array) -> Float[Array, " k"]:
    """Of the chosen parameters, and of the ridge, the last."""
    leaves = [leaf for leaf, one in zip(jax.tree.leaves(kernel), chosen, strict=True) if one]
    return jnp.log(jnp.concatenate([jnp.ravel(leaf) for leaf in [*leaves, ridge]]))


def _at(place: Float[Array, " k"], kernel: Kernel, chosen: tuple[bool, ...]) -> tuple[Kernel, Float[Array, ""]]:
    """The kernel and the ridge with these logarithms."""
    leaves, structure = jax.tree.flatten(kernel)
    values, start = jnp.exp(place), 0
    for index, one in enumerate(chosen):
        if one:
            end = start + leaves[index].size
            leaves[index] = values[start:end].reshape(leaves[index].shape)
            start = end
    return jax.tree.unflatten(structure, leaves), values[-1]


class _Found(NamedTuple):
    """What came of each start.

    Attributes:
        place: the logarithms, shape (starts, k).
        value: of what is searched there, shape (starts,).
        slope: largest entry of its gradient.
        path: of each iteration, shape (starts, iterations + 1); NaN after the last.
    """

    place: Float[Array, "starts k"]
    value: Float[Array, " starts"]
    slope: Float[Array, " starts"]
    path: Float[Array, "starts steps"]


class _State(NamedTuple):
    """Of one search: where it is, what optax remembers, and how it came there."""

    place: Float[Array, " k"]
    memory: Any
    slope: Float[Array, ""]
    iteration: Int[Array, ""]
    path: Float[Array, " steps"]


@program
def _from_each(
    begin: Float[Array, "starts k"],
    given: Float[Array, " k"],
    kernel: Kernel,
    chosen: tuple[bool, ...],
    observed: Observations,
    y: Float[Array, "n *C"],
    held_out: HeldOut | None,
    name: str,
    limit: int,
) -> _Found:
    """Every search, one after the other: side by side each would wait for the longest."""
    objective = OBJECTIVES[name]

    def judged(place):
        """What is searched, and whether it is a number that can be trusted."""

        def evaluate(place):
            there, ridge = _at(jnp.clip(place, given - _FARTHEST, given + _FARTHEST), kernel, chosen)
            value = objective.value(fit_observations(there, observed, y, Cholesky()), ridge, held_out)
            return jnp.log(value) if objective.positive else value

        value, failures = collect(evaluate, place)
        failed = [jnp.any(f.failed) for f in failures if not issubclass(f.kind, Warning)]
        return value, jnp.isfinite(value) & ~jnp.any(jnp.array(failed))

    def searched(place):
        """Its value and slope; a wall, level, where there is none."""
        (value, right), slope = jax.lax.stop_gradient(jax.value_and_grad(judged, has_aux=True)(place))
        right &= jnp.all(jnp.isfinite(slope))
        level = jax.lax.stop_gradient(place)
        return jnp.where(right, value, _WALL) + jnp.where(right, slope, 0) @ (place - level)

    tolerance = _tolerance(begin.dtype)
    optimiser = optax.lbfgs(memory_size=10, linesearch=optax.scale_by_zoom_linesearch(_LINE_STEPS))
    value_and_slope = optax.value_and_grad_from_state(searched)

    def going_on(state: _State):
        return (state.iteration < limit) & (state.slope > tolerance)

    def step(state: _State) -> _State:
        value, slope = value_and_slope(state.place, state=state.memory)
        updates, memory = optimiser.update(slope, state.memory, state.place, value=value, grad=slope, value_fn=searched)
        place = state.place + updates
        value, slope = value_and_slope(place, state=memory)
        return _State(
            place, memory, jnp.max(jnp.abs(slope)), state.iteration + 1, state.path.at[state.iteration + 1].set(value)
        )

    def search(place):
        value, slope = jax.value_and_grad(searched)(place)
        path = jnp.full(limit + 1, jnp.nan, place.dtype).at[0].set(value)
        start = _State(place, optimiser.init(place), jnp.max(jnp.abs(slope)), jnp.asarray(0), path)
        end = jax.lax.while_loop(going_on, step, start)
        return _Found(end.place, end.path[end.iteration], end.slope, end.path)

    return jax.lax.map(search, begin)


def _best(
    found: _Found, given: Float[Array, " k"], kernel: Kernel, chosen: tuple[bool, ...], *, positive: bool
) -> Tuned:
    """Of all starts, and how it ended."""
    values, paths = np.asarray(found.value), np.asarray(found.path)
    best = int(np.argmin(values))
    place = jnp.clip(found.place[best], given - _FARTHEST, given + _FARTHEST)
    seen = paths[paths < _WALL]
    if values[best] >= _WALL:
        status = TuningStatus.FAILED
    elif np.ptp(seen) <= _FLAT * (1 if positive else max(1, np.max(np.abs(seen)))):
        status = TuningStatus.FLAT
    elif np.any(np.abs(np.asarray(place - given)) >= _FARTHEST):
        status = TuningStatus.UNBOUNDED
    elif found.slope[best] > _tolerance(given.dtype):
        status = TuningStatus.LIMIT
    else:
        status = TuningStatus.CONVERGED
    scale = jnp.exp if positive else lambda value: value
    return Tuned(*_at(place, kernel, chosen), scale(found.value[best]), scale(found.path), status)


def _tolerance(dtype) -> float:
    """Of the slope of a logarithm: 1e-5 in float64, 2e-3 in float32."""
    return float(jnp.finfo(dtype).eps) ** 0.25 / 10
