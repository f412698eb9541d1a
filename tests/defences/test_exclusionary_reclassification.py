"""Clusters classified without themselves, against refits in NumPy; and what it says of real poisons."""

import jax
import numpy as np
import pytest
import scipy.optimize
from threadpoolctl import threadpool_limits

import kpoison as kp
from kpoison.defences import activation_clustering, exclusionary_reclassification, kernel_features

RIDGE = 0.02
RNG = np.random.default_rng(8)


def blobs(classes, each=12):
    """Points about corners of a triangle; of each class the last two thirds are in question, in two clusters."""
    labels = np.repeat(np.arange(classes), each)
    X = RNG.normal(size=(len(labels), 2)) + 2.2 * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[labels]
    given = np.where(np.arange(len(labels)) % each >= 8, (labels + 1) % classes, labels)
    return X, given, np.arange(len(labels)) % each >= 4, np.arange(len(labels)) % each >= 8


def gram(A, B):
    return np.exp(-((A[:, None] - B[None]) ** 2).sum(-1) / 2)


def by_hand(X, y, left, clusters, threshold, weights=None, intercept=False):
    """Train without all that are left out, at the ρ of all points; then count."""
    weights = np.ones(len(X)) if weights is None else weights
    stay, y = ~left, y.reshape(len(y), -1)
    n = stay.sum()
    system = np.zeros((n + intercept, n + intercept))
    system[:n, :n] = gram(X[stay], X[stay]) + weights.sum() * RIDGE * np.diag(1 / weights[stay])
    if intercept:
        system[n, :n] = system[:n, n] = 1
    dual = np.linalg.solve(system, np.concatenate([y[stay], np.zeros((int(intercept), y.shape[1]))]))
    f = gram(X, X[stay]) @ dual[:n] + (dual[n:].sum(0) if intercept else 0)
    classes = max(2, y.shape[1])
    own, found = ((v[:, 0] > 0).astype(int) if y.shape[1] == 1 else v.argmax(1) for v in (y, f))
    scores, suspected = np.zeros(len(X)), np.zeros(len(X), bool)
    for cluster in set(zip(own[left].tolist(), clusters[left].tolist(), strict=True)):
        here = [i for i in range(len(X)) if left[i] and (own[i], clusters[i]) == cluster]
        counts = [sum(found[i] == c for i in here) for c in range(classes)]
        correct = counts.pop(cluster[0])
        scores[here] = max(counts) / (correct + max(counts))
        suspected[here] = max(counts) > 0 and correct / max(counts) < threshold
    return scores, suspected


@pytest.mark.parametrize(
    ("classes", "threshold", "options"),
    [
        (2, 1.0, {}),
        (3, 0.5, {}),
        (2, 2.0, {"weights": RNG.uniform(0.5, 2, size=24), "intercept": True}),
    ],
)
def test_scores_are_those_of_a_refit(classes, threshold, options):
    X, labels, left, clusters = blobs(classes)
    y = np.where(labels == 1, 1.0, -1.0) if classes == 2 else np.eye(3)[labels]
    found = exclusionary_reclassification(
        kp.fit(kp.kernels.RBF(1.0), X, y, **options), left, RIDGE, clusters=clusters, threshold=threshold
    )
    scores, suspected = by_hand(X, y, left, clusters, threshold, **options)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.suspected, suspected)
    assert 0 < suspected.sum() < left.sum()
    assert len(set(scores[left].tolist())) > 1
    np.testing.assert_array_equal(found.suspected, found.scores > found.threshold)
    assert float(found.threshold) == 1 / (1 + threshold)


@pytest.mark.parametrize("names", [np.array(["a", "b"]), np.array([3, -9])])
def test_clusters_by_name_and_by_class(names):
    X, labels, left, clusters = blobs(3)
    fitted = kp.fit(kp.kernels.RBF(1.0), X, np.eye(3)[labels], solver=kp.Cholesky())
    expected = exclusionary_reclassification(fitted, left, RIDGE, clusters=clusters.astype(int))
    named = exclusionary_reclassification(fitted, left.astype(int), RIDGE, clusters=names[clusters.astype(int)])
    np.testing.assert_array_equal(named.scores, expected.scores)
    one = exclusionary_reclassification(fitted, left, RIDGE)
    scores, _ = by_hand(X, np.eye(3)[labels], left, np.zeros(36), 1.0)
    np.testing.assert_array_equal(one.scores, scores)


def test_the_ridge_is_that_of_all_points():
    """Between one point of the other class and five of its own, a little farther away: which wins is up to ρ."""
    X = np.array([[-1.177]] + [[1.449]] * 5 + [[0.0]] * 2)
    y, left = np.array([1.0] + [-1.0] * 7), np.arange(8) >= 6

    def f(rho):
        return (gram(X[6:7], X[:6]) @ np.linalg.solve(gram(X[:6], X[:6]) + rho * np.eye(6), y[:6])).item()

    rho = scipy.optimize.brentq(f, 1e-3, 10.0)
    fitted = kp.fit(kp.kernels.RBF(1.0), X, y)
    for factor, poison in ((0.98, True), (1.02, False)):
        found = exclusionary_reclassification(fitted, left, factor * rho / 8)
        assert found.suspected.tolist() == (left & poison).tolist()


def test_decisions_at_the_threshold_and_of_nothing():
    # Six of eight like a neighbour of their own class, two like the other: l/p = 3, which is not below 3.
    X = np.concatenate([np.zeros((1, 1)), np.full((1, 1), 5.0), np.full((6, 1), 0.1), np.full((2, 1), 4.9)])
    y = np.array([1.0, -1.0] + [1.0] * 8)
    fitted, left = kp.fit(kp.kernels.RBF(1.0), X, y), np.arange(10) >= 2
    for threshold, expected in ((3.0, False), (3.01, True), (2.99, False)):
        found = exclusionary_reclassification(fitted, left, RIDGE, threshold=threshold)
        assert found.scores[2:].tolist() == [0.25] * 8
        assert found.suspected[2:].tolist() == [expected] * 8
    nothing = exclusionary_reclassification(fitted, np.zeros(10, bool), RIDGE)
    assert not np.any(nothing.scores)
    assert not np.any(nothing.suspected)
    single = kp.fit(kp.kernels.RBF(1.0), X.astype(np.float32), y.astype(np.float32))
    found = exclusionary_reclassification(single, left, RIDGE)
    assert found.scores.dtype == found.threshold.dtype == np.float32
    assert found.scores[2] == 0.25


@pytest.mark.slow
def test_it_tells_poisons_of_digits_from_clean_digits():
    """A patch on 3s that are labelled 8, found as a cluster; and a quarter of the clean 3s, in question as well."""
    data = kp.datasets.load_digits()
    chosen = np.flatnonzero(np.isin(data.labels, [3, 8]))[:220]
    images, labels = data.images[chosen], np.where(data.labels[chosen] == 8, 1.0, -1.0)
    threes = np.flatnonzero(labels < 0)
    poisons = kp.Patch(2, (-2, -2), 1.0, clip=(0, 1))(images[threes[:16]])
    X = np.concatenate([images, np.asarray(poisons)]).reshape(-1, 64)
    y, truth = np.concatenate([labels, np.ones(16)]), np.arange(236) >= 220
    fitted = kp.fit(kp.kernels.RBF(2.0), X, y)
    with threadpool_limits(1):  # threads that wait for each other cost more than so few points
        clustered = activation_clustering(kernel_features(fitted.kernel, X), y > 0)
    rates = clustered.rates(truth)
    assert rates.true_positive > 0.8  # else there is nothing to confirm
    clean = np.isin(np.arange(236), threes[16::4])
    found = exclusionary_reclassification(fitted, clustered.suspected | clean, 1e-3)
    assert np.all(found.suspected[clustered.suspected & (y > 0)])
    assert not np.any(found.suspected[clean])
    assert found.rates(truth).true_positive == rates.true_positive
    # An alarm that is false: clean 8s that some detector split off are acquitted.
    eights = np.isin(np.arange(236), np.flatnonzero(labels > 0)[::3])
    assert not np.any(exclusionary_reclassification(fitted, eights, 1e-3).suspected)


def test_bad_input():
    X, labels, left, _ = blobs(2)
    y = np.where(labels == 1, 1.0, -1.0)
    fitted = kp.fit(kp.kernels.RBF(1.0), X, y)
    for change, message in [
        ({"suspected": left[1:]}, r"suspected must have shape \(24,\), one for each point, got \(23,\)"),
        ({"suspected": y > 0}, "suspected must leave points of every class"),
        ({"ridge": 0.0}, "ridge must be finite and > 0"),
        ({"threshold": 0.0}, "threshold must be finite and > 0"),
        ({"threshold": np.inf}, "threshold must be finite and > 0"),
        ({"clusters": np.zeros(3, int)}, r"clusters must have shape \(24,\)"),
        ({"posterior": kp.flow.early_stopped(fitted, 1.0)}, "posterior must be trained to its end"),
        ({"posterior": kp.fit(kp.kernels.RBF(1.0), X, 2 * y)}, "posterior.y must hold −1 and 1"),
        ({"posterior": kp.fit(kp.kernels.RBF(1.0), X, np.ones(24))}, "posterior.y must hold at least two classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            exclusionary_reclassification(**({"posterior": fitted, "suspected": left, "ridge": RIDGE} | change))
    for change, message in [
        ({"posterior": X}, "posterior must be a Posterior"),
        ({"suspected": left.astype(float)}, "suspected must be booleans"),
        ({"clusters": y}, "clusters must be integers, booleans or text"),
    ]:
        with pytest.raises(TypeError, match=message):
            exclusionary_reclassification(**({"posterior": fitted, "suspected": left, "ridge": RIDGE} | change))
    with pytest.raises(TypeError, match="arguments must be known numbers"):
        jax.jit(lambda ridge: exclusionary_reclassification(fitted, left, ridge).scores)(0.1)
