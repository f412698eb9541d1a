"""Every rule of a server in float32, from 1e-30 to 1e30: of scaled updates it makes what it makes of them, scaled."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kpoison import attacks

RNG = np.random.default_rng(2)
UPDATES = RNG.normal(size=(11, 4)) + np.arange(11)[:, None] % 3
WEIGHTS = RNG.integers(1, 6, size=11).astype(float)
OPTIONS = {"trim": 2, "byzantine": 2}
POWERS = [-100, -70, -30, 0, 30, 63, 100]  # of 2: scaling is then exact

RULES = {
    name: rule
    for name in attacks.__all__
    if inspect.isclass(rule := getattr(attacks, name))
    and issubclass(rule, attacks.Aggregator)
    and not inspect.isabstract(rule)
}


DEAR = {"GeometricMedian", "Bulyan"}  # homogeneity; what liars do to them is tested at once


def make(name):
    wanted = inspect.signature(RULES[name]).parameters.values()
    return RULES[name](**{p.name: OPTIONS[p.name] for p in wanted if p.default is p.empty})


def test_all_rules_are_here():
    assert len(RULES) >= 6
    assert {rule.__name__ for rule in attacks.Aggregator.__subclasses__()} <= set(RULES)


@pytest.mark.parametrize("name", [pytest.param(r, marks=[pytest.mark.slow] if r in DEAR else []) for r in RULES])
def test_a_rule_is_homogeneous(name):
    rule, rows = make(name), UPDATES.astype(np.float32)
    expected = np.asarray(rule(rows, WEIGHTS), float)
    for power in POWERS:
        scaled = np.asarray(rule(np.ldexp(rows, power), WEIGHTS), float) * 2.0**-power
        np.testing.assert_allclose(scaled, expected, rtol=1e-4, atol=1e-4, err_msg=str(power))
    assert 2.0 ** min(POWERS) < 1e-30
    assert 2.0 ** max(POWERS) > 1e30


@pytest.mark.parametrize("name", RULES)
def test_a_rule_does_not_depend_on_the_unit_of_weights(name):
    rule, rows = make(name), UPDATES.astype(np.float32)
    for power in (-100, 100, 124):  # at 2¹²⁴ their sum is beyond float32
        np.testing.assert_allclose(rule(rows, np.ldexp(WEIGHTS, power)), rule(rows, WEIGHTS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"Mean"}))
@pytest.mark.parametrize("far", [1e10, 1e20, 1e30, -1e30])
def test_a_liar_moves_no_robust_rule_far(name, far):
    rule, rows = make(name), UPDATES.astype(np.float32)
    assert rule.tolerates(len(rows)) >= 1
    for place in (0, 10):
        lied = rows.copy()
        lied[place] = far
        honest = np.delete(rows, place, axis=0)
        found = np.asarray(rule(lied))
        assert np.all(found >= honest.min(axis=0) - 1e-3), (place, found)
        assert np.all(found <= honest.max(axis=0) + 1e-3), (place, found)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e8])
def test_the_median_of_numbers_on_a_line(dtype, scale):
    """One update at 10²⁰ beside 0, 1, 2, 3: the third of five."""
    rows = np.array([[1e20], [0.0], [1.0], [2.0], [3.0]], dtype) * dtype(scale)
    assert float(attacks.GeometricMedian()(rows)[0]) == float(dtype(2) * dtype(scale))


@pytest.mark.slow
@pytest.mark.parametrize(
    "power", [-95, pytest.param(0, marks=pytest.mark.slow), pytest.param(95, marks=pytest.mark.slow)]
)
def test_the_geometric_median_has_its_derivatives_at_every_scale(power):
    rows = np.ldexp(UPDATES.astype(np.float32), power)
    median = attacks.GeometricMedian(tolerance=1e-6)

    def moved(shift):
        return jnp.sum(median(jnp.asarray(rows) + shift * jnp.asarray(np.ldexp(DIRECTION, power))))

    slope = float(jax.jacfwd(moved)(jnp.float32(0.0))) * 2.0**-power
    exact = np.linalg.norm(UPDATES[:, None] - UPDATES[None], axis=2)  # no two updates coincide
    assert exact[~np.eye(len(UPDATES), dtype=bool)].min() > 0
    assert slope == pytest.approx(_slope_in_double(), rel=1e-3)


DIRECTION = RNG.normal(size=UPDATES.shape).astype(np.float32)


def _slope_in_double():
    def moved(shift):
        return jnp.sum(attacks.GeometricMedian(tolerance=1e-12)(jnp.asarray(UPDATES) + shift * jnp.asarray(DIRECTION)))

    step = 1e-5
    return float(moved(step) - moved(-step)) / (2 * step)


def test_rounds_report_their_movement_at_every_scale():
    clients = attacks.Clients([np.full((1, 1), 1.0, np.float32)] * 5, [np.full(1, 1e25, np.float32)] * 5)
    found = attacks.federate(clients, 1.0, aggregator=attacks.Krum(1), rounds=2, step_size=0.25)
    # θ ↦ θ + 0.25 (10²⁵ − 2θ): 0, 0.25, 0.375 of 10²⁵.
    np.testing.assert_allclose(found.movement, [0.25e25, 0.125e25], rtol=1e-6)
