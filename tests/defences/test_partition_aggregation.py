"""Partition aggregation: votes by explicit fits, and a certificate that no adversary beats."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.defences import certified_radius, partition_aggregation, partition_of

RNG = np.random.default_rng(2)
KERNEL, RIDGE = kp.kernels.RBF(1.2), 0.02
X = RNG.normal(size=(30, 2))
Y = np.where(X[:, 0] + 0.5 * RNG.normal(size=30) > 0, 1.0, -1.0)
ONE_HOT = np.eye(3)[RNG.integers(3, size=30)]
PROBES = RNG.normal(size=(6, 2))


def gram(a, b):
    return np.exp(-np.sum((a[:, None] - b[None]) ** 2, 2) / (2 * 1.2**2))


def by_hand(points, y, x, partitions):
    """Votes of every partition, solved in NumPy: classes 0, 1, ... in order."""
    places = partition_of(points, partitions) if len(points) else np.zeros(0, int)
    classes = []
    for k in range(partitions):
        here = points[places == k]
        values = np.zeros((len(x), *y.shape[1:]))
        if len(here):
            system = gram(here, here) + len(here) * RIDGE * np.eye(len(here))
            values = gram(x, here) @ np.linalg.solve(system, y[places == k])
        classes.append(values > 0 if y.ndim == 1 else values.argmax(1))
    number = 2 if y.ndim == 1 else y.shape[1]
    return np.stack([np.sum(np.array(classes) == c, axis=0) for c in range(number)], axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("y", [Y, ONE_HOT], ids=["two classes", "three classes"])
def test_votes_are_those_of_separate_fits(y):
    found = partition_aggregation(KERNEL, X, y, PROBES, RIDGE, partitions=7)
    assert len(set(np.bincount(found.partition))) > 2
    for k in range(7):
        here = found.partition == k
        alone = kp.predict(kp.fit(KERNEL, X[here], y[here]), PROBES, RIDGE)
        np.testing.assert_allclose(found.values[k], alone, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.votes, by_hand(X, y, PROBES, 7))
    np.testing.assert_array_equal(found.votes.sum(1), 7)
    winner = found.votes.argmax(1)
    np.testing.assert_array_equal(found.predictions, winner if y.ndim == 2 else 2 * winner - 1)
    np.testing.assert_array_equal(found.certified_radius, certified_radius(found.votes))
    assert not found.reached.any()


def test_certified_radius_is_exact_for_votes():
    # The smallest number of changed votes that changes the winner, by trying all of them.
    def fewest(votes):
        winner = np.argmax(votes)
        classes = range(len(votes))
        for changed in range(votes.sum() + 1):
            for lost in itertools.product(*(range(v + 1) for v in votes)):
                if sum(lost) != changed:
                    continue
                for to in itertools.combinations_with_replacement(classes, changed):
                    after = votes - lost + np.bincount(np.array(to, int), minlength=len(votes))
                    if np.argmax(after) != winner:
                        return changed
        raise AssertionError

    for number, classes in ((5, 2), (6, 2), (5, 3)):
        for votes in itertools.product(range(number + 1), repeat=classes):
            if sum(votes) == number:
                counts = np.array(votes)
                assert certified_radius(counts[None])[0] == fewest(counts) - 1


def test_no_adversary_beats_the_certificate():
    # Seven points, five partitions: every deletion and insertion (of nine candidates, of either label) of up to two.
    points, y, x = X[:7], Y[:7], PROBES[:4]
    votes = partition_aggregation(KERNEL, points, y, x, RIDGE, partitions=5)
    np.testing.assert_array_equal(votes.votes, by_hand(points, y, x, 5))
    candidates = np.concatenate([x, RNG.normal(size=(5, 2))])
    moves = [("delete", i, 0) for i in range(7)]
    moves += [("insert", i, label) for i in range(len(candidates)) for label in (-1.0, 1.0)]
    beaten = np.full(len(x), 99)
    for size in (1, 2):
        for chosen in itertools.combinations(moves, size):
            kept = [i for i in range(7) if ("delete", i, 0) not in chosen]
            added = [(candidates[i], label) for kind, i, label in chosen if kind == "insert"]
            new = np.concatenate([points[kept], *(p[None] for p, _ in added)])
            labels = np.concatenate([y[kept], [label for _, label in added]])
            after = 2 * by_hand(new, labels, x, 5).argmax(1) - 1
            beaten = np.where(after != votes.predictions, np.minimum(beaten, size), beaten)
    assert np.all(beaten > votes.certified_radius)
    # It is not for want of trying.
    assert np.any(beaten == votes.certified_radius + 1)
    assert votes.certified_radius.max() >= 1


def test_the_order_of_the_data_does_not_matter_to_the_last_bit():
    points, y = np.concatenate([X, X[:3]]), np.concatenate([Y, -Y[:3]])
    first = partition_aggregation(KERNEL, points, y, PROBES, RIDGE, partitions=4)
    order = RNG.permutation(33)
    second = partition_aggregation(KERNEL, points[order], y[order], PROBES, RIDGE, partitions=4)
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.partition[order], second.partition)
    # Nor do the other partitions: a point more changes one of them.
    more = partition_aggregation(KERNEL, points[1:], y[1:], PROBES, RIDGE, partitions=4)
    changed = np.any(more.values != first.values, axis=1)
    assert changed.nonzero()[0].tolist() == [first.partition[0]]


@pytest.mark.slow
@pytest.mark.parametrize("y", [Y, ONE_HOT], ids=["two classes", "three classes"])
def test_poisoned_votes_by_the_law_are_those_of_the_poisoned_data(y):
    dirty = np.array([-1.0, 1.0, -1.0]) if y.ndim == 1 else np.eye(3)
    locations = np.stack([PROBES[0], PROBES[1], PROBES[0] + 1e-9])
    poison = kp.Poison(locations, dirty, np.array([6, 2, 4]))
    law = partition_aggregation(KERNEL, X, y, PROBES, RIDGE, partitions=40, poison=poison)
    copies = np.repeat(np.arange(3), [6, 2, 4])
    together = np.concatenate([X, locations[copies]]), np.concatenate([y, dirty[copies]])
    measured = partition_aggregation(KERNEL, *together, PROBES, RIDGE, partitions=40)
    np.testing.assert_allclose(law.values, measured.values, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(law.votes, measured.votes)
    np.testing.assert_array_equal(law.reached, np.isin(np.arange(40), partition_of(locations, 40)))
    assert not law.efficacy[~law.reached].any()
    # Some of the 40 partitions of 30 points are empty; f_c is 0 there, so that Δf is f.
    empty = ~np.isin(np.arange(40), law.partition)
    assert not measured.values[empty & ~law.reached].any()
    np.testing.assert_allclose(law.efficacy[empty], law.values[empty], rtol=0, atol=1e-14)
    for k in np.flatnonzero(law.reached & ~empty):
        here, new = law.partition == k, partition_of(locations, 40) == k
        part = kp.Poison(locations[new], dirty[new], np.array([6, 2, 4])[new])
        change = kp.efficacy(kp.fit(KERNEL, X[here], y[here]), part, PROBES, RIDGE)
        np.testing.assert_allclose(law.efficacy[k], change, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_clones_change_one_vote_however_many_they_are():
    clean = partition_aggregation(KERNEL, X, Y, PROBES, RIDGE, partitions=9)
    for count in (1, 1e6):
        after = partition_aggregation(KERNEL, X, Y, PROBES, RIDGE, partitions=9, poison=kp.Poison(X[0], -Y[0], count))
        assert after.reached.sum() == 1
        assert np.max(np.abs(after.votes - clean.votes)) <= 1


def test_the_hash_is_of_the_point():
    points = RNG.normal(size=(4000, 3)).astype(np.float32)
    places = partition_of(points, 20)
    np.testing.assert_array_equal(places, partition_of(points.astype(float), 20))
    np.testing.assert_array_equal(places[:5], partition_of(jnp.asarray(points[:5]), 20))
    counts = np.bincount(places, minlength=20)
    assert np.sum((counts - 200) ** 2) / 200 < 50.8  # χ²(19) is above with probability 1e-4
    assert np.mean(places == partition_of(points, 20, seed=1)) < 0.1
    np.testing.assert_array_equal(
        partition_of(np.array([[0.0, 1.0]]), 1000), partition_of(np.array([[-0.0, 1.0]]), 1000)
    )


@pytest.mark.slow
def test_images_and_float32():
    images = RNG.normal(size=(8, 3, 3, 1)).astype(np.float32)
    kernel = kp.kernels.ConvolutionalNTK(hidden_layers=1, readout="flatten")
    found = partition_aggregation(kernel, images, Y[:8], images[:2], 0.1, partitions=2)
    assert found.values.dtype == np.float32
    here = found.partition == 0
    alone = kp.predict(kp.fit(kernel, images[here].astype(float), Y[:8][here]), images[:2].astype(float), 0.1)
    np.testing.assert_allclose(found.values[0], alone, atol=1e-4)


def test_certified_accuracy():
    found = partition_aggregation(KERNEL, X, Y, PROBES, RIDGE, partitions=7)
    right = found.predictions.copy()
    right[0] *= -1
    for radius in range(5):
        expected = np.mean((found.certified_radius >= radius) & (np.arange(6) > 0))
        assert found.certified_accuracy(right, radius) == expected
    assert found.certified_accuracy(right) == 5 / 6


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"partitions": 0}, ValueError, "partitions must be an integer >= 1"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
        ({"ridge": -1.0}, ValueError, "ridge must be finite and > 0"),
        ({"y": Y[:5]}, ValueError, "y must have shape"),
        ({"y": Y[:, None]}, ValueError, "C >= 2 classes"),
        ({"y": np.full(30, np.nan)}, ValueError, "y must be finite"),
        ({"x": PROBES[:, :1]}, ValueError, "x must hold points"),
        ({"X": X[:0]}, ValueError, "X must not be empty"),
        ({"kernel": 3}, TypeError, "kernel must be"),
        ({"poison": 3}, TypeError, "poison must be"),
        ({"poison": kp.Poison(np.zeros(3), 1.0, 1)}, ValueError, "poison.location must have shape"),
    ],
)
def test_bad_input(changes, error, message):
    arguments = {"kernel": KERNEL, "X": X, "y": Y, "x": PROBES, "ridge": RIDGE, **changes}
    with pytest.raises(error, match=message):
        partition_aggregation(**arguments)


def test_bad_votes_and_labels():
    with pytest.raises(TypeError, match="votes must be integers"):
        certified_radius(np.ones((2, 2)))
    with pytest.raises(ValueError, match="C >= 2"):
        certified_radius(np.ones((2, 1), int))
    found = partition_aggregation(KERNEL, X[:4], Y[:4], PROBES, RIDGE, partitions=2)
    with pytest.raises(ValueError, match="labels must have shape"):
        found.certified_accuracy(Y)
    with pytest.raises(ValueError, match="radius must be an integer"):
        found.certified_accuracy(Y[:6], -1)
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda x: partition_aggregation(KERNEL, X, Y, x, RIDGE).values)(PROBES)


def test_a_partition_without_clean_points_is_trained_on_its_poison_alone():
    """Of 12 points in 5 partitions some draws leave one empty: it predicts 0 until a poison falls into it."""
    points, y = RNG.normal(size=(12, 2)), np.where(np.arange(12) % 2, 1.0, -1.0)
    seed = next(s for s in range(200) if len(set(partition_of(points, 5, s))) < 5)
    empty = next(iter(set(range(5)) - set(partition_of(points, 5, seed))))
    zeta = next(z for z in RNG.normal(size=(500, 2)) if partition_of(z[None], 5, seed)[0] == empty)
    for count in (1.0, 3.0):
        found = partition_aggregation(
            KERNEL, points, y, PROBES, RIDGE, partitions=5, seed=seed, poison=kp.Poison(zeta, -1.0, count)
        )
        # m points at one place, ρ = mλ: f = k(x, ζ) m y/(mλ + m k(ζ, ζ)).
        expected = -gram(PROBES, zeta[None])[:, 0] / (RIDGE + 1)
        np.testing.assert_allclose(found.values[empty], expected, rtol=1e-10)
        np.testing.assert_allclose(found.efficacy[empty], expected, rtol=1e-10)
    alone = partition_aggregation(KERNEL, points, y, PROBES, RIDGE, partitions=5, seed=seed)
    np.testing.assert_array_equal(alone.values[empty], 0)
