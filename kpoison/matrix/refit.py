"""The measurement: predictors fitted by brute force to the poisoned data, or to what a defence leaves of them.

Gram matrices are made once for an attack; dropping points is dropping rows and columns, so that nothing is compiled
for another number of points.
"""

import dataclasses
import functools
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kpoison.defences import DefendedTraining, kernel_features
from kpoison.kernels import Kernel
from kpoison.laws.prediction import Predictor
from kpoison.matrix.attacks import Attack
from kpoison.matrix.problem import Problem
from kpoison.ridge import KernelExpansion, Observations, Representers
from kpoison.ridge.observations import covariance as covariance_of

__all__ = ["AllPoints", "Case", "Predictions", "classes_of_outputs", "defended_predictions", "solve"]


class AllPoints(eqx.Module):
    """A predictor as a function of many points; a value, so that what is compiled for one serves all of its shape."""

    kernel: Kernel
    centres: Float[Array, "n D"]
    weights: Float[Array, "n C"]
    scalar: bool = eqx.field(static=True)

    @eqx.filter_jit
    def __call__(self, x: Float[Array, "q D"]) -> Float[Array, "q *C"]:
        """f at each point."""
        values = self.kernel.gram(x, self.centres) @ self.weights
        return values[:, 0] if self.scalar else values


class Predictions(NamedTuple):
    """Classes predicted at the test images and at the victims."""

    test: Int[np.ndarray, " q"]
    victims: Int[np.ndarray, " v"]


def classes_of_outputs(outputs: Float[np.ndarray, "q C"]) -> Int[np.ndarray, " q"]:
    """The class, from 0, that outputs stand for: by the sign of one, the largest of several."""
    return (outputs[:, 0] > 0).astype(int) if outputs.shape[1] == 1 else np.argmax(outputs, axis=1)


def solve(gram: Float[np.ndarray, "n n"], rho: float, targets: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n C"]:
    """(K + ρI)⁻¹y."""
    import scipy.linalg

    system = gram.copy()
    system[np.diag_indices(len(system))] += rho
    factor = scipy.linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    return scipy.linalg.cho_solve(factor, targets, check_finite=False)


@dataclasses.dataclass(frozen=True)
class Case:
    """One attack on one problem, and the predictor of its data, fitted without defence."""

    problem: Problem
    attack: Attack

    @functools.cached_property
    def labels(self) -> Int[np.ndarray, " n"]:
        """The class, from 0, that each training point is given."""
        return classes_of_outputs(self.targets)

    @functools.cached_property
    def targets(self) -> Float[np.ndarray, "n C"]:
        """y, with an axis for outputs."""
        return np.asarray(self.attack.data.y).reshape(len(self.attack.data.y), -1)

    @functools.cached_property
    def is_poison(self) -> Bool[np.ndarray, " n"]:
        """Which points are the attacker's."""
        return np.asarray(self.attack.data.is_poison)

    @functools.cached_property
    def victims(self) -> Float[Array, "q D"]:
        """The victims, again and again up to as many as test images: programs are compiled for one shape."""
        victims = np.asarray(self.attack.victims)
        return jnp.asarray(victims[np.arange(max(len(victims), len(self.problem.test))) % len(victims)])

    @functools.cached_property
    def inputs(self) -> Float[Array, "both D"]:
        """Test images, and after them these victims."""
        return jnp.concatenate([self.problem.test, self.victims])

    @functools.cached_property
    def gram(self) -> Float[np.ndarray, "n n"]:
        """K of the training set."""
        return np.asarray(self.problem.kernel(self.attack.data.X))

    @functools.cached_property
    def cross(self) -> Float[np.ndarray, "both n"]:
        """k between test images, after them victims, and the training set."""
        number = len(self.problem.test) + len(self.attack.victims)
        return np.asarray(self.problem.kernel(self.inputs, self.attack.data.X))[:number]

    @functools.cached_property
    def features(self) -> Float[np.ndarray, "n n"]:
        """The training set in the kernel's feature space."""
        return np.asarray(kernel_features(self.problem.kernel, self.attack.data.X))

    @functools.cached_property
    def coefficients(self) -> Float[np.ndarray, "n C"]:
        """Dual coefficients of the predictor without defence."""
        return solve(self.gram, self.problem.settings.ridge * len(self.gram), self.targets)

    def on_parts(self, outputs: Float[np.ndarray, "both C"]) -> Predictions:
        """Classes, from outputs at the test images and after them the victims, of which there may be more."""
        number, victims = len(self.problem.test), len(self.attack.victims)
        return Predictions(classes_of_outputs(outputs[:number]), classes_of_outputs(outputs[number : number + victims]))

    def outputs(self, kept: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "both C"]:
        """f at the test images, after them the victims, trained on these points at ρ = n_kept λ; 0 of no points."""
        rows = np.flatnonzero(kept)
        if not len(rows):
            return np.zeros((len(self.cross), self.targets.shape[1]))
        if len(rows) == len(kept):
            return self.cross @ self.coefficients
        rho = self.problem.settings.ridge * len(rows)
        return self.cross[:, rows] @ solve(self.gram[np.ix_(rows, rows)], rho, self.targets[rows])

    def refitted(self, kept: Bool[np.ndarray, " n"]) -> Predictions:
        """What the predictor of these points makes of both."""
        return self.on_parts(self.outputs(kept))

    @functools.cached_property
    def undefended(self) -> Predictions:
        """Without defence."""
        return self.refitted(np.ones(len(self.gram), bool))

    @functools.cached_property
    def expansion(self) -> KernelExpansion:
        """The predictor without defence, with centres of weight 0 where an attack adds no points: of one shape."""
        X, weights = np.asarray(self.attack.data.X), self.coefficients
        missing = len(self.problem.X) + self.problem.settings.budget - len(X)
        X = np.concatenate([X, X[:missing]])
        weights = np.concatenate([weights, np.zeros((missing, weights.shape[1]), weights.dtype)])
        return KernelExpansion(Representers(self.problem.kernel, jnp.asarray(X)), jnp.asarray(weights))

    def at_points(self) -> AllPoints:
        """The predictor without defence, of many points."""
        found = self.expansion
        return AllPoints(found.kernel, found.centres, found.coefficients, self.problem.classes == 2)

    def at_point(self) -> Predictor:
        """The same of one point, for the curvature."""
        return Predictor(self.expansion, self.problem.classes == 2)

    def success(self, victims: Int[np.ndarray, " v"], accepted: Bool[np.ndarray, " v"] | None = None) -> float:
        """The fraction of the victims that get what the attacker wants, and are not rejected."""
        if self.attack.target is None:
            reached = victims != self.attack.victim_labels
        else:
            reached = victims == self.attack.target
        return float(np.mean(reached if accepted is None else reached & accepted))

    def accuracy(self, test: Int[np.ndarray, " q"], accepted: Bool[np.ndarray, " q"] | None = None) -> float:
        """The fraction of the test images that are predicted right, and are not rejected."""
        right = test == self.problem.test_labels
        return float(np.mean(right if accepted is None else right & accepted))


_covariance = eqx.filter_jit(covariance_of)


def _between(kernel: Kernel, first: Observations, second: Observations) -> Float[np.ndarray, "N1 N2"]:
    if not (first.slopes or second.slopes):
        return np.asarray(kernel(first.points, second.points))
    return np.asarray(_covariance(kernel, first, second))


def test_covariance(defended: DefendedTraining, x: Float[Array, "q D"]) -> Float[np.ndarray, "q N"]:
    """Between test images and what a defended training observes of the clean points."""
    return _between(defended.posterior.kernel, defended.posterior.observations, Observations(x)).T


def defended_predictions(case: Case, defended: DefendedTraining, to_test: Float[np.ndarray, "q N"]) -> Predictions:
    """What a defended training makes of the attacked data, from one solve with all that it observes.

    Args:
        case: the attack.
        defended: the same training of the clean points, of which the covariance matrix is taken.
        to_test: `test_covariance` of these.
    """
    clean, data = defended.posterior, case.attack.data
    kernel, ridge = clean.kernel, case.problem.settings.ridge
    gram, outputs = np.asarray(clean.factor.matrix()), case.targets.shape[1]
    to_victims = test_covariance(defended, case.victims)
    number = len(case.problem.X)
    X, y = defended.copies(data.X[:number], data.y[:number])
    targets, count = np.asarray(clean.observations.at(X).with_flat_slopes(y.reshape(-1, outputs))), len(X)
    cross = np.concatenate([to_test, to_victims])
    if len(data.X) > number:
        Z, z = defended.copies(data.X[number:], data.y[number:])
        added = clean.observations.at(Z)
        between, own = _between(kernel, clean.observations, added), _between(kernel, added, added)
        gram = np.block([[gram, between], [between.T, 0.5 * (own + own.T)]])
        targets = np.concatenate([targets, np.asarray(added.with_flat_slopes(z.reshape(-1, outputs)))])
        cross = np.concatenate([cross, _between(kernel, added, Observations(case.inputs)).T], axis=1)
        count += len(Z)
    return case.on_parts(cross @ solve(gram, ridge * count, targets))
