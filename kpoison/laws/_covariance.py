"""What is not known of the predictor: the covariance of the process that it is the mean of."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import program
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_flag, public
from kpoison.laws.inputs import CleanInputs, LawInputs, Probes, trained_on
from kpoison.poison import Poison
from kpoison.ridge import Observations, Posterior

__all__ = ["posterior_covariance"]


@public
def posterior_covariance(
    clean: Posterior,
    x: Float[ArrayLike, "..."],
    ridge: Scalar,
    poison: Poison | None = None,
    *,
    diagonal: bool = False,
) -> Float[Array, "..."]:
    """k̃(x, x) of the Gaussian process with prior covariance k whose mean is the predictor; noise not included.

    k̃(x, z) = k(x, z) − k(x, X)(K + ρ diag(1/w))⁻¹k(X, z) at ρ = nλ; the noise of a point of weight 1 has the variance
    ρ.  With a poison it is conditioned on that too: k̃(x, z) − k̃(x, Z) G k̃(Z, z), G the gain (L1, L7).

    Args:
        clean: the fitted clean posterior, trained to the end.
        x: probes, shape (q, d), or (d,) for one.
        ridge: λ > 0 of the mean loss.
        poison: clones or a cluster, then n = Σw + Σm; None for the clean process.
        diagonal: variances only.

    Returns:
        Shape (q, q), or (q,) with `diagonal`; a scalar for one probe.  In the units of k, the same for every output.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for a posterior that is stopped early, which is
            the mean of no conditioned process.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0]]), jnp.array([1.0]))
    >>> round(float(kp.posterior_covariance(clean, jnp.array([0.0]), ridge=0.25)), 3)  # 1 − 1/(1 + 0.25)
    0.2
    """
    inputs, probes = trained_on(clean, ridge, poison), Probes.of(clean, x)
    return _covariance(inputs, probes, check_flag("diagonal", diagonal))


@program
def _covariance(inputs: CleanInputs | LawInputs, probes: Probes, diagonal: bool) -> Float[Array, "..."]:
    points = probes.points
    if isinstance(inputs, CleanInputs):
        reference = inputs.reference("the covariance is that")
        found = reference.variances(points) if diagonal else reference.covariance(points)
    else:
        effect = inputs.effect()
        reference, gain = effect.reference, effect.gain
        cross = reference.covariance(Observations(points), effect.locations)
        if diagonal:
            found = reference.variances(points) - jnp.sum(cross * matrix_product(cross, gain.T), axis=1)
        else:
            found = reference.covariance(points) - matrix_product(cross, matrix_product(gain, cross.T))
    return found.reshape(()) if probes.single else found
