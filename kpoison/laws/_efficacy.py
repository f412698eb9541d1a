"""What the poison does to predictions: gain (L1) and efficacy (L2, L7)."""

from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import program
from kpoison._typing import Law, Scalar
from kpoison._validation import public
from kpoison.laws.inputs import LawInputs, Probes
from kpoison.poison import Poison
from kpoison.ridge import Fitted

__all__ = ["efficacy", "gain"]


@public
def gain(clean: Fitted, poison: Poison, ridge: Scalar, law: Law = "exact") -> Float[Array, "..."]:
    """Poison gain S(m; λ) = m / (ρ + m k̃(ζ, ζ)), ρ = (n_c + m)λ (L1).

    The poison's dual coefficient is s = S·(y_t − f_c(ζ)).  `law="isolated"` is the paper's m / (nλ + m k(ζ, ζ)).

    Args:
        clean: the fitted clean posterior.
        poison: clones or a cluster.
        ridge: λ > 0 of the mean loss.
        law: "exact" or "isolated".

    Returns:
        A scalar for clones; for a cluster of p locations the gain matrix (ρI + M k̃(Z, Z))⁻¹ M, shape (p, p).  With a
        gradient penalty the part of it that takes values to dual coefficients of values.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[5.0]]), jnp.array([1.0]))
    >>> poison = kp.Poison(jnp.array([0.0]), label=-1.0, count=3)
    >>> round(float(kp.gain(clean, poison, ridge=0.5, law="isolated")), 4)  # 3 / (4·0.5 + 3·1)
    0.6
    """
    return _gain(LawInputs.of(clean, poison, ridge, law))


@program
def _gain(inputs: LawInputs) -> Float[Array, "..."]:
    matrix = inputs.effect().gain
    if inputs.at_one_location:
        return matrix[0, 0]
    number = len(inputs.poison.location)
    return matrix[:number, :number]


@public
def efficacy(
    clean: Fitted, poison: Poison, x: Float[ArrayLike, "..."], ridge: Scalar, law: Law = "exact"
) -> Float[Array, "..."]:
    """Efficacy Δf(x) = f(x) − f_c(x) = k̃(x, Z) s, both sides at ρ = (n_c + Σm)λ (L2; L7 for a cluster).

    Args:
        clean: the fitted clean posterior.
        poison: clones or a cluster.
        x: probes, shape (q, d), or (d,) for one.
        ridge: λ > 0 of the mean loss.
        law: "exact" or "isolated".

    Returns:
        Shape (q,), or (q, C) where y had C outputs; without the first axis for one probe.  In the units of y.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    return _efficacy(LawInputs.of(clean, poison, ridge, law), Probes.of(clean, x))


@program
def _efficacy(inputs: LawInputs, probes: Probes) -> Float[Array, "..."]:
    return probes.outputs(inputs.change().values(probes.points))
