"""How much of a direction lies in the span of leading eigenvectors, and how much would by chance."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import checked_result
from kpoison._linear_algebra import matrix_product
from kpoison._validation import check_finite, check_floating, is_concrete, public

__all__ = ["Overlap", "overlap"]


class Overlap(eqx.Module):
    """Squared cosines between eigenvectors and a direction u.

    Attributes:
        squared_cosines: cos²(v_i, u), shape (k,).
        summed: of the first i, the share of u that lies in their span, shape (k,).
        by_chance: what it is in the mean for a direction drawn uniformly, i/D, shape (k,).
        p_values: the probability that it is as large for such a direction: Σ cos² is then Beta(i/2, (D − i)/2)
            distributed, shape (k,).  Of a trigger on images it is a lower bound: clean eigenvectors and triggers alike
            prefer some pixels, for which the clean run's overlap is the null.
    """

    squared_cosines: Float[Array, " k"]
    summed: Float[Array, " k"]
    by_chance: Float[Array, " k"]
    p_values: Float[Array, " k"]


@public
def overlap(vectors: Float[ArrayLike, "k D"], direction: Float[ArrayLike, "..."]) -> Overlap:
    """The overlap of leading eigenvectors with a trigger's direction: each one's, and that of the first so many (R2).

    Args:
        vectors: orthonormal rows, such as `top_eigenpairs(...).vectors`, shape (k, D).
        direction: u, of any length but 0, shape (D,) or that of a point.

    Raises:
        TypeError: for arguments that are not floating-point arrays.
        ValueError: for shapes that do not fit, numbers that are not finite, rows that are not orthonormal, u = 0 (under
            `jit`, at run time).

    >>> import jax.numpy as jnp
    >>> found = overlap(jnp.eye(4)[:2], jnp.array([3.0, 4.0, 0.0, 0.0]))
    >>> found.squared_cosines.round(2).tolist(), found.by_chance.tolist()
    ([0.36, 0.64], [0.25, 0.5])
    """
    V, u = check_floating("vectors", vectors), check_floating("direction", direction)
    if V.ndim != 2 or V.size == 0 or len(V) > V.shape[1]:
        raise ValueError(f"vectors must have shape (k, D), k from 1 to D, got {V.shape}")
    if u.size != V.shape[1]:
        raise ValueError(f"direction must have the {V.shape[1]} coordinates of a point, got shape {u.shape}")
    check_finite("vectors", V)
    check_finite("direction", u)
    k, D = V.shape
    off = jnp.max(jnp.abs(matrix_product(V, V.T) - jnp.eye(k, dtype=V.dtype)))
    found = f", got V Vᵀ up to {float(off):.1e} off the identity" if is_concrete(off) else ""
    u = u.astype(V.dtype).ravel()
    largest = jnp.max(jnp.abs(u))
    # Divided by the largest entry first: the squares of a faint trigger would underflow.
    u = u / jnp.where(largest == 0, 1, largest)
    squares = matrix_product(V, u[:, None])[:, 0] ** 2 / jnp.where(largest == 0, 1, jnp.sum(u * u))
    squares = checked_result(
        squares,
        [
            (off > jnp.finfo(V.dtype).eps ** 0.5, f"vectors must be orthonormal rows{found}"),
            (largest == 0, "direction must not be 0"),
        ],
    )
    summed, number = jnp.minimum(jnp.cumsum(squares), 1), jnp.arange(1, k + 1, dtype=V.dtype)
    beyond = jnp.maximum(D - number, 0.5)  # a span of all D holds every direction
    chance = jnp.where(number < D, jax.scipy.special.betainc(beyond / 2, number / 2, 1 - summed), 1)
    return Overlap(squares, summed, number / D, chance)
