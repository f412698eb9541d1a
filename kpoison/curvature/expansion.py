"""Gradients and Hessians of kernel expansions at many probes, through the plane that holds a probe and a centre.

A rotation-invariant kernel k(x, c) bends only within that plane and equally in all directions across it.  Four numbers
per pair give its Hessian, and the Hessians of any number of pairs add up to a few matrix products.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kpoison._linear_algebra import matrix_product
from kpoison.curvature.operators import PairCurvature
from kpoison.kernels.base import Kernel
from kpoison.ridge import KernelExpansion
from kpoison.ridge.expansion import pair_in_plane

__all__ = ["jacobians", "mean_hessian", "plane_kernel"]

_PAIRS_AT_ONCE = 2**13  # whose derivatives stay in a processor's cache: 2¹⁷ take half as long again
# Squared sine of the angle between probe and centre from which on ‖c‖² − (c·e)² keeps all digits but one.
_APART = 1 / 16
# Of ‖x‖: a centre so near to a probe costs the matrix products six bits.
_NEAR = 1 / 64
# Derivatives that the derivative of a Hessian takes.
_SMOOTH = 3


class _Plane(NamedTuple):
    """Where the centres lie in the plane of each probe x: along its ray e = x/‖x‖, and across it.

    Attributes:
        rays: e, shape (N, D).
        norms: ‖x‖, shape (N,).
        along: (c − x)·e, shape (N, n).
        across: q = ‖c − (c·e)e‖, shape (N, n).  What is less than eps times the distance from the origin (of a kernel
            that may be moved, from the other point) is rounding: it counts as so much, so that derivatives of k
            over q keep their limits, or as 0 where the kernel may have a cusp, so that it says so.
    """

    rays: Float[Array, "N D"]
    norms: Float[Array, " N"]
    along: Float[Array, "N n"]
    across: Float[Array, "N n"]


def plane_kernel(expansion: KernelExpansion) -> Kernel | None:
    """The kernel on points of a plane, where it has one."""
    if not expansion.span.of_values or not expansion.kernel.rotation_invariant or expansion.centres.ndim != 2:
        return None
    return expansion.kernel.on_subspace(expansion.centres.shape[1])


def _plane(kernel: Kernel, X: Float[Array, "N D"], centres: Float[Array, "n D"]) -> _Plane:
    """From inner products, and from differences c − x for a probe with a centre beside its ray, where those cancel."""
    norms = jnp.linalg.norm(X, axis=1)
    first = jnp.zeros_like(X).at[:, 0].set(1)
    rays = jnp.where((norms > 0)[:, None], X / jnp.where(norms > 0, norms, 1)[:, None], first)
    reach, centre_squares = matrix_product(rays, centres.T), jnp.sum(centres**2, axis=1)

    def from_differences(x, ray, norm, _):
        along, across, left = _split(centres - x[None], ray)
        square = jnp.sum(across**2, axis=1) - left**2
        eps, rounding = jnp.finfo(X.dtype).eps, jnp.finfo(X.dtype).eps * (norm + jnp.abs(along))
        # Where the pair is in space does not matter to all kernels.
        floor = eps * jnp.abs(along) if kernel.translation_invariant else rounding
        apart = square > floor**2
        cusp = jnp.abs(along) <= floor if kernel.smoothness >= 2 else True
        least = jnp.where(cusp & (kernel.smoothness < _SMOOTH), 0, jax.lax.stop_gradient(rounding))
        return along, jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), least)

    def from_products(x, ray, norm, reached):
        return reached - norm, jnp.sqrt(centre_squares - reached**2)

    def at(point):
        apart = jnp.all(centre_squares - point[-1] ** 2 > _APART * centre_squares)
        return jax.lax.cond(apart, from_products, from_differences, *point)

    along, across = jax.lax.map(at, (X, rays, norms, reach))
    return _Plane(rays, norms, along, across)


def _split(difference: Float[Array, "n D"], ray: Float[Array, " D"]) -> tuple[Array, Array, Array]:
    """Differences along a ray, across it, and what rounding leaves of the ray in the latter."""
    along = matrix_product(difference, ray[:, None])[:, 0]
    across = difference - along[:, None] * ray[None]
    left = matrix_product(across, ray[:, None])[:, 0]
    return along + left, across, left


def _at_pairs(
    kernel: Kernel, plane: _Plane, function: Callable[[Array, Array], tuple[Array, ...]]
) -> tuple[Array, ...]:
    """`function(here, there)` on three coordinates of every pair: along the ray, across it, and out of the plane.

    Returns:
        Its numbers, each of shape (N, n).
    """

    def row(arguments):
        norm, along, across = arguments

        return jax.vmap(lambda a, b: function(*pair_in_plane(kernel, norm, a, b, 3)))(along, across)

    batch = min(len(plane.norms), max(1, _PAIRS_AT_ONCE // plane.along.shape[1]))
    return jax.lax.map(row, (plane.norms, plane.along, plane.across), batch_size=batch)


def _over_distance(value: Array, distance: Array) -> Array:
    """value/distance; 0 on the ray, where the value across it is 0 too."""
    apart = distance > 0
    return jnp.where(apart, value / jnp.where(apart, distance, 1), 0)


@eqx.filter_jit
def jacobians(kernel: Kernel, expansion: KernelExpansion, X: Float[Array, "N D"]) -> Float[Array, "N C D"]:
    """∇f at many probes; `kernel` is the `plane_kernel` of the expansion.

    ∇k = (g₁ − (g₂/q)t)e + (g₂/q)(c − x) with t = (c − x)·e, q the distance of c from the ray: matrix products in place
    of nND calls of the kernel's derivative.  c and x apart cancel to eps‖x‖ beside a centre; a probe with one so near
    takes the differences c − x themselves, and, of a kernel that cannot be moved, all of the kernel's derivatives.
    """
    plane = _plane(kernel, X, expansion.centres)

    def slopes(here, there):
        gradient = jax.grad(kernel.evaluate)(here, there)
        return gradient[0], gradient[1]

    along, across = _at_pairs(kernel, plane, slopes)
    on_centres = _over_distance(across, plane.across)
    on_rays = along - on_centres * plane.along
    weights, centres = expansion.all_weights(), expansion.centres

    def of_output(w):
        weighted = on_centres * w[None]
        products = matrix_product(weighted, centres) - jnp.sum(weighted, axis=1)[:, None] * X
        return products + matrix_product(on_rays, w[:, None]) * plane.rays

    def beside_a_centre(x, ray, on_centre, on_ray, _):
        if not kernel.translation_invariant:
            return expansion.gradients(x[None])[0]
        across = matrix_product((on_centre[:, None] * weights).T, centres - x[None])
        return across + matrix_product(on_ray[None], weights)[0][:, None] * ray[None]

    def at(arguments):
        near, *probe = arguments
        return jax.lax.cond(near, beside_a_centre, lambda *probe: probe[-1], *probe)

    near = jnp.any(jnp.hypot(plane.along, plane.across) < _NEAR * plane.norms[:, None], axis=1)
    products = jnp.moveaxis(jax.lax.map(of_output, weights.T), 0, 1)
    return jax.lax.map(at, (near, X, plane.rays, on_centres, on_rays, products))


@eqx.filter_jit
def mean_hessian(
    kernel: Kernel, expansion: KernelExpansion, X: Float[Array, "N D"], output_weights: Float[Array, "N C"]
) -> PairCurvature:
    """(1/N) Σ_x Σ_o output_weights[x, o] ∇²f_o(x), from four second derivatives per pair.

    In the axes (e, a, out of the plane) the Hessian of k is [[h₁₁, h₁₂, 0], [h₁₂, h₂₂, 0], [0, 0, h₃₃ I]], that is

        h₃₃ I + (h₁₁ − h₃₃) eeᵀ + h₁₂ (eaᵀ + aeᵀ) + (h₂₂ − h₃₃) aaᵀ

    with a = (c − re)/q, where c = re + qa.  With μ = h₁₂/q (`mixed`) and β = (h₂₂ − h₃₃)/q² (`on_centres`) it is

        h₃₃ I + (h₁₁ − h₃₃ − 2rμ + r²β) eeᵀ + (μ − rβ)(ecᵀ + ceᵀ) + β ccᵀ,

    linear in ecᵀ and ccᵀ, so that pairs add up.  r (`reach`), q (`across`), all h, μ and β have shape (N, n).  The
    first form is kept for the centre nearest to the ray of each probe.  The trace of the result is
    Σ weights · (h₁₁ + h₂₂ + (D − 2)h₃₃) over all pairs.
    """
    plane = _plane(kernel, X, expansion.centres)

    def second_derivatives(here, there):
        hessian = jax.hessian(kernel.evaluate)(here, there)
        return hessian[0, 0], hessian[0, 1], hessian[1, 1], hessian[2, 2]

    h11, h12, h22, h33 = _at_pairs(kernel, plane, second_derivatives)
    weights = matrix_product(output_weights, expansion.all_weights().T) / len(X)
    reach = plane.norms[:, None] + plane.along
    slopes = _over_distance(plane.across, jnp.hypot(reach, plane.across))
    # Written through centres, the part across the ray cancels to eps/slope² of itself.  The centre nearest to the ray
    # (the poison, for a probe beside it) has a row of its own instead, and rounding is left out of the others.
    nearest = jnp.argmin(slopes, axis=1)
    others = jnp.arange(len(expansion.centres))[None] != nearest[:, None]
    resolved = slopes > jnp.finfo(slopes.dtype).eps ** 0.5
    bend = jnp.where(resolved, h22 - h33, 0)
    on_centres = jnp.where(others, _over_distance(_over_distance(bend, plane.across), plane.across), 0)
    mixed = jnp.where(others, _over_distance(h12, plane.across), 0)

    def of_nearest(values):
        return jnp.take_along_axis(values, nearest[:, None], axis=1)[:, 0]

    def direction(x, ray, centre):
        _, across, left = _split((centre - x)[None], ray)
        return (across - left[:, None] * ray[None])[0]

    directions = jax.vmap(direction)(X, plane.rays, expansion.centres[nearest])
    return PairCurvature(
        shift=jnp.sum(weights * h33),
        rays=plane.rays,
        centres=expansion.centres,
        on_rays=jnp.sum(weights * (h11 - h33 - 2 * reach * mixed + reach**2 * on_centres), axis=1),
        mixed=weights * (mixed - reach * on_centres),
        on_centres=jnp.sum(weights * on_centres, axis=0),
        nearest=_over_distance(directions, of_nearest(plane.across)[:, None]),
        on_nearest=of_nearest(weights * (bend if kernel.smoothness >= _SMOOTH else h22 - h33)),
        mixed_nearest=of_nearest(weights * h12),
    )
