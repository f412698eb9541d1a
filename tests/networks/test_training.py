"""Training to the ridge optimum: stationary, of clones, of clean runs, and refused where it has not converged."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import COUNT, RIDGE, problem, small

from kpoison.networks import (
    Architecture,
    Training,
    UnconvergedError,
    ensemble,
    train,
    train_pair,
)
from kpoison.poison import Poison


def objective_gradient(trained, X, y, weights, total, ridge):
    """Norm of the objective's gradient in the parameters, written out here."""

    def objective(parameters):
        network = eqx.tree_at(lambda net: net.parameters, trained.final, parameters)
        centred = jax.vmap(network)(jnp.asarray(X)) - jax.vmap(trained.initial)(jnp.asarray(X))
        fit = sum(w * jnp.sum((g - t) ** 2) for w, g, t in zip(weights, centred, y, strict=True))
        moved = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), parameters, trained.initial.parameters)
        return fit / (2 * total) + ridge / 2 * sum(jax.tree.leaves(moved))

    def norm(parameters):
        gradient = jax.jit(jax.grad(objective))(parameters)
        return np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)))

    return norm(trained.final.parameters) / norm(trained.initial.parameters)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_trains_to_a_stationary_point(activation):
    network, X, y, _, _ = small(activation, bias_std=0.3)
    weights = np.array([1.0, 2.5, 1.0, 0.0, 3.0, 1.0])
    result = train(network, X, y, RIDGE, weights=weights, total=11.0)
    assert bool(result.converged)
    assert 0 < float(result.gradient_norm) <= 1e-8
    assert objective_gradient(result, X, y, weights, 11.0, RIDGE) < 1.01e-8
    np.testing.assert_allclose(result.outputs(X), jax.vmap(result)(X), rtol=1e-12)
    # The ridge keeps it from interpolating: the optimality condition holds on the outputs, too.
    assert float(jnp.max(jnp.abs(result.outputs(X) - y))) > 0.01


@pytest.mark.slow
def test_a_rounded_kink_is_what_lets_relu_converge():
    X, y, _, _ = problem()

    def run(rounding):
        network = Architecture(256, rounding=rounding).initialise(jax.random.key(0), 8)
        return train(network, X, y, RIDGE, training=Training(max_steps=200), throw=False)

    assert bool(run(0.03).converged)
    assert float(run(0).gradient_norm) > 1e-4


@pytest.mark.slow
def test_a_weight_is_a_number_of_duplicates():
    network, X, y, _, x = small()
    X_long, y_long = np.vstack([X, X[:1], X[:1], X[3:4]]), np.concatenate([y, y[:1], y[:1], y[3:4]])
    duplicated = train(network, X_long, y_long, RIDGE)
    weighted = train(network, X, y, RIDGE, weights=np.array([3, 1, 1, 2, 1, 1]))
    np.testing.assert_allclose(weighted.outputs(x), duplicated.outputs(x), rtol=1e-6)


@pytest.mark.slow
def test_clones_and_clusters():
    network, X, y, poison, x = small()
    clean, poisoned = train_pair(network, X, y, poison, RIDGE)
    weights = np.append(np.ones(len(X)), COUNT)
    all_points = np.vstack([X, poison.location]), np.append(y, float(poison.label))
    expected = train(network, *all_points, RIDGE, weights=weights)
    np.testing.assert_allclose(poisoned.outputs(x), expected.outputs(x), rtol=1e-6)
    # The clean run has the poisoned n.
    expected = train(network, X, y, RIDGE * (len(X) + COUNT) / len(X))
    np.testing.assert_allclose(clean.outputs(x), expected.outputs(x), rtol=1e-6)
    cluster = Poison(jnp.stack([poison.location] * 2), poison.label, np.array([3.0, 5.0]))
    _, expected = train_pair(network, X, y, cluster, RIDGE)
    np.testing.assert_allclose(poisoned.outputs(x), expected.outputs(x), rtol=1e-6)


@pytest.mark.slow
def test_references_of_the_clean_run():
    network, X, y, poison, x = small()
    clean, poisoned = train_pair(network, X, y, poison, RIDGE, reference="clean")
    np.testing.assert_allclose(clean.outputs(x), train(network, X, y, RIDGE).outputs(x), rtol=1e-6)
    same = train_pair(network, X, y, poison, RIDGE)
    np.testing.assert_allclose(poisoned.outputs(x), same[1].outputs(x), rtol=1e-12)
    assert float(jnp.max(jnp.abs(clean.outputs(x) - same[0].outputs(x)))) > 1e-3
    nothing = Poison(poison.location, poison.label, 0.0)
    without, still_without = train_pair(network, X, y, nothing, RIDGE)
    np.testing.assert_array_equal(without.outputs(x), still_without.outputs(x))


@pytest.mark.slow
def test_nothing_to_learn():
    network, X, y, _, _ = small()
    result = train(network, X, np.zeros_like(y), RIDGE)
    assert int(result.steps) == 0
    assert float(result.gradient_norm) == 0
    assert bool(result.converged)


@pytest.mark.slow
def test_an_unconverged_run_is_an_error():
    network, X, y, poison, x = small()
    few = Training(max_steps=3)
    with pytest.raises(UnconvergedError, match=r"1 of 1 training runs .* 1.0e-08 was asked for, after 3 of at most 3"):
        train(network, X, y, RIDGE, training=few)
    with pytest.raises(UnconvergedError, match="have not converged"):
        train_pair(network, X, y, poison, RIDGE, training=few)
    with pytest.raises(UnconvergedError, match="4 of 4 training runs"):
        ensemble(network.architecture, jax.random.split(jax.random.key(0)), X, y, poison, RIDGE, x, training=few)
    result = train(network, X, y, RIDGE, training=few, throw=False)
    assert not bool(result.converged)
    assert int(result.steps) == 3
    assert float(result.gradient_norm) > 1e-8


def test_an_unconverged_run_is_an_error_under_jit():
    network, X, y, _, x = small()

    def predict(ridge):
        return train(network, X, y, ridge, training=Training(max_steps=3)).outputs(x)

    with pytest.raises(eqx.EquinoxRuntimeError, match="has not converged"):
        jax.block_until_ready(eqx.filter_jit(predict)(jnp.asarray(RIDGE)))
