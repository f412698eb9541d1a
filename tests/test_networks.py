"""Finite-width networks: parameterisation, training to the ridge optimum, ensembles, rates in the width."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kpoison.kernels import NTK, RBF
from kpoison.kernels._neural_tangents import load_neural_tangents
from kpoison.networks import (
    Architecture,
    Training,
    UnconvergedError,
    ensemble,
    fit_power_law,
    train,
    train_pair,
    width_errors,
)
from kpoison.poison import Poison

RIDGE = 0.1
COUNT = 8.0


def problem(points=32, inputs=8, probes=2, scale=1.0, seed=0):
    """Clean data, poison and probes near it."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((points, inputs))
    y = scale * np.sign(X[:, 0])
    location = rng.standard_normal(inputs)
    directions = rng.standard_normal((probes, inputs))
    x = location + 0.5 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return X, y, Poison(location, -scale * float(np.sign(location[0])), COUNT), x


def small(activation="erf", width=16, seed=0, **options):
    """A network and a problem that train in milliseconds."""
    X, y, poison, x = problem(points=6, inputs=3)
    return Architecture(width, 1, activation, **options).initialise(jax.random.key(seed), 3), X, y, poison, x


def numpy_ntk(activation, x, z):
    """NTK of one hidden layer, weight_std √2, no biases (Cho and Saul 2009, Williams 1997)."""
    variance, d = 2.0, len(x)
    qx, qz, k = (variance * np.dot(a, b) / d for a, b in ((x, x), (z, z), (x, z)))
    if activation == "relu":
        angle = np.arccos(np.clip(k / np.sqrt(qx * qz), -1, 1))
        dual = np.sqrt(qx * qz) * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
        slope = (np.pi - angle) / (2 * np.pi)
    else:
        dual = 2 / np.pi * np.arcsin(2 * k / np.sqrt((1 + 2 * qx) * (1 + 2 * qz)))
        slope = 4 / np.pi / np.sqrt((1 + 2 * qx) * (1 + 2 * qz) - 4 * k**2)
    return variance * (dual + slope * k)


def numpy_law(activation, X, y, poison, x, ridge):
    """Clean prediction, Δf, ∇Δf and Λ by brute force: two refits, gradients by central differences."""
    location = np.asarray(poison.location)
    rho = (len(X) + COUNT) * ridge
    training = np.vstack([X, location])

    def gram(A, B):
        return np.array([[numpy_ntk(activation, a, b) for b in B] for a in A])

    K = gram(training, training)
    clean = np.linalg.solve(K[:-1, :-1] + rho * np.eye(len(X)), y)
    noise = np.diag(np.append(np.full(len(X), rho), rho / COUNT))
    change = np.linalg.solve(K + noise, np.append(y, float(poison.label))) - np.append(clean, 0.0)

    def efficacy(points):
        return gram(points, training) @ change

    step = 1e-5
    shifts = step * np.eye(X.shape[1])
    gradient = np.stack([(efficacy(x + shift) - efficacy(x - shift)) / (2 * step) for shift in shifts], axis=-1)
    return {
        "clean": gram(x, X) @ clean,
        "efficacy": efficacy(x),
        "gradient": gradient,
        "spike": np.sum(gradient**2, axis=-1),
    }


def objective_gradient(trained, X, y, weights, total, ridge):
    """Norm of the objective's gradient in the parameters, written out here."""

    def objective(parameters):
        network = eqx.tree_at(lambda net: net.parameters, trained.final, parameters)
        centred = jax.vmap(network)(jnp.asarray(X)) - jax.vmap(trained.initial)(jnp.asarray(X))
        fit = sum(w * jnp.sum((g - t) ** 2) for w, g, t in zip(weights, centred, y, strict=True))
        moved = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), parameters, trained.initial.parameters)
        return fit / (2 * total) + ridge / 2 * sum(jax.tree.leaves(moved))

    def norm(parameters):
        gradient = jax.jit(jax.grad(objective))(parameters)
        return np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)))

    return norm(trained.final.parameters) / norm(trained.initial.parameters)


# --- Parameterisation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "hidden_layers", "bias_std", "outputs"),
    [(name, 3, 0.7, 2) for name in ("relu", "leaky_relu", "erf", "gelu", "sin", "cos")] + [("relu", 1, 0.0, None)],
)
def test_equals_the_network_of_neural_tangents(activation, hidden_layers, bias_std, outputs):
    stax = load_neural_tangents().stax
    layer = {
        "relu": stax.Relu(),
        "leaky_relu": stax.LeakyRelu(0.01),
        "erf": stax.Erf(),
        "gelu": stax.Gelu(),
        "sin": stax.Sin(),
        "cos": stax.Cos(),
    }[activation]
    hidden = [stax.Dense(16, 1.3, bias_std), layer] * hidden_layers
    _, apply, _ = stax.serial(*hidden, stax.Dense(outputs or 1, 1.3, bias_std))
    architecture = Architecture(16, hidden_layers, activation, 1.3, bias_std, rounding=0)
    network = architecture.initialise(jax.random.key(0), 5, outputs)
    X = np.random.default_rng(0).standard_normal((7, 5))
    weights, biases = network.parameters
    theirs = []
    for index, weight in enumerate(weights):
        theirs += [(weight.T, biases[index][None] if biases else jnp.zeros((1, len(weight)))), ()]
    expected = apply(theirs[:-1], X).reshape(network.outputs(X).shape)
    np.testing.assert_allclose(network.outputs(X), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(network)(X), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", [pytest.param("relu", marks=pytest.mark.slow), "erf"])
def test_empirical_ntk_tends_to_the_kernel(activation):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((3, 4))
    expected = np.array([[numpy_ntk(activation, a, b) for b in X] for a in X])
    np.testing.assert_allclose(NTK(1, activation)(X), expected, rtol=1e-9)

    def gram(key):
        network = Architecture(4096, 1, activation).initialise(key, 4)
        gradients = jax.vmap(lambda x: eqx.filter_grad(lambda net: net(x))(network))(X)
        flat = jnp.concatenate([leaf.reshape(3, -1) for leaf in jax.tree.leaves(gradients.parameters)], axis=1)
        return flat @ flat.T

    found = jax.lax.map(gram, jax.random.split(jax.random.key(0), 16))
    error = np.std(found, axis=0) / 4
    assert np.all(np.abs(np.mean(found, axis=0) - expected) < 4 * error)
    assert np.all(error < 0.02 * np.abs(expected).max())


@pytest.mark.slow
def test_parameters_are_standard_normal():
    weights, biases = Architecture(512, 2, bias_std=0.1).initialise(jax.random.key(2), 300).parameters
    for parameter in (*weights[:2], jnp.concatenate([weights[2][0], *biases])):
        assert abs(float(jnp.mean(parameter))) < 5 / parameter.size**0.5
        assert abs(float(jnp.var(parameter)) - 1) < 8 / parameter.size**0.5
    assert Architecture(512, 2).initialise(jax.random.key(2), 300).parameters.biases == ()


def test_matches_a_kernel():
    kernel = NTK(3, "gelu", weight_std=1.1, bias_std=0.2)
    architecture = Architecture.matching(kernel, 64)
    assert (architecture.hidden_layers, architecture.width) == (3, 64)
    assert (architecture.weight_std, architecture.bias_std) == (1.1, 0.2)
    assert architecture.activation is kernel.activation


def test_rounding_is_local_and_smooth():
    u = jnp.linspace(-1, 1, 2001)
    for name, slope in (("relu", 0.0), ("leaky_relu", 0.01)):
        exact = Architecture(100, activation=name, rounding=0).activate(u)
        rounded = Architecture(100, activation=name, rounding=0.5).activate
        outside = jnp.abs(u) >= 0.05
        np.testing.assert_allclose(rounded(u)[outside], exact[outside], atol=1e-15)
        assert float(jnp.max(jnp.abs(rounded(u) - exact))) <= 0.05 / 4 + 1e-12
        slopes = jax.vmap(jax.grad(lambda v, f=rounded: f(v)))(u)
        assert float(jnp.min(slopes)) >= slope
        assert float(jnp.max(jnp.abs(jnp.diff(slopes)))) < 0.02


def test_any_elementwise_function_is_an_activation():
    network = Architecture(8, 1, lambda u: u / jnp.sqrt(1 + u**2)).initialise(jax.random.key(0), 3)
    assert network(jnp.ones(3)).shape == ()


# --- Training -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_trains_to_a_stationary_point(activation):
    network, X, y, _, _ = small(activation, bias_std=0.3)
    weights = np.array([1.0, 2.5, 1.0, 0.0, 3.0, 1.0])
    result = train(network, X, y, RIDGE, weights=weights, total=11.0)
    assert bool(result.converged)
    assert 0 < float(result.gradient_norm) <= 1e-8
    assert objective_gradient(result, X, y, weights, 11.0, RIDGE) < 1.01e-8
    np.testing.assert_allclose(result.outputs(X), jax.vmap(result)(X), rtol=1e-12)
    # The ridge keeps it from interpolating: the optimality condition holds on the outputs, too.
    assert float(jnp.max(jnp.abs(result.outputs(X) - y))) > 0.01


@pytest.mark.slow
def test_a_rounded_kink_is_what_lets_relu_converge():
    X, y, _, _ = problem()

    def run(rounding):
        network = Architecture(256, rounding=rounding).initialise(jax.random.key(0), 8)
        return train(network, X, y, RIDGE, training=Training(max_steps=200), throw=False)

    assert bool(run(0.03).converged)
    assert float(run(0).gradient_norm) > 1e-4


@pytest.mark.slow
def test_a_weight_is_a_number_of_duplicates():
    network, X, y, _, x = small()
    X_long, y_long = np.vstack([X, X[:1], X[:1], X[3:4]]), np.concatenate([y, y[:1], y[:1], y[3:4]])
    duplicated = train(network, X_long, y_long, RIDGE)
    weighted = train(network, X, y, RIDGE, weights=np.array([3, 1, 1, 2, 1, 1]))
    np.testing.assert_allclose(weighted.outputs(x), duplicated.outputs(x), rtol=1e-6)


@pytest.mark.slow
def test_clones_and_clusters():
    network, X, y, poison, x = small()
    clean, poisoned = train_pair(network, X, y, poison, RIDGE)
    weights = np.append(np.ones(len(X)), COUNT)
    all_points = np.vstack([X, poison.location]), np.append(y, float(poison.label))
    expected = train(network, *all_points, RIDGE, weights=weights)
    np.testing.assert_allclose(poisoned.outputs(x), expected.outputs(x), rtol=1e-6)
    # The clean run has the poisoned n.
    expected = train(network, X, y, RIDGE * (len(X) + COUNT) / len(X))
    np.testing.assert_allclose(clean.outputs(x), expected.outputs(x), rtol=1e-6)
    cluster = Poison(jnp.stack([poison.location] * 2), poison.label, np.array([3.0, 5.0]))
    _, expected = train_pair(network, X, y, cluster, RIDGE)
    np.testing.assert_allclose(poisoned.outputs(x), expected.outputs(x), rtol=1e-6)


@pytest.mark.slow
def test_references_of_the_clean_run():
    network, X, y, poison, x = small()
    clean, poisoned = train_pair(network, X, y, poison, RIDGE, reference="clean")
    np.testing.assert_allclose(clean.outputs(x), train(network, X, y, RIDGE).outputs(x), rtol=1e-6)
    same = train_pair(network, X, y, poison, RIDGE)
    np.testing.assert_allclose(poisoned.outputs(x), same[1].outputs(x), rtol=1e-12)
    assert float(jnp.max(jnp.abs(clean.outputs(x) - same[0].outputs(x)))) > 1e-3
    nothing = Poison(poison.location, poison.label, 0.0)
    without, still_without = train_pair(network, X, y, nothing, RIDGE)
    np.testing.assert_array_equal(without.outputs(x), still_without.outputs(x))


@pytest.mark.slow
def test_nothing_to_learn():
    network, X, y, _, _ = small()
    result = train(network, X, np.zeros_like(y), RIDGE)
    assert int(result.steps) == 0
    assert float(result.gradient_norm) == 0
    assert bool(result.converged)


@pytest.mark.slow
def test_an_unconverged_run_is_an_error():
    network, X, y, poison, x = small()
    few = Training(max_steps=3)
    with pytest.raises(UnconvergedError, match=r"1 of 1 training runs .* 1.0e-08 was asked for, after 3 of at most 3"):
        train(network, X, y, RIDGE, training=few)
    with pytest.raises(UnconvergedError, match="have not converged"):
        train_pair(network, X, y, poison, RIDGE, training=few)
    with pytest.raises(UnconvergedError, match="4 of 4 training runs"):
        ensemble(network.architecture, jax.random.split(jax.random.key(0)), X, y, poison, RIDGE, x, training=few)
    result = train(network, X, y, RIDGE, training=few, throw=False)
    assert not bool(result.converged)
    assert int(result.steps) == 3
    assert float(result.gradient_norm) > 1e-8


def test_an_unconverged_run_is_an_error_under_jit():
    network, X, y, _, x = small()

    def predict(ridge):
        return train(network, X, y, ridge, training=Training(max_steps=3)).outputs(x)

    with pytest.raises(eqx.EquinoxRuntimeError, match="has not converged"):
        jax.block_until_ready(eqx.filter_jit(predict)(jnp.asarray(RIDGE)))


# --- Transforms ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ensemble_is_a_loop_over_pairs():
    network, X, y, poison, x = small()
    keys = jax.random.split(jax.random.key(5), 3)
    result = ensemble(network.architecture, keys, X, y, poison, RIDGE, x)
    quantities = ("clean", "efficacy", "gradient", "spike")
    assert result.gradient.shape == (3, 2, 3)
    assert bool(jnp.all(result.converged))

    @eqx.filter_jit
    def at_probes(clean, poisoned):
        values = clean.outputs(x), poisoned.outputs(x) - clean.outputs(x)
        gradient = jax.vmap(jax.grad(lambda point: poisoned(point) - clean(point)))(jnp.asarray(x))
        return dict(zip(quantities, (*values, gradient, jnp.sum(gradient**2, axis=1)), strict=True))

    for index, key in enumerate(keys):
        clean, poisoned = train_pair(network.architecture.initialise(key, 3), X, y, poison, RIDGE)
        for name, value in at_probes(clean, poisoned).items():
            np.testing.assert_allclose(getattr(result, name)[index], value, rtol=1e-5, atol=1e-7)
        assert result.steps[index].tolist() == [int(clean.steps), int(poisoned.steps)]
    batched = ensemble(network.architecture, keys, X, y, poison, RIDGE, x, batch_size=3)
    for name in quantities:
        np.testing.assert_allclose(getattr(batched, name), getattr(result, name), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_several_outputs():
    network, X, y, poison, x = small()
    Y = np.stack([y, 0.5 * y, -y], axis=1)
    poison = Poison(poison.location, np.array([1.0, -1.0, 0.5]), 4.0)
    result = ensemble(network.architecture, jax.random.split(jax.random.key(0)), X, Y, poison, RIDGE, x)
    assert result.efficacy.shape == result.spike.shape == (2, 2, 3)
    assert result.gradient.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(result.spike, np.sum(np.square(result.gradient), axis=-1), rtol=1e-12)


@pytest.mark.slow
def test_float32():
    network, X, y, poison, x = small()
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32) if eqx.is_array(leaf) else leaf, network)
    clean, poisoned = train_pair(network, X, y, poison, RIDGE)
    data = (X.astype(np.float32), y.astype(np.float32), poison, RIDGE)
    clean32, poisoned32 = train_pair(single, *data)
    found = poisoned32.outputs(x) - clean32.outputs(x)
    assert found.dtype == poisoned32.gradient_norm.dtype == np.float32
    assert float(poisoned32.gradient_norm) <= 1e-5
    np.testing.assert_allclose(found, poisoned.outputs(x) - clean.outputs(x), atol=1e-4)
    keys = jax.random.split(jax.random.key(0))
    result = jax.eval_shape(lambda: ensemble(network.architecture, keys, *data, x, throw=False))
    assert {leaf.dtype.name for leaf in (result.clean, result.gradient, result.spike)} == {"float32"}


# --- Convergence in the width -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_error_falls_like_the_inverse_root_of_the_width():
    X, y, poison, x = problem(probes=8)
    laws = numpy_law("erf", X, y, poison, x, RIDGE)
    architectures = [Architecture(width, 1, "erf") for width in (128, 1024)]
    seen = []
    errors = width_errors(
        architectures, jax.random.key(0), [32, 16], X, y, poison, RIDGE, x, laws=laws, progress=seen.append
    )
    assert seen == [128, 1024]
    for name in ("clean", "efficacy", "gradient"):
        fit = errors[name].power_law(confidence=0.99)
        assert fit.interval[0] < -0.5 < fit.interval[1], (name, fit)
        assert fit.standard_error < 0.1
    assert errors["spike"].rmse[1] < 0.5 * errors["spike"].rmse[0]
    efficacy = errors["efficacy"]
    assert efficacy.rmse[-1] < 0.04 * np.abs(laws["efficacy"]).max()
    assert np.all(np.abs(efficacy.mean[-1] - laws["efficacy"]) < 5 * efficacy.mean_standard_error[-1])


@pytest.mark.slow
def test_gradient_of_relu_converges_only_like_the_inverse_fourth_root():
    X, y, poison, x = problem(probes=8)
    laws = numpy_law("relu", X, y, poison, x, RIDGE)
    architectures = [Architecture(width) for width in (128, 1024)]
    errors = width_errors(architectures, jax.random.key(0), [32, 16], X, y, poison, RIDGE, x, laws=laws)
    efficacy, gradient = (errors[name].power_law(confidence=0.99).interval for name in ("efficacy", "gradient"))
    assert efficacy[0] < -0.5 < efficacy[1]
    assert -0.5 < gradient[0] < -0.25 < gradient[1]


def test_power_law_is_recovered():
    widths = np.array([64, 256, 1024])
    fit = fit_power_law(widths, 3 * widths**-0.5, 0.1 * widths**-0.5, confidence=0.95)
    np.testing.assert_allclose([fit.slope, fit.amplitude], [-0.5, 3.0], rtol=1e-12)
    np.testing.assert_allclose(fit.standard_error, 1 / 30 / np.sqrt(2 * np.log(4) ** 2), rtol=1e-12)
    np.testing.assert_allclose(np.diff(fit.interval), 2 * 1.959964 * fit.standard_error, rtol=1e-6)
    assert fit.chi_squared < 1e-20
    assert fit.degrees_of_freedom == 1
    bent = fit_power_law(widths, widths**-0.5 * np.array([1, 2, 1]), 0.1 * widths**-0.5)
    assert bent.chi_squared > 50


def test_interval_of_the_slope_covers():
    rng = np.random.default_rng(0)
    widths, seeds = np.array([64, 256, 1024, 4096]), 32
    covered = 0
    for _ in range(1000):
        rmse = np.sqrt(np.mean(rng.standard_normal((seeds, 4)) ** 2, axis=0)) * widths**-0.5
        lower, upper = fit_power_law(widths, rmse, rmse / np.sqrt(2 * seeds)).interval
        covered += lower <= -0.5 <= upper
    assert 0.93 < covered / 1000 < 0.97


# --- Bad input ----------------------------------------------------------------------------------------------------


def _call(function, **changes):
    network, X, y, poison, x = small("erf", width=4)
    arguments = {"network": network, "X": X, "y": y, "poison": poison, "ridge": RIDGE, "x": x, "options": {}}
    arguments |= changes
    data = (arguments["X"], arguments["y"])
    if function == "train":
        return train(arguments["network"], *data, arguments["ridge"], **arguments["options"])
    data = (*data, arguments["poison"], arguments["ridge"])
    if function == "train_pair":
        return train_pair(arguments["network"], *data, **arguments["options"])
    keys = arguments.get("keys", jax.random.split(jax.random.key(0)))
    return ensemble(arguments["network"].architecture, keys, *data, arguments["x"], **arguments["options"])


NAN = np.full((6, 3), np.nan)
BAD_DATA = {
    "X of other inputs": ("train", {"X": np.ones((6, 4))}, "X must have shape"),
    "X of one axis": ("train", {"X": np.ones(6)}, "X must have shape"),
    "X empty": ("train", {"X": np.ones((0, 3))}, "X must not be empty"),
    "X not finite": ("train", {"X": NAN}, "X must be finite"),
    "y too short": ("train", {"y": np.ones(5)}, "y must have shape"),
    "y of two axes": ("train", {"y": np.ones((6, 1))}, "y must have shape"),
    "y not finite": ("train", {"y": NAN[:, 0]}, "y must be finite"),
    "ridge zero": ("train", {"ridge": 0.0}, "ridge must be finite and > 0, got 0.0"),
    "ridge negative": ("train", {"ridge": -0.1}, "ridge must be finite and > 0"),
    "ridge nan": ("train", {"ridge": np.nan}, "ridge must be finite and > 0"),
    "weights negative": ("train", {"options": {"weights": -np.ones(6)}}, "weights must be finite and >= 0"),
    "weights too short": ("train", {"options": {"weights": np.ones(5)}}, "weights must have shape"),
    "weights all zero": ("train", {"options": {"weights": np.zeros(6)}}, "the sum of weights must be"),
    "total zero": ("train", {"options": {"total": 0.0}}, "total must be finite and > 0"),
    "reference unknown": ("train_pair", {"options": {"reference": "dirty"}}, "reference must be one of"),
    "y of other length": ("train_pair", {"y": np.ones(5)}, "y must have shape"),
    "poison of other inputs": ("train_pair", {"poison": Poison(np.ones(4), 1.0, 1.0)}, "poison.location must"),
    "label of two outputs": ("train_pair", {"poison": Poison(np.ones(3), np.ones(2), 1.0)}, "poison.label must"),
    "probes of other inputs": ("ensemble", {"x": np.ones((2, 4))}, "x must hold points of shape"),
    "probes not finite": ("ensemble", {"x": NAN}, "x must be finite"),
    "one key": ("ensemble", {"keys": jax.random.key(0)}, "keys must have shape"),
    "batch size": ("ensemble", {"options": {"batch_size": 0}}, "batch_size must be an integer >= 1, got 0"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(case):
    function, changes, message = BAD_DATA[case]
    with pytest.raises((ValueError, TypeError), match=message):
        _call(function, **changes)


BAD_ARCHITECTURE = {
    "width": ({"width": 0}, "width must be an integer >= 1, got 0"),
    "hidden_layers": ({"hidden_layers": 0}, "hidden_layers must be an integer >= 1, got 0"),
    "activation": ({"activation": "step"}, "activation"),
    "weight_std": ({"weight_std": 0.0}, "weight_std must be finite and > 0"),
    "bias_std": ({"bias_std": -1.0}, "bias_std must be finite and >= 0"),
    "rounding": ({"rounding": -1.0}, "rounding must be finite and >= 0"),
}


@pytest.mark.parametrize("case", BAD_ARCHITECTURE)
def test_bad_architecture(case):
    changes, message = BAD_ARCHITECTURE[case]
    with pytest.raises(ValueError, match=message):
        Architecture(**({"width": 8} | changes))


def test_bad_settings():
    for name, value in (("tolerance", 0.0), ("max_steps", 0), ("memory", 0)):
        with pytest.raises(ValueError, match=name):
            Training(**{name: value})
    with pytest.raises(TypeError, match="kernel"):
        Architecture.matching(RBF(1.0), 8)
    for inputs, outputs in ((0, None), (3, 0)):
        with pytest.raises(ValueError, match="must be an integer >= 1, got 0"):
            Architecture(8).initialise(jax.random.key(0), inputs, outputs)


def test_bad_width_study():
    _, X, y, poison, x = small()
    two = [Architecture(4, 1, "erf"), Architecture(8, 1, "erf")]
    good = {"efficacy": np.zeros(2)}
    for architectures, seeds, laws, message in (
        (two[::-1], 2, good, "at least 2 increasing widths"),
        (two[:1], 2, good, "at least 2 increasing widths"),
        (two, 1, good, "seeds must be an integer >= 2"),
        (two, [2], good, "seeds must be one number"),
        (two, 2, {"gain": 1.0}, "laws must be one of"),
        (two, 2, {"spike": np.full(2, np.nan)}, r"laws\['spike'\] must be finite"),
        (two, 2, {"efficacy": np.zeros(3)}, r"laws\['efficacy'\] must have shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            width_errors(architectures, jax.random.key(0), seeds, X, y, poison, RIDGE, x, laws=laws)


def test_bad_power_law():
    good = np.array([1.0, 2.0])
    for widths, rmse, error, confidence, message in (
        (np.array([4.0]), good[:1], good[:1], 0.9, "at least 2 distinct"),
        (np.array([4.0, 4.0]), good, good, 0.9, "at least 2 distinct"),
        (good, good[:1], good, 0.9, "rmse must have shape"),
        (good, -good, good, 0.9, "rmse must be finite and > 0"),
        (good, good, 0 * good, 0.9, "standard_error must be finite and > 0"),
        (good, good, good, 1.0, "confidence"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_power_law(widths, rmse, error, confidence=confidence)
