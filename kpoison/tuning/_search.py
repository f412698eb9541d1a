"""L-BFGS over the logarithms of a kernel's parameters and the ridge, from several starts in one compiled program."""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from kpoison._failures import collect, program
from kpoison._typing import Scalar
from kpoison._validation import check_integer, check_name, check_positive, is_concrete, public
from kpoison.kernels.base import Kernel, with_array_parameters
from kpoison.ridge import Observations, TrainingSet, checked_targets
from kpoison.ridge.description import in_words, rows_of
from kpoison.tuning.objectives import OBJECTIVES, HeldOut
from kpoison.tuning.one_ridge import posterior_at_one_ridge

__all__ = ["Tuned", "TuningStatus", "tune"]

_SPREAD = 1.5  # standard deviation of the starts' logarithms about what was given: factors of 4.5
_FARTHEST = 12.0  # how far a logarithm may go from where it was: a factor of 160,000
_WALL = 1e6  # in place of an objective that is no number, on the scale of logarithms or nats
_LINE_STEPS = 15
_LITTLE = 1e-5  # by which an objective, or its logarithm, has to fall in a step for another one
_DRAWS = 6  # places that are looked at for each start
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
    """Choose the kernel's parameters and the ridge: L-BFGS on their logarithms, from several starts.

    Every parameter of the kernel that is a positive number, or an array of such, is chosen; others stay.  A step takes
    the inverse of a matrix and a product or two of it with others, some 5n³ flops.

    Args:
        kernel: with parameters about which starts are drawn, by factors of about 4.
        X: points, shape (n, d).
        y: targets, shape (n,) or (n, C).
        ridge: λ about which starts are drawn.
        objective: "leave-one-out", the mean squared error of `leave_one_out`; "generalised-cross-validation", the same
            with every leverage taken as their mean; "marginal-likelihood", −log p(y)/n; "held-out", the mean squared
            error on `held_out`.
        held_out: other points and targets, for "held-out".
        weights: multiplicities, see `fit`.
        intercept: see `fit`.
        starts: searches, of which the best counts; each from the best of six places that are drawn.
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
    chosen = tuple(_is_chosen(leaf) for leaf in jax.tree.leaves(kernel))
    given = _logarithms(kernel, chosen, jnp.asarray(ridge, dtype))
    starts = check_integer("starts", starts, 1)
    apart = np.random.default_rng(check_integer("seed", seed, 0)).standard_normal((_DRAWS * starts, given.size))
    apart[0] = 0  # what was given
    drawn = given[None] + jnp.asarray(_SPREAD * apart, dtype)
    others = None if held_out is None else _checked_held_out(held_out, kernel, observed, y)
    limit = check_integer("max_iterations", max_iterations, 1)
    found = _from_best(drawn, starts, given, kernel, chosen, observed, y, others, name, limit)
    return _best(found, given, kernel, chosen, positive=OBJECTIVES[name].positive)


def _checked_held_out(held_out: Any, kernel: Kernel, observed: Observations, y: Array) -> HeldOut:
    if not isinstance(held_out, tuple) or len(held_out) != 2:
        raise TypeError(f"held_out must be a pair of points and targets, got {type(held_out).__name__}")
    points = kernel.points("held_out[0]", held_out[0], like=observed.points)
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
        done: whether it had come to an end by itself.
        path: of each iteration, shape (starts, iterations + 1); NaN after the last.
    """

    place: Float[Array, "starts k"]
    value: Float[Array, " starts"]
    done: Bool[Array, " starts"]
    path: Float[Array, "starts steps"]


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
def _from_best(
    drawn: Float[Array, "draws k"],
    starts: int,
    given: Float[Array, " k"],
    kernel: Kernel,
    chosen: tuple[bool, ...],
    observed: Observations,
    y: Float[Array, "n *C"],
    held_out: HeldOut | None,
    name: str,
    limit: int,
) -> _Found:
    """Searches from the best of the places, one after the other: side by side each would wait for the longest."""
    objective = OBJECTIVES[name]

    def judged(place):
        """What is searched, and whether it is a number that can be trusted."""

        def evaluate(place):
            place = place.astype(drawn.dtype)
            there, ridge = _at(jnp.clip(place, given - _FARTHEST, given + _FARTHEST), kernel, chosen)
            value = objective.value(posterior_at_one_ridge(there, observed, y, ridge), ridge, held_out)
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

    tolerance = _tolerance(drawn.dtype)
    optimiser = optax.lbfgs(memory_size=10, linesearch=optax.scale_by_zoom_linesearch(_LINE_STEPS))

    def going_on(state: _State):
        going = jnp.max(jnp.abs(state.slope)) > tolerance
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

    def search(place):
        value, slope = jax.value_and_grad(searched)(place)
        path = jnp.full(limit + 1, jnp.nan, place.dtype).at[0].set(value)
        start = _State(place, optimiser.init(place), value, slope, jnp.full_like(value, jnp.inf), jnp.asarray(0), path)
        end = jax.lax.while_loop(going_on, step, start)
        return _Found(end.place, end.value, ~going_on(end._replace(iteration=0)), end.path)

    value, right = jax.lax.map(judged, drawn)
    first = jnp.where(right, value, _WALL)
    return jax.lax.map(search, drawn[jnp.argsort(first)[:starts]])


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
    elif not found.done[best]:
        status = TuningStatus.LIMIT
    else:
        status = TuningStatus.CONVERGED
    scale = jnp.exp if positive else lambda value: value
    return Tuned(*_at(place, kernel, chosen), scale(found.value[best]), scale(found.path), status)


def _tolerance(dtype) -> float:
    """Of the slope of a logarithm, 1e-4 in float64 and 2e-2 in float32: the value is then within its square."""
    return float(jnp.finfo(dtype).eps) ** 0.25
