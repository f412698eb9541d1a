"""The factor of what is observed, with its weights and its constant: the one way from a solver to a posterior."""

from kpoison.kernels.base import Kernel
from kpoison.ridge.observations import Observations
from kpoison.ridge.solvers.bordered import BorderedFactor
from kpoison.ridge.solvers.contract import Factor, Solver
from kpoison.ridge.solvers.weighted import WeightedFactor

__all__ = ["prepared"]


def prepared(solver: Solver, kernel: Kernel, observations: Observations) -> Factor:
    """The solver's factor, of weighted observations where they are, bordered where there is a constant.

    Raises:
        ValueError: as `Solver.prepare`.
    """
    if observations.weighted:
        weights = observations.repeat(observations.multiplicities)
        factor = WeightedFactor(*solver.prepare_weighted(kernel, observations), weights)
    else:
        factor = solver.prepare(kernel, observations)
    return BorderedFactor(factor, observations.border) if observations.constant else factor
