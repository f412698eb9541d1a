"""The choice of kernel and ridge: against grids, by its derivatives, and what it says when nothing can be chosen."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import kpoison as kp
from kpoison.ridge import TrainingSet
from kpoison.tuning import _search
from kpoison.tuning.objectives import OBJECTIVES
from kpoison.tuning.profile import Profile

RNG = np.random.default_rng(0)
N = 40
X = RNG.normal(size=(N, 2))
Y = np.sin(2 * X[:, 0]) + 0.1 * RNG.normal(size=N)
OTHERS = RNG.normal(size=(30, 2))
HELD_OUT = OTHERS, np.sin(2 * OTHERS[:, 0])


def k(a, b, length_scale):
    return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2 / length_scale**2)


def left_out(length_scale, ridge):
    inverse = np.linalg.inv(k(X, X, length_scale) + N * ridge * np.eye(N))
    return np.mean((inverse @ Y / np.diagonal(inverse)) ** 2)


def generalised(length_scale, ridge):
    gram = k(X, X, length_scale)
    hat = gram @ np.linalg.inv(gram + N * ridge * np.eye(N))
    return np.mean((Y - hat @ Y) ** 2) / (1 - np.trace(hat) / N) ** 2


def evidence(length_scale, ridge):
    A = k(X, X, length_scale) + N * ridge * np.eye(N)
    return 0.5 * (Y @ np.linalg.solve(A, Y) + np.linalg.slogdet(A)[1] + N * np.log(2 * np.pi)) / N


def held_out(length_scale, ridge):
    dual = np.linalg.solve(k(X, X, length_scale) + N * ridge * np.eye(N), Y)
    return np.mean((HELD_OUT[1] - k(HELD_OUT[0], X, length_scale) @ dual) ** 2)


BRUTE = {
    "leave-one-out": left_out,
    "generalised-cross-validation": generalised,
    "marginal-likelihood": evidence,
    "held-out": held_out,
}


QUICK = ["leave-one-out", *(pytest.param(name, marks=pytest.mark.slow) for name in list(BRUTE)[1:])]


@pytest.mark.parametrize("objective", QUICK)
def test_it_finds_what_a_grid_does_not_beat(objective):
    others = {"held_out": HELD_OUT} if objective == "held-out" else {}
    found = kp.tune(kp.kernels.RBF(0.3), X, Y, 1e-1, objective, **others)
    function = BRUTE[objective]
    # The objective is what it is said to be.
    value = function(float(found.kernel.length_scale), float(found.ridge))
    assert float(found.value) == pytest.approx(value, rel=1e-7)
    grid = [function(length, ridge) for length in np.geomspace(0.1, 10, 25) for ridge in np.geomspace(1e-7, 1, 25)]
    assert float(found.value) <= min(grid) + 1e-9 * abs(min(grid))
    # Generalised cross-validation of so few points falls on and on, ever less, towards a ridge of 0.
    ends = {kp.TuningStatus.CONVERGED} | ({kp.TuningStatus.UNBOUNDED} if objective[0] == "g" else set())
    assert found.status in ends
    assert np.nanmin(np.asarray(found.path)) == pytest.approx(float(found.value), rel=1e-9)


@pytest.mark.parametrize("objective", BRUTE)
def test_the_slope_that_is_searched(objective):
    def value(logs):
        clean = kp.fit(kp.kernels.RBF(jnp.exp(logs[0])), X, Y, solver=kp.Cholesky())
        return OBJECTIVES[objective].value(clean, jnp.exp(logs[1]), tuple(map(jnp.asarray, HELD_OUT)))

    at, step = np.log([0.8, 1e-2]), 1e-5
    function = BRUTE[objective]
    found = jax.grad(value)(jnp.asarray(at))
    for axis in range(2):
        ends = [function(*np.exp(at + sign * step * np.eye(2)[axis])) for sign in (1, -1)]
        assert float(found[axis]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("objective", QUICK)
def test_the_profile_is_the_smallest_objective_over_ridges_and_so_is_its_slope(objective):
    function = BRUTE[objective]

    def smallest(log_length):
        """By Brent's method within a factor of e about the best of many."""
        logs = np.arange(np.log(1e-2) - 12, np.log(1e-2) + 12.5)
        values = [function(np.exp(log_length), np.exp(log)) for log in logs]
        bracket = logs[np.argmin(values)] + np.array([-1, 1])
        options = {"xatol": 1e-9}
        found = minimize_scalar(lambda log: function(np.exp(log_length), np.exp(log)), bounds=bracket, options=options)
        return found.fun if objective == "marginal-likelihood" else np.log(found.fun)

    kernel, observed, y = TrainingSet.of(kp.kernels.RBF(jnp.asarray(0.8)), X, Y)
    others = tuple(map(jnp.asarray, HELD_OUT)) if objective == "held-out" else None
    profile = Profile(kernel, jnp.asarray(1e-2), observed, y, others, objective)
    at, step = jnp.log(jnp.array([1.1])), 1e-4
    (value, ridge), slope = jax.jit(jax.value_and_grad(profile.of, has_aux=True))(at)
    # The vertex of a parabola through three ridges 1/144 of a factor of e apart is off by a thousandth of that.
    assert float(value) == pytest.approx(smallest(float(at[0])), abs=1e-8)
    assert float(slope[0]) == pytest.approx((smallest(at[0] + step) - smallest(at[0] - step)) / (2 * step), rel=1e-4)
    assert bool(ridge.right)
    assert float(ridge.slope) == 0


@pytest.mark.slow
def test_a_ridge_at_the_end_of_what_is_looked_at_has_a_slope():
    kernel, observed, y = TrainingSet.of(kp.kernels.RBF(jnp.asarray(0.8)), X, Y)
    profile = Profile(kernel, jnp.asarray(1e6), observed, y, None, "leave-one-out")
    ridge = eqx.filter_jit(profile.of)(profile.parameters)[1]
    assert float(ridge.log_ridge) == pytest.approx(np.log(1e6) - 12)
    low, high = (np.log(left_out(0.8, np.exp(np.log(1e6) - 12 + sign * 0.01))) for sign in (-1, 1))
    assert float(ridge.slope) == pytest.approx((high - low) / 0.02, rel=0.03)  # by differences of 1/144, near there


def test_a_kernel_without_parameters_gets_its_ridge():
    found = kp.tune(kp.kernels.Linear(), X, Y, 1e-2)
    assert found.status is kp.TuningStatus.CONVERGED
    gram = X @ X.T
    inverses = {r: np.linalg.inv(gram + N * r * np.eye(N)) for r in float(found.ridge) * np.array([0.9, 1, 1.1])}
    below, here, above = (np.mean((A @ Y / np.diagonal(A)) ** 2) for A in inverses.values())
    assert float(found.value) == pytest.approx(here, rel=1e-9)
    assert here < min(below, above)


@pytest.mark.slow
def test_every_positive_parameter_is_chosen():
    kernel = 2.0 * kp.kernels.RBF(1.0) + kp.kernels.Polynomial(2)
    found = kp.tune(kernel, X, Y, 1e-2, "marginal-likelihood")
    assert float(found.kernel.first.scale) != 2.0
    assert float(found.kernel.first.kernel.length_scale) != 1.0
    assert float(found.value) < evidence(1.0, 1e-2)


@pytest.mark.slow
def test_weights_and_an_intercept():
    weights = np.where(np.arange(N) < 5, 0.0, 1.0)
    options = {"starts": 1, "max_iterations": 40}
    found = kp.tune(kp.kernels.RBF(0.7), X, Y + 3, 1e-2, weights=weights, intercept=True, **options)
    fewer = kp.tune(kp.kernels.RBF(0.7), X[5:], Y[5:] + 3, 1e-2, intercept=True, **options)
    assert float(found.value) == pytest.approx(float(fewer.value), rel=1e-8)
    assert float(found.kernel.length_scale) == pytest.approx(float(fewer.kernel.length_scale), rel=1e-3)


@pytest.mark.slow
def test_of_many_points_some_first(monkeypatch):
    monkeypatch.setattr(_search, "_FEW", 25)
    found = kp.tune(kp.kernels.RBF(0.1), X, Y, 1e-1)
    assert found.status is kp.TuningStatus.CONVERGED
    value = left_out(float(found.kernel.length_scale), float(found.ridge))
    assert float(found.value) == pytest.approx(value, rel=1e-7)
    grid = [left_out(length, ridge) for length in np.geomspace(0.1, 10, 25) for ridge in np.geomspace(1e-7, 1, 25)]
    assert float(found.value) <= min(grid)
    # One with its slope takes the time of 2.4 without: a grid of 20 kernels must take longer.
    assert 2.4 * np.sum(np.isfinite(np.asarray(found.path))) < 20


@pytest.mark.slow
def test_single_precision():
    found = kp.tune(kp.kernels.RBF(0.3), X.astype(np.float32), Y.astype(np.float32), 1e-1)
    exact = kp.tune(kp.kernels.RBF(0.3), X, Y, 1e-1)
    assert found.kernel.length_scale.dtype == jnp.float32
    assert float(found.value) == pytest.approx(float(exact.value), rel=1e-2)


class TestStatus:
    """How a search ends is said."""

    def test_flat(self):
        # Points so far apart that no length scale within reach matters, and labels of noise about 0.
        far = 1e9 * np.repeat(np.arange(N)[:, None], 2, axis=1)
        found = kp.tune(kp.kernels.RBF(1.0), far, (-1.0) ** np.arange(N), 1e-2)
        assert found.status is kp.TuningStatus.FLAT

    @pytest.mark.slow
    def test_unbounded(self):
        # A constant function is fitted the better the longer the length scale.
        found = kp.tune(kp.kernels.RBF(1.0), X, np.ones(N), 1e-2, "marginal-likelihood")
        assert found.status in (kp.TuningStatus.UNBOUNDED, kp.TuningStatus.LIMIT)
        assert float(found.kernel.length_scale) > 100

    def test_limit(self):
        found = kp.tune(kp.kernels.RBF(0.3), X, Y, 1e-1, starts=1, max_iterations=1)
        assert found.status is kp.TuningStatus.LIMIT

    @pytest.mark.slow
    def test_failed(self):
        found = kp.tune(kp.kernels.RBF(1e5), X, Y, 1e-40)
        assert found.status is kp.TuningStatus.FAILED
        assert not np.isfinite(float(found.value)) or float(found.value) > 1e5


WRONG = {
    "objective": ({"objective": "evidence"}, "objective"),
    "held_out missing": ({"objective": "held-out"}, "held_out"),
    "held_out given": ({"held_out": HELD_OUT}, "held_out"),
    "held_out no pair": ({"objective": "held-out", "held_out": OTHERS}, "held_out"),
    "held_out dimension": ({"objective": "held-out", "held_out": (OTHERS[:, :1], HELD_OUT[1])}, "held_out"),
    "starts": ({"starts": 0}, "starts"),
    "iterations": ({"max_iterations": 0}, "max_iterations"),
    "ridge": ({"ridge": -1.0}, "ridge"),
    "weights": ({"weights": -np.ones(N)}, "weights"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(case):
    options, message = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=message):
        kp.tune(kp.kernels.RBF(1.0), X, Y, options.pop("ridge", 1e-2), **options)


def test_it_needs_known_numbers():
    with pytest.raises(TypeError, match="jit"):
        jax.jit(lambda scale: kp.tune(kp.kernels.RBF(scale), X, Y, 1e-2).value)(1.0)


def test_what_was_found_is_one_line_and_a_table():
    path = np.array([[3.0, 2.0, 1.5, np.nan], [2.5, 2.0, np.nan, np.nan]])
    kernel = kp.kernels.RBF(jnp.asarray(1.5)) + 1.0
    found = kp.Tuned(kernel, jnp.asarray(0.01), jnp.asarray(1.5), jnp.asarray(path), kp.TuningStatus.LIMIT)
    kernel_in_words = "Sum(first=RBF(length_scale=1.5), second=Constant(value=1.0))"
    end = f"ridge=0.01, value=1.5, iterations=[2, 1], status={kp.TuningStatus.LIMIT.value})"
    assert repr(found) == f"Tuned(kernel={kernel_in_words}, {end}"
    page = found._repr_html_()
    assert page.count("<tr>") == 5
    assert kernel_in_words in page
