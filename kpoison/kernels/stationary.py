"""Stationary kernels: functions of u = Σ_j (x_j − z_j)²/ℓ_j², ℓ one for all inputs or one for each."""

import abc
import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._linear_algebra import matrix_product
from kpoison._typing import PerInput, Scalar
from kpoison._validation import between_points, check_positive, is_concrete
from kpoison.kernels._spectra import Gaussians, rational_quadratic_density, rational_quadratic_gaussians
from kpoison.kernels.base import Kernel, Traits
from kpoison.kernels.pairs import PairDerivatives

__all__ = ["RBF", "RationalQuadratic", "SpectralKernel", "Stationary"]


_FEW_COORDINATES = 8  # of which differences are squared for each pair, in place of a matrix product
_TRIPLED = 5  # times that medians of three are taken, from 3⁵ points to the centre of all
_SECOND_PROFILE = 4  # smoothness from which the profile has two derivatives in r² at 0


def _array_of_list(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, list | tuple) else value


class Stationary(Kernel):
    """k(x, z) = profile(Σ_j (x_j − z_j)²/ℓ_j²).

    Args:
        length_scale: ℓ > 0, in the units of the inputs; or one for each of them, shape (d,).
    """

    falls_within: ClassVar[float | None] = None
    """Length scales at which the profile is 2⁻⁶⁰, below rounding; None where it falls too slowly to say."""

    length_scale: PerInput = eqx.field(converter=_array_of_list)

    def __check_init__(self):
        check_positive("length_scale", self.length_scale, scalar=False)
        if np.ndim(self.length_scale) > 1 or np.size(self.length_scale) == 0:
            raise ValueError(
                f"length_scale must be a number or have shape (d,), got shape {np.shape(self.length_scale)}"
            )

    def lengths(self, X: Float[Array, "*n d"]) -> Array:
        """ℓ in the dtype of points, to divide them by: a number, or shape (1, ..., d).

        Raises:
            ValueError: for points of another number of inputs than there are length scales.
        """
        lengths = jnp.asarray(self.length_scale, X.dtype)
        if lengths.ndim and lengths.shape != X.shape[-1:]:
            raise ValueError(
                f"length_scale must be a number or have shape {X.shape[-1:]}, one for each input, got shape "
                f"{lengths.shape}"
            )
        return lengths.reshape(*[1] * (X.ndim - 1), -1) if lengths.ndim else lengths

    @abc.abstractmethod
    def profile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """k as a function of u = Σ_j (x_j − z_j)²/ℓ_j², elementwise, with profile(0) = 1."""

    @between_points
    def evaluate(self, x: Float[Array, " d"], z: Float[Array, " d"]) -> Float[Array, ""]:
        """k(x, z) from the difference x − z: exact to rounding however close the points are."""
        scaled = (x - z) * (1 / self.lengths(x))
        return self.profile(jnp.sum(scaled * scaled))

    def gradient_products(
        self, x: Float[Array, " d"], centres: Float[Array, "n d"], basis: Float[Array, "n p"]
    ) -> Float[Array, "p d"]:
        """Σ_i ∇_x k(x, c_i) basis_i by a matrix product about the first centre."""
        inverse = 1 / self.lengths(centres)
        scaled = (x[None] - centres) * inverse
        # ∂u/∂x is 2/ℓ times `scaled`: of each pair where ℓ is a number, else of each input of the result.
        of_pairs, of_inputs = (2, inverse) if inverse.ndim else (2 * inverse, 1)
        # In length scales, of which no square overflows where a gradient does not.
        slopes = jax.vmap(jax.grad(self.profile))(jnp.sum(scaled * scaled, axis=1)) * of_pairs
        weighted = slopes[None] * basis.T
        products = matrix_product(weighted, (centres - centres[:1]) * inverse)
        # Not the first row of `scaled`: that would keep all n rows of it, which are else summed as they are made.
        first = (x[None] - centres[:1]) * inverse
        return (jnp.sum(weighted, axis=1)[:, None] * first - products) * of_inputs

    def floats_per_product(self, point_shape: tuple[int, ...], columns: int) -> int:
        """Weights: coordinates are summed as they are made."""
        return columns + 1

    def gram(self, X1: Float[Array, "n1 d"], X2: Float[Array, "n2 d"]) -> Float[Array, "n1 n2"]:
        """Gram matrix through ‖x − z‖² = ‖x‖² + ‖z‖² − 2 x·z about a common centre."""
        return self.profile(self.scaled_square_distances(X1, X2))

    def sides(self, X: Float[Array, "n d"]) -> Any:
        """Scaled points about their centre, with their squares."""
        of_products = X.shape[1] > _FEW_COORDINATES and type(self).gram is Stationary.gram
        return self._centred(X, _centre(X)) if of_products else X

    def gram_of_sides(self, first: Any, second: Any) -> Float[Array, "n1 n2"]:
        """From one matrix product, where they are centred."""
        centred = isinstance(first, _Centred)
        return self.profile(_square_distances(first, second)) if centred else self.gram(first, second)

    def _centred(self, X: Float[Array, "n d"], centre: Float[Array, " d"]) -> "_Centred":
        scaled = (X - centre[None]) / self.lengths(X)
        # A product with ones: a compiler adds up two sums of rows for every pair anew, for as long as their product.
        squares = matrix_product(scaled * scaled, jnp.ones((X.shape[1], 1), X.dtype))
        return _Centred(scaled, squares)

    def scaled_square_distances(self, X1: Float[Array, "n1 d"], X2: Float[Array, "n2 d"]) -> Float[Array, "n1 n2"]:
        """u for all pairs; pairs below the resolution of the product are 0."""
        lengths = self.lengths(X1)
        if X1.shape[1] <= _FEW_COORDINATES:
            # As fast, and no digit is lost, whatever the points' origin.
            differences = (first[:, None] - second[None] for first, second in zip(X1.T, X2.T, strict=True))
            inverses = list(1 / lengths[0]) if lengths.ndim else [1 / lengths] * X1.shape[1]
            squares = ((difference * inverse) ** 2 for difference, inverse in zip(differences, inverses, strict=True))
            return sum(squares, jnp.zeros((), X1.dtype))
        # The rounding error grows with ‖x‖², so distances are taken about the data's own centre.
        centre = _centre(X2)
        second = self._centred(X2, centre)
        return _square_distances(second if X1 is X2 else self._centred(X1, centre), second)

    def rounding_factor(self, X: Float[Array, "n d"]) -> Float[Array, ""]:
        """u of the farthest point but one from c, which is amid them: a single one is far from all others."""
        centred = jax.lax.stop_gradient((X - _centre(X)[None]) / self.lengths(X))
        squares = jnp.sum(centred * centred, axis=1)
        return jnp.maximum(1, jax.lax.top_k(squares, min(2, len(X)))[0][-1])

    @property
    def traits(self) -> Traits:
        """Of a function of the distance, in units that may differ between the axes."""
        return Traits(self.smoothness, rotation_invariant=self._isotropic, translation_invariant=True)

    @property
    def _isotropic(self) -> bool:
        return np.ndim(self.length_scale) == 0

    def _goes_with_profile(self, member: str) -> bool:
        """Whether a member that depends on the profile is of the one in force: a subclass may have written another."""
        kinds = type(self).__mro__
        stated, profile = (next(kind for kind in kinds if name in vars(kind)) for name in (member, "profile"))
        return issubclass(stated, profile) and type(self).evaluate is Stationary.evaluate

    def on_subspace(self, dimension: int) -> Kernel | None:
        """Itself: coordinates that are 0 change no distance."""
        return self if self._isotropic else None

    def pair_derivatives(self, X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> PairDerivatives | None:
        """As a function of ‖x − z‖² alone."""
        if type(self).evaluate is not Stationary.evaluate or not self._isotropic:
            return None  # of a subclass that is more than its profile, or no function of ‖x − z‖²
        scale = 1 / jnp.asarray(self.length_scale, X.dtype) ** 2
        # A kernel of finite smoothness feels the digits that a matrix product loses for close pairs.
        u = self.scaled_square_distances(X, Z) if self.smoothness == math.inf else None
        return PairDerivatives.of_distances(self.profile, scale, X, Z, u, twice=self.smoothness >= _SECOND_PROFILE)

    def reach(self) -> float | None:
        """So many of the longest length scale, where that is a known number."""
        if self.falls_within is None or not self._goes_with_profile("falls_within"):
            return super().reach()
        return self.falls_within * float(np.max(self.length_scale)) if is_concrete(self.length_scale) else None


class _Centred(NamedTuple):
    """Points about a centre, in length scales.

    Attributes:
        points: shape (n, d).
        squares: of their norms, shape (n, 1).
    """

    points: Float[Array, "n d"]
    squares: Float[Array, "n 1"]


def _square_distances(first: _Centred, second: _Centred) -> Float[Array, "n1 n2"]:
    """By one matrix product; pairs below its resolution are 0, and points with themselves where `first is second`."""
    scale = first.squares + second.squares.T
    squares = scale - 2 * matrix_product(first.points, second.points.T)
    # Compared so that NaN stays NaN.
    unresolved = squares <= 8 * jnp.finfo(squares.dtype).eps * scale
    if first is second:
        unresolved |= jnp.eye(len(squares), dtype=bool) & jnp.isfinite(squares)
    return jnp.where(unresolved, 0, squares)


def _centre(X: Float[Array, "n d"]) -> Float[Array, " d"]:
    """Amid the points, wherever a third of them lies: medians of three of medians of three …, coordinate by coordinate.

    The remedian of Rousseeuw and Bassett (1990), by minima and maxima of whole rows; to sort 65 rows of 784 numbers
    takes as long as the Gram matrix of 50 points with 2,000.  Every coordinate is one of a point, so that differences
    from it keep the digits that the points have.
    """
    number = 3**_TRIPLED
    some = jax.lax.stop_gradient(X[np.arange(number) * len(X) // number])
    some = jnp.where(jnp.isnan(some), jnp.inf, some)  # a minimum would pass NaN on to all points
    while len(some) > 3:
        a, b, c = some.reshape(3, -1, X.shape[1])
        some = jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))
    # Of three rows sorting is cheap, and unlike a minimum it is not calculated anew for each point that is centred.
    return jnp.sort(some, axis=0)[1]


class SpectralKernel(Stationary):
    """One whose spectral density is known: a mixture of Gaussians, ∫ w(t) exp(−t‖ω‖²) dt with w >= 0.

    A subclass says what both are of one length scale ℓ for all inputs; with one for each, k̂(ω) = Π_j ℓ_j k̂₁(ℓ∘ω).
    """

    spectrum_by: ClassVar[str] = "density"
    """The member that a subclass with another profile must state with it."""

    @abc.abstractmethod
    def density(self, length_scale: Float[Array, ""], omega: Float[Array, " d"]) -> Float[Array, ""]:
        """k̂(ω) of one length scale."""

    @abc.abstractmethod
    def gaussians(
        self, length_scale: Float[Array, ""], omega: Float[Array, " d"], cutoff: Float[Array, ""]
    ) -> Gaussians:
        """The mixture, of one length scale, for an ω and its aliases, the lowest within the cutoff."""

    def spectral_density(self, omega: Float[Array, " d"]) -> Float[Array, ""]:
        """k̂(ω) = ∫ k(x) exp(−iω·x) dx."""
        lengths = self.lengths(omega)
        if self._isotropic:
            return self.density(lengths, omega)
        return jnp.prod(lengths) * self.density(jnp.ones((), omega.dtype), lengths * omega)

    def infinite_moments(self, d: int, number: int) -> list[tuple[Array, str]]:
        """Whether, and why, ∫ ‖x‖^number k(x) dx is infinite in d dimensions."""
        return []

    def spectral_parts(self, scale: Any = 1.0) -> list[tuple[Kernel, Any]]:
        """Itself."""
        return [(self, scale)] if self._goes_with_profile(self.spectrum_by) else super().spectral_parts(scale)


class RBF(SpectralKernel):
    """Gaussian kernel exp(−r²/2ℓ²); infinitely smooth.

    >>> import jax.numpy as jnp
    >>> X = jnp.array([[0.0], [1.0]])
    >>> RBF(length_scale=1.0)(X).round(4).tolist()[0]
    [1.0, 0.6065...]

    With a length scale for each input (automatic relevance determination) one that is long is hardly felt:

    >>> RBF(jnp.array([1.0, 100.0]))(jnp.array([[0.0, 0.0], [1.0, 1.0]])).round(3).tolist()[0]
    [1.0, 0.607]
    """

    falls_within: ClassVar[float | None] = 9.120178817720268

    def profile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """exp(−u/2)."""
        return jnp.exp(-0.5 * u)

    def density(self, length_scale: Float[Array, ""], omega: Float[Array, " d"]) -> Float[Array, ""]:
        """(√2π ℓ)ᵈ exp(−ℓ²‖ω‖²/2)."""
        square = jnp.sum(omega * omega)
        return (math.sqrt(2 * math.pi) * length_scale) ** len(omega) * jnp.exp(-0.5 * length_scale**2 * square)

    def gaussians(
        self, length_scale: Float[Array, ""], omega: Float[Array, " d"], cutoff: Float[Array, ""]
    ) -> Gaussians:
        """One."""
        log_weight = len(omega) * jnp.log(math.sqrt(2 * math.pi) * length_scale)
        return log_weight[None], (0.5 * length_scale**2)[None]

    @property
    def smoothness(self) -> int | float:
        """Infinite."""
        return math.inf


class RationalQuadratic(SpectralKernel):
    """(1 + r²/(2αℓ²))^(−α); infinitely smooth.

    Args:
        length_scale: ℓ > 0, in the units of the inputs; or one for each of them, shape (d,).
        alpha: shape α > 0; α → ∞ is the RBF kernel.
    """

    alpha: Scalar = 1.0

    def __check_init__(self):
        check_positive("alpha", self.alpha)

    def profile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """(1 + u/2α)^(−α)."""
        alpha = jnp.asarray(self.alpha, u.dtype)
        return jnp.exp(-alpha * jnp.log1p(u / (2 * alpha)))

    def density(self, length_scale: Float[Array, ""], omega: Float[Array, " d"]) -> Float[Array, ""]:
        """By quadrature."""
        return rational_quadratic_density(jnp.asarray(self.alpha, omega.dtype), length_scale, omega)

    def gaussians(
        self, length_scale: Float[Array, ""], omega: Float[Array, " d"], cutoff: Float[Array, ""]
    ) -> Gaussians:
        """Over a gamma distribution of 1/t."""
        return rational_quadratic_gaussians(jnp.asarray(self.alpha, omega.dtype), length_scale, omega)

    def infinite_moments(self, d: int, number: int) -> list[tuple[Array, str]]:
        """Where alpha <= (d + number)/2."""
        least = (d + number) / 2
        came = f", got {float(np.asarray(self.alpha)):g}" if is_concrete(self.alpha) else ""
        what = "effective length scale" if number else "spectral density at frequency 0"
        message = (
            f"kernel RationalQuadratic must have alpha > {least:g} for an {what} in {d} dimension(s){came}: "
            f"∫ ‖x‖^{number} k(x) dx is infinite"
        )
        return [(~(jnp.asarray(self.alpha) > least), message)]

    @property
    def smoothness(self) -> int | float:
        """Infinite."""
        return math.inf
