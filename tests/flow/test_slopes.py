"""T9's slopes against SciPy's exponential and an integration in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

import kpoison as kp

RNG = np.random.default_rng(5)
X = RNG.normal(size=(5, 2))
G = RNG.normal(size=(5, 2))
W = RNG.random(5) + 0.5
ELL, GAMMA, RIDGE = 1.3, 0.7, 0.05
METRIC = np.array([[1.0, 0.4], [0.4, 0.5]])
TIMES = np.array([0.0, 1.0, 20.0])


def second_derivatives(x):
    """∂_x ∂_zᵀ k(x, z) of every pair, (n d, n d)."""
    n, d = x.shape
    D = (x[:, None] - x[None]) / ELL
    k = np.exp(-(D**2).sum(-1) / 2)[:, :, None, None]
    blocks = k * (np.eye(d) - D[..., :, None] * D[..., None, :]) / ELL**2
    return blocks.transpose(0, 2, 1, 3).reshape(n * d, n * d)


def fitted(**more):
    return kp.fit(kp.kernels.RBF(ELL), X, np.zeros(5), **{"gradient_penalty": GAMMA} | more)


@pytest.mark.parametrize("metric", [np.eye(2), METRIC, np.diag([1.0, 0.0])], ids=["identity", "full", "rank 1"])
@pytest.mark.parametrize("weights", [None, W], ids=["once", "weights"])
def test_is_the_solution_of_its_equation(metric, weights):
    share = (np.ones(5) / 5) if weights is None else weights / weights.sum()
    rates = GAMMA * second_derivatives(X) @ np.kron(np.diag(share), metric) + RIDGE * np.eye(10)
    found = kp.flow.slope_contraction(fitted(metric=metric, weights=weights), G, RIDGE, TIMES)
    integrated = scipy.integrate.solve_ivp(
        lambda t, g: -rates @ g, (0, TIMES[-1]), G.ravel(), "DOP853", TIMES, rtol=1e-11, atol=1e-12
    ).y.T
    np.testing.assert_allclose(found.reshape(3, -1), integrated, rtol=0, atol=1e-9)
    for time, g in zip(TIMES, found.reshape(3, -1), strict=True):
        np.testing.assert_allclose(g, scipy.linalg.expm(-time * rates) @ G.ravel(), rtol=0, atol=1e-13)


def test_late_times_decay_with_the_ridge_alone_where_the_metric_is_blind():
    late = kp.flow.slope_contraction(fitted(metric=np.diag([1.0, 0.0])), G, 0.0, np.array([1e5, 1e9]))
    # What is penalised is gone; what is not has reached its limit.
    np.testing.assert_allclose(late[1, :, 0], 0, atol=1e-9)
    np.testing.assert_allclose(late[1], late[0], atol=1e-6)


@pytest.mark.slow
def test_transforms_and_dtypes():
    clean, times = fitted(), jnp.asarray(TIMES)

    def energy(slopes, ridge):
        return jnp.sum(kp.flow.slope_contraction(clean, slopes, ridge, times)[1] ** 2)

    value = energy(jnp.asarray(G), RIDGE)
    assert float(jax.jit(energy)(jnp.asarray(G), RIDGE)) == pytest.approx(float(value), rel=1e-13)
    assert float(jax.grad(energy, 1)(jnp.asarray(G), RIDGE)) == pytest.approx(-2 * float(value), rel=1e-12)
    assert float(jax.vmap(energy, (0, None))(jnp.asarray([G, 2 * G]), RIDGE)[1]) == pytest.approx(4 * float(value))
    single = kp.fit(kp.kernels.RBF(ELL), X.astype(np.float32), np.zeros(5, np.float32), gradient_penalty=GAMMA)
    found = kp.flow.slope_contraction(single, G, RIDGE, TIMES)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, kp.flow.slope_contraction(clean, G, RIDGE, TIMES), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clean": lambda: fitted(gradient_penalty=0.0)}, "with a gradient penalty"),
        ({"clean": lambda: fitted(intercept=True)}, "without an intercept"),
        ({"clean": lambda: kp.flow.early_stopped(fitted(), 1.0)}, "must be a Posterior"),
        ({"slopes": G[:4]}, r"slopes must have shape \(5, 2\).*got \(4, 2\)"),
        ({"slopes": G * np.nan}, "slopes"),
        ({"ridge": -1.0}, "ridge must be"),
        ({"times": np.array([1.0, 0.5])}, "times must rise"),
        ({"times": np.array([1.0, np.inf])}, "times must be finite"),
    ],
)
def test_refuses(arguments, message):
    given = {"clean": fitted, "slopes": G, "ridge": RIDGE, "times": TIMES} | arguments
    with pytest.raises((ValueError, TypeError), match=message):
        kp.flow.slope_contraction(given["clean"](), given["slopes"], given["ridge"], given["times"])
