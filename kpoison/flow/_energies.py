"""What training trades off: fit and norm against the energy of the input gradients (T3, T4)."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import program
from kpoison._typing import Scalar
from kpoison._validation import public
from kpoison.laws import Predictor
from kpoison.laws.inputs import CleanInputs, LawInputs, trained_on
from kpoison.laws.prediction import predictor_of
from kpoison.poison import Poison
from kpoison.ridge import Fitted
from kpoison.ridge.metric import checked_metric

__all__ = ["Energies", "energies", "energies_of"]


class Energies(eqx.Module):
    """The parts of the training problem (1/2) [fit + λ·norm + γ·penalty], each a number.

    Attributes:
        fit: (1/n) Σ ‖f(x_i) − y_i‖² over the training points, m clones counted m times, in the units of y².
        norm: ‖f‖²_H, in y²/k.
        penalty: B(f) = (1/n) Σ ‖∇f(x_i)‖²_M, the trace of the input Fisher matrix over the training points (T3).
    """

    fit: Float[Array, ""]
    norm: Float[Array, ""]
    penalty: Float[Array, ""]

    def unpenalised(self, ridge: Scalar) -> Float[Array, ""]:
        """A(f) = fit + λ·norm, what the penalty is paid with: at the solution it never falls as γ rises (T4)."""
        return self.fit + ridge * self.norm


@public
def energies(
    clean: Fitted,
    ridge: Scalar,
    poison: Poison | None = None,
    *,
    metric: Float[ArrayLike, "D D"] | None = None,
) -> Energies:
    """Fit, norm and penalty of the predictor that is trained on the clean data, or on clean data and poison.

    Args:
        clean: the fitted posterior, with or without a gradient penalty, stopped early or not.
        ridge: λ of the mean loss, as in `kpoison.predict`.
        poison: clones or a cluster; None for the clean predictor.
        metric: M of the energy B, shape (D, D), symmetric and positive semi-definite; by default the identity.  The
            posterior does not keep the metric it was fitted with.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0]]), jnp.array([2.0]))
    >>> found = kp.flow.energies(clean, ridge=1.0)  # f = k(·, 0)
    >>> [round(float(part), 6) for part in (found.fit, found.norm, found.penalty)]
    [1.0, 1.0, 0.0]
    """
    inputs = trained_on(clean, ridge, poison)
    return _energies(inputs, checked_metric(metric, math.prod(clean.X.shape[1:]), clean.X.dtype))


@program
def _energies(inputs: CleanInputs | LawInputs, metric: Float[ArrayLike, "D D"] | None) -> Energies:
    return energies_of(predictor_of(inputs), inputs, metric)


def energies_of(f: Predictor, inputs: CleanInputs | LawInputs, metric: Float[ArrayLike, "D D"] | None) -> Energies:
    """`energies` of a predictor that is at hand."""
    expansion, (_, targets, weights) = f.expansion, inputs.training_set()
    share = weights / jnp.sum(weights)
    # The centres are the training points; ⟨f, k(·, c)⟩ = f(c) and ⟨f, ∂k(·, c)⟩ = ∂f(c).
    values = expansion.values(expansion.centres)
    gradients = expansion.gradients(expansion.centres).reshape(*values.shape, -1)
    norm = jnp.sum(expansion.all_weights() * values) + jnp.sum(expansion.slopes() * gradients)
    lengths = gradients if metric is None else jnp.einsum("icd,de->ice", gradients, metric, precision="highest")
    return Energies(
        jnp.sum(share[:, None] * (values - targets) ** 2),
        norm,
        jnp.sum(share * jnp.sum(lengths * gradients, axis=(1, 2))),
    )
