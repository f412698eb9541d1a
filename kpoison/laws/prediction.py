"""The ridge predictor, clean or poisoned: at many points, or as a function of one."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._failures import program
from kpoison._typing import Scalar
from kpoison._validation import check_floating, public
from kpoison.laws.inputs import CleanInputs, LawInputs, Probes, trained_on
from kpoison.poison import Poison
from kpoison.ridge import Fitted, KernelExpansion

__all__ = ["Predictor", "predict", "predictor", "predictor_of"]


@public
def predict(
    clean: Fitted, x: Float[ArrayLike, "..."], ridge: Scalar, poison: Poison | None = None
) -> Float[Array, "..."]:
    """The ridge predictor at x: the clean one, or the one trained on clean data and poison.

    Args:
        clean: the fitted clean posterior.
        x: shape (q, d), or (d,) for one point.
        ridge: λ > 0 of the mean loss; ρ = nλ with n = n_c, or n_c + Σm with a poison.
        poison: clones or a cluster; None for the clean predictor.

    Returns:
        Shape (q,), or (q, C) where y had C outputs; without the first axis for one point.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    Note that `predict(..., poison) − predict(...)` is *not* the efficacy: the clean side has ρ = n_c λ there.
    """
    return _prediction(trained_on(clean, ridge, poison), Probes.of(clean, x))


@program
def _prediction(inputs: CleanInputs | LawInputs, probes: Probes) -> Float[Array, "..."]:
    return probes.outputs(jnp.asarray(sum(term.values(probes.points) for term in inputs.terms())))


class Predictor(eqx.Module):
    """A ridge predictor as a function of one point; made by `predictor`.

    Attributes:
        expansion: f(x) = Σ_i k(x, c_i) w_i over the poison's locations and the clean data.
        scalar: whether y had no axis for outputs.
    """

    expansion: KernelExpansion
    scalar: bool = eqx.field(static=True)

    def __call__(self, x: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
        """f(x) at one point: shape () or (C,)."""
        kernel, centres = self.expansion.kernel, self.expansion.centres
        shape = centres.shape[1:]
        x = check_floating("x", x) if shape else kernel.points("x", x, like=centres, single=True)
        if x.shape != shape:
            raise ValueError(f"x must be one point of shape {shape}, got {x.shape}")
        values = self.expansion.values(x[None])[0]
        return values[0] if self.scalar else values


@public
def predictor(clean: Fitted, ridge: Scalar, poison: Poison | None = None) -> Predictor:
    """The ridge predictor as a function of one point, solved once: for `jax.hessian`, `kpoison.curvature`, plots.

    Arguments and errors as in `predict`, with the values of which it agrees.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0, 1.0]]), jnp.array([2.0]))
    >>> jax.hessian(kp.predictor(clean, ridge=1.0))(jnp.array([0.0, 1.0])).tolist()
    [[-1.0, 0.0], [0.0, -1.0]]
    """
    return predictor_of(trained_on(clean, ridge, poison))


@program
def predictor_of(inputs: CleanInputs | LawInputs) -> Predictor:
    """`predictor` of arguments that are checked."""
    *change, f = inputs.terms()
    if change:
        # The last coefficients of both are those of the clean data: one expansion costs half.
        span, coefficients = change[0].span, change[0].coefficients
        f = KernelExpansion(span, coefficients.at[len(coefficients) - len(f.coefficients) :].add(f.coefficients))
    return Predictor(f.expanded(), inputs.clean.y.ndim == 1)
