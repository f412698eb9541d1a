"""L3 and L4 in the full input Hessian, averaged over probes: its direction and its exponent."""

import dataclasses
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import kpoison as kp
from kpoison import Poison, Posterior, curvature
from kpoison.curvature import Operator
from kpoison.laws import Predictor
from kpoison.ridge import KernelExpansion, Representers
from theory_checks.catalogue import STATEMENTS
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.refit import Predictor as Refit
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_R_OVER_L = np.linspace(0.3, 1.0, 12)  # of the attacked probes
_CLEAN_PROBES = 28
_LEADING = 5
_TOLERANCE = 1e-8  # of the largest eigenvalue: rounding, times a condition number of at most 1e6

_ATTACKED, _ALL, _POISON = "attacked probes", "attacked and clean probes", "poison alone, attacked probes"


@dataclasses.dataclass(frozen=True)
class _Spectra:
    """Leading eigenpairs of averages of ∇f∇fᵀ + (f − y)∇²f, y being what the clean predictor says.

    Attributes:
        values: by the set of probes; of the poison alone with Δf in place of f, and y = 0.
        vectors: the first eigenvector of each.
        efficacy: root mean square of Δf over the attacked probes.
    """

    values: Mapping[str, np.ndarray]
    vectors: Mapping[str, np.ndarray]
    efficacy: float

    def lift(self, name: str) -> float:
        """By how much the first eigenvalue stands out of the rest."""
        return float(self.values[name][0] - self.values[name][1])

    def alignment(self, name: str, direction: np.ndarray) -> float:
        """|⟨v₁, direction⟩|."""
        return float(np.abs(self.vectors[name] @ direction))


class _Change(eqx.Module):
    """Δf by law; a pytree, so that all counts share what is compiled."""

    efficacy: Callable[..., Array]
    clean: Posterior
    poison: Poison
    ridge: float

    def __call__(self, x: Array) -> Array:
        # Differentiated, where a failure could be told by a host callback only; `check` evaluates ∇Δf and tells.
        return kp.with_failures(self.efficacy)(self.clean, self.poison, x, self.ridge)[0]


class _Sum(eqx.Module):
    first: Callable[[Array], Array]
    second: Callable[[Array], Array]

    def __call__(self, x: Array) -> Array:
        return self.first(x) + self.second(x)


def _by_law(setting: Setting, laws: Laws, clean: Refit, count: float, ridge: float, probes: Array) -> _Spectra:
    """Δf by law, its curvature by automatic differentiation."""
    before = _predictor(clean, clean.weights)
    change = _Change(laws.efficacy, setting.clean, setting.poison(count), ridge)
    return _spectra(_Sum(before, change), change, before, probes)


def _by_refit(clean: Refit, poisoned: Refit, probes: Array) -> _Spectra:
    """Everything from dual coefficients, curvature from second derivatives of the kernel."""
    after, change, before = (
        _predictor(clean, weights) for weights in (poisoned.weights, poisoned.weights - clean.weights, clean.weights)
    )
    return _spectra(after, change, before, probes)


def _predictor(refit: Refit, weights: np.ndarray) -> Predictor:
    return Predictor(KernelExpansion(Representers(refit.kernel, refit.centres), jnp.asarray(weights)[:, None]), True)


def _spectra(after: Callable, change: Callable, before: Callable, probes: Array) -> _Spectra:
    attacked = probes[: len(_R_OVER_L)]
    labels = _at(before, probes)
    operators: dict[str, Operator] = {
        _ATTACKED: curvature.input_hessian(after, attacked, labels[: len(attacked)]),
        _ALL: curvature.input_hessian(after, probes, labels),
        _POISON: curvature.input_hessian(change, attacked, jnp.zeros(len(attacked))),
    }
    values, vectors = {}, {}
    for name, operator in operators.items():
        # The whole matrix: of so few coordinates cheaper than Lanczos.
        matrix = np.asarray(operator(np.eye(probes.shape[1])))
        found, basis = np.linalg.eigh((matrix + matrix.T) / 2)
        values[name], vectors[name] = found[::-1][:_LEADING], basis[:, -1]
    return _Spectra(values, vectors, float(np.sqrt(np.mean(np.asarray(_at(change, attacked)) ** 2))))


@eqx.filter_jit
def _at(f: Callable[[Array], Array], probes: Array) -> Array:
    return jax.lax.map(f, probes)


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """Leading eigenpairs by law and by refit as m grows; the exponent in the efficacy."""
    setting = setting.weak()
    ridge = 100 * setting.ridge  # as in L4: counts span linear response and saturation
    probes = jnp.concatenate([setting.probes(_R_OVER_L), setting.held_out[:_CLEAN_PROBES]])
    comparisons: list[Comparison] = []
    spectra: list[tuple[_Spectra, _Spectra]] = []
    directions = []
    for count in setting.counts:
        clean, poisoned = setting.refitter.pair(ridge, setting.location, setting.label, count)
        law, refit = _by_law(setting, laws, clean, count, ridge, probes), _by_refit(clean, poisoned, probes)
        gradients = laws.efficacy_gradient(setting.clean, setting.poison(count), probes[: len(_R_OVER_L)], ridge)
        direction = np.linalg.svd(np.asarray(gradients))[2][0]
        for name in refit.values:
            comparisons += _compare(f"{name}, m = {count}", name, law, refit, direction)
        spectra.append((law, refit))
        directions.append(direction)
    x = np.log([refit.efficacy for _, refit in spectra])
    y = np.log([refit.lift(_POISON) * law.efficacy**2 / law.lift(_POISON) for law, refit in spectra])
    comparisons.append(
        compare(
            "exponent in |Δf| of what the poison lifts the first eigenvalue by",
            "exponent",
            [2.0],
            [float(np.polyfit(x, y, 1)[0])],
            [_TOLERANCE * np.sqrt(len(x)) / float(np.linalg.norm(x - x.mean()))],
            f"{_TOLERANCE:g} in each eigenvalue, over the spread of log|Δf|",
        )
    )
    return setting.record(
        STATEMENTS["L4-Hessian"],
        comparisons,
        _findings(setting, spectra, directions),
        _panels(setting, spectra, directions),
        ridge=ridge,
        attacked=len(_R_OVER_L),
        clean_probes=_CLEAN_PROBES,
    )


def _compare(label: str, name: str, law: _Spectra, refit: _Spectra, direction: np.ndarray) -> list[Comparison]:
    """Eigenvalues, and the alignment of the first eigenvector with ∇Δf."""
    largest, gap = float(np.max(np.abs(refit.values[name]))), refit.lift(name)
    return [
        compare(
            f"leading eigenvalues over {label}",
            "refit",
            law.values[name],
            refit.values[name],
            _TOLERANCE * largest,
            f"{_TOLERANCE:g} of the largest: rounding, amplified by the condition number",
        ),
        compare(
            f"alignment with ∇Δf over {label}",
            "refit",
            law.alignment(name, direction),
            refit.alignment(name, direction),
            _TOLERANCE * largest / gap,
            "the same over the gap to the second eigenvalue",
        ),
    ]


def _findings(setting: Setting, spectra: list[tuple[_Spectra, _Spectra]], directions: list[np.ndarray]) -> list[str]:
    found = [refit for _, refit in spectra]

    def aligned(name: str) -> str:
        return ", ".join(f"{s.alignment(name, d):.3f}" for s, d in zip(found, directions, strict=True))

    slopes = np.diff(np.log([s.lift(_ATTACKED) for s in found])) / np.diff(np.log([s.efficacy for s in found]))
    u = np.asarray(setting.direction)
    return [
        f"alignment of the first eigenvector with ∇Δf for m = {', '.join(map(str, setting.counts))}: "
        f"{aligned(_ATTACKED)} over attacked probes; {aligned(_ALL)} with {_CLEAN_PROBES} clean ones",
        f"of ∇Δf with u: {', '.join(f'{abs(d @ u):.3f}' for d in directions)} (coupling to the clean data turns it)",
        "slope of log(λ₁ − λ₂) over attacked probes in log|Δf| between neighbouring m, clean gradients included: "
        + ", ".join(f"{slope:.2f}" for slope in slopes),
        f"λ₁ itself is {found[-1].values[_POISON][0]:.3g} for the poison alone at m = {setting.counts[-1]}, λ₂ "
        f"{found[-1].values[_POISON][1]:.3g}: (f − y)∇²Δf shifts all eigenvalues, an RBF kernel's below 0 for "
        "r < ℓ/√2, and the spike stands out of what is shifted",
    ]


def _panels(setting: Setting, spectra: list[tuple[_Spectra, _Spectra]], directions: list[np.ndarray]) -> list[Panel]:
    x = np.array([refit.efficacy for _, refit in spectra])
    law, refit = ([pair[i].lift(_ATTACKED) for pair in spectra] for i in (0, 1))
    alone = np.array([refit.lift(_POISON) for _, refit in spectra])
    last, first = spectra[-1][1].values, spectra[0][1].values
    ranks = np.arange(1, len(last[_ATTACKED]) + 1)

    def aligned(which: int, name: str) -> list[float]:
        return [pair[which].alignment(name, d) for pair, d in zip(spectra, directions, strict=True)]

    return [
        Panel(
            f"Outlier of the averaged Hessian, r/ℓ = {_R_OVER_L[0]:g} to {_R_OVER_L[-1]:g}",
            "|Δf|, root mean square",
            "λ₁ − λ₂",
            [
                curve("law", "line", x, law),
                curve("refit", "dots", x, refit),
                curve("poison alone, refit", "dots", x, alone),
                curve("slope 2", "dashed", x, alone[-1] * (x / x[-1]) ** 2),
            ],
        ),
        Panel(
            "Alignment of the first eigenvector",
            "multiplicity m",
            "|⟨v₁, ∇Δf⟩|/‖∇Δf‖",
            [
                curve(f"{_ATTACKED}, law", "line", setting.counts, aligned(0, _ATTACKED)),
                curve(f"{_ATTACKED}, refit", "dots", setting.counts, aligned(1, _ATTACKED)),
                curve(f"{_ALL}, law", "line", setting.counts, aligned(0, _ALL)),
                curve(f"{_ALL}, refit", "dots", setting.counts, aligned(1, _ALL)),
            ],
            yscale="linear",
        ),
        Panel(
            "Leading eigenvalues over attacked probes",
            "rank",
            "eigenvalue",
            [
                curve(f"m = {setting.counts[0]}", "line", ranks, first[_ATTACKED]),
                curve(f"m = {setting.counts[-1]}", "dots", ranks, last[_ATTACKED]),
            ],
            xscale="linear",
            yscale="linear",
        ),
    ]
