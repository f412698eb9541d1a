"""Kernels as functions of three numbers of a pair, ‖x − z‖², ‖x‖² and ‖z‖², and their derivatives in these.

With them a covariance of values and slopes acts through matrix products (de Roos, Gessner, Hennig 2021): each block
∂_x ∂_zᵀ k is a multiple of the identity and a matrix of rank at most two that x and z span.
"""

import functools
from collections.abc import Callable
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._batches import in_batches
from kpoison._linear_algebra import matrix_product
from kpoison.kernels.activations import Covariance, SmoothActivation
from kpoison.kernels.base import Kernel, Product, Scaled, Sum
from kpoison.kernels.dot_product import Linear, Polynomial
from kpoison.kernels.neural import NeuralKernel
from kpoison.kernels.stationary import Stationary

__all__ = ["PairDerivatives", "pair_derivatives"]

_SECOND_PROFILE = 4  # smoothness from which a stationary kernel's profile has two derivatives in r² at 0


class PairDerivatives(eqx.Module):
    """κ(s, p, w) and its derivatives at s = ‖x − z‖², p = ‖x‖², w = ‖z‖² for all pairs; a stationary κ has s alone.

    Squared distances, rather than inner products, are one of the numbers because nothing then cancels where a kernel
    feels them: ∂_z k = −2κ_s(x − z) + 2κ_w z and
    ∂_x ∂_zᵀ k = −2κ_s I − 4(κ_ss(x − z) + κ_sp x)(x − z)ᵀ + 4(κ_sw(x − z) + κ_pw x)zᵀ.
    """

    value: Float[Array, "n m"]
    s: Float[Array, "n m"]
    ss: Float[Array, "n m"]
    p: Float[Array, "n m"] | None = None
    w: Float[Array, "n m"] | None = None
    sp: Float[Array, "n m"] | None = None
    sw: Float[Array, "n m"] | None = None
    pw: Float[Array, "n m"] | None = None

    @property
    def in_norms(self) -> tuple[Array, Array, Array, Array, Array] | None:
        """κ_p, κ_w, κ_sp, κ_sw and κ_pw; None for a stationary kernel."""
        parts = self.p, self.w, self.sp, self.sw, self.pw
        return None if self.p is None else cast(tuple, parts)

    def transpose(self) -> "PairDerivatives":
        """The same pairs with x and z exchanged."""
        exchanged = PairDerivatives(self.value, self.s, self.ss, self.w, self.p, self.sw, self.sp, self.pw)
        return jax.tree.map(jnp.transpose, exchanged)

    def scaled(self, factors: Float[Array, "n m"] | Float[Array, ""]) -> "PairDerivatives":
        """Those of κ times a number for each pair, which no derivative is taken of."""
        return jax.tree.map(lambda part: part * factors, self)

    def __add__(self, other: "PairDerivatives") -> "PairDerivatives":
        """Those of the sum."""
        first, second = _alike(self, other)
        return jax.tree.map(jnp.add, first, second)

    def __mul__(self, other: "PairDerivatives") -> "PairDerivatives":
        """Those of the product, by Leibniz' rule."""
        f, g = _alike(self, other)

        def once(a):
            return getattr(f, a) * g.value + f.value * getattr(g, a)

        def twice(a, b):
            both = getattr(f, a + b) * g.value + f.value * getattr(g, a + b)
            return both + getattr(f, a) * getattr(g, b) + getattr(f, b) * getattr(g, a)

        if f.p is None:
            return PairDerivatives(f.value * g.value, once("s"), twice("s", "s"))
        firsts, seconds = map(once, "pw"), (twice(*pair) for pair in ("sp", "sw", "pw"))
        return PairDerivatives(f.value * g.value, once("s"), twice("s", "s"), *firsts, *seconds)

    def _filled(self) -> "PairDerivatives":
        """Zeros in place of what a stationary kernel leaves out."""
        zeros = (jnp.zeros_like(self.value),) * 5
        return self if self.p is not None else PairDerivatives(self.value, self.s, self.ss, *zeros)


def _alike(first: PairDerivatives, second: PairDerivatives) -> tuple[PairDerivatives, PairDerivatives]:
    return (first, second) if first.p is None and second.p is None else (first._filled(), second._filled())


@functools.singledispatch
def pair_derivatives(kernel: Kernel, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> PairDerivatives | None:
    """κ and its derivatives at all pairs; None for a kernel that is not known as such a function.

    Stationary, dot-product and smooth neural kernels, their sums, products and multiples are.
    """
    return None


@pair_derivatives.register
def _(kernel: Stationary, X, Z):
    if type(kernel).evaluate is not Stationary.evaluate:
        return None
    scale = 1 / jnp.asarray(kernel.length_scale, X.dtype) ** 2
    # A kernel of finite smoothness feels the digits that a matrix product loses for close pairs.
    smooth = kernel.smoothness == float("inf")
    u = kernel.scaled_square_distances(X, Z) if smooth else scale * _square_distances(X, Z)
    first = _derivative(kernel.profile, 0)
    if kernel.smoothness >= _SECOND_PROFILE:
        second = _derivative(first, 0)(u)
    else:
        # It is infinite at 0, where (x − z)(x − z)ᵀ vanishes faster.
        apart = u > 0
        second = jnp.where(apart, _derivative(first, 0)(jnp.where(apart, u, 1)), 0)
    return PairDerivatives(kernel.profile(u), first(u) * scale, second * scale**2)


@pair_derivatives.register
def _(kernel: Linear, X, Z):
    if type(kernel) is Linear:
        return _from_products(lambda p, q, w: q, X, Z)
    if type(kernel) is Polynomial:
        offset = jnp.asarray(kernel.offset, X.dtype)
        return _from_products(lambda p, q, w: (q + offset) ** kernel.degree, X, Z)
    return None


@pair_derivatives.register
def _(kernel: NeuralKernel, X, Z):
    smooth = isinstance(kernel.activation, SmoothActivation)
    if not smooth or type(kernel).evaluate is not NeuralKernel.evaluate:
        return None
    weight_variance, bias_variance = kernel._variances(X.dtype)

    def function(p, q, w):
        return kernel._recursion(Covariance(*(weight_variance / X.shape[1] * a + bias_variance for a in (p, w, q))))

    return _from_products(function, X, Z)


@pair_derivatives.register
def _(kernel: Sum, X, Z):
    first, second = pair_derivatives(kernel.first, X, Z), pair_derivatives(kernel.second, X, Z)
    return None if first is None or second is None else first + second


@pair_derivatives.register
def _(kernel: Product, X, Z):
    first, second = pair_derivatives(kernel.first, X, Z), pair_derivatives(kernel.second, X, Z)
    return None if first is None or second is None else first * second


@pair_derivatives.register
def _(kernel: Scaled, X, Z):
    pairs = pair_derivatives(kernel.kernel, X, Z)
    return None if pairs is None else pairs.scaled(jnp.asarray(kernel.scale, X.dtype))


def _derivative(function: Callable, argument: int) -> Callable:
    """The derivative of an elementwise function in one of its arguments."""

    def derivative(*values):
        tangents = [jnp.full_like(value, i == argument) for i, value in enumerate(values)]
        return jax.jvp(function, values, tuple(tangents))[1]

    return derivative


def _from_products(function: Callable, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> PairDerivatives:
    """From an elementwise function of p = x·x, q = x·z and w = z·z, by q = (p + w − s)/2."""
    shape = len(X), len(Z)
    p, w = jnp.sum(X * X, axis=1), jnp.sum(Z * Z, axis=1)
    q = matrix_product(X, Z.T)
    if X is Z:
        q = jnp.where(jnp.eye(len(X), dtype=bool), p[:, None], q)
    at = jnp.broadcast_to(p[:, None], shape), q, jnp.broadcast_to(w[None], shape)
    in_p, in_q, in_w = (_derivative(function, i) for i in range(3))
    qq, pq, qw = (_derivative(in_q, i)(*at) for i in (1, 0, 2))
    pw = _derivative(in_p, 2)(*at)
    slope = in_q(*at)
    return PairDerivatives(
        value=function(*at),
        s=-slope / 2,
        ss=qq / 4,
        p=in_p(*at) + slope / 2,
        w=in_w(*at) + slope / 2,
        sp=-pq / 2 - qq / 4,
        sw=-qw / 2 - qq / 4,
        pw=pw + (pq + qw) / 2 + qq / 4,
    )


def _square_distances(X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """‖x − z‖² from differences."""

    @jax.checkpoint  # differences are not kept for derivatives
    def row(x):
        return jnp.sum((x[None] - Z) ** 2, axis=1)

    return in_batches(row, X, Z.size)
