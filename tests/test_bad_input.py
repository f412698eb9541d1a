"""Every public function's bad inputs: which error, and that it names the argument, what came and what was expected."""

import equinox as eqx
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison import kernels

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5, 3)), RNG.normal(size=5)
Z, Q = RNG.normal(size=3), RNG.normal(size=(2, 3))
NAN = np.where(np.arange(15).reshape(5, 3) == 7, np.nan, X)
INF = np.where(np.arange(15).reshape(5, 3) == 7, np.inf, X)
RBF = kernels.RBF(1.5)
POISON = kp.Poison(Z, 1.0, 3.0)
CLUSTER = kp.Poison(X[:2] + 0.1, np.array([1.0, -1.0]), 2.0)


@pytest.fixture(autouse=True)
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def clean():
    return kp.fit(RBF, X, Y)


@pytest.fixture(scope="module")
def two_outputs():
    return kp.fit(RBF, X, np.stack([Y, -Y], axis=1))


FINITE = r"must be finite, got 1 non-finite value\(s\), the first at index \(2, 1\)"

FIT = [
    ("kernel: a name", lambda: kp.fit("rbf", X, Y), TypeError, "kernel must be a .*Kernel, got str"),
    ("kernel: a class", lambda: kp.fit(kernels.RBF, X, Y), TypeError, "kernel must be a .*Kernel, got"),
    ("kernel: none", lambda: kp.fit(None, X, Y), TypeError, "kernel must be a .*Kernel, got NoneType"),
    ("X: one axis", lambda: kp.fit(RBF, X[0], Y), ValueError, r"X must have shape \(n, d\), got \(3,\)"),
    ("X: three axes", lambda: kp.fit(RBF, X[None], Y), ValueError, r"X must have shape \(n, d\), got \(1, 5, 3\)"),
    ("X: a number", lambda: kp.fit(RBF, 1.0, Y), ValueError, r"X must have shape \(n, d\), got \(\)"),
    ("X: no points", lambda: kp.fit(RBF, X[:0], Y[:0]), ValueError, r"X must not be empty, got shape \(0, 3\)"),
    ("X: no features", lambda: kp.fit(RBF, X[:, :0], Y), ValueError, r"X must not be empty, got shape \(5, 0\)"),
    ("X: NaN", lambda: kp.fit(RBF, NAN, Y), ValueError, f"X {FINITE}"),
    ("X: infinite", lambda: kp.fit(RBF, INF, Y), ValueError, f"X {FINITE}"),
    ("X: integers", lambda: kp.fit(RBF, X.astype(int), Y), TypeError, "X must be a floating-point .*got dtype int64"),
    ("X: booleans", lambda: kp.fit(RBF, X > 0, Y), TypeError, "X must be a floating-point array, got dtype bool"),
    ("X: complex", lambda: kp.fit(RBF, X + 0j, Y), TypeError, "X must be a floating-point .*got dtype complex128"),
    ("X: half precision", lambda: kp.fit(RBF, X.astype(np.float16), Y), TypeError, "X .*float16"),
    ("X: bfloat16", lambda: kp.fit(RBF, jnp.asarray(X, jnp.bfloat16), Y), TypeError, "X .*bfloat16"),
    ("X: text", lambda: kp.fit(RBF, "abc", Y), TypeError, "X must be a floating-point array, got dtype <U3"),
    ("X: none", lambda: kp.fit(RBF, None, Y), TypeError, "X must be a floating-point array, got dtype object"),
    ("X: ragged", lambda: kp.fit(RBF, [[1.0, 2.0], [3.0]], Y), (TypeError, ValueError), r"^X "),
    (
        "X: vectors for an image kernel",
        lambda: kp.fit(kernels.Custom(lambda x, z: jnp.sum(x * z), point_ndim=3), X, Y),
        ValueError,
        r"X must have shape \(n, \.\.\., \.\.\., \.\.\.\), got \(5, 3\)",
    ),
    ("y: too short", lambda: kp.fit(RBF, X, Y[:-1]), ValueError, r"y must have shape \(5,\) or \(5, C\).*got \(4,\)"),
    ("y: a number", lambda: kp.fit(RBF, X, 1.0), ValueError, r"y must have shape \(5,\) or \(5, C\).*got \(\)"),
    ("y: three axes", lambda: kp.fit(RBF, X, Y[:, None, None]), ValueError, r"y must have shape .*got \(5, 1, 1\)"),
    ("y: no outputs", lambda: kp.fit(RBF, X, np.zeros((5, 0))), ValueError, r"y must have shape .*got \(5, 0\)"),
    ("y: transposed", lambda: kp.fit(RBF, X, np.ones((2, 5))), ValueError, r"y must have shape .*got \(2, 5\)"),
    ("y: NaN", lambda: kp.fit(RBF, X, np.r_[Y[:-1], np.nan]), ValueError, r"y must be finite, got 1 .*index \(4,\)"),
    ("y: complex", lambda: kp.fit(RBF, X, Y + 0j), TypeError, "y must be real, got ndarray of dtype complex128"),
    ("y: booleans", lambda: kp.fit(RBF, X, Y > 0), TypeError, "y must be real, got ndarray of dtype bool"),
    ("y: text", lambda: kp.fit(RBF, X, list("abcde")), TypeError, "y must be real, got list of dtype <U1"),
    ("y: none", lambda: kp.fit(RBF, X, None), TypeError, "y must be real, got NoneType"),
    ("solver: a name", lambda: kp.fit(RBF, X, Y, solver="spectral"), TypeError, "solver must be a solver .*got str"),
    ("solver: a class", lambda: kp.fit(RBF, X, Y, solver=kp.Cholesky), TypeError, "solver must be a solver .*got"),
    ("no targets", lambda: kp.fit(RBF, X), TypeError, "missing 1 required positional argument: 'y'"),
]

MAKE_POISON = [
    (
        "location: integers",
        lambda: kp.gain(kp.fit(RBF, X, Y), kp.Poison(np.zeros(3, int), 1.0, 1.0), 0.1),
        TypeError,
        "location must be a floating.*int64",
    ),
    ("location: text", lambda: kp.Poison("a", 1.0, 1.0), TypeError, "location must be a floating-point .*<U1"),
    ("location: none", lambda: kp.Poison(None, 1.0, 1.0), TypeError, "location must be a floating-point .*object"),
    ("location: NaN", lambda: kp.Poison(NAN[2], 1.0, 1.0), ValueError, r"location must be finite, .*index \(1,\)"),
    ("label: NaN", lambda: kp.Poison(Z, np.nan, 1.0), ValueError, "label must be finite, got 1 non-finite"),
    ("label: text", lambda: kp.Poison(Z, "cat", 1.0), TypeError, "label must be real, got str of dtype <U3"),
    ("label: complex", lambda: kp.Poison(Z, 1j, 1.0), TypeError, "label must be real, got complex"),
    ("label: boolean", lambda: kp.Poison(Z, True, 1.0), TypeError, "label must be real, got bool"),
    ("label: none", lambda: kp.Poison(Z, None, 1.0), TypeError, "label must be real, got NoneType"),
    ("count: negative", lambda: kp.Poison(Z, 1.0, -1), ValueError, "count must be finite and >= 0, got -1"),
    ("count: one negative", lambda: kp.Poison(X, 1.0, -Y), ValueError, r"count must be finite and >= 0, got \["),
    ("count: NaN", lambda: kp.Poison(Z, 1.0, np.nan), ValueError, "count must be finite and >= 0, got nan"),
    ("count: infinite", lambda: kp.Poison(Z, 1.0, np.inf), ValueError, "count must be finite and >= 0, got inf"),
    ("count: text", lambda: kp.Poison(Z, 1.0, "3"), TypeError, "count must be real, got str"),
    ("count: none", lambda: kp.Poison(Z, 1.0, None), TypeError, "count must be real, got NoneType"),
    ("count: boolean", lambda: kp.Poison(Z, 1.0, True), TypeError, "count must be real, got bool"),
]

KERNELS = [
    ("length_scale: zero", lambda: kernels.RBF(0.0), ValueError, "length_scale must be finite and > 0, got 0.0"),
    ("length_scale: negative", lambda: kernels.Laplace(-1.0), ValueError, "length_scale must be .* > 0, got -1.0"),
    ("length_scale: NaN", lambda: kernels.Matern32(np.nan), ValueError, "length_scale must be finite .*got nan"),
    ("length_scale: infinite", lambda: kernels.Matern52(np.inf), ValueError, "length_scale must be finite .*got inf"),
    (
        "length_scale: a table",
        lambda: kernels.RBF(X * X),
        ValueError,
        r"length_scale must be .* shape \(d,\).*\(5, 3\)",
    ),
    ("length_scale: text", lambda: kernels.RBF("long"), TypeError, "length_scale must be real, got str"),
    ("length_scale: none", lambda: kernels.RBF(None), TypeError, "length_scale must be real, got NoneType"),
    ("alpha: zero", lambda: kernels.RationalQuadratic(1.0, 0.0), ValueError, "alpha must be finite and > 0, got 0.0"),
    ("degree: zero", lambda: kernels.Polynomial(0), ValueError, "degree must be an integer >= 1, got 0"),
    ("degree: a fraction", lambda: kernels.Polynomial(1.5), ValueError, "degree must be an integer >= 1, got 1.5"),
    ("degree: boolean", lambda: kernels.Polynomial(True), ValueError, "degree must be an integer >= 1, got True"),
    ("offset: negative", lambda: kernels.Polynomial(2, -1.0), ValueError, "offset must be finite and >= 0, got -1.0"),
    ("scale: zero", lambda: 0.0 * RBF, ValueError, "scale must be finite and > 0, got 0.0"),
    ("scale: negative", lambda: RBF * -2.0, ValueError, "scale must be finite and > 0, got -2.0"),
    ("scale: several", lambda: kernels.Scaled(RBF, np.ones(2)), ValueError, r"scale must be a single number.*\(2,\)"),
    ("sum with a negative number", lambda: RBF + -1.0, ValueError, "added to a kernel must be finite and >= 0, got -1"),
    ("sum with text", lambda: RBF + "1", TypeError, "what is added to a kernel must be real, got str"),
    (
        "sum of kernels on different points",
        lambda: RBF + kernels.Custom(lambda x, z: jnp.sum(x * z), point_ndim=3),
        ValueError,
        "points of 1 and 3 axes cannot be combined",
    ),
    ("hidden_layers: zero", lambda: kernels.NTK(0), ValueError, "hidden_layers must be an integer >= 1, got 0"),
    (
        "hidden_layers: a fraction",
        lambda: kernels.NNGP(1.5),
        ValueError,
        "hidden_layers must be an integer >= 1, got 1.5",
    ),
    (
        "activation: unknown",
        lambda: kernels.NTK(1, "relux"),
        ValueError,
        "activation must be one of 'relu'.*got 'relux'",
    ),
    ("activation: a number", lambda: kernels.NTK(1, 3), TypeError, "activation must be a name, .*got int"),
    ("weight_std: zero", lambda: kernels.NTK(1, "relu", 0.0), ValueError, "weight_std must be finite and > 0, got 0.0"),
    ("bias_std: negative", lambda: kernels.NNGP(1, "erf", 1.0, -0.1), ValueError, "bias_std must be .*>= 0, got -0.1"),
    ("slope: text", lambda: kernels.LeakyReLU("steep"), (TypeError, ValueError), "slope must be .*str"),
    ("slope: NaN", lambda: kernels.LeakyReLU(np.nan), ValueError, "slope must be finite"),
    ("slope: several", lambda: kernels.LeakyReLU(np.ones(2)), ValueError, r"slope must be .*\(2,\)"),
    ("second of a sum: text", lambda: kernels.Sum(RBF, "rbf"), TypeError, "must be a .*Kernel.*, got str"),
    ("second of a product: none", lambda: kernels.Product(RBF, None), TypeError, "must be a .*Kernel.*, got NoneType"),
    ("kernel of a multiple: text", lambda: kernels.Scaled("rbf", 2.0), TypeError, "must be a .*Kernel.*, got str"),
    ("point_ndim: zero", lambda: kernels.Custom(jnp.vdot, point_ndim=0), ValueError, "point_ndim must be .*got 0"),
    (
        "point_ndim: text",
        lambda: kernels.Custom(jnp.vdot, point_ndim="1"),
        (TypeError, ValueError),
        "point_ndim must be",
    ),
    ("smoothness: text", lambda: kernels.Custom(jnp.vdot, smoothness="C2"), (TypeError, ValueError), "smoothness must"),
    ("kernel_fn: a name", lambda: kernels.from_stax("ntk"), TypeError, "kernel_fn must be callable, .*got str"),
    (
        "get: unknown",
        lambda: kernels.from_stax(len, get="gp"),
        ValueError,
        "get must be one of 'ntk', 'nngp', got 'gp'",
    ),
    ("point_ndim of stax", lambda: kernels.from_stax(len, point_ndim=0), ValueError, "point_ndim must be .*got 0"),
    ("function: not callable", lambda: kernels.Custom(3), TypeError, "function must be callable .*got int"),
    (
        "nodes of a quadrature",
        lambda: kernels.Quadrature(jnp.tanh, 1),
        ValueError,
        "nodes must be an integer >= 2, got 1",
    ),
    ("function of a quadrature", lambda: kernels.Quadrature("tanh"), TypeError, "function must be callable, got str"),
    ("X1: one axis", lambda: RBF(X[0]), ValueError, r"X1 must have shape \(n, d\), got \(3,\)"),
    ("X1: no points", lambda: RBF(X[:0]), ValueError, r"X1 must not be empty, got shape \(0, 3\)"),
    ("X1: integers", lambda: RBF(X.astype(int)), TypeError, "X1 must be a floating-point array, got dtype int64"),
    ("X1: NaN", lambda: RBF(NAN), ValueError, f"X1 {FINITE}"),
    ("X1: text", lambda: RBF("a"), TypeError, "X1 must be a floating-point array, got dtype <U1"),
    (
        "X2: other dimension",
        lambda: RBF(X, X[:, :2]),
        ValueError,
        r"X2 must hold points of shape \(3,\), as X1.*\(2,\)",
    ),
    ("X2: infinite", lambda: RBF(X, INF), ValueError, f"X2 {FINITE}"),
    ("X2: one axis", lambda: RBF(X, X[0]), ValueError, r"X2 must have shape \(n, d\), got \(3,\)"),
]

NO_KERNEL = [
    (
        "several values",
        lambda: kp.fit(kernels.Custom(lambda x, z: x * z), X, Y),
        ValueError,
        r"custom kernel must return a scalar for two points, got shape \(3,\)",
    ),
    (
        "not symmetric",
        lambda: kp.fit(kernels.Custom(lambda x, z: jnp.exp(-jnp.sum((x - z) ** 2)) + 0.1 * x[0]), X, Y),
        ValueError,
        "kernel Custom is not symmetric on X",
    ),
    (
        "not positive",
        lambda: kp.fit(kernels.Custom(lambda x, z: jnp.sum(x * z) - jnp.exp(-jnp.sum((x - z) ** 2))), X, Y),
        ValueError,
        "kernel Custom is not positive semi-definite on X",
    ),
    (
        "not finite",
        lambda: kp.fit(kernels.Custom(lambda x, z: jnp.log(jnp.sum(x * z))), X, Y),
        ValueError,
        "kernel Custom has non-finite values on X",
    ),
]

ALONE = {"fit": FIT, "Poison": MAKE_POISON, "kernels": KERNELS, "no kernel": NO_KERNEL}
ALONE = [(f"{function}, {label}", *rest) for function, rows in ALONE.items() for label, *rest in rows]


@pytest.mark.parametrize(("label", "call", "error", "message"), ALONE, ids=[row[0] for row in ALONE])
def test_bad_input(label, call, error, message):
    with pytest.raises(error, match=message):
        call()


# The laws share their arguments; every one of them must refuse every bad one.

GOOD = {"poison": POISON, "x": Q, "ridge": 0.1, "law": "exact"}
TAKES = {  # arguments besides clean
    "predict": ("x", "ridge", "poison"),
    "gain": ("poison", "ridge", "law"),
    "efficacy": ("poison", "x", "ridge", "law"),
    "efficacy_gradient": ("poison", "x", "ridge", "law"),
    "spike": ("poison", "x", "ridge", "law"),
    "spike_components": ("poison", "x", "ridge", "law"),
    "spike_efficacy_ratio": ("poison", "x", "ridge", "law"),
    "coupling_floor": ("poison", "ridge", "law"),
    "coupling_ratio": ("poison", "x", "ridge"),
}
ONE_LOCATION = {"spike_efficacy_ratio", "coupling_floor", "coupling_ratio"}


def call(name, clean, **changed):
    arguments = {argument: GOOD[argument] for argument in TAKES[name]}
    return getattr(kp, name)(**{"clean": clean, **arguments, **changed})


RIDGE = [
    ("zero", 0.0, ValueError, "ridge must be finite and > 0, got 0.0"),
    ("negative", -1.0, ValueError, "ridge must be finite and > 0, got -1.0"),
    ("NaN", np.nan, ValueError, "ridge must be finite and > 0, got nan"),
    ("infinite", np.inf, ValueError, "ridge must be finite and > 0, got inf"),
    ("several", np.array([0.1, 0.2]), ValueError, r"ridge must be a single number, got shape \(2,\)"),
    ("text", "small", TypeError, "ridge must be real, got str"),
    ("none", None, TypeError, "ridge must be real, got NoneType"),
    ("complex", 1j, TypeError, "ridge must be real, got complex"),
    ("boolean", True, TypeError, "ridge must be real, got bool"),
    ("an array of booleans", np.array(True), TypeError, "ridge must be real, got ndarray of dtype bool"),
]
PROBES = [
    ("other dimension", Q[:, :2], ValueError, r"x must hold points of shape \(3,\), as X does, got \(2,\)"),
    ("one point of other dimension", Z[:2], ValueError, r"x must hold points of shape \(3,\), as X does, got \(2,\)"),
    ("three axes", Q[None], ValueError, r"x must have shape \(n, d\), got \(1, 2, 3\)"),
    ("a number", 1.0, ValueError, r"x must have shape \(n, d\), got \(\)"),
    ("no points", Q[:0], ValueError, r"x must not be empty, got shape \(0, 3\)"),
    ("NaN", NAN, ValueError, f"x {FINITE}"),
    ("integers", np.ones((2, 3), int), TypeError, "x must be a floating-point array, got dtype int64"),
    ("text", "here", TypeError, "x must be a floating-point array, got dtype <U4"),
    ("none", None, TypeError, "x must be a floating-point array, got dtype object"),
    ("a list of integers", [1, 2, 3], TypeError, "x must be a floating-point array, got dtype int64"),
]
POISONS = [
    ("a location", Z, TypeError, "poison must be a kpoison.Poison, got ndarray"),
    ("a dictionary", {"location": Z}, TypeError, "poison must be a kpoison.Poison, got dict"),
    (
        "location of other dimension",
        kp.Poison(Z[:2], 1.0, 1.0),
        ValueError,
        r"poison.location must have shape \(3,\) or \(p, 3\) to match the clean inputs, got \(2,\)",
    ),
    (
        "cluster of other dimension",
        kp.Poison(Q[:, :2], 1.0, 1.0),
        ValueError,
        r"poison.location must have shape \(3,\) or \(p, 3\) .*got \(2, 2\)",
    ),
    ("location of three axes", kp.Poison(Q[None], 1.0, 1.0), ValueError, r"poison.location .*got \(1, 2, 3\)"),
    ("location a number", kp.Poison(1.0, 1.0, 1.0), ValueError, r"poison.location .*got \(\)"),
    ("no locations", kp.Poison(Q[:0], 1.0, 1.0), ValueError, r"poison.location must hold at least one .*\(0, 3\)"),
    ("label of two outputs", kp.Poison(Z, np.ones(2), 1.0), ValueError, r"poison.label must have shape .*got \(2,\)"),
    ("label of none", kp.Poison(Z, np.ones(0), 1.0), ValueError, r"poison.label must have shape .*got \(0,\)"),
    ("labels of a cluster", kp.Poison(Q, np.ones(3), 1.0), ValueError, r"poison.label must have shape .*got \(3,\)"),
    ("counts of clones", kp.Poison(Z, 1.0, np.ones(1)), ValueError, r"poison.count must have shape \(\) .*got \(1,\)"),
    ("counts of a cluster", kp.Poison(Q, 1.0, np.ones(3)), ValueError, r"poison.count must have shape .*got \(3,\)"),
]
POSTERIORS = [
    ("a kernel", RBF, TypeError, "clean must be a Posterior made by kpoison.fit, got RBF"),
    ("none", None, TypeError, "clean must be a Posterior made by kpoison.fit, got NoneType"),
    ("data", X, TypeError, "clean must be a Posterior made by kpoison.fit, got ndarray"),
]
LAW_NAMES = [
    ("unknown", "exakt", ValueError, "law must be one of 'exact', 'isolated', got 'exakt'"),
    ("none", None, ValueError, "law must be one of 'exact', 'isolated', got None"),
    ("a number", 1, ValueError, "law must be one of 'exact', 'isolated', got 1"),
    ("a list", ["exact"], ValueError, r"law must be one of 'exact', 'isolated', got \['exact'\]"),
]


def _of_laws():
    tables = {"ridge": RIDGE, "x": PROBES, "poison": POISONS, "law": LAW_NAMES}
    for name, takes in TAKES.items():
        rows = [(argument, *row) for argument in takes for row in tables[argument]]
        rows += [("clean", *row) for row in POSTERIORS]
        if name == "predict":  # of which there may be several
            rows = [row for row in rows if row[:2] != ("ridge", "several")]
            rows.append(("ridge", "a table", np.ones((1, 2)), ValueError, r"ridge must be .* got shape \(1, 2\)"))
        else:
            rows.append(("poison", "none", None, TypeError, "poison must be a kpoison.Poison, got NoneType"))
        if name in ONE_LOCATION:
            expected = r"poison must be clones at one location, shape \(3,\), got a cluster of shape \(2, 3\)"
            rows.append(("poison", "a cluster", CLUSTER, ValueError, expected))
        for argument, label, value, error, message in rows:
            yield f"{name}, {argument}: {label}", name, {argument: value}, error, message


OF_LAWS = list(_of_laws())


@pytest.mark.parametrize(("label", "name", "arguments", "error", "message"), OF_LAWS, ids=[row[0] for row in OF_LAWS])
def test_bad_argument_of_a_law(clean, label, name, arguments, error, message):
    with pytest.raises(error, match=message):
        call(name, **{"clean": clean, **arguments})


@pytest.mark.parametrize("name", TAKES)
def test_bad_labels_for_two_outputs(two_outputs, name):
    with pytest.raises(ValueError, match=r"poison.label must have shape \(2,\) for 1 location.* got \(\)"):
        call(name, two_outputs)
    if name not in ONE_LOCATION:
        many = kp.Poison(X, np.ones(5), 1.0)
        with pytest.raises(ValueError, match=r"poison.label must have shape \(2,\) or \(5, 2\) .*got \(5,\)"):
            call(name, two_outputs, poison=many)


@pytest.mark.parametrize("name", TAKES)
def test_bad_counts_made_inside_a_program_are_refused_by_the_law(clean, name):
    poison = eqx.tree_at(lambda p: p.count, POISON, jnp.asarray(-3.0))
    with pytest.raises((ValueError, RuntimeError), match=r"poison.count must be finite and >= 0"):
        call(name, clean, poison=poison)


def test_spike_components_of_a_kernel_that_is_not_rotation_invariant():
    kernel = kernels.Custom(lambda x, z: jnp.exp(-jnp.sum((x - z) ** 2)))
    with pytest.raises(ValueError, match=r"kernel must be rotation-invariant to split the spike, got Custom"):
        kp.spike_components(kp.fit(kernel, X, Y), POISON, Q, 0.1)


@pytest.mark.parametrize("arguments", [{}, {"x": Q}, {"ridge": 0.1}])
def test_missing_arguments_are_named(clean, arguments):
    missing = "ridge" if "x" in arguments else "x"
    with pytest.raises(TypeError, match=rf"missing \d required positional arguments?: '{missing}'"):
        kp.spike(clean, POISON, **arguments)
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'lam'"):
        kp.gain(clean, POISON, 0.1, lam=2)


def test_lists_of_numbers_are_points(clean):
    # As in fit: one point, or several.
    np.testing.assert_array_equal(kp.predict(clean, Q.tolist(), 0.1), kp.predict(clean, Q, 0.1))
    np.testing.assert_array_equal(kp.predict(clean, Z.tolist(), 0.1), kp.predict(clean, Z, 0.1))
