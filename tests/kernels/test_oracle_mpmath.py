"""Values, gradients and Hessians against mpmath at 100 digits, down to a distance of 1e-9."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from catalogue import CLASSICAL, COMPOSITE, KINKED, SMOOTH, dear_are_slow, is_cone, is_kinked, networks

from kpoison import kernels as kk
from kpoison.kernels.activations import Covariance

# What the project promises at every distance and in every direction.
PROMISE = 1e-10
# What is left of it where nothing cancels: stationary and dot-product kernels are computed from few operations,
# ReLU networks from sums of terms of one sign, a hundred operations for three layers.  (The gradients of the
# smooth networks are small differences near the diagonal, and along the ray an angle is a small difference.)
ROUNDING = 100 * np.finfo(float).eps

ZETA = np.array([0.75, -1.25, 0.5])  # few bits: ZETA·(1 + 2^-k) is exact, hence exactly radial
ACROSS = np.array([0.48, 0.36, 0.8])
NEARLY_RADIAL = ZETA / np.linalg.norm(ZETA) + 1e-3 * ACROSS
DISTANCES = (1.0, 1e-2, 1e-4, 1e-6, 1e-9)
PROBES = {
    "generic": np.stack([ZETA + r * ACROSS for r in DISTANCES]),
    "nearly radial": np.stack([ZETA + r * NEARLY_RADIAL for r in DISTANCES]),
    "radial": np.stack([ZETA * (1 + 2.0**-k) for k in (0, 7, 13, 20, 30)]),
}

ALL = CLASSICAL | COMPOSITE | networks(depths=(1, 2, 3), every=False)
COMPILED = CLASSICAL | networks(kinds=("NTK",), activations=("relu", "leaky_relu", "erf", "gelu"), depths=(1,))


def derivatives(kernel, points, z):
    """Value, gradient and Hessian at each of the points."""

    def gradient_with_value(x):
        value, gradient = jax.value_and_grad(kernel.evaluate)(x, z)
        return gradient, (value, gradient)

    hessian, (value, gradient) = jax.vmap(jax.jacfwd(gradient_with_value, has_aux=True))(points)
    return value, gradient, hessian


def worst_errors(kernel, points, z=ZETA, *, compiled=False):
    """The largest relative errors of value, gradient and Hessian over the points, norm by norm."""
    function = jax.jit(derivatives, static_argnums=0) if compiled else derivatives
    results = zip(*function(kernel, jnp.asarray(points), jnp.asarray(z)), strict=True)
    errors = [
        [oracles.relative_error(got, exact) for got, exact in zip(result, oracles.jet(kernel, x, z), strict=True)]
        for result, x in zip(results, points, strict=True)
    ]
    return dict(zip(("value", "gradient", "Hessian"), np.max(errors, axis=0), strict=True))


def directions(kernel):
    """Directions in which it has two derivatives: a ReLU NTK without biases has none along the ray."""
    cusp_along_ray = is_cone(kernel) and kernel.smoothness == 0
    return [name for name in PROBES if not (cusp_along_ray and name == "radial")]


@pytest.mark.parametrize("name", dear_are_slow(ALL, 2, 3))
def test_every_distance_and_direction(name):
    kernel = ALL[name]
    errors = {direction: worst_errors(kernel, PROBES[direction]) for direction in directions(kernel)}
    for direction, of_direction in errors.items():
        no_cancellation = direction == "generic" and (name in CLASSICAL or is_kinked(kernel))
        assert max(of_direction.values()) < (ROUNDING if no_cancellation else PROMISE), (direction, of_direction)


@pytest.mark.parametrize("name", dear_are_slow(COMPILED))
def test_compiled(name):
    """A compiler may fuse and reorder, and must not bring the cancellation back."""
    kernel = COMPILED[name]
    errors = worst_errors(kernel, np.concatenate([PROBES[key] for key in directions(kernel)]), compiled=True)
    assert max(errors.values()) < PROMISE, errors


@pytest.mark.slow
@pytest.mark.parametrize("name", networks(every=False))
def test_compiled_deeper(name):
    kernel = networks()[name]
    errors = worst_errors(kernel, np.concatenate([PROBES[key] for key in directions(kernel)]), compiled=True)
    assert max(errors.values()) < PROMISE, errors


@pytest.mark.parametrize("name", networks(activations=KINKED, every=False))
def test_antiparallel_points(name):
    """A ReLU network's kernel has its second cusp at x = −z."""
    kernel = networks(activations=KINKED)[name]
    errors = worst_errors(kernel, -PROBES["generic"])
    assert max(errors.values()) < PROMISE, errors


@pytest.mark.parametrize("slope", [-1.0, -0.4, 2.0])
def test_unusual_slopes(slope):
    """The absolute value (slope −1) and others whose terms are not all positive, in general position."""
    errors = worst_errors(kk.NTK(2, kk.LeakyReLU(slope), 1.4, 0.3), PROBES["generic"])
    assert max(errors.values()) < PROMISE, errors


@pytest.mark.parametrize("name", networks(activations=KINKED, every=False))
def test_points_of_unequal_norm(name):
    """A dim image beside a bright one: far apart, at a wide angle, nothing is ill-conditioned."""
    kernel, ratios = networks(activations=KINKED)[name], (1e-8, 1e-4, 1e-2, 1e4, 1e8)
    points = np.outer(ratios, ACROSS)
    results = zip(*derivatives(kernel, jnp.asarray(points), jnp.asarray(ZETA)), strict=True)
    errors = {
        ratio: max(map(oracles.relative_error, result, oracles.jet(kernel, x, ZETA)))
        for ratio, x, result in zip(ratios, points, results, strict=True)
    }
    assert max(errors.values()) < PROMISE, errors


@pytest.mark.parametrize("name", networks(activations=SMOOTH, depths=(1,), every=False))
def test_smooth_networks_at_a_dim_point(name):
    """Upwards they saturate, and their derivatives underflow."""
    errors = worst_errors(
        networks(activations=SMOOTH, depths=(1,))[name], np.outer([1e-4, 1e-3, 1e-2, 1e-1, 1.0], ACROSS)
    )
    assert max(errors.values()) < PROMISE, errors


# --- The oracle's own formulas, and the activations that have none ---------------------------------------------

COVARIANCES = [(1.3, 0.7, 0.5), (2.0, 2.0, -1.2)]


def dual_and_derivative(activation, variance_x, variance_z, covariance):
    """E[φφ] and E[φ'φ'], as floats."""
    state = Covariance(*(jnp.asarray(float(number)) for number in (variance_x, variance_z, covariance)))
    return float(activation.dual(*state)), float(activation.derivative_covariance(state))


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(
    ("activation", "function", "derivative"),
    [
        (kk.Erf(), mp.erf, lambda u: 2 / mp.sqrt(mp.pi) * mp.exp(-(u**2))),
        (kk.GELU(), lambda u: u * mp.ncdf(u), lambda u: mp.ncdf(u) + u * mp.npdf(u)),
        (kk.Sin(), mp.sin, mp.cos),
        (kk.Cos(), mp.cos, lambda u: -mp.sin(u)),
    ],
    ids=SMOOTH,
)
def test_closed_forms_are_the_integrals(activation, function, derivative, covariance):
    with mp.workdps(25):
        # Entire functions: at this step the rule's error is below 1e-20, and so are the tails it leaves out.
        settings = {"step": 0.3, "half_width": 10.5}
        integrals = [
            oracles.gaussian_expectation(f, *map(mp.mpf, covariance), **settings) for f in (function, derivative)
        ]
    with mp.workdps(oracles.DIGITS):
        formulas = [dual(*map(mp.mpf, covariance)) for dual in oracles.dual(activation)]
        for formula, integral in zip(formulas, integrals, strict=True):
            assert abs(formula - integral) < mp.mpf(10) ** -15
    for number, integral in zip(dual_and_derivative(activation, *covariance), integrals, strict=True):
        assert abs(number - integral) < ROUNDING


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("slope", [0.0, 0.1, -1.0])
def test_arc_cosine_formulas_are_the_integrals(slope, covariance):
    """In polar coordinates, where E[φ(u)φ(v)] is an integral over the angle between the lines of the kinks."""
    with mp.workdps(25):
        a, b, k = map(mp.mpf, covariance)
        theta = mp.acos(k / mp.sqrt(a * b))
        kinks = sorted(
            {-mp.pi, -mp.pi / 2, mp.pi / 2, theta - mp.pi / 2, theta - 3 * mp.pi / 2, theta + mp.pi / 2, mp.pi}
        )
        kinks = [angle for angle in kinks if -mp.pi <= angle <= mp.pi]

        def activation(u):
            return max(u, 0) + mp.mpf(slope) * min(u, 0)

        def derivative(u):
            return mp.mpf(1) if u > 0 else mp.mpf(slope)

        expectation = mp.quad(lambda t: activation(mp.cos(t)) * activation(mp.cos(t - theta)), kinks) / mp.pi
        slopes = mp.quad(lambda t: derivative(mp.cos(t)) * derivative(mp.cos(t - theta)), kinks) / (2 * mp.pi)
        formulas = [dual(a, b, k) for dual in oracles.dual(kk.LeakyReLU(slope))]
        assert abs(formulas[0] - mp.sqrt(a * b) * expectation) < mp.mpf(10) ** -15
        assert abs(formulas[1] - slopes) < mp.mpf(10) ** -15


@functools.cache
def tanh_expectations(variance, correlation):
    """E[φφ] and E[φ'φ'] for tanh, whose nearest singularity is at iπ/2: an error of exp(−π²/(step·√variance))."""
    with mp.workdps(25):
        covariance = (mp.mpf(variance), mp.mpf(variance), mp.mpf(variance) * mp.mpf(correlation))
        return [
            float(oracles.gaussian_expectation(f, *covariance, step=0.1, half_width=9))
            for f in (mp.tanh, lambda u: mp.sech(u) ** 2)
        ]


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [-1.0, 0.5, 1.0])
@pytest.mark.parametrize(("nodes", "variance", "accuracy"), [(64, 1, 1e-11), (64, 4, 2e-5), (160, 4, 1e-13)])
def test_quadrature_of_tanh(nodes, variance, accuracy, correlation):
    """The accuracy that `Quadrature` states for itself."""
    exact = tanh_expectations(variance, correlation)
    numbers = dual_and_derivative(kk.Quadrature(jnp.tanh, nodes), variance, variance, variance * correlation)
    assert np.max(np.abs(np.subtract(numbers, exact))) < accuracy
    assert kk.Quadrature(jnp.tanh).nodes == 64


@pytest.mark.slow
def test_quadrature_of_an_entire_function():
    """To rounding, with its derivatives, at ordinary and coincident points."""
    points = jnp.asarray(np.concatenate([PROBES["generic"], [ZETA, -ZETA, 0 * ZETA]]))
    by_quadrature = derivatives(kk.NNGP(1, kk.Quadrature(jnp.sin), 1.1, 0.3), points, jnp.asarray(ZETA))
    closed = derivatives(kk.NNGP(1, "sin", 1.1, 0.3), points, jnp.asarray(ZETA))
    for got, expected in zip(by_quadrature, closed, strict=True):
        # 4096 weighted terms of size one
        np.testing.assert_allclose(got, expected, rtol=0, atol=100 * ROUNDING)
