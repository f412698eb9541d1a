"""Predictions of points that were left out, without a refit."""

from jaxtyping import Array, ArrayLike, Float, Int

from kpoison._typing import Scalar
from kpoison._validation import public
from kpoison.laws.inputs import CleanInputs
from kpoison.ridge import Posterior

__all__ = ["leave_one_out", "left_out_residuals"]


@public
def leave_one_out(
    clean: Posterior, ridge: Scalar, *, groups: Int[ArrayLike, " n"] | None = None
) -> Float[Array, "n *C"]:
    """The prediction at each training point of the predictor that was fitted without it, at the same ρ: no refit.

    f₋ᵢ(x_i) = y_i − (A⁻¹y)_i/(A⁻¹)_ii, A = K + ρ diag(1/w) at ρ = nλ of all points; in the mean loss without point i
    its ridge is λn/(n − w_i).  A point is left out with its whole weight, with its slopes where they are penalised, and
    the intercept is fitted anew.  Where points are left out together it is y_g − ((A⁻¹)_gg)⁻¹(A⁻¹y)_g.

    Args:
        clean: the fitted clean posterior, trained to the end.
        ridge: λ > 0 of the mean loss of all points.
        groups: a label for each point, any integers or strings, of those that are left out together: copies of an
            image, say, which would tell each other's labels.  By default each point alone.

    Returns:
        In the shape and units of y.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for a posterior that is stopped early or prepared
            for one poison.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> apart = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [0.0], [50.0]]), jnp.array([1.0, 1.0, -1.0]))
    >>> kp.leave_one_out(apart, 0.1).round(3).tolist()  # the copy tells, 1/(1 + 0.3)
    [0.769, 0.769, 0.0]
    >>> kp.leave_one_out(apart, 0.1, groups=[0, 0, 1]).round(3).tolist()
    [0.0, 0.0, 0.0]
    """
    inputs = CleanInputs.of(clean, ridge)
    return clean.y - left_out_residuals(inputs, groups).reshape(clean.y.shape)
