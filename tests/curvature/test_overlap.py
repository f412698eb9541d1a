"""Squared cosines with a direction: by hand, against random directions, and what is refused."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy import stats

from kpoison.curvature import overlap

RNG = np.random.default_rng(2)
D, K = 12, 4
V = np.linalg.qr(RNG.normal(size=(D, D)))[0][:K]
DRAWN = RNG.normal(size=(4000, D))


def test_by_hand():
    u = 3 * V[0] - 4 * V[2] + 12 * np.linalg.svd(V)[2][-1]
    found = overlap(V, u)
    np.testing.assert_allclose(found.squared_cosines, np.array([9, 0, 16, 0]) / 169, atol=1e-14)
    np.testing.assert_allclose(found.summed, np.array([9, 9, 25, 25]) / 169, atol=1e-14)
    np.testing.assert_allclose(found.by_chance, np.arange(1, 5) / 12)


def test_what_is_by_chance_is_so():
    """Of directions drawn uniformly the means are i/D, and the p-values uniform."""
    found = jax.jit(jax.vmap(lambda u: overlap(V, u)))(DRAWN)
    deviation = np.std(found.summed, axis=0) / np.sqrt(len(DRAWN))
    np.testing.assert_array_less(np.abs(np.mean(found.summed, axis=0) - found.by_chance[0]), 4 * deviation)
    for i in range(K):
        assert stats.kstest(np.asarray(found.p_values[:, i]), "uniform").pvalue > 1e-4


def test_ends():
    all_of_them = overlap(np.eye(3), np.array([1.0, 2.0, 2.0]))
    np.testing.assert_allclose(all_of_them.summed, [1 / 9, 5 / 9, 1], rtol=1e-14)
    assert float(all_of_them.p_values[-1]) == 1
    assert float(overlap(V[:1], V[0]).p_values[0]) < 1e-60
    assert float(overlap(V[:1], V[1]).p_values[0]) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_a_faint_direction_and_in_single_precision(dtype):
    vectors = V.astype(dtype)
    found = overlap(vectors, (1e-30 * DRAWN[0]).astype(dtype))
    assert found.p_values.dtype == found.summed.dtype == dtype
    for part, exact in zip(jax.tree.leaves(found), jax.tree.leaves(overlap(V, DRAWN[0])), strict=True):
        np.testing.assert_allclose(part, exact, atol=200 * np.finfo(dtype).eps)


@pytest.mark.slow
def test_derivatives():
    u = DRAWN[1]
    slope = jax.grad(lambda u: overlap(V, u).summed[1])(u)
    W, size = V[:2], u @ u
    np.testing.assert_allclose(slope, 2 * (W.T @ (W @ u)) / size - 2 * u * np.sum((W @ u) ** 2) / size**2, atol=1e-12)


@pytest.fixture
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("what_a_user_sees")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: overlap(V, np.zeros(D)), ValueError, "direction must not be 0"),
        (lambda: overlap(V, np.ones(D - 1)), ValueError, r"direction must have the 12 coordinates .* \(11,\)"),
        (lambda: overlap(V, np.nan * DRAWN[0]), ValueError, "direction must be finite"),
        (lambda: overlap(V, np.ones(D, int)), TypeError, "direction must be a floating-point"),
        (lambda: overlap(2 * V, DRAWN[0]), ValueError, "vectors must be orthonormal rows, got V Vᵀ up to 3.0e\\+00"),
        (lambda: overlap(V[0], DRAWN[0]), ValueError, r"vectors must have shape \(k, D\), .*got \(12,\)"),
        (lambda: overlap(V.T, DRAWN[0][:4]), ValueError, r"vectors must have shape .*got \(12, 4\)"),
        (lambda: overlap(np.inf * V, DRAWN[0]), ValueError, "vectors must be finite"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_bad_input_inside_a_program():
    for vectors, u, message in ((2 * V, DRAWN[0], "orthonormal"), (V, 0 * DRAWN[0], "must not be 0")):
        with pytest.raises((RuntimeError, ValueError), match=message):
            jax.block_until_ready(jax.jit(overlap)(jnp.asarray(vectors), jnp.asarray(u)))
