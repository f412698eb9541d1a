"""The fit restricted to kernels at the data, against its own normal equations in NumPy (T7)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp

RNG = np.random.default_rng(3)
X = RNG.normal(size=(8, 2))
Y = RNG.normal(size=8)
RIDGE, ELL = 1e-2, 1.3
METRIC = np.array([[1.0, 0.4], [0.4, 0.5]])


def blocks(x):
    """K and the slopes ∂k(x_i, x_j)/∂x_i, (n d, n), from the textbook form."""
    D = x[:, None] - x[None]
    K = np.exp(-(D**2).sum(-1) / 2 / ELL**2)
    return K, (-D / ELL**2 * K[:, :, None]).transpose(0, 2, 1).reshape(-1, len(x))


def trace(x, penalty, metric):
    """Of the map from targets to the values of the best a, min ‖Ka − y‖² + ρ aᵀKa + γ ‖K10 a‖²_M."""
    K, slopes = blocks(x)
    weighed = slopes.T @ np.kron(np.eye(len(x)), metric) @ slopes
    return np.trace(K @ np.linalg.solve(K @ K + len(x) * RIDGE * K + penalty * weighed, K))


def fitted(penalty, x=X, metric=None, **more):
    return kp.fit(kp.kernels.RBF(ELL), x, Y[: len(x)], gradient_penalty=penalty, metric=metric, **more)


@pytest.mark.parametrize("metric", [np.eye(2), METRIC, np.diag([1.0, 0.0])], ids=["identity", "full", "rank 1"])
def test_is_the_trace_of_its_normal_equations(metric):
    for penalty in (1e-3, 0.3, 100.0):
        found = kp.flow.restricted_degrees_of_freedom(fitted(penalty, metric=metric), RIDGE)
        assert float(found) == pytest.approx(trace(X, penalty, metric), rel=1e-9)


def test_goes_to_the_dimension_of_flat_combinations():
    assert float(kp.flow.restricted_degrees_of_freedom(fitted(1e9), RIDGE)) < 1e-4
    # On a line the slopes at an odd number of points are an antisymmetric matrix, which has a kernel.
    odd = fitted(1e7, X[:3, :1])
    assert float(kp.flow.restricted_degrees_of_freedom(odd, RIDGE)) == pytest.approx(1, abs=0.1)


def test_repeated_points_are_one_point_of_that_weight():
    """K is singular; the fit is that of the distinct points with weights."""
    twice = np.concatenate([X[:5], X[:5]])
    found = float(kp.flow.restricted_degrees_of_freedom(fitted(0.3, twice[:8]), RIDGE))
    K, slopes = blocks(X[:5])
    W = np.diag([2.0, 2, 2, 1, 1])
    system = K @ W @ K + 8 * RIDGE * K + 0.3 * slopes.T @ np.kron(W, np.eye(2)) @ slopes
    assert found == pytest.approx(np.trace(K @ np.linalg.solve(system, K @ W)), rel=1e-9)


@pytest.mark.slow
def test_derivatives():
    def ours(penalty, ridge):
        return kp.flow.restricted_degrees_of_freedom(fitted(penalty), ridge)

    slope = jax.jit(jax.grad(ours))(0.3, RIDGE)
    step = 1e-4
    assert float(slope) == pytest.approx(
        (trace(X, 0.3 + step, np.eye(2)) - trace(X, 0.3 - step, np.eye(2))) / 2 / step, rel=1e-6
    )


def test_single_precision():
    clean = kp.fit(kp.kernels.RBF(ELL), X.astype(np.float32), Y.astype(np.float32), gradient_penalty=0.3)
    found = kp.flow.restricted_degrees_of_freedom(clean, RIDGE)
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(trace(X, 0.3, np.eye(2)), rel=1e-4)


@pytest.mark.parametrize(
    ("clean", "message"),
    [
        (lambda: fitted(0.0), "with a gradient penalty"),
        (lambda: fitted(0.3, intercept=True), "without an intercept"),
        (lambda: fitted(0.3, weights=np.ones(8)), "without weights"),
        (lambda: kp.flow.early_stopped(fitted(0.3), 1.0), "to the end"),
        (lambda: fitted(0.3, solver=kp.ConjugateGradients()), "factorises"),
    ],
)
def test_refuses(clean, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kp.flow.restricted_degrees_of_freedom(clean(), RIDGE)
