"""T3: a gradient penalty contracts the input Fisher matrix, along training and at its end."""

import jax.numpy as jnp
import numpy as np

from theory_checks.catalogue import STATEMENTS
from theory_checks.penalised import ODE_TOLERANCE, ROUNDING, Solved, few_points, penalised_pair
from theory_checks.record import Comparison, Panel, Record, compare, compare_signs, curve, of_square
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_POINTS = 24
_COUNT = 10
_PROBES = 12
_R_OVER_L = 0.3
_TIMES = np.array([1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0])
_PENALTIES = np.array([0.0, 1e-3, 1e-2, 1e-1, 1.0])  # in units of ℓ²
_SHOWN = (0, 2, 3)
_MODES = 3
_INTEGRATION = f"rtol 1e-10 per step: {ODE_TOLERANCE:g} of the largest value"
_SYMBOLS = {"fisher_eigenvalue": "eigenvalues of F", "poison_component": "uᵀFu", "penalty_energy": "B"}


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Eigenvalues and poison component of F, and the penalty's energy, against integration, refit and each other."""
    if setting.kernel.smoothness < 2:
        return None
    small = few_points(setting, _POINTS)
    unit, poison = small.length_scale**2, small.poison(_COUNT)
    # An attack on many inputs: probes about ζ, all of them displaced along u and a little in other directions.
    generator = np.random.default_rng([setting.seed, 3])
    others = jnp.asarray(generator.standard_normal((_PROBES, small.X.shape[1]))) / small.X.shape[1] ** 0.5
    probes = small.location[None] + small.length_scale * _R_OVER_L * (small.direction[None] + 0.5 * others)
    options = {"gradient_penalty": _PENALTIES * unit, "time": np.append(_TIMES, np.inf), "modes": _MODES}
    found = laws.tradeoff(small.clean, poison, probes, small.ridge, **options)
    u = found.direction.values
    clean, problem = penalised_pair(small, _COUNT, probes)
    comparisons: list[Comparison] = []
    integrated: dict[int, list[dict[str, np.ndarray]]] = {}
    for i, penalty in enumerate(_PENALTIES):
        cells, name = found.isel(gradient_penalty=i), f"γ = {penalty:g} ℓ²"
        end = problem.trained(penalty * unit)
        ended = cells.sel(time=np.inf)
        comparisons += _compared(ended, [end], u, end.rounding, f"trained, {name}", "refit", ROUNDING)
        if i in _SHOWN:
            along = problem.flow(penalty * unit, _TIMES)
            integrated[i] = [_measured(solved, u) for solved in along]
            steepest = max(np.linalg.norm(s.gradients, axis=1).max() for s in along)
            before, error = cells.isel(time=slice(0, -1)), ODE_TOLERANCE * steepest
            comparisons += _compared(before, along, u, error, f"along t, {name}", "simulation", _INTEGRATION)
    energy = found.penalty_energy.sel(time=np.inf).values
    rates = np.array([np.linalg.eigvalsh(clean.weighted_gram(penalty * unit)) for penalty in _PENALTIES])
    slack = 1e-12 * rates.max()
    monotone = [np.all(np.diff(energy) <= 1e-9 * energy[0]), np.all(np.diff(rates, axis=0) >= -slack)]
    comparisons.append(
        compare_signs(
            "B falls with γ, and every rate of contraction rises", monotone, reason="exact, but for 1e-9 of the largest"
        )
    )
    component = found.poison_component.sel(time=np.inf).values
    return setting.record(
        STATEMENTS["T3"],
        comparisons,
        [
            f"from γ = 0 to {_PENALTIES[-1]:g} ℓ², trained: energy B falls by a factor {energy[0] / energy[-1]:.3g}, "
            f"the poison's component uᵀFu by {component[0] / component[-1]:.3g}, the largest eigenvalue of F by "
            f"{_ratio(found.fisher_eigenvalue.sel(time=np.inf).isel(mode=0).values):.3g}, the mean spike by "
            f"{_ratio(found.spike.sel(time=np.inf).mean('probe').values):.3g}",
            f"along t, without penalty: the poison's component rises {_rise(found.poison_component, 0):.3g} times from "
            f"t = {_TIMES[0]:g} to the end, with γ = {_PENALTIES[-1]:g} ℓ² "
            f"{_rise(found.poison_component, -1):.3g} times",
        ],
        _panels(found, integrated, unit),
        ridge=small.ridge,
        n_c=len(small.X),
    )


def _panels(found, integrated: dict[int, list[dict[str, np.ndarray]]], unit: float) -> list[Panel]:
    modes, component, times = [], [], _TIMES
    for i in (_SHOWN[0], _SHOWN[-1]):
        cells, name = found.isel(gradient_penalty=i, time=slice(0, -1)), f"γ = {_PENALTIES[i]:g} ℓ²"
        eigenvalues = unit * cells.fisher_eigenvalue.values.T
        modes += [
            curve(f"{name}, largest", "line", times, eigenvalues[0]),
            curve(f"{name}, second", "dashed", times, eigenvalues[1]),
        ]
        component += [
            curve(f"closed form, {name}", "line", times, unit * cells.poison_component.values),
            curve(f"integrated, {name}", "dots", times, [unit * seen["poison_component"] for seen in integrated[i]]),
        ]
    ended = found.sel(time=np.inf)
    trained = [
        curve("energy B", "line", *_over_first(ended.penalty_energy.values)),
        curve("uᵀFu", "dashed", *_over_first(ended.poison_component.values)),
        curve("mean spike Λ", "dots", *_over_first(ended.spike.mean("probe").values)),
    ]
    return [
        Panel(f"Largest eigenvalues of F, m = {_COUNT}", "training time t", "eigenvalue · ℓ²", modes),
        Panel("The poison's component uᵀFu", "training time t", "uᵀFu · ℓ²", component),
        Panel("Trained, against the penalty", "γ/ℓ²", "over its value without penalty", trained),
    ]


def _measured(solved: Solved, u: np.ndarray) -> dict[str, np.ndarray]:
    singular = np.linalg.svd(solved.gradients, compute_uv=False)[:_MODES]
    return {
        "fisher_eigenvalue": singular**2 / len(solved.gradients),
        "poison_component": np.asarray(np.mean((solved.gradients @ u) ** 2)),
        "penalty_energy": np.asarray(solved.penalty),
    }


def _compared(cells, solved: list[Solved], u, error: float, where: str, against, reason: str) -> list[Comparison]:
    """Squares of gradients whose norms err by `error`."""
    found = []
    for quantity, symbol in _SYMBOLS.items():
        reference = np.stack([_measured(s, u)[quantity] for s in solved])
        law = np.asarray(cells[quantity].values).reshape(reference.shape)
        found.append(compare(f"{symbol}, {where}", against, law, reference, of_square(reference, error), reason))
    return found


def _ratio(values: np.ndarray) -> float:
    return values[0] / values[-1]


def _rise(values, penalty: int) -> float:
    along = values.isel(gradient_penalty=penalty).values
    return along[-1] / along[0]


def _over_first(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _PENALTIES[1:], values[1:] / values[0]
