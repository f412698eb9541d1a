"""float32: the dtype is kept, and the error against float64 is bounded by eps32·cond."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenario import FUNCTIONS, NUMBERS, Numbers, X, Y, as_arrays, fitted, poisoned

import kpoison as kp
from benchmarks.exactness import FAMILIES, QUANTITIES, SHAPES, Configuration, draw, laws, refit

EPS32 = float(np.finfo(np.float32).eps)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtype_is_kept(name):
    for leaf in jax.tree.leaves(FUNCTIONS[name](as_arrays(NUMBERS, jnp.float32))):
        assert leaf.dtype == jnp.float32
    # Plain numbers do not widen it.
    points = NUMBERS._replace(zeta=np.float32(NUMBERS.zeta), x=np.float32(NUMBERS.x))
    for leaf in jax.tree.leaves(FUNCTIONS[name](points)):
        assert leaf.dtype == jnp.float32


def test_the_clean_inputs_decide():
    clean = kp.fit(kp.kernels.RBF(1.5), X.astype(np.float32), Y)
    assert clean.y.dtype == clean.factor.gram.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(clean))
    poison = kp.Poison(NUMBERS.zeta, 1.0, 2.0)
    assert poison.location.dtype == jnp.float64
    assert kp.spike(clean, poison, NUMBERS.x, 0.05).dtype == jnp.float32
    assert kp.spike(fitted(NUMBERS), kp.Poison(np.float32(NUMBERS.zeta), 1.0, 2.0), NUMBERS.x, 0.05).dtype == float


@pytest.mark.parametrize("argument", Numbers._fields)
def test_derivatives_keep_the_dtype(argument):
    def value(a):
        return jnp.sum(FUNCTIONS["spike"](as_arrays(NUMBERS, jnp.float32)._replace(**{argument: a})))

    gradient = jax.grad(value)(jnp.asarray(getattr(NUMBERS, argument), jnp.float32))
    assert gradient.dtype == jnp.float32
    assert np.all(np.isfinite(gradient))


def rounded(configuration):
    """With numbers that float32 holds, so that only the calculation rounds; ridges that float32 can bear."""
    configuration = configuration._replace(ridge=max(configuration.ridge, 1e-4))
    return Configuration(*(np.asarray(field, np.float32) for field in configuration))


@pytest.mark.parametrize(
    "name",
    [
        "rbf",
        pytest.param("laplace", marks=pytest.mark.slow),
        "cubic",
        pytest.param("ntk_relu", marks=pytest.mark.slow),
        pytest.param("ntk_erf", marks=pytest.mark.slow),
    ],
)
def test_errors_are_those_of_the_dtype(name):
    # The bound of benchmarks/exactness.py, 10·eps·cond(A)·scale, with eps of float32, against a refit in float64.
    family, shape, rng = FAMILIES[name], SHAPES[0], np.random.default_rng(1)
    drawn = [rounded(draw(rng, family, shape)) for _ in range(60)]
    found = laws(family, clones=True)(Configuration(*(np.stack(field) for field in zip(*drawn, strict=True))))
    assert all(law.dtype == jnp.float32 for law in found)
    worst = dict.fromkeys(QUANTITIES, 0.0)
    for i, narrow in enumerate(drawn):
        c = Configuration(*(field.astype(float) for field in narrow))
        truth = refit(
            lambda a, b, parameters=c.parameters: family.evaluate(a, b, *parameters),
            *(c.X, c.Y, c.Z, c.labels, c.counts.astype(int), c.ridge, c.x),
        )
        for quantity, law in zip(QUANTITIES, found, strict=True):
            worst[quantity] = max(worst[quantity], truth.ratio(quantity, np.asarray(law[i], float), EPS32))
    print(name, worst)
    assert max(worst.values()) <= 1, worst


def test_derivative_in_the_ridge_is_as_exact():
    # df/dλ = −n wᵀα with w = A⁻¹k(x) and α = A⁻¹y: two solves, so 2·10·eps·cond(A)·‖w‖‖α‖.
    X32, Y32, x32 = (a.astype(np.float32) for a in (X, Y, NUMBERS.x))
    clean = kp.fit(kp.kernels.RBF(1.5), X32, Y32)
    found = jax.jacfwd(lambda ridge: kp.predict(clean, x32, ridge))(jnp.float32(0.05))
    data, targets, probes = X32.astype(float), Y32.astype(float), x32.astype(float)
    evaluate = FAMILIES["rbf"].evaluate
    A = evaluate(data, data, 1.5).value + 8 * float(np.float32(0.05)) * np.eye(8)
    w, alpha = np.linalg.solve(A, evaluate(data, probes, 1.5).value), np.linalg.solve(A, targets)
    bound = 2 * 10 * EPS32 * np.linalg.cond(A) * 8 * np.linalg.norm(w, axis=0) * np.linalg.norm(alpha)
    assert found.dtype == jnp.float32
    assert np.all(np.abs(found + 8 * w.T @ alpha) <= bound)


def test_near_clone_spikes_keep_their_digits():
    # Differences, not norms: r/ℓ = 1e-5 about a ζ of size 1, where float32 knows x to 1e-7.
    zeta = np.array([1.0, 0.5, -0.25], np.float32)
    x = zeta + np.float32(1.5e-5) * np.array([1.0, 0.0, 0.0], np.float32)
    r = float(x[0]) - float(zeta[0])
    clean = fitted(as_arrays(NUMBERS, jnp.float32))
    poison = kp.Poison(zeta, 1.0, 2.0)
    ratio = kp.spike_efficacy_ratio(clean, poison, x, 0.1, law="isolated")
    np.testing.assert_allclose(ratio, r**2 / 1.5**4, rtol=20 * EPS32)


def test_float32_and_float64_side_by_side():
    narrow = kp.efficacy(fitted(as_arrays(NUMBERS, jnp.float32)), poisoned(NUMBERS), NUMBERS.x, 0.05)
    wide = kp.efficacy(fitted(NUMBERS), poisoned(NUMBERS), NUMBERS.x, 0.05)
    difference = np.max(np.abs(narrow - wide))
    assert 0 < difference < 100 * EPS32 * 21 * np.max(np.abs(wide))
