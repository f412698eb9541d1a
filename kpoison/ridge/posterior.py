"""The kernel ridge posterior: fitted once, then its mean and covariance at any ridge."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Inexact, Num

from kpoison._failures import Failure, checked_result, program
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison.kernels.base import Kernel
from kpoison.ridge.expansion import KernelExpansion
from kpoison.ridge.observations import Observations, covariance, observing
from kpoison.ridge.solvers import Factor, ReducedFactor, implicit_inverse_product, implicit_solve

__all__ = ["IllConditionedWarning", "Posterior", "PosteriorAtRidge", "Prior", "check_conditioning"]


class IllConditionedWarning(UserWarning):
    """A solve whose rounding error may reach 0.1 % of the result (eps · condition number > 1e-3)."""


class Posterior(eqx.Module):
    """A fitted kernel ridge predictor, valid for every ridge; made by `fit`.

    Attributes:
        kernel: the kernel.
        X: clean inputs, shape (n_c, d).
        y: clean targets, shape (n_c,) or (n_c, C).
        gram: K(X, X), shape (n_c, n_c); with a gradient penalty of rank r the covariance of values and derivatives,
            shape (N, N) with N = n_c(1 + r); None where it is never formed (`ConjugateGradients`).
        factor: its factorisation, a constant to autodiff.
        root: √γ R with RᵀR the metric, shape (r, D); None without a gradient penalty.
        time: training time t of the gradient flow at which the predictor is stopped; None where it is trained to the
            end.  Made by `kpoison.flow.early_stopped`.
    """

    kernel: Kernel
    X: Float[Array, "n ..."]
    y: Float[Array, "n *C"]
    gram: Float[Array, "N N"] | None
    factor: Factor
    root: Float[Array, "r D"] | None = None
    time: Scalar | None = None

    @property
    def observations(self) -> Observations:
        """What the predictor is trained on: values at X and, with a gradient penalty, flat slopes there."""
        return Observations(self.X, self.root)

    @property
    def targets(self) -> Float[Array, "n C"]:
        """y with an axis for the outputs."""
        return self.y.reshape(len(self.y), -1)

    @property
    def outputs(self) -> int:
        """Number of outputs C."""
        return self.targets.shape[1]

    def condition_number(self, rho: Inexact[Array, ""]) -> Float[Array, ""]:
        """Upper bound on the condition number of A = K + ρI."""
        lowest, highest = self.factor.extreme_eigenvalues()
        lowest = jnp.maximum(lowest, 0)
        nearest = jnp.abs(jnp.where(lowest + jnp.real(rho) >= 0, lowest + rho, jnp.imag(rho)))
        return (highest + jnp.abs(rho)) / nearest

    def at(self, rho: Inexact[Array, ""]) -> "PosteriorAtRidge":
        """The posterior at ρ = nλ, the number added to the Gram diagonal; or at one of the complex ones of a flow.

        Raises:
            ValueError: where rounding would leave no digit (eps · condition number >= 1); in compiled code a
                runtime error.
        """
        error = jax.lax.stop_gradient(self.rounding(rho))
        failures = [(~(error < 1), _no_digits(self.X.dtype))]
        if isinstance(self.factor, ReducedFactor) and self.factor.status is not None:
            failures.append((~self.factor.status.at(jax.lax.stop_gradient(rho))[1], _UNCONVERGED))
        return PosteriorAtRidge(self, checked_result(rho, failures))

    def rounding(self, rho: Inexact[Array, ""]) -> Float[Array, ""]:
        """eps · condition number: bound on the relative rounding error of a solve."""
        return jnp.finfo(self.X.dtype).eps * self.condition_number(rho)

    def mean_expansion(self, coefficients: Inexact[Array, "p C"]) -> KernelExpansion:
        """k(x, X) · coefficients as a function of x, with derivatives of k where slopes are observed."""
        if isinstance(self.factor, ReducedFactor):
            return KernelExpansion(self.kernel, self.X, coefficients, self.factor.eigenvectors)
        weights, slopes = self.observations.dual(coefficients)
        return KernelExpansion(self.kernel, self.X, weights, slopes=slopes)

    def change_expansion(
        self, Z: Observations, there: Inexact[Array, "P C"], here: Inexact[Array, "p C"]
    ) -> KernelExpansion:
        """k(x, Z) · there + k(x, X) · here as a function of x."""
        centres = jnp.concatenate([Z.points, self.X])
        if isinstance(self.factor, ReducedFactor):
            basis = jax.scipy.linalg.block_diag(jnp.eye(Z.number, dtype=self.X.dtype), self.factor.eigenvectors)
            return KernelExpansion(self.kernel, centres, jnp.concatenate([there, here]), basis)
        (poison, poison_slopes), (own, own_slopes) = Z.dual(there), self.observations.dual(here)
        slopes = _joined(poison_slopes, own_slopes, Z.points)
        return KernelExpansion(self.kernel, centres, jnp.concatenate([poison, own]), slopes=slopes)


_UNCONVERGED = (
    "at this ρ = (n_c + Σm)λ the solves have not converged, or clean was not prepared for it: see "
    "clean.factor.status, raise the ridge, or the rank, tolerance or max_products of kpoison.Krylov"
)


def _no_digits(dtype) -> str:
    return (
        f"K + ρI is too ill-conditioned for {dtype}: no digit of the result would be right. "
        "Use a larger ridge or float64."
    )


@program()
def check_conditioning(clean: Posterior, rho: Num[ArrayLike, ""]) -> Array:
    """ρ, refused, or with a warning, where it is too small for the dtype.

    Raises:
        ValueError: where eps · condition number >= 1.

    Warns:
        IllConditionedWarning: where eps · condition number > 1e-3, and the numbers are known.
    """
    rho = jnp.asarray(rho)
    fixed = jax.lax.stop_gradient(rho)
    error, dtype = jax.lax.stop_gradient(clean.rounding(fixed)), clean.X.dtype
    condition = error / float(jnp.finfo(dtype).eps)
    warning = Failure(
        (error > 1e-3) & (error < 1),
        "at ρ = {:.3g} the matrix K + ρI has a condition number of about {:.1e}; in " + str(dtype) + " results may be "
        "wrong by {:.1e} of their size. Use a larger ridge or float64.",
        (fixed, condition, error),
        IllConditionedWarning,
    )
    return checked_result(rho, [Failure(~(error < 1), _no_digits(dtype)), warning])


class PosteriorAtRidge(eqx.Module):
    """Clean predictor f_c and posterior covariance k̃ at one ρ."""

    posterior: Posterior
    rho: Inexact[Array, ""]

    @property
    def kernel(self) -> Kernel:
        """The kernel."""
        return self.posterior.kernel

    def _solve(self, b: Array) -> Array:
        """A⁻¹b; with a compressed posterior its coordinates in the basis."""
        factor = self.posterior.factor
        if isinstance(factor, ReducedFactor):
            return factor.coordinates(self.rho, b)
        if self.posterior.gram is None:
            return factor.solve(self.rho, b)
        return implicit_solve(factor, self.posterior.gram, self.rho, b)

    def _inverse_product(self, b: Array, c: Array) -> Array:
        factor, gram = self.posterior.factor, self.posterior.gram
        if gram is None:
            return factor.inverse_product(self.rho, b, c)
        return implicit_inverse_product(factor, gram, self.rho, b, c)

    def _cross(self, Z: Observations) -> Float[Array, "N P"]:
        return covariance(self.kernel, self.posterior.observations, Z)

    def _targets(self) -> Float[Array, "N C"]:
        return self.posterior.observations.with_flat_slopes(self.posterior.targets)

    def mean(self, Z: Observations | Float[Array, "p ..."]) -> Inexact[Array, "P C"]:
        """f_c(Z) = k(Z, X) A⁻¹ y, at points or of observations."""
        return self._inverse_product(self._cross(observing(Z)), self._targets())

    def covariance(self, Z: Observations | Float[Array, "p ..."]) -> Inexact[Array, "P P"]:
        """k̃(Z, Z) = k(Z, Z) − k(Z, X) A⁻¹ k(X, Z)."""
        Z = observing(Z)
        cross = self._cross(Z)
        return covariance(self.kernel, Z, Z) - self._inverse_product(cross, cross)

    def mean_coefficients(self) -> Inexact[Array, "p C"]:
        """A⁻¹y: what of f_c depends on ρ, see `Posterior.mean_expansion`."""
        return self._solve(self._targets())

    def covariance_coefficients(self, Z: Observations, weights: Inexact[Array, "P C"]) -> Inexact[Array, "p C"]:
        """−A⁻¹ k(X, Z) · weights: what of x ↦ k̃(x, Z) weights belongs to X, see `Posterior.change_expansion`."""
        cross = self._cross(Z)
        if isinstance(self.posterior.factor, ReducedFactor):
            return -matrix_product(self._solve(cross), weights)
        return -self._solve(matrix_product(cross, weights))

    def mean_expansion(self) -> KernelExpansion:
        """f_c as a function of x."""
        return self.posterior.mean_expansion(self.mean_coefficients())

    def covariance_expansion(
        self, Z: Observations | Float[Array, "p ..."], weights: Inexact[Array, "P C"]
    ) -> KernelExpansion:
        """x ↦ k̃(x, Z) weights."""
        Z = observing(Z)
        return self.posterior.change_expansion(Z, weights, self.covariance_coefficients(Z, weights))


def _joined(there: Array | None, here: Array | None, Z: Float[Array, "p ..."]) -> Inexact[Array, "N C D"] | None:
    """Slopes at both sets of centres; 0 where values alone were observed."""
    if here is None:
        return there
    there = jnp.zeros((len(Z), *here.shape[1:]), here.dtype) if there is None else there
    return jnp.concatenate([there, here])


class Prior(eqx.Module):
    """Mean 0 and covariance k: the posterior of nothing, which isolated laws condition on the poison."""

    kernel: Kernel
    outputs: int = eqx.field(static=True)

    def mean(self, Z: Observations | Float[Array, "p ..."]) -> Float[Array, "P C"]:
        """0."""
        Z = observing(Z)
        return jnp.zeros((Z.number, self.outputs), Z.points.dtype)

    def covariance(self, Z: Observations | Float[Array, "p ..."]) -> Float[Array, "P P"]:
        """k(Z, Z)."""
        Z = observing(Z)
        return covariance(self.kernel, Z, Z)

    def covariance_coefficients(self, Z: Observations, weights: Inexact[Array, "P C"]) -> None:
        """None: no clean data."""

    def change_expansion(self, Z: Observations, there: Inexact[Array, "P C"], here: None = None) -> KernelExpansion:
        """k(x, Z) · there as a function of x."""
        weights, slopes = Z.dual(there)
        return KernelExpansion(self.kernel, Z.points, weights, slopes=slopes)

    def covariance_expansion(
        self, Z: Observations | Float[Array, "p ..."], weights: Inexact[Array, "P C"]
    ) -> KernelExpansion:
        """x ↦ k(x, Z) weights."""
        return self.change_expansion(observing(Z), weights)


def checked_ridge(clean: Posterior, ridge: Scalar) -> Float[Array, ""]:
    """λ in the dtype of the data, refused in compiled code too; 0 is allowed where training is stopped early."""
    ridge = jnp.asarray(ridge, clean.X.dtype)
    bad, least = (ridge <= 0, "> 0") if clean.time is None else (ridge < 0, ">= 0")
    return checked_result(ridge, [(bad | ~jnp.isfinite(ridge), f"ridge must be finite and {least}")])
