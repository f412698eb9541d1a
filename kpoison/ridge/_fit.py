"""Fitting: the Gram matrix of the clean data, with or without a gradient penalty, prepared once for every ridge."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._failures import Failure, checked_result
from kpoison._typing import Scalar
from kpoison._validation import (
    check_finite,
    check_flag,
    check_positive,
    check_real,
    is_concrete,
    is_text,
    plain_array,
    public,
)
from kpoison.kernels.base import Kernel, check_kernel, with_array_parameters
from kpoison.ridge.metric import checked_metric, slope_operator
from kpoison.ridge.observations import Observations
from kpoison.ridge.posterior import Posterior
from kpoison.ridge.solvers import Solver, Spectral, choose_solver
from kpoison.ridge.solvers.preparation import prepared

__all__ = ["TrainingSet", "checked_targets", "fit", "fit_observations"]


@public
def fit(
    kernel: Kernel,
    X: Num[ArrayLike, "n ..."],
    y: Num[ArrayLike, "n *C"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
    intercept: bool = False,
    solver: Solver | None = None,
    gradient_penalty: Scalar | None = None,
    metric: Float[ArrayLike, "..."] | None = None,
    verbose: bool = False,
) -> Posterior:
    """Fit a kernel ridge predictor to the clean data, once, for every ridge.

    Args:
        kernel: k.
        X: clean inputs, shape (n_c, d), float32 or float64; duplicates and close pairs are welcome (for their exactness
            in large data sets see `Kernel.__call__`).  Indices, shape (n_c,), for `kpoison.kernels.Precomputed`.
        y: clean targets, shape (n_c,) or (n_c, C); class labels are encoded first, see `kpoison.signed` (two classes)
            and `kpoison.one_hot` (several).
        weights: w >= 0, shape (n_c,): multiplicities, as if each point were there so often.  n is then Σw + Σm in
            ρ = nλ; derivatives exist down to w = 0, where they are a point's influence on a fit without it.
        intercept: whether a constant is fitted beside the kernel, free of penalty: exact, not the limit of a large one.
        solver: by default what `choose_solver` says of the number of points and the machine: `Spectral()` or
            `Tridiagonal()` (one eigendecomposition, or the first half of one, for every ridge), of more points than
            can be factorised `Krylov()`; beside these `Cholesky()` (factorises at each ridge), and
            `ConjugateGradients()` (for a gradient penalty in many dimensions; `gain` is not available then).
        gradient_penalty: γ >= 0 of (γ/2n) Σ_i ‖∇f(x_i)‖²_M beside the fit and the ridge (T1); n_c(1 + r) numbers are
            then factorised, r the rank of M.  Poisons are penalised too.  None or 0 is the ordinary posterior.
            Differentiable where it is > 0.
        metric: M, symmetric and positive semi-definite, shape (D, D); by default the identity.  Differentiable where it
            is positive definite.
        verbose: print the solver that was chosen.

    Returns:
        The posterior, in the dtype of `X`.

    Warns:
        UserWarning: where `y` are integers 0..C−1, as class labels are.

    Raises:
        TypeError: for a wrong dtype, kernel or solver, and for targets that are text or booleans.
        ValueError: for mismatched shapes, empty or non-finite data, for a kernel that is not symmetric and positive
            semi-definite on `X`, or on 512 points of it where more are not looked at (`Krylov`; of 2,000 points and
            more all solvers for symmetry, and `Cholesky` for both); for γ < 0, a metric that is none, a kernel without
            the derivatives that the penalty takes, or more than 12,000 values and slopes for a solver that factorises;
            for weights that are negative, not finite or all 0.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> X = jnp.array([[0.0], [1.0], [2.0]])
    >>> clean = kp.fit(kp.kernels.RBF(length_scale=1.0), X, jnp.array([0.0, 1.0, 0.0]))
    >>> round(float(kp.predict(clean, jnp.array([1.0]), ridge=1e-4)), 2)
    1.0
    """
    if solver is not None and not isinstance(solver, Solver):
        raise TypeError(f"solver must be a solver such as kpoison.Spectral(), got {type(solver).__name__}")
    kernel, observed, y = TrainingSet.of(kernel, X, y, weights, intercept, gradient_penalty, metric)
    if solver is None:
        solver = Spectral() if observed.slopes else choose_solver(observed.number, observed.points.dtype)
    if verbose:
        print(f"kpoison.fit: {solver} for {observed.number:,} numbers in {observed.points.dtype}")
    return fit_observations(kernel, observed, y, solver)


class TrainingSet(NamedTuple):
    """What is to be fitted, checked.

    Attributes:
        kernel: k.
        observations: values at X with their weights, slopes where they are penalised, and the constant.
        y: shape (n,) or (n, C), in the dtype of X.
    """

    kernel: Kernel
    observations: Observations
    y: Float[Array, "n *C"]

    @classmethod
    def of(
        cls,
        kernel: Any,
        X: Any,
        y: Any,
        weights: Any = None,
        intercept: Any = False,
        gradient_penalty: Any = None,
        metric: Any = None,
    ) -> "TrainingSet":
        """The arguments of `fit`.

        Raises:
            TypeError, ValueError: naming the argument that does not fit.
        """
        check_kernel("kernel", kernel)
        X = kernel.points("X", X)
        y = checked_targets("y", y, "X", X)
        gradient_penalty = 0.0 if gradient_penalty is None else gradient_penalty
        check_positive("gradient_penalty", gradient_penalty, zero=True)
        dimension = math.prod(X.shape[1:])
        operator = slope_operator(gradient_penalty, checked_metric(metric, dimension, X.dtype), dimension, X.dtype)
        observed = Observations(X, operator, constant=check_flag("intercept", intercept))
        return cls(kernel, observed if weights is None else observed.with_weights(_checked_weights(weights, X)), y)


def checked_targets(name: str, y: Any, of: str, X: Float[Array, "n ..."]) -> Float[Array, "n *C"]:
    """Targets of points, in their dtype."""
    _look_for_classes(name, y)
    check_real(name, y)
    y = jnp.asarray(y, X.dtype)
    if y.ndim not in (1, 2) or len(y) != len(X) or y.size == 0:
        raise ValueError(
            f"{name} must have shape ({len(X)},) or ({len(X)}, C), as {of} has {len(X)} points, got {y.shape}"
        )
    check_finite(name, y)
    return y


def _look_for_classes(name: str, y: Any) -> None:
    """Refuse text and booleans, and warn of numbers 0..C−1, as whose targets class 2 would be twice class 1."""
    given = plain_array(name, y)
    encoded = "encode class labels by kpoison.signed (two classes) or kpoison.one_hot (several)"
    if given.dtype == bool or (isinstance(given, np.ndarray) and given.size and is_text(given)):
        raise TypeError(f"{name} must be real, got {type(y).__name__} of dtype {given.dtype}: {encoded}")
    if given.ndim == 1 and given.dtype.kind in "iu" and is_concrete(given):
        found = np.unique(np.asarray(given))
        # Where no number occurs twice they are an order, not classes.
        if 2 <= len(found) < len(given) and np.array_equal(found, np.arange(len(found))):
            message = f"{name} holds the integers 0 to {len(found) - 1}, which are fitted as they are; {encoded}"
            checked_result(None, [Failure(True, message, kind=UserWarning)])


def _checked_weights(weights: Any, X: Float[Array, "n ..."]) -> Float[Array, " n"]:
    check_real("weights", weights)
    weights = jnp.asarray(weights, X.dtype)
    if weights.shape != (len(X),):
        raise ValueError(f"weights must have shape ({len(X)},), one for each point of X, got {weights.shape}")
    check_positive("weights", weights, zero=True, scalar=False)
    none = (~(jnp.sum(weights) > 0), "weights must not all be 0")
    wrong = (~jnp.all((weights >= 0) & jnp.isfinite(weights)), "weights must be finite and >= 0")
    return checked_result(weights, [wrong, none])


def fit_observations(kernel: Kernel, observed: Observations, y: Float[Array, "n *C"], solver: Solver) -> Posterior:
    """`fit` without its checks of arrays."""
    if observed.slopes and kernel.smoothness < 2:
        raise ValueError(
            f"kernel {type(kernel).__name__} (smoothness {kernel.smoothness}) must be twice continuously "
            "differentiable at coincident points for a gradient penalty: the variance of its slopes does not exist "
            "there.  Use RBF, Matern32, Matern52, RationalQuadratic or an NTK of erf instead"
        )
    kernel = with_array_parameters(kernel, observed.points.dtype)
    return Posterior(kernel, observed, y, prepared(solver, kernel, observed))
