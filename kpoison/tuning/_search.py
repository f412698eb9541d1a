"""L-BFGS over the logarithms of a kernel's parameters, from several starts in one compiled program.

    J(θ) = min_λ objective(θ, λ),    ∇J(θ) = ∂_θ objective(θ, λ*(θ))

One eigendecomposition of K_θ gives the objective at every λ, so that the ridge is no variable of the search: the long
valleys in which a kernel's scale and the ridge stand in for each other are gone.
"""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from kpoison._failures import program
from kpoison._typing import Scalar
from kpoison._validation import check_integer, check_name, check_positive, public
from kpoison.kernels.base import Kernel, with_array_parameters
from kpoison.ridge import Observations, TrainingSet, checked_targets
from kpoison.ridge.description import in_words, rows_of
from kpoison.tuning.objectives import OBJECTIVES, HeldOut
from kpoison.tuning.profile import FARTHEST, WALL, BestRidge, Profile

__all__ = ["Tuned", "TuningStatus", "tune"]

_SPREAD = 1.5  # standard deviation of the starts' logarithms about what was given: factors of 4.5
_LINE_STEPS = 15
_LITTLE = 1e-5  # by which an objective, or its logarithm, has to fall in a step for another one
_DRAWS = 3  # kernels that are looked at for each start
_SAME = 0.3  # two searches whose logarithms are that close are on the way to one minimum
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

    def __repr__(self) -> str:
        return f"Tuned({', '.join(f'{name}={words}' for name, words in self._facts().items())})"

    def _repr_html_(self) -> str:
        """In a notebook."""
        return rows_of(self._facts())

    def _facts(self) -> dict[str, str]:
        """All but the path, of which the numbers of iterations, as words."""
        iterations = np.sum(np.isfinite(np.asarray(self.path)), axis=1) - 1
        numbers = {name: f"{float(getattr(self, name)):.6g}" for name in ("ridge", "value")}
        return {
            "kernel": in_words(self.kernel),
            **numbers,
            "iterations": str(iterations.tolist()),
            "status": self.status.value,
        }


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
    starts: int = 2,
    max_iterations: int = 50,
    seed: int = 0,
) -> Tuned:
    """Choose the kernel's parameters and the ridge: L-BFGS on logarithms of the former, from several starts.

    Every parameter of the kernel that is a positive number, or an array of such, is chosen; others stay.  At each step
    the ridge is the best one for the kernel there.  A step takes an eigendecomposition and a few products of matrices.

    Args:
        kernel: with parameters about which starts are drawn, by factors of about 4: itself, and others.
        X: points, shape (n, d).
        y: targets, shape (n,) or (n, C).
        ridge: λ, of which ridges up to 160,000 times smaller and larger are looked at.
        objective: "leave-one-out", the mean squared error of `leave_one_out`; "generalised-cross-validation", the same
            with every leverage taken as their mean; "marginal-likelihood", −log p(y)/n; "held-out", the mean squared
            error on `held_out`.
        held_out: other points and targets, for "held-out".
        weights: multiplicities, see `fit`.
        intercept: see `fit`.
        starts: searches, of which the best counts, from the best of three times as many kernels that are drawn; one
            that comes to where another ended stops there.
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
    name = check_name("objective", objective, tuple(OBJECTIVES))
    if (name == "held-out") != (held_out is not None):
        raise ValueError(f"held_out must be given for objective='held-out', and only for it, got {name!r}")
    kernel, observed, y = TrainingSet.of(kernel, X, y, weights, intercept)
    dtype = observed.points.dtype
    check_positive("ridge", ridge)
    kernel = jax.tree.map(jnp.asarray, with_array_parameters(kernel, dtype))  # parameters may be arrays of NumPy
    starts = check_integer("starts", starts, 1)
    others = None if held_out is None else _checked_held_out(held_out, kernel, observed, y)
    profile = Profile(kernel, jnp.asarray(ridge, dtype), observed, y, others, name)
    generator = np.random.default_rng(check_integer("seed", seed, 0))
    apart = generator.standard_normal((_DRAWS * starts, profile.parameters.size))
    apart[0] = 0  # what was given
    drawn = profile.parameters[None] + jnp.asarray(_SPREAD * apart, dtype)
    limit = check_integer("max_iterations", max_iterations, 1)
    return _best(profile, _from_best(profile, drawn, starts, limit))


def _checked_held_out(held_out: Any, kernel: Kernel, observed: Observations, y: Array) -> HeldOut:
    if not isinstance(held_out, tuple) or len(held_out) != 2:
        raise TypeError(f"held_out must be a pair of points and targets, got {type(held_out).__name__}")
    points = kernel.points("held_out[0]", held_out[0], like=observed.points)
    targets = checked_targets("held_out[1]", held_out[1], "held_out[0]", points)
    if targets.shape[1:] != y.shape[1:]:
        raise ValueError(f"held_out[1] must have the outputs of y, {y.shape[1:]}, got {targets.shape[1:]}")
    return points, targets


class _Found(NamedTuple):
    """What came of each start.

    Attributes:
        place: the logarithms of the kernel's parameters, shape (starts, k).
        ridge: the best one there, each part of shape (starts,).
        value: of what is searched there, shape (starts,).
        done: whether it had come to an end by itself.
        path: of each iteration, shape (starts, iterations + 1); NaN after the last.
        drawn: the objective of all kernels that were looked at first, shape (starts, draws), the same for each.
    """

    place: Float[Array, "starts k"]
    ridge: BestRidge
    value: Float[Array, " starts"]
    done: Bool[Array, " starts"]
    path: Float[Array, "starts steps"]
    drawn: Float[Array, "starts draws"]


class _State(NamedTuple):
    """Of one search: where it is, what optax remembers, and how it came there."""

    place: Float[Array, " k"]
    memory: Any
    value: Float[Array, ""]
    slope: Float[Array, " k"]
    fall: Float[Array, ""]
    iteration: Int[Array, ""]
    path: Float[Array, " steps"]


@program
def _from_best(profile: Profile, drawn: Float[Array, "draws k"], starts: int, limit: int) -> _Found:
    """Searches from the best of the places, one after the other: side by side each would wait for the longest."""

    def searched(place):
        """Its value and slope; a wall, level, where there is none."""
        (value, ridge), slope = jax.lax.stop_gradient(jax.value_and_grad(profile.of, has_aux=True)(place))
        right = ridge.right & jnp.all(jnp.isfinite(slope))
        level = jax.lax.stop_gradient(place)
        return jnp.where(right, value, WALL) + jnp.where(right, slope, 0) @ (place - level)

    tolerance = _tolerance(drawn.dtype)
    optimiser = optax.lbfgs(memory_size=10, linesearch=optax.scale_by_zoom_linesearch(_LINE_STEPS))

    def going_on(state: _State):
        going = jnp.max(jnp.abs(state.slope), initial=0) > tolerance
        return (state.iteration < limit) & going & (state.fall > _LITTLE)

    def step(state: _State) -> _State:
        updates, memory = optimiser.update(
            state.slope, state.memory, state.place, value=state.value, grad=state.slope, value_fn=searched
        )
        # The line search has evaluated the place where it ended.
        value, slope = optax.tree.get(memory, "value"), optax.tree.get(memory, "grad")
        place, iteration = jnp.asarray(optax.apply_updates(state.place, updates)), state.iteration + 1
        fall, path = state.value - value, state.path.at[iteration].set(value)
        return _State(place, memory, value, slope, fall, iteration, path)

    def search(best, place):
        """From a place, unless it comes to where the best search before it has ended."""

        def apart(state: _State):
            near = jnp.max(jnp.abs(state.place - best[0]), initial=0) < _SAME
            return going_on(state) & ~(near & (state.value >= best[1]))

        value, slope = jax.value_and_grad(searched)(place)
        path = jnp.full(limit + 1, jnp.nan, place.dtype).at[0].set(value)
        start = _State(place, optimiser.init(place), value, slope, jnp.full_like(value, jnp.inf), jnp.asarray(0), path)
        end = jax.lax.while_loop(apart, step, start)
        better = end.value < best[1]
        ridge, done = profile.of(end.place, derivatives=False)[1], ~going_on(end._replace(iteration=0))
        found = _Found(end.place, ridge, end.value, done, end.path, drawn_values)
        return (jnp.where(better, end.place, best[0]), jnp.where(better, end.value, best[1])), found

    value, ridge = jax.lax.map(lambda place: profile.of(place, derivatives=False), drawn)
    drawn_values = jnp.where(ridge.right, value, WALL)
    nothing = jnp.full_like(drawn[0], jnp.inf), jnp.full((), jnp.inf, drawn.dtype)
    return jax.lax.scan(search, nothing, drawn[jnp.argsort(drawn_values)[:starts]])[1]


def _best(profile: Profile, found: _Found) -> Tuned:
    """Of all starts, and how it ended."""
    values, paths = np.asarray(found.value), np.asarray(found.path)
    best = int(np.argmin(values))
    place, ridge = profile.within_reach(found.place[best]), jax.tree.map(lambda of_all: of_all[best], found.ridge)
    far = np.any(np.abs(np.asarray(place - profile.parameters)) >= FARTHEST)
    seen = np.concatenate([paths[paths < WALL], found.drawn[found.drawn < WALL]])
    if values[best] >= WALL:
        status = TuningStatus.FAILED
    elif max(np.ptp(seen), np.max(found.ridge.spread)) <= _FLAT * (
        1 if profile.positive else max(1, np.max(np.abs(seen)))
    ):
        status = TuningStatus.FLAT
    elif far or abs(float(ridge.slope)) > _tolerance(values.dtype):
        status = TuningStatus.UNBOUNDED
    elif not found.done[best]:
        status = TuningStatus.LIMIT
    else:
        status = TuningStatus.CONVERGED
    scale = jnp.exp if profile.positive else lambda value: value
    kernel = profile.kernel_at(place)
    return Tuned(kernel, jnp.exp(ridge.log_ridge), scale(found.value[best]), scale(found.path), status)


def _tolerance(dtype) -> float:
    """Of the slope of a logarithm, 1e-4 in float64 and 2e-2 in float32: the value is then within its square."""
    return float(jnp.finfo(dtype).eps) ** 0.25
