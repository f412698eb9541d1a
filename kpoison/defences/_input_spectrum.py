"""The input spectrum as a detector, and the law of what it sees (L3, section 4)."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Num

from kpoison._typing import Mask, Scalar
from kpoison._validation import (
    boundary,
    check_floating,
    check_fraction,
    check_integers,
    check_mask,
    check_points,
    check_positive,
    is_concrete,
    plain_array,
)
from kpoison.curvature import (
    Visibility,
    bulk_edge_from_clean,
    bulk_edge_from_permutations,
    fisher,
    gradient_covariance,
    input_gradients,
    spike_threshold,
    top_eigenpairs,
    visibility,
)
from kpoison.curvature.losses import Loss
from kpoison.curvature.operators import GaussNewtonRows
from kpoison.defences.detection import Detection, in_order_of_content
from kpoison.laws import efficacy_gradient, predictor, spike
from kpoison.poison import Poison
from kpoison.ridge import Fitted, check_fitted

__all__ = ["SpectrumDetection", "SpectrumLaw", "input_spectrum", "input_spectrum_law"]

_FROM_CLEAN = "clean probes of the same kind, of which the predictor's gradients have the same bulk"
_FROM_PERMUTATIONS = "clean input gradients whose coordinates are uncorrelated, which those of images are not"


class SpectrumDetection(Detection):
    """A detection by the leading eigenvector of the input spectrum.

    Attributes:
        visibility: the largest eigenvalue against the edge of the bulk.
        direction: its eigenvector v, an estimate of the trigger, shape (D,); its sign is arbitrary.
    """

    visibility: Visibility
    direction: Float[Array, " D"]


def _check(arguments: dict[str, Any]) -> None:
    x = check_floating("x", arguments["x"])
    if x.ndim < 2 or len(x) < 2 or x.size == 0:
        raise ValueError(f"x must hold at least two probes, shape (q, ...), got {x.shape}")
    arguments["x"] = x
    if arguments["reference"] is not None:
        reference = check_points("reference", arguments["reference"], x.ndim - 1, like=x, like_name="x")
        if len(reference) < 2:
            raise ValueError(f"reference must hold at least two clean probes, got {reference.shape}")
        arguments["reference"] = reference
    given = arguments["reference_targets"] is not None
    if given != (arguments["reference"] is not None and arguments["targets"] is not None):
        raise ValueError(
            "reference_targets must be given where both reference and targets are, and only there, got "
            + ("them without" if given else "none")
        )
    check_integers(arguments, repeats=2, seed=0)
    arguments["level"] = check_fraction("level", arguments["level"])


@boundary(_check)
def input_spectrum(
    f: Callable[[Array], Array],
    x: Float[ArrayLike, "q ..."],
    reference: Float[ArrayLike, "m ..."] | None = None,
    *,
    targets: Num[ArrayLike, "q ..."] | None = None,
    reference_targets: Num[ArrayLike, "m ..."] | None = None,
    loss: Loss = "squared",
    level: Scalar = 0.99,
    repeats: int = 200,
    seed: int = 0,
) -> SpectrumDetection:
    """Suspect probes whose input gradients point along an eigenvector outside the bulk (L3, section 4).

    The matrix is the input Fisher matrix, F = (1/q) Σ JᵀSJ, or with targets the covariance of the loss gradients,
    (1/q) Σ ∇ℓ∇ℓᵀ.  A probe's score is its own part of the largest eigenvalue, vᵀJᵀSJv or (v·∇ℓ)², of which the
    eigenvalue is the mean; suspected are scores above the edge of the bulk.  Where the eigenvalue itself is not above
    the edge (by more than rounding) no spectral test sees anything: all scores are 0 and nothing is suspected, nor
    where all gradients are 0.  The order of probes does not matter (under a trace it decides what is drawn).

    Args:
        f: a function of one point, as in `kpoison.curvature`: `kp.predictor(...)`, a `Network`, any JAX function with a
            number or (C,) as its result.
        x: probes to judge, two or more, shape (q, d) or (q, height, width, channels).
        reference: clean probes, shape (m, ...): the edge is the quantile of a new clean sample's eigenvalue that
            f's gradients there predict (see `bulk_edge_from_clean`).  None: of the gradients at x with each coordinate
            permuted, which finds outliers of any kind (see `bulk_edge_from_permutations`).  The gradients of several
            outputs at a probe stay together in both.
        targets: y at x, for the covariance of loss gradients, as in `gradient_covariance`.
        reference_targets: y at the reference, where there are targets.
        loss: "squared" or "softmax".
        level: probability with which a clean spectrum stays below the edge, over draws of the reference too.
        repeats: divisions of the reference, or permutations.
        seed: of these.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, and where f or its gradient is not finite.

    >>> import jax
    >>> clean = jax.random.normal(jax.random.key(0), (80, 2))
    >>> found = input_spectrum(lambda x: x @ x / 2, clean[:40].at[7].set(40.0), clean[40:])
    >>> bool(found.visibility.visible), int(found.scores.argmax()), bool(found.suspected[7])
    (True, 7, True)
    """
    x, targets, places = _in_order(jnp.asarray(x), targets)
    rows = _gradient_rows(f, x, targets, loss)
    pairs = top_eigenpairs(GaussNewtonRows(rows.reshape(-1, rows.shape[-1]) / len(rows) ** 0.5), 1)
    null = rows
    if reference is not None:
        clean, clean_targets, _ = _in_order(jnp.asarray(reference), reference_targets)
        null = _gradient_rows(f, clean, clean_targets, loss)
    options = {"level": level, "repeats": repeats, "key": jax.random.key(seed)}
    if reference is None:
        edge = bulk_edge_from_permutations(null, **options)
    else:
        edge = bulk_edge_from_clean(null, number=len(rows), **options)
    seen = visibility(pairs.values[0], pairs.vectors[0], edge)
    along = jnp.einsum("qmd,d->qm", rows, pairs.vectors[0], precision="highest")
    # Of equal gradients the resamples have the same eigenvalue, but for rounding.
    beyond = seen.visible & (seen.eigenvalue > seen.edge * (1 + 64 * jnp.finfo(rows.dtype).eps))
    seen = eqx.tree_at(lambda v: v.visible, seen, beyond)
    scores = jnp.where(beyond, jnp.sum(along**2, axis=1), 0)[places]
    assumes = (
        "the trigger bends the predictor along a direction of its own, by more than the Baik–Ben Arous–Péché threshold "
        f"of the bulk; {_FROM_PERMUTATIONS if reference is None else _FROM_CLEAN}"
    )
    return SpectrumDetection(scores, scores > edge.edge, edge.edge, assumes, seen, pairs.vectors[0])


def _in_order(x: Array, targets: Any) -> tuple[Array, Any, Any]:
    """Probes in an order of their own, with their targets, and where each is there; traced ones as they are."""
    if not is_concrete(x):
        return x, targets, slice(None)
    order, _ = in_order_of_content(np.asarray(x))
    # Targets of another number are refused where they are used.
    if targets is not None and np.shape(targets)[:1] == x.shape[:1]:
        targets = plain_array("targets", targets)[order]
    return x[order], targets, np.argsort(order)


def _gradient_rows(f: Callable, x: Array, targets: Any, loss: Loss) -> Float[Array, "q M D"]:
    """Rows R of each probe, of which the matrix is (1/q) Σ RᵀR."""
    if targets is not None:
        return (gradient_covariance(f, x, targets, loss=loss).rows * len(x) ** 0.5)[:, None]
    operator = fisher(f, x, loss=loss)
    if not isinstance(operator, GaussNewtonRows):
        raise ValueError(f"x and reference must hold fewer probes: the gradients at {len(x)} do not fit in memory")
    return (operator.rows * len(x) ** 0.5).reshape(len(x), -1, operator.dimension)


class SpectrumLaw(eqx.Module):
    """What the law says that the input spectrum shows of a poison, beside what it does show.

    Attributes:
        spike: Λ of the law, added up over the outputs, its mean over the attacked probes.
        coherence: the part of it that is along one common direction and output, in [0, 1]; 0 without a spike.
        direction: that direction u, shape (D,).
        threshold: the spike along it from which an eigenvalue is beyond the edge, for the clean predictor's bulk as it
            is; 0 where that reaches beyond the edge by itself.
        eigenvalue: the largest one by the law: of the clean gradients, with √(coherence · Λ) u added at the attacked
            probes.
        visible: whether coherence · spike is above the threshold; if not, the defence is blind.
        measured: the defence against the poisoned predictor.
    """

    spike: Float[Array, ""]
    coherence: Float[Array, ""]
    direction: Float[Array, " D"]
    threshold: Float[Array, ""]
    eigenvalue: Float[Array, ""]
    visible: Bool[Array, ""]
    measured: SpectrumDetection


def _check_law(arguments: dict[str, Any]) -> None:
    clean = arguments["clean"]
    check_fitted("clean", clean)
    x = arguments["x"] = clean.kernel.points("x", arguments["x"], like=clean.X, like_name="clean.X")
    arguments["attacked"] = np.asarray(check_mask("attacked", arguments["attacked"], (len(x),), "probe"))
    if not arguments["attacked"].any():
        raise ValueError(f"attacked must mark at least one of the {len(x)} probes, got none")
    check_positive("ridge", arguments["ridge"])


@boundary(_check_law)
def input_spectrum_law(
    clean: Fitted,
    poison: Poison,
    x: Float[ArrayLike, "q ..."],
    attacked: Mask,
    ridge: Scalar,
    reference: Float[ArrayLike, "m ..."] | None = None,
    *,
    level: Scalar = 0.99,
    repeats: int = 200,
    seed: int = 0,
) -> SpectrumLaw:
    """Whether `input_spectrum` sees a poison by the law of the spike, and whether it does.

    The gradients at the attacked probes are those of the clean predictor at ρ = (n_c + Σm)λ and ∇Δf, of which the law
    keeps the part along one direction (all of it for clones and probes on one ray); at the others the poison is taken
    not to act, so that what is measured differs where it does.  Near clones Λ → 0, and the detector is blind however
    strong the attack is (L5), down to the coupling floor (L6).  For an isotropic bulk the
    threshold is `visibility_threshold(σ², d/q)`/ε, ε the fraction of attacked probes.

    Args:
        clean: the fitted clean posterior.
        poison: clones or a cluster.
        x: probes, the attacked ones with their trigger, shape (q, ...).
        attacked: which carry the trigger, at least one, shape (q,): booleans, or integers that are 0 or 1.
        ridge: λ > 0 of the mean loss.
        reference: clean probes, as in `input_spectrum`, which is run on the poisoned predictor with the squared loss;
            its edge is the law's too.
        level: as there.
        repeats: as there.
        seed: as there.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    x, marked = jnp.asarray(x), np.asarray(attacked)
    f = predictor(clean, ridge, poison)
    measured = input_spectrum(f, x, reference, level=level, repeats=repeats, seed=seed)
    counts = poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)[2]
    # `predictor` without a poison has ρ = n_c λ.
    same = ridge * (1 + jnp.sum(counts) / clean.observations.total)
    rows, probes = input_gradients(predictor(clean, same), x), x[marked]
    rows = rows.reshape(len(x), clean.outputs, -1)
    bent = efficacy_gradient(clean, poison, probes, ridge).reshape(len(probes), clean.outputs, -1)
    total = jnp.mean(jnp.sum(spike(clean, poison, probes, ridge).reshape(len(probes), -1), axis=1))
    # Outputs turned so that the poison acts on the first alone, which leaves JᵀJ as it is: one output for clones.
    turn = jnp.linalg.eigh(jnp.einsum("qcd,qed->ce", bent, bent, precision="highest"))[1][:, ::-1]
    rows, bent = (jnp.einsum("qcd,ce->qed", part, turn, precision="highest") for part in (rows, bent))
    common = top_eigenpairs(GaussNewtonRows(bent[:, 0] / len(probes) ** 0.5), 1)
    direction, along = common.vectors[0], common.values[0]
    direction = direction * jnp.where(jnp.sum(bent[:, 0] @ direction) < 0, -1, 1)
    spiked = rows.at[marked, 0].add((jnp.sqrt(along) * direction)[None])
    eigenvalue = top_eigenpairs(GaussNewtonRows(spiked.reshape(-1, rows.shape[-1]) / len(x) ** 0.5), 1).values[0]
    edge, outputs = measured.visibility.edge, clean.outputs
    on_rows = jnp.zeros((len(x), outputs), bool).at[marked, 0].set(True).ravel()
    threshold = _threshold(rows.reshape(-1, rows.shape[-1]), on_rows, direction, edge / outputs)
    coherence = jnp.where(total > 0, along / jnp.where(total > 0, total, 1), 0)
    return SpectrumLaw(total, coherence, direction, threshold, eigenvalue, along > threshold, measured)


def _threshold(rows: Array, attacked: Array, direction: Array, edge: Array) -> Float[Array, ""]:
    """`spike_threshold`, and 0 for a bulk that ends at 0."""
    if float(edge) <= 0:
        return jnp.zeros((), rows.dtype)
    return spike_threshold(rows, attacked, direction, edge)
