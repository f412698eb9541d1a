"""Values and slopes under the RBF kernel in textbook form: what checks of counterexamples solve with NumPy alone."""

import numpy as np

__all__ = ["ROUNDING", "covariances", "grid", "penalised_fit", "rounding", "seen_at"]

_EPS = float(np.finfo(float).eps)

ROUNDING = "10 · eps · condition number, times the size of the numbers"
"""What `rounding` is."""


def covariances(P: np.ndarray, Q: np.ndarray, ell: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k, ∂_q k and ∂_p ∂_qᵀ k of every pair, derivatives one after the other in rows and columns."""
    (n, d), q = P.shape, len(Q)
    away = (P[:, None] - Q[None]) / ell**2
    k = np.exp(-0.5 * ell**2 * np.sum(away**2, axis=2))
    first = k[:, :, None] * away
    second = k[:, :, None, None] * (np.eye(d) / ell**2 - away[..., :, None] * away[..., None, :])
    return k, first.reshape(n, q * d), second.transpose(0, 2, 1, 3).reshape(n * d, q * d)


def penalised_fit(
    X: np.ndarray, y: np.ndarray, rho: float, penalty: float, weights: np.ndarray | None = None, ell: float = 1.0
) -> np.ndarray:
    """Coefficients of values and slopes that solve T1's system, for points that count by their weights; M = I."""
    n, d = X.shape
    weights = np.ones(n) if weights is None else weights
    K, K01, K11 = covariances(X, X, ell)
    if penalty == 0:
        return np.append(np.linalg.solve(K + np.diag(rho / weights), y), np.zeros(n * d))
    noise = np.append(rho / weights, np.repeat(rho / (penalty * weights), d))
    both = np.block([[K, K01], [K01.T, K11]]) + np.diag(noise)
    return np.linalg.solve(both, np.append(y, np.zeros(n * d)))


def seen_at(x: np.ndarray, X: np.ndarray, coefficients: np.ndarray, ell: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """f(x), (q,), and ∇f(x), (q, d), of coefficients of values and slopes at X."""
    k, first, second = covariances(x, X, ell)
    _, back, _ = covariances(X, x, ell)
    values = np.concatenate([k, first], axis=1) @ coefficients
    gradients = np.concatenate([back.T, second], axis=1) @ coefficients
    return values, gradients.reshape(x.shape)


def rounding(X: np.ndarray, y: np.ndarray, rho: float, penalty: float, weight: float = 1.0, ell: float = 1.0) -> float:
    """Of values and slopes of that fit: 10 · eps · condition number · ‖y‖, points counted up to a weight."""
    K, K01, K11 = covariances(X, X, ell)
    both = np.block([[K, penalty**0.5 * K01], [penalty**0.5 * K01.T, penalty * K11]])
    return 10 * _EPS * (1 + weight * float(np.linalg.norm(both, 2)) / rho) * float(np.linalg.norm(y))


def grid(spacing: float, reach: float, dimension: int) -> np.ndarray:
    """Points of a cubic grid about the origin, the origin among them."""
    axis = spacing * np.arange(-int(reach / spacing), int(reach / spacing) + 1)
    return np.stack(np.meshgrid(*[axis] * dimension, indexing="ij"), axis=-1).reshape(-1, dimension)
