"""How far trained networks scatter by how they were initialised: the covariance of an infinitely wide ensemble."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import program
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_flag, public
from kpoison.kernels.base import Kernel, check_kernel
from kpoison.laws.inputs import CleanInputs, Probes
from kpoison.ridge import Fitted, Observations
from kpoison.ridge.observations import covariance

__all__ = ["ensemble_covariance"]


@public
def ensemble_covariance(
    trained: Fitted, initial: Kernel, x: Float[ArrayLike, "..."], ridge: Scalar, *, diagonal: bool = False
) -> Float[Array, "..."]:
    """Covariance over initialisations of wide networks that are trained from where they start.

    A network that starts at a draw f₀ of the process with kernel k₀ and is trained in its tangent kernel ends at
    f₀ + F(y − f₀(X)), F the linear map from targets to predictions.  The mean of an ensemble is F y, `predict` of
    `trained`; its covariance is that of f₀ − F f₀(X), k₀ − F k₀(X, ·) − k₀(·, X)Fᵀ + F k₀(X, X)Fᵀ: not the posterior
    covariance of either kernel.  A gradient penalty presses the slopes of f₀ too, and weights, an intercept and a
    time enter by F.

    Args:
        trained: the predictor fitted with the tangent kernel, `NTK`; of a time `early_stopped`, with λ = 0 too.
        initial: k₀, `NNGP` of the same architecture.
        x: probes, shape (q, d), or (d,) for one.
        ridge: λ of the mean loss and of (λ/2)‖θ − θ₀‖².
        diagonal: variances only.

    Returns:
        Shape (q, q), or (q,) with `diagonal`; a scalar for one probe.  In the units of k₀, the same for every output.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for a posterior prepared for one poison.

    Source: Lee et al., "Wide neural networks of any depth evolve as linear models under gradient descent" (2019), eq.
    16, there with λ = 0; with a ridge every mode also decays at the rate λ towards where it started (T2).

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> trained = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0]]), jnp.array([1.0]))
    >>> stopped = kp.flow.early_stopped(trained, 1.0)
    >>> scatter = kp.flow.ensemble_covariance(stopped, kp.kernels.RBF(1.0), jnp.array([0.0]), ridge=0.0)
    >>> round(float(scatter), 4)  # e^(−2)
    0.1353
    """
    inputs, probes = CleanInputs.of(trained, ridge), Probes.of(trained, x)
    if not trained.factor.abilities.any_right_hand_side:
        raise ValueError("trained must not be prepared for one poison: give the posterior that it was made from")
    check_kernel("initial", initial)
    if trained.observations.slopes and initial.smoothness < 2:
        raise ValueError(
            f"initial must be twice differentiable where slopes are penalised, got smoothness {initial.smoothness}"
        )
    return _scatter(inputs, initial, probes, check_flag("diagonal", diagonal))


@program
def _scatter(inputs: CleanInputs, initial: Kernel, probes: Probes, diagonal: bool) -> Float[Array, "..."]:
    observed, points = inputs.clean.observations, Observations(probes.points)

    def predictions(reference: Any) -> Array:
        """F at one ρ, transposed; the constant's target is 0."""
        return reference.solve(reference.posterior.cross(points))[: observed.number]

    F = inputs.linear(predictions).T
    start = covariance(initial, points, observed)
    spread = matrix_product(F, covariance(initial, observed, observed))
    if diagonal:
        found = initial.diagonal(probes.points) + jnp.sum((spread - 2 * start) * F, axis=1)
    else:
        pulled = matrix_product(start, F.T)
        found = covariance(initial, points, points) - pulled - pulled.T + matrix_product(spread, F.T)
    return found.reshape(()) if probes.single else found
