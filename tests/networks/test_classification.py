"""Training of classifiers: against a loop by hand, gradient penalty, resuming, seeds, accuracy, bad input."""

import json
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kpoison as kp
from kpoison.datasets import load_digits, load_mnist
from kpoison.networks import (
    MLP,
    SGD,
    Compose,
    CutOut,
    DivergedError,
    LeNet,
    LinearSoftmax,
    RandomCrop,
    ResNet,
    StochasticPoison,
    train_classifier,
    train_classifiers,
)
from kpoison.networks.steps import batch_objective

DIGITS = load_digits()
X, Y = DIGITS.images[:70], DIGITS.labels[:70]


def small(seed=0):
    return MLP((8, 8, 1), 10, width=5, hidden_layers=1, activation="gelu", key=jax.random.key(seed))


def accuracy(model, step):
    return {"accuracy": kp.clean_accuracy(jax.vmap(model)(X), Y), "weights": jnp.mean(model.readout.weight, axis=1)}


def run(**options):
    return train_classifier(small(), X, Y, **{"epochs": 3, "batch_size": 32, "seed": 5} | options)


def arrays(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))]


def same(first, second):
    """Bit for bit."""
    return all(np.array_equal(a, b) for a, b in zip(arrays(first), arrays(second), strict=True))


class KilledError(Exception):
    """Stands for a signal in the middle of a run."""


def killed_at(step):
    """`accuracy`, until this step."""
    # Its source differs from that of `accuracy`, so that both runs take this one.
    alive = {"until": step}

    def measure(model, now):
        if now == alive["until"]:
            raise KilledError
        return accuracy(model, now)

    return measure, alive


# --- What a step is -----------------------------------------------------------------------------------------------


def numpy_step(W, b, images, labels, rate, decay):
    """Softmax regression, one step of gradient descent with weight decay."""
    flat = images.reshape(len(images), -1)
    logits = flat @ W.T + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.mean(np.log(p[np.arange(len(p)), labels]))
    residual = (p - np.eye(10)[labels]) / len(p)
    return W - rate * (residual.T @ flat + decay * W), b - rate * (residual.sum(0) + decay * b), loss


@pytest.mark.slow
def test_equals_a_loop_by_hand():
    model = LinearSoftmax((8, 8, 1), 10, key=jax.random.key(1))
    steps, rates = 8, []
    for step in range(steps):
        rates.append(0.3 * (1 + np.cos(np.pi * step / steps)) / 2)
    result = train_classifier(
        model, X, Y, epochs=8, batch_size=70, optimiser=SGD(0.3, momentum=0, weight_decay=0.1), seed=3
    )
    W, b = np.asarray(model.readout.weight), np.asarray(model.readout.bias)
    losses = []
    for rate in rates:  # a batch of all images does not depend on their order
        W, b, loss = numpy_step(W, b, X, Y, rate, 0.1)
        losses.append(loss)
    np.testing.assert_allclose(result.loss, losses, rtol=1e-10)
    np.testing.assert_allclose(result.model.readout.weight, W, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.model.readout.bias, b, rtol=1e-9, atol=1e-12)


def test_batches_are_different_images_in_a_new_order_each_epoch():
    # Images that name themselves: the loss of a linear model with logits (x, 0) tells which images were in a batch.
    number = 12
    images = np.arange(number, dtype=float).reshape(number, 1, 1, 1)

    class Naming(eqx.Module):
        weight: jax.Array

        def __call__(self, image):
            return jnp.stack([jnp.zeros(()), self.weight * 2.0 ** image[0, 0, 0]])

    # log(1 + e^{w 2^i}) − log 2 ≈ w 2^i/2 for a tiny weight: the mean loss has the batch's binary number.
    result = train_classifier(
        Naming(jnp.asarray(1e-9)), images, np.zeros(number, int), epochs=3, batch_size=5,
        optimiser=optax.set_to_zero(), seed=2,
    )  # fmt: skip
    codes = np.round((result.loss - np.log(2)) * 5 * 2 / 1e-9).astype(int)
    batches = [{i for i in range(number) if code >> i & 1} for code in codes]
    assert len(batches) == 6  # 2 images are left out in each epoch
    assert all(len(batch) == 5 for batch in batches)
    assert all(not (batches[i] & batches[i + 1]) for i in (0, 2, 4))
    assert len({frozenset(batch) for batch in batches}) > 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "resnet"])
def test_gradient_penalty_against_each_image_on_its_own(kind):
    if kind == "mlp":
        model = small()
    else:
        model = ResNet((8, 8, 1), 10, width=2, activation="gelu", key=jax.random.key(0))
    images, labels = jnp.asarray(X[:3]), jnp.asarray(Y[:3])

    def loss(image, label):
        return -jax.nn.log_softmax(model(image))[label]

    # ‖∇ℓ‖² by central differences in every pixel.
    shifts = 1e-5 * jnp.eye(64).reshape(64, 8, 8, 1)
    slopes = jax.jit(
        jax.vmap(lambda x, y: jax.vmap(lambda s: (loss(x + s, y) - loss(x - s, y)) / 2e-5)(shifts))
    )(images, labels)  # fmt: skip
    value, (cross_entropy, penalty) = eqx.filter_jit(batch_objective)(model, images, labels, jnp.asarray(0.7))
    np.testing.assert_allclose(penalty, 0.35 * np.mean(np.sum(np.square(slopes), axis=1)), rtol=1e-6)
    np.testing.assert_allclose(
        cross_entropy, np.mean([loss(x, y) for x, y in zip(images, labels, strict=True)]), rtol=1e-10
    )
    np.testing.assert_allclose(value, cross_entropy + penalty, rtol=1e-12)


@pytest.mark.slow
def test_gradient_penalty_lowers_input_gradients():
    plain, penalised = run(epochs=20), run(epochs=20, gradient_penalty=3.0)
    assert not plain.penalty.any()
    assert penalised.penalty[-1] > 0

    def energy(model):
        def loss(image, label):
            return -jax.nn.log_softmax(model(image))[label]

        return float(jnp.mean(jnp.sum(jax.vmap(jax.grad(loss))(jnp.asarray(X), jnp.asarray(Y)) ** 2, axis=(1, 2, 3))))

    assert energy(penalised.model) < 0.7 * energy(plain.model)


@pytest.mark.slow
def test_augmentation_changes_every_step():
    seen = []

    def spy(image, key):
        jax.debug.callback(lambda value: seen.append(float(value)), jnp.sum(jax.random.uniform(key)))
        return image

    run(epochs=1, augmentation=spy)
    jax.effects_barrier()
    assert len(seen) == 64
    assert len(np.unique(seen)) == 64
    unlike = run(augmentation=Compose(RandomCrop(1), CutOut(3)))
    assert not same(unlike.model, run().model)


# --- Stochastic poisons -------------------------------------------------------------------------------------------


def white(image):
    return jnp.ones_like(image)


def test_poisons_are_drawn_at_every_visit_with_their_probability():
    """4,000 visits of 4 images: those of other classes are poisoned in 30 % of them, image and label together."""
    poison = StochasticPoison(white, 2, 0.3)
    images, labels = jnp.asarray(X[:4]) / 2, jnp.array([0, 2, 1, 2], jnp.int32)
    keys = jax.random.split(jax.random.key(0), (1000, 4))
    shown, classes = jax.jit(jax.vmap(lambda own: jax.vmap(poison)(images, labels, own)))(keys)
    hit = np.asarray(jnp.all(shown == 1, axis=(2, 3, 4)))
    np.testing.assert_array_equal(classes, np.where(hit, 2, labels))
    untouched = np.asarray(shown)[~hit]
    np.testing.assert_array_equal(untouched, np.broadcast_to(images, shown.shape)[~hit])
    share = hit.mean(axis=0)
    assert share[1] == share[3] == 0
    assert np.all(np.abs(share[[0, 2]] - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 1000))
    assert not np.array_equal(hit[:, 0], hit[:, 2])


@pytest.mark.slow
def test_training_sees_them():
    """Of probability 1 they are the fixed poisons of every image; of any, a batch has others at every step."""
    fixed = train_classifier(small(), jnp.where((Y != 3)[:, None, None, None], 1.0, X), np.full(len(Y), 3), epochs=2,
                             batch_size=70, seed=5)  # fmt: skip
    always = run(epochs=2, batch_size=70, poisoning=StochasticPoison(white, 3, 1.0))
    np.testing.assert_allclose(always.loss, fixed.loss, rtol=1e-12)
    seen = []

    def spy(image, label, key):
        jax.debug.callback(lambda value: seen.append(float(value)), jnp.sum(jax.random.uniform(key)))
        return image, label

    run(epochs=1, poisoning=spy)
    jax.effects_barrier()
    assert len(np.unique(seen)) == len(seen) == 64


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((white, 1, 0.0), ValueError, "probability must be finite and > 0, got 0.0"),
        ((white, 1, 1.1), ValueError, r"probability must lie in \(0, 1\], got 1.1"),
        ((white, -1, 0.5), ValueError, "target must be an integer >= 0, got -1"),
        ((3, 1, 0.5), TypeError, "(trigger must be a function|parameter 'trigger')"),
    ],
)
def test_poisons_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        StochasticPoison(*arguments)


# --- Repeating and resuming ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_seed_decides_everything():
    assert same(run().model, run().model)
    assert not same(run().model, run(seed=6).model)


@pytest.mark.slow
def test_a_killed_run_is_continued_bit_for_bit(tmp_path):
    options = {"measure_at": [0, 1, 3, 5], "optimiser": optax.adam(1e-2), "augmentation": RandomCrop(1), "epochs": 3}
    measure, alive = killed_at(None)
    whole = run(measure=measure, **options)
    measure, alive = killed_at(5)
    with pytest.raises(KilledError):
        run(measure=measure, folder=tmp_path / "run", **options)
    assert [path.name[:6] for path in (tmp_path / "run").glob("*.npz")] == ["000004"]
    alive["until"] = None
    continued = run(measure=measure, folder=tmp_path / "run", **options)
    again = run(measure=measure, folder=tmp_path / "run", **options)
    for result in (continued, again):
        assert same(whole.model, result.model)
        np.testing.assert_array_equal(whole.loss, result.loss)
        assert whole.history.identical(result.history)
    assert continued.manifest == again.manifest
    json.dumps(continued.manifest)
    assert continued.history.weights.dims == ("step", "weights_axis0")
    np.testing.assert_array_equal(continued.history.step, [0, 1, 3, 5])


@pytest.mark.slow
def test_booleans_are_two_classes():
    model, labels = MLP((8, 8, 1), 2, width=3, key=jax.random.key(0)), Y > 4
    numbered = train_classifier(model, X, labels.astype(int), epochs=1, batch_size=32)
    for given in (labels, jnp.asarray(labels)):
        assert same(train_classifier(model, X, given, epochs=1, batch_size=32).model, numbered.model)


@pytest.mark.slow
@pytest.mark.parametrize("measured", [None, [0, 3, 5]])
def test_more_epochs_in_the_same_folder_are_those_of_one_run(tmp_path, measured):
    options = {"optimiser": optax.adam(1e-2), "measure": accuracy, "batch_size": 32}
    later = None if measured is None else [*measured, 9]
    whole = run(**options, epochs=5, measure_at=later)
    run(**options, folder=tmp_path / "run", epochs=3, measure_at=measured)
    continued = run(**options, folder=tmp_path / "run", epochs=5, measure_at=later)
    again = run(**options, folder=tmp_path / "run", epochs=5, measure_at=later)
    for result in (continued, again):
        assert same(whole.model, result.model)
        np.testing.assert_array_equal(whole.loss, result.loss)
        assert whole.history.identical(result.history)
    with pytest.raises(FileExistsError, match=r"other arguments \(epochs"):
        run(**options, folder=tmp_path / "run", epochs=3, measure_at=measured)
    with pytest.raises(FileExistsError, match=r"other arguments \(epochs, measure_at"):
        run(**options, folder=tmp_path / "run", epochs=6, measure_at=[0, 1, 12])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 6}, "seed"),
        ({"epochs": 4}, "epochs"),
        ({"optimiser": SGD(0.06)}, "program_hash"),
        ({"augmentation": RandomCrop(2)}, "program_hash"),
        ({"gradient_penalty": 0.1}, "gradient_penalty"),
        ({"metadata": {"data": "others"}}, "metadata"),
        ({"measure": lambda model, step: {"one": 1}}, "measure"),
    ],
)
def test_a_changed_argument_is_refused(tmp_path_factory, finished, changed, named):
    with pytest.raises(FileExistsError, match=rf"training run in the making with other arguments \(.*{named}"):
        run(folder=finished, measure=changed.pop("measure", accuracy), **changed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(folder=folder, measure=accuracy)
    return folder


def test_other_data_or_another_start_are_refused(finished):
    with pytest.raises(FileExistsError, match="data_hash"):
        train_classifier(small(), X[::-1].copy(), Y, epochs=3, batch_size=32, seed=5, measure=accuracy, folder=finished)
    with pytest.raises(FileExistsError, match="initial_hash"):
        train_classifier(small(1), X, Y, epochs=3, batch_size=32, seed=5, measure=accuracy, folder=finished)


def test_what_a_measurement_closes_over_counts(tmp_path):
    def scaled(factor):
        return lambda model, step: {"a": factor * step}

    run(folder=tmp_path / "run", measure=scaled(1.0), epochs=1)
    with pytest.raises(FileExistsError, match="measure"):
        run(folder=tmp_path / "run", measure=scaled(2.0), epochs=1)
    again = run(folder=tmp_path / "run", measure=scaled(1.0), epochs=1)
    np.testing.assert_array_equal(again.history.a, again.history.step)


def test_damage_is_noticed(tmp_path):
    folder = tmp_path / "run"
    run(folder=folder)
    (checkpoint,) = folder.glob("*.npz")
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged: its checksum is .* Delete it to compute that checkpoint again"):
        run(folder=folder)
    checkpoint.unlink()
    assert same(run(folder=folder).model, run().model)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        run(folder=folder)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("42")
    with pytest.raises(FileExistsError, match="folder must be new"):
        run(folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(FileNotFoundError, match="folder must lie in a folder that exists"):
        run(folder=tmp_path / "a" / "b")


@pytest.mark.slow
def test_another_process_continues(tmp_path):
    """What identifies a run does not depend on the process, its hash seed or addresses."""
    script = (
        "import jax; jax.config.update('jax_enable_x64', True)\n"
        "from kpoison.networks import LeNet, RandomCrop, train_classifier\n"
        "from kpoison.datasets import load_digits\n"
        "import sys; d = load_digits()\n"
        "m = LeNet((8, 8, 1), 10, width=2, key=jax.random.key(0))\n"
        "r = train_classifier(m, d.images, d.labels, epochs=1, folder=sys.argv[1], augmentation=RandomCrop(1))\n"
        "print(r.manifest['identity'], float(r.loss.sum()).hex())\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / name)], check=True, capture_output=True, text=True
        ).stdout
        for name in ("run", "run", "other")
    }
    assert len(found) == 1


# --- Ensembles ----------------------------------------------------------------------------------------------------


def test_ensemble_keeps_each_seed(tmp_path):
    def create(key):
        return MLP((8, 8, 1), 10, width=5, hidden_layers=1, activation="gelu", key=key)

    options = {"epochs": 2, "batch_size": 32, "measure": accuracy}
    result = train_classifiers(create, X, Y, seeds=(4, 7), folder=tmp_path / "seeds", **options)
    assert dict(result.history.sizes) == {"seed": 2, "step": 3, "weights_axis0": 10}
    np.testing.assert_array_equal(result.history.seed, [4, 7])
    alone = train_classifier(create(jax.random.key(7)), X, Y, seed=7, **options)
    assert same(result.runs[1].model, alone.model)
    np.testing.assert_array_equal(result.history.accuracy.sel(seed=7), alone.history.accuracy)
    assert not same(result.runs[0].model, result.runs[1].model)
    assert sorted(path.name for path in (tmp_path / "seeds").iterdir()) == ["seed-4", "seed-7"]
    for seeds, message in (((1, 1), "seeds must be different"), (0, "seeds must be an integer >= 1"), ((), "at least")):
        with pytest.raises(ValueError, match=message):
            train_classifiers(create, X, Y, seeds=seeds, **options)


# --- Learning -----------------------------------------------------------------------------------------------------


def split(dataset, number):
    order = np.random.default_rng(0).permutation(len(dataset))
    return dataset.subset(order[:number]), dataset.subset(order[number:])


@pytest.mark.slow
def test_lenet_learns_digits():
    train, test = split(load_digits(np.float32), 1400)
    model = LeNet((8, 8, 1), 10, dtype=jnp.float32, key=jax.random.key(0))

    def measure(model, step):
        return {"accuracy": kp.clean_accuracy(jax.vmap(model)(test.images), test.labels)}

    result = train_classifier(
        model, train.images, train.labels, epochs=12, batch_size=64, optimiser=SGD(0.1), measure=measure
    )
    assert result.loss.dtype == np.float32
    assert result.history.accuracy[0] < 0.3
    assert result.history.accuracy[-1] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "width", "rate", "shrink", "options"),
    [
        (LeNet, 6, 0.1, 1, {"epochs": 2}),
        # Means over all pixels of few channels: what tells digits apart has to be learnt by the convolutions, which
        # takes three times the steps: of a quarter of the pixels, from which as much is learnt.
        (ResNet, 8, 0.3, 2, {"epochs": 3, "batch_size": 64}),
    ],
    ids=["LeNet", "ResNet"],
)
def test_learns_mnist(data_dir, kind, width, rate, shrink, options):
    def read(part, number):
        chosen = load_mnist(data_dir, part, dtype=np.float32).subset(np.arange(number))
        size = 28 // shrink
        return chosen.images.reshape(number, size, shrink, size, shrink, 1).mean((2, 4)), chosen.labels

    (images, labels), (unseen, expected) = read("train", 10_000), read("test", 1000)
    model = kind(images.shape[1:], 10, width=width, dtype=jnp.float32, key=jax.random.key(0))
    result = train_classifier(model, images, labels, optimiser=SGD(rate), **options)
    found = float(kp.clean_accuracy(jax.vmap(result.model)(unseen), expected))
    print(kind, found)
    assert found > 0.93


# --- Bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": len}, TypeError, "model must be a function of one image with arrays to train, got builtin"),
        ({"images": X[0]}, ValueError, "images must have shape"),
        ({"images": X[:, :, :7]}, ValueError, r"model must accept an image of shape \(8, 7, 1\)"),
        ({"images": np.where(X.max() == X, np.nan, X)}, ValueError, "images must be finite"),
        ({"images": X.astype(int)}, TypeError, "images must be a floating-point array"),
        ({"labels": Y + 1}, ValueError, r"labels must lie in 0..9, as model has 10 logits, got 1 to 10"),
        ({"labels": Y - 1}, ValueError, "got -1 to 8"),
        ({"labels": Y[:-1]}, ValueError, r"labels must have shape \(70,\), one for each image, got \(69,\)"),
        ({"labels": Y.astype(float)}, TypeError, "labels must be integers, got dtype float64"),
        ({"epochs": 0}, ValueError, "epochs must be an integer >= 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1"),
        ({"batch_size": 71}, ValueError, "batch_size must be at most the number of images, 70, got 71"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
        ({"gradient_penalty": -1.0}, ValueError, "gradient_penalty must be finite and >= 0"),
        ({"gradient_penalty": np.inf}, ValueError, "gradient_penalty must be finite"),
        ({"optimiser": 0.1}, TypeError, "(optimiser must be an optax.GradientTransformation|parameter 'optimiser')"),
        ({"optimiser": lambda steps: None}, TypeError, "optimiser must be an optax.GradientTransformation"),
        ({"poisoning": 3}, TypeError, "(poisoning must be a function|parameter 'poisoning')"),
        ({"poisoning": lambda image, label, key: image}, ValueError, "poisoning must keep shapes and dtypes"),
        ({"poisoning": lambda image, label, key: (image, 1.0 * label)}, ValueError, "poisoning must keep shapes"),
        ({"augmentation": 3}, TypeError, "(augmentation must be a function|parameter 'augmentation')"),
        ({"augmentation": lambda image, key: image[:4]}, ValueError, r"must keep shape and dtype, \(8, 8, 1\)"),
        ({"measure_at": [0]}, ValueError, "measure_at is given without measure"),
        ({"measure": 3}, TypeError, "(measure must be a function|parameter 'measure')"),
        ({"measure": accuracy, "measure_at": [0, 7]}, ValueError, "at least one step from 0 to 6, got"),
        ({"measure": accuracy, "measure_at": [-1]}, ValueError, "each of measure_at must be an integer >= 0"),
        ({"measure": lambda model, step: 3}, TypeError, "measure must return a mapping of numbers, got int"),
        ({"measure": lambda model, step: {"step": 3}}, ValueError, 'strings other than "step"'),
        ({"measure": lambda model, step: {"a": "b"}}, TypeError, "'a' of measure must be real"),
        ({"measure": lambda model, step: {str(step): 1}}, ValueError, "the same names and shapes at each step"),
        ({"metadata": {"a": None}}, TypeError, r"(metadata\['a'\] must be real|parameter 'metadata')"),
    ],
)
def test_refuses_bad_input(change, error, message):
    arguments = {"model": small(), "images": X, "labels": Y, "epochs": 3, "batch_size": 32} | change
    with pytest.raises(error, match=message):
        train_classifier(arguments.pop("model"), arguments.pop("images"), arguments.pop("labels"), **arguments)


def test_sgd_refuses_bad_numbers():
    for options in ({"learning_rate": 0}, {"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            SGD(**options)


def test_divergence_names_the_step(tmp_path):
    with pytest.raises(DivergedError, match=r"not finite at step \d \(epoch [1-3]\): the loss is") as raised:
        run(optimiser=optax.sgd(1e200), folder=tmp_path / "run")
    assert int(str(raised.value).split("step ")[1][0]) >= 2
    # No checkpoint of a run that has diverged.
    assert all(np.isfinite(np.load(path)["leaf_0000"]).all() for path in tmp_path.glob("run/*.npz"))
