"""Label flips: certificates and worst flips against every labelling of small problems."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.attacks import flip_certificate, flip_labels, label_flipping

KERNEL = kp.kernels.RBF(1.0)
RIDGE = 0.02


def gram(x, z):
    return np.exp(-0.5 * np.sum((x[..., :, None, :] - z[..., None, :, :]) ** 2, axis=-1))


def weights(X, x, ridge=RIDGE):
    """w(x), shape (..., q, n), by NumPy."""
    n = X.shape[-2]
    return np.swapaxes(np.linalg.solve(gram(X, X) + n * ridge * np.eye(n), gram(X, x)), -1, -2)


def problems(seed, number, n, q, classes):
    """Points and labels of at least two classes, indices from 0."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=(number, n))
    labels[:, :2] = [0, 1]
    return rng.normal(size=(number, n, 2)), labels, rng.normal(size=(number, q, 2))


def targets(labels, classes):
    """−1 and 1 for two classes, else one-hot of 1 and −0.5."""
    return 2.0 * labels - 1 if classes == 2 else 1.5 * np.eye(classes)[labels] - 0.5


def fitted(seed, n, q, classes, solver=None, dtype=float):
    X, labels, x = (part[0] for part in problems(seed, 1, n, q, classes))
    y = targets(labels, classes).astype(dtype)
    return kp.fit(KERNEL, X.astype(dtype), y, solver=solver), labels, x.astype(dtype)


def labellings(n, classes):
    return np.array(list(itertools.product(range(classes), repeat=n)))


def scores(w, all_labels, classes):
    """f_c of every labelling, shape (labellings, q, C)."""
    return np.einsum("qi,lic->lqc", w, np.eye(classes)[all_labels])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "n", "classes"), [(500, 5, 2), (500, 10, 2), (100, 6, 3)])
def test_certificates_are_those_of_exhaustive_search(number, n, classes):
    q = 2
    X, labels, x = problems(n, number, n, q, classes)

    def certify(X, y, x):
        return flip_certificate(kp.fit(KERNEL, X, y), x, RIDGE)

    found = jax.vmap(certify)(X, targets(labels, classes), x)
    everything = labellings(n, classes)
    for w, own, certificates in zip(weights(X, x), labels, np.asarray(found), strict=True):
        distance = np.sum(everything != own, axis=1)
        f = scores(w, everything, classes)
        clean = np.argmax(f[np.argmin(distance)], axis=1)
        changed = np.argmax(f, axis=2) != clean
        expected = [np.min(distance[changed[:, point]]) for point in range(q)]
        np.testing.assert_array_equal(certificates, expected)


@pytest.mark.slow
def test_as_many_flips_as_certified_change_a_prediction_and_fewer_do_not():
    rng, ridge = np.random.default_rng(1), 0.3
    X, x = rng.normal(size=(40, 2)), rng.normal(size=(30, 2))
    labels = np.sum((X > 0) * np.array([2, 1]), axis=1)  # quadrants: certificates of many flips
    clean = kp.fit(KERNEL, X, targets(labels, 4), solver=kp.Tridiagonal())
    certificates = np.asarray(flip_certificate(clean, x, ridge))
    point = int(np.argmax(certificates))
    assert certificates[point] >= 4
    w = weights(X, x[point : point + 1], ridge)

    def prediction(y):
        return int(np.argmax(w @ np.asarray(y)))

    for budget, changes in ((int(certificates[point]), True), (int(certificates[point]) - 1, False)):
        attack = flip_labels(clean, x[point], ridge, budget=budget)
        assert int(attack.is_poison.sum()) == budget
        assert (prediction(attack.y) != prediction(clean.y)) == changes
        assert bool(attack.changed[0]) == changes
        assert int(attack.bound) == changes


def clean_pairs(f, target):
    """The losing and the winning class at each point, from clean scores (q, C)."""
    if target is None:
        return np.argsort(-f, axis=1)[:, :2].T
    others = f.copy()
    others[:, target] = -np.inf
    return np.argmax(others, axis=1), np.full(len(f), target)


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "n", "budget", "target"), [(2, 9, 3, 1), (3, 7, 2, None), (3, 7, 2, 1)])
def test_flips_against_every_labelling(classes, n, budget, target):
    clean, labels, x = fitted(2, n, 8, classes)
    w, everything = weights(np.asarray(clean.X), x), labellings(n, classes)
    allowed = everything[np.sum(everything != labels, axis=1) <= budget]
    f, own = scores(w, allowed, classes), scores(w, labels[None], classes)[0]
    wanted = None if target is None else target if classes > 2 else 2 * target - 1
    rows = np.arange(len(x))

    def margins(losing, winning):
        return f[:, rows, losing] - f[:, rows, winning]

    def labels_of(attack):
        return np.argmax(np.asarray(attack.y), axis=1) if classes > 2 else (np.asarray(attack.y) > 0).astype(int)

    def found(attack, losing, winning):
        chosen = np.flatnonzero(np.all(allowed == labels_of(attack), axis=1))
        assert len(chosen) == 1  # within the budget
        return margins(losing, winning)[chosen[0]]

    losing, winning = clean_pairs(own, target)
    attack = flip_labels(clean, x, RIDGE, budget=budget, target=wanted, objective="margin")
    np.testing.assert_allclose(np.sum(found(attack, losing, winning)), np.min(np.sum(margins(losing, winning), axis=1)))

    if target is None:
        point = flip_labels(clean, x[0], RIDGE, budget=budget)
        rivals = [np.full_like(winning, c) for c in range(classes) if c != losing[0]]
        least = [np.min(margins(losing, rival)[:, 0]) for rival in rivals]
        np.testing.assert_allclose(np.min([found(point, losing, rival)[0] for rival in rivals]), np.min(least))

    greedy = flip_labels(clean, x, RIDGE, budget=budget, target=wanted)
    predicted = np.argmax(f, axis=2)
    reached = predicted != losing if target is None else predicted == target
    best, number = np.max(np.sum(reached, axis=1)), int(greedy.changed.sum())
    chosen = np.flatnonzero(np.all(allowed == labels_of(greedy), axis=1))
    np.testing.assert_array_equal(greedy.changed, reached[chosen[0]])
    assert np.min(np.sum(reached, axis=1)) < number <= best <= int(greedy.bound)
    y, refit = targets(labels, classes), w @ np.asarray(greedy.y)
    np.testing.assert_allclose(greedy.efficacy, refit - w @ y, atol=1e-10)
    assert 1 <= int(greedy.is_poison.sum()) <= budget
    np.testing.assert_array_equal(greedy.is_poison, labels_of(greedy) != labels)


@pytest.mark.slow
def test_many_points_share_an_inverse_in_blocks(monkeypatch):
    monkeypatch.setattr(label_flipping, "_FLOATS_AT_ONCE", 200)
    clean, _, x = fitted(4, 20, 33, 3, kp.Cholesky())
    together = flip_certificate(clean, x, RIDGE)
    for part in (slice(0, 17), slice(16, 33)):
        np.testing.assert_array_equal(together[part], flip_certificate(clean, x[part], RIDGE))


def test_equal_influences():
    """Eleven copies of one point, eight of one class and three of the other: the third flip leaves 5 against 6."""
    y = jnp.where(jnp.arange(11) < 8, 1.0, -1.0)
    clean = kp.fit(KERNEL, jnp.zeros((11, 2)), y)
    assert int(flip_certificate(clean, jnp.ones(2), RIDGE)) == 3


@pytest.mark.slow
def test_a_penalised_and_stopped_predictor_is_linear_in_the_labels_too():
    rng = np.random.default_rng(5)
    X, x, y = rng.normal(size=(6, 2)), rng.normal(size=(10, 2)), np.array([1.0, -1, 1, 1, -1, -1])

    def fit(y):
        return kp.flow.early_stopped(kp.fit(KERNEL, X, y, gradient_penalty=0.3), time=3.0)

    attack = flip_labels(fit(y), x, RIDGE, budget=2, objective="margin")
    change = kp.predict(fit(attack.y), x, RIDGE) - kp.predict(fit(y), x, RIDGE)
    np.testing.assert_allclose(attack.efficacy, change, atol=1e-9)


@pytest.mark.slow
def test_jit_vmap_and_float32():
    clean, _, x = fitted(6, 20, 17, 3, kp.Cholesky())
    single, _, _ = fitted(6, 20, 17, 3, kp.Cholesky(), dtype=np.float32)
    expected = flip_certificate(clean, x, RIDGE)
    np.testing.assert_array_equal(jax.jit(lambda x: flip_certificate(single, x, RIDGE))(x.astype(np.float32)), expected)
    ridges = jnp.array([RIDGE, 0.5])
    over = jax.vmap(lambda ridge: flip_certificate(clean, x, ridge))(ridges)
    np.testing.assert_array_equal(over, [expected, flip_certificate(clean, x, 0.5)])


GOOD = (np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]), np.array([1.0, -1.0, 1.0]))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([1.0, 0.0, 1.0]), "clean.y must hold −1 and 1, got"),
        (np.array([1.0, 1.0, 1.0]), "at least two classes, got"),
        (np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), "one-hot.* got"),
        (np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), "one-hot.* got"),
        (np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), "at least two classes, got"),
    ],
)
def test_labels_that_are_none(y, message):
    clean = kp.fit(KERNEL, GOOD[0], y)
    for attack in (flip_certificate, lambda *arguments: flip_labels(*arguments, budget=1)):
        with pytest.raises(ValueError, match=message):
            attack(clean, GOOD[0], RIDGE)


def test_labels_that_are_none_in_compiled_code():
    clean = kp.fit(KERNEL, GOOD[0], np.array([1.0, 0.5, 1.0]))
    with pytest.raises(Exception, match="must hold −1 and 1"):
        jax.block_until_ready(jax.jit(flip_certificate)(clean, GOOD[0], RIDGE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget must be an integer >= 1, got 0"),
        ({"budget": 4}, "budget must be at most 3.* got 4"),
        ({"budget": 1, "target": 0}, "target must be one of -1, 1, got 0"),
        ({"budget": 1, "target": True}, "target must be"),
        ({"budget": 1, "objective": "best"}, "objective must be one of"),
    ],
)
def test_options_that_are_none(options, message):
    clean = kp.fit(KERNEL, *GOOD)
    with pytest.raises(ValueError, match=message):
        flip_labels(clean, GOOD[0], RIDGE, **options)


def test_posteriors_without_a_factorisation_are_refused():
    clean = kp.fit(KERNEL, *GOOD, solver=kp.ConjugateGradients())
    with pytest.raises(ValueError, match="clean must be fitted by a solver that factorises"):
        flip_certificate(clean, GOOD[0], RIDGE)
    with pytest.raises(TypeError, match="clean must be a Posterior"):
        flip_certificate("posterior", GOOD[0], RIDGE)
    with pytest.raises(ValueError, match="ridge must be finite and > 0"):
        flip_certificate(kp.fit(KERNEL, *GOOD), GOOD[0], 0.0)
