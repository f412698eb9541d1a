"""The ridge predictor, clean or poisoned: at many points, or as a function of one."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._failures import one_by_one, program, silently
from kpoison._typing import Scalar
from kpoison._validation import check_floating, public
from kpoison.laws.inputs import CleanInputs, LawInputs, Probes, trained_on
from kpoison.poison import Poison
from kpoison.ridge import Fitted, KernelExpansion

__all__ = ["Predictor", "predict", "predictor", "predictor_of"]


@public
def predict(
    clean: Fitted,
    x: Float[ArrayLike, "..."],
    ridge: Scalar | Num[ArrayLike, " R"] | Sequence[float | int],
    poison: Poison | None = None,
) -> Float[Array, "..."]:
    """The ridge predictor at x: the clean one, or the one trained on clean data and poison.

    Args:
        clean: the fitted clean posterior.
        x: shape (q, d), or (d,) for one point.
        ridge: λ > 0 of the mean loss; ρ = nλ with n = n_c, or n_c + Σm with a poison.  Several ones, shape (R,), share
            what is to be computed of x.
        poison: clones or a cluster; None for the clean predictor.

    Returns:
        Shape (q,), or (q, C) where y had C outputs; without the first axis for one point.  Before these an axis for the
        ridges, where several are given.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    Note that `predict(..., poison) − predict(...)` is *not* the efficacy: the clean side has ρ = n_c λ there.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0]))
    >>> kp.predict(clean, jnp.array([[0.0], [0.5], [1.0]]), ridge=[1e-3, 1e-1]).shape
    (2, 3)
    """
    inputs, probes = trained_on(clean, ridge, poison, several=True), Probes.of(clean, x)
    return _prediction(inputs, probes) if np.ndim(inputs.ridge) == 0 else _at_each_ridge(inputs, probes)


@program
def _prediction(inputs: CleanInputs | LawInputs, probes: Probes) -> Float[Array, "..."]:
    return probes.outputs(jnp.asarray(sum(term.values(probes.points) for term in inputs.terms())))


@program
def _at_each_ridge(inputs: CleanInputs | LawInputs, probes: Probes) -> Float[Array, "R ..."]:
    """Expansions at all ridges have the same spans, so that their coefficients are columns of one expansion."""
    ridges = jnp.asarray(inputs.ridge)

    def coefficients(ridge: Array) -> list[Array]:
        return [term.coefficients for term in inputs._replace(ridge=ridge).terms()]

    with silently():  # what fails at the first ridge is told below
        spans = [term.span for term in inputs._replace(ridge=ridges[0]).terms()]
    columns = [jnp.moveaxis(each, 0, 1).reshape(each.shape[1], -1) for each in one_by_one(coefficients, ridges)]
    values = sum(span.values(probes.points, each) for span, each in zip(spans, columns, strict=True))
    return jax.vmap(probes.outputs, in_axes=1)(jnp.asarray(values).reshape(len(probes.points), len(ridges), -1))


class Predictor(eqx.Module):
    """A ridge predictor as a function of one point; made by `predictor`.

    Attributes:
        expansion: f(x) = Σ_i k(x, c_i) w_i over the poison's locations and the clean data.
        scalar: whether y had no axis for outputs.
    """

    expansion: KernelExpansion
    scalar: bool = eqx.field(static=True)

    def __call__(self, x: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
        """f(x) at one point: shape () or (C,)."""
        kernel, centres = self.expansion.kernel, self.expansion.centres
        shape = centres.shape[1:]
        x = check_floating("x", x) if shape else kernel.points("x", x, like=centres, single=True)
        if x.shape != shape:
            raise ValueError(f"x must be one point of shape {shape}, got {x.shape}")
        values = self.expansion.values(x[None])[0]
        return values[0] if self.scalar else values


@public
def predictor(clean: Fitted, ridge: Scalar, poison: Poison | None = None) -> Predictor:
    """The ridge predictor as a function of one point, solved once: for `jax.hessian`, `kpoison.curvature`, plots.

    Arguments and errors as in `predict`, with the values of which it agrees.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0, 1.0]]), jnp.array([2.0]))
    >>> jax.hessian(kp.predictor(clean, ridge=1.0))(jnp.array([0.0, 1.0])).tolist()
    [[-1.0, 0.0], [0.0, -1.0]]
    """
    return predictor_of(trained_on(clean, ridge, poison))


@program
def predictor_of(inputs: CleanInputs | LawInputs) -> Predictor:
    """`predictor` of arguments that are checked."""
    *change, f = inputs.terms()
    if change:
        # The last coefficients of both are those of the clean data: one expansion costs half.
        span, coefficients = change[0].span, change[0].coefficients
        f = KernelExpansion(span, coefficients.at[len(coefficients) - len(f.coefficients) :].add(f.coefficients))
    return Predictor(f.expanded(), inputs.clean.y.ndim == 1)
