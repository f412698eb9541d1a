"""T8: what a gradient penalty raises is yᵀ(I − H)y, and not always the residual."""

import numpy as np

import kpoison as kp
from theory_checks.catalogue import STATEMENTS
from theory_checks.hermite import ROUNDING, covariances, penalised_fit, rounding, seen_at
from theory_checks.record import Panel, Record, compare, compare_signs, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

# The counterexample: three points on a line, RBF kernel with ℓ = 1.
_X = np.array([[0.0], [0.7], [2.0]])
_Y = -np.array([0.561, 0.552, 0.617])
_RIDGE = 0.01
_RHO = len(_X) * _RIDGE
_PENALTIES = np.array([0.0, 0.02, 0.1, 0.5])
_RESIDUALS = np.array([6.34e-4, 5.25e-4, 3.95e-4, 3.71e-4])  # of the theory, to three digits
_SIDE, _RING = 4.0, 12


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """The residual that falls, its derivative, what rises for every y, and when the residual does too."""
    if setting.kernel_name != "rbf":
        return None
    law = []
    for penalty in _PENALTIES:
        clean = kp.fit(kp.kernels.RBF(1.0), _X, _Y, gradient_penalty=penalty)
        law.append(_Y - np.asarray(laws.predict(clean, _X, _RIDGE)))
    residuals = np.sum(np.square(law), axis=1)
    solved = [_solved(penalty) for penalty in _PENALTIES]
    brute = np.array([squared for squared, _ in solved])
    optimum = np.array([value for _, value in solved])
    error = np.array([rounding(_X, _Y, _RHO, penalty) for penalty in _PENALTIES])
    fall = np.array([_slope_of_residual(penalty) for penalty in _PENALTIES[1:]])
    rises = np.concatenate([np.diff(values) for values in (law @ _Y, *_bounds().T)])
    commuting = [_least_anticommutator(*_linear()), _least_anticommutator(*_ring())]
    signs = [np.all(np.diff(residuals) < 0), np.all(rises > 0), *(value > -1e-12 for value in commuting)]
    signs.append(_least_anticommutator(*covariances(_X, _X)) < 0)
    comparisons = [
        compare("‖y − f(X)‖²", "refit", residuals, brute, 2 * error * np.sqrt(brute) + error**2, ROUNDING),
        compare("the same, to the digits printed", "closed form", residuals, _RESIDUALS, 5.1e-7, "half a digit"),
        compare("yᵀ(I − H)y, twice n times T1's optimum", "refit", law @ _Y, optimum, 10 * error, ROUNDING),
        compare(
            "its derivative 2rᵀ(K̃ + ρ)⁻¹Pr",
            "closed form",
            fall,
            [_residual(penalty + 1e-30j).imag / 1e-30 for penalty in _PENALTIES[1:]],
            1e-11 * np.abs(fall),
            "a complex step, to rounding",
        ),
        compare_signs(
            "the residual falls here; yᵀ(I − H)y, ‖I − H‖_F and ‖I − H‖ rise; (K̃ + ρ)⁻¹P + P(K̃ + ρ)⁻¹ is positive "
            "for a linear kernel and on a ring, and not here",
            signs,
        ),
    ]
    values = ", ".join(f"{value:.3g} at γ = {penalty:g}" for penalty, value in zip(_PENALTIES, residuals, strict=True))
    fine = np.append(0.0, np.geomspace(1e-3, 10, 40))
    parts = np.array([_solved(penalty) for penalty in fine])
    return setting.record(
        STATEMENTS["T8"],
        comparisons,
        [
            "the paper says that the training residual rises with the penalty; what rises for every y is fit plus "
            f"ridge plus penalty: on three points of a line ‖y − f(X)‖² = {values}, while yᵀ(I − H)y goes from "
            f"{law[0] @ _Y:.4g} to {law[-1] @ _Y:.4g}",
        ],
        [
            Panel(
                "Three points on a line, RBF",
                "γ/ℓ²",
                "over its value at γ = 0",
                [
                    curve("‖y − f(X)‖²", "line", fine[1:], parts[1:, 0] / parts[0, 0]),
                    curve("yᵀ(I − H)y", "dashed", fine[1:], parts[1:, 1] / parts[0, 1]),
                    curve("‖y − f(X)‖², law", "dots", _PENALTIES[1:], residuals[1:] / residuals[0]),
                ],
                yscale="linear",
            )
        ],
        kernel="RBF(1)",
        data="three points",
        ridge=_RIDGE,
        n_c=len(_X),
        d=1,
    )


def _solved(penalty: float) -> tuple[float, float]:
    """‖y − f(X)‖², and with ρ‖f‖² and γ Σ‖∇f(x_i)‖² added to it, from T1's system."""
    coefficients = penalised_fit(_X, _Y, _RHO, penalty)
    values, slopes = seen_at(_X, _X, coefficients)
    squared = float(np.sum((_Y - values) ** 2))
    norm = float(coefficients @ np.append(values, slopes))
    return squared, squared + _RHO * norm + penalty * float(np.sum(slopes**2))


def _bent(K: np.ndarray, K01: np.ndarray, K11: np.ndarray, rho: float, penalty) -> tuple[np.ndarray, np.ndarray]:
    """K̃ and P = −dK̃/dγ, for complex γ too."""
    seen = np.linalg.solve(penalty * K11 + rho * np.eye(len(K11)), K01.T)
    return K - penalty * K01 @ seen, rho * seen.T @ seen


def _residual(penalty) -> complex:
    K, _ = _bent(*covariances(_X, _X), _RHO, penalty)
    r = _RHO * np.linalg.solve(K + _RHO * np.eye(len(_X)), _Y)
    return complex(r @ r)


def _slope_of_residual(penalty: float) -> float:
    K, P = _bent(*covariances(_X, _X), _RHO, penalty)
    system = K + _RHO * np.eye(len(_X))
    r = _RHO * np.linalg.solve(system, _Y)
    return float(2 * r @ np.linalg.solve(system, P @ r))


def _bounds() -> np.ndarray:
    """‖I − H‖_F and ‖I − H‖ at each γ."""
    found = []
    for penalty in _PENALTIES:
        K, _ = _bent(*covariances(_X, _X), _RHO, penalty)
        left = _RHO * np.linalg.inv(K + _RHO * np.eye(len(_X)))
        found.append([np.linalg.norm(left), np.linalg.norm(left, 2)])
    return np.array(found)


def _least_anticommutator(K: np.ndarray, K01: np.ndarray, K11: np.ndarray) -> float:
    """The least eigenvalue of (K̃ + ρ)⁻¹P + P(K̃ + ρ)⁻¹ at γ = 0.1: below 0 the residual falls for some y."""
    bent, P = _bent(K, K01, K11, _RHO, 0.1)
    product = np.linalg.solve(bent + _RHO * np.eye(len(K)), P)
    return float(np.linalg.eigvalsh(product + product.T)[0])


def _linear() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of the linear kernel x·z on points in three dimensions."""
    X = np.random.default_rng(8).normal(size=(6, 3))
    return X @ X.T, np.kron(np.ones((1, 6)), X), np.kron(np.ones((6, 6)), np.eye(3))


def _ring() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of the RBF kernel summed over the images of a ring, at uniform points."""
    X = _SIDE / _RING * np.arange(_RING)[:, None]
    images = [covariances(X, X + _SIDE * shift) for shift in range(-4, 5)]
    K, K01, K11 = (np.sum(blocks, axis=0) for blocks in zip(*images, strict=True))
    return K, K01, K11
