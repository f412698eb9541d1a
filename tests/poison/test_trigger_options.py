"""Triggers by name and options: what the commands make of them, for every data set."""

import numpy as np
import pytest

import kpoison as kp
from kpoison.experiments.problem import make_problem
from kpoison.matrix.attacks import ATTACKS
from kpoison.matrix.problem import Settings
from kpoison.matrix.problem import make_problem as make_matrix_problem
from kpoison.problems import IMAGE_SHAPES, TRIGGERS, TriggerArguments, make_trigger


@pytest.mark.parametrize(
    "shape",
    [pytest.param(s, marks=pytest.mark.slow if s[0] > 8 else ()) for s in dict.fromkeys(IMAGE_SHAPES.values())],
    ids=str,
)
@pytest.mark.parametrize("name", TRIGGERS)
def test_the_defaults_fit_every_image(name, shape):
    images = np.random.default_rng(1).random((2, *shape))
    made = [make_trigger(TriggerArguments(trigger=name), shape, seed=seed) for seed in (0, 1)]
    for trigger in made:
        found = np.asarray(trigger(images))
        assert np.all((found >= 0) & (found <= 1))
        assert np.all(np.any(found != images, axis=(1, 2, 3)))
    drawn = name in ("blend", "warp")
    assert drawn == (not np.array_equal(made[0](images), made[1](images)))


def test_the_warp_of_every_seed_fits():
    """Of the smallest images, where its default is nearest to what leaves them."""
    for seed in range(20):
        make_trigger(TriggerArguments(trigger="warp"), (8, 8, 1), seed=seed)


def test_options_are_those_of_the_trigger():
    black = np.zeros((8, 8, 1))
    patch = make_trigger(TriggerArguments(size=1, position=(2, 3), opacity=0.5), (8, 8, 1))
    assert np.argwhere(patch(black)).tolist() == [[2, 3, 0]]
    assert patch(black).max() == 0.5
    assert np.argwhere(make_trigger(TriggerArguments(), (8, 8, 1), margin=1)(black))[0].tolist() == [5, 5, 0]
    cross = make_trigger(TriggerArguments(trigger="additive", amplitude=0.25), (8, 8, 1))
    np.testing.assert_array_equal(cross(black), kp.Additive.cross((8, 8, 1), 0.25, 3, (-3, -3))(black))
    wave = make_trigger(TriggerArguments(trigger="sinusoid", amplitude=0.1, frequency=1.0), (8, 8, 1))
    assert wave(black).max() == pytest.approx(0.1)
    warp = make_trigger(TriggerArguments(trigger="warp", strength=0.1, grid=2), (8, 8, 1), seed=(3, 2))
    assert float(warp.strength) == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "--trigger patch: nothing is left of the images"),
        ({"trigger": "blend", "opacity": 1.0}, "--trigger blend: nothing is left of the images"),
        ({"trigger": "additive", "size": 9}, "--trigger additive: position and size must lie within"),
        ({"trigger": "warp", "strength": -1.0}, "--trigger warp: strength must be finite and >= 0"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_trigger(TriggerArguments(**options), (8, 8, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIGGERS)
def test_problems_of_experiments_and_matrix_take_every_trigger(name):
    problem = make_problem("digits", train=30, test=20, trigger=TriggerArguments(trigger=name), seed=2)
    changed = np.any(problem.triggered != problem.images, axis=(1, 2, 3))
    assert changed.mean() > 0.9
    attack = ATTACKS[name](make_matrix_problem(Settings.checked("digits", 2, "rbf", 60, 20, 0.2, 1e-4, None), 0))
    assert np.all(np.any(np.asarray(attack.victims != attack.untouched), axis=1))
