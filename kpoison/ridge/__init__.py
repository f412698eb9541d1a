"""The kernel ridge posterior and its solvers."""

from kpoison.ridge.choice import choose_solver
from kpoison.ridge.expansion import KernelExpansion
from kpoison.ridge.fitting import fit
from kpoison.ridge.iterative import ConjugateGradients
from kpoison.ridge.krylov import Krylov
from kpoison.ridge.posterior import IllConditionedWarning, Posterior, PosteriorAtRidge, Prior
from kpoison.ridge.solvers import Cholesky, Solver, Spectral
from kpoison.ridge.tridiagonal import Tridiagonal

__all__ = [
    "Cholesky",
    "ConjugateGradients",
    "IllConditionedWarning",
    "KernelExpansion",
    "Krylov",
    "Posterior",
    "PosteriorAtRidge",
    "Prior",
    "Solver",
    "Spectral",
    "Tridiagonal",
    "choose_solver",
    "fit",
]
