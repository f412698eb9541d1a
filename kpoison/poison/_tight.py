"""How nearly the poisons are clones, as a kernel sees them: the paper's assumption of a tight cluster, measured."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._failures import checked_result
from kpoison._linear_algebra import leading_eigenpair, matrix_product
from kpoison.kernels.base import Kernel, check_kernel
from kpoison.poison.clones import Poison, check_poison

__all__ = ["Tightness", "tightness"]


class Tightness(eqx.Module):
    """Two shares of the trace of the poison block K_PP, both 1 for clones and 1/m for m poisons that do not couple.

    Attributes:
        mean: 1ᵀK_PP1 / (m tr K_PP), the share along equal coefficients, by which K_PP ≈ k_ζ 11ᵀ holds.
        leading: λ₁(K_PP) / tr K_PP, the largest share along any coefficients: at least `mean`.
    """

    mean: Float[Array, ""]
    leading: Float[Array, ""]


def tightness(kernel: Kernel, poison: Poison) -> Tightness:
    """How tight a cluster of poisons is (Assumption 3.1 of arXiv 2602.00822).

    Args:
        kernel: of the predictor.
        poison: clones or a cluster; a count is a multiplicity, so that m is their sum and a point of count c is c rows
            of K_PP.

    Differentiable in kernel, locations and counts, where the leading eigenvalue is simple; elsewhere a derivative of
    `leading` is refused.

    Raises:
        TypeError: for arguments that are no kernel or poison.
        ValueError: for locations that are no points of the kernel, counts of another shape or that add up to 0,
            and where k(ζ, ζ) is 0 at all locations (under `jit`, at run time).

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> found = tightness(kp.kernels.Linear(), kp.Poison(jnp.eye(2), 1.0, jnp.array([3.0, 1.0])))
    >>> float(found.mean), float(found.leading.round(6))
    (0.625, 0.75)
    """
    check_kernel("kernel", kernel)
    location: Any = check_poison(poison).location
    points = kernel.points("poison.location", location, single=True)
    points = points[None] if points.ndim == kernel.point_ndim else points
    if poison.count.shape not in ((), (len(points),)):
        raise ValueError(f"poison.count must have shape () or ({len(points)},), got {poison.count.shape}")
    counts = jnp.broadcast_to(jnp.asarray(poison.count, points.dtype), (len(points),))
    block, trace = kernel.gram(points, points), jnp.sum(counts * kernel.diagonal(points))
    number = jnp.sum(counts)
    failures = [
        (number <= 0, "poison.count must add up to more than 0"),
        ((number > 0) & (trace <= 0), "poison.location must hold a point with k(ζ, ζ) > 0"),
    ]
    trace = checked_result(jnp.where(trace > 0, trace, 1), failures)
    mean = matrix_product(counts[None], matrix_product(block, counts[:, None]))[0, 0] / jnp.where(number > 0, number, 1)
    return Tightness(mean / trace, leading_eigenpair(block, counts)[0] / trace)
