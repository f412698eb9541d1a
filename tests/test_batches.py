"""Batches leave no trace in the result, and each keeps to the budget."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kpoison import _batches
from kpoison._batches import at_once, in_batches, in_chunks, in_parts

X = jnp.arange(21.0).reshape(7, 3)


@pytest.mark.parametrize("fit", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batches_within_the_budget(monkeypatch, fit, dtype):
    monkeypatch.setattr(_batches, "BYTES_AT_ONCE", fit * 5 * np.dtype(dtype).itemsize)
    xs = X.astype(dtype)

    def function(pair):
        x, z = pair
        return jnp.sum(x * z), x

    total, rows = in_batches(function, (xs, xs), 5)
    np.testing.assert_array_equal(total, np.sum(np.square(xs), axis=1))
    np.testing.assert_array_equal(rows, xs)
    assert at_once(5, np.dtype(dtype).itemsize) == fit
    program = str(jax.make_jaxpr(lambda xs: in_batches(function, (xs, xs), 5))(xs))
    assert ("scan" in program) == (fit < len(X))
    assert (f"[{fit},3]" in program) == (fit <= len(X))


def test_what_does_not_fit_is_done_one_by_one():
    assert at_once(_batches.BYTES_AT_ONCE) == 1
    assert at_once(0) == at_once(1) == _batches.BYTES_AT_ONCE // 8


@pytest.mark.parametrize("largest", [1, 2, 3, 5, 7, 9])
def test_chunks(largest):
    seen = []

    def function(points):
        seen.append(len(points))
        return jnp.cumsum(points, axis=1)

    np.testing.assert_array_equal(in_chunks(function, X, largest), np.cumsum(X, axis=1))
    assert max(seen) <= largest


def test_parts_are_filled_up_with_the_last():
    np.testing.assert_array_equal(in_parts(X, 3)[-1], np.repeat(X[-1:], 3, axis=0))
    np.testing.assert_array_equal(in_parts(X, 2, axis=1), np.stack([X[:, :2], X[:, [2, 2]]]))
