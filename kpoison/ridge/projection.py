"""Every ridge from one search space: (K + ρI)⁻¹b for a range of ρ by Galerkin projection, with products K·V alone.

The space grows by preconditioned residuals of the ridges that are furthest off (generalised Davidson), for all ridges
and right-hand sides together.  One block of vectors is one product, so that a product serves them all; a space kept
whole needs no short recurrence, and neither loses orthogonality nor is harmed by products of a narrower dtype.

One product, in the order of the code, for p vectors in the space, k right-hand sides and R ridges:

    V, U = KV                                   (n, p)     basis and image
    VᵀU = QΘQᵀ                                  (p, p)     `_eigenpairs`
    c_ρ = Q (Θ + ρ)⁻¹ Qᵀ Vᵀb                    (R, p, k)  `_coordinates`
    r_ρ = b − U c_ρ − ρ V c_ρ                   (R, n, k)  `_residuals`
    W: principal directions of ‖r_ρ‖ · M_ρ⁻¹r_ρ/‖M_ρ⁻¹r_ρ‖, orthogonal to V
                                                (n, 6)     `_expansion`, M_ρ the preconditioner
    V ← [V, W],  U ← [U, KW]                               `_Space.extended`, the only product

VᵀV is the identity but for columns that are 0, and Vᵀr_ρ is 0 for every ρ while U is KV, both to rounding.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kpoison._linear_algebra import eigh, matrix_product
from kpoison._typing import Scalar
from kpoison.ridge._low_rank import LowRank, over_roots

__all__ = ["Projection", "RidgeStatus", "project"]

Product = Callable[[Float[Array, "n k"]], Float[Array, "n k"]]

Tolerance = Callable[[Float[Array, " R"]], Float[Array, " R"]]

_BLOCK = 6  # vectors of a product; more cost more and make the space little better
# Between ridges that are searched for residuals rise to about exp(−π²/spacing): rational interpolation.
_LOG_SPACING = 0.35
_AT_ENDS = 3  # intervals that are halved there
_MARGIN = 0.25  # of the tolerance, so that ridges between keep it
_INNER = 1e-3  # residual of a round of narrow products, which are about as wrong as that at small ridges
_PATIENCE = 25  # products in which residuals that still fall do so by a tenth
_SMALLEST = 1e-2  # directions that matter less than this part of the largest wait for the next product


class RidgeStatus(eqx.Module):
    """What became of the solves for a range of ridges.

    Attributes:
        rho: ρ, ascending, shape (R,).
        relative_residuals: ‖b − (K + ρI)x‖/‖b‖, the largest of all right-hand sides, shape (R,).
        converged: whether that is within the tolerance, shape (R,).
        products: with K, of a block of vectors each, in the dtype of the products, shape ().
        exact_products: with K in the dtype of the right-hand sides, where products are narrower, shape ().
        columns: vectors in all of these products, shape ().
    """

    rho: Float[Array, " R"]
    relative_residuals: Float[Array, " R"]
    converged: Bool[Array, " R"]
    products: Int[Array, ""]
    exact_products: Int[Array, ""]
    columns: Int[Array, ""]

    def at(self, rho: Float[Array, ""]) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        """Residual and convergence between the ridges: the worse of the neighbours; outside of them ∞ and False."""
        slack = 10 * jnp.finfo(self.rho.dtype).eps
        above = jnp.clip(jnp.searchsorted(self.rho, rho), 0, len(self.rho) - 1)
        below = jnp.maximum(above - 1, 0)
        inside = (rho >= self.rho[0] * (1 - slack)) & (rho <= self.rho[-1] * (1 + slack))
        residual = jnp.maximum(self.relative_residuals[below], self.relative_residuals[above])
        return jnp.where(inside, residual, jnp.inf), inside & self.converged[below] & self.converged[above]


class Projection(eqx.Module):
    """VᵀKV = QΘQᵀ and V Q: x(ρ) = VQ (Θ + ρ)⁻¹ (VQ)ᵀ b, with what became of it.

    Attributes:
        eigenvalues, vectors: Θ and V Q.
        right_hand_sides: (VQ)ᵀ b, for b of norm 1.
        status: for every ridge that the space was made for.
    """

    eigenvalues: Float[Array, " p"]
    vectors: Float[Array, "n p"]
    right_hand_sides: Float[Array, "p k"]
    status: RidgeStatus


class _Counter:
    """A product, and how often it was taken."""

    def __init__(self, product: Product):
        self.product, self.products, self.columns = product, 0, 0

    def __call__(self, x: Array) -> Array:
        self.products, self.columns = self.products + 1, self.columns + x.shape[1]
        return self.product(x)


class _Space(eqx.Module):
    """An orthonormal basis and its image; zero columns, which change nothing, fill it up to one of few shapes.

    Attributes:
        basis, image: V and K V.
        used: columns that are not filled up.
        exact: the first so many images are exact.
    """

    basis: Float[Array, "n p"]
    image: Float[Array, "n p"]
    used: int = eqx.field(static=True, default=0)
    exact: int = eqx.field(static=True, default=0)

    def extended(self, more: Array, product: Product) -> "_Space":
        """With more orthonormal columns that are orthogonal to the basis; the last may be 0, and are written over."""
        basis, image = self.basis, self.image
        capacity, needed = basis.shape[1], self.used + more.shape[1]
        if needed > capacity:
            wider = ((0, 0), (0, max(capacity, needed - capacity)))
            basis, image = jnp.pad(basis, wider), jnp.pad(image, wider)
        basis, image = _placed(basis, more, self.used), _placed(image, product(more), self.used)
        return _Space(basis, image, self.used + int(jnp.sum(jnp.any(more != 0, axis=0))), self.exact)

    def made_exact(self, product: Product) -> "_Space":
        """With exact images."""
        if self.exact == self.used:
            return self
        image = product(self.basis[:, self.exact : self.used])
        return _Space(self.basis, _placed(self.image, image, self.exact), self.used, self.used)


@jax.jit
def _placed(whole: Array, part: Array, place: Scalar) -> Array:
    return jax.lax.dynamic_update_slice(whole, part, (0, place))


def _empty(b: Array) -> _Space:
    # Divided among devices as b is; a device of its own stays the default one.
    place = b.sharding if len(b.devices()) > 1 else None
    nothing = jnp.zeros((len(b), 16 * _BLOCK), b.dtype, device=place)
    return _Space(nothing, nothing)


def project(
    product: Product,
    b: Float[Array, "n k"],
    rho: tuple[float, float],
    *,
    low_rank: LowRank,
    tolerance: Tolerance,
    max_products: int,
    exact_product: Product | None = None,
) -> Projection:
    """A space that holds (K + ρI)⁻¹b for every ρ of an interval.

    Args:
        product: x ↦ K x, compiled; its errors may be those of a narrower dtype if there is an `exact_product`.
        b: right-hand sides, concrete; rows may be divided among devices, and some at the end be 0 to make up a number.
        rho: the smallest and the largest ρ.
        low_rank: of K, the preconditioner.
        tolerance: on the relative residuals, at each of some ρ.
        max_products: of both kinds together.
        exact_product: x ↦ K x in the dtype of b: residuals are then its, by iterative refinement.

    Returns:
        The space and a status for every ridge that it was made for; look at `status.converged`.
    """
    b = _unit(b)
    rhos = jnp.asarray(_searched(*rho), b.dtype)
    narrow = _Counter(product)
    if exact_product is None:
        space = _grown(_empty(b), narrow, b, rhos, low_rank, _MARGIN * tolerance(rhos), max_products)
        return _projection(space, b, rhos, tolerance, narrow, exact=_Counter(product))
    exact = _Counter(exact_product)
    return _refined(narrow, exact, b, rhos, low_rank, tolerance, max_products)


def _searched(low: float, high: float) -> np.ndarray:
    """Ridges that are searched for, so close that those between are solved too: closer where that is hardest."""
    if low == high:
        return np.array([low])
    rhos = np.geomspace(low, high, 2 + math.ceil(math.log(high / low) / _LOG_SPACING))
    between = np.sqrt(rhos[1:] * rhos[:-1])
    return np.unique(np.concatenate([rhos, between[:_AT_ENDS], between[-_AT_ENDS:]]))


def _refined(
    narrow: _Counter,
    exact: _Counter,
    b: Array,
    rhos: Array,
    low_rank: LowRank,
    tolerance: Tolerance,
    max_products: int,
) -> Projection:
    """Search with narrow products, then make the image of what was found exact, and again for what is left."""
    space, worst, wanted = _empty(b), 1.0, _MARGIN * tolerance(rhos)
    while True:
        left = max_products - exact.products - 1
        space = _grown(space, narrow, b, rhos, low_rank, jnp.maximum(wanted, _INNER * worst), left)
        space = space.made_exact(exact)
        sizes = _sizes(_residuals(space, b, rhos))
        before, worst = worst, float(jnp.max(sizes))
        done = bool(jnp.all(sizes <= wanted[:, None])) or exact.products + narrow.products >= max_products
        # A round that does not halve what is left has come to the end of the narrow products' digits.
        if done or not worst < 0.5 * before:
            return _projection(space, b, rhos, tolerance, narrow, exact)


def _grown(
    space: _Space, product: _Counter, b: Array, rhos: Array, low_rank: LowRank, tolerance: Array, max_products: int
) -> _Space:
    """Extend a space until the residuals of unit right-hand sides are within the tolerance, or fall no more."""
    found: list[float] = []
    while product.products < max_products and space.used < len(b):
        worst, more = _expansion(space.basis, space.image, b, rhos, low_rank, tolerance.astype(b.dtype))
        found.append(float(worst))
        stagnant = len(found) > _PATIENCE and not min(found[-_PATIENCE:]) < 0.9 * min(found[:-_PATIENCE])
        if stagnant or not found[-1] > 1:
            break
        used, space = space.used, space.extended(more, product)
        if space.used == used:
            break
    return space


@eqx.filter_jit
def _expansion(basis, image, b, rhos, low_rank, tolerance) -> tuple[Array, Array]:
    """The largest residual over its tolerance, and the directions that do most about those that are too large."""
    residuals = _residuals(_Space(basis, image), b, rhos)
    sizes = _sizes(residuals)
    # Each weighs as much as it is off; what is done asks for nothing.
    weights = jnp.where(sizes > tolerance[:, None], sizes, 0).ravel()
    corrections = _flat(jax.vmap(lambda rho, r: low_rank.power(rho, -1.0, r))(rhos, residuals))
    directions = _directions(_unit(corrections) * weights[None], basis, _SMALLEST)
    return jnp.max(sizes / tolerance[:, None]), directions[:, : min(_BLOCK, directions.shape[1])]


def _projection(
    space: _Space, b: Array, rhos: Array, tolerance: Tolerance, narrow: _Counter, exact: _Counter
) -> Projection:
    eigenvalues, turn = _eigenpairs(space)
    vectors = _product(space.basis, turn)
    # Between the ridges that were searched for, too.
    rhos = jnp.sort(jnp.concatenate([rhos, jnp.sqrt(rhos[1:] * rhos[:-1])]))
    residuals = jnp.asarray(np.asarray(jnp.max(_sizes(_residuals(space, b, rhos)), axis=1)))  # on one device
    counts = (narrow.products, exact.products, narrow.columns + exact.columns)
    status = RidgeStatus(
        rhos,
        residuals,
        residuals <= jnp.asarray(np.asarray(tolerance(rhos))),
        *(jnp.asarray(count) for count in counts),
    )
    return Projection(eigenvalues, vectors, _product(vectors.T, b), status)


_product = jax.jit(matrix_product)


@eqx.filter_jit
def _eigenpairs(space: _Space) -> tuple[Array, Array]:
    # Of the two places of a pair the one with the image of the earlier column, which is exact before the other.
    lower = jnp.tril(matrix_product(space.basis.T, space.image))
    return eigh(lower + jnp.tril(lower, -1).T)


@eqx.filter_jit
def _coordinates(space: _Space, b: Array, rhos: Array) -> Float[Array, "R p k"]:
    eigenvalues, turn = _eigenpairs(space)
    inside = matrix_product(turn.T, matrix_product(space.basis.T, b))
    # A zero column's eigenvalue is 0 too, and its coordinate.
    return jax.vmap(lambda rho: matrix_product(turn, inside / (eigenvalues + rho)[:, None]))(rhos)


@eqx.filter_jit
def _residuals(space: _Space, b: Array, rhos: Array) -> Float[Array, "R n k"]:
    def at(rho, c):
        return b - matrix_product(space.image, c) - rho * matrix_product(space.basis, c)

    return jax.vmap(at)(rhos, _coordinates(space, b, rhos))


def _sizes(residuals: Float[Array, "R n k"]) -> Float[Array, "R k"]:
    return jnp.linalg.norm(residuals, axis=1)


def _unit(columns: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """Columns of length 1, or 0."""
    sizes = jnp.linalg.norm(columns, axis=0, keepdims=True)
    return columns / jnp.where(sizes > 0, sizes, 1)


def _flat(vectors: Float[Array, "R n k"]) -> Float[Array, "n Rk"]:
    return jnp.moveaxis(vectors, 1, 0).reshape(vectors.shape[1], -1)


@eqx.filter_jit
def _directions(vectors: Float[Array, "n m"], basis: Array | None, smallest: Array | float) -> Float[Array, "n m"]:
    """Orthonormal directions of what is orthogonal to a basis, the principal ones first.

    Those below a part of the largest, and those that rounding alone would make, are 0.
    """
    vectors = _without(vectors, basis)
    least = jnp.maximum(smallest, 100 * jnp.finfo(vectors.dtype).eps ** 0.5)
    for part in (least, 0.5, 0.5):  # again, as the first turn is orthonormal to eps/least² only
        squares, turn = eigh(matrix_product(vectors.T, vectors))
        kept = squares > part**2 * squares[-1]
        vectors = matrix_product(vectors, over_roots(turn, squares, kept))
        vectors = _without(vectors, basis)
    return vectors[:, ::-1]


def _without(vectors: Array, basis: Array | None) -> Array:
    """What is orthogonal to the basis; twice is enough."""
    if basis is None:
        return vectors
    for _ in range(2):
        vectors = vectors - matrix_product(basis, matrix_product(basis.T, vectors))
    return vectors
