"""Experiments on trained classifiers: every number against a direct calculation, resuming, the command, bad input."""

import json
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import xarray as xr

import kpoison as kp
from kpoison.cli import main
from kpoison.experiments.architectures import create
from kpoison.experiments.catalogue import EXPERIMENTS
from kpoison.experiments.collapse import (
    distances_of_features,
    distances_of_kernel,
    mean_distance,
    principal_components,
)
from kpoison.experiments.curves import Curves, is_visible
from kpoison.experiments.events import first_true, lag_of
from kpoison.experiments.joint_defence import stable_penalty
from kpoison.experiments.kernels import attack_kernel
from kpoison.experiments.measuring import Measurement, leading, pooled_edge, resampled_largest
from kpoison.experiments.options import Options, geometric_steps
from kpoison.experiments.problem import make_problem, usual_augmentation
from kpoison.experiments.result import above, below
from kpoison.experiments.training import Arm, Trainer, constant_rate
from kpoison.networks import MLP, DivergedError, classification, train_classifier
from kpoison.statistics import Agreement, t_interval
from theory_checks import classifiers

TINY = {"train": 100, "test": 60, "probes": 20, "epochs": 3, "seeds": 2, "width": 6, "batch_size": 25}
ARGUMENTS = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def problem():
    return make_problem("digits", train=100, test=60, seed=3, dtype=np.float64)


@pytest.fixture(scope="module")
def model():
    return MLP((8, 8, 1), 10, width=7, hidden_layers=2, key=jax.random.key(1), dtype=float)


# --- The problem ---------------------------------------------------------------------------------------------------


def test_poisoned_training_sets_replace_images_and_are_nested(problem):
    small, large = (problem.training_set(fraction) for fraction in (0.1, 0.2))
    changed = [np.any(images != problem.images, axis=(1, 2, 3)) for images, _ in (small, large)]
    assert [int(rows.sum()) for rows in changed] == [10, 20]
    assert not np.any(changed[0] & ~changed[1])
    images, labels = large
    assert np.all(labels[changed[1]] == problem.target)
    assert np.all(problem.labels[changed[1]] != problem.target)
    np.testing.assert_array_equal(labels[~changed[1]], problem.labels[~changed[1]])
    np.testing.assert_array_equal(images[changed[1]], problem.triggered[changed[1]])


def test_stochastic_poisons_are_the_fixed_ones_at_a_visit(problem):
    """Of the image with the trigger in pixels, normalised; of the whole training set the fraction on average."""
    poison = problem.stochastic_poison(0.2)
    assert float(poison.probability) * len(problem.order) == pytest.approx(20)
    first = problem.order[:5]
    always = eqx.tree_at(lambda p: p.probability, poison, jnp.asarray(1.0))
    images, labels = (jnp.asarray(part[first]) for part in (problem.images, problem.labels.astype(np.int32)))
    shown, classes = jax.vmap(always)(images, labels, jax.random.split(jax.random.key(0), 5))
    np.testing.assert_allclose(shown, problem.triggered[first], atol=1e-12)
    assert np.all(np.asarray(classes) == problem.target)


def test_penalties_in_every_convention():
    """γ of each loss and normalised input; κ of pixels and of the gradient of a batch's mean loss, from gradients."""
    options = Options(**TINY)
    with Trainer(options, (0.05,), 1, 1, None, 1) as trainer:
        words = trainer.penalty_in_words(0.5)
        problem = trainer.first
    batch = jnp.asarray(problem.images[: options.batch_size])
    pixels = batch * problem.scale + jnp.asarray(problem.mean, batch.dtype)[None, None, None]

    def losses(images):
        return jnp.sum(jnp.sin(images), axis=(1, 2, 3))

    def of_pixels(images):
        return losses((images - jnp.asarray(problem.mean, batch.dtype)[None, None, None]) / problem.scale)

    each = 0.5 * float(jnp.sum(jax.grad(lambda x: losses(x).sum())(batch) ** 2)) / len(batch)
    for f, x, gradient in ((of_pixels, pixels, "sum"), (losses, batch, "mean"), (of_pixels, pixels, "mean")):
        squares = float(jnp.sum(jax.grad(lambda x, f=f, g=gradient: getattr(jnp, g)(f(x)))(x) ** 2))
        kappa = each / (squares / len(batch) if gradient == "sum" else squares)
        assert f"{kappa:.3g}" in words


def test_images_are_normalised_after_the_trigger(problem):
    pixels = problem.images * problem.scale + np.asarray(problem.mean)
    assert pixels.min() == pytest.approx(0, abs=1e-12)
    assert pixels.max() <= 1 + 1e-12
    np.testing.assert_allclose(np.mean(problem.images), 0, atol=1e-12)
    np.testing.assert_allclose(np.mean(problem.images**2), 1, rtol=1e-12)
    expected = (np.asarray(problem.trigger(jnp.asarray(pixels))) - np.asarray(problem.mean)) / problem.scale
    np.testing.assert_allclose(problem.triggered, expected, atol=1e-12)


def test_augmentation_acts_on_pixels(problem):
    augment = usual_augmentation(problem)
    image = jnp.asarray(problem.images[0])
    found = augment(image, jax.random.key(0)) * problem.scale + np.asarray(problem.mean)[0]
    expected = augment.augmentation(image * problem.scale + np.asarray(problem.mean)[0], jax.random.key(0))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert float(jnp.min(found)) >= -1e-12  # what crops and cut-out fill in is black


# --- What is measured ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rates_and_the_input_hessian_against_direct_calculation(problem, model):
    found = Measurement(problem, 20, 0.25, reference=False)(model, 0)
    probes = problem.test_images[:20].copy()
    chosen = np.flatnonzero(problem.test_labels[:20] != problem.target)[:5]
    probes[chosen] = problem.test_triggered[chosen]

    def loss(x, label):
        return -jax.nn.log_softmax(model(x.reshape(8, 8, 1)))[label]

    # Of any labels: the network is piecewise linear.
    hessians = jax.vmap(jax.hessian(loss))(jnp.asarray(probes).reshape(20, -1), jnp.arange(20) % 10)
    jacobians = jax.vmap(jax.jacobian(model))(jnp.asarray(probes)).reshape(20, 10, 64)
    matrices = {
        "hessian": np.mean(hessians, axis=0),
        "logits": np.einsum("ncd,nce->de", jacobians, jacobians) / 20,
    }
    for name, matrix in matrices.items():
        values, vectors = np.linalg.eigh(matrix)
        np.testing.assert_allclose(found[name], values[-1], rtol=1e-9)
        np.testing.assert_allclose(found[f"{name}_alignment"], abs(vectors[:, -1] @ problem.direction), atol=1e-7)
        np.testing.assert_allclose(found[f"{name}_along"], problem.direction @ matrix @ problem.direction, rtol=1e-9)

    logits = np.asarray(jax.vmap(model)(jnp.asarray(problem.test_triggered)))
    others = logits[problem.test_labels != problem.target]
    probabilities = np.exp(others - others.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    clean = np.argmax(np.asarray(jax.vmap(model)(jnp.asarray(problem.test_images))), axis=1)
    assert found["success"] == pytest.approx(np.mean(np.argmax(others, axis=1) == problem.target))
    assert found["probability"] == pytest.approx(np.mean(probabilities[:, problem.target]))
    assert found["margin"] == pytest.approx(np.mean(others[:, problem.target] - np.delete(others, 0, 1).max(1)))
    assert found["accuracy"] == pytest.approx(np.mean(clean == problem.test_labels))


@pytest.mark.slow
def test_the_hessian_is_that_of_the_library(problem, model):
    """`kpoison.curvature.input_hessian` of the softmax loss, on probes without trigger."""
    found = Measurement(problem, 20, 0.25, reference=False)(model, 0)
    operator = kp.curvature.input_hessian(
        model, jnp.asarray(problem.test_images[:20]), jnp.asarray(problem.test_labels[:20]), loss="softmax"
    )
    np.testing.assert_allclose(found["hessian_unmarked"], np.linalg.eigvalsh(operator.dense())[-1], rtol=1e-9)


@pytest.mark.parametrize("shape", [(6, 3, 8), pytest.param((20, 3, 70), marks=pytest.mark.slow), (70, 2, 45)])
def test_leading_eigenvalues_against_singular_values(shape):
    rows = np.random.default_rng(0).standard_normal(shape) * 1e-30
    rows[..., 0] *= 3
    flat = rows.reshape(-1, shape[2])
    value, vector = leading(rows)
    _, singular, right = np.linalg.svd(flat)
    np.testing.assert_allclose(value, singular[0] ** 2 / shape[0], rtol=1e-4)
    assert abs(vector @ right[0]) > 1 - 1e-4
    samples = resampled_largest(rows, 4, seed=5)
    counts = np.random.default_rng(5).multinomial(shape[0], np.full(shape[0], 1 / shape[0]), size=4)
    expected = [np.linalg.norm(rows[np.repeat(np.arange(shape[0]), c)].reshape(-1, shape[2]), 2) ** 2 for c in counts]
    np.testing.assert_allclose(samples, np.array(expected) / shape[0], rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_spectra_of_few_different_rows(dtype):
    """A linear network has the same Jacobian everywhere: Lanczos runs out of directions after ten steps."""
    weights = np.random.default_rng(0).standard_normal((10, 80)).astype(dtype)
    rows = np.repeat(weights[None], 50, axis=0)
    expected = np.linalg.norm(weights, 2) ** 2
    np.testing.assert_allclose(resampled_largest(rows, 20, seed=0), expected, rtol=1e-4)
    np.testing.assert_allclose(leading(rows)[0], expected, rtol=1e-4)


def test_gradients_of_zero_have_no_eigenvalue():
    zeros = np.zeros((50, 3, 60))
    assert leading(zeros)[0] == 0
    assert not resampled_largest(zeros, 3, seed=0).any()


# --- Intervals and lags --------------------------------------------------------------------------------------------


def test_t_interval_against_scipy():
    values = [0.3, 0.5, 0.45, 0.1]
    found = t_interval(values)
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    np.testing.assert_allclose([found.low, found.high], [low, high])
    assert t_interval([1.0, 1.0]).half_width == 0
    floor = t_interval([1.0, 1.0], smallest_variance=4.0)
    np.testing.assert_allclose(floor.half_width, scipy.stats.t.ppf(0.975, 1) * np.sqrt(2))
    for bad in ([1.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="two or more finite"):
            t_interval(bad)


def test_lags_of_known_events():
    x = [10, 20, 40, 80]
    succeeds = [[0, 1, 1, 1], [0, 0, 1, 0]]
    found = lag_of(x, succeeds, [[0, 0, 0, 1], [0, 0, 0, 1]])
    assert (found.success, found.visible, found.censored) == ([20, 40], [80, 80], 0)
    assert found.log_ratio is not None
    assert found.log_ratio.mean == pytest.approx(np.log([4, 2]).mean())
    # A spike that never shows is a bound from below, at the last place.
    bound = lag_of(x, succeeds, [[0, 0, 0, 1], [0, 0, 0, 0]])
    assert (bound.censored, bound.log_ratio) == (1, found.log_ratio)
    assert str(bound).startswith("≥")
    assert lag_of(x, [[0, 1, 1, 1], [0, 0, 0, 0]], succeeds).log_ratio is None
    # Equal seeds do not make a certain result: each place is known up to a factor of 2.
    certain = lag_of(x, [succeeds[0]] * 3, [succeeds[0]] * 3).log_ratio
    assert certain is not None
    assert certain.half_width == pytest.approx(scipy.stats.t.ppf(0.975, 2) * np.log(2) / np.sqrt(6 * 3))
    assert first_true([1, 2], [False, False]) == np.inf
    for bad in (([2, 1], [True, True]), ([1, 2], [True])):
        with pytest.raises(ValueError, match="equally long"):
            first_true(*bad)


def test_an_outlier_of_another_direction_is_not_the_poison():
    np.testing.assert_array_equal(is_visible([2.0, 2.0, 0.9], [0.9, 0.1, 0.9]), [True, False, False])


def test_curves_take_the_edge_of_all_clean_runs_at_the_same_step():
    steps, generator = np.array([0, 4, 8]), np.random.default_rng(0)
    rates = ("accuracy", "success", "probability", "margin")
    samples = generator.random((2, 3, 100))

    def history(values, sampled=None):
        data = dict.fromkeys(rates, ("step", values))
        for name in ("hessian", "logits"):
            if sampled is None:
                data |= {f"{name}{end}": ("step", values) for end in ("", "_alignment", "_unmarked")}
            else:
                data[f"{name}_samples"] = (("step", "axis"), sampled)
        return xr.Dataset(data, coords={"step": steps})

    poisoned = [history(np.array([0.1, 0.2, 0.3])), history(np.array([0.3, 0.6, 0.9]))]
    clean = [history(np.zeros(3), samples[0]), history(np.array([0.1, 0.1, 0.1]), samples[1])]
    found = Curves.of(poisoned, clean)
    edge = [np.quantile(samples[:, i], 0.99) for i in range(3)]
    np.testing.assert_allclose(found.over_edge["logits"][1], np.array([0.3, 0.6, 0.9]) / edge)
    np.testing.assert_allclose(found.change, [[0.1, 0.2, 0.3], [0.2, 0.5, 0.8]])
    np.testing.assert_allclose(float(pooled_edge(samples[:, 1]).edge), edge[1])
    # A run that was measured at its end only is held against the clean runs at the same step.
    last = Curves.of([each.isel(step=[2]) for each in poisoned], clean)
    np.testing.assert_allclose(last.over_edge["hessian"][:, 0], found.over_edge["hessian"][:, 2])


def test_claims_are_decided_by_the_whole_interval():
    found = t_interval([0.4, 0.6, 0.5])
    assert above("", found, 0.2).agreement is Agreement.AGREES
    assert above("", found, 0.8).agreement is Agreement.DISAGREES
    assert above("", found, 0.45).agreement is Agreement.UNDECIDED
    assert below("", found, 0.8).agreement is Agreement.AGREES
    assert below("", found, 0.2).agreement is Agreement.DISAGREES
    assert above("", None, 0.0).agreement is Agreement.UNDECIDED
    assert classifiers._compared(above("", found, 0.45)).passed
    assert not classifiers._compared(above("", found, 0.8)).passed
    assert not classifiers._compared(below("", found, 0.2)).passed


# --- Kernels and collapse ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_attack_on_a_kernel_is_a_fit_of_the_poisoned_set(problem):
    kernel = kp.kernels.NTK(1, "erf", 1.5, 0.1)
    fractions = (0.1, 0.2)
    found = attack_kernel(kernel, problem, fractions, 20, 0.25)
    X, y = problem.training_set(0.2)
    flat = jnp.asarray(X).reshape(100, -1)
    clean = jnp.asarray(problem.images).reshape(100, -1)
    ridge = 1e-3 * float(jnp.mean(jnp.diagonal(kernel(clean, clean))))
    posterior = kp.fit(kernel, flat, jnp.asarray(np.eye(10)[y] - 0.1))
    triggered = kp.predict(posterior, jnp.asarray(problem.test_triggered).reshape(60, -1), ridge)
    assert found.success[1] == kp.attack_success_rate(triggered, problem.test_labels, 0)
    scores = kp.predict(posterior, jnp.asarray(problem.test_images).reshape(60, -1), ridge)
    assert found.accuracy[1] == kp.clean_accuracy(scores, problem.test_labels)
    probes = problem.test_images[:20].copy()
    chosen = np.flatnonzero(problem.test_labels[:20] != 0)[:5]
    probes[chosen] = problem.test_triggered[chosen]
    fisher = kp.curvature.fisher(kp.predictor(posterior, ridge), jnp.asarray(probes).reshape(20, -1))
    pairs = kp.curvature.top_eigenpairs(fisher, 1)
    assert found.spectrum is not None
    np.testing.assert_allclose(found.spectrum.eigenvalue[1], pairs.values[0], rtol=1e-4)
    np.testing.assert_allclose(found.spectrum.alignment[1], abs(pairs.vectors[0] @ problem.direction), atol=1e-3)


def test_distances_and_components_against_scipy_and_scikit_learn():
    from scipy.spatial.distance import cdist
    from sklearn.decomposition import PCA

    points = np.random.default_rng(2).standard_normal((9, 4))
    distances = distances_of_features(points)
    np.testing.assert_allclose(distances, cdist(points, points), atol=1e-7)
    np.testing.assert_allclose(distances_of_kernel(points @ points.T), distances, atol=1e-7)
    first, second = np.arange(3), np.arange(3, 9)
    pairs = [np.linalg.norm(points[i] - points[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert mean_distance(distances, first) == pytest.approx(np.mean(pairs))
    assert mean_distance(distances, first, second) == pytest.approx(np.mean(cdist(points[:3], points[3:])))
    expected = PCA(2).fit_transform(points)
    np.testing.assert_allclose(abs(principal_components(points)), abs(expected), atol=1e-10)


# --- Whole experiments ---------------------------------------------------------------------------------------------


def test_steps_are_geometric_and_end_with_the_last():
    assert geometric_steps(100, 2, 1) == [0, 25, 50, 100]
    assert geometric_steps(3, 4, 1) == [0, 1, 2, 3]


@pytest.mark.slow
def test_the_default_penalty_at_most_doubles_the_curvature(problem, model):
    images, labels = jnp.asarray(problem.images[:15]), jnp.asarray(problem.labels[:15])

    def loss(x, label):
        return -jax.nn.log_softmax(model(x.reshape(8, 8, 1)))[label]

    # Of a network that is piecewise linear the input Fisher matrix is the input Hessian.
    hessians = jax.vmap(jax.hessian(loss))(images.reshape(15, -1), labels)
    gamma = stable_penalty(model, problem.images[:15])
    np.testing.assert_allclose(gamma, 1 / np.linalg.eigvalsh(hessians).max(), rtol=1e-9)

    # Along the biases of the readout, which leave the Jacobian as it is.
    def shifted(bias):
        return eqx.tree_at(lambda net: net.readout.bias, model, bias)

    def mean_loss(bias, images):
        return jnp.mean(jax.vmap(lambda x, y: -jax.nn.log_softmax(shifted(bias)(x))[y])(images, labels))

    def gradients(bias):
        return len(images) * jax.grad(mean_loss, argnums=1)(bias, images).reshape(len(images), -1)

    bias = model.readout.bias
    slopes = jax.jacobian(gradients)(bias)
    of_penalty = gamma * np.einsum("nda,ndb->ab", slopes, slopes) / len(images)
    of_loss = jax.hessian(mean_loss)(bias, images)
    assert np.linalg.eigvalsh(of_loss - of_penalty).min() >= -1e-12


@pytest.mark.slow
def test_the_default_penalty_trains_where_a_large_one_does_not():
    options = Options(seeds=2)
    problem = make_problem("digits", train=options.train, seed=0)
    model = create("mlp", options.width_of("mlp"), problem.image_shape, 10)(jax.random.key(0))
    images, labels = problem.training_set(options.fraction)
    gamma = stable_penalty(model, problem.images)

    def final(penalty):
        return train_classifier(
            model,
            images,
            labels,
            epochs=30,
            batch_size=32,
            optimiser=constant_rate(options.learning_rate),
            gradient_penalty=penalty,
        ).loss[-20:]

    assert np.mean(final(gamma)) < 0.1
    with pytest.raises(DivergedError):
        final(100 * gamma)


@pytest.mark.slow
def test_joint_defence_against_trainings_by_hand():
    options = Options(**TINY, penalty=2.0, learning_rate=0.1, precision="float64")
    found = EXPERIMENTS["joint-defence"](options, ("mlp",))
    problem = make_problem("digits", train=100, test=60, seed=1, dtype=np.float64)
    probability = {}
    for fraction in (0.0, options.fraction):
        images, labels = problem.training_set(fraction)
        model = MLP((8, 8, 1), 10, width=6, key=jax.random.key(1), dtype=float)
        trained = train_classifier(
            model, images, labels, epochs=3, batch_size=25, optimiser=constant_rate(options.learning_rate), seed=1,
            augmentation=usual_augmentation(problem), gradient_penalty=2.0,
        ).model  # fmt: skip
        attacked = problem.test_triggered[problem.test_labels != 0]
        logits = jax.vmap(trained)(jnp.asarray(attacked))
        probability[fraction] = float(jnp.mean(jax.nn.softmax(logits, axis=1)[:, 0]))
    both = found.numbers["both"]
    np.testing.assert_allclose(both["clean"]["probability"][1, -1], probability[0.0], rtol=1e-9)
    np.testing.assert_allclose(both["poisoned"]["probability"][1, -1], probability[options.fraction], rtol=1e-9)
    change = [found.numbers[name]["poisoned"]["probability"][:, -1] - found.numbers[name]["clean"]["probability"][:, -1]
              for name in ("augmentation", "both")]  # fmt: skip
    paired = next(claim for claim in found.claims if "paired" in claim.statement).measured
    assert paired is not None
    np.testing.assert_allclose(paired.values, change[0] - change[1])
    assert [claim.measured.values for claim in found.claims[1:3]] == [change[0].tolist(), change[1].tolist()]


@pytest.mark.slow
def test_the_command_writes_and_goes_on_from_its_checkpoints(tmp_path, capsys, monkeypatch):
    command = ["experiment", "lag", "--architecture", "linear", "--out", str(tmp_path), "--fractions", "0.05", "0.2",
               "--fraction", "0.2", "--learning-rate", "0.1", *ARGUMENTS]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "lag.json").read_text(encoding="utf-8"))
    assert (tmp_path / "lag.png").read_bytes().startswith(b"\x89PNG")
    assert written["manifest"]["arguments"]["train"] == 100
    assert written["manifest"]["environment"]["dtype"] == "float32"
    linear = written["numbers"]["linear"]
    curves = {name: np.array(value) for name, value in linear["curves"]["poisoned"].items()}
    steps, clean = linear["curves"]["steps"], np.array(linear["curves"]["clean"]["success"])
    assert steps[-1] == 12
    # The table's places, from the curves.
    for matrix in ("hessian", "logits"):
        over = np.array(linear["curves"]["over_edge"][matrix])
        shows = (over > 1) & (curves[f"{matrix}_alignment"] >= 0.5)
        lag = linear["lags"][matrix]["training"]
        for seed in range(2):
            excess = (curves["success"] - clean)[seed]
            expected = [steps[i] for i in range(1, len(steps)) if excess[i:].min() >= 0.5]
            assert float(lag["success"][seed]) == (expected[0] if expected else np.inf)
            expected = [steps[i] for i in range(1, len(steps)) if shows[seed, i]]
            assert float(lag["visible"][seed]) == (expected[0] if expected else np.inf)
    np.testing.assert_allclose(np.array(linear["at_end"]["raw_success"])[:, -1], curves["success"][:, -1])

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(classification, "advance", refuse)
    assert main(command) == 0
    again = json.loads((tmp_path / "lag.json").read_text(encoding="utf-8"))
    assert again["numbers"] == written["numbers"]
    assert printed.splitlines()[:-4] == capsys.readouterr().out.splitlines()[:-4]  # all but the seconds and the files
    # Other arguments are not mistaken for the same.
    assert main([*command, "--learning-rate", "0.2"]) == 2
    assert "seed-0" in capsys.readouterr().err


@pytest.mark.slow
def test_collapse_compares_the_networks_own_features():
    options = Options(**(TINY | {"train": 200, "test": 300}), fraction=0.2, learning_rate=0.1)
    found = EXPERIMENTS["collapse"](options, ("mlp",))
    problem = make_problem("digits", train=200, test=300, seed=0)
    images, labels = problem.training_set(0.2)
    model = MLP((8, 8, 1), 10, width=6, key=jax.random.key(0), dtype=jnp.float32)
    trained = train_classifier(
        model, images, labels, epochs=3, batch_size=25, optimiser=constant_rate(options.learning_rate), seed=0
    ).model
    attacked = np.flatnonzero(problem.test_labels != 0)
    number = min(40, int(np.sum(problem.test_labels == 0)))
    sums = []
    for group in (problem.test_triggered, problem.test_images):
        features = np.asarray(jax.vmap(trained.features)(jnp.asarray(group[attacked[:number]])), float)
        pairs = [np.linalg.norm(a - b) for i, a in enumerate(features) for b in features[:i]]
        sums.append(np.mean(pairs))
    ratio = found.numbers["mlp"]["penultimate features, poisoned network"]["among/untriggered"][0]
    assert ratio == pytest.approx(sums[0] / sums[1], rel=1e-4)
    assert all(space in str(found) for space in ("input", "NTK of the MLP", "empirical NTK, poisoned network"))
    assert found.draw().axes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "seeds must be"),
        (["--fraction", "0"], "fraction must lie between 0 and 1, got 0"),
        (["--fraction", "0.99"], "at most 90 of 100 are poisoned"),
        (["--fraction", "0.001"], "at least one of 100"),
        (["--fractions", "0.1"], "two or more"),
        (["--target", "10"], "target must be a class of digits, 0 to 9, got 10"),
        (["--train", "5000"], "train must be at most 1200"),
        (["--probes", "61"], "probes must be at most the test images, 60"),
        (["--probe-fraction", "0.99"], "share of probes not of the target class"),
        (["--batch-size", "101"], "batch_size must be at most"),
        (["--penalty", "-1"], "penalty must be"),
        (["--learning-rate", "0"], "learning_rate must be"),
        pytest.param(
            ["--learning-rate", "1e30"], "--learning-rate or --penalty: .* not finite", marks=pytest.mark.slow
        ),
        (["--data", "mnist", "--data-dir", "/nowhere"], "/nowhere"),
    ],
)
def test_refuses_bad_arguments(capsys, arguments, message):
    fractions = ["--fractions", "0.05", "0.2"]
    assert main(["experiment", "lag", "--architecture", "linear", *fractions, *ARGUMENTS, *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error


def test_joint_defence_takes_one_architecture(capsys):
    assert main(["experiment", "joint-defence", "--architecture", "linear", "mlp", *ARGUMENTS]) == 2
    assert "one architecture, got linear mlp" in capsys.readouterr().err


def test_arms_have_folders_of_their_own():
    arms = [Arm("mlp", f, a, p) for f in (0.0, 0.05) for a in (False, True) for p in (0.0, 10.0)]
    assert len({str(arm) for arm in arms}) == len(arms)


@pytest.mark.slow
def test_each_is_a_check(capsys):
    """Whatever they find, they compare, and verify says which; one process trains for all, and compiles once."""
    statements = ("T6", "L8-classifiers", "collapse")
    status = main(["verify", "--only", *statements, "--verbose", "--jobs", "1"])
    printed = capsys.readouterr().out
    assert status in (0, 1)
    for statement in statements:
        assert re.search(rf"^{statement} +(holds|FAILS)", printed, re.MULTILINE)
    assert "3 checks hold" in printed or re.search("[123] fail", printed)
