"""A posterior prepared for one poison: every law of it, at every ridge, for one search or factorisation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from kpoison._typing import Numbers
from kpoison._validation import check_positive, is_concrete, public
from kpoison.laws.inputs import checked_poison
from kpoison.poison import Poison
from kpoison.ridge import Observations, Posterior, check_conditioning, check_fitted

__all__ = ["prepare"]


def _check_range(name: str, value: Numbers, *, zero: bool) -> None:
    check_positive(name, np.asarray(value), zero=zero, scalar=False)
    if np.size(value) == 0:
        raise ValueError(f"{name} must hold at least one number, got none")


@public
def prepare(clean: Posterior, poison: Poison, ridge: Numbers, *, count: Numbers | None = None) -> Posterior:
    """The clean posterior prepared for one poison: its laws then cost O(n) at each ridge and multiplicity.

    All that laws take from the clean data is A⁻¹k(X, ζ) and A⁻¹y, A = K + ρI.  Over a range of ρ these span a space of
    few dimensions, which is found once: by a factorisation (with `Cholesky` one for each of a few ρ, or the only one),
    or with `Krylov` by a search for all ridges together.

    Args:
        clean: fitted by any solver but `ConjugateGradients`; concrete.
        poison: location or locations ζ, shape (d,) or (p, d); its label is not used.
        ridge: one λ, or several, of which the smallest and the largest count.
        count: one total multiplicity Σm, or several, of which the smallest and the largest count; by default the
            poison's.  0 is the clean prediction.

    Returns:
        A posterior whose laws are those of `clean`, for poisons at these locations with any label, at all
        ρ = (n_c + Σm)λ from the smallest to the largest (`m_success` looks at every Σm up to a million).  Derivatives
        hold in x, ridge, count and label; there are none in kernel and data.  `result.factor.status` keeps the
        residuals.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for `ConjugateGradients`, slopes or stopped flows.
        Laws of the result end with an error at run time where ρ is outside of the range or its solve has not converged.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0]))
    >>> poison = kp.Poison(jnp.array([2.0]), label=1.0, count=3)
    >>> ready = kp.prepare(clean, poison, [1e-3, 1e-1])
    >>> bool(jnp.isclose(kp.gain(ready, poison, 1e-2), kp.gain(clean, poison, 1e-2), rtol=1e-4))
    True
    """
    check_fitted("clean", clean)
    poison = checked_poison(clean, poison)
    if not all(is_concrete(leaf) for leaf in jax.tree.leaves((clean, poison, ridge, count))):
        raise TypeError("arguments must be known numbers: call prepare outside of jit, vmap and grad")
    _check_range("ridge", ridge, zero=False)
    if count is not None:
        _check_range("count", count, zero=True)
    able = clean.factor.abilities
    if clean.observations.slopes or not clean.ended or not (able.factorised or able.searched):
        raise ValueError(
            "clean must be fitted without gradient_penalty, not by ConjugateGradients, and not be stopped early"
        )
    ridges = jnp.asarray(ridge, clean.X.dtype)
    check_conditioning(clean, clean.observations.total * jnp.min(ridges))
    locations, _, counts = poison.observations(clean.X.shape[1:], clean.outputs, clean.X.dtype)
    totals = jnp.sum(counts) if count is None else jnp.asarray(count, clean.X.dtype)
    rho = jnp.outer(clean.observations.total + totals, ridges)
    b = jnp.concatenate([clean.cross(Observations(locations)), clean.observed_targets], axis=1)
    interval = float(jnp.min(rho)), float(jnp.max(rho))
    # Without the matrix, which is not needed any more and may be much the largest part.
    return dataclasses.replace(clean, factor=clean.factor.restricted(b, interval, largest_rank=1.0))
