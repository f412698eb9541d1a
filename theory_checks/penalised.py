"""Brute force for T1–T4: the theory's own system over values and slopes, poisons copied, solved or integrated."""

import dataclasses

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array

import kpoison as kp
from theory_checks.finite_width import in_their_span
from theory_checks.setting import Setting

__all__ = ["ODE_TOLERANCE", "ROUNDING", "Penalised", "PlainProblem", "Solved", "few_points", "penalised_pair"]

_EPS = float(np.finfo(float).eps)
ODE_TOLERANCE = 1e-8
"""Of an integration with 1e-10 per step, relative to the largest value."""

ROUNDING = "10 · eps · condition number, times the size of the sums"
"""What `Solved.rounding` is."""


def few_points(setting: Setting, number: int) -> Setting:
    """The setting on its first points; images in coordinates of the space they span, which changes no number."""
    X, location, direction = in_their_span(setting.X[:number], setting.location, setting.direction)
    scale = np.linalg.norm(location) / np.linalg.norm(setting.location)
    kernel, length_scale = setting.kernel, scale * setting.length_scale
    if hasattr(kernel, "length_scale"):
        kernel = eqx.tree_at(lambda k: k.length_scale, kernel, length_scale)
    return dataclasses.replace(
        setting,
        kernel=kernel,
        X=X,
        y=setting.y[:number],
        location=location,
        direction=direction,
        length_scale=length_scale,
        ridge=10 * setting.ridge,
    )


@eqx.filter_jit
def _blocks(kernel: kp.kernels.Kernel, P: Array, Q: Array) -> tuple[Array, Array, Array]:
    """k, ∂_q k and ∂_p ∂_qᵀ k of every pair, derivatives one after the other in rows and columns."""
    slope = jax.grad(kernel.evaluate, argnums=1)

    def pair(p, q):
        return kernel.evaluate(p, q), slope(p, q), jax.jacfwd(slope)(p, q).T

    k, first, second = jax.lax.map(lambda p: jax.vmap(lambda q: pair(p, q))(Q), P)
    n, q, d = first.shape
    return k, first.reshape(n, q * d), second.transpose(0, 2, 1, 3).reshape(n * d, q * d)


@dataclasses.dataclass(frozen=True)
class Solved:
    """A function Σ a k(·, x_i) + bᵀ∂k(·, x_i).

    Attributes:
        values, gradients: at the probes, shape (q,) and (q, d).
        rounding: of both, from the condition number; 0 for an integration, whose error is `ODE_TOLERANCE`.
        fit, norm, penalty: mean squared residual and slope of its training points, and ‖f‖².
    """

    values: np.ndarray
    gradients: np.ndarray
    rounding: float
    fit: float
    norm: float
    penalty: float


class Penalised:
    """The training problem on points with every copy of the poison among them.

    Attributes:
        number: of training points.
        gram: K̄ over their values and slopes.
        total: n, at least their number.
    """

    def __init__(self, setting: Setting, count: int, total: int, blocks: "_Blocks"):
        self.total, self.ridge, self.shape = total, setting.ridge, blocks.shape
        distinct = np.append(np.arange(len(setting.X)), np.full(count, len(setting.X)))
        d = self.shape[1]
        self.number = len(distinct)
        rows = np.append(distinct, len(setting.X) + 1 + (d * distinct[:, None] + np.arange(d)).ravel())
        self.targets = np.append(np.asarray(setting.y), np.full(count, setting.label))
        self.gram = blocks.gram[np.ix_(rows, rows)]
        self.on_values, self.on_gradients = blocks.on_values[:, rows], blocks.on_gradients[:, rows]

    def trained(self, penalty: float) -> Solved:
        """At the end of training: the theory's linear system (T1)."""
        rho, number = self.total * self.ridge, self.number
        slopes = len(self.gram) - number
        if penalty == 0:
            own = self.gram[:number, :number] + rho * np.eye(number)
            c = np.append(scipy.linalg.solve(own, self.targets, assume_a="pos"), np.zeros(slopes))
        else:
            noise = np.append(np.full(number, rho), np.full(slopes, rho / penalty))
            targets = np.append(self.targets, np.zeros(slopes))
            c = scipy.linalg.solve(self.gram + np.diag(noise), targets, assume_a="sym")
        # Rows scaled to equal noise, as the posterior has them.
        scale = self._scale(penalty)
        condition = 1 + np.linalg.norm(self.weighted_gram(penalty), 2) / rho
        size = max(np.linalg.norm(part * scale, axis=1).max() for part in (self.on_values, self.on_gradients))
        sizes = np.where(scale > 0, c / np.where(scale > 0, scale, 1), 0)
        return self._seen(c, float(10 * _EPS * condition * np.linalg.norm(sizes) * size))

    def flow(self, penalty: float, times: np.ndarray) -> list[Solved]:
        """Along training: ċ = −(1/n) W(K̄c − ȳ) − λc, W = diag(I, γ), integrated from 0 (T2)."""
        # Coefficients that do not move fill up to the size of the poisoned problem: one compiled program for both.
        own, size = len(self.gram), self.total * (1 + self.shape[1])
        gram, weights, targets = np.zeros((size, size)), np.zeros(size), np.zeros(size)
        gram[:own, :own], weights[:own] = self.gram, self._scale(penalty) ** 2
        targets[: self.number] = self.targets
        problem = (gram, weights, targets, self.total, self.ridge, times)
        found = _integrate(*(jnp.asarray(part) for part in problem))
        return [self._seen(np.asarray(c)[:own], 0.0) for c in found]

    def weighted_gram(self, penalty: float) -> np.ndarray:
        """R K̄ R with R = W^{1/2}, whose eigenvalues over n, plus λ, are the rates of contraction (T2)."""
        scale = self._scale(penalty)
        return scale[:, None] * self.gram * scale

    def _scale(self, penalty: float) -> np.ndarray:
        return np.append(np.ones(self.number), np.full(len(self.gram) - self.number, penalty**0.5))

    def _seen(self, c: np.ndarray, rounding: float) -> Solved:
        seen, number = self.gram @ c, self.number
        return Solved(
            self.on_values @ c,
            (self.on_gradients @ c).reshape(self.shape),
            rounding,
            float(np.mean((seen[:number] - self.targets) ** 2)),
            float(c @ seen),
            float(np.sum(seen[number:] ** 2) / number),
        )


@eqx.filter_jit
def _integrate(gram: Array, weights: Array, targets: Array, total: Array, ridge: Array, times: Array) -> Array:
    def velocity(t, c, arguments):
        return -weights * (gram @ c - targets) / total - ridge * c

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Dopri8(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=jnp.zeros_like(targets),
        saveat=diffrax.SaveAt(ts=times),
        # Interpolation between steps would be less exact than the steps.
        stepsize_controller=diffrax.ClipStepSizeController(
            diffrax.PIDController(rtol=1e-10, atol=1e-10 * jnp.max(jnp.abs(targets)) / total), step_ts=times
        ),
        max_steps=100_000,
    )
    assert solution.ys is not None
    return solution.ys


class _Blocks:
    """Values and slopes of the kernel between the clean points and ζ, and from them to the probes."""

    def __init__(self, setting: Setting, probes: Array):
        points = jnp.concatenate([setting.X, setting.location[None]])
        k, first, second = (np.asarray(block) for block in _blocks(setting.kernel, points, points))
        self.gram = np.block([[k, first], [first.T, second]])
        k, first, _ = (np.asarray(block) for block in _blocks(setting.kernel, probes, points))
        _, back, second = (np.asarray(block) for block in _blocks(setting.kernel, points, probes))
        self.on_values = np.concatenate([k, first], axis=1)
        self.on_gradients = np.concatenate([back.T, second.T], axis=1)
        self.shape = probes.shape


def penalised_pair(setting: Setting, count: int, probes: Array) -> tuple[Penalised, Penalised]:
    """The problem without and with the poison, both with n = n_c + m."""
    blocks, total = _Blocks(setting, probes), len(setting.X) + count
    return Penalised(setting, 0, total, blocks), Penalised(setting, count, total, blocks)


@dataclasses.dataclass(frozen=True)
class PlainProblem:
    """Clean data with their values and slopes under the kernel: K, K01 and K11, and what the theory makes of them.

    Attributes:
        K, K01, K11: covariances of values (n, n), of values and slopes (n, nd), and of slopes (nd, nd).
        y: targets, (n,).
        rho: ρ = nλ.
    """

    K: np.ndarray
    K01: np.ndarray
    K11: np.ndarray
    y: np.ndarray
    rho: float

    @classmethod
    def of(cls, kernel: kp.kernels.Kernel, X: Array, y: Array, ridge: float) -> "PlainProblem":
        """Those of points."""
        K, K01, K11 = (np.asarray(block) for block in _blocks(kernel, X, X))
        return cls(K, K01, K11, np.asarray(y), len(X) * float(ridge))

    def given_flat_slopes(self, penalty: float) -> np.ndarray:
        """K̃ = K − K01(K11 + (ρ/γ)I)⁻¹K10, for M = I; γ may be ∞."""
        if penalty == 0:
            return self.K
        return self.K - self.K01 @ scipy.linalg.solve(self._noisy(penalty), self.K01.T, assume_a="pos")

    def hat(self, penalty: float) -> np.ndarray:
        """H = K̃(K̃ + ρI)⁻¹."""
        bent = self.given_flat_slopes(penalty)
        return scipy.linalg.solve(bent + self.rho * np.eye(len(bent)), bent, assume_a="pos").T

    def bend(self, penalty: float) -> np.ndarray:
        """P = −dK̃/dγ = (ρ/γ²) K01 B⁻² K10, B = K11 + (ρ/γ)I; at γ = 0 its limit K01K10/ρ."""
        if penalty == 0:
            return self.K01 @ self.K01.T / self.rho
        seen = scipy.linalg.solve(self._noisy(penalty), self.K01.T, assume_a="pos")
        return self.rho / penalty**2 * seen.T @ seen

    def restricted_hat(self, penalty: float) -> np.ndarray:
        """K(K² + ρK + γK01K10)⁻¹K, the fit among Σ a_i k(·, x_i)."""
        system = self.K @ self.K + self.rho * self.K + penalty * self.K01 @ self.K01.T
        return self.K @ scipy.linalg.solve(system, self.K, assume_a="sym")

    def rounding(self, penalty: float) -> float:
        """10 · eps · the condition number of values and slopes with their noise, in units of equal noise."""
        return 10 * _EPS * self.steepest(penalty) * len(self.y) / self.rho

    def steepest(self, penalty: float) -> float:
        """The largest rate of the flow, of the matrix of values and slopes in units of equal noise: μ/n + λ (T2)."""
        scale = penalty**0.5
        both = np.block([[self.K, scale * self.K01], [scale * self.K01.T, penalty * self.K11]])
        return (float(np.linalg.norm(both, 2)) + self.rho) / len(self.y)

    def _noisy(self, penalty: float) -> np.ndarray:
        return self.K11 + self.rho / penalty * np.eye(len(self.K11))
