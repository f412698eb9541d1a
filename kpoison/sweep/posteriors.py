"""The clean posterior of every cell of a sweep: fitted once for each kernel and penalty, compressed for each ζ."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array

from kpoison._typing import Law
from kpoison.ridge import (
    Fitted,
    Observations,
    Posterior,
    StoppedPosterior,
    check_conditioning,
    fit_observations,
)
from kpoison.ridge.metric import slope_operator
from kpoison.ridge.projection import RidgeStatus
from kpoison.sweep.axes import Grid, TrainingCell
from kpoison.sweep.quantities import Needs, Quantity

__all__ = ["Posteriors"]

_LARGEST_RANK = 0.25  # of n: a larger space would not save much


class Posteriors:
    """Posteriors by cell; call it with the indices of a trained predictor and a location.

    Those of the last cell are kept, and the last factorisation.
    """

    def __init__(self, clean: Fitted, grid: Grid, quantities: tuple[Quantity, ...], law: Law):
        self._clean, self._grid, self._law = clean, grid, law
        self._wanted = {quantity.needs for quantity in quantities}
        self._fitted: tuple[int, Posterior] | None = None
        self._last: tuple[tuple[int, int], dict[Needs, Fitted]] | None = None
        self.status: dict[Needs, RidgeStatus] = {}
        """Of the searches behind the last posteriors, by the same names; empty where they are factorised."""
        first = grid.training.cells[0]
        if first.kernel is clean.kernel and (
            first.penalty is None or (first.penalty == 0 and not clean.observations.slopes)
        ):
            self._keep(0, clean.posterior)

    def __call__(self, trained: int, location: int) -> dict[Needs, Fitted]:
        """The posterior by what is needed of it, see `Needs`."""
        if self._last is not None and self._last[0] == (trained, location):
            return self._last[1]
        clean = self._trained(trained)
        posteriors: dict[Needs, Fitted] = dict.fromkeys(Needs, clean)
        self.status = {}
        if self._law == "exact" and clean.ended and not clean.observations.slopes:
            zeta = jnp.asarray(self._grid.places.locations[location], clean.X.dtype)
            cross = clean.posterior.cross(Observations(zeta[None]))
            low, high = self._rho_range()
            if Needs.TARGETS in self._wanted:
                both = jnp.concatenate([cross, clean.posterior.observed_targets], axis=1)
                n_c, ridges = float(clean.observations.total), self._grid.ridge.values
                # Thresholds look at every multiplicity that `m_success` does.
                wide = (n_c * ridges[0] * 0.999, max(high, 1.001e6 * n_c * ridges[-1]))
                posteriors[Needs.TARGETS] = self._restricted(Needs.TARGETS, clean.posterior, both, wide)
            if Needs.POISON in self._wanted:
                posteriors[Needs.POISON] = self._restricted(Needs.POISON, clean.posterior, cross, (low, high))
        self._last = ((trained, location), posteriors)
        return posteriors

    def _restricted(self, needs: Needs, clean: Posterior, b: Array, rho: tuple[float, float]) -> Posterior:
        """The posterior for these right-hand sides; ridges that have not converged are marked, and no error."""
        factor = clean.factor.restricted(b, rho, _LARGEST_RANK)
        if clean.factor.abilities.searched and factor.search_status is not None:
            self.status[needs] = factor.search_status
        return dataclasses.replace(clean, factor=factor.unwatched())

    def _trained(self, index: int) -> Fitted:
        """The posterior of a kernel, a penalty and a time; one factorisation serves every time."""
        clean, training = self._clean, self._grid.training
        cell = training.cells[index]
        first = next(i for i, other in enumerate(training.cells) if _same_fit(other, cell))
        if self._fitted is None or self._fitted[0] != first:
            bent = clean.observations.slope_operator
            if cell.penalty is not None:
                bent = slope_operator(
                    cell.penalty, self._grid.training.metric, math.prod(clean.X.shape[1:]), clean.X.dtype
                )
            observed = dataclasses.replace(clean.observations, slope_operator=bent)
            self._keep(first, fit_observations(cell.kernel, observed, clean.y, clean.factor.solver))
        assert self._fitted is not None
        fitted = self._fitted[1]
        if cell.time is None:
            return clean.of(fitted)
        return fitted if cell.time == math.inf else StoppedPosterior(fitted, cell.time)

    def _keep(self, first: int, posterior: Posterior) -> None:
        """Keep a factorisation; refuse ridges too small for its dtype before anything is computed from it."""
        times = (cell.time for cell in self._grid.training.cells)
        to_the_end = any(t == math.inf or (t is None and self._clean.ended) for t in times)
        if self._law == "exact" and to_the_end:
            check_conditioning(posterior, jnp.asarray(self._rho_range()[0], posterior.X.dtype))
        self._fitted = (first, posterior)

    def _rho_range(self) -> tuple[float, float]:
        """Smallest and largest ρ = (n_c + m)λ of the grid."""
        counts, ridges = self._grid.count.values, self._grid.ridge.values
        n_c = float(self._clean.observations.total)
        # A law reads m and λ in the dtype of the data: a margin for their rounding.
        return float((n_c + counts[0]) * ridges[0]) * 0.999, float((n_c + counts[-1]) * ridges[-1]) * 1.001


def _same_fit(first: TrainingCell, second: TrainingCell) -> bool:
    return first.kernel is second.kernel and first.penalty == second.penalty
