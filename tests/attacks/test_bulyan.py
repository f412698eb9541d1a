"""Bulyan against loops of plain NumPy, and against an attack that Krum lets through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kpoison.attacks import Bulyan, Clients, Krum, federate
from kpoison.attacks._distances import row_lengths

RNG = np.random.default_rng(4)


def bulyan(updates, f):
    """The paper's two steps, client after client and coordinate after coordinate."""
    left, taken = list(range(len(updates))), []
    while len(taken) < len(updates) - 2 * f:
        scores = []
        for i in left:
            squares = sorted(sum((a - b) ** 2 for a, b in zip(updates[i], updates[j], strict=True))
                             for j in left if j != i)  # fmt: skip
            scores.append(sum(squares[: max(len(left) - f - 2, 1)]))
        taken.append(left.pop(scores.index(min(scores))))
    result = []
    for column in updates[taken].T:
        ordered = sorted(column)
        half = len(ordered) // 2
        median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
        nearest = sorted(ordered, key=lambda value: abs(value - median))[: len(taken) - 2 * f]
        result.append(sum(nearest) / len(nearest))
    return np.array(result)


SMALLEST = [(3, 0), (11, 2)]
LARGER = [pytest.param(*case, marks=pytest.mark.slow) for case in ((6, 0), (7, 1), (10, 1), (16, 3))]


@pytest.mark.parametrize(("number", "f"), SMALLEST + LARGER)
def test_as_loops_have_it(number, f):
    for _ in range(4):
        updates = RNG.normal(size=(number, 5)) * np.exp(RNG.normal(size=(number, 1)))
        np.testing.assert_allclose(Bulyan(f)(updates), bulyan(updates, f), rtol=1e-13, atol=1e-15)


def test_by_hand():
    # Of 7 clients five are taken, 100 not among them; the three nearest to their median are averaged.
    line = np.array([[3.0], [100.0], [1.0], [0.0], [4.0], [2.0], [7.0]])
    assert bulyan(line, 1).item() == Bulyan(1)(line).item() == 2
    # Without liars it is the mean.
    updates = RNG.normal(size=(11, 3))
    np.testing.assert_allclose(Bulyan(0)(updates), updates.mean(0), rtol=1e-13)


def test_equal_updates_and_ties():
    np.testing.assert_allclose(Bulyan(1)(np.full((7, 2), 0.1)), 0.1, rtol=1e-15)
    # Clones of one update, and liars that agree: there is nothing between.
    updates = np.concatenate([np.zeros((9, 2)), np.full((2, 2), 5.0)])
    np.testing.assert_array_equal(Bulyan(2)(updates), 0)
    # Median 0: of −1 and 1, which are equally near, the smaller.
    line = np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 40.0, 41.0])[:, None]
    assert Bulyan(1)(line).item() == bulyan(line, 1).item()


@pytest.mark.slow
def test_one_coordinate_of_many_moves_krum_and_not_bulyan():
    """The attack that the rule was made for: √p of room in distance, all of it spent on one coordinate."""
    p, f = 400, 2
    honest = RNG.normal(size=(9, p))
    lie = honest.mean(axis=0)
    lie[7] += 12.0
    updates = np.concatenate([honest, [lie, lie]])
    assert Krum(f)(updates)[7] > 10
    assert abs(Bulyan(f)(updates)[7]) < np.abs(honest[:, 7]).max()


@pytest.mark.slow
def test_transforms_and_precision():
    batch = RNG.normal(size=(3, 11, 4))
    rule = Bulyan(2)
    together = jax.jit(jax.vmap(rule))(batch.astype(np.float32))
    assert together.dtype == np.float32
    for updates, found in zip(batch, together, strict=True):
        np.testing.assert_allclose(found, bulyan(updates, 2), rtol=1e-5, atol=1e-6)
    # A mean of values that are chosen: derivatives are shares.
    jacobian = np.asarray(jax.jit(jax.jacrev(rule))(batch[0]))
    np.testing.assert_allclose(jacobian.sum(axis=(1, 2)), 1, rtol=1e-13)
    direction, step = RNG.normal(size=(11, 4)), 1e-6
    slope = (rule(batch[0] + step * direction) - rule(batch[0] - step * direction)) / (2 * step)
    np.testing.assert_allclose(np.einsum("pkq,kq->p", jacobian, direction), slope, rtol=1e-7, atol=1e-9)
    assert not np.any(jax.jit(jax.hessian(lambda updates: jnp.sum(rule(updates))))(batch[0]))


@pytest.mark.slow
def test_differences_that_overflow_are_far():
    rows = RNG.normal(size=(7, 2)).astype(np.float32)
    # Nor may what does not overflow be 0 because a reciprocal underflows.
    np.testing.assert_allclose(row_lengths(jnp.full((1, 4), 1.5e38, jnp.float32)), 3e38, rtol=1e-6)
    assert np.isinf(row_lengths(jnp.array([[np.inf, 1.0], [3e38, 3e38]], jnp.float32))).all()
    rows[3], rows[4] = 3e38, -3e38
    found = np.asarray(Bulyan(1)(rows[[0, 1, 2, 5, 6, 3, 3]]))
    assert np.all(np.abs(found) < 10)
    assert np.all(np.abs(np.asarray(Krum(2)(rows))) < 10)


def test_in_a_federation():
    clients = Clients([np.full((1, 1), 1.0)] * 7, [np.array([1.0])] * 6 + [np.array([1e6])])
    found = federate(clients, 1.0, aggregator=Bulyan(1), rounds=1, step_size=0.25)
    np.testing.assert_allclose(found.parameters, 0.25)
    assert Bulyan(1).tolerates(7) == 1


def test_bad_input():
    with pytest.raises(ValueError, match=r"byzantine must be at most \(K - 3\)/4 of K = 6 .* K >= 4 byzantine \+ 3"):
        Bulyan(1)(np.ones((6, 2)))
    with pytest.raises(ValueError, match="byzantine must be an integer >= 0"):
        Bulyan(-1)
    with pytest.raises(ValueError, match="updates must be finite"):
        Bulyan(0)(np.full((3, 1), np.nan))
