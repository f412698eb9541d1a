"""Sanitisation against brute force: neighbours, centroids, and refits without one point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.defences import centroid_distance, leave_one_out, leave_one_out_residuals, neighbour_disagreement

RNG = np.random.default_rng(4)
LABELS = np.repeat([3, -2, 9], [12, 9, 1])
FEATURES = RNG.normal(size=(22, 4)) + 0.3 * LABELS[:, None]


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_neighbours_by_hand(weights):
    found = neighbour_disagreement(FEATURES, LABELS, neighbours=5, weights=weights)
    for i, point in enumerate(FEATURES):
        distances = np.linalg.norm(FEATURES - point, axis=1)
        distances[i] = np.inf
        nearest = np.argsort(distances)[:5]
        counts = 1 / distances[nearest] if weights == "distance" else np.ones(5)
        assert found.scores[i] == pytest.approx(counts @ (LABELS[nearest] != LABELS[i]) / counts.sum(), rel=1e-12)
    np.testing.assert_array_equal(found.suspected, found.scores > 0.5)
    assert 0 < found.suspected.sum() < 22


def test_clones_vouch_for_each_other():
    # Three clones among another class: two neighbours are enough to hide, three are not.
    points = np.concatenate([np.zeros((3, 1)), np.linspace(0.1, 1, 7)[:, None]])
    labels = np.repeat([1, 0], [3, 7])
    assert neighbour_disagreement(points, labels, neighbours=2).scores[:3].tolist() == [0, 0, 0]
    many = neighbour_disagreement(points, labels, neighbours=5)
    assert many.suspected[:3].all()
    near = neighbour_disagreement(points, labels, neighbours=5, weights="distance")
    assert near.scores[:3].tolist() == [0, 0, 0]


def test_centroids_by_hand_and_compiled():
    found = jax.jit(centroid_distance)(FEATURES, LABELS, fraction=0.2)
    for label in (3, -2, 9):
        members = label == LABELS
        distances = np.linalg.norm(FEATURES[members] - FEATURES[members].mean(axis=0), axis=1)
        np.testing.assert_allclose(np.asarray(found.scores)[members], distances, rtol=1e-12, atol=1e-15)
        thresholds = np.asarray(found.threshold)[members]
        np.testing.assert_allclose(thresholds, np.quantile(distances, 0.8), rtol=1e-7)
        expected = (distances >= np.quantile(distances, 0.8)) & (distances > 0)
        np.testing.assert_array_equal(np.asarray(found.suspected)[members], expected)
    single = centroid_distance(FEATURES.astype(np.float32), np.zeros(22, int))
    assert single.scores.dtype == jnp.float32
    assert int(single.suspected.sum()) == 2  # of 1.05, from above


def test_centroids_have_derivatives_and_equal_points_none_suspected():
    def total(features):
        return jnp.sum(centroid_distance(features, LABELS).scores)

    direction = RNG.normal(size=FEATURES.shape)
    slope = float(jnp.sum(jax.grad(total)(jnp.asarray(FEATURES)) * direction))
    step = 1e-6
    measured = float(total(FEATURES + step * direction) - total(FEATURES - step * direction)) / (2 * step)
    assert slope == pytest.approx(measured, rel=1e-6)
    same = centroid_distance(np.full((7, 3), 0.1), np.zeros(7, int))
    assert not np.any(same.scores)
    assert not np.any(same.suspected)


X = RNG.normal(size=(14, 3))
Y = np.sign(RNG.normal(size=14))
RIDGE = 0.02


def refits(y):
    """y_i less the prediction of a refit without i, at the ρ of all points."""
    gram = np.asarray(kp.kernels.RBF(1.5)(jnp.asarray(X)))
    residuals = []
    for i in range(len(X)):
        rest = np.arange(len(X)) != i
        inner = gram[np.ix_(rest, rest)] + len(X) * RIDGE * np.eye(len(X) - 1)
        residuals.append(y[i] - gram[i, rest] @ np.linalg.solve(inner, y[rest]))
    return np.array(residuals)


@pytest.mark.parametrize("solver", [kp.Spectral(), kp.Cholesky(), kp.Tridiagonal()])
def test_residuals_are_those_of_refits(solver):
    posterior = kp.fit(kp.kernels.RBF(1.5), X, Y, solver=solver)
    np.testing.assert_allclose(leave_one_out_residuals(posterior, RIDGE), refits(Y), rtol=1e-10)


def test_many_outputs_and_the_ridge_of_the_rest():
    targets = np.eye(3)[RNG.integers(3, size=14)]
    posterior = kp.fit(kp.kernels.RBF(1.5), X, targets)
    expected = refits(targets)
    found = leave_one_out(posterior, RIDGE, fraction=0.2)
    np.testing.assert_allclose(found.scores, np.linalg.norm(expected, axis=1), rtol=1e-10)
    assert int(found.suspected.sum()) == 3  # of 2.8, from above
    # The same predictor as by `fit` and `predict` of the rest, at the ridge λ n/(n − 1).
    rest = kp.fit(kp.kernels.RBF(1.5), X[1:], targets[1:])
    without = kp.predict(rest, X[0], RIDGE * 14 / 13)
    np.testing.assert_allclose(leave_one_out_residuals(posterior, RIDGE)[0], targets[0] - without, rtol=1e-9)


@pytest.mark.slow
def test_residuals_compiled_differentiated_and_in_float32():
    posterior = kp.fit(kp.kernels.RBF(1.5), X, Y)
    np.testing.assert_allclose(jax.jit(leave_one_out_residuals)(posterior, RIDGE), refits(Y), rtol=1e-10)

    def total(length_scale, ridge):
        return jnp.sum(leave_one_out_residuals(kp.fit(kp.kernels.RBF(length_scale), X, Y), ridge) ** 2)

    slopes = jax.grad(total, argnums=(0, 1))(1.5, RIDGE)
    steps = ((1e-5, 0.0), (0.0, 1e-6))
    for slope, (a, b) in zip(slopes, steps, strict=True):
        measured = float(total(1.5 + a, RIDGE + b) - total(1.5 - a, RIDGE - b)) / (2 * (a + b))
        assert float(slope) == pytest.approx(measured, rel=1e-5)
    rough = leave_one_out_residuals(kp.fit(kp.kernels.RBF(1.5), X.astype(np.float32), Y.astype(np.float32)), RIDGE)
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, refits(Y), rtol=1e-4, atol=1e-4)


def test_a_flipped_label_stands_out():
    points = np.linspace(-1, 1, 12)[:, None]
    labels = np.sign(points[:, 0])
    labels[9] = -1
    found = leave_one_out(kp.fit(kp.kernels.RBF(1.0), points, labels), 0.01)
    assert int(np.argmax(found.scores)) == 9
    assert found.suspected[9]


@pytest.mark.slow
def test_bad_input():
    posterior = kp.fit(kp.kernels.RBF(1.5), X, Y)
    with pytest.raises(ValueError, match="neighbours must be less than the number of points, 22, got 22"):
        neighbour_disagreement(FEATURES, LABELS, neighbours=22)
    with pytest.raises(ValueError, match="weights must be one of"):
        neighbour_disagreement(FEATURES, LABELS, weights="rank")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="threshold must lie between 0 and 1"):
        neighbour_disagreement(FEATURES, LABELS, threshold=1.5)
    with pytest.raises(ValueError, match="features must be finite"):
        centroid_distance(np.full((3, 2), np.inf), np.zeros(3, int))
    with pytest.raises(ValueError, match="fraction must"):
        centroid_distance(FEATURES, LABELS, fraction=-0.1)
    with pytest.raises(TypeError, match="posterior must be"):
        leave_one_out_residuals(X, RIDGE)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="ridge must be finite and > 0"):
        leave_one_out(posterior, 0.0)
    with pytest.raises(ValueError, match="gradient penalty"):
        leave_one_out(kp.fit(kp.kernels.RBF(1.5), X, Y, gradient_penalty=0.1), RIDGE)
    with pytest.raises(ValueError, match="dense factorisation"):
        leave_one_out(kp.fit(kp.kernels.RBF(1.5), X, Y, solver=kp.Krylov()), RIDGE)
    with pytest.raises(ValueError, match="at least 2 points"):
        leave_one_out(kp.fit(kp.kernels.RBF(1.5), X[:1], Y[:1]), RIDGE)
