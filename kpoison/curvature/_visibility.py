"""When the poison's spike leaves the bulk of a spectrum: in closed form, and against an empirical edge (section 4)."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from kpoison._failures import without_derivative
from kpoison._lanczos import lanczos, smaller_gram, weighted_product
from kpoison._linear_algebra import eigh, matrix_product
from kpoison._typing import Mask, Scalar
from kpoison._validation import (
    check_finite,
    check_floating,
    check_fraction,
    check_integer,
    check_mask,
    check_positive,
    is_concrete,
    public,
)

__all__ = [
    "BulkEdge",
    "Visibility",
    "bulk_edge_from_clean",
    "bulk_edge_from_permutations",
    "marchenko_pastur_edge",
    "outlier_eigenvalue",
    "outlier_overlap",
    "spike_threshold",
    "visibility",
    "visibility_threshold",
]


_DIRECTLY = 200
_STEPS = 50


def _of_bulk(variance: Any, aspect: Any) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    check_positive("variance", variance, scalar=False)
    check_positive("aspect", aspect, scalar=False)
    return jnp.asarray(variance), jnp.asarray(aspect)


def _of_spiked(spike: Any, variance: Any, aspect: Any) -> tuple[Array, Array, Array]:
    variance, aspect = _of_bulk(variance, aspect)
    check_positive("spike", spike, zero=True, scalar=False)
    return jnp.asarray(spike), variance, aspect


@public
def marchenko_pastur_edge(variance: Float[ArrayLike, "..."], aspect: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Upper edge σ²(1 + √c)² of the eigenvalues of a sample covariance without a spike (Marchenko, Pastur 1967).

    Args:
        variance: σ² of each coordinate, > 0.
        aspect: c = d/N, coordinates over samples, > 0.

    Raises:
        TypeError, ValueError: for numbers that are not finite and > 0.

    >>> float(marchenko_pastur_edge(1.0, 0.25))
    2.25
    """
    variance, aspect = _of_bulk(variance, aspect)
    return variance * (1 + jnp.sqrt(aspect)) ** 2


@public
def visibility_threshold(variance: Float[ArrayLike, "..."], aspect: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The spike σ²√c of the population below which its eigenvalue stays in the bulk (Baik, Ben Arous, Péché 2005).

    For an attack on a fraction ε of the probes the population's spike is ε Λ, so that Λ becomes visible at
    `visibility_threshold(...)`/ε.  Arguments and errors as in `marchenko_pastur_edge`.
    """
    variance, aspect = _of_bulk(variance, aspect)
    return variance * jnp.sqrt(aspect)


def _above(spike: Array, variance: Array, aspect: Array) -> tuple[Array, Array]:
    """Whether the spike is visible, and the spike where it is."""
    visible = spike > variance * jnp.sqrt(aspect)
    return visible, jnp.where(visible, spike, variance * jnp.sqrt(aspect))


@public
def outlier_eigenvalue(
    spike: Float[ArrayLike, "..."], variance: Float[ArrayLike, "..."], aspect: Float[ArrayLike, "..."]
) -> Float[Array, "..."]:
    """Where the largest eigenvalue sits: (θ + σ²)(1 + cσ²/θ) for a visible spike θ, else at the edge (section 4).

    Args:
        spike: θ >= 0 of the population covariance σ²I + θuuᵀ; ε Λ for an attack on a fraction ε of the probes.
        variance: σ² > 0.
        aspect: c = d/N > 0.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> float(outlier_eigenvalue(2.0, 1.0, 0.5))
    3.75
    """
    spike, variance, aspect = _of_spiked(spike, variance, aspect)
    _, theta = _above(spike, variance, aspect)
    return (theta + variance) * (1 + aspect * variance / theta)


@public
def outlier_overlap(
    spike: Float[ArrayLike, "..."], variance: Float[ArrayLike, "..."], aspect: Float[ArrayLike, "..."]
) -> Float[Array, "..."]:
    """Squared overlap ⟨v₁, u⟩² of the leading eigenvector with the spike: (1 − cσ⁴/θ²)/(1 + cσ²/θ), 0 if not visible.

    Arguments and errors as in `outlier_eigenvalue` (Paul 2007).

    >>> float(outlier_overlap(2.0, 1.0, 0.5))
    0.7
    """
    spike, variance, aspect = _of_spiked(spike, variance, aspect)
    visible, theta = _above(spike, variance, aspect)
    overlap = (1 - aspect * (variance / theta) ** 2) / (1 + aspect * variance / theta)
    return jnp.where(visible, overlap, 0)


class BulkEdge(eqx.Module):
    """Where a bulk ends, by a method that is named, with what it was read from.

    Attributes:
        edge: an eigenvalue above it is an outlier.
        samples: largest eigenvalues under the null, shape (repeats,); empty for a closed form.
        method: how it was found.
    """

    edge: Float[Array, ""]
    samples: Float[Array, " repeats"]
    method: str = eqx.field(static=True)


def _checked_rows(gradients: Any) -> Float[Array, "N M D"]:
    rows = check_floating("gradients", gradients)
    if rows.ndim not in (2, 3) or len(rows) < 2 or rows.size == 0:
        raise ValueError(
            f"gradients must have shape (N, D) with N >= 2, one row per probe, got {rows.shape}; several rows of each "
            "probe have shape (N, M, D)"
        )
    check_finite("gradients", rows)
    rows = without_derivative(rows, "bulk edges have no derivative in gradients: they are quantiles over random draws")
    return rows if rows.ndim == 3 else rows[:, None]


def _leading(
    rows: Float[Array, "N D"], weights: Float[Array, " N"], gram: Float[Array, "N N"] | None
) -> tuple[Float[Array, ""], Float[Array, " N"]]:
    """The largest eigenvalue of Σ w g gᵀ, and (v·g)² of each row with its eigenvector v.

    Of large ones by Lanczos, to far less than it varies between samples.  `gram` is that of the rows, where there are
    fewer than coordinates.
    """
    root = jnp.sqrt(weights)
    if min(rows.shape) <= _DIRECTLY:
        small = matrix_product((rows * weights[:, None]).T, rows) if gram is None else gram * jnp.outer(root, root)
        values, vectors = jnp.linalg.eigh(small)
        value, vector = values[-1], vectors[:, -1]
    else:
        # The mean row is not orthogonal to anything of interest, and needs no random numbers.
        norms = jnp.linalg.norm(rows, axis=1)
        if gram is None:
            start = matrix_product(rows.T, (weights * norms)[:, None])[:, 0]
            start = start + jnp.sqrt(weights @ rows**2) * jnp.max(norms)
        else:
            start = root * (matrix_product(gram, weights[:, None])[:, 0] + norms * jnp.max(norms))
        basis, tridiagonal = lanczos(weighted_product(rows, weights, gram), start, _STEPS)
        values, vectors = jnp.linalg.eigh(tridiagonal)
        value, vector = values[-1], matrix_product(vectors[:, -1:].T, basis)[0]
    if gram is None:
        return value, matrix_product(rows, vector[:, None])[:, 0] ** 2
    along = matrix_product(gram, (root * vector)[:, None])[:, 0] ** 2
    return value, along / jnp.where(value > 0, value, 1)


def _largest_eigenvalue(rows: Float[Array, "N D"]) -> Float[Array, ""]:
    """Of (1/N) Σ g gᵀ."""
    return _leading(rows, jnp.ones(len(rows), rows.dtype), smaller_gram(rows))[0] / len(rows)


def _edge_of(samples: Float[Array, " repeats"], level: Scalar, method: str) -> BulkEdge:
    """Their quantile, below which one more draw lies with the probability `level`: the place is level·(repeats + 1).

    The place level·(repeats − 1) would be passed by 2 % of draws for a level of 0.99 and 100 repeats.
    """
    ordered = jnp.sort(samples)
    place = jnp.clip(jnp.asarray(level, samples.dtype) * (len(samples) + 1) - 1, 0, len(samples) - 1)
    below = jnp.clip(place.astype(int), 0, len(samples) - 2)
    edge = ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])
    return BulkEdge(edge, samples, method)


def _parts(reference: int, number: int) -> tuple[int, float]:
    """How many of the reference's probes stand for a new sample, the rest for the reference; and a factor.

    The parts are in the ratio of the two, so that what samples of different size differ by on average is in it too, but
    the smaller part of a large sample's reference is kept at a quarter.  The factor takes a difference between parts,
    of variance 1/a + 1/b, to one between the samples, of 1/number + 1/reference.
    """
    part = min(max(round(reference * min(number / (reference + number), 0.75)), 1), reference - 1)
    variance = 1 / part + 1 / (reference - part)
    return part, ((1 / number + 1 / reference) / variance) ** 0.5


def _degrees_of_freedom(squares: Float[Array, " N"]) -> Float[Array, ""]:
    """Of the scatter of N numbers as an estimate: N/(kurtosis − 1), so many less as few of them are large.

    Twice as many would be those of the scatter alone, but where the reference happens to lack large ones its eigenvalue
    is small too.  A kurtosis is seen too small among few: 15 of squared Gaussian projections as about 12 among 200 and
    8 among 30.
    """
    apart = (squares - jnp.mean(squares)) ** 2
    variance = jnp.mean(apart)
    kurtosis = jnp.mean(apart**2) / jnp.where(variance > 0, variance, 1) ** 2
    seen = 1 + 15 / len(squares)
    return jnp.maximum(len(squares) / jnp.maximum(seen * kurtosis - 1, 1.0), 1.0)


@eqx.filter_jit
def _predicted(gradients: Float[Array, "N M D"], keys: Array, part: int, factor: float) -> Float[Array, " repeats"]:
    """Draws of a new sample's largest eigenvalue, from how those of two parts of the reference differ."""
    reference, each, _ = gradients.shape
    rows = gradients.reshape(reference * each, -1)
    gram = smaller_gram(rows)
    total, squares = _leading(rows, jnp.ones(len(rows), rows.dtype), gram)
    whole, degrees = total / reference, _degrees_of_freedom(jnp.sum(squares.reshape(reference, each), axis=1))
    # A part without any gradient is as far below as the dtype tells.
    limits = jnp.finfo(rows.dtype)
    least = limits.eps * jnp.where(whole > 0, whole, 1)

    def one(key: Array) -> Array:
        order, width = jax.random.split(key)
        chosen = jnp.repeat(jax.random.permutation(order, reference) < part, each).astype(rows.dtype)
        new, old = _leading(rows, chosen, gram)[0] / part, _leading(rows, 1 - chosen, gram)[0] / (reference - part)
        # The scatter is itself known from these probes only: a Student's t in place of a normal distribution.
        chi_squared = 2 * jnp.maximum(jax.random.gamma(width, degrees / 2, dtype=rows.dtype), limits.tiny)
        change = factor * jnp.sqrt(degrees / chi_squared) * (jnp.log(new + least) - jnp.log(old + least))
        return whole * jnp.exp(jnp.minimum(change, jnp.log(limits.max) / 4))

    return jax.lax.map(one, keys)


@public
def bulk_edge_from_clean(
    gradients: Float[ArrayLike, "N ..."],
    *,
    number: int | None = None,
    level: Scalar = 0.99,
    repeats: int = 200,
    key: PRNGKeyArray | None = None,
) -> BulkEdge:
    """Edge from a clean reference: a quantile of what the largest eigenvalue of a new clean sample is predicted to be.

    For real, anisotropic bulks, where no closed form holds.  The reference's own largest eigenvalue λ fluctuates as the
    new one's does, so that the quantile is one of their ratio: it is read from random divisions of the reference's
    probes into two independent samples, whose log ratio is brought to the sizes of the two in question.  Resamples of
    the reference would know the fluctuation of the new sample only, and be passed by 5 to 8 % of clean spectra at a
    level of 0.99.

    Args:
        gradients: input gradients of a clean predictor, or at clean probes, one row each, shape (N, D); or M rows of
            each that are drawn together, such as one for each output, shape (N, M, D): the matrix is (1/N) Σ RᵀR.
        number: probes of the spectrum to be judged; by default N.
        level: probability with which a clean spectrum stays below the edge, over draws of the reference too.
        repeats: divisions; fewer than level/(1 − level), 99 for 0.99, cannot tell a quantile so far out.
        key: by default `jax.random.key(0)`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; where a derivative in the gradients is asked for.
    """
    rows = _checked_rows(gradients)
    repeats, level = check_integer("repeats", repeats, 2), check_fraction("level", level)
    number = len(rows) if number is None else check_integer("number", number, 2)
    part, factor = _parts(len(rows), number)
    keys = jax.random.split(jax.random.key(0) if key is None else key, repeats)
    return _edge_of(_predicted(rows, keys, part, factor), level, "clean reference")


@eqx.filter_jit
def _permuted(gradients: Float[Array, "N M D"], keys: Array) -> Float[Array, " repeats"]:
    """The largest eigenvalue with every coordinate's probes in an order of its own, all rows of a probe together."""
    number, _, dimension = gradients.shape
    places = jnp.broadcast_to(jnp.arange(number)[:, None], (number, dimension))

    def one(key: Array) -> Array:
        order = jax.random.permutation(key, places, axis=0, independent=True)
        rows = jnp.take_along_axis(gradients, order[:, None], axis=0).reshape(-1, dimension)
        return _largest_eigenvalue(rows) * (len(rows) // number)

    return jax.lax.map(one, keys)


@public
def bulk_edge_from_permutations(
    gradients: Float[ArrayLike, "N ..."],
    *,
    level: Scalar = 0.99,
    repeats: int = 200,
    key: PRNGKeyArray | None = None,
) -> BulkEdge:
    """Edge from the data alone: a quantile of the largest eigenvalue with each coordinate permuted over the probes.

    Permuting breaks all correlations between coordinates (parallel analysis: Buja, Eyuboglu 1992), so that it finds
    outliers of any kind: where the clean bulk itself is correlated, as between the pixels of images, clean spectra lie
    above this edge too and only `bulk_edge_from_clean` tells the poison.  The mean gradient is kept.

    Args:
        gradients: input gradients at the probes to be judged, one row each, shape (N, D); or M rows of each, which are
            permuted together, shape (N, M, D): the matrix is (1/N) Σ RᵀR.
        level: probability with which an uncorrelated spectrum stays below the edge.
        repeats: permutations; fewer than level/(1 − level), 99 for 0.99, cannot tell a quantile so far out.
        key: by default `jax.random.key(0)`.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; where a derivative in the gradients is asked for.
    """
    rows = _checked_rows(gradients)
    repeats, level = check_integer("repeats", repeats, 2), check_fraction("level", level)
    keys = jax.random.split(jax.random.key(0) if key is None else key, repeats)
    return _edge_of(_permuted(rows, keys), level, "permutation")


@public
def spike_threshold(
    gradients: Float[ArrayLike, "N D"],
    attacked: Mask,
    direction: Float[ArrayLike, " D"],
    edge: Scalar,
) -> Float[Array, ""]:
    """The smallest spike Λ that lifts an eigenvalue of (1/N) Σ g gᵀ to an edge, for a bulk as it is.

    The attack adds √Λ u to the clean gradients G of the attacked probes.  With a the unit vector that marks them and
    θ² = ΛN_a/N, z² > 0 is an eigenvalue of the sum if (1 − θχ)² = θ²φ_aφ_u, where, with H = G/√N,
    φ_u = z uᵀ(z² − HᵀH)⁻¹u, φ_a = z aᵀ(z² − HHᵀ)⁻¹a and χ = aᵀ(z² − HHᵀ)⁻¹Hu (Benaych-Georges, Nadakuditi 2012).
    No assumption on the bulk; for an isotropic one and its Marchenko–Pastur edge the mean is `visibility_threshold`/ε.

    Args:
        gradients: of the clean predictor at all probes, attacked ones too, shape (N, D).
        attacked: which probes the attack touches, shape (N,): booleans, or integers that are 0 or 1.
        direction: u, of any length; its sign matters where clean gradients point along it.
        edge: of the bulk, as an eigenvalue; above the largest one of the clean gradients.

    Returns:
        Λ >= 0; 0 where the clean gradients reach beyond the edge by themselves.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    G, direction = check_floating("gradients", gradients), check_floating("direction", direction)
    if G.ndim != 2 or G.size == 0:
        raise ValueError(f"gradients must have shape (N, D), one row per probe, got {G.shape}")
    if direction.shape != G.shape[1:]:
        raise ValueError(f"direction must have shape {G.shape[1:]}, got {direction.shape}")
    attacked = jnp.asarray(check_mask("attacked", attacked, (len(G),), "probe"))
    check_finite("gradients", G)
    check_finite("direction", direction)
    if is_concrete(attacked) and not bool(jnp.any(attacked)):
        raise ValueError("attacked must mark at least one probe")
    if is_concrete(direction) and not bool(jnp.any(direction != 0)):
        raise ValueError("direction must not be 0")
    check_positive("edge", edge)
    share = jnp.mean(attacked.astype(G.dtype))
    a = attacked / jnp.sqrt(jnp.sum(attacked))
    u = direction / jnp.linalg.norm(direction)
    H, (inner, outer) = G / len(G) ** 0.5, (u, a.astype(G.dtype))
    if len(H) < H.shape[1]:  # the transposed problem is the same, with a and u exchanged
        H, inner, outer = H.T, outer, inner
    z_squared = jnp.asarray(edge, G.dtype)
    product = matrix_product(H.T, H)
    squares, vectors = eigh(jax.lax.stop_gradient(product))
    inside = squares[-1] < z_squared
    gaps = jax.lax.stop_gradient(1 / jnp.where(inside, z_squared - squares, 1))
    both = jnp.stack([inner, H.T @ outer], axis=1)
    # (z² − HᵀH)⁻¹ of both; derivatives of eigenvectors would divide by the gaps between eigenvalues.
    solved = jax.lax.custom_linear_solve(
        lambda x: z_squared * x - matrix_product(product, x),
        both,
        lambda _, b: matrix_product(vectors, gaps[:, None] * matrix_product(vectors.T, b)),
        symmetric=True,
    )
    resolvent = matrix_product(both.T, solved)
    # zφ of both, and χ; on the larger side the resolvent is (1 + H(z² − HᵀH)⁻¹Hᵀ)/z².
    phi_inner, phi_outer = z_squared * resolvent[0, 0], 1 + resolvent[1, 1]
    theta = 1 / (jnp.sqrt(phi_inner * phi_outer / z_squared) + resolvent[0, 1])
    return jnp.where(inside, theta**2 / share, 0)


class Visibility(eqx.Module):
    """Whether a leading eigenvalue is an outlier.

    Attributes:
        eigenvalue: the largest one.
        edge: where the bulk ends.
        z_score: (eigenvalue − mean)/standard deviation of the largest eigenvalues under the null; NaN for an edge in
            closed form, which has none.
        visible: eigenvalue > edge.
        alignment: |⟨v₁, u⟩| with the poison direction; NaN where no direction was given.
        method: how the edge was found.
    """

    eigenvalue: Float[Array, ""]
    edge: Float[Array, ""]
    z_score: Float[Array, ""]
    visible: Bool[Array, ""]
    alignment: Float[Array, ""]
    method: str = eqx.field(static=True)


def visibility(
    eigenvalue: Float[ArrayLike, ""],
    eigenvector: Float[ArrayLike, " D"],
    edge: BulkEdge | Float[ArrayLike, ""],
    *,
    direction: Float[ArrayLike, "..."] | None = None,
) -> Visibility:
    """Judge the largest eigenvalue of an input Fisher matrix or Hessian against the edge of its bulk.

    Args:
        eigenvalue: the first of `top_eigenpairs`.
        eigenvector: its eigenvector, shape (D,).
        edge: from `bulk_edge_from_clean` or `bulk_edge_from_permutations`, or a number such as
            `marchenko_pastur_edge(...)`.
        direction: u, of any length, shape (D,) or that of a point.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    eigenvector = check_floating("eigenvector", eigenvector)
    check_finite("eigenvector", eigenvector)
    eigenvalue = jnp.asarray(eigenvalue, eigenvector.dtype)
    check_finite("eigenvalue", eigenvalue)
    if not isinstance(edge, BulkEdge):
        check_finite("edge", edge)
        edge = BulkEdge(jnp.asarray(edge, eigenvector.dtype), jnp.zeros(0, eigenvector.dtype), "closed form")
    unknown = jnp.full((), jnp.nan, eigenvector.dtype)
    alignment = z_score = unknown
    if direction is not None:
        direction = check_floating("direction", direction).astype(eigenvector.dtype).ravel()
        if direction.shape != eigenvector.shape:
            raise ValueError(f"direction must have the {eigenvector.size} coordinates of a point, got {direction.size}")
        check_finite("direction", direction)
        if is_concrete(direction) and not bool(jnp.any(direction != 0)):
            raise ValueError("direction must not be 0")
        lengths = jnp.linalg.norm(direction) * jnp.linalg.norm(eigenvector)
        alignment = jnp.abs(jnp.sum(direction * eigenvector)) / lengths
    if edge.samples.size:
        z_score = (eigenvalue - jnp.mean(edge.samples)) / jnp.std(edge.samples, ddof=1)
    return Visibility(eigenvalue, edge.edge, z_score, eigenvalue > edge.edge, alignment, edge.method)
