"""T10: a gradient penalty does not see an isolated clone; it acts through the slopes of clean points near it."""

import jax.numpy as jnp
import numpy as np

import kpoison as kp
from theory_checks.catalogue import STATEMENTS
from theory_checks.hermite import ROUNDING, grid, penalised_fit, rounding, seen_at
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_EPS = float(np.finfo(float).eps)
_COUNT, _LABEL, _RIDGE = 3.0, -1.0, 1e-3
_PENALTIES = np.array([1e-3, 1.0, 1e3, 1e6])
_FAR, _R, _U = 60.0, 0.3, np.array([0.6, 0.8])
_RADII = np.array([3e-5, 1e-4, 3e-4])
# One poison in the middle of a grid, in units of ℓ.
_SIDE, _RHO = 9, 0.05
_SPACINGS = np.array([3.0, 2.0, 1.0, 0.5])
_LEFT = np.array([0.9998, 0.980, 0.386, 0.238])  # of the theory, to three digits


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Gain, Δf and Λ of an isolated clone under any penalty; of a cluster; of poisons among clean points."""
    if setting.kernel_name != "rbf":
        return None
    grids, finding, panel = _in_grids(laws)
    comparisons = [*_isolated(setting, laws), _cluster(), grids]
    if setting.scale == "full":
        comparisons.append(_with_a_slope(laws))
    return setting.record(
        STATEMENTS["T10"],
        comparisons,
        [
            "the paper says that the penalty contracts the poison's energy; on an isolated one it has no effect at all "
            f"up to γ = {_PENALTIES[-1]:g} ℓ²: no slope of the kernel at ζ is coupled to the value there",
            finding,
        ],
        [panel],
        kernel="RBF(1)",
        data="grids in the plane",
        ridge=_RIDGE,
        count=_COUNT,
        d=2,
    )


def _isolated(setting: Setting, laws: Laws) -> list[Comparison]:
    """Against the closed forms without a penalty."""
    X, _, _ = _around(1.0)
    y = np.random.default_rng([setting.seed, 10]).normal(size=len(X))
    zeta = np.array([_FAR, 0.0])
    x0, poison = jnp.asarray(zeta + _R * _U), kp.Poison(jnp.asarray(zeta), _LABEL, _COUNT)
    found = []
    for penalty in _PENALTIES:
        clean = kp.fit(kp.kernels.RBF(1.0), X, y, gradient_penalty=penalty)
        at_zeta, near = (laws.efficacy(clean, poison, x, _RIDGE) for x in (poison.location, x0))
        found.append([float(at_zeta) / _LABEL, float(near), float(laws.spike(clean, poison, x0, _RIDGE))])
    gain, near = _COUNT / (_rho(len(X)) + _COUNT), np.exp(-0.5 * _R**2)
    closed = np.array([gain, _LABEL * gain * near, (_R * gain * near) ** 2])
    reason = "20 · eps of the closed form without a penalty"
    return [
        compare(f"{name}, γ from 1e-3 to 1e6", "closed form", values, np.full(len(values), value), size, reason)
        for name, values, value, size in zip(
            ("S k(ζ, ζ) = Δf(ζ)/y_t", "Δf(x0)", "Λ(x0)"),
            np.array(found).T,
            closed,
            20 * _EPS * np.abs(closed),
            strict=True,
        )
    ]


def _rho(n: int) -> float:
    return (n + _COUNT) * _RIDGE


def _cluster() -> Comparison:
    """By refit: a pair at a distance ε to both sides of ζ feels O(ε²) of the penalty."""
    weights, labels, rho = np.full(2, _COUNT / 2), np.full(2, _LABEL), _rho(_SIDE**2 - 1)
    moved = []
    for radius in _RADII:
        Z = radius * np.array([[1.0, 0.0], [-1.0, 0.0]])
        with_it, without = (
            seen_at(_R * _U[None], Z, penalised_fit(Z, labels, rho, penalty, weights))[0][0] for penalty in (1.0, 0.0)
        )
        moved.append(abs(with_it - without))
    exponents = np.diff(np.log(moved)) / np.diff(np.log(_RADII))
    return compare(
        "exponent in ε of what the penalty changes for a centred cluster",
        "exponent",
        np.full(len(exponents), 2.0),
        exponents,
        # Slopes of the pair differ with a variance of 6 ε², beside a noise of 2ρ/(γm); 1e-15 of differences of 1e-10.
        20 * _COUNT / rho * _RADII[1:] ** 2 + 1e-4,
        "the next order, some 20 ε² γ m/ρ, and rounding of small differences",
    )


def _in_grids(laws: Laws) -> tuple[Comparison, str, Panel]:
    """Δf at ζ with a penalty over that without, ζ in the middle of a grid of clean points labelled 0."""
    found, brute, errors = [], [], []
    for spacing in _SPACINGS:
        X, points, y = _around(spacing)
        clean = kp.fit(kp.kernels.RBF(1.0), X, np.zeros(len(X)), gradient_penalty=1.0)
        poison = kp.Poison(jnp.zeros(2), 1.0, 1.0)
        without = _refitted(spacing, 0.0)
        found.append(float(laws.efficacy(clean, poison, jnp.zeros(2), _RHO / len(points))) / without)
        brute.append(_refitted(spacing, 1.0) / without)
        errors.append(2 * rounding(points, y, _RHO, 1.0) / without)
    fine = np.append(np.geomspace(0.4, 3.5, 12), _SPACINGS)
    fine.sort()
    values = ", ".join(f"{value:.4g} at {spacing:g} ℓ" for spacing, value in zip(_SPACINGS, found, strict=True))
    # To the theory's digits as well.
    tolerance = np.array(errors)
    return (
        compare(
            "Δf(γ = ℓ²)/Δf(0) in grids of clean points; to the digits printed",
            "refit",
            np.append(found, found),
            np.append(brute, _LEFT),
            np.append(tolerance, np.array([5.1e-5, 5.1e-4, 5.1e-4, 5.1e-4])),
            f"{ROUNDING}; half a digit",
        ),
        f"it acts through the slopes of clean points near it: of Δf at ζ it leaves {values} between clean points",
        Panel(
            "One poison among clean points, γ = ℓ²",
            "spacing of the clean points, in ℓ",
            "Δf(γ)/Δf(0)",
            [
                curve("refit", "line", fine, [_refitted(s, 1.0) / _refitted(s, 0.0) for s in fine]),
                curve("law", "dots", _SPACINGS, found),
            ],
            xscale="linear",
            yscale="linear",
        ),
    )


def _around(spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The grid without its middle, the same with ζ there, and labels 0 and 1 of these."""
    X = grid(spacing, (_SIDE // 2) * spacing * 1.001, 2)
    X = X[np.any(X != 0, axis=1)]
    return X, np.concatenate([X, np.zeros((1, 2))]), np.append(np.zeros(len(X)), 1.0)


def _refitted(spacing: float, penalty: float) -> float:
    _, points, y = _around(spacing)
    return float(seen_at(np.zeros((1, 2)), points, penalised_fit(points, y, _RHO, penalty))[0][0])


def _with_a_slope(laws: Laws) -> Comparison:
    """A kernel whose value at ζ is coupled to its slope there: for the linear one γ is a ridge of the clone."""
    zeta, x0, n = np.array([1.0, 2.0]), np.array([1.5, 1.0]), 4
    law, closed = [], []
    for penalty in (0.1, 1.0):
        clean = kp.fit(kp.kernels.Linear(), np.eye(2)[[0, 1, 0, 1]], np.zeros(n), gradient_penalty=penalty)
        poison = kp.Poison(jnp.asarray(zeta), _LABEL, _COUNT)
        law.append(float(laws.efficacy(clean, poison, jnp.asarray(x0), _RIDGE, law="isolated")))
        rho = (n + _COUNT) * _RIDGE
        closed.append(_LABEL * _COUNT * (zeta @ x0) / (rho + _COUNT * penalty + _COUNT * (zeta @ zeta)))
    error = 100 * _EPS * (1 + _COUNT * (zeta @ zeta + 1) / rho) * np.abs(closed)
    return compare(
        "a kernel with a slope at ζ, linear: Δf = y_t m ζ·x0/(ρ + mγ + m‖ζ‖²)",
        "closed form",
        law,
        closed,
        error,
        "100 · eps · condition number",
    )
