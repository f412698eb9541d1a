"""What the operators, spectra, edges and thresholds refuse: which error, and what it says."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison import curvature as kc
from kpoison.curvature.operators import GaussNewtonRows

RNG = np.random.default_rng(0)
X, Y, Y3 = RNG.normal(size=(5, 3)), RNG.normal(size=5), RNG.normal(size=(5, 3))
PROBES = RNG.normal(size=(4, 3))
NAN = np.where(np.arange(12).reshape(4, 3) == 7, np.nan, PROBES)
ONES, CLASSES = np.ones(4), np.array([0, 1, 2, 1])
GRADIENTS = RNG.normal(size=(6, 3))
E1 = np.array([1.0, 0.0, 0.0])
THIN = GaussNewtonRows(jnp.asarray(GRADIENTS))


@pytest.fixture(autouse=True)
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def scalar(p):
    return jnp.sum(p**2)


def three(p):
    return jnp.stack([jnp.sum(p**2), p[0] * p[1], jnp.sin(p[2])])


def predictor(kernel, y=Y):
    return kp.predictor(kp.fit(kernel, X, y), 0.1, kp.Poison(PROBES[1], jnp.ones(y.shape[1:]), 2.0))


def hessian_at_centres(kernel, **options):
    return lambda: kc.input_hessian(predictor(kernel), PROBES, ONES, **options)


RBF = kp.kernels.RBF(1.5)
FINITE = r"must be finite, got 1 non-finite value\(s\), the first at index \(2, 1\)"
SHAPE = r"x must hold at least one probe, shape \(q, d\) or \(q, height, width, channels\), got"
RETURN = r"f must return a floating-point number or a vector \(C,\) for one point of shape \(3,\), got shape"

OF_PROBES = [
    ("none", scalar, PROBES[:0], ValueError, rf"{SHAPE} \(0, 3\)"),
    ("one axis", scalar, PROBES[0], ValueError, rf"{SHAPE} \(3,\)"),
    ("a number", scalar, 1.0, ValueError, rf"{SHAPE} \(\)"),
    ("NaN", scalar, NAN, ValueError, f"^x {FINITE}"),
    ("integers", scalar, np.ones((2, 3), int), TypeError, "x must be a floating-point array, got dtype int64"),
    ("half precision", scalar, PROBES.astype(np.float16), TypeError, "x must be float32 or float64.*float16"),
    ("no function", 3, PROBES, TypeError, "f must be a predictor, a function of one point, got int"),
    ("does not accept it", lambda p: p @ jnp.ones(7), PROBES, ValueError, r"f must accept one point of shape \(3,\):"),
    ("two axes", predictor(RBF), PROBES[None], ValueError, r"f must accept one point of shape \(4, 3\):"),
    ("other points", predictor(RBF), np.ones((2, 4)), ValueError, r"f must accept one point of shape \(4,\): .*\(3,\)"),
    ("a matrix", lambda p: jnp.outer(p, p), PROBES, ValueError, rf"{RETURN} \(3, 3\)"),
    ("nothing", lambda p: jnp.zeros(0), PROBES, ValueError, rf"{RETURN} \(0,\)"),
    ("integers out", jnp.argmax, PROBES, ValueError, rf"{RETURN} \(\) and dtype int64"),
    ("complex", lambda p: p[0] * 1j, PROBES, ValueError, rf"{RETURN} \(\) and dtype complex128"),
    ("a tuple", lambda p: (p[0], p[1]), PROBES, ValueError, r"f must return an array for one point .* got tuple"),
]  # fmt: skip


@pytest.mark.parametrize(("f", "x", "error", "message"), [row[1:] for row in OF_PROBES], ids=[r[0] for r in OF_PROBES])
def test_predictors_and_probes(f, x, error, message):
    for call in (
        lambda: kc.gauss_newton(f, x),
        lambda: kc.fisher(f, x),
        lambda: kc.input_gradients(f, x),
        lambda: kc.gradient_covariance(f, x, ONES),
        lambda: kc.input_hessian(f, x, ONES),
    ):
        with pytest.raises(error, match=message):
            call()


def undefined(p):
    return p[0] / (p[0] != PROBES[1, 0])


def steep(p):
    return jnp.sqrt(jnp.abs(p[0] - PROBES[2, 0]))


@pytest.mark.parametrize("loss", ["squared", "softmax"])
def test_predictors_that_are_not_finite(loss):
    f, g = (
        (undefined, steep)
        if loss == "squared"
        else (lambda p, h=h: jnp.stack([h(p), p[1]]) for h in (undefined, steep))
    )
    targets = ONES if loss == "squared" else CLASSES % 2
    for call in (
        lambda: kc.gauss_newton(f, PROBES, loss=loss),
        lambda: kc.gradient_covariance(f, PROBES, targets, loss=loss),
        lambda: kc.input_hessian(f, PROBES, targets, loss=loss),
    ):
        with pytest.raises(ValueError, match="f has non-finite values at the probes, the first at probe 1"):
            call()
    for call in (
        lambda: kc.input_gradients(g, PROBES),
        lambda: kc.gauss_newton(g, PROBES, loss=loss),
        lambda: kc.gradient_covariance(g, PROBES, targets, loss=loss),
    ):
        with pytest.raises(ValueError, match="f has non-finite gradients at the probes, the first at probe 2"):
            call()


ROWS = r"gradients must have shape \(N, D\) with N >= 2, one row per probe, got"
TABLE = [
    (
        "targets: too few",
        lambda: kc.input_hessian(scalar, PROBES, ONES[:3]),
        ValueError,
        r"targets must have shape \(4,\), one for each probe, got \(3,\)",
    ),
    (
        "targets: an axis",
        lambda: kc.input_hessian(scalar, PROBES, ONES[:, None]),
        ValueError,
        r"targets must have shape \(4,\).*got \(4, 1\)",
    ),
    (
        "targets: no axis",
        lambda: kc.gradient_covariance(three, PROBES, ONES),
        ValueError,
        r"targets must have shape \(4, 3\).*got \(4,\)",
    ),
    ("targets: text", lambda: kc.input_hessian(scalar, PROBES, ["a"] * 4), TypeError, "targets must be real"),
    (
        "targets: NaN",
        lambda: kc.input_hessian(scalar, PROBES, np.nan * ONES),
        ValueError,
        r"targets must be finite, got 4 non-finite",
    ),
    (
        "classes: beyond",
        lambda: kc.input_hessian(three, PROBES, CLASSES + 1, loss="softmax"),
        ValueError,
        "targets must be classes 0 to 2, got 1 to 3",
    ),
    (
        "classes: negative",
        lambda: kc.input_hessian(three, PROBES, CLASSES - 1, loss="softmax"),
        ValueError,
        "targets must be classes 0 to 2, got -1 to 1",
    ),
    (
        "classes: floats",
        lambda: kc.input_hessian(three, PROBES, CLASSES * 1.0, loss="softmax"),
        TypeError,
        r"targets must be classes \(integers\) or probabilities.*float64",
    ),
    (
        "classes: too few",
        lambda: kc.input_hessian(three, PROBES, CLASSES[:3], loss="softmax"),
        ValueError,
        r"targets must have shape \(4,\) of classes or \(4, 3\).*got \(3,\)",
    ),
    (
        "probabilities: sum",
        lambda: kc.input_hessian(three, PROBES, np.ones((4, 3)), loss="softmax"),
        ValueError,
        "targets must be probabilities, >= 0 and with a sum of 1 .* sums of 3 to 3",
    ),
    (
        "probabilities: negative",
        lambda: kc.gradient_covariance(three, PROBES, np.tile([2.0, -1.0, 0.0], (4, 1)), loss="softmax"),
        ValueError,
        "targets must be probabilities.* smallest of -1",
    ),
    (
        "loss",
        lambda: kc.gauss_newton(three, PROBES, loss="hinge"),
        ValueError,
        "loss must be one of 'squared', 'softmax', got 'hinge'",
    ),
    (
        "loss: one output",
        lambda: kc.fisher(scalar, PROBES, loss="softmax"),
        ValueError,
        r'f must return at least two outputs for loss="softmax", got shape \(\)',
    ),
    (
        "loss: one output in an axis",
        lambda: kc.fisher(lambda p: p[:1], PROBES, loss="softmax"),
        ValueError,
        r"at least two outputs.*\(1,\)",
    ),
    (
        "Laplace",
        hessian_at_centres(kp.kernels.Laplace(1.0)),
        ValueError,
        r"x must stay off the training points and the poison: probe 1 .* Laplace has no second .* \(smoothness 0\)",
    ),
    (
        "ReLU",
        hessian_at_centres(kp.kernels.NTK(1, "relu", 1.2, 0.3)),
        ValueError,
        "probe 1 is one of them, where the kernel NTK",
    ),
    ("v: length", lambda: THIN(np.ones(4)), ValueError, r"v must have shape \(3,\) or \(3, k\), got \(4,\)"),
    ("v: axes", lambda: THIN(np.ones((3, 1, 1))), ValueError, r"v must have shape .* got \(3, 1, 1\)"),
    (
        "operator: a matrix",
        lambda: kc.top_eigenpairs(np.eye(3)),
        TypeError,
        "operator must be made by kpoison.curvature, got ndarray",
    ),
    ("operator: density", lambda: kc.spectral_density(np.eye(3)), TypeError, "operator must be made by"),
    ("operator: trace", lambda: kc.trace(scalar), TypeError, "operator must be made by"),
    (
        "operator: traced",
        lambda: jax.jit(lambda r: kc.top_eigenpairs(GaussNewtonRows(r)).values)(jnp.asarray(GRADIENTS)),
        TypeError,
        "operator must hold known numbers",
    ),
    (
        "operator: infinite",
        lambda: kc.top_eigenpairs(
            kc.input_hessian(lambda p: jnp.sum(jnp.abs(p) ** 1.5), np.zeros((1, 3)), ONES[:1]), 1
        ),
        ValueError,
        "operator must have finite products",
    ),
    (
        "k: beyond",
        lambda: kc.top_eigenpairs(THIN, 4),
        ValueError,
        "k must be at most the number of coordinates, 3, got 4",
    ),
    ("k: zero", lambda: kc.top_eigenpairs(THIN, 0), ValueError, "k must be an integer >= 1, got 0"),
    ("k: a float", lambda: kc.top_eigenpairs(THIN, 2.0), ValueError, "k must be an integer >= 1, got 2.0"),
    ("k: a boolean", lambda: kc.top_eigenpairs(THIN, True), ValueError, "k must be an integer >= 1, got True"),
    (
        "which",
        lambda: kc.top_eigenpairs(THIN, 1, which="LA"),
        ValueError,
        "which must be one of 'largest', 'smallest', got 'LA'",
    ),
    (
        "tolerance",
        lambda: kc.top_eigenpairs(THIN, 1, tolerance=0.0),
        ValueError,
        "tolerance must be finite and > 0, got 0.0",
    ),
    (
        "max_products",
        lambda: kc.top_eigenpairs(THIN, 1, max_products=0),
        ValueError,
        "max_products must be an integer >= 1",
    ),
    (
        "density: probes",
        lambda: kc.spectral_density(THIN, probes=1),
        ValueError,
        "probes must be an integer >= 2, got 1",
    ),
    ("density: depth", lambda: kc.spectral_density(THIN, depth=0), ValueError, "depth must be an integer >= 1"),
    ("density: points", lambda: kc.spectral_density(THIN, points=1), ValueError, "points must be an integer >= 2"),
    (
        "density: width",
        lambda: kc.spectral_density(THIN, width=-1.0),
        ValueError,
        "width must be finite and > 0, got -1.0",
    ),
    ("trace: probes", lambda: kc.trace(THIN, probes=1), ValueError, "probes must be an integer >= 2"),
    ("variance", lambda: kc.marchenko_pastur_edge(0.0, 0.5), ValueError, "variance must be finite and > 0, got 0.0"),
    ("aspect", lambda: kc.visibility_threshold(1.0, -0.5), ValueError, "aspect must be finite and > 0, got -0.5"),
    ("aspect: NaN", lambda: kc.outlier_overlap(1.0, 1.0, np.nan), ValueError, "aspect must be finite and > 0, got nan"),
    ("spike", lambda: kc.outlier_eigenvalue(-1.0, 1.0, 0.5), ValueError, "spike must be finite and >= 0, got -1.0"),
    ("spike: text", lambda: kc.outlier_eigenvalue("1", 1.0, 0.5), TypeError, "spike must be real"),
    ("gradients: one axis", lambda: kc.bulk_edge_from_clean(ONES), ValueError, rf"{ROWS} \(4,\)"),
    ("gradients: one row", lambda: kc.bulk_edge_from_permutations(GRADIENTS[:1]), ValueError, rf"{ROWS} \(1, 3\)"),
    (
        "gradients: three axes",
        lambda: kc.bulk_edge_from_permutations(GRADIENTS[None]),
        ValueError,
        rf"{ROWS} \(1, 6, 3\)",
    ),
    ("gradients: none", lambda: kc.bulk_edge_from_clean(GRADIENTS[:, :0]), ValueError, rf"{ROWS} \(6, 0\)"),
    ("gradients: NaN", lambda: kc.bulk_edge_from_clean(NAN), ValueError, f"gradients {FINITE}"),
    (
        "level: one",
        lambda: kc.bulk_edge_from_clean(GRADIENTS, level=1.0),
        ValueError,
        "level must lie between 0 and 1, got 1.0",
    ),
    (
        "level: percent",
        lambda: kc.bulk_edge_from_permutations(GRADIENTS, level=99),
        ValueError,
        "level must lie between 0 and 1, got 99",
    ),
    ("level: zero", lambda: kc.bulk_edge_from_clean(GRADIENTS, level=0.0), ValueError, "level must be finite and > 0"),
    (
        "repeats",
        lambda: kc.bulk_edge_from_clean(GRADIENTS, repeats=1),
        ValueError,
        "repeats must be an integer >= 2, got 1",
    ),
    (
        "number",
        lambda: kc.bulk_edge_from_clean(GRADIENTS, number=1),
        ValueError,
        "number must be an integer >= 2, got 1",
    ),
    (
        "direction: length",
        lambda: kc.visibility(1.0, E1, 2.0, direction=ONES),
        ValueError,
        "direction must have the 3 coordinates of a point, got 4",
    ),
    ("direction: zero", lambda: kc.visibility(1.0, E1, 2.0, direction=0 * E1), ValueError, "direction must not be 0"),
    (
        "direction: NaN",
        lambda: kc.visibility(1.0, E1, 2.0, direction=np.nan * E1),
        ValueError,
        "direction must be finite",
    ),
    ("eigenvalue", lambda: kc.visibility(np.nan, E1, 2.0), ValueError, "eigenvalue must be finite"),
    ("eigenvector", lambda: kc.visibility(1.0, np.inf * (E1 + 1), 2.0), ValueError, "eigenvector must be finite"),
    (
        "eigenvector: integers",
        lambda: kc.visibility(1.0, np.arange(3), 2.0),
        TypeError,
        "eigenvector must be a floating-point array",
    ),
    ("edge", lambda: kc.visibility(1.0, E1, np.nan), ValueError, "edge must be finite"),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_everything_else(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
def test_hessians_of_smooth_kernels_exist_at_the_poison():
    assert np.all(np.isfinite(hessian_at_centres(RBF)().dense()))
    # The Gauss–Newton part exists, as the symmetric part of the gradient, at a cusp too.
    assert np.all(np.isfinite(kc.gauss_newton(predictor(kp.kernels.Laplace(1.0)), PROBES).dense()))


def test_in_compiled_code():
    with pytest.raises((RuntimeError, ValueError), match="f has non-finite gradients at the probes"):
        jax.block_until_ready(jax.jit(lambda x: kc.gauss_newton(lambda p: jnp.sqrt(p[0]), x).rows)(-jnp.ones((2, 3))))
