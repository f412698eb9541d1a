"""Spectra of operators over input space: leading eigenpairs, the density of all eigenvalues, the trace."""

import math
from typing import Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from kpoison._lanczos import lanczos
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_integer, check_name, check_positive, is_concrete
from kpoison.curvature.operators import GaussNewtonRows, Operator

__all__ = [
    "Density",
    "Eigenpairs",
    "End",
    "UnconvergedSpectrumError",
    "spectral_density",
    "top_eigenpairs",
    "trace",
]

End: TypeAlias = Literal["largest", "smallest"]


class UnconvergedSpectrumError(RuntimeError):
    """Eigenpairs were asked for that the allowed number of products did not yield."""


class Eigenpairs(eqx.Module):
    """Leading eigenpairs of an operator.

    Attributes:
        values: shape (k,), sorted from the end that was asked for.
        vectors: shape (k, D), orthonormal rows; the sign of each is arbitrary.
        residuals: ‖Hv − λv‖, shape (k,): a bound on the error of each eigenvalue.
        converged: whether the residual is within the tolerance and none beyond this one was missed, shape (k,).
        products: how many vectors the operator was multiplied with; 0 where it was decomposed directly.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "k D"]
    residuals: Float[Array, " k"]
    converged: Bool[Array, " k"]
    products: int = eqx.field(static=True)


def _check_operator(operator: Operator) -> None:
    if not isinstance(operator, Operator):
        raise TypeError(f"operator must be made by kpoison.curvature, got {type(operator).__name__}")
    for leaf in jax.tree.leaves(eqx.filter(operator, eqx.is_array)):
        if not is_concrete(leaf):
            raise TypeError("operator must hold known numbers: a spectrum takes as many products as it needs, which a "
                            "compiled function cannot know")  # fmt: skip


def top_eigenpairs(
    operator: Operator,
    k: int = 10,
    *,
    key: PRNGKeyArray | None = None,
    which: End = "largest",
    tolerance: float | None = None,
    max_products: int = 2000,
    throw: bool = True,
) -> Eigenpairs:
    """The k largest (or smallest) eigenvalues and their eigenvectors.

    The thin form is decomposed directly.  Otherwise Lanczos runs with full reorthogonalisation (matfree), each from a
    random start orthogonal to the eigenvectors found so far, until one more finds nothing beyond the k-th: one
    Krylov space sees only one vector of a multiple eigenvalue.

    Args:
        operator: as made by `input_hessian`, `gauss_newton`, `fisher` or `gradient_covariance`.
        k: how many, at most D.
        key: of the random starts; by default `jax.random.key(0)`.
        which: "largest" or "smallest" (algebraically).
        tolerance: largest residual ‖Hv − λv‖, relative to the largest |eigenvalue| seen; by default 1e-8 in float64
            and 2e-4 in float32.  The error of an eigenvalue is at most its residual, and of the order of its square for
            one that is well separated.
        max_products: give up after multiplying so many vectors.
        throw: raise where an eigenpair has not converged, instead of marking it.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
        UnconvergedSpectrumError: not converged within `max_products`.

    >>> import jax.numpy as jnp
    >>> found = top_eigenpairs(GaussNewtonRows(jnp.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])), k=2)
    >>> found.values.tolist()
    [9.0, 4.0]
    """
    _check_operator(operator)
    k = check_integer("k", k, 1)
    max_products = check_integer("max_products", max_products, 1)
    which = check_name("which", which, get_args(End))
    if k > operator.dimension:
        raise ValueError(f"k must be at most the number of coordinates, {operator.dimension}, got {k}")
    double = jnp.finfo(operator.dtype).bits > 32
    if tolerance is None:
        tolerance = 1e-8 if double else 2e-4
    check_positive("tolerance", tolerance)
    if isinstance(operator, GaussNewtonRows):
        return _of_rows(operator, k, which)
    key = jax.random.key(0) if key is None else key
    found = _by_lanczos(operator, k, key, 1 if which == "largest" else -1, tolerance, max_products)
    if throw and not bool(jnp.all(found.converged)):
        raise UnconvergedSpectrumError(
            f"{int(jnp.sum(~found.converged))} of {k} eigenpairs did not converge to {tolerance:.1e} within "
            f"{found.products} products; the largest residual is {float(jnp.max(found.residuals)):.1e}.  Raise "
            "max_products or tolerance, or pass throw=False and look at `converged`."
        )
    return found


def _of_rows(operator: GaussNewtonRows, k: int, which: End) -> Eigenpairs:
    """Through the smaller of RRᵀ and RᵀR; eigenvalues of RᵀR beyond the rank of R are 0."""
    rows = np.asarray(operator.rows)
    _, singular, right = np.linalg.svd(rows, full_matrices=rows.shape[0] < k or which == "smallest")
    values = np.zeros(right.shape[0], rows.dtype)
    values[: len(singular)] = singular**2
    order = np.arange(k) if which == "largest" else np.arange(len(values))[::-1][:k]
    chosen, vectors = jnp.asarray(values[order]), jnp.asarray(right[order])
    residuals = jnp.linalg.norm(operator(vectors.T).T - chosen[:, None] * vectors, axis=1)
    return Eigenpairs(chosen, vectors, residuals, jnp.ones(k, bool), 0)


@eqx.filter_jit
def _ritz_pairs(operator: Operator, found: Array, start: Array, depth: int, sign: int) -> tuple[Array, Array]:
    """All Ritz values (descending) and vectors of one Lanczos run orthogonal to the vectors found."""

    def project(v):
        for _ in range(2):
            v = v - matrix_product(found.T, matrix_product(found, v[:, None]))[:, 0]
        return v

    def product(v):
        return project(sign * operator.products(project(v)[:, None])[:, 0])

    basis, tridiagonal = lanczos(product, project(start), depth)
    values, small = jnp.linalg.eigh(tridiagonal)
    return values[::-1], matrix_product(small.T, basis)[::-1]


def _orthonormal(vectors: np.ndarray, against: np.ndarray) -> np.ndarray:
    """The vectors made orthonormal to `against` and to each other; without those that depend on the ones before."""
    basis = against
    for vector in vectors:
        rest = vector
        for _ in range(2):
            rest = rest - basis.T @ (basis @ rest)
        norm = np.linalg.norm(rest)
        if norm > 0.5:
            basis = np.concatenate([basis, rest[None] / norm])
    return basis[len(against) :]


class _Found:
    """Eigenpairs found so far, in the order of finding."""

    def __init__(self, dimension: int, dtype):
        self.values = np.zeros(0, dtype)
        self.vectors = np.zeros((0, dimension), dtype)
        self.residuals = np.zeros(0, dtype)

    def add(self, values: np.ndarray, vectors: np.ndarray, residuals: np.ndarray) -> None:
        self.values = np.concatenate([self.values, values])
        self.vectors = np.concatenate([self.vectors, vectors])
        self.residuals = np.concatenate([self.residuals, residuals])

    def kth(self, k: int) -> float:
        """The k-th largest value."""
        return float(np.sort(self.values)[-k]) if len(self.values) >= k else -math.inf

    def padded(self, step: int) -> np.ndarray:
        """The vectors and zeros, so that a few compiled programs serve all numbers of vectors found."""
        rows = np.zeros((step * (len(self.vectors) // step + 1), self.vectors.shape[1]), self.vectors.dtype)
        rows[: len(self.vectors)] = self.vectors
        return rows


def _by_lanczos(
    operator: Operator, k: int, key: PRNGKeyArray, sign: int, tolerance: float, max_products: int
) -> Eigenpairs:
    """Lanczos runs, each orthogonal to what is found, until one finds nothing beyond the k-th value."""
    dimension = operator.dimension
    found = _Found(dimension, np.dtype(operator.dtype))
    depth, products, scale, complete = max(3 * k, 40), 0, 0.0, False
    while not complete and products < max_products:
        # Not only the dimensions that are left: rounding lets Krylov spaces grow into those found, and drops out below.
        depth = min(depth, dimension, max_products - products)
        key, draw = jax.random.split(key)
        start = jax.random.normal(draw, (dimension,), operator.dtype)
        ritz, vectors = (
            np.asarray(part) for part in _ritz_pairs(operator, jnp.asarray(found.padded(k)), start, depth, sign)
        )
        scale = max(scale, float(np.max(np.abs(ritz))))
        # More than k, since where the Krylov space is small some are no vectors.
        vectors = _orthonormal(vectors, found.vectors)[:k]
        images = sign * np.asarray(operator(jnp.asarray(vectors.T))).T
        if not np.all(np.isfinite(images)):
            raise ValueError("operator must have finite products: the predictor's derivatives are not")
        values = np.sum(vectors * images, axis=1)
        residuals = np.linalg.norm(images - values[:, None] * vectors, axis=1)
        products += depth + len(vectors)
        # Only those before the first that has not converged: beyond it one may be missing.
        wrong = residuals > tolerance * scale
        count = int(np.argmax(wrong)) if wrong.any() else len(wrong)
        complete = count > 0 and float(np.max(values[:count])) <= found.kth(k) + tolerance * scale
        if not complete and products >= max_products:
            count = max(count, k - len(found.values))
        found.add(values[:count], vectors[:count], residuals[:count])
        complete = complete or len(found.values) == dimension
        depth *= 2 if count == 0 else 1
    order = np.argsort(-found.values, kind="stable")[:k]
    return Eigenpairs(
        jnp.asarray(sign * found.values[order]),
        jnp.asarray(found.vectors[order]),
        jnp.asarray(found.residuals[order]),
        jnp.asarray((found.residuals[order] <= tolerance * scale) & complete),
        products,
    )


class Density(eqx.Module):
    """The density of all eigenvalues, as a probability per unit of eigenvalue, estimated by random vectors.

    Attributes:
        grid: eigenvalues, shape (points,).
        density: smoothed by a Gaussian of the given width, shape (points,).
        standard_error: of the density over the random vectors, shape (points,).
        width: of the Gaussian.
        nodes, weights: of each vector's quadrature, shape (probes, depth); the weights of a vector add up to 1.
    """

    grid: Float[Array, " points"]
    density: Float[Array, " points"]
    standard_error: Float[Array, " points"]
    width: Float[Array, ""]
    nodes: Float[Array, "probes depth"]
    weights: Float[Array, "probes depth"]


@eqx.filter_jit
def _quadrature(operator: Operator, starts: Array, depth: int) -> tuple[Array, Array]:
    """Nodes and weights of vᵀg(H)v for each start v (Golub, Welsch)."""

    def one(start):
        _, tridiagonal = lanczos(lambda v: operator.products(v[:, None])[:, 0], start, depth)
        nodes, vectors = jnp.linalg.eigh(tridiagonal)
        return nodes, vectors[0] ** 2

    return jax.lax.map(one, starts)


def spectral_density(
    operator: Operator,
    *,
    key: PRNGKeyArray | None = None,
    probes: int = 20,
    depth: int = 60,
    points: int = 400,
    width: Scalar | None = None,
) -> Density:
    """The density of the whole spectrum, by stochastic Lanczos quadrature (Ubaru, Chen, Saad 2017).

    Args:
        operator: as for `top_eigenpairs`.
        key: of the random vectors; by default `jax.random.key(0)`.
        probes: number of random vectors, at least 2.
        depth: products for each, at most D.
        points: of the grid, which reaches four widths beyond the spectrum seen.
        width: of the Gaussian that smooths the quadratures, in units of the eigenvalues; by default 1/100 of the
            range, and more where the points of the grid would coincide in the dtype, as for a multiple of the identity.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, such as a width that the dtype does not resolve.
    """
    _check_operator(operator)
    probes = check_integer("probes", probes, 2)
    depth = check_integer("depth", depth, 1)
    points = check_integer("points", points, 2)
    key = jax.random.key(0) if key is None else key
    starts = jax.random.normal(key, (probes, operator.dimension), operator.dtype)
    nodes, weights = _quadrature(operator, starts, min(depth, operator.dimension))
    low, high = jnp.min(nodes), jnp.max(nodes)
    largest = jnp.maximum(jnp.abs(low), jnp.abs(high))
    rounding = float(jnp.finfo(nodes.dtype).eps)
    if width is None:
        # A multiple of the identity has no range; its grid of eight widths must still tell its points apart.
        scale = jnp.maximum(high - low, max(1e-3, 1250 * rounding * (points - 1)) * largest)
        width = 0.01 * jnp.where(scale > 0, scale, 1)
    else:
        check_positive("width", width)
        width = jnp.asarray(width, nodes.dtype)
        spacing = float((high - low + 8 * width) / (points - 1))
        if spacing < 16 * rounding * float(largest):
            raise ValueError(
                f"width must be larger for {points} points of {nodes.dtype}: eigenvalues of {float(largest):.3g} are "
                f"told apart from {16 * rounding * float(largest):.2g} on, got {float(width):.3g}, at which points lie "
                f"{spacing:.2g} apart"
            )
    grid = jnp.linspace(low - 4 * width, high + 4 * width, points)

    def smoothed(node, weight):
        bells = jnp.exp(-0.5 * ((grid[:, None] - node[None]) / width) ** 2)
        return matrix_product(bells, weight[:, None])[:, 0] / (width * jnp.sqrt(2 * jnp.pi))

    densities = jax.vmap(smoothed)(nodes, weights)
    error = jnp.std(densities, axis=0, ddof=1) / probes**0.5
    return Density(grid, jnp.mean(densities, axis=0), error, width, nodes, weights)


def trace(
    operator: Operator, *, key: PRNGKeyArray | None = None, probes: int = 30
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The trace and its standard error: exactly, with error 0, where its parts are known; else from random signs.

    Args:
        operator: as for `top_eigenpairs`.
        key: of the random signs (Hutchinson 1990); by default `jax.random.key(0)`.
        probes: number of sign vectors, at least 2.

    >>> import jax.numpy as jnp
    >>> [float(number) for number in trace(GaussNewtonRows(jnp.array([[3.0, 4.0]])))]
    [25.0, 0.0]
    """
    from matfree import stochtrace

    _check_operator(operator)
    probes = check_integer("probes", probes, 2)
    exact = operator.exact_trace()
    if exact is not None:
        return exact, jnp.zeros_like(exact)
    sampler = stochtrace.sampler_signs(jnp.ones(operator.dimension, operator.dtype), num=probes)
    estimate = stochtrace.estimator_monte_carlo_mean_and_sem(stochtrace.monte_carlo_trace(), sampler)
    mean, error = estimate(operator, jax.random.key(0) if key is None else key)
    return mean, error * (probes / (probes - 1)) ** 0.5  # it divides by the number of probes, not by one less
