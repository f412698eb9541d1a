"""Bad inputs of kernels: which error, and that it names the argument, what came and what was expected.

In the tests a run-time type checker sees wrong types before kpoison does. Users have none, so that the table is
gone through a second time in a process without it, where every message must be kpoison's own.
"""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kpoison import kernels as kk

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3))
NAN, INF = X.copy(), X.copy()
NAN[2, 1], INF[0, 2] = np.nan, -np.inf
POINT, INTEGERS = X[0], np.array([1, 2, 3])
RBF = kk.RBF(1.5)
NTK = kk.NTK(1, "relu")
IMAGES = kk.Custom(lambda x, z: jnp.sum(x * z), point_ndim=3)
INTEGER = "must be an integer >= {}, got {}"

NUMBERS = {  # what takes one positive number, by the name of its argument
    "length_scale": [kk.RBF, kk.Laplace, kk.Matern32, kk.Matern52, kk.RationalQuadratic],
    "alpha": [lambda number: kk.RationalQuadratic(1.0, number)],
    "scale": [lambda number: number * RBF, lambda number: RBF * number, lambda number: kk.Scaled(RBF, number)],
    "weight_std": [lambda number: kk.NTK(1, "relu", number), lambda number: kk.NNGP(2, "erf", number)],
}
NON_NEGATIVE = {
    "offset": [lambda number: kk.Polynomial(2, number)],
    "bias_std": [lambda number: kk.NTK(1, "relu", 1.0, number), lambda number: kk.NNGP(2, "erf", 1.0, number)],
}


def _bad_numbers(argument, make, bound):
    expected = f"{argument} must be finite and {re.escape(bound)}"
    for number in (-1.0, np.nan, np.inf, -np.inf, *([0.0] if bound == "> 0" else [])):
        yield number, ValueError, f"{expected}, got {number}"
    yield np.array(-2.0), ValueError, f"{expected}, got -2.0"
    for number, came in (("1", "str"), (None, "NoneType"), (1j, "complex"), (True, "bool")):
        yield number, TypeError, f"{argument} must be real, got {came}"
    if argument == "length_scale":  # a number, or one for each input
        yield np.array([1.0, 0.0]), ValueError, rf"{expected}, got \[1. 0.\]"
        yield [1.0, -2.0], ValueError, expected
        yield np.ones((1, 2)), ValueError, r"length_scale must be a number or have shape \(d,\), got shape \(1, 2\)"
        yield np.ones(0), ValueError, r"length_scale must be a number or have shape \(d,\), got shape \(0,\)"
        return
    yield np.array([1.0, 2.0]), ValueError, rf"{argument} must be a single number, got shape \(2,\)"
    yield [1.0], ValueError, rf"{argument} must be a single number, got shape \(1,\)"


def _table():
    for bound, arguments in (("> 0", NUMBERS), (">= 0", NON_NEGATIVE)):
        for argument, makers in arguments.items():
            for make in makers:
                for number, error, message in _bad_numbers(argument, make, bound):
                    if not (isinstance(number, np.ndarray | str) and argument == "scale"):
                        yield (lambda make=make, number=number: make(number)), error, message
    for degree in (0, -1, 1.5, True, "2", None):
        yield (lambda n=degree: kk.Polynomial(n)), ValueError, "degree " + INTEGER.format(1, repr(degree))
        yield (lambda n=degree: kk.NTK(n)), ValueError, "hidden_layers " + INTEGER.format(1, repr(degree))
        yield (lambda n=degree: kk.NNGP(n)), ValueError, "hidden_layers " + INTEGER.format(1, repr(degree))
        yield (lambda n=degree: kk.Quadrature(jnp.tanh, n)), ValueError, "nodes " + INTEGER.format(2, repr(degree))
        yield (
            lambda n=degree: kk.Custom(lambda x, z: x @ z, point_ndim=n),
            ValueError,
            "point_ndim " + INTEGER.format(1, repr(degree)),
        )
    for name in ("relux", "", "ReLU"):
        message = f"activation must be one of 'relu', 'leaky_relu', .*, got {name!r}"
        yield (lambda name=name: kk.NTK(1, name)), ValueError, message
        yield (lambda name=name: kk.NNGP(1, name)), ValueError, message
    for thing in (3, None, [jnp.tanh]):
        message = f"activation must be a name, an Activation or a function, got {type(thing).__name__}"
        yield (lambda thing=thing: kk.NTK(1, thing)), TypeError, message
    for slope, error, message in (
        (np.nan, ValueError, "slope must be finite"),
        (np.inf, ValueError, "slope must be finite"),
        (np.ones(2), ValueError, r"slope must be a single number, got shape \(2,\)"),
        ("steep", TypeError, "slope must be real, got str"),
        (None, TypeError, "slope must be real, got NoneType"),
    ):
        yield (lambda slope=slope: kk.LeakyReLU(slope)), error, message
    yield (lambda: kk.Quadrature("tanh")), TypeError, "function must be callable, got str"
    yield (lambda: kk.Custom(3)), TypeError, r"function must be callable as function\(x, z\), got int"
    yield (lambda: kk.Custom(lambda x, z: x @ z, smoothness=-1)), ValueError, "smoothness must be .*>= 0, got -1"
    yield (lambda: kk.Custom(lambda x, z: x @ z, smoothness="all")), TypeError, "smoothness must be real, got str"
    yield (lambda: kk.Custom(lambda x, z: x * z)(X)), ValueError, r"must return a scalar .* got shape \(3,\)"
    yield (lambda: RBF + IMAGES), ValueError, "kernels on points of 1 and 3 axes cannot be combined"
    yield (lambda: IMAGES * RBF), ValueError, "kernels on points of 3 and 1 axes cannot be combined"
    yield (lambda: np.ones(2) * RBF), (TypeError, ValueError), "scale must be a single number|unsupported operand"
    yield (lambda: kk.Sum(RBF, 1.0)), TypeError, "second must be a kpoison.kernels.Kernel, got float"
    yield (lambda: kk.Product("rbf", RBF)), TypeError, "first must be a kpoison.kernels.Kernel, got str"
    yield (lambda: kk.Scaled(2.0, 3.0)), TypeError, "kernel must be a kpoison.kernels.Kernel, got float"
    yield (lambda: kk.from_stax(3)), TypeError, "kernel_fn must be callable, .*got int"
    yield (lambda: kk.from_stax(max, "both")), ValueError, "get must be one of 'ntk', 'nngp', got 'both'"
    yield (lambda: kk.from_stax(max, point_ndim=0)), ValueError, "point_ndim must be an integer >= 1, got 0"
    yield from _bad_algebra()
    yield from _bad_matrices()
    for kernel in (RBF, NTK):
        yield from _bad_points(kernel)
        yield from _bad_pairs(kernel)
    yield (lambda: IMAGES(X)), ValueError, r"X1 must have shape \(n, .*\), got \(4, 3\)"


def _bad_algebra():
    """Numbers that are added, divisors and exponents; and length scales for other inputs."""
    for number in (-1.0, np.nan, np.float64(-np.inf)):
        message = f"what is added to a kernel must be finite and >= 0, got {number}"
        yield (lambda number=number: RBF + number), ValueError, message
        yield (lambda number=number: number + RBF), ValueError, message
    for number in (-2, 0, np.inf):
        message = f"divisor must be finite and > 0, got {number}"
        yield (lambda number=number: RBF / number), ValueError, message
    yield (lambda: RBF + "one"), TypeError, "what is added to a kernel must be real, got str"
    yield (lambda: RBF / RBF), TypeError, "divisor must be real, got RBF"
    yield (lambda: RBF / np.ones(2)), ValueError, r"divisor must be a single number, got shape \(2,\)"
    yield (lambda: 1.0 / RBF), TypeError, "unsupported operand .*'float' and 'RBF'"
    for exponent in (0, -1, 1.5, 2.0, True, "2"):
        yield (lambda n=exponent: RBF**n), ValueError, "exponent " + INTEGER.format(1, repr(exponent))
    yield (lambda: kk.Power(2.0, 3)), TypeError, "kernel must be a kpoison.kernels.Kernel, got float"
    yield (lambda: kk.Constant(-1.0)), ValueError, "value must be finite and >= 0, got -1.0"
    for kind in (kk.RBF, kk.Matern32):
        three = r"length_scale must be a number or have shape \(3,\), one for each input, got shape \(1,\)"
        yield (lambda kind=kind: kind(np.ones(1))(X)), ValueError, three
        yield (lambda kind=kind: kind(np.ones(1)).pairwise(jnp.asarray(X), jnp.asarray(X))), ValueError, three


def _bad_matrices():
    """Of a kernel that is given by its matrix, and indices into it."""
    K, known = np.eye(4), kk.Precomputed(np.eye(4))
    for matrix, error, message in (
        (K[:3], ValueError, r"matrix must be square, shape \(N, N\), got \(3, 4\)"),
        (K[0], ValueError, r"matrix must be square, shape \(N, N\), got \(4,\)"),
        (K[:0, :0], ValueError, r"matrix must be square, .*got \(0, 0\)"),
        (np.tri(4), ValueError, "matrix must be symmetric, got entries that differ by 1"),
        (np.full((4, 4), np.nan), ValueError, r"matrix must be finite, got 16 non-finite"),
        (K.astype(int), TypeError, "matrix must be a floating-point array, got dtype int64"),
        ("matrix", TypeError, "matrix must be a floating-point array, got dtype <U6"),
    ):
        yield (lambda matrix=matrix: kk.Precomputed(matrix)), error, message
    yield (lambda: kk.Precomputed(K, 4)), ValueError, "number must be None beside a matrix, .*got 4"
    yield (lambda: kk.Precomputed(lambda i, j: i)), ValueError, "number must be an integer >= 1, got None"
    shape = r"matrix\(i, j\) must have shape \(2, 3\) for 2 and 3 indices, got \(2,\)"
    yield (lambda: kk.Precomputed(lambda i, j: i, 4)), ValueError, shape
    for indices, error, message in (
        (np.array([0, 4]), ValueError, "must hold indices from 0 to 3, got 4"),
        (np.array([-1, 0]), ValueError, "must hold indices from 0 to 3, got -1"),
        (np.array([0.0, 1.0]), TypeError, "must be integers, the indices of points, got dtype float64"),
        (np.array([True, False]), TypeError, "must be integers, the indices of points, got dtype bool"),
        (np.array([[0], [1]]), ValueError, r"must have shape \(n,\), got \(2, 1\)"),
        (np.zeros(0, int), ValueError, r"must not be empty, got shape \(0,\)"),
    ):
        yield (lambda indices=indices: known(indices)), error, f"X1 {message}"
        yield (lambda indices=indices: known(np.arange(2), indices)), error, f"X2 {message}"
        yield (lambda indices=indices: (2.0 * known + 1.0)(indices)), error, f"X1 {message}"
    yield (lambda: known + RBF), ValueError, "kernels on points of 0 and 1 axes cannot be combined"


def _bad_points(kernel):
    """Of a Gram matrix."""
    for points, error, message in (
        (POINT, ValueError, r"must have shape \(n, d\), got \(3,\)"),
        (X[None], ValueError, r"must have shape \(n, d\), got \(1, 4, 3\)"),
        (1.0, ValueError, r"must have shape \(n, d\), got \(\)"),
        (X[:0], ValueError, r"must not be empty, got shape \(0, 3\)"),
        (X[:, :0], ValueError, r"must not be empty, got shape \(4, 0\)"),
        (NAN, ValueError, r"must be finite, got 1 non-finite value\(s\), the first at index \(2, 1\)"),
        (INF, ValueError, r"must be finite, got 1 non-finite value\(s\), the first at index \(0, 2\)"),
        (X.astype(int), TypeError, "must be a floating-point array, got dtype int64"),
        (X + 0j, TypeError, "must be a floating-point array, got dtype complex128"),
        (X > 0, TypeError, "must be a floating-point array, got dtype bool"),
        (X.astype(np.float16), TypeError, "must be float32 or float64, .*got dtype float16"),
        ("points", TypeError, "must be a floating-point array, got dtype <U6"),
        ([[1.0, 2.0], [3.0]], (TypeError, ValueError), "must be"),
    ):
        yield (lambda points=points: kernel(points)), error, f"X1 {message}"
        yield (lambda points=points: kernel(X, points)), error, f"X2 {message}"
    yield (lambda: kernel(None)), TypeError, "X1 must be a floating-point array, got dtype object"
    yield (
        lambda: kernel(X, X[:, :2]),
        ValueError,
        r"X2 must hold points of shape \(3,\), as X1 does, got \(2,\)",
    )
    yield (lambda: kernel(X, X[:, :1])), ValueError, r"X2 must hold points of shape \(3,\), as X1 does, got \(1,\)"


def _bad_pairs(kernel):
    """Of single pairs: nothing may be broadcast, and no length scale be truncated to the integers of the points."""
    for x, z, error, message in (
        (POINT, POINT[:2], (ValueError, TypeError), r"\bz\b.*\(3,\).*\(2,\)"),
        (POINT, POINT[:1], (ValueError, TypeError), r"\bz\b.*\(3,\).*\(1,\)"),
        (POINT, np.array(1.0), (ValueError, TypeError), r"\bz\b.*\(3,\).*\(\)"),
        (INTEGERS, INTEGERS + 1, TypeError, r"\bx\b.*floating-point.*int64"),
        (POINT, INTEGERS, TypeError, r"\bz\b.*floating-point.*int64"),
        (POINT + 0j, POINT + 0j, TypeError, r"\bx\b.*floating-point.*complex128"),
    ):
        yield (lambda x=x, z=z: kernel.evaluate(jnp.asarray(x), jnp.asarray(z))), error, message
    wide, narrow = jnp.asarray(X), jnp.asarray(X[:, :1])
    yield (lambda: kernel.pairwise(wide, narrow)), (ValueError, TypeError), r"\(3,\).*\(1,\)"


TABLE = list(_table())


@pytest.mark.parametrize("row", range(len(TABLE)))
def test_bad_input(row):
    call, error, message = TABLE[row]
    # The type checker's own error is a TypeError; it shows the argument and what was expected.
    with pytest.raises((TypeError, *(error if isinstance(error, tuple) else (error,)))) as raised:
        call()
    if "Type-check error" not in str(raised.value):
        assert isinstance(raised.value, error)
        assert re.search(message, str(raised.value), re.DOTALL)


def faults():
    """The rows that do not raise what they should, in this process."""
    for row, (call, error, message) in enumerate(TABLE):
        try:
            result = call()
        except error as raised:
            if not re.search(message, str(raised), re.DOTALL):
                yield f"{row}: {raised!r} does not say {message!r}"
        except Exception as raised:  # every other error is a finding
            yield f"{row}: {raised!r} is not the {error} that says {message!r}"
        else:
            yield f"{row}: returned {result!r} instead of saying {message!r}"


@pytest.mark.slow
def test_without_a_type_checker():
    """What users see."""
    program = (
        "import jax; jax.config.update('jax_enable_x64', True)\n"
        "import test_kernel_bad_input as t; print('\\n'.join(['faults:', *t.faults()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "faults:", done.stdout


@pytest.mark.parametrize(
    "make",
    [
        kk.RBF,
        lambda number: kk.NTK(1, "relu", number),
        lambda number: kk.Scaled(kk.RBF(1.0), number),
    ],
    ids=["length_scale", "weight_std", "scale"],
)
def test_checks_let_traced_numbers_pass(make):
    gram = jax.jit(lambda number: make(number)(jnp.asarray(X)))
    np.testing.assert_allclose(gram(1.5), make(1.5)(X), rtol=1e-13)


def test_arrays_of_any_kind_are_points():
    """NumPy and JAX arrays."""
    expected = RBF(jnp.asarray(X))
    np.testing.assert_array_equal(RBF(X), expected)
    np.testing.assert_array_equal(RBF(X, jnp.asarray(X)), RBF(X, X.copy()))
