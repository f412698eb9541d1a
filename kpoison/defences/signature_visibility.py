"""What spectral signatures can see: the poisons of a class as a spike on the spectrum of its features.

m poisons at a displacement δ from the mean of n_c clean features with covariance C give the class the covariance
(1 − ε)C + ε(1 − ε)δδᵀ, exactly, with ε = m/(n_c + m).  That is the clean bulk and one more rank, whose eigenpairs
follow from the clean ones alone.  Poisons with a covariance P of their own add εP to the bulk.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from kpoison._failures import program, without_derivative
from kpoison._linear_algebra import eigh, matrix_product
from kpoison._typing import Scalar
from kpoison._validation import boundary, check_finite, check_flag, check_floating, check_integers, check_positive
from kpoison.curvature._visibility import (
    marchenko_pastur_edge,
    outlier_eigenvalue,
    outlier_overlap,
    visibility_threshold,
)
from kpoison.defences._spectral_signatures import check_fractions
from kpoison.defences.detection import check_squares

__all__ = [
    "IsotropicVisibility",
    "PredictedVisibility",
    "isotropic_visibility",
    "predicted_visibility",
    "visible_count",
]

_BISECTIONS = 80


class PredictedVisibility(eqx.Module):
    """What spectral signatures will make of a class, from its clean features and the poisons'.

    Attributes:
        spike: θ = ε(1 − ε)‖δ‖².
        threshold: the spike at which the poison's eigenvalue passes the leading one of the bulk: 1/Σ_i a_i²/(β_1 − β_i)
            over all bulk eigenvalues β_i but the leading, a_i the component of δ/‖δ‖ along their eigenvectors.  The
            Baik–Ben Arous–Péché threshold of the spectrum at hand: up to it at least half of ‖v‖² of the leading
            eigenvector v lies along that of the bulk, as Σ a_i²/(β_1 + g − β_i) is convex in g >= 0.
        eigenvalue: the leading eigenvalue of the poisoned class's covariance.
        edge: β_1, that of the bulk.
        overlap: ⟨v, δ⟩²/‖δ‖² of the leading eigenvector.
        visible: spike > threshold.
        clean_scores: of the clean points, shape (n_c,).
        poison_scores: of the poisons, shape (p,).
        auroc: the probability that a poison's score is above a clean point's.
        true_positive: fraction of the poisons that is suspected; of clones at one place all or none.
    """

    spike: Float[Array, ""]
    threshold: Float[Array, ""]
    eigenvalue: Float[Array, ""]
    edge: Float[Array, ""]
    overlap: Float[Array, ""]
    visible: Bool[Array, ""]
    clean_scores: Float[Array, " n"]
    poison_scores: Float[Array, " p"]
    auroc: Float[Array, ""]
    true_positive: Float[Array, ""]


def _check_class(arguments: dict[str, Any]) -> None:
    clean, poisons = check_floating("clean", arguments["clean"]), check_floating("poisons", arguments["poisons"])
    if clean.ndim != 2 or clean.size == 0:
        raise ValueError(f"clean must have shape (n, k), one row for each point of the class, got {clean.shape}")
    if poisons.shape[-1:] != clean.shape[1:] or poisons.ndim not in (1, 2) or poisons.size == 0:
        raise ValueError(f"poisons must have shape ({clean.shape[1]},) or (p, {clean.shape[1]}), got {poisons.shape}")
    poisons = jnp.atleast_2d(poisons).astype(clean.dtype)
    check_finite("clean", clean)
    check_finite("poisons", poisons)
    for name, value in (("clean", clean), ("poisons", poisons)):
        check_squares(name, value)
    arguments.update(clean=clean, poisons=poisons)
    if "count" in arguments:
        check_positive("count", arguments["count"])
        # A Python number would be compiled in.
        arguments["count"] = jnp.asarray(arguments["count"], clean.dtype)
    if "fraction" in arguments:
        check_fractions(arguments)


class _Bulk(eqx.Module):
    """The spectrum of a class about the displacement of its poisons.

    Attributes:
        eigenvalues: of the bulk, ascending, shape (r,).
        axes: their eigenvectors, shape (k, r).
        components: of the unit displacement along the axes, shape (r,).
        rest: its part orthogonal to them, where the bulk's eigenvalue is 0, shape (k,).
    """

    eigenvalues: Float[Array, " r"]
    axes: Float[Array, "k r"]
    components: Float[Array, " r"]
    rest: Float[Array, " k"]

    @property
    def gaps(self) -> Float[Array, " r"]:
        """β_1 − β_i."""
        return self.eigenvalues[-1] - self.eigenvalues

    def threshold(self) -> Float[Array, ""]:
        """1/Σ a_i²/(β_1 − β_i) over all but the leading eigenvalue, those equal to it with it."""
        edge = self.eigenvalues[-1]
        apart = self.gaps > len(self.eigenvalues) * jnp.finfo(edge.dtype).eps * edge
        terms = jnp.where(apart, self.components**2, 0) / jnp.where(apart, self.gaps, 1)
        rest = jnp.sum(self.rest**2) / jnp.where(edge > 0, edge, 1)
        # Without a bulk everything is visible; of a displacement along the leading axis too.
        total = jnp.sum(terms) + rest
        return jnp.where((edge > 0) & (total > 0), 1 / jnp.where(total > 0, total, 1), 0)

    def leading(self, spike: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, " k"]]:
        """Largest eigenvalue λ and unit eigenvector v of bulk and spike θ: the secular equation's largest root.

        With bulk eigenvalues β_i, components a_i of the unit displacement u along their axes and its rest w, where the
        bulk is 0, and gap = λ − β_1:

            excess(gap) = Σ_i a_i²/(gap + β_1 − β_i) + ‖w‖²/(gap + β_1) − 1/θ = 0
            v ∝ Σ_i a_i/(gap + β_1 − β_i) axis_i + w/(gap + β_1)

        The excess falls in gap > 0; it is >= 0 at θa_1², where the first term alone is 1/θ, and <= 0 at θ, as Σ a_i² +
        ‖w‖² = 1.  (bulk + θuuᵀ)v = λv to rounding.
        """
        eps = jnp.finfo(self.eigenvalues.dtype).eps
        # A leading eigenvector of the bulk that the displacement misses stays one of the sum; this keeps it.
        weights = (self.components**2).at[-1].max(eps**2)
        away, edge = jnp.sum(self.rest**2), self.eigenvalues[-1]

        def excess(gap):
            return jnp.sum(weights / (gap + self.gaps)) + away / (gap + edge) - 1 / spike

        def halve(bracket, _):
            low, high = bracket
            middle = jnp.sqrt(low * high)
            above = excess(middle) > 0
            return (jnp.where(above, middle, low), jnp.where(above, high, middle)), None

        bracket = (spike * weights[-1], spike * (1 + 4 * eps))
        bracket = jax.lax.stop_gradient(jax.lax.scan(halve, bracket, None, length=_BISECTIONS)[0])
        gap = jnp.sqrt(bracket[0] * bracket[1])
        slope = jax.lax.stop_gradient(jnp.sum(weights / (gap + self.gaps) ** 2) + away / (gap + edge) ** 2)
        value = excess(gap)
        # One of Newton's steps, of value 0 to rounding, carries the derivatives.
        gap = gap + (value - jax.lax.stop_gradient(value)) / slope
        signs = jnp.where(self.components < 0, -1.0, 1.0).astype(weights.dtype)
        vector = self.axes @ (signs * jnp.sqrt(weights) / (gap + self.gaps)) + self.rest / (gap + edge)
        return edge + gap, vector / jnp.linalg.norm(vector)


def _bulk(rows: Float[Array, "N k"], displacement: Float[Array, " k"]) -> _Bulk:
    """Of the covariance rowsᵀrows about a unit vector."""
    if len(rows) < rows.shape[1]:
        values, vectors = eigh(matrix_product(rows, rows.T))
        kept = values > len(values) * jnp.finfo(rows.dtype).eps * values[-1]
        axes = matrix_product(rows.T, vectors) * jnp.where(kept, jnp.where(kept, values, 1) ** -0.5, 0)[None]
    else:
        values, axes = eigh(matrix_product(rows.T, rows))
        kept = jnp.ones(len(values), bool)
    components = matrix_product(axes.T, displacement[:, None])[:, 0]
    rest = displacement - matrix_product(axes, components[:, None])[:, 0]
    return _Bulk(jnp.where(kept, jnp.maximum(values, 0), 0), axes, components, rest)


def _displaced(
    clean: Float[Array, "n k"], poisons: Float[Array, "p k"]
) -> tuple[Float[Array, "n k"], Float[Array, "p k"], Float[Array, " k"]]:
    """Clean features about their mean, poisons about theirs, and δ between the two."""
    mean, centre = jnp.mean(clean, axis=0), jnp.mean(poisons, axis=0)
    return clean - mean[None], poisons - centre[None], centre - mean


@boundary(_check_class)
@program
def predicted_visibility(
    clean: Float[ArrayLike, "n k"],
    poisons: Float[ArrayLike, "p k"],
    count: Scalar = 1.0,
    *,
    fraction: Scalar = 0.05,
    multiplier: Scalar = 1.5,
) -> PredictedVisibility:
    """What `spectral_signatures` will see in a class, from the spectrum of its bulk and the poisons' displacement.

    Exact for these features; the covariance of the poisoned class is not decomposed.  The bulk is (1 − ε)C + εP, with
    the covariances C of the clean features and P of the poisons, 0 for clones, and the spike ε(1 − ε)δδᵀ one rank
    more, of which the leading eigenpair is the largest root of a secular equation.  Below the threshold the leading
    direction is one of the clean class, and the scores say nothing of the poison: clones near the mean of the class
    (‖δ‖² <= τ of `visible_count`) stay there at any count.

    Args:
        clean: features of the clean points with the poisons' label, shape (n_c, k).
        poisons: features of the distinct poisons, in the same coordinates, shape (p, k), or (k,) for clones of one.
        count: multiplicity of each, real and > 0: m = p · count.
        fraction: ε as given to `spectral_signatures`.
        multiplier: the same.

    Returns:
        Differentiable in the count of clones; a TypeError where other derivatives are asked for.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> clean = jnp.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> [bool(predicted_visibility(clean, jnp.array([0.0, r]), 2.0).visible) for r in (2.0, 6.0)]
    [False, True]
    """
    clean, poisons = _constant(clean), _constant(poisons)
    count = jnp.asarray(count, clean.dtype)
    bulk, distance, share = _poisoned(clean, poisons, count)
    spike = share * (1 - share) * distance**2
    # Poisons at the mean of the class leave the bulk as it is.
    there = spike > 0
    eigenvalue, vector = bulk.leading(jnp.where(there, spike, 1))
    eigenvalue = jnp.where(there, eigenvalue, bulk.eigenvalues[-1])
    vector = jnp.where(there, vector, bulk.axes[:, -1])
    mean = (1 - share) * jnp.mean(clean, axis=0) + share * jnp.mean(poisons, axis=0)

    def scores(points):
        return matrix_product(points - mean[None], vector[:, None])[:, 0] ** 2

    clean_scores, poison_scores = scores(clean), scores(poisons)
    # Equal features, equal scores.
    tied = jnp.finfo(clean.dtype).eps ** 0.5 * poison_scores[:, None]
    above = poison_scores[:, None] - clean_scores[None]
    wins = jnp.where(above > tied, 1.0, jnp.where(above < -tied, 0.0, 0.5))
    # What must be suspected with a poison: all that is not below it, its clones too.
    beside = jnp.sum(above <= tied, axis=1)
    beside += count * jnp.sum(poison_scores[None] >= poison_scores[:, None] - tied, axis=1)
    share = multiplier * fraction
    budget = jnp.floor((len(clean) + len(poisons) * count - 1) * share + 1e-6) + 1
    threshold = bulk.threshold()
    return PredictedVisibility(
        spike,
        threshold,
        eigenvalue,
        bulk.eigenvalues[-1],
        jnp.where(there, jnp.sum((bulk.axes.T @ vector) * bulk.components) + jnp.sum(bulk.rest * vector), 0) ** 2,
        spike > threshold,
        clean_scores,
        poison_scores,
        jnp.mean(wins.astype(clean.dtype)),
        jnp.mean((beside <= budget) & (poison_scores > 0), dtype=clean.dtype),
    )


def _constant(value: Any) -> Array:
    """The value, whose derivative would go through an eigendecomposition."""
    message = "predicted visibilities have no derivative in features, nor in the count of poisons at several places"
    return without_derivative(jnp.asarray(value), message)


def _poisoned(
    clean: Float[Array, "n k"], poisons: Float[Array, "p k"], count: Float[Array, ""]
) -> tuple[_Bulk, Float[Array, ""], Float[Array, ""]]:
    """The bulk (1 − ε)C + εP about δ, ‖δ‖ and ε."""
    here, there, displacement = _displaced(clean, poisons)
    distance = jnp.linalg.norm(displacement)
    direction = displacement / jnp.where(distance > 0, distance, 1)
    if len(poisons) > 1:
        count = _constant(count)
    share = count * len(poisons) / (len(clean) + count * len(poisons))
    if len(poisons) == 1:  # the axes of C do for every count
        bulk = _bulk(here * len(clean) ** -0.5, direction)
        return eqx.tree_at(lambda b: b.eigenvalues, bulk, (1 - share) * bulk.eigenvalues), distance, share
    rows = [here * jnp.sqrt((1 - share) / len(clean)), there * jnp.sqrt(share / len(poisons))]
    return _bulk(jnp.concatenate(rows), direction), distance, share


@boundary(_check_class)
@program
def visible_count(clean: Float[ArrayLike, "n k"], poisons: Float[ArrayLike, "p k"]) -> Float[Array, ""]:
    """How many clones at one place a class can hide from spectral signatures: m = n_c τ/(‖δ‖² − τ), real.

    τ = 1/Σ_i a_i²/(μ_1 − μ_i) over all eigenvalues μ_i of the clean covariance but the leading; at m the spike
    ε(1 − ε)‖δ‖² reaches the threshold (1 − ε)τ of `predicted_visibility`.

    Args:
        clean: features of the clean points of the class, shape (n_c, k).
        poisons: features of the place, shape (k,) or (1, k).

    Returns:
        m > 0, or infinity where no number is visible: ‖δ‖² <= τ.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    clean, poisons = _constant(clean), _constant(poisons)
    if len(poisons) != 1:
        raise ValueError(f"poisons must be one place, of shape (k,) or (1, k), got {poisons.shape}")
    here, _, displacement = _displaced(clean, poisons)
    distance = jnp.linalg.norm(displacement)
    direction = displacement / jnp.where(distance > 0, distance, 1)
    tau = _bulk(here * len(here) ** -0.5, direction).threshold()
    beyond = distance**2 > tau
    return jnp.where(beyond, len(clean) * tau / jnp.where(beyond, distance**2 - tau, 1), jnp.inf)


class IsotropicVisibility(eqx.Module):
    """What spectral signatures see in a class of Gaussian features, in the limit of many points and dimensions.

    Attributes:
        spike, threshold, eigenvalue, edge, overlap, visible, auroc: as of `PredictedVisibility`; of a spike that is
            not visible the overlap is 0.
    """

    spike: Float[Array, ""]
    threshold: Float[Array, ""]
    eigenvalue: Float[Array, ""]
    edge: Float[Array, ""]
    overlap: Float[Array, ""]
    visible: Bool[Array, ""]
    auroc: Float[Array, ""]


def _check_isotropic(arguments: dict[str, Any]) -> None:
    check_integers(arguments, number=1, dimension=1)
    for name in ("variance", "count", "distance"):
        check_positive(name, arguments[name], zero=name == "distance")
        arguments[name] = jnp.asarray(arguments[name], float)
    arguments["scattered"] = check_flag("scattered", arguments["scattered"])


@boundary(_check_isotropic)
@program
def isotropic_visibility(
    number: int,
    dimension: int,
    variance: Scalar,
    count: Scalar,
    distance: Scalar,
    *,
    scattered: bool = False,
) -> IsotropicVisibility:
    """Closed forms of `predicted_visibility` for clean features of covariance σ²I.

    Poisons scattered like the clean points, a backdoor's population: the spike θ is seen above the threshold σ²√c,
    c = k/(n_c + m), and the rest is of `kpoison.curvature` (Baik, Ben Arous, Péché 2005; Benaych-Georges, Nadakuditi
    2012).  Clones have no scatter, and the spike adds to a Marchenko–Pastur bulk of s = (1 − ε)σ² and c = k/n_c: its
    threshold s(√c + c) is higher by 1 + √c, the eigenvalue θ + sθ/(θ − cs), the overlap 1 − cs²/(θ − cs)²
    (Benaych-Georges, Nadakuditi 2011, with that law's R-transform s/(1 − csz)).

    Args:
        number: n_c clean points of the class.
        dimension: k of the features.
        variance: σ² > 0 of each.
        count: m > 0, real.
        distance: ‖δ‖ >= 0.
        scattered: whether the poisons have the covariance σ²I too; else they are clones.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> clones = isotropic_visibility(400, 100, 1.0, 100.0, 2.5)  # s = 0.8, c = 1/4
    >>> round(float(clones.threshold), 12), round(float(clones.edge), 12), bool(clones.visible)
    (0.6, 1.8, True)
    """
    variance, count, distance = (jnp.asarray(value, float) for value in (variance, count, distance))
    share = count / (number + count)
    spike = share * (1 - share) * distance**2
    if scattered:
        aspect, scale = dimension / (number + count), variance
        threshold, edge = visibility_threshold(scale, aspect), marchenko_pastur_edge(scale, aspect)
        eigenvalue, overlap = outlier_eigenvalue(spike, scale, aspect), outlier_overlap(spike, scale, aspect)
        visible = spike > threshold
        theta = jnp.where(visible, spike, 1)
        # Of the left singular vector with the poisons' places in the class.
        left = jnp.where(visible, (1 - aspect * (scale / theta) ** 2) / (1 + scale / theta), 0)
        apart = jnp.sqrt(eigenvalue * left / (share * (1 - share)))
        spread = jnp.sqrt(2 * eigenvalue * (1 - left))
        one, other = (jax.scipy.stats.norm.cdf(factor * apart / spread) for factor in (1, 1 - 2 * share))
        auroc = one * other + (1 - one) * (1 - other)
    else:
        aspect, scale = dimension / number, (1 - share) * variance
        threshold = scale * (aspect**0.5 + aspect)
        edge = marchenko_pastur_edge(scale, aspect)
        visible = spike > threshold
        theta = jnp.where(visible, spike, threshold)
        beyond = theta - aspect * scale
        eigenvalue = theta * (1 + scale / beyond)
        overlap = jnp.where(visible, 1 - aspect * (scale / beyond) ** 2, 0)
        apart = jnp.sqrt(overlap) * distance
        spread = jnp.sqrt((eigenvalue - spike * overlap) / (1 - share))
        one, other = (jax.scipy.stats.norm.cdf(factor * apart / spread) for factor in (1, 1 - 2 * share))
        auroc = one + other - 1
    return IsotropicVisibility(spike, threshold, eigenvalue, edge, overlap, visible, auroc)
