"""L2: Δf = s·k̃(·, ζ); L7: the same for clusters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import KERNELS, REAL, WHOLE, far_away, isolated, make

import kpoison as kp
from benchmarks.exactness import EPS


@pytest.mark.parametrize("clones", [True, False], ids=["clones", "cluster"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n.startswith("ntk") else []) for n in KERNELS]
)
def test_efficacy_is_that_of_a_refit(name, clones):
    for counts in (WHOLE, REAL):
        problem = make(name, clones=clones, counts=counts)
        change = kp.efficacy(problem.clean, problem.poison, problem.x, problem.ridge)
        assert change.shape == ((5,) if clones else (5, 2))
        assert problem.answer().ratio("efficacy", problem.with_axes("efficacy", change)) <= 1


@pytest.mark.parametrize("clones", [True, False], ids=["clones", "cluster"])
def test_efficacy_is_the_difference_of_two_predictions(clones):
    problem = make("matern52", clones=clones)
    rho_only = problem.rho / 9  # the clean predictor at the ridge that gives the poisoned ρ
    change = kp.predict(problem.clean, problem.x, problem.ridge, problem.poison) - kp.predict(
        problem.clean, problem.x, rho_only
    )
    assert problem.answer().ratio("efficacy", problem.with_axes("efficacy", change)) <= 1


def test_the_clean_reference_without_poison_has_its_own_rho():
    # The two references of theory.md differ, and predict(clean) is the one at ρ = n_c λ.
    problem = make("rbf", clones=True)
    x = problem.x[-2:]
    poisoned = kp.predict(problem.clean, x, problem.ridge, problem.poison)
    absent = kp.predict(problem.clean, x, problem.ridge, kp.Poison(problem.Z[0], 1.0, 0.0))
    own = kp.predict(problem.clean, x, problem.ridge)
    bound = 10 * EPS * problem.answer().condition * problem.answer().efficacy.scale.max()
    np.testing.assert_allclose(absent, own, rtol=0, atol=bound)
    change = kp.efficacy(problem.clean, problem.poison, x, problem.ridge)
    assert np.all(np.abs(poisoned - own - change) > 1e3 * bound)


@pytest.mark.parametrize("name", ["rbf", "laplace", "ntk_erf"])
def test_isolated_efficacy_is_the_papers(name):
    # Δf = y_t S k0 with the paper's S, at every distance.
    problem = make(name, clones=True)
    own, _ = isolated(name, problem.Z, problem.Z)
    gain = 3.0 / (12 * problem.ridge + 3.0 * own)
    change = kp.efficacy(problem.clean, problem.poison, problem.x, problem.ridge, law="isolated")
    for x, found in zip(problem.x, change, strict=True):
        k0, _ = isolated(name, x, problem.Z)
        # exp(−a) is known to eps·a, a < 16 here.
        np.testing.assert_allclose(found, problem.labels[0, 0] * gain * k0, rtol=40 * EPS)


def test_isolated_efficacy_of_a_cluster():
    problem = make("rbf", clones=False)
    system = problem.evaluate(problem.Z, problem.Z).value + np.diag(problem.rho / problem.counts)
    alpha = np.linalg.solve(system, problem.labels)
    expected = problem.evaluate(problem.x, problem.Z).value @ alpha
    found = kp.efficacy(problem.clean, problem.poison, problem.x, problem.ridge, law="isolated")
    bound = 10 * EPS * np.linalg.cond(system) * np.linalg.norm(problem.labels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_exact_and_isolated_agree_where_the_clean_data_are_out_of_sight():
    clean = far_away()
    poison = kp.Poison(jnp.array([0.1, -0.2, 0.3]), 1.3, 2.5)
    x = jnp.array([[0.1, -0.2, 0.3], [1.0, 0.0, 0.0]])
    exact, isolated = (kp.efficacy(clean, poison, x, 0.01, law=law) for law in ("exact", "isolated"))
    np.testing.assert_allclose(exact, isolated, rtol=20 * EPS)


def test_no_poison_does_nothing():
    for clones in (True, False):
        problem = make("rbf", clones=clones, counts=(0.0, 0.0, 0.0))
        for law in ("exact", "isolated"):
            assert np.all(kp.efficacy(problem.clean, problem.poison, problem.x, problem.ridge, law=law) == 0)


def test_the_slope_in_m_at_no_poison():
    # d Δf/dm at m = 0 is k̃(x, ζ)(y_t − f_c(ζ))/ρ at ρ = n_c λ.
    problem = make("rbf", clones=True, counts=(0.0, 0.0, 0.0))
    mean, covariance = problem.clean_at_rho()
    expected = covariance(problem.x, problem.Z)[:, 0] * (problem.labels - mean(problem.Z))[0, 0] / problem.rho

    def change(m):
        poison = kp.Poison(problem.Z[0], problem.labels[0, 0], m)
        return kp.efficacy(problem.clean, poison, problem.x, problem.ridge)

    slopes = jax.jacfwd(change)(0.0)
    # A product of two numbers of size 1, each known to 10·eps·cond, over ρ.
    bound = 2 * 10 * EPS * problem.answer().condition * np.linalg.norm(problem.Y) / problem.rho
    np.testing.assert_allclose(slopes, expected, rtol=0, atol=bound)


@pytest.mark.slow
def test_slopes_at_absent_locations_of_a_cluster():
    problem = make("rbf", clones=False, counts=(0.0, 0.0, 0.0))
    mean, covariance = problem.clean_at_rho()
    residual = problem.labels - mean(problem.Z)
    expected = covariance(problem.x, problem.Z)[:, None, :] * residual.T[None] / problem.rho

    def change(counts):
        poison = kp.Poison(problem.Z, problem.labels, counts)
        return kp.efficacy(problem.clean, poison, problem.x, problem.ridge)

    slopes = jax.jacrev(change)(np.zeros(3))
    bound = 2 * 10 * EPS * problem.answer().condition * np.linalg.norm(problem.Y) / problem.rho
    np.testing.assert_allclose(slopes, expected, rtol=0, atol=bound)


def test_saturation():
    # m → ∞ at fixed ρ: the label is reached at ζ, and Δf → k̃(x, ζ)(y_t − f_c(ζ))/k̃(ζ, ζ).
    problem = make("rbf", clones=True)
    mean, covariance = problem.clean_at_rho()
    m = 1e9
    ridge = problem.rho / (9 + m)
    poison = kp.Poison(problem.Z[0], problem.labels[0, 0], m)
    own = covariance(problem.Z, problem.Z)[0, 0]
    residual = (problem.labels - mean(problem.Z))[0, 0]
    A = problem.evaluate(problem.X, problem.X).value + problem.rho * np.eye(9)
    # What is left to saturate is ρ/(m k̃); k̃ and f_c carry the clean solve's rounding, divided by k̃.
    tolerance = problem.rho / (m * own) + 10 * EPS * np.linalg.cond(A) * np.linalg.norm(problem.Y) / own
    np.testing.assert_allclose(kp.efficacy(problem.clean, poison, problem.Z[0], ridge), residual, rtol=tolerance)
    expected = covariance(problem.x, problem.Z)[:, 0] / own * residual
    found = kp.efficacy(problem.clean, poison, problem.x, ridge)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * abs(residual))
    label = problem.labels[0, 0]
    np.testing.assert_allclose(kp.predict(problem.clean, problem.Z[0], ridge, poison), label, atol=tolerance * 2)


def test_linear_in_m_while_small():
    problem = make("rbf", clones=True, ridge=0.1)
    label = problem.labels[0, 0]

    def change(m):
        return np.asarray(kp.efficacy(problem.clean, kp.Poison(problem.Z[0], label, m), problem.x, 0.1))

    # Δf(m) = a m + b m² + …; b/a is about −(k̃ + λ)/ρ > −2 at ρ = 0.9, for S and for f_c and k̃ through ρ.
    ratio = change(1e-9) / change(1e-3)
    np.testing.assert_allclose(ratio, 1e-6, rtol=2 * 1e-3 / 0.9)
    # No cancellation: at m = 1e-9 the law keeps its digits where a refit's difference has lost nine.
    ratio = change(1e-9) / change(1e-8)
    np.testing.assert_allclose(ratio, 0.1, rtol=2 * 1e-8 / 0.9)


def test_linear_in_the_labels_residual():
    problem = make("ntk_erf", clones=True)
    mean, _ = problem.clean_at_rho()
    fc = mean(problem.Z)[0, 0]

    def change(label):
        return np.asarray(kp.efficacy(problem.clean, kp.Poison(problem.Z[0], label, 3.0), problem.x, problem.ridge))

    bound = 10 * EPS * problem.answer().condition * problem.answer().efficacy.scale.max()
    np.testing.assert_allclose(change(fc), 0, atol=bound)  # a poison that says what f_c says changes nothing
    np.testing.assert_allclose(change(fc + 2.0), 2 * change(fc + 1.0), rtol=0, atol=4 * bound)


def test_outputs_decouple():
    problem = make("matern32", clones=False)
    together = kp.efficacy(problem.clean, problem.poison, problem.x, problem.ridge)
    bound = 10 * EPS * problem.answer().condition * problem.answer().efficacy.scale.max()
    for c in range(2):
        clean = kp.fit(problem.kernel, problem.X, problem.Y[:, c])
        poison = kp.Poison(problem.Z, problem.labels[:, c], problem.counts)
        alone = kp.efficacy(clean, poison, problem.x, problem.ridge)
        np.testing.assert_allclose(together[:, c], alone, rtol=0, atol=bound)


def test_clones_with_several_outputs():
    problem = make("rbf", clones=False)
    labels = np.array([0.7, -1.2])
    clones = kp.efficacy(problem.clean, kp.Poison(problem.Z[0], labels, 3.0), problem.x, problem.ridge)
    cluster = kp.efficacy(problem.clean, kp.Poison(problem.Z[:1], labels[None], 3.0), problem.x, problem.ridge)
    bound = 10 * EPS * problem.answer().condition * problem.answer().efficacy.scale.max()
    assert clones.shape == (5, 2)
    np.testing.assert_allclose(clones, cluster, rtol=0, atol=bound)


def test_a_cluster_at_one_point_is_clones_with_the_mean_label():
    problem = make("rbf", clones=False)
    counts, labels = np.array([1.0, 2.5, 0.5]), np.array([1.0, -1.0, 3.0])
    clean = kp.fit(problem.kernel, problem.X, problem.Y[:, 0])
    cluster = kp.Poison(np.tile(problem.Z[0], (3, 1)), labels, counts)
    clones = kp.Poison(problem.Z[0], np.average(labels, weights=counts), counts.sum())
    found, expected = (kp.efficacy(clean, poison, problem.x, problem.ridge) for poison in (cluster, clones))
    bound = 10 * EPS * problem.answer().condition * np.linalg.norm([*labels, *problem.Y[:, 0]])
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_one_label_and_one_count_serve_a_whole_cluster():
    problem = make("rbf", clones=False)
    short = kp.Poison(problem.Z, np.array([1.0, 2.0]), 2.0)
    long = kp.Poison(problem.Z, np.tile([1.0, 2.0], (3, 1)), np.full(3, 2.0))
    found, expected = (kp.efficacy(problem.clean, poison, problem.x, problem.ridge) for poison in (short, long))
    np.testing.assert_array_equal(found, expected)


def _slopes(name, centred, radii):
    """Exponents in ε of the clone law's error for a cluster of radius ε."""
    problem = make(name, clones=True, ridge=1.0)
    directions = np.array([[1.0, 0.3, -0.2], [0.1, 0.9, 0.5], [-0.4, 0.2, 1.0]])
    if centred:
        directions -= directions.mean(axis=0)
    clones = kp.Poison(problem.Z[0], problem.labels[0, 0], 9.0)
    x = problem.x[-2:]
    law = kp.efficacy(problem.clean, clones, x, problem.ridge)
    errors = []
    for radius in radii:
        cluster = kp.Poison(problem.Z[0] + radius * directions, problem.labels[0, 0], 3.0)
        errors.append(np.linalg.norm(kp.efficacy(problem.clean, cluster, x, problem.ridge) - law))
    return np.diff(np.log(errors)) / np.diff(np.log(radii))


@pytest.mark.parametrize(
    ("name", "centred", "order"),
    [("rbf", False, 1), ("rbf", True, 2), ("matern32", True, 2), ("laplace", False, 1), ("laplace", True, 1)],
)
def test_the_clone_law_of_a_cluster_errs_by_its_radius_or_the_square(name, centred, order):
    # The next order is ε/ℓ or ε m k/ρ = ε/2 of the leading one, up to a factor of size 1; half of a decade's
    # logarithm turns it into 0.4 ε of the exponent.
    radii = np.array([1e-2, 1e-3, 1e-4])
    slopes = _slopes(name, centred, radii)
    assert np.all(np.abs(slopes - order) < 3 * radii[:2])


@pytest.mark.slow
def test_images_with_a_custom_kernel():
    # Points of shape (2, 2, 1) under a kernel of three axes are the vectors of length 4 under the same kernel.
    rng = np.random.default_rng(2)
    X, Z, x = rng.normal(size=(6, 2, 2, 1)), rng.normal(size=(2, 2, 2, 1)), rng.normal(size=(3, 2, 2, 1))
    y, labels, counts = rng.normal(size=6), np.array([1.0, -2.0]), np.array([2.0, 0.5])
    images = kp.kernels.Custom(lambda a, b: jnp.exp(-0.5 * jnp.sum((a - b) ** 2)), point_ndim=3)
    of_images, of_vectors = kp.fit(images, X, y), kp.fit(kp.kernels.RBF(1.0), X.reshape(6, 4), y)
    # cond(A) < (6 + 2.5 + ρ)/ρ < 21, all else is of size 1.
    bound = 10 * EPS * 21 * np.linalg.norm(y)
    cluster, vectors = kp.Poison(Z, labels, counts), kp.Poison(Z.reshape(2, 4), labels, counts)
    found = kp.efficacy(of_images, cluster, x, 0.05)
    np.testing.assert_allclose(found, kp.efficacy(of_vectors, vectors, x.reshape(3, 4), 0.05), rtol=0, atol=bound)
    clones, vectors = kp.Poison(Z[0], 1.0, 2.0), kp.Poison(Z[0].reshape(4), 1.0, 2.0)
    found = kp.predict(of_images, x[0], 0.05, clones)
    assert found.shape == ()
    np.testing.assert_allclose(found, kp.predict(of_vectors, x[0].reshape(4), 0.05, vectors), rtol=0, atol=bound)


def test_a_point_and_a_batch_of_points():
    problem = make("rbf", clones=False)
    many = kp.efficacy(problem.clean, problem.poison, problem.x, problem.ridge)
    one = kp.efficacy(problem.clean, problem.poison, problem.x[2], problem.ridge)
    assert one.shape == (2,)
    bound = 10 * EPS * problem.answer().condition * problem.answer().efficacy.scale.max()
    np.testing.assert_allclose(one, many[2], rtol=0, atol=bound)
