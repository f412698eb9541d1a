"""A kernel that is given by its matrix: the laws of values are those of the kernel that made it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison import kernels as kk

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3))
Y = np.sign(X[:12, 0])
BASE = kk.RBF(1.5)
K = np.asarray(BASE.pairwise(jnp.asarray(X), jnp.asarray(X)))
TRAIN, PROBES, RIDGE = np.arange(12), np.arange(10, 18), 1e-2
KERNEL = kk.Precomputed(K)
BLOCKS = kk.Precomputed(lambda i, j: jnp.asarray(K)[i[:, None], j[None]], number=20)


def fitted(kernel=KERNEL, **options):
    return kp.fit(kernel, TRAIN, Y, **options)


CLEAN = fitted()
POISON = kp.Poison(15, label=-1.0, count=3)


@pytest.mark.parametrize(
    ("kernel", "solver"),
    [
        ("matrix", None),
        ("blocks", kp.Cholesky()),
        pytest.param("matrix", kp.Krylov(rank=8, keep=False), marks=pytest.mark.slow),
        pytest.param("blocks", kp.Krylov(rank=8), marks=pytest.mark.slow),
    ],
)
def test_laws_are_those_of_a_refit(kernel, solver):
    """In NumPy, with the poison repeated: f = K (K + nλI)⁻¹ y."""
    clean, n = fitted({"matrix": KERNEL, "blocks": BLOCKS}[kernel], solver=solver), 15

    def predicted(train, y, number):
        A = K[np.ix_(train, train)] + number * RIDGE * np.eye(len(train))
        return K[np.ix_(PROBES, train)] @ np.linalg.solve(A, y)

    before = predicted(TRAIN, Y, n)
    after = predicted([*TRAIN, 15, 15, 15], [*Y, -1, -1, -1], n)
    close = {"rtol": 1e-7, "atol": 1e-9}
    np.testing.assert_allclose(kp.predict(clean, PROBES, RIDGE), predicted(TRAIN, Y, 12), **close)
    np.testing.assert_allclose(kp.efficacy(clean, POISON, PROBES, RIDGE), after - before, **close)
    cluster = kp.Poison(np.array([15, 16]), np.array([-1.0, 1.0]), np.array([2, 1]))
    after = predicted([*TRAIN, 15, 15, 16], [*Y, -1, -1, 1], n)
    np.testing.assert_allclose(kp.efficacy(clean, cluster, PROBES, RIDGE), after - before, **close)
    ready = kp.prepare(clean, POISON, ridge=[1e-3, 1e-1], count=[1, 10])
    np.testing.assert_allclose(kp.gain(ready, POISON, RIDGE), kp.gain(clean, POISON, RIDGE), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("law", [pytest.param("exact", marks=pytest.mark.slow), "isolated"])
def test_laws_are_those_of_the_points(law):
    points, poison = kp.fit(BASE, X[:12], Y), kp.Poison(X[15], -1.0, 3)
    for ask, own, other in (
        (lambda *a: kp.gain(*a[:2], RIDGE, law), (CLEAN, POISON), (points, poison)),
        (lambda *a: kp.efficacy(*a, RIDGE, law), (CLEAN, POISON, 16), (points, poison, X[16])),
        (lambda *a: kp.m_success(*a, RIDGE), (CLEAN, POISON, PROBES), (points, poison, X[PROBES])),
        (lambda *a: kp.leave_one_out(a[0], RIDGE), (CLEAN,), (points,)),
        (lambda *a: kp.posterior_covariance(*a, RIDGE), (CLEAN, PROBES), (points, X[PROBES])),
        (lambda clean, x: kp.predictor(clean, RIDGE)(x), (CLEAN, 16), (points, X[16])),
    ):
        np.testing.assert_allclose(ask(*own), ask(*other), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_calculations_are_in_the_dtype_of_the_matrix(dtype):
    clean = kp.fit(kk.Precomputed(K.astype(dtype)), TRAIN.astype(np.int16), Y)
    found = kp.predict(clean, jnp.asarray(PROBES), 0.1)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, kp.predict(CLEAN, PROBES, 0.1), rtol=0, atol=100 * np.finfo(dtype).eps)


def test_a_matrix_can_be_a_part_of_another_kernel():
    together = (2.0 * KERNEL + BLOCKS) ** 2 / 3 + 0.5
    np.testing.assert_allclose(together(TRAIN), (3 * K[:12, :12]) ** 2 / 3 + 0.5, rtol=1e-13)
    with pytest.raises(ValueError, match="X must hold indices from 0 to 15, got 16"):
        kp.fit(KERNEL + kk.Precomputed(K[:16, :16]), np.arange(17), np.ones(17))


def test_derivatives_in_the_matrix():
    """The predictor of one point: ∂/∂K of k(x, X)(K + ρI)⁻¹y by differences."""

    def predicted(matrix):
        return kp.predict(kp.fit(kk.Precomputed(matrix), TRAIN, Y), 15, RIDGE)

    change = RNG.normal(size=(20, 20))
    change, step = jnp.asarray(change + change.T), 1e-6
    slope = jax.jvp(predicted, (jnp.asarray(K),), (change,))[1]
    difference = (predicted(K + step * change) - predicted(K - step * change)) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-5)
    assert np.isfinite(jax.grad(lambda ridge: kp.predict(CLEAN, 15, ridge))(RIDGE))


@pytest.mark.parametrize(
    "law",
    [
        kp.spike,
        kp.efficacy_gradient,
        kp.spike_efficacy_ratio,
        lambda *a: kp.m_visible(*a, threshold=0.1),
        lambda *a: kp.lag(*a, threshold=0.1),
        lambda clean, poison, x, ridge: kp.coupling_floor(clean, poison, ridge),
        lambda clean, poison, x, ridge: kp.flow.energies(clean, ridge),
    ],
    ids=["spike", "efficacy_gradient", "ratio", "m_visible", "lag", "coupling_floor", "energies"],
)
def test_laws_of_slopes_are_refused(law):
    with pytest.raises(TypeError, match="kernel Precomputed has no gradient"):
        law(CLEAN, POISON, 16, RIDGE)


REFUSED = {
    "penalty": (lambda: fitted(gradient_penalty=0.1), ValueError, "kernel Precomputed .*twice continuously"),
    "curvature": (
        lambda: kp.curvature.fisher(kp.predictor(CLEAN, RIDGE), np.arange(3.0)[:, None]),
        (TypeError, ValueError),
        "x must",
    ),
    "components": (lambda: kp.spike_components(CLEAN, POISON, 16, RIDGE), ValueError, "rotation-invariant.*Precomp"),
    "sweep": (
        lambda: kp.sweep(CLEAN, POISON, direction=1.0, r_over_l=[0.1], m=[1.0], ridge=0.1),
        ValueError,
        "clean must be fitted with a kernel of points.*got Precomputed",
    ),
    "coordinates": (lambda: kp.predict(CLEAN, 1.0, RIDGE), TypeError, "x must be integers.*got dtype float64"),
    "a probe beyond": (lambda: kp.predict(CLEAN, 20, RIDGE), ValueError, "x must hold indices from 0 to 19, got 20"),
    "a poison beyond": (
        lambda: kp.gain(CLEAN, kp.Poison(np.array([3, -1]), -1.0, 1), RIDGE),
        ValueError,
        "poison.location must hold indices from 0 to 19, got -1",
    ),
    "a prepared poison beyond": (
        lambda: kp.prepare(CLEAN, kp.Poison(99, -1.0, 1), RIDGE),
        ValueError,
        "poison.location must hold indices from 0 to 19, got 99",
    ),
    "a poison at coordinates": (
        lambda: kp.gain(CLEAN, kp.Poison(X[0], -1.0, 1), RIDGE),
        TypeError,
        "poison.location must be an index or indices of points, got dtype float64",
    ),
    "an index for coordinates": (
        lambda: kp.gain(kp.fit(BASE, X[:12], Y), kp.Poison(3, -1.0, 1), RIDGE),
        TypeError,
        "poison.location must be a floating-point array, got dtype int64",
    ),
    "indefinite": (lambda: fitted(kk.Precomputed(-K)), ValueError, "Precomputed is not positive semi-definite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_be_is_refused(name):
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call()


def test_traced_indices_and_matrices_are_checked_when_they_run():
    predicted = jax.jit(kp.with_failures(lambda x: kp.predict(CLEAN, x, RIDGE)))
    for index, beyond in ((5, False), (20, True)):
        failures = predicted(index)[1]
        assert any(bool(f.failed) for f in failures if "must hold indices" in f.message) == beyond
    made = jax.jit(kp.with_failures(lambda matrix: kk.Precomputed(matrix).evaluate(jnp.asarray(0.0), jnp.asarray(1.0))))
    assert [bool(f.failed) for f in made(jnp.tri(3))[1] if f.message == "matrix must be symmetric"] == [True]
