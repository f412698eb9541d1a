"""Energies, trade-off and the smallest penalty against direct sums, quadratic forms and searches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.ridge.observations import Observations, covariance

RNG = np.random.default_rng(1)
X = jnp.asarray(RNG.normal(size=(20, 3)))
Y = jnp.sign(jnp.asarray(RNG.normal(size=20)))
ZETA = jnp.asarray(RNG.normal(size=3))
TRIGGERED = ZETA[None] + 0.2 * jnp.asarray(RNG.normal(size=(6, 3)))
LABELS = jnp.array([1.0, 1.0, 1.0, -1.0, 1.0, 1.0])
METRIC = jnp.diag(jnp.array([1.0, 0.5, 2.0]))
POISON = kp.Poison(ZETA, -1.0, 4)
RIDGE = 1e-2
CLEAN = kp.fit(kp.kernels.RBF(1.5), X, Y)
PENALTIES = [0.0, 1e-2, 1e-1, 1.0, 10.0]
TIMES = [0.0, 1.0, 30.0, np.inf]


@pytest.mark.slow
@pytest.mark.parametrize("poison", [pytest.param(None, marks=pytest.mark.slow), POISON])
@pytest.mark.parametrize("penalty", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_energies_are_sums_over_the_training_set_and_the_norm_is_its_quadratic_form(penalty, poison):
    clean = kp.fit(CLEAN.kernel, X, Y, gradient_penalty=penalty, metric=METRIC)
    for time in (2.0, np.inf):
        stopped = kp.flow.early_stopped(clean, time)
        found = kp.flow.energies(stopped, RIDGE, poison, metric=METRIC)
        f = kp.predictor(stopped, RIDGE, poison)
        points = X if poison is None else jnp.concatenate([X, jnp.tile(ZETA, (4, 1))])
        targets = Y if poison is None else jnp.concatenate([Y, -jnp.ones(4)])
        gradients = jax.vmap(jax.grad(f))(points)
        np.testing.assert_allclose(found.fit, jnp.mean((jax.vmap(f)(points) - targets) ** 2), rtol=1e-12)
        expected = jnp.mean(jnp.einsum("nd,de,ne->n", gradients, METRIC, gradients))
        np.testing.assert_allclose(found.penalty, expected, rtol=1e-12)
        # cᵀK̄c with the coefficients of values and slopes.
        expansion = f.expansion
        observed = Observations(expansion.centres, jnp.eye(3))
        c = jnp.concatenate([expansion.all_weights()[:, 0], expansion.slopes()[:, 0].ravel()])
        np.testing.assert_allclose(found.norm, c @ covariance(CLEAN.kernel, observed, observed) @ c, rtol=1e-10)


@pytest.mark.slow
def test_the_solution_minimises_the_sum_of_its_energies():
    penalty = 0.3
    clean = kp.fit(CLEAN.kernel, X, Y, gradient_penalty=penalty, metric=METRIC)

    def objective(posterior, ridge):
        parts = kp.flow.energies(posterior, ridge, POISON, metric=METRIC)
        return float(parts.unpenalised(RIDGE) + penalty * parts.penalty)

    best = objective(clean, RIDGE)
    for other, ridge in ((CLEAN, RIDGE), (clean, 1.1 * RIDGE), (kp.flow.early_stopped(clean, 100.0), RIDGE)):
        assert objective(other, ridge) > best


@pytest.fixture(scope="module")
def frontier():
    return kp.flow.tradeoff(
        CLEAN, POISON, TRIGGERED, RIDGE, gradient_penalty=PENALTIES, time=TIMES, metric=METRIC, labels=LABELS,
        held_out=(X, Y), modes=2,
    )  # fmt: skip


@pytest.mark.slow
def test_every_cell_of_the_frontier_is_what_the_public_functions_say(frontier):
    for i, penalty in enumerate(PENALTIES):
        clean = kp.fit(CLEAN.kernel, X, Y, gradient_penalty=penalty, metric=METRIC)
        for j in (1, 3):
            stopped = kp.flow.early_stopped(clean, TIMES[j])
            cell = frontier.isel(gradient_penalty=i, time=j)
            f = kp.predictor(stopped, RIDGE, POISON)
            parts = kp.flow.energies(stopped, RIDGE, POISON, metric=METRIC)
            fisher = np.asarray(kp.curvature.fisher(f, TRIGGERED).dense())
            u = frontier.direction.values
            predictions = kp.predict(stopped, TRIGGERED, RIDGE, POISON)
            for name, value in {
                "efficacy": kp.efficacy(stopped, POISON, TRIGGERED, RIDGE),
                "spike": kp.spike(stopped, POISON, TRIGGERED, RIDGE),
                "fisher_eigenvalue": np.linalg.eigvalsh(fisher)[::-1][:2],
                "poison_component": u @ fisher @ u,
                "training_fit": parts.fit,
                "squared_norm": parts.norm,
                "penalty_energy": parts.penalty,
                "objective": parts.fit + RIDGE * parts.norm,
                "degrees_of_freedom": kp.degrees_of_freedom(stopped, RIDGE, POISON),
                "attack_success_rate": kp.attack_success_rate(predictions, LABELS, target=-1),
                "clean_accuracy": kp.clean_accuracy(kp.predict(stopped, X, RIDGE, POISON), Y),
            }.items():
                np.testing.assert_allclose(cell[name], value, rtol=1e-9, atol=1e-13, err_msg=name)


@pytest.mark.slow
def test_penalty_energy_falls_and_objective_rises_with_the_penalty(frontier):
    ended = frontier.sel(time=np.inf)
    assert np.all(np.diff(ended.penalty_energy) < 0)
    assert np.all(np.diff(ended.objective) > 0)
    assert np.all(np.diff(ended.degrees_of_freedom) < 0)
    assert frontier.penalty_energy.sel(time=0.0).max() == 0


@pytest.mark.slow
def test_the_direction_is_that_of_the_poison(frontier):
    gradients = kp.efficacy_gradient(CLEAN, POISON, TRIGGERED, RIDGE)
    u = frontier.direction.values
    np.testing.assert_allclose(np.linalg.norm(u), 1)
    assert np.sum((np.asarray(gradients) @ u) ** 2) >= (1 - 1e-9) * np.linalg.eigvalsh(gradients.T @ gradients)[-1]
    one = kp.flow.tradeoff(CLEAN, POISON, ZETA + 0.3, RIDGE, gradient_penalty=0.1)
    gradient = np.asarray(kp.efficacy_gradient(CLEAN, POISON, ZETA + 0.3, RIDGE))
    np.testing.assert_allclose(abs(one.direction.values @ gradient), np.linalg.norm(gradient))
    given = kp.flow.tradeoff(CLEAN, POISON, ZETA + 0.3, RIDGE, gradient_penalty=0.1, direction=jnp.array([2.0, 0, 0]))
    np.testing.assert_allclose(given.direction, [1, 0, 0])


@pytest.mark.slow
def test_the_frontier_survives_netcdf(frontier, tmp_path):
    import xarray as xr

    frontier.to_netcdf(tmp_path / "frontier.nc", engine="h5netcdf")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "frontier.nc", engine="h5netcdf"), frontier)


@pytest.mark.slow
def test_several_outputs_have_an_axis():
    clean = kp.fit(CLEAN.kernel, X, jnp.stack([Y, -Y], axis=1))
    poison = kp.Poison(ZETA, jnp.array([-1.0, 1.0]), 4)
    found = kp.flow.tradeoff(clean, poison, TRIGGERED, RIDGE, gradient_penalty=[0.0, 0.1], labels=jnp.zeros(6, int))
    assert found.efficacy.dims == ("gradient_penalty", "time", "probe", "output")
    np.testing.assert_allclose(
        found.spike.isel(gradient_penalty=0, time=0), kp.spike(clean, poison, TRIGGERED, RIDGE), rtol=1e-9
    )
    scores = kp.predict(clean, TRIGGERED, RIDGE, poison)
    assert float(found.attack_success_rate[0, 0]) == float(kp.attack_success_rate(scores, jnp.zeros(6, int), target=1))


@pytest.mark.slow
def test_poisons_of_several_classes_need_the_target():
    """As those of an all-to-all attack: the first label is not the class that is wanted for every x."""
    labels = jnp.array([1, -1, 1, 1, -1, 1])
    both = kp.Poison(jnp.stack([ZETA, -ZETA, ZETA]), jnp.array([-1.0, 1.0, 1.0]), jnp.array([4.0, 4.0, 0.0]))
    options = {"gradient_penalty": [0.0], "labels": labels, "modes": 1}
    with pytest.raises(ValueError, match="target_class must be given with labels, as the poison's labels are of 2"):
        kp.flow.tradeoff(CLEAN, both, TRIGGERED, RIDGE, **options)
    scores = kp.predict(CLEAN, TRIGGERED, RIDGE, both)
    wanted = float(kp.attack_success_rate(scores, labels, -labels))
    for target in (kp.all_to_all([-1, 1]), -labels):
        found = kp.flow.tradeoff(CLEAN, both, TRIGGERED, RIDGE, target_class=target, **options)
        assert float(found.attack_success_rate.squeeze()) == wanted
    # Without weight a label does not count.
    single = kp.Poison(both.location, both.label, jnp.array([4.0, 0.0, 0.0]))
    found = kp.flow.tradeoff(CLEAN, single, TRIGGERED, RIDGE, **options)
    rate = kp.attack_success_rate(kp.predict(CLEAN, TRIGGERED, RIDGE, single), labels, -1)
    assert float(found.attack_success_rate.squeeze()) == float(rate)
    choice = kp.flow.smallest_gradient_penalty(
        CLEAN, both, TRIGGERED, RIDGE, 1.0, measure="attack_success_rate", labels=labels, target_class=-labels
    )
    assert choice.value == wanted
    assert choice.gradient_penalty == 0


@pytest.mark.slow
def test_the_smallest_penalty_reaches_its_target_and_less_does_not():
    def efficacy(penalty):
        clean = kp.fit(CLEAN.kernel, X, Y, gradient_penalty=penalty, metric=METRIC)
        return float(jnp.max(jnp.abs(kp.efficacy(clean, POISON, TRIGGERED, RIDGE))))

    target = 0.7 * efficacy(0.0)
    choice = kp.flow.smallest_gradient_penalty(CLEAN, POISON, TRIGGERED, RIDGE, target, metric=METRIC)
    np.testing.assert_allclose(choice.value, target, rtol=1e-5)
    np.testing.assert_allclose(efficacy(choice.gradient_penalty), target, rtol=1e-5)
    assert all(efficacy(part * choice.gradient_penalty) > target for part in np.linspace(0, 0.999, 20))
    clean = kp.fit(CLEAN.kernel, X, Y, gradient_penalty=choice.gradient_penalty, metric=METRIC)
    after = kp.flow.energies(clean, RIDGE, POISON).fit
    np.testing.assert_allclose(choice.cost, after - kp.flow.energies(CLEAN, RIDGE, POISON).fit, rtol=1e-9)


@pytest.mark.slow
def test_the_smallest_penalty_for_a_success_rate():
    clean, labels = kp.fit(CLEAN.kernel, X, jnp.ones(20)), jnp.ones(6)
    options = {"measure": "attack_success_rate", "labels": labels}

    def rate(penalty):
        posterior = kp.fit(CLEAN.kernel, X, jnp.ones(20), gradient_penalty=penalty)
        return float(kp.attack_success_rate(kp.predict(posterior, TRIGGERED, RIDGE, POISON), labels, target=-1))

    before = rate(0.0)
    assert before > 0.5
    choice = kp.flow.smallest_gradient_penalty(clean, POISON, TRIGGERED, RIDGE, before - 0.1, **options)
    assert rate(choice.gradient_penalty) == choice.value <= before - 0.1
    assert rate(0.99999 * choice.gradient_penalty) > before - 0.1


@pytest.mark.slow
def test_targets_that_hold_already_or_never():
    choice = kp.flow.smallest_gradient_penalty(CLEAN, POISON, TRIGGERED, RIDGE, 1e3)
    assert choice.gradient_penalty == 0
    assert choice.cost == 0
    never = kp.flow.smallest_gradient_penalty(CLEAN, POISON, ZETA, RIDGE, 1e-9)
    assert never.gradient_penalty == np.inf
    assert never.value > 1e-9


@pytest.mark.parametrize(
    ("call", "options", "error", "message"),
    [
        ("tradeoff", {"gradient_penalty": [-1.0]}, ValueError, "gradient_penalty must be finite and >= 0"),
        ("tradeoff", {"gradient_penalty": [1.0, 0.5]}, ValueError, "gradient_penalty must be a number or rise"),
        ("tradeoff", {"gradient_penalty": 1.0, "time": [2.0, 1.0]}, ValueError, "time must rise strictly"),
        ("tradeoff", {"gradient_penalty": 1.0, "metric": np.eye(2)}, ValueError, "metric must have shape"),
        ("tradeoff", {"gradient_penalty": 1.0, "metric": -np.eye(3)}, ValueError, "positive semi-definite"),
        ("tradeoff", {"gradient_penalty": 1.0, "labels": [1.0]}, ValueError, r"labels must have shape \(6,\)"),
        ("tradeoff", {"gradient_penalty": 1.0, "held_out": X}, TypeError, "held_out must be"),
        (
            "tradeoff",
            {"gradient_penalty": 1.0, "direction": np.zeros(3)},
            ValueError,
            "direction must be finite, not 0",
        ),
        ("tradeoff", {"gradient_penalty": 1.0, "modes": 0}, ValueError, "modes must be an integer >= 1"),
        (
            "tradeoff",
            {"gradient_penalty": 1.0, "target_class": 1},
            ValueError,
            "labels must be given with target_class",
        ),
        (
            "tradeoff",
            {"gradient_penalty": 1.0, "labels": LABELS, "target_class": 2},
            ValueError,
            "target_class must be of the classes -1, 1, got 2",
        ),
        (
            "tradeoff",
            {"gradient_penalty": 1.0, "labels": LABELS, "target_class": [1, -1]},
            ValueError,
            r"target_class must be .* of shape \(6,\), .*got shape \(2,\)",
        ),
        ("smallest_gradient_penalty", {"target": 0.0}, ValueError, "target must be finite and > 0"),
        ("smallest_gradient_penalty", {"target": 1.0, "measure": "spike"}, ValueError, "measure must be one of"),
        ("smallest_gradient_penalty", {"target": 0.1, "measure": "attack_success_rate"}, ValueError, "labels must be"),
        ("smallest_gradient_penalty", {"target": 0.1, "rtol": 0.0}, ValueError, "rtol must be finite and > 0"),
    ],
)
def test_bad_input_is_refused(call, options, error, message):
    with pytest.raises(error, match=message):
        getattr(kp.flow, call)(CLEAN, POISON, TRIGGERED, RIDGE, **options)


def test_a_kernel_without_slopes_is_refused_with_what_to_use_instead():
    laplace = kp.fit(kp.kernels.Laplace(1.0), X, Y)
    with pytest.raises(ValueError, match="Use RBF"):
        kp.flow.tradeoff(laplace, POISON, TRIGGERED, RIDGE, gradient_penalty=1.0)


def test_traced_numbers_are_refused():
    with pytest.raises(TypeError, match="must be known numbers"):
        jax.jit(lambda ridge: kp.flow.smallest_gradient_penalty(CLEAN, POISON, ZETA, ridge, 0.1).value)(0.1)
