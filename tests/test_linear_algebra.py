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
