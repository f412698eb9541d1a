"""Matérn kernels of half-integer order: a polynomial in r times exp(−r)."""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison.kernels._cusp import cusp_sqrt
from kpoison.kernels._spectra import Gaussians, matern_density, matern_gaussians
from kpoison.kernels.stationary import SpectralKernel

__all__ = ["Laplace", "Matern", "Matern32", "Matern52"]

_FAR = 1e8  # u = t² from which on e^(−t) is 0 in every dtype; t · e^(−t) would be ∞ · 0 where u overflows


# In u = t² the Matérn functions form a ladder, each the derivative of the next up to a factor.  Walking it
# keeps every derivative that exists finite and exact at u = 0, where the chain rule through t = √u has 0·∞.
# `derivatives` is how often e^(−t), on the lowest rung, may be differentiated at u = 0: see `cusp_sqrt`.
def _matern12(u: Float[Array, "..."], derivatives: int = 1) -> Float[Array, "..."]:
    """e^(−t) as a function of u = t²."""
    return jnp.exp(-cusp_sqrt(jnp.minimum(u, _FAR), derivatives))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _matern32(u: Float[Array, "..."], derivatives: int = 1) -> Float[Array, "..."]:
    """(1 + t) e^(−t) as a function of u = t²."""
    t = jnp.sqrt(jnp.minimum(u, _FAR))
    return (1 + t) * jnp.exp(-t)


@_matern32.defjvp
def _matern32_jvp(derivatives, primals, tangents):
    (u,), (du,) = primals, tangents
    return _matern32(u, derivatives), -0.5 * _matern12(u, derivatives) * du


@jax.custom_jvp
def _matern52(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """(1 + t + t²/3) e^(−t) as a function of u = t²."""
    u = jnp.minimum(u, _FAR)
    t = jnp.sqrt(u)
    return (1 + t + u / 3) * jnp.exp(-t)


@_matern52.defjvp
def _matern52_jvp(primals, tangents):
    (u,), (du,) = primals, tangents
    return _matern52(u), -_matern32(u, 2) / 6 * du


class Matern(SpectralKernel):
    """The Matérn kernel of order ν, of which the final classes write the profile."""

    nu: ClassVar[float]
    spectrum_by: ClassVar[str] = "nu"

    @property
    def smoothness(self) -> int | float:
        """2ν − 1: so many derivatives exist at r = 0."""
        return int(2 * self.nu - 1)

    def density(self, length_scale: Float[Array, ""], omega: Float[Array, " d"]) -> Float[Array, ""]:
        """In closed form."""
        return matern_density(self.nu, length_scale, omega)

    def gaussians(
        self, length_scale: Float[Array, ""], omega: Float[Array, " d"], cutoff: Float[Array, ""]
    ) -> Gaussians:
        """Over a gamma distribution of t."""
        return matern_gaussians(self.nu, length_scale, omega, cutoff)


class Laplace(Matern):
    """exp(−r/ℓ), the Matérn-1/2 kernel: a cusp at r = 0.

    At coincident points its gradient is returned as 0, the mean of the one-sided derivatives; its Hessian
    does not exist there and asking for it is an error.
    """

    nu: ClassVar[float] = 0.5
    falls_within: ClassVar[float | None] = 41.588830833596724

    def profile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """exp(−√u)."""
        return _matern12(u)


class Matern32(Matern):
    """(1 + √3 r/ℓ) exp(−√3 r/ℓ): gradient and Hessian exist at r = 0, no third derivative."""

    nu: ClassVar[float] = 1.5
    falls_within: ClassVar[float | None] = 26.22712075316476

    def profile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """(1 + √(3u)) exp(−√(3u))."""
        return _matern32(3 * u)


class Matern52(Matern):
    """(1 + √5 r/ℓ + 5r²/3ℓ²) exp(−√5 r/ℓ): four derivatives at r = 0."""

    nu: ClassVar[float] = 2.5
    falls_within: ClassVar[float | None] = 21.603468837899033

    def profile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """(1 + √(5u) + 5u/3) exp(−√(5u))."""
        return _matern52(5 * u)
