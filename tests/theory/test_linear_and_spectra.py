"""Least squares beside its laws, and both Hessians of trained networks, against direct calculation."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from sklearn.linear_model import Ridge

from kpoison import curvature
from kpoison.cli import main
from kpoison.experiments import linear, spectra
from kpoison.experiments.linear import least_squares, moments, spectrum, stepwise
from kpoison.experiments.measuring import first_eigenpairs
from kpoison.experiments.options import Options
from kpoison.experiments.problem import make_problem
from kpoison.networks import MLP

TINY = {"train": 100, "test": 60, "probes": 20, "epochs": 2, "seeds": 2, "width": 4, "batch_size": 25}
GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.normal(size=(12, 5)), GENERATOR.normal(size=(12, 3))
U = np.array([0.6, 0.0, 0.8, 0.0, 0.0])


def test_least_squares_and_its_step_against_scikit_learn():
    reference = Ridge(alpha=12 * 0.3).fit(X, Y)
    B, b = least_squares(X, Y, 0.3)
    np.testing.assert_allclose(B, reference.coef_.T, rtol=1e-12)
    np.testing.assert_allclose(b, reference.intercept_, rtol=1e-12)
    step = stepwise(X, Y, U, 0.3)
    np.testing.assert_allclose(step.after, B, rtol=1e-10)
    across = Ridge(alpha=12 * 0.3).fit(X - np.outer(X @ U, U), Y)
    np.testing.assert_allclose(step.before, across.coef_.T, rtol=1e-10, atol=1e-14)


def test_spectra_of_rows_and_of_weights_against_the_matrix():
    """Both through RRᵀ and through RᵀR, and of fewer rows than eigenvectors."""
    B = GENERATOR.normal(size=(5, 3))
    values, vectors = np.linalg.eigh(B @ B.T)
    found, overlaps = spectrum(B, U)
    np.testing.assert_allclose(found, values[:1:-1], rtol=1e-10)
    np.testing.assert_allclose(overlaps, (U @ vectors)[:1:-1] ** 2, rtol=1e-8)
    for shape in ((2, 2, 5), (10, 1, 5)):
        rows = GENERATOR.normal(size=shape)
        flat = rows.reshape(-1, 5)
        values, vectors = np.linalg.eigh(flat.T @ flat / len(rows))
        rank = min(5, len(flat))
        found, overlaps = first_eigenpairs(rows, U, 7)
        np.testing.assert_allclose(found[:rank], values[: -rank - 1 : -1], rtol=1e-8)
        np.testing.assert_allclose(overlaps[:rank], ((U @ vectors) ** 2)[: -rank - 1 : -1], rtol=1e-8)
        assert not found[rank:].any()
        assert not overlaps[rank:].any()


def test_moments_of_three_classes():
    labels = np.array([0, 1, 2] * 4)
    means, moved, covariance = moments(X, X + U, labels)
    np.testing.assert_allclose(means[1], X[1::3].mean(axis=0))
    np.testing.assert_allclose(moved, means + U)
    expected = sum(4 / 12 * np.cov(X[c::3].T, bias=True) for c in range(3))
    np.testing.assert_allclose(covariance, expected, atol=1e-14)


@pytest.mark.parametrize("given", [{"crop": 6}, {"poisons": "stochastic"}])
def test_linear_refuses_what_is_of_networks(given):
    with pytest.raises(ValueError, match="crop and stochastic poisons are of networks"):
        linear.run(Options(**TINY, **given))
    with pytest.raises(ValueError, match="linear takes no architecture, got mlp"):
        linear.run(Options(**TINY), ("mlp",))


@pytest.mark.slow
def test_predictions_without_training_are_met_on_digits():
    """R1 and R2 from moments: within what seeds differ by and the Gaussian form of the scores leaves."""
    found = linear.run(dataclasses.replace(Options(train=800, test=400, seeds=3), fractions=(0.02, 0.1), fraction=0.05))
    numbers = found.numbers
    for name, law in (("success", "R1 success"), ("overlaps", "R2 cos²")):
        measured = numbers[name][..., 0] if name == "overlaps" else numbers[name]
        assert np.all(np.abs(measured.mean(axis=0) - numbers[law]) < 0.1), name
        # They can be told from no poison.
        assert numbers[law][-1] > 0.2
    assert numbers["success"][:, -1].mean() > 0.7
    assert len(found.tables[0].rows) == 4
    assert [claim.agreement for claim in found.claims] == ["agrees", "agrees"]
    assert len(found.draw().axes) == 4  # with the bar of colours


def test_parameter_hessian_against_automatic_differentiation():
    """Of both losses, in two batches; and the spectrum of its products."""
    model = MLP((2, 2, 1), 3, width=3, hidden_layers=1, activation="gelu", key=jax.random.key(0), dtype=float)
    flat, as_tree = ravel_pytree(model)
    images = GENERATOR.normal(size=(5, 2, 2, 1))
    goals = np.eye(3)[[0, 2, 1, 1, 0]]

    def losses(parameters):
        outputs = jax.vmap(as_tree(parameters))(jnp.asarray(images))
        squared = 0.5 * jnp.sum((outputs - goals) ** 2) / 5
        return jnp.stack([squared, -jnp.sum(goals * jax.nn.log_softmax(outputs)) / 5])

    expected = np.asarray(jax.jit(jax.hessian(losses))(flat))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kpoison.curvature.parameters._AT_ONCE", 2)
        for matrix, loss in zip(expected, ("squared", "softmax"), strict=True):
            operator = curvature.parameter_hessian(model, images, goals, loss=loss)
            assert operator.dimension == len(flat)
            np.testing.assert_allclose(operator.dense(), matrix, atol=1e-12 * np.abs(matrix).max())
    pairs = curvature.top_eigenpairs(operator, 2)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(expected[1])[:-3:-1], rtol=1e-7)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (jnp.sum, TypeError, "model must have floating-point arrays"),
        (3, TypeError, "f must be a predictor"),
    ],
)
def test_parameter_hessian_refuses_what_is_no_model(model, error, message):
    with pytest.raises(error, match=message):
        curvature.parameter_hessian(model, np.ones((2, 3)), np.ones(2))


@pytest.mark.slow
def test_the_share_of_the_poison_and_the_command(tmp_path):
    problem = make_problem("digits", train=60, test=60, dtype=np.float64)
    model = MLP((8, 8, 1), 10, width=3, hidden_layers=1, key=jax.random.key(2), dtype=float)
    values, share = spectra.parameter_spectrum(model, problem, 0.2, 0)
    images, labels = problem.training_set(0.2)
    flat, as_tree = ravel_pytree(model)

    def loss(parameters, which):
        logits = jax.nn.log_softmax(jax.vmap(as_tree(parameters))(jnp.asarray(images[which])))
        return -jnp.sum(logits[jnp.arange(len(which)), labels[which]]) / 60

    whole, own = (
        np.asarray(jax.hessian(loss)(flat, which)) for which in (np.arange(60), problem.order[: problem.count(0.2)])
    )
    eigenvalues, vectors = np.linalg.eigh(whole)
    np.testing.assert_allclose(values, eigenvalues[:-11:-1], rtol=1e-4)
    np.testing.assert_allclose(share, vectors[:, -1] @ own @ vectors[:, -1] / eigenvalues[-1], rtol=1e-3)
    sizes = {name.replace("_", "-"): str(value) for name, value in TINY.items() if name != "width"}
    arguments = [word for name, value in sizes.items() for word in (f"--{name}", value)]
    command = [
        "experiment",
        "spectra",
        "--width",
        "8",
        "--fraction",
        "0.2",
        "--fractions",
        "0.1",
        "0.2",
        "--out",
        str(tmp_path),
    ]
    assert main([*command, *arguments]) == 0
    written = json.loads((tmp_path / "spectra.json").read_text(encoding="utf-8"))["numbers"]["mlp"]
    assert np.array(written["hessian_overlaps"]).shape == (2, 3, 10)
    assert np.array(written["parameter_eigenvalues"]).shape == (2, 3, 10)
    assert not np.array(written["poison_share"])[:, 0].any()
    assert (tmp_path / "spectra.png").read_bytes().startswith(b"\x89PNG")
