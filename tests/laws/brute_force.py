"""Problems with known answers: refits in NumPy, with copies (whole counts) or with weights (any counts)."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import kpoison as kp
from benchmarks.exactness import EPS, FAMILIES, Pairs, Refit, effect, refit

PARAMETERS = {
    "rbf": (1.5,),
    "laplace": (1.5,),
    "matern32": (1.5,),
    "matern52": (1.5,),
    "rational_quadratic": (1.5, 0.7),
    "linear": (),
    "cubic": (0.5,),
    "ntk_relu": (1.3, 0.2),
    "ntk_erf": (1.3, 0.2),
}
KERNELS = tuple(PARAMETERS)
WHOLE, REAL = (3.0, 1.0, 8.0), (0.37, 12.5, 1e-3)


class Problem(NamedTuple):
    """Clean data, poison and probes; everything with an axis for locations and outputs."""

    name: str
    parameters: tuple
    X: np.ndarray
    Y: np.ndarray
    Z: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    ridge: float
    x: np.ndarray
    clones: bool

    @property
    def kernel(self):
        return FAMILIES[self.name].kernel(*self.parameters)

    def evaluate(self, x, c) -> Pairs:
        return FAMILIES[self.name].evaluate(x, c, *self.parameters)

    @property
    def clean(self):
        return kp.fit(self.kernel, self.X, self.Y[:, 0] if self.clones else self.Y)

    @property
    def poison(self):
        if self.clones:
            return kp.Poison(self.Z[0], self.labels[0, 0], self.counts[0])
        return kp.Poison(self.Z, self.labels, self.counts)

    @property
    def rho(self):
        return (len(self.X) + self.counts.sum()) * self.ridge

    def with_axes(self, quantity, values):
        """A law's result with the axes that a refit has."""
        values = np.asarray(values)
        if quantity == "gain":
            return values.reshape(len(self.Z), len(self.Z))
        return values[:, None] if self.clones else values

    def answer(self) -> Refit:
        """The refit with copies where counts are whole, with weights otherwise."""
        whole = np.all(self.counts == np.floor(self.counts))
        return _with_copies(self) if whole else with_weights(self)

    def clean_at_rho(self):
        """NumPy's f_c and k̃ at ρ: functions (q, d) → (q, C) and (q, d), (p, d) → (q, p)."""
        A = self.evaluate(self.X, self.X).value + self.rho * np.eye(len(self.X))

        def mean(x):
            return self.evaluate(x, self.X).value @ np.linalg.solve(A, self.Y)

        def covariance(x, z):
            cross = self.evaluate(x, self.X).value
            return self.evaluate(x, z).value - cross @ np.linalg.solve(A, self.evaluate(self.X, z).value)

        return mean, covariance


def _with_copies(problem: Problem) -> Refit:
    _, _, X, Y, Z, labels, counts, ridge, x, _ = problem
    return refit(problem.evaluate, X, Y, Z, labels, counts.astype(int), ridge, x)


def with_weights(problem: Problem) -> Refit:
    """(K + ρ/W)⁻¹ = W^½ (ρI + W^½ K W^½)⁻¹ W^½ with weights 1 for clean points and m for the poison."""
    _, _, X, Y, Z, labels, counts, _, x, _ = problem
    points = np.concatenate([X, Z])
    root = np.sqrt(np.concatenate([np.ones(len(X)), counts]))
    A = root[:, None] * problem.evaluate(points, points).value * root + problem.rho * np.eye(len(points))
    pairs = problem.evaluate(x, points)
    return effect(
        A,
        targets=root[:, None] * np.concatenate([Y, labels]),
        columns=root * np.concatenate([pairs.value[:, None], pairs.gradient.transpose(0, 2, 1)], axis=1),
        strain=pairs.strain,
        poison=root[:, None] * np.concatenate([np.zeros((len(X), len(Z))), np.eye(len(Z))]),
        clean=len(X),
    )


@functools.cache
def make(name: str, *, clones: bool, counts=WHOLE, ridge=1e-3) -> Problem:
    """Clones: 9 points in 3 dimensions, one output.  Cluster: 3 locations, 2 outputs.  Two clean points coincide."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(9, 3))
    X[1] = X[0]
    outputs, locations = (1, 1) if clones else (2, 3)
    Z = rng.normal(size=3) + 0.3 * rng.normal(size=(locations, 3))
    u = rng.normal(size=(5, 3))
    r = np.array([[1e-9], [1e-4], [0.1], [1.0], [8.0]])
    return Problem(
        name=name,
        parameters=PARAMETERS[name],
        X=X,
        Y=rng.normal(size=(9, outputs)),
        Z=Z,
        labels=rng.normal(size=(locations, outputs)),
        counts=np.array(counts[:locations]),
        ridge=ridge,
        x=Z[0] + r * u / np.linalg.norm(u, axis=1, keepdims=True),
        clones=clones,
    )


def spike_error(found, truth: Refit):
    """|Λ − ‖∇Δf‖²| in units of what the bound on the gradient allows: (g + δ)² − g²."""
    size = np.linalg.norm(truth.gradient.value, axis=-1)
    allowed = 10 * EPS * truth.condition * truth.gradient.scale
    return np.max(np.abs(found - size**2) / (allowed * (2 * size + allowed)))


def isolated(name: str, x, z):
    """k and ∇k at pairs of single points, in NumPy."""
    pairs = FAMILIES[name].evaluate(np.atleast_2d(x), np.atleast_2d(z), *PARAMETERS[name])
    return pairs.value[0, 0], pairs.gradient[0, 0]


def far_away(name="rbf", n=4, d=3):
    """Clean data that a kernel of length scale 1.5 at the origin does not see: exp(−10⁴)."""
    kernel = FAMILIES[name].kernel(*PARAMETERS[name])
    return kp.fit(kernel, jnp.full((n, d), 300.0) + jnp.arange(n)[:, None], jnp.ones(n))
