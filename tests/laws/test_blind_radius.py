"""Blind radius and thresholds in closed form (L9): against SciPy's Lambert W, NumPy's refits and finite differences."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.optimize
import scipy.special

import kpoison as kp
from kpoison.laws import rbf_blind_radius

RNG = np.random.default_rng(9)
X = RNG.normal(size=(20, 3))
Y = np.tanh(X @ np.array([0.5, -0.3, 0.2]))
ZETA, LABEL, RIDGE = np.array([0.4, 0.2, -0.1]), -1.3, 0.02
CLEAN = kp.fit(kp.kernels.RBF(1.2), X, Y)
POISON = kp.Poison(ZETA, LABEL, 4.0)
DIRECTION = np.array([2.0, -1.0, 0.5])
THREE = np.stack([Y, -Y, 0.3 * Y**2], axis=1)
AT = (1.3, 0.02, 0.4, 0.35, -1.2)


def by_lambert(length_scale, ridge, threshold, slope, label):
    omega = length_scale * (1 + ridge) * np.sqrt(threshold) * slope / np.abs(label)
    return length_scale * np.sqrt(-scipy.special.lambertw(-(omega**2)).real)


@pytest.mark.parametrize("omega", [0.0, 1e-150, 1e-12, 1e-3, 0.1, 0.32994, 0.5, 0.6, 0.6065, 0.606530659])
def test_the_closed_form_is_lamberts(omega):
    found = float(rbf_blind_radius(1.0, 0.25, 1.0, omega / 1.25, -1.0))
    # The root is a square root's of what is left of 1/e: eps over it in digits.
    left = max(1 - np.e * omega**2, 1e-16)
    expected = omega if omega < 1e-100 else by_lambert(1.0, 0.25, 1.0, omega / 1.25, -1.0)
    assert found == pytest.approx(expected, rel=1e-14 / np.sqrt(left))
    if omega == 0.32994:
        assert round(found, 5) == 0.35089


def test_every_r_is_blind_from_one_over_e_on():
    largest = np.exp(-0.5)
    assert np.isfinite(rbf_blind_radius(2.0, 0.0, 1.0, 0.5 * largest * (1 - 1e-12), 1.0))
    for slope in (0.5 * largest * (1 + 1e-12), 1.0, 1e200):
        assert float(rbf_blind_radius(2.0, 0.0, 1.0, slope, 1.0)) == np.inf
    assert float(rbf_blind_radius(2.0, 0.0, 1.0, 1.0, 0.0)) == np.inf
    never = jax.grad(rbf_blind_radius, argnums=(0, 1, 2, 3, 4))(2.0, 0.0, 1.0, 1.0, 1.0)
    assert [float(part) for part in never] == [0.0] * 5


def test_first_and_second_derivatives_of_the_closed_form():
    def radius(numbers):
        return rbf_blind_radius(*numbers)

    forward, reverse = (jax.jit(mode(radius))(jnp.array(AT)) for mode in (jax.jacfwd, jax.grad))
    np.testing.assert_allclose(forward, reverse, rtol=1e-12)
    hessian, step = jax.jit(jax.hessian(radius))(jnp.array(AT)), 1e-4
    for place in range(5):

        def along(t, place=place):
            return by_lambert(*(np.array(AT) + t * (np.arange(5) == place)))

        first = (along(-2 * step) - 8 * along(-step) + 8 * along(step) - along(2 * step)) / (12 * step)
        second = (along(step) - 2 * along(0) + along(-step)) / step**2
        assert float(reverse[place]) == pytest.approx(first, rel=1e-9)
        assert float(hessian[place, place]) == pytest.approx(second, rel=1e-5, abs=1e-6)


def test_the_closed_form_maps_and_keeps_float32():
    omegas = np.array([0.1, 0.3, 0.7])
    alone = [float(rbf_blind_radius(1.0, 0.0, 1.0, omega, 1.0)) for omega in omegas]
    together = jax.jit(jax.vmap(lambda slope: rbf_blind_radius(1.0, 0.0, 1.0, slope, 1.0)))(omegas)
    np.testing.assert_allclose(together, alone, rtol=1e-15)
    np.testing.assert_allclose(rbf_blind_radius(1.0, 0.0, 1.0, omegas, 1.0), alone, rtol=1e-15)
    narrow = rbf_blind_radius(*(np.float32(part) for part in AT))
    assert narrow.dtype == jnp.float32
    assert float(narrow) == pytest.approx(by_lambert(*AT), rel=1e-6)


def test_a_kernel_and_lamberts_are_one():
    """The same isolated law by root finding, through a kernel that is not known to be an RBF kernel."""
    for threshold in (1e-4, 0.3):
        arguments = POISON, DIRECTION, RIDGE, threshold, "isolated"
        found = [
            float(kp.blind_radius(kp.fit(kernel, X, Y), *arguments, clean_slope=0.4))
            for kernel in (CLEAN.kernel, kp.kernels.Custom(lambda x, z: jnp.exp(-jnp.sum((x - z) ** 2) / (2 * 1.2**2))))
        ]
        expected = by_lambert(1.2, RIDGE, threshold, 0.4, LABEL)
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def gram(a, b):
    return np.exp(-np.sum((a[:, None] - b[None]) ** 2, axis=-1) / (2 * 1.2**2))


def refit(count, rho, targets=Y, label=LABEL):
    """Dual coefficients over X and ζ by NumPy, with a weighted poison."""
    points = np.concatenate([X, ZETA[None]])
    weights = np.append(np.ones(len(X)), count)
    everything = np.concatenate([np.reshape(targets, (len(X), -1)), np.reshape(label, (1, -1))])
    system = weights[:, None] * gram(points, points) + rho * np.eye(len(points))
    return np.linalg.solve(system, weights[:, None] * everything)


def values(dual, x):
    return gram(x[None], np.concatenate([X, ZETA[None]]))[0] @ dual


def slope(dual, x):
    points = np.concatenate([X, ZETA[None]])
    return dual.T @ (-(x - points) / 1.2**2 * gram(x[None], points).T)


def ratio(r, count, rho):
    """Λ/‖∇f_c‖² at ζ + ru, by two refits."""
    x = ZETA + r * DIRECTION / np.linalg.norm(DIRECTION)
    poisoned, clean = (slope(refit(m, rho), x) for m in (count, 0.0))
    return np.sum((poisoned - clean) ** 2) / np.sum(clean**2)


@pytest.mark.parametrize("any_count", [True, False])
def test_the_exact_radius_is_that_of_a_refit(any_count):
    rho, count = 24 * RIDGE, 1e12 if any_count else 4.0
    radii = np.geomspace(1e-3, 3, 150)
    curve = np.array([ratio(r, count, rho) for r in radii])
    threshold = np.sqrt(curve[0] * curve.max())
    first = int(np.argmax(curve > threshold))
    expected = scipy.optimize.brentq(lambda r: ratio(r, count, rho) - threshold, *radii[[first - 1, first]], rtol=1e-12)
    found = kp.blind_radius(CLEAN, POISON, DIRECTION, RIDGE, threshold, any_count=any_count)
    assert float(found) == pytest.approx(expected, rel=1e-9)
    # Seen at ζ itself; and at no r.
    assert float(kp.blind_radius(CLEAN, POISON, DIRECTION, RIDGE, 0.9 * curve[0], any_count=any_count)) == 0
    assert float(kp.blind_radius(CLEAN, POISON, DIRECTION, RIDGE, 1e12, any_count=any_count)) == np.inf


@pytest.mark.slow
@pytest.mark.parametrize("law", ["exact", "isolated"])
def test_derivatives_of_the_radius(law):
    def radius(scale, zeta, direction, ridge, threshold, targets):
        clean = kp.fit(kp.kernels.Matern52(scale), X, targets)
        return kp.blind_radius(clean, kp.Poison(zeta, LABEL, 4.0), direction, ridge, threshold, law)

    at = (1.2, ZETA, DIRECTION, RIDGE, {"exact": 10.0, "isolated": 0.5}[law], Y)
    assert 0.01 < float(radius(*at)) < 2
    gradients = jax.jit(jax.grad(radius, argnums=range(6)))(*at)
    for place, gradient in enumerate(gradients):
        step, shape = 1e-5 * (RIDGE if place == 3 else 1), np.shape(at[place])
        direction = np.random.default_rng(place).normal(size=shape) if shape else 1.0
        moved = [
            float(radius(*(a + sign * step * direction if i == place else a for i, a in enumerate(at))))
            for sign in (1, -1)
        ]
        expected = (moved[0] - moved[1]) / (2 * step)
        assert float(np.sum(gradient * direction)) == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.slow
def test_a_cusp_sees_at_once():
    """The spike of a Laplace kernel does not vanish as r → 0: nothing is blind, or everything near is."""
    clean = kp.fit(kp.kernels.Laplace(1.2), X, Y)
    largest = (LABEL / (1.2 * (1 + RIDGE))) ** 2
    for share, expected in ((0.99, 0.0), (1.01, np.inf)):
        found = kp.blind_radius(clean, POISON, DIRECTION, RIDGE, share * largest, "isolated", clean_slope=1.0)
        assert float(found) == expected


# --- Thresholds where only the gain grows ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("targets", "label"),
    [
        (Y, LABEL),
        pytest.param(np.stack([Y, -Y, 0.3 * Y**2], axis=1), np.array([0.0, 0.2, 0.9]), marks=pytest.mark.slow),
    ],
    ids=["one output", "three outputs"],
)
def test_counts_at_a_fixed_rho_are_those_of_refits(targets, label):
    clean, rho = kp.fit(kp.kernels.RBF(1.2), X, targets), 24 * RIDGE
    x, poison = ZETA + np.array([0.2, 0.1, -0.3]), kp.Poison(ZETA, label, 4.0)

    def lead(m):
        f = values(refit(m, rho, targets, label), x)
        return f[0] * np.sign(label) if np.ndim(label) == 0 else f[2] - max(f[0], f[1])

    def spike(m):
        poisoned, without = (slope(refit(count, rho, targets, label), x) for count in (m, 0.0))
        return np.sum((poisoned - without) ** 2), np.sum(without**2)

    assert lead(0.0) < 0 < lead(1e9)
    expected = scipy.optimize.brentq(lead, 0.0, 1e3, rtol=1e-13)
    success = float(kp.m_success(clean, poison, x, RIDGE, "fixed-rho"))
    assert success == pytest.approx(expected, rel=1e-9)
    own, bulk = spike(2.5)
    for criterion, threshold in (("absolute", own), ("relative", own / bulk)):
        visible = kp.m_visible(clean, poison, x, RIDGE, threshold, "fixed-rho", criterion=criterion)
        assert float(visible) == pytest.approx(2.5, rel=1e-9)
        lag = kp.lag(clean, poison, x, RIDGE, threshold, "fixed-rho", criterion=criterion)
        assert float(lag) == pytest.approx(2.5 / expected, rel=1e-9)
    # However many: what saturates below the threshold never shows.
    assert float(kp.m_visible(clean, poison, x, RIDGE, 1.001 * spike(1e13)[0], "fixed-rho")) == np.inf


@pytest.mark.slow
def test_isolated_counts_are_the_papers():
    x = ZETA + np.array([0.2, 0.1, -0.3])
    k0, start = gram(x[None], ZETA[None])[0, 0], values(refit(0.0, len(X) * RIDGE), x)[0]
    bend = k0 * np.linalg.norm(x - ZETA) / 1.2**2

    def gain(m):
        return m / ((len(X) + m) * RIDGE + m)

    expected = scipy.optimize.brentq(lambda m: start + LABEL * gain(m) * k0, 0, 1e6, rtol=1e-13)
    assert start > 0
    success = kp.m_success(CLEAN, POISON, x, RIDGE, "isolated")
    assert float(success) == pytest.approx(expected, rel=1e-10)
    visible = kp.m_visible(CLEAN, POISON, x, RIDGE, (LABEL * gain(6.0) * bend) ** 2, "isolated")
    assert float(visible) == pytest.approx(6.0, rel=1e-10)
    # n doubles at the same share of everything else: so does the count (L10).
    twice = kp.fit(kp.kernels.RBF(1.2), np.concatenate([X, X]), np.concatenate([Y, Y]))
    assert float(kp.m_success(twice, POISON, x, RIDGE, "isolated")) == pytest.approx(2 * float(success), rel=1e-9)


def test_success_by_gain_has_its_special_values():
    x = ZETA + 0.1
    sign = np.sign(float(kp.predict(CLEAN, x, 24 * RIDGE / 20)))
    assert float(kp.m_success(CLEAN, kp.Poison(ZETA, 5.0 * sign, 4.0), x, RIDGE, "fixed-rho")) == 0
    weak = kp.Poison(ZETA, -1e-6 * sign, 4.0)
    assert float(kp.m_success(CLEAN, weak, x, RIDGE, "isolated")) == np.inf


@pytest.mark.slow
def test_the_relative_criterion_of_the_exact_law():
    """f_c depends on m through ρ; and as it flattens every poison shows."""
    x = ZETA + np.array([0.2, 0.1, -0.3])
    r = np.linalg.norm(x - ZETA)
    assert r > 0
    poisoned, clean = (slope(refit(m, 25.5 * RIDGE), x) for m in (5.5, 0.0))
    threshold = np.sum((poisoned - clean) ** 2) / np.sum(clean**2)
    found = kp.m_visible(CLEAN, POISON, x, RIDGE, threshold, criterion="relative")
    assert float(found) == pytest.approx(5.5, rel=1e-9)
    assert np.isfinite(kp.m_visible(CLEAN, POISON, x, RIDGE, 1e4, criterion="relative"))


@pytest.fixture
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_bad_input(what_a_user_sees):
    def radius(clean=CLEAN, poison=POISON, direction=DIRECTION, ridge=RIDGE, threshold=0.1, **more):
        return kp.blind_radius(clean, poison, direction, ridge, threshold, **more)

    cases = (
        ({"direction": np.zeros(3)}, ValueError, "direction must not be 0"),
        ({"direction": np.ones(2)}, ValueError, r"direction must have shape \(3,\), got \(2,\)"),
        ({"direction": np.array([1.0, np.nan, 0.0])}, ValueError, "direction must be finite"),
        ({"direction": [1, 0, 0]}, TypeError, "direction must be a floating-point array"),
        ({"threshold": 0.0}, ValueError, "threshold must be finite and > 0, got 0.0"),
        ({"threshold": "1"}, TypeError, "threshold must be real"),
        ({"ridge": -1.0}, ValueError, "ridge must be finite and > 0"),
        ({"poison": kp.Poison(X[:2], 1.0, 1.0)}, ValueError, "poison must be clones at one location"),
        ({"clean_slope": -1.0}, ValueError, "clean_slope must be finite and >= 0"),
        ({"any_count": 1}, TypeError, "any_count must be True or False"),
        ({"law": "fixed-rho"}, ValueError, "law must be one of 'exact', 'isolated', got 'fixed-rho'"),
        ({"clean": kp.fit(kp.kernels.RBF(1.2), X, Y, gradient_penalty=0.1)}, ValueError, "without a gradient penalty"),
        ({"clean": kp.flow.early_stopped(CLEAN, 1.0)}, ValueError, "clean must be trained to the end"),
    )
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            radius(**arguments)
    indices = kp.fit(kp.kernels.Precomputed(np.eye(4)), np.arange(3), Y[:3])
    with pytest.raises(ValueError, match="clean must be fitted with a kernel of points"):
        radius(indices, kp.Poison(3, 1.0, 1.0))
    with pytest.raises(ValueError, match="clean_slope must be finite and >= 0"):
        rbf_blind_radius(1.0, 0.1, 0.1, -1.0, 1.0)
    with pytest.raises(ValueError, match="length_scale must be finite and > 0"):
        rbf_blind_radius(0.0, 0.1, 0.1, 1.0, 1.0)
    with pytest.raises(ValueError, match="label must be finite"):
        rbf_blind_radius(1.0, 0.1, 0.1, 1.0, np.nan)
    with pytest.raises(ValueError, match="criterion must be one of 'absolute', 'relative'"):
        kp.m_visible(CLEAN, POISON, ZETA, RIDGE, 0.1, criterion="paper")
    with pytest.raises(ValueError, match="law must be one of 'exact', 'fixed-rho', 'isolated'"):
        kp.m_success(CLEAN, POISON, ZETA, RIDGE, law="fixed")
    traced = jax.jit(lambda threshold, slope: radius(threshold=threshold, clean_slope=slope))
    for numbers, message in (((-0.1, 1.0), "threshold must be"), ((0.1, -1.0), "clean_slope must be")):
        with pytest.raises((RuntimeError, ValueError), match=message):
            jax.block_until_ready(traced(*numbers))
