"""Ensembles of trained pairs: a loop over pairs, of several outputs, in float32."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import RIDGE, small

from kpoison.networks import (
    ensemble,
    train_pair,
)
from kpoison.poison import Poison


@pytest.mark.slow
def test_ensemble_is_a_loop_over_pairs():
    network, X, y, poison, x = small()
    keys = jax.random.split(jax.random.key(5), 3)
    result = ensemble(network.architecture, keys, X, y, poison, RIDGE, x)
    quantities = ("clean", "efficacy", "gradient", "spike")
    assert result.gradient.shape == (3, 2, 3)
    assert bool(jnp.all(result.converged))

    @eqx.filter_jit
    def at_probes(clean, poisoned):
        values = clean.outputs(x), poisoned.outputs(x) - clean.outputs(x)
        gradient = jax.vmap(jax.grad(lambda point: poisoned(point) - clean(point)))(jnp.asarray(x))
        return dict(zip(quantities, (*values, gradient, jnp.sum(gradient**2, axis=1)), strict=True))

    for index, key in enumerate(keys):
        clean, poisoned = train_pair(network.architecture.initialise(key, 3), X, y, poison, RIDGE)
        for name, value in at_probes(clean, poisoned).items():
            np.testing.assert_allclose(getattr(result, name)[index], value, rtol=1e-5, atol=1e-7)
        assert result.steps[index].tolist() == [int(clean.steps), int(poisoned.steps)]
    batched = ensemble(network.architecture, keys, X, y, poison, RIDGE, x, batch_size=3)
    for name in quantities:
        np.testing.assert_allclose(getattr(batched, name), getattr(result, name), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_several_outputs():
    network, X, y, poison, x = small()
    Y = np.stack([y, 0.5 * y, -y], axis=1)
    poison = Poison(poison.location, np.array([1.0, -1.0, 0.5]), 4.0)
    result = ensemble(network.architecture, jax.random.split(jax.random.key(0)), X, Y, poison, RIDGE, x)
    assert result.efficacy.shape == result.spike.shape == (2, 2, 3)
    assert result.gradient.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(result.spike, np.sum(np.square(result.gradient), axis=-1), rtol=1e-12)


@pytest.mark.slow
def test_float32():
    network, X, y, poison, x = small()
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32) if eqx.is_array(leaf) else leaf, network)
    clean, poisoned = train_pair(network, X, y, poison, RIDGE)
    data = (X.astype(np.float32), y.astype(np.float32), poison, RIDGE)
    clean32, poisoned32 = train_pair(single, *data)
    found = poisoned32.outputs(x) - clean32.outputs(x)
    assert found.dtype == poisoned32.gradient_norm.dtype == np.float32
    assert float(poisoned32.gradient_norm) <= 1e-5
    np.testing.assert_allclose(found, poisoned.outputs(x) - clean.outputs(x), atol=1e-4)
    keys = jax.random.split(jax.random.key(0))
    result = jax.eval_shape(lambda: ensemble(network.architecture, keys, *data, x, throw=False))
    assert {leaf.dtype.name for leaf in (result.clean, result.gradient, result.spike)} == {"float32"}
