"""Every operator is the mean over probes of dense derivatives, by explicit NumPy formulas."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison import kernels as kk
from kpoison.curvature import (
    Operator,
    fisher,
    gauss_newton,
    gradient_covariance,
    input_gradients,
    input_hessian,
    top_eigenpairs,
)
from kpoison.curvature.operators import GaussNewtonRows, PairCurvature, ProbeGaussNewton, ProbeHessian, SumOperator
from kpoison.laws import Predictor
from kpoison.networks import Architecture

EPS = float(np.finfo(float).eps)
RNG = np.random.default_rng(0)
D, ELL = 4, 1.3
X, Y = RNG.normal(size=(12, D)), RNG.normal(size=(12, 3))
ZETA, LABEL = RNG.normal(size=D), np.array([1.0, -1.0, 0.5])
U = np.array([0.6, 0.0, 0.8, 0.0])
RIDGE = 0.05
CONDITION = 60
"""cond(K + ρI) with ρ = 17·0.05, for kernels of at most 3.5 on 12 + 5 points."""
GENERIC = RNG.normal(size=(10, D))
# At the poison, beside it, on its ray through the origin (where rounding gives the pair a plane), at the origin, at a
# clean point.
SPECIAL = [ZETA, ZETA + 1e-3 * ELL * U, ZETA + 1e-6 * ELL * U, 1.3 * ZETA, -0.7 * ZETA, 0 * ZETA, X[4]]
# Ten everywhere, so that compiled functions serve many tests.
EVERYWHERE = np.concatenate([GENERIC[:3], SPECIAL])


def curved(x, z):
    """A Gaussian of unequal widths: not rotation-invariant."""
    return jnp.exp(-0.5 * jnp.sum((x - z) ** 2 * jnp.array([1.0, 0.5, 0.25, 2.0], x.dtype)))


KERNELS = {
    "rbf": (kk.RBF(ELL), EVERYWHERE),
    "ntk_erf": (kk.NTK(1, "erf", 1.4), EVERYWHERE),
    "ntk_erf_bias": (kk.NTK(1, "erf", 1.4, 0.3), EVERYWHERE),
    "sum_product": (0.5 * kk.RBF(ELL) + kk.Matern52(2.0) * kk.Polynomial(2, 0.5), EVERYWHERE),
    "custom": (kk.Custom(curved), EVERYWHERE),
}


class Problem(NamedTuple):
    """A predictor of three outputs, and its values and derivatives at each probe."""

    f: Predictor
    x: np.ndarray
    values: np.ndarray
    slopes: np.ndarray
    hessians: np.ndarray
    targets: np.ndarray


# Less optimised code is ready sooner.
@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def _derivatives(f, x):
    def slopes(p):
        slope, value = jax.jacrev(lambda p: (f(p), f(p)), has_aux=True)(p)
        return slope, (slope, value)

    def at(p):
        hessian, (slope, value) = jax.jacfwd(slopes, has_aux=True)(p)
        return value, slope, hessian

    return jax.vmap(at)(x)


def dense_derivatives(f, x):
    """f, ∇f and ∇²f by automatic differentiation, point by point, the axes of a point flattened."""
    C = int(np.prod(jax.eval_shape(f, x[0]).shape))
    f = f if isinstance(f, eqx.Module) else jax.tree_util.Partial(f)
    size, q = x[0].size, len(x)
    shapes = (q, C), (q, C, size), (q, C, size, size)
    return [np.asarray(a).reshape(shape) for a, shape in zip(_derivatives(f, jnp.asarray(x)), shapes, strict=True)]


@functools.cache
def problem(name):
    kernel, x = KERNELS[name]
    f = kp.predictor(kp.fit(kernel, X, Y), RIDGE, kp.Poison(ZETA, LABEL, 5.0))
    return Problem(f, x, *dense_derivatives(f, x), np.random.default_rng(1).normal(size=(len(x), 3)))


def probabilities(values):
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def second_in_outputs(loss, values):
    """S, and the derivative of the loss with respect to the outputs less the part of the targets."""
    if loss == "squared":
        return np.broadcast_to(np.eye(values.shape[1]), (*values.shape, values.shape[1])), values
    p = probabilities(values)
    return p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None], p


def expected(values, slopes, hessians, targets, loss):
    """Input Hessian, Gauss–Newton matrix, second moment and covariance of the gradients."""
    S, predicted = second_in_outputs(loss, values)
    gauss = np.einsum("qci,qce,qej->ij", slopes, S, slopes) / len(values)
    bend = np.einsum("qc,qcij->ij", predicted - targets, hessians) / len(values)
    rows = np.einsum("qc,qci->qi", predicted - targets, slopes)
    return gauss + bend, gauss, rows.T @ rows / len(rows), np.cov(rows.T, bias=True)


def same(found, truth, eps=EPS, factor=20 * CONDITION):
    found = np.asarray(found.dense() if isinstance(found, Operator) else found)
    np.testing.assert_allclose(found, truth, rtol=0, atol=factor * eps * np.abs(truth).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_they_are_means_of_dense_derivatives(name):
    case = problem(name)
    f, x = case.f, case.x
    same(input_gradients(f, x), case.slopes)
    classes = np.arange(len(x)) % 3
    for loss, targets, given in (
        ("squared", case.targets, case.targets),
        ("softmax", probabilities(case.targets), probabilities(case.targets)),
        ("softmax", np.eye(3)[classes], classes),
    ):
        hessian, gauss, moment, covariance = expected(case.values, case.slopes, case.hessians, targets, loss)
        same(input_hessian(f, x, given, loss=loss), hessian)
        same(gauss_newton(f, x, loss=loss), gauss)
        same(fisher(f, x, loss=loss), gauss)
        same(gradient_covariance(f, x, given, loss=loss), moment)
        same(gradient_covariance(f, x, given, loss=loss, centred=True), covariance)
    operator = input_hessian(f, x, case.targets)
    assert isinstance(operator, ProbeHessian if name == "custom" else SumOperator)


def network(outputs):
    architecture = Architecture(width=8, hidden_layers=1, activation="erf", weight_std=1.4, bias_std=0.3)
    return architecture.initialise(jax.random.key(0), D, outputs)


def waves(image):
    """A smooth function of an image, of two outputs."""
    return jnp.stack([jnp.sum(jnp.sin(image) * image[::-1]), jnp.prod(1 + 0.1 * image)])


IMAGES = RNG.normal(size=(5, 2, 3, 2))


@pytest.mark.parametrize(
    ("f", "x", "loss"),
    [
        (network(3), EVERYWHERE, "squared"),
        pytest.param(waves, IMAGES, "softmax", marks=pytest.mark.slow),
        (lambda p: p[0] * p[1] ** 2, GENERIC, "squared"),
    ],
    ids=["network", "images", "a function"],
)
def test_of_any_predictor(f, x, loss):
    values, slopes, hessians = dense_derivatives(f, x)
    outputs = jax.eval_shape(f, x[0]).shape
    targets = np.random.default_rng(3).normal(size=values.shape)
    if loss == "softmax":
        targets = probabilities(targets)
    given = targets.reshape(len(x), *outputs)
    hessian, gauss, moment, _ = expected(values, slopes, hessians, targets, loss)
    same(input_gradients(f, x), slopes if outputs else slopes[:, 0])
    operator = input_hessian(f, x, given, loss=loss)
    assert operator.dimension == x[0].size
    same(operator, hessian)
    same(gauss_newton(f, x, loss=loss), gauss)
    same(gradient_covariance(f, x, given, loss=loss), moment)


@pytest.mark.slow
def test_forms_of_one_matrix(monkeypatch):
    case, loss = problem("rbf"), "softmax"
    targets = probabilities(case.targets)
    structured, thin = input_hessian(case.f, case.x, targets, loss=loss), gauss_newton(case.f, case.x, loss=loss)
    assert isinstance(structured, SumOperator)
    assert isinstance(structured.second, PairCurvature)
    assert isinstance(thin, GaussNewtonRows)
    monkeypatch.setattr("kpoison.curvature.matrices._ROWS_AT_MOST", 1)
    by_probes = input_hessian(case.f, case.x, targets, loss=loss), gauss_newton(case.f, case.x, loss=loss)
    assert [type(operator) for operator in by_probes] == [ProbeHessian, ProbeGaussNewton]
    for operator, other in zip((structured, thin), by_probes, strict=True):
        matrix = np.asarray(other.dense())
        same(operator, matrix)
        V = np.random.default_rng(2).normal(size=(D, 3))
        for v in (V, V[:, 0]):
            assert operator(v).shape == v.shape
            same(operator(v), matrix @ v)
        assert other.exact_trace() is None
        assert float(operator.exact_trace()) == pytest.approx(np.trace(matrix), rel=20 * CONDITION * EPS)
        assert operator.dtype == other.dtype == np.float64


@pytest.mark.slow
def test_sums():
    case = problem("rbf")
    thin = gauss_newton(case.f, case.x)
    hessian = ProbeHessian(case.f, jnp.asarray(case.x), "squared", jnp.asarray(case.targets))
    total = thin + hessian
    same(total, np.asarray(thin.dense()) + np.asarray(hessian.dense()))
    assert total.exact_trace() is None
    assert (total.dimension, total.dtype) == (D, np.float64)
    twice = thin + thin
    assert float(twice.exact_trace()) == 2 * float(thin.exact_trace())
    with pytest.raises(ValueError, match="dimensions 4 and 3 do not add"):
        thin + GaussNewtonRows(jnp.ones((2, 3)))
    with pytest.raises(TypeError):
        thin + 1.0


@pytest.mark.slow
def test_batches_of_probes(monkeypatch):
    # 5 probes: 2 + 2 + 1.
    V = jnp.asarray(RNG.normal(size=(12, 2)))
    monkeypatch.setattr("kpoison._batches.BYTES_AT_ONCE", 2 * V.nbytes)
    targets = RNG.normal(size=(5, 2))
    hessian, gauss, *_ = expected(*dense_derivatives(waves, IMAGES), targets, "squared")
    x, y = jnp.asarray(IMAGES), jnp.asarray(targets)
    # Compiled anew: the operators' own calls may have seen these shapes before.
    products = jax.jit(
        lambda V: (ProbeHessian(waves, x, "squared", y).products(V), ProbeGaussNewton(waves, x, "squared").products(V))
    )(V)
    same(products[0], hessian @ V)
    same(products[1], gauss @ V)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_centres_in_many_directions_and_one_beside_a_probe(dtype):
    # In 30 dimensions random directions are far apart, so that planes come from inner products, but for one probe.
    generator = np.random.default_rng(2)
    centres, x = (generator.normal(size=(size, 30)).astype(dtype) for size in (15, 6))
    x[4] = centres[2] + np.asarray(1e-4, dtype) * centres[3]
    kernel, label = kk.NTK(1, "erf", 1.4, 0.3), generator.normal(size=15).astype(dtype)
    f = kp.predictor(kp.fit(kernel, centres, label), 0.5)
    exact = kp.predictor(kp.fit(kernel, centres.astype(float), label.astype(float)), 0.5)
    targets = np.zeros(6, dtype)
    values, slopes, hessians = dense_derivatives(exact, x.astype(float))
    hessian, gauss, *_ = expected(values, slopes, hessians, targets[:, None], "squared")
    eps = float(np.finfo(dtype).eps)
    same(input_gradients(f, x), slopes[:, 0], eps)
    same(gauss_newton(f, x), gauss, eps)
    same(input_hessian(f, x, targets), hessian, eps)


@pytest.mark.slow
def test_a_scalar_output_in_small_batches(monkeypatch):
    # A probe's pairs at a time; two probes at a time, and one that is left.
    monkeypatch.setattr("kpoison.curvature.expansion._PAIRS_AT_ONCE", 1)
    monkeypatch.setattr("kpoison.curvature.matrices._PROBES_AT_ONCE", 2)
    f, x = kp.predictor(kp.fit(kk.RBF(ELL), X, Y[:, 0]), RIDGE), EVERYWHERE[:7]
    values, slopes, hessians = dense_derivatives(f, x)
    targets = RNG.normal(size=7)
    hessian, gauss, moment, covariance = expected(values, slopes, hessians, targets[:, None], "squared")
    assert input_gradients(f, x).shape == (7, D)
    same(input_gradients(f, x), slopes[:, 0])
    same(input_hessian(f, x, targets), hessian)
    same(gauss_newton(f, x), gauss)
    same(gradient_covariance(f, x, targets), moment)
    same(gradient_covariance(f, x, targets, centred=True), covariance)


CUSPS = {"laplace": kk.Laplace(ELL), "ntk_relu": kk.NTK(1, "relu", 1.2), "ntk_relu_bias": kk.NTK(1, "relu", 1.2, 0.3)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["laplace", *(pytest.param(name, marks=pytest.mark.slow) for name in list(CUSPS)[1:])])
def test_away_from_a_cusp_and_beside_it(name):
    f = kp.predictor(kp.fit(CUSPS[name], X, Y), RIDGE, kp.Poison(ZETA, LABEL, 5.0))
    directions = np.random.default_rng(4).normal(size=(10, D))
    directions[:5] -= np.outer(directions[:5] @ ZETA, ZETA) / (ZETA @ ZETA)
    for r in (1, 1e-2, 1e-4, 1e-6, 1e-8):
        x, targets = ZETA + r * directions, np.random.default_rng(5).normal(size=(10, 3))
        hessian, gauss, *_ = expected(*dense_derivatives(f, x), targets, "squared")
        # The Hessian is of size 1/r; x − ζ is known to eps‖ζ‖/r.
        factor = 20 * (CONDITION + np.linalg.norm(ZETA) / r)
        same(input_hessian(f, x, targets), hessian, factor=factor)
        same(gauss_newton(f, x), gauss, factor=factor)


@pytest.mark.slow
def test_at_a_cusp_compiled_code_refuses():
    f = kp.predictor(kp.fit(CUSPS["laplace"], X, Y[:, 0]), RIDGE)
    hessian = jax.jit(lambda x: input_hessian(f, x[None], jnp.ones(1)).dense())
    assert np.all(np.isfinite(hessian(1.3 * X[3])))
    with pytest.raises((RuntimeError, ValueError), match="does not exist"):
        jax.block_until_ready(hessian(X[3]))


@pytest.mark.slow
def test_on_a_ray_of_a_relu_network_without_biases():
    f = kp.predictor(kp.fit(CUSPS["ntk_relu"], X, Y), RIDGE, kp.Poison(ZETA, LABEL, 5.0))
    for x in (1.3 * X[3], -0.7 * X[3], 1.3 * ZETA):
        with pytest.raises((RuntimeError, ValueError), match="does not exist"):
            jax.block_until_ready(input_hessian(f, np.concatenate([GENERIC[:9], x[None]]), np.ones((10, 3))).dense())


@pytest.mark.slow
def test_the_poisons_part_of_gauss_newton_is_the_spike():
    # L3: rank one, eigenvalue Λ (added up over the outputs), direction ∇k̃(x0, ζ).
    clean, poison = kp.fit(kk.RBF(ELL), X, Y), kp.Poison(ZETA, LABEL, 5.0)
    for r in (0.5, 1e-3):
        x0 = ZETA + r * ELL * U
        part = gauss_newton(lambda p: kp.efficacy(clean, poison, p, RIDGE), x0[None])
        values = np.linalg.eigvalsh(np.asarray(part.dense()))
        spike = float(np.sum(kp.spike(clean, poison, x0, RIDGE)))
        # A gradient that is small beside the terms that cancel in it is known to eps·cond of those.
        np.testing.assert_allclose(values[-1], spike, rtol=1e-9)
        np.testing.assert_allclose(values[:-1], 0, atol=1e-12 * spike)
        gradient = np.asarray(kp.efficacy_gradient(clean, poison, x0, RIDGE))[0]
        leading = np.asarray(top_eigenpairs(part, 1).vectors[0])
        assert abs(leading @ gradient) / np.linalg.norm(gradient) == pytest.approx(1, abs=1e-9)


@pytest.mark.slow
def test_float32():
    kernel, x = KERNELS["rbf"]
    eps = float(np.finfo(np.float32).eps)
    # Numbers that float32 holds, so that only the calculation rounds.
    narrow = [np.asarray(a, np.float32) for a in (X, Y, ZETA, LABEL, x, Y[:10])]
    found = {}
    for dtype in (np.float32, np.float64):
        data, targets, zeta, label, probes, y = (a.astype(dtype) for a in narrow)
        f = kp.predictor(kp.fit(kernel, data, targets), dtype(RIDGE), kp.Poison(zeta, label, 5.0))
        operators = input_hessian(f, probes, y), gradient_covariance(f, probes, y, centred=True)
        assert all(operator.dtype == operator.dense().dtype == dtype for operator in operators)
        found[dtype] = [np.asarray(operator.dense()) for operator in operators]
    for a, b in zip(*found.values(), strict=True):
        assert 0 < np.abs(a - b).max() / np.abs(b).max() < 2 * CONDITION * eps


@pytest.mark.slow
def test_compiled_with_the_predictor_as_an_argument():
    case = problem("rbf")
    v = RNG.normal(size=D)

    @jax.jit
    def product(f, x, targets, v):
        total = input_hessian(f, x, targets) + gradient_covariance(f, x, targets, centred=True)
        return total(v), gauss_newton(f, x, loss="softmax")(v), total.exact_trace()

    found = product(case.f, case.x, case.targets, v)
    hessian, _, _, covariance = expected(case.values, case.slopes, case.hessians, case.targets, "squared")
    _, gauss, *_ = expected(case.values, case.slopes, case.hessians, case.targets, "softmax")
    truths = (hessian + covariance) @ v, gauss @ v, np.trace(hessian + covariance)
    for a, b in zip(found, truths, strict=True):
        same(a, b)


W, SHIFT = RNG.normal(size=(2, D))


def _quadratic_form(structured):
    """wᵀHw as a function of a shift of the probes, of the ridge and of the poison's location."""

    def form(shift, ridge, zeta):
        x = jnp.stack([jnp.asarray(GENERIC[0]), jnp.asarray(ZETA), 1.7 * jnp.asarray(ZETA)]) + shift * SHIFT[None]
        f = kp.predictor(kp.fit(kk.RBF(ELL), X, Y[:, 0]), ridge, kp.Poison(zeta, -1.0, 5.0))
        targets = jnp.ones(3)
        if structured:
            return W @ input_hessian(f, x, targets)(W)
        return jnp.mean(jax.vmap(lambda p: W @ jax.hessian(lambda p: 0.5 * (f(p) - 1) ** 2)(p) @ W)(x))

    return form


@pytest.mark.slow
def test_derivatives_of_a_product():
    # Two of the probes have the poison on their ray, one of them at a distance of 0.
    at = 0.0, RIDGE, jnp.asarray(ZETA)
    found = jax.jit(jax.grad(_quadratic_form(True), argnums=(0, 1, 2)))(*at)
    plain = jax.jit(_quadratic_form(False))
    moves = ((1.0, 0, 0), (0, 0.01, 0), (0, 0, jnp.asarray(SHIFT)))
    for gradient, move in zip(found, moves, strict=True):
        h = 1e-3

        def along(t, move=move):
            return float(plain(*(a + t * m for a, m in zip(at, move, strict=True))))

        slope = (along(-2 * h) - 8 * along(-h) + 8 * along(h) - along(2 * h)) / (12 * h)
        step = next(m for m in move if np.any(m))
        # h⁴/30 times a fifth derivative of order 100, and eps·cond/h.
        assert float(jnp.sum(gradient * step)) == pytest.approx(slope, rel=1e-7, abs=1e-9)


@pytest.mark.slow
def test_one_dimension():
    # No direction across the ray: every centre lies on it.
    data, targets = RNG.normal(size=(6, 1)), RNG.normal(size=6)
    f = kp.predictor(kp.fit(kk.RBF(ELL), data, targets), RIDGE)

    def second(t):
        x = t[None, None]
        return input_hessian(f, x, jnp.ones(1)).dense()[0, 0]

    def loss(t):
        return 0.5 * (f(t[None]) - 1) ** 2

    found = jax.jit(lambda t: jax.jvp(second, (t,), (jnp.ones_like(t),)))
    truth = jax.jit(lambda t: jax.jvp(jax.grad(jax.grad(loss)), (t,), (jnp.ones_like(t),)))
    for t in (0.4, float(data[2, 0])):
        np.testing.assert_allclose(found(t), truth(t), rtol=1e-12)


def test_a_probe_at_a_centre_at_the_origin():
    f = kp.predictor(kp.fit(kk.RBF(ELL), X, Y), RIDGE, kp.Poison(np.zeros(D), LABEL, 5.0))
    x, targets = EVERYWHERE, np.ones((10, 3))
    same(input_hessian(f, x, targets), expected(*dense_derivatives(f, x), targets, "squared")[0])
