"""The table of `kpoison.kernels._cusp` derived in rational arithmetic, and what it is worth."""

import itertools
import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from kpoison.kernels import _cusp

_TERMS = 64


def _arcsine_terms(number: int) -> list[Fraction]:
    """Coefficients of v^k in A(v) = arcsin(√v)/√v."""
    return [Fraction(math.comb(2 * k, k), 4**k * (2 * k + 1)) for k in range(number)]


def _cosine_terms(number: int) -> list[Fraction]:
    """Coefficients of v^k in C(v) = √(1 − v)."""
    return [Fraction(-math.comb(2 * k, k), 4**k * (2 * k - 1)) for k in range(number)]


def _quotient(numerator: list[Fraction], denominator: list[Fraction]) -> list[Fraction]:
    """The power series numerator/denominator."""
    quotient: list[Fraction] = []
    for k, term in enumerate(numerator):
        known = sum((q * denominator[k - j] for j, q in enumerate(quotient)), Fraction(0))
        quotient.append((term - known) / denominator[0])
    return quotient


def _taylor_terms(name: str) -> list[Fraction]:
    """Coefficients of v^k of a series named below.

    With v = sin²(θ/2) for an angle θ of at most 90°: θ = 2√v A(v), sin θ = 2√v C(v), cos θ = 1 − 2v.
    """
    A, C = _arcsine_terms(_TERMS + 1), _cosine_terms(_TERMS + 1)
    match name:
        case "θ/√v":
            return [2 * a for a in A[:-1]]
        case "(sin θ − θ cos θ)/θv":
            return _quotient([C[k + 1] - A[k + 1] + 2 * A[k] for k in range(_TERMS)], A)
    raise ValueError(name)


def _in_chebyshev_polynomials(taylor: list[Fraction]) -> list[Fraction]:
    """A polynomial in v, on 0 <= v <= 1/2, in the Chebyshev polynomials of x = 4v − 1."""
    result = [Fraction(0)]
    for term in reversed(taylor):  # Horner's rule with v = (x + 1)/4 and x T_k = (T_{k+1} + T_{k-1})/2
        shifted = [c / 4 for c in result] + [Fraction(0)]
        for k, c in enumerate(result):
            shifted[k + 1] += c / 8
            shifted[abs(k - 1)] += c / 8
        shifted[0] += term
        result = shifted
    return result


def _in_powers(chebyshev: list[Fraction]) -> tuple[float, ...]:
    """Coefficients of the powers of x."""
    before, polynomial = [Fraction(0), Fraction(1)], [Fraction(1)]  # T_{-1} = T_1 = x
    result = [Fraction(0)] * len(chebyshev)
    for c in chebyshev:
        for power, factor in enumerate(polynomial):
            result[power] += c * factor
        doubled = [Fraction(0), *(2 * factor for factor in polynomial)]
        following = [d - b for d, b in itertools.zip_longest(doubled, before, fillvalue=Fraction(0))]
        before, polynomial = polynomial, following
    return tuple(map(float, result))


def _solve(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction]:
    """By Gauss and Jordan."""
    rows = [[*row, b] for row, b in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = next(k for k in range(i, len(rows)) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [a / rows[i][i] for a in rows[i]]
        for k in range(len(rows)):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


def _quotient_of_polynomials(name: str, degree: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of a series in v, on 0 <= v <= 1/2: numerator and denominator in x = 4v − 1, of degrees d + 1 and d.

    The Chebyshev–Padé approximant: series · denominator − numerator has no Chebyshev coefficient of an order up to
    2d + 1.  In rational arithmetic, since rounding here would be seen in every kernel.
    """
    series = _in_chebyshev_polynomials(_taylor_terms(name))
    series[0] *= 2

    def coefficient(k: int, j: int) -> Fraction:
        """Twice that of T_k in series · T_j."""
        return series[k + j] + series[abs(k - j)]

    orders = range(degree + 2, 2 * degree + 2)
    matrix = [[coefficient(k, j) for j in range(1, degree + 1)] for k in orders]
    denominator = [Fraction(1), *_solve(matrix, [-coefficient(k, 0) for k in orders])]
    numerator = [
        sum((q * coefficient(k, j) for j, q in enumerate(denominator)), Fraction(0)) / 2 for k in range(degree + 2)
    ]
    numerator[0] /= 2
    return _in_powers(numerator), _in_powers(denominator)


@pytest.mark.parametrize(("name", "degree"), _cusp._QUOTIENTS)
def test_the_table_holds_the_approximants(name, degree):
    assert _cusp._QUOTIENTS[name, degree] == _quotient_of_polynomials(name, degree)


@pytest.mark.parametrize("name", ["θ/√v", "(sin θ − θ cos θ)/θv"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_series_to_rounding(name, dtype):
    v = np.linspace(0, 0.5, 1001).astype(dtype)
    taylor = [float(term) for term in _taylor_terms(name)]
    exact = np.polynomial.polynomial.polyval(v.astype(float), taylor)
    np.testing.assert_allclose(_cusp._series(name, jnp.asarray(v)), exact, rtol=8 * np.finfo(dtype).eps)
