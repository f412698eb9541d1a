"""The state equations of a convex loss of several scores, such as softmax regression's (R5).

As of one score, with matrices (r, r) for numbers: Q the scores' covariance under the other points, T by how much a
training point's scores move for a unit of its loss's slope, V̂ = E (H⁻¹ + T)⁻¹ the curvature H = ∇²ℓ that is kept
(Loureiro, Sicuro, Gerbelot, Pacco, Krzakala and Zdeborová 2021, NeurIPS).  Unknown are the pulls ĝ, V̂, q̂ and the
intercept, from which everything else follows without a quadrature.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kpoison._failures import Failure, checked_result, program
from kpoison._linear_algebra import matrix_product
from kpoison.asymptotics._linear_model import number_failures
from kpoison.asymptotics.mixture import Mixture
from kpoison.asymptotics.quadrature import gaussian_rule
from kpoison.asymptotics.root_finding import fixed_point, proximal_pull, small_cholesky, small_solve

__all__ = ["rules", "solved_of_several"]

_CHUNK = 256  # nodes
_AT_ONCE = 8  # slopes, of which each takes r² numbers for each node and component
_FLOOR = 1e-3  # of start values, for their factors to exist
_CONSTANT = 1e-6  # deviations, relative
_CONVEX = 1e-8  # of rounding in second derivatives, relative


def rules(dimensions: int, number: int, coarse: int) -> tuple[Float[np.ndarray, "k c r"], Float[np.ndarray, "k c"]]:
    """A coarse quadrature in the first chunk, a fine one in the others; unused nodes have no weight."""
    parts = []
    for count in (coarse, number):
        where, weights = gaussian_rule(dimensions, count)
        empty = -len(weights) % _CHUNK
        parts.append((np.pad(where, ((0, empty), (0, 0))), np.pad(weights, (0, empty))))
    assert len(parts[0][1]) == _CHUNK
    nodes, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    return nodes.reshape(-1, _CHUNK, dimensions), weights.reshape(-1, _CHUNK)


class _Seen(NamedTuple):
    """Means over fitted training points.

    Attributes:
        g: ĝ = −E ∇ℓ of each component.
        curvature, square, stein: V̂, q̂ = E ggᵀ, and −E g Zᵀ, which is V̂Q^½.
        loss: its mean.
        down: whether it bends down somewhere.
    """

    g: Float[Array, "K r"]
    curvature: Float[Array, "r r"]
    square: Float[Array, "r r"]
    stein: Float[Array, "r r"]
    loss: Float[Array, ""]
    down: Bool[Array, ""]


@program
def solved_of_several(  # noqa: PLR0915
    mixture: Mixture,
    n: Array,
    ridge: Array,
    loss: Callable[[Array, Array], Array],
    intercept: bool,
    quadrature: tuple[Float[Array, "k c r"], Float[Array, "k c"]],
    unresolved: str,
    allowed: float,
) -> tuple[Array, ...]:
    """The weights (d, r), intercept, Q, spread, V̂, T, training loss, residual and error of the quadrature.

    Args:
        mixture: as `convex_regression` takes it, checked.
        n: the same.
        ridge: the same.
        intercept: the same.
        loss: of r scores, without a direction in which it does not bend, and a label.
        quadrature: `rules`.
        unresolved: the message for a quadrature whose error is more than allowed.
        allowed: that.
    """
    sigma, M, pi, t = mixture.decomposed(), mixture.means, mixture.fractions, mixture.labels
    pi = checked_result(pi, [*mixture.failures(sigma), *number_failures(mixture, n, ridge, zero=False)])
    nodes, weights = quadrature
    r, s = nodes.shape[2], sigma.spectrum()
    one, low = jnp.eye(r, dtype=M.dtype), np.tril_indices(r)

    def seen(T: Array, Q: Array, omega: Array, first: Array | int, last: Array | int) -> _Seen:
        """Over the chunks of nodes from first to last; of factors of T and Q."""

        def at(before: Array, z: Array, label: Array) -> tuple[Array, ...]:
            def of(f: Array) -> Array:
                return loss(f, label)

            x = before - T @ proximal_pull(of, before, T)
            H = jax.hessian(of)(x)
            down = z @ H @ z < -_CONVEX * (z @ z) * jnp.max(jnp.abs(H))
            value, slope = jax.value_and_grad(of)(x)
            return -slope, H - H @ T @ small_solve(one + T.T @ H @ T, T.T @ H), value, down

        def add(k: Array | int, total: _Seen) -> _Seen:
            z, w = nodes[k], weights[k]
            before = omega[:, None] + (z @ Q.T)[None]
            g, kept, value, down = jax.vmap(jax.vmap(at, (0, 0, None)), (0, None, 0))(before, z, t)
            of_all = pi[:, None] * w[None]
            weighted = of_all[..., None] * g
            more = _Seen(
                jnp.einsum("n,knr->kr", w, g),
                jnp.einsum("kn,knrs->rs", of_all, kept),
                jnp.einsum("knr,kns->rs", weighted, g),
                -jnp.einsum("knr,ns->rs", weighted, z),
                jnp.sum(of_all * value),
                jnp.any(down),
            )
            return jax.tree.map(lambda a, b: a | b if a.dtype == bool else a + b, total, more)

        zero = jnp.zeros((r, r), M.dtype)
        nothing = _Seen(jnp.zeros((len(t), r), M.dtype), zero, zero, zero, zero[0, 0], jnp.zeros((), bool))
        return jax.lax.fori_loop(first, last, add, nothing)

    def noise(curvature: Array, square: Array) -> tuple[Array, ...]:
        """Means of s G, s G q̂ G and s² G q̂ G, G = (λ + sV̂)⁻¹, summed over the inputs and divided by n."""
        G = jax.vmap(lambda s: small_solve(ridge * one + s * curvature, one))(s)
        around = jnp.einsum("drs,st,dtu->dru", G, square, G)
        return tuple(jnp.tensordot(w, of, 1) / n for w, of in ((s, G), (s, around), (s**2, around)))

    def answered(g: Array, curvature: Array, square: Array) -> tuple[Array, ...]:
        """B̄, T, Q and the spread from those."""
        B = sigma.coupled_solve(curvature, ridge, matrix_product(M.T, pi[:, None] * g))
        step, spread, varied = noise(curvature, square)
        return B, step, matrix_product(B.T, sigma.product(B)) + varied, spread

    diagonal = jnp.diag_indices(r)

    def packed(g: Array, curvature: Array, square: Array, b: Array, told: Array) -> Array:
        """Logarithms on the diagonals of factors keep them positive.

        `told` are numbers that nothing depends on: the loss, the quadrature's error, where the loss bends down.
        """
        factors = [small_cholesky(matrix) for matrix in (curvature, square)]
        halves = [f.at[diagonal].set(jnp.log(jnp.diag(f)))[low] for f in factors]
        return jnp.concatenate([g.ravel(), *halves, b, told])

    def unpacked(unknown: Array) -> tuple[Array, ...]:
        ends = np.cumsum([len(t) * r, len(low[0]), len(low[0]), r])
        g, *halves, b, told = jnp.split(unknown, ends)
        factors = [jnp.zeros((r, r), unknown.dtype).at[low].set(half) for half in halves]
        factors = [f.at[diagonal].set(jnp.exp(jnp.diag(f))) for f in factors]
        return g.reshape(-1, r), *(matrix_product(f, f.T) for f in factors), b, told

    def within(unknown: Array, first: Array | int, last: Array | int) -> Array:
        """The image of the unknowns, by the chunks of nodes from first to last."""
        g, curvature, square, b, _ = unpacked(unknown)
        B, step, varied, _ = answered(g, curvature, square)
        T, Q = (small_cholesky(matrix) for matrix in (step, varied))
        new = seen(T, Q, matrix_product(M, B) + b[None], first, last)
        rise = small_solve(new.curvature, (pi @ new.g)[:, None])[:, 0]
        b = b + jnp.clip(rise, -1, 1) if intercept else 0 * b
        apart = small_solve(Q.T, new.stein.T) - new.curvature
        error = jax.lax.stop_gradient(jnp.max(jnp.abs(apart)) / jnp.max(jnp.abs(new.curvature)))
        told = jnp.stack([new.loss, error, new.down.astype(M.dtype)])
        return packed(new.g, new.curvature, new.square, b, told)

    def image(unknown: Array) -> Array:
        return within(unknown, 1, len(nodes))

    def evaluated(unknown: Array, exact: Array) -> tuple[Array, Array]:
        new = within(unknown, jnp.where(exact, 1, 0), jnp.where(exact, len(nodes), 1))
        g, curvature, square, b, told = unpacked(new)
        of_factors = [jnp.where(one > 0, 1, jnp.sqrt(jnp.trace(matrix)))[low] for matrix in (curvature, square)]
        of_g = jnp.full(g.size, jnp.sqrt(jnp.trace(square)))
        sizes = jnp.concatenate([of_g, *of_factors, 1 + 0 * b, 1 + jnp.abs(told)])
        return new, sizes

    # From what the other points say nothing of: scores of 0, and a loss that is as curved as there.
    zero = jnp.zeros(r, M.dtype)
    value0, slope0 = jax.vmap(lambda label: jax.value_and_grad(loss)(zero, label))(t)
    bend0 = jnp.tensordot(pi, jax.vmap(lambda label: jax.hessian(loss)(zero, label))(t), 1)
    square0 = matrix_product(slope0.T, pi[:, None] * slope0)
    tiny = jnp.finfo(M.dtype).eps
    bend0, square0 = (part + _FLOOR * jnp.maximum(jnp.trace(part), tiny) * one for part in (bend0, square0))
    start = jax.lax.stop_gradient(packed(-slope0, bend0, square0, zero, jnp.stack([pi @ value0, 0 * tiny, 0 * tiny])))

    root = fixed_point(image, evaluated, start, at_once=_AT_ONCE)
    g, curvature, square, b, (training_loss, quadrature_error, down) = unpacked(root.value)
    B, step, varied, spread = answered(g, curvature, square)
    deviations = jnp.diag(small_cholesky(varied))
    constant = ~(jnp.min(deviations) > _CONSTANT * jnp.max(deviations))
    solved = root.converged & jnp.all(jnp.isfinite(root.value))
    one_hot = "as a squared loss of one-hot labels does their sum: see ridge_regression"
    B = checked_result(
        B,
        [
            Failure(constant, f"loss must leave no combination of scores that it depends on constant, {one_hot}"),
            Failure(down > 0, "loss must be convex in the scores, got a second derivative below 0"),
            Failure(~solved, "the state equations have not been solved to rounding: no model"),
            Failure(~(quadrature_error <= allowed), unresolved),
        ],
    )
    return B, b, varied, spread, curvature, step, training_loss, root.residual, jnp.abs(quadrature_error)
