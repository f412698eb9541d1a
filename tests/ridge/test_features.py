"""Coordinates of a kernel's feature space are isometric."""

import jax.numpy as jnp
import numpy as np
import pytest

from kpoison.kernels import NTK, RBF
from kpoison.ridge.features import kernel_features


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [RBF(2.0), NTK(2, activation="relu", weight_std=2**0.5, bias_std=0.1)])
def test_inner_products_are_the_kernel(kernel):
    X = np.random.default_rng(0).normal(size=(12, 3))
    X[5] = X[2]
    features = np.asarray(kernel_features(kernel, X))
    gram = np.asarray(kernel(jnp.asarray(X)))
    np.testing.assert_allclose(features @ features.T, gram, atol=1e-12 * gram.max())
    # Principal axes, the largest first; clones have one place.
    lengths = np.linalg.norm(features, axis=0)
    assert np.all(np.diff(lengths) <= 1e-7)
    np.testing.assert_allclose(features[5], features[2], atol=1e-6)
    assert kernel_features(kernel, X.astype(np.float32)).dtype == jnp.float32


def test_bad_input():
    with pytest.raises(ValueError, match="X must be finite"):
        kernel_features(RBF(1.0), np.full((2, 2), np.nan))
