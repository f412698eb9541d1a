"""How nearly poisons are clones: against matrices with repeated rows, at the ends, and what is refused."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison.poison import tightness

RNG = np.random.default_rng(6)
Z, COUNTS = RNG.normal(size=(4, 3)), np.array([3, 1, 0, 2])
RBF = kp.kernels.RBF(1.3)


def repeated(points, counts):
    """Both shares of the matrix in which every clone has a row."""
    rows = np.repeat(points, counts, axis=0)
    K = np.exp(-np.sum((rows[:, None] - rows[None]) ** 2, axis=2) / (2 * 1.3**2))
    return K.sum() / (len(rows) * np.trace(K)), np.linalg.eigvalsh(K)[-1] / np.trace(K)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_are_repeated_rows(dtype):
    found = tightness(RBF, kp.Poison(Z.astype(dtype), 1.0, COUNTS.astype(dtype)))
    assert found.mean.dtype == found.leading.dtype == dtype
    mean, leading = repeated(Z, COUNTS)
    tolerance = 200 * float(np.finfo(dtype).eps)  # squared distances of up to 20 round
    assert float(found.mean) == pytest.approx(mean, rel=tolerance)
    assert float(found.leading) == pytest.approx(leading, rel=tolerance)
    assert mean < leading - 0.01  # or the two could not be told apart


def test_ends():
    clones = tightness(RBF, kp.Poison(Z[0], -1.0, 7.0))
    np.testing.assert_allclose([clones.mean, clones.leading], 1, rtol=1e-15)
    far = tightness(RBF, kp.Poison(100 * np.eye(5), 1.0, 1.0))
    np.testing.assert_allclose([far.mean, far.leading], 1 / 5)
    # A cluster of radius ε about one point is tight up to ε².
    off = [1 - float(tightness(RBF, kp.Poison(Z[0] + size * Z, 1.0, 1.0)).mean) for size in (1e-2, 1e-3)]
    assert off[0] / off[1] == pytest.approx(100, rel=0.01)
    indices = kp.kernels.Precomputed(np.array([[1.0, 0.5], [0.5, 1.0]]))
    assert float(tightness(indices, kp.Poison(np.arange(2), 1.0, 1.0)).mean) == 0.75


@pytest.mark.slow
def test_transforms():
    poison = kp.Poison(Z, 1.0, 1.0)

    def shares(length_scale):
        return tightness(kp.kernels.RBF(length_scale), poison)

    compiled, direct = jax.jit(shares)(1.3), shares(1.3)
    np.testing.assert_allclose([compiled.mean, compiled.leading], [direct.mean, direct.leading], rtol=1e-13)
    for name in ("mean", "leading"):
        slope = jax.grad(lambda scale, name=name: getattr(shares(scale), name))(1.3)
        difference = getattr(shares(1.30001), name) - getattr(shares(1.29999), name)
        assert float(slope) == pytest.approx(float(difference) / 2e-5, rel=1e-6)
    many = jax.vmap(shares)(jnp.array([1.3, 2.0]))
    np.testing.assert_allclose(many.leading, [direct.leading, shares(2.0).leading], rtol=1e-12)


def test_derivatives_in_counts_down_to_zero():
    K = np.exp(-np.sum((Z[:, None] - Z[None]) ** 2, axis=2) / (2 * 1.3**2))

    def expected(counts):
        return np.sort(np.linalg.eigvals(K @ np.diag(counts)).real)[-1] / np.sum(counts)

    found = jax.grad(lambda counts: tightness(RBF, kp.Poison(Z, 1.0, counts)).leading)(COUNTS.astype(float))
    slopes = [(expected(COUNTS + 1e-5 * e) - expected(COUNTS - 1e-5 * e)) / 2e-5 for e in np.eye(4)]
    np.testing.assert_allclose(found, slopes, rtol=1e-7)
    with pytest.raises(Exception, match="the leading eigenvalue must be simple to be differentiated"):
        jax.grad(lambda counts: tightness(RBF, kp.Poison(100 * jnp.eye(4), 1.0, counts)).leading)(jnp.ones(4))


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
        (lambda: tightness(3, kp.Poison(Z, 1.0, 1.0)), TypeError, "kernel must be"),
        (lambda: tightness(RBF, Z), TypeError, "poison must be a kpoison.Poison, got ndarray"),
        (lambda: tightness(RBF, kp.Poison(Z, 1.0, 0.0)), ValueError, "poison.count must add up to more than 0"),
        (lambda: tightness(RBF, kp.Poison(Z[None], 1.0, 1.0)), ValueError, r"poison.location must have shape \(n, d\)"),
        (
            lambda: tightness(kp.kernels.Linear(), kp.Poison(0 * Z, 1.0, 1.0)),
            ValueError,
            "poison.location must hold a point with k",
        ),
        (
            lambda: tightness(RBF, kp.Poison(Z, 1.0, np.ones(3))),
            ValueError,
            r"poison.count must have shape .*got \(3,\)",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
