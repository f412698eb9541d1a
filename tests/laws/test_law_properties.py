"""L1-L4 and L7 on random problems: any kernel, size, ridge, real-valued counts, distances."""

import numpy as np
import pytest
from brute_force import Problem, spike_error
from hypothesis import given, settings
from hypothesis import strategies as st

import kpoison as kp
from benchmarks.exactness import FAMILIES

# Every new combination of these compiles every law anew; all other numbers are free.
KINDS = (("rbf", (7, 2), True), ("rbf", (12, 4), False), ("matern32", (7, 2), True), ("cubic", (12, 4), True))


def exponents(low, high):
    return st.floats(low, high, allow_nan=False).map(lambda power: 10.0**power)


@st.composite
def problems(draw):
    name, (n, d), clones = draw(st.sampled_from(KINDS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    locations, outputs = (1, 1) if clones else (2, 2)
    low, high = (0.1, 10.0) if FAMILIES[name].length_scale else FAMILIES[name].parameters[0]
    parameter = draw(st.floats(low, high))
    X = rng.normal(size=(n, d))
    if draw(st.booleans()):  # a duplicate
        X[-1] = X[0]
    near = draw(st.booleans())
    Z = (X[0] if near else rng.normal(size=d)) + draw(exponents(-6, 0)) * rng.normal(size=(locations, d))
    u = rng.normal(size=(2, d))
    r = np.array([[draw(exponents(-9, 1))], [draw(exponents(-2, 0.5))]]) * parameter
    return Problem(
        name=name,
        parameters=(parameter,),
        X=X,
        Y=rng.normal(size=(n, outputs)),
        Z=Z,
        labels=rng.normal(size=(locations, outputs)),
        counts=np.array([draw(st.floats(1e-3, 50)) for _ in range(locations)]),
        ridge=draw(exponents(-7, 1)),
        x=Z[0] + r * u / np.linalg.norm(u, axis=1, keepdims=True),
        clones=clones,
    )


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(problems())
def test_exact_laws_are_refits(problem):
    clean, poison, ridge = problem.clean, problem.poison, problem.ridge
    truth = problem.answer()
    gain = kp.gain(clean, poison, ridge)
    change = kp.efficacy(clean, poison, problem.x, ridge)
    gradient = kp.efficacy_gradient(clean, poison, problem.x, ridge)
    assert truth.ratio("gain", problem.with_axes("gain", gain)) <= 1
    assert truth.ratio("efficacy", problem.with_axes("efficacy", change)) <= 1
    assert truth.ratio("gradient", problem.with_axes("gradient", gradient)) <= 1
    spike = kp.spike(clean, poison, problem.x, ridge)
    assert spike_error(problem.with_axes("spike", spike), truth) <= 1


@settings(max_examples=30, deadline=None)
@given(problems(), st.floats(1.01, 100))
def test_more_poison_gains_more_up_to_a_limit(problem, factor):
    # At fixed ρ: S grows with m, stays below m/ρ (no saturation) and below 1/k̃ (full saturation).
    n = len(problem.X)
    clean, m, rho = problem.clean, problem.counts[0], problem.rho
    location, label = problem.Z[0], problem.labels[0] if not problem.clones else problem.labels[0, 0]
    less = kp.gain(clean, kp.Poison(location, label, m), rho / (n + m))
    more = kp.gain(clean, kp.Poison(location, label, m * factor), rho / (n + m * factor))
    _, covariance = problem.clean_at_rho()
    own = covariance(problem.Z[:1], problem.Z[:1])[0, 0]
    # k̃ is a difference of numbers of size k(ζ, ζ), each known to 10·eps·cond.
    k0 = problem.evaluate(problem.Z[:1], problem.Z[:1]).value[0, 0]
    slack = 1 + 2 * 10 * np.finfo(float).eps * problem.answer().condition * (1 + k0 / max(own, rho / (m * factor)))
    assert 0 < less <= more * slack
    assert more <= less * factor * slack
    assert more <= m * factor / rho * slack
    assert more * own <= slack
