"""Exact laws against brute-force refits, over random configurations: `python -m benchmarks.exactness`.

The refit knows nothing of kpoison.  It writes m copies of every poison into the training set, builds the Gram
matrix from its own NumPy formulas of the kernels, solves (K + ρI)α = Y with LAPACK in float64, and takes

- the gain from the dual coefficients, ∂(Σ α over the copies of ζ_i)/∂(label of ζ_j), since α is linear in Y;
- the efficacy and its gradient from the difference of two such predictors, with and without the copies.

An error counts relative to 10·eps·cond(A), A = K + ρI with all copies in it, times a scale.  A backward stable
solve answers for A + δA with ‖δA‖ ≈ eps‖A‖, and that bounds what *any* float64 calculation can promise:

- gain S = EᵀA⁻¹E (E marks the copies): |δS_ij| ≤ ‖A⁻¹E_i‖‖δA‖‖A⁻¹E_j‖ ≤ eps·cond·√(S_ii S_jj).  Scale: √(S_ii S_jj),
  which for clones is the gain itself.
- prediction f(x) = wᵀY with the smoother's weights w = A⁻¹k(x): |δf| ≤ ‖w‖‖δA‖‖α‖ ≤ eps·cond·‖w‖‖Y‖.  Scale of the
  efficacy: ‖w‖‖Y‖, the size that f has where its terms do not cancel, of the larger of the two predictors; not
  |Δf|, which the refit gets as a difference of predictions and cannot know better than them.
- gradient ∇f(x) = (A⁻¹∇k(x))ᵀY in the same way.  Scale: ‖A⁻¹∇k(x)‖‖Y‖.

Some kernels are themselves known to less than eps: exp(−a) to eps·a, and a network's kernel at nearly parallel
points to eps over their angle (ReLU) or over the determinant of their covariance (erf).  With these factors, which
the refit calls strain, as a diagonal matrix D, rounding of k(x) moves f by eps·‖Dk(x)‖‖α‖, which adds
‖Dk(x)‖‖Y‖/‖A‖ to the scale, and ‖D∇k(x)‖‖Y‖/‖A‖ to the gradient's.  It matters only far from all data at a
condition number near 1.

The law collapses the copies into one observation and never sees them; it is held to the same bound.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

import kpoison as kp

__all__ = ["FAMILIES", "Configuration", "Family", "Refit", "Scaled", "draw", "effect", "refit"]

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


class Pairs(NamedTuple):
    """A kernel between points x and centres c, in NumPy.

    Attributes:
        value: k(x, c), shape (q, n).
        gradient: ∇_x k(x, c), shape (q, n, d).
        strain: their relative rounding in units of eps, where it can be large; shape (q, n).
    """

    value: Floats
    gradient: Floats
    strain: Floats


NumpyKernel = Callable[..., Pairs]


def _stationary(profile: Callable[..., tuple[Floats, Floats]]) -> NumpyKernel:
    """A kernel from r, ℓ, … ↦ (φ(r), φ'(r)/r)."""

    def evaluate(x: Floats, c: Floats, length_scale: float, *rest: float) -> Pairs:
        difference = x[:, None] - c[None]
        value, slope = profile(np.linalg.norm(difference, axis=-1), length_scale, *rest)
        return Pairs(value, slope[..., None] * difference, -np.log(np.maximum(value, np.finfo(float).tiny)))

    return evaluate


def _rbf(r, ell):
    value = np.exp(-0.5 * (r / ell) ** 2)
    return value, -value / ell**2


def _laplace(r, ell):
    value = np.exp(-r / ell)
    return value, np.where(r > 0, -value / (ell * np.where(r > 0, r, 1)), 0)


def _matern32(r, ell):
    t = np.sqrt(3) * r / ell
    return (1 + t) * np.exp(-t), -3 / ell**2 * np.exp(-t)


def _matern52(r, ell):
    t = np.sqrt(5) * r / ell
    return (1 + t + t**2 / 3) * np.exp(-t), -5 / (3 * ell**2) * (1 + t) * np.exp(-t)


def _rational_quadratic(r, ell, alpha):
    base = 1 + (r / ell) ** 2 / (2 * alpha)
    return base**-alpha, -(base ** (-alpha - 1)) / ell**2


def _linear(x, c):
    return Pairs(x @ c.T, np.broadcast_to(c[None], (len(x), *c.shape)), np.zeros((len(x), len(c))))


def _cubic(x, c, offset):
    base = x @ c.T + offset
    return Pairs(base**3, 3 * (base**2)[..., None] * c[None], np.zeros_like(base))


def _relu_ntk(x, c, weight_std, bias_std):
    """One hidden layer; angles from the part of c − x across x, which nothing cancels in."""
    root = weight_std / np.sqrt(x.shape[1])

    def lift(points):
        return np.column_stack([root * points, np.full(len(points), bias_std)])

    difference = root * (c[None] - x[:, None])
    difference = np.concatenate([difference, np.zeros((*difference.shape[:2], 1))], axis=-1)
    a, b = lift(x)[:, None], lift(c)[None]
    norm_a, norm_b = np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)
    axis = a / norm_a[..., None]
    across = difference - np.sum(axis * difference, axis=-1, keepdims=True) * axis
    distance = np.linalg.norm(across, axis=-1)
    apart = np.where(distance > 0, distance, 1)
    tangent = across / apart[..., None]
    product = np.sum(a * b, axis=-1)
    theta = np.arctan2(distance, np.sum(axis * b, axis=-1))
    step = (1 - theta / np.pi)[..., None]
    arc = norm_a * norm_b * np.sin(theta) / np.pi + (1 - theta / np.pi) * product
    value = 0.5 * weight_std**2 * (arc + (1 - theta / np.pi) * product) + bias_std**2
    slope = (norm_b * np.sin(theta) / np.pi)[..., None] * axis + 2 * step * b
    slope = slope + (product / (np.pi * norm_a))[..., None] * tangent
    strain = np.where(distance > 0, np.linalg.norm(difference, axis=-1) / apart, 0)
    return Pairs(value, 0.5 * weight_std**2 * root * slope[..., :-1], strain)


def _erf_ntk(x, c, weight_std, bias_std):
    """One hidden layer."""
    variance = weight_std**2 / x.shape[1]
    cross = variance * x @ c.T + bias_std**2
    a = 1 + 2 * (variance * np.sum(x * x, axis=1)[:, None] + bias_std**2)
    b = 1 + 2 * (variance * np.sum(c * c, axis=1)[None] + bias_std**2)
    determinant = a * b - 4 * cross**2
    dual = 2 / np.pi * np.arcsin(2 * cross / np.sqrt(a * b))
    derivative = 4 / np.pi / np.sqrt(determinant)
    value = weight_std**2 * (dual + derivative * cross) + bias_std**2
    in_cross = 2 * derivative + 4 * cross**2 * derivative / determinant
    in_variance = -derivative * cross * (1 / a + b / determinant)
    gradient = in_cross[..., None] * c[None] + 2 * in_variance[..., None] * x[:, None]
    return Pairs(value, weight_std**2 * variance * gradient, a * b / determinant)


class Family(NamedTuple):
    """A kernel with free parameters, in kpoison and in NumPy.

    Attributes:
        kernel: parameters → kpoison's kernel.
        evaluate: (x, c, *parameters) → `Pairs`.
        parameters: ranges of the parameters, drawn log-uniformly; a length scale is in units of √d.
        length_scale: whether the first parameter is one.
    """

    kernel: Callable[..., kp.kernels.Kernel]
    evaluate: NumpyKernel
    parameters: Sequence[tuple[float, float]]
    length_scale: bool = False


def _ntk(activation: str) -> Callable[..., kp.kernels.Kernel]:
    return lambda weight_std, bias_std: kp.kernels.NTK(1, activation, weight_std, bias_std)


_SCALE, _STDS = (0.3, 3.0), ((0.5, 2.0), (1e-3, 1.0))
FAMILIES: dict[str, Family] = {
    "rbf": Family(kp.kernels.RBF, _stationary(_rbf), [_SCALE], True),
    "laplace": Family(kp.kernels.Laplace, _stationary(_laplace), [_SCALE], True),
    "matern32": Family(kp.kernels.Matern32, _stationary(_matern32), [_SCALE], True),
    "matern52": Family(kp.kernels.Matern52, _stationary(_matern52), [_SCALE], True),
    "rational_quadratic": Family(
        kp.kernels.RationalQuadratic, _stationary(_rational_quadratic), [_SCALE, (0.3, 3.0)], True
    ),
    "linear": Family(kp.kernels.Linear, _linear, []),
    "cubic": Family(lambda offset: kp.kernels.Polynomial(3, offset), _cubic, [(0.1, 2.0)]),
    "ntk_relu": Family(_ntk("relu"), _relu_ntk, _STDS),
    "ntk_erf": Family(_ntk("erf"), _erf_ntk, _STDS),
}


# The refit


class Scaled(NamedTuple):
    """What a refit found, and the size that its rounding is relative to; of a gradient, one for all components."""

    value: Floats
    scale: Floats

    def error(self, found: Floats) -> Floats:
        """|found − value|/scale; NaN where `found` is not a number."""
        error = np.abs(found - self.value)
        if error.ndim > self.scale.ndim:
            error = np.linalg.norm(error, axis=-1)
        return np.where(error == 0, 0, error / np.where(self.scale > 0, self.scale, np.finfo(float).tiny))


@dataclasses.dataclass(frozen=True)
class Refit:
    """The poison's effect by brute force.

    Attributes:
        condition: cond(A) of the poisoned training set.
        gain: shape (p, p).
        efficacy: shape (q, C).
        gradient: of the efficacy, shape (q, C, d); its scale has shape (q, C).
    """

    condition: float
    gain: Scaled
    efficacy: Scaled
    gradient: Scaled

    def ratio(self, quantity: str, found: Floats, eps: float = EPS) -> float:
        """Largest error of a quantity in units of 10·eps·cond(A)·scale."""
        return float(np.max(getattr(self, quantity).error(found))) / (10 * eps * self.condition)


def effect(A: Floats, targets: Floats, columns: Floats, strain: Floats, poison: Floats, clean: int) -> Refit:
    """The effect of observations after the first `clean` ones, from the system A of all of them.

    Args:
        A: shape (N, N), clean observations first.
        targets: shape (N, C).
        columns: k(x, ·) and its d derivatives, shape (q, 1 + d, N).
        strain: see `Pairs`, shape (q, N).
        poison: which observation carries which poison's label, shape (N, p).
        clean: number of clean observations.
    """
    spectrum = np.linalg.eigvalsh(A)
    strained = columns * strain[:, None]

    def predict(m: int) -> tuple[Floats, Floats]:
        """Predictions of the first m observations, shape (q, 1 + d, C), and their scales, shape (q, 2, C)."""
        system, y = A[:m, :m], targets[:m]
        alpha = np.linalg.solve(system, y)
        weights = np.linalg.solve(system, columns[..., :m].reshape(-1, m).T).T.reshape(*columns.shape[:2], m)

        def sizes(rows: NDArray[Any]) -> NDArray[Any]:
            return np.stack([np.linalg.norm(rows[:, 0], axis=-1), np.linalg.norm(rows[:, 1:], axis=(1, 2))], axis=1)

        scale = sizes(weights) + sizes(strained[..., :m]) / spectrum[-1]
        return columns[..., :m] @ alpha, scale[..., None] * np.linalg.norm(y, axis=0)

    (poisoned, size), (unpoisoned, clean_size) = predict(len(A)), predict(clean)
    change, scale = poisoned - unpoisoned, np.maximum(size, clean_size)
    gain = poison.T @ np.linalg.solve(A, poison)
    root = np.sqrt(np.diag(gain))
    return Refit(
        condition=float(spectrum[-1] / spectrum[0]),
        gain=Scaled(gain, np.outer(root, root)),
        efficacy=Scaled(change[:, 0], scale[:, 0]),
        gradient=Scaled(change[:, 1:].transpose(0, 2, 1), scale[:, 1]),
    )


def refit(evaluate: NumpyKernel, X, Y, Z, labels, counts, ridge, x) -> Refit:
    """Train with and without the poison's copies, both at ρ = (n_c + Σm)λ.

    Args:
        evaluate: (x, c) → `Pairs`.
        X: clean inputs, shape (n, d).
        Y: clean targets, shape (n, C).
        Z: poison locations, shape (p, d).
        labels: poison labels, shape (p, C).
        counts: whole numbers, shape (p,).
        ridge: λ.
        x: probes, shape (q, d).
    """
    owner = np.repeat(np.arange(len(Z)), counts)
    points = np.concatenate([X, Z[owner]])
    A = evaluate(points, points).value + len(points) * ridge * np.eye(len(points))
    pairs = evaluate(x, points)
    return effect(
        A,
        targets=np.concatenate([Y, labels[owner]]),
        columns=np.concatenate([pairs.value[:, None], pairs.gradient.transpose(0, 2, 1)], axis=1),
        strain=pairs.strain,
        poison=np.concatenate([np.zeros((len(X), len(Z))), np.eye(len(Z))[owner]]),
        clean=len(X),
    )


# Random configurations


class Shape(NamedTuple):
    """n_c, d, number of poison locations (0: clones at one) and of outputs."""

    clean: int
    dimension: int
    locations: int
    outputs: int


QUANTITIES = ("gain", "efficacy", "gradient")
SHAPES = (Shape(6, 2, 0, 1), Shape(24, 5, 3, 2))
PROBES = 3


class Configuration(NamedTuple):
    """Arguments of a law; stacked along a first axis they are a batch."""

    parameters: Any
    X: Any
    Y: Any
    Z: Any
    labels: Any
    counts: Any
    ridge: Any
    x: Any


def _log_uniform(rng: np.random.Generator, low: float, high: float, size=None):
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def draw(rng: np.random.Generator, family: Family, shape: Shape) -> Configuration:
    """Clean data with duplicates, poison in or out of them, ridge over nine decades, r/ℓ from 1e-6 to 10."""
    n, d = shape.clean, shape.dimension
    parameters = np.array([_log_uniform(rng, *bounds) for bounds in family.parameters])
    if family.length_scale:
        parameters[0] *= np.sqrt(d)
    X = rng.normal(size=(n, d))
    if rng.random() < 0.3:  # a duplicate, or nearly one
        X[1] = X[0] + rng.choice([0.0, _log_uniform(rng, 1e-9, 1e-1)]) * rng.normal(size=d)
    number = max(shape.locations, 1)
    centre = rng.normal(size=d) if rng.random() < 0.7 else X[0] + _log_uniform(rng, 1e-6, 1) * rng.normal(size=d)
    Z = centre + _log_uniform(rng, 1e-6, 1) * rng.normal(size=(number, d))
    ell = parameters[0] if family.length_scale else np.linalg.norm(Z[0])
    u = rng.normal(size=(PROBES, d))
    r = ell * _log_uniform(rng, 1e-6, 10, (PROBES, 1))
    return Configuration(
        parameters=parameters,
        X=X,
        Y=rng.normal(size=(n, shape.outputs)),
        Z=Z,
        labels=rng.normal(size=(number, shape.outputs)),
        counts=np.floor(_log_uniform(rng, 1, 40, number)),
        ridge=_log_uniform(rng, 1e-8, 10),
        x=Z[0] + r * u / np.linalg.norm(u, axis=1, keepdims=True),
    )


def laws(family: Family, clones: bool) -> Callable[[Configuration], tuple[Any, Any, Any]]:
    """The exact laws for a batch of configurations, compiled."""

    def one(c: Configuration):
        clean = kp.fit(family.kernel(*c.parameters), c.X, c.Y)
        poison = kp.Poison(c.Z[0], c.labels[0], c.counts[0]) if clones else kp.Poison(c.Z, c.labels, c.counts)
        gain = jnp.reshape(kp.gain(clean, poison, c.ridge), (len(c.Z), len(c.Z)))
        return gain, kp.efficacy(clean, poison, c.x, c.ridge), kp.efficacy_gradient(clean, poison, c.x, c.ridge)

    return jax.jit(jax.vmap(one))


def measure(family: Family, shape: Shape, number: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Ratios (number, 3) and condition numbers (number,) of random configurations."""
    drawn = [draw(rng, family, shape) for _ in range(number)]
    batch = Configuration(*(np.stack(field) for field in zip(*drawn, strict=True)))
    found = [np.asarray(a) for a in laws(family, shape.locations == 0)(batch)]
    ratios, conditions = [], []
    for i, c in enumerate(drawn):
        truth = refit(
            lambda a, b, parameters=c.parameters: family.evaluate(a, b, *parameters),
            *(c.X, c.Y, c.Z, c.labels, c.counts.astype(int), c.ridge, c.x),
        )
        ratios.append([truth.ratio(name, law[i]) for name, law in zip(QUANTITIES, found, strict=True)])
        conditions.append(truth.condition)
    return np.array(ratios), np.array(conditions)


def main(configurations: int = 10_000, seed: int = 0) -> int:
    """Compare exact laws with brute-force refits.

    Args:
        configurations: how many to try, spread evenly over kernels and shapes.
        seed: of the random configurations.
    """
    jax.config.update("jax_enable_x64", True)
    groups = [(name, shape) for name in FAMILIES for shape in SHAPES]
    sizes = [configurations // len(groups) + (i < configurations % len(groups)) for i in range(len(groups))]
    seeds = np.random.SeedSequence(seed).spawn(len(groups))
    ratios, conditions, names = [], [], []
    for (name, shape), size, child in zip(tqdm(groups, disable=None), sizes, seeds, strict=True):
        if size:
            ratio, condition = measure(FAMILIES[name], shape, size, np.random.default_rng(child))
            ratios.append(np.where(np.isfinite(ratio), ratio, np.inf))
            conditions.append(condition)
            names += [name] * size
    ratios, conditions, names = np.concatenate(ratios), np.concatenate(conditions), np.array(names)
    print(
        f"{len(ratios)} configurations, seed {seed}, float64, {jax.devices()[0].device_kind}, jax {jax.__version__}, "
        f"kpoison {kp.__version__}; cond(A) from {conditions.min():.1e} to {conditions.max():.1e}"
    )
    print("Worst error in units of 10·eps·cond(A)·scale (must be at most 1):")
    print(f"{'kernel':20s} {'tried':>6s}" + "".join(f"{quantity:>10s}" for quantity in QUANTITIES) + "  above 1")
    for name in [*dict.fromkeys(names), "all"]:
        chosen = ratios[(names == name) | (name == "all")]
        worst = "".join(f"{number:10.2g}" for number in chosen.max(axis=0))
        print(f"{name:20s} {len(chosen):6d}{worst} {int(np.sum(np.any(chosen > 1, axis=1))):8d}")
    return int(np.any(ratios > 1))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
