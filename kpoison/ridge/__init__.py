"""The kernel ridge posterior and its solvers."""

from kpoison.ridge._fit import TrainingSet, checked_targets, fit, fit_observations
from kpoison.ridge.expansion import KernelExpansion, Representers, span_of
from kpoison.ridge.observations import Observations
from kpoison.ridge.posterior import (
    Fitted,
    IllConditionedWarning,
    Posterior,
    PosteriorAtRidge,
    Prior,
    Process,
    StoppedPosterior,
    check_conditioning,
    check_fitted,
    check_plain,
    checked_ridge,
)
from kpoison.ridge.solvers import (
    Cholesky,
    ConjugateGradients,
    Factor,
    Krylov,
    Solver,
    Spectral,
    Tridiagonal,
    choose_solver,
)

__all__ = [
    "Cholesky",
    "ConjugateGradients",
    "Factor",
    "Fitted",
    "IllConditionedWarning",
    "KernelExpansion",
    "Krylov",
    "Observations",
    "Posterior",
    "PosteriorAtRidge",
    "Prior",
    "Process",
    "Representers",
    "Solver",
    "Spectral",
    "StoppedPosterior",
    "Tridiagonal",
    "check_conditioning",
    "check_fitted",
    "check_plain",
    "checked_ridge",
    "choose_solver",
    "TrainingSet",
    "checked_targets",
    "fit",
    "fit_observations",
    "span_of",
]
