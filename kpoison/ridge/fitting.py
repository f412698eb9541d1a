"""Fitting: the Gram matrix of the clean data, with or without a gradient penalty, factorised once."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._typing import Scalar
from kpoison._validation import (
    boundary,
    check_finite,
    check_points,
    check_positive,
    check_real,
    checked_result,
)
from kpoison.kernels.base import Kernel, with_array_parameters
from kpoison.ridge.iterative import ConjugateGradients, IterativeFactor
from kpoison.ridge.metric import checked_metric, metric_root
from kpoison.ridge.observations import Observations
from kpoison.ridge.observations import gram as observations_gram
from kpoison.ridge.posterior import Posterior
from kpoison.ridge.solvers import DenseSolver, Factor, Solver, Spectral

__all__ = ["fit", "fit_observations", "gram_matrix"]

_DENSE_UP_TO = 12_000  # numbers: a Gram matrix of 1.1 GiB in float64
_DIFFERENCES_UP_TO = 2**26


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
    check_positive("gradient_penalty", arguments["gradient_penalty"], zero=True)
    arguments.update(X=X, y=y, metric=checked_metric(arguments["metric"], X[0].size, X.dtype))


def _check_derivatives(kernel: Kernel, observed: Observations, solver: Solver) -> None:
    if kernel.smoothness < 2:
        raise ValueError(
            f"kernel {type(kernel).__name__} (smoothness {kernel.smoothness}) must be twice continuously "
            "differentiable at coincident points for a gradient penalty: the variance of its slopes does not exist "
            "there.  Use RBF, Matern32, Matern52, RationalQuadratic or an NTK of erf instead"
        )
    if isinstance(solver, DenseSolver) and observed.number > _DENSE_UP_TO:
        raise ValueError(
            f"gradient_penalty needs a dense matrix over n(1 + r) = {observed.number} values and slopes, more than "
            f"{_DENSE_UP_TO}: use solver=kpoison.ConjugateGradients(), fewer points, or a metric of lower rank r"
        )


@boundary(_check_fit)
def fit(
    kernel: Kernel,
    X: Float[ArrayLike, "n ..."],
    y: Num[ArrayLike, "n *C"],
    *,
    solver: Solver = Spectral(),  # noqa: B008  (an immutable value)
    gradient_penalty: Scalar = 0.0,
    metric: Float[ArrayLike, "..."] | None = None,
) -> Posterior:
    """Fit a kernel ridge predictor to the clean data, once, for every ridge.

    Args:
        kernel: k.
        X: clean inputs, shape (n_c, d), float32 or float64; duplicates and close pairs are welcome (for their exactness
            in large data sets see `Kernel.__call__`).
        y: clean targets, shape (n_c,) or (n_c, C).
        solver: `Spectral()` (one eigendecomposition, every ridge), `Tridiagonal()` (the same for sweeps, in 2/5 of the
            time), `Cholesky()` (factorises at each ridge), or `ConjugateGradients()` (for a gradient penalty in many
            dimensions; `gain` is not available then).
        gradient_penalty: γ >= 0 of (γ/2n) Σ_i ‖∇f(x_i)‖²_M beside the fit and the ridge (T1); n_c(1 + r) numbers are
            then factorised, r the rank of M.  Poisons are penalised too.  0 is the ordinary posterior.
        metric: M, symmetric and positive semi-definite, shape (D, D); by default the identity.

    Returns:
        The posterior, in the dtype of `X`.

    Raises:
        TypeError: for a wrong dtype, kernel or solver.
        ValueError: for mismatched shapes, empty or non-finite data, for a kernel that is not symmetric and positive
            semi-definite on `X`; for γ < 0, a metric that is none, a kernel without the derivatives that the penalty
            takes, or more than 12,000 numbers for a solver that factorises.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> X = jnp.array([[0.0], [1.0], [2.0]])
    >>> clean = kp.fit(kp.kernels.RBF(length_scale=1.0), X, jnp.array([0.0, 1.0, 0.0]))
    >>> round(float(kp.predict(clean, jnp.array([1.0]), ridge=1e-4)), 2)
    1.0
    """
    X, y = jnp.asarray(X), jnp.asarray(y)
    root = metric_root(gradient_penalty, metric, X[0].size, X.dtype)
    return fit_observations(kernel, Observations(X, root), y, solver)


def fit_observations(kernel: Kernel, observed: Observations, y: Float[Array, "n *C"], solver: Solver) -> Posterior:
    """`fit` without its checks of arrays."""
    dtype = observed.points.dtype
    if observed.root is not None:
        _check_derivatives(kernel, observed, solver)
    if isinstance(solver, ConjugateGradients):
        return _unformed(kernel, observed, y, solver)
    assert isinstance(solver, DenseSolver)
    gram, factor, rounding, asymmetry = _factorise(with_array_parameters(kernel, dtype), observed, solver)
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
    return Posterior(with_array_parameters(kernel, dtype), observed.points, y, gram, factor, observed.root)


def _unformed(kernel: Kernel, observed: Observations, y: Float[Array, "n *C"], solver: ConjugateGradients) -> Posterior:
    kernel = with_array_parameters(kernel, observed.points.dtype)
    factor = _prepare(kernel, observed, solver)
    largest = checked_result(
        factor.system.trace,
        [(~jnp.isfinite(factor.system.trace), f"kernel {type(kernel).__name__} has non-finite values on X")],
    )
    factor = eqx.tree_at(lambda f: f.system.trace, factor, largest)
    return Posterior(kernel, observed.points, y, None, factor, observed.root)


@eqx.filter_jit
def _prepare(kernel: Kernel, observed: Observations, solver: ConjugateGradients) -> IterativeFactor:
    return solver.prepare(kernel, observed)


def gram_matrix(kernel: Kernel, X: Float[Array, "n ..."]) -> Float[Array, "n n"]:
    """K(X, X) as `fit` computes it.

    Kernels of finite smoothness feel the digits that a matrix product loses for close pairs; up to 2²⁶ coordinates of
    differences (n²d) their Gram matrix is computed pair by pair.
    """
    exact = kernel.smoothness != math.inf and len(X) * X.size <= _DIFFERENCES_UP_TO
    return kernel.pairwise(X, X) if exact else kernel.gram(X, X)


@eqx.filter_jit
def _factorise(kernel: Kernel, observed: Observations, solver: DenseSolver) -> tuple[Array, Factor, Array, Array]:
    """The Gram matrix, its factorisation, how far rounding may have moved its eigenvalues, and its asymmetry."""
    gram = observations_gram(kernel, observed, gram_matrix(kernel, observed.points))
    constant = jax.lax.stop_gradient(gram)
    rounding = 10 * observed.number * jnp.finfo(gram.dtype).eps * jnp.max(jnp.abs(constant))
    asymmetry = jnp.max(jnp.abs(constant - constant.T))
    return gram, solver.factorise(constant), rounding, asymmetry
