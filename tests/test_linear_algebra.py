"""Solves and factorisations are NumPy's, under vmap too, where on an affected CPU they are a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kpoison import _linear_algebra as linear_algebra

RNG = np.random.default_rng(0)
MATRICES = jnp.asarray(RNG.normal(size=(4, 5, 5)))
SPD = jnp.einsum("bij,bkj->bik", MATRICES, MATRICES) + jnp.eye(5)[None]
B = jnp.asarray(RNG.normal(size=(4, 5, 2)))


@pytest.mark.parametrize("dtype", [float, complex])
def test_linear_solves_one_by_one_and_in_batches(dtype):
    matrices = (MATRICES + (1j if dtype is complex else 0)).astype(dtype)
    expected = np.linalg.solve(np.asarray(matrices), np.asarray(B))
    np.testing.assert_allclose(jax.vmap(linear_algebra.linear_solve)(matrices, B), expected, rtol=1e-11)
    np.testing.assert_allclose(
        jax.vmap(jax.vmap(linear_algebra.linear_solve))(matrices[None], B[None])[0], expected, rtol=1e-11
    )
    np.testing.assert_allclose(linear_algebra.linear_solve(matrices[0], B[0]), expected[0], rtol=1e-11)


def test_linear_solves_are_differentiable_in_both_arguments():
    def total(matrix, b):
        return jnp.sum(jnp.sin(linear_algebra.linear_solve(matrix, b)))

    def plain(matrix, b):
        return jnp.sum(jnp.sin(jnp.linalg.inv(matrix) @ b))

    for found, expected in zip(
        jax.vmap(jax.grad(total, argnums=(0, 1)))(SPD, B),
        jax.vmap(jax.grad(plain, argnums=(0, 1)))(SPD, B),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_factorisations_in_batches():
    lower = jax.vmap(linear_algebra.cholesky)(SPD)
    np.testing.assert_allclose(lower, np.linalg.cholesky(np.asarray(SPD)), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(jax.vmap(linear_algebra.cholesky_solve)(lower, B), np.linalg.solve(SPD, B), rtol=1e-11)
    halves = jax.vmap(linear_algebra.lower_solve)(lower, B)
    np.testing.assert_allclose(jnp.einsum("bij,bjk->bik", lower, halves), B, rtol=1e-11)
    values, vectors = jax.vmap(linear_algebra.eigh)(SPD)
    np.testing.assert_allclose(jnp.einsum("bij,bj,bkj->bik", vectors, values, vectors), SPD, rtol=1e-11)


def test_on_an_affected_cpu_no_batch_reaches_lapack(monkeypatch):
    monkeypatch.setattr(linear_algebra, "_MENDED_IN", (99,))
    text = str(jax.make_jaxpr(jax.vmap(linear_algebra.linear_solve))(MATRICES, B))
    assert "scan" in text
    monkeypatch.setattr(linear_algebra, "_MENDED_IN", (0,))
    assert "scan" not in str(jax.make_jaxpr(jax.vmap(linear_algebra.linear_solve))(MATRICES, B))


def largest(K, counts):
    """Of KC, by NumPy, at counts that may be a little below 0 too."""
    return np.sort(np.linalg.eigvals(np.asarray(K) @ np.diag(counts)).real)[-1]


@pytest.mark.parametrize("others", [pytest.param("apart", marks=pytest.mark.slow), "equal"])
def test_a_leading_eigenpair_is_differentiable_down_to_a_count_of_zero_and_beside_equal_others(others):
    K = np.asarray(SPD[0]) if others == "apart" else np.eye(5) + 2 * np.ones((5, 5))
    counts = np.array([3.0, 1, 0, 2, 1]) if others == "apart" else np.array([1.0, 1, 0, 1, 1])

    def value(K, counts):
        return linear_algebra.leading_eigenpair(K, counts)[0]

    first, vector, second = linear_algebra.leading_eigenpair(jnp.asarray(K), jnp.asarray(counts))
    np.testing.assert_allclose(first, largest(K, counts), rtol=1e-13)
    np.testing.assert_allclose(K @ (counts * vector), first * vector, rtol=1e-12)
    assert float(vector @ (counts * vector)) == pytest.approx(1, rel=1e-13)
    assert float(second) < float(first)
    step, places = 1e-4, np.eye(5)
    slopes = [(largest(K, counts + step * e) - largest(K, counts - step * e)) / (2 * step) for e in places]
    np.testing.assert_allclose(jax.grad(value, argnums=1)(jnp.asarray(K), jnp.asarray(counts)), slopes, rtol=1e-6)
    bends = [
        [
            sum(s * t * largest(K, counts + step * (s * a + t * b)) for s in (1, -1) for t in (1, -1)) / (4 * step**2)
            for a in places
        ]
        for b in places
    ]
    for hessian in (jax.hessian(value, argnums=1), jax.jacrev(jax.jacrev(value, argnums=1), argnums=1)):
        np.testing.assert_allclose(
            hessian(jnp.asarray(K), jnp.asarray(counts)), bends, atol=1e-5 * np.max(np.abs(bends))
        )
    turn = np.asarray(SPD[1])
    by_scale = jax.grad(lambda t: value(jnp.asarray(K) + t * turn, jnp.asarray(counts)))(0.0)
    expected = (largest(K + 1e-5 * turn, counts) - largest(K - 1e-5 * turn, counts)) / 2e-5
    assert float(by_scale) == pytest.approx(expected, rel=1e-7)
    many = jax.vmap(jax.grad(value, argnums=1), (0, None))(jnp.stack([K, 2 * K]), jnp.asarray(counts))
    np.testing.assert_allclose(many, np.outer([1, 2], slopes), rtol=1e-6)


def test_the_length_of_a_leading_eigenvector_stays_as_counts_change():
    def length(counts):
        vector = linear_algebra.leading_eigenpair(SPD[0], counts)[1]
        return jnp.sum(counts * vector**2)

    value, slopes = jax.value_and_grad(length)(jnp.array([3.0, 1.0, 0.0, 2.0, 1.0]))
    assert float(value) == pytest.approx(1, rel=1e-13)
    np.testing.assert_allclose(slopes, 0, atol=1e-12)


def test_a_leading_eigenvalue_that_is_double_has_no_derivative():
    def value(K):
        return linear_algebra.leading_eigenpair(K, jnp.ones(3))[0]

    assert float(value(jnp.eye(3))) == 1
    with pytest.raises(Exception, match="the leading eigenvalue must be simple to be differentiated"):
        jax.grad(value)(jnp.eye(3))


def test_a_loop_over_matrices_may_be_asked_for_tangents_alone():
    def total(scale):
        return jnp.sum(linear_algebra.eigh(scale * SPD[0])[0] ** 2)

    slopes = jax.vmap(lambda tangent: jax.jvp(total, (1.0,), (tangent,))[1])(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(slopes, np.array([2.0, 4.0]) * np.sum(np.linalg.eigvalsh(SPD[0]) ** 2), rtol=1e-12)
