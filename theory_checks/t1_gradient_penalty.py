"""T1: the gradient-penalised predictor is conditioning on flat slopes; the poison's laws hold for it unchanged."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array

import kpoison as kp
from theory_checks.record import Panel, Record, Series, compare
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_POINTS = 40
_COUNT = 3
_R_OVER_L = np.array([0.0, 0.01, 0.1, 0.3, 1.0])
_PENALTIES = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])  # in units of ℓ²
_EPS = float(np.finfo(float).eps)


@eqx.filter_jit
def _blocks(kernel: kp.kernels.Kernel, P: Array, Q: Array) -> tuple[Array, Array, Array]:
    """k, ∂_q k and ∂_p ∂_qᵀ k of every pair, derivatives one after the other in rows and columns."""
    slope = jax.grad(kernel.evaluate, argnums=1)

    def pair(p, q):
        return kernel.evaluate(p, q), slope(p, q), jax.jacfwd(slope)(p, q).T

    k, first, second = jax.lax.map(lambda p: jax.vmap(lambda q: pair(p, q))(Q), P)
    n, q, d = first.shape
    return k, first.reshape(n, q * d), second.transpose(0, 2, 1, 3).reshape(n * d, q * d)


class _Refit:
    """The penalised minimiser with every copy of the poison in the training set, from the theory's own system."""

    def __init__(self, kernel: kp.kernels.Kernel, points: Array, targets: np.ndarray, rho: float, penalty: float):
        self.kernel, self.points = kernel, points
        k, first, second = (np.asarray(block) for block in _blocks(kernel, points, points))
        noise = rho / penalty * np.eye(len(second))
        system = np.block([[k + rho * np.eye(len(k)), first], [first.T, second + noise]])
        solved = scipy.linalg.solve(system, np.append(targets, np.zeros(len(second))), assume_a="sym")
        self.solved, self.number = solved, len(k)
        # Rows scaled to equal noise, as the posterior has them.
        scale = np.append(np.ones(len(k)), np.full(len(second), penalty**0.5))
        self.rounding = 10 * _EPS * np.linalg.cond(scale[:, None] * system * scale) * np.linalg.norm(solved / scale)
        self.scale = scale

    def evaluate(self, x: Array) -> tuple[np.ndarray, np.ndarray, float]:
        """Values (q,), gradients (q, d), and the rounding of both over the size of the kernel there."""
        k, first, _ = (np.asarray(block) for block in _blocks(self.kernel, x, self.points))
        _, back, second = (np.asarray(block) for block in _blocks(self.kernel, self.points, x))
        values = np.concatenate([k, first], axis=1)
        gradients = np.concatenate([back.T, second.T], axis=1)
        size = max(np.linalg.norm(part * self.scale, axis=1).max() for part in (values, gradients))
        return values @ self.solved, (gradients @ self.solved).reshape(x.shape), float(size * self.rounding)


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Prediction, efficacy and spike against refits; the linear kernel's identity; monotone quantities against γ."""
    kernel, ridge = setting.kernel, 10 * setting.ridge
    if kernel.smoothness < 2:
        return None
    X, y = setting.X[:_POINTS], setting.y[:_POINTS]
    if X.shape[1] > 100:
        # The system has n(d + 1) unknowns.
        X, y = X[: max(4, 4000 // X.shape[1])], y[: max(4, 4000 // X.shape[1])]
    number, probes, poison = len(X), setting.probes(_R_OVER_L), setting.poison(_COUNT)
    rho = (number + _COUNT) * ridge
    points = jnp.concatenate([X, jnp.tile(setting.location, (_COUNT, 1))])
    targets = np.append(np.asarray(y), np.full(_COUNT, setting.label))
    comparisons, shown = [], []
    reason = "10 · eps · condition number, times the size of the sums"
    for penalty in _PENALTIES * setting.length_scale**2:
        clean = kp.fit(kernel, X, y, gradient_penalty=penalty)
        before = _Refit(kernel, X, np.asarray(y), rho, penalty)
        after = _Refit(kernel, points, targets, rho, penalty)
        (f0, g0, e0), (f1, g1, e1) = before.evaluate(probes), after.evaluate(probes)
        efficacy, gradient = f1 - f0, g1 - g0
        spike, error = np.sum(gradient**2, axis=1), e0 + e1
        name = f"γ = {penalty / setting.length_scale**2:g} ℓ²"
        comparisons += [
            compare(f"poisoned prediction, {name}", "refit", kp.predict(clean, probes, ridge, poison), f1, e1, reason),
            compare(f"Δf, {name}", "refit", laws.efficacy(clean, poison, probes, ridge), efficacy, error, reason),
            compare(
                f"Λ, {name}",
                "refit",
                laws.spike(clean, poison, probes, ridge),
                spike,
                error * (2 * np.sqrt(spike) + error),
                reason,
            ),
        ]
        by_law = [float(law(clean, poison, probes[-2], ridge)) for law in (laws.efficacy, laws.spike)]
        shown.append((efficacy[-2], spike[-2], *_energies(clean, ridge), *by_law))
    comparisons.append(_linear_identity(X, y, poison, probes, ridge))
    table = np.abs(np.array(shown)).T
    slack = 1e-9 * table.max(axis=1)
    monotone = [np.all(np.diff(table[2]) <= slack[2]), np.all(np.diff(table[3]) >= -slack[3])]
    comparisons.append(
        compare(
            "B(f) falls and A(f) rises with γ (T3, T4): 1 where they do",
            "closed form",
            [1.0, 1.0],
            np.array(monotone, float),
            0.0,
            "exact, but for 1e-9 of the largest",
        )
    )
    x = _PENALTIES.tolist()
    return Record(
        "T1",
        "Gradient penalty",
        "The penalised predictor is the posterior given flat slopes; a clone contributes its value and its slopes.",
        setting.kernel_name,
        setting.data,
        comparisons,
        [
            f"from γ = {x[0]:g} ℓ² to {x[-1]:g} ℓ², at r/ℓ = {_R_OVER_L[-2]:g}: |Δf| falls by a factor "
            f"{table[0, 0] / table[0, -1]:.3g}, the spike by {table[1, 0] / table[1, -1]:.3g}, the penalty's energy by "
            f"{table[2, 0] / table[2, -1]:.3g}; fit and ridge together rise by {table[3, -1] / table[3, 0]:.3g}"
        ],
        [
            Panel(
                f"Poison against penalty, m = {_COUNT}, r/ℓ = {_R_OVER_L[-2]:g}",
                "γ/ℓ²",
                "|Δf| and Λ ℓ²",
                [
                    Series("|Δf|, law", "line", x, table[4].tolist()),
                    Series("Λ ℓ², law", "line", x, (table[5] * setting.length_scale**2).tolist()),
                    Series("|Δf|, refit", "dots", x, table[0].tolist()),
                    Series("Λ ℓ², refit", "dots", x, (table[1] * setting.length_scale**2).tolist()),
                ],
            ),
            Panel(
                "Trade-off of the clean predictor",
                "γ/ℓ²",
                "energy",
                [
                    Series("A(f): fit and ridge", "line", x, table[3].tolist()),
                    Series("B(f) ℓ²: mean squared slope", "dashed", x,
                           (table[2] * setting.length_scale**2).tolist()),
                ],
            ),
        ],
        setting.arguments() | {"ridge": ridge, "n_c": number},
    )  # fmt: skip


def _energies(clean: kp.Posterior, ridge: float) -> tuple[float, float]:
    """B(f) = (1/n) Σ ‖∇f(x_i)‖² and A(f) = (1/n) Σ (f(x_i) − y_i)² + λ ‖f‖² of the clean predictor."""
    f = kp.predictor(clean, ridge)
    B = float(jnp.mean(jnp.sum(kp.curvature.input_gradients(f, clean.X) ** 2, axis=1)))
    residual = clean.y - kp.predict(clean, clean.X, ridge)
    # At the minimum λ‖f‖² = (1/n) Σ f (y − f) − γ B, by the reproducing property.
    assert clean.root is not None
    fit = float(jnp.mean(residual**2))
    inner = float(jnp.mean(residual * kp.predict(clean, clean.X, ridge)))
    penalty = float(clean.root[0, 0]) ** 2
    return B, fit + inner - penalty * B


def _linear_identity(X: Array, y: Array, poison: kp.Poison, probes: Array, ridge: float):
    """A penalty γ on a linear kernel is one more ridge."""
    penalty, linear = 0.3, kp.kernels.Linear()
    penalised, plain = kp.fit(linear, X, y, gradient_penalty=penalty), kp.fit(linear, X, y)
    expected = np.asarray(kp.predict(plain, probes, ridge + penalty, poison))
    return compare(
        "linear kernel: γ acts as ridge λ + γ",
        "closed form",
        kp.predict(penalised, probes, ridge, poison),
        expected,
        # The condition numbers of both are those of XXᵀ over the smaller ridge.
        1e3 * _EPS * float(jnp.sum(X**2)) / (len(X) * ridge) * np.max(np.abs(expected)),
        "1000 · eps · condition number",
    )
