"""Values, gradients and Hessians of every law through `fit`, by every solver and order of modes, against a plain refit.

The refit shares no code with the laws: weighted points are an ordinary system K + ρ diag(1/w), solved by `jnp.linalg`,
and JAX differentiates through everything.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hessians import MODES, assert_equal, derivatives
from known_solvers import every_solver

import kpoison as kp

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(6, 2)), np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
ZETA, PROBE = np.array([0.4, -0.3]), np.array([0.1, 0.5])
DX, DY, DZETA, DPROBE = RNG.normal(size=X.shape), RNG.normal(size=Y.shape), RNG.normal(size=2), RNG.normal(size=2)
THRESHOLD = 1e-2
DIRECTION, RELATIVE = np.array([1.0, 0.0]), 1.0  # of the blind radius, which is 0.25
PARAMETERS = {
    "length scale": 1.1,
    "count": 1.7,
    "ridge": 0.05,
    "label": 3.0,
    "probe": 0.0,
    "location": 0.0,
    "points": 0.0,
    "targets": 0.0,
}
AT = np.array(list(PARAMETERS.values()))
SOLVERS = every_solver(Krylov={"rank": 3, "tolerance": 1e-13}, ConjugateGradients={"tolerance": 1e-13})


def laws_of(parameters, solver, thresholds=None, only=None) -> dict:
    """Every public law by name, as numbers; or the thresholds alone, or all but these; or only some."""
    scale, count, ridge, label, probe, location, points, targets = parameters
    clean = kp.fit(kp.kernels.RBF(scale), X + points * DX, Y + targets * DY, solver=solver)
    poison = kp.Poison(ZETA + location * DZETA, label, count)
    given = {
        "clean": clean, "poison": poison, "x": PROBE + probe * DPROBE, "ridge": ridge, "threshold": THRESHOLD,
        "direction": DIRECTION,
    }  # fmt: skip
    found = {}
    for name in only or kp.__all__:
        law = getattr(kp, name)
        names = inspect.signature(law).parameters if inspect.isfunction(law) else {}
        dear = f"{name} 0" in THRESHOLDS
        if {"clean", "ridge"} <= set(names) and name not in ("prepare", "sweep") and thresholds in (None, dear):
            asked = given | ({"threshold": RELATIVE} if name == "blind_radius" else {})
            value = law(**{key: asked[key] for key in names if key in asked})
            if name == "predictor":
                value = value(given["x"])
            for place, part in enumerate(value if isinstance(value, tuple) else (value,)):
                for index in np.ndindex(part.shape):
                    found[" ".join(map(str, (name, place, *index)))] = part[index]
    return found


def kernel(x, z, scale):
    difference = x[:, None] - z[None]
    return jnp.exp(-jnp.sum(difference**2, axis=-1) / (2 * scale**2))


def refitted(parameters, thresholds=None) -> dict:
    """The same by plain linear algebra."""
    scale, count, ridge, label, probe, location, points, targets = parameters
    x, zeta, X_, y = PROBE + probe * DPROBE, ZETA + location * DZETA, X + points * DX, Y + targets * DY

    def solved(rho):
        """k̃ at ρ, and f_c."""
        gram = kernel(X_, X_, scale) + rho * jnp.eye(len(X_))

        def covariance(a, b):
            return (
                kernel(a[None], b[None], scale)[0, 0]
                - (kernel(a[None], X_, scale) @ jnp.linalg.solve(gram, kernel(X_, b[None], scale)))[0, 0]
            )

        return covariance, lambda a: (kernel(a[None], X_, scale) @ jnp.linalg.solve(gram, y))[0]

    def trained(a, count, with_poison=True):
        """The predictor trained on weighted points, at ρ = (n_c + m)λ."""
        rho = (len(X_) + count) * ridge
        if not with_poison:
            return solved(rho)[1](a)
        everything = jnp.concatenate([X_, zeta[None]])
        weights = jnp.concatenate([jnp.ones(len(X_)), count[None]])
        system = kernel(everything, everything, scale) + jnp.diag(rho / weights)
        return (kernel(a[None], everything, scale) @ jnp.linalg.solve(system, jnp.concatenate([y, label[None]])))[0]

    def effect(a, count):
        return trained(a, count) - trained(a, count, with_poison=False)

    def root(margin, start):
        """Newton's steps from the root: each adds an order of derivatives."""
        count = jax.lax.stop_gradient(start)
        for _ in range(3):
            count = count - margin(count) / jax.grad(margin)(count)
        return count

    gradient = jax.grad(effect)(x, count)
    covariance, _ = solved((len(X_) + count) * ridge)
    ray = x / jnp.linalg.norm(x)

    def ratio(k, a):
        return jnp.sum(jax.grad(k)(a, zeta) ** 2) / k(a, zeta) ** 2

    def isolated(a, b):
        return kernel(a[None], b[None], scale)[0, 0]

    found = {}
    if thresholds in (None, True):
        start = laws_of(jax.lax.stop_gradient(parameters), kp.Spectral(), thresholds=True)
        success = root(lambda m: trained(x, m), start["m_success 0"])
        visible = root(lambda m: jnp.sum(jax.grad(effect)(x, m) ** 2) / THRESHOLD - 1, start["m_visible 0"])
        rho = (len(X_) + count) * ridge
        covariance, mean = solved(rho)
        spread = jnp.abs(label - mean(zeta)) / covariance(zeta, zeta)

        def seen(r):
            place = zeta + r * DIRECTION
            bent, slope = (jnp.sum(jax.grad(f)(place) ** 2) for f in (lambda a: covariance(a, zeta), mean))
            return spread**2 * bent / (RELATIVE * slope) - 1

        found["blind_radius 0"] = root(seen, start["blind_radius 0"])
        found |= {"lag 0": visible / success, "m_success 0": success, "m_visible 0": visible}
    if thresholds in (None, False):
        everything, weights = jnp.concatenate([X_, zeta[None]]), jnp.concatenate([jnp.ones(len(X_)), count[None]])
        gram, rho = kernel(everything, everything, scale), (len(X_) + count) * ridge
        cross = kernel(x[None], everything, scale)[0]
        system, alone = gram + jnp.diag(rho / weights), gram[:-1, :-1] + len(X_) * ridge * jnp.eye(len(X_))
        inverse = jnp.linalg.inv(alone)
        left_out = y - inverse @ y / jnp.diagonal(inverse)
        volume = jnp.linalg.slogdet(alone)[1] + len(X_) * jnp.log(2 * jnp.pi)
        found |= {f"leave_one_out 0 {i}": left_out[i] for i in range(len(X_))} | {
            "degrees_of_freedom 0": jnp.trace(jnp.linalg.solve(system, gram)),
            "log_marginal_likelihood 0": -0.5 * (y @ inverse @ y + volume),
            "posterior_covariance 0": kernel(x[None], x[None], scale)[0, 0] - cross @ jnp.linalg.solve(system, cross),
        }
        found |= {
            "coupling_floor 0": ratio(covariance, zeta),
            "coupling_ratio 0": ratio(covariance, x) / ratio(isolated, x),
            "efficacy 0": effect(x, count),
            "efficacy_gradient 0 0": gradient[0],
            "efficacy_gradient 0 1": gradient[1],
            "gain 0": count / ((len(X_) + count) * ridge + count * covariance(zeta, zeta)),
            "predict 0": trained(x, count),
            "predictor 0": trained(x, count),
            "spike 0": jnp.sum(gradient**2),
            "spike_components 0": (gradient @ ray) ** 2,
            "spike_components 1": jnp.sum((gradient - (gradient @ ray) * ray) ** 2),
            "spike_efficacy_ratio 0": ratio(covariance, x),
        }
    return found


FACTORISED = ("Spectral", "Tridiagonal", "Cholesky")
THRESHOLDS = ("blind_radius 0", "m_success 0", "m_visible 0", "lag 0")  # a search each: the dearest to compile


@functools.cache
def refitted_derivatives(thresholds):
    """Values, gradients and Hessians of the refit, of which every solver sees the same."""
    return derivatives(lambda p: refitted(p, thresholds), jnp.asarray(AT), "forward over reverse")


@pytest.mark.slow
def test_every_law_is_here():
    assert sorted(laws_of(jnp.asarray(AT), kp.Spectral())) == sorted(refitted(jnp.asarray(AT)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "mode", "thresholds", "only"),
    [
        ("Spectral", "reverse over reverse", False, None),
        ("Spectral", "forward over reverse", True, None),
        # Every law above and below; here one for each thing that a law asks of a factorisation.
        (
            "Tridiagonal",
            "forward over reverse",
            False,
            ("spike", "degrees_of_freedom", "leave_one_out", "log_marginal_likelihood", "posterior_covariance"),
        ),
        ("Cholesky", "forward over forward", False, None),
        ("Krylov", "forward over reverse", False, ("efficacy",)),
        ("ConjugateGradients", "reverse over reverse", False, ("efficacy", "gain")),
    ],
)
def test_hessians_are_those_of_a_refit(solver, mode, thresholds, only):
    found = derivatives(lambda p: laws_of(p, SOLVERS[solver], thresholds, only), jnp.asarray(AT), mode)
    expected = [
        {name: value for name, value in order.items() if not only or name.split()[0] in only}
        for order in refitted_derivatives(thresholds)
    ]
    assert_equal(found, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "solver",
    [pytest.param(name, marks=[pytest.mark.slow] if name not in ("Spectral", "Cholesky") else []) for name in SOLVERS],
)
def test_second_derivative_of_a_prediction(solver, mode):
    """By hand, the simplest derivative through K: two points."""

    def predicted(scale):
        clean = kp.fit(kp.kernels.RBF(scale), np.array([[0.0], [1.0]]), np.array([1.0, -1.0]), solver=SOLVERS[solver])
        return kp.predict(clean, np.array([0.75]), 0.1)

    # f(l) = (e^{−9/32l²} − e^{−1/32l²}) / (1.2 − e^{−1/2l²}), differentiated twice at l = 1 by mpmath.
    outer, inner = MODES[mode]
    np.testing.assert_allclose(outer(inner(predicted))(1.0), -0.20656821652396395, rtol=1e-7)
