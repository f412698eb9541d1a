"""Kernels as functions κ(s, p, w) of s = ‖x − z‖², p = ‖x‖² and w = ‖z‖², and their derivatives in these.

With them a covariance of values and slopes acts through matrix products (de Roos, Gessner, Hennig 2021).  Squared
distances, rather than inner products, are one of the three because nothing then cancels where a kernel feels them:

    ∂_z k = −2κ_s(x − z) + 2κ_w z
    ∂_x ∂_zᵀ k = −2κ_s I − 4(κ_ss(x − z) + κ_sp x)(x − z)ᵀ + 4(κ_sw(x − z) + κ_pw x)zᵀ,

a multiple of the identity and a matrix of rank at most two.  The derivatives that these need (κ_pp and κ_ww are not
among them) are found in one of two ways:

- `of_distances`: κ(s) is a profile of u = s/ℓ²; two derivatives of it, times 1/ℓ² and 1/ℓ⁴.
- `of_products`: κ = f(p, q, w) with q = x·z = (p + w − s)/2.  So ∂_s is −f_q/2, and ∂_p and ∂_w at fixed s are those
  of f plus f_q/2, which gives every second derivative in turn.

Every array has the shape (n, m) of the pairs.  To be checked at any pair: ∂_z k above is `jax.grad` of `evaluate`, and
`transpose` is what x and z exchanged would give.
"""

import functools
import operator
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._batches import in_batches
from kpoison._linear_algebra import matrix_product

__all__ = ["PairDerivatives"]

_EXCHANGED = {"p": "w", "w": "p", "sp": "sw", "sw": "sp"}


class PairDerivatives(eqx.Module):
    """κ and its derivatives at all pairs.

    Attributes:
        parts: by the letters of what κ is differentiated in: "" (κ itself), "s", "ss", and "p", "w", "sp", "sw", "pw"
            unless κ is a function of s alone.  One that is left out is 0.
    """

    parts: dict[str, Float[Array, "n m"]]

    @property
    def value(self) -> Float[Array, "n m"]:
        """κ."""
        return self.parts[""]

    @property
    def stationary(self) -> bool:
        """Whether κ is a function of s alone."""
        return "p" not in self.parts

    def transpose(self) -> "PairDerivatives":
        """The same pairs with x and z exchanged."""
        return PairDerivatives({_EXCHANGED.get(name, name): part.T for name, part in self.parts.items()})

    def __rmul__(self, factors: Float[Array, "n m"] | Float[Array, ""]) -> "PairDerivatives":
        """Those of κ times a number for each pair, which no derivative is taken of."""
        return jax.tree.map(lambda part: part * factors, self)

    def __add__(self, other: "PairDerivatives") -> "PairDerivatives":
        """Those of the sum."""
        f, g = self.parts, other.parts
        both = {name: f[name] + g[name] for name in f if name in g}
        return PairDerivatives(f | g | both)

    def __mul__(self, other: "PairDerivatives") -> "PairDerivatives":
        """Those of the product, by Leibniz' rule."""
        f, g = self.parts, other.parts

        def product(name: str) -> Array:
            shares = [(name, ""), ("", name)] if name else [("", "")]
            if len(name) == 2:
                shares += [(name[0], name[1]), (name[1], name[0])]
            return functools.reduce(operator.add, (f[a] * g[b] for a, b in shares if a in f and b in g))

        return PairDerivatives({name: product(name) for name in f | g})

    @staticmethod
    def of_distances(
        profile: Callable, scale: Array, X: Array, Z: Array, u: Array | None = None, *, twice: bool
    ) -> "PairDerivatives":
        """Of κ = profile(scale · s).

        Args:
            profile: elementwise.
            scale: 1/ℓ².
            X: x, shape (n, d).
            Z: z, shape (m, d).
            u: scale · s where it need not be that of differences, which keep the digits of close pairs.
            twice: whether the profile has two derivatives at 0.
        """
        u = scale * _square_distances(X, Z) if u is None else u
        first = _derivative(profile, 0)
        if twice:
            second = _derivative(first, 0)(u)
        else:
            # It is infinite at 0, where (x − z)(x − z)ᵀ vanishes faster.
            apart = u > 0
            second = jnp.where(apart, _derivative(first, 0)(jnp.where(apart, u, 1)), 0)
        return PairDerivatives({"": profile(u), "s": first(u) * scale, "ss": second * scale**2})

    @staticmethod
    def of_products(function: Callable, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> "PairDerivatives":
        """Of κ = function(x·x, x·z, z·z), elementwise."""
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
            {
                "": function(*at),
                "s": -slope / 2,
                "ss": qq / 4,
                "p": in_p(*at) + slope / 2,
                "w": in_w(*at) + slope / 2,
                "sp": -pq / 2 - qq / 4,
                "sw": -qw / 2 - qq / 4,
                "pw": pw + (pq + qw) / 2 + qq / 4,
            }
        )


def _derivative(function: Callable, argument: int) -> Callable:
    """The derivative of an elementwise function in one of its arguments."""

    def derivative(*values):
        tangents = [jnp.full_like(value, i == argument) for i, value in enumerate(values)]
        return jax.jvp(function, values, tuple(tangents))[1]

    return derivative


def _square_distances(X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """‖x − z‖² from differences."""

    @jax.checkpoint  # differences are not kept for derivatives
    def row(x):
        return jnp.sum((x[None] - Z) ** 2, axis=1)

    return in_batches(row, X, Z.size)
