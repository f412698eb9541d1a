"""A length scale for each input: against NumPy and mpmath, and the unit kernel in scaled coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kpoison as kp
from kpoison import kernels as kk
from kpoison.flow import effective_length_scale, multiplier, spectral_density

RNG = np.random.default_rng(0)
EPS = float(np.finfo(float).eps)
LENGTHS = np.array([0.5, 1.3, 4.0])
KINDS = {
    "rbf": kk.RBF,
    "laplace": kk.Laplace,
    "matern32": kk.Matern32,
    "matern52": kk.Matern52,
    "rational quadratic": lambda lengths: kk.RationalQuadratic(lengths, 2.7),
}
SMOOTH = [name for name in KINDS if name != "laplace"]
PROFILES = {
    "rbf": lambda r: np.exp(-(r**2) / 2),
    "laplace": lambda r: np.exp(-r),
    "matern32": lambda r: (1 + 3**0.5 * r) * np.exp(-(3**0.5) * r),
    "matern52": lambda r: (1 + 5**0.5 * r + 5 * r**2 / 3) * np.exp(-(5**0.5) * r),
    "rational quadratic": lambda r: (1 + r**2 / 5.4) ** -2.7,
}


def brute_force(name, X, Z, lengths):
    """In float64, pair by pair."""
    X, Z = np.asarray(X, float), np.asarray(Z, float)
    return PROFILES[name](np.linalg.norm((X[:, None] - Z[None]) / lengths, axis=2))


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64])
@pytest.mark.parametrize("d", [3, 12])  # by differences, by a matrix product
@pytest.mark.parametrize("name", KINDS)
def test_matrices_are_those_of_the_formula(name, d, dtype):
    lengths = np.exp(RNG.uniform(-1, 1, size=d)).astype(dtype)
    X, Z = RNG.normal(size=(7, d)).astype(dtype), RNG.normal(size=(5, d)).astype(dtype)
    X[3] = X[1] + np.asarray(1e-3, dtype)
    kernel, eps = KINDS[name](lengths), float(np.finfo(dtype).eps)
    exact = brute_force(name, X, Z, lengths)
    for found in (kernel(X, Z), kernel.pairwise(jnp.asarray(X), jnp.asarray(Z))):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, exact, rtol=0, atol=100 * eps)
    np.testing.assert_allclose(kernel.pairwise(X := jnp.asarray(X), X), brute_force(name, X, X, lengths), atol=50 * eps)
    np.testing.assert_array_equal(jnp.diagonal(kernel(X)), 1)


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-3, 1.0])
@pytest.mark.parametrize("name", KINDS)
def test_gradients_keep_their_digits_beside_a_centre(name, distance):
    kernel, z = KINDS[name](LENGTHS), np.array([0.75, -1.25, 0.5])
    x = z + distance * np.array([0.48, 0.36, 0.8])
    gradient = jax.grad(kernel.evaluate)(jnp.asarray(x), jnp.asarray(z))
    exact = oracles.gradient(kernel, x, z)
    np.testing.assert_allclose(gradient, exact, rtol=0, atol=100 * EPS * np.linalg.norm(exact))
    centres = jnp.asarray(np.stack([z, z + 0.3, -z]))
    slopes, basis = kernel.gradients(jnp.asarray(x), centres), jnp.asarray(RNG.normal(size=(3, 2)))
    np.testing.assert_allclose(slopes[0], gradient, rtol=1e-13)
    products = kernel.gradient_products(jnp.asarray(x), centres, basis)
    np.testing.assert_allclose(products, basis.T @ slopes, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", SMOOTH)
def test_hessians_at_coincident_points(name):
    kernel, z = KINDS[name](LENGTHS), np.array([0.75, -1.25, 0.5])
    hessian = jax.hessian(kernel.evaluate)(jnp.asarray(z), jnp.asarray(z))
    exact = oracles.jet(kernel, z, z)[2]
    np.testing.assert_allclose(hessian, exact, rtol=0, atol=100 * EPS * np.max(np.abs(exact)))


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.floats(0.1, 10.0), min_size=3, max_size=3),
    name=st.sampled_from(list(KINDS)),
    seed=st.integers(0, 100),
)
def test_it_is_the_unit_kernel_in_scaled_coordinates(lengths, name, seed):
    x, z = np.random.default_rng(seed).normal(size=(2, 3))
    own, unit = KINDS[name](lengths), KINDS[name](1.0)
    expected = unit.evaluate(jnp.asarray(x / lengths), jnp.asarray(z / np.asarray(lengths)))
    exponent = 1 + float(np.sum(((x - z) / lengths) ** 2))
    np.testing.assert_allclose(own.evaluate(jnp.asarray(x), jnp.asarray(z)), expected, rtol=50 * EPS * exponent)
    same, one = KINDS[name](np.full(3, lengths[0])), KINDS[name](lengths[0])
    points = jnp.asarray(np.stack([x, z]))
    np.testing.assert_allclose(same(points), one(points), rtol=50 * EPS * exponent * 100)


def test_what_needs_one_length_scale_is_not_claimed():
    one, each = kk.RBF(1.0), kk.RBF(LENGTHS)
    assert (one.rotation_invariant, each.rotation_invariant) == (True, False)
    assert (one.translation_invariant, each.translation_invariant) == (True, True)
    assert (one.on_subspace(5), each.on_subspace(3), (2.0 * each).on_subspace(3)) == (one, None, None)
    assert (each.smoothness, kk.Matern32(LENGTHS).smoothness) == (np.inf, 2)


X = RNG.normal(size=(12, 3))
Y = np.sign(X[:, 0] + 0.2)
ZETA, PROBES = X[3] + 0.05, X[3] + 0.05 + 1e-4 * np.array([[1.0, 0.0, 2.0], [-1.0, 3.0, 0.5]])
RIDGE = 1e-2


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"solver": kp.Krylov(rank=8)}, marks=pytest.mark.slow),
        pytest.param({"gradient_penalty": 0.05}, marks=pytest.mark.slow),
        pytest.param(
            {"gradient_penalty": 0.05, "solver": kp.ConjugateGradients(tolerance=1e-12)}, marks=pytest.mark.slow
        ),
    ],
    ids=["dense", "krylov", "penalty", "penalty by iterations"],
)
def test_laws_are_those_of_the_scaled_problem(options):
    """∇ in x is 1/ℓ times that in x/ℓ, and a penalty of it one by M = diag(ℓ⁻²)."""
    metric = {"metric": np.diag(LENGTHS**-2)} if "gradient_penalty" in options else {}
    clean = kp.fit(kk.Matern52(LENGTHS), X, Y, **options)
    scaled = kp.fit(kk.Matern52(1.0), X / LENGTHS, Y, **metric, **options)
    poison, other = kp.Poison(ZETA, -1.0, 4.0), kp.Poison(ZETA / LENGTHS, -1.0, 4.0)
    np.testing.assert_allclose(
        kp.efficacy(clean, poison, PROBES, RIDGE), kp.efficacy(scaled, other, PROBES / LENGTHS, RIDGE), rtol=1e-7
    )
    slopes = kp.efficacy_gradient(clean, poison, PROBES, RIDGE)
    expected = kp.efficacy_gradient(scaled, other, PROBES / LENGTHS, RIDGE) / LENGTHS[None]
    np.testing.assert_allclose(slopes, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(kp.spike(clean, poison, PROBES, RIDGE), jnp.sum(slopes**2, axis=1), rtol=1e-10)


@pytest.mark.slow
def test_thresholds_and_curvature():
    clean, poison = kp.fit(kk.RBF(LENGTHS), X, Y), kp.Poison(ZETA, -1.0, 4.0)
    threshold = 0.5 * float(kp.spike(clean, poison, PROBES[0], RIDGE))
    m = kp.m_visible(clean, poison, PROBES[0], RIDGE, threshold=threshold)
    np.testing.assert_allclose(kp.spike(clean, kp.Poison(ZETA, -1.0, m), PROBES[0], RIDGE), threshold, rtol=1e-6)
    f = kp.predictor(clean, RIDGE, poison)
    gradients = jax.vmap(jax.grad(f))(jnp.asarray(X))
    np.testing.assert_allclose(
        kp.curvature.fisher(f, jnp.asarray(X))(jnp.ones(3)), gradients.T @ (gradients @ jnp.ones(3)) / 12, rtol=1e-10
    )
    with pytest.raises(ValueError, match="rotation-invariant"):
        kp.spike_components(clean, poison, PROBES, RIDGE)


def test_derivatives_in_every_length_scale():
    def efficacy(lengths):
        return kp.efficacy(kp.fit(kk.RBF(lengths), X, Y), kp.Poison(ZETA, -1.0, 4.0), PROBES[0], RIDGE)

    slope, step = jax.grad(efficacy)(jnp.asarray(LENGTHS)), 1e-5
    for i in range(3):
        move = step * np.eye(3)[i]
        difference = (efficacy(jnp.asarray(LENGTHS + move)) - efficacy(jnp.asarray(LENGTHS - move))) / (2 * step)
        np.testing.assert_allclose(slope[i], difference, rtol=1e-5)


def test_a_sweep_takes_the_norm_of_the_location_for_its_unit():
    clean, poison = kp.fit(kk.RBF(LENGTHS), X, Y), kp.Poison(ZETA, -1.0, 4.0)
    direction = np.array([1.0, 0.0, 0.0])
    swept = kp.sweep(clean, poison, direction=direction, r_over_l=[0.2], m=[4.0], ridge=RIDGE, progress=False)
    x = ZETA + 0.2 * np.linalg.norm(ZETA) * direction
    np.testing.assert_allclose(np.squeeze(swept.efficacy), kp.efficacy(clean, poison, x, RIDGE), rtol=1e-7)


# --- Spectra ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_spectral_densities(name):
    """Π ℓ_j · k̂₁(ℓ∘ω)."""
    omega = jnp.asarray(np.concatenate([RNG.normal(size=(5, 3)), np.zeros((1, 3))]))
    expected = np.prod(LENGTHS) * spectral_density(KINDS[name](1.0), omega * LENGTHS[None])
    np.testing.assert_allclose(spectral_density(KINDS[name](LENGTHS), omega), expected, rtol=1e-13)
    parts = 0.5 * KINDS[name](LENGTHS) + KINDS[name](0.7)
    expected = 0.5 * expected + spectral_density(KINDS[name](0.7), omega)
    np.testing.assert_allclose(spectral_density(parts, omega), expected, rtol=1e-13)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_effective_length_scale_along_an_axis_is_its_own(axis):
    found = effective_length_scale(kk.RBF(LENGTHS[:2]), jnp.eye(2)[axis], 0.1, 0.0, 10.0)
    np.testing.assert_allclose(found, LENGTHS[axis], rtol=1e-12)


@pytest.mark.parametrize("penalty", [0.0, 0.05])
def test_the_multiplier_is_that_of_a_fit_on_a_grid(penalty):
    lengths, sides, points, ridge = np.array([0.3, 0.7]), (2.0, 3.0), (4, 5), 0.1
    kernel = kk.Periodic(kk.RBF(lengths), np.array(sides))
    axes = [side / n * np.arange(n) for side, n in zip(sides, points, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    impulse = np.zeros(len(grid))
    impulse[0] = 1.0
    clean = kp.fit(kernel, grid, impulse, gradient_penalty=penalty)
    response = np.fft.fftn(np.asarray(kp.predict(clean, grid, ridge)).reshape(points)).real
    waves = [2 * np.pi * np.fft.fftfreq(n, side / n) for side, n in zip(sides, points, strict=True)]
    omega = jnp.asarray(np.stack(np.meshgrid(*waves, indexing="ij"), axis=-1))
    spacing = np.array([side / n for side, n in zip(sides, points, strict=True)])
    found = multiplier(kk.RBF(lengths), omega, ridge, penalty, 6.0, spacing=spacing)
    np.testing.assert_allclose(found, response, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_images_on_a_torus_reach_as_far_as_the_longest_length_scale():
    lengths, kernel = np.array([0.3, 0.9]), kk.Matern52(np.array([0.3, 0.9]))
    x, z = np.array([0.1, 2.9]), np.array([1.8, 0.2])
    shifts = np.stack(np.meshgrid(2.0 * np.arange(-12, 13), 3.0 * np.arange(-12, 13)), axis=-1).reshape(-1, 2)
    found = kk.Periodic(kernel, np.array([2.0, 3.0])).evaluate(jnp.asarray(x), jnp.asarray(z))
    exact = np.sum(brute_force("matern52", x[None] + shifts, z[None], lengths))
    np.testing.assert_allclose(float(found), exact, rtol=1e-13)


# --- Profiles of one's own -------------------------------------------------------------------------------------


class Narrow(kk.RBF):
    """Another profile, of which the class above says nothing."""

    def profile(self, u):
        return jnp.exp(-2 * u)


class Stated(Narrow):
    """The same, with its spectrum and its reach."""

    falls_within = 4.6

    def density(self, length_scale, omega):
        return kk.RBF(1.0).density(length_scale / 2, omega)


class Bent(kk.Laplace):
    """Another profile under a Matérn's name."""

    def profile(self, u):
        return jnp.exp(-u)


class Longer(kk.RBF):
    """Another kernel of the same profile."""

    def evaluate(self, x, z):
        return 2 * super().evaluate(x, z)


@pytest.mark.parametrize("kind", [Narrow, Bent, Longer])
def test_spectrum_and_reach_are_not_inherited_by_another_profile(kind):
    for ask in (lambda k: spectral_density(k, jnp.zeros(1)), lambda k: kk.Periodic(k, 20.0)):
        with pytest.raises(TypeError, match=f"kernel must be .*got {kind.__name__}"):
            ask(kind(1.0))
        with pytest.raises(TypeError, match=f"kernel must be .*got {kind.__name__}"):
            ask(kk.RBF(1.0) + kind(1.0))


@pytest.mark.slow
def test_but_may_be_stated_anew():
    np.testing.assert_allclose(
        spectral_density(Stated(1.0), jnp.ones(1)), spectral_density(kk.RBF(0.5), jnp.ones(1)), rtol=1e-14
    )
    point = jnp.zeros(1)
    assert kk.Periodic(Stated(1.0), 20.0).evaluate(point, point) == 1
