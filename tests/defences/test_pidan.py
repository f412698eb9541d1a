"""Coherence optimisation: the weights are a maximum; two groups are told from one; classes are told apart."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from kpoison.defences import pidan
from kpoison.defences._pidan import _anomaly_index, _coherent_weights, _two_groups

RNG = np.random.default_rng(6)
LABELS = np.repeat(np.arange(5), 30)
IS_POISON = (LABELS == 2) & (np.arange(150) % 30 >= 22)
FEATURES = RNG.normal(size=(150, 12)) + 5 * IS_POISON[:, None] * np.eye(12)[4]


def coherence(a, rows, axes):
    """‖Σ a_i t_i‖² outside of the span of axes, over ‖a‖²."""
    total = a @ rows
    return (total @ total - np.sum((total @ axes.T) ** 2)) / (a @ a)


@pytest.mark.parametrize("variance", [0.0, 0.6])
def test_no_other_weights_are_more_coherent(variance):
    rows, mean = FEATURES[LABELS == 2], FEATURES[LABELS == 3].mean(axis=0)
    weights = _coherent_weights(rows, mean, np.asarray(variance))
    scaled = (rows - mean) / np.linalg.norm(rows - mean, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(scaled.T))
    shares = np.cumsum(values[::-1]) / values.sum()
    axes = vectors[:, ::-1].T[: np.sum(shares < variance) + 1] if variance else np.zeros((0, 12))
    assert weights is not None
    assert weights @ weights == pytest.approx(30)
    best = coherence(weights, scaled, axes)
    for _ in range(50):
        assert coherence(weights + 0.1 * RNG.normal(size=30), scaled, axes) < best


def test_finds_the_class_and_its_poisons():
    found = pidan(FEATURES, LABELS)
    assert not found.suspected[LABELS != 2].any()
    rates = found.rates(IS_POISON)
    assert rates.true_positive >= 0.9
    assert rates.false_positive <= 0.01
    assert found.rates(IS_POISON).auroc > 0.9
    # Two classes have no anomaly index: the likelihood decides.
    two = LABELS >= 2
    two &= LABELS <= 3
    np.testing.assert_array_equal(pidan(FEATURES[two], LABELS[two]).suspected, found.suspected[two])


def test_clean_points_give_the_mean():
    clean = RNG.normal(size=(150, 12))
    found = pidan(FEATURES, LABELS, reference=clean, reference_labels=LABELS)
    assert found.rates(IS_POISON).true_positive >= 0.9
    same = pidan(FEATURES, LABELS, reference=FEATURES, reference_labels=LABELS)
    np.testing.assert_allclose(same.scores, pidan(FEATURES, LABELS).scores)


def test_the_boundary_is_where_both_groups_are_equally_likely():
    weights = np.concatenate([RNG.normal(size=400), 8 + 0.5 * RNG.normal(size=100)])
    scores, boundary, ratio = _two_groups(weights, 0)
    assert ratio > 100
    # Of the two Gaussians that were fitted, the larger about 0.
    both = GaussianMixture(2, n_init=5, max_iter=1000, random_state=0).fit(weights[:, None])
    larger = np.argmax(both.weights_)
    place = both.means_[larger, 0] + boundary * both.covariances_[larger, 0, 0] ** 0.5
    np.testing.assert_allclose(both.predict_proba([[place]]), 0.5, atol=1e-9)
    np.testing.assert_array_equal(scores > boundary, np.arange(500) >= 400)
    # Turned round, the smaller group is still the suspicious side.
    np.testing.assert_allclose(_two_groups(-weights, 0)[0], scores, rtol=1e-3, atol=1e-3)
    assert _two_groups(RNG.normal(size=300), 0)[2] < 8


def test_anomaly_index_by_hand():
    # Differences' medians are 1, 1, 1, 2, 8 → 1; the median is 2.
    np.testing.assert_allclose(_anomaly_index(np.array([0.0, 1, 2, 3, 10])) * 1.1926, np.array([0, 0, 0, 1, 8]) / 2)
    assert _anomaly_index(np.array([1.0, 1, 1, 5])).tolist() == [0, 0, 0, np.inf]


def test_degenerate_classes_and_float32():
    rows = np.concatenate([np.full((5, 3), 0.1), RNG.normal(size=(3, 3)), RNG.normal(size=(8, 3))])
    labels = np.repeat([0, 1, 2], [5, 3, 8])
    found = pidan(rows.astype(np.float32), labels)
    assert not np.any(found.scores[labels < 2])
    assert not found.suspected[labels < 2].any()
    assert found.scores.dtype == np.float32
    single = pidan(rows, np.zeros(16, int))
    assert single.scores.shape == (16,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variance": 1.0}, "variance, a share"),
        ({"decision": "vote"}, "decision must be one of"),
        ({"index": 0.0}, "index must be finite and > 0"),
        ({"reference": FEATURES}, "given together"),
        ({"reference": FEATURES[:, :2], "reference_labels": LABELS}, "reference must have the 12 columns"),
        ({"reference": FEATURES[:30], "reference_labels": LABELS[:30]}, "got none labelled 1"),
        ({"reference": FEATURES * np.nan, "reference_labels": LABELS}, "reference: features must be finite"),
        ({"labels": LABELS[1:]}, "labels must have shape"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        pidan(**({"features": FEATURES, "labels": LABELS} | change))
