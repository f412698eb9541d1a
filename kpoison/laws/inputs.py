"""What a law is asked: checked once, typed after, and its effect on the clean predictor."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num, Shaped

from kpoison._typing import Law, Scalar
from kpoison._validation import check_name, check_positive, in_dtype
from kpoison.laws.effect import EffectByGain, PoisonEffect, by_refit, condition, refit, weighted
from kpoison.poison import Poison, check_poison
from kpoison.ridge import (
    Fitted,
    KernelExpansion,
    Posterior,
    PosteriorAtRidge,
    Prior,
    check_conditioning,
    check_fitted,
    checked_ridge,
)

__all__ = ["CleanInputs", "LawInputs", "Probes", "checked_poison", "trained_on"]

T = TypeVar("T")


def _ridge_of(clean: Fitted, ridge: Any, several: bool = False) -> Any:
    """λ in the data's dtype, for it not to be another program; with `several` a list of them is welcome."""
    several = several and np.ndim(ridge) == 1 and np.size(ridge) > 0
    check_positive("ridge", ridge, zero=not clean.ended, scalar=not several)
    return in_dtype(ridge, clean.X.dtype)


def _resolved(clean: Fitted, ridge: Scalar, n: Scalar) -> Float[Array, ""]:
    """λ, with a warning where K + nλI is ill-conditioned."""
    ridge = checked_ridge(clean, ridge)
    check_conditioning(clean, n * clean.resolved(ridge))
    return ridge


def _ended(clean: Fitted, asked: str) -> Posterior:
    """The posterior, refused where it is stopped early."""
    if not clean.ended:
        raise ValueError(
            f"clean must be trained to the end, got one stopped early: {asked} of a ridge predictor, and along the "
            "flow depends on the label; ask for efficacy and spike instead"
        )
    return clean.posterior


class CleanInputs(NamedTuple):
    """A question about the clean predictor.

    Attributes:
        clean: the fitted clean posterior.
        ridge: λ of the mean loss, in the data's dtype; or several, shape (R,), for `at_each_ridge`.
    """

    clean: Fitted
    ridge: Num[ArrayLike, "*R"]

    @classmethod
    def of(cls, clean: Any, ridge: Any, *, several: bool = False) -> "CleanInputs":
        """The arguments of a public function, checked; `several` says whether it takes an array of ridges.

        Raises:
            TypeError, ValueError: naming the argument that does not fit.
        """
        clean = check_fitted("clean", clean)
        return cls(clean, _ridge_of(clean, ridge, several))

    def training_set(self) -> tuple[Float[Array, "n ..."], Float[Array, "n C"], Float[Array, " n"]]:
        """Points, targets and multiplicities."""
        return self.clean.X, self.clean.targets, self.clean.observations.multiplicities

    def linear(self, function: Callable[[PosteriorAtRidge], T]) -> T:
        """`function` of the predictor, linear in it, at the time at which training is stopped, if it is (T2)."""
        clean, n = self.clean, self.clean.observations.total
        return clean.combined(lambda rho: function(clean.posterior.at(rho)), n, _resolved(clean, self.ridge, n))

    def reference(self, asked: str) -> PosteriorAtRidge:
        """The posterior at ρ = nλ.

        Raises:
            ValueError: for one that is stopped early, which is none at any ρ: what was asked of it.
        """
        clean, n = _ended(self.clean, asked), self.clean.observations.total
        return clean.at(jnp.asarray(n * _resolved(clean, self.ridge, n)))

    def terms(self) -> list[KernelExpansion]:
        """Expansions whose sum is the predictor."""
        return [self.clean.posterior.mean_expansion(self.linear(lambda reference: reference.mean_coefficients()))]


class LawInputs(NamedTuple):
    """A question about the poison.

    Attributes:
        clean: the fitted clean posterior.
        poison: of shapes that fit it.
        ridge: λ of the mean loss, in the data's dtype; or several, shape (R,).
        law: "exact" or "isolated".
    """

    clean: Fitted
    poison: Poison
    ridge: Num[ArrayLike, "*R"]
    law: Law = "exact"

    @classmethod
    def of(cls, clean: Any, poison: Any, ridge: Any, law: Any = "exact", *, several: bool = False) -> "LawInputs":
        """The arguments of a public function, checked; `several` says whether it takes an array of ridges.

        Raises:
            TypeError, ValueError: naming the argument that does not fit.
        """
        clean = check_fitted("clean", clean)
        poison = checked_poison(clean, poison)
        law = check_name("law", law, get_args(Law))
        if law == "isolated" and clean.observations.constant:
            raise ValueError("law must be 'exact' with an intercept, got 'isolated': it is held by no data")
        return cls(clean, poison, _ridge_of(clean, ridge, several), law)

    @property
    def at_one_location(self) -> bool:
        """Whether the poison is clones, and no cluster."""
        return self.poison.location.ndim == self.clean.X.ndim - 1

    def training_set(self) -> tuple[Float[Array, "n ..."], Float[Array, "n C"], Float[Array, " n"]]:
        """Points, targets and multiplicities, the poison's first."""
        clean = self.clean
        own = self.poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)
        points, targets, weights = map(
            jnp.concatenate, zip(own, CleanInputs(clean, self.ridge).training_set(), strict=True)
        )
        return points, targets, weights

    def _resolved(self, n: Scalar) -> Float[Array, ""]:
        # Isolated laws solve with no matrix that could be ill-conditioned.
        return _resolved(self.clean, self.ridge, n) if self.law == "exact" else checked_ridge(self.clean, self.ridge)

    def effect(self) -> EffectByGain:
        """The clean posterior conditioned on the poison, trained to the end.

        Raises:
            ValueError: for a posterior that is stopped early: its effect is no conditioning, see `linear`.
        """
        clean = _ended(self.clean, "the gain, and with it spike/efficacy², is that")
        if self.law == "exact" and by_refit(clean):
            raise ValueError(
                "clean must be fitted by a dense solver for the gain: with conjugate gradients and a gradient penalty "
                "each of its columns would be a solve; ask for efficacy and spike instead"
            )
        poison = weighted(clean, self.poison)
        return condition(clean, poison, poison.n * self._resolved(poison.n), self.law)

    def linear(self, function: Callable[[PoisonEffect], T]) -> T:
        """`function` of the poison's effect, linear in it, at the time at which training is stopped, if it is (T2)."""
        clean, law, poison = self.clean, self.law, weighted(self.clean, self.poison)

        def at(rho):
            if law == "exact" and by_refit(clean):
                return function(refit(clean.posterior.at(rho), poison))
            return function(condition(clean, poison, rho, law))

        return clean.combined(at, poison.n, self._resolved(poison.n))

    def change(self) -> KernelExpansion:
        """Δf as a function of x: a kernel expansion over the poison's locations and the clean data."""
        return self._change_expansion(self.linear(lambda effect: effect.change_coefficients()))

    def _change_expansion(self, coefficients: tuple[Array, Array]) -> KernelExpansion:
        """Δf from its `PoisonEffect.change_coefficients`."""
        clean, (of_poison, of_clean) = self.clean, coefficients
        reference = Prior(clean.kernel, clean.outputs) if self.law == "isolated" else clean.posterior
        return reference.change_expansion(weighted(clean, self.poison).locations, of_poison, of_clean)

    def terms(self) -> list[KernelExpansion]:
        """Expansions whose sum is the predictor, the poison's before that of the clean data."""

        def coefficients(effect: PoisonEffect) -> tuple[tuple[Array, Array], Array]:
            return effect.change_coefficients(), effect.mean_coefficients()

        bent, mean = self.linear(coefficients)
        return [self._change_expansion(bent), self.clean.posterior.mean_expansion(mean)]


def checked_poison(clean: Fitted, poison: Any) -> Poison:
    """The value, refused where it is no poison of the clean data."""
    poison = check_poison(poison)
    poison.check_shapes(clean.X.shape[1:], clean.outputs)
    if clean.kernel.point_ndim == 0:  # indices, not all of which are of points
        clean.kernel.points("poison.location", poison.location, like=clean.X, single=True)
    return poison


def trained_on(clean: Any, ridge: Any, poison: Any, *, several: bool = False) -> CleanInputs | LawInputs:
    """The predictor of the clean data, or of clean data and poison where there is one; errors as of either."""
    if poison is None:
        return CleanInputs.of(clean, ridge, several=several)
    return LawInputs.of(clean, poison, ridge, several=several)


class Probes(NamedTuple):
    """Where a law is asked, and with which axes it answers.

    Attributes:
        x: probes, shape (q, d), or (d,) for one.
        single: whether it is one, and results have no axis for the probes.
        scalar: whether y has no axis for outputs, and results have none.
    """

    x: Float[Array, "..."]
    single: bool
    scalar: bool

    @classmethod
    def of(cls, clean: Fitted, x: Any) -> "Probes":
        """The argument x of a public function, checked.

        Raises:
            TypeError, ValueError: where it does not fit.
        """
        x = clean.kernel.points("x", x, like=clean.X, single=True)
        return cls(x, x.ndim == clean.X.ndim - 1, clean.y.ndim == 1)

    @property
    def points(self) -> Float[Array, "q ..."]:
        """x with an axis for the points."""
        return self.x[None] if self.single else self.x

    def each(self, values: Shaped[Array, "q ..."]) -> Shaped[Array, "..."]:
        """What there is for each probe, as the caller asked."""
        return values[0] if self.single else values

    def outputs(self, values: Float[Array, "q C ..."]) -> Float[Array, "..."]:
        """What there is for each probe and output, as the caller asked."""
        return self.each(jnp.squeeze(values, axis=1) if self.scalar else values)
