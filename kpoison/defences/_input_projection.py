"""Inputs without their components along the leading eigenvectors of the input curvature: a remedy without training."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._linear_algebra import matrix_product
from kpoison._validation import boundary, check_finite, check_floating, check_integers, public
from kpoison.curvature import fisher, input_hessian, overlap, top_eigenpairs
from kpoison.curvature.losses import Loss

__all__ = ["InputProjection", "input_projection"]


class InputProjection(eqx.Module):
    """x ↦ x − VᵀV(x − c): the components along the rows of V become those of c.

    Attributes:
        values: the eigenvalues that belong to the directions, descending, shape (k,).
        directions: V, orthonormal rows, shape (k, D).
        centre: c, of the shape of a point.
    """

    values: Float[Array, " k"]
    directions: Float[Array, "k D"]
    centre: Float[Array, "..."]

    @public
    def __call__(self, x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """The inputs, projected.

        Args:
            x: one point or several, shape (..., d) or (..., height, width, channels).

        Raises:
            TypeError, ValueError: where x is no floating-point array of such points, or not finite.
        """
        x = check_floating("x", x)
        shape = self.centre.shape
        if x.ndim < len(shape) or x.shape[x.ndim - len(shape) :] != shape:
            raise ValueError(f"x must hold points of shape {shape}, got {x.shape}")
        check_finite("x", x)
        V, centre = self.directions.astype(x.dtype), self.centre.astype(x.dtype).reshape(1, -1)
        flat = x.reshape(-1, centre.size)
        return (flat - matrix_product(matrix_product(flat - centre, V.T), V)).reshape(x.shape)

    @public
    def left(self, displacement: Float[ArrayLike, "..."]) -> Float[Array, ""]:
        """1 − Σ cos²(v_j, u): the share of the squared length of a trigger's displacement u that gets through.

        Args:
            displacement: u, of any length but 0, of the shape of a point, or flattened.

        Raises:
            TypeError, ValueError: where u is no floating-point array of one number for each coordinate, or is 0.
        """
        return 1 - overlap(self.directions, displacement).summed[-1]


def _check(arguments: dict[str, Any]) -> None:
    x = arguments["x"] = check_floating("x", arguments["x"])
    check_integers(arguments, k=1)
    if arguments["centre"] is not None:
        arguments["centre"] = check_floating("centre", arguments["centre"]).astype(x.dtype)
        if arguments["centre"].shape != x.shape[1:]:
            raise ValueError(f"centre must have the shape of a point, {x.shape[1:]}, got {arguments['centre'].shape}")
        check_finite("centre", arguments["centre"])


@boundary(_check)
def input_projection(
    f: Callable[[Array], Array],
    x: Float[ArrayLike, "q ..."],
    k: int = 1,
    *,
    targets: Num[ArrayLike, "q ..."] | None = None,
    loss: Loss = "squared",
    centre: Float[ArrayLike, "..."] | None = None,
) -> InputProjection:
    """Project inputs off the k leading eigenvectors of a predictor's input Fisher matrix or Hessian (arXiv 2505.15175).

    The predictor is left as it is and shown `projection(x)` in place of x.  Where an eigenvector is the trigger's
    direction u, the trigger is gone; else a linear predictor still sees the share `projection.left(u)` of its squared
    length.  What the eigenvectors hold of the classes is gone as well: of a linear predictor with one output the
    Fisher matrix has one eigenvector, its weights, without which it is constant.  Of a kernel predictor the law is
    exact: `kpoison.predict(clean, projection(x), ridge, poison)`, and Δf is `kpoison.efficacy` there.  To train anew as
    well, fit `projection(X)`.

    Args:
        f: a function of one point, as in `kpoison.curvature`.
        x: probes over which the matrix is averaged, such as the training set, shape (q, ...).
        k: how many eigenvectors.  Where the k-th eigenvalue equals the next the choice between them is arbitrary.
        targets: y at x, for the Hessian of the loss; None: the Fisher matrix.
        loss: "squared" or "softmax".
        centre: what becomes of the components: those of this point, such as the mean of the inputs.  By default 0, the
            orthogonal projection.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, and where f or its gradient is not finite;
            ValueError for a k beyond the eigenvalues that are above 0 by more than rounding.

    >>> import jax.numpy as jnp
    >>> projection = input_projection(lambda x: 3 * x[0] + 4 * x[1], jnp.zeros((1, 3)))
    >>> projection(jnp.array([4.0, -3.0, 1.0])).round(6).tolist()
    [4.0, -3.0, 1.0]
    >>> float(projection.left(jnp.array([1.0, 0.0, 0.0])).round(6))
    0.64
    """
    x = jnp.asarray(x)
    operator = fisher(f, x, loss=loss) if targets is None else input_hessian(f, x, targets, loss=loss)
    pairs = top_eigenpairs(operator, k)
    smallest, rounding = float(pairs.values[-1]), float(jnp.finfo(x.dtype).eps) * operator.dimension
    if not smallest > rounding * float(pairs.values[0]):
        above = int(jnp.sum(pairs.values > rounding * pairs.values[0]))
        raise ValueError(f"k must be at most the eigenvalues above 0, {above} of the {k} leading ones, got {k}")
    centre = jnp.zeros(x.shape[1:], x.dtype) if centre is None else jnp.asarray(centre)
    return InputProjection(pairs.values, pairs.vectors, centre)
