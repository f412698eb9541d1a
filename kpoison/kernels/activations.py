"""Activations by name, and those with a smooth dual: erf, GELU, sin, cos, and any other by quadrature."""

import abc
import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kpoison._linear_algebra import matrix_product
from kpoison._pickling import register
from kpoison._validation import check_name, integer
from kpoison._watched import Watched
from kpoison.kernels._activation import Activation, Covariance, Wedge
from kpoison.kernels._rectifiers import LeakyReLU, ReLU

__all__ = [
    "GELU",
    "Activation",
    "Cos",
    "Covariance",
    "Erf",
    "LeakyReLU",
    "Quadrature",
    "ReLU",
    "Sin",
    "SmoothActivation",
    "Wedge",
    "activation_names",
    "as_activation",
]


_COINCIDENT = 8  # times eps: how far apart rounding may put a point from itself, relative to its size


class SmoothActivation(Activation[Covariance]):
    """An activation whose dual is a smooth function of (qx, qz, K), at coincident points too."""

    @abc.abstractmethod
    def dual(self, variance_x: Array, variance_z: Array, covariance: Array) -> Array:
        """E[φ(u)φ(v)], elementwise."""

    def input_state(self, x: Array, z: Array, weight_variance: Array, bias_variance: Array) -> Covariance:
        """Covariance of the first layer at two points."""

        def dense(a, b):
            return weight_variance * jnp.sum(a * b) + bias_variance

        return Covariance(dense(x, x), dense(z, z), dense(x, z))

    def input_gram(self, X1: Array, X2: Array, weight_variance: Array, bias_variance: Array) -> Covariance:
        """Covariance of the first layer at all pairs."""
        variance_x = weight_variance * jnp.sum(X1 * X1, axis=1)[:, None] + bias_variance
        variance_z = weight_variance * jnp.sum(X2 * X2, axis=1)[None, :] + bias_variance
        covariance = weight_variance * matrix_product(X1, X2.T) + bias_variance
        if X1 is X2:
            covariance = jnp.where(jnp.eye(len(X1), dtype=bool), variance_x, covariance)
        return Covariance(variance_x, variance_z, covariance)

    def mean_square(self, variance: Array) -> Array:
        """E[φ(u)²], elementwise."""
        return self.dual(variance, variance, variance)

    def activated(self, state: Covariance) -> Covariance:
        """Covariance of φ(u) and φ(v)."""
        state = _coincident_as_such(state)
        variances = self.mean_square(state.variance_x), self.mean_square(state.variance_z)
        return Covariance(*variances, self.dual(*state))

    def derivative_covariance(self, state: Covariance) -> Array:
        """E[φ'(u)φ'(v)], the derivative of the dual with respect to K."""
        variance_x, variance_z, covariance = _coincident_as_such(state)

        def dual_in_covariance(k):
            return self.dual(variance_x, variance_z, k)

        return jax.jvp(dual_in_covariance, (covariance,), (jnp.ones_like(covariance),))[1]

    @property
    def smoothness(self) -> tuple[int | float, int | float]:
        """Infinite."""
        return math.inf, math.inf


def _coincident_as_such(state: Covariance) -> Covariance:
    """The same, with the covariance of points that are one to rounding exactly that of one point.

    Their distance in the space of a layer is rounding, which every layer multiplies by its slope: 5 in a network with
    weights of 8, or 10⁷ in ten layers.  Derivatives are those of the state as it is.
    """
    qx, qz, covariance = state
    total, gap = qx + qz, qx - qz
    apart = (qx - covariance) + (qz - covariance)
    coincident = jnp.abs(apart) <= _COINCIDENT * jnp.finfo(covariance.dtype).eps * total
    together = 0.5 * total - 0.25 * gap * (gap / jnp.where(total > 0, total, 1))
    move = jax.lax.stop_gradient(jnp.where(coincident, together - covariance, 0))
    return Covariance(qx, qz, covariance + move)


def _gram_determinant(qx: Array, qz: Array, covariance: Array) -> Array:
    """qx qz − K² >= 0, by Var(u − v) and qx − qz: it does not cancel for close points, and is 0 for one."""
    total, gap = qx + qz, qx - qz
    apart = (qx - covariance) + (qz - covariance)
    determinant = 0.25 * (apart * (2 * total - apart) - gap**2)
    return determinant + jax.lax.stop_gradient(jnp.maximum(-determinant, 0))


class Erf(SmoothActivation):
    """φ(u) = erf(u) (Williams 1997)."""

    def __call__(self, u: Array) -> Array:
        """erf(u)."""
        return jax.scipy.special.erf(u)

    def dual(self, variance_x: Array, variance_z: Array, covariance: Array) -> Array:
        """(2/π) arcsin(2K/√((1 + 2qx)(1 + 2qz))), as an arctangent that stays exact as K → qx, qz → ∞."""
        gram_determinant = _gram_determinant(variance_x, variance_z, covariance)
        adjacent = jnp.sqrt(1 + 2 * (variance_x + variance_z) + 4 * gram_determinant)
        return 2 / jnp.pi * jnp.arctan2(2 * covariance, adjacent)


class GELU(SmoothActivation):
    """φ(u) = u Φ(u), Φ the standard normal distribution function."""

    def __call__(self, u: Array) -> Array:
        """u Φ(u)."""
        return jax.nn.gelu(u, approximate=False)

    def dual(self, variance_x: Array, variance_z: Array, covariance: Array) -> Array:
        """Closed form by Stein's identity, with G = E[Φ'(u)Φ'(v)] and the orthant probability E[Φ(u)Φ(v)]."""
        squared = covariance**2
        gram_determinant = _gram_determinant(variance_x, variance_z, covariance)
        root = jnp.sqrt(1 + variance_x + variance_z + gram_determinant)
        orthant = jnp.arctan2(root, -covariance) / (2 * jnp.pi)
        correction = gram_determinant + squared * (1 / (1 + variance_x) + 1 / (1 + variance_z))
        return covariance * orthant + correction / (2 * jnp.pi * root)

    def derivative_covariance(self, state: Covariance) -> Array:
        """E[φ'(u)φ'(v)]: the derivative of the dual, whose terms of size √q cancel, in terms that do not.

        With R = (1 + qx)(1 + qz) − K²: E[ΦΦ] + K (3 + qx + qz + K²/R)/(2π √R (1 + qx)(1 + qz)).
        """
        variance_x, variance_z, covariance = _coincident_as_such(state)
        total = variance_x + variance_z
        square = 1 + total + _gram_determinant(variance_x, variance_z, covariance)
        root = jnp.sqrt(square)
        orthant = jnp.arctan2(root, -covariance) / (2 * jnp.pi)
        slope = (3 + total + covariance * (covariance / square)) / ((1 + variance_x) * (1 + variance_z))
        return orthant + slope * (covariance / root) / (2 * jnp.pi)


def _wave(variance_x: Array, variance_z: Array, covariance: Array, sign: int) -> Array:
    """½(E cos(u − v) + sign·E cos(u + v))."""
    mean = 0.5 * (variance_x + variance_z)
    return 0.5 * (jnp.exp(covariance - mean) + sign * jnp.exp(-covariance - mean))


class Sin(SmoothActivation):
    """φ(u) = sin u."""

    def __call__(self, u: Array) -> Array:
        """Sine of u."""
        return jnp.sin(u)

    def dual(self, variance_x: Array, variance_z: Array, covariance: Array) -> Array:
        """e^(−(qx+qz)/2) sinh K."""
        return _wave(variance_x, variance_z, covariance, -1)


class Cos(SmoothActivation):
    """φ(u) = cos u."""

    def __call__(self, u: Array) -> Array:
        """Cosine of u."""
        return jnp.cos(u)

    def dual(self, variance_x: Array, variance_z: Array, covariance: Array) -> Array:
        """e^(−(qx+qz)/2) cosh K."""
        return _wave(variance_x, variance_z, covariance, 1)


@functools.cache
def _derivative(function: Callable) -> Callable:
    """The derivative as an elementwise function, cached so that equal functions compile once."""

    def derivative(u):
        return jax.jvp(function, (u,), (jnp.ones_like(u),))[1]

    return derivative


@functools.cache
def _gaussian_rule(nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes (a, b) and weights of E over two independent standard normals; negligible ones left out.

    The trapezoidal rule: for φ with singularities at a distance δ from the real axis its error is exp(−2πδ/h),
    with steps h ∝ 1/nodes, where that of Gauss–Hermite falls like exp(−δ√(8·nodes)) (Trefethen 2022).
    """
    # Tails beyond 8.8 hold 1e-18; a coarse rule balances them against exp(−2π²/h²) (entire functions).
    half_width = min(8.8, math.sqrt(math.pi * nodes))
    points = half_width * (2 * np.arange(nodes) + 1 - nodes) / nodes
    weights = np.exp(-0.5 * points**2)
    weights /= np.sum(weights)
    product = np.outer(weights, weights)
    first, second = np.nonzero(product > 1e-17 * np.max(product))
    return points[first], points[second], product[first, second]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _gaussian_expectation(f, g, nodes, variance_x, variance_z, covariance):
    """E[f(u) g(v)] by quadrature, elementwise over broadcast arrays.

    Its derivatives are again such expectations (Price's theorem), so the square root in u, v is never
    differentiated and coincident points are ordinary points.
    """
    deviation_x, deviation_z = jnp.sqrt(variance_x), jnp.sqrt(variance_z)
    scale = deviation_x * deviation_z
    cosine = jnp.clip(covariance / jnp.where(scale > 0, scale, 1), -1, 1)
    common, opposite = jnp.sqrt(0.5 * (1 + cosine)), jnp.sqrt(0.5 * (1 - cosine))

    def add(total, point):
        a, b, weight = point
        u = deviation_x * (common * a + opposite * b)
        v = deviation_z * (common * a - opposite * b)
        return total + weight * f(u) * g(v), None

    rule = tuple(jnp.asarray(part, covariance.dtype) for part in _gaussian_rule(nodes))
    total = jnp.zeros(jnp.broadcast_shapes(scale.shape, covariance.shape), covariance.dtype)
    return jax.lax.scan(add, total, rule)[0]


@_gaussian_expectation.defjvp
def _gaussian_expectation_jvp(f, g, nodes, primals, tangents):
    d_variance_x, d_variance_z, d_covariance = tangents
    df, dg = _derivative(f), _derivative(g)
    value = _gaussian_expectation(f, g, nodes, *primals)
    slope_x = 0.5 * _gaussian_expectation(_derivative(df), g, nodes, *primals)
    slope_z = 0.5 * _gaussian_expectation(f, _derivative(dg), nodes, *primals)
    slope = _gaussian_expectation(df, dg, nodes, *primals)
    return value, slope_x * d_variance_x + slope_z * d_variance_z + slope * d_covariance


class Quadrature(SmoothActivation):
    """Any smooth activation, by quadrature over the two Gaussians.

    Args:
        function: u → φ(u), elementwise and infinitely differentiable by JAX.
        nodes: per axis.  The error falls geometrically, the more slowly the nearer φ's complex singularities lie
            to the real axis, measured in standard deviations of u: for tanh and tanh' it is at most 1e-11 with
            64 nodes at unit variance, 2e-5 with 64 and 1e-13 with 160 at variance 4.
    """

    function: Callable[[Array], Array] = eqx.field(converter=Watched)
    nodes: int = eqx.field(static=True, default=64, converter=integer("nodes", 2))

    def __check_init__(self):
        function = self._plain
        if not callable(function):
            raise TypeError(f"function must be callable, got {type(function).__name__}")

    def __call__(self, u: Array) -> Array:
        """φ(u)."""
        return self.function(u)

    def dual(self, variance_x: Array, variance_z: Array, covariance: Array) -> Array:
        """E[φ(u)φ(v)]."""
        return _gaussian_expectation(self._plain, self._plain, self.nodes, variance_x, variance_z, covariance)

    @property
    def _plain(self) -> Callable[[Array], Array]:
        """The function itself, of which JAX keeps what it derives."""
        return self.function.function  # pyright: ignore[reportFunctionMemberAccess]


register()  # activations are functions of JAX

_BY_NAME: dict[str, Callable[[], Activation]] = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "erf": Erf,
    "gelu": GELU,
    "sin": Sin,
    "cos": Cos,
    "tanh": lambda: Quadrature(jnp.tanh),
    "sigmoid": lambda: Quadrature(jax.nn.sigmoid),
    "softplus": lambda: Quadrature(jax.nn.softplus),
    "silu": lambda: Quadrature(jax.nn.silu),
}

activation_names = tuple(_BY_NAME)


def as_activation(activation: "str | Activation | Callable[[Array], Array]") -> Activation:
    """The activation of that name, itself, or a smooth function by quadrature.

    Raises:
        ValueError: for an unknown name.
        TypeError: for anything that is not a name, an `Activation` or a callable.

    >>> as_activation("relu")(jnp.array([1.0, 2.0])).tolist()
    [1.0, 2.0]
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        return _BY_NAME[check_name("activation", activation, activation_names)]()
    if callable(activation):
        return Quadrature(activation)
    raise TypeError(f"activation must be a name, an Activation or a function, got {type(activation).__name__}")
