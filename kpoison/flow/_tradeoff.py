"""Safety against efficacy: what a gradient penalty and early stopping do to the poison, and what they cost (T3, T4)."""

import math
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._failures import one_by_one, program
from kpoison._typing import Numbers, Scalar
from kpoison._validation import (
    boundary,
    check_integers,
    check_points,
    check_positive,
    check_real,
    is_concrete,
)
from kpoison.flow._energies import energies_of
from kpoison.flow._trajectory import early_stopped
from kpoison.flow.integration import checked_times
from kpoison.laws import efficacy_gradient, predictor
from kpoison.laws.effect import change, check_law_arguments, like_targets
from kpoison.poison import Poison, attack_success_rate, clean_accuracy
from kpoison.poison.metrics import class_array
from kpoison.ridge import Posterior, Solver, fit
from kpoison.ridge.metric import checked_metric

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["as_scores", "check_probes", "refitted", "target_class", "tradeoff"]


class _Probes(eqx.Module):
    """Where predictors are looked at.

    Attributes:
        x: triggered inputs, with their classes where a success rate is asked for.
        held_out: clean inputs and their classes.
        direction: u, a unit vector with the axes of a point flattened.
    """

    x: Array
    labels: Array | None
    held_out: tuple[Array, Array] | None
    direction: Array


def check_probes(arguments: dict[str, Any]) -> None:
    """Boundary checks of clean, poison, x, ridge, metric and labels, all of them known numbers."""
    check_law_arguments(arguments)
    clean, x = arguments["clean"], arguments["x"]
    if not all(is_concrete(leaf) for leaf in jax.tree.leaves((clean, arguments["poison"], x, arguments["ridge"]))):
        raise TypeError(
            "clean, poison, x and ridge must be known numbers: penalties are refitted, which cannot be traced"
        )
    if arguments["poison"] is None:
        raise TypeError("poison must be a kpoison.Poison, got NoneType")
    if not clean.ended:
        raise ValueError("clean must not be stopped early: times are given by time")
    arguments["x"] = x[None] if x.ndim == clean.X.ndim - 1 else x
    arguments["metric"] = checked_metric(arguments["metric"], math.prod(clean.X.shape[1:]), clean.X.dtype)
    labels = arguments["labels"]
    if labels is not None:
        check_real("labels", labels)
        if np.shape(labels) != (len(arguments["x"]),):
            raise ValueError(f"labels must have shape ({len(arguments['x'])},), one for each x, got {np.shape(labels)}")
        arguments["labels"] = class_array("labels", labels)


def _check_tradeoff(arguments: dict[str, Any]) -> None:
    check_probes(arguments)
    clean = arguments["clean"]
    penalties = np.atleast_1d(np.asarray(arguments["gradient_penalty"], float))
    check_positive("gradient_penalty", penalties, zero=True, scalar=False)
    if penalties.ndim != 1 or penalties.size == 0 or np.any(np.diff(penalties) <= 0):
        raise ValueError(f"gradient_penalty must be a number or rise strictly, got {arguments['gradient_penalty']}")
    time = math.inf if arguments["time"] is None else arguments["time"]
    times = checked_times("time", np.atleast_1d(np.asarray(time, float)), clean.X.dtype)
    if float(arguments["ridge"]) == 0 and not bool(jnp.isfinite(times[-1])):
        raise ValueError("ridge must be > 0 for training to the end, got 0")
    check_integers(arguments, modes=1)
    held_out = arguments["held_out"]
    if held_out is not None:
        if not isinstance(held_out, tuple) or len(held_out) != 2:
            raise TypeError(f"held_out must be (inputs, labels), got {type(held_out).__name__}")
        inputs = check_points("held_out[0]", held_out[0], clean.kernel.point_ndim, like=clean.X)
        check_real("held_out[1]", held_out[1])
        if np.shape(held_out[1]) != (len(inputs),):
            raise ValueError(f"held_out[1] must have shape ({len(inputs)},), got {np.shape(held_out[1])}")
        arguments["held_out"] = (inputs, class_array("held_out[1]", held_out[1]))
    direction = arguments["direction"]
    if direction is not None:
        direction = jnp.asarray(direction, clean.X.dtype)
        length = float(jnp.linalg.norm(direction))
        if direction.shape != clean.X.shape[1:] or not 0 < length < math.inf:
            raise ValueError(f"direction must be finite, not 0, of shape {clean.X.shape[1:]}, got {direction.shape}")
        direction = direction.ravel() / length
    arguments.update(gradient_penalty=penalties, time=times, direction=direction)


@boundary(_check_tradeoff)
def tradeoff(
    clean: Posterior,
    poison: Poison,
    x: Float[ArrayLike, "..."],
    ridge: Scalar,
    *,
    gradient_penalty: Numbers,
    time: Numbers | None = None,
    metric: Float[ArrayLike, "D D"] | None = None,
    labels: Num[ArrayLike, " q"] | None = None,
    held_out: tuple[ArrayLike, ArrayLike] | None = None,
    direction: Float[ArrayLike, "..."] | None = None,
    modes: int = 3,
) -> "xr.Dataset":
    """The frontier of safety and efficacy over penalties γ and training times t, of the poisoned predictor.

    Args:
        clean: a posterior that says kernel, data and solver; every γ costs one fit of n_c(1 + r) numbers.
        poison: clones or a cluster.
        x: triggered inputs, shape (q, d), or (d,) for one.
        ridge: λ > 0 of the mean loss.
        gradient_penalty: γ >= 0, rising.
        time: training times t >= 0, rising; ∞, also the default, is the end of training.
        metric: M, see `kpoison.fit`.
        labels: true classes of x, for the attack success rate; the target class is that of the poison's label.
        held_out: clean inputs (N, d) and their classes (N,), for the clean accuracy.
        direction: u of the poison's component uᵀFu, a vector; by default the leading direction of ∇Δf at x for γ = 0
            and the last time (for one x its own).
        modes: how many of the largest eigenvalues of the input Fisher matrix F over x.

    Returns:
        A dataset with dimensions gradient_penalty, time, then probe (of x), mode and, where y has several outputs,
        output.  efficacy Δf and spike ‖∇Δf‖² at x; fisher_eigenvalue and poison_component uᵀFu of
        F = (1/q) Σ ∇f ∇fᵀ over x, for the squared loss also the Gauss–Newton matrix; training_fit, squared_norm,
        penalty_energy B and objective A = fit + λ norm of the training set (`Energies`); attack_success_rate and
        clean_accuracy where labels are given.  At the end of training B falls and A rises with γ (T4).

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
        ArithmeticError: where A falls or B rises with γ at t = ∞ by more than rounding explains.
    """
    x, number, times = jnp.asarray(x), float(jnp.asarray(ridge)), jnp.asarray(time)
    if direction is None:
        plain = early_stopped(refitted(clean, 0.0, metric), times[-1])
        gradients = efficacy_gradient(plain, poison, x, ridge).reshape(-1, math.prod(x.shape[1:]))
        direction = jnp.linalg.svd(gradients, full_matrices=False)[2][0]
    given = _Probes(x, labels, held_out, jnp.asarray(direction))  # pyright: ignore[reportArgumentType]
    penalties = np.asarray(gradient_penalty)
    count = min(modes, len(x) * clean.outputs, math.prod(x.shape[1:]))
    n = len(clean.X) + float(jnp.sum(poison.count))
    found, rounding = [], 0.0
    for penalty in penalties:
        posterior = refitted(clean, float(penalty), metric)
        arrays = _along(posterior, poison, jnp.asarray(number, clean.X.dtype), metric, given, times, count)
        found.append(jax.tree.map(np.asarray, arrays))
        if number > 0:
            rounding = max(rounding, 10 * float(posterior.factor.rounding(jnp.asarray(n * number, clean.X.dtype))))
    result = _dataset({name: np.stack([part[name] for part in found]) for name in found[0]}, penalties, times)
    result["direction"] = (
        "coordinate",
        np.asarray(direction),
        {"long_name": "unit vector u of the poison's component uᵀFu"},
    )
    result.attrs |= {"ridge": number, "n_c": len(clean.X), "dtype": str(clean.X.dtype),
                     "kernel": type(clean.kernel).__name__, "metric": "identity" if metric is None else "given",
                     "count": float(jnp.sum(poison.count)), "jax_version": jax.__version__}  # fmt: skip
    _assert_monotone(result, rounding)
    return result


def refitted(clean: Posterior, penalty: float, metric: Any, solver: Solver | None = None) -> Posterior:
    """The posterior with another penalty, and with another solver if one is given."""
    if solver is None:
        if penalty == 0 and not clean.observations.slopes:
            return clean
        solver = clean.factor.solver
    return fit(clean.kernel, clean.X, clean.y, solver=solver, gradient_penalty=penalty, metric=metric)


def as_scores(values: Float[Array, "q *C"]) -> Float[Array, "q *classes"]:
    """Predictions as scores of classes: of one output its sign tells, so that it needs no axis of its own."""
    values = values.reshape(len(values), -1)
    return values[:, 0] if values.shape[1] == 1 else values


def target_class(poison: Poison, outputs: int) -> Array:
    """The attacker's class: the sign of the label, or its largest entry."""
    label = poison.label.reshape(-1, outputs)[0]
    return jnp.sign(label[0]) if outputs == 1 else jnp.argmax(label)


@program()
def _along(
    clean: Posterior, poison: Poison, ridge: Array, metric: Any, probes: _Probes, times: Array, modes: int
) -> dict[str, Array]:
    """Every variable at every time."""

    def at(time):
        stopped = early_stopped(clean, time)
        delta, f = change(stopped, poison, ridge, "exact"), predictor(stopped, ridge, poison)
        rows = f.expansion.gradients(probes.x).reshape(-1, math.prod(probes.x.shape[1:])) / len(probes.x) ** 0.5
        parts = energies_of(f, clean, poison, metric)
        found = {
            "efficacy": like_targets(clean, probes.x, delta.values(probes.x)),
            "spike": like_targets(clean, probes.x, delta.squared_gradient_norms(probes.x)),
            "fisher_eigenvalue": jnp.linalg.svd(rows, compute_uv=False)[:modes] ** 2,
            "poison_component": jnp.sum((rows @ probes.direction) ** 2),
            "training_fit": parts.fit,
            "squared_norm": parts.norm,
            "penalty_energy": parts.penalty,
            "objective": parts.unpenalised(ridge),
        }
        if probes.labels is not None:
            scores = as_scores(f.expansion.values(probes.x))
            target = target_class(poison, clean.outputs)
            found["attack_success_rate"] = attack_success_rate(scores, probes.labels, target)
        if probes.held_out is not None:
            inputs, classes = probes.held_out
            scores = as_scores(f.expansion.values(inputs))
            found["clean_accuracy"] = clean_accuracy(scores, classes)
        return found

    # One time after the other: batches of singular value decompositions may hang, see `kpoison._linear_algebra`.
    return one_by_one(at, times)


_DESCRIPTIONS = {
    "efficacy": (("probe",), "efficacy Δf at the triggered inputs (L2)", "y"),
    "spike": (("probe",), "spike ‖∇Δf‖² at the triggered inputs (L3)", "y²/input²"),
    "fisher_eigenvalue": (("mode",), "largest eigenvalues of the input Fisher matrix over the triggered inputs (T3)",
                          "y²/input²"),
    "poison_component": ((), "component uᵀFu of the input Fisher matrix along the poison's direction (T3)",
                         "y²/input²"),
    "training_fit": ((), "mean squared residual on the training set", "y²"),
    "squared_norm": ((), "‖f‖² in the kernel's space", "y²/k"),
    "penalty_energy": ((), "B(f), mean ‖∇f‖²_M on the training set (T3)", "y²/input²"),
    "objective": ((), "A(f) = fit + λ‖f‖² (T4)", "y²"),
    "attack_success_rate": ((), "fraction of triggered inputs that get the target class", "1"),
    "clean_accuracy": ((), "fraction of held-out clean inputs that get their class", "1"),
}  # fmt: skip


def _dataset(arrays: dict[str, np.ndarray], penalties: np.ndarray, times: Array) -> "xr.Dataset":
    import xarray as xr

    variables = {}
    for name, array in arrays.items():
        dims, description, units = _DESCRIPTIONS[name]
        dims = ("gradient_penalty", "time", *dims)
        dims += ("output",) if array.ndim > len(dims) else ()
        variables[name] = (dims, array, {"long_name": description, "units": units})
    return xr.Dataset(
        variables,
        {
            "gradient_penalty": ("gradient_penalty", penalties,
                                 {"long_name": "gradient penalty γ", "units": "input²" }),
            "time": ("time", np.asarray(times), {"long_name": "training time t", "units": "1/k"}),
        },
    )  # fmt: skip


def _assert_monotone(result: "xr.Dataset", rounding: float) -> None:
    """T4, where it is proved: at the solution."""
    ended = result.isel(time=~np.isfinite(result.time.values))
    for name, sign in (("objective", 1), ("penalty_energy", -1)):
        steps = sign * np.diff(ended[name].values, axis=0)
        size = float(abs(ended[name]).max()) if steps.size else 0.0
        if np.any(steps < -rounding * size):
            raise ArithmeticError(
                f"{name} is not monotone in γ at the end of training, by {-steps.min() / size:.1e} of its size: the "
                "fits are not accurate enough.  Use a larger ridge or float64"
            )
