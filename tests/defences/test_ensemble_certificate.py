"""Certificates of ensembles against every labelling of small problems, and the knapsack against every choice."""

import itertools

import jax
import numpy as np
import pytest

import kpoison as kp
from kpoison.attacks import flip_certificate
from kpoison.defences import ensemble_certificate, partition_aggregation, partition_of
from kpoison.defences._ensemble_certificate import fewest_flips

RNG = np.random.default_rng(0)
KERNEL = kp.kernels.RBF(1.0)
RIDGE = 0.05


def gram(x, z):
    return np.exp(-0.5 * np.sum((x[:, None] - z[None]) ** 2, axis=-1))


def influences(X, x, partitions):
    """w(x) of every training point in its partition's predictor (q, n), and the partitions, by NumPy."""
    own, found = partition_of(X, partitions), np.zeros((len(x), len(X)))
    for k in range(partitions):
        here = own == k
        system = gram(X[here], X[here]) + here.sum() * RIDGE * np.eye(here.sum())
        found[:, here] = np.linalg.solve(system, gram(X[here], x)).T
    return found, own


def exhaustive(X, labels, x, partitions, classes):
    """The least distance of a labelling under which another class is level with the winner, at each x, by NumPy.

    A partition whose scores tie votes as the attacker wants.
    """
    w, own = influences(X, x, partitions)
    everything = np.array(list(itertools.product(range(classes), repeat=len(X))))
    members = np.eye(classes)[everything]
    scores = np.stack(
        [np.einsum("qi,lic->lqc", w[:, own == k], members[:, own == k]) for k in range(partitions)], axis=2
    )
    votes = np.eye(classes)[scores.argmax(axis=3)].sum(axis=2)
    distance = np.sum(everything != labels, axis=1)
    clean = votes[np.argmin(distance)]
    winner = clean.argmax(axis=1)
    rivals = votes.copy()
    rivals[:, np.arange(len(x)), winner] = -1
    level = rivals.max(axis=2) >= votes[:, np.arange(len(x)), winner]
    return np.array([distance[level[:, i]].min() for i in range(len(x))]), clean


def small_problem(rng, n, q, classes):
    X, x = rng.normal(size=(n, 2)), rng.normal(size=(q, 2))
    labels = rng.integers(classes, size=n)
    labels[:2] = [0, 1]
    return X, labels, x, 2.0 * labels - 1 if classes == 2 else np.eye(classes)[labels]


@pytest.mark.parametrize("number", [4, pytest.param(300, marks=pytest.mark.slow)])
def test_two_classes_are_exhaustive_search(number):
    rng, found, expected = np.random.default_rng(number), [], []
    for _ in range(number):
        X, labels, x, y = small_problem(rng, 9, 2, 2)
        certificate = ensemble_certificate(KERNEL, X, y, x, RIDGE, partitions=3)
        least, votes = exhaustive(X, labels, x, 3, 2)
        np.testing.assert_array_equal(certificate.votes, votes)
        found.append(certificate.flips)
        expected.append(least)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("number", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_no_labelling_of_three_classes_beats_the_certificate(number):
    rng, found, expected = np.random.default_rng(number), [], []
    for _ in range(number):
        X, labels, x, y = small_problem(rng, 7, 3, 3)
        certificate = ensemble_certificate(KERNEL, X, y, x, RIDGE, partitions=3)
        least, votes = exhaustive(X, labels, x, 3, 3)
        np.testing.assert_array_equal(certificate.votes, votes)
        found.append(certificate.flips)
        expected.append(least)
    # A lower bound in general; on these problems it is attained.
    np.testing.assert_array_equal(found, expected)


def every_choice(costs, never):
    """The least cost of votes by which the winner is not alone ahead, by trying all of them."""
    partitions, q, classes = costs.shape
    found = np.full(q, never)
    for i in range(q):
        clean = np.bincount(costs[:, i].argmin(axis=1), minlength=classes)
        winner = clean.argmax()
        for chosen in itertools.product(range(classes), repeat=partitions):
            votes = np.bincount(chosen, minlength=classes)
            if max(votes[c] for c in range(classes) if c != winner) >= votes[winner]:
                found[i] = min(found[i], sum(costs[k, i, c] for k, c in enumerate(chosen)))
    return found


@pytest.mark.parametrize(("partitions", "classes"), [(7, 2), (5, 3), (4, 4)])
def test_the_knapsack_is_the_best_of_every_choice(partitions, classes):
    rng, never = np.random.default_rng(partitions), 40
    costs = rng.integers(1, 12, size=(partitions, 30, classes))
    costs[rng.random(costs.shape) < 0.15] = never
    voted = rng.integers(classes, size=(partitions, 30)) * (rng.random((partitions, 30)) < 0.7)
    np.put_along_axis(costs, voted[:, :, None], 0, axis=2)
    expected = every_choice(costs, never)
    np.testing.assert_array_equal(fewest_flips(costs, never), expected)
    assert len(np.unique(expected)) > 3


@pytest.mark.slow
def test_the_votes_are_those_of_partition_aggregation_and_one_partition_is_the_flip_certificate():
    X, x = RNG.normal(size=(30, 2)), RNG.normal(size=(6, 2))
    labels = np.arange(30) % 3
    y = np.eye(3)[labels]
    found = ensemble_certificate(KERNEL, X, y, x, RIDGE, partitions=4, seed=1)
    voted = partition_aggregation(KERNEL, X, y, x, RIDGE, partitions=4, seed=1)
    np.testing.assert_array_equal(found.votes, voted.votes)
    np.testing.assert_array_equal(found.predictions, voted.predictions)
    np.testing.assert_array_equal(found.partition, voted.partition)
    np.testing.assert_array_equal(found.costs.argmin(axis=2), voted.values.argmax(axis=2))
    alone = ensemble_certificate(KERNEL, X, y, x, RIDGE, partitions=1)
    np.testing.assert_array_equal(alone.flips, flip_certificate(kp.fit(KERNEL, X, y), x, RIDGE))
    # As images they are other arrays of the same numbers.
    images = ensemble_certificate(
        kp.kernels.Custom(lambda a, b: KERNEL.evaluate(a.ravel(), b.ravel()), point_ndim=3),
        X.reshape(30, 1, 2, 1), y, x.reshape(6, 1, 2, 1), RIDGE, partitions=4, seed=1,
    )  # fmt: skip
    np.testing.assert_array_equal(images.flips, found.flips)


def test_a_partition_without_points_or_of_one_class_is_no_error():
    X = RNG.normal(size=(6, 2))
    y = np.where(np.arange(6) % 2, 1.0, -1.0)
    found = ensemble_certificate(KERNEL, X, y, X, RIDGE, partitions=20)
    empty = ~np.isin(np.arange(20), found.partition)
    assert empty.sum() >= 14
    # It votes for the smallest class, and no label changes that: six partitions at the most are turned, not ten.
    np.testing.assert_array_equal(found.costs[empty], np.broadcast_to([0, 7], (empty.sum(), 6, 2)))
    np.testing.assert_array_equal(found.flips, 7)
    np.testing.assert_array_equal(found.predictions, -1)


@pytest.mark.slow
def test_certified_accuracy():
    X, x = RNG.normal(size=(40, 2)), RNG.normal(size=(9, 2))
    found = ensemble_certificate(KERNEL, X, np.sign(X[:, 0]), x, RIDGE, partitions=5)
    right = found.predictions.copy()
    right[0] *= -1
    for flips in range(int(found.flips.max()) + 2):
        expected = np.mean((found.flips > flips) & (np.arange(9) > 0))
        assert found.certified_accuracy(right, flips) == expected
    with pytest.raises(ValueError, match="labels must have shape"):
        found.certified_accuracy(right[:3])
    with pytest.raises(ValueError, match="flips must be an integer"):
        found.certified_accuracy(right, -1)


SIGNS = np.where(np.arange(30) % 2, 1.0, -1.0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"partitions": 0}, ValueError, "partitions must be an integer >= 1"),
        ({"ridge": 0.0}, ValueError, "ridge must be finite and > 0"),
        ({"y": SIGNS[:5]}, ValueError, "y must have shape"),
        ({"y": 0.5 * SIGNS}, ValueError, "y must hold −1 and 1"),
        ({"y": np.ones(30)}, ValueError, "y must hold at least two classes"),
        ({"y": np.ones((30, 3))}, ValueError, "y must be one-hot"),
        ({"x": np.zeros((2, 5))}, ValueError, "x must hold points"),
        ({"kernel": 3}, TypeError, "kernel must be"),
    ],
)
def test_bad_input(changes, error, message):
    arguments = {"kernel": KERNEL, "X": np.zeros((30, 2)), "y": SIGNS, "x": np.zeros((2, 2)), "ridge": RIDGE, **changes}
    with pytest.raises(error, match=message):
        ensemble_certificate(**arguments)


def test_points_are_hashed_outside_of_programs():
    X = RNG.normal(size=(30, 2))
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda x: ensemble_certificate(KERNEL, X, SIGNS, x, RIDGE).flips)(X[:2])
