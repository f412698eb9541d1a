"""The kernel ridge posterior: fitted once, then its mean and covariance at any ridge."""

import math
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._typing import Scalar
from kpoison._validation import boundary, check_finite, check_points, check_real, checked_result, is_concrete
from kpoison.kernels.base import Kernel, matrix_product, with_array_parameters
from kpoison.ridge.expansion import KernelExpansion
from kpoison.ridge.solvers import Factor, ReducedFactor, Solver, Spectral, implicit_inverse_product, implicit_solve

__all__ = ["IllConditionedWarning", "Posterior", "PosteriorAtRidge", "Prior", "check_conditioning", "fit"]


class IllConditionedWarning(UserWarning):
    """A solve whose rounding error may reach 0.1 % of the result (eps · condition number > 1e-3)."""


class Posterior(eqx.Module):
    """A fitted kernel ridge predictor, valid for every ridge; made by `fit`.

    Attributes:
        kernel: the kernel.
        X: clean inputs, shape (n_c, d).
        y: clean targets, shape (n_c,) or (n_c, C).
        gram: K(X, X), shape (n_c, n_c).
        factor: its factorisation, a constant to autodiff.
    """

    kernel: Kernel
    X: Float[Array, "n ..."]
    y: Float[Array, "n *C"]
    gram: Float[Array, "n n"]
    factor: Factor

    @property
    def targets(self) -> Float[Array, "n C"]:
        """y with an axis for the outputs."""
        return self.y.reshape(len(self.y), -1)

    @property
    def outputs(self) -> int:
        """Number of outputs C."""
        return self.targets.shape[1]

    def condition_number(self, rho: Float[Array, ""]) -> Float[Array, ""]:
        """Upper bound on the condition number of A = K + ρI."""
        lowest, highest = self.factor.extreme_eigenvalues()
        return (highest + rho) / (jnp.maximum(lowest, 0) + rho)

    def at(self, rho: Float[Array, ""]) -> "PosteriorAtRidge":
        """The posterior at ρ = nλ, the number added to the Gram diagonal.

        Raises:
            ValueError: where rounding would leave no digit (eps · condition number >= 1); in compiled code a
                runtime error.
        """
        error = jax.lax.stop_gradient(self.rounding(rho))
        return PosteriorAtRidge(self, checked_result(rho, [(~(error < 1), _no_digits(self.gram.dtype))]))

    def rounding(self, rho: Float[Array, ""]) -> Float[Array, ""]:
        """eps · condition number: bound on the relative rounding error of a solve."""
        return jnp.finfo(self.gram.dtype).eps * self.condition_number(rho)


def _no_digits(dtype) -> str:
    return (
        f"K + ρI is too ill-conditioned for {dtype}: no digit of the result would be right. "
        "Use a larger ridge or float64."
    )


def check_conditioning(clean: Posterior, rho: Array) -> None:
    """Refuse, or warn of, a ridge too small for the dtype, where the numbers are known.

    Raises:
        ValueError: where eps · condition number >= 1.

    Warns:
        IllConditionedWarning: where eps · condition number > 1e-3.
    """
    error = clean.rounding(rho)
    if not is_concrete(error):
        return
    worst = float(jnp.max(error))
    dtype = clean.gram.dtype
    if not worst < 1:
        raise ValueError(_no_digits(dtype))
    if worst > 1e-3:
        warnings.warn(
            f"at ρ = {float(jnp.min(rho)):.3g} the matrix K + ρI has a condition number of about "
            f"{worst / float(jnp.finfo(dtype).eps):.1e}; in {dtype} results may be wrong by {worst:.1e} of their "
            "size. Use a larger ridge or float64.",
            IllConditionedWarning,
            stacklevel=4,
        )


class PosteriorAtRidge(eqx.Module):
    """Clean predictor f_c and posterior covariance k̃ at one ρ."""

    posterior: Posterior
    rho: Float[Array, ""]

    @property
    def kernel(self) -> Kernel:
        """The kernel."""
        return self.posterior.kernel

    def _solve(self, b: Array) -> Array:
        return implicit_solve(self.posterior.factor, self.posterior.gram, self.rho, b)

    def _inverse_product(self, b: Array, c: Array) -> Array:
        return implicit_inverse_product(self.posterior.factor, self.posterior.gram, self.rho, b, c)

    def mean(self, Z: Float[Array, "p ..."]) -> Float[Array, "p C"]:
        """f_c(Z) = k(Z, X) A⁻¹ y."""
        cross = self.kernel.pairwise(self.posterior.X, Z)
        return self._inverse_product(cross, self.posterior.targets)

    def covariance(self, Z: Float[Array, "p ..."]) -> Float[Array, "p p"]:
        """k̃(Z, Z) = k(Z, Z) − k(Z, X) A⁻¹ k(X, Z)."""
        cross = self.kernel.pairwise(self.posterior.X, Z)
        return self.kernel.pairwise(Z, Z) - self._inverse_product(cross, cross)

    def mean_expansion(self) -> KernelExpansion:
        """f_c as a function of x."""
        return KernelExpansion(self.kernel, self.posterior.X, self._solve(self.posterior.targets))

    def covariance_expansion(self, Z: Float[Array, "p ..."], weights: Float[Array, "p C"]) -> KernelExpansion:
        """x ↦ k̃(x, Z) weights."""
        cross = self.kernel.pairwise(self.posterior.X, Z)
        centres = jnp.concatenate([Z, self.posterior.X])
        factor = self.posterior.factor
        if isinstance(factor, ReducedFactor):
            basis = jax.scipy.linalg.block_diag(jnp.eye(len(Z), dtype=Z.dtype), factor.eigenvectors)
            answer = matrix_product(factor.coordinates(self.rho, cross), weights)
            weights = jnp.concatenate([weights, -answer])
            return KernelExpansion(self.kernel, centres, weights, basis)
        answer = self._solve(matrix_product(cross, weights))
        return KernelExpansion(self.kernel, centres, jnp.concatenate([weights, -answer]))


class Prior(eqx.Module):
    """Mean 0 and covariance k: the posterior of nothing, which isolated laws condition on the poison."""

    kernel: Kernel
    outputs: int = eqx.field(static=True)

    def mean(self, Z: Float[Array, "p ..."]) -> Float[Array, "p C"]:
        """0."""
        return jnp.zeros((len(Z), self.outputs), Z.dtype)

    def covariance(self, Z: Float[Array, "p ..."]) -> Float[Array, "p p"]:
        """k(Z, Z)."""
        return self.kernel.pairwise(Z, Z)

    def covariance_expansion(self, Z: Float[Array, "p ..."], weights: Float[Array, "p C"]) -> KernelExpansion:
        """x ↦ k(x, Z) weights."""
        return KernelExpansion(self.kernel, Z, weights)


def _check_fit(arguments: dict) -> None:
    kernel, solver = arguments["kernel"], arguments["solver"]
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel must be a kpoison.kernels.Kernel, got {type(kernel).__name__}")
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be a solver such as kpoison.Spectral(), got {type(solver).__name__}")
    X = check_points("X", arguments["X"], kernel.point_ndim)
    check_real("y", arguments["y"])
    y = jnp.asarray(arguments["y"], X.dtype)
    if y.ndim not in (1, 2) or len(y) != len(X) or y.size == 0:
        raise ValueError(f"y must have shape ({len(X)},) or ({len(X)}, C), as X has {len(X)} points, got {y.shape}")
    check_finite("y", y)
    arguments.update(X=X, y=y)


@boundary(_check_fit)
def fit(
    kernel: Kernel,
    X: Float[ArrayLike, "n ..."],
    y: Num[ArrayLike, "n *C"],
    *,
    solver: Solver = Spectral(),  # noqa: B008  (an immutable value)
) -> Posterior:
    """Fit a kernel ridge predictor to the clean data, once, for every ridge.

    Args:
        kernel: k.
        X: clean inputs, shape (n_c, d), float32 or float64; duplicates and close pairs are welcome (for their exactness
            in large data sets see `Kernel.__call__`).
        y: clean targets, shape (n_c,) or (n_c, C).
        solver: `Spectral()` (one eigendecomposition, every ridge) or `Cholesky()` (factorises at each ridge).

    Returns:
        The posterior, in the dtype of `X`.

    Raises:
        TypeError: for a wrong dtype, kernel or solver.
        ValueError: for mismatched shapes, empty or non-finite data, and for a kernel that is not symmetric and
            positive semi-definite on `X`.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> X = jnp.array([[0.0], [1.0], [2.0]])
    >>> clean = kp.fit(kp.kernels.RBF(length_scale=1.0), X, jnp.array([0.0, 1.0, 0.0]))
    >>> round(float(kp.predict(clean, jnp.array([1.0]), ridge=1e-4)), 2)
    1.0
    """
    X, y = jnp.asarray(X), jnp.asarray(y)
    gram, factor, rounding, asymmetry = _factorise(with_array_parameters(kernel, X.dtype), X, solver)
    lowest, highest = factor.extreme_eigenvalues()
    name = type(kernel).__name__
    gram = checked_result(
        gram,
        [
            (~jnp.isfinite(rounding + highest), f"kernel {name} has non-finite values on X"),
            (asymmetry > rounding, f"kernel {name} is not symmetric on X: k(x, z) and k(z, x) differ"),
            (lowest < -rounding, f"kernel {name} is not positive semi-definite on X"),
        ],
    )
    return Posterior(with_array_parameters(kernel, X.dtype), X, y, gram, factor)


_DIFFERENCES_UP_TO = 2**26


def gram_matrix(kernel: Kernel, X: Float[Array, "n ..."]) -> Float[Array, "n n"]:
    """K(X, X) as `fit` computes it.

    Kernels of finite smoothness feel the digits that a matrix product loses for close pairs; up to 2²⁶ coordinates of
    differences (n²d) their Gram matrix is computed pair by pair.
    """
    exact = kernel.smoothness != math.inf and len(X) * X.size <= _DIFFERENCES_UP_TO
    return kernel.pairwise(X, X) if exact else kernel.gram(X, X)


@eqx.filter_jit
def _factorise(kernel: Kernel, X: Array, solver: Solver) -> tuple[Array, Factor, Array, Array]:
    """The Gram matrix, its factorisation, how far rounding may have moved its eigenvalues, and its asymmetry."""
    gram = gram_matrix(kernel, X)
    constant = jax.lax.stop_gradient(gram)
    rounding = 10 * len(X) * jnp.finfo(gram.dtype).eps * jnp.max(jnp.abs(constant))
    asymmetry = jnp.max(jnp.abs(constant - constant.T))
    return gram, solver.factorise(constant), rounding, asymmetry


def effective_ridge(n_c: int, total_count: Array | float, ridge: Scalar, dtype) -> Array:
    """ρ = (n_c + Σ m) λ, the number added to the Gram diagonal; refuses λ <= 0 in compiled code too."""
    ridge = jnp.asarray(ridge, dtype)
    return checked_result(
        (n_c + total_count) * ridge,
        [(~((ridge > 0) & jnp.isfinite(ridge)), "ridge must be finite and > 0")],
    )
