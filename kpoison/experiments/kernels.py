"""The same attack on the infinite-width kernel of an architecture: ridge regression on the same poisoned images."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array

import kpoison as kp
from kpoison._validation import count_of
from kpoison.experiments.measuring import leading, resampled_largest
from kpoison.experiments.problem import Problem
from kpoison.laws import Predictor
from kpoison.ridge import KernelExpansion, Representers

__all__ = ["KernelAttack", "KernelSpectrum", "attack_kernel"]

_RIDGE = 1e-3
_CENTRES, _IMAGES = 1000, 300  # training images, of kernels of points and of images
_AT_ONCE = 20  # probes
_TESTS = 200  # test images of kernels of images


@dataclasses.dataclass(frozen=True)
class KernelSpectrum:
    """Of JᵀJ over the probes, at F fractions of poisoned images.

    Attributes:
        eigenvalue, alignment: the largest one, and |⟨v₁, u⟩|; shape (F,).
        samples: the largest eigenvalue over resampled clean probes of the clean predictor, (repeats,).
    """

    eigenvalue: np.ndarray
    alignment: np.ndarray
    samples: np.ndarray


@dataclasses.dataclass(frozen=True)
class KernelAttack:
    """At F fractions of poisoned images.

    Attributes:
        success, accuracy: shape (F,).
        spectrum: None for kernels of images, whose gradients are dear.
        images: how many were trained on.
    """

    success: np.ndarray
    accuracy: np.ndarray
    spectrum: KernelSpectrum | None
    images: int


def attack_kernel(
    kernel: kp.kernels.Kernel, problem: Problem, fractions: tuple[float, ...], probes: int, probe_fraction: float
) -> KernelAttack:
    """Ridge regression of centred one-hot labels, clean and at each fraction, on the first images of a training set.

    Every fraction poisons the same share of the images taken, rounded.  Ridge λ = 10⁻³ of the mean loss, in units of
    the kernel's mean diagonal.
    """
    flat = kernel.point_ndim == 1
    number = min(len(problem.images), _CENTRES if flat else _IMAGES)
    tests = len(problem.test_images) if flat else min(_TESTS, len(problem.test_images))

    def points(images: np.ndarray) -> Array:
        converted = jnp.asarray(images, float)
        return converted.reshape(len(images), -1) if flat else converted

    order = problem.order[problem.order < number]
    # At least one image for each fraction; the clean one is first.
    counts = [0, *(max(1, count_of(fraction, number, round)) for fraction in fractions)]
    if max(counts) > len(order):
        raise ValueError(f"fractions must leave the images of the target class, at most {len(order) / number:.2f}")
    most = order[: max(counts)]
    # Clean images, then those with the trigger that are poisoned at the largest fraction: each set is a part of them.
    centres = points(np.concatenate([problem.images[:number], problem.triggered[most]]))
    gram = np.asarray(kernel(centres))
    ridge = _RIDGE * float(np.mean(np.diagonal(gram)[:number]))
    judged = points(np.concatenate([problem.test_images[:tests], problem.test_triggered[:tests]]))
    cross = np.asarray(kernel(judged, centres))
    labels, targets = problem.test_labels[:tests], np.eye(problem.classes)[problem.labels[:number]]
    images, chosen = problem.probes(min(probes, tests), probe_fraction)
    mixed = images.copy()
    mixed[chosen] = problem.test_triggered[chosen]
    success, accuracy, pairs, samples = [], [], [], np.zeros(0)
    for count in counts:
        places, y = np.arange(number), targets.copy()
        places[most[:count]] = number + np.arange(count)
        y[most[:count]] = np.eye(problem.classes)[problem.target]
        system = gram[np.ix_(places, places)] + number * ridge * np.eye(number)
        alpha = scipy.linalg.solve(system, y - 1 / problem.classes, assume_a="pos")
        scores = cross[:, places] @ alpha
        if count > 0:
            accuracy.append(float(kp.clean_accuracy(scores[:tests], labels)))
            success.append(float(kp.attack_success_rate(scores[tests:], labels, problem.target)))
        if flat:
            f = Predictor(KernelExpansion(Representers(kernel, centres[places]), jnp.asarray(alpha)), False)
            judged_at = points(mixed if count > 0 else images)
            # Few at once: a reverse derivative of each output may hold every centre.
            batches = [judged_at[i : i + _AT_ONCE] for i in range(0, len(judged_at), _AT_ONCE)]
            rows = np.concatenate([np.asarray(kp.curvature.input_gradients(f, batch)) for batch in batches])
            if count == 0:
                samples = resampled_largest(rows, 100, seed=0)
            else:
                pairs.append(leading(rows))
    spectrum = None
    if flat:
        alignment = np.array([abs(float(vector @ problem.direction)) for _, vector in pairs])
        spectrum = KernelSpectrum(np.array([value for value, _ in pairs]), alignment, samples)
    return KernelAttack(np.array(success), np.array(accuracy), spectrum, number)
