"""The matrix on a few digits: its measurements against solves of its own, its predictions against measurements."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import kpoison as kp
from kpoison.cli import main
from kpoison.matrix import as_table, attack_defence_matrix, run, summarise
from kpoison.matrix.attacks import ATTACKS
from kpoison.matrix.defences import DEFENCES
from kpoison.matrix.defended import Defended
from kpoison.matrix.problem import Settings, make_problem
from kpoison.matrix.refit import Case

ARGUMENTS = {
    "attacks": ("near-clone", "label-flip"),
    "defences": ("nearest-neighbours", "spectral-signatures", "strip"),
    "seeds": 2,
    "train": 60,
    "test": 20,
    "fraction": 0.2,
    "progress": False,
}
COMMAND = [
    "matrix",
    "--attacks",
    "near-clone",
    "--defences",
    "centroid",
    "--seeds",
    "1",
    "--train",
    "60",
    "--test",
    "20",
]


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    return attack_defence_matrix("digits", **ARGUMENTS)


@pytest.fixture(scope="module")
def problem():
    return make_problem(Settings.checked("digits", 2, "rbf", 60, 20, 0.2, 1e-4, None), 0)


@pytest.mark.slow
def test_the_dataset(result):
    assert result.success.dims == ("attack", "defence", "seed")
    assert result.defence.values.tolist() == ["none", *ARGUMENTS["defences"]]
    assert result.picture.sizes == {"attack": 2, "kind": 4, "height": 8, "width": 8}
    for name in ("success", "clean_accuracy"):
        assert ((result[name] >= 0) & (result[name] <= 1)).all()
    assert set(json.loads(result.assumes)) == set(result.defence.values)
    assert all(json.loads(result.assumes).values())
    assert json.loads(result.arguments)["budget"] == 12
    # Nothing is detected without a detector, and the victims of flipped labels are the test images themselves.
    assert result.auroc.sel(defence="none").isnull().all()
    assert result.auroc.sel(defence="strip").isnull().values.tolist() == [[False, False], [True, True]]


@pytest.mark.slow
def test_predictions_are_those_of_the_refit(result):
    undefended = result.sel(defence="none")
    np.testing.assert_array_equal(undefended.predicted_success, undefended.success)
    assert (undefended.success.sel(attack="near-clone") > 0.5).all()
    seen = result.sel(attack="near-clone", defence="spectral-signatures")
    np.testing.assert_allclose(seen.predicted_auroc, seen.auroc, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        "near-clone",
        "patch",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("warp", "feature-collision", "bilevel")),
    ],
)
def test_without_defence_it_is_the_law(problem, attack):
    """Brute force on the data that the attack returns, against the clean posterior and the poison."""
    found = Case(problem, ATTACKS[attack](problem))
    assert found.is_poison.sum() == len(found.attack.data.X) - 60 == 12
    law = kp.predict(problem.clean, found.attack.victims, problem.settings.ridge, found.attack.poison)
    outputs = found.cross[20:] @ found.coefficients
    np.testing.assert_allclose(outputs[:, 0], law, atol=1e-8)
    np.testing.assert_allclose(found.at_points()(found.attack.victims), law, atol=1e-8)
    assert (found.attack.victim_labels != found.attack.target).all()


@pytest.mark.slow
def test_what_is_left_is_trained_anew(problem):
    found = Case(problem, ATTACKS["near-clone"](problem))
    kept = ~found.is_poison
    clean = kp.fit(problem.kernel, problem.X, problem.targets(problem.labels))
    law = np.concatenate([kp.predict(clean, x, 1e-4) for x in (problem.test, found.attack.victims)])
    np.testing.assert_allclose(found.outputs(kept)[:, 0], law, atol=1e-8)
    left = found.refitted(kept)
    np.testing.assert_array_equal(np.concatenate(left), law > 0)
    assert found.accuracy(left.test) == np.mean(left.test == problem.test_labels)
    assert found.accuracy(left.test, left.test == 0) == np.mean((left.test == 0) & (problem.test_labels == 0))
    assert found.success(left.victims, np.zeros(20, bool)) == 0
    assert not found.refitted(np.zeros(len(kept), bool)).test.any()


def test_parts_of_the_images_are_apart(problem):
    """Even classes, and no image in two parts."""
    assert np.bincount(problem.labels).tolist() == [30, 30]
    assert np.bincount(problem.test_labels).tolist() == [10, 10]
    assert (problem.targeted_labels == 0).all()
    parts = [problem.X, problem.test, problem.reference, problem.targeted]
    images = np.concatenate([np.asarray(part) for part in parts])
    assert len(np.unique(images, axis=0)) == len(images)


@pytest.mark.slow
@pytest.mark.parametrize("defence", ["input-projection", "projected-training"])
def test_projections_are_predicted(problem, defence):
    """The law's eigenvectors and predictions, both from the clean predictor, are those of the refit."""
    cases = [Case(problem, ATTACKS[attack](problem)) for attack in ("patch", "warp", "near-clone")]
    outcomes = [DEFENCES[defence](case, Defended(problem)) for case in cases]
    assert [outcome.predicted_success for outcome in outcomes] == [outcome.success for outcome in outcomes]
    before = [case.success(case.undefended.victims) for case in cases]
    assert before != [outcome.success for outcome in outcomes]
    assert np.isnan(
        DEFENCES[defence](Case(problem, ATTACKS["label-flip"](problem)), Defended(problem)).predicted_success
    )


@pytest.mark.slow
def test_votes_are_predicted(problem):
    outcome = DEFENCES["partition-aggregation"](Case(problem, ATTACKS["patch"](problem)), Defended(problem))
    assert outcome.predicted_success == outcome.success


@pytest.mark.slow
@pytest.mark.parametrize("name", ["augmentation", pytest.param("gradient-penalty", marks=pytest.mark.slow)])
def test_a_defended_training_is_measured_and_predicted(problem, name):
    found, defended = Case(problem, ATTACKS["near-clone"](problem)), Defended(problem)
    outcome, data = DEFENCES[name](found, defended), found.attack.data
    assert outcome.predicted_success == outcome.success
    # The same training of all points at once.
    if name == "augmentation":
        again = kp.fit(problem.kernel, *defended.augmented.copies(data.X, data.y))
    else:
        root = np.asarray(defended.penalised.posterior.observations.slope_operator)
        again = kp.fit(problem.kernel, data.X, data.y, gradient_penalty=1.0, metric=root.T @ root)
    classes = np.asarray(kp.predict(again, problem.test, 1e-4) > 0)
    assert outcome.clean_accuracy == np.mean(classes == problem.test_labels)


@pytest.mark.slow
def test_it_is_continued(result, tmp_path, monkeypatch):
    out = tmp_path / "matrix.nc"
    computed = []
    compute = run._Job.compute

    def counted(self, chunk):
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(chunk)
        return compute(self, chunk)

    monkeypatch.setattr(run._Job, "compute", counted)
    with pytest.raises(KeyboardInterrupt):
        attack_defence_matrix("digits", out=out, **ARGUMENTS)
    assert len(computed) == 3
    with pytest.raises(FileExistsError, match="arguments"):
        attack_defence_matrix("digits", out=out, **ARGUMENTS | {"ridge": 1e-3})
    again = []
    monkeypatch.setattr(run._Job, "compute", lambda self, chunk: again.append(chunk) or compute(self, chunk))
    with attack_defence_matrix("digits", out=out, **ARGUMENTS) as stored:
        assert again == [(1, "label-flip")]
        xr.testing.assert_equal(stored.drop_vars("seconds").load(), result.drop_vars("seconds"))
        assert stored.attrs["assumes"] == result.attrs["assumes"]
    assert not (tmp_path / "matrix.nc.parts").exists()
    attack_defence_matrix("digits", out=out, **ARGUMENTS).close()
    assert len(again) == 1


@pytest.mark.slow
def test_summary_and_table(result):
    summary = summarise(result)
    values = result.success.sel(attack="label-flip", defence="none").values
    cell = summary.success.sel(attack="label-flip", defence="none")
    assert cell.sel(statistic="mean") == pytest.approx(values.mean())
    assert cell.sel(statistic="half_width") == pytest.approx(12.7062047 * values.std(ddof=1) / 2**0.5)
    table = as_table(summary)
    assert [line for line in table.splitlines() if line.startswith("label-flip")]
    assert len(table.splitlines()) == 2 * (2 + 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": ("clone",)}, "attacks must be one of 'near-clone'"),
        ({"attacks": "patch"}, "attacks must be one or more names"),
        ({"attacks": ("patch", "patch")}, "attacks must be different"),
        ({"defences": ()}, "defences must be one or more names"),
        ({"defences": ("hope",)}, "defences must be one of 'none'"),
        ({"kernel": "cosine"}, "kernel must be one of 'rbf'"),
        ({"classes": 3}, "classes must be 2 or 10"),
        ({"classes": (3, 3)}, "different labels"),
        ({"classes": (3, 12)}, "different labels"),
        ({"seeds": 0}, "seeds must be an integer >= 1"),
        ({"fraction": 0.05}, "fraction must give between 5 poisons"),
        ({"fraction": 0.9}, "fraction must give between 5 poisons"),
        ({"ridge": 0.0}, "ridge must be finite and > 0"),
        ({"train": 3}, "train must be an integer >= 4"),
        ({"train": 2000}, "2000 over 2 classes asks for"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        attack_defence_matrix("digits", **ARGUMENTS | change)


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    assert main([*COMMAND, "--fraction", "0.01"]) == 2
    assert "fraction must give between 5" in capsys.readouterr().err
    assert main([*COMMAND, "--plot", str(tmp_path / "matrix.jpg")]) == 2
    out, plot, page = (tmp_path / f"matrix.{suffix}" for suffix in ("nc", "png", "html"))
    files = ["--out", str(out), "--plot", str(plot), "--page", str(page)]
    assert main([*COMMAND, "--fraction", "0.2", *files]) == 0
    printed = capsys.readouterr().out
    assert "near-clone, predicted and measured:\n  none: " in printed
    with xr.open_dataset(out, engine="h5netcdf") as stored:
        assert stored.success.sizes == {"attack": 1, "defence": 2, "seed": 1}
        assert jnp.isfinite(jnp.asarray(stored.picture.values)).all()
    assert plot.stat().st_size > 0
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_a_cluster_is_removed_where_the_others_put_it_in_another_class(problem):
    case = Case(problem, ATTACKS["warp"](problem))
    X, y = np.asarray(case.attack.data.X), np.asarray(case.attack.data.y)
    suspected = np.asarray(kp.defences.activation_clustering(case.features, case.labels, seed=problem.seed).suspected)
    gram = np.asarray(problem.kernel(X)) + len(X) * problem.settings.ridge * np.eye(len(X))
    kept, left = np.flatnonzero(~suspected), np.flatnonzero(suspected)
    found = np.asarray(problem.kernel(X[left], X[kept])) @ np.linalg.solve(gram[np.ix_(kept, kept)], y[kept])
    removed = np.zeros(len(X), bool)
    for label in np.unique(y[left]):
        cluster = left[y[left] == label]
        removed[cluster] = np.mean(np.sign(found[y[left] == label]) == label) < 0.5
    poison = np.asarray(case.is_poison)
    outcome = DEFENCES["exclusionary-reclassification"](case, Defended(problem))
    assert outcome.true_positive == np.mean(removed[poison])
    assert outcome.false_positive == np.mean(removed[~poison])
    # A cluster of clean points is spared.
    assert 0 == outcome.false_positive < np.mean(suspected[~poison])
