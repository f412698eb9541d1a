"""T7: a gradient penalty takes degrees of freedom, strictly unless nothing is coupled, and never all of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

import kpoison as kp
from theory_checks.catalogue import STATEMENTS
from theory_checks.penalised import PlainProblem, few_points
from theory_checks.record import Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_POINTS = 20
_PENALTIES = np.logspace(-3, 5, 5)  # in units of ℓ²
_DERIVATIVE = 1e-9
_NOTHING = 1e-3  # of the degrees of freedom without penalty
_REASON = "10 · eps · condition number, times the number of points"


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """df and df′ against hat matrices and their closed derivative; both limits; the paper's restricted form."""
    if setting.kernel.smoothness < 2:
        return None
    small = few_points(setting, _POINTS)
    penalties = _PENALTIES * small.length_scale**2
    problem = PlainProblem.of(small.kernel, small.X, small.y, small.ridge)

    def fitted(penalty):
        return kp.fit(small.kernel, small.X, small.y, gradient_penalty=penalty)

    @jax.jit
    def found(penalty):
        def degrees(penalty):
            return laws.degrees_of_freedom(fitted(penalty), small.ridge)

        return *jax.value_and_grad(degrees)(penalty), laws.restricted_degrees_of_freedom(fitted(penalty), small.ridge)

    law, slopes, restricted = np.array([found(jnp.asarray(penalty)) for penalty in penalties]).T
    brute = np.array([np.trace(problem.hat(penalty)) for penalty in penalties])
    closed = np.array([_slope(problem, penalty) for penalty in penalties])
    rounding = _POINTS * np.array([problem.rounding(penalty) for penalty in penalties])
    narrow = np.array([np.trace(problem.restricted_hat(penalty)) for penalty in penalties])
    plain = np.trace(problem.hat(0))
    last = np.trace(problem.hat(np.inf))
    hats = [problem.hat(penalty) for penalty in (0.0, *penalties, np.inf)]
    least = [scipy.linalg.eigvalsh(before - after)[0] for before, after in itertools.pairwise(hats)]
    ordered = [
        *(value >= -rounding[-1] for value in least),
        np.all(np.diff([plain, *law]) < 0),
        law[-1] > last - rounding[-1] > 0.1,
        np.all(restricted < law + rounding),
        restricted[-1] < _NOTHING * plain,
    ]
    comparisons = [
        compare("df(γ)", "refit", law, brute, rounding, _REASON),
        compare(
            "df′(γ)",
            "closed form",
            slopes,
            closed,
            _DERIVATIVE * np.abs(closed) + rounding / penalties,
            "1e-9 of it; where it is next to 0 the rounding of df, over γ",
        ),
        compare("df of the restricted fit", "refit", restricted, narrow, np.maximum(rounding, 1e-9 * narrow), _REASON),
        compare(
            "H falls between any two γ, df strictly and to a number above 0, and that of the restricted fit to 0: 1 "
            "where they do",
            "closed form",
            np.ones(len(ordered)),
            np.array(ordered, float),
            0.0,
            "exact, but for rounding",
        ),
    ]
    x = _PENALTIES
    return setting.record(
        STATEMENTS["T7"],
        comparisons,
        [
            "the paper says that df(κ) falls; it does, strictly where any value is coupled to a slope, but what it "
            f"falls to is not 0: {plain:.4g} without penalty, {law[-1]:.4g} at γ = {x[-1]:g} ℓ², {last:.4g} at last",
            "the paper's form tr K(K + nλI + κG)⁻¹ is that of the fit among combinations of k(·, x_i) alone: "
            f"{restricted[0]:.4g} at γ = {x[0]:g} ℓ², {restricted[-1]:.2g} at γ = {x[-1]:g} ℓ²",
        ],
        [
            Panel(
                "Degrees of freedom",
                "γ/ℓ²",
                "df",
                [
                    curve("law", "line", x, law),
                    curve("hat matrix", "dots", x, brute),
                    curve("restricted fit, law", "line", x, restricted),
                    curve("restricted fit, hat matrix", "dots", x, narrow),
                    curve("limit", "dashed", x, np.full(len(x), last)),
                ],
            )
        ],
        ridge=small.ridge,
        n_c=len(small.X),
    )


def _slope(problem: PlainProblem, penalty: float) -> float:
    """df′(γ) = −tr ρ(K̃ + ρ)⁻¹P(K̃ + ρ)⁻¹, P = −dK̃/dγ: the squared Frobenius norm of T7."""
    bent = problem.given_flat_slopes(penalty)
    system = bent + problem.rho * np.eye(len(bent))
    inner = scipy.linalg.solve(system, problem.bend(penalty), assume_a="pos")
    return -problem.rho * float(np.trace(scipy.linalg.solve(system, inner.T, assume_a="pos")))
