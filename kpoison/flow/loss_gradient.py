"""The paper's own penalty, on the input gradient of the loss: its flow, integrated numerically (T2)."""

import functools
from typing import Any, Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_integer, check_name, check_number, check_positive, is_concrete, public
from kpoison.flow.integration import checked_times, complete_only
from kpoison.kernels.base import Kernel
from kpoison.laws import Predictor
from kpoison.laws.inputs import trained_on
from kpoison.poison import Poison
from kpoison.ridge import KernelExpansion, Posterior, check_plain, span_of
from kpoison.ridge.observations import Observations, covariance, gram
from kpoison.ridge.operator import gram_operator

__all__ = ["LossGradientFlow", "loss_gradient_flow"]

Method: TypeAlias = Literal["auto", "explicit", "implicit"]
"""Tsitouras' explicit pair 5(4), Kværnø's implicit one 5(4), or the one of the two that the stiffness asks for."""

# Explicit steps are bounded by about 3/rate; an implicit one costs about as much as so many, by its factorisations.
_EXPLICIT_UP_TO = 3_000


class LossGradientFlow(eqx.Module):
    """The predictor at T times of the flow with the loss-gradient penalty.

    Attributes:
        kernel: k.
        observations: values and slopes of the training points, the poison's first.
        coefficients: dual coefficients, shape (T, N, C); not finite at times that the solver has not reached.
        times: t, shape (T,).
        steps: steps of the solver, rejected ones included.
        completed: whether it has reached the last time.
    """

    kernel: Kernel
    observations: Observations
    coefficients: Float[Array, "T N C"]
    times: Float[Array, " T"]
    steps: Int[Array, ""]
    completed: Bool[Array, ""]
    _scalar: bool = eqx.field(static=True)

    def predictor(self, index: int | Int[Array, ""]) -> Predictor:
        """f at one of the times, as a function of one point."""
        span = span_of(self.kernel, self.observations)
        return Predictor(KernelExpansion(span, self.coefficients[index]), self._scalar)

    def __call__(self, x: Float[ArrayLike, "q ..."]) -> Float[Array, "T q ..."]:
        """f at q points and every time: shape (T, q), or (T, q, C) where y had an axis for outputs."""

        def at(index):
            values = self.predictor(index).expansion.values(jnp.asarray(x))
            return values[:, 0] if self._scalar else values

        return jax.lax.map(at, jnp.arange(len(self.times)))


@public
def loss_gradient_flow(
    clean: Posterior,
    ridge: Scalar,
    times: Float[ArrayLike, " T"],
    poison: Poison | None = None,
    *,
    total: Scalar | None = None,
    tolerance: float = 1e-8,
    max_steps: int = 20_000,
    method: Method = "auto",
    throw: bool = True,
) -> LossGradientFlow:
    """Gradient flow with the paper's penalty (γ/2n) Σ ‖∇_x ℓ_i‖²_M, ℓ_i = ½‖f(x_i) − y_i‖², from f = 0.

    ‖∇_x ℓ_i‖² = ‖(f(x_i) − y_i)ᵀ∇f(x_i)‖² is not quadratic in f, so the flow in the kernel's space is integrated with
    diffrax.  It fades as the data are fitted.  `early_stopped` is its closed form with the residuals replaced by 1: for
    labels ±1 those at the start.

    Args:
        clean: a posterior fitted with a gradient penalty, of which γ and M are taken.
        ridge: λ > 0 of the mean loss.
        times: t >= 0, strictly rising, finite, shape (T,).
        poison: clones or a cluster, m times in the training set; None for the clean predictor.
        total: n of the means, by default n_c + Σm; with that of a poison and without it, the reference of an efficacy.
        tolerance: largest error of a step, relative to each coefficient and to the largest coefficient y/n.
        max_steps: a flow is given up after so many steps, rejected ones included.
        method: "explicit", "implicit" (for late times and large ratios of eigenvalues; factorises matrices of n(1 + r)
            rows and outputs), or "auto"; a posterior of `ConjugateGradients` is integrated explicitly.
        throw: raise where the solver has stopped before the last time; otherwise see `completed` on the result.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
        IncompleteFlowError: the solver has stopped early (under a trace: `equinox.error_if`).
    """
    inputs = trained_on(clean, ridge, poison)
    if not clean.observations.slopes:
        raise ValueError("clean must be fitted with a gradient penalty, whose γ and metric the flow uses, got none")
    check_plain("clean", clean, weights=True)
    if not clean.ended:
        raise ValueError("clean must not be stopped early: the times of this flow are given by times")
    if total is not None:
        check_positive("total", total)
    tolerance, max_steps = check_number("tolerance", tolerance), check_integer("max_steps", max_steps, 1)
    method, dtype = check_name("method", method, get_args(Method)), clean.X.dtype
    times = checked_times("times", times, dtype, finite=True)
    points, targets, weights = inputs.training_set()
    n = jnp.sum(weights) if total is None else jnp.asarray(total, dtype)
    rate = jnp.asarray(inputs.ridge, dtype)
    implicit = method == "implicit" or (method == "auto" and _is_stiff(clean, rate, times, weights, n))
    result = _integrate(
        clean,
        clean.observations.at(points),
        targets,
        weights / n,
        rate,
        times,
        jnp.asarray(tolerance, dtype),
        max_steps,
        implicit,
    )
    return complete_only(result, max_steps) if throw else result


def _is_stiff(clean: Posterior, ridge: Array, times: Array, weights: Array, n: Array) -> bool:
    """Whether explicit steps would be many, or cannot be known to be few, and implicit ones are possible."""
    if not clean.factor.abilities.factorised:
        return False
    largest = clean.factor.bounds()[1]
    if not all(is_concrete(value) for value in (largest, ridge, times, weights, n)):
        return True
    # The poison adds at most m k(ζ, ζ), which is no more than m times the largest entry of the diagonal.
    diagonal = float(jnp.max(clean.kernel.diagonal(clean.X)))
    rate = (float(largest) + float(jnp.sum(weights)) * diagonal) / float(n) + float(ridge)
    return rate * float(times[-1]) > _EXPLICIT_UP_TO


@eqx.filter_jit
def _integrate(
    clean: Posterior,
    observations: Observations,
    targets: Array,
    share: Array,
    ridge: Array,
    times: Array,
    tolerance: Array,
    max_steps: int,
    implicit: bool,
) -> LossGradientFlow:
    import diffrax

    if not clean.factor.abilities.factorised:
        see = gram_operator(clean.kernel, observations).product
    else:
        points = Observations(observations.points)
        matrix = gram(clean.kernel, observations, covariance(clean.kernel, points, points))
        see = functools.partial(matrix_product, matrix)
    number, outputs = targets.shape

    def velocity(t: Any, coefficients: Array, arguments: Any) -> Array:
        seen = see(coefficients)
        residuals = seen[:number] - targets
        slopes = seen[number:].reshape(number, -1, outputs)
        # √γ R ∇ℓ_i, and the derivatives of its square in values and slopes.
        loss_slopes = jnp.einsum("irc,ic->ir", slopes, residuals, precision="highest")
        on_values = residuals + jnp.einsum("irc,ir->ic", slopes, loss_slopes, precision="highest")
        on_slopes = loss_slopes[:, :, None] * residuals[:, None, :]
        pull = jnp.concatenate([share[:, None] * on_values, (share[:, None, None] * on_slopes).reshape(-1, outputs)])
        return -pull - ridge * coefficients

    scale = jnp.max(jnp.abs(share[:, None] * targets))
    controller = diffrax.PIDController(
        rtol=tolerance, atol=tolerance * jnp.where(scale > 0, scale, 1), pcoeff=0.3, icoeff=0.4
    )
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Kvaerno5() if implicit else diffrax.Tsit5(),
        t0=jnp.zeros((), times.dtype),
        t1=jnp.maximum(times[-1], jnp.finfo(times.dtype).tiny),
        dt0=None,
        y0=jnp.zeros((observations.number, outputs), targets.dtype),
        saveat=diffrax.SaveAt(ts=times),
        # Interpolation between steps would be less exact than the steps.
        stepsize_controller=diffrax.ClipStepSizeController(controller, step_ts=times),
        max_steps=max_steps,
        throw=False,
    )
    completed = solution.result == diffrax.RESULTS.successful
    assert solution.ys is not None
    return LossGradientFlow(
        clean.kernel, observations, solution.ys, times, solution.stats["num_steps"], completed, clean.y.ndim == 1
    )
