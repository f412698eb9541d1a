"""T7: a gradient penalty takes degrees of freedom, strictly unless nothing is coupled, and never all of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array
from jax.flatten_util import ravel_pytree

import kpoison as kp
from kpoison.networks import Network, UnconvergedError
from kpoison.networks.objective import Penalty, centred_objective, shifted
from theory_checks.catalogue import STATEMENTS
from theory_checks.descending import minimum
from theory_checks.finite_width import FiniteWidth, compare_with_networks, error_bars, rmse_slope
from theory_checks.penalised import PlainProblem, few_points
from theory_checks.record import Comparison, Panel, Record, compare, compare_signs, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_POINTS = 20
_PENALTIES = np.logspace(-3, 5, 5)  # in units of ℓ²
_DERIVATIVE = 1e-9
_NOTHING = 1e-3  # of the degrees of freedom without penalty
_NETWORK_PENALTIES = np.array([0.01, 0.1, 1.0])  # in units of ℓ²
_TRAINED = 1e-6  # of ‖∇J‖ at the start, and of the equation for the derivative
_MARGIN = 4  # of the largest eigenvalue at finite width over that at infinite width
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
        compare_signs(
            "H falls between any two γ, df strictly and to a number above 0, and that of the restricted fit to 0",
            ordered,
            reason="exact, but for rounding",
        ),
    ]
    x = _PENALTIES
    findings, panels = [], []
    if setting.networks is not None:
        compared, finding, panel = _finite_width(setting.networks, laws)
        comparisons += compared
        findings.append(finding)
        panels.append(panel)
    return setting.record(
        STATEMENTS["T7"],
        comparisons,
        [
            "the paper says that df(κ) falls; it does, strictly where any value is coupled to a slope, but what it "
            f"falls to is not 0: {plain:.4g} without penalty, {law[-1]:.4g} at γ = {x[-1]:g} ℓ², {last:.4g} at last",
            "the paper's form tr K(K + nλI + κG)⁻¹ is that of the fit among combinations of k(·, x_i) alone: "
            f"{restricted[0]:.4g} at γ = {x[0]:g} ℓ², {restricted[-1]:.2g} at γ = {x[-1]:g} ℓ²",
            *findings,
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
            ),
            *panels,
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


def _finite_width(networks: FiniteWidth, laws: Laws) -> tuple[list[Comparison], str, Panel]:
    """df of trained networks: the trace of the derivative of their outputs in the labels, which is no fixed matrix."""
    setting, widths = networks.setting, networks.own_widths
    penalties = _NETWORK_PENALTIES * setting.length_scale**2

    # The largest eigenvalue of ∇²J at infinite width, that of R K̄R/n + λ.
    whole = PlainProblem.of(setting.kernel, setting.X, setting.y, setting.ridge)
    steepest = np.array([whole.steepest(penalty) for penalty in penalties])

    def look(network: Network) -> Array:
        pairs = jnp.asarray(penalties), jnp.asarray(steepest)
        return jax.lax.map(lambda pair: _trained_degrees(networks, network, *pair), pairs)

    samples, left, unsolved = np.moveaxis(networks.drawn(widths, networks.own_seeds, look), -1, 0)
    for what, found in (("gradient", left), ("derivative in the labels", unsolved)):
        if not found.max() <= _TRAINED:
            raise UnconvergedError(f"{what} of a network left at {found.max():.1e}, not {_TRAINED:g}")
    law = np.array(
        [
            laws.degrees_of_freedom(
                kp.fit(setting.kernel, setting.X, setting.y, gradient_penalty=penalty), setting.ridge
            )
            for penalty in penalties
        ]
    )
    slope = rmse_slope(law, samples, widths, 0.95)
    mean = samples.mean(axis=1)
    return (
        [
            compare_with_networks("df(γ)", law, samples, widths),
            compare_signs("df falls with γ in every network", np.all(np.diff(samples, axis=-1) < 0), "finite width"),
        ],
        f"networks of width {', '.join(map(str, widths))}, trace of ∂g(X)/∂y: "
        f"{'; '.join(', '.join(f'{value:.4g}' for value in row) for row in mean)} at γ = "
        f"{', '.join(f'{penalty:g}' for penalty in _NETWORK_PENALTIES)} ℓ², in the limit "
        f"{', '.join(f'{value:.4g}' for value in law)}; slope in width of the rmse {slope.slope:.2f} "
        f"[{slope.interval[0]:.2f}, {slope.interval[1]:.2f}] (95 %), expected −1/2 to −1",
        Panel(
            f"Networks of width {widths[-1]}",
            "γ/ℓ²",
            "df",
            [curve("law", "line", _NETWORK_PENALTIES, law), error_bars("networks", _NETWORK_PENALTIES, samples[-1])],
            yscale="linear",
        ),
    )


def _trained_degrees(networks: FiniteWidth, network: Network, gamma: Array, steepest: Array) -> Array:
    """tr ∂g(X)/∂y of a trained network, by differentiating ∇J(θ, y) = 0: (1/n) tr G (∇²J)⁻¹Gᵀ, G = ∂g(X)/∂θ.

    And how far ∇J, and the equation for the derivative, are from 0.
    """
    setting, n = networks.setting, len(networks.setting.X)
    start, as_tree = ravel_pytree(jax.tree.map(jnp.zeros_like, network.parameters))
    data = setting.X, setting.y, jnp.ones(n), jnp.asarray(float(n)), jnp.asarray(setting.ridge)
    objective = centred_objective(network, *data, Penalty(gamma, None))
    gradient = jax.grad(lambda flat: objective(as_tree(flat)))
    trained, left = minimum(gradient, start, _MARGIN * steepest, setting.ridge, _TRAINED, 10_000)

    def bend(v: Array) -> Array:
        return jax.jvp(gradient, (trained,), (v,))[1]

    rows = jax.jacrev(lambda flat: shifted(network, as_tree(flat)).outputs(setting.X))(trained)
    # Ten times closer than asked for: the recursion's residual drifts from the true one.
    solved = jax.vmap(lambda row: jax.scipy.sparse.linalg.cg(bend, row, tol=_TRAINED / 10, maxiter=2000)[0])(rows)
    unsolved = jnp.linalg.norm(bend(jnp.sum(solved, axis=0)) - jnp.sum(rows, axis=0)) / jnp.linalg.norm(rows)
    return jnp.stack([jnp.vdot(rows, solved) / n, left, unsolved])
