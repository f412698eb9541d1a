"""The metric M of a gradient penalty (γ/2n) Σ ‖∇f(x_i)‖²_M: its checks and its root."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._failures import checked_result
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
    scale = jnp.sqrt(jnp.asarray(penalty, dtype))
    if metric is None:
        return scale * jnp.eye(size, dtype=dtype)
    library: Any = np if is_concrete(metric) else jnp
    values, vectors = library.linalg.eigh(metric)
    if is_concrete(metric):
        kept = values > _rounding(values)
        values, vectors = values[kept], vectors[:, kept]
    return scale * jnp.sqrt(jnp.maximum(values, 0))[:, None] * vectors.T
