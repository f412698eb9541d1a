"""Rates by hand; thresholds within classes against NumPy's quantiles."""

import inspect

import jax
import numpy as np
import pytest

from kpoison import defences
from kpoison.defences import Detection
from kpoison.defences.detection import less_rounding, thresholds_within_classes


def test_rates_by_hand():
    found = Detection(np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True]), np.array(0.4), "")
    rates = found.rates(np.array([False, True, False, True]))
    assert rates == (0.5, 0.5, (1 + 0.5 + 1 + 1) / 4)
    none = found.rates(np.zeros(4, bool))
    assert np.isnan(none.true_positive)
    assert np.isnan(none.auroc)
    assert none.false_positive == 0.5
    assert np.isnan(found.rates(np.ones(4, bool)).false_positive)
    with pytest.raises(ValueError, match="is_poison must have shape"):
        found.rates(np.zeros(3, bool))


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.9])
def test_thresholds_are_quantiles_of_classes(fraction):
    scores = np.random.default_rng(0).exponential(size=31)
    labels = np.repeat([5, -3, 0, 2], [17, 9, 4, 1])[np.random.default_rng(1).permutation(31)]
    found = np.asarray(jax.jit(thresholds_within_classes)(scores, labels, fraction))
    for label in np.unique(labels):
        expected = less_rounding(np.quantile(scores[labels == label], 1 - fraction))
        np.testing.assert_allclose(found[labels == label], expected, rtol=1e-12)


def takes_features():
    """Every public detector of labelled features."""
    found = [getattr(defences, name) for name in defences.__all__]
    return [
        f for f in found if inspect.isfunction(f) and {"features", "labels"} <= set(inspect.signature(f).parameters)
    ]


@pytest.mark.parametrize("detector", takes_features(), ids=lambda detector: detector.__name__)
@pytest.mark.parametrize(("size", "dtype"), [(1e200, np.float64), (1e25, np.float32)])
def test_features_of_which_squares_overflow(detector, size, dtype):
    features = (size * np.random.default_rng(0).normal(size=(30, 12))).astype(dtype)
    labels = np.arange(30) % 2
    with pytest.raises(ValueError, match=r"features must lie within ±.*, so that their squares .*, got"):
        detector(features, labels)
    largest = 0.9 * float((np.finfo(dtype).max / (8 * features.size)) ** 0.5) / np.abs(features).max()
    found = detector((largest * features.astype(float)).astype(dtype), labels)
    assert np.all(np.isfinite(found.scores))


def test_predictions_for_features_of_which_squares_overflow():
    clean = np.random.default_rng(0).normal(size=(20, 3))
    for arguments, name in (((1e200 * clean, clean[0]), "clean"), ((clean, 1e200 * clean[0]), "poisons")):
        with pytest.raises(ValueError, match=rf"{name} must lie within ±"):
            defences.predicted_visibility(*arguments, count=2.0)
