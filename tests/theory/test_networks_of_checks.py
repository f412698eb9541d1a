"""Descent of networks on the checks' own objectives, and what rests on it: right laws hold, wrong ones fail."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import kpoison as kp
from kpoison import networks
from theory_checks import l13_features, t7_degrees_of_freedom, t9_slopes, t11_interpolation
from theory_checks.descending import flow, minimum
from theory_checks.finite_width import FiniteWidth
from theory_checks.setting import Laws, make_setting

GENERATOR = np.random.default_rng(5)
ROOT = GENERATOR.normal(size=(5, 5))
BEND = ROOT @ ROOT.T + np.eye(5)
START = GENERATOR.normal(size=5)


def test_flow_is_the_exponential_of_a_linear_velocity():
    times = np.array([0.0, 0.2, 1.0])
    expected = np.array([scipy.linalg.expm(-time * BEND) @ START for time in times])
    errors = []
    for steps in (20, 40):
        found = flow(lambda x: -jnp.asarray(BEND) @ x, jnp.asarray(START), jnp.asarray(times), lambda x: x, steps)
        errors.append(np.abs(found - expected).max())
    assert errors[1] < 1e-6
    assert 12 < errors[0] / errors[1] < 20  # of fourth order


def test_minimum_is_that_of_a_quadratic_and_says_where_it_is_not_reached():
    values = np.linalg.eigvalsh(BEND)
    expected = np.linalg.solve(BEND, START)

    def found(max_steps):
        gradient = lambda x: jnp.asarray(BEND) @ x - jnp.asarray(START)  # noqa: E731
        return minimum(gradient, jnp.zeros(5), values[-1], values[0], 1e-9, max_steps)

    point, left = found(1000)
    assert left <= 1e-9
    np.testing.assert_allclose(point, expected, rtol=1e-7)
    assert found(3)[1] > 1e-3


@pytest.fixture(scope="module")
def setting():
    """Few networks, each drawn once."""
    made = make_setting("ntk-erf")
    arms = FiniteWidth(made)
    arms.own_seeds = 12
    known = {}

    def drawn(widths, seeds, look):
        key = look.__module__
        if key not in known:
            known[key] = FiniteWidth.drawn(arms, widths, seeds, look)
        return known[key]

    arms.drawn = drawn
    made.__dict__["networks"] = arms
    return made


def off(found):
    """Wrong by 5 %; of functions too."""
    return (lambda x: 1.05 * found(x)) if callable(found) else 1.05 * found


def scaled(name):
    right = getattr(Laws, name)
    return dataclasses.replace(Laws(), **{name: lambda *a, **k: off(right(*a, **k))})


ARMS = {
    "T7": lambda setting, laws: t7_degrees_of_freedom._finite_width(setting.networks, laws)[0],
    "T9": lambda setting, laws: t9_slopes.check(setting, laws).comparisons,
    "T11": lambda setting, laws: t11_interpolation.check(setting, laws).comparisons,
    "L13": lambda setting, laws: l13_features._in_networks(setting.networks, laws)[:1],
}


WIDTHS = {"T7": (64, 256), "T9": (64, 512), "T11": (64, 256), "L13": (64, 512)}
"""The smallest that see 5 %."""


def arm(setting, statement, laws):
    """Whether networks of finite width agree with the laws."""
    setting.networks.own_widths = np.array(WIDTHS[statement])
    compared = [c for c in ARMS[statement](setting, laws) if c.against == "finite width"]
    assert any(c.worst_ratio > 1e-3 for c in compared)
    return all(c.passed for c in compared)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "law"),
    [("T7", "degrees_of_freedom"), ("T9", "slope_contraction"), ("T11", "predict"), ("L13", "predict")],
)
def test_networks_hold_for_the_right_law_and_fail_for_a_wrong_one(setting, monkeypatch, statement, law):
    assert arm(setting, statement, Laws())
    assert not arm(setting, statement, scaled(law))
    if statement == "T11":  # the other half of it is the penalty's flow, which is no law under test
        right = kp.flow.loss_gradient_flow
        monkeypatch.setattr(kp.flow, "loss_gradient_flow", lambda *a, **k: off(right(*a, **k)))
        assert not arm(setting, statement, Laws())


@pytest.mark.slow
def test_degrees_of_freedom_of_a_network_are_the_change_of_its_outputs_with_its_labels():
    arms = FiniteWidth(make_setting("ntk-erf"))
    few = dataclasses.replace(arms.setting, X=arms.setting.X[:3], y=arms.setting.y[:3])
    arms.setting = few
    architecture = networks.Architecture.matching(few.kernel, 12)  # pyright: ignore[reportArgumentType]
    network = architecture.initialise(jax.random.key(3), few.X.shape[1], None, few.X.dtype)
    gamma, step = 0.5, 1e-4

    def outputs(labels):
        options = {"gradient_penalty": gamma, "training": networks.Training(tolerance=1e-10)}
        return networks.train(network, few.X, labels, few.ridge, **options).outputs(few.X)

    change = [(outputs(few.y + step * e) - outputs(few.y - step * e))[i] for i, e in enumerate(np.eye(3))]
    degrees, left, unsolved = jax.jit(
        lambda network: t7_degrees_of_freedom._trained_degrees(arms, network, jnp.asarray(gamma), jnp.asarray(8.0))
    )(network)
    assert max(left, unsolved) < 1e-6
    np.testing.assert_allclose(degrees, sum(change) / (2 * step), rtol=1e-4)
