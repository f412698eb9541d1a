"""Federations: rounds by hand, rules against brute force, closed forms, and Sybils as the gain law's multiplicity."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import kpoison as kp
from kpoison.attacks import (
    ALittleIsEnough,
    Clients,
    CoordinateMedian,
    FixedUpdates,
    GaussianUpdates,
    GeometricMedian,
    GuaranteeVoidWarning,
    Krum,
    Mean,
    ModelReplacement,
    SignFlip,
    TrimmedMean,
    federate,
    mean_aggregated,
    shared_features,
    sybil,
)

EPS32 = float(np.finfo(np.float32).eps)
RNG = np.random.default_rng(5)
ROBUST = [CoordinateMedian(), TrimmedMean(2), Krum(2), Krum(2, selected=3), GeometricMedian()]
# Two clients with one and two examples of their own feature; λ = 1/2.
SMALL = Clients([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])], [np.array([2.0]), np.array([1.0, 3.0])])


def uneven(dtype=np.float64, outputs=(2,)):
    """Three clients with 2, 5 and 3 examples of 4 features."""
    features = [RNG.normal(size=(n, 4)).astype(dtype) for n in (2, 5, 3)]
    return Clients(features, [RNG.normal(size=(n, *outputs)).astype(dtype) for n in (2, 5, 3)])


def test_rounds_by_hand():
    # Gradients at 0 are (−2, 0) and (0, −2), so updates (1, 0) and (0, 1) with weights 1/3 and 2/3; at (1/3, 2/3)
    # they are (−3/2, 1/3) and (1/6, −1).
    found = federate(SMALL, 0.5, rounds=2, step_size=0.5, probes=np.eye(2))
    np.testing.assert_allclose(found.predictions, [[1 / 3, 2 / 3], [19 / 36, 17 / 18]], rtol=1e-14)
    np.testing.assert_allclose(found.parameters, [19 / 36, 17 / 18], rtol=1e-14)
    np.testing.assert_allclose(found.movement, np.sqrt([5 / 9, (7 / 36) ** 2 + (5 / 18) ** 2]), rtol=1e-14)
    # Own minimisers (4/3, 0) and (0, 4/3).
    exact = federate(SMALL, 0.5, rounds=1, local_steps=None)
    np.testing.assert_allclose(exact.parameters, [4 / 9, 8 / 9], rtol=1e-14)
    # Two local steps: (1, 0) − ½(−1 + ½, 0) = (5/4, 0), likewise the other.
    twice = federate(SMALL, 0.5, rounds=1, step_size=0.5, local_steps=2)
    np.testing.assert_allclose(twice.parameters, [5 / 12, 5 / 6], rtol=1e-14)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (SignFlip(2.0), [1 / 3, -4 / 3]),
        (ModelReplacement(np.array([5.0, 5.0])), [1 / 3 + 5, 5]),
        (ModelReplacement(np.array([5.0, 5.0]), boost=3), [1 / 3 + 10, 10]),
        (FixedUpdates(np.array([-3.0, 9.0])), [1 / 3 - 2, 6]),
    ],
)
def test_attacks_by_hand(attack, expected):
    found = federate(SMALL, 0.5, rounds=1, step_size=0.5, attack=attack, malicious=[1])
    np.testing.assert_allclose(found.parameters, expected, rtol=1e-14)
    assert found.guarantee_void
    assert found.malicious == (1,)


def test_a_little_is_enough_is_what_the_paper_says():
    # 5 clients, 2 of them malicious: 1 supporter to win, Φ(z) = (5 − 2 − 1)/(5 − 2).
    updates = RNG.normal(size=(5, 3))
    malicious = np.array([False, True, False, False, True])
    rest = jnp.full(5, 0.2), jnp.zeros(3), jax.random.key(0)
    z = scipy.stats.norm.ppf(2 / 3)
    for omniscient, seen in ((True, updates[~malicious]), (False, updates[malicious])):
        sent = ALittleIsEnough(omniscient=omniscient)(jnp.asarray(updates), malicious, *rest)
        np.testing.assert_allclose(sent[1], seen.mean(0) - z * seen.std(0), rtol=1e-12)
        np.testing.assert_array_equal(sent[~malicious], updates[~malicious])


def test_gaussian_updates_are_drawn_anew_and_can_be_repeated():
    def parameters(rounds, seed):
        options = {"attack": GaussianUpdates(1e3), "malicious": [0, 1], "rounds": rounds, "seed": seed}
        return np.asarray(federate(SMALL, 0.5, step_size=0.5, **options).parameters)

    first, second = parameters(1, 0), parameters(2, 0)
    np.testing.assert_array_equal(first, parameters(1, 0))
    assert np.linalg.norm(first - parameters(1, 1)) > 1
    assert np.linalg.norm(second - 2 * first) > 1
    assert 10 < np.linalg.norm(first) < 1e4


def krum(updates, byzantine, selected):
    number = len(updates)
    scores = []
    for i in range(number):
        distances = sorted(np.sum((updates[i] - updates[j]) ** 2) for j in range(number) if j != i)
        scores.append(sum(distances[: number - byzantine - 2]))
    return updates[np.argsort(scores, kind="stable")[:selected]].mean(0)


@pytest.mark.slow
def test_rules_against_brute_force():
    for number in (7, 8):
        updates = RNG.normal(size=(number, 4))
        for rule, expected in [
            (CoordinateMedian(), np.median(updates, 0)),
            (TrimmedMean(0), updates.mean(0)),
            (TrimmedMean(2), scipy.stats.trim_mean(updates, 2 / number, 0)),
            (Krum(2), krum(updates, 2, 1)),
            (Krum(1, selected=3), krum(updates, 1, 3)),
        ]:
            np.testing.assert_allclose(rule(updates), expected, rtol=1e-13)
    weights = np.array([1.0, 2.0, 0.0, 3.0])
    np.testing.assert_allclose(Mean()(updates[:4], weights), np.average(updates[:4], 0, weights), rtol=1e-13)


def test_krum_by_hand():
    # Sums of the two smallest squared distances: 1 + 9, 1 + 4, 2.25 + 4, 2.25 + 12.25, and a lot.
    updates = np.array([[0.0], [1.0], [3.0], [4.5], [100.0]])
    assert Krum(1)(updates).item() == 1
    assert Krum(1, selected=2)(updates).item() == 2


@pytest.mark.slow
def test_geometric_median_is_the_minimum():
    for number, weights in ((6, np.ones(6)), (9, RNG.uniform(0.1, 2, 9))):
        updates = RNG.normal(size=(number, 3)) * 5

        def total(z, updates=updates, weights=weights):
            return np.sum(weights * np.linalg.norm(updates - z, axis=1))

        found = np.asarray(GeometricMedian()(updates, weights))
        best = scipy.optimize.minimize(
            total, updates.mean(0), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 0}
        )
        # The objective is flat at its minimum: the simplex knows the place to the root of its resolution.
        np.testing.assert_allclose(found, best.x, atol=1e-6)
        assert total(found) <= best.fun * (1 + 1e-15)


@pytest.mark.slow
def test_geometric_median_at_an_update():
    # The pull of the corners on the centre is 0; three quarters of the weight at one place hold it there.
    square = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(GeometricMedian()(square), [0, 0])
    np.testing.assert_array_equal(GeometricMedian()(square, np.array([6.0, 1.0, 1.0, 0.0, 0.0])), [1, 1])
    np.testing.assert_array_equal(GeometricMedian()(np.ones((3, 2))), [1, 1])
    with pytest.raises(ValueError, match="not converged in max_iterations = 1"):
        GeometricMedian(max_iterations=1)(RNG.normal(size=(6, 3)))


@pytest.mark.slow
def test_derivatives_of_the_geometric_median():
    updates, weights, one = RNG.normal(size=(6, 3)), RNG.uniform(1, 2, 6), RNG.normal(size=3)

    def component(updates, weights):
        return one @ GeometricMedian(1e-13)(updates, weights)

    slopes = jax.jit(jax.grad(component, (0, 1)))(updates, weights)
    moves = RNG.normal(size=(6, 3)), RNG.normal(size=6)
    ends = [component(updates + h * moves[0], weights + h * moves[1]) for h in (1e-5, -1e-5)]
    expected = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(sum(np.sum(a * b) for a, b in zip(slopes, moves, strict=True)), expected, rtol=1e-7)
    # Held by most of the weight: the median moves with that update, and with nothing else.
    held = jax.grad(component, (0, 1))(updates, np.array([9.0, 1.0, 1.0, 1.0, 1.0, 1.0]))
    np.testing.assert_allclose(held[0], np.outer([1, 0, 0, 0, 0, 0], one), atol=1e-14)
    np.testing.assert_array_equal(held[1], 0)


@pytest.mark.parametrize("rule", ROBUST, ids=lambda rule: type(rule).__name__)
def test_what_liars_can_do_to_a_rule_is_bounded(rule):
    # Two of seven, wherever they are: the result stays within reach of the honest updates.
    honest = RNG.normal(size=(5, 3))
    reach = 2 * np.max(np.linalg.norm(honest[:, None] - honest[None], axis=2))
    for size in (1.0, 1e2, 1e6):
        found = np.asarray(rule(np.concatenate([honest, honest[:1] + size * RNG.normal(size=(2, 3))])))
        assert np.linalg.norm(found - honest.mean(0)) < reach
    assert rule.tolerates(7) >= 2
    far = np.linalg.norm(Mean()(np.concatenate([honest, np.full((2, 3), 1e6)])))
    assert far > 1e5


@pytest.mark.slow
def test_a_void_guarantee_is_said():
    clients = Clients([np.ones((1, 1))] * 5, [np.ones(1)] * 5)
    attack = FixedUpdates(np.array([1e3]))
    for rule, enough in ((CoordinateMedian(), 2), (TrimmedMean(1), 1), (Krum(1), 1), (GeometricMedian(), 2)):
        held = federate(clients, 1.0, aggregator=rule, rounds=1, attack=attack, malicious=range(enough))
        assert not held.guarantee_void
        assert held.tolerated == enough
        with pytest.warns(GuaranteeVoidWarning, match=f"{type(rule).__name__} is void: {enough + 1} of 5"):
            moved = federate(clients, 1.0, aggregator=rule, rounds=1, attack=attack, malicious=range(enough + 1))
        assert moved.guarantee_void
    assert Krum(1, selected=3).tolerates(5) == 0
    # A client that claims half of the examples is a majority for a weighted rule.
    heavy = Clients([np.ones((2, 1)), np.ones((1, 1)), np.ones((1, 1))], [np.ones(2), np.ones(1), np.ones(1)])
    with pytest.warns(GuaranteeVoidWarning):
        federate(heavy, 1.0, aggregator=GeometricMedian(), rounds=1, attack=attack, malicious=[0])


@pytest.mark.slow
@pytest.mark.parametrize("local_steps", [1, 3, None])
def test_closed_form_is_the_rounds(local_steps):
    clients, start = uneven(), RNG.normal(size=(4, 2))
    options = {"local_steps": local_steps, "start": start}
    path = federate(clients, 0.1, rounds=13, probes=np.eye(4), **options).predictions
    for t in (1, 2, 6, 13):
        np.testing.assert_allclose(path[t - 1], mean_aggregated(clients, 0.1, t, **options), rtol=0, atol=1e-13)
    np.testing.assert_array_equal(mean_aggregated(clients, 0.1, 0, **options), start)
    end = mean_aggregated(clients, 0.1, None, local_steps=local_steps)
    after = mean_aggregated(clients, 0.1, 1, local_steps=local_steps, start=end)
    np.testing.assert_allclose(after, end, rtol=0, atol=1e-13)
    np.testing.assert_allclose(mean_aggregated(clients, 0.1, 10_000, **options), end, rtol=0, atol=1e-12)
    assert np.linalg.norm(end) > 0.1


@pytest.mark.slow
def test_fixed_point_of_the_mean_is_the_ridge_predictor():
    kernel, sizes = kp.kernels.RBF(1.3), (3, 7, 2)
    inputs = [RNG.normal(size=(n, 2)) for n in sizes]
    targets = [RNG.normal(size=n) for n in sizes]
    probes = RNG.normal(size=(4, 2))
    *own, wanted = shared_features(kernel, [*inputs, probes])
    theta = mean_aggregated(Clients(own, targets), 0.01, None)
    clean = kp.fit(kernel, np.concatenate(inputs), np.concatenate(targets))
    np.testing.assert_allclose(wanted @ theta, kp.predict(clean, probes, 0.01), rtol=0, atol=1e-10)


CLONES = kp.Poison(np.array([0.5, 0.5]), -2.0, 4)
CLUSTER = kp.Poison(np.array([[0.5, 0.5], [1.0, -1.0]]), np.array([-2.0, 1.0]), np.array([1, 3]))


@pytest.mark.slow
@pytest.mark.parametrize(("poison", "outputs"), [(CLONES, ()), (CLUSTER, (2,))], ids=["clones", "cluster"])
def test_sybils_are_the_laws_multiplicity(poison, outputs):
    kernel, ridge = kp.kernels.RBF(1.3), 0.05
    inputs = [RNG.normal(size=(n, 2)) for n in (4, 6)]
    targets = [RNG.normal(size=(n, *outputs)) for n in (4, 6)]
    probes = RNG.normal(size=(3, 2))
    attack = sybil(kernel, inputs, targets, poison, probes, ridge, rounds=3000)
    clean = kp.fit(kernel, np.concatenate(inputs), np.concatenate(targets))
    together, law = kp.predict(clean, probes, ridge, poison), kp.efficacy(clean, poison, probes, ridge)
    found = shared_features(kernel, [*inputs, np.asarray(poison.location).reshape(-1, 2), probes])[-1]
    fixed = found @ mean_aggregated(attack.clients, ridge, None)
    np.testing.assert_allclose(fixed, together, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(attack.data.efficacy, law)
    np.testing.assert_allclose(attack.simulated, attack.closed_form, rtol=0, atol=1e-11)
    np.testing.assert_allclose(attack.simulated, law, rtol=0, atol=1e-8)
    assert np.max(np.abs(law)) > 0.1
    assert attack.data.X.shape == (14, 2)
    assert attack.data.is_poison.sum() == 4
    refit = kp.predict(kp.fit(kernel, attack.data.X, attack.data.y), probes, ridge)
    np.testing.assert_allclose(refit, together, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_a_median_of_clients_ignores_few_sybils():
    X = RNG.normal(size=(5, 4, 2))
    poison = kp.Poison(np.zeros(2), -1.0, 2)
    arguments = (kp.kernels.RBF(1.0), list(X), list(np.ones((5, 4))), poison, np.zeros((1, 2)), 0.1)
    held = sybil(*arguments, aggregator=GeometricMedian(), rounds=200)
    mean = sybil(*arguments, rounds=200)
    assert not held.federation.guarantee_void
    assert held.simulated.item() > 0.5 * mean.simulated.item() < 0


@pytest.mark.slow
def test_rotating_the_features_changes_coordinate_rules_only():
    clients = uneven()
    rotation = scipy.stats.ortho_group.rvs(4, random_state=0)
    turned = Clients([f[:n] @ rotation for f, n in zip(clients.features, clients.counts, strict=True)],
                     [t[:n] for t, n in zip(clients.targets, clients.counts, strict=True)])  # fmt: skip
    for rule, invariant in ((Mean(), True), (GeometricMedian(), True), (Krum(0), True), (CoordinateMedian(), False)):
        options = {"aggregator": rule, "rounds": 5, "step_size": 0.1}
        here, there = federate(clients, 0.1, **options), federate(turned, 0.1, **options)
        difference = np.max(np.abs(rotation @ there.parameters - here.parameters))
        assert (difference < 1e-7) == invariant


@pytest.mark.slow
def test_derivatives():
    clients = uneven(outputs=())

    def simulated(targets, ridge, aggregator):
        like = Clients(list(clients.features), list(targets))
        return jnp.sum(federate(like, ridge, rounds=7, step_size=0.1, aggregator=aggregator).parameters ** 2)

    def closed(targets, ridge):
        like = Clients(list(clients.features), list(targets))
        return jnp.sum(mean_aggregated(like, ridge, 7, step_size=0.1) ** 2)

    arguments = clients.targets[..., 0], 0.3
    gradient = jax.jit(jax.grad(lambda *numbers: simulated(*numbers, Mean()), (0, 1)))
    for found, expected in zip(gradient(*arguments), jax.grad(closed, (0, 1))(*arguments), strict=True):
        # Of sums in which terms cancel rounding is that of the terms.
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13 * np.max(np.abs(expected)))
    for rule in (CoordinateMedian(), Krum(0), GeometricMedian(1e-12)):
        slope = jax.grad(simulated, 1)(*arguments, rule)
        ends = [simulated(arguments[0], arguments[1] + step, rule) for step in (1e-5, -1e-5)]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("rule", [Mean(), *ROBUST], ids=lambda rule: type(rule).__name__)
def test_rules_under_jit_vmap_and_float32(rule):
    batch = RNG.normal(size=(3, 7, 4)).astype(np.float32)
    together = jax.jit(jax.vmap(rule))(batch)
    assert together.dtype == np.float32
    for updates, found in zip(batch.astype(float), together, strict=True):
        if isinstance(rule, GeometricMedian):
            # It stops at a subgradient of √eps, to the rounding of the seven units that are summed.
            shifts = np.asarray(found, float) - updates
            subgradient = np.mean(shifts / np.linalg.norm(shifts, axis=1, keepdims=True), axis=0)
            assert np.linalg.norm(subgradient) <= EPS32**0.5 + 100 * EPS32
        else:
            np.testing.assert_allclose(found, rule(updates), atol=1e-6)


@pytest.mark.slow
def test_float32():
    clients = uneven(np.float32)
    found = federate(clients, 0.1, rounds=20, attack=SignFlip(0.5), malicious=[2])
    assert found.parameters.dtype == np.float32
    double = Clients(
        [np.asarray(f[:n], float) for f, n in zip(clients.features, clients.counts, strict=True)],
        [np.asarray(t[:n], float) for t, n in zip(clients.targets, clients.counts, strict=True)],
    )
    exact = federate(double, 0.1, rounds=20, attack=SignFlip(0.5), malicious=[2])
    np.testing.assert_allclose(found.parameters, exact.parameters, atol=1e-5)


POISON, HALF = (kp.Poison(np.zeros(1), 1.0, count) for count in (2, 1.5))
ONE = [np.ones((1, 1))]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Krum(2)(np.ones((6, 1))), ValueError, "K >= 2 byzantine"),
        (lambda: Krum(1, selected=6)(np.ones((5, 1))), ValueError, "selected must be at most"),
        (lambda: Krum(-1), ValueError, "byzantine must be an integer"),
        (lambda: TrimmedMean(2)(np.ones((4, 1))), ValueError, "trim must be less than half of the 4"),
        (lambda: TrimmedMean(-1), ValueError, "trim must be an integer"),
        (lambda: GeometricMedian(0.0), ValueError, "tolerance must be finite and > 0"),
        (lambda: Mean()(np.array([[np.nan]])), ValueError, "updates must be finite"),
        (lambda: Mean()(np.ones(3)), ValueError, "updates must have shape"),
        (lambda: Mean()(np.ones((2, 1)), np.zeros(2)), ValueError, "weights must be >= 0, and one"),
        (lambda: Mean()(np.ones((2, 1)), np.ones(3)), ValueError, "weights must have shape"),
        (lambda: Clients([], []), ValueError, "one array for each client"),
        (lambda: Clients([np.ones((0, 2))], [np.ones(0)]), ValueError, r"features\[0\] must not be empty"),
        (lambda: Clients([np.ones((2, 1)), np.ones((2, 3))], [np.ones(2)] * 2), ValueError, r"features\[1\]"),
        (lambda: Clients([np.ones((2, 1))], [np.ones(3)]), ValueError, r"targets\[0\] must have shape \(2,\)"),
        (lambda: federate(SMALL, 0.0), ValueError, "ridge must be finite and > 0"),
        (lambda: federate(SMALL, 1.0, rounds=0), ValueError, "rounds must be an integer >= 1"),
        (lambda: federate(SMALL, 1.0, malicious=[2]), ValueError, "different clients of 0..1"),
        (lambda: federate(SMALL, 1.0, attack=SignFlip()), ValueError, "malicious must name"),
        (lambda: federate(SMALL, 1.0, aggregator=Krum(1)), ValueError, "byzantine must be at most"),
        (lambda: federate(SMALL, 1.0, start=np.ones(3)), ValueError, r"start must have shape \(2,\)"),
        (lambda: federate(SMALL, 1.0, probes=np.ones((1, 3))), ValueError, "probes must hold points"),
        (
            lambda: federate(SMALL, 1.0, attack=ModelReplacement(np.ones(3)), malicious=[0]),
            ValueError,
            "target must have the model's 2",
        ),
        (
            lambda: federate(SMALL, 1.0, attack=ALittleIsEnough(), malicious=[0]),
            ValueError,
            "at least two honest clients",
        ),
        (lambda: ALittleIsEnough.check(ALittleIsEnough(), np.arange(5) < 3, 1), ValueError, "deviations must be given"),
        (lambda: federate(SMALL, 1.0, step_size=1e3, rounds=1000), Exception, "updates must be finite"),
        (lambda: mean_aggregated(SMALL, 1.0, None, step_size=10.0), Exception, "step_size must be smaller"),
        (lambda: mean_aggregated(SMALL, 1.0, -1), ValueError, "rounds must be an integer >= 0"),
        (
            lambda: sybil(
                kp.kernels.RBF(1.0), ONE, [np.ones(1)], kp.Poison(np.zeros(1), 1.0, 1.5), np.ones((1, 1)), 1.0
            ),
            ValueError,
            "poison.count must be whole",
        ),
        (
            lambda: sybil(kp.kernels.RBF(1.0), ONE, [], POISON, np.ones((1, 1)), 1.0),
            ValueError,
            "one array for each client",
        ),
        (lambda: shared_features(kp.kernels.RBF(1.0), []), ValueError, "at least one set"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
def test_every_tolerated_set_of_liars_is_counted_the_same():
    # Which clients lie makes no difference to a rule that counts each once.
    clients = Clients([np.ones((1, 1))] * 5, [np.full(1, float(k)) for k in range(5)])
    for liars in itertools.combinations(range(5), 2):
        found = federate(clients, 1.0, aggregator=CoordinateMedian(), rounds=1, malicious=liars)
        assert (found.tolerated, found.guarantee_void) == (2, False)
