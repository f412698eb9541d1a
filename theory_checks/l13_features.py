"""L13: what one feature more does to a predictor, and stochastic poisons as weights."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array

import kpoison as kp
from kpoison.networks import Network, Parameters
from kpoison.networks.objective import shifted
from kpoison.statistics import t_half_width
from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import FiniteWidth, compare_with_networks, error_bars
from theory_checks.record import FALSE_ALARM, Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_EPS = float(np.finfo(float).eps)
_VARIANCES = (1e-3, 1.0, np.inf)
_SCALE = 1.5  # of the feature, a cosine along the direction of the probes
# Networks: the probability of a poison, and steps until forgotten and then averaged over.
_THETA, _FORGOTTEN, _AVERAGED = 0.3, 200, 600
_FORGETS = 1e-3  # the start's share of what is averaged, at most


def _feature(setting: Setting, x: jnp.ndarray) -> jnp.ndarray:
    return jnp.cos(_SCALE * jnp.vdot(x, setting.direction) / setting.length_scale)


def _features(setting: Setting, laws: Laws) -> list[Comparison]:
    """The law against predictors of k + τ²ggᵀ, and of generalised least squares for τ = ∞, from NumPy."""
    x, n, y = setting.probes(np.array([0.3, 1.0])), len(setting.X), setting.refitter.y
    points = np.concatenate([setting.X, x])
    g = np.cos(_SCALE * points @ np.asarray(setting.direction) / setting.length_scale)
    gram = np.block(
        [
            [setting.refitter.gram, np.zeros((n, 2))],
            [np.asarray(setting.kernel.pairwise(x, setting.X)), np.zeros((2, 2))],
        ]
    )[:, :n]
    rho = n * setting.ridge
    inverse = scipy.linalg.inv(gram[:n] + rho * np.eye(n))
    before, energy = gram[n:] @ inverse @ y, y @ inverse @ y
    found: dict[str, list[np.ndarray]] = {"Δf": [], "coefficient": [], "fall of yᵀA⁻¹y": []}
    expected: dict[str, list[np.ndarray]] = {name: [] for name in found}
    for variance in _VARIANCES:
        effect = laws.feature_effect(setting.clean, lambda x: _feature(setting, x), x, setting.ridge, variance)
        for name, part in zip(found, effect, strict=True):
            found[name].append(np.ravel(np.asarray(part)))
        if np.isfinite(variance):
            system = gram[:n] + variance * np.outer(g[:n], g[:n]) + rho * np.eye(n)
            dual = scipy.linalg.solve(system, y, assume_a="pos")
            coefficient = variance * (g[:n] @ dual)
            left = y @ dual
        else:  # generalised least squares: the residual's dual is orthogonal to g
            bordered = np.block([[gram[:n] + rho * np.eye(n), g[:n, None]], [g[None, :n], np.zeros((1, 1))]])
            solved = scipy.linalg.solve(bordered, np.append(y, 0.0), assume_a="sym")
            dual, coefficient = solved[:-1], solved[-1]
            left = y @ dual
        after = gram[n:] @ dual + coefficient * g[n:]
        for name, part in zip(expected, (after - before, coefficient, energy - left), strict=True):
            expected[name].append(np.ravel(part))
    condition = (setting.refitter.largest + rho) / rho * (1 + n / setting.refitter.largest)
    reason = "100 · eps · condition number, times the largest"
    sizes = {
        "Δf": np.abs(before).max() + 1,
        "coefficient": np.abs(expected["coefficient"]).max(),
        "fall of yᵀA⁻¹y": energy,
    }
    return [
        compare(
            f"{name} of a feature, τ² = 1e-3, 1 and ∞",
            "refit",
            np.concatenate(found[name]),
            np.concatenate(expected[name]),
            100 * _EPS * condition * sizes[name],
            reason,
        )
        for name in found
    ]


def _stochastic(setting: Setting, laws: Laws) -> tuple[list[Comparison], str]:
    """Weights against full-batch descent of a linear model whose poisons are drawn anew at every step.

    No weight is in the oracle: the draws of a step do not depend on the parameters before it, so that the mean over the
    steps is the minimum of the expected loss, and independent runs give its error.
    """
    generator = np.random.default_rng([setting.seed, 13])
    n, d, theta, ridge, runs, steps = 30, 4, 0.2, 0.05, 16, (600 if setting.scale == "quick" else 40000)
    X = generator.standard_normal((n, d))
    y = np.sign(X[:, 0])
    eligible = y > 0
    copies = X + np.array([0.0, 0.0, 0.0, 2.0])
    parameters, rate, means = np.zeros((runs, d)), 0.1, np.zeros((runs, d))
    for step in range(steps + 100):
        drawn = (generator.random((runs, n)) < theta) & eligible
        features = np.where(drawn[:, :, None], copies, X)
        residual = np.einsum("rnd,rd->rn", features, parameters) - np.where(drawn, -1.0, y)
        slope = np.einsum("rnd,rn->rd", features, residual) / n + ridge * parameters
        parameters = parameters - rate * slope
        if step >= 100:
            means += parameters / steps
    probe = copies[eligible][:3]
    samples = means @ probe.T
    expected = laws.expected_poisoning(X, y, copies, -1.0, theta, eligible)
    clean = kp.fit(kp.kernels.Linear(), expected.X, expected.y, weights=expected.weights)
    law = np.asarray(kp.predict(clean, probe, ridge))
    # The mean of the normal equations over the draws: each of an example's two outcomes with its chance.
    chance = theta * eligible
    moment = X.T @ ((1 - chance)[:, None] * X) + copies.T @ (chance[:, None] * copies)
    target = X.T @ ((1 - chance) * y) - copies.T @ chance
    exact = probe @ np.linalg.solve(moment / n + ridge * np.eye(d), target / n)
    error = np.std(samples, axis=0, ddof=1) / np.sqrt(runs)
    tolerance = t_half_width(error, runs, FALSE_ALARM / len(law))
    fixed = probe @ np.linalg.solve(X.T @ X / n + ridge * np.eye(d), X.T @ y / n)
    reason = f"t-interval over {runs} runs of {steps} steps at {FALSE_ALARM:g}"
    compared = compare(
        "predictions with stochastic poisons", "simulation", law, np.mean(samples, axis=0), tolerance, reason
    )
    finding = (
        f"poisons drawn anew with θ = {theta:g} at every step take the prediction at a triggered example from "
        f"{fixed[0]:.3f} to {law[0]:.3f} by weights, {np.mean(samples[:, 0]):.3f} ± {error[0]:.3f} by descent"
    )
    rounding = "1e-11: the condition number of the linear kernel's matrix"
    return [compare("minimum of the expected loss", "closed form", law, exact, 1e-11, rounding), compared], finding


def _in_networks(networks: FiniteWidth, laws: Laws) -> tuple[Comparison, str, Panel]:
    """Networks that descend a loss whose poisons are drawn anew at every step, averaged over the last steps."""
    setting, widths = networks.setting, networks.own_widths
    X, y = setting.X, jnp.where(setting.y > 0, 1.0, -1.0)
    eligible, n = y > 0, len(X)
    copies = X + jnp.linalg.norm(setting.location) * setting.direction[None]
    probes = jnp.concatenate([copies[eligible][:3], X[:3]])
    expected = laws.expected_poisoning(X, y, copies, -1.0, _THETA, eligible)
    clean = kp.fit(setting.kernel, expected.X, expected.y, weights=expected.weights)
    law = np.asarray(laws.predict(clean, probes, setting.ridge))
    without = np.asarray(kp.predict(kp.fit(setting.kernel, X, y), probes, setting.ridge))
    # Of every image and its copy at once, which is more than any draw's; descent bears a loss twice as steep.
    every = jnp.concatenate([X, copies])
    rate = n / (float(jnp.linalg.norm(setting.kernel(every), 2)) + n * setting.ridge)
    # A mode is forgotten at the rate of the ridge or faster; an unconverged average is no data point.
    left = (1 - rate * float(setting.ridge)) ** _FORGOTTEN
    if left > _FORGETS:
        raise ArithmeticError(f"{_FORGOTTEN} steps leave {left:.1e} of the start")

    def look(network: Network) -> Array:
        def objective(shift: Parameters, points: Array, labels: Array) -> Array:
            r = shifted(network, shift).outputs(points) - network.outputs(points) - labels
            norm = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(shift))
            return (jnp.sum(r**2) / n + setting.ridge * norm) / 2

        def step(carry, index):
            shift, total, key = carry
            drawn = jax.random.bernoulli(jax.random.fold_in(key, index), _THETA, (n,)) & eligible
            slope = jax.grad(objective)(shift, jnp.where(drawn[:, None], copies, X), jnp.where(drawn, -1.0, y))
            shift = jax.tree.map(lambda p, g: p - rate * g, shift, slope)
            seen = shifted(network, shift).outputs(probes) - network.outputs(probes)
            return (shift, total + jnp.where(index >= _FORGOTTEN, seen, 0), key), None

        nothing = jax.tree.map(jnp.zeros_like, network.parameters)
        # A key that differs from seed to seed, of numbers that do.
        key = jax.random.key(jax.lax.bitcast_convert_type(network.parameters.weights[0][0, 0], jnp.uint32).ravel()[0])
        first = nothing, jnp.zeros(len(probes), X.dtype), key
        (_, total, _), _ = jax.lax.scan(step, first, jnp.arange(_FORGOTTEN + _AVERAGED))
        return total / _AVERAGED

    samples = networks.drawn(widths, networks.own_seeds, look)
    x = np.arange(1, len(probes) + 1)
    return (
        compare_with_networks("predictions of networks with stochastic poisons", law, samples, widths),
        f"networks of width {widths[-1]} with poisons drawn anew with θ = {_THETA:g} at every step: "
        f"{samples[-1, :, 0].mean():.3f} at a triggered example, {law[0]:.3f} by weights, {without[0]:.3f} without "
        "poison",
        Panel(
            f"Stochastic poisons in networks of width {widths[-1]}",
            "triggered examples, then clean ones",
            "prediction",
            [
                curve("kernel with weights", "dots", x, law),
                error_bars("networks", x, samples[-1]),
                curve("kernel without poison", "dashed", x, without),
            ],
            xscale="linear",
            yscale="linear",
        ),
    )


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """Features against predictors of the wider kernel; stochastic poisons against descent, of networks too."""
    comparisons = _features(setting, laws)
    simulated, finding = _stochastic(setting, laws)
    findings, panels = [finding], []
    comparisons += simulated
    if setting.networks is not None and not setting.networks.kinks:
        compared, finding, panel = _in_networks(setting.networks, laws)
        comparisons.append(compared)
        findings.append(finding)
        panels.append(panel)
    return setting.record(STATEMENTS["L13"], comparisons, findings, panels)
