"""What a defence of the matrix returns, and what defences share over the attacks on one problem."""

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison.defences import DefendedTraining, augmented_training, penalised_training
from kpoison.matrix.problem import Problem
from kpoison.matrix.refit import test_covariance
from kpoison.ridge import Cholesky

__all__ = ["NAN", "TRAINING_OPTIONS", "Defended", "Outcome"]

NAN = float("nan")

_RANK = 2
_PENALTY = 0.1  # squared length scales
_SHIFTS = ((0, 1), (0, -1))  # rows and columns

TRAINING_OPTIONS = {
    "gradient-penalty": {"principal_components": _RANK, "squared_length_scales": _PENALTY},
    "augmentation": {"shifts": _SHIFTS},
}
"""What was chosen for trainings that defend themselves; it determines the numbers."""


class Outcome(NamedTuple):
    """What a defence makes of one attack; NaN where a number has no meaning.

    Attributes:
        success: fraction of the victims that get what the attacker wants.
        clean_accuracy: fraction of the test images that are predicted right; what is rejected is not.
        true_positive, false_positive, auroc: of the detection, see `kpoison.defences.DetectionRates`.
        predicted_success: success by the law, without a refit.
        predicted_auroc: AUROC by a law.
        predicted_visible: 1 where a law says that the detector sees the attack, 0 where it is blind.
        assumes: what the defence takes for granted.
    """

    success: float
    clean_accuracy: float
    true_positive: float = NAN
    false_positive: float = NAN
    auroc: float = NAN
    predicted_success: float = NAN
    predicted_auroc: float = NAN
    predicted_visible: float = NAN
    assumes: str = ""


@dataclasses.dataclass(frozen=True)
class Defended:
    """What defences share over the attacks on one problem: the trainings that defend themselves, of the clean points.

    Attributes:
        problem: the problem.
    """

    problem: Problem

    @functools.cached_property
    def penalised(self) -> DefendedTraining | None:
        """With a gradient penalty along the leading principal components; None for a kernel without the derivatives.

        A penalty on all D coordinates makes n(1 + D) unknowns.
        """
        problem = self.problem
        if problem.kernel.smoothness < 2:
            return None
        images = np.asarray(problem.X)
        axes = np.linalg.svd(images - images.mean(axis=0), full_matrices=False)[2][:_RANK]
        # Neural kernels have no length scale: that of the images.
        unit = float(getattr(problem.kernel, "length_scale", np.sqrt(np.mean(np.sum(images**2, axis=1)))))
        return penalised_training(
            problem.kernel,
            problem.X,
            problem.targets(problem.labels),
            gradient_penalty=_PENALTY * unit**2,
            metric=axes.T @ axes,
            solver=Cholesky(),
        )

    @functools.cached_property
    def augmented(self) -> DefendedTraining:
        """With copies shifted by a pixel."""
        problem = self.problem
        return augmented_training(
            problem.kernel,
            problem.X,
            problem.targets(problem.labels),
            [functools.partial(_shifted, by=by) for by in _SHIFTS],
            image_shape=problem.image_shape,
            solver=Cholesky(),
        )

    @functools.cached_property
    def penalised_test(self) -> Float[np.ndarray, "q N"]:
        """Covariances of the test images."""
        assert self.penalised is not None
        return test_covariance(self.penalised, self.problem.test)

    @functools.cached_property
    def augmented_test(self) -> Float[np.ndarray, "q N"]:
        """Covariances of the test images."""
        return test_covariance(self.augmented, self.problem.test)


def _shifted(image: Float[Array, "H W C"], by: tuple[int, int]) -> Float[Array, "H W C"]:
    """Moved by so many rows and columns; what comes in is 0."""
    height, width, _ = image.shape
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    return padded[1 - by[0] : 1 - by[0] + height, 1 - by[1] : 1 - by[1] + width]
