"""What is measured of a classifier along training: attack success, accuracy, input spectra against their clean edge."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array

import kpoison as kp
from kpoison._lanczos import lanczos, smaller_gram, weighted_product
from kpoison._linear_algebra import matrix_product
from kpoison.curvature import BulkEdge
from kpoison.curvature.losses import Loss, curvature_rows
from kpoison.experiments.problem import Problem
from kpoison.networks import DivergedError

__all__ = [
    "MATRICES",
    "Matrix",
    "Measurement",
    "first_eigenpairs",
    "leading",
    "outputs",
    "pooled_edge",
    "probe_rows",
    "resampled_largest",
]

Matrix = Literal["hessian", "logits"]

MATRICES: dict[Matrix, Loss] = {"hessian": "softmax", "logits": "squared"}
"""Matrices over inputs, means over the probes, by the loss whose Gauss–Newton matrix JᵀSJ they are.

hessian: the input Fisher matrix of the class probabilities, S = diag(p) − ppᵀ.  A network of ReLUs and mean pooling is
piecewise linear, so that this is the input Hessian of the cross-entropy too, whatever the labels.  Where a network is
certain, S vanishes, on triggered images as on clean ones.
logits: JᵀJ, the Gauss–Newton matrix of the logits (L3), which does not saturate.
"""

# Numbers in the Jacobians of a batch of probes: all of them as a rule, since a rest would be one more compilation.
_AT_ONCE = 2**25
_LANCZOS_STEPS = 20
_RESIDUAL = 0.01  # relative; the error of a separated eigenvalue is of the order of its square


@eqx.filter_jit
def _batch_outputs(f: Callable[[Array], Array], images: Array) -> Array:
    return jax.vmap(f)(images)


def outputs(f: Callable[[Array], Array], images, batch: int = 500) -> np.ndarray:
    """Logits (N, C); not by `jax.lax.map`, in which a CPU is slow at convolutions."""
    parts = [_batch_outputs(f, jnp.asarray(images[i : i + batch])) for i in range(0, len(images), batch)]
    return np.concatenate([np.asarray(part) for part in parts])


@eqx.filter_jit
def _batch_jacobians(f: Callable[[Array], Array], images: Array) -> tuple[Array, Array]:
    def at(image):
        logits, pullback = jax.vjp(f, image)
        jacobian = jax.vmap(lambda v: pullback(v)[0].ravel())(jnp.eye(len(logits), dtype=logits.dtype))
        return logits, jacobian

    return jax.vmap(at)(images)


def probe_rows(f: Callable[[Array], Array], images, losses) -> dict[str, np.ndarray]:
    """For each loss, R (N, C, D) with JᵀSJ = RᵀR at each image (L3)."""
    classes = len(outputs(f, images[:1])[0])
    batch = max(1, min(len(images), _AT_ONCE // (classes * images[0].size)))
    parts: dict[str, list[np.ndarray]] = {loss: [] for loss in losses}
    for i in range(0, len(images), batch):
        logits, jacobians = _batch_jacobians(f, jnp.asarray(images[i : i + batch]))
        for loss in losses:
            rows = jax.vmap(lambda o, j, loss=loss: curvature_rows(loss, o, j))(logits, jacobians)
            parts[loss].append(np.asarray(rows))
    return {loss: np.concatenate(found) for loss, found in parts.items()}


@eqx.filter_jit
def _lanczos_of(flat: Array) -> tuple[Array, Array]:
    """Basis, as vectors (D,), and tridiagonal matrix of RᵀR, or of RRᵀ where that is smaller."""
    # The sum of the rows by their signs along themselves is orthogonal to nothing of interest.
    start = jnp.sum(jnp.where(matrix_product(flat, flat[:1].T) < 0, -flat, flat), axis=0) + jnp.abs(flat).max()
    gram = smaller_gram(flat)
    if gram is not None:
        start = matrix_product(flat, start[:, None])[:, 0]
    basis, tridiagonal = lanczos(weighted_product(flat, jnp.ones(len(flat), flat.dtype), gram), start, _LANCZOS_STEPS)
    return basis if gram is None else matrix_product(basis, flat), tridiagonal


def _leading_by_lanczos(flat: np.ndarray) -> tuple[float, np.ndarray, float]:
    """Largest eigenvalue of RᵀR, its eigenvector, and the residual."""
    # By NumPy: where several trainings are measured at a time, batches of JAX's LAPACK calls can wait for each other
    # for ever (jaxlib before 0.11.2, on a CPU).
    basis, tridiagonal = (np.asarray(part) for part in _lanczos_of(jnp.asarray(flat)))
    values, vectors = np.linalg.eigh(tridiagonal)
    vector = basis.T @ vectors[:, -1]
    vector = vector / np.linalg.norm(vector)
    return float(values[-1]), vector, float(np.linalg.norm(flat.T @ (flat @ vector) - values[-1] * vector))


def leading(rows: np.ndarray) -> tuple[float, np.ndarray]:
    """The largest eigenvalue of (1/N) Σ RᵢᵀRᵢ, of rows (N, C, D), and its eigenvector (D,).

    By Lanczos where that has converged, else by a decomposition.
    """
    flat, scale = _scaled(rows.reshape(-1, rows.shape[-1]))
    if flat.any() and min(flat.shape) > 2 * _LANCZOS_STEPS:
        value, vector, residual = _leading_by_lanczos(flat)
        if residual <= _RESIDUAL * value:
            return scale**2 * value / len(rows), vector.astype(float)
    tall = len(flat) > flat.shape[1]
    values, vectors = scipy.linalg.eigh(flat.T @ flat if tall else flat @ flat.T)
    vector = vectors[:, -1] if tall else flat.T @ vectors[:, -1]
    length = np.linalg.norm(vector)
    return scale**2 * max(float(values[-1]), 0.0) / len(rows), vector / (length if length > 0 else 1.0)


def first_eigenpairs(rows: np.ndarray, direction: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of (1/N) Σ RᵢᵀRᵢ, of rows (N, C, D), and cos² of their eigenvectors with a direction.

    The direction is a unit vector (D,); beyond the rank both are 0.
    """
    flat, scale = _scaled(rows.reshape(-1, rows.shape[-1]))
    flat = flat.astype(float)
    tall = len(flat) > flat.shape[1]
    gram = flat.T @ flat if tall else flat @ flat.T
    size = len(gram)
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=[max(0, size - number), size - 1])
    along = (vectors.T @ direction if tall else vectors.T @ (flat @ direction)) ** 2
    # Through RRᵀ an eigenvector is Rᵀw/√value.
    lengths = np.ones_like(values) if tall else values
    there = values > size * np.finfo(rows.dtype).eps * max(values[-1], 0)
    overlaps = np.where(there, along / np.where(there, lengths, 1), 0)
    pairs = np.stack([np.where(there, scale**2 * values / len(rows), 0), overlaps])[:, ::-1]
    return tuple(np.pad(pairs, ((0, 0), (0, number - len(values)))))


def _scaled(flat: np.ndarray) -> tuple[np.ndarray, float]:
    """Divided by the largest entry, as squares of the gradients of a network that is certain underflow; and by what."""
    scale = float(np.abs(flat).max()) or 1.0
    return flat / np.asarray(scale, flat.dtype), scale


@eqx.filter_jit
def _tridiagonals(flat: Array, weights: Array) -> Array:
    """Of RᵀWR for each row of weights, by Lanczos, through the smaller of RᵀWR and W^½RRᵀW^½."""
    heaviest = flat[jnp.argmax(jnp.sum(flat**2, axis=1))]
    gram = smaller_gram(flat)
    # Started along the largest row, and a little along everything else.
    start = heaviest if gram is None else matrix_product(flat, heaviest[:, None])[:, 0]
    start = start + 0.01 * jnp.linalg.norm(start) / len(start) ** 0.5
    return jax.vmap(lambda weight: lanczos(weighted_product(flat, weight, gram), start, _LANCZOS_STEPS)[1])(weights)


def resampled_largest(rows: np.ndarray, repeats: int, seed: int) -> np.ndarray:
    """The largest eigenvalue over N probes drawn with replacement from those of rows (N, C, D), `repeats` times.

    All rows of a probe are drawn together.  The scatter of the probes, at one predictor; `pooled_edge` adds that of
    predictors.
    """
    n, per_probe, _ = rows.shape
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=repeats)
    flat, scale = _scaled(rows.reshape(n * per_probe, -1))
    weights = np.repeat(counts, per_probe, axis=1).astype(rows.dtype)
    if flat.any() and min(flat.shape) > 2 * _LANCZOS_STEPS:
        tridiagonals = np.asarray(_tridiagonals(jnp.asarray(flat), jnp.asarray(weights)), float)
        values = np.linalg.eigvalsh(tridiagonals)[:, -1]
    else:
        values = np.array([np.linalg.norm(flat * np.sqrt(weight)[:, None], 2) ** 2 for weight in weights])
    return scale**2 * values / n


def pooled_edge(samples, level: float = 0.99) -> BulkEdge:
    """Where clean spectra end: a quantile of the largest eigenvalue over resamples of the clean runs of all seeds.

    Args:
        samples: largest eigenvalues, shape (seeds, repeats).
        level: share of clean spectra that stay below.
    """
    flat = jnp.asarray(samples).ravel()
    edge = jnp.quantile(flat, jnp.asarray(level, flat.dtype))
    return BulkEdge(edge, flat, f"{level:.0%} quantile over resamples of the clean runs of all seeds")


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """Measures a classifier; call it as `train_classifier` does, with (model, step).

    Gives, of the test images, `accuracy` (clean), `success` (triggered ones that get the target class, of those not of
    it), `probability` and `margin` (means over the same of the target's probability, and of its logit over the largest
    other one); and for each matrix NAME over the probes, of which a fraction is triggered, `NAME` (the largest
    eigenvalue), `NAME_alignment` (|⟨v₁, u⟩| with the trigger), `NAME_along` (uᵀFu), where asked for `NAME_eigenvalues`
    and `NAME_overlaps` (the first eigenvalues, and cos² of their eigenvectors with the trigger) and `NAME_unmarked`
    (the largest eigenvalue with no probe triggered).  Of a reference only `NAME_samples`: the last one, over resampled
    probes.

    Attributes:
        problem: the images.
        probes: how many of the test images the spectra are of.
        probe_fraction: of them that carry the trigger.
        reference: whether this is a clean run that gives an edge.
        matrices: those of MATRICES to measure.
        repeats: resamples.
        unmarked: whether `NAME_unmarked` is wanted.
        eigenvectors: how many `NAME_eigenvalues` and `NAME_overlaps` are of; 0 for none of it.
    """

    problem: Problem
    probes: int
    probe_fraction: float
    reference: bool
    matrices: tuple[Matrix, ...] = ("hessian", "logits")
    repeats: int = 100
    unmarked: bool = True
    eigenvectors: int = 0

    def __call__(self, model: Callable[[Array], Array], step: int) -> dict[str, Any]:
        """The measurements by name."""
        found: dict[str, Any] = self.rates(model)
        images, chosen = self.problem.probes(self.probes, self.probe_fraction)
        losses = [MATRICES[name] for name in self.matrices]
        if self.reference:
            rows = probe_rows(model, images, losses)
            for name, loss in zip(self.matrices, losses, strict=True):
                found[f"{name}_samples"] = resampled_largest(rows[loss], self.repeats, seed=step)
            return found
        rows = probe_rows(model, np.concatenate([images, self.problem.test_triggered[chosen]]), losses)
        direction = self.problem.direction
        for name, loss in zip(self.matrices, losses, strict=True):
            unmarked, marked = rows[loss][: len(images)], rows[loss][len(images) :]
            mixed = unmarked.copy()
            mixed[chosen] = marked
            value, vector = leading(mixed)
            found[name] = value
            found[f"{name}_alignment"] = abs(float(vector @ direction))
            found[f"{name}_along"] = float(np.sum((mixed @ direction) ** 2)) / len(mixed)
            if self.eigenvectors:
                values, overlaps = first_eigenpairs(mixed, direction, self.eigenvectors)
                found[f"{name}_eigenvalues"], found[f"{name}_overlaps"] = values, overlaps
            if self.unmarked:
                found[f"{name}_unmarked"] = leading(unmarked)[0]
        return found

    def rates(self, model: Callable[[Array], Array]) -> dict[str, float]:
        """Those that need no spectrum."""
        problem, attacked = self.problem, self.problem.attacked
        triggered, clean = outputs(model, problem.test_triggered), outputs(model, problem.test_images)
        if not (np.isfinite(triggered).all() and np.isfinite(clean).all()):
            raise DivergedError("the network's outputs are not finite")
        target = triggered[attacked, problem.target]
        others = np.delete(triggered[attacked], problem.target, axis=1)
        probabilities = jax.nn.softmax(jnp.asarray(triggered[attacked]))[:, problem.target]
        labels = problem.test_labels
        return {
            "accuracy": float(kp.clean_accuracy(clean, labels)),
            "success": float(kp.attack_success_rate(triggered, labels, problem.target)),
            "probability": float(jnp.mean(probabilities)),
            "margin": float(np.mean(target - others.max(axis=1))),
        }
