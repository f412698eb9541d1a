"""vmap: over counts, ridges, locations, probes, labels and length scales, alone and together, as a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenario import (
    CLUSTERS_ARE_SLOW,
    FUNCTIONS,
    NUMBERS,
    RNG,
    RUN_TIME,
    Numbers,
    as_arrays,
    assert_same,
    fitted,
    poisoned,
)

import kpoison as kp

BATCH = Numbers(
    scale=np.array([0.8, 1.5, 2.5]),
    zeta=RNG.normal(size=(3, 3)),
    label=np.array([0.7, -1.0, 2.0]),
    count=np.array([0.0, 3.0, 2.2]),
    ridge=np.array([0.05, 0.4, 3.0]),
    x=RNG.normal(size=(3, 2, 3)),
)


def loop(function, batch, axes):
    for i in range(3):
        numbers = Numbers(*(a[i] if axis == 0 else a for a, axis in zip(batch, axes, strict=True)))
        yield function(as_arrays(numbers))


def assert_vmap_is_a_loop(function, batch, axes):
    together = jax.vmap(function, in_axes=(axes,))(as_arrays(batch))
    for i, alone in enumerate(loop(function, batch, axes)):
        assert_same(jax.tree.map(lambda a, i=i: a[i], together), alone)


@pytest.mark.parametrize("name", CLUSTERS_ARE_SLOW)
def test_over_everything_at_once(name):
    assert_vmap_is_a_loop(FUNCTIONS[name], BATCH, Numbers(0, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("argument", Numbers._fields)
def test_over_one_argument(argument):
    batch = NUMBERS._replace(**{argument: getattr(BATCH, argument)})
    axes = Numbers(*(0 if field == argument else None for field in Numbers._fields))
    assert_vmap_is_a_loop(FUNCTIONS["spike"], batch, axes)


def test_over_one_fit_a_grid_of_counts_and_ridges():
    # What a sweep does: one factorisation, every ridge and every count from it.
    clean = fitted(NUMBERS)

    def spike(count, ridge):
        return kp.spike(clean, kp.Poison(NUMBERS.zeta, NUMBERS.label, count), NUMBERS.x, ridge)

    over_ridges = jax.vmap(spike, in_axes=(None, 0))
    grid = jax.jit(jax.vmap(over_ridges, in_axes=(0, None)))(BATCH.count, BATCH.ridge)
    assert grid.shape == (3, 3, 2)
    for i, count in enumerate(BATCH.count):
        for j, ridge in enumerate(BATCH.ridge):
            assert_same(grid[i, j], spike(count, ridge))


def test_over_stacked_poisons_and_posteriors():
    stacked = jax.vmap(kp.Poison)(BATCH.zeta, BATCH.label, BATCH.count)
    clean = fitted(NUMBERS)
    changes = jax.vmap(lambda poison: kp.efficacy(clean, poison, NUMBERS.x, 0.05))(stacked)
    for i in range(3):
        poison = poisoned(NUMBERS._replace(zeta=BATCH.zeta[i], label=BATCH.label[i], count=BATCH.count[i]))
        assert_same(changes[i], kp.efficacy(clean, poison, NUMBERS.x, 0.05))
    posteriors = jax.vmap(lambda scale: fitted(as_arrays(NUMBERS)._replace(scale=scale)))(BATCH.scale)
    gains = jax.vmap(lambda clean: kp.gain(clean, poisoned(NUMBERS), 0.05))(posteriors)
    for i in range(3):
        alone = kp.gain(fitted(NUMBERS._replace(scale=BATCH.scale[i])), poisoned(NUMBERS), 0.05)
        assert_same(gains[i], alone)


@pytest.mark.slow
def test_of_a_derivative():
    def slope(count):
        return jax.grad(lambda m: kp.gain(fitted(NUMBERS), kp.Poison(NUMBERS.zeta, 1.0, m), 0.05))(count)

    slopes = jax.vmap(slope)(BATCH.count)
    for count, found in zip(BATCH.count, slopes, strict=True):
        assert_same(found, slope(count))


def test_one_bad_entry_raises_at_run_time():
    clean, poison = fitted(NUMBERS), poisoned(NUMBERS)
    with pytest.raises(RUN_TIME, match="ridge must be finite and > 0"):
        jax.block_until_ready(jax.vmap(lambda ridge: kp.gain(clean, poison, ridge))(jnp.array([0.1, -0.1, 0.2])))
