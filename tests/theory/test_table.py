"""The table of triggers: its plan, its numbers against a training by hand, crops, resuming, what it refuses."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kpoison.cli import main
from kpoison.experiments.architectures import Cropped, create
from kpoison.experiments.catalogue import EXPERIMENTS
from kpoison.experiments.options import Options
from kpoison.experiments.plan import Plan, Work, _Timed, plan
from kpoison.experiments.problem import crops_with_flips, make_problem
from kpoison.experiments.training import Arm, Trainer, constant_rate
from kpoison.networks import MLP, classification, train_classifier

TINY = {"train": 100, "test": 60, "probes": 20, "seeds": 2, "width": 4, "batch_size": 50}


@pytest.fixture(scope="module")
def problem():
    return make_problem("digits", train=100, test=60, dtype=np.float32)


def test_a_crop_is_a_piece_or_its_mirror_image(problem):
    """Each of the 3 × 3 pieces of 6 pixels a side, and each mirrored, is what a network sees after some key."""
    image = jnp.asarray(problem.images[0])
    augment = crops_with_flips(problem, 6)
    seen = jax.vmap(lambda key: augment(image, key)[1:7, 1:7])(jax.random.split(jax.random.key(0), 300))
    pieces = [
        piece[:, ::s] for i in range(3) for j in range(3) for piece in [image[i : i + 6, j : j + 6]] for s in (1, -1)
    ]
    distances = np.abs(np.asarray(seen)[:, None] - np.asarray(pieces)[None]).max(axis=(2, 3, 4))
    assert np.all(distances.min(axis=1) < 1e-5)
    assert len(set(distances.argmin(axis=1))) == 18


def test_a_cropped_network_sees_the_middle(problem):
    model = create("mlp", 5, (6, 6, 1), 10)(jax.random.key(0))
    cropped = Cropped((8, 8, 1), model)
    image = jnp.asarray(problem.images[0])
    np.testing.assert_array_equal(cropped(image), model(image[1:7, 1:7]))
    np.testing.assert_array_equal(cropped.features(image), model.features(image[1:7, 1:7]))
    slope = np.array(jax.grad(lambda x: cropped(x)[0])(image))
    assert np.any(slope[1:7, 1:7])
    slope[1:7, 1:7] = 0
    assert not slope.any()


@pytest.mark.parametrize("crop", [8, 7, 0, 10])
def test_refuses_crops_that_have_no_middle(crop):
    with pytest.raises(ValueError, match="crop must be"), Trainer(Options(**TINY, crop=crop), (0.05,), 0, 1, None, 1):
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lengths": (3, 1)}, "lengths must increase"),
        ({"lengths": (1, 3), "epochs": 2}, "epochs must be the last of the lengths"),
        ({"minutes": 0.0}, "minutes must be"),
    ],
)
def test_refuses_bad_options(given, message):
    with pytest.raises(ValueError, match=message):
        Options(**TINY, **given)


def test_refuses_a_trigger_before_the_first_training():
    with pytest.raises(ValueError, match="--trigger warp: strength must"):
        EXPERIMENTS["table"](Options(**TINY, strength=50.0), ("mlp",))


def test_lengths_are_of_the_table():
    with pytest.raises(ValueError, match="lengths are of the table"):
        Trainer(Options(**TINY, lengths=(1, 3)), (0.05,), 3, 1, None, 1)


def test_an_estimate_adds_up():
    work = [Work(Arm("mlp", 0.1), 10), Work(Arm("mlp", 0.1, True, 1e-3), 5)]
    timed = _Timed("mlp", work, [(0.1, 2.0), (0.3, 4.0)], 50, 3)
    steps = 3 * 4
    side = 2 if jax.default_backend() == "cpu" else 1
    assert timed.minutes(200) == pytest.approx((10 * (12 * 0.1 + 2) + 5 * (12 * 0.3 + 4)) / 60 / side)
    found = timed.plan(200)
    assert f"15 trainings of mlp on 200 images, {steps} steps of 50" in found.words
    assert "300.0 ms (augmented and penalised)" in found.words


def test_a_kept_plan_is_taken_again_and_only_for_the_same_call(tmp_path):
    options = Options(**TINY)
    kept = Plan("mlp", 100, 1.5, "about this long")
    from kpoison.experiments import plan as module

    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(module, "_timed", lambda *_: kept)
        assert plan(options, ("mlp",), [], 60.0, tmp_path) == kept
        other = dataclasses.replace(kept, train=50)
        patched.setattr(module, "_timed", lambda *_: other)
        assert plan(options, ("mlp",), [], 60.0, tmp_path) == kept
        assert plan(options, ("mlp",), [], 30.0, tmp_path) == other


@pytest.mark.slow
def test_the_table_against_a_training_by_hand_and_from_its_checkpoints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kpoison.experiments.table.TRIGGERS", ("patch",))
    monkeypatch.setattr("kpoison.experiments.table._PENALTIES", 1)
    options = Options(**TINY, lengths=(1, 3), crop=6, fraction=0.2, fractions=(0.1, 0.2), penalty=0.1)
    found = EXPERIMENTS["table"](options, ("mlp",), tmp_path)
    said = capsys.readouterr().err
    assert said.startswith("table: 28 trainings of 3 epochs, of the first of mlp that there is time for in 60 minutes")
    rows = {tuple(row[:5]): row[5:] for row in found.tables[0].rows}
    assert len(found.tables[0].rows) == 2 * 2 * 3 * 2 == 2 * len(found.numbers["rows"])
    assert ("stochastic", "yes", "0.2", "0.1", "3") in rows
    (row,) = [
        row for row in found.numbers["rows"]
        if (row["poisons"], row["augmented"], row["fraction"], row["penalty"]) == ("fixed", False, 0.2, 0.0)
    ]  # fmt: skip
    problem = make_problem("digits", train=100, test=60, seed=1, margin=3)
    images, labels = problem.training_set(0.2)
    model = Cropped((8, 8, 1), MLP((6, 6, 1), 10, width=4, key=jax.random.key(1), dtype=jnp.float32))
    for i, epochs in enumerate((1, 3)):
        trained = train_classifier(
            model, images, labels, epochs=epochs, batch_size=50, optimiser=constant_rate(0.02), seed=1
        ).model
        predicted = np.argmax(jax.vmap(trained)(jnp.asarray(problem.test_images)), axis=1)
        assert row["accuracy"][1, i] == pytest.approx(np.mean(predicted == problem.test_labels))
    probes, chosen = problem.probes(20, 0.1)
    probes = probes.copy()
    probes[chosen] = problem.test_triggered[chosen]
    jacobians = np.asarray(jax.vmap(jax.jacrev(trained))(jnp.asarray(probes)), float).reshape(20, 10, -1)
    p = np.asarray(jax.nn.softmax(jax.vmap(trained)(jnp.asarray(probes))), float)
    hessian = sum(j.T @ (np.diag(q) - np.outer(q, q)) @ j for j, q in zip(jacobians, p, strict=True))
    # A layer of 4 neurons leaves 4 directions.
    vectors = np.linalg.eigh(hessian)[1][:, :-5:-1]
    along = (vectors.T @ problem.direction) ** 2
    np.testing.assert_allclose([row["hessian cos²"][1, 1], row["first 5"][1, 1]], [along[0], along.sum()], rtol=1e-3)
    assert found.draw().axes

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(classification, "advance", refuse)
    again = EXPERIMENTS["table"](options, ("mlp",), tmp_path)
    assert str(again.tables[0]) == str(found.tables[0])


@pytest.mark.slow
def test_preactivation_blocks_from_end_to_end(tmp_path):
    command = ["experiment", "collapse", "--architecture", "resnet", "--blocks", "2", "--width", "2", "--train", "20",
               "--test", "30", "--probes", "10", "--epochs", "1", "--seeds", "2", "--batch-size", "10", "--fraction",
               "0.2", "--probe-fraction", "0.2", "--out", str(tmp_path)]  # fmt: skip
    assert main(command) == 0
    written = json.loads((tmp_path / "collapse.json").read_text(encoding="utf-8"))
    assert written["manifest"]["arguments"]["blocks"] == 2
    assert np.isfinite(written["numbers"]["resnet"]["input"]["among/untriggered"]).all()
