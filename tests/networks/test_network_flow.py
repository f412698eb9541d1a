"""Gradient flow of networks: against matrix exponentials in features, other solvers, and its end."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
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
from kpoison.networks import (
    Architecture,
    IncompleteFlowError,
    Integration,
    Training,
    ensemble,
    flow_ensemble,
    gradient_flow,
    train,
)
from kpoison.networks.objective import Penalty, centred_objective

TIMES = np.array([0.0, 0.3, 2.0, 15.0])
# A network as small as these has modes slower than λ, of rates down to 0.008.
LATE = np.array([3000.0])
TOLERANCE = 1e-9
# Errors of the steps add up while the flow contracts them: at most as many as there are steps, which are below 100.
WITHIN = 100 * TOLERANCE
FINE = Integration(tolerance=TOLERANCE)
POINTS, TARGETS = np.vstack([X, ZETA]), np.append(Y[:, 0], LABEL[0])
WEIGHTS = np.append(np.ones(N), COUNT)


def kernel_flow(kernel, points, targets, weights, total, gamma, time, x, ridge=RIDGE):
    """T2: c(t) = R Q diag((1 − e^{−(μ/n + λ)t})/(μ + nλ)) Qᵀ R ȳ with one row per physical copy, by NumPy."""
    rows = np.repeat(np.arange(len(points)), np.asarray(weights, int))
    points, targets = jnp.asarray(points[rows]), targets[rows]
    slope = jax.grad(kernel.evaluate, argnums=1)

    @jax.jit
    def blocks(P, Q):
        def pair(p, q):
            return kernel.evaluate(p, q), slope(p, q), jax.jacfwd(slope)(p, q).T

        return jax.vmap(lambda p: jax.vmap(lambda q: pair(p, q))(Q))(P)

    k, first, second = (np.asarray(block) for block in blocks(points, points))
    n, d = points.shape
    mixed = first.reshape(n, n * d)
    K = np.block([[k, mixed], [mixed.T, second.transpose(0, 2, 1, 3).reshape(n * d, n * d)]])
    R = np.append(np.ones(n), np.full(n * d, gamma**0.5))
    mu, Q = np.linalg.eigh(R[:, None] * K * R)
    filtered = -np.expm1(-(mu / total + ridge) * time) / (mu + total * ridge)
    c = R * (Q @ (filtered * (Q.T @ (R * np.append(targets, np.zeros(n * d))))))
    k, first, _ = (np.asarray(block) for block in blocks(jnp.asarray(x), points))
    return np.concatenate([k, first.reshape(len(x), n * d)], axis=1) @ c


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_a_linearised_network_flows_as_the_rkhs_of_its_empirical_ntk(gamma):
    network = draw()
    flow = gradient_flow(
        linearised(network),
        POINTS,
        TARGETS,
        RIDGE,
        TIMES,
        weights=WEIGHTS,
        gradient_penalty=gamma,
        integration=FINE,
    )
    found, kernel = flow.outputs(PROBES), empirical_ntk(network)
    assert found.shape == (len(TIMES), len(PROBES))
    for time, values in zip(TIMES, found, strict=True):
        expected = kernel_flow(kernel, POINTS, TARGETS, WEIGHTS, WEIGHTS.sum(), gamma, time, PROBES)
        np.testing.assert_allclose(values, expected, atol=WITHIN)
    # The times tell from one another, and the last from the end.
    assert np.min(np.ptp(found, axis=0)) > 1e-2
    assert np.max(np.abs(found[-1] - kernel_flow(kernel, POINTS, TARGETS, WEIGHTS, 9, gamma, 1e9, PROBES))) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("outputs", "metric"), [(2, "rank 1"), (5, "full")])
def test_several_outputs_flow_as_matrix_exponentials(outputs, metric):
    network, targets = draw(outputs), RNG.normal(size=(N + 1, outputs))
    options = {"weights": WEIGHTS, "total": 9.5, "gradient_penalty": GAMMA, "metric": METRICS[metric]}
    flow = gradient_flow(linearised(network), POINTS, targets, RIDGE, TIMES, **options, integration=FINE)
    exact = PenalisedFeatures(network, POINTS, targets, WEIGHTS, 9.5, GAMMA, METRICS[metric])
    slopes = jax.vmap(jax.jacrev(flow))(jnp.asarray(PROBES))
    for index, time in enumerate(TIMES):
        np.testing.assert_allclose(flow.outputs(PROBES)[index], exact.outputs(PROBES, time), atol=WITHIN)
        np.testing.assert_allclose(slopes[:, index], exact.gradients(PROBES, time), atol=WITHIN)


@pytest.mark.slow
def test_flows_without_a_ridge():
    network = draw()
    flow = gradient_flow(linearised(network), X, Y[:, 0], 0.0, TIMES, gradient_penalty=GAMMA, integration=FINE)
    for time, values in zip(TIMES, flow.outputs(PROBES), strict=True):
        exact = PenalisedFeatures(network, X, Y[:, 0], np.ones(N), N, GAMMA, None, ridge=0.0)
        # Of parameters without an effect A knows nothing.
        exact.A += 1e-13 * np.eye(len(exact.A))
        np.testing.assert_allclose(values, exact.outputs(PROBES, time)[:, 0], atol=WITHIN)


@pytest.mark.slow
def test_a_network_flows_as_scipy_integrates_it():
    network, metric = draw(width=5, hidden_layers=2), METRICS["full"]
    start, unravel = ravel_pytree(network.parameters)
    data = (jnp.asarray(POINTS), jnp.asarray(TARGETS), jnp.asarray(WEIGHTS), jnp.sum(WEIGHTS), jnp.asarray(RIDGE))
    objective = centred_objective(network, *data, Penalty(jnp.asarray(GAMMA), jnp.asarray(metric)))
    slope = jax.jit(jax.grad(lambda shift: objective(unravel(shift))))
    solution = scipy.integrate.solve_ivp(
        lambda _, shift: -np.asarray(slope(shift)),
        (0, TIMES[-1]),
        np.zeros_like(start),
        method="LSODA",
        t_eval=TIMES,
        rtol=1e-11,
        atol=1e-12,
    )
    options = {"weights": WEIGHTS, "gradient_penalty": GAMMA, "metric": metric}
    flow = gradient_flow(network, POINTS, TARGETS, RIDGE, TIMES, **options, integration=FINE)
    for index in range(len(TIMES)):
        found = ravel_pytree(flow.at(index).final.parameters)[0]
        np.testing.assert_allclose(found - start, solution.y[:, index], atol=WITHIN)
    # Here the network is far from its linearisation.
    exact = PenalisedFeatures(network, POINTS, TARGETS, WEIGHTS, WEIGHTS.sum(), GAMMA, metric)
    assert np.max(np.abs(flow.outputs(PROBES)[-1] - exact.outputs(PROBES, TIMES[-1])[:, 0])) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["erf", "relu"])
def test_the_flow_ends_where_training_does(activation):
    """ReLU has no penalty, but a flow."""
    gamma = GAMMA if activation == "erf" else 0.0
    network = draw(activation=activation)
    last = gradient_flow(network, X, Y[:, 0], RIDGE, LATE, gradient_penalty=gamma).outputs(PROBES)[0]
    training = Training(tolerance=1e-10 if gamma else None)
    expected = train(network, X, Y[:, 0], RIDGE, gradient_penalty=gamma, training=training).outputs(PROBES)
    # A hundred steps of the default tolerance.
    np.testing.assert_allclose(last, expected, atol=1e-4)


@pytest.mark.slow
def test_errors_follow_the_tolerance():
    network = draw()
    exact = PenalisedFeatures(network, POINTS, TARGETS, WEIGHTS, WEIGHTS.sum(), GAMMA, None)
    expected = np.stack([exact.outputs(PROBES, time)[:, 0] for time in TIMES])
    steps = []
    for scale in (1.0, 1e3):  # The tolerance is relative to the targets.
        for tolerance in (1e-3, 1e-5, 1e-7):
            flow = gradient_flow(
                linearised(network),
                POINTS,
                scale * TARGETS,
                RIDGE,
                TIMES,
                weights=WEIGHTS,
                gradient_penalty=GAMMA,
                integration=Integration(tolerance=tolerance),
            )
            assert np.max(np.abs(flow.outputs(PROBES) / scale - expected)) < 100 * tolerance
            steps.append(int(flow.steps))
    assert steps[0] < steps[1] < steps[2]
    assert steps[:3] == steps[3:]


@pytest.mark.slow
def test_nothing_to_learn_and_no_time():
    network = draw()
    # Steps at the edge of stability let rounding grow until their error is seen; an output's slope in θ is below 10.
    tolerance = 1e-15
    still = gradient_flow(
        network, X, 0 * Y[:, 0], RIDGE, TIMES, gradient_penalty=GAMMA, integration=Integration(tolerance=tolerance)
    )
    np.testing.assert_allclose(still.outputs(PROBES), 0, atol=10 * tolerance * int(still.steps))
    assert bool(still.completed)
    start = gradient_flow(network, X, Y[:, 0], RIDGE, np.array([0.0]))
    np.testing.assert_array_equal(start.outputs(PROBES), 0)
    assert bool(start.completed)


@pytest.mark.slow
def test_an_incomplete_flow_is_an_error():
    network, poison = draw(), kp.Poison(ZETA, float(LABEL[0]), COUNT)
    few = Integration(max_steps=3)
    with pytest.raises(IncompleteFlowError, match=r"1 of 1 flows have stopped .* after 3 of at most 3 steps"):
        gradient_flow(network, X, Y[:, 0], RIDGE, TIMES, integration=few)
    keys = jax.random.split(jax.random.key(0))
    with pytest.raises(IncompleteFlowError, match="4 of 4 flows"):
        flow_ensemble(network.architecture, keys, X, Y[:, 0], poison, RIDGE, TIMES, PROBES, integration=few)
    flow = gradient_flow(network, X, Y[:, 0], RIDGE, TIMES, integration=few, throw=False)
    assert not bool(flow.completed)
    assert not bool(jnp.any(jnp.isfinite(flow.outputs(PROBES)[-1])))

    def predict(ridge):
        return gradient_flow(network, X, Y[:, 0], ridge, TIMES, integration=few).outputs(PROBES)

    with pytest.raises(eqx.EquinoxRuntimeError, match="has stopped before the last time"):
        jax.block_until_ready(eqx.filter_jit(predict)(jnp.asarray(RIDGE)))


@pytest.mark.slow
def test_penalties_are_one_program_and_differentiable():
    network = draw(width=4)

    def run(gamma, ridge, times):
        flow = gradient_flow(network, X, Y[:, 0], ridge, times, gradient_penalty=gamma, integration=FINE, throw=False)
        return flow.outputs(PROBES)

    gammas, times = np.array([0.1, 1.0]), jnp.asarray(TIMES[1:3])
    outputs = jax.jit(jax.vmap(run, (0, None, None)))(gammas, RIDGE, times)
    for index, gamma in enumerate(gammas):
        expected = gradient_flow(network, X, Y[:, 0], RIDGE, times, gradient_penalty=gamma, integration=FINE)
        np.testing.assert_allclose(outputs[index], expected.outputs(PROBES), atol=WITHIN)
    slopes = jax.jit(jax.grad(lambda gamma, ridge: jnp.sum(run(gamma, ridge, times)[:, 0]), (0, 1)))(0.1, RIDGE)
    step = 1e-3
    jitted = jax.jit(lambda gamma, ridge: jnp.sum(run(gamma, ridge, times)[:, 0]))
    for slope, shift in zip(slopes, step * np.eye(2), strict=True):
        difference = (jitted(0.1 + shift[0], RIDGE + shift[1]) - jitted(0.1 - shift[0], RIDGE - shift[1])) / (2 * step)
        # Central differences: step² times a third derivative, and the solver's error over the step.
        np.testing.assert_allclose(slope, difference, atol=1e-4)


@pytest.mark.slow
def test_ensemble_is_a_loop_over_pairs():
    network, poison = draw(seed=5), kp.Poison(ZETA, float(LABEL[0]), COUNT)
    options = {"gradient_penalty": GAMMA, "metric": METRICS["full"], "integration": FINE}
    keys = jnp.stack([jax.random.key(5), jax.random.key(6)])
    call = (network.architecture, keys, X, Y[:, 0], poison, RIDGE)
    found = flow_ensemble(*call, TIMES, PROBES, **options)
    assert found.clean.shape == found.spike.shape == (2, len(TIMES), len(PROBES))
    assert found.gradient.shape == (2, len(TIMES), len(PROBES), D)
    clean = np.append(np.ones(N), 0.0)
    before, after = (
        gradient_flow(network, POINTS, TARGETS, RIDGE, TIMES, weights=w, total=N + COUNT, **options)
        for w in (clean, WEIGHTS)
    )
    np.testing.assert_allclose(found.clean[0], before.outputs(PROBES), atol=WITHIN)
    np.testing.assert_allclose(found.efficacy[0], after.outputs(PROBES) - before.outputs(PROBES), atol=WITHIN)
    slopes = jax.vmap(jax.jacrev(lambda x: after(x) - before(x)), out_axes=1)(jnp.asarray(PROBES))
    np.testing.assert_allclose(found.gradient[0], slopes, atol=WITHIN)
    np.testing.assert_allclose(found.spike, np.sum(np.square(found.gradient), axis=-1), rtol=1e-12)
    assert bool(jnp.all(found.completed))
    batched = flow_ensemble(*call, TIMES, PROBES, **options, batch_size=2)
    np.testing.assert_allclose(batched.gradient, found.gradient, atol=WITHIN)
    # At the end it is what training gives.
    trained = ensemble(*call, PROBES, gradient_penalty=GAMMA, metric=METRICS["full"])
    last = flow_ensemble(*call, LATE, PROBES, gradient_penalty=GAMMA, metric=METRICS["full"])
    np.testing.assert_allclose(last.efficacy[:, 0], trained.efficacy, atol=1e-4)


@pytest.mark.slow
def test_the_clean_run_of_an_ensemble_has_the_total_asked_for():
    network, poison = draw(2), kp.Poison(ZETA, LABEL, COUNT)
    keys = jax.random.key(0)[None]
    for reference, total in (("poisoned", N + COUNT), ("clean", N)):
        found = flow_ensemble(
            network.architecture, keys, X, Y, poison, RIDGE, TIMES, PROBES, reference=reference, integration=FINE
        )
        expected = gradient_flow(network, X, Y, RIDGE, TIMES, total=total, integration=FINE)
        np.testing.assert_allclose(found.clean[0], expected.outputs(PROBES), atol=WITHIN)


@pytest.mark.slow
def test_float32():
    network = draw()
    options = {"gradient_penalty": GAMMA, "metric": METRICS["full"]}
    double = gradient_flow(network, X, Y[:, 0], RIDGE, TIMES, **options).outputs(PROBES)
    single = in_float32(network)
    flow = gradient_flow(single, X.astype(np.float32), Y[:, 0].astype(np.float32), RIDGE, TIMES, **options)
    assert flow.outputs(PROBES).dtype == flow.times.dtype == np.float32
    # A hundred steps of the default tolerance.
    np.testing.assert_allclose(flow.outputs(PROBES), double, atol=100 * 1e-5)


BAD = {
    "times negative": ({"times": [-1.0, 2.0]}, r"times must be >= 0, got \[-1.0, 2.0\]"),
    "times falling": ({"times": [2.0, 1.0]}, "times must rise strictly"),
    "times equal": ({"times": [1.0, 1.0]}, "times must rise strictly"),
    "times not finite": ({"times": [1.0, np.inf]}, "times must be finite"),
    "times empty": ({"times": []}, "times must have shape"),
    "times a number": ({"times": 1.0}, "times must have shape"),
    "times of two axes": ({"times": [[1.0]]}, "times must have shape"),
    "ridge negative": ({"ridge": -0.1}, "ridge must be finite and >= 0"),
    "X of other inputs": ({"X": np.ones((N, D + 1))}, "X must have shape"),
    "y too short": ({"y": np.ones(N - 1)}, "y must have shape"),
    "y not finite": ({"y": np.full(N, np.nan)}, "y must be finite"),
    "penalty negative": ({"gradient_penalty": -1.0}, "gradient_penalty must be finite and >= 0"),
    "metric of other inputs": ({"metric": np.eye(D + 1)}, "metric must have shape"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("function", [gradient_flow, flow_ensemble])
def test_bad_input(case, function):
    changes, message = BAD[case]
    if function is flow_ensemble and case == "X of other inputs":
        message = "x must hold points of shape"
    arguments = {"X": X, "y": Y[:, 0], "ridge": RIDGE, "times": TIMES} | changes
    arguments["times"] = np.asarray(arguments["times"]) if isinstance(arguments["times"], list) else arguments["times"]
    if function is gradient_flow:
        first, last = {"network": draw(width=4)}, {}
    else:
        keys = jax.random.split(jax.random.key(0))
        first = {"architecture": Architecture(4, 1, "erf"), "keys": keys}
        last = {"poison": kp.Poison(ZETA, 1.0, 1.0), "x": PROBES}
    with pytest.raises((ValueError, TypeError), match=message):
        function(**first, **arguments, **last)


def test_bad_input_of_ensembles_and_settings():
    poison = kp.Poison(ZETA, 1.0, 1.0)
    call = (Architecture(4, 1, "erf"), jax.random.split(jax.random.key(0)), X, Y[:, 0], poison, RIDGE, TIMES)
    with pytest.raises(ValueError, match="keys must have shape"):
        flow_ensemble(call[0], jax.random.key(0), *call[2:], PROBES)
    with pytest.raises(ValueError, match="reference must be one of"):
        flow_ensemble(*call, PROBES, reference="dirty")
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1"):
        flow_ensemble(*call, PROBES, batch_size=0)
    with pytest.raises(ValueError, match="has a kink"):
        flow_ensemble(Architecture(4), *call[1:], PROBES, gradient_penalty=0.1)
    for name, value in (("tolerance", 0.0), ("max_steps", 0)):
        with pytest.raises(ValueError, match=name):
            Integration(**{name: value})


@pytest.mark.slow
def test_traced_times_are_checked_when_they_run():
    network = draw(width=4)

    @jax.jit
    def last(times):
        return gradient_flow(network, X, Y[:, 0], RIDGE, times).outputs(PROBES)

    with pytest.raises((RuntimeError, ValueError), match="must rise strictly"):
        jax.block_until_ready(last(jnp.array([2.0, 1.0])))


@pytest.mark.slow
def test_without_biases():
    """Parameters with an empty branch flow too; at a late time to where training ends."""
    keys = jax.random.split(jax.random.key(0), 2)
    architecture = Architecture(4, 1, "erf")
    options = {"integration": Integration(tolerance=1e-6)}
    found = flow_ensemble(
        architecture, keys, X, Y[:, 0], kp.Poison(ZETA, LABEL[0], COUNT), RIDGE, TIMES, PROBES, **options
    )
    network = architecture.initialise(keys[0], (D,), None, X.dtype)
    flow = gradient_flow(network, POINTS, TARGETS, RIDGE, TIMES, weights=WEIGHTS, total=N + COUNT, **options)
    np.testing.assert_allclose(found.clean[0] + found.efficacy[0], flow.outputs(PROBES), atol=1e-4)
