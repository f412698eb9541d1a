"""T4: safety is bought with fit; the frontier, and the smallest penalty that stops an attack."""

import jax.numpy as jnp
import numpy as np

import kpoison as kp
from theory_checks.catalogue import STATEMENTS
from theory_checks.penalised import ROUNDING, Penalised, few_points, penalised_pair
from theory_checks.record import Comparison, Panel, Record, compare, compare_signs, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_POINTS = 40
_COUNT = 5
_PROBES = 60
_R_OVER_L = 0.2
_TIMES = (10.0, 100.0, np.inf)
_PENALTIES = np.concatenate([[0.0], np.logspace(-3, 1, 9)])  # in units of ℓ²
_FALL = 0.5  # of the largest |Δf|, asked of the smallest penalty


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """A and B against γ by refit and monotone; Δf at the smallest penalty; success and accuracy reported."""
    if setting.kernel.smoothness < 2:
        return None
    small = few_points(setting, _POINTS)
    # An attack on inputs about ζ: those that the clean predictor gives the other sign are triggered.
    unit, poison = small.length_scale**2, small.poison(_COUNT)
    generator = np.random.default_rng([setting.seed, 4])
    around = jnp.asarray(generator.standard_normal((_PROBES, small.X.shape[1]))) / small.X.shape[1] ** 0.5
    probes = small.location[None] + _R_OVER_L * small.length_scale * around
    classes = jnp.where(small.y > 0, 1.0, -1.0)
    labels = jnp.full(_PROBES, -np.sign(small.label))
    options = {"gradient_penalty": _PENALTIES * unit, "time": list(_TIMES), "labels": labels}
    found = laws.tradeoff(small.clean, poison, probes, small.ridge, held_out=(small.X, classes), **options)
    problems = penalised_pair(small, _COUNT, probes[:1])
    problem = problems[1]
    comparisons: list[Comparison] = []
    for i in (0, 3, 6, 9):
        solved, cells = problem.trained(_PENALTIES[i] * unit), found.isel(gradient_penalty=i).sel(time=np.inf)
        targets = float(np.linalg.norm(problem.targets))
        for name, law, reference in (
            ("mean squared residual", cells.training_fit, solved.fit),
            ("‖f‖²", cells.squared_norm, solved.norm),
            ("B", cells.penalty_energy, solved.penalty),
        ):
            # Each is a quadratic form of the targets, of no more than ‖y‖² over ρ or its square.
            tolerance = solved.rounding * (targets + np.sqrt(reference))
            comparisons.append(
                compare(f"{name}, γ = {_PENALTIES[i]:.3g} ℓ²", "refit", float(law), reference, tolerance, ROUNDING)
            )
    ended = found.sel(time=np.inf)
    monotone = [np.diff(ended.objective.values), -np.diff(ended.penalty_energy.values)]
    comparisons.append(
        compare_signs(
            "A rises and B falls with γ",
            [np.all(steps >= -1e-9 * np.abs(steps).max()) for steps in monotone],
            reason="exact, but for 1e-9 of the largest step",
        )
    )
    smallest, finding = _smallest(small, poison, probes[0], problems, laws)
    comparisons += smallest
    return setting.record(
        STATEMENTS["T4"],
        comparisons,
        [finding, *_reported(found)],
        _panels(found, unit),
        ridge=small.ridge,
        n_c=len(small.X),
    )


def _smallest(
    setting: Setting, poison: kp.Poison, x, problems: tuple[Penalised, Penalised], laws: Laws
) -> tuple[list[Comparison], str]:
    """|Δf(x0)| at the smallest penalty by refit, and above it before."""
    before = float(jnp.abs(kp.efficacy(setting.clean, poison, x, setting.ridge)))
    target = _FALL * before
    choice = laws.smallest_gradient_penalty(setting.clean, poison, x, setting.ridge, target)
    unit = setting.length_scale**2
    if not np.isfinite(choice.gradient_penalty):
        return (
            [],
            f"no penalty up to 10⁶ times the balanced one halves |Δf(x0)| = {before:.3g}; at the largest it is "
            f"{choice.value:.3g}",
        )

    def refitted(penalty: float) -> float:
        without, with_poison = (problem.trained(penalty) for problem in problems)
        return float(abs(with_poison.values - without.values)[0])

    return [
        compare(
            "|Δf(x0)| at the smallest penalty that halves it",
            "refit",
            choice.value,
            refitted(choice.gradient_penalty),
            1e-8 * before,
            "1e-8 of |Δf(x0)| without penalty",
        ),
        compare(
            "the same, over the target",
            "refit",
            1.0,
            refitted(choice.gradient_penalty) / target,
            1e-5,
            "γ to 1e-6, |Δf(x0)| falling at most as a few powers of it",
        ),
    ], (
        f"|Δf(x0)| is halved at γ = {choice.gradient_penalty / unit:.3g} ℓ²; the mean squared residual rises from "
        f"{float(choice.before.fit):.3g} to {float(choice.after.fit):.3g}"
    )


def _reported(found) -> list[str]:
    ended = found.sel(time=np.inf)
    success, accuracy = ended.attack_success_rate.values, ended.clean_accuracy.values
    return [
        f"attack success rate {success[0]:.2f} without penalty, {success[-1]:.2f} at γ = {_PENALTIES[-1]:g} ℓ², least "
        f"{success.min():.2f}; accuracy on the clean training points {accuracy[0]:.2f} and {accuracy[-1]:.2f}"
    ]


def _panels(found, unit: float) -> list[Panel]:
    ended, penalties = found.sel(time=np.inf), _PENALTIES[1:]
    fits, efficacies = found.training_fit, np.abs(found.efficacy).mean("probe")
    frontier = Panel(
        f"Frontier, m = {_COUNT}, γ = 0 to {_PENALTIES[-1]:g} ℓ²",
        "mean squared residual on the training set",
        "mean |Δf| at the triggered inputs",
        [
            curve("trained" if np.isinf(t) else f"stopped at t = {t:g}", kind, fits.sel(time=t), efficacies.sel(time=t))
            for t, kind in zip(_TIMES, ("dots", "dashed", "line"), strict=True)
        ],
        xscale="linear",
        yscale="linear",
    )
    energies = Panel(
        "Trained: fit against slopes",
        "γ/ℓ²",
        "energy",
        [
            curve("A: fit and ridge", "line", penalties, ended.objective.values[1:]),
            curve("B ℓ²: mean squared slope", "dashed", penalties, unit * ended.penalty_energy.values[1:]),
            curve("mean spike Λ ℓ²", "dots", penalties, unit * ended.spike.mean("probe").values[1:]),
        ],
    )
    rates = Panel(
        "Trained: success and accuracy",
        "γ/ℓ²",
        "rate",
        [
            curve("attack success", "line", penalties, ended.attack_success_rate.values[1:]),
            curve("clean accuracy", "dashed", penalties, ended.clean_accuracy.values[1:]),
        ],
        yscale="linear",
    )
    return [frontier, energies, rates]
