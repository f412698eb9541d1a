"""L3: the poison's part of the Gauss–Newton input Hessian has rank one, eigenvalue ‖∇Δf‖² and direction ∇k̃."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import KERNELS, REAL, WHOLE, far_away, isolated, make, spike_error

import kpoison as kp
from benchmarks.exactness import EPS


@pytest.mark.parametrize("clones", [True, False], ids=["clones", "cluster"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n.startswith("ntk") else []) for n in KERNELS]
)
def test_the_efficacys_gradient_is_that_of_a_refit(name, clones):
    for counts in (WHOLE, REAL):
        problem = make(name, clones=clones, counts=counts)
        gradient = kp.efficacy_gradient(problem.clean, problem.poison, problem.x, problem.ridge)
        assert gradient.shape == ((5, 3) if clones else (5, 2, 3))
        assert problem.answer().ratio("gradient", problem.with_axes("gradient", gradient)) <= 1


@pytest.mark.parametrize("clones", [True, False], ids=["clones", "cluster"])
@pytest.mark.parametrize("name", ["rbf", "laplace", "cubic"])
def test_spike_is_that_of_a_refit(name, clones):
    for counts in (WHOLE, REAL):
        problem = make(name, clones=clones, counts=counts)
        spike = kp.spike(problem.clean, problem.poison, problem.x, problem.ridge)
        assert spike.shape == ((5,) if clones else (5, 2))
        assert spike_error(problem.with_axes("spike", spike), problem.answer()) <= 1


@pytest.mark.parametrize("name", ["rbf", "laplace", "ntk_erf"])
def test_isolated_spike_is_the_papers(name):
    # Λ = s² ‖∇k‖² with s = y_t m/(nλ + m k(ζ, ζ)), at every distance down to 1e-9.
    problem = make(name, clones=True)
    own, _ = isolated(name, problem.Z, problem.Z)
    s = problem.labels[0, 0] * 3.0 / (12 * problem.ridge + 3.0 * own)
    spikes = kp.spike(problem.clean, problem.poison, problem.x, problem.ridge, law="isolated")
    for x, found in zip(problem.x, spikes, strict=True):
        _, slope = isolated(name, x, problem.Z)
        # Twice what the gradient is known to: eps·a of exp(−a), a < 16 here, and a few eps besides.
        np.testing.assert_allclose(found, s**2 * np.sum(slope**2), rtol=80 * EPS)


def test_isolated_direction_is_that_of_the_displacement():
    problem = make("matern52", clones=True)
    gradients = kp.efficacy_gradient(problem.clean, problem.poison, problem.x, problem.ridge, law="isolated")
    displacement = problem.x - problem.Z
    across = np.cross(gradients, displacement)
    size = np.linalg.norm(gradients, axis=1) * np.linalg.norm(displacement, axis=1)
    assert np.all(np.linalg.norm(across, axis=1) <= 10 * EPS * size)
    assert np.all(np.sum(gradients * displacement, axis=1) * problem.labels[0, 0] < 0)  # uphill towards ζ


def test_spike_is_the_only_eigenvalue_of_the_poisons_gauss_newton_part():
    # C outputs: the clones' part of JᵀJ is Σ_c g_c g_cᵀ, of rank one because every g_c is along ∇k̃(x, ζ).
    problem = make("rbf", clones=False)
    poison = kp.Poison(problem.Z[0], problem.labels[0], 3.0)
    x = problem.x[-2]
    gradients = np.asarray(kp.efficacy_gradient(problem.clean, poison, x, problem.ridge))
    eigenvalues, vectors = np.linalg.eigh(gradients.T @ gradients)
    spike = np.asarray(kp.spike(problem.clean, poison, x, problem.ridge)).sum()
    np.testing.assert_allclose(eigenvalues[-1], spike, rtol=20 * EPS)
    np.testing.assert_allclose(eigenvalues[:-1], 0, atol=20 * EPS * spike)
    # The direction is that of q's gradient, ∇k̃/k̃.
    covariance_gradient = kp.efficacy_gradient(
        kp.fit(problem.kernel, problem.X, np.zeros(9)), kp.Poison(problem.Z[0], 1.0, 3.0), x, problem.ridge
    )
    direction = covariance_gradient / np.linalg.norm(covariance_gradient)
    # Two calculations of ∇k̃ agree to the clean solve's rounding.
    condition = np.linalg.cond(problem.evaluate(problem.X, problem.X).value + problem.rho * np.eye(9))
    size = np.linalg.norm(covariance_gradient) * kp.gain(problem.clean, poison, problem.ridge)
    np.testing.assert_allclose(abs(vectors[:, -1] @ direction), 1, rtol=10 * EPS * condition / min(size, 1))


def test_isolated_spike_at_fixed_gain_is_most_visible_at_the_length_scale():
    # Λ = S² r²/ℓ⁴ exp(−r²/ℓ²): largest at r = ℓ, where it is S²/(e ℓ²).
    ell, clean = 1.5, far_away()
    poison = kp.Poison(jnp.zeros(3), 1.0, 5.0)
    r = ell * np.array([0.5, 0.99, 1.0, 1.01, 2.0])
    spikes = np.asarray(kp.spike(clean, poison, r[:, None] * np.array([[0.6, 0.0, 0.8]]), 0.1, law="isolated"))
    s = float(kp.gain(clean, poison, 0.1, law="isolated"))
    np.testing.assert_allclose(spikes[2], s**2 / (np.e * ell**2), rtol=20 * EPS)
    assert np.argmax(spikes) == 2


def test_near_clone_spike_vanishes_while_the_efficacy_does_not():
    problem = make("rbf", clones=True, ridge=1e-3)
    u = np.array([0.6, 0.0, 0.8])
    r = 1.5 * np.array([1e-1, 1e-3, 1e-6, 1e-9])
    x = problem.Z[0] + r[:, None] * u
    exactly = np.linalg.norm(x - problem.Z[0], axis=1)  # r as rounded into x
    change = kp.efficacy(problem.clean, problem.poison, x, problem.ridge, law="isolated")
    spikes = kp.spike(problem.clean, problem.poison, x, problem.ridge, law="isolated")
    np.testing.assert_allclose(spikes / change**2, exactly**2 / 1.5**4, rtol=20 * EPS)
    s = problem.labels[0, 0] * kp.gain(problem.clean, problem.poison, problem.ridge, law="isolated")
    np.testing.assert_allclose(change[-1], s, rtol=20 * EPS)


def test_at_the_cusp_the_symmetric_part_is_returned():
    problem = make("laplace", clones=True)
    spike = kp.spike(problem.clean, problem.poison, problem.Z[0], problem.ridge, law="isolated")
    assert spike == 0
    exact = kp.efficacy_gradient(problem.clean, problem.poison, problem.Z[0], problem.ridge)
    # The mean of one-sided derivatives: from both sides at a distance h, exact to h.
    u = np.array([0.0, 1.0, 0.0])
    sides = problem.Z[0] + 1e-7 * np.stack([u, -u])
    mean = np.mean(kp.efficacy_gradient(problem.clean, problem.poison, sides, problem.ridge), axis=0)
    s = abs(float(kp.gain(problem.clean, problem.poison, problem.ridge)))
    np.testing.assert_allclose(exact, mean, atol=1e-6 * s)


@pytest.mark.slow
def test_no_poison_has_no_spike_and_a_finite_curvature_in_m():
    problem = make("rbf", clones=True, counts=(0.0, 0.0, 0.0))
    x = problem.x[-2]
    mean, _ = problem.clean_at_rho()

    def spike(m):
        poison = kp.Poison(problem.Z[0], problem.labels[0, 0], m)
        return kp.spike(problem.clean, poison, x, problem.ridge)

    assert spike(0.0) == 0
    assert jax.grad(spike)(0.0) == 0
    # Λ = m² ‖∇k̃(x, ζ)(y_t − f_c(ζ))/ρ‖² to leading order.
    A = problem.evaluate(problem.X, problem.X).value + problem.rho * np.eye(9)
    of_data = problem.evaluate(x[None], problem.X).gradient[0]
    cross = problem.evaluate(problem.X, problem.Z).value[:, 0]
    gradient = isolated("rbf", x, problem.Z)[1] - np.linalg.solve(A, cross) @ of_data
    expected = 2 * np.sum((gradient * (problem.labels - mean(problem.Z))[0, 0] / problem.rho) ** 2)
    tolerance = 4 * 10 * EPS * np.linalg.cond(A) * np.linalg.norm(problem.Y) / np.linalg.norm(gradient)
    np.testing.assert_allclose(jax.grad(jax.grad(spike))(0.0), expected, rtol=tolerance)


@pytest.mark.parametrize("name", ["rbf", "linear", pytest.param("ntk_erf", marks=pytest.mark.slow)])
def test_components_are_those_of_the_gradient(name):
    problem = make(name, clones=False)
    radial, tangential = kp.spike_components(problem.clean, problem.poison, problem.x, problem.ridge)
    gradient = np.asarray(kp.efficacy_gradient(problem.clean, problem.poison, problem.x, problem.ridge))
    axis = problem.x / np.linalg.norm(problem.x, axis=1, keepdims=True)
    along = np.einsum("qcd,qd->qc", gradient, axis)
    across = gradient - along[..., None] * axis[:, None]
    truth = problem.answer()
    allowed = 10 * EPS * truth.condition * truth.gradient.scale

    def bound(part):
        return allowed * (2 * np.abs(part) + allowed)

    assert radial.shape == tangential.shape == (5, 2)
    assert np.all(np.abs(radial - along**2) <= bound(along))
    across = np.linalg.norm(across, axis=-1)
    assert np.all(np.abs(tangential - across**2) <= bound(across))
    spike = kp.spike(problem.clean, problem.poison, problem.x, problem.ridge)
    assert spike_error(np.asarray(radial + tangential), truth) <= 1
    assert spike_error(np.asarray(spike), truth) <= 1


def test_components_in_one_dimension():
    clean = kp.fit(kp.kernels.RBF(1.0), np.array([[0.3], [-1.0], [2.0]]), np.array([1.0, -1.0, 0.5]))
    poison = kp.Poison(np.array([0.5]), 1.0, 2.0)
    x = np.array([[0.7], [-0.4]])
    radial, tangential = kp.spike_components(clean, poison, x, 0.1)
    assert np.all(tangential == 0)
    # cond(A) < 1 + 3/0.5 and predictions are of size 1.
    np.testing.assert_allclose(radial, kp.spike(clean, poison, x, 0.1), rtol=0, atol=20 * EPS * 7 * 2)


def test_components_need_a_rotation_invariant_kernel():
    kernel = kp.kernels.Custom(lambda x, z: jnp.exp(-jnp.sum((x - z) ** 2 * jnp.array([1.0, 2.0]))))
    clean = kp.fit(kernel, np.eye(2), np.ones(2))
    with pytest.raises(ValueError, match=r"rotation-invariant.*got Custom"):
        kp.spike_components(clean, kp.Poison(np.ones(2), 1.0, 1.0), np.ones(2), 0.1)


def test_components_at_the_origin_are_refused():
    # There is no ray through x = 0.
    problem = make("rbf", clones=True)
    with pytest.raises(ValueError, match=r"^x .*(origin|zero|0)"):
        kp.spike_components(problem.clean, problem.poison, np.zeros(3), problem.ridge)
    compiled = jax.jit(lambda x: kp.spike_components(problem.clean, problem.poison, x, problem.ridge))
    with pytest.raises(RuntimeError, match=r"\bx .*(origin|zero|0)"):
        jax.block_until_ready(compiled(np.zeros(3)))
