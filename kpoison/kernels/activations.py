"""Dual activations: what one hidden layer does to the covariance of its pre-activations.

For (u, v) jointly Gaussian with covariance [[qx, K], [K, qz]] and an activation φ, a layer maps K to
E[φ(u)φ(v)] (its dual activation: Daniely, Frostig, Singer 2016), and the NTK also needs E[φ'(u)φ'(v)], which
is the derivative of the dual with respect to K (Price's theorem).
"""

import abc
import functools
import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kpoison._typing import Scalar
from kpoison._validation import check_finite_scalar, check_integer, check_name
from kpoison.kernels import _versines
from kpoison.kernels._cusp import angle, arc_excess, cusp_sqrt
from kpoison.kernels._versines import Versines
from kpoison.kernels.base import matrix_product

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


class Covariance(NamedTuple):
    """Covariance of the pre-activations of a layer at two points; broadcastable arrays.

    Attributes:
        variance_x: qx = K(x, x).
        variance_z: qz = K(z, z).
        covariance: K(x, z).
    """

    variance_x: Array
    variance_z: Array
    covariance: Array

    def dense(self, weight_variance: Array, bias_variance: Array) -> "Covariance":
        """After a dense layer."""
        return Covariance(*(weight_variance * number + bias_variance for number in self))


class Wedge(NamedTuple):
    """The same covariance, in numbers that keep full relative precision for (anti)parallel points.

    Attributes:
        norm_x, norm_z: standard deviations √K(x, x) and √K(z, z).
        gap: norm_x − norm_z.
        covariance: K(x, z).
        defect: norm_x·norm_z − K(x, z) = norm_x norm_z (1 − cos θ).
        antidefect: norm_x·norm_z + K(x, z).
    """

    norm_x: Array
    norm_z: Array
    gap: Array
    covariance: Array
    defect: Array
    antidefect: Array

    def dense(self, weight_variance: Array, bias_variance: Array) -> "Wedge":
        """After a dense layer, in sums of non-negative terms only."""
        norm_x, norm_z, gap, covariance, defect, antidefect = self
        new_x = cusp_sqrt(weight_variance * norm_x**2 + bias_variance)
        new_z = cusp_sqrt(weight_variance * norm_z**2 + bias_variance)
        total = new_x + new_z
        # √((a+b)(c+b)) − √(ac) − b and √((a+b)(c+b)) − √(ac) + b for the bias variance b, without cancellation.
        divisor = new_x * new_z + weight_variance * norm_x * norm_z + bias_variance
        safe = jnp.where(divisor > 0, divisor, 1)
        bias_defect = bias_variance * weight_variance * (gap**2 / safe)
        return Wedge(
            norm_x=new_x,
            norm_z=new_z,
            gap=weight_variance * gap * ((norm_x + norm_z) / jnp.where(total > 0, total, 1)),
            covariance=weight_variance * covariance + bias_variance,
            defect=weight_variance * defect + bias_defect,
            antidefect=weight_variance * antidefect + bias_defect + 2 * bias_variance,
        )


Angular = Wedge | Versines
State = TypeVar("State", bound=Covariance | Angular)


class Activation(eqx.Module, Generic[State]):
    """An activation function φ and its effect on covariances.

    `input_state` and `input_gram` start the recursion with the first dense layer's pre-activations, of covariance
    weight_variance · x·z + bias_variance (weight_variance already divided by the input dimension).
    """

    @abc.abstractmethod
    def __call__(self, u: Array) -> Array:
        """φ(u), elementwise: what a finite network applies."""

    @abc.abstractmethod
    def input_state(self, x: Array, z: Array, weight_variance: Array, bias_variance: Array) -> State:
        """State of the first layer at two single points, computed from their difference."""

    @abc.abstractmethod
    def input_gram(self, X1: Array, X2: Array, weight_variance: Array, bias_variance: Array) -> State:
        """State of the first layer at all pairs, computed from a matrix product."""

    def layer(self, state: State, weight_variance: Array, bias_variance: Array) -> State:
        """State after φ and one more dense layer."""
        return self.activated(state).dense(weight_variance, bias_variance)  # pyright: ignore[reportReturnType]

    @abc.abstractmethod
    def mean_square(self, variance: Array) -> Array:
        """E[φ(u)²], elementwise."""

    @abc.abstractmethod
    def activated(self, state: State) -> State:
        """State of φ(u) and φ(v), before any further layer."""

    @abc.abstractmethod
    def derivative_covariance(self, state: State) -> Array:
        """E[φ'(u)φ'(v)]; not a part of `layer`, since E[φφ] has derivatives where this has none."""

    @property
    @abc.abstractmethod
    def smoothness(self) -> tuple[int | float, int | float]:
        """How often E[φφ] and E[φ'φ'] are continuously differentiable at coincident points."""


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
        variances = self.mean_square(state.variance_x), self.mean_square(state.variance_z)
        return Covariance(*variances, self.dual(*state))

    def derivative_covariance(self, state: Covariance) -> Array:
        """E[φ'(u)φ'(v)], the derivative of the dual with respect to K."""
        variance_x, variance_z, covariance = state

        def dual_in_covariance(k):
            return self.dual(variance_x, variance_z, k)

        return jax.jvp(dual_in_covariance, (covariance,), (jnp.ones_like(covariance),))[1]

    @property
    def smoothness(self) -> tuple[int | float, int | float]:
        """Infinite."""
        return math.inf, math.inf


class Erf(SmoothActivation):
    """φ(u) = erf(u) (Williams 1997)."""

    def __call__(self, u: Array) -> Array:
        """erf(u)."""
        return jax.scipy.special.erf(u)

    def dual(self, variance_x: Array, variance_z: Array, covariance: Array) -> Array:
        """(2/π) arcsin(2K/√((1 + 2qx)(1 + 2qz))), as an arctangent that stays exact as K → qx, qz → ∞."""
        gram_determinant = variance_x * variance_z - covariance**2
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
        gram_determinant = variance_x * variance_z - squared
        root = jnp.sqrt(1 + variance_x + variance_z + gram_determinant)
        orthant = 0.25 + jnp.arctan2(covariance, root) / (2 * jnp.pi)
        correction = gram_determinant + squared * (1 / (1 + variance_x) + 1 / (1 + variance_z))
        return covariance * orthant + correction / (2 * jnp.pi * root)


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

    function: Callable[[Array], Array] = eqx.field(static=True)
    nodes: int = eqx.field(static=True, default=64)

    def __check_init__(self):
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {type(self.function).__name__}")
        check_integer("nodes", self.nodes, 2)

    def __call__(self, u: Array) -> Array:
        """φ(u)."""
        return self.function(u)

    def dual(self, variance_x: Array, variance_z: Array, covariance: Array) -> Array:
        """E[φ(u)φ(v)]."""
        return _gaussian_expectation(self.function, self.function, self.nodes, variance_x, variance_z, covariance)


class LeakyReLU(Activation[Angular]):
    """φ(u) = max(u, 0) + slope·min(u, 0) (Cho, Saul 2009 for slope 0).

    Its dual has a kink of order θ³ where the points are parallel and E[φ'φ'] a cusp of order θ, so the state
    carries ‖a‖‖b‖(1 − cos θ) instead of cos θ, from which every layer's angle follows without cancellation.
    """

    slope: Scalar = 0.01

    def __check_init__(self):
        check_finite_scalar("slope", self.slope)

    def __call__(self, u: Array) -> Array:
        """max(u, 0) + slope·min(u, 0)."""
        return jnp.where(u > 0, u, jnp.asarray(self.slope, u.dtype) * u)

    def input_state(self, x: Array, z: Array, weight_variance: Array, bias_variance: Array) -> Wedge:
        """Wedge of the first layer at two points, from x − z and x + z.

        With a = (√w x, √b), c likewise for z and ‖c‖ <= ‖a‖, the vector a‖c‖ − c‖a‖ is (a − c)‖c‖ − c(‖a‖ − ‖c‖),
        in which nothing cancels for points that are close, nor for points of very different norm.
        """
        root_w = jnp.sqrt(weight_variance)
        norm_x = cusp_sqrt(weight_variance * jnp.sum(x * x) + bias_variance)
        norm_z = cusp_sqrt(weight_variance * jnp.sum(z * z) + bias_variance)
        product, total = norm_x * norm_z, norm_x + norm_z
        difference, sum_ = root_w * (x - z), root_w * (x + z)
        vanishing = product == 0
        gap = jnp.sum(difference * sum_) / jnp.where(total > 0, total, 1)
        x_is_shorter = norm_x <= norm_z
        shorter, shorter_norm = root_w * jnp.where(x_is_shorter, x, z), jnp.where(x_is_shorter, norm_x, norm_z)
        sign = jnp.where(x_is_shorter, -1, 1)
        apart = sign * difference * shorter_norm - shorter * (sign * gap)
        along = sum_ * shorter_norm + shorter * (sign * gap)
        divisor = 2 * jnp.where(vanishing, 1, product)
        defect = (jnp.sum(apart * apart) + bias_variance * gap * gap) / divisor
        antidefect = (jnp.sum(along * along) + bias_variance * total * total) / divisor
        covariance = weight_variance * jnp.sum(x * z) + bias_variance

        # Exactly collinear points leave only rounding noise, whose direction would decide the derivative.
        noise = (16 * jnp.finfo(x.dtype).eps * shorter_norm) ** 2 / divisor
        defect = _snap(defect, defect <= noise * jnp.sum(difference * difference))
        antidefect = _snap(antidefect, antidefect <= noise * jnp.sum(sum_ * sum_))
        # Where a vector vanishes the two defects are 0 with derivatives −dK and dK: a right angle, see `NTK`.
        defect = jnp.where(vanishing, -covariance, defect)
        antidefect = jnp.where(vanishing, covariance, antidefect)
        return Wedge(norm_x, norm_z, gap, covariance, defect, antidefect)

    def input_gram(self, X1: Array, X2: Array, weight_variance: Array, bias_variance: Array) -> Versines:
        """Angles of the first layer at all pairs."""
        return _versines.first_layer(X1, X2, weight_variance, bias_variance)

    def mean_square(self, variance: Array) -> Array:
        """½(1 + slope²) times the variance."""
        return 0.5 * (1 + jnp.asarray(self.slope, variance.dtype) ** 2) * variance

    def activated(self, state: Angular) -> Angular:
        """State of φ(u) and φ(v), in sums of non-negative terms only (for slope >= 0)."""
        slope = jnp.asarray(self.slope, state.covariance.dtype)
        if isinstance(state, Versines):
            return _versines.activated(state, slope)
        norm_x, norm_z, gap, covariance, defect, antidefect = state
        kink = 0.5 * (1 - slope) ** 2
        scale = jnp.sqrt(self.mean_square(jnp.ones_like(slope)))
        # ‖a‖‖b‖ times the arc-cosine kernel of degree 1, and times one minus it; from the nearer of the two
        # poles, parallel or antiparallel, so that neither cancels.
        acute, near, far = _nearer_pole(state)
        excess = arc_excess(near, far) / jnp.pi
        half_sum = 0.5 * (defect + antidefect)
        arc = jnp.where(acute, covariance, 0) + excess
        arc_defect = jnp.where(acute, defect, half_sum) - excess
        return Wedge(
            norm_x=scale * norm_x,
            norm_z=scale * norm_z,
            gap=scale * gap,
            covariance=slope * covariance + kink * arc,
            defect=slope * defect + kink * arc_defect,
            antidefect=slope * antidefect + kink * (half_sum + arc),
        )

    def derivative_covariance(self, state: Angular) -> Array:
        """slope + ½(1 − slope)² (1 − θ/π)."""
        slope = jnp.asarray(self.slope, state.covariance.dtype)
        if isinstance(state, Versines):
            return _versines.derivative_covariance(state, slope)
        acute, near, far = _nearer_pole(state)
        turn = angle(near, far) / jnp.pi
        return slope + 0.5 * (1 - slope) ** 2 * jnp.where(acute, 1 - turn, turn)

    @property
    def smoothness(self) -> tuple[int | float, int | float]:
        """E[φφ] has two derivatives where points coincide, E[φ'φ'] none."""
        return 2, 0


def _nearer_pole(state: Wedge) -> tuple[Array, Array, Array]:
    """Whether the points are nearer to parallel than to antiparallel, and the smaller and the larger defect."""
    acute = state.defect <= state.antidefect
    near, far = jnp.where(acute, state.defect, state.antidefect), jnp.where(acute, state.antidefect, state.defect)
    return acute, near, far


def _snap(value: Array, to_zero: Array) -> Array:
    """0 where told, with the derivatives of `value` kept."""
    return jnp.where(to_zero, value - jax.lax.stop_gradient(value), value)


class ReLU(LeakyReLU):
    """φ(u) = max(u, 0)."""

    slope: Scalar = eqx.field(static=True, default=0.0)


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
        check_name("activation", activation, activation_names)
        return _BY_NAME[activation]()
    if callable(activation):
        return Quadrature(activation)
    raise TypeError(f"activation must be a name, an Activation or a function, got {type(activation).__name__}")
