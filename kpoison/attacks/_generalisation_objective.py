"""What moving some of the training points does to predictions elsewhere, exactly, and its gradient in their inputs.

The predictor of all points is that of the others conditioned on these (L7), at the same ρ.  So the objective is that of
poisons which are added to the others, and moving a block of b points is an update of rank 2b of A⁻¹, never a refit.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Inexact, Int, Num

from kpoison._failures import one_by_one, program
from kpoison._linear_algebra import linear_solve, matrix_product
from kpoison._typing import Scalar
from kpoison._validation import boundary, check_mask, is_concrete
from kpoison.attacks._bilevel_objective import (
    BilevelObjective,
    Objective,
    checked_probes,
    cross_matrix,
    objective_value,
)
from kpoison.kernels.base import Kernel
from kpoison.ridge import Fitted, check_conditioning, check_fitted, check_plain, checked_ridge

__all__ = ["MovedObjective", "Trained", "check_moved", "generalisation_objective", "with_block", "without_block"]


class Trained(NamedTuple):
    """What is kept of a training set while its points move.

    Attributes:
        kernel: the kernel.
        X, y: inputs and targets, shapes (n, ...) and (n, C).
        probes, target: where predictions are judged, and by what, shapes (q, ...) and (q, C).
        rho, share: ρ_j and w_j: predictions are Re Σ w_j f at ρ_j, of which there are k, one where training has ended.
        inverse: (K + ρ_j I)⁻¹, shape (k, n, n).
    """

    kernel: Kernel
    X: Float[Array, "n ..."]
    y: Float[Array, "n C"]
    probes: Float[Array, "q ..."]
    target: Float[Array, "q C"]
    rho: Inexact[Array, " k"]
    share: Inexact[Array, " k"]
    inverse: Inexact[Array, "k n n"]

    @classmethod
    def of(cls, clean: Fitted, ridge: Scalar, probes: Array, target: Array) -> "Trained":
        """From a factorisation: about 2n³ flops for each ρ_j."""
        rho, share = clean.nodes(len(clean.X), checked_ridge(clean, ridge))
        identity = jnp.eye(len(clean.X), dtype=clean.X.dtype)

        def inverse(rho: Array) -> Array:
            found = clean.posterior.at(rho).solve(identity)
            return 0.5 * (found + found.T)

        return cls(clean.kernel, clean.X, clean.targets, probes, target, rho, share, one_by_one(inverse, rho))


class MovedObjective(eqx.Module):
    """What an attacker minimises, as a function of where b training points are; by `generalisation_objective`.

    Attributes:
        kernel: the kernel.
        points: the inputs that stay, and after them the probes, shape (n − b + q, ...).
        labels: of the points that move, shape (b, C).
        inverse: (K + ρ_j I)⁻¹ of the points that stay, shape (k, n − b, n − b).
        coefficients: that times their targets, shape (k, n − b, C).
        probe_coefficients: that times their k with the probes, shape (k, n − b, q).
        prediction: at the probes, of those that stay, shape (k, q, C).
        rho: ρ_j, shape (k,): n(λ + z_j/t) of a flow that is stopped at t, else nλ alone.
        share: w_j, shape (k,).
        target: shape (q, C).
        objective: "targeted", "error" or "margin".
    """

    kernel: Kernel
    points: Float[Array, "all ..."]
    labels: Float[Array, "b C"]
    inverse: Inexact[Array, "k m m"]
    coefficients: Inexact[Array, "k m C"]
    probe_coefficients: Inexact[Array, "k m q"]
    prediction: Inexact[Array, "k q C"]
    rho: Inexact[Array, " k"]
    share: Inexact[Array, " k"]
    target: Float[Array, "q C"]
    objective: Objective = eqx.field(static=True)

    def predictions(self, locations: Float[Array, "b ..."]) -> Float[Array, "q C"]:
        """The predictor at the probes, trained with these points where they are now.  Traceable, differentiable."""
        counts = jnp.ones(len(self.labels), self.labels.dtype)

        def at(node) -> Array:
            kept, rho = node
            conditioned = BilevelObjective(
                self.kernel, self.points, *kept, counts=counts, rho=rho, target=self.target, objective=self.objective
            )
            return conditioned.predictions(locations, self.labels)

        nodes = (self.inverse, self.coefficients, self.probe_coefficients, self.prediction), self.rho
        if len(self.rho) == 1:  # no batch of matrix products, which is slower
            return jnp.real(self.share[0] * at(jax.tree.map(lambda leaf: leaf[0], nodes)))
        values = jax.vmap(at)(nodes)
        return jnp.tensordot(self.share, values, axes=1, precision="highest").real

    def __call__(self, locations: Float[Array, "b ..."]) -> Float[Array, ""]:
        """The objective: traceable, and differentiable."""
        return objective_value(self.objective, self.predictions(locations), self.target)

    @eqx.filter_jit
    def gradient(self, locations: Float[Array, "b ..."]) -> tuple[Float[Array, ""], Float[Array, "b ..."]]:
        """The objective, and its gradient in the locations: one step's work, compiled.

        About 4(n + q)bd + 2k n²b flops; no factorisation but of k matrices of b rows.
        """
        return jax.value_and_grad(self)(locations)


def without_block(
    trained: Trained, objective: Objective, stay: Int[ArrayLike, " m"], move: Int[ArrayLike, " b"]
) -> MovedObjective:
    """The objective of a block, by a downdate of each inverse: about 2n²b flops."""
    kernel, X, y, probes, target, rho, share, inverse = trained
    stay, move = jnp.asarray(stay, int), jnp.asarray(move, int)
    outer = cross_matrix(kernel, probes, X[stay]).T

    def at(inverse: Array) -> tuple[Array, Array, Array, Array]:
        across = inverse[stay][:, move]
        rest = inverse[stay][:, stay] - matrix_product(across, linear_solve(inverse[move][:, move], across.T))
        rest = 0.5 * (rest + rest.T)
        coefficients = matrix_product(rest, y[stay].astype(rest.dtype))
        return (
            rest,
            coefficients,
            matrix_product(rest, outer.astype(rest.dtype)),
            matrix_product(outer.T.astype(rest.dtype), coefficients),
        )

    rest, coefficients, of_probes, prediction = one_by_one(at, inverse)
    return MovedObjective(
        kernel=kernel,
        points=jnp.concatenate([X[stay], probes]),
        labels=y[move],
        inverse=rest,
        coefficients=coefficients,
        probe_coefficients=of_probes,
        prediction=prediction,
        rho=rho,
        share=share,
        target=target,
        objective=objective,
    )


def with_block(
    trained: Trained,
    objective: MovedObjective,
    stay: Int[ArrayLike, " m"],
    move: Int[ArrayLike, " b"],
    locations: Float[Array, "b ..."],
) -> Trained:
    """The training set with the block where it is now, by an update of each inverse: about 2n²b flops."""
    kernel, stay, move = trained.kernel, jnp.asarray(stay, int), jnp.asarray(move, int)
    cross = cross_matrix(kernel, locations, objective.points[: len(stay)])
    own = kernel.gram(locations, locations)
    identity = jnp.eye(len(own), dtype=own.dtype)

    def at(node: tuple[Array, Array]) -> Array:
        rest, rho = node
        reach = matrix_product(cross.astype(rest.dtype), rest)
        inverse = linear_solve(own + rho * identity - matrix_product(reach, cross.T.astype(rest.dtype)), identity)
        inverse = 0.5 * (inverse + inverse.T)
        across = -matrix_product(inverse, reach)
        whole = jnp.zeros_like(rest, shape=(len(trained.X),) * 2)
        whole = whole.at[stay[:, None], stay[None]].set(rest - matrix_product(reach.T, across))
        whole = whole.at[move[:, None], stay[None]].set(across).at[stay[:, None], move[None]].set(across.T)
        return whole.at[move[:, None], move[None]].set(inverse)

    inverse = one_by_one(at, (objective.inverse, trained.rho))
    return trained._replace(X=trained.X.at[move].set(locations), inverse=inverse)


def check_moved(arguments: dict[str, Any]) -> None:
    """Check the arguments of `generalisation_objective`; `movable` becomes a mask."""
    clean = check_fitted("clean", arguments["clean"])
    check_plain("clean", clean)
    dense = clean.factor.abilities.factorised and clean.factor.abilities.any_right_hand_side
    if clean.observations.slopes or not dense:
        raise ValueError(
            "clean must be fitted by a solver that factorises (Spectral, Tridiagonal, Cholesky), without "
            f"gradient_penalty, and not be prepared for a poison, got a {type(clean.factor).__name__}"
        )
    if clean.kernel.point_ndim == 0:
        raise ValueError("clean must have points that can be moved, got indices into a precomputed kernel")
    checked_probes(clean, arguments)
    movable = arguments["movable"]
    if movable is None:
        movable = np.ones(len(clean.X), bool)
    movable = check_mask("movable", movable, (len(clean.X),), "point")
    if not is_concrete(movable):
        raise TypeError("movable must be known booleans, as there is an array of those points: got traced ones")
    if not np.any(movable):
        raise ValueError("movable must mark at least one point, got none")
    arguments["movable"] = np.asarray(movable)
    check_conditioning(clean, len(clean.X) * clean.resolved(arguments["ridge"]))


@boundary(check_moved)
def generalisation_objective(
    clean: Fitted,
    ridge: Scalar,
    *,
    probes: Float[ArrayLike, "q ..."],
    target: Num[ArrayLike, "..."],
    movable: Bool[ArrayLike, " n"] | Int[ArrayLike, " n"] | None = None,
    objective: Objective = "error",
) -> MovedObjective:
    """What moving training points does, prepared once: its gradient then costs a block update, never a refit.

    Arguments and errors as in `generalisation_attack`; all movable points are one block.  A⁻¹ is made from the
    factorisation of `clean` (about 2n³ flops) and kept beside it: n² numbers, or 14 times n² complex ones of a flow.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> X, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1.0, -1.0, -1.0])
    >>> clean, moved = kp.fit(kp.kernels.RBF(1.0), X, y), jnp.array([[0.4]])
    >>> objective = generalisation_objective(
    ...     clean, 0.1, probes=jnp.array([[0.5]]), target=-1.0, movable=jnp.array([False, True, False])
    ... )
    >>> refit = kp.predict(kp.fit(clean.kernel, X.at[1].set(moved[0]), y), jnp.array([0.5]), 0.1)
    >>> value, slope = objective.gradient(moved)
    >>> slope.shape, bool(jnp.isclose(value, -((refit + 1) ** 2)))
    ((1, 1), True)
    """
    marks = np.asarray(movable)
    return _prepare(
        clean, ridge, jnp.asarray(probes), jnp.asarray(target), objective, np.flatnonzero(~marks), np.flatnonzero(marks)
    )


@program
def _prepare(
    clean: Fitted,
    ridge: Scalar,
    probes: Array,
    target: Array,
    objective: Objective,
    stay: Int[ArrayLike, " m"],
    move: Int[ArrayLike, " b"],
) -> MovedObjective:
    return without_block(Trained.of(clean, ridge, probes, target), objective, stay, move)
