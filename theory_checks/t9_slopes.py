"""T9: slopes at the training points decay exponentially without the data term; otherwise not as the paper has it."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

import kpoison as kp
from kpoison.networks import Network, Parameters
from kpoison.networks.objective import shifted
from theory_checks.catalogue import STATEMENTS
from theory_checks.descending import flow
from theory_checks.finite_width import compare_with_networks, error_bars, rmse_slope
from theory_checks.hermite import ROUNDING, covariances, penalised_fit, rounding, seen_at
from theory_checks.penalised import PlainProblem
from theory_checks.record import Comparison, Kind, Panel, Record, compare, compare_signs, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_EPS = float(np.finfo(float).eps)
_POINTS, _DIMENSION = 8, 2
_PENALTY, _RIDGE = 0.5, 0.01
_TIMES = np.array([1.0, 10.0, 100.0])
_SHOWN_TIMES = np.geomspace(0.3, 1e3, 40)
_DRAWS = 200
# (d): three points in the plane at which the slopes along the first axis grow with γ.
_X = np.array([[0.4, -0.4], [1.0, 0.1], [-0.3, 0.3]])
_Y = np.array([-0.6, 0.0, 0.3])
_SOLVED_RIDGE, _SOLVED_PENALTIES = 0.008, np.array([0.0, 0.01])
# Networks: γ in units of ‖ζ‖², times in units of the fastest rate's inverse.
_NETWORK_POINTS, _NETWORK_PENALTY = 8, 0.03
_NETWORK_TIMES = np.array([0.5, 1.0, 2.0])
_UNRESOLVED = 1e-3  # of slopes of 1, with twice the steps; a thirtieth of that is left
_REASON = "100 · eps · the largest rate times t, of the largest slope"


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """The exact decay against an exponential in NumPy; the paper's bound where it is an equality, and where not."""
    if setting.kernel_name != "rbf":
        return _of_networks(setting, laws)
    generator = np.random.default_rng([setting.seed, 9])
    X = generator.normal(size=(_POINTS, _DIMENSION))
    clean = kp.fit(kp.kernels.RBF(1.0), X, np.zeros(_POINTS), weights=np.ones(_POINTS), gradient_penalty=_PENALTY)
    N = covariances(X, X)[2] / _POINTS
    alphas, vectors = np.linalg.eigh(N)
    start = generator.normal(size=X.shape)

    def decayed(g: np.ndarray) -> np.ndarray:
        return np.asarray(laws.slope_contraction(clean, g.reshape(X.shape), _RIDGE, _TIMES)).reshape(len(_TIMES), -1)

    law = decayed(start)
    rates = _PENALTY * N + _RIDGE * np.eye(len(N))
    reference = np.array([scipy.linalg.expm(-time * rates) @ start.ravel() for time in _TIMES])
    error = 100 * _EPS * (1 + (_PENALTY * alphas[-1] + _RIDGE) * _TIMES[:, None]) * np.linalg.norm(start)
    comparisons = [compare("slopes g(t)", "simulation", law, reference, error, _REASON)]
    for name, index in (("fastest", -1), ("middle", len(alphas) // 2)):
        v, alpha = vectors[:, index], alphas[index]
        energy = (decayed(v) @ v) ** 2
        bound = np.exp(-2 * (_PENALTY * alpha + _RIDGE) * _TIMES)
        off = 3 * error[:, 0] / np.linalg.norm(start)
        comparisons.append(
            compare(f"E(t)/E(0) along the {name} eigenvector", "closed form", energy, bound, off, _REASON)
        )
    isolated, finding = _isolated(laws)
    risen, text, panel = _solution(laws)
    jensen, ratios = _directions(N, generator)
    grown, along = _from_nothing(N, generator), _with_data(generator)
    signs = [*jensen, grown[-1] > 1e-6, along[0] < 1e-20 < along[-1]]
    comparisons += [
        isolated,
        *risen,
        compare_signs(
            "E_v is above the paper's bound for every v drawn; grows from 0; rises with the data term", signs
        ),
    ]
    return setting.record(
        STATEMENTS["T9"],
        comparisons,
        [
            "the paper says E_v(t) ≤ E_v(0) e^(−2κα t); without the data term that is an equality along eigenvectors "
            "of M^½K11M^½/n, with the ridge E_v(0) e^(−2(γα+λ)t), and false otherwise",
            f"(a) along {_DRAWS} random directions E_v(t) is {ratios.min():.4g} to {ratios.max():.4g} times "
            "E_v(0) e^(−2γ(vᵀNv)t)",
            f"(b) a component that is 0 at first grows to {grown.max():.2g} of the energy of the slopes at t = 0",
            f"(c) with the data term, from f = 0, E_v rises from 0 to {along[-1]:.3g} y²/ℓ²",
            text,
            finding,
        ],
        [_decay(N, generator), panel],
        kernel="RBF(1)",
        data="normal points in the plane",
        ridge=_RIDGE,
        n_c=_POINTS,
        d=_DIMENSION,
    )


def _isolated(laws: Laws) -> tuple[Comparison, str]:
    """At points far from each other the rate is m/(nℓ²) in every direction, m their multiplicity."""
    weights, ell = np.arange(1.0, _POINTS + 1), 1.5
    X = 100 * np.arange(_POINTS)[:, None] * np.array([[1.0, 0.5]])
    g = np.cos(np.arange(2.0 * _POINTS)).reshape(X.shape)
    clean = kp.fit(kp.kernels.RBF(ell), X, np.zeros(_POINTS), weights=weights, gradient_penalty=_PENALTY)
    alphas = weights / (weights.sum() * ell**2)
    law = np.asarray(laws.slope_contraction(clean, g, 0.0, _TIMES))
    closed = np.exp(-_PENALTY * alphas[None, :, None] * _TIMES[:, None, None]) * g
    tolerance = 100 * _EPS * (1 + _PENALTY * alphas.max() * _TIMES[:, None, None]) * np.abs(g).max()
    return (
        compare("slopes at isolated points: α = m/(nℓ²)", "closed form", law, closed, tolerance, _REASON),
        f"at isolated points α is {alphas[0]:.4g} for one and {alphas[4]:.4g} for five clones, the same in every "
        "direction: multiplicity, not alignment, speeds the decay, and only of slopes at training points",
    )


def _directions(N: np.ndarray, generator: np.random.Generator) -> tuple[list[bool], np.ndarray]:
    """(a): for g(0) along any v the energy left along v, over the paper's bound with α = vᵀNv."""
    alphas, Q = np.linalg.eigh(N)
    v = Q.T @ generator.normal(size=(len(N), _DRAWS))
    shares = v**2 / np.sum(v**2, axis=0)
    time = 1 / (_PENALTY * alphas.mean())
    left = np.exp(-_PENALTY * alphas * time) @ shares
    ratios = (left / np.exp(-_PENALTY * (alphas @ shares) * time)) ** 2
    return (ratios > 1).tolist(), ratios


def _from_nothing(N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(b): the energy along a direction in which there is none at first, along t."""
    g = generator.normal(size=len(N))
    v = N @ g - (g @ N @ g) / (g @ g) * g
    v /= np.linalg.norm(v)
    along = [scipy.linalg.expm(-_PENALTY * time * N) @ g @ v for time in np.append(0.0, _TIMES)]
    return np.square(along) / (g @ g)


def _with_data(generator: np.random.Generator) -> np.ndarray:
    """(c): E_v along T2's flow with the data term from f = 0, v the direction in which the slopes end."""
    y = np.sign(_X[:, 0] - 0.1)
    K, K01, K11 = covariances(_X, _X)
    n, scale = len(_X), _PENALTY**0.5
    both = np.block([[K, scale * K01], [scale * K01.T, _PENALTY * K11]])
    mu, Q = np.linalg.eigh(both)
    target = Q.T @ np.append(y, np.zeros(len(K11)))
    slopes = []
    for time in np.append(0.0, _TIMES):
        c = Q @ (-np.expm1(-(mu / n + _RIDGE) * time) / (mu + n * _RIDGE) * target)
        slopes.append((both @ c)[n:] / scale)
    v = slopes[-1] / np.linalg.norm(slopes[-1])
    return np.square(np.array(slopes) @ v)


def _solution(laws: Laws) -> tuple[list[Comparison], str, Panel]:
    """(d): uᵀFu and tr F of the trained predictor, with and without the penalty."""
    n = len(_X)
    law, brute, errors = [], [], []
    for penalty in _SOLVED_PENALTIES:
        f = laws.predictor(kp.fit(kp.kernels.RBF(1.0), _X, _Y, gradient_penalty=penalty), _SOLVED_RIDGE)
        law.append(_along_and_all(np.asarray(jax.jit(jax.vmap(jax.grad(f)))(jnp.asarray(_X)))))
        brute.append(_along_and_all(_solved_slopes(penalty)))
        errors.append(rounding(_X, _Y, n * _SOLVED_RIDGE, penalty))
    (u0, all0), (u1, all1) = law
    fine = np.append(0.0, np.geomspace(1e-3, 1, 40))
    curves = np.array([_along_and_all(_solved_slopes(penalty)) for penalty in fine])
    tolerance = np.array(errors)[:, None] * np.sqrt(brute) * 2
    return (
        [
            compare("uᵀFu and tr F, trained", "refit", law, brute, tolerance, ROUNDING),
            compare_signs("uᵀFu rises by a third while tr F falls", [u1 > 4 / 3 * u0, all1 < 0.85 * all0]),
        ],
        f"(d) at the solution, from γ = 0 to {_SOLVED_PENALTIES[1]:g}, uᵀFu along one axis goes from {u0:.4g} to "
        f"{u1:.4g} ({u1 / u0 - 1:+.0%}) while tr F goes from {all0:.4g} to {all1:.4g} ({all1 / all0 - 1:+.0%})",
        Panel(
            "(d) Three points in the plane, trained",
            "γ/ℓ²",
            "over its value at γ = 0",
            [
                curve("uᵀFu along the first axis", "line", fine[1:], curves[1:, 0] / curves[0, 0]),
                curve("tr F", "dashed", fine[1:], curves[1:, 1] / curves[0, 1]),
                curve("laws", "dots", _SOLVED_PENALTIES[[1, 1]], [u1 / u0, all1 / all0]),
            ],
        ),
    )


def _solved_slopes(penalty: float) -> np.ndarray:
    return seen_at(_X, _X, penalised_fit(_X, _Y, len(_X) * _SOLVED_RIDGE, penalty))[1]


def _along_and_all(slopes: np.ndarray) -> tuple[float, float]:
    """uᵀFu with u the first axis, and tr F."""
    return float(np.mean(slopes[:, 0] ** 2)), float(np.mean(np.sum(slopes**2, axis=1)))


def _decay(N: np.ndarray, generator: np.random.Generator) -> Panel:
    """An eigenvector, on the bound, and another direction above it."""
    alphas, Q = np.linalg.eigh(N)
    series = []
    v = generator.normal(size=len(N))
    drawn: tuple[tuple[str, Kind, np.ndarray], ...] = (
        ("eigenvector", "line", Q[:, len(N) // 2]),
        ("random v", "dashed", v / np.linalg.norm(v)),
    )
    for name, kind, start in drawn:
        shares = (Q.T @ start) ** 2
        left = [float(np.exp(-_PENALTY * alphas * time) @ shares) ** 2 for time in _SHOWN_TIMES]
        bound = np.exp(-2 * _PENALTY * (alphas @ shares) * _SHOWN_TIMES)
        series += [
            curve(f"E_v/E_v(0), {name}", kind, _SHOWN_TIMES, _shown(left)),
            curve(f"e^(−2γαt), α of the {name}", "dots", _SHOWN_TIMES, _shown(bound)),
        ]
    return Panel("Slopes without the data term", "time t", "E_v(t)/E_v(0)", series)


def _shown(energy: np.ndarray | list[float]) -> np.ndarray:
    """What a picture of five decades has room for."""
    return np.where(np.asarray(energy) > 1e-5, energy, np.nan)


def _of_networks(setting: Setting, laws: Laws) -> Record | None:
    """Slopes of networks that descend penalty and ridge alone, from where they are two eigenvectors' sum."""
    if setting.networks is None or setting.networks.kinks:
        return None
    networks, widths = setting.networks, setting.networks.own_widths
    X, gamma = networks.setting.X[:_NETWORK_POINTS], _NETWORK_PENALTY * float(networks.setting.length_scale) ** 2
    K11 = PlainProblem.of(networks.setting.kernel, X, jnp.zeros(len(X)), _RIDGE).K11
    alphas, Q = np.linalg.eigh(K11 / len(X))
    pair = [len(alphas) - 1, len(alphas) // 2]
    rates = gamma * alphas[pair] + _RIDGE
    times, start = _NETWORK_TIMES / rates[0], Q[:, pair].sum(axis=1) / 2**0.5
    # Of a function Σ aᵢᵀ∂k(·, xᵢ) the slopes are K11 a.
    weights = np.linalg.solve(K11, start).reshape(X.shape)
    # On both eigenvectors, along the start, and across it, where there is nothing at first.
    views = np.stack([*Q[:, pair].T, start, (Q[:, pair[0]] - Q[:, pair[1]]) / 2**0.5], axis=1)

    def look(network: Network) -> jnp.ndarray:
        return _slopes_along(network, X, jnp.asarray(weights), gamma, jnp.append(0.0, times)) @ views

    samples = networks.drawn(widths, networks.own_seeds, look)
    unresolved = np.abs(samples[:, :, 1] - samples[:, :, 0]).max()
    if unresolved > _UNRESOLVED:
        raise ArithmeticError(f"the flow of networks changes by {unresolved:.1e} with twice the steps")
    samples = samples[:, :, 1]
    clean = kp.fit(networks.setting.kernel, X, jnp.zeros(len(X)), gradient_penalty=gamma)
    law = np.asarray(laws.slope_contraction(clean, jnp.asarray(start.reshape(X.shape)), _RIDGE, jnp.asarray(times)))
    law = np.concatenate([start[None], law.reshape(len(times), -1)]) @ views
    every = samples.reshape(*samples.shape[:2], -1)
    slope = rmse_slope(law.ravel(), every, widths, 0.95)
    wide = samples[-1]
    ratios = (wide[:, 1:, 2] / wide[:, :1, 2]) ** 2 / np.exp(-rates.sum() * times)
    grown = wide[:, 1:, 3] ** 2 - wide[:, :1, 3] ** 2
    x = np.append(0.0, _NETWORK_TIMES)
    return setting.record(
        STATEMENTS["T9"],
        [
            compare_with_networks(
                "slopes along two eigenvectors, their sum and difference", law.ravel(), every, widths
            ),
            compare_signs(
                "E_v ends above the paper's bound where v is no eigenvector, and grows from 0 in every network",
                [np.all(ratios[:, -1] > 1), np.all(grown[:, 1:] > 0)],
                "finite width",
            ),
        ],
        [
            f"networks of width {widths[-1]}: along the sum of two eigenvectors, whose rates are {rates[0]:.3g} and "
            f"{rates[1]:.3g}, E_v(t) is {ratios[:, -1].mean():.3g} times the paper's bound at t = {times[-1]:.3g}; "
            f"across it E_v grows from {np.mean(wide[:, 0, 3] ** 2):.1g} to {np.mean(wide[:, -1, 3] ** 2):.2g}",
            f"slope in width of the rmse of the slopes {slope.slope:.2f} [{slope.interval[0]:.2f}, "
            f"{slope.interval[1]:.2f}] (95 %), expected −1/2",
        ],
        [
            Panel(
                f"Networks of width {widths[-1]}, penalty and ridge alone",
                "time t in units of the fastest rate",
                "slope, of all slopes at t = 0",
                [
                    part
                    for name, i in (("fast eigenvector", 0), ("slow eigenvector", 1), ("across the start", 3))
                    for part in (
                        curve(f"{name}, law", "line", x, law[:, i]),
                        error_bars(f"{name}, networks", x, wide[:, :, i]),
                    )
                ],
                xscale="linear",
                yscale="linear",
            )
        ],
        ridge=_RIDGE,
        n_c=len(X),
        widths=widths.tolist(),
        seeds=networks.own_seeds,
        gradient_penalty=gamma,
    )


def _slopes_along(network: Network, X: jnp.ndarray, weights: jnp.ndarray, gamma: float, times: jnp.ndarray):
    """Slopes (2, T, nd) of the centred network at the points along the flow; then with twice the steps."""
    nothing = jax.tree.map(jnp.zeros_like, network.parameters)

    def raw(shift: Parameters) -> jnp.ndarray:
        return jax.vmap(jax.grad(shifted(network, shift)))(X).ravel()

    initial = raw(nothing)
    pullback = jax.vjp(raw, nothing)[1]

    def velocity(shift: Parameters) -> Parameters:
        slopes, back = jax.vjp(raw, shift)
        pull = back(gamma / len(X) * (slopes - initial))[0]
        return jax.tree.map(lambda p, s: -p - _RIDGE * s, pull, shift)

    start = pullback(weights.ravel())[0]

    def along(steps):
        return flow(velocity, start, times, lambda shift: raw(shift) - initial, steps)

    return jax.lax.map(along, jnp.array([4, 8]))
