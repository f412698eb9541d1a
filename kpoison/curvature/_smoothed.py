"""The poison's spike averaged over a neighbourhood of the probe: what is hidden at a point shows in the trace (L12)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from kpoison._failures import checked_result, program
from kpoison._typing import Law, Scalar
from kpoison._validation import check_integer, check_positive, check_real, in_dtype, public
from kpoison.curvature.operators import GaussNewtonRows
from kpoison.laws.inputs import LawInputs, Probes
from kpoison.poison import Poison
from kpoison.ridge import Fitted

__all__ = ["SmoothedRBFSpike", "SmoothedSpike", "smoothed_rbf_spike", "smoothed_spike"]

_NUMBERS_AT_MOST = 2**27  # of gradients at once: a gigabyte in float64


class SmoothedRBFSpike(NamedTuple):
    """Spectrum of E ∇Δf ∇Δfᵀ over a neighbourhood.

    Attributes:
        along: eigenvalue along u, the direction from ζ to the probe.
        across: that of the d − 1 directions across.
        trace: their sum, the mean spike.
    """

    along: Float[Array, "..."]
    across: Float[Array, "..."]
    trace: Float[Array, "..."]


@public
def smoothed_rbf_spike(
    coefficient: Float[ArrayLike, "..."],
    length_scale: Float[ArrayLike, "..."],
    distance: Float[ArrayLike, "..."],
    width: Float[ArrayLike, "..."],
    dimension: int,
) -> SmoothedRBFSpike:
    """The spike of isolated clones averaged over probes x0 + z, z ~ N(0, τ²I), of an RBF kernel (L12).

    With s = ℓ² + 2τ² and c = (y_t S)² ℓ⁻⁴ (ℓ²/s)^(d/2) e^(−r²/s) the mean of ∇Δf ∇Δfᵀ has the eigenvalue
    c(τ²ℓ²/s + (rℓ²/s)²) along u and cτ²ℓ²/s across it.  **Near-clones show there**: at r = 0, where the spike itself is
    0, and τ = ℓ/√d the trace tends to (y_t S)²/(eℓ²) as d grows, the largest spike at any r; it is spread evenly over
    all directions, so that it is seen in the trace and not as an outlier.

    Args:
        coefficient: y_t S, of `kpoison.gain` and the label; of either sign.
        length_scale: ℓ > 0.
        distance: r >= 0 from ζ to x0.
        width: τ >= 0 of the neighbourhood, in the units of ℓ.
        dimension: d of the inputs.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> found = smoothed_rbf_spike(1.0, 1.0, 0.0, 100**-0.5, 100)
    >>> round(float(found.trace) * math.e, 2), bool(found.along == found.across)
    (0.99, True)
    """
    check_real("coefficient", coefficient)
    check_positive("length_scale", length_scale, scalar=False)
    for name, value in (("distance", distance), ("width", width)):
        check_positive(name, value, zero=True, scalar=False)
    d = check_integer("dimension", dimension, 1)
    s0, scale, r, tau = map(jnp.asarray, (coefficient, length_scale, distance, width))
    return _of_rbf(s0, scale, r, tau, np.asarray(d))


@program
def _of_rbf(s0: Array, scale: Array, r: Array, tau: Array, d: Int[ArrayLike, ""]) -> SmoothedRBFSpike:
    # In units of ℓ.
    near, spread = (r / scale) ** 2, (tau / scale) ** 2
    wider = 1 + 2 * spread
    c = (s0 / scale) ** 2 * jnp.exp(-0.5 * d * jnp.log1p(2 * spread) - near / wider)
    across = c * spread / wider
    along = across + c * near / wider**2
    return SmoothedRBFSpike(along, across, along + (d - 1) * across)


class SmoothedSpike(NamedTuple):
    """The spike averaged over neighbourhoods of probes, by random draws.

    Attributes:
        trace: E‖∇Δf(x + z)‖² of each probe, added up over the outputs, shape (q,) or ().
        standard_error: of each, over the draws.
        matrix: the mean of ∇Δf ∇Δfᵀ over draws, outputs and all probes, for `kpoison.curvature.top_eigenpairs`,
            `trace` and their like; its trace is the mean of the traces.
    """

    trace: Float[Array, "..."]
    standard_error: Float[Array, "..."]
    matrix: GaussNewtonRows


@public
def smoothed_spike(
    clean: Fitted,
    poison: Poison,
    x: Float[ArrayLike, "..."],
    ridge: Scalar,
    width: Scalar,
    *,
    law: Law = "exact",
    samples: int = 1000,
    key: PRNGKeyArray | None = None,
) -> SmoothedSpike:
    """The poison's spike averaged over probes x + z, z ~ N(0, τ²I): its trace and spectrum, for any posterior (L12).

    A poison whose spike vanishes at x, such as a near-clone's, may be plain to see around it.  By Monte Carlo:
    z = τ · `jax.random.normal(key, (samples, *x.shape))`.  Isolated and for an RBF kernel it is `smoothed_rbf_spike`.
    Of a predictor instead of the poison's part ask `fisher(f, x + z)`.

    Args:
        clean: the fitted clean posterior.
        poison: clones or a cluster.
        x: probes, shape (q, d), or (d,) for one.
        ridge: λ > 0 of the mean loss.
        width: τ >= 0, in the units of X.
        law: "exact" or "isolated".
        samples: draws for each probe, at least 2.
        key: of the draws; by default `jax.random.key(0)`.

    Returns:
        A `SmoothedSpike`, in units of y² per input².

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for more than 2²⁷ numbers of gradients at once.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[5.0, 0.0]]), jnp.array([1.0]))
    >>> poison = kp.Poison(jnp.zeros(2), label=-1.0, count=3)
    >>> found = smoothed_spike(clean, poison, jnp.zeros(2), 0.01, 0.5, law="isolated")
    >>> known = smoothed_rbf_spike(kp.gain(clean, poison, 0.01, "isolated"), 1.0, 0.0, 0.5, 2).trace
    >>> bool(abs(found.trace - known) < 4 * found.standard_error)
    True
    """
    inputs, probes = LawInputs.of(clean, poison, ridge, law), Probes.of(clean, x)
    check_positive("width", width, zero=True)
    samples = check_integer("samples", samples, 2)
    numbers = samples * probes.points.size * clean.outputs
    if numbers > _NUMBERS_AT_MOST:
        raise ValueError(
            f"samples must be at most {_NUMBERS_AT_MOST * samples // numbers} for {len(probes.points)} probe(s) of "
            f"{probes.points[0].size} coordinates and {clean.outputs} output(s), got {samples}"
        )
    key = jax.random.key(0) if key is None else key
    return _smoothed(inputs, probes, in_dtype(width, clean.X.dtype), samples, key)


@program
def _smoothed(inputs: LawInputs, probes: Probes, width: Scalar, samples: int, key: PRNGKeyArray) -> SmoothedSpike:
    dtype = inputs.clean.X.dtype
    width = jnp.asarray(width, dtype)
    width = checked_result(width, [(~((width >= 0) & jnp.isfinite(width)), "width must be finite and >= 0")])
    points = probes.points
    z = jax.random.normal(key, (samples, *probes.x.shape), dtype).reshape(samples, *points.shape)
    around = (points[None] + width * z).reshape(-1, *points.shape[1:])
    gradients = inputs.change().gradients(around).reshape(samples, len(points), -1)
    spikes = jnp.sum(gradients**2, axis=2)
    error = jnp.std(spikes, axis=0, ddof=1) / samples**0.5
    rows = gradients.reshape(-1, int(np.prod(points.shape[1:]))) / math.sqrt(samples * len(points))
    return SmoothedSpike(probes.each(jnp.mean(spikes, axis=0)), probes.each(error), GaussNewtonRows(rows))
