"""Poisons by gradients through the exact posterior: the inner problem, training, is solved in closed form.

What a clean posterior contributes at one ρ is taken once: A⁻¹, A⁻¹y and A⁻¹k(X, x) at the probes x.  A step then
conditions on p poisons by a block update (L7) and differentiates it; nothing is trained, factorised or solved again
but a system of p equations.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int, Num

from kpoison._typing import Scalar
from kpoison._validation import (
    boundary,
    check_finite,
    check_integer,
    check_name,
    check_points,
    check_positive,
    check_real,
    is_concrete,
)
from kpoison.attacks.classes import common_class
from kpoison.attacks.descent import AllowedInputs, Norm, allowed_inputs, check_history, descend
from kpoison.attacks.poisoned import PoisonedData, poisoned_data
from kpoison.kernels.base import Kernel, matrix_product
from kpoison.poison import Poison
from kpoison.ridge import Posterior
from kpoison.ridge.lapack import linear_solve
from kpoison.ridge.posterior import check_conditioning, checked_ridge
from kpoison.ridge.solvers import DenseFactor, ReducedFactor

__all__ = ["Bilevel", "BilevelObjective", "bilevel", "bilevel_objective", "greedy_bases"]

Objective: TypeAlias = Literal["targeted", "error", "margin"]
_DIFFERENCES_UP_TO = 2**22  # coordinates of differences of a kernel that feels what a matrix product loses


@jax.custom_jvp
def _quadratic_form(inverse: Float[Array, "n n"], cross: Float[Array, "p n"]) -> Float[Array, "p p"]:
    """k(Z, X) A⁻¹ k(X, Z) for p poisons in 2n²p + 2np² flops, and its derivative in 4np² more.

    Autodiff would multiply by A⁻¹ again on its way back, 2n²p flops more: it does not know that A⁻¹ is symmetric.
    With V = k(Z, X) A⁻¹ the differential is dk Vᵀ + V dkᵀ, so that V, the only product with A⁻¹, serves both ways.
    Of a step for n = 2000 points in d = 784 dimensions with p = 50 poisons and q = 20 probes that product has 0.40
    Gflop; k(Z, X) and its derivative have 2(n + q)pd = 0.16 each; the rest is below 0.05.  A refit has n³/3 = 2.7 for
    its factorisation and 2n²d = 6.3 for its Gram matrix, and these once more to differentiate it.
    """
    return matrix_product(matrix_product(cross, inverse), cross.T)


@_quadratic_form.defjvp
def _quadratic_form_jvp(primals, tangents):
    inverse, cross = primals
    _, d_cross = tangents  # A⁻¹ is a constant: ρ and the clean data are fixed
    solved = matrix_product(cross, inverse)
    half = matrix_product(d_cross, solved.T)
    return matrix_product(solved, cross.T), half + half.T


class BilevelObjective(eqx.Module):
    """What an attacker minimises, as a function of the poisons' inputs and labels; made by `bilevel_objective`.

    Attributes:
        kernel: the kernel.
        points: clean inputs and after them the probes, shape (n + q, ...).
        inverse: A⁻¹ = (K + ρI)⁻¹, shape (n, n).
        coefficients: A⁻¹y, shape (n, C).
        probe_coefficients: A⁻¹k(X, x), shape (n, q).
        prediction: f_c(x) at the same ρ, shape (q, C).
        counts: multiplicities of the poisons, shape (p,).
        rho: ρ = (n + Σm)λ.
        target: shape (q, C).
        objective: "targeted", "error" or "margin".
    """

    kernel: Kernel
    points: Float[Array, "all ..."]
    inverse: Float[Array, "n n"]
    coefficients: Float[Array, "n C"]
    probe_coefficients: Float[Array, "n q"]
    prediction: Float[Array, "q C"]
    counts: Float[Array, " p"]
    rho: Float[Array, ""]
    target: Float[Array, "q C"]
    objective: Objective = eqx.field(static=True)

    def predictions(self, locations: Float[Array, "p ..."], labels: Float[Array, "p *C"]) -> Float[Array, "q C"]:
        """The poisoned predictor at the probes, f_c(x) + k̃(x, Z)(k̃(Z, Z) + diag(ρ/m))⁻¹(y_t − f_c(Z)) (L7).

        Traceable, and differentiable in locations and labels; the formula of `kpoison.predict`, from what is kept.
        """
        n, counts = len(self.inverse), self.counts
        cross = _cross(self.kernel, locations, self.points)
        seen, probed = cross[:, :n], cross[:, n:]
        covariance = self.kernel.gram(locations, locations) - _quadratic_form(self.inverse, seen)
        # As in `kpoison.laws.effect`: times M, so that a count of 0 is ordinary, and with a diagonal of ones.
        scale = (self.rho + counts * jnp.diagonal(covariance))[:, None]
        system = (jnp.diag(jnp.broadcast_to(self.rho, counts.shape)) + counts[:, None] * covariance) / scale
        missing = labels.reshape(len(counts), -1) - matrix_product(seen, self.coefficients)
        weights = linear_solve(system, counts[:, None] / scale * missing)
        reach = probed - matrix_product(seen, self.probe_coefficients)
        return self.prediction + matrix_product(reach.T, weights)

    def __call__(self, locations: Float[Array, "p ..."], labels: Float[Array, "p *C"]) -> Float[Array, ""]:
        """The objective: traceable, and differentiable in both."""
        return _objective(self.objective, self.predictions(locations, labels), self.target)

    @eqx.filter_jit
    def gradient(
        self, locations: Float[Array, "p ..."], labels: Float[Array, "p *C"]
    ) -> tuple[Float[Array, ""], tuple[Float[Array, "p ..."], Float[Array, "p *C"]]]:
        """The objective, and its gradient in the locations and in the labels: one step's work, compiled.

        About 4(n + q)pd + 2n²p flops; no factorisation but of a matrix of p rows.
        """
        return jax.value_and_grad(lambda both: self(*both))((locations, labels))


def _cross(kernel: Kernel, Z: Float[Array, "p ..."], points: Float[Array, "m ..."]) -> Float[Array, "p m"]:
    """k(Z, points), in this order: a kernel may take distances about its second points' centre, here a constant."""
    exact = kernel.smoothness != float("inf") and len(Z) * points.size <= _DIFFERENCES_UP_TO
    return kernel.pairwise(Z, points) if exact else kernel.gram(Z, points)


def _objective(objective: Objective, predictions: Float[Array, "q C"], target: Float[Array, "q C"]) -> Float[Array, ""]:
    """What an attacker minimises."""
    if objective == "margin":
        if target.shape[1] == 1:
            return jnp.mean(jnp.sign(target) * predictions)
        right = jax.nn.one_hot(jnp.argmax(target, axis=1), target.shape[1], dtype=bool)
        other = jnp.max(jnp.where(right, -jnp.inf, predictions), axis=1)
        return jnp.mean(jnp.sum(jnp.where(right, predictions, 0), axis=1) - other)
    error = jnp.mean(jnp.sum((predictions - target) ** 2, axis=1))
    return error if objective == "targeted" else -error


def _checked_clean(clean: object) -> Posterior:
    if not isinstance(clean, Posterior):
        raise TypeError(f"clean must be a Posterior made by kpoison.fit, got {type(clean).__name__}")
    dense = isinstance(clean.factor, DenseFactor) and not isinstance(clean.factor, ReducedFactor)
    if clean.root is not None or clean.time is not None or not dense:
        raise ValueError(
            "clean must be fitted by a solver that factorises (Spectral, Tridiagonal, Cholesky), without "
            f"gradient_penalty, and not be stopped early or prepared, got a {type(clean.factor).__name__}"
        )
    return clean


def _checked_probes(clean: Posterior, arguments: dict) -> None:
    """Probes, their targets (q, C), ridge and objective."""
    check_name("objective", arguments["objective"], get_args(Objective))
    check_positive("ridge", arguments["ridge"])
    probes = check_points("probes", arguments["probes"], clean.X.ndim - 1, like=clean.X)
    check_real("target", arguments["target"])
    target, shape = jnp.asarray(arguments["target"], clean.X.dtype), (len(probes), *clean.y.shape[1:])
    if target.shape not in (shape, shape[1:]):
        raise ValueError(f"target must have shape {shape}, one for each probe, or {shape[1:]}, got {target.shape}")
    check_finite("target", target)
    signed = arguments["objective"] == "margin" and clean.outputs == 1 and is_concrete(target)
    if signed and np.any(np.asarray(target) == 0):
        raise ValueError("target must be positive or negative for the margin of one output, got 0")
    target = jnp.broadcast_to(target, shape).reshape(len(probes), -1)
    arguments.update(probes=probes, target=target, ridge=jnp.asarray(arguments["ridge"], clean.X.dtype))


def _checked_counts(clean: Posterior, poison: object) -> Float[Array, " p"]:
    if not isinstance(poison, Poison):
        raise TypeError(f"poison must be a kpoison.Poison, got {type(poison).__name__}")
    counts = poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)[2]
    check_positive("poison.count", counts, scalar=False)
    return counts


def _check_objective(arguments: dict) -> None:
    clean = _checked_clean(arguments["clean"])
    _checked_probes(clean, arguments)
    counts = _checked_counts(clean, arguments["poison"])
    check_conditioning(clean, (len(clean.X) + jnp.sum(counts)) * arguments["ridge"])


@boundary(_check_objective)
def bilevel_objective(
    clean: Posterior,
    poison: Poison,
    ridge: Scalar,
    *,
    probes: Float[ArrayLike, "q ..."],
    target: Num[ArrayLike, "..."],
    objective: Objective = "targeted",
) -> BilevelObjective:
    """An attacker's objective, prepared once: its gradient then costs a block update, never a refit.

    Arguments and errors as in `bilevel`; of the poison only counts are used.  A⁻¹ is made from the factorisation of
    `clean` (about 2n³ flops) and kept beside it (n² numbers).

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [2.0]]), jnp.array([1.0, -1.0]))
    >>> poison, probes = kp.Poison(jnp.array([[1.0]]), -1.0, 1), jnp.array([[0.5]])
    >>> objective = bilevel_objective(clean, poison, 0.1, probes=probes, target=-1.0)
    >>> value, (slope, _) = objective.gradient(poison.location, jnp.array([-1.0]))
    >>> slope.shape, bool(jnp.isclose(value, (kp.predict(clean, probes, 0.1, poison)[0] + 1) ** 2))
    ((1, 1), True)
    """
    return _prepare(clean, poison, ridge, jnp.asarray(probes), jnp.asarray(target), objective)


@eqx.filter_jit
def _prepare(
    clean: Posterior, poison: Poison, ridge: Scalar, probes: Array, target: Array, objective: Objective
) -> BilevelObjective:
    counts = poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)[2]
    reference = clean.at((len(clean.X) + jnp.sum(counts)) * checked_ridge(clean, ridge))
    solve = clean.factor.solve
    inverse = solve(reference.rho, jnp.eye(len(clean.X), dtype=clean.X.dtype))
    return BilevelObjective(
        kernel=clean.kernel,
        points=jnp.concatenate([clean.X, probes]),
        inverse=0.5 * (inverse + inverse.T),
        coefficients=solve(reference.rho, clean.targets),
        probe_coefficients=solve(reference.rho, clean.kernel.pairwise(clean.X, probes)),
        prediction=reference.mean(probes),
        counts=counts,
        rho=reference.rho,
        target=target,
        objective=objective,
    )


class Bilevel(eqx.Module):
    """Poisons found by gradients.

    Attributes:
        data: the poisoned training set, with the law's efficacy at the probes.
        poison: the same poisons for the laws of kpoison; its labels are soft ones where they were trained.
        history: the objective, minimised, before each step and after the last, shape (s,) = (steps + 1,).
    """

    data: PoisonedData
    poison: Poison
    history: Float[Array, " s"]


def _check_bilevel(arguments: dict) -> None:
    _check_objective(arguments)
    poison = arguments["poison"]
    if not all(is_concrete(leaf) for leaf in jax.tree.leaves(poison)):
        raise TypeError("poison must hold known numbers: call bilevel outside of jit, or use bilevel_objective")
    counts = np.asarray(poison.count)
    if np.any(counts != np.round(counts)):
        raise ValueError(f"poison.count must be whole numbers, as poisons are added to the data, got {counts}")
    check_name("norm", arguments["norm"], get_args(Norm))
    check_integer("steps", arguments["steps"], 1)
    if arguments["label_box"] is not None and not arguments["train_labels"]:
        raise ValueError("label_box must be None where labels are not trained, got bounds with train_labels=False")


@boundary(_check_bilevel)
def bilevel(
    clean: Posterior,
    poison: Poison,
    ridge: Scalar,
    *,
    probes: Float[ArrayLike, "q ..."],
    target: Num[ArrayLike, "..."],
    objective: Objective = "targeted",
    box: Sequence[Num[ArrayLike, "..."]] | None = None,
    ball: Scalar | None = None,
    norm: Norm = "linf",
    train_labels: bool = False,
    label_box: Sequence[Num[ArrayLike, "..."]] | None = None,
    optimiser: optax.GradientTransformation | None = None,
    steps: int = 100,
) -> Bilevel:
    """Optimise poisons by gradients through the exact posterior: the outer of two levels, the inner being training.

    As the Neural Tangent Backdoor Attack (NTBA: Hayase and Oh 2023, greedy choice and L-BFGS; for the choice see
    `greedy_bases`) and the Neural Tangent Generalisation Attack (NTGA: Yuan and Wu 2021, indiscriminate), with a
    block update of one clean factorisation in each step where these solve anew.

    Args:
        clean: the clean posterior, fitted by a solver that factorises.
        poison: where poisons start, their labels and whole counts >= 1; they are added to the clean data.
        ridge: λ > 0 of the mean loss; ρ = (n_c + Σm)λ throughout.
        probes: where predictions are to change, shape (q, ...).
        target: shape (q,) or (q, C), or one for all probes: what they are to be given, where the objective is
            "targeted", else their true targets.
        objective: "targeted" minimises the mean over probes of ‖f − target‖², "error" maximises it; "margin"
            minimises the mean of sign(target)·f, for C classes of f at the true class less the largest other.
        box: (low, high), numbers or arrays of the shape of an input, that inputs have to lie in.
        ball: the furthest that a poison may be from its start, > 0.
        norm: the ball's, "linf" or "l2".
        train_labels: whether labels are optimised too.
        label_box: (low, high) of trained labels, which must hold the given ones; by default the range of the clean
            targets and the given labels.
        optimiser: of optax, by default Adam of rate 0.01; `optax.lbfgs()` searches along lines.  Every step is followed
            by the projection onto the bounds.
        steps: how many, >= 1.

    Returns:
        The best poisons seen, with the objective along the way.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, also where the box excludes a start; where the
            objective becomes infinite or NaN.

    Steps use Gram matrices made by matrix products: see `Kernel.__call__` for pairs that are very close.  A kernel with
    a cusp at coincident points has no derivative where a poison meets a clean point; its symmetric part is used.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [2.0]]), jnp.array([1.0, -1.0]))
    >>> start = kp.Poison(jnp.array([[1.0]]), -1.0, 1)
    >>> attack = bilevel(clean, start, 0.1, probes=jnp.array([[0.5]]), target=-1.0, ball=0.4)
    >>> round(float(attack.poison.location[0, 0]), 3), bool(attack.history[-1] < attack.history[0])
    (0.6, True)
    """
    prepared = _prepare(clean, poison, ridge, jnp.asarray(probes), jnp.asarray(target), objective)
    locations, labels, counts = poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)
    allowed = allowed_inputs(locations, box, ball, norm, "poison.location")
    allowed_labels = _allowed_labels(clean, labels, label_box) if train_labels else None
    optimiser = optax.adam(1e-2) if optimiser is None else optimiser
    (moved, given), history = _optimise(prepared, locations, labels, allowed, allowed_labels, optimiser, steps)
    check_history(history)
    found = Poison(moved, given.reshape(-1, *clean.y.shape[1:]), counts)
    wanted = common_class(prepared.target.reshape(-1, *clean.y.shape[1:])) if objective == "targeted" else None
    return Bilevel(poisoned_data(clean, found, jnp.asarray(probes), ridge, wanted), found, history)


def _allowed_labels(clean: Posterior, labels: Float[Array, "p C"], box: Sequence | None) -> AllowedInputs:
    if box is None:
        values = np.concatenate([np.asarray(clean.targets), np.asarray(labels)])
        box = float(values.min()), float(values.max())
        if box[0] == box[1]:
            raise ValueError(f"label_box must be given where all labels are the same, {box[0]}")
    return allowed_inputs(labels, box, None, "l2", "poison.label", "label_box")


@eqx.filter_jit
def _optimise(
    objective: BilevelObjective,
    start: Float[Array, "p ..."],
    labels: Float[Array, "p C"],
    allowed: AllowedInputs,
    allowed_labels: AllowedInputs | None,
    optimiser: optax.GradientTransformation,
    steps: int,
):
    """Locations and labels, and the history."""
    project = jax.vmap(allowed.project)
    if allowed_labels is None:
        moved, history = descend(lambda Z: objective(Z, labels), start, lambda Z: project(Z, start), optimiser, steps)
        return (moved, labels), history

    def project_both(both):
        return project(both[0], start), jax.vmap(allowed_labels.project)(both[1], labels)

    return descend(lambda both: objective(*both), (start, labels), project_both, optimiser, steps)


def _check_greedy(arguments: dict) -> None:
    clean = _checked_clean(arguments["clean"])
    _checked_probes(clean, arguments)
    candidates = check_points("candidates", arguments["candidates"], clean.X.ndim - 1, like=clean.X)
    check_real("labels", arguments["labels"])
    labels, shape = jnp.asarray(arguments["labels"], clean.X.dtype), (len(candidates), *clean.y.shape[1:])
    if labels.shape not in (shape, shape[1:]):
        raise ValueError(f"labels must have shape {shape}, one for each candidate, or {shape[1:]}, got {labels.shape}")
    check_finite("labels", labels)
    if check_integer("number", arguments["number"], 1) > len(candidates):
        raise ValueError(f"number must be at most {len(candidates)}, of the candidates, got {arguments['number']}")
    labels = jnp.broadcast_to(labels, shape).reshape(len(candidates), -1)
    arguments.update(candidates=candidates, labels=labels)


@boundary(_check_greedy)
@eqx.filter_jit
def greedy_bases(
    clean: Posterior,
    candidates: Float[ArrayLike, "N ..."],
    labels: Num[ArrayLike, "..."],
    ridge: Scalar,
    *,
    number: int,
    probes: Float[ArrayLike, "q ..."],
    target: Num[ArrayLike, "..."],
    objective: Objective = "targeted",
) -> Int[Array, " number"]:
    """Candidates from which to start, chosen one after the other: each the best beside those before (as NTBA does).

    Adding a candidate is a rank-one update of the posterior, so all are tried exactly: after one posterior covariance
    of candidates and probes a choice costs O(N(N + q)).  ρ = (n_c + number)λ throughout.

    Args:
        clean: as in `bilevel`.
        candidates: inputs to choose from, shape (N, ...).
        labels: those that they would be given, shape (N,) or (N, C), or one for all.
        ridge: λ > 0 of the mean loss.
        number: how many are chosen, at most N.
        probes: as in `bilevel`.
        target: as in `bilevel`.
        objective: as in `bilevel`.

    Returns:
        Indices of candidates in the order of choice, all different.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [2.0]]), jnp.array([1.0, -1.0]))
    >>> candidates = jnp.array([[3.0], [0.4], [1.0]])
    >>> greedy_bases(clean, candidates, -1.0, 0.1, number=2, probes=jnp.array([[0.5]]), target=-1.0).tolist()
    [1, 2]
    """
    candidates, given, ends = jnp.asarray(candidates), jnp.asarray(labels), jnp.asarray(target)
    many = len(candidates)
    reference = clean.at((len(clean.X) + number) * checked_ridge(clean, ridge))
    points = jnp.concatenate([candidates, jnp.asarray(probes)])

    def choose(carry, _):
        mean, covariance, taken = carry
        gain = 1 / (reference.rho + jnp.diagonal(covariance)[:many])
        weights = gain[:, None] * (given - mean[:many])

        def value(column, weight):
            return _objective(objective, mean[many:] + column[:, None] * weight[None], ends)  # pyright: ignore

        values = jax.vmap(value)(covariance[many:, :many].T, weights)
        best = jnp.argmin(jnp.where(taken, jnp.inf, values))
        column = covariance[:, best]
        mean = mean + column[:, None] * weights[best][None]
        covariance = covariance - gain[best] * jnp.outer(column, column)
        return (mean, covariance, taken.at[best].set(True)), best

    start = reference.mean(points), reference.covariance(points), jnp.zeros(many, dtype=bool)
    return jax.lax.scan(choose, start, length=number)[1]
