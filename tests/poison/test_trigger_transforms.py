"""Triggers on images under jit, vmap and grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trigger_catalogue import EPS, EVERY, IMAGES, NUMBERS, RNG, TRIGGERS

import kpoison as kp


@EVERY
def test_jit_in_the_trigger_and_its_numbers(make):
    traces = []

    @jax.jit
    def applied(trigger, images):
        traces.append(trigger)
        return trigger(images), trigger.direction(images)

    for strength in (0.25, 0.5):
        trigger = make(strength)
        for found, expected in zip(applied(trigger, IMAGES), (trigger(IMAGES), trigger.direction(IMAGES)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=4 * EPS)
    assert len(traces) == 1  # the numbers are no part of the program
    made = jax.jit(lambda strength: make(strength)(IMAGES))(0.25)
    np.testing.assert_allclose(made, make(0.25)(IMAGES), rtol=0, atol=4 * EPS)


@pytest.mark.slow
@EVERY
def test_vmap(make):
    strengths = jnp.array([0.0, 0.25, 1.0])
    found = jax.vmap(lambda strength: make(strength)(IMAGES))(strengths)
    expected = np.stack([make(strength)(IMAGES) for strength in (0.0, 0.25, 1.0)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * EPS)
    np.testing.assert_allclose(jax.vmap(make(0.25))(IMAGES), expected[1], rtol=0, atol=4 * EPS)
    batch = eqx.filter_vmap(make)(strengths)
    batched = jax.vmap(lambda trigger: trigger(IMAGES))(batch)
    np.testing.assert_allclose(batched, expected, rtol=0, atol=4 * EPS)
    with pytest.raises(ValueError, match=r"(opacity|amplitude|strength) must be a single number, got shape \(3,\)"):
        batch(IMAGES)


@pytest.mark.parametrize("output", ["image", "direction"])
@pytest.mark.parametrize("name", TRIGGERS)
def test_grad_in_every_number_is_a_finite_difference(name, output):
    trigger = TRIGGERS[name](0.3)
    weights = RNG.normal(size=IMAGES.shape)

    @eqx.filter_jit
    def value(trigger, images):
        return jnp.sum(weights * (trigger(images) if output == "image" else trigger.direction(images)))

    gradient = eqx.filter_grad(value)(trigger, IMAGES)
    assert len(jax.tree.leaves(gradient)) == len(jax.tree.leaves(trigger)) == 2
    step = 1e-5
    for field in NUMBERS[name]:
        number = getattr(trigger, field)
        along = jnp.asarray(RNG.normal(size=number.shape) * (number != 0))  # the border of a warp stays

        def moved(sign, field=field, number=number, along=along):
            return value(eqx.tree_at(lambda t: getattr(t, field), trigger, number + sign * step * along), IMAGES)

        expected = (moved(1) - moved(-1)) / (2 * step)
        found = jnp.sum(getattr(gradient, field) * along)
        assert found == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
        if output == "image":
            assert abs(found) > 1e-2  # or the test could not fail
    at_images = jax.grad(value, argnums=1)(trigger, IMAGES)
    along = RNG.normal(size=IMAGES.shape)
    expected = (value(trigger, IMAGES + step * along) - value(trigger, IMAGES - step * along)) / (2 * step)
    assert np.sum(at_images * along) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)


def test_grad_at_the_ends_of_opacity():
    for opacity in (0.0, 1.0):
        slope = jax.grad(lambda o: jnp.sum(kp.Patch(2, (0, 0), 0.7, o)(IMAGES)))(opacity)
        assert slope == pytest.approx(np.sum(0.7 - IMAGES[:, :2, :2]), rel=1e-12)
