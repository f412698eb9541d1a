"""The restricted factor solves as the full one does, over eight decades of the ridge, or is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.ridge.solvers.dense import DenseFactor

RNG = np.random.default_rng(3)
X = jnp.asarray(RNG.normal(size=(300, 5)))
Y = jnp.asarray(RNG.normal(size=(300, 2)))
ZETA = jnp.asarray(RNG.normal(size=(1, 5)))


# Zolotarev's bound on the rank of a Krylov space with real poles in [a, b], a spectrum in [0, ∞), to an error of 4 eps
# (Beckermann, Townsend 2017).  A short spectrum needs half of it, but not where noise hides the low rank, as after
# Cholesky factorisations.
RANK = np.log(4 * 1e8) * np.log(1 / np.finfo(float).eps) / np.pi**2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length_scale", "solver"), [(0.7, kp.Spectral()), (1.5, kp.Tridiagonal()), (0.7, kp.Cholesky())]
)
def test_it_solves_to_rounding_at_small_rank(length_scale, solver):
    clean = kp.fit(kp.kernels.RBF(length_scale), X, Y, solver=solver)
    b = clean.kernel.pairwise(X, ZETA)
    factor = clean.factor.restricted(b, (1e-7, 1e1), largest_rank=0.25)
    compressed = dataclasses.replace(clean, factor=factor)
    assert not factor.abilities.any_right_hand_side
    rank = compressed.factor.eigenvalues.size
    short = length_scale < 1 and isinstance(solver, kp.Spectral)
    assert rank <= (RANK / 2 if short else RANK), rank

    @jax.jit
    def both(rho):
        pair = (clean, compressed)
        return (
            [p.factor.solve(rho, b) for p in pair],
            [p.factor.condition_number(rho) for p in pair],
            [p.at(rho).mean(ZETA) for p in pair],
        )

    for rho in np.geomspace(1e-7, 1e1, 25):
        (full, small), (condition, compressed_condition), mean = map(np.asarray, both(rho))
        error = np.linalg.norm(full - small) / np.linalg.norm(full)
        assert error < 20 * np.finfo(float).eps * condition + 2e-13
        assert compressed_condition == pytest.approx(condition)
        scale = condition * np.max(np.abs(mean[0]))
        assert np.max(np.abs(mean[0] - mean[1])) < 1000 * np.finfo(float).eps * scale


def test_a_rank_that_is_not_small_is_refused():
    clean = kp.fit(kp.kernels.RBF(0.7), X, Y)
    b = jnp.asarray(RNG.normal(size=(300, 1)))
    assert clean.factor.restricted(b, (1e-7, 1e1), largest_rank=0.02) is clean.factor
    many = jnp.asarray(RNG.normal(size=(300, 40)))
    assert clean.factor.restricted(many, (1e-7, 1e1), largest_rank=0.25) is clean.factor


@pytest.mark.slow
def test_a_sweep_falls_back_to_the_full_posterior(monkeypatch):
    clean, poison = kp.fit(kp.kernels.RBF(0.7), X, Y[:, 0]), kp.Poison(ZETA[0], 1.0, 1.0)
    axes = {"direction": jnp.ones(5), "r_over_l": [0.1, 1.0], "m": [1.0, 9.0], "ridge": [1e-4, 1e-2]}
    small = kp.sweep(clean, poison, **axes)
    monkeypatch.setattr(DenseFactor, "restricted", lambda self, *arguments: self)
    full = kp.sweep(clean, poison, **axes)
    for name in full:
        np.testing.assert_allclose(small[name], full[name], rtol=1e-11)


def test_one_ridge():
    clean = kp.fit(kp.kernels.RBF(1.0), X, Y)
    b = clean.kernel.pairwise(X, ZETA)
    factor = clean.factor.restricted(b, (0.999e-3, 1.001e-3), largest_rank=0.25)
    assert not factor.abilities.any_right_hand_side
    assert factor.eigenvalues.size <= 16
