"""Detectors on classes of clones, of two points and of constant features: never more than the documented share."""

import functools
import inspect
import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison import defences

FRACTION, MULTIPLIER, SHARE = 0.05, 1.5, 0.35


def residuals(features, labels, fraction=FRACTION):
    """Labels as targets, −1 or 1 by class."""
    y = np.where(np.unique(labels, return_inverse=True)[1] % 2, 1.0, -1.0)
    return defences.leave_one_out(kp.fit(kp.kernels.RBF(1.0), features, y), 0.1, fraction=fraction)


# Each detector, and how many of n points of a class (or of all) it may suspect.
DETECTORS = {
    "spectral_signatures": (defences.spectral_signatures, lambda n: math.ceil(Fraction("0.075") * n)),
    "centroid_distance": (defences.centroid_distance, lambda n: math.ceil(Fraction("0.05") * n)),
    "activation_clustering": (defences.activation_clustering, lambda n: math.ceil(Fraction("0.35") * n) - 1),
    "pidan": (functools.partial(defences.pidan, decision="likelihood"), lambda n: (n - 1) // 2),
    "neighbour_disagreement": (functools.partial(defences.neighbour_disagreement, neighbours=1), lambda n: n),
}
RNG = np.random.default_rng(7)


def clones(number, others, dimensions=3):
    return np.concatenate([np.full((number, dimensions), 0.1), RNG.normal(size=(others, dimensions))])


CLASSES = {
    "95 clones and 5 others": clones(95, 5),
    "5 clones far from 95 others": np.concatenate([RNG.normal(size=(95, 3)), np.full((5, 3), 30.0)]),
    "two points": RNG.normal(size=(2, 3)),
    "two equal points": np.full((2, 3), 0.1),
    "one point": RNG.normal(size=(1, 3)),
    "constant features": np.full((40, 3), 0.1),
    "a thousand equal points": np.full((1000, 2), 0.1),
    "two places": np.repeat(RNG.normal(size=(2, 3)), 10, axis=0),
    "two places, unevenly": np.repeat(RNG.normal(size=(2, 3)), [18, 2], axis=0),
    "a square": np.tile([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], (5, 1)),
    "a line": np.linspace(-1, 1, 21)[:, None] * np.ones(2),
    "a cross about many clones": np.concatenate([np.zeros((96, 2)), np.eye(2), -np.eye(2)]),
    "one constant column": np.stack([np.ones(30), RNG.normal(size=30)], axis=1),
    "near clones": 0.1 + 1e-12 * RNG.normal(size=(50, 3)),
}


def detectors():
    return {
        name
        for name in defences.__all__
        if inspect.isfunction(function := getattr(defences, name))
        and inspect.signature(function).return_annotation is defences.Detection
    }


def test_all_detectors_are_here():
    assert detectors() == set(DETECTORS) | {
        "leave_one_out",
        "strip",
        "exclusionary_reclassification",
    }  # these are below


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CLASSES)
@pytest.mark.parametrize("name", DETECTORS)
def test_no_more_than_the_share_is_suspected(name, case, dtype):
    detect, most = DETECTORS[name]
    rows = CLASSES[case].astype(dtype)
    if len(rows) == 1 and name == "neighbour_disagreement":
        pytest.skip("a single point has no neighbours")
    found = detect(rows, np.full(len(rows), 5))
    assert int(np.sum(found.suspected)) <= most(len(rows))
    if np.ptp(rows, axis=0).max() == 0:
        assert not np.any(found.scores)
        assert not np.any(found.suspected)
    if len(rows) == 2:
        assert not np.any(found.suspected)
    # Equal points are suspected together.
    _, which = np.unique(rows, axis=0, return_inverse=True)
    for place in np.unique(which):
        assert len(set(np.asarray(found.suspected)[which.ravel() == place].tolist())) == 1
    np.testing.assert_array_equal(found.suspected, np.asarray(found.scores) > np.asarray(found.threshold))


@pytest.mark.parametrize("name", DETECTORS)
def test_the_order_of_points_does_not_matter(name):
    detect, _ = DETECTORS[name]
    rows = np.concatenate([clones(60, 8), RNG.normal(size=(25, 3)), np.repeat(RNG.normal(size=(4, 3)), 3, axis=0)])
    labels = np.array(["cat"] * 60 + ["dog"] * 20 + ["cow"] * 20 + ["dog"] * 5)
    found = detect(rows, labels)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(rows))
        again = detect(rows[order], labels[order])
        np.testing.assert_array_equal(np.asarray(again.suspected), np.asarray(found.suspected)[order])
        np.testing.assert_allclose(again.scores, np.asarray(found.scores)[order], rtol=1e-9, atol=1e-12)


def test_clones_go_together_where_the_share_allows_it():
    rows = np.concatenate([RNG.normal(size=(95, 3)), np.full((5, 3), 30.0)])
    for fraction, all_of_them in ((0.05, True), (0.02, False)):
        for detect in (defences.spectral_signatures, defences.centroid_distance):
            found = detect(rows, np.zeros(100, int), fraction=fraction)
            assert np.asarray(found.suspected)[95:].tolist() == [all_of_them] * 5, (detect, fraction)
    # The 5 clean points beside 95 clones stand out, and no clone does.
    for detect in (defences.spectral_signatures, defences.centroid_distance):
        found = np.asarray(detect(CLASSES["95 clones and 5 others"], np.zeros(100, int)).suspected)
        assert not found[:95].any()
        assert found.sum() <= 8


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.01, 0.29, 0.07, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("number", [2, 41, 101])
def test_the_number_is_that_of_the_exact_share(share, number):
    from kpoison.defences.detection import thresholds_within_classes, tie_threshold

    scores = np.random.default_rng(number).permutation(number) + 1.0
    allowed = int(Fraction(str(share)) * (number - 1)) + 1  # ⌊0.29 · 100⌋ is 29
    for dtype in (np.float64, np.float32):
        own = scores.astype(dtype)
        assert int(np.sum(own > tie_threshold(own, share))) == allowed
        traced = thresholds_within_classes(jnp.asarray(own), jnp.zeros(number, int), share)
        assert int(np.sum(own > np.asarray(traced))) == allowed
    equal = np.ones(number)
    assert not np.any(equal > tie_threshold(equal, share))
    assert not np.any(equal > np.asarray(thresholds_within_classes(jnp.asarray(equal), jnp.zeros(number, int), share)))


@pytest.mark.parametrize("case", ["two points", "two places", "a square", "a line", "constant features"])
def test_residuals_of_clones(case):
    rows = CLASSES[case]
    labels = np.arange(len(rows)) // 2 % 2 if len(rows) > 2 else np.arange(2)
    found = residuals(rows, labels)
    assert int(np.sum(found.suspected)) <= math.ceil(Fraction("0.05") * len(rows))
    order = np.random.default_rng(1).permutation(len(rows))
    again = residuals(rows[order], labels[order])
    np.testing.assert_array_equal(np.asarray(again.suspected), np.asarray(found.suspected)[order])


def test_clusters_are_judged_together_in_any_order():
    rows = np.concatenate([RNG.normal(size=(30, 2)), RNG.normal(size=(30, 2)) + 3, np.full((6, 2), 3.0)])
    labels, suspected = np.repeat([-1.0, 1.0, -1.0], [30, 30, 6]), np.arange(66) >= 60

    def detect(order):
        fitted = kp.fit(kp.kernels.RBF(1.0), rows[order], labels[order])
        return defences.exclusionary_reclassification(fitted, suspected[order], 0.01)

    found, order = detect(np.arange(66)), RNG.permutation(66)
    np.testing.assert_array_equal(found.suspected, suspected)
    np.testing.assert_array_equal(detect(order).scores, np.asarray(found.scores)[order])


@pytest.mark.slow
def test_inputs_under_overlays_do_not_depend_on_their_order():
    x, clean = RNG.normal(size=(12, 3)), RNG.normal(size=(20, 3))
    x[5] = x[2]  # clones

    def f(points):
        return jnp.tanh(points @ jnp.array([1.0, -2.0, 0.5]))

    found = defences.strip(f, x, clean, overlays=15, false_rejection=0.2)
    assert found.scores[5] == found.scores[2]
    order, other = RNG.permutation(12), RNG.permutation(20)
    again = defences.strip(f, x[order], clean[other], overlays=15, false_rejection=0.2)
    np.testing.assert_allclose(again.scores, np.asarray(found.scores)[order], rtol=1e-12)
    np.testing.assert_allclose(again.threshold, found.threshold, rtol=1e-12)
    constant = defences.strip(lambda points: jnp.full(len(points), 0.3), x, clean, overlays=7)
    assert not np.any(constant.suspected)


@pytest.mark.slow
def test_probes_of_a_spectrum_do_not_depend_on_their_order():
    x, reference = RNG.normal(size=(20, 3)), RNG.normal(size=(15, 3))
    x[:4] = [9.0, 0.0, 0.0]
    order, other = RNG.permutation(20), RNG.permutation(15)

    def f(point):
        return point @ point / 2

    for clean, same in ((reference, reference[other]), (None, None)):
        found = defences.input_spectrum(f, x, clean, repeats=5)
        again = defences.input_spectrum(f, x[order], same, repeats=5)
        np.testing.assert_array_equal(again.suspected, np.asarray(found.suspected)[order])
        np.testing.assert_allclose(again.threshold, found.threshold, rtol=1e-12)
    # Probes that are all equal have one eigenvalue, as their resamples do.
    for clean in (np.ones((6, 3)), None):
        assert not np.any(defences.input_spectrum(f, np.ones((8, 3)), clean, repeats=5).suspected)


def test_masks_of_equal_size_are_no_anomaly():
    norms = jnp.array([2.0, 2.0 + 1e-12, 2.0 - 1e-12, 2.0, 0.1])
    index = np.asarray(defences.anomaly_index(norms))
    np.testing.assert_array_equal(index, [0, 0, 0, 0, np.inf])


def test_votes_that_are_level_go_to_the_smaller_class():
    assert defences.certified_radius(np.array([[2, 2], [0, 0]], np.uint8)).tolist() == [0, 0]
    assert defences.certified_radius(np.array([[0, 4]], np.uint8)).tolist() == [1]
    x = RNG.normal(size=(3, 2))
    X, y = RNG.normal(size=(12, 2)), np.where(np.arange(12) % 2, 1.0, -1.0)
    vote = functools.partial(defences.partition_aggregation, kp.kernels.RBF(1.0), ridge=0.1, partitions=3)
    found, order = vote(X, y, x), RNG.permutation(12)
    again = vote(X[order], y[order], x)
    np.testing.assert_array_equal(again.votes, found.votes)
    np.testing.assert_array_equal(again.values, found.values)


def test_rows_are_put_in_ascending_order():
    from kpoison.defences.detection import in_order_of_content

    rows = np.concatenate([RNG.normal(size=(30, 3)), np.zeros((2, 3)), -np.zeros((1, 3)), RNG.normal(size=(1, 3))])
    rows = np.concatenate([rows, rows[:5]])
    for dtype in (np.float64, np.float32):
        order, places = in_order_of_content(rows.astype(dtype))
        np.testing.assert_array_equal(rows[order], rows[np.lexsort(rows.T[::-1])])
        np.testing.assert_array_equal(rows[order][places], rows)
        assert len(set(places[30:33].tolist())) == 1
