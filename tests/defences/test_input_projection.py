"""The remedy of projected inputs: against NumPy and refits, as a law, and what it refuses."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison.defences import input_projection

RNG = np.random.default_rng(4)
D = 5
X = RNG.normal(size=(30, D))
Y = np.stack([np.tanh(X[:, 0]), X[:, 1] * X[:, 2], np.sin(X[:, 0] + X[:, 3])], axis=1)
Z, LABEL, COUNT, RIDGE = X[0] + 0.1, np.array([1.0, -0.5, 2.0]), 4.0, 1e-2
KERNEL = kp.kernels.RBF(1.7)
POISON = kp.Poison(Z, LABEL, COUNT)
CLEAN = kp.fit(KERNEL, X, Y)
PROBES = RNG.normal(size=(7, D))


def refit(points, targets, x, length_scale=1.7):
    """Ridge regression with the RBF kernel by NumPy: values (q, C) and gradients (q, C, D)."""
    gram = np.exp(-np.sum((points[:, None] - points[None]) ** 2, axis=2) / (2 * length_scale**2))
    weights = np.linalg.solve(gram + RIDGE * len(points) * np.eye(len(points)), targets)
    differences = points[None] - x[:, None]
    cross = np.exp(-np.sum(differences**2, axis=2) / (2 * length_scale**2))
    gradients = np.einsum("qn,qnd,nc->qcd", cross, differences, weights) / length_scale**2
    return cross @ weights, gradients


POISONED = np.concatenate([X, np.repeat(Z[None], 4, axis=0)]), np.concatenate([Y, np.repeat(LABEL[None], 4, axis=0)])


def projected(x, V, centre=0.0):
    return x - (x - centre) @ V.T @ V


@pytest.mark.parametrize("k", [1, 3])
def test_of_a_kernel_it_is_the_refit_at_projected_inputs(k):
    """Eigenvectors, law and refit from NumPy alone: the poisoned predictor's Fisher matrix over its clean points."""
    _, gradients = refit(*POISONED, X)
    values, vectors = np.linalg.eigh(np.einsum("qcd,qce->de", gradients, gradients) / len(X))
    V = vectors[:, ::-1][:, :k].T
    found = input_projection(kp.predictor(CLEAN, RIDGE, POISON), X, k, centre=X.mean(axis=0))
    np.testing.assert_allclose(found.values, values[::-1][:k], rtol=1e-9)
    inputs = projected(PROBES, V, X.mean(axis=0))
    np.testing.assert_allclose(found(PROBES), inputs, rtol=0, atol=1e-8)
    law = kp.predict(CLEAN, found(PROBES), RIDGE, POISON)
    np.testing.assert_allclose(law, refit(*POISONED, inputs)[0], rtol=0, atol=1e-8)
    # And so is a training on projected inputs, clean points and clones.
    again = kp.fit(KERNEL, found(X), Y)
    law = kp.predict(again, found(PROBES), RIDGE, kp.Poison(found(Z), LABEL, COUNT))
    brute = refit(projected(POISONED[0], V, X.mean(axis=0)), POISONED[1], inputs)[0]
    np.testing.assert_allclose(law, brute, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_of_the_hessian_it_is_the_eigenvectors_of_the_dense_one():
    f, targets = kp.predictor(CLEAN, RIDGE, POISON), Y[:6]
    hessian = np.zeros((D, D))
    for x, y in zip(X[:6], targets, strict=True):
        hessian += np.asarray(jax.hessian(lambda p, y=y: 0.5 * jnp.sum((f(p) - y) ** 2))(x + 0.0)) / 6
    values, vectors = np.linalg.eigh(hessian)
    found = input_projection(f, X[:6], 2, targets=targets)
    np.testing.assert_allclose(found.values, values[::-1][:2], rtol=1e-7)
    V = vectors[:, ::-1][:, :2].T
    np.testing.assert_allclose(found.directions.T @ found.directions, V.T @ V, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2])
def test_of_a_linear_kernel_the_part_of_the_trigger_that_is_left_acts(k):
    """f(P(x + αu)) − f(Px) = α wᵀPu, and trained anew on PX the same with the weights of that."""
    linear, u = kp.kernels.Linear(), RNG.normal(size=D)
    u /= np.linalg.norm(u)
    points, targets = X + 1.5 * u * (np.arange(30) < 6)[:, None], np.where((np.arange(30) < 6)[:, None], LABEL, Y)
    ridge = RIDGE * len(points) * np.eye(D)
    weights = np.linalg.solve(points.T @ points + ridge, points.T @ targets)
    V = np.linalg.eigh(weights @ weights.T)[1][:, ::-1][:, :k].T
    fitted = kp.fit(linear, points, targets)
    found = input_projection(kp.predictor(fitted, RIDGE), X, k)
    left = u - V.T @ (V @ u)
    assert float(found.left(7 * u)) == pytest.approx(left @ left, rel=1e-9)
    change = kp.predict(fitted, found(PROBES + 2 * u), RIDGE) - kp.predict(fitted, found(PROBES), RIDGE)
    np.testing.assert_allclose(change, np.broadcast_to(2 * left @ weights, change.shape), rtol=0, atol=1e-9)
    again = kp.fit(linear, found(points), targets)
    PX = projected(points, V)
    weights = np.linalg.solve(PX.T @ PX + ridge, PX.T @ targets)
    change = kp.predict(again, found(PROBES + 2 * u), RIDGE) - kp.predict(again, found(PROBES), RIDGE)
    np.testing.assert_allclose(change, np.broadcast_to(2 * left @ weights, change.shape), rtol=0, atol=1e-9)


def test_a_linear_predictor_of_one_output_is_constant_without_its_eigenvector():
    fitted = kp.fit(kp.kernels.Linear(), X, Y[:, 0])
    found = input_projection(kp.predictor(fitted, RIDGE), X)
    np.testing.assert_allclose(kp.predict(fitted, found(PROBES), RIDGE), 0, atol=1e-12)


def test_a_trigger_along_the_eigenvector_is_gone():
    """A function that bends along u far more than elsewhere."""
    u = np.array([0.6, 0.0, 0.8, 0.0, 0.0])
    found = input_projection(lambda x: jnp.stack([10 * jnp.sin(x @ u), x[1], x[3]]), X)
    assert float(found.left(u)) < 1e-3
    moved, still = found(PROBES + 3 * u), found(PROBES)
    np.testing.assert_allclose(moved, still, atol=0.1)


def test_it_is_a_projection_of_points_of_any_shape():
    images = RNG.normal(size=(8, 2, 3, 1))
    weights = RNG.normal(size=(2, 3, 1))
    found = input_projection(lambda image: jnp.sum(weights * image), images)
    V = (weights / np.linalg.norm(weights)).reshape(1, 6)
    expected = projected(images.reshape(8, 6), V).reshape(images.shape)
    np.testing.assert_allclose(found(images), expected, atol=1e-14)
    np.testing.assert_allclose(found(images[0]), expected[0], atol=1e-14)
    np.testing.assert_allclose(found(images.reshape(2, 4, 2, 3, 1)), expected.reshape(2, 4, 2, 3, 1), atol=1e-14)
    np.testing.assert_allclose(found(found(images)), expected, atol=1e-14)
    assert float(found.left(weights)) == pytest.approx(0, abs=1e-14)
    in_single = input_projection(lambda image: jnp.sum(np.float32(weights) * image), np.float32(images))
    assert in_single(np.float32(images)).dtype == np.float32
    np.testing.assert_allclose(in_single(np.float32(images)), expected, atol=1e-6)


@pytest.mark.slow
def test_transforms():
    found = input_projection(kp.predictor(CLEAN, RIDGE, POISON), X, 2, centre=X[0])
    expected = found(PROBES)
    np.testing.assert_allclose(jax.jit(lambda p, x: p(x))(found, PROBES), expected, atol=1e-14)
    np.testing.assert_allclose(jax.vmap(found)(PROBES), expected, atol=1e-14)
    V = np.asarray(found.directions)
    np.testing.assert_allclose(jax.jacobian(found)(PROBES[0]), np.eye(D) - V.T @ V, atol=1e-14)
    np.testing.assert_allclose(
        jax.hessian(lambda x: found(x) @ found(x))(PROBES[0]), 2 * (np.eye(D) - V.T @ V), atol=1e-13
    )
    np.testing.assert_allclose(jax.jit(lambda p, u: p.left(u))(found, X[3]), found.left(X[3]), atol=1e-14)


@pytest.fixture
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def line(x):
    return x[0]


ONE = input_projection(line, X[:2])


@pytest.mark.usefixtures("what_a_user_sees")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: input_projection(line, X, 0), ValueError, "k must be an integer >= 1, got 0"),
        (lambda: input_projection(line, X, 2), ValueError, "k must be at most the eigenvalues above 0, 1 of the 2"),
        (lambda: input_projection(line, X, 6), ValueError, "k must be at most the number of coordinates, 5, got 6"),
        (
            lambda: input_projection(lambda x: 0 * x[0], X),
            ValueError,
            "k must be at most the eigenvalues above 0, 0 of",
        ),
        (lambda: input_projection(lambda x: -(x[0] ** 2), X[:1] * 0, targets=np.ones(1)), None, None),
        (
            lambda: input_projection(lambda x: x @ x, X[:1] * 0, targets=np.ones(1)),
            ValueError,
            "k must be at most .* 0 of",
        ),
        (lambda: input_projection(line, X.astype(int)), TypeError, "x must be a floating-point array"),
        (
            lambda: input_projection(line, X, centre=X),
            ValueError,
            r"centre must have the shape of a point, \(5,\), got",
        ),
        (lambda: input_projection(line, X, centre=np.nan * X[0]), ValueError, "centre must be finite"),
        (lambda: input_projection(line, X, targets=np.ones(3)), ValueError, "targets must have shape"),
        (lambda: input_projection(3, X), TypeError, "f must be"),
        (lambda: ONE(np.ones(4)), ValueError, r"x must hold points of shape \(5,\), got \(4,\)"),
        (lambda: ONE(1.0), (TypeError, ValueError), "x must"),
        (lambda: ONE(np.nan * X), ValueError, "x must be finite"),
        (lambda: ONE.left(np.zeros(5)), ValueError, "direction must not be 0"),
        (
            lambda: ONE.left(np.ones(4)),
            ValueError,
            r"direction must have the 5 coordinates of a point, got shape \(4,\)",
        ),
    ],
)
def test_bad_input(call, error, message):
    if error is None:  # −x² has a positive Hessian of the loss at (0 − 1)²/2: nothing is refused
        assert float(call().values[0]) == pytest.approx(2)
        return
    with pytest.raises(error, match=message):
        call()
