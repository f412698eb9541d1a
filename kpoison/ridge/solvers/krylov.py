"""Krylov solvers for many points: the Gram matrix by tiles, one search space for every ridge."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact

from kpoison._linear_algebra import matrix_product
from kpoison._memory import available_memory, in_words
from kpoison._validation import check_positive, choice, flag, integer, known_number
from kpoison.kernels.base import Kernel
from kpoison.ridge._conjugate_gradients import conjugate_gradients
from kpoison.ridge._low_rank import LowRank, low_rank
from kpoison.ridge.gram import checked_on_sample
from kpoison.ridge.observations import Observations
from kpoison.ridge.placement import placement
from kpoison.ridge.projection import Projection, project
from kpoison.ridge.solvers.conjugate_gradients import converged, default_tolerance
from kpoison.ridge.solvers.contract import Abilities, Factor, Solver
from kpoison.ridge.solvers.prepared import Prepared, from_search
from kpoison.ridge.tiles import ScaledGram, TiledGram, gram_bytes, in_dtype

__all__ = ["Krylov", "KrylovFactor"]

_DTYPES = ("float32", "float64")


class Krylov(Solver):
    """Preconditioned Krylov methods on a Gram matrix that is read or made by tiles: for 10,000 points and more.

    `kpoison.prepare` and `kpoison.sweep` search one space for every ridge and every multiplicity of a poison, with
    residuals that are kept (`RidgeStatus`); a single law takes conjugate gradients.  The preconditioner is a low-rank
    approximation of K by randomly pivoted Cholesky.

    Memory: with the Gram matrix kept about n²/2 numbers of the products' dtype, and beside it, kept or not, about
    n (rank + 1,000) numbers of the data's dtype and a few tiles of 2048² numbers.

    Args:
        rank: of the preconditioner; more costs n·rank² and saves products.
        tolerance: largest relative residual of a solution; by default 1e-10 in float64 and 1e-5 in float32, or what
            rounding leaves of it: 10 eps(‖K‖ + ρ)/ρ.
        max_products: products with the Gram matrix, of a block of vectors each, after which a search is given up.
        products: dtype in which K is evaluated, kept and multiplied, "float32" or "float64"; by default that of the
            data.  With float32 products of float64 data residuals are taken in float64 (iterative refinement), for
            which K is evaluated a few times in float64.
        keep: whether the Gram matrix is kept; by default where it fits into the memory.
        memory: bytes that may be taken; by default what is available.
        mesh: devices, of this or of all processes, among which the tiles are divided; by default this process's
            first.  With several processes, which must all call with the same data, laws take what
            `kpoison.prepare` returns.
        seed: of the points that the preconditioner is made of.
    """

    rank: int = eqx.field(static=True, default=1000, converter=integer("rank", 1))
    tolerance: float | None = eqx.field(static=True, default=None, converter=known_number)
    max_products: int = eqx.field(static=True, default=500, converter=integer("max_products", 1))
    products: str | None = eqx.field(static=True, default=None, converter=choice("products", _DTYPES, optional=True))
    keep: bool | None = eqx.field(static=True, default=None, converter=flag("keep", optional=True))
    memory: int | None = eqx.field(static=True, default=None, converter=integer("memory", 1, optional=True))
    mesh: Mesh | None = eqx.field(static=True, default=None)
    seed: int = eqx.field(static=True, default=0, converter=integer("seed", 0))

    def __check_init__(self):
        if self.tolerance is not None:
            check_positive("tolerance", self.tolerance)
        if self.mesh is not None and not isinstance(self.mesh, Mesh):
            raise TypeError(f"mesh must be a jax.sharding.Mesh, got {type(self.mesh).__name__}")

    @property
    def devices(self) -> Mesh | None:
        """The mesh."""
        return self.mesh

    def prepare(self, kernel: Kernel, observations: Observations) -> "KrylovFactor":
        """The Gram matrix by tiles, with its preconditioner."""
        return self._factor(kernel, observations)

    def prepare_weighted(self, kernel: Kernel, observations: Observations) -> tuple["KrylovFactor", TiledGram]:
        """The same of the scaled Gram matrix, and the plain one."""
        scaled = self._factor(kernel, observations)
        assert isinstance(scaled.exact, ScaledGram)
        return scaled, scaled.exact.gram

    def _factor(self, kernel: Kernel, observations: Observations) -> "KrylovFactor":
        if observations.slopes:
            raise ValueError("solver=Krylov() takes no gradient_penalty: use solver=kpoison.ConjugateGradients()")
        X = checked_on_sample(kernel, observations.points)
        dtype = np.dtype(self.products or X.dtype)
        if dtype.itemsize > X.dtype.itemsize:
            raise ValueError(f"products must not be wider than the data, which are {X.dtype}, got {dtype}")
        kept = self._keeps(len(X), X.dtype, dtype)
        # Constants to autodiff, as factorisations are: derivatives go through the exact operator.
        narrow = jax.lax.stop_gradient(in_dtype(kernel, X, dtype))
        place = placement(self.mesh)
        gram = TiledGram(*place.everywhere(narrow), placement=place)
        exact = TiledGram(*place.everywhere((kernel, X)), placement=place)
        rank = min(self.rank, len(X))
        if kept:
            gram = gram.kept()
        gram, exact = (observations.scaled_operator(each) for each in (gram, exact))
        approximation = _low_rank(gram, rank, jax.random.key(self.seed), X.dtype)
        return KrylovFactor(gram, exact, approximation, self)

    def bytes(self, number: int, dtype: DTypeLike) -> int:
        """Without the Gram matrix, which is kept where it fits beside that."""
        number = int(number)
        return number * (3 * min(self.rank, number) + 1000) * np.dtype(dtype).itemsize

    def _keeps(self, n: int, dtype, narrow) -> bool:
        """Whether the Gram matrix is kept."""
        available = available_memory() if self.memory is None else self.memory
        vectors = self.bytes(n, dtype)
        if vectors > available:
            raise ValueError(
                f"n = {n:,} points with a preconditioner of rank {self.rank} take about {in_words(vectors)}, of which "
                f"{in_words(available)} are available: lower the rank"
            )
        tiles = gram_bytes(n, narrow, placement(self.mesh).devices)
        fits = vectors + tiles <= available
        if self.keep and not fits:
            raise ValueError(
                f"the Gram matrix of n = {n:,} points takes {in_words(tiles)} and what is beside it "
                f"{in_words(vectors)}, of which {in_words(available)} are available: use keep=False, "
                'products="float32" or fewer points'
            )
        return fits if self.keep is None else self.keep


class KrylovFactor(Factor):
    """The Gram matrix as an operator, and a low-rank approximation of it.

    Attributes:
        gram: what products are taken with.
        exact: the same in the dtype of the data, never kept; derivatives go through it.
        approximation: the preconditioner.
        method: the solver.
    """

    gram: TiledGram | ScaledGram
    exact: TiledGram | ScaledGram
    approximation: LowRank
    method: Krylov

    @property
    def abilities(self) -> Abilities:
        """A search for each ridge, or one for all."""
        return Abilities(one_at_a_time=True, searched=True)

    @property
    def solver(self) -> Krylov:
        """What made it."""
        return self.method

    @property
    def number(self) -> int:
        """N."""
        return self.exact.number

    @property
    def _refines(self) -> bool:
        return self.gram.dtype != self.exact.dtype

    def solve(self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"]) -> Inexact[Array, "n k"]:
        """Conjugate gradients at one ridge, with derivatives in kernel, points, ρ and b; an error if unconverged."""
        dtype = jnp.result_type(b, rho)
        rho, b = jnp.asarray(rho, dtype), b.astype(dtype)
        constant, shift = jax.lax.stop_gradient((self, rho))
        tolerance = constant._tolerance(shift)

        def run(_, b):
            def product(gram):
                return lambda x: gram.product(x) + shift * x

            return conjugate_gradients(
                product(constant.gram),
                b,
                preconditioner=lambda power, x: constant.approximation.power(shift, power, x),
                tolerance=tolerance,
                max_iterations=self.method.max_products,
                exact_product=product(constant.exact) if self._refines else None,
            )

        x, status = jax.lax.custom_linear_solve(
            lambda x: self.exact.product(x) + rho * x, b, run, symmetric=True, has_aux=True
        )
        return converged(x, status, "max_products", self.method.max_products)

    def inverse_product(
        self, rho: Inexact[Array, ""], b: Inexact[Array, "n k"], c: Inexact[Array, "n l"]
    ) -> Inexact[Array, "k l"]:
        """One solve for all columns of c."""
        return matrix_product(b.T, self.solve(rho, c))

    def bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """0, and the largest eigenvalue of the approximation with the trace of what it leaves out."""
        top, trace = jnp.max(self.approximation.eigenvalues), self.approximation.trace
        return jnp.zeros_like(trace), top + self.approximation.rest * trace

    def project(self, b: Float[Array, "n k"], rho: tuple[float, float]) -> Projection:
        """A space that holds (K + ρI)⁻¹b for every ρ of an interval, and what became of each.

        With a mesh its vectors are divided among the devices, with rows of 0 that make up a number.
        """
        return project(
            lambda x: _product(self.gram, x),
            self.exact.placement.rows(b),
            rho,
            low_rank=self.approximation,
            tolerance=self._tolerance,  # at each ridge
            max_products=self.method.max_products,
            exact_product=(lambda x: _product(self.exact, x)) if self._refines else None,
        )

    def restricted(self, b: Float[Array, "n k"], rho: tuple[float, float], largest_rank: float) -> Prepared:
        """By a search, of any rank: its status tells how well solutions were found."""
        return self._on_one_device(from_search(self.project(b, rho), self.bounds(), self.method, rho))

    def _on_one_device(self, found: Prepared) -> Prepared:
        """What was made of a projection, as other arrays are: without the rows of 0."""
        arrays, others = eqx.partition(found, eqx.is_array)
        found = eqx.combine(self.exact.placement.gathered(arrays), others)
        rows = found.eigenvectors[: self.exact.number]
        return eqx.tree_at(lambda factor: factor.eigenvectors, found, rows)

    def _tolerance(self, rho: Inexact[Array, "..."]) -> Float[Array, "..."]:
        """On relative residuals, at each ρ."""
        largest = self.bounds()[1]
        if self.method.tolerance is None:
            return default_tolerance(largest, rho)
        return jnp.full(jnp.shape(rho), self.method.tolerance, largest.dtype)


@eqx.filter_jit
def _product(gram: TiledGram | ScaledGram, x: Array) -> Array:
    return gram.product(x)


@eqx.filter_jit
def _low_rank(gram: TiledGram | ScaledGram, rank: int, key: Any, dtype) -> LowRank:
    return low_rank(gram, rank, key, dtype)
