"""The posterior: predictions against NumPy and scikit-learn, difficult data, refused kernels, derivatives."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_solvers import every_solver
from sklearn.kernel_ridge import KernelRidge

import kpoison as kp
from benchmarks.exactness import EPS, FAMILIES
from kpoison.ridge import PosteriorAtRidge, Prior, gram
from kpoison.ridge.solvers import dense
from kpoison.ridge.solvers.dense import DenseSolver

RNG = np.random.default_rng(11)
X = RNG.normal(size=(10, 3))
Y = RNG.normal(size=(10, 2))
PROBES = np.concatenate([X[:2], RNG.normal(size=(3, 3))])
PARAMETERS = {
    "rbf": (1.5,),
    "laplace": (1.5,),
    "matern32": (1.5,),
    "linear": (),
    "cubic": (0.5,),
    "ntk_relu": (1.3, 0.2),
}
# What compiled code raises: jax.jit translates a failure inside to either, by the path that dispatches the call.
RUN_TIME = (RuntimeError, ValueError)
SOLVERS = [solver for solver in every_solver().values() if isinstance(solver, DenseSolver)]


def kernel_of(name):
    return FAMILIES[name].kernel(*PARAMETERS[name])


def brute_force(name, X, Y, x, rho):
    """f(x), ∇f(x) and the bound on the rounding of f: 10·eps·cond(A)·‖A⁻¹k(x)‖‖Y‖ (see benchmarks/exactness.py)."""
    evaluate = FAMILIES[name].evaluate
    A = evaluate(X, X, *PARAMETERS[name]).value + rho * np.eye(len(X))
    pairs = evaluate(x, X, *PARAMETERS[name])
    alpha = np.linalg.solve(A, Y)
    weights = np.linalg.norm(np.linalg.solve(A, pairs.value.T), axis=0)
    bound = 10 * EPS * np.linalg.cond(A) * weights[:, None] * np.linalg.norm(Y, axis=0)
    return pairs.value @ alpha, np.einsum("qnd,nc->qcd", pairs.gradient, alpha), bound


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("name", PARAMETERS)
def test_predict_is_kernel_ridge_regression(name, solver):
    clean = kp.fit(kernel_of(name), X, Y, solver=solver)
    for ridge in (1e-6, 1e-2, 10.0):
        expected, _, bound = brute_force(name, X, Y, PROBES, 10 * ridge)
        assert np.all(np.abs(kp.predict(clean, PROBES, ridge) - expected) <= bound)


def test_predict_is_scikit_learns():
    # scikit-learn adds alpha to the diagonal: ρ = nλ.
    for ridge in (1e-4, 0.1):
        oracle = KernelRidge(alpha=10 * ridge, kernel="rbf", gamma=1 / (2 * 1.5**2)).fit(X, Y)
        expected = oracle.predict(PROBES)
        _, _, bound = brute_force("rbf", X, Y, PROBES, 10 * ridge)
        found = kp.predict(kp.fit(kp.kernels.RBF(1.5), X, Y), PROBES, ridge)
        # Twice, for the two solves.
        assert np.all(np.abs(found - expected) <= 2 * bound)


def test_outputs_decouple_and_keep_their_axes():
    one, two = kp.fit(kernel_of("rbf"), X, Y[:, 0]), kp.fit(kernel_of("rbf"), X, Y)
    column = kp.fit(kernel_of("rbf"), X, Y[:, :1])
    _, _, bound = brute_force("rbf", X, Y, PROBES, 10 * 0.01)
    found = kp.predict(one, PROBES, 0.01)
    assert found.shape == (5,)
    assert kp.predict(two, PROBES, 0.01).shape == (5, 2)
    assert kp.predict(column, PROBES, 0.01).shape == (5, 1)
    assert kp.predict(one, PROBES[0], 0.01).shape == ()
    assert kp.predict(two, PROBES[0], 0.01).shape == (2,)
    assert np.all(np.abs(found - kp.predict(two, PROBES, 0.01)[:, 0]) <= bound[:, 0])
    assert np.all(np.abs(found - kp.predict(column, PROBES, 0.01)[:, 0]) <= bound[:, 0])


def test_targets_take_the_dtype_of_the_inputs():
    labels = np.array([-1, 1] * 5)
    clean = kp.fit(kernel_of("rbf"), X, labels)
    assert clean.y.dtype == clean.factor.gram.dtype == jnp.float64
    expected, _, bound = brute_force("rbf", X, labels[:, None].astype(float), PROBES, 0.1)
    assert np.all(np.abs(kp.predict(clean, PROBES, 0.01) - expected[:, 0]) <= bound[:, 0])


def test_one_training_point():
    clean = kp.fit(kernel_of("rbf"), X[:1], Y[:1, 0])
    np.testing.assert_allclose(kp.predict(clean, X[0], 0.25), Y[0, 0] / 1.25, rtol=10 * EPS)


@pytest.mark.slow
def test_mean_and_covariance_and_their_gradients():
    # The parts that laws are made of: f_c, k̃ and expansions with gradients, at one ρ, by hand.
    name, rho, x = "matern32", 0.3, jnp.asarray(PROBES)
    evaluate = FAMILIES[name].evaluate
    at = kp.fit(kernel_of(name), X, Y).at(jnp.asarray(rho))
    assert isinstance(at, PosteriorAtRidge)
    mean, slopes, bound = brute_force(name, X, Y, PROBES, rho)
    assert np.all(np.abs(at.mean(x) - mean) <= bound)
    expansion = at.mean_expansion()
    assert np.all(np.abs(expansion.values(x[3:4])[0] - mean[3]) <= bound[3])
    # ∇k is of the size of k here, and so is the bound.
    assert np.all(np.abs(expansion.gradients(x[3:4])[0] - slopes[3]) <= 3 * bound[3][:, None])
    A = evaluate(X, X, 1.5).value + rho * np.eye(10)
    cross = evaluate(PROBES, X, 1.5)
    covariance = evaluate(PROBES, PROBES, 1.5).value - cross.value @ np.linalg.solve(A, cross.value.T)
    bound = 10 * EPS * np.linalg.cond(A)
    np.testing.assert_allclose(at.covariance(x), covariance, rtol=0, atol=bound)
    weights = jnp.array([[1.0], [-2.0], [0.5], [0.0], [3.0]])
    change = at.covariance_expansion(x, weights)
    np.testing.assert_allclose(change.values(x[3:4])[0], covariance[3] @ weights, rtol=0, atol=bound * 7)
    by_hand = evaluate(PROBES[3:4], PROBES, 1.5).gradient[0].T @ weights
    by_hand = by_hand - cross.gradient[3].T @ np.linalg.solve(A, cross.value.T @ weights)
    np.testing.assert_allclose(change.gradients(x[3:4])[0, 0], by_hand[:, 0], rtol=0, atol=bound * 7)


def test_the_prior_is_the_posterior_of_nothing():
    prior, x = Prior(kernel_of("rbf"), 2), jnp.asarray(PROBES)
    assert np.all(prior.mean(x) == 0)
    assert prior.mean(x).shape == (5, 2)
    K = FAMILIES["rbf"].evaluate(PROBES, PROBES, 1.5).value
    np.testing.assert_allclose(prior.covariance(x), K, rtol=0, atol=20 * EPS)
    weights = jnp.asarray(Y[:5])
    expected = K[0] @ Y[:5]
    np.testing.assert_allclose(
        prior.covariance_expansion(x, weights).values(x[:1])[0], expected, rtol=0, atol=100 * EPS
    )


def test_many_probes_are_evaluated_in_batches(monkeypatch):
    # Above a number of floats, probes are taken a few at a time; the answer is the same.
    clean = kp.fit(kernel_of("rbf"), X, Y)
    x = RNG.normal(size=(23, 3))
    expected, _, bound = brute_force("rbf", X, Y, x, 0.1)
    monkeypatch.setattr("kpoison._batches.BYTES_AT_ONCE", 8 * 4 * X.size)
    found = kp.predict(clean, x, 0.01)
    assert np.all(np.abs(found - expected) <= bound)
    poison = kp.Poison(x[0], Y[0], 2.0)
    few = np.concatenate([kp.spike(clean, poison, part, 0.01) for part in np.split(x[:22], 11)])
    np.testing.assert_allclose(kp.spike(clean, poison, x, 0.01)[:22], few, rtol=0, atol=100 * bound.max())


# Difficult data


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_duplicates_are_ordinary_data(solver):
    # Two observations at one point are one with their mean and twice the weight.
    doubled = kp.fit(kernel_of("rbf"), np.concatenate([X, X]), np.concatenate([Y, Y + 2]), solver=solver)
    once = kp.fit(kernel_of("rbf"), X, Y + 1, solver=solver)
    for ridge in (1e-9, 1e-3):
        _, _, bound = brute_force("rbf", np.concatenate([X, X]), np.concatenate([Y, Y + 2]), PROBES, 20 * ridge)
        found, expected = kp.predict(doubled, PROBES, ridge), kp.predict(once, PROBES, ridge)  # 20λ/2 = 10λ
        assert np.all(np.abs(found - expected) <= bound)


@pytest.mark.parametrize("distance", [1e-9, 1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("name", PARAMETERS)
def test_nearly_duplicated_points_are_ordinary_data(name, distance):
    # Among them the kernels with a cusp, whose values change by the distance itself, not by its square.
    near = X + distance * RNG.normal(size=X.shape)
    data, targets = np.concatenate([X, near]), np.concatenate([Y, Y + 1])
    expected, _, bound = brute_force(name, data, targets, PROBES, 20 * 0.01)
    found = kp.predict(kp.fit(kernel_of(name), data, targets), PROBES, 0.01)
    assert np.all(np.abs(found - expected) <= bound)


def test_far_off_centre_data():
    # Distances, not norms, decide: data around (1000, …) keep the digits that their differences have.
    shift = 1000.0
    expected, _, bound = brute_force("rbf", X + shift, Y, PROBES + shift, 0.1)
    found = kp.predict(kp.fit(kernel_of("rbf"), X + shift, Y), PROBES + shift, 0.01)
    # The centre that is taken off rounds to eps·1000, and k changes by that over ℓ.
    assert np.all(np.abs(found - expected) <= bound + shift * EPS * np.linalg.norm(Y) * 100)


# Ill-conditioning


@pytest.fixture
def doubled():
    return np.concatenate([X, X]), np.concatenate([Y, Y])


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_small_ridge_warns_and_one_too_small_is_refused(doubled, solver):
    clean = kp.fit(kernel_of("rbf"), *doubled, solver=solver)
    poison = kp.Poison(X[0], Y[0], 1.0)
    calls = {
        "predict": lambda ridge: kp.predict(clean, PROBES, ridge),
        "gain": lambda ridge: kp.gain(clean, poison, ridge),
        "efficacy": lambda ridge: kp.efficacy(clean, poison, PROBES, ridge),
        "spike": lambda ridge: kp.spike(clean, poison, PROBES, ridge),
    }
    for name, call in calls.items():
        with pytest.warns(
            kp.IllConditionedWarning, match=r"condition number of about \d\.\de\+1[34].*float64"
        ) as caught:
            call(1e-14)
        assert len(caught) == 1, name
        with pytest.raises(ValueError, match=r"K \+ ρI is too ill-conditioned for float64.*larger ridge"):
            call(1e-18)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calls["predict"](1e-10)


def test_the_warning_bounds_the_error(doubled):
    # What the warning says, eps·cond of their size, is what duplicates lose, up to the size of n.
    clean = kp.fit(kernel_of("rbf"), *doubled)
    with pytest.warns(kp.IllConditionedWarning, match=r"wrong by"):
        found = kp.predict(clean, PROBES, 5e-15)
    once = kp.predict(kp.fit(kernel_of("rbf"), X, Y), PROBES, 5e-15)
    error = EPS * float(clean.condition_number(jnp.asarray(20 * 5e-15)))
    assert 1e-3 < error < 0.1
    assert np.all(np.abs(found - once) <= error * np.abs(Y).sum())


def test_isolated_laws_need_no_solve_and_never_warn(doubled):
    clean = kp.fit(kernel_of("rbf"), *doubled)
    gain = kp.gain(clean, kp.Poison(X[0], Y[0], 1.0), 1e-18, law="isolated")
    np.testing.assert_allclose(gain, 1.0, rtol=1e-15)


def test_compiled_code_refuses_at_run_time(doubled):
    clean = kp.fit(kernel_of("rbf"), *doubled)
    poison = kp.Poison(X[0], Y[0], 1.0)
    for call in (lambda ridge: kp.predict(clean, PROBES, ridge), lambda ridge: kp.gain(clean, poison, ridge)):
        compiled = jax.jit(call)
        jax.block_until_ready(compiled(1e-3))
        with pytest.raises(RUN_TIME, match=r"K \+ ρI is too ill-conditioned for float64"):
            jax.block_until_ready(compiled(1e-18))


def test_float32_is_refused_earlier(doubled):
    data, targets = (a.astype(np.float32) for a in doubled)
    clean = kp.fit(kernel_of("rbf"), data, targets)
    with pytest.raises(ValueError, match="too ill-conditioned for float32"):
        kp.predict(clean, data, 1e-9)
    with pytest.warns(kp.IllConditionedWarning, match="float32"):
        kp.predict(clean, data, 1e-5)


# Kernels that are none


def _negative(x, z):
    return -jnp.exp(-jnp.sum((x - z) ** 2))


def _indefinite(x, z):
    return jnp.sum(x * z) - jnp.exp(-jnp.sum((x - z) ** 2))


def _not_symmetric(x, z):
    return jnp.exp(-jnp.sum((x - z) ** 2)) * (1 + 0.1 * x[0])


def _not_finite(x, z):
    return jnp.log(jnp.sum(x * z))


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_negative, "kernel Custom is not positive semi-definite on X"),
        (_indefinite, "kernel Custom is not positive semi-definite on X"),
        (_not_symmetric, r"kernel Custom is not symmetric on X: k\(x, z\) and k\(z, x\) differ"),
        (_not_finite, "kernel Custom has non-finite values on X"),
    ],
    ids=["negative", "indefinite", "not_symmetric", "not_finite"],
)
def test_a_custom_function_that_is_no_kernel_is_refused(function, message, solver):
    kernel = kp.kernels.Custom(function)
    with pytest.raises(ValueError, match=message):
        kp.fit(kernel, X, Y, solver=solver)
    compiled = jax.jit(lambda X: kp.fit(kernel, X, Y, solver=solver).factor.gram)
    with pytest.raises(RUN_TIME, match=message):
        jax.block_until_ready(compiled(X))


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(kp.Spectral(), marks=pytest.mark.slow),
        pytest.param(kp.Cholesky(), marks=pytest.mark.slow),
        kp.Tridiagonal(),
    ],
)
def test_half_a_gram_matrix_gives_the_same_posterior(monkeypatch, solver):
    X = jnp.asarray(np.random.default_rng(3).normal(size=(41, 3)))
    kernel, y = kp.kernels.RBF(1.5), jnp.sign(X[:, 0])
    whole = kp.predict(kp.fit(kernel, X, y, solver=solver), X + 0.1, 1e-3)
    monkeypatch.setattr("kpoison.kernels.base._BLOCKS_FROM", 40)
    monkeypatch.setattr("kpoison.kernels.base._BLOCK_ROWS", 11)
    monkeypatch.setattr(gram, "_CHEAP_DIFFERENCES_UP_TO", 0)
    made = []
    symmetric_gram = dense.symmetric_gram
    monkeypatch.setattr(dense, "symmetric_gram", lambda *arguments: made.append(1) or symmetric_gram(*arguments))
    half = kp.predict(kp.fit(kernel, X, y, solver=solver), X + 0.1, 1e-3)
    assert made
    np.testing.assert_allclose(half, whole, rtol=1e-11)
    with pytest.raises(Exception, match="not symmetric on X"):
        kp.fit(kp.kernels.Custom(_not_symmetric, smoothness=float("inf")), X, y, solver=solver)


def test_a_custom_kernel_with_several_values_is_refused():
    with pytest.raises(ValueError, match=r"must return a scalar for two points, got shape \(3,\)"):
        kp.fit(kp.kernels.Custom(lambda x, z: x * z), X, Y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["rbf", "ntk_relu"])
def test_non_finite_data_in_compiled_code_do_not_become_numbers(name, bad):
    spoilt = X.copy()
    spoilt[2, 1] = bad
    kernel = kernel_of(name)
    compiled = jax.jit(lambda X, Y: kp.predict(kp.fit(kernel, X, Y), PROBES, 0.1))
    with contextlib.suppress(*RUN_TIME):  # an error is right too
        assert not np.any(np.isfinite(compiled(spoilt, Y)))
    assert not np.any(np.isfinite(compiled(X, np.full_like(Y, bad))))


@pytest.mark.parametrize("name", ["rbf", "ntk_relu"])
def test_gram_matrices_of_non_finite_points_in_compiled_code_are_not_numbers(name):
    spoilt = X.copy()
    spoilt[2, 1] = np.nan
    kernel = kernel_of(name)
    (K,) = jax.jit(lambda X: (kernel(X),))(spoilt)
    assert not np.any(np.isfinite(K[2]))
    assert not np.any(np.isfinite(K[:, 2]))


# Derivatives, also where an eigendecomposition has none


def five_point(function, h):
    """f'(0) to h⁴, and an estimate of its error: the difference to the same at 2h."""

    def slope(h):
        f = [np.asarray(function(k * h)) for k in (-2, -1, 1, 2)]
        return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)

    return slope(h), np.abs(slope(h) - slope(2 * h))


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize(
    "data",
    [pytest.param("plain", marks=pytest.mark.slow), pytest.param("duplicated", marks=pytest.mark.slow), "clustered"],
)
def test_derivatives_of_fit_and_predict(data, solver):
    # Duplicates make eigenvalues coincide (0) and clusters nearly so; eigh's own derivative is NaN or garbage there.
    # Its own numbers, whatever tests ran before.
    rng = np.random.default_rng(11)
    inputs, targets = X.copy(), Y.copy()
    if data == "duplicated":
        inputs = np.concatenate([X, X, X[:3]])
        targets = np.concatenate([Y, -Y, Y[:3]])
    if data == "clustered":
        inputs[5:] = inputs[:5] + 1e-7 * rng.normal(size=(5, 3))
    weights = rng.normal(size=(5, 2))

    @jax.jit
    def value(ridge, X, Y, length_scale):
        predictions = kp.predict(kp.fit(kp.kernels.RBF(length_scale), X, Y, solver=solver), PROBES, ridge)
        return jnp.sum(weights * predictions)

    arguments = (0.03, inputs, targets, 1.5)
    gradients = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(*arguments)
    for i, gradient in enumerate(gradients):
        assert np.all(np.isfinite(gradient))
        direction = np.asarray(rng.normal(size=np.shape(arguments[i])))
        step = 1e-3 * (0.03 if i == 0 else 1)

        def along(t, i=i, direction=direction):
            moved = [a + t * direction if j == i else a for j, a in enumerate(arguments)]
            return value(*moved)

        expected, truncation = five_point(along, step)
        found = np.sum(gradient * direction)
        # Rounding of f, eps·cond·|f| (of size 10 here), is divided by the step.
        rounding = EPS * (1 + len(inputs) / (len(inputs) * 0.03)) * 10 * 10 / step
        assert truncation < 1e-6 * (1 + abs(expected))
        assert abs(found - expected) <= truncation + rounding


def test_second_derivatives_in_the_ridge():
    doubled = np.concatenate([X, X]), np.concatenate([Y, Y])

    def value(log_ridge):
        return jnp.sum(kp.predict(kp.fit(kernel_of("rbf"), *doubled), PROBES, jnp.exp(log_ridge)))

    first = jax.jit(jax.grad(value))
    expected, truncation = five_point(lambda t: first(np.log(0.03) + t), 1e-2)
    found = jax.grad(jax.grad(value))(np.log(0.03))
    assert truncation < 1e-6
    assert abs(found - expected) <= truncation + 1e-11


# --- What a posterior is called ---

REPRESENTATIONS = {
    "plain": ({}, (), "Posterior(n=10, d=3, RBF(length_scale=1.1), Spectral(), dtype=float32)"),
    "outputs": ({}, (2,), "Posterior(n=10, d=3, C=2, RBF(length_scale=1.1), Spectral(), dtype=float32)"),
    "weights and a constant": (
        {"weights": np.full(10, 2.0), "intercept": True},
        (),
        "Posterior(n=10, d=3, RBF(length_scale=1.1), Spectral(), Σw=20.0, intercept=True, dtype=float32)",
    ),
    "slopes": (
        {"gradient_penalty": 0.1, "solver": kp.Cholesky()},
        (),
        "Posterior(n=10, d=3, RBF(length_scale=1.1), Cholesky(), slopes=3, dtype=float32)",
    ),
}


@pytest.mark.parametrize("case", REPRESENTATIONS)
def test_a_posterior_is_one_line(case):
    options, outputs, expected = REPRESENTATIONS[case]
    clean = kp.fit(kp.kernels.RBF(1.1), X.astype(np.float32), np.ones((10, *outputs)), **options)
    assert repr(clean) == expected
    assert repr(kp.flow.early_stopped(clean, 3.0)) == f"StoppedPosterior({expected}, time=3.0)"
    page = clean._repr_html_()
    assert page.count("<tr>") == expected.count(", ") + 1
    assert "RBF(length_scale=1.1)" in page


def test_posteriors_without_their_arrays_have_a_representation():
    clean = kp.fit(kp.kernels.RBF(1.1), X, Y)
    seen = []
    jax.jit(lambda clean: seen.append(repr(clean)))(clean)
    assert seen == ["Posterior(n=10, d=3, C=2, RBF(length_scale=f64[]), Spectral(), dtype=float64)"]
    for other in (jax.eval_shape(lambda: clean), jax.tree.map(lambda leaf: None, clean)):
        assert repr(other).startswith("Posterior(")
    images = kp.fit(kp.kernels.ConvolutionalNTK(1), RNG.random((2, 4, 4, 1)), np.ones(2))
    assert repr(images).startswith("Posterior(n=2, d=4x4x1, ConvolutionalNTK(hidden_layers=1, ")
