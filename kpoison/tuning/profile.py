"""What is searched: an objective at the ridge that is best for a kernel, over the logarithms of its parameters.

    J(θ) = min_λ objective(θ, λ),    ∇J(θ) = ∂_θ objective(θ, λ*(θ))

One eigendecomposition of K_θ gives the objective at every λ, so that the ridge is no variable of the search: the long
valleys in which a kernel's scale and the ridge stand in for each other are gone.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kpoison._failures import collect
from kpoison._validation import is_concrete
from kpoison.kernels.base import Kernel
from kpoison.ridge import Observations, Posterior
from kpoison.tuning.every_ridge import is_definite, posterior_at_every_ridge, with_inverse
from kpoison.tuning.objectives import OBJECTIVES, HeldOut

__all__ = ["FARTHEST", "WALL", "BestRidge", "Profile"]

FARTHEST = 12.0
"""How far a logarithm may go from where it was: a factor of 160,000."""
WALL = 1e6
"""In place of an objective that is no number, on the scale of logarithms or nats."""
_RIDGES = 25  # that are looked at, first a factor of e apart, then about the best one
_SCANS = 3


class BestRidge(NamedTuple):
    """Of a kernel.

    Attributes:
        log_ridge: log λ*.
        slope: of the objective in it, 0 but at the end of what is looked at.
        spread: between the largest and the smallest objective that was seen and can be trusted.
        right: whether the objective there can be trusted.
    """

    log_ridge: Float[Array, ""]
    slope: Float[Array, ""]
    spread: Float[Array, ""]
    right: Bool[Array, ""]


class Profile(eqx.Module):
    """An objective as a function of a kernel's parameters alone; its logarithm where it is positive.

    Attributes:
        kernel: as given.
        parameters: the logarithms of what is chosen of it: every positive number, or array of such, shape (k,).
        log_ridge: of the ridge that was given.
        observed, y: what is fitted.
        held_out: other data, or None.
        name: of the objective.
    """

    kernel: Kernel
    parameters: Float[Array, " k"]
    log_ridge: Float[Array, ""]
    observed: Observations
    y: Float[Array, "n *C"]
    held_out: HeldOut | None
    name: str = eqx.field(static=True)
    _chosen: tuple[bool, ...] = eqx.field(static=True)

    def __init__(
        self,
        kernel: Kernel,
        ridge: Float[Array, ""],
        observed: Observations,
        y: Float[Array, "n *C"],
        held_out: HeldOut | None,
        name: str,
    ):
        leaves = jax.tree.leaves(kernel)
        self.kernel, self.observed, self.y, self.held_out, self.name = kernel, observed, y, held_out, name
        self.log_ridge, self._chosen = jnp.log(ridge), tuple(_is_chosen(leaf) for leaf in leaves)
        chosen = [jnp.ravel(leaf) for leaf, one in zip(leaves, self._chosen, strict=True) if one]
        self.parameters = jnp.log(jnp.concatenate(chosen)) if chosen else jnp.zeros(0, self.log_ridge.dtype)

    def of_some(self, places: Int[np.ndarray, " m"]) -> "Profile":
        """With fewer points."""
        return eqx.tree_at(
            lambda profile: (profile.observed, profile.y), self, (self.observed.some(places), self.y[places])
        )

    @property
    def positive(self) -> bool:
        """Whether the objective is."""
        return OBJECTIVES[self.name].positive

    def within_reach(self, place: Float[Array, " k"]) -> Float[Array, " k"]:
        """Logarithms, at most so far from those given."""
        return jnp.clip(place, self.parameters - FARTHEST, self.parameters + FARTHEST)

    def kernel_at(self, place: Float[Array, " k"]) -> Kernel:
        """The kernel with these logarithms."""
        leaves, structure = jax.tree.flatten(self.kernel)
        values, start = jnp.exp(place), 0
        for index, one in enumerate(self._chosen):
            if one:
                end = start + leaves[index].size
                leaves[index] = values[start:end].reshape(leaves[index].shape)
                start = end
        return jax.tree.unflatten(structure, leaves)

    def of(self, place: Float[Array, " k"], *, derivatives: bool = True) -> tuple[Float[Array, ""], BestRidge]:
        """J, with derivatives of the first order or without, and the ridge."""
        kernel = self.kernel_at(self.within_reach(place.astype(self.parameters.dtype)))
        posterior = posterior_at_every_ridge(kernel, self.observed, self.y)
        log_ridge, slope, spread = self._best_ridge(jax.lax.stop_gradient(posterior))
        rho = self.observed.total * jnp.exp(log_ridge)
        value, right = self._judged(with_inverse(posterior, rho) if derivatives else posterior, log_ridge)
        return value, BestRidge(log_ridge, slope, spread, right & is_definite(posterior, rho))

    def _judged(self, posterior: Posterior, log_ridge: Float[Array, ""]) -> tuple[Array, Array]:
        """The objective, and whether it is a number."""
        value, failures = collect(OBJECTIVES[self.name].value, posterior, jnp.exp(log_ridge), self.held_out)
        value = jnp.log(value) if self.positive else value
        failed = [jnp.any(f.failed) for f in failures if not issubclass(f.kind, Warning)]
        return value, jnp.isfinite(value) & ~jnp.any(jnp.array(failed))

    def _best_ridge(self, posterior: Posterior) -> tuple[Array, Array, Array]:
        """log λ*, slope and spread: the best of many, of as many about it, and the vertex of a parabola through three.

        Each scan of _RIDGES reaches from one neighbour of the best one to the other; the last is _RIDGES² times finer.
        """
        given, half = self.log_ridge, _RIDGES // 2

        def at(log_ridge):
            value, right = self._judged(posterior, log_ridge)
            return jnp.where(right & is_definite(posterior, self.observed.total * jnp.exp(log_ridge)), value, WALL)

        def scan(state, _):
            middle, step = state
            ridges = middle + step * jnp.arange(-half, half + 1)
            seen = jax.vmap(at)(ridges)
            # Beyond the end they are for the slope there.
            best = jnp.argmin(jnp.where(jnp.abs(ridges - given) < FARTHEST + step / 2, seen, jnp.inf))
            return (ridges[best], step / half), (ridges, seen, jnp.clip(best, 1, _RIDGES - 2))

        step = jnp.asarray(FARTHEST / half, given.dtype)
        _, (ridges, seen, best) = jax.lax.scan(scan, (given, step), length=_SCANS)
        spread = jnp.max(jnp.where(seen[0] < WALL, seen[0], -jnp.inf)) - jnp.min(seen[0])
        middle, (left, here, right) = ridges[-1, best[-1]], seen[-1, best[-1] + jnp.arange(-1, 2)]
        step, bend = step / half ** (_SCANS - 1), left - 2 * here + right
        vertex = jnp.where(bend > 0, (left - right) / (2 * jnp.where(bend > 0, bend, 1)), 0)
        log_ridge = jnp.clip(middle + step * jnp.clip(vertex, -1, 1), given - FARTHEST, given + FARTHEST)
        slope = ((right - left) / 2 + bend * (log_ridge - middle) / step) / step
        return log_ridge, jnp.where(jnp.abs(log_ridge - given) < FARTHEST, 0, slope), spread


def _is_chosen(leaf: Array) -> bool:
    """Whether a leaf of a kernel has a logarithm."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return False
    if not is_concrete(leaf):
        raise TypeError("kernel must have known parameters: call tune outside of jit, vmap and grad")
    return bool(np.all(np.asarray(leaf) > 0))
