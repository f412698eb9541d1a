"""Predictors along the gradient flow, in closed form (T2): every law, at any time."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from kpoison._failures import checked_result, one_by_one
from kpoison._typing import Scalar
from kpoison._validation import check_real, is_concrete, public
from kpoison.flow.integration import checked_times
from kpoison.ridge import Fitted, StoppedPosterior, check_fitted

__all__ = ["early_stopped", "trajectory"]

_TIMES_AT_ONCE = 16  # of a law that does not say what it needs


@public
def early_stopped(clean: Fitted, time: Scalar) -> StoppedPosterior:
    """The posterior of training stopped at time t: predictions and laws are then those of the gradient flow (T2).

    The flow ḟ = −∇[(1/2n) Σ (f(x_i) − y_i)² + (γ/2n) Σ ‖∇f(x_i)‖²_M + (λ/2) ‖f‖²] in the kernel's space starts from
    f = 0; the mode of the observations' Gram matrix with eigenvalue μ contracts at the rate μ/n + λ.  With a poison n
    is n_c + Σm, and the clean side of an efficacy is the flow with that n and without the poison.

    Args:
        clean: the fitted posterior, with or without a gradient penalty.
        time: t >= 0, in units of 1/k for the mean loss; ∞ is the ridge predictor.  May be traced.

    Returns:
        A posterior for `predict`, `predictor`, `efficacy`, `efficacy_gradient`, `spike`, `spike_components`, thresholds
        and sweeps; λ = 0 is then allowed.  `gain` and what is made of it refuse it: along the flow the poison's
        coefficient is no multiple of y_t − f_c(ζ).

    Raises:
        TypeError, ValueError: for a wrong `clean` or a time < 0.

    Accuracy: 2e-14 of the size of the predictor in float64 and 1e-7 in float32, times the condition number of
    K + n(λ + 1/t); see `kpoison.ridge.early_stopping`.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0]]), jnp.array([1.0]))
    >>> stopped = kp.flow.early_stopped(clean, 2.0)
    >>> round(float(kp.predict(stopped, jnp.array([0.0]), ridge=0.0)), 4)  # 1 − e^(−2)
    0.8647
    """
    clean = check_fitted("clean", clean)
    check_real("time", time)
    if np.shape(time) != ():
        raise ValueError(f"time must be a single number, got shape {np.shape(time)}; see trajectory for several")
    time = jnp.asarray(time, clean.X.dtype)
    got = f", got {time}" if is_concrete(time) else ""
    return StoppedPosterior(clean.posterior, checked_result(time, [(~(time >= 0), f"time must be >= 0{got}")]))


@public
def trajectory(
    law: Callable[..., Any], clean: Fitted, times: Float[ArrayLike, " T"], *arguments: Any, **keywords: Any
) -> Any:
    """`law(early_stopped(clean, t), *arguments, **keywords)` at every time, in one program.

    Args:
        law: such as `kpoison.efficacy`, `kpoison.spike`, `kpoison.predict`, or any traceable function of a posterior.
        clean: the fitted posterior.
        times: t >= 0, strictly rising, shape (T,); ∞ allowed where λ > 0.
        *arguments: what the law takes after the posterior.
        **keywords: the same, by name.

    Returns:
        What the law returns, with a first axis for the times.

    Raises:
        TypeError, ValueError: for wrong times, and as the law.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0]]), jnp.array([1.0]))
    >>> poison = kp.Poison(jnp.array([1.0]), label=-1.0, count=1)
    >>> kp.flow.trajectory(kp.efficacy, clean, jnp.array([0.0, 1.0, 10.0]), poison, jnp.array([1.0]), 1e-3).round(3)
    Array([ 0.   , -0.417, -1.458], dtype=float64)
    """
    clean = check_fitted("clean", clean)
    times = checked_times("times", times, clean.X.dtype)

    def at(time):
        return law(early_stopped(clean, time), *arguments, **keywords)

    return one_by_one(at, times, batch_size=min(len(times), _TIMES_AT_ONCE))
