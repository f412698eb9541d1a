"""T12: on uniform data a penalty leaves less efficacy, and hides what it leaves in a wider near-clone regime."""

import numpy as np

from theory_checks.catalogue import STATEMENTS
from theory_checks.hermite import covariances
from theory_checks.record import Comparison, Panel, Record, compare, compare_signs, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_EPS = float(np.finfo(float).eps)
# A ring and a torus in units of ℓ, the same number of points on both.
_RING, _RING_POINTS = 12.0, 81
_TORUS, _TORUS_POINTS = 4.0, 9
_PENALTIES = np.array([0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0])  # in units of ℓ²
_R = 1e-3
_IMAGES = 3


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Efficacy of one label and q near it, from the multiplier and by refits on uniform grids."""
    if setting.kernel_name != "rbf":
        return None
    comparisons, findings, curves = [], [], []
    for name, torus, ridge in (
        ("ring", _Torus(_RING, _RING_POINTS, 1), 1e-3),
        ("torus", _Torus(_TORUS, _TORUS_POINTS, 2), 1e-2),
    ):
        where = f"{name}, λ = {ridge:g}"
        degrees, lengths, found = torus.by_law(setting, laws, ridge)
        comparisons += torus.compared(where, ridge, found)
        rises = np.array([degrees[:-1] > degrees[1:], lengths[1:] > lengths[:-1]])
        comparisons.append(
            compare_signs(
                f"df falls and ℓ_nc rises with γ, {where}", rises, reason="exact; measured in sweeps, not proved"
            )
        )
        findings.append(
            f"{where}: from γ = 0 to {_PENALTIES[-1]:g} ℓ² the efficacy df/n of one label falls from "
            f"{degrees[0] / torus.n:.3g} to {degrees[-1] / torus.n:.3g}, and ℓ_nc, below which it hides, rises from "
            f"{lengths[0]:.3g} ℓ to {lengths[-1]:.3g} ℓ"
        )
        curves += [
            curve(f"df/n, {where}", "line", _PENALTIES[1:], degrees[1:] / torus.n),
            curve(f"ℓ_nc/ℓ, {where}", "dashed", _PENALTIES[1:], lengths[1:]),
        ]
    return setting.record(
        STATEMENTS["T12"],
        comparisons,
        [
            "the paper says that the penalty is a filter, ℓ_eff² = ℓ² + cκ; the same filter hides what it leaves",
            *findings,
        ],
        [Panel("One label on a uniform grid", "γ/ℓ²", "df/n; ℓ_nc/ℓ", curves)],
        data="ring and torus",
        n_c=_RING_POINTS,
        d=1,
    )


class _Torus:
    """A uniform grid of a torus, ℓ = 1, and the RBF kernel summed over images.

    Attributes:
        n: points.
        volume: of the torus.
        omega: frequencies, (n, d).
    """

    def __init__(self, side: float, number: int, dimension: int):
        self.side, self.dimension, self.n, self.volume = side, dimension, number**dimension, side**dimension
        axes = np.meshgrid(*[side / number * np.arange(number)] * dimension, indexing="ij")
        self.points = np.stack(axes, axis=-1).reshape(-1, dimension)
        waves = np.meshgrid(*[2 * np.pi * np.fft.fftfreq(number, side / number)] * dimension, indexing="ij")
        self.omega = np.stack(waves, axis=-1).reshape(-1, dimension)

    def by_law(self, setting: Setting, laws: Laws, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """df and ℓ_nc/ℓ at each penalty, with efficacy and q at r beside them."""
        ell = float(setting.length_scale)
        volume, omega = self.volume * ell**self.dimension, self.omega / ell
        degrees, lengths = [], []
        for penalty in _PENALTIES * ell**2:
            filtered = laws.multiplier(setting.kernel, omega, ridge, penalty, volume)
            degrees.append(float(np.sum(np.asarray(filtered))))
            v = np.eye(self.dimension)[0]
            nearest = laws.near_clone_length_scale(setting.kernel, omega, v, ridge, penalty, volume)
            lengths.append(float(nearest) / ell)
        degrees, lengths = np.array(degrees), np.array(lengths)
        return degrees, lengths, np.array([degrees / self.n, _R**2 / lengths**4]).T

    def compared(self, where: str, ridge: float, found: np.ndarray) -> list[Comparison]:
        """With a refit that has one label of 1 at the origin."""
        brute = np.array([self._one_label(ridge, penalty) for penalty in _PENALTIES])
        # Beyond the highest frequency of the grid the kernel has this share; and r⁴ beside r².
        highest = np.pi * (self.n ** (1 / self.dimension)) / self.side
        aliases = 4 * self.n * np.exp(-0.5 * highest**2) / ridge
        return [
            compare(
                f"{name}, {where}",
                "refit",
                found[:, column],
                brute[:, column],
                (aliases * (1 + highest**2) + extra) * np.abs(brute[:, column]) + 1e-9 * np.abs(brute[:, column]),
                "aliases beyond the grid's frequencies, the order after r², 1e-9 for rounding",
            )
            for column, name, extra in (
                (0, "efficacy of one label, df/n", 0.0),
                (1, "q near it", 10 * highest**2 * _R**2),
            )
        ]

    def _one_label(self, ridge: float, penalty: float) -> tuple[float, float]:
        """Its efficacy at its own place, and ‖∇Δf‖²/Δf² at r along the first axis."""
        K, K01, K11 = self._blocks(self.points, self.points)
        rho, d = self.n * ridge, self.dimension
        target = np.append(1.0, np.zeros(len(K) - 1))
        if penalty == 0:
            c = np.append(np.linalg.solve(K + rho * np.eye(len(K)), target), np.zeros(len(K11)))
        else:
            noise = np.append(np.full(len(K), rho), np.full(len(K11), rho / penalty))
            both = np.block([[K, K01], [K01.T, K11]]) + np.diag(noise)
            c = np.linalg.solve(both, np.append(target, np.zeros(len(K11))))
        at = np.stack([np.zeros(d), _R * np.eye(d)[0]])
        k, first, second = self._blocks(at, self.points)
        back = self._blocks(self.points, at)[1]
        values = np.concatenate([k, first], axis=1) @ c
        slopes = (np.concatenate([back.T, second], axis=1) @ c).reshape(at.shape)
        return float(values[0]), float(np.sum(slopes[1] ** 2) / values[1] ** 2)

    def _blocks(self, P: np.ndarray, Q: np.ndarray) -> tuple[np.ndarray, ...]:
        """Summed over the images of the torus."""
        axis = self.side * np.arange(-_IMAGES, _IMAGES + 1)
        shifts = np.stack(np.meshgrid(*[axis] * self.dimension, indexing="ij"), axis=-1).reshape(-1, self.dimension)
        images = [covariances(P, Q + shift) for shift in shifts]
        return tuple(np.sum(blocks, axis=0) for blocks in zip(*images, strict=True))
