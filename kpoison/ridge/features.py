"""The feature space of a kernel as coordinates, so that a defence acts on it as on a network's features."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._failures import without_derivative
from kpoison._linear_algebra import eigh
from kpoison.kernels.base import Kernel, check_kernel
from kpoison.ridge.gram import gram_matrix

__all__ = ["kernel_features"]

_CONSTANT = "kernel_features have no derivative: they are principal axes; K(X, X) itself, kernel(X), has"


def kernel_features(kernel: Kernel, X: Num[ArrayLike, "n ..."]) -> Float[Array, "n n"]:
    """Coordinates Φ of points in the kernel's feature space, up to a rotation of it: ΦΦᵀ = K(X, X).

    Distances, centroids, principal components and clusters of the rows are those of φ(x_i) in the reproducing kernel
    Hilbert space.  The columns are its principal axes, not centred, the largest first.

    Without derivatives: the axes turn by themselves where two eigenvalues meet, as those of clones do at 0.

    Args:
        kernel: k.
        X: points, shape (n, d), or (n, height, width, channels) for a kernel of images; n of a few thousand, as the
            Gram matrix is decomposed, O(n³).

    Raises:
        TypeError: where a derivative is asked for.
        TypeError, ValueError: for points that do not fit the kernel.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> features = kernel_features(kp.kernels.Linear(), jnp.array([[3.0, 4.0], [0.0, 1.0]]))
    >>> bool(jnp.allclose(features @ features.T, jnp.array([[25.0, 4.0], [4.0, 1.0]]), rtol=1e-5))
    True
    """
    check_kernel("kernel", kernel)
    X = kernel.points("X", X)
    eigenvalues, vectors = eigh(without_derivative(gram_matrix(kernel, X), _CONSTANT))
    # Rounding makes the smallest ones negative.
    return (vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))[None])[:, ::-1]
