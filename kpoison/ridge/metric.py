"""The metric M of a gradient penalty (γ/2n) Σ ‖∇f(x_i)‖²_M: its checks and its root."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._failures import checked_result
from kpoison._linear_algebra import eigh, matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_finite, check_real, is_concrete

__all__ = ["checked_metric", "slope_operator"]


def checked_metric(metric: Any, size: int, dtype) -> Float[Array, "D D"] | Float[np.ndarray, "D D"] | None:
    """M, symmetric to the last bit; by NumPy where the numbers are known, which `jax.jit` would trace."""
    if metric is None:
        return None
    check_real("metric", metric)
    if jnp.shape(metric) != (size, size):
        raise ValueError(
            f"metric must have shape ({size}, {size}), one row per coordinate of a point, got {jnp.shape(metric)}"
        )
    check_finite("metric", metric)
    library: Any = np if is_concrete(metric) else jnp
    metric = library.asarray(metric, dtype)
    symmetric = 0.5 * (metric + metric.T)
    values = library.linalg.eigvalsh(symmetric)
    rounding, asymmetry = _rounding(values), abs(metric - metric.T).max()
    if is_concrete(metric):
        if asymmetry > rounding:
            raise ValueError(f"metric must be symmetric, got entries that differ by {asymmetry:.3g}")
        if values[0] < -rounding:
            raise ValueError(f"metric must be positive semi-definite, got an eigenvalue of {values[0]:.3g}")
        return symmetric
    checks = [
        (asymmetry > rounding, "metric is not symmetric"),
        (values[0] < -rounding, "metric is not positive semi-definite"),
    ]
    return checked_result(symmetric, checks)


def _rounding(eigenvalues):
    return 10 * len(eigenvalues) * jnp.finfo(eigenvalues.dtype).eps * abs(eigenvalues).max()


def slope_operator(penalty: Scalar, metric: Any, size: int, dtype) -> Float[Array, "r D"]:
    """R̃ = √γ R with RᵀR = M, without the rows that are known to be 0: of none without a penalty."""
    if is_concrete(penalty) and bool(np.asarray(penalty) == 0):
        return jnp.zeros((0, size), dtype)
    scale = _root_of_penalty(jnp.asarray(penalty, dtype))
    if metric is None:
        return scale * jnp.eye(size, dtype=dtype)
    if not is_concrete(metric):
        return scale * _root_of_metric(metric)
    values, vectors = np.linalg.eigh(metric)
    kept = values > _rounding(values)
    return scale * jnp.sqrt(jnp.asarray(values[kept]))[:, None] * vectors[:, kept].T


@jax.custom_jvp
def _root_of_penalty(penalty: Float[Array, ""]) -> Float[Array, ""]:
    """√γ.  What is made of it is a function of γ, but its own derivative at 0 is infinite: refused, in place of NaN."""
    return jnp.sqrt(penalty)


@_root_of_penalty.defjvp
def _root_of_penalty_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    root = _root_of_penalty(*primals)
    some = root > 0
    message = "gradient_penalty must be > 0 to be differentiated"
    slope = checked_result(0.5 / jnp.where(some, root, 1), [(~some, message)])
    return root, slope * tangents[0]


@jax.custom_jvp
def _root_of_metric(metric: Float[Array, "D D"]) -> Float[Array, "D D"]:
    """The symmetric root S of M, SS = M: its derivative divides by sums of roots, not by gaps of eigenvalues."""
    values, vectors = eigh(metric)
    return matrix_product(vectors * jnp.sqrt(jnp.maximum(values, 0))[None], vectors.T)


@_root_of_metric.defjvp
def _root_of_metric_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """S dS + dS S = dM, solved in M's eigenvectors; these are constants to autodiff, the equation is what it sees."""
    (metric,), (d_metric,) = primals, tangents
    root = _root_of_metric(metric)
    values, vectors = jax.lax.stop_gradient(eigh(jax.lax.stop_gradient(metric)))
    definite = values[0] > _rounding(values)
    message = "metric must be positive definite to be differentiated"
    roots = checked_result(jnp.sqrt(jnp.where(definite, values, 1)), [(~definite, message)])

    def solve(_: Any, right: Array) -> Array:
        rotated = matrix_product(matrix_product(vectors.T, right), vectors)
        return matrix_product(matrix_product(vectors, rotated / (roots[:, None] + roots[None])), vectors.T)

    def equation(x: Array) -> Array:
        return matrix_product(root, x) + matrix_product(x, root)

    return root, jax.lax.custom_linear_solve(equation, d_metric, solve, symmetric=True)
