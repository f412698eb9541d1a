"""L-BFGS over the logarithms of a kernel's parameters, from several starts in one compiled program.

What is searched, J(θ), takes an eigendecomposition (`kpoison.tuning.profile`), which of a third of the points is 27
times faster.  Where there are many, the starts go through the program with some of them first, and with all of them
from where that has ended, with what it has learnt of the curvature.

Each turn of the loop is one evaluation of J and its slope g, at θ + p:

    J(θ + p) <= J(θ) + 10⁻⁴ gᵀp    θ ← θ + p, p ← −Hg, H of L-BFGS
    otherwise                      p ← tp, t where the parabola through J(θ), gᵀp and J(θ + p) is lowest
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
_FIRST, _LONGEST = 0.2, 2.0  # steps of a logarithm: where nothing is known of the curvature, and at most
_ARMIJO, _SHORTEST, _SHORTER = 1e-4, 0.1, 0.5  # of the fall that the slope promises; of a step that was too long
_PAIRS = 10  # of steps and changes of the slope that are remembered
_LITTLE = 1e-5  # by which an objective, or its logarithm, has to fall in a step to be worth its time
_PATIENCE = 5  # steps in a row that are not, at most
_FEW, _SHARE = 200, 3  # more points than that are a third of them first
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
        path: the objective with all points after each iteration of each start, shape (starts, iterations + 1); NaN
            after its end, and where a start came to where another was before it began.
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
        iterations = np.maximum(np.sum(np.isfinite(np.asarray(self.path)), axis=1) - 1, 0)
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
    Of more than 200 points a third, at least 200, are looked at first, to know where to begin with all.

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
        max_iterations: steps that each search tries.
        seed: of the starts, and of the points that are looked at first.

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
    some = _some(generator, observed)
    first = _from_best(profile if some is None else profile.of_some(some), drawn, starts, limit)
    return _best(profile, first, first if some is None else _from(profile, first.place, first.memory, limit))


def _some(generator: np.random.Generator, observed: Observations) -> Int[np.ndarray, " m"] | None:
    """Points to begin with, those of no weight last; None where all of them are few."""
    number = len(observed.points)
    few = max(_FEW, number // _SHARE)
    if number <= few:
        return None
    order = generator.permutation(number)
    return order[np.argsort(np.asarray(observed.multiplicities)[order] == 0, kind="stable")][:few]


def _checked_held_out(held_out: Any, kernel: Kernel, observed: Observations, y: Array) -> HeldOut:
    if not isinstance(held_out, tuple) or len(held_out) != 2:
        raise TypeError(f"held_out must be a pair of points and targets, got {type(held_out).__name__}")
    points = kernel.points("held_out[0]", held_out[0], like=observed.points)
    targets = checked_targets("held_out[1]", held_out[1], "held_out[0]", points)
    if targets.shape[1:] != y.shape[1:]:
        raise ValueError(f"held_out[1] must have the outputs of y, {y.shape[1:]}, got {targets.shape[1:]}")
    return points, targets


class _State(NamedTuple):
    """Of a search, or of several with an axis more.

    Attributes:
        place: the logarithms of the kernel's parameters, shape (k,).
        value, slope: of the objective there, () and (k,); infinite before it was asked for.
        ridge: the best one there.
        memory: of L-BFGS.
        step: what is tried next, (k,).
        idle: how many steps in a row brought little, or led to where the next one will, by its slope and curvature.
        iteration: how many steps have been tried; -1 at the beginning.
        path: the value after each, shape (iterations + 1,); NaN after the last.
    """

    place: Float[Array, "*starts k"]
    value: Float[Array, "*starts"]
    slope: Float[Array, "*starts k"]
    ridge: BestRidge
    memory: Any
    step: Float[Array, "*starts k"]
    idle: Int[Array, "*starts"]
    iteration: Int[Array, "*starts"]
    path: Float[Array, "*starts steps"]


class _Found(NamedTuple):
    """What came of each start.

    Attributes:
        place, value, ridge, memory, path: as of a search, of each.
        done: whether it had come to an end by itself, shape (starts,).
        drawn: the objective of all kernels that were looked at first, shape (draws,).
    """

    place: Float[Array, "starts k"]
    value: Float[Array, " starts"]
    ridge: BestRidge
    memory: Any
    path: Float[Array, "starts steps"]
    done: Bool[Array, " starts"]
    drawn: Float[Array, " draws"]


@program
def _from_best(profile: Profile, drawn: Float[Array, "draws k"], starts: int, limit: int) -> _Found:
    """Searches from the best of the places."""
    value, ridge = jax.lax.map(lambda place: profile.of(place, derivatives=False), drawn)
    values = jnp.where(ridge.right, value, WALL)
    places = drawn[jnp.argsort(values)[:starts]]
    return _searches(profile, places, jax.vmap(_optimiser().init)(places), limit)._replace(drawn=values)


@program
def _from(profile: Profile, places: Float[Array, "starts k"], memory: Any, limit: int) -> _Found:
    """Searches from where others ended."""
    return _searches(profile, places, memory, limit)


def _optimiser() -> optax.GradientTransformation:
    return optax.scale_by_lbfgs(memory_size=_PAIRS)


def _searches(profile: Profile, places: Float[Array, "starts k"], memories: Any, limit: int) -> _Found:
    """One after the other: side by side each would wait for the longest."""
    tolerance, dtype = _tolerance(places.dtype), places.dtype

    def evaluated(place):
        """Value, slope and ridge; a level wall where there is none."""
        (value, ridge), slope = jax.value_and_grad(profile.of, has_aux=True)(place)
        right = ridge.right & jnp.all(jnp.isfinite(slope))
        return jnp.where(right, value, WALL), jnp.where(right, slope, 0), ridge

    def next_step(place, slope, memory: Any):
        """−Hg, and what is remembered; straight down where nothing is known or H, which it need not be, is no guide."""
        turned = (place - memory.params) @ (slope - memory.updates) > 0
        # A pair along which the slope falls makes no H: in its place the pair before it, or none.
        last = (memory.count - 2) % _PAIRS
        params = jnp.where(turned, memory.params, place - memory.diff_params_memory[last])
        updates = jnp.where(turned, memory.updates, slope - memory.diff_updates_memory[last])
        before: Any = memory._replace(params=params, updates=updates)
        direction: Any
        direction, memory = _optimiser().update(slope, before, place)
        known = jnp.any(memory.weights_memory != 0) & (direction @ slope > 0)
        steepest = _FIRST * slope / jnp.maximum(jnp.max(jnp.abs(slope), initial=0), tolerance)
        step = -jnp.where(known, direction, steepest)
        return step * jnp.minimum(1, _LONGEST / jnp.maximum(jnp.max(jnp.abs(step), initial=0), _LONGEST)), memory

    def turn(state: _State) -> _State:
        trial, promised = state.place + state.step, state.slope @ state.step
        value, slope, ridge = evaluated(trial)
        accepted = value <= state.value + _ARMIJO * promised
        step, memory = next_step(trial, slope, state.memory)
        little = jnp.minimum(state.value - value, -(slope @ step) / 2) <= _LITTLE
        made = _State(
            trial, value, slope, ridge, memory, step, jnp.where(little, state.idle + 1, 0), state.iteration, state.path
        )
        above = value - state.value - promised
        lowest = jnp.where(above > 0, -promised / (2 * jnp.where(above > 0, above, 1)), _SHORTER)
        shortened = state._replace(step=state.step * jnp.clip(lowest, _SHORTEST, _SHORTER))
        after = jax.tree.map(lambda yes, no: jnp.where(accepted, yes, no), made, shortened)
        iteration = state.iteration + 1
        return after._replace(iteration=iteration, path=state.path.at[iteration].set(after.value))

    def at_its_end(state: _State):
        """Where it is level, or little was to be had as often as there are directions to learn of."""
        level = jnp.max(jnp.abs(state.slope), initial=0) <= tolerance
        return level | (state.idle >= min(len(state.place), _PATIENCE))

    def search(best, start):
        """From a place, unless it comes to where the best search before it has ended."""
        place, memory = start

        def going_on(state: _State):
            near = (jnp.max(jnp.abs(state.place - best[0]), initial=0) < _SAME) & jnp.isfinite(best[1])
            ended = (state.iteration >= 0) & at_its_end(state)
            return (state.iteration < limit) & ~ended & ~(near & (state.value >= best[1]))

        infinite, path, none = jnp.full((), jnp.inf, dtype), jnp.full(limit + 1, jnp.nan, dtype), jnp.asarray(0)
        nowhere = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(profile.of, place)[1])
        zero = jnp.zeros_like(place)
        # What came before is of another function: its pairs count, its last place does not.
        memory = memory._replace(params=place, updates=zero)
        state = _State(place, infinite, zero, nowhere, memory, zero, none, none - 1, path)
        end = jax.lax.while_loop(going_on, turn, state)
        better, done = end.value < best[1], at_its_end(end)
        found = _Found(end.place, end.value, end.ridge, end.memory, end.path, done, jnp.zeros(0, dtype))
        return (jnp.where(better, end.place, best[0]), jnp.where(better, end.value, best[1])), found

    nothing = jnp.full_like(places[0], jnp.inf), jnp.full((), jnp.inf, dtype)
    return jax.lax.scan(search, nothing, (places, memories))[1]


def _best(profile: Profile, first: _Found, found: _Found) -> Tuned:
    """Of all starts, and how it ended."""
    values, paths = np.asarray(found.value), np.asarray(found.path)
    best = int(np.argmin(values))
    place, ridge = profile.within_reach(found.place[best]), jax.tree.map(lambda of_all: of_all[best], found.ridge)
    far = np.any(np.abs(np.asarray(place - profile.parameters)) >= FARTHEST)
    spreads = [_spread(first.drawn, first.path), _spread(paths), (float(np.max(found.ridge.spread)), 0.0)]
    if not values[best] < WALL:
        status = TuningStatus.FAILED
    elif all(spread <= _FLAT * (1 if profile.positive else max(1, size)) for spread, size in spreads):
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


def _spread(*values: ArrayLike) -> tuple[float, float]:
    """Between the largest and the smallest objective seen with the same points, and the size of the largest."""
    seen = np.concatenate([np.ravel(each) for each in values])
    seen = seen[seen < WALL]
    return (float(np.ptp(seen)), float(np.max(np.abs(seen)))) if seen.size else (0.0, 0.0)


def _tolerance(dtype) -> float:
    """Of the slope of a logarithm, 1e-4 in float64 and 2e-2 in float32: the value is then within its square."""
    return float(jnp.finfo(dtype).eps) ** 0.25
