"""Safety against efficacy: what a gradient penalty and early stopping do to the poison, and what they cost (T3, T4)."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._failures import one_by_one, program
from kpoison._typing import Labels, Numbers, Scalar
from kpoison._validation import check_integer, check_positive, check_real, is_concrete, public
from kpoison._version import __version__
from kpoison.flow._energies import energies_of
from kpoison.flow._trajectory import early_stopped
from kpoison.flow.integration import checked_times
from kpoison.laws import efficacy_gradient
from kpoison.laws._capacity import degrees_of
from kpoison.laws.inputs import LawInputs, Probes
from kpoison.laws.prediction import predictor_of
from kpoison.poison import Poison, attack_success_rate, clean_accuracy, target_of_each
from kpoison.poison.metrics import class_array
from kpoison.ridge import Posterior, Solver, fit
from kpoison.ridge.metric import checked_metric

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PenalisedAttack", "as_scores", "tradeoff"]


class PenalisedAttack(NamedTuple):
    """An attack, all known numbers, whose predictor is fitted under one penalty after the other.

    Attributes:
        clean: trained to the end.
        poison: clones or a cluster.
        x: triggered inputs, shape (q, d).
        ridge: λ.
        metric: M of the penalties; None for the identity.
        labels: classes of x, where they are known.
        target: the attacker's class, one for all x or one for each, where labels are known.
    """

    clean: Posterior
    poison: Poison
    x: Float[Array, "q ..."]
    ridge: Float[Array, ""]
    metric: Float[ArrayLike, "D D"] | None
    labels: Array | None
    target: Array | None

    @classmethod
    def of(
        cls, clean: Any, poison: Any, x: Any, ridge: Any, metric: Any, labels: Any, target_class: Any
    ) -> "PenalisedAttack":
        """The arguments of a public function, checked.

        Raises:
            TypeError, ValueError: naming the argument that does not fit.
        """
        inputs, probes = LawInputs.of(clean, poison, ridge), Probes.of(clean, x)
        if not all(is_concrete(leaf) for leaf in jax.tree.leaves((inputs, probes))):
            raise TypeError(
                "clean, poison, x and ridge must be known numbers: penalties are refitted, which cannot be traced"
            )
        if not clean.ended:
            raise ValueError("clean must not be stopped early: times are given by time")
        x = probes.points
        metric = checked_metric(metric, math.prod(clean.X.shape[1:]), clean.X.dtype)
        target = None
        if labels is not None:
            labels = _classes("labels", labels, len(x), ", one for each x")
            target = _class_of_poison(clean, poison) if target_class is None else _wanted(clean, target_class, labels)
        elif target_class is not None:
            raise ValueError("labels must be given with target_class: whether it is reached is asked of them")
        return cls(clean, poison, x, jnp.asarray(inputs.ridge), metric, labels, target)

    def refitted(self, penalty: float, solver: Solver | None = None) -> Posterior:
        """The posterior with another penalty, and with another solver if one is given."""
        clean = self.clean
        if solver is None:
            if penalty == 0 and not clean.observations.slopes:
                return clean
            solver = clean.factor.solver
        return fit(
            clean.kernel,
            clean.X,
            clean.y,
            weights=clean.observations.multiplicities if clean.observations.weighted else None,
            intercept=clean.observations.constant,
            solver=solver,
            gradient_penalty=penalty,
            metric=self.metric,
        )


def _class_of_poison(clean: Posterior, poison: Poison) -> Array:
    """The class of all the poison's labels: their sign, or their largest entry.

    Raises:
        ValueError: where they differ, as those of an all-to-all attack do.
    """
    _, labels, counts = poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)
    classes = np.asarray(jnp.sign(labels[:, 0]) if clean.outputs == 1 else jnp.argmax(labels, axis=1))
    # Of no weight are those by which a poison is filled up to a shape.
    weighed = np.asarray(counts) > 0
    found = np.unique(classes[weighed] if weighed.any() else classes)
    if len(found) > 1:
        raise ValueError(
            f"target_class must be given with labels, as the poison's labels are of {len(found)} classes, got None"
        )
    return jnp.asarray(found[0])


def _wanted(clean: Posterior, target_class: Any, labels: Array) -> Array:
    """The class wanted for all x, or for each, as an array."""
    wanted = target_of_each(target_class, labels, "target_class")
    check_real("target_class", wanted)
    known = (-1, 1) if clean.outputs == 1 else range(clean.outputs)
    wrong = ~np.isin(np.asarray(wanted), known)
    if wrong.any():
        raise ValueError(
            f"target_class must be of the classes {', '.join(map(str, known))}, got {np.asarray(wanted)[wrong][0]}"
        )
    return class_array("target_class", wanted)


def _classes(name: str, labels: Any, number: int, each: str = "") -> Array:
    check_real(name, labels)
    if np.shape(labels) != (number,):
        raise ValueError(f"{name} must have shape ({number},){each}, got {np.shape(labels)}")
    return class_array(name, labels)


def _checked_penalties(penalties: Any) -> Float[np.ndarray, " P"]:
    rising = np.atleast_1d(np.asarray(penalties, float))
    check_positive("gradient_penalty", rising, zero=True, scalar=False)
    if rising.ndim != 1 or rising.size == 0 or np.any(np.diff(rising) <= 0):
        raise ValueError(f"gradient_penalty must be a number or rise strictly, got {penalties}")
    return rising


def _checked_held_out(held_out: Any, clean: Posterior) -> tuple[Array, Array]:
    if not isinstance(held_out, tuple) or len(held_out) != 2:
        raise TypeError(f"held_out must be (inputs, labels), got {type(held_out).__name__}")
    inputs = clean.kernel.points("held_out[0]", held_out[0], like=clean.X)
    return inputs, _classes("held_out[1]", held_out[1], len(inputs))


def _checked_direction(direction: Any, clean: Posterior) -> Float[Array, " D"]:
    direction = jnp.asarray(direction, clean.X.dtype)
    length = float(jnp.linalg.norm(direction))
    if direction.shape != clean.X.shape[1:] or not 0 < length < math.inf:
        raise ValueError(f"direction must be finite, not 0, of shape {clean.X.shape[1:]}, got {direction.shape}")
    return direction.ravel() / length


def _leading_direction(attack: PenalisedAttack, time: Array) -> Float[Array, " D"]:
    """That of ∇Δf at x without a penalty."""
    plain = early_stopped(attack.refitted(0.0), time)
    gradients = efficacy_gradient(plain, attack.poison, attack.x, attack.ridge).reshape(-1, attack.x[0].size)
    return jnp.linalg.svd(gradients, full_matrices=False)[2][0]


@public
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
    target_class: Scalar | Mapping[int, int] | Labels | Num[ArrayLike, " q"] | None = None,
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
        labels: true classes of x, for the attack success rate.
        target_class: the attacker's class, for the same: one for all x, a mapping from classes to the class wanted for
            each, or one for each x, as `kpoison.attack_success_rate` takes it; by default that of the poison's labels,
            where these are of one class.
        held_out: clean inputs (N, d) and their classes (N,), for the clean accuracy.
        direction: u of the poison's component uᵀFu, a vector; by default the leading direction of ∇Δf at x for γ = 0
            and the last time (for one x its own).
        modes: how many of the largest eigenvalues of the input Fisher matrix F over x.

    Returns:
        A dataset with dimensions gradient_penalty, time, then probe (of x), mode and, where y has several outputs,
        output.  efficacy Δf and spike ‖∇Δf‖² at x; fisher_eigenvalue and poison_component uᵀFu of
        F = (1/q) Σ ∇f ∇fᵀ over x, for the squared loss also the Gauss–Newton matrix; training_fit, squared_norm,
        penalty_energy B and objective A = fit + λ norm of the training set (`Energies`); degrees_of_freedom tr H of the
        poisoned predictor (T7) where the solver factorises; attack_success_rate and clean_accuracy where labels are
        given.  At the end of training B and the degrees of freedom fall and A rises with γ (T4, T7), the fit alone need
        not (T8).

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
        ArithmeticError: where A falls or B rises with γ at t = ∞ by more than rounding explains.
    """
    attack = PenalisedAttack.of(clean, poison, x, ridge, metric, labels, target_class)
    penalties, number = _checked_penalties(gradient_penalty), float(attack.ridge)
    ends = np.atleast_1d(np.asarray(math.inf if time is None else time, float))
    times = checked_times("time", ends, clean.X.dtype)
    if number == 0 and not bool(jnp.isfinite(times[-1])):
        raise ValueError("ridge must be > 0 for training to the end, got 0")
    modes = check_integer("modes", modes, 1)
    clean_points = None if held_out is None else _checked_held_out(held_out, clean)
    along = _leading_direction(attack, times[-1]) if direction is None else _checked_direction(direction, clean)
    count = min(modes, len(attack.x) * clean.outputs, attack.x[0].size)
    n = float(clean.observations.total + jnp.sum(poison.count))
    found, rounding = [], 0.0
    for penalty in penalties:
        posterior = attack.refitted(float(penalty))
        arrays = _along(attack._replace(clean=posterior), clean_points, along, times, count)
        found.append(jax.tree.map(np.asarray, arrays))
        if number > 0:
            rounding = max(rounding, 10 * float(posterior.factor.rounding(jnp.asarray(n * number, clean.X.dtype))))
    result = _dataset({name: np.stack([part[name] for part in found]) for name in found[0]}, penalties, times)
    result["direction"] = (
        "coordinate",
        np.asarray(along),
        {"long_name": "unit vector u of the poison's component uᵀFu"},
    )
    result.attrs |= {"ridge": number, "n_c": len(clean.X), "dtype": str(clean.X.dtype),
                     "kernel": type(clean.kernel).__name__, "metric": "identity" if metric is None else "given",
                     "count": float(jnp.sum(poison.count)), "jax_version": jax.__version__,
                     "kpoison_version": __version__}  # fmt: skip
    _assert_monotone(result, rounding)
    return result


def as_scores(values: Float[Array, "q *C"]) -> Float[Array, "q *classes"]:
    """Predictions as scores of classes: of one output its sign tells, so that it needs no axis of its own."""
    values = values.reshape(len(values), -1)
    return values[:, 0] if values.shape[1] == 1 else values


@program
def _along(
    attack: PenalisedAttack, held_out: tuple[Array, Array] | None, direction: Array, times: Array, modes: int
) -> dict[str, Array]:
    """Every variable at every time."""
    probes = Probes.of(attack.clean, attack.x)
    x = probes.points

    def at(time):
        inputs = LawInputs(early_stopped(attack.clean, time), attack.poison, attack.ridge)
        delta, f = inputs.change(), predictor_of(inputs)
        rows = f.expansion.gradients(x).reshape(-1, x[0].size) / len(x) ** 0.5
        parts = energies_of(f, inputs, attack.metric)
        found = {
            "efficacy": probes.outputs(delta.values(x)),
            "spike": probes.outputs(delta.squared_gradient_norms(x)),
            "fisher_eigenvalue": jnp.linalg.svd(rows, compute_uv=False)[:modes] ** 2,
            "poison_component": jnp.sum((rows @ direction) ** 2),
            "training_fit": parts.fit,
            "squared_norm": parts.norm,
            "penalty_energy": parts.penalty,
            "objective": parts.unpenalised(attack.ridge),
        }
        if attack.clean.factor.abilities.factorised:
            found["degrees_of_freedom"] = degrees_of(inputs)
        if attack.labels is not None and attack.target is not None:
            scores = as_scores(f.expansion.values(x))
            found["attack_success_rate"] = attack_success_rate(scores, attack.labels, attack.target)
        if held_out is not None:
            points, classes = held_out
            found["clean_accuracy"] = clean_accuracy(as_scores(f.expansion.values(points)), classes)
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
    "degrees_of_freedom": ((), "degrees of freedom tr H of the poisoned predictor (T7)", "1"),
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
