"""Kernels in mpmath at 100 digits, from the textbook formulas, and their derivatives by finite differences.

Nothing here is rearranged against cancellation: precision pays for it. The difference step is far below every
distance that the tests use (1e-9 apart, 1e-12 across) and far above the rounding of 100 digits, so that
differences are right to about 1e-25. Being central, they are also right where a kernel has no more than two
derivatives, and at a cusp they are the mean of the one-sided derivatives.
"""

import operator
from collections.abc import Callable, Sequence

import mpmath as mp
import numpy as np

from kpoison import kernels as kk
from kpoison.kernels.activations import LeakyReLU
from kpoison.kernels.neural import NeuralKernel
from kpoison.kernels.stationary import Stationary

DIGITS = 100
STEP = mp.mpf(10) ** -25

Function = Callable[[Sequence, Sequence], mp.mpf]
"""(x, z) → k(x, z)."""
Dual = Callable[[mp.mpf, mp.mpf, mp.mpf], mp.mpf]
"""(qx, qz, K) → E[f(u) g(v)] for (u, v) of that covariance."""


def exact(kernel: kk.Kernel) -> Function:
    """The same kernel, with the same parameters, in mpmath."""
    match kernel:
        case Stationary():
            function = _stationary(kernel)
        case kk.Polynomial(degree=degree, offset=offset):
            function = lambda x, z: (_dot(x, z) + _real(offset)) ** degree  # noqa: E731
        case kk.Linear():
            function = _dot
        case NeuralKernel():
            function = _network(kernel)
        case kk.Sum(first=first, second=second) | kk.Product(first=first, second=second):
            one, other = exact(first), exact(second)
            combine = operator.add if isinstance(kernel, kk.Sum) else operator.mul
            function = lambda x, z: combine(one(x, z), other(x, z))  # noqa: E731
        case kk.Power(kernel=inner, exponent=exponent):
            base = exact(inner)
            function = lambda x, z: base(x, z) ** exponent  # noqa: E731
        case kk.Constant(value=number):
            function = lambda x, z: _real(number)  # noqa: E731
        case kk.Scaled(kernel=inner, scale=scale):
            unscaled = exact(inner)
            function = lambda x, z: _real(scale) * unscaled(x, z)  # noqa: E731
        case _:
            raise NotImplementedError(f"no oracle for {kernel}")
    return function


def value(kernel: kk.Kernel, x, z) -> float:
    """k(x, z)."""
    with mp.workdps(DIGITS):
        return float(exact(kernel)(_point(x), _point(z)))


def jet(kernel: kk.Kernel, x, z) -> tuple[float, np.ndarray, np.ndarray]:
    """k(x, z), its gradient and its Hessian in x."""
    with mp.workdps(DIGITS):
        function, z = exact(kernel), _point(z)
        return _jet(lambda x: function(x, z), _point(x))


def joint_jet(kernel: kk.Kernel, x, z) -> tuple[float, np.ndarray, np.ndarray]:
    """k(x, z), its gradient and its Hessian in (x, z), both arguments at once."""
    with mp.workdps(DIGITS):
        function, d = exact(kernel), len(x)
        return _jet(lambda xz: function(xz[:d], xz[d:]), _point(x) + _point(z))


def gradient(kernel: kk.Kernel, x, z) -> np.ndarray:
    """The gradient in x alone; at a cusp the mean of the one-sided derivatives along each axis."""
    with mp.workdps(DIGITS):
        function, x, z = exact(kernel), _point(x), _point(z)
        ends = [[function(_moved(x, (i, s)), z) for s in (1, -1)] for i in range(len(x))]
        return np.array([float((plus - minus) / (2 * STEP)) for plus, minus in ends])


def dual(activation: kk.Activation) -> tuple[Dual, Dual]:
    """E[φ(u)φ(v)] and E[φ'(u)φ'(v)] of an activation with a closed form, as functions of (qx, qz, K)."""
    match activation:
        case LeakyReLU(slope=slope):
            return _arc_cosine(_real(slope))
        case kk.Erf():
            return (
                lambda a, b, k: 2 / mp.pi * mp.asin(2 * k / mp.sqrt((1 + 2 * a) * (1 + 2 * b))),
                lambda a, b, k: 4 / mp.pi / mp.sqrt((1 + 2 * a) * (1 + 2 * b) - 4 * k**2),
            )
        case kk.Sin():
            return (
                lambda a, b, k: mp.exp(-(a + b) / 2) * mp.sinh(k),
                lambda a, b, k: mp.exp(-(a + b) / 2) * mp.cosh(k),
            )
        case kk.Cos():
            return (
                lambda a, b, k: mp.exp(-(a + b) / 2) * mp.cosh(k),
                lambda a, b, k: mp.exp(-(a + b) / 2) * mp.sinh(k),
            )
        case kk.GELU():
            step = mp.mpf(10) ** -30
            return _gelu, lambda a, b, k: (_gelu(a, b, k + step) - _gelu(a, b, k - step)) / (2 * step)
    raise NotImplementedError(f"no closed form for {activation}")


def gaussian_expectation(f: Callable, variance_x, variance_z, covariance, *, step: float, half_width: float) -> mp.mpf:
    """E[f(u) f(v)] by the trapezoidal rule over two independent normals, at the current precision.

    For an analytic integrand its error falls like exp(−2π·strip/step): to nothing at all, for a small step.
    """
    deviation_x, deviation_z = mp.sqrt(variance_x), mp.sqrt(variance_z)
    cosine = covariance / (deviation_x * deviation_z)
    sine = mp.sqrt(1 - cosine**2)
    count = round(half_width / step)
    nodes = [mp.mpf(step) * i for i in range(-count, count + 1)]
    weights = [mp.mpf(step) * mp.npdf(a) for a in nodes]
    outer = [f(deviation_x * a) for a in nodes]
    return mp.fsum(
        weight_a * weight_b * f_a * f(deviation_z * (cosine * a + sine * b))
        for a, weight_a, f_a in zip(nodes, weights, outer, strict=True)
        for b, weight_b in zip(nodes, weights, strict=True)
        if abs(a) ** 2 + abs(b) ** 2 < half_width**2
    )


def relative_error(result, reference) -> float:
    """‖result − reference‖ / ‖reference‖; ‖result‖ where the reference is 0 (up to the error of differences)."""
    size = np.linalg.norm(reference)
    if size < 1e-20:
        return float(np.linalg.norm(result))
    return float(np.linalg.norm(np.asarray(result) - reference) / size)


def _real(number) -> mp.mpf:
    return mp.mpf(float(number))


def _point(x) -> list[mp.mpf]:
    return [mp.mpf(float(component)) for component in x]


def _dot(x, z) -> mp.mpf:
    return mp.fsum(a * b for a, b in zip(x, z, strict=True))


def _moved(x: list, *moves: tuple[int, int]) -> list:
    moved = list(x)
    for index, sign in moves:
        moved[index] += sign * STEP
    return moved


def _jet(function: Callable, x: list) -> tuple[float, np.ndarray, np.ndarray]:
    n = len(x)
    here = function(x)
    ends = [[function(_moved(x, (i, s))) for s in (1, -1)] for i in range(n)]
    slope = np.array([float((plus - minus) / (2 * STEP)) for plus, minus in ends])
    curvature = np.zeros((n, n))
    for i in range(n):
        curvature[i, i] = float((ends[i][0] - 2 * here + ends[i][1]) / STEP**2)
        for j in range(i):
            corners = mp.fsum(s * t * function(_moved(x, (i, s), (j, t))) for s in (1, -1) for t in (1, -1))
            curvature[i, j] = curvature[j, i] = float(corners / (4 * STEP**2))
    return float(here), slope, curvature


def _stationary(kernel: Stationary) -> Function:
    def profile(t):
        match kernel:
            case kk.RBF():
                return mp.exp(-(t**2) / 2)
            case kk.RationalQuadratic(alpha=alpha):
                return (1 + t**2 / (2 * _real(alpha))) ** -_real(alpha)
            case kk.Laplace():
                return mp.exp(-t)
            case kk.Matern32():
                return (1 + mp.sqrt(3) * t) * mp.exp(-mp.sqrt(3) * t)
            case kk.Matern52():
                return (1 + mp.sqrt(5) * t + 5 * t**2 / 3) * mp.exp(-mp.sqrt(5) * t)
        raise NotImplementedError(f"no oracle for {kernel}")

    def function(x, z):
        lengths = np.broadcast_to(kernel.length_scale, len(x))
        scaled = [(a - b) / _real(length) for a, b, length in zip(x, z, lengths, strict=True)]
        return profile(mp.sqrt(_dot(scaled, scaled)))

    return function


def _network(kernel: NeuralKernel) -> Function:
    def function(x, z):
        weight, bias = _real(kernel.weight_std) ** 2, _real(kernel.bias_std) ** 2
        expectation, derivative_expectation = dual(kernel.activation)
        qx, qz, covariance = (weight * _dot(a, b) / len(x) + bias for a, b in ((x, x), (z, z), (x, z)))
        tangent = covariance
        for _ in range(kernel.hidden_layers):
            slope = weight * derivative_expectation(qx, qz, covariance)
            qx, qz, covariance = (
                weight * expectation(*arguments) + bias
                for arguments in ((qx, qx, qx), (qz, qz, qz), (qx, qz, covariance))
            )
            tangent = covariance + slope * tangent
        return tangent if isinstance(kernel, kk.NTK) else covariance

    return function


def _arc_cosine(slope: mp.mpf) -> tuple[Dual, Dual]:
    """Cho and Saul (2009), for φ(u) = slope·u + (1 − slope)·max(u, 0)."""

    def cosine(a, b, k):
        norm = mp.sqrt(a * b)
        return max(mp.mpf(-1), min(mp.mpf(1), k / norm)) if norm else mp.mpf(0)

    def expectation(a, b, k):
        c = cosine(a, b, k)
        theta = mp.acos(c)
        arc = mp.sqrt(a * b) * (mp.sin(theta) + (mp.pi - theta) * c) / mp.pi
        return slope * k + (1 - slope) ** 2 * arc / 2

    def derivative_expectation(a, b, k):
        return slope + (1 - slope) ** 2 * (1 - mp.acos(cosine(a, b, k)) / mp.pi) / 2

    return expectation, derivative_expectation


def _gelu(a, b, k) -> mp.mpf:
    """Tsuchida et al. (2021), Avoiding kernel fixed points, proposition on the GELU."""
    determinant = a * b - k**2
    root = mp.sqrt(1 + a + b + determinant)
    fraction = (a * b + k**2 + (a + b + determinant) * a * b) / ((1 + a) * (1 + b) * root)
    return k / 4 + (fraction + k * mp.atan(k / root)) / (2 * mp.pi)
