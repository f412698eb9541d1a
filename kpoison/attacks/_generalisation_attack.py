"""Clean-label availability: training points moved a little, with their labels, so that predictions elsewhere go wrong.

Yuan and Wu (2021), "Neural Tangent Generalization Attacks" (NTGA).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from kpoison._failures import program
from kpoison._typing import Scalar
from kpoison._validation import boundary, check_integers, check_name, is_concrete
from kpoison.attacks._bilevel_objective import Objective, objective_value
from kpoison.attacks._generalisation_objective import Trained, check_moved, with_block, without_block
from kpoison.attacks.classes import common_class
from kpoison.attacks.descent import AllowedInputs, Norm, allowed_inputs, check_history, descend
from kpoison.attacks.poisoned import PoisonedData
from kpoison.laws import predict
from kpoison.ridge import Fitted, fit

if TYPE_CHECKING:
    import optax

__all__ = ["GeneralisationAttack", "generalisation_attack"]

_OVERSHOOT = 2.5  # of the steps' sum over the ball's radius, as Madry et al. (2018) have it


class GeneralisationAttack(eqx.Module):
    """Training points that were moved.

    Attributes:
        data: the attacked training set, in the order of the clean one and with its labels; of each point whether it
            was moved, and what predictions at the probes change by.
        history: the objective, minimised, before the first pass and after each, by refits, shape (s,), s = passes + 1.
    """

    data: PoisonedData
    history: Float[Array, " s"]


def _check_attack(arguments: dict) -> None:
    check_moved(arguments)
    clean = arguments["clean"]
    if not all(is_concrete(leaf) for leaf in jax.tree.leaves((clean, arguments["ridge"], arguments["ball"]))):
        raise TypeError(
            "clean, ridge and ball must hold known numbers: call generalisation_attack outside of jit, or use "
            "generalisation_objective"
        )
    arguments["norm"] = check_name("norm", arguments["norm"], get_args(Norm))
    check_integers(arguments, passes=1, steps=1, block=1)


@boundary(_check_attack)
def generalisation_attack(
    clean: Fitted,
    ridge: Scalar,
    *,
    probes: Float[ArrayLike, "q ..."],
    target: Num[ArrayLike, "..."],
    ball: Scalar,
    norm: Norm = "linf",
    box: Sequence[Num[ArrayLike, "..."]] | None = None,
    movable: Bool[ArrayLike, " n"] | Int[ArrayLike, " n"] | None = None,
    objective: Objective = "error",
    optimiser: "optax.GradientTransformation | None" = None,
    passes: int = 2,
    steps: int = 10,
    block: int = 128,
) -> GeneralisationAttack:
    """Move clean training points within a ball, labels unchanged, so that predictions at held-out points go wrong.

    Clean-label availability poisoning by the exact kernel predictor, as the Neural Tangent Generalization Attack (Yuan
    and Wu 2021): trained to its end, or stopped at a time t of the gradient flow, as the paper has it
    (`kpoison.flow.early_stopped`).  Points are moved block by block by projected gradient steps, each against all
    others as they are by then; a step costs a block update of what is kept of the others, where the paper solves anew.

    Args:
        clean: the predictor of the clean points, fitted by a solver that factorises, without weights, intercept and
            gradient penalty; stopped early or not.
        ridge: λ of the mean loss, > 0, or >= 0 where training is stopped; ρ = nλ throughout.
        probes: held-out inputs, shape (q, ...), at which predictions are to be wrong.
        target: their true targets, shape (q,) or (q, C), or one for all; with the objective "targeted" those that the
            attacker wants.
        ball: the furthest that a point may be moved, > 0, in units of the inputs.
        norm: the ball's, "linf" or "l2".
        box: (low, high), numbers or arrays of the shape of an input, that inputs have to lie in.
        movable: which points may be moved, shape (n,): booleans, or integers that are 0 or 1; by default all.
        objective: "error" maximises the mean over probes of ‖f − target‖², "margin" minimises that of sign(target)·f,
            for C classes of f at the true class less the largest other; "targeted" minimises the former.
        optimiser: of optax, for each block anew; by default steps along the sign of the gradient, or of one length
            along the gradient of each point ("l2"), which add up to 2.5 times the ball's radius.  Every step is
            followed by the projection onto ball and box.
        passes: how often each block is moved, >= 1; before each what is kept is made anew from a factorisation.
        steps: of each block in each pass, >= 1.
        block: most points that are moved at once, >= 1.

    Returns:
        The best points seen, with the objective along the way.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, also where the box excludes a clean point that may
            be moved; where the objective becomes infinite or NaN.

    Gram matrices and cusps as in `bilevel`.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> X, y = jnp.array([[0.0], [0.5], [1.5], [2.0]]), jnp.array([1.0, 1.0, -1.0, -1.0])
    >>> clean, held_out = kp.fit(kp.kernels.RBF(0.5), X, y), jnp.array([[0.7], [1.3]])
    >>> attack = generalisation_attack(clean, 0.01, probes=held_out, target=jnp.array([1.0, -1.0]), ball=0.2)
    >>> bool(attack.history[-1] < attack.history[0]), bool(jnp.all(jnp.abs(attack.data.X - X) <= 0.2 + 1e-6))
    (True, True)
    """
    marks, probes, target = np.asarray(movable), jnp.asarray(probes), jnp.asarray(target)
    allowed = allowed_inputs(clean.X[marks], box, ball, norm, "clean.X")
    rate = jnp.asarray(_OVERSHOOT * ball / (passes * steps), clean.X.dtype)
    places = np.flatnonzero(marks)
    number = math.ceil(len(places) / block)
    # Every so manieth: neighbours in the data, which may be of one class, are in different blocks.
    blocks = [places[first::number] for first in range(number)]
    trained, before = clean, predict(clean, probes, ridge).reshape(target.shape)
    history = [objective_value(objective, before, target)]
    best, lowest, after = clean.X, history[0], before
    for _ in range(passes):
        state = _factorised(trained, ridge, probes, target)
        for move in blocks:
            stay = np.setdiff1d(np.arange(len(clean.X)), move)
            state, values = _move(state, clean.X[move], objective, allowed, optimiser, rate, steps, stay, move)
            check_history(values)
        trained = clean.of(fit(clean.kernel, state.X, clean.y, solver=clean.factor.solver))
        found = predict(trained, probes, ridge).reshape(target.shape)
        history.append(objective_value(objective, found, target))
        if history[-1] < lowest:
            best, lowest, after = state.X, history[-1], found
    data = PoisonedData(
        X=best,
        y=clean.y,
        is_poison=np.any(np.asarray(best != clean.X).reshape(len(best), -1), axis=1),
        probes=probes,
        efficacy=(after - before).reshape(-1, *clean.y.shape[1:]),
        target=common_class(target) if objective == "targeted" else None,
    )
    return GeneralisationAttack(data, jnp.stack(history))


@program
def _factorised(clean: Fitted, ridge: Scalar, probes: Array, target: Array) -> Trained:
    return Trained.of(clean, ridge, probes, target)


@eqx.filter_jit
def _move(
    trained: Trained,
    starts: Float[Array, "b ..."],
    objective: Objective,
    allowed: AllowedInputs,
    optimiser: "optax.GradientTransformation | None",
    rate: Float[Array, ""],
    steps: int,
    stay: Int[ArrayLike, " m"],
    move: Int[ArrayLike, " b"],
) -> tuple[Trained, Float[Array, " s"]]:
    """The training set with one block moved, and the objective before each step and after the last."""
    prepared = without_block(trained, objective, stay, move)
    project = jax.vmap(allowed.project)
    method = _steepest(allowed.norm, rate) if optimiser is None else optimiser
    moved, history = descend(prepared, trained.X[jnp.asarray(move)], lambda Z: project(Z, starts), method, steps)
    return with_block(trained, prepared, stay, move, moved), history


def _steepest(norm: Norm, rate: Float[Array, ""]) -> "optax.GradientTransformation":
    """Steps of one length for every point, in the ball's norm along its steepest descent."""
    import optax

    def direction(slope: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        if norm == "linf":
            return jnp.sign(slope)
        lengths = jnp.linalg.norm(slope.reshape(len(slope), -1), axis=1)
        lengths = jnp.where(lengths > 0, lengths, 1)
        return slope / lengths.reshape(-1, *[1] * (slope.ndim - 1))

    return optax.stateless(lambda slopes, _: jax.tree.map(lambda slope: -rate * direction(slope), slopes))
