"""The ridge predictor at several ridges at once: what it is at each of them."""

import inspect

import jax
import numpy as np
import pytest

import kpoison as kp

RNG = np.random.default_rng(4)
X, PROBES, RIDGES = RNG.normal(size=(12, 2)), RNG.normal(size=(3, 2)), np.array([1e-3, 1e-1, 1e-2])
RBF = kp.kernels.RBF(1.0)
WAYS = {
    "values": {},
    "an intercept": {"intercept": True},
    "weights": {"weights": np.arange(12.0)},
    "slopes": {"gradient_penalty": 0.1},
    "Krylov": {"solver": kp.Krylov()},
}


# Every two of way, outputs and whether the flow is stopped, which for `Krylov` it cannot be.
@pytest.mark.parametrize(
    ("way", "outputs", "stopped"),
    [
        ("values", (), True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("an intercept", (2,), False),
                ("values", (2,), False),
                ("an intercept", (), True),
                ("weights", (2,), True),
                ("weights", (), False),
                ("slopes", (2,), True),
                ("slopes", (), False),
                ("Krylov", (2,), False),
            ]
        ),
    ],
)
def test_several_ridges_are_each_of_them(way, outputs, stopped):
    clean = kp.fit(RBF, X, RNG.normal(size=(12, *outputs)), **WAYS[way])
    clean = kp.flow.early_stopped(clean, 3.0) if stopped else clean
    for poison in (None, kp.Poison(X[0] + 0.1, np.ones(outputs) if outputs else 1.0, 3.0)):
        for x in (PROBES, PROBES[0]):
            found = kp.predict(clean, x, RIDGES, poison)
            expected = np.stack([kp.predict(clean, x, ridge, poison) for ridge in RIDGES])
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_several_ridges_keep_the_dtype_and_are_differentiated():
    narrow = kp.fit(RBF, X.astype(np.float32), np.ones(12, np.float32))
    assert kp.predict(narrow, PROBES.astype(np.float32), [1e-2, 1]).dtype == np.float32
    clean = kp.fit(RBF, X, RNG.normal(size=12))
    slopes = jax.jit(jax.jacobian(lambda ridges: kp.predict(clean, PROBES, ridges)))(RIDGES)
    each = [jax.jacobian(lambda ridge: kp.predict(clean, PROBES, ridge))(ridge) for ridge in RIDGES]
    np.testing.assert_allclose(slopes, np.einsum("rq,rs->rqs", np.stack(each), np.eye(3)), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("ridge", [[], [[1.0]], [1.0, -1.0], [1.0, np.nan]])
def test_bad_ridges_are_refused(ridge):
    clean = kp.fit(RBF, X, np.ones(12))
    with pytest.raises(ValueError, match=r"ridge must be (a single number|finite and > 0), got"):
        inspect.unwrap(kp.predict)(clean, PROBES, ridge)
    with pytest.raises(ValueError, match="ridge must be a single number"):
        inspect.unwrap(kp.efficacy)(clean, kp.Poison(X[0], 1.0, 1), PROBES, [0.1, 0.2])
    with pytest.raises((ValueError, RuntimeError), match="ridge must be finite and > 0"):
        jax.jit(kp.predict)(clean, PROBES, np.array([0.1, -0.2])).block_until_ready()
