"""Rates by hand; thresholds within classes against NumPy's quantiles."""

import jax
import numpy as np
import pytest

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
