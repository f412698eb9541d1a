"""Bilevel poisons: the exact posterior's gradient, projected descent and the greedy choice, against refits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kpoison as kp
from kpoison.attacks import bilevel, bilevel_objective, greedy_bases

RIDGE = 1e-2
COUNTS = jnp.array([1.0, 3.0, 2.0])
KERNELS = {
    "rbf": kp.kernels.RBF(1.5),
    "matern32": kp.kernels.Matern32(1.5),
    "ntk": kp.kernels.NTK(1, "relu", 1.3, 0.2),
}


def problem(outputs=None, dtype=jnp.float64):
    """Twelve clean points, three starts, four probes; one output without an axis, or several."""
    rng = np.random.default_rng(1)
    X, Z, x = (jnp.asarray(rng.normal(size=(m, 3)), dtype) for m in (12, 3, 4))
    y, labels, target = (
        jnp.asarray(np.sign(rng.normal(size=m if outputs is None else (m, outputs))), dtype) for m in (12, 3, 4)
    )
    return X, y, Z, labels, x, target


def refit_objective(kernel, X, y, x, target, name):
    """Training anew on clean points and copies of poisons; the objective as a function of poisons."""
    copies = np.repeat(np.arange(len(COUNTS)), np.asarray(COUNTS, int))

    def function(Z, labels):
        points = jnp.concatenate([X, Z[copies]])
        targets = jnp.concatenate([y, labels[copies]])
        # By a matrix product, which is cheaper to compile.
        matrix = kernel.gram(points, points) + len(points) * RIDGE * jnp.eye(len(points), dtype=X.dtype)
        f = kernel.gram(x, points) @ jnp.linalg.solve(matrix, targets)
        if name == "margin":
            if f.ndim == 1:
                return jnp.mean(jnp.sign(target) * f)
            right = np.argmax(np.asarray(target), axis=1)
            margins = [f[i, c] - jnp.max(f[i, np.arange(f.shape[1]) != c]) for i, c in enumerate(right)]
            return jnp.mean(jnp.stack(margins))
        error = jnp.sum((f - target) ** 2) / len(f)
        return error if name == "targeted" else -error

    return function


def assert_close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * float(jnp.max(jnp.abs(expected))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "objective", "outputs"),
    [("rbf", "targeted", None), ("matern32", "error", 2), ("ntk", "margin", 3), ("rbf", "margin", None)],
)
def test_gradient_is_that_of_a_refit(kernel, objective, outputs):
    X, y, Z, labels, x, target = problem(outputs)
    kernel = KERNELS[kernel]
    clean = kp.fit(kernel, X, y, solver=kp.Cholesky())
    prepared = bilevel_objective(
        clean, kp.Poison(Z, labels, COUNTS), RIDGE, probes=x, target=target, objective=objective
    )
    value, slopes = prepared.gradient(Z, labels)
    refit = refit_objective(kernel, X, y, x, target, objective)
    expected, refit_slopes = jax.jit(jax.value_and_grad(refit, argnums=(0, 1)))(Z, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    for found, slope in zip(slopes, refit_slopes, strict=True):
        assert_close(found, slope, 1e-8)


@pytest.mark.slow
def test_gradient_is_that_of_the_law():
    X, y, Z, labels, x, target = problem()
    clean = kp.fit(KERNELS["rbf"], X, y)
    prepared = bilevel_objective(clean, kp.Poison(Z, labels, COUNTS), RIDGE, probes=x, target=target)

    def law(Z, labels):
        return jnp.mean((kp.predict(clean, x, RIDGE, kp.Poison(Z, labels, COUNTS)) - target) ** 2)

    value, slopes = jax.jit(jax.value_and_grad(law, argnums=(0, 1)))(Z, labels)
    found = prepared.gradient(Z, labels)
    np.testing.assert_allclose(found[0], value, rtol=1e-10)
    for own, slope in zip(found[1], slopes, strict=True):
        assert_close(own, slope, 1e-8)


def test_gradient_is_that_of_finite_differences():
    X, y, Z, labels, x, target = problem()
    prepared = bilevel_objective(
        kp.fit(KERNELS["rbf"], X, y), kp.Poison(Z, labels, COUNTS), RIDGE, probes=x, target=target
    )
    (by_place, by_label), step = prepared.gradient(Z, labels)[1], 1e-5

    def function(Z, labels):
        return prepared.gradient(Z, labels)[0]

    for index in np.ndindex(Z.shape):
        high, low = (function(Z.at[index].add(sign * step), labels) for sign in (1, -1))
        np.testing.assert_allclose(by_place[index], (high - low) / (2 * step), atol=1e-8)  # third derivatives · 1e-10
    for j in range(len(labels)):
        high, low = (function(Z, labels.at[j].add(sign * step)) for sign in (1, -1))
        np.testing.assert_allclose(by_label[j], (high - low) / (2 * step), atol=1e-8)


@pytest.mark.slow
def test_derivatives_of_the_quadratic_form_are_those_of_its_formula():
    # Forwards, backwards and once more, against a definition without the rule.
    from kpoison.attacks._bilevel_objective import _quadratic_form

    rng = np.random.default_rng(2)
    root, cross = jnp.asarray(rng.normal(size=(5, 5))), jnp.asarray(rng.normal(size=(2, 5)))
    inverse = root @ root.T

    def plain(cross):
        return jnp.sum(jnp.tanh(cross @ inverse @ cross.T / 10))

    def ruled(cross):
        return jnp.sum(jnp.tanh(_quadratic_form(inverse, cross) / 10))

    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        np.testing.assert_allclose(derivative(ruled)(cross), derivative(plain)(cross), rtol=1e-11, atol=1e-13)


def test_a_step_multiplies_by_the_inverse_once():
    X, y, Z, labels, x, target = problem()
    prepared = bilevel_objective(
        kp.fit(KERNELS["rbf"], X, y), kp.Poison(Z, labels, COUNTS), RIDGE, probes=x, target=target
    )
    lowered = jax.jit(jax.grad(lambda Z: prepared(Z, labels))).lower(Z).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line and "tensor<12x12xf64>" in line]
    assert len(products) == 1


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attack_descends_within_box_and_ball(norm):
    X, y, Z, labels, x, _ = problem()
    clean = kp.fit(KERNELS["rbf"], X, y)
    low, high = jnp.min(Z, axis=0) - 0.1, jnp.max(Z, axis=0) + 0.1
    attack = bilevel(
        clean,
        kp.Poison(Z, labels, COUNTS),
        RIDGE,
        probes=x,
        target=1.0,
        box=(low, high),
        ball=0.3,
        norm=norm,
        optimiser=optax.adam(0.05),
        steps=40,
    )
    moved = attack.poison.location
    assert np.all((moved >= low[None]) & (moved <= high[None]))
    order = jnp.inf if norm == "linf" else 2
    distances = jnp.linalg.norm(moved - Z, ord=order, axis=1)
    assert 0.29 < np.max(distances) <= 0.3 * (1 + 1e-12)
    assert np.any(moved == low[None]) or np.any(moved == high[None])
    assert attack.history.shape == (41,)
    assert attack.history[-1] < attack.history[0]
    # What is returned is the best seen, the efficacy is the law's, and copies are behind the clean points.
    f = kp.predict(clean, x, RIDGE, attack.poison)
    np.testing.assert_allclose(jnp.mean((f - 1) ** 2), jnp.min(attack.history), rtol=1e-10)
    data = attack.data
    np.testing.assert_array_equal(data.is_poison, np.arange(18) >= 12)
    np.testing.assert_array_equal(data.X[12:], jnp.repeat(moved, np.array([1, 3, 2]), axis=0))
    np.testing.assert_allclose(data.efficacy, kp.efficacy(clean, attack.poison, x, RIDGE), rtol=1e-12)
    refit = kp.fit(KERNELS["rbf"], data.X, data.y)
    np.testing.assert_allclose(kp.predict(refit, x, RIDGE), f, rtol=1e-9)
    assert data.target == 1


@pytest.mark.slow
def test_soft_labels_stay_in_their_box_and_help():
    X, y, Z, labels, x, target = problem()
    clean, start = kp.fit(KERNELS["rbf"], X, y), kp.Poison(Z, labels, COUNTS)
    options = {"probes": x, "target": target, "objective": "error", "ball": 0.2}
    options |= {"optimiser": optax.adam(0.05), "steps": 40}
    hard = bilevel(clean, start, RIDGE, **options)
    soft = bilevel(clean, start, RIDGE, train_labels=True, **options)
    wide = bilevel(clean, start, RIDGE, train_labels=True, label_box=(-3, 3.0), **options)
    lowest = [float(jnp.min(attack.history)) for attack in (wide, soft, hard)]
    assert lowest[0] < lowest[1] < lowest[2]
    assert np.max(np.abs(soft.poison.label)) <= 1 < np.max(np.abs(wide.poison.label)) <= 3
    np.testing.assert_array_equal(hard.poison.label, labels)
    np.testing.assert_array_equal(wide.data.y[12:], jnp.repeat(wide.poison.label, np.array([1, 3, 2])))
    assert hard.data.target is None


@pytest.mark.slow
def test_several_outputs_float32_and_line_searches():
    X, y, Z, labels, x, target = problem(2, jnp.float32)
    clean, start = kp.fit(KERNELS["rbf"], X, y), kp.Poison(Z, labels, COUNTS)
    attack = bilevel(clean, start, RIDGE, probes=x, target=target, optimiser=optax.lbfgs(), steps=5)
    assert attack.data.X.dtype == attack.data.y.dtype == attack.history.dtype == jnp.float32
    assert (attack.data.y.shape, attack.data.efficacy.shape) == ((18, 2), (4, 2))
    assert jnp.min(attack.history) < 0.9 * attack.history[0]
    with_64 = problem(2)
    expected = refit_objective(KERNELS["rbf"], *with_64[:2], *with_64[4:], "targeted")(*with_64[2:4])
    np.testing.assert_allclose(attack.history[0], expected, rtol=1e-4)


@pytest.mark.slow
def test_preparation_and_gradient_are_traceable():
    X, y, Z, labels, x, target = problem()
    clean = kp.fit(KERNELS["rbf"], X, y)

    @jax.jit
    def whole(ridge, Z):
        prepared = bilevel_objective(clean, kp.Poison(Z, labels, COUNTS), ridge, probes=x, target=target)
        return prepared.gradient(Z, labels)[1][0]

    prepared = bilevel_objective(clean, kp.Poison(Z, labels, COUNTS), RIDGE, probes=x, target=target)
    alone = prepared.gradient(Z, labels)[1][0]
    assert_close(whole(RIDGE, Z), alone, 1e-10)
    assert_close(
        jax.vmap(lambda Z: prepared.gradient(Z, labels)[1][0])(jnp.stack([Z, Z])), jnp.stack([alone] * 2), 1e-10
    )


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["targeted", "error"])
def test_greedy_choice_is_that_of_refits(objective):
    X, y, _, _, x, target = problem()
    candidates, labels = X[:6] + 0.3, -y[:6]
    clean = kp.fit(KERNELS["rbf"], X, y)
    options = {"probes": x, "target": target, "objective": objective}
    chosen: list[int] = []
    for _ in range(3):
        values = {}
        for j in set(range(6)) - set(chosen):
            places = np.array([*chosen, j])
            points = jnp.concatenate([X, candidates[places]])
            matrix = clean.kernel.pairwise(points, points) + 15 * RIDGE * jnp.eye(len(points))  # n + number, throughout
            f = clean.kernel.pairwise(x, points) @ jnp.linalg.solve(matrix, jnp.concatenate([y, labels[places]]))
            values[j] = float(jnp.mean((f - target) ** 2)) * (1 if objective == "targeted" else -1)
        chosen.append(min(values, key=values.__getitem__))
    assert greedy_bases(clean, candidates, labels, RIDGE, number=3, **options).tolist() == chosen


def test_bad_input():
    X, y, Z, labels, x, target = problem()
    clean, start = kp.fit(KERNELS["rbf"], X, y), kp.Poison(Z, labels, COUNTS)

    def attack(clean=clean, poison=start, ridge=RIDGE, **options):
        return bilevel(clean, poison, ridge, **({"probes": x, "target": target, "steps": 1} | options))

    for options, message in [
        ({"box": (-0.01, 0.01)}, "poison.location must lie in box, got"),
        ({"box": (1.0, -1.0)}, "box must be .low, high. with low < high"),
        ({"box": (jnp.zeros(2), 1.0)}, r"box must hold numbers or arrays of shape \(3,\)"),
        ({"ball": -0.1}, "ball must be finite and > 0, got -0.1"),
        ({"norm": "l1"}, "norm must be one of"),
        ({"objective": "accuracy"}, "objective must be one of 'targeted', 'error', 'margin', got 'accuracy'"),
        ({"target": jnp.zeros(3)}, r"target must have shape \(4,\), one for each probe, or \(\), got \(3,\)"),
        ({"target": 0.0, "objective": "margin"}, "target must be positive or negative"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"ridge": 0.0}, "ridge must be finite and > 0"),
        ({"poison": kp.Poison(Z, labels, 0)}, "poison.count must be finite and > 0"),
        ({"poison": kp.Poison(Z, labels, 1.5)}, "poison.count must be whole numbers"),
        ({"probes": x[:, :2]}, r"probes must hold points of shape \(3,\)"),
        ({"label_box": (-1, 1)}, "label_box must be None where labels are not trained"),
        ({"label_box": (-0.5, 0.5), "train_labels": True}, "poison.label must lie in label_box"),
        ({"clean": kp.fit(KERNELS["rbf"], X, y, gradient_penalty=0.1)}, "clean must be fitted by a solver that factor"),
        ({"optimiser": optax.sgd(jnp.inf)}, "the objective must stay finite, but is not after 1 step"),
    ]:
        with pytest.raises(ValueError, match=message):
            attack(**options)
    with pytest.raises(TypeError, match=r"box must be a pair \(low, high\)"):
        attack(box=(0.0, 1.0, 2.0))
    with pytest.raises(TypeError, match=r"clean must be a Posterior"):
        attack(clean=X)
    with pytest.raises(ValueError, match="number must be at most 3, of the candidates, got 4"):
        greedy_bases(clean, Z, labels, RIDGE, number=4, probes=x, target=target)
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\)"):
        greedy_bases(clean, Z, jnp.zeros(2), RIDGE, number=1, probes=x, target=target)


@pytest.mark.slow
def test_derivatives_in_the_ridge_are_those_of_refits():
    """The clean predictor's inverse moves with ρ, too."""
    X, y, Z, labels, x, target = problem()
    clean = kp.fit(KERNELS["rbf"], X, y)

    def value(ridge):
        return bilevel_objective(clean, kp.Poison(Z, labels, COUNTS), ridge, probes=x, target=target)(Z, labels)

    def law(ridge):
        return jnp.mean((kp.predict(clean, x, ridge, kp.Poison(Z, labels, COUNTS)) - target) ** 2)

    np.testing.assert_allclose(jax.grad(value)(RIDGE), jax.grad(law)(RIDGE), rtol=1e-8)
