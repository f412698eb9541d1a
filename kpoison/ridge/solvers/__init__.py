"""Solvers of K + ρI, and the factors that they make; a new one is a file here and a line below."""

from kpoison.ridge.solvers.choice import choose_solver
from kpoison.ridge.solvers.cholesky import Cholesky
from kpoison.ridge.solvers.conjugate_gradients import ConjugateGradients
from kpoison.ridge.solvers.contract import Factor, Solver
from kpoison.ridge.solvers.krylov import Krylov
from kpoison.ridge.solvers.spectral import Spectral
from kpoison.ridge.solvers.tridiagonal import Tridiagonal

__all__ = [
    "Cholesky",
    "ConjugateGradients",
    "Factor",
    "Krylov",
    "Solver",
    "Spectral",
    "Tridiagonal",
    "choose_solver",
]
