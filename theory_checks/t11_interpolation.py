"""T11: where the trade-off ends: without a ridge poisons are fitted, with flat slopes, and the paper's penalty is 0."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.optimize
from jax import Array

import kpoison as kp
from kpoison.networks import Network, Parameters
from kpoison.networks.objective import shifted
from theory_checks.catalogue import STATEMENTS
from theory_checks.descending import flow
from theory_checks.finite_width import compare_with_networks
from theory_checks.hermite import ROUNDING, covariances, penalised_fit, rounding, seen_at
from theory_checks.record import Comparison, Panel, Record, compare, compare_signs, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

# Six clean points in the plane and three clones with the other label, in units of ℓ.
_X = 1.5 * np.array([[0.0, 0.0], [1.0, 0.5], [-0.8, 0.6], [0.3, -1.0], [-1.2, -0.7], [1.5, -0.6]])
_Y = np.array([1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
_ZETA, _LABEL, _COUNT = 1.5 * np.array([1.2, 1.6]), -1.0, 3.0
_PROBE = _ZETA + np.array([0.2, 0.0])
_POINTS, _LABELS = np.concatenate([_X, _ZETA[None]]), np.append(_Y, _LABEL)
_WEIGHTS = np.append(np.ones(len(_X)), _COUNT)
_TOTAL = float(_WEIGHTS.sum())
_RIDGES, _PENALTY = np.array([1e-5, 1e-6, 1e-7]), 1.0
_KAPPAS, _RIDGE = (0.0, 1.0, 100.0), 0.01
_FLOW_KAPPA, _FLOW_TIME = 1.0, 30.0
_LATE = 1.5e3
_ENDLESS = 1e5  # of the flow without a ridge, whose slowest mode has a rate of 1e-2
# Networks: κ in units of ‖ζ‖², times in units of the slowest rate's inverse, ridges: next to none, and one that holds.
_NETWORK_POINTS, _NETWORK_KAPPAS, _NETWORK_RIDGES = 6, (0.0, 0.1), (1e-6, 0.03)
_NETWORK_TIMES, _NETWORK_STEPS = np.array([0.1, 2.0]), 40
_UNRESOLVED = 1e-3  # of outputs of 1, with twice the steps; a fifteenth of that is left


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Residual and slopes as λ → 0; the flow of the penalty on ∇ℓ and where it ends, with and without a ridge."""
    if setting.kernel_name != "rbf":
        return _of_networks(setting, laws)
    problem = _LossGradient()
    vanishing, first, panel = _vanishing_ridge(laws)
    ended = {kappa: problem.flowed(kappa, 0.0, _ENDLESS) for kappa in _KAPPAS}
    late = [problem.flowed(kappa, _RIDGE, _LATE) for kappa in _KAPPAS]
    stationary = [problem.stationary(kappa, _RIDGE, c) for kappa, c in zip(_KAPPAS, late, strict=True)]
    residuals = [problem.residual(c) for c in stationary]
    predictions = [float(seen_at(_PROBE[None], _POINTS, c)[0][0]) for c in ended.values()]
    signs = [
        *(problem.residual(c) < 1e-16 for c in ended.values()),
        *(value < 0.9 * _LABEL for value in predictions),
        *(np.diff(residuals) < 0),
    ]
    comparisons = [
        *vanishing,
        *(_flow(problem) if setting.scale == "full" else []),
        compare(
            "flow to late times, where the loss is stationary",
            "closed form",
            [problem.residual(c) for c in late],
            residuals,
            1e-5 * np.array(residuals),
            f"an integration with 1e-8 per step up to e^(−λt) = {np.exp(-_RIDGE * _LATE):.0e}, and a root",
        ),
        compare_signs("without a ridge every flow fits the poison; with it the residual falls with κ", signs),
    ]
    return setting.record(
        STATEMENTS["T11"],
        comparisons,
        [
            "the paper says that the penalty on ∇ℓ weakens the poison; for the squared loss it is 0 at every "
            f"interpolant: at λ = 0 the flow ends at f(x0) = {_numbers(predictions, '.4f')} for κ = "
            f"{_numbers(_KAPPAS, 'g')}, next to a poison labelled {_LABEL:g}",
            f"at λ = {_RIDGE:g} its mean squared residual is {_numbers(residuals, '.3g')}: it falls with κ here, and "
            f"f(ζ) goes from {problem.at_poison(stationary[0]):.4f} to {problem.at_poison(stationary[-1]):.4f}",
            first,
        ],
        [panel],
        kernel="RBF(1)",
        data="seven points in the plane",
        ridge=_RIDGE,
        n_c=len(_X),
        count=_COUNT,
        d=2,
    )


def _vanishing_ridge(laws: Laws) -> tuple[list[Comparison], str, Panel]:
    """(a): the penalty on ∇f at a fixed γ as λ → 0: residual and slopes vanish, the norm does not."""
    clean = kp.fit(kp.kernels.RBF(1.0), _X, _Y, gradient_penalty=_PENALTY)
    poison, at = kp.Poison(jnp.asarray(_ZETA), _LABEL, _COUNT), jnp.asarray(_POINTS)
    law = np.array([laws.predict(clean, at, ridge, poison) for ridge in _RIDGES])
    brute = np.array([_solved(ridge)[0] for ridge in _RIDGES])
    errors = [rounding(_POINTS, _LABELS, _TOTAL * ridge, _PENALTY, _COUNT) for ridge in _RIDGES]
    parts = np.array([_energies(ridge) for ridge in _RIDGES])
    exponents = np.diff(np.log(parts[:, :2]), axis=0) / np.diff(np.log(_RIDGES))[:, None]
    # Of the first neglected order, nλ over the least eigenvalue.
    next_order = _TOTAL * _RIDGES / np.linalg.eigvalsh(_both())[0]
    fine = np.geomspace(1e-7, 1e-1, 40)
    curves = np.array([_energies(ridge) for ridge in fine])
    return (
        [
            compare("f at clean points and ζ, λ → 0", "refit", law, brute, np.array(errors)[:, None], ROUNDING),
            compare(
                "exponents in λ of residual and B",
                "exponent",
                np.full(exponents.shape, 2.0),
                exponents,
                4 * next_order[:-1, None] * np.ones(2),
                "the next order, 4 nλ over the least eigenvalue",
            ),
            compare(
                "the norm goes to that of the interpolant with flat slopes",
                "closed form",
                parts[-1, 2],
                _flat_interpolant(),
                2 * next_order[-1] * _flat_interpolant(),
                "the next order, 2 nλ over the least eigenvalue",
            ),
        ],
        f"with the penalty on ∇f, γ = ℓ², the poison is fitted with flat slopes as λ → 0: at λ = {_RIDGES[-1]:g} the "
        f"mean squared residual is {parts[-1, 0]:.2g}, the slopes' energy {parts[-1, 1]:.2g}, ‖f‖² {parts[-1, 2]:.4g}",
        Panel(
            "Penalty on ∇f, γ = ℓ², λ → 0",
            "λ",
            "energy",
            [
                curve("mean squared residual", "line", fine, curves[:, 0]),
                curve("B ℓ², slopes", "dashed", fine, curves[:, 1]),
                curve("‖f‖²", "dots", fine, curves[:, 2]),
            ],
        ),
    )


def _solved(ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    coefficients = penalised_fit(_POINTS, _LABELS, _TOTAL * ridge, _PENALTY, _WEIGHTS)
    return *seen_at(_POINTS, _POINTS, coefficients), coefficients


def _energies(ridge: float) -> tuple[float, float, float]:
    """Mean squared residual, B and ‖f‖²."""
    values, slopes, coefficients = _solved(ridge)
    share = _WEIGHTS / _TOTAL
    norm = coefficients @ np.append(values, slopes)
    return float(share @ (values - _LABELS) ** 2), float(share @ np.sum(slopes**2, axis=1)), float(norm)


def _both() -> np.ndarray:
    K, K01, K11 = covariances(_POINTS, _POINTS)
    return np.block([[K, K01], [K01.T, K11]])


def _flat_interpolant() -> float:
    """‖f‖² of the least norm with these values and slopes of 0."""
    target = np.append(_LABELS, np.zeros(2 * len(_POINTS)))
    return float(target @ np.linalg.solve(_both(), target))


class _LossGradient:
    """(1/2n) Σ w_i r_i²(1 + κ‖∇f(x_i)‖²) + (λ/2)‖f‖² in coefficients of values and slopes."""

    def __init__(self):
        self.gram = _both()

    def velocity(self, c: np.ndarray, kappa: float, ridge: float) -> np.ndarray:
        """−∇ of it in the kernel's space."""
        r, g = self.residuals(c), self.slopes(c)
        on_values = _WEIGHTS * r * (1 + kappa * np.sum(g**2, axis=1))
        on_slopes = kappa * (_WEIGHTS * r**2)[:, None] * g
        return -np.append(on_values, on_slopes) / _TOTAL - ridge * c

    def residuals(self, c: np.ndarray) -> np.ndarray:
        """f(x_i) − y_i."""
        return (self.gram @ c)[: len(_POINTS)] - _LABELS

    def slopes(self, c: np.ndarray) -> np.ndarray:
        """∇f(x_i)."""
        return (self.gram @ c)[len(_POINTS) :].reshape(_POINTS.shape)

    def residual(self, c: np.ndarray) -> float:
        """Their mean square."""
        return float(_WEIGHTS @ self.residuals(c) ** 2 / _TOTAL)

    def at_poison(self, c: np.ndarray) -> float:
        """f(ζ)."""
        return float(self.residuals(c)[-1] + _LABEL)

    def flowed(self, kappa: float, ridge: float, time: float) -> np.ndarray:
        """The flow from f = 0."""
        start = np.zeros(len(self.gram))
        found = scipy.integrate.solve_ivp(
            lambda t, c: self.velocity(c, kappa, ridge), (0, time), start, "LSODA", rtol=1e-8, atol=1e-11
        )
        return found.y[:, -1]

    def stationary(self, kappa: float, ridge: float, late: np.ndarray) -> np.ndarray:
        """Where it ends: the root next to a late time."""
        found = scipy.optimize.root(lambda c: self.velocity(c, kappa, ridge), late, tol=1e-13)
        if not found.success and np.abs(found.fun).max() > 1e-11:
            raise ArithmeticError(f"no stationary point next to the flow at κ = {kappa:g}: {found.message}")
        return found.x


def _flow(problem: _LossGradient) -> list[Comparison]:
    """The library's integration against this one."""
    clean = kp.fit(kp.kernels.RBF(1.0), _X, _Y, gradient_penalty=_FLOW_KAPPA)
    poison, at = kp.Poison(jnp.asarray(_ZETA), _LABEL, _COUNT), jnp.asarray(_PROBE[None])
    flow = kp.flow.loss_gradient_flow(clean, _RIDGE, np.array([_FLOW_TIME]), poison, method="explicit")
    expected = seen_at(_PROBE[None], _POINTS, problem.flowed(_FLOW_KAPPA, _RIDGE, _FLOW_TIME))[0]
    return [
        compare(
            f"f(x0) along the flow, κ = {_FLOW_KAPPA:g}, t = {_FLOW_TIME:g}",
            "simulation",
            np.asarray(flow(at))[0],
            expected,
            1e-6,
            "integrations with 1e-8 per step",
        )
    ]


def _of_networks(setting: Setting, laws: Laws) -> Record | None:
    """The flow of networks under the penalty on ∇ℓ, with next to no ridge and with one, against the kernel's."""
    if setting.networks is None or setting.networks.kinks:
        return None
    networks, small = setting.networks, setting.networks.setting
    widths, seeds = networks.own_widths, networks.own_seeds
    X, y = small.X[:_NETWORK_POINTS], jnp.where(small.y[:_NETWORK_POINTS] > 0, 1.0, -1.0)
    points, labels = jnp.concatenate([X, small.location[None]]), jnp.append(y, small.label)
    weights = jnp.append(jnp.ones(len(X)), _COUNT)
    share = weights / jnp.sum(weights)
    root = np.sqrt(np.asarray(share))
    times = _NETWORK_TIMES / np.linalg.eigvalsh(root[:, None] * np.asarray(small.kernel(points)) * root)[0]
    kappas = np.array(_NETWORK_KAPPAS) * float(small.length_scale) ** 2
    pairs = np.array(list(itertools.product(_NETWORK_RIDGES, kappas)))
    seen = jnp.concatenate([points, small.probes(np.array([0.1]))])

    def look(network: Network) -> Array:
        def flowed(steps):
            return jax.lax.map(
                lambda pair: _penalised_on_loss(network, points, labels, share, pair, jnp.asarray(times), seen, steps),
                jnp.asarray(pairs),
            )

        return jax.lax.map(flowed, jnp.array([_NETWORK_STEPS, 2 * _NETWORK_STEPS]))

    found = networks.drawn(widths, seeds, look)
    unresolved = np.abs(found[:, :, 1] - found[:, :, 0]).max()
    if not unresolved <= _UNRESOLVED:
        raise ArithmeticError(f"the flow of networks changes by {unresolved:.1e} with twice the steps")
    samples = found[:, :, 1]
    poison = kp.Poison(small.location, small.label, _COUNT)
    law = np.array(
        [
            _flow_of_kernel(laws, small.kernel, X, y, poison, ridge, kappa, times, seen)
            for ridge, kappa in pairs.tolist()
        ]
    )
    late = samples[-1, :, :, -1]  # (S, pairs, points), of the widest
    residuals = np.square(late[..., :-1] - np.asarray(labels)) @ np.asarray(share)
    without, held = residuals[:, : len(kappas)], residuals[:, len(kappas) :]
    close = np.abs(late[:, : len(kappas), -2] - small.label)
    signs = [np.all(without < 0.05 * held[:, :1]), np.all(close < 0.02), np.all(np.diff(held, axis=1) < 0)]
    return setting.record(
        STATEMENTS["T11"],
        [
            compare_with_networks(
                "f at clean points, ζ and x0 along the flow, with and without ridge and penalty",
                law.ravel(),
                samples.reshape(*samples.shape[:2], -1),
                widths,
            ),
            compare_signs(
                f"without a ridge every network fits the poison, whatever κ; with λ = {_NETWORK_RIDGES[1]:g} the "
                "residual falls with κ",
                signs,
                "finite width",
            ),
        ],
        [
            f"networks of width {widths[-1]}, t = {times[-1]:.3g}: without a ridge the mean squared residual is at "
            f"most {without.max():.1g} and f(ζ) within {close.max():.1g} of {small.label:g} for κ = "
            f"{_numbers(_NETWORK_KAPPAS, 'g')} ‖ζ‖²; at λ = {_NETWORK_RIDGES[1]:g} the residual is "
            f"{_numbers(held.mean(axis=0), '.3g')}"
        ],
        ridges=list(_NETWORK_RIDGES),
        n_c=len(X),
        count=_COUNT,
        widths=widths.tolist(),
        seeds=seeds,
    )


def _penalised_on_loss(network: Network, points, labels, share, pair, times, seen, steps) -> Array:
    """g at some points along the flow on Σ wᵢ rᵢ²(1 + κ‖∇g(xᵢ)‖²)/2n + (λ/2)‖θ − θ0‖², r = g − y."""
    ridge, kappa = pair
    nothing = jax.tree.map(jnp.zeros_like, network.parameters)
    both = jax.vmap(jax.value_and_grad(network))

    def objective(shift: Parameters) -> Array:
        values, slopes = jax.vmap(jax.value_and_grad(shifted(network, shift)))(points)
        at_start, slopes_at_start = both(points)
        r, slopes = values - at_start - labels, slopes - slopes_at_start
        norm = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(shift))
        return (jnp.sum(share * r**2 * (1 + kappa * jnp.sum(slopes**2, axis=1))) + ridge * norm) / 2

    def velocity(shift: Parameters) -> Parameters:
        return jax.tree.map(jnp.negative, jax.grad(objective)(shift))

    return flow(velocity, nothing, times, lambda s: shifted(network, s).outputs(seen) - network.outputs(seen), steps)


def _flow_of_kernel(
    laws: Laws, kernel, X, y, poison, ridge: float, kappa: float, times: np.ndarray, seen: Array
) -> np.ndarray:
    """f (T, q) of infinitely wide networks."""
    if kappa == 0:
        clean = kp.fit(kernel, X, y)
        return np.array([laws.predict(kp.flow.early_stopped(clean, time), seen, ridge, poison) for time in times])
    clean = kp.fit(kernel, X, y, gradient_penalty=kappa)
    return np.asarray(kp.flow.loss_gradient_flow(clean, ridge, times, poison, method="explicit")(seen))


def _numbers(values, form: str) -> str:
    return ", ".join(format(value, form) for value in values)
