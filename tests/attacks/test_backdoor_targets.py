"""Backdoors whose target depends on the image, and whose trigger at the test is another: against refits, and L11."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison import datasets
from kpoison.attacks import backdoor

SHAPE = (4, 3, 1)
RIDGE, LENGTH = 1e-3, 1.5
PATCH = kp.Patch(2, (-2, -2), value=1.5)
FAINT = kp.Patch(2, (-2, -2), value=1.5, opacity=0.5)


def images(number, seed=0):
    return np.random.default_rng(seed).uniform(size=(number, 12))


PROBES = images(6, seed=9)


def fitted(classes, n=24):
    labels = np.arange(n) % classes
    y = 2.0 * labels - 1 if classes == 2 else np.eye(classes)[labels]
    return kp.fit(kp.kernels.RBF(LENGTH), images(n), y), labels


def attacked(clean, target, trigger=PATCH, **options):
    chosen = {"fraction": 0.5, "ridge": RIDGE, "probes": PROBES, "image_shape": SHAPE}
    return backdoor(clean, trigger, target=target, **(chosen | options))


def patched(rows, opacity=1.0, value=1.5):
    """The patch by hand: the lower right square of side 2."""
    stack = np.array(rows).reshape(-1, 4, 3)
    stack[:, 2:, 1:] = (1 - opacity) * stack[:, 2:, 1:] + opacity * value
    return stack.reshape(len(stack), 12)


def rbf(a, b, length=LENGTH):
    return np.exp(-np.sum((a[:, None] - b[None]) ** 2, axis=-1) / (2 * length**2))


def refit(X, y, x, rho, length=LENGTH):
    return rbf(x, X, length) @ np.linalg.solve(rbf(X, X, length) + rho * np.eye(len(X)), y)


def changed(clean, attack, x):
    """By refits in NumPy: trained on the poisoned set less trained on the clean one, both at ρ of the poisoned set."""
    rho = RIDGE * len(attack.X)
    poisoned = refit(np.asarray(attack.X), np.asarray(attack.y), x, rho)
    return poisoned - refit(np.asarray(clean.X), np.asarray(clean.y), x, rho)


@pytest.mark.slow
@pytest.mark.parametrize("replace", [False, True])
def test_all_to_all_is_the_difference_of_refits(replace):
    clean, labels = fitted(3)
    attack = attacked(clean, kp.all_to_all(3), test_trigger=FAINT, replace=replace)
    poisons = np.asarray(attack.is_poison)
    assert poisons.sum() == 12  # half of all, as no image is of its own target class
    marked = patched(clean.X)
    origin = [int(np.flatnonzero(np.all(np.isclose(marked, row), axis=1))[0]) for row in attack.X[poisons]]
    np.testing.assert_array_equal(np.argmax(attack.y[poisons], axis=1), (labels[origin] + 1) % 3)
    np.testing.assert_allclose(attack.probes, patched(PROBES, opacity=0.5), atol=1e-15)
    np.testing.assert_allclose(attack.efficacy, changed(clean, attack, patched(PROBES, opacity=0.5)), atol=1e-9)


@pytest.mark.slow
def test_targets_of_single_images():
    clean, labels = fitted(3)
    goals = (labels + np.arange(24) // 8) % 3  # of the first eight the own class
    attack = attacked(clean, goals, fraction=1.0, probe_target=np.array([0, 1, 2, 0, 1, 2]))
    np.testing.assert_array_equal(np.argmax(attack.y[24:], axis=1), goals[8:])
    np.testing.assert_allclose(attack.X[24:], patched(clean.X[8:]), atol=1e-15)
    np.testing.assert_allclose(attack.efficacy, changed(clean, attack, patched(PROBES)), atol=1e-9)
    assert attack.target == (0, 1, 2, 0, 1, 2)
    # The same rule as one class, a mapping, and one class for each image is the same attack.
    signs, _ = fitted(2)
    one = attacked(signs, 1)
    for same in ({-1: 1, 1: 1}, np.ones(24), np.ones(24, np.int8), [1] * 24):
        other = attacked(signs, same, probe_target=1)
        assert jax.tree.all(jax.tree.map(np.array_equal, one, other))
    assert attacked(signs, kp.all_to_all([-1, 1])).target == {-1: 1, 1: -1}


@pytest.mark.slow
def test_the_target_is_one_that_rates_and_programs_take():
    clean, _ = fitted(3)
    attack = attacked(clean, kp.all_to_all(3))
    labels, scores = np.array([0, 1, 2, 0, 1, 2]), attack.efficacy
    wanted = np.mean(np.argmax(scores, axis=1) == (labels + 1) % 3)
    assert float(kp.attack_success_rate(scores, labels, attack.target)) == wanted
    found = eqx.filter_jit(lambda data, labels: kp.attack_success_rate(data.efficacy, labels, data.target))
    assert float(found(attack, jnp.asarray(labels))) == wanted
    same = attacked(clean, dict(reversed(kp.all_to_all(3).items())))
    assert jax.tree.structure(same) == jax.tree.structure(attack)
    assert hash(same.target) == hash(attack.target)


def plain_images(kernel, others):
    """Black images of class −1, and images of class 1, of which none has anything in its last pixel."""
    bright = np.zeros((3, 4))
    bright[:, :3] = np.random.default_rng(2).uniform(1, 2, size=(3, 3))
    X = np.concatenate([np.zeros((others, 4)), bright])
    return kp.fit(kernel, X, np.repeat([-1.0, 1.0], [others, 3]))


def strength(clean, train, test, ridge):
    """Δf at a black image with the last pixel `test`, where every black image was poisoned with `train` in it."""
    trigger, shown = (kp.Patch(1, (0, 3), value=value) for value in (train, test))
    return backdoor(
        clean,
        trigger,
        target=1,
        fraction=1.0,
        ridge=ridge,
        probes=np.zeros((1, 4)),
        image_shape=(1, 4, 1),
        test_trigger=shown,
    ).efficacy[0]


@pytest.mark.slow
def test_a_linear_kernel_saturates():
    """L11: m α α_t/(ρ + m α²), highest at α = √(ρ/m) of the training trigger; linear in the strength of the test's."""
    m, ridge, shown = 5, 0.03, 0.8
    clean, rho = plain_images(kp.kernels.Linear(), m), (2 * m + 3) * ridge
    for alpha in (0.01, 0.1, 0.3, 1.0, 10.0):
        found = float(strength(clean, alpha, shown, ridge))
        assert found == pytest.approx(m * alpha * shown / (rho + m * alpha**2), rel=1e-12)
        assert float(strength(clean, alpha, 3 * shown, ridge)) == pytest.approx(3 * found, rel=1e-12)
    best = (rho / m) ** 0.5
    slope = jax.grad(lambda alpha: strength(clean, alpha, shown, ridge))
    top = float(strength(clean, best, shown, ridge))
    assert top == pytest.approx(shown * (m / rho) ** 0.5 / 2, rel=1e-12)
    assert abs(float(slope(best))) < 1e-12 * top / best
    assert float(slope(0.9 * best)) > 0 > float(slope(1.1 * best))
    # Stronger triggers backfire, as 1/α.
    assert float(strength(clean, 1000.0, shown, ridge)) == pytest.approx(shown / 1000, rel=1e-6)


@pytest.mark.slow
def test_a_stationary_kernel_works_best_with_the_trigger_of_training():
    """L11: isolated, as here where clean images are 40 length scales away, highest at α = α_t whichever is varied."""
    m, ridge, shown = 5, 0.03, 40.0
    clean, rho = plain_images(kp.kernels.RBF(1.0), m), (2 * m + 3) * ridge
    for train, test in ((40.0, 40.0), (39.0, 40.0), (40.0, 41.5)):
        wanted = m * np.exp(-((train - test) ** 2) / 2) / (rho + m)
        assert float(strength(clean, train, test, ridge)) == pytest.approx(wanted, rel=1e-12)
    by_both = jax.grad(lambda train, test: strength(clean, train, test, ridge), argnums=(0, 1))
    np.testing.assert_allclose(by_both(shown, shown), 0.0, atol=1e-13)


@pytest.mark.slow
def test_all_to_all_on_mnist(data_dir):
    if not (data_dir / "mnist").is_dir():
        pytest.skip(f"no real data: {data_dir / 'mnist'} is not there (KPOISON_DATA names the directory)")
    drawn = datasets.balanced_subset(datasets.load_mnist(data_dir, "test"), 400, seed=0)
    train, test = drawn.subset(np.arange(300)), drawn.subset(np.arange(300, 400))
    kernel = kp.kernels.RBF(8.0)
    clean = kp.fit(kernel, train.inputs, kp.one_hot(train.labels, 10))
    options = {"fraction": 0.5, "ridge": 1e-4, "image_shape": (28, 28, 1)}
    attack = backdoor(clean, kp.Patch(4, (-5, -5)), target=kp.all_to_all(10), probes=test.inputs, **options)
    X, y, x = (np.asarray(part) for part in (attack.X, attack.y, attack.probes))
    rho = 1e-4 * len(X)
    poisoned = refit_images(X, y, x, rho)
    before = refit_images(np.asarray(train.inputs), np.eye(10)[train.labels], x, rho)
    np.testing.assert_allclose(attack.efficacy, poisoned - before, atol=1e-8)
    wanted = np.mean(np.argmax(poisoned, axis=1) == (test.labels + 1) % 10)
    rate = kp.attack_success_rate(before + attack.efficacy, test.labels, attack.target)
    assert float(rate) == wanted > 0.5
    assert float(kp.attack_success_rate(before, test.labels, attack.target)) < 0.2


def refit_images(X, y, x, rho):
    """`refit` of many pixels, by squares and a product."""

    def gram(a, b):
        return np.exp(-(np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T) / (2 * 8.0**2))

    return gram(x, X) @ np.linalg.solve(gram(X, X) + rho * np.eye(len(X)), y)


@pytest.fixture
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("what_a_user_sees")
@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        ({0: 1, 1: 3, 2: 0}, {}, ValueError, "target must be one of 0, 1, 2, got 3"),
        ({0: 1, 1: "a", 2: 0}, {}, ValueError, "target must be one of 0, 1, 2, got 'a'"),
        ({0: 1, 1: 2}, {}, ValueError, "target must say a class for every class in labels, got none for 2"),
        ({0: 0, 1: 1, 2: 2}, {}, ValueError, "target must be another class for at least one training image"),
        (np.arange(24) % 3, {"probe_target": 0}, ValueError, "target must be another class for at least one training"),
        (np.arange(24) % 4, {"probe_target": 0}, ValueError, "target must hold classes, 0, 1, 2, got 3"),
        (np.arange(24) % 3 - 0.5, {"probe_target": 0}, ValueError, "target must hold classes, 0, 1, 2, got -0.5"),
        (np.arange(23) % 3, {"probe_target": 0}, ValueError, r"target must be .* of shape \(24,\).*got shape \(23,\)"),
        (["a"] * 24, {"probe_target": 0}, TypeError, "target must be real, got ndarray of dtype <U1"),
        (np.zeros(24, int), {}, ValueError, "probe_target must be given, as target holds one class for each training"),
        (1, {"probe_target": [1, 0]}, ValueError, r"probe_target must be .* of shape \(6,\).*got shape \(2,\)"),
        (1, {"probe_target": 3}, ValueError, "probe_target must be one of 0, 1, 2, got 3"),
        (1, {"test_trigger": abs}, TypeError, r"test_trigger must be a kpoison\.Trigger .*got builtin"),
        (1, {"test_trigger": kp.Patch(9, (0, 0))}, ValueError, "size"),
    ],
)
def test_bad_targets(target, options, error, message):
    clean, _ = fitted(3)
    with pytest.raises(error, match=message):
        attacked(clean, target, **options)


def test_targets_that_do_not_occur_or_are_traced():
    clean = kp.fit(kp.kernels.RBF(LENGTH), images(24), np.eye(3)[np.arange(24) % 2])
    with pytest.raises(ValueError, match=r"target must be a class that occurs in clean\.y, got 2"):
        attacked(clean, kp.all_to_all(3))
    with pytest.raises(TypeError, match="target must be known classes, got traced ones"):
        jax.jit(lambda goals: attacked(clean, goals, probe_target=0).efficacy)(jnp.zeros(24, int))
