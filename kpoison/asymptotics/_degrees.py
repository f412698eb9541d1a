"""What redrawing the training set does to a kernel ridge predictor, in traces: tr H and tr H² of its hat matrix."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._failures import silently
from kpoison.laws._capacity import degrees_of
from kpoison.laws.inputs import CleanInputs, LawInputs

__all__ = ["degrees_and_squares"]


def degrees_and_squares(
    inputs: CleanInputs | LawInputs, ridge: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """tr H and tr H² of the map from labels to fitted values at λ: df2 = df1 + λ df1′(λ)."""

    def degrees(ridge: Array) -> Array:
        return degrees_of(inputs._replace(ridge=ridge))

    with silently():  # what fails at this ridge is told where the predictor is made
        df1, slope = jax.jvp(degrees, (ridge,), (jnp.ones_like(ridge),))
    return df1, df1 + ridge * slope
