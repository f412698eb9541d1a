"""L1: m clones are one observation with noise ρ/m."""

import jax
import numpy as np
import pytest
from brute_force import KERNELS, REAL, WHOLE, make, with_weights

import kpoison as kp
from benchmarks.exactness import EPS


@pytest.mark.parametrize("clones", [True, False], ids=["clones", "cluster"])
@pytest.mark.parametrize("name", KERNELS)
def test_gain_is_that_of_a_refit(name, clones):
    for counts in (WHOLE, REAL):
        problem = make(name, clones=clones, counts=counts)
        gain = kp.gain(problem.clean, problem.poison, problem.ridge)
        assert gain.shape == (() if clones else (3, 3))
        assert problem.answer().ratio("gain", problem.with_axes("gain", gain)) <= 1


def test_copies_and_weights_are_the_same_refit():
    # Of the oracles: what the tests below call a real-valued count is a weight.
    problem = make("rbf", clones=False)
    copies, weights = problem.answer(), with_weights(problem)
    for quantity in ("gain", "efficacy", "gradient"):
        assert copies.ratio(quantity, getattr(weights, quantity).value) <= 1


def test_gain_is_the_poisons_dual_coefficient():
    # s = S (y_t − f_c(ζ)) with f_c at the poisoned ρ; copies share it equally.
    problem = make("rbf", clones=True)
    mean, _ = problem.clean_at_rho()
    points = np.concatenate([problem.X, np.repeat(problem.Z, 3, axis=0)])
    targets = np.concatenate([problem.Y, np.repeat(problem.labels, 3, axis=0)])
    A = problem.evaluate(points, points).value + problem.rho * np.eye(len(points))
    alpha = np.linalg.solve(A, targets)[len(problem.X) :]
    s = kp.gain(problem.clean, problem.poison, problem.ridge) * (problem.labels - mean(problem.Z))
    # s is a difference of predictions times S: relative to S it is as exact as they are, and they are of size 1.
    bound = 10 * EPS * np.linalg.cond(A) * float(kp.gain(problem.clean, problem.poison, problem.ridge))
    np.testing.assert_allclose(alpha.sum(), float(s[0, 0]), rtol=0, atol=bound * np.linalg.norm(targets))


@pytest.mark.parametrize("name", ["rbf", "ntk_relu"])
def test_isolated_gain_is_the_papers(name):
    problem = make(name, clones=True)
    k0 = problem.evaluate(problem.Z, problem.Z).value[0, 0]
    for m in (0.5, 3.0, 40.0):
        gain = kp.gain(problem.clean, kp.Poison(problem.Z[0], 1.0, m), problem.ridge, law="isolated")
        expected = m / ((9 + m) * problem.ridge + m * k0)
        # Sums and products of positive numbers: a few eps.
        np.testing.assert_allclose(gain, expected, rtol=20 * EPS)


def test_isolated_gain_of_a_cluster():
    problem = make("rbf", clones=False)
    gain = kp.gain(problem.clean, problem.poison, problem.ridge, law="isolated")
    system = problem.evaluate(problem.Z, problem.Z).value + np.diag(problem.rho / problem.counts)
    expected = np.linalg.inv(system)
    np.testing.assert_allclose(gain, expected, rtol=0, atol=10 * EPS * np.linalg.cond(system) * np.abs(expected).max())


def test_gain_of_a_cluster_is_symmetric_and_bounded():
    # G = (k̃ + ρ/M)⁻¹: symmetric, and 0 ⪯ G ⪯ M/ρ.
    problem = make("matern32", clones=False, counts=REAL)
    gain = np.asarray(kp.gain(problem.clean, problem.poison, problem.ridge))
    condition = problem.answer().condition
    np.testing.assert_allclose(gain, gain.T, rtol=0, atol=10 * EPS * condition * np.abs(gain).max())
    assert np.linalg.eigvalsh(gain).min() > 0
    assert np.linalg.eigvalsh(np.diag(problem.counts) / problem.rho - gain).min() > 0


def test_no_poison_has_no_gain_and_the_right_slope():
    # dS/dm at m = 0 is 1/(n_c λ): k̃ enters only at second order.
    problem = make("rbf", clones=True)

    def gain(m, law):
        return kp.gain(problem.clean, kp.Poison(problem.Z[0], 1.0, m), problem.ridge, law=law)

    for law in ("exact", "isolated"):
        value, slope = jax.value_and_grad(gain)(0.0, law)
        assert value == 0
        np.testing.assert_allclose(slope, 1 / (9 * problem.ridge), rtol=20 * EPS)


def test_gain_of_a_cluster_with_absent_locations():
    present, absent = make("rbf", clones=False, counts=(3.0, 0.0, 8.0)), make("rbf", clones=False)
    gain = np.asarray(kp.gain(present.clean, present.poison, present.ridge))
    two = kp.Poison(absent.Z[::2], absent.labels[::2], np.array([3.0, 8.0]))
    expected = np.zeros((3, 3))
    expected[::2, ::2] = kp.gain(present.clean, two, present.ridge)
    bound = 10 * EPS * present.answer().condition * gain.max()
    np.testing.assert_allclose(gain, expected, rtol=0, atol=bound)


def test_gain_of_a_cluster_with_very_different_counts():
    # Rows of (ρI + M k̃) differ by the counts; elimination that follows their size loses the small ones.
    problem = make("rbf", clones=False, counts=(1e-4, 30.0, 1e-2), ridge=0.5)
    gain = kp.gain(problem.clean, problem.poison, problem.ridge)
    assert problem.answer().ratio("gain", gain) <= 1


def test_gain_saturates_at_fixed_rho_and_at_fixed_ridge():
    problem = make("rbf", clones=True)
    m = 1e10
    ridge = problem.rho / (9 + m)  # keeps ρ
    _, covariance = problem.clean_at_rho()
    own = covariance(problem.Z, problem.Z)[0, 0]
    gain = kp.gain(problem.clean, kp.Poison(problem.Z[0], 1.0, m), ridge)
    # S = 1/(k̃ + ρ/m): the rest is ρ/(m k̃); k̃ is a difference of numbers of size 1, amplified by the condition number.
    rest = problem.rho / (m * own)
    condition = np.linalg.cond(problem.evaluate(problem.X, problem.X).value + problem.rho * np.eye(9))
    np.testing.assert_allclose(gain, 1 / own, rtol=rest + 10 * EPS * condition / own)
    # At fixed λ the ridge grows with m: S → 1/(λ + k(ζ, ζ)), clean data have lost all weight.
    gain = kp.gain(problem.clean, kp.Poison(problem.Z[0], 1.0, m), 1e-3)
    rest = (np.trace(problem.evaluate(problem.X, problem.X).value) + 9) / (m * 1e-3)
    np.testing.assert_allclose(gain, 1 / (1e-3 + 1.0), rtol=rest)


def test_gain_is_linear_while_the_poison_is_small():
    # S ρ/m = 1/(1 + m k̃/ρ): one minus it is m k̃/ρ, to second order.
    problem = make("rbf", clones=True, ridge=0.1)
    _, covariance = problem.clean_at_rho()
    for m in (1e-6, 1e-4):
        rho = (9 + m) * 0.1
        excess = m * covariance(problem.Z, problem.Z)[0, 0] / rho
        deviation = 1 - kp.gain(problem.clean, kp.Poison(problem.Z[0], 1.0, m), 0.1) * rho / m
        # `covariance` is at ρ of m = 3, a quarter away; the sign and size of the deviation are what is tested.
        assert 0.5 * excess < deviation < 2 * excess
