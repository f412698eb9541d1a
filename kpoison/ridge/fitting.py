"""Fitting: the Gram matrix of the clean data, with or without a gradient penalty, factorised once."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._failures import checked_result, program
from kpoison._linear_algebra import eigh
from kpoison._typing import Scalar
from kpoison._validation import (
    boundary,
    check_finite,
    check_points,
    check_positive,
    check_real,
    is_concrete,
)
from kpoison.kernels.base import Kernel, made_by_halves, symmetric_gram, with_array_parameters
from kpoison.ridge.choice import DENSE_UP_TO, check_dense_memory, choose_solver
from kpoison.ridge.iterative import ConjugateGradients, IterativeFactor
from kpoison.ridge.krylov import Krylov
from kpoison.ridge.metric import checked_metric, metric_root
from kpoison.ridge.observations import Observations
from kpoison.ridge.observations import gram as observations_gram
from kpoison.ridge.posterior import Posterior
from kpoison.ridge.solvers import DenseSolver, Factor, Solver, Spectral, sample_places

__all__ = ["fit", "fit_observations", "gram_matrix"]

# Coordinates of differences, n²d, that a Gram matrix may be made of: of kernels that feel their digits, of smooth ones.
_DIFFERENCES_UP_TO = 2**26
_CHEAP_DIFFERENCES_UP_TO = 2**22
_FEW_DIGITS = 100.0  # times eps, that a matrix product may cost a smooth kernel where differences are affordable
_NO_DIGIT = 0.1


def _check_fit(arguments: dict) -> None:
    kernel, solver = arguments["kernel"], arguments["solver"]
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel must be a kpoison.kernels.Kernel, got {type(kernel).__name__}")
    if solver is not None and not isinstance(solver, Solver):
        raise TypeError(f"solver must be a solver such as kpoison.Spectral(), got {type(solver).__name__}")
    X = check_points("X", arguments["X"], kernel.point_ndim)
    check_real("y", arguments["y"])
    y = jnp.asarray(arguments["y"], X.dtype)
    if y.ndim not in (1, 2) or len(y) != len(X) or y.size == 0:
        raise ValueError(f"y must have shape ({len(X)},) or ({len(X)}, C), as X has {len(X)} points, got {y.shape}")
    check_finite("y", y)
    check_positive("gradient_penalty", arguments["gradient_penalty"], zero=True)
    arguments.update(X=X, y=y, metric=checked_metric(arguments["metric"], math.prod(X.shape[1:]), X.dtype))


def _check_derivatives(kernel: Kernel, observed: Observations, solver: Solver) -> None:
    if kernel.smoothness < 2:
        raise ValueError(
            f"kernel {type(kernel).__name__} (smoothness {kernel.smoothness}) must be twice continuously "
            "differentiable at coincident points for a gradient penalty: the variance of its slopes does not exist "
            "there.  Use RBF, Matern32, Matern52, RationalQuadratic or an NTK of erf instead"
        )
    if isinstance(solver, DenseSolver) and observed.number > DENSE_UP_TO:
        raise ValueError(
            f"gradient_penalty needs a dense matrix over n(1 + r) = {observed.number} values and slopes, more than "
            f"{DENSE_UP_TO}: use solver=kpoison.ConjugateGradients(), fewer points, or a metric of lower rank r"
        )


@boundary(_check_fit)
def fit(
    kernel: Kernel,
    X: Float[ArrayLike, "n ..."],
    y: Num[ArrayLike, "n *C"],
    *,
    solver: Solver | None = None,
    gradient_penalty: Scalar = 0.0,
    metric: Float[ArrayLike, "..."] | None = None,
    verbose: bool = False,
) -> Posterior:
    """Fit a kernel ridge predictor to the clean data, once, for every ridge.

    Args:
        kernel: k.
        X: clean inputs, shape (n_c, d), float32 or float64; duplicates and close pairs are welcome (for their exactness
            in large data sets see `Kernel.__call__`).
        y: clean targets, shape (n_c,) or (n_c, C).
        solver: `Spectral()` (one eigendecomposition, every ridge), `Tridiagonal()` (the same for sweeps, in 2/5 of the
            time), `Cholesky()` (factorises at each ridge), `Krylov()` (for more points than can be factorised), by
            default the first or the last of these as `choose_solver` says; or `ConjugateGradients()` (for a gradient
            penalty in many dimensions; `gain` is not available then).
        gradient_penalty: γ >= 0 of (γ/2n) Σ_i ‖∇f(x_i)‖²_M beside the fit and the ridge (T1); n_c(1 + r) numbers are
            then factorised, r the rank of M.  Poisons are penalised too.  0 is the ordinary posterior.
        metric: M, symmetric and positive semi-definite, shape (D, D); by default the identity.
        verbose: print the solver that was chosen.

    Returns:
        The posterior, in the dtype of `X`.

    Raises:
        TypeError: for a wrong dtype, kernel or solver.
        ValueError: for mismatched shapes, empty or non-finite data, for a kernel that is not symmetric and positive
            semi-definite on `X`, or on 512 points of it where more are not looked at (`Krylov`; of 2,000 points and
            more all solvers for symmetry, and `Cholesky` for both); for γ < 0, a metric that is none, a kernel without
            the derivatives that the penalty takes, or more than 12,000 values and slopes for a solver that factorises.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> X = jnp.array([[0.0], [1.0], [2.0]])
    >>> clean = kp.fit(kp.kernels.RBF(length_scale=1.0), X, jnp.array([0.0, 1.0, 0.0]))
    >>> round(float(kp.predict(clean, jnp.array([1.0]), ridge=1e-4)), 2)
    1.0
    """
    X, y = jnp.asarray(X), jnp.asarray(y)
    observed = Observations(X, metric_root(gradient_penalty, metric, math.prod(X.shape[1:]), X.dtype))
    if solver is None:
        solver = Spectral() if observed.root is not None else choose_solver(len(X), X.dtype)
    if verbose:
        print(f"kpoison.fit: {solver} for {observed.number:,} numbers in {X.dtype}")
    return fit_observations(kernel, observed, y, solver)


def fit_observations(kernel: Kernel, observed: Observations, y: Float[Array, "n *C"], solver: Solver) -> Posterior:
    """`fit` without its checks of arrays."""
    dtype = observed.points.dtype
    if observed.root is not None:
        _check_derivatives(kernel, observed, solver)
    kernel, X = with_array_parameters(kernel, dtype), observed.points
    if isinstance(solver, ConjugateGradients):
        return Posterior(kernel, X, y, None, _unformed(kernel, observed, solver), observed.root)
    if isinstance(solver, Krylov):
        return _by_tiles(kernel, observed, y, solver)
    assert isinstance(solver, DenseSolver)
    check_dense_memory(solver, observed.number, dtype)
    differences = _by_differences(kernel, X)
    if observed.root is None and made_by_halves(kernel, X) and not differences:
        # Symmetric as it is made, so that a kernel that is not shows on a sample only.  Not in one program, whose
        # results would be copies.
        gram = symmetric_gram(kernel, _checked_on_sample(kernel, X))
        factor, rounding = solver.factorise(gram), _rounding(gram)
        failures = [*_no_digit(kernel, X), *_failures(kernel, *factor.extreme_eigenvalues(), rounding)]
        gram = checked_result(gram, failures)
    else:
        gram, factor = _factorised(kernel, observed, solver, differences)
    return Posterior(kernel, X, y, gram, factor, observed.root)


def _failures(
    kernel: Kernel, lowest: Array, highest: Array, rounding: Array, asymmetry: Array | float = 0.0
) -> list[tuple[Array, str]]:
    """Why a matrix with these extreme eigenvalues and this asymmetry is none of a kernel."""
    name = type(kernel).__name__
    return [
        (~jnp.isfinite(rounding + highest), f"kernel {name} has non-finite values on X"),
        (asymmetry > rounding, f"kernel {name} is not symmetric on X: k(x, z) and k(z, x) differ"),
        (lowest < -rounding, f"kernel {name} is not positive semi-definite on X"),
    ]


@jax.jit
def _rounding(gram: Array) -> Array:
    """How far rounding may have moved the eigenvalues."""
    return 10 * len(gram) * jnp.finfo(gram.dtype).eps * jnp.max(jnp.abs(gram))


@program()
def _unformed(kernel: Kernel, observed: Observations, solver: ConjugateGradients) -> IterativeFactor:
    factor = solver.prepare(kernel, observed)
    trace = factor.system.trace
    failures = [(~jnp.isfinite(trace), f"kernel {type(kernel).__name__} has non-finite values on X")]
    return eqx.tree_at(lambda f: f.system.trace, factor, checked_result(trace, failures))


def _by_tiles(kernel: Kernel, observed: Observations, y: Float[Array, "n *C"], solver: Krylov) -> Posterior:
    if observed.root is not None:
        raise ValueError("solver=Krylov() takes no gradient_penalty: use solver=kpoison.ConjugateGradients()")
    X = _checked_on_sample(kernel, observed.points)
    return Posterior(kernel, X, y, None, solver.prepare(kernel, X))


@program()
def _checked_on_sample(kernel: Kernel, X: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """The points; refused, before anything dear is made, where the kernel is none on some of them.

    An indefinite kernel is likely to show on points here and there.
    """
    constant, points = jax.lax.stop_gradient((kernel, X[sample_places(len(X))]))
    gram, other = constant.gram(points, points), constant.gram(points, jnp.array(points, copy=True))
    eigenvalues = eigh(0.5 * (gram + gram.T))[0]
    asymmetry = jnp.max(jnp.abs(other - other.T))
    return checked_result(X, _failures(kernel, eigenvalues[0], eigenvalues[-1], _rounding(gram), asymmetry))


def gram_matrix(kernel: Kernel, X: Float[Array, "n ..."], differences: bool | None = None) -> Float[Array, "n n"]:
    """K(X, X) as `fit` computes it.

    Kernels of finite smoothness feel the digits that a matrix product loses for close pairs; up to 2²⁶ coordinates of
    differences (n²d) their Gram matrix is computed pair by pair.  That of smooth ones of differences is up to 2²², or
    up to 2²⁶ where points (known ones) lie so many length scales apart that the product would cost them digits too.
    """
    differences = _by_differences(kernel, X) if differences is None else differences
    return kernel.pairwise(X, X) if differences else kernel.gram(X, X)


def _by_differences(kernel: Kernel, X: Float[Array, "n ..."]) -> bool:
    coordinates = len(X) * X.size
    if coordinates > _DIFFERENCES_UP_TO:
        return False
    cheap = kernel.translation_invariant and coordinates <= _CHEAP_DIFFERENCES_UP_TO
    if kernel.smoothness != math.inf or cheap:
        return True
    known = all(is_concrete(leaf) for leaf in jax.tree.leaves((kernel, X)))
    return known and float(kernel.rounding_factor(X)) > _FEW_DIGITS


def _no_digit(kernel: Kernel, X: Float[Array, "n ..."]) -> list[tuple[Array, str]]:
    """Why `kernel.gram` would not know close points from each other."""
    lost = jnp.finfo(X.dtype).eps * kernel.rounding_factor(X) > _NO_DIGIT
    message = (
        f"the points of X lie too many length scales apart for {X.dtype}: a matrix product leaves no digit of the "
        f"distances between close ones.  Use float64, or up to n²d = {_DIFFERENCES_UP_TO} outside of jit"
    )
    return [(lost, message)]


@program()
def _factorised(kernel: Kernel, observed: Observations, solver: DenseSolver, differences: bool) -> tuple[Array, Factor]:
    """The Gram matrix, by differences of points or by a matrix product, and its factorisation."""
    X = observed.points
    gram = observations_gram(kernel, observed, gram_matrix(kernel, X, differences))
    constant = jax.lax.stop_gradient(gram)
    asymmetry = jnp.max(jnp.abs(constant - constant.T))
    factor = solver.factorise(constant)
    failures = [] if differences else _no_digit(kernel, X)
    failures += _failures(kernel, *factor.extreme_eigenvalues(), _rounding(constant), asymmetry)
    return checked_result(gram, failures), factor
