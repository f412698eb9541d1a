"""Isotropic stationary kernels: functions of u = ‖x − z‖²/ℓ²."""

import abc
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import between_points, check_positive, is_concrete
from kpoison.kernels._cusp import cusp_sqrt
from kpoison.kernels.base import Kernel
from kpoison.kernels.pairs import PairDerivatives

__all__ = ["RBF", "Laplace", "Matern32", "Matern52", "RationalQuadratic", "Stationary"]


_FEW_COORDINATES = 8  # of which differences are squared for each pair, in place of a matrix product
_AMONG = 65  # points, of which the median is taken for the centre of all
_SECOND_PROFILE = 4  # smoothness from which the profile has two derivatives in r² at 0
_FAR = 1e8  # u = t² from which on e^(−t) is 0 in every dtype; t · e^(−t) would be ∞ · 0 where u overflows


class Stationary(Kernel):
    """k(x, z) = profile(‖x − z‖²/ℓ²).

    Args:
        length_scale: ℓ > 0, in the units of the inputs.
    """

    falls_within: ClassVar[float | None] = None
    """Length scales at which the profile is 2⁻⁶⁰, below rounding; None where it falls too slowly to say."""

    length_scale: Scalar

    def __check_init__(self):
        check_positive("length_scale", self.length_scale)

    @abc.abstractmethod
    def profile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """k as a function of u = ‖x − z‖²/ℓ², elementwise, with profile(0) = 1."""

    @between_points
    def evaluate(self, x: Float[Array, " d"], z: Float[Array, " d"]) -> Float[Array, ""]:
        """k(x, z) from the difference x − z: exact to rounding however close the points are."""
        scaled = (x - z) * (1 / jnp.asarray(self.length_scale, x.dtype))
        return self.profile(jnp.sum(scaled * scaled))

    def gradient_products(
        self, x: Float[Array, " d"], centres: Float[Array, "n d"], basis: Float[Array, "n p"]
    ) -> Float[Array, "p d"]:
        """Σ_i ∇_x k(x, c_i) basis_i by a matrix product about the first centre."""
        inverse = 1 / jnp.asarray(self.length_scale, x.dtype)
        scaled = (x[None] - centres) * inverse
        # In length scales, of which no square overflows where a gradient does not.
        slopes = jax.vmap(jax.grad(self.profile))(jnp.sum(scaled * scaled, axis=1)) * (2 * inverse)
        weighted = slopes[None] * basis.T
        products = matrix_product(weighted, (centres - centres[:1]) * inverse)
        return jnp.sum(weighted, axis=1)[:, None] * scaled[:1] - products

    def gram(self, X1: Float[Array, "n1 d"], X2: Float[Array, "n2 d"]) -> Float[Array, "n1 n2"]:
        """Gram matrix through ‖x − z‖² = ‖x‖² + ‖z‖² − 2 x·z about a common centre."""
        return self.profile(self.scaled_square_distances(X1, X2))

    def scaled_square_distances(self, X1: Float[Array, "n1 d"], X2: Float[Array, "n2 d"]) -> Float[Array, "n1 n2"]:
        """‖x − z‖²/ℓ² for all pairs; pairs below the resolution of the product are 0."""
        symmetric = X1 is X2
        length_scale = jnp.asarray(self.length_scale, X1.dtype)
        if X1.shape[1] <= _FEW_COORDINATES:
            # As fast, and no digit is lost, whatever the points' origin.
            differences = (first[:, None] - second[None] for first, second in zip(X1.T, X2.T, strict=True))
            inverse = 1 / length_scale
            return sum(((difference * inverse) ** 2 for difference in differences), jnp.zeros((), X1.dtype))
        # The rounding error grows with ‖x‖², so distances are taken about the data's own centre.
        centre = _centre(X2)
        X2 = (X2 - centre[None]) / length_scale
        X1 = X2 if symmetric else (X1 - centre[None]) / length_scale
        squares1, squares2 = jnp.sum(X1 * X1, axis=1), jnp.sum(X2 * X2, axis=1)
        scale = squares1[:, None] + squares2[None, :]
        squares = scale - 2 * matrix_product(X1, X2.T)
        # Compared so that NaN stays NaN.
        unresolved = squares <= 8 * jnp.finfo(X1.dtype).eps * scale
        if symmetric:
            unresolved |= jnp.eye(len(X1), dtype=bool) & jnp.isfinite(squares)
        return jnp.where(unresolved, 0, squares)

    def rounding_factor(self, X: Float[Array, "n d"]) -> Float[Array, ""]:
        """‖x − c‖²/ℓ² of the farthest point but one, c amid them: a single one is far from all others."""
        centred = jax.lax.stop_gradient((X - _centre(X)[None]) / jnp.asarray(self.length_scale, X.dtype))
        squares = jnp.sum(centred * centred, axis=1)
        return jnp.maximum(1, jax.lax.top_k(squares, min(2, len(X)))[0][-1])

    @property
    def rotation_invariant(self) -> bool:
        """Always."""
        return True

    @property
    def translation_invariant(self) -> bool:
        """Always."""
        return True

    def on_subspace(self, dimension: int) -> Kernel:
        """Itself: coordinates that are 0 change no distance."""
        return self

    def pair_derivatives(self, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> PairDerivatives | None:
        """As a function of ‖x − z‖² alone."""
        if type(self).evaluate is not Stationary.evaluate:
            return None  # of a subclass that is more than its profile
        scale = 1 / jnp.asarray(self.length_scale, X.dtype) ** 2
        # A kernel of finite smoothness feels the digits that a matrix product loses for close pairs.
        u = self.scaled_square_distances(X, Z) if self.smoothness == math.inf else None
        return PairDerivatives.of_distances(self.profile, scale, X, Z, u, twice=self.smoothness >= _SECOND_PROFILE)

    def reach(self) -> float | None:
        """So many length scales, where that is a known number."""
        if self.falls_within is None:
            return super().reach()
        return self.falls_within * float(np.asarray(self.length_scale)) if is_concrete(self.length_scale) else None


def _centre(X: Float[Array, "n d"]) -> Float[Array, " d"]:
    """Amid the points, wherever a minority of them lies: the coordinate-wise median of a few.

    Every coordinate is one of a point, so that differences from it keep the digits that the points have.
    """
    some = jax.lax.stop_gradient(X[:: -(-len(X) // _AMONG)])
    return jnp.sort(some, axis=0)[len(some) // 2]


class RBF(Stationary):
    """Gaussian kernel exp(−r²/2ℓ²); infinitely smooth.

    >>> import jax.numpy as jnp
    >>> X = jnp.array([[0.0], [1.0]])
    >>> RBF(length_scale=1.0)(X).round(4).tolist()[0]
    [1.0, 0.6065...]
    """

    falls_within: ClassVar[float | None] = 9.120178817720268

    def profile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """exp(−u/2)."""
        return jnp.exp(-0.5 * u)

    @property
    def smoothness(self) -> int | float:
        """Infinite."""
        return math.inf


class RationalQuadratic(Stationary):
    """(1 + r²/(2αℓ²))^(−α); infinitely smooth.

    Args:
        length_scale: ℓ > 0, in the units of the inputs.
        alpha: shape α > 0; α → ∞ is the RBF kernel.
    """

    alpha: Scalar = 1.0

    def __check_init__(self):
        check_positive("alpha", self.alpha)

    def profile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """(1 + u/2α)^(−α)."""
        alpha = jnp.asarray(self.alpha, u.dtype)
        return jnp.exp(-alpha * jnp.log1p(u / (2 * alpha)))

    @property
    def smoothness(self) -> int | float:
        """Infinite."""
        return math.inf


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


class Laplace(Stationary):
    """exp(−r/ℓ), the Matérn-1/2 kernel: a cusp at r = 0.

    At coincident points its gradient is returned as 0, the mean of the one-sided derivatives; its Hessian
    does not exist there and asking for it is an error.
    """

    falls_within: ClassVar[float | None] = 41.588830833596724

    def profile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """exp(−√u)."""
        return _matern12(u)

    @property
    def smoothness(self) -> int | float:
        """0: continuous, not differentiable."""
        return 0


class Matern32(Stationary):
    """(1 + √3 r/ℓ) exp(−√3 r/ℓ): gradient and Hessian exist at r = 0, no third derivative."""

    falls_within: ClassVar[float | None] = 26.22712075316476

    def profile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """(1 + √(3u)) exp(−√(3u))."""
        return _matern32(3 * u)

    @property
    def smoothness(self) -> int | float:
        """2."""
        return 2


class Matern52(Stationary):
    """(1 + √5 r/ℓ + 5r²/3ℓ²) exp(−√5 r/ℓ): four derivatives at r = 0."""

    falls_within: ClassVar[float | None] = 21.603468837899033

    def profile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """(1 + √(5u) + 5u/3) exp(−√(5u))."""
        return _matern52(5 * u)

    @property
    def smoothness(self) -> int | float:
        """4."""
        return 4
