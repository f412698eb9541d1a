"""Sums of a spectral density over the aliases that a grid does not tell apart.

On a rectangular lattice each Gaussian of a mixture factorises over the axes into theta functions, which Jacobi's
identity makes short sums.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison.kernels.stationary import SpectralKernel

__all__ = ["alias_moments"]

_TERMS = 4


def alias_moments(
    kernel: SpectralKernel, omega: Float[Array, " d"], spacing: Float[Array, " d"]
) -> tuple[Float[Array, ""], Float[Array, " d"], Float[Array, "d d"]]:
    """Σ k̂(ω_j) {1, δ_j, δ_j δ_jᵀ} over the aliases ω_j = ω + δ_j on a grid, ω the lowest of them.

    Every term of every sum is positive or small, so that all three are exact to rounding relative to their size.  For
    a Laplace kernel the last sum diverges, and what is returned for it means nothing.
    """
    lengths = kernel.lengths(omega)
    if lengths.ndim == 0:
        return _moments(kernel, lengths, omega, spacing)
    # In units of the length scales, in which the kernel is isotropic.
    moments = _moments(kernel, jnp.ones((), omega.dtype), lengths * omega, spacing / lengths)
    zeroth, first, second = jax.tree.map(lambda moment: jnp.prod(lengths) * moment, moments)
    return zeroth, first / lengths, second / jnp.outer(lengths, lengths)


def _moments(
    kernel: SpectralKernel, length_scale: Float[Array, ""], omega: Float[Array, " d"], spacing: Float[Array, " d"]
) -> tuple[Float[Array, ""], Float[Array, " d"], Float[Array, "d d"]]:
    """Those of one length scale."""
    cutoff = 2 * math.pi / spacing
    log_weights, t = kernel.gaussians(length_scale, omega, jax.lax.stop_gradient(jnp.max(cutoff)))
    zeroth, first, second = jax.vmap(_theta_moments, in_axes=(None, 0, 0), out_axes=1)(t, omega, cutoff)
    weights = jnp.exp(log_weights - t * jnp.sum(omega * omega) + jnp.sum(jnp.log(zeroth), axis=1))
    first, second = first / zeroth, second / zeroth
    mixed = jnp.einsum("i,ia,ib->ab", weights, first, first, precision="highest")
    squares = jnp.einsum("i,ia->a", weights, second, precision="highest")
    diagonal = jnp.eye(len(omega), dtype=bool)
    return (
        jnp.sum(weights),
        jnp.einsum("i,ia->a", weights, first, precision="highest"),
        jnp.where(diagonal, jnp.diag(squares), mixed),
    )


def _theta_moments(
    t: Float[Array, " N"], omega: Float[Array, ""], cutoff: Float[Array, ""]
) -> tuple[Float[Array, " N"], Float[Array, " N"], Float[Array, " N"]]:
    """Σ_j exp(t ω² − t (ω + δ_j)²) {1, δ_j, δ_j²} over δ_j = j·cutoff, for |ω| <= cutoff/2.

    Where the Gaussian is wide the sum is over aliases, where it is narrow over grid points: at the boundary both leave
    out less than exp(−37), and neither cancels.
    """
    # In units of the cutoff.
    t, omega = t * cutoff**2, omega / cutoff
    j = jnp.arange(-_TERMS, _TERMS + 1).astype(t.dtype)[None, :]
    wide = jnp.maximum(t, math.pi)[:, None]
    terms = jnp.exp(-wide * j * (2 * omega + j))
    over_aliases = [jnp.sum(terms, axis=1), jnp.sum(j * terms, axis=1), jnp.sum(j**2 * terms, axis=1)]

    narrow = jnp.minimum(t, math.pi)
    # All but the middle term are 0 below, where they would overflow on the way.
    safe = jnp.maximum(narrow, 0.01)[:, None]
    others = jnp.where(j == 0, 0, jnp.exp(-((math.pi * j) ** 2) / safe))
    slope, phase = math.pi * j / safe, 2 * math.pi * j * omega
    raw = [
        1 + jnp.sum(jnp.cos(phase) * others, axis=1),
        jnp.sum(slope * jnp.sin(phase) * others, axis=1),
        1 / (2 * narrow) + jnp.sum((1 / (2 * safe) - slope**2) * jnp.cos(phase) * others, axis=1),
    ]
    size = jnp.exp(narrow * omega**2) * jnp.sqrt(math.pi / narrow)
    over_points = [
        size * raw[0],
        size * (raw[1] - omega * raw[0]),
        size * (raw[2] - 2 * omega * raw[1] + omega**2 * raw[0]),
    ]
    zeroth, first, second = (
        jnp.where(t >= math.pi, aliases, points) for aliases, points in zip(over_aliases, over_points, strict=True)
    )
    return zeroth, first * cutoff, second * cutoff**2
