"""Image classifiers: forward passes against NumPy, parameterisations, transforms, input curvature, bad input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import kpoison as kp
from kpoison.networks import MLP, LeNet, LinearSoftmax, ResNet
from kpoison.networks.layers import Convolution, Dense, Drawing, GroupNorm, average_pool, convolve

SHAPE = (8, 6, 2)
KEY = jax.random.key(3)
IMAGE = np.random.default_rng(0).uniform(size=SHAPE)
SMALL = {
    "linear": (LinearSoftmax, {}),
    "mlp": (MLP, {"width": 7, "hidden_layers": 3, "activation": "erf"}),
    "lenet": (LeNet, {"width": 3}),
    "resnet": (ResNet, {"width": 4, "blocks": 2}),
    "resnet preactivation": (ResNet, {"width": 4, "blocks": 2, "preactivation": True}),
    "resnet without norm": (ResNet, {"width": 4, "normalisation": None, "activation": "gelu"}),
}


def make(name, parameterisation="standard", dtype=None, **more):
    kind, options = SMALL[name]
    return kind(SHAPE, 5, key=KEY, parameterisation=parameterisation, dtype=dtype, bias_std=0.3, **options, **more)


# --- By hand ------------------------------------------------------------------------------------------------------


def relu(u):
    return np.maximum(u, 0)


def gelu(u):
    return u * scipy.special.ndtr(u)


def numpy_dense(layer, x, ntk, weight_std=2**0.5):
    W, b = np.asarray(layer.weight), np.asarray(layer.bias)
    return weight_std / np.sqrt(W.shape[1]) * W @ x + 0.3 * b if ntk else W @ x + b


def numpy_convolution(layer, x, ntk, stride=1):
    W, b = np.asarray(layer.weight), np.asarray(layer.bias)
    k, _, inputs, outputs = W.shape
    height, width, _ = x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    # Padding of "SAME": as little as the last output needs, the odd pixel behind.
    before = [max((n - 1) * stride + k - size, 0) // 2 for n, size in ((rows, height), (columns, width))]
    found = np.zeros((rows, columns, outputs))
    for i in range(rows):
        for j in range(columns):
            for a in range(k):
                for c in range(k):
                    row, column = i * stride + a - before[0], j * stride + c - before[1]
                    if 0 <= row < height and 0 <= column < width:
                        found[i, j] += x[row, column] @ W[a, c]
    return 2**0.5 / np.sqrt(k * k * inputs) * found + 0.3 * b if ntk else found + b


def numpy_pool(x):
    return np.array([[x[i : i + 2, j : j + 2].mean((0, 1)) for j in range(0, x.shape[1] - 1, 2)]
                     for i in range(0, x.shape[0] - 1, 2)])  # fmt: skip


def numpy_norm(layer, x):
    found, groups = np.empty_like(x), np.gcd(8, x.shape[2])
    size = x.shape[2] // groups
    for g in range(groups):
        part = x[..., g * size : (g + 1) * size]
        found[..., g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    return found * np.asarray(layer.gain) + np.asarray(layer.offset)


def numpy_logits(name, model, x, ntk):
    if name == "linear":
        return x.ravel(), numpy_dense(model.readout, x.ravel(), ntk, 1.0)
    if name == "mlp":
        hidden = x.ravel()
        for layer in model.layers:
            hidden = scipy.special.erf(numpy_dense(layer, hidden, ntk))
    elif name == "lenet":
        hidden = x
        for layer in model.convolutions:
            hidden = numpy_pool(relu(numpy_convolution(layer, hidden, ntk)))
        hidden = hidden.ravel()
        for layer in model.layers:
            hidden = relu(numpy_dense(layer, hidden, ntk))
    elif name == "resnet preactivation":
        hidden = numpy_convolution(model.stem, x, ntk)
        for index, block in enumerate(model.blocks):
            stride = 2 if index in (2, 4) else 1
            begun = relu(numpy_norm(block.norms[0], hidden))
            assert (block.shortcut is None) == (stride == 1)
            shortcut = hidden if stride == 1 else numpy_convolution(block.shortcut, begun, ntk, stride)
            between = relu(numpy_norm(block.norms[1], numpy_convolution(block.convolutions[0], begun, ntk, stride)))
            hidden = shortcut + numpy_convolution(block.convolutions[1], between, ntk)
        hidden = relu(numpy_norm(model.norm, hidden)).mean((0, 1))
    else:
        normal = name == "resnet"
        act = relu if normal else gelu
        hidden = numpy_convolution(model.stem, x, ntk)
        hidden = act(numpy_norm(model.norm, hidden) if normal else hidden)
        for index, block in enumerate(model.blocks):
            stride = 2 if index in ((2, 4) if normal else (1, 2)) else 1
            branch = numpy_convolution(block.convolutions[0], hidden, ntk, stride)
            branch = act(numpy_norm(block.norms[0], branch) if normal else branch)
            branch = numpy_convolution(block.convolutions[1], branch, ntk)
            assert (block.shortcut is None) == (stride == 1)
            shortcut = hidden if stride == 1 else numpy_convolution(block.shortcut, hidden, ntk, stride)
            hidden = act(numpy_norm(block.norms[1], branch) + shortcut if normal else (branch + shortcut) / np.sqrt(2))
        hidden = hidden.mean((0, 1))
    return hidden, numpy_dense(model.readout, hidden, ntk)


@pytest.mark.parametrize(
    "parameterisation", [pytest.param("standard", marks=pytest.mark.slow), pytest.param("ntk", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", SMALL)
def test_equals_a_forward_pass_by_hand(name, parameterisation):
    model = make(name, parameterisation)
    if name.startswith("resnet") and model.norm is not None:
        # Gains of 1 and offsets of 0 would hide that they are used.
        rng = np.random.default_rng(1)
        model = jax.tree.map(
            lambda leaf: leaf + rng.normal(size=leaf.shape) if isinstance(leaf, jax.Array) else leaf, model
        )
    features, logits = numpy_logits(name, model, IMAGE, parameterisation == "ntk")
    run = eqx.filter_jit(lambda net, x: (net.features(x), net(x)))
    found = run(model, IMAGE)
    np.testing.assert_allclose(found[0], features, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found[1], logits, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_parameterisations_are_the_same_function_at_the_start(name):
    x = jax.random.uniform(KEY, SHAPE)
    np.testing.assert_allclose(make(name)(x), make(name, "ntk")(x), rtol=1e-10)


@pytest.mark.slow
def test_parameters_are_drawn_as_documented():
    drawing = Drawing.checked("standard", 1.5, 0.5, None)
    dense = Dense(300, 400, drawing, key=KEY)
    assert abs(float(jnp.std(dense.weight)) * 300**0.5 - 1.5) < 1.5 * 4 / (2 * 120_000) ** 0.5
    assert abs(float(jnp.std(dense.bias)) - 0.5) < 0.5 * 4 / 800**0.5
    assert abs(float(jnp.mean(dense.weight))) < 5 * 1.5 / 300**0.5 / 120_000**0.5
    ntk = Convolution(30, 40, 3, drawing._replace(parameterisation="ntk"), key=KEY)
    assert abs(float(jnp.std(ntk.weight)) - 1) < 4 / (2 * ntk.weight.size) ** 0.5
    # No parameter without an effect; in standard parameterisation biases start at 0 but are trained.
    assert Dense(3, 4, Drawing.checked("ntk", 1, 0, None), key=KEY).bias is None
    np.testing.assert_array_equal(Dense(3, 4, Drawing.checked("standard", 1, 0, None), key=KEY).bias, np.zeros(4))


@pytest.mark.slow
def test_layers_are_independent():
    model = make("resnet")
    weights = [leaf.ravel()[:16] for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)) if leaf.ndim > 1]
    normalised = np.array([w / np.linalg.norm(w) for w in weights])
    assert np.abs(normalised @ normalised.T - np.eye(len(weights))).max() < 0.9


def test_sizes_of_lenet5_and_resnet20():
    lenet = eqx.filter_eval_shape(lambda: LeNet((28, 28, 1), 10, key=KEY))
    assert [c.weight.shape[3] for c in lenet.convolutions] == [6, 16]
    assert [d.weight.shape[0] for d in (*lenet.layers, lenet.readout)] == [120, 84, 10]
    assert lenet.layers[0].weight.shape[1] == 7 * 7 * 16
    resnet = eqx.filter_eval_shape(lambda: ResNet((32, 32, 3), 10, blocks=3, key=KEY))
    convolutions = 1 + 2 * len(resnet.blocks)
    assert convolutions + 1 == 20
    assert [b.convolutions[1].weight.shape[3] for b in resnet.blocks] == [16] * 3 + [32] * 3 + [64] * 3
    deep = eqx.filter_eval_shape(lambda: ResNet((32, 32, 3), 10, blocks=18, preactivation=True, key=KEY))
    assert 1 + 2 * len(deep.blocks) + 1 == 110
    assert deep.norm.gain.shape == (64,)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (8, 8, 1), (5, 9, 2)])
@pytest.mark.parametrize("kind", [LinearSoftmax, MLP, LeNet, ResNet])
def test_any_image_shape(kind, shape):
    model = eqx.filter_eval_shape(lambda: kind(shape, 7, key=KEY))
    features, logits = eqx.filter_eval_shape(lambda net: (net.features(jnp.zeros(shape)), net(jnp.zeros(shape))), model)
    assert logits.shape == (7,)
    assert features.ndim == 1


@pytest.mark.parametrize(("shape", "size", "stride"), [((6, 5), 3, 1), ((6, 5), 3, 2), ((7, 8), 5, 2), ((4, 4), 1, 2)])
def test_float64_goes_around_xlas_convolution(shape, size, stride):
    """Which can end the process there; in float32 it is used."""
    generator = np.random.default_rng(2)
    images = jnp.asarray(generator.normal(size=(2, *shape, 3)))
    weight = jnp.asarray(generator.normal(size=(size, size, 3, 4)))
    expected = convolve(images.astype(jnp.float32), weight.astype(jnp.float32), stride)
    np.testing.assert_allclose(convolve(images, weight, stride), expected, atol=1e-4)

    def loss(weight, images):
        return jnp.sum(convolve(images, weight, stride) ** 2)

    text = {d: str(jax.make_jaxpr(jax.grad(loss))(weight.astype(d), images.astype(d))) for d in ("float32", "float64")}
    assert "conv_general_dilated" not in text["float64"]
    assert "conv_general_dilated" in text["float32"]


def test_pooling_drops_the_odd_edge():
    x = np.random.default_rng(2).normal(size=(5, 4, 3))
    np.testing.assert_allclose(average_pool(jnp.asarray(x)), numpy_pool(x), rtol=1e-12)
    assert average_pool(jnp.asarray(x)).shape == (2, 2, 3)


def test_constant_images_are_normalised_without_nan():
    norm = GroupNorm(8, jnp.float64)
    value, slope = jax.value_and_grad(lambda x: jnp.sum(norm(x) ** 2))(jnp.ones((4, 4, 8)))
    assert value == 0
    assert bool(jnp.all(jnp.isfinite(slope)))


# --- Transforms and dtypes ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet"])
def test_transforms_and_float32(name):
    single, double = make(name, dtype=jnp.float32), make(name)
    images = np.random.default_rng(1).uniform(size=(3, *SHAPE))
    batch = jax.jit(jax.vmap(single))(images.astype(np.float32))
    assert batch.dtype == jnp.float32
    single_as_double = jax.tree.map(lambda a: a.astype(jnp.float64), single)
    exact = jnp.stack([single_as_double(image) for image in images])
    np.testing.assert_allclose(batch, exact, rtol=1e-4, atol=1e-5)

    def objective(model, image):
        return jnp.sum(model(image) ** 2)

    gradient = eqx.filter_jit(jax.grad(objective, 1))(double, images[0])
    step = 1e-6 * np.random.default_rng(2).normal(size=SHAPE)
    both = objective(double, images[0] + step) - objective(double, images[0] - step)
    assert abs(float(both) / 2 - float(jnp.sum(gradient * step))) < 1e-5 * float(jnp.linalg.norm(gradient)) * 1e-6


@pytest.mark.slow
def test_drawn_under_vmap():
    create = eqx.filter_vmap(lambda key: LeNet((8, 8, 1), 3, width=2, key=key))
    models = create(jax.random.split(KEY, 4))
    logits = eqx.filter_vmap(lambda model: model(jnp.ones((8, 8, 1))))(models)
    alone = LeNet((8, 8, 1), 3, width=2, key=jax.random.split(KEY, 4)[2])
    np.testing.assert_allclose(logits[2], alone(jnp.ones((8, 8, 1))), rtol=1e-12)
    assert len({float(logit) for logit in logits[:, 0]}) == 4


@pytest.mark.slow
def test_input_curvature_of_a_classifier():
    model = LeNet((4, 4, 1), 3, width=1, activation="gelu", key=KEY)
    x = np.random.default_rng(4).uniform(size=(2, 4, 4, 1))
    targets = np.array([2, 0])

    def loss(flat, target):
        return -jax.nn.log_softmax(model(flat.reshape(4, 4, 1)))[target]

    second = jax.jit(jax.hessian(loss))
    hessian = sum(second(jnp.asarray(p.ravel()), t) for p, t in zip(x, targets, strict=True)) / 2
    found = kp.curvature.input_hessian(model, x, targets, loss="softmax")
    np.testing.assert_allclose(found.dense(), hessian, atol=1e-10 * float(jnp.abs(hessian).max()))
    top = kp.curvature.top_eigenpairs(found, 2)
    by_size = sorted(np.linalg.eigvalsh(hessian), key=lambda value: -value)[:2]
    np.testing.assert_allclose(top.values, by_size, rtol=1e-6)
    fisher, slope = np.zeros((16, 16)), jax.jit(jax.grad(loss))
    probabilities = jax.jit(lambda point: jax.nn.softmax(model(point)))
    for point in x:
        p = np.asarray(probabilities(point))
        for c in range(3):
            g = np.asarray(slope(jnp.asarray(point.ravel()), c))
            fisher += p[c] * np.outer(g, g) / 2
    np.testing.assert_allclose(kp.curvature.fisher(model, x, loss="softmax").dense(), fisher, atol=1e-12)


# --- Bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (LinearSoftmax, {"image_shape": (8, 8)}, r"image_shape must be \(height, width, channels\)"),
        (LinearSoftmax, {"image_shape": (8, 0, 1)}, "each number of image_shape must be an integer >= 1, got 0"),
        (LinearSoftmax, {"classes": 1}, "classes must be an integer >= 2, got 1"),
        (LinearSoftmax, {"parameterisation": "mup"}, "parameterisation must be one of 'standard', 'ntk', got 'mup'"),
        (MLP, {"width": 0}, "width must be an integer >= 1"),
        (MLP, {"hidden_layers": 0}, "hidden_layers must be an integer >= 1"),
        (MLP, {"weight_std": 0.0}, "weight_std must be finite and > 0"),
        (MLP, {"bias_std": -1.0}, "bias_std must be finite and >= 0"),
        (MLP, {"activation": "swoosh"}, "swoosh"),
        (LeNet, {"image_shape": (3, 8, 1)}, "at least 4×4 pixels"),
        (ResNet, {"blocks": 0}, "blocks must be an integer >= 1"),
        (ResNet, {"normalisation": "batch"}, "normalisation must be one of 'group'"),
    ],
)
def test_refuses_what_makes_no_network(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"image_shape": (8, 8, 1), "classes": 3, "key": KEY} | options)


@pytest.mark.slow
def test_refuses_other_dtypes_and_images():
    with pytest.raises(TypeError, match="dtype must be floating, got int32"):
        LinearSoftmax((8, 8, 1), 3, key=KEY, dtype=jnp.int32)
    model = make("lenet")
    for shape in ((6, 8, 2), (4, 8, 6, 2), (96,)):
        with pytest.raises(ValueError, match=r"image must be a single one of shape \(8, 6, 2\), got"):
            model(np.zeros(shape))
