"""The objective of poisons that are found by gradients: the inner problem, training, is solved in closed form.

What a clean posterior contributes at one ρ is taken once: A⁻¹, A⁻¹y and A⁻¹k(X, x) at the probes x.  A step then
conditions on p poisons by a block update (L7) and differentiates it; nothing is trained, factorised or solved again
but a system of p equations.
"""

import functools
from typing import Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float, Inexact, Num

from kpoison._failures import program
from kpoison._linear_algebra import linear_solve, matrix_product
from kpoison._typing import Scalar
from kpoison._validation import boundary, check_name, check_points, check_positive, is_concrete
from kpoison.attacks.classes import checked_targets
from kpoison.kernels.base import Kernel
from kpoison.laws.effect import conditioning_system
from kpoison.poison import Poison, check_poison
from kpoison.ridge import Fitted, Posterior, check_conditioning, check_fitted, check_plain, checked_ridge

__all__ = [
    "BilevelObjective",
    "Objective",
    "bilevel_objective",
    "check_objective",
    "checked_clean",
    "checked_probes",
    "cross_matrix",
    "objective_value",
    "prepare",
]

Objective: TypeAlias = Literal["targeted", "error", "margin"]
_DIFFERENCES_UP_TO = 2**22  # coordinates of differences of a kernel that feels what a matrix product loses


@jax.custom_jvp
def _quadratic_form(inverse: Inexact[Array, "n n"], cross: Float[Array, "p n"]) -> Inexact[Array, "p p"]:
    """k(Z, X) A⁻¹ k(X, Z) for p poisons in 2n²p + 2np² flops, and its derivative in 4np² more.

    Autodiff would multiply by A⁻¹ again on its way back, 2n²p flops more: it does not know that A⁻¹ is symmetric.
    With V = k(Z, X) A⁻¹ the differential is dk Vᵀ + V dkᵀ, so that V, the only product with A⁻¹, serves both ways.
    Of a step for n = 2000 points in d = 784 dimensions with p = 50 poisons and q = 20 probes that product has 0.40
    Gflop; k(Z, X) and its derivative have 2(n + q)pd = 0.16 each; the rest is below 0.05.  A refit has n³/3 = 2.7 for
    its factorisation and 2n²d = 6.3 for its Gram matrix, and these once more to differentiate it.
    """
    return matrix_product(matrix_product(cross, inverse), cross.T)


@functools.partial(_quadratic_form.defjvp, symbolic_zeros=True)
def _quadratic_form_jvp(primals, tangents):
    (inverse, cross), (d_inverse, d_cross) = primals, tangents
    solved = matrix_product(cross, inverse)
    value = matrix_product(solved, cross.T)
    tangent = jnp.zeros_like(value)
    if not isinstance(d_cross, SymbolicZero):
        half = matrix_product(d_cross, solved.T)
        tangent = half + half.T
    # Not along an attack, which leaves ρ and the clean data as they are.
    if not isinstance(d_inverse, SymbolicZero):
        tangent = tangent + matrix_product(matrix_product(cross, d_inverse), cross.T)
    return value, tangent


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
        rho: ρ = (n + Σm)λ, or one of the complex ones of a flow.
        target: shape (q, C).
        objective: "targeted", "error" or "margin".
    """

    kernel: Kernel
    points: Float[Array, "all ..."]
    inverse: Inexact[Array, "n n"]
    coefficients: Inexact[Array, "n C"]
    probe_coefficients: Inexact[Array, "n q"]
    prediction: Inexact[Array, "q C"]
    counts: Float[Array, " p"]
    rho: Inexact[Array, ""]
    target: Float[Array, "q C"]
    objective: Objective = eqx.field(static=True)

    def predictions(self, locations: Float[Array, "p ..."], labels: Float[Array, "p *C"]) -> Inexact[Array, "q C"]:
        """The poisoned predictor at the probes, f_c(x) + k̃(x, Z)(k̃(Z, Z) + diag(ρ/m))⁻¹(y_t − f_c(Z)) (L7).

        Traceable, and differentiable in locations and labels; the formula of `kpoison.predict`, from what is kept.
        """
        n, counts = len(self.inverse), self.counts
        cross = cross_matrix(self.kernel, locations, self.points)
        seen, probed = cross[:, :n], cross[:, n:]
        covariance = self.kernel.gram(locations, locations) - _quadratic_form(self.inverse, seen)
        system, scale = conditioning_system(self.rho, counts, covariance)
        missing = labels.reshape(len(counts), -1) - matrix_product(seen, self.coefficients)
        weights = linear_solve(system, scale[:, None] * missing)
        reach = probed - matrix_product(seen, self.probe_coefficients)
        return self.prediction + matrix_product(reach.T, weights)

    def __call__(self, locations: Float[Array, "p ..."], labels: Float[Array, "p *C"]) -> Float[Array, ""]:
        """The objective: traceable, and differentiable in both."""
        return objective_value(self.objective, self.predictions(locations, labels), self.target)

    @eqx.filter_jit
    def gradient(
        self, locations: Float[Array, "p ..."], labels: Float[Array, "p *C"]
    ) -> tuple[Float[Array, ""], tuple[Float[Array, "p ..."], Float[Array, "p *C"]]]:
        """The objective, and its gradient in the locations and in the labels: one step's work, compiled.

        About 4(n + q)pd + 2n²p flops; no factorisation but of a matrix of p rows.
        """
        return jax.value_and_grad(lambda both: self(*both))((locations, labels))


def cross_matrix(kernel: Kernel, Z: Float[Array, "p ..."], points: Float[Array, "m ..."]) -> Float[Array, "p m"]:
    """k(Z, points), in this order: a kernel may take distances about its second points' centre, here a constant."""
    exact = kernel.smoothness != float("inf") and len(Z) * points.size <= _DIFFERENCES_UP_TO
    return kernel.pairwise(Z, points) if exact else kernel.gram(Z, points)


def objective_value(
    objective: Objective, predictions: Float[Array, "q C"], target: Float[Array, "q C"]
) -> Float[Array, ""]:
    """What an attacker minimises."""
    if objective == "margin":
        if target.shape[1] == 1:
            return jnp.mean(jnp.sign(target) * predictions)
        right = jax.nn.one_hot(jnp.argmax(target, axis=1), target.shape[1], dtype=bool)
        other = jnp.max(jnp.where(right, -jnp.inf, predictions), axis=1)
        return jnp.mean(jnp.sum(jnp.where(right, predictions, 0), axis=1) - other)
    error = jnp.mean(jnp.sum((predictions - target) ** 2, axis=1))
    return error if objective == "targeted" else -error


def checked_clean(clean: object) -> Posterior:
    """A posterior whose factorisation is known.

    Raises:
        TypeError, ValueError: for anything else.
    """
    fitted = check_fitted("clean", clean)
    check_plain("clean", fitted)
    dense = fitted.factor.abilities.factorised and fitted.factor.abilities.any_right_hand_side
    if fitted.observations.slopes or not fitted.ended or not dense:
        raise ValueError(
            "clean must be fitted by a solver that factorises (Spectral, Tridiagonal, Cholesky), without "
            f"gradient_penalty, and not be stopped early or prepared, got a {type(fitted.factor).__name__}"
        )
    return fitted.posterior


def checked_probes(clean: Fitted, arguments: dict) -> None:
    """Check probes, their targets, which become (q, C), ridge and objective."""
    arguments["objective"] = check_name("objective", arguments["objective"], get_args(Objective))
    check_positive("ridge", arguments["ridge"], zero=not clean.ended)
    probes = check_points("probes", arguments["probes"], clean.X.ndim - 1, like=clean.X)
    target = checked_targets("target", arguments["target"], len(probes), "probe", clean.y)
    signed = arguments["objective"] == "margin" and clean.outputs == 1 and is_concrete(target)
    if signed and np.any(np.asarray(target) == 0):
        raise ValueError("target must be positive or negative for the margin of one output, got 0")
    target = target.reshape(len(probes), -1)
    arguments.update(probes=probes, target=target, ridge=jnp.asarray(arguments["ridge"], clean.X.dtype))


def _checked_counts(clean: Posterior, poison: object) -> Float[Array, " p"]:
    counts = check_poison(poison).observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)[2]
    check_positive("poison.count", counts, scalar=False)
    return counts


def check_objective(arguments: dict) -> None:
    """Check the arguments of `bilevel_objective`."""
    clean = checked_clean(arguments["clean"])
    checked_probes(clean, arguments)
    counts = _checked_counts(clean, arguments["poison"])
    check_conditioning(clean, (len(clean.X) + jnp.sum(counts)) * arguments["ridge"])


@boundary(check_objective)
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
    return prepare(clean, poison, ridge, jnp.asarray(probes), jnp.asarray(target), objective)


@program
def prepare(
    clean: Posterior, poison: Poison, ridge: Scalar, probes: Array, target: Array, objective: Objective
) -> BilevelObjective:
    """The objective from checked arguments; target of shape (q, C)."""
    counts = poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)[2]
    reference = clean.at((len(clean.X) + jnp.sum(counts)) * checked_ridge(clean, ridge))
    inverse = reference.solve(jnp.eye(len(clean.X), dtype=clean.X.dtype))
    return BilevelObjective(
        kernel=clean.kernel,
        points=jnp.concatenate([clean.X, probes]),
        inverse=0.5 * (inverse + inverse.T),
        coefficients=reference.solve(clean.targets),
        probe_coefficients=reference.solve(clean.kernel.pairwise(clean.X, probes)),
        prediction=reference.mean(probes),
        counts=counts,
        rho=reference.rho,
        target=target,
        objective=objective,
    )
