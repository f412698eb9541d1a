"""T5: spectral densities against mpmath, the multiplier against Fourier transforms of fits, ℓ_eff against both."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import kpoison as kp
from kpoison import kernels as kk
from kpoison.flow import effective_length_scale, multiplier, penalised_spectral_density, spectral_density

EPS = float(np.finfo(float).eps)
RUN_TIME = (RuntimeError, ValueError)
ELL = 0.7
NU = {kk.Laplace: 0.5, kk.Matern32: 1.5, kk.Matern52: 2.5}
KERNELS = {
    "rbf": kk.RBF(ELL),
    "laplace": kk.Laplace(ELL),
    "matern32": kk.Matern32(ELL),
    "matern52": kk.Matern52(ELL),
    "rational quadratic 0.3": kk.RationalQuadratic(ELL, 0.3),
    "rational quadratic 0.51": kk.RationalQuadratic(ELL, 0.51),
    "rational quadratic 1": kk.RationalQuadratic(ELL, 1.0),
    "rational quadratic 2.7": kk.RationalQuadratic(ELL, 2.7),
    "rational quadratic 60": kk.RationalQuadratic(ELL, 60.0),
    "sum": 0.3 * kk.RBF(ELL) + 2.0 * (kk.Matern32(0.2) + kk.RationalQuadratic(1.3, 4.0)),
}
METRIC = np.array([[1.0, 0.4], [0.4, 0.5]])


def exact_density(kernel, w, d):
    """k̂ at a frequency of norm w, from its textbook form, at the current precision."""
    match kernel:
        case kk.Sum(first=first, second=second):
            return exact_density(first, w, d) + exact_density(second, w, d)
        case kk.Scaled(kernel=inner, scale=scale):
            return mp.mpf(scale) * exact_density(inner, w, d)
    w, ell, half = mp.mpf(w), mp.mpf(kernel.length_scale), mp.mpf(d) / 2
    match kernel:
        case kk.RBF():
            return (2 * mp.pi) ** half * ell**d * mp.exp(-((ell * w) ** 2) / 2)
        case kk.RationalQuadratic(alpha=alpha):
            alpha = mp.mpf(alpha)
            beta, c = alpha - half, (ell * w) ** 2 / 2
            constant = (2 * mp.pi) ** half * ell**d * alpha**alpha / mp.gamma(alpha)
            if w == 0:
                return constant * mp.gamma(beta) * alpha**-beta
            return 2 * constant * (c / alpha) ** (beta / 2) * mp.besselk(beta, 2 * mp.sqrt(alpha * c))
    nu = mp.mpf(NU[type(kernel)])
    constant = 2**d * mp.pi**half * mp.gamma(nu + half) * (2 * nu) ** nu / mp.gamma(nu) / ell ** (2 * nu)
    return constant * (2 * nu / ell**2 + w**2) ** (-nu - half)


def has_mass(kernel, d):
    return not (isinstance(kernel, kk.RationalQuadratic) and kernel.alpha <= d / 2)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("name", KERNELS)
def test_spectral_densities_are_exact_to_rounding(name, d):
    kernel = KERNELS[name]
    norms = [w for w in (0.0, 1e-10, 1e-3, 0.4, 2.0, 11.0, 60.0) if w or has_mass(kernel, d)]
    v = np.array([0.6, -0.8, 0.0])[:d] if d > 1 else np.array([-1.0])
    found = np.asarray(spectral_density(kernel, jnp.asarray(np.outer(norms, v))))
    with mp.workdps(40):
        exact = [exact_density(kernel, w, d) for w in norms]
    for one, reference, w in zip(found, exact, norms, strict=True):
        # Exponents: of a Gaussian (ωℓ)²/2, of the mixture at most 2ωℓ √α; each has its rounding, as ω has.
        exponent = 0.5 * (ELL * w) ** 2 if isinstance(kernel, kk.RBF) else 4 * ELL * w * 60**0.5
        assert abs(one - float(reference)) <= 40 * EPS * (1 + exponent) * float(reference)


def test_the_rational_quadratic_tends_to_the_rbf_kernel():
    omega = jnp.array([[0.0], [0.5], [3.0]])
    for alpha in (1e6, 1e9):
        found = spectral_density(kk.RationalQuadratic(ELL, alpha), omega)
        # Its logarithm differs by the fourth cumulant and the next: ((ωℓ)⁴ + (ωℓ)² + 1)/α.
        np.testing.assert_allclose(found, spectral_density(kk.RBF(ELL), omega), rtol=30 / alpha)


def fitted(kernel, sides, points, ridge, penalty, metric=None):
    """Frequencies, the Fourier transform of the response to a unit impulse, and its rounding."""
    axes = [side / n * np.arange(n) for side, n in zip(sides, points, strict=True)]
    X = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(sides))
    y = np.zeros(len(X))
    y[0] = 1.0
    clean = kp.fit(kernel, X, y, gradient_penalty=penalty, metric=metric)
    response = np.fft.fftn(np.asarray(kp.predict(clean, X, ridge)).reshape(points))
    waves = [2 * np.pi * np.fft.fftfreq(n, side / n) for side, n in zip(sides, points, strict=True)]
    omega = np.stack(np.meshgrid(*waves, indexing="ij"), axis=-1)
    rounding = 10 * EPS * float(clean.condition_number(jnp.asarray(len(X) * ridge))) * len(X) ** 0.5
    assert np.max(np.abs(response.imag)) <= rounding
    return jnp.asarray(omega), response.real, rounding


RIDGE = 0.05


@pytest.mark.parametrize("penalty", [0.0, 2e-3, 0.3])
@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(kk.RBF(0.4), marks=pytest.mark.slow),
        kk.RBF(0.03),
        pytest.param(kk.Matern52(0.3), marks=pytest.mark.slow),
        pytest.param(kk.Matern32(0.3), marks=pytest.mark.slow),
        pytest.param(0.5 * kk.RBF(0.4) + kk.Matern32(0.05), marks=pytest.mark.slow),
    ],
    ids=["rbf", "narrow rbf", "matern52", "matern32", "sum"],
)
def test_on_a_ring_the_fit_is_the_multiplier(kernel, penalty):
    side, n = 2 * np.pi, 256 if penalty == 0.3 else 128
    omega, response, rounding = fitted(kk.Periodic(kernel, side), (side,), (n,), RIDGE, penalty)
    law = multiplier(kernel, omega, RIDGE, penalty, side, spacing=side / n)
    assert rounding < 1e-11 or penalty == 0.3
    np.testing.assert_allclose(law, response, rtol=0, atol=min(rounding, 1e-12))


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_without_content_beyond_the_nyquist_frequency_aliases_do_not_matter(penalty):
    """At n = 256 the RBF kernel has exp(−ℓ²(n/2)²/2) < 1e-300 there; the formula of the theory is exact."""
    side, n, kernel = 2 * np.pi, 256, kk.RBF(0.4)
    omega, response, _ = fitted(kk.Periodic(kernel, side), (side,), (n,), RIDGE, penalty)
    np.testing.assert_allclose(multiplier(kernel, omega, RIDGE, penalty, side), response, rtol=0, atol=1e-12)
    formula = 1 / (1 + RIDGE * side / np.asarray(spectral_density(kernel, omega[:20])) + penalty * omega[:20, 0] ** 2)
    np.testing.assert_allclose(multiplier(kernel, omega[:20], RIDGE, penalty, side), formula, rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "metric"),
    [
        pytest.param(kk.RBF(0.6), None, marks=pytest.mark.slow),
        pytest.param(kk.RBF(0.6), METRIC, marks=pytest.mark.slow),
        (kk.RBF(0.6), np.diag([0.7, 0.0])),
        pytest.param(kk.Matern52(0.5), METRIC, marks=pytest.mark.slow),
        pytest.param(kk.Matern32(0.1), METRIC, marks=pytest.mark.slow),
    ],
    ids=["isotropic", "full", "rank 1", "matern52", "narrow"],
)
def test_on_a_torus_the_fit_is_the_multiplier(kernel, metric):
    sides, points = (2 * np.pi, 5.0), (12, 12)
    omega, response, rounding = fitted(kk.Periodic(kernel, np.array(sides)), sides, points, RIDGE, 0.2, metric)
    law = multiplier(kernel, omega, RIDGE, 0.2, np.prod(sides), metric, spacing=np.divide(sides, points))
    np.testing.assert_allclose(law, response, rtol=0, atol=min(rounding, 1e-12))


@pytest.mark.slow
@pytest.mark.parametrize("ell", [0.4, 0.05])
def test_the_heavy_tailed_rational_quadratic_on_a_ring(ell):
    """For α = 1 the sum over images has a closed form, Σ b²/(b² + (x + s)²)."""
    side, n = 2 * np.pi, 96
    half = np.pi * 2**0.5 * ell / side

    def images(x, z):
        return half * np.sinh(2 * half) / 2 / (np.sinh(half) ** 2 + jnp.sin(np.pi / side * (x - z)[0]) ** 2)

    for penalty in (0.0, 0.1):
        omega, response, rounding = fitted(kk.Custom(images), (side,), (n,), RIDGE, penalty)
        law = multiplier(kk.RationalQuadratic(ell, 1.0), omega, RIDGE, penalty, side, spacing=side / n)
        np.testing.assert_allclose(law, response, rtol=0, atol=min(rounding, 1e-12))


@pytest.mark.slow
def test_the_laplace_kernel_without_a_penalty():
    side, n = 3.0, 48
    omega, response, rounding = fitted(kk.Periodic(kk.Laplace(0.4), side), (side,), (n,), RIDGE, 0.0)
    law = multiplier(kk.Laplace(0.4), omega, RIDGE, 0.0, side, spacing=side / n)
    np.testing.assert_allclose(law, response, rtol=0, atol=min(rounding, 1e-12))


@pytest.mark.parametrize("w", [0.0, 3.1, 24.0, 31.4])
@pytest.mark.parametrize("name", ["rbf", "matern52", "rational quadratic 2.7", "matern32"])
def test_aliases_are_summed_to_relative_precision(name, w):
    """Where the multiplier is far below the rounding of a fit, in mpmath with the aliases one by one."""
    kernel, h, ridge, penalty, volume = KERNELS[name], 0.1, 1e3, 0.05, 2.0
    with mp.workdps(40):
        cutoff = 2 * mp.pi / mp.mpf(h)

        def total(power):
            def term(j):
                there = mp.mpf(w) + cutoff * j
                return there**power * exact_density(kernel, abs(there), 1)

            if name in ("rbf", "rational quadratic 2.7"):
                return mp.fsum(term(j) for j in range(-20, 21))
            # Algebraic tails: both sides together, extrapolated.
            return term(0) + mp.nsum(lambda j: term(int(j)) + term(-int(j)), [1, mp.inf])

        value, mixed, slopes = (total(power) / volume for power in range(3))
        H = mp.matrix([[value, mp.sqrt(penalty) * mixed], [mp.sqrt(penalty) * mixed, penalty * slopes]])
        exact = (H * (H + ridge * mp.eye(2)) ** -1)[0, 0]
    found = multiplier(kernel, jnp.array([w]), ridge, penalty, volume, spacing=h)
    # As for the densities: the rounding of exponents up to (ωℓ)²/2.
    assert abs(float(found) - float(exact)) <= 100 * EPS * (1 + 0.5 * (ELL * w) ** 2) * float(exact)


def test_it_does_not_overflow_where_the_density_underflows():
    omega = jnp.array([[1e3], [1e8]])
    for spacing in (None, 1e-9):
        found, slope = jax.value_and_grad(
            lambda omega, spacing=spacing: jnp.sum(multiplier(kk.RBF(1.0), omega, 0.1, 0.2, 1.0, spacing=spacing))
        )(omega)
        assert float(found) == 0
        assert np.all(np.asarray(slope) == 0)


def test_the_multiplier_is_ridge_regression_with_the_penalised_density():
    omega = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)) * 3)
    volume, penalty = 4.0, 0.3
    for kernel in (kk.RBF(ELL), kk.Matern32(ELL)):
        density = penalised_spectral_density(kernel, omega, RIDGE, penalty, volume, METRIC)
        assert density.shape == (3, 5)
        law = multiplier(kernel, omega, RIDGE, penalty, volume, METRIC)
        np.testing.assert_allclose(law, 1 / (1 + RIDGE * volume / density), rtol=1e-13)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "squared"),
    [
        (kk.RBF(ELL), lambda d: ELL**2),
        (kk.Laplace(ELL), lambda d: ELL**2 * (1 + d)),
        (kk.Matern32(ELL), lambda d: ELL**2 * (1 + d / 3)),
        (kk.Matern52(ELL), lambda d: ELL**2 * (1 + d / 5)),
        (kk.RationalQuadratic(ELL, 2.5), lambda d: ELL**2 * 5 / (3 - d)),
    ],
    ids=["rbf", "laplace", "matern32", "matern52", "rational quadratic"],
)
def test_length_scales_have_their_closed_forms(kernel, squared, d):
    v = np.array([0.6, 0.8]) if d == 2 else np.array([1.0])
    M = METRIC[:d, :d]
    found = effective_length_scale(kernel, jnp.asarray(2 * v), RIDGE, 0.3, 5.0, M)
    mass = float(spectral_density(kernel, jnp.zeros(d)))
    expected = squared(d) + 2 * 0.3 * (v @ M @ v) * mass / (RIDGE * 5.0)
    np.testing.assert_allclose(found, np.sqrt(expected), rtol=20 * EPS)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("rbf", marks=pytest.mark.slow),
        "matern52",
        "rational quadratic 2.7",
        pytest.param("sum", marks=pytest.mark.slow),
    ],
)
def test_the_length_scale_is_the_curvature_of_the_penalised_density(name):
    kernel, v = KERNELS[name], np.array([1.0])

    def log_density(omega):
        return jnp.log(penalised_spectral_density(kernel, omega, RIDGE, 0.3, 5.0))

    curvature = jax.hessian(log_density)(jnp.zeros(1))[0, 0]
    np.testing.assert_allclose(effective_length_scale(kernel, v, RIDGE, 0.3, 5.0) ** 2, -curvature, rtol=1e-13)


def test_the_length_scale_is_the_second_moment_of_the_prior_given_flat_slopes():
    """By brute force: condition the RBF kernel on slopes of a long ring and integrate x² k_γ(0, x)."""
    ell, side, n, strength = 1.0, 50.0, 200, 1.5
    points = side / n * np.arange(n)
    ridge = 0.02
    mass = np.sqrt(2 * np.pi) * ell
    penalty = strength * ridge * side / mass

    def wrap(x):
        return x - side * np.round(x / side)

    differences = wrap(points[:, None] - points[None])
    second = (1 - differences**2) * np.exp(-0.5 * differences**2)
    slopes = -wrap(points) * np.exp(-0.5 * wrap(points) ** 2)
    solved = np.linalg.solve(second + n * ridge / penalty * np.eye(n), slopes)
    cross = differences * np.exp(-0.5 * differences**2)
    x = wrap(points)
    prior = np.exp(-0.5 * x**2) - cross @ solved
    measured = np.sum(x**2 * prior) / np.sum(prior)
    law = effective_length_scale(kk.RBF(ell), np.array([1.0]), ridge, penalty, side)
    # exp(−25/√1.5): the tail of k_γ at the far end of the ring, times x²/ℓ_eff².
    np.testing.assert_allclose(law**2, measured, rtol=25.0**2 * np.exp(-25 / 1.5**0.5))


NUMBERS = {"length_scale": 0.6, "ridge": 0.05, "penalty": 0.2, "volume": 12.0, "metric": 0.4, "omega": 1.3}


def laws(make):
    def squared_metric(numbers):
        return jnp.array([[1.0, 0.1], [0.1, 1.0]]) * numbers["metric"]

    def arguments(numbers):
        return numbers["ridge"], numbers["penalty"], numbers["volume"], squared_metric(numbers)

    def omega(numbers):
        return jnp.array([[1.0, 0.4], [3.0, -0.2], [0.0, 0.0]], jnp.result_type(numbers["omega"])) * numbers["omega"]

    spacing = np.array([1.0, 0.75])
    return {
        "density": lambda n: spectral_density(make(n["length_scale"]), omega(n)),
        "penalised": lambda n: penalised_spectral_density(make(n["length_scale"]), omega(n), *arguments(n)),
        "multiplier": lambda n: multiplier(make(n["length_scale"]), omega(n), *arguments(n)),
        "aliases": lambda n: multiplier(make(n["length_scale"]), omega(n), *arguments(n), spacing=spacing),
        "length scale": lambda n: effective_length_scale(make(n["length_scale"]), omega(n)[0], *arguments(n))[None],
    }


MAKERS = {"rbf": kk.RBF, "matern32": kk.Matern32, "rational quadratic": lambda ell: kk.RationalQuadratic(ell, 2.3)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("rbf", "penalised"),
        ("rbf", "multiplier"),
        ("rbf", "aliases"),
        pytest.param("matern32", "aliases", marks=pytest.mark.slow),
        pytest.param("rational quadratic", "aliases", marks=pytest.mark.slow),
        ("rational quadratic", "density"),
        ("rational quadratic", "length scale"),
    ],
)
def test_jit_vmap_grad_and_float32(name, law):
    function = laws(MAKERS[name])[law]
    numbers = {key: jnp.asarray(value) for key, value in NUMBERS.items()}
    here = function(numbers)
    compiled = jax.jit(function)
    np.testing.assert_allclose(compiled(numbers), here, rtol=1e-13)
    many = jax.tree.map(lambda number: jnp.stack([number, 1.1 * number]), numbers)
    np.testing.assert_allclose(jax.vmap(compiled)(many)[0], here, rtol=1e-13)
    jacobian = jax.jit(jax.jacrev(function))(numbers)
    for key, slope in jacobian.items():
        step = 1e-5 * float(numbers[key])
        ends = [compiled(numbers | {key: numbers[key] + sign * step}) for sign in (1, -1)]
        difference = (ends[0] - ends[1]) / (2 * step)
        # Central differences: (1e-5)² of the size and eps/1e-5 of it, per relative change.
        size = np.max(np.abs(here)) / float(numbers[key])
        np.testing.assert_allclose(slope, difference, rtol=0, atol=1e-8 * size)
    single = function({key: value.astype(jnp.float32) for key, value in numbers.items()})
    assert single.dtype == jnp.float32
    # Logarithms of weights up to 80 (p − 1) of far nodes are rounded, mostly below 30.
    np.testing.assert_allclose(single, here, rtol=0, atol=100 * np.finfo(np.float32).eps * np.max(np.abs(here)))


@pytest.mark.slow
def test_derivatives_in_alpha():
    def value(alpha, omega):
        return multiplier(kk.RationalQuadratic(ELL, alpha), omega, RIDGE, 0.1, 6.0, spacing=0.5)[0]

    for alpha in (0.9, 1.4, 30.0):
        for w in (0.0, 0.8, 5.0):
            omega, step = jnp.array([[w]]), 1e-5 * alpha
            slope = jax.grad(value)(alpha, omega)
            difference = (value(alpha + step, omega) - value(alpha - step, omega)) / (2 * step)
            np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_the_second_derivative_at_zero_is_right_or_refused():
    """k̂ of a rational quadratic is smooth enough at ω = 0 only for α > 1 + d/2."""

    def density(w, alpha, ell=ELL):
        return spectral_density(kk.RationalQuadratic(ell, alpha), jnp.array([w]))

    curvature = jax.grad(jax.grad(density))(0.0, 2.0)
    # −k̂(0) ℓ² 2α/(2α − d − 2)
    np.testing.assert_allclose(curvature, -density(0.0, 2.0) * ELL**2 * 4, rtol=1e-13)
    with pytest.raises(RUN_TIME, match="second derivative at frequency 0"):
        jax.jit(jax.grad(jax.grad(density)))(0.0, 1.2)
    with pytest.raises(RUN_TIME, match="second derivative at frequency 0"):
        jax.jit(jax.grad(jax.grad(jax.grad(jax.grad(density)))))(0.0, 3.2)
    # First derivatives exist, in ω and in hyper-parameters.
    assert float(jax.grad(density)(0.0, 1.2)) == 0
    np.testing.assert_allclose(jax.grad(density, 2)(0.0, 1.2, ELL), density(0.0, 1.2) / ELL, rtol=1e-13)


ONE, HERE = np.ones(1), np.ones((2, 1))
RBF, RQ = kk.RBF(1.0), kk.RationalQuadratic


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: spectral_density(kk.Linear(), HERE), TypeError, "kernel must be one of RBF, Laplace.*got Linear"),
        (lambda: spectral_density(RBF * RBF, HERE), TypeError, "by scaling and sums, got Product"),
        (lambda: spectral_density(kk.Periodic(RBF, 2.0), HERE), TypeError, "got Periodic"),
        (lambda: spectral_density(RBF, np.ones((2, 1), int)), TypeError, "omega must be a floating-point array"),
        (lambda: spectral_density(RBF, np.array(1.0)), ValueError, r"omega must have shape \(\.\.\., d\)"),
        (lambda: spectral_density(RBF, np.array([np.nan])), ValueError, "omega must be finite"),
        (lambda: spectral_density(RQ(1.0, 0.5), np.zeros(1)), ValueError, "alpha > 0.5 .*got 0.5.*infinite"),
        (lambda: multiplier(RQ(1.0, 1.0), np.zeros(2), 0.1, 0.0, 1.0), ValueError, "alpha > 1 .*2 dimension"),
        (
            lambda: multiplier(RQ(1.0, 0.4), np.array([4 * np.pi]), 0.1, 0.0, 1.0, spacing=0.5),
            ValueError,
            "alpha > 0.5",
        ),
        (lambda: multiplier(RBF, HERE, 0.0, 0.1, 1.0), ValueError, "ridge must be finite and > 0"),
        (lambda: multiplier(RBF, HERE, 0.1, -0.1, 1.0), ValueError, "gradient_penalty must be finite and >= 0"),
        (lambda: multiplier(RBF, HERE, 0.1, 0.1, 0.0), ValueError, "volume must be finite and > 0"),
        (lambda: multiplier(RBF, HERE, 0.1, 0.1, 1.0, np.eye(2)), ValueError, r"metric must have shape \(1, 1\)"),
        (lambda: multiplier(RBF, HERE, 0.1, 0.1, 1.0, -np.eye(1)), ValueError, "positive semi-definite"),
        (lambda: multiplier(RBF, HERE, 0.1, 0.1, 1.0, spacing=-0.1), ValueError, "spacing must be finite and > 0"),
        (lambda: multiplier(RBF, HERE, 0.1, 0.1, 1.0, spacing=np.ones(2)), ValueError, r"spacing .*shape \(1,\)"),
        (lambda: multiplier(RBF, HERE, 0.1, 0.1, 1.0, spacing=0.3), ValueError, "whole number of grid cells"),
        (lambda: multiplier(kk.Laplace(1.0), HERE, 0.1, 0.1, 1.0, spacing=0.5), ValueError, "Laplace has no slopes"),
        (lambda: penalised_spectral_density(RBF, HERE, -1.0, 0.1, 1.0), ValueError, "ridge must be finite"),
        (lambda: effective_length_scale(RBF, HERE, 0.1, 0.1, 1.0), ValueError, r"direction must have shape \(d,\)"),
        (lambda: effective_length_scale(RBF, 0 * ONE, 0.1, 0.1, 1.0), ValueError, "direction must not be zero"),
        (lambda: effective_length_scale(RQ(1.0, 1.5), ONE, 0.1, 0.1, 1.0), ValueError, "alpha > 1.5 .*got 1.5"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (lambda ridge: multiplier(RBF, HERE, ridge, 0.1, 1.0), -1.0, "ridge must be finite and > 0"),
        (lambda penalty: multiplier(RBF, HERE, 0.1, penalty, 1.0), -1.0, "gradient_penalty must be finite"),
        (lambda volume: multiplier(RBF, HERE, 0.1, 0.1, volume), np.nan, "volume must be finite and > 0"),
        (lambda alpha: spectral_density(RQ(1.0, alpha), 0 * HERE), 0.3, "alpha > 0.5 .*infinite"),
        (lambda alpha: effective_length_scale(RQ(1.0, alpha), ONE, 0.1, 0.1, 1.0), 1.2, "alpha > 1"),
        (
            lambda penalty: multiplier(kk.Laplace(1.0), HERE, 0.1, penalty, 1.0, spacing=0.5),
            0.1,
            "Laplace has no slopes",
        ),
    ],
)
def test_bad_numbers_in_compiled_code(call, arguments, message):
    with pytest.raises(RUN_TIME, match=message):
        jax.block_until_ready(jax.jit(call)(arguments))


def of_one_label(kernel, side, n, penalty, r, metric=None):
    """‖∇Δf‖/|Δf| at a distance from a label in a uniform grid on a torus, by a fit."""
    d = len(side)
    axes = [length / number * np.arange(number) for length, number in zip(side, n, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, d)
    y = np.zeros(len(points))
    y[0] = 1.0
    clean = kp.fit(kk.Periodic(kernel, np.asarray(side)), points, y, gradient_penalty=penalty, metric=metric)
    f = kp.predictor(clean, RIDGE)
    return float(jnp.linalg.norm(jax.grad(f)(jnp.asarray(r))) / abs(f(jnp.asarray(r))))


@pytest.mark.parametrize(
    ("side", "n", "direction", "metric"),
    [
        pytest.param((4.0,), (24,), (1.0,), None, id="ring"),
        pytest.param(
            *((3.0, 2.5), (10, 9), (0.6, 0.8), np.array([[1.0, 0.3], [0.3, 0.2]])), id="torus", marks=pytest.mark.slow
        ),
    ],
)
def test_near_a_label_the_spike_hides_at_the_near_clone_length(side, n, direction, metric):
    kernel, penalty, r = kk.RBF(0.6), 0.3, 1e-4
    waves = [2 * np.pi * np.fft.fftfreq(number, length / number) for length, number in zip(side, n, strict=True)]
    omega = np.stack(np.meshgrid(*waves, indexing="ij"), axis=-1).reshape(-1, len(side))
    v = np.array(direction)
    found = kp.flow.near_clone_length_scale(kernel, omega, 3 * v, RIDGE, penalty, np.prod(side), metric)
    seen = of_one_label(kernel, side, n, penalty, r * v, metric)
    # What the kernel has beyond the Nyquist frequency, and r⁴.
    assert float(found) == pytest.approx((r / seen) ** 0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("omega", "direction", "message"),
    [
        (np.zeros(3), np.ones(3), r"omega must have shape \(N, d\)"),
        (np.zeros((4, 2)), np.ones(2), "omega must not be 0"),
        (np.ones((4, 2)), np.ones(3), "direction must have shape"),
        (np.ones((4, 2)), np.zeros(2), "direction must not be zero"),
    ],
)
def test_near_clone_lengths_are_refused_without_frequencies_or_direction(omega, direction, message):
    with pytest.raises(ValueError, match=message):
        kp.flow.near_clone_length_scale(kk.RBF(0.6), omega, direction, RIDGE, 0.1, 4.0)
