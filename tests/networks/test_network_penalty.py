"""Networks trained with a gradient penalty: against algebra in features, the kernel posterior (T1) and SciPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree
from linearised import (
    COUNT,
    GAMMA,
    LABEL,
    METRICS,
    PROBES,
    RIDGE,
    RNG,
    ZETA,
    D,
    N,
    PenalisedFeatures,
    X,
    Y,
    draw,
    empirical_ntk,
    in_float32,
    linearised,
)

import kpoison as kp
from kpoison.networks import Architecture, Training, UnconvergedError, ensemble, train, train_pair
from kpoison.networks.objective import Penalty, centred_objective, shifted

TIGHT = Training(tolerance=1e-11)
# ‖A⁻¹‖‖gradient‖ <= cond · tolerance · ‖b‖/‖A‖ in the parameters; features have norms of order one.
WITHIN = 1e-8
POINTS, TARGETS = np.vstack([X, ZETA]), np.append(Y[:, 0], LABEL[0])
WEIGHTS = np.append(np.ones(N), COUNT)


@pytest.mark.slow
@pytest.mark.parametrize("metric", [pytest.param(m, marks=[pytest.mark.slow] * (m != "full")) for m in METRICS])
def test_a_linearised_network_trains_to_the_penalised_posterior_of_its_empirical_ntk(metric):
    network = draw(hidden_layers=2 if metric == "full" else 1)
    clean = kp.fit(empirical_ntk(network), X, Y[:, 0], gradient_penalty=GAMMA, metric=METRICS[metric])
    options = {"gradient_penalty": GAMMA, "metric": METRICS[metric], "training": TIGHT}
    trained = train(linearised(network), X, Y[:, 0], RIDGE, **options)
    expected = kp.predict(clean, PROBES, RIDGE)
    np.testing.assert_allclose(trained.outputs(PROBES), expected, atol=WITHIN)
    # The penalty matters here, and so does its metric.
    plain = kp.predict(kp.fit(empirical_ntk(network), X, Y[:, 0]), PROBES, RIDGE)
    assert np.max(np.abs(expected - plain)) > 1e-2


@pytest.mark.slow
def test_clones_and_their_slopes_are_those_of_the_posterior():
    network, poison = draw(), kp.Poison(ZETA, float(LABEL[0]), COUNT)
    clean = kp.fit(empirical_ntk(network), X, Y[:, 0], gradient_penalty=GAMMA)
    before, after = train_pair(linearised(network), X, Y[:, 0], poison, RIDGE, gradient_penalty=GAMMA, training=TIGHT)
    change = after.outputs(PROBES) - before.outputs(PROBES)
    np.testing.assert_allclose(change, kp.efficacy(clean, poison, PROBES, RIDGE), atol=WITHIN)
    slopes = jax.vmap(jax.grad(lambda x: after(x) - before(x)))(jnp.asarray(PROBES))
    np.testing.assert_allclose(slopes, kp.efficacy_gradient(clean, poison, PROBES, RIDGE), atol=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize(("outputs", "metric"), [(2, "full"), (5, "identity"), (5, "full")])
def test_several_outputs_are_penalised_together(outputs, metric):
    """More outputs than coordinates take the forward mode, fewer the backward mode."""
    network = draw(outputs)
    targets = RNG.normal(size=(N + 1, outputs))
    exact = PenalisedFeatures(network, POINTS, targets, WEIGHTS, 9.5, GAMMA, METRICS[metric])
    trained = train(
        linearised(network),
        POINTS,
        targets,
        RIDGE,
        weights=WEIGHTS,
        total=9.5,
        gradient_penalty=GAMMA,
        metric=METRICS[metric],
        training=TIGHT,
    )
    np.testing.assert_allclose(trained.outputs(PROBES), exact.outputs(PROBES), atol=WITHIN)
    slopes = jax.vmap(jax.jacrev(trained))(jnp.asarray(PROBES))
    np.testing.assert_allclose(slopes, exact.gradients(PROBES), atol=WITHIN)


def written_out(network, flat, unravel, gamma, metric):
    """The objective of a scalar network, term by term, at the parameters `flat`."""
    moved = eqx.tree_at(lambda net: net.parameters, network, unravel(flat))
    value = 0.0
    for x, y, w in zip(jnp.asarray(POINTS), TARGETS, WEIGHTS, strict=True):
        slope = jax.grad(lambda z: moved(z) - network(z))(x)
        value += w * ((moved(x) - network(x) - y) ** 2 + gamma * slope @ metric @ slope)
    start = ravel_pytree(network.parameters)[0]
    return value / (2 * WEIGHTS.sum()) + RIDGE / 2 * jnp.sum((flat - start) ** 2)


@pytest.mark.slow
def test_training_ends_where_scipy_does():
    network, metric = draw(width=4), METRICS["full"]
    flat, unravel = ravel_pytree(network.parameters)
    both = jax.jit(jax.value_and_grad(lambda p: written_out(network, p, unravel, GAMMA, metric)))
    found = scipy.optimize.minimize(both, flat, jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 5000})
    options = {"weights": WEIGHTS, "gradient_penalty": GAMMA, "metric": metric, "training": TIGHT}
    trained = train(network, POINTS, TARGETS, RIDGE, **options)
    flat_found = ravel_pytree(trained.final.parameters)[0]
    # One basin: both are stationary and start at θ0; the gradients vanish to 1e-10 and the curvature is at least λ.
    np.testing.assert_allclose(flat_found, found.x, atol=1e-10 / RIDGE * 10)
    first, last = (float(jnp.linalg.norm(both(p)[1])) for p in (flat, flat_found))
    np.testing.assert_allclose(float(trained.gradient_norm), last / first, rtol=1e-2, atol=1e-14)
    assert last / first <= 1e-11


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["erf", "gelu"])
def test_objective_and_its_gradient_are_finite_differences(activation):
    network, metric = draw(activation=activation, width=5), METRICS["full"]
    flat, unravel = ravel_pytree(network.parameters)
    penalty = Penalty(jnp.asarray(GAMMA), jnp.asarray(metric))
    data = (jnp.asarray(POINTS), jnp.asarray(TARGETS), jnp.asarray(WEIGHTS), jnp.sum(WEIGHTS), jnp.asarray(RIDGE))

    @jax.jit
    def objective(shift):
        return centred_objective(network, *data, penalty)(unravel(shift))

    shift = 0.3 * RNG.normal(size=flat.shape)
    expected = written_out(network, flat + shift, unravel, GAMMA, metric)
    np.testing.assert_allclose(objective(shift), expected, rtol=1e-13)
    direction = RNG.normal(size=flat.shape)
    slope = jnp.vdot(jax.grad(objective)(shift), direction)
    # Central differences of order four: the error is step⁴ times a fifth derivative, and eps/step.
    step = 1e-3
    samples = [float(objective(shift + k * step * direction)) for k in (-2, -1, 1, 2)]
    difference = (samples[0] - 8 * samples[1] + 8 * samples[2] - samples[3]) / (12 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-7)


@pytest.mark.slow
def test_no_penalty_changes_no_bit():
    network, poison = draw(), kp.Poison(ZETA, float(LABEL[0]), COUNT)
    data = (POINTS, TARGETS, RIDGE)
    plain = train(network, *data)
    for options in ({"gradient_penalty": 0.0}, {"gradient_penalty": 0, "metric": METRICS["full"]}):
        same = train(network, *data, **options)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), plain, same))
    # The program is the same as without the argument.
    arguments = (jnp.asarray(POINTS), jnp.asarray(TARGETS), jnp.asarray(WEIGHTS), jnp.asarray(9.0), jnp.asarray(0.1))
    start = jax.tree.map(jnp.zeros_like, network.parameters)
    program = str(jax.make_jaxpr(centred_objective(network, *arguments, None))(start))
    with_penalty = centred_objective(network, *arguments, Penalty(jnp.asarray(0.0), None))
    assert program.count("dot_general") < str(jax.make_jaxpr(with_penalty)(start)).count("dot_general")
    keys = jax.random.split(jax.random.key(0))
    pair = [
        ensemble(network.architecture, keys, X, Y[:, 0], poison, RIDGE, PROBES, **options)
        for options in ({}, {"gradient_penalty": 0.0})
    ]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), *pair))


@pytest.mark.slow
def test_a_traced_zero_is_no_penalty():
    network = draw()
    plain = train(network, X, Y[:, 0], RIDGE, training=TIGHT).outputs(PROBES)
    traced = jax.jit(
        lambda gamma: train(network, X, Y[:, 0], RIDGE, gradient_penalty=gamma, training=TIGHT).outputs(PROBES)
    )
    np.testing.assert_allclose(traced(0.0), plain, atol=WITHIN)


@pytest.mark.slow
def test_penalties_are_one_program_under_vmap():
    network = draw()

    def run(gamma):
        trained = train(network, X, Y[:, 0], RIDGE, gradient_penalty=gamma, training=TIGHT, throw=False)
        return trained.outputs(PROBES), trained.converged

    gammas = np.array([0.1, 1.0])
    outputs, converged = jax.jit(jax.vmap(run))(gammas)
    assert bool(jnp.all(converged))
    for index, gamma in enumerate(gammas):
        expected = train(network, X, Y[:, 0], RIDGE, gradient_penalty=gamma, training=TIGHT)
        np.testing.assert_allclose(outputs[index], expected.outputs(PROBES), atol=WITHIN)


@pytest.mark.slow
def test_objective_is_differentiable_in_penalty_and_metric():
    network = draw(width=4)
    data = (jnp.asarray(POINTS), jnp.asarray(TARGETS), jnp.asarray(WEIGHTS), jnp.asarray(9.0), jnp.asarray(RIDGE))
    shift = jax.tree.map(lambda leaf: 0.1 * leaf, network.parameters)

    def objective(gamma, metric):
        return centred_objective(network, *data, Penalty(gamma, metric))(shift)

    # At γ = 0 and at equal eigenvalues, where a root of γM could not be differentiated.
    one = jnp.asarray(1.0)
    in_gamma, in_metric = jax.grad(objective, (0, 1))(0 * one, jnp.eye(D))
    np.testing.assert_allclose(in_gamma, objective(one, jnp.eye(D)) - objective(0 * one, jnp.eye(D)), rtol=1e-12)
    np.testing.assert_allclose(in_metric, 0, atol=0)
    in_metric = jax.grad(objective, 1)(one, jnp.eye(D))
    np.testing.assert_allclose(jnp.trace(in_metric), in_gamma, rtol=1e-12)


@pytest.mark.slow
def test_ensemble_is_a_loop_over_pairs():
    network, poison = draw(seed=5), kp.Poison(ZETA, float(LABEL[0]), COUNT)
    options = {"gradient_penalty": GAMMA, "metric": METRICS["full"], "training": TIGHT}
    keys = jax.random.key(5)[None]
    found = ensemble(network.architecture, keys, X, Y[:, 0], poison, RIDGE, PROBES, **options)
    before, after = train_pair(network, X, Y[:, 0], poison, RIDGE, **options)
    np.testing.assert_allclose(found.clean[0], before.outputs(PROBES), atol=WITHIN)
    np.testing.assert_allclose(found.efficacy[0], after.outputs(PROBES) - before.outputs(PROBES), atol=WITHIN)
    slopes = jax.vmap(jax.grad(lambda x: after(x) - before(x)))(jnp.asarray(PROBES))
    np.testing.assert_allclose(found.gradient[0], slopes, atol=WITHIN)
    assert bool(jnp.all(found.converged))


@pytest.mark.slow
def test_float32():
    network = draw()
    single = in_float32(network)
    options = {"gradient_penalty": GAMMA, "metric": METRICS["full"]}
    double = train(network, X, Y[:, 0], RIDGE, **options).outputs(PROBES)
    trained = train(single, X.astype(np.float32), Y[:, 0].astype(np.float32), RIDGE, **options)
    assert trained.outputs(PROBES).dtype == trained.gradient_norm.dtype == np.float32
    assert float(trained.gradient_norm) <= 1e-5
    # A relative gradient norm of 1e-5 over a smallest curvature of λ.
    np.testing.assert_allclose(trained.outputs(PROBES), double, atol=1e-5 / RIDGE)


@pytest.mark.slow
def test_an_unconverged_penalised_run_is_an_error():
    with pytest.raises(UnconvergedError, match="after 3 of at most 3"):
        train(draw(), X, Y[:, 0], RIDGE, gradient_penalty=GAMMA, training=Training(max_steps=3))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("rounding", [0, 0.03])
def test_a_kink_is_refused(activation, rounding):
    architecture = Architecture(4, 1, activation, rounding=rounding)
    network, poison = architecture.initialise(jax.random.key(0), D), kp.Poison(ZETA, 1.0, 1.0)
    keys = jax.random.split(jax.random.key(0))
    for call in (
        lambda: train(network, X, Y[:, 0], RIDGE, gradient_penalty=0.1),
        lambda: train_pair(network, X, Y[:, 0], poison, RIDGE, gradient_penalty=0.1),
        lambda: ensemble(architecture, keys, X, Y[:, 0], poison, RIDGE, PROBES, gradient_penalty=0.1),
        lambda: jax.jit(lambda g: train(network, X, Y[:, 0], RIDGE, gradient_penalty=g).outputs(X))(0.1),
    ):
        with pytest.raises(ValueError, match="has a kink"):
            call()
    # Without a penalty it trains.
    assert jax.eval_shape(lambda: train(network, X, Y[:, 0], RIDGE, throw=False)).steps.shape == ()


BAD = {
    "penalty negative": ({"gradient_penalty": -0.1}, "gradient_penalty must be finite and >= 0, got -0.1"),
    "penalty nan": ({"gradient_penalty": np.nan}, "gradient_penalty must be finite and >= 0"),
    "metric of other inputs": ({"gradient_penalty": 0.1, "metric": np.eye(D + 1)}, "metric must have shape"),
    "metric of one axis": ({"gradient_penalty": 0.1, "metric": np.ones(D)}, "metric must have shape"),
    "metric not finite": ({"gradient_penalty": 0.1, "metric": np.full((D, D), np.inf)}, "metric must be finite"),
    "metric indefinite": ({"gradient_penalty": 0.1, "metric": -np.eye(D)}, "metric must be positive semi-definite"),
    "metric not symmetric": ({"gradient_penalty": 0.1, "metric": np.triu(np.ones((D, D)))}, "metric must be symmetric"),
    "metric without a penalty": ({"metric": np.eye(D + 1)}, "metric must have shape"),
}


@pytest.mark.parametrize("function", ["train", "train_pair", "ensemble"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, function):
    options, message = BAD[case]
    network, poison = draw(width=4), kp.Poison(ZETA, 1.0, 1.0)
    keys = jax.random.split(jax.random.key(0))
    call = {
        "train": lambda: train(network, X, Y[:, 0], RIDGE, **options),
        "train_pair": lambda: train_pair(network, X, Y[:, 0], poison, RIDGE, **options),
        "ensemble": lambda: ensemble(network.architecture, keys, X, Y[:, 0], poison, RIDGE, PROBES, **options),
    }[function]
    with pytest.raises(ValueError, match=message):
        call()


def test_the_final_network_is_the_initial_one_shifted():
    network = draw()
    shift = jax.tree.map(jnp.ones_like, network.parameters)
    moved = shifted(network, shift)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b + 1)), moved.parameters, network.parameters))
