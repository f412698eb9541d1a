"""What is fitted: a kernel ridge posterior, valid at any ridge, and its mean and covariance at one."""

import abc
from collections.abc import Callable
from typing import ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Inexact, Num

from kpoison._failures import Failure, checked_result, program
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison.kernels.base import Kernel
from kpoison.ridge.description import as_line, as_table
from kpoison.ridge.early_stopping import at_time, nodes_at_time, stopped_ridge
from kpoison.ridge.expansion import KernelExpansion, span_of
from kpoison.ridge.observations import Observations, covariance, observing
from kpoison.ridge.solvers import Factor

__all__ = [
    "Fitted",
    "IllConditionedWarning",
    "Posterior",
    "PosteriorAtRidge",
    "Prior",
    "Process",
    "StoppedPosterior",
    "check_conditioning",
    "check_fitted",
    "check_plain",
    "checked_ridge",
]

T = TypeVar("T")


class IllConditionedWarning(UserWarning):
    """A solve whose rounding error may reach 0.1 % of the result (eps · condition number > 1e-3)."""


class Posterior(eqx.Module):
    """A fitted kernel ridge predictor, valid for every ridge; made by `fit`.

    Attributes:
        kernel: the kernel.
        observations: what it is trained on: values at X and, with a gradient penalty, flat slopes there.
        y: clean targets, shape (n_c,) or (n_c, C).
        factor: what is kept of the observations' Gram matrix.
        ended: whether training went to the end.
    """

    ended: ClassVar[bool] = True

    kernel: Kernel
    observations: Observations
    y: Float[Array, "n *C"]
    factor: Factor

    def __repr__(self) -> str:
        # Without arrays, as of one whose leaves JAX has replaced, it is that of any module.
        return as_line(self) if eqx.is_array(self.observations.points) else super().__repr__()

    def _repr_html_(self) -> str:
        """In a notebook."""
        return as_table(self)

    @property
    def X(self) -> Float[Array, "n ..."]:  # noqa: N802
        """Clean inputs, shape (n_c, d)."""
        return self.observations.points

    @property
    def targets(self) -> Float[Array, "n C"]:
        """y with an axis for the outputs."""
        return self.y.reshape(len(self.y), -1)

    @property
    def outputs(self) -> int:
        """Number of outputs C."""
        return self.targets.shape[1]

    @property
    def posterior(self) -> "Posterior":
        """Of the same data, trained to the end: itself."""
        return self

    @property
    def gram(self) -> None:
        """Where it used to be."""
        raise AttributeError("a Posterior has no gram: the Gram matrix of a solver that forms it is factor.gram")

    @property
    def root(self) -> None:
        """Where it used to be."""
        raise AttributeError("a Posterior has no root: the operator √γ R of slopes is observations.slope_operator")

    def of(self, posterior: "Posterior") -> "Posterior":
        """The other one."""
        return posterior

    def cross(self, Z: Observations) -> Float[Array, "N P"]:
        """k(X, Z): covariances of all that the factor knows with observations."""
        observed = self.observations
        return observed.with_constant(covariance(self.kernel, observed, Z), Z.border.T)

    @property
    def observed_targets(self) -> Float[Array, "N C"]:
        """y, slopes of 0, and 0 for the constant."""
        return self.observations.right_hand_side(self.targets)

    def combined(
        self, function: Callable[[Array], T], n: Scalar, ridge: Float[Array, ""], *, in_turn: bool = False
    ) -> T:
        """What is linear in the predictor: `function(nλ)`.

        Args:
            function: ρ to a pytree of arrays.
            n: number of training points, with weights, of the loss (1/2n) Σ (f(x_i) − y_i)².
            ridge: λ.
            in_turn: several ridges one after the other, in the memory of one.
        """
        return function(jnp.asarray(n * ridge))

    def nodes(self, n: Scalar, ridge: Float[Array, ""]) -> tuple[Inexact[Array, " k"], Inexact[Array, " k"]]:
        """ρ_j and w_j of Re Σ w_j function(ρ_j), which `combined` takes without an intercept: nλ and 1."""
        return jnp.asarray(n * ridge)[None], jnp.ones(1, ridge.dtype)

    def resolved(self, ridge: Float[Array, ""]) -> Float[Array, ""]:
        """The ridge up to which eigenvalues of K/n are not resolved: λ."""
        return ridge

    def condition_number(self, rho: Inexact[Array, ""]) -> Float[Array, ""]:
        """Upper bound on the condition number of A = K + ρI."""
        return self.factor.condition_number(rho)

    def rounding(self, rho: Inexact[Array, ""]) -> Float[Array, ""]:
        """eps · condition number: bound on the relative rounding error of a solve."""
        return self.factor.rounding(rho)

    def at(self, rho: Inexact[Array, ""]) -> "PosteriorAtRidge":
        """The posterior at ρ = nλ, the number added to the Gram diagonal; or at one of the complex ones of a flow.

        Raises:
            ValueError: where the factor has failed, such as by rounding that leaves no digit (eps · condition number
                >= 1); in compiled code a runtime error.
        """
        return PosteriorAtRidge(self, checked_result(rho, self.factor.failures(rho)))

    def mean_expansion(self, coefficients: Inexact[Array, "p C"]) -> KernelExpansion:
        """k(x, X) · coefficients as a function of x, with derivatives of k where slopes are observed."""
        return KernelExpansion(self.factor.span(self.kernel, self.observations), coefficients)

    def change_expansion(
        self, Z: Observations, of_poison: Inexact[Array, "P C"], of_clean: Inexact[Array, "p C"]
    ) -> KernelExpansion:
        """k(x, Z) · of_poison + k(x, X) · of_clean as a function of x."""
        span = self.factor.span(self.kernel, self.observations).after(Z)
        return KernelExpansion(span, jnp.concatenate([of_poison, of_clean]))


class StoppedPosterior(eqx.Module):
    """A posterior whose training is stopped at time t of the gradient flow (T2); made by `kpoison.flow.early_stopped`.

    Attributes:
        posterior: of the same data, trained to the end.
        time: t >= 0.
    """

    ended: ClassVar[bool] = False

    posterior: Posterior
    time: Scalar

    def __repr__(self) -> str:
        return f"StoppedPosterior({self.posterior!r}, time={self.time})"

    @property
    def kernel(self) -> Kernel:
        """That of the posterior."""
        return self.posterior.kernel

    @property
    def observations(self) -> Observations:
        """Those of the posterior."""
        return self.posterior.observations

    @property
    def y(self) -> Float[Array, "n *C"]:
        """Those of the posterior."""
        return self.posterior.y

    @property
    def X(self) -> Float[Array, "n ..."]:  # noqa: N802
        """Those of the posterior."""
        return self.posterior.X

    @property
    def targets(self) -> Float[Array, "n C"]:
        """Those of the posterior."""
        return self.posterior.targets

    @property
    def outputs(self) -> int:
        """Those of the posterior."""
        return self.posterior.outputs

    @property
    def factor(self) -> Factor:
        """That of the posterior."""
        return self.posterior.factor

    def of(self, posterior: Posterior) -> "StoppedPosterior":
        """The other one stopped at the same time."""
        return StoppedPosterior(posterior, self.time)

    def combined(
        self, function: Callable[[Array], T], n: Scalar, ridge: Float[Array, ""], *, in_turn: bool = False
    ) -> T:
        """What is linear in the predictor: the flow's quadrature Σ w_j function(ρ_j), over 14 complex ρ in float64.

        Args:
            function: ρ to a pytree of arrays that are real for real ρ and vanish as ρ → ∞.
            n: as for a `Posterior`.
            ridge: λ.
            in_turn: one ridge after the other, in the memory of one.
        """
        in_turn = in_turn or self.factor.abilities.one_at_a_time
        if not self.observations.constant:
            return at_time(function, n, ridge, self.time, one_by_one=in_turn)
        # A constant is free of penalty, and at its optimum from the start: what it alone does is there at every time.
        size = self.factor.bounds()[1]
        alone = function(size / jnp.finfo(size.dtype).eps ** 2)

        def rest(rho):
            return jax.tree.map(jnp.subtract, function(rho), alone)

        return jax.tree.map(jnp.add, alone, at_time(rest, n, ridge, self.time, one_by_one=in_turn))

    def nodes(self, n: Scalar, ridge: Float[Array, ""]) -> tuple[Inexact[Array, " k"], Inexact[Array, " k"]]:
        """Those of the flow's quadrature, see `combined`."""
        return nodes_at_time(n, ridge, self.time)

    def resolved(self, ridge: Float[Array, ""]) -> Float[Array, ""]:
        """λ + 1/t."""
        return stopped_ridge(ridge, self.time)


Fitted = Posterior | StoppedPosterior
"""A ridge predictor of data, or one whose laws are means of those of ridge predictors."""


def check_fitted(name: str, value: object) -> Fitted:
    """The value, refused where `fit` has not made it."""
    if not isinstance(value, Fitted):
        raise TypeError(f"{name} must be a Posterior made by kpoison.fit, got {type(value).__name__}")
    return value


def check_plain(name: str, clean: Fitted, *, weights: bool = False) -> None:
    """Refuse an intercept and, where they are not allowed, weights.

    Raises:
        ValueError: naming what is there.
    """
    observed = clean.observations
    if observed.constant or (observed.weighted and not weights):
        there = "an intercept" if observed.constant else "weights"
        raise ValueError(f"{name} must be fitted without {there}, which is not known here: got a posterior with it")


@program
def check_conditioning(clean: Fitted, rho: Num[ArrayLike, ""]) -> Array:
    """ρ, refused, or with a warning, where it is too small for the dtype.

    Raises:
        ValueError: where eps · condition number >= 1.

    Warns:
        IllConditionedWarning: where eps · condition number > 1e-3, and the numbers are known.
    """
    rho = jnp.asarray(rho)
    fixed = jax.lax.stop_gradient(rho)
    error, dtype = jax.lax.stop_gradient(clean.factor.rounding(fixed)), clean.X.dtype
    condition = error / float(jnp.finfo(dtype).eps)
    warning = Failure(
        (error > 1e-3) & (error < 1),
        "at ρ = {:.3g} the matrix K + ρI has a condition number of about {:.1e}; in " + str(dtype) + " results may be "
        "wrong by {:.1e} of their size. Use a larger ridge or float64.",
        (fixed, condition, error),
        IllConditionedWarning,
    )
    return checked_result(rho, [Failure(~(error < 1), clean.factor.no_digits()), warning])


class Process(eqx.Module):
    """A Gaussian process to be conditioned on weighted observations: the clean posterior at one ρ, or the prior."""

    @abc.abstractmethod
    def mean(self, Z: Observations | Float[Array, "p ..."]) -> Inexact[Array, "P C"]:
        """f_c(Z), at points or of observations."""

    @abc.abstractmethod
    def covariance(
        self, Z: Observations | Float[Array, "p ..."], other: Observations | None = None
    ) -> Inexact[Array, "P Q"]:
        """k̃(Z, W), by default of Z with itself."""

    @abc.abstractmethod
    def variances(self, points: Float[Array, "q ..."]) -> Inexact[Array, " q"]:
        """k̃(x, x) at each point."""

    @abc.abstractmethod
    def mean_coefficients(self) -> Inexact[Array, "p C"]:
        """What of f_c depends on ρ."""

    @abc.abstractmethod
    def covariance_coefficients(self, Z: Observations, weights: Inexact[Array, "P C"]) -> Inexact[Array, "p C"]:
        """What of x ↦ k̃(x, Z) weights belongs to the clean data."""

    @abc.abstractmethod
    def change_expansion(
        self, Z: Observations, of_poison: Inexact[Array, "P C"], of_clean: Inexact[Array, "p C"]
    ) -> KernelExpansion:
        """From coefficients of observations and of the clean data a function of x."""

    @abc.abstractmethod
    def leverages(self) -> Inexact[Array, " n"]:
        """H_ii: how far the predictor at x_i follows y_i with its weight."""

    @abc.abstractmethod
    def hat_quadratics(self, z: Float[Array, "n k"]) -> Inexact[Array, " k"]:
        """zᵀHz for each column."""

    @abc.abstractmethod
    def trace_taken(self, Z: Observations, gain: Inexact[Array, "P P"]) -> Inexact[Array, ""]:
        """What of tr H the clean data lose when the process is conditioned on Z with this gain."""

    def covariance_expansion(
        self, Z: Observations | Float[Array, "p ..."], weights: Inexact[Array, "P C"]
    ) -> KernelExpansion:
        """x ↦ k̃(x, Z) weights."""
        Z = observing(Z)
        return self.change_expansion(Z, weights, self.covariance_coefficients(Z, weights))


class PosteriorAtRidge(Process):
    """Clean predictor f_c and posterior covariance k̃ at one ρ."""

    posterior: Posterior
    rho: Inexact[Array, ""]

    @property
    def kernel(self) -> Kernel:
        """The kernel."""
        return self.posterior.kernel

    def solve(self, b: Inexact[Array, "N k"]) -> Inexact[Array, "N k"]:
        """A⁻¹b, A = K + ρI, with derivatives of every order."""
        return self.posterior.factor.solve(self.rho, b)

    def mean(self, Z: Observations | Float[Array, "p ..."]) -> Inexact[Array, "P C"]:
        """f_c(Z) = k(Z, X) A⁻¹ y, at points or of observations."""
        return self.posterior.factor.inverse_product(
            self.rho, self.posterior.cross(observing(Z)), self.posterior.observed_targets
        )

    def covariance(
        self, Z: Observations | Float[Array, "p ..."], other: Observations | None = None
    ) -> Inexact[Array, "P Q"]:
        """k̃(Z, W) = k(Z, W) − k(Z, X) A⁻¹ k(X, W), by default of Z with itself."""
        Z = observing(Z)
        cross = self.posterior.cross(Z)
        W, across = (Z, cross) if other is None else (other, self.posterior.cross(other))
        return covariance(self.kernel, Z, W) - self.posterior.factor.inverse_product(self.rho, cross, across)

    def variances(self, points: Float[Array, "q ..."]) -> Inexact[Array, " q"]:
        """k̃(x, x) at each point."""
        cross = self.posterior.cross(observing(points))
        return self.kernel.diagonal(points) - jnp.sum(cross * self.posterior.factor.solve(self.rho, cross), axis=0)

    def residuals(self, values: Float[Array, "n k"]) -> Inexact[Array, "n k"]:
        """What the predictor of other targets leaves of them at the training points, over ρ."""
        return self._over_rho(self.posterior.observations.right_hand_side(values))

    def hat_quadratics(self, z: Float[Array, "n k"]) -> Inexact[Array, " k"]:
        """zᵀHz for each column, H = I − ρS."""
        return jnp.sum(z * (z - self.rho * self.residuals(z)), axis=0)

    def noise_variances(self, b: Inexact[Array, "N k"]) -> Inexact[Array, " k"]:
        """Variances of bᵀA⁻¹y for independent noise of variance 1/w_i on each value y_i: Σ c_i²/w_i, c = A⁻¹b.

        That is bᵀA⁻¹Sb, which is an ordinary number at w_i = 0.
        """
        n = len(self.posterior.X)
        return jnp.sum(self.solve(b)[:n] * self._over_rho(b), axis=0)

    def trace_taken(self, Z: Observations, gain: Inexact[Array, "P P"]) -> Inexact[Array, ""]:
        """Σ w_i k̃(x_i, Z) G k̃(Z, x_i)/ρ = ρ tr(G RᵀWR), R = k̃(X, Z)/ρ of the values."""
        residuals = self._over_rho(self.posterior.cross(Z))
        weighted = self.posterior.observations.multiplicities[:, None] * residuals
        return self.rho * jnp.sum(gain * matrix_product(residuals.T, weighted))

    def _over_rho(self, b: Inexact[Array, "N k"]) -> Inexact[Array, "n k"]:
        return self.posterior.factor.residuals(self.rho, b)[: len(self.posterior.X)]

    def leverages(self) -> Inexact[Array, " n"]:
        """H_ii: how far the predictor at x_i follows y_i with its weight."""
        return self.posterior.factor.diagonals(self.rho, len(self.posterior.X))[1]

    def left_out_residuals(self) -> Inexact[Array, "n C"]:
        """y_i less the prediction at x_i of the predictor that was fitted without i, at the same ρ."""
        of_residuals = self.posterior.factor.diagonals(self.rho, len(self.posterior.X))[0]
        return self.residuals(self.posterior.targets) / of_residuals[:, None]

    def dual(self) -> Inexact[Array, "n C"]:
        """A⁻¹y, of the values."""
        return self.posterior.factor.solve(self.rho, self.posterior.observed_targets)[: len(self.posterior.X)]

    def mean_coefficients(self) -> Inexact[Array, "p C"]:
        """A⁻¹y: what of f_c depends on ρ, see `Posterior.mean_expansion`."""
        return self.posterior.factor.coordinates(self.rho, self.posterior.observed_targets)

    def covariance_coefficients(self, Z: Observations, weights: Inexact[Array, "P C"]) -> Inexact[Array, "p C"]:
        """−A⁻¹ k(X, Z) · weights: what of x ↦ k̃(x, Z) weights belongs to X, see `Posterior.change_expansion`."""
        return -self.posterior.factor.coefficients(self.rho, self.posterior.cross(Z), weights)

    def mean_expansion(self) -> KernelExpansion:
        """f_c as a function of x."""
        return self.posterior.mean_expansion(self.mean_coefficients())

    def change_expansion(
        self, Z: Observations, of_poison: Inexact[Array, "P C"], of_clean: Inexact[Array, "p C"]
    ) -> KernelExpansion:
        """See `Posterior.change_expansion`."""
        return self.posterior.change_expansion(Z, of_poison, of_clean)


class Prior(Process):
    """Mean 0 and covariance k: the posterior of nothing, which isolated laws condition on the poison."""

    kernel: Kernel
    outputs: int = eqx.field(static=True)

    def mean(self, Z: Observations | Float[Array, "p ..."]) -> Float[Array, "P C"]:
        """0."""
        Z = observing(Z)
        return jnp.zeros((Z.number, self.outputs), Z.points.dtype)

    def covariance(
        self, Z: Observations | Float[Array, "p ..."], other: Observations | None = None
    ) -> Float[Array, "P Q"]:
        """k(Z, W)."""
        Z = observing(Z)
        return covariance(self.kernel, Z, Z if other is None else other)

    def variances(self, points: Float[Array, "q ..."]) -> Float[Array, " q"]:
        """k(x, x)."""
        return self.kernel.diagonal(points)

    def leverages(self) -> Float[Array, " 0"]:
        """Of no clean data."""
        return jnp.zeros(0)

    def hat_quadratics(self, z: Float[Array, "0 k"]) -> Float[Array, " k"]:
        """0."""
        return jnp.zeros(z.shape[1], z.dtype)

    def trace_taken(self, Z: Observations, gain: Inexact[Array, "P P"]) -> Float[Array, ""]:
        """0."""
        return jnp.zeros((), Z.points.dtype)

    def mean_coefficients(self) -> Inexact[Array, "0 C"]:
        """Of no clean data."""
        return jnp.zeros((0, self.outputs))

    def covariance_coefficients(self, Z: Observations, weights: Inexact[Array, "P C"]) -> Inexact[Array, "0 C"]:
        """Of no clean data."""
        return jnp.zeros((0, weights.shape[1]), weights.dtype)

    def change_expansion(
        self, Z: Observations, of_poison: Inexact[Array, "P C"], of_clean: Inexact[Array, "0 C"]
    ) -> KernelExpansion:
        """k(x, Z) · of_poison as a function of x."""
        return KernelExpansion(span_of(self.kernel, Z), of_poison)


def checked_ridge(clean: Fitted, ridge: Scalar) -> Float[Array, ""]:
    """λ in the dtype of the data, refused in compiled code too; 0 is allowed where training is stopped early."""
    ridge = jnp.asarray(ridge, clean.X.dtype)
    bad, least = (ridge <= 0, "> 0") if clean.ended else (ridge < 0, ">= 0")
    return checked_result(ridge, [(bad | ~jnp.isfinite(ridge), f"ridge must be finite and {least}")])
