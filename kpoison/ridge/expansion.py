"""Functions of x as a span, which knows x, and coefficients: what ridge predictors and poison effects are.

f(x) = Σ_i k(x, c_i) w_i + v_i·∂_c k(x, c_i) over N centres, where the weights w (N, C) and slopes v (N, C, D) of C
outputs are made from an array of coefficients (p, C) by

- `Representers`: p = N, w the coefficients;
- `Reduced`: w = B · coefficients, B of shape (N, p);
- `Functionals`: a coefficient for each observed value, then for each observed slope.

Everything comes from differences x − c_i: exact however close x is to a centre.  For a reader to check: `gradients` are
`jax.jacobian` of `values`, and `expanded` changes neither.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from kpoison._batches import in_batches
from kpoison._linear_algebra import matrix_product
from kpoison.kernels.base import Kernel
from kpoison.ridge.observations import Observations

__all__ = [
    "Functionals",
    "KernelExpansion",
    "Reduced",
    "Representers",
    "Span",
    "WithConstant",
    "pair_in_plane",
    "span_of",
]

Points = Float[Array, "q ..."]
Coefficients = Inexact[Array, "p C"]


class Span(eqx.Module):
    """Functions of x, to be combined by coefficients that know nothing of x; here those of values k(x, c_i) alone.

    Attributes:
        kernel: k.
        centres: c, shape (N, ...).
    """

    kernel: Kernel
    centres: Float[Array, "N ..."]

    @property
    def of_values(self) -> bool:
        """Whether there are no slopes."""
        return True

    @abc.abstractmethod
    def after(self, Z: Observations) -> "Span":
        """The representers of these observations, and then the functions here."""

    @abc.abstractmethod
    def weights(self, coefficients: Coefficients) -> Inexact[Array, "N C"]:
        """w, one row for each centre."""

    def slopes(self, coefficients: Coefficients) -> Inexact[Array, "N C D"]:
        """v for each centre and output, the axes of a point flattened."""
        return jnp.zeros((len(self.centres), coefficients.shape[1], self.centres[0].size), coefficients.dtype)

    def expanded(self, coefficients: Coefficients) -> "tuple[Span, Coefficients]":
        """The same function, with a weight for each centre where it is one of values."""
        if not self.of_values:
            return self, coefficients
        return Representers(self.kernel, self.centres), self.weights(coefficients)

    def values(self, X: Points, coefficients: Coefficients) -> Inexact[Array, "q C"]:
        """f at many points."""
        return self._weighted(X, self.weights(coefficients))

    def gradients(self, X: Points, coefficients: Coefficients) -> Inexact[Array, "q C ..."]:
        """∇f at many points."""
        weights = self.weights(coefficients)

        def at(x):
            slopes = self.kernel.gradients(x, self.centres)
            return matrix_product(weights.T, slopes.reshape(len(slopes), -1)).reshape(-1, *x.shape)

        return self._each(at, X)

    def squared_gradient_norms(self, X: Points, coefficients: Coefficients) -> Inexact[Array, "q C"]:
        """‖∇f‖² at many points."""
        gradients = self.gradients(X, coefficients)
        return jnp.sum(gradients**2, axis=tuple(range(2, gradients.ndim)))

    def radial_and_tangential_gradients(self, X: Points, coefficients: Coefficients) -> tuple[Array, Array]:
        """As those of `KernelExpansion`: each kernel in a frame whose first axis is x."""
        weights = self.weights(coefficients)

        def at(x):
            norm = jnp.sqrt(jnp.sum(x * x))
            axis = x / norm

            def parts(centre):
                difference = centre - x
                along = jnp.sum(axis * difference)
                across = difference - along * axis
                # Rounding leaves some of x in `across`; one more projection removes it.
                across -= jnp.sum(axis * across) * axis
                square = jnp.sum(across * across)
                apart = square > 0
                distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)
                slopes = jax.grad(self.kernel.evaluate)(*pair_in_plane(self.kernel, norm, along, distance, x.size))
                return slopes[0], slopes[1] * across / jnp.where(apart, distance, 1)

            if x.size == 1:
                gradients = self.gradients(x[None], coefficients)[0]
                return gradients[:, 0] * axis[0], jnp.zeros_like(gradients)
            radial, tangential = jax.vmap(parts)(self.centres)
            return matrix_product(radial[None], weights)[0], matrix_product(weights.T, tangential)

        return self._each(at, X)

    def _weighted(self, X: Points, weights: Inexact[Array, "N l"]) -> Inexact[Array, "q l"]:
        """k(X, c) · weights."""
        return self._each(lambda x: matrix_product(self.kernel.pairwise(x[None], self.centres), weights)[0], X)

    def _each(self, function: Callable, X: Points):
        """`function` at each of many points."""
        return in_batches(function, X, len(self.centres) * self.kernel.floats_per_pair(self.centres.shape[1:]))


class Representers(Span):
    """k(x, c_i), one for each centre."""

    def after(self, Z: Observations) -> Span:
        """Those of all centres, or of slopes too where they are observed at Z."""
        return span_of(self.kernel, Z, Observations(self.centres))

    def weights(self, coefficients: Coefficients) -> Inexact[Array, "N C"]:
        """The coefficients."""
        return coefficients


class Reduced(Span):
    """Combinations of k(x, c_i), the columns of a basis B.

    What depends on x only is computed once for any number of sets of coefficients (under `jax.vmap` over them), and
    every further set costs p or p² for each point.
    """

    basis: Float[Array, "N p"]

    def after(self, Z: Observations) -> "Reduced":
        """With a column of its own for each observation."""
        both = jax.scipy.linalg.block_diag(jnp.eye(Z.number, dtype=self.centres.dtype), self.basis)
        return Reduced(self.kernel, jnp.concatenate([Z.points, self.centres]), both)

    def weights(self, coefficients: Coefficients) -> Inexact[Array, "N C"]:
        """B · coefficients."""
        return matrix_product(self.basis, coefficients)

    def values(self, X: Points, coefficients: Coefficients) -> Inexact[Array, "q C"]:
        """Those of the columns, combined."""
        return matrix_product(self._weighted(X, self.basis), coefficients)

    def squared_gradient_norms(self, X: Points, coefficients: Coefficients) -> Inexact[Array, "q C"]:
        """‖R · coefficients‖², R of a QR decomposition of the columns' gradients: their Gram matrix would cancel."""

        def at(x):
            gradients = self.kernel.gradient_products(x, self.centres, self.basis)
            return gradients.reshape(len(gradients), -1)

        floats = self.kernel.floats_per_product(self.centres.shape[1:], self.basis.shape[1])
        triangles = jax.lax.map(_triangle, in_batches(at, X, len(self.centres) * floats))
        # One point after the other: all at once would keep p numbers for each point and set of coefficients.
        return jax.lax.map(lambda triangle: jnp.sum(matrix_product(coefficients.T, triangle.T) ** 2, axis=1), triangles)


class Functionals(Span):
    """k(x, ·) observed: of each set of observations the values at its points, the centres, and then slopes there."""

    observed: tuple[Observations, ...]

    @property
    def of_values(self) -> bool:
        """There are."""
        return False

    def after(self, Z: Observations) -> Span:
        """With one more set."""
        return span_of(self.kernel, Z, *self.observed)

    def _dual(self, coefficients: Coefficients) -> tuple[Inexact[Array, "N C"], Inexact[Array, "N C D"]]:
        """Weights and slopes, `Observations.dual` of each set."""
        ends = np.cumsum([part.number for part in self.observed])
        sets = zip(self.observed, jnp.split(coefficients, ends[:-1]), strict=True)
        weights, slopes = zip(*(part.dual(own) for part, own in sets), strict=True)
        return jnp.concatenate(weights), jnp.concatenate(slopes)

    def weights(self, coefficients: Coefficients) -> Inexact[Array, "N C"]:
        """Those of values."""
        return self._dual(coefficients)[0]

    def slopes(self, coefficients: Coefficients) -> Inexact[Array, "N C D"]:
        """R̃ᵀ times those of slopes."""
        return self._dual(coefficients)[1]

    def values(self, X: Points, coefficients: Coefficients) -> Inexact[Array, "q C"]:
        """f at many points."""
        weights, slopes = self._dual(coefficients)

        def at(x):
            values = matrix_product(self.kernel.pairwise(x[None], self.centres), weights)[0]
            derivatives = jax.vmap(lambda centre: jax.grad(self.kernel.evaluate)(centre, x).ravel())(self.centres)
            return values + jnp.einsum("icd,id->c", slopes, derivatives, precision="highest")

        return self._each(at, X)

    def gradients(self, X: Points, coefficients: Coefficients) -> Inexact[Array, "q C ..."]:
        """∇f at many points."""
        duals = self._dual(coefficients)

        def at(x):
            def term(centre, weights, directions):
                """Σ over outputs is left to `jax.vmap`: ∇_x (w k + v·∂_c k), one for each output."""

                def along(point, direction):
                    return jax.jvp(lambda c: self.kernel.evaluate(point, c), (centre,), (direction,))[1]

                bent = jax.vmap(lambda direction: jax.grad(along)(x, direction.reshape(x.shape)))(directions)
                return jnp.tensordot(weights, jax.grad(self.kernel.evaluate)(x, centre), axes=0) + bent

            return jnp.sum(jax.vmap(term)(self.centres, *duals), axis=0)

        return self._each(at, X)

    def radial_and_tangential_gradients(self, X: Points, coefficients: Coefficients) -> tuple[Array, Array]:
        """Split after the gradient was added up."""

        def split(x, gradients):
            axis = x / jnp.sqrt(jnp.sum(x * x))
            radial = matrix_product(gradients, axis[:, None])
            return radial[:, 0], gradients - radial * axis[None]

        return jax.vmap(split)(X, self.gradients(X, coefficients))


class WithConstant(Span):
    """Other functions, and the constant 1, whose coefficients come last."""

    others: Span

    def __init__(self, others: Span):
        self.kernel, self.centres, self.others = others.kernel, others.centres, others

    @property
    def of_values(self) -> bool:
        """As the others."""
        return self.others.of_values

    def after(self, Z: Observations) -> "WithConstant":
        """Representers before the others."""
        return WithConstant(self.others.after(Z))

    def weights(self, coefficients: Coefficients) -> Inexact[Array, "N C"]:
        """Those of the others."""
        return self.others.weights(coefficients[:-1])

    def slopes(self, coefficients: Coefficients) -> Inexact[Array, "N C D"]:
        """Those of the others."""
        return self.others.slopes(coefficients[:-1])

    def expanded(self, coefficients: Coefficients) -> "tuple[WithConstant, Coefficients]":
        """With the others expanded."""
        others, weights = self.others.expanded(coefficients[:-1])
        return WithConstant(others), jnp.concatenate([weights, coefficients[-1:]])

    def values(self, X: Points, coefficients: Coefficients) -> Inexact[Array, "q C"]:
        """Those of the others, and the constant."""
        return self.others.values(X, coefficients[:-1]) + coefficients[-1:]

    def gradients(self, X: Points, coefficients: Coefficients) -> Inexact[Array, "q C ..."]:
        """Those of the others."""
        return self.others.gradients(X, coefficients[:-1])

    def squared_gradient_norms(self, X: Points, coefficients: Coefficients) -> Inexact[Array, "q C"]:
        """Those of the others."""
        return self.others.squared_gradient_norms(X, coefficients[:-1])

    def radial_and_tangential_gradients(self, X: Points, coefficients: Coefficients) -> tuple[Array, Array]:
        """Those of the others."""
        return self.others.radial_and_tangential_gradients(X, coefficients[:-1])


def span_of(kernel: Kernel, *observed: Observations) -> Span:
    """k(x, ·) of some sets of observations, one after the other."""
    centres = jnp.concatenate([part.points for part in observed])
    sloped = any(part.slopes for part in observed)
    return Functionals(kernel, centres, observed) if sloped else Representers(kernel, centres)


class KernelExpansion(eqx.Module):
    """f(x) = Σ_i k(x, c_i) w_i + v_i·∂_c k(x, c_i): a span, and coefficients in it.

    Attributes:
        span: what depends on x.
        coefficients: what depends on m, λ and t, shape (p, C); complex for complex ridges.
    """

    span: Span
    coefficients: Inexact[Array, "p C"]

    @property
    def kernel(self) -> Kernel:
        """k."""
        return self.span.kernel

    @property
    def centres(self) -> Float[Array, "N ..."]:
        """c, shape (N, ...)."""
        return self.span.centres

    def all_weights(self) -> Inexact[Array, "N C"]:
        """w, one row for each centre."""
        return self.span.weights(self.coefficients)

    def slopes(self) -> Inexact[Array, "N C D"]:
        """v for each centre and output, the axes of a point flattened; 0 where values alone are observed."""
        return self.span.slopes(self.coefficients)

    def values(self, X: Float[Array, "q ..."]) -> Inexact[Array, "q C"]:
        """f at many points."""
        return self.span.values(X, self.coefficients)

    def gradients(self, X: Float[Array, "q ..."]) -> Float[Array, "q C ..."]:
        """∇f at many points."""
        return self.span.gradients(X, self.coefficients)

    def squared_gradient_norms(self, X: Float[Array, "q ..."]) -> Float[Array, "q C"]:
        """‖∇f‖² at many points."""
        return self.span.squared_gradient_norms(X, self.coefficients)

    def radial_and_tangential_gradients(
        self, X: Float[Array, "q d"]
    ) -> tuple[Float[Array, "q C"], Float[Array, "q C d"]]:
        """The derivative along x/‖x‖ and the rest of the gradient, at many points x ≠ 0.

        For rotation-invariant kernels.  Each kernel is evaluated in a frame whose first axis is x: there the two
        parts are separate coordinates, so a tangential part 1e-9 of the radial one keeps its digits; with slopes the
        gradient is split after it was added up.
        """
        return self.span.radial_and_tangential_gradients(X, self.coefficients)

    def expanded(self) -> "KernelExpansion":
        """The same function, with a weight for each centre where it is one of values: the cheaper for one function."""
        return KernelExpansion(*self.span.expanded(self.coefficients))


def pair_in_plane(
    kernel: Kernel, norm: Array, along: Array, across: Array, coordinates: int
) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
    """A point on the first axis, ‖x‖ from the origin, and another `along` beyond it and `across` the axis.

    Where the kernel allows it the first is moved to the origin: added to ‖x‖ a small difference loses its digits.
    """
    here = jnp.zeros(coordinates, norm.dtype)
    if not kernel.translation_invariant:
        here = here.at[0].set(norm)
    return here, here.at[0].add(along).at[1].set(across)


def _triangle(rows: Float[Array, "p D"]) -> Float[Array, "p p"]:
    """R with RᵀR = rows · rowsᵀ, to the accuracy of a QR decomposition, by modified Gram–Schmidt.

    On a CPU a hundred small LAPACK calls between matrix products cost as much as the products.
    """

    def eliminate(rest, j):
        norm = jnp.sqrt(jnp.sum(rest[j] ** 2))
        direction = rest[j] / jnp.where(norm > 0, norm, 1)
        coefficients = matrix_product(rest, direction[:, None])
        return rest - coefficients * direction[None], coefficients[:, 0]

    return jax.lax.scan(eliminate, rows, jnp.arange(len(rows)))[1]
