"""Points with multiplicities and an unpenalised constant: against repeated points and the bordered system."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp

RNG = np.random.default_rng(0)
N = 14
X = RNG.normal(size=(N, 2))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] ** 2], axis=1)
COUNTS = np.array([1, 3, 2, 0, 1, 1, 4, 1, 2, 1, 0, 1, 1, 2])
PROBES = RNG.normal(size=(5, 2))
POISON = kp.Poison(np.array([0.3, -0.4]), np.array([2.0, -1.0]), 3.0)
CLUSTER = kp.Poison(RNG.normal(size=(2, 2)), RNG.normal(size=(2, 2)), np.array([1.0, 2.5]))
KERNEL = kp.kernels.RBF(1.3)
RIDGE = 1e-2

SOLVERS = {
    "spectral": kp.Spectral(),
    "tridiagonal": kp.Tridiagonal(),
    "cholesky": kp.Cholesky(),
    "krylov": kp.Krylov(rank=8, tolerance=1e-13),
    "conjugate gradients": kp.ConjugateGradients(tolerance=1e-13),
}

VALUES = {"x": PROBES, "ridge": RIDGE, "threshold": 1e-2, "direction": PROBES[0]}
CLUSTERS = ("efficacy with poison", "posterior_covariance with poison", "predict with poison")
DEAR = ("blind_radius", "lag", "m_success", "m_visible")


def bound(law, parameters, poisoned):
    """The law as a function of what it is asked of and the poison; of an argument unknown here nothing is asked."""
    needed = [name for name, one in parameters.items() if one.default is one.empty and name not in ("clean", "poison")]
    given = {name: VALUES[name] for name in needed}

    def value(clean, poison):
        found = law(clean, **given, **({"poison": poison} if poisoned else {}))
        return jnp.stack([found(x) for x in PROBES]) if callable(found) else found

    return value


def found_laws():
    """Every law of kpoison, by its signature: with a poison where it takes one, without where it may."""
    laws = {}
    for name in kp.__all__:
        law = getattr(kp, name)
        parameters = inspect.signature(law).parameters if inspect.isfunction(law) else {}
        if not {"clean", "ridge"} <= set(parameters) or name in ("prepare", "sweep"):
            continue
        poison = parameters.get("poison")
        if poison is None or poison.default is None:
            laws[name] = bound(law, parameters, False)
        if poison is not None:
            laws[f"{name} with poison"] = bound(law, parameters, True)
    return laws


LAWS = found_laws()


def first_copies(clean, _):
    """Left out with all of its copies; a point that is not there is predicted by all."""
    places = np.repeat(np.arange(N), COUNTS)
    left = np.array(kp.predict(clean, X, RIDGE))
    left[places] = kp.leave_one_out(clean, RIDGE, groups=places)
    return left


# What is said of points and not of the predictor: what repeated points say instead.
TRANSLATED = {"leave_one_out": first_copies}


def repeated(counts=COUNTS):
    places = np.repeat(np.arange(N), counts)
    return X[places], Y[places]


def test_the_laws_are_found():
    assert {"predict", "predict with poison", "efficacy with poison", "gain with poison", "leave_one_out"} <= set(LAWS)


@pytest.mark.parametrize(
    "law",
    [
        pytest.param(law, marks=pytest.mark.slow if law.split()[0] in DEAR else ())
        for law in LAWS
        if law != "log_marginal_likelihood"
    ],
)
@pytest.mark.parametrize("intercept", [pytest.param(False, marks=pytest.mark.slow), True])
def test_weights_are_repeated_points(law, intercept):
    poison = CLUSTER if law in CLUSTERS else POISON
    weighted = kp.fit(KERNEL, X, Y, weights=COUNTS.astype(float), intercept=intercept)
    plain = kp.fit(KERNEL, *repeated(), intercept=intercept)
    expected = TRANSLATED.get(law, LAWS[law])(plain, poison)
    np.testing.assert_allclose(LAWS[law](weighted, poison), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("intercept", [False, True])
def test_the_likelihood_of_repeated_points_has_that_of_their_noise(intercept):
    counts = np.maximum(COUNTS, 1)  # of weights of 0 the noise is infinite
    weighted = kp.fit(KERNEL, X, Y, weights=counts.astype(float), intercept=intercept)
    plain = kp.fit(KERNEL, *repeated(counts), intercept=intercept)
    rho, outputs = counts.sum() * RIDGE, Y.shape[1]
    # w equal observations of noise ρ are their mean, of noise ρ/w, and w − 1 differences that are all 0.
    noise = -0.5 * outputs * np.sum((counts - 1) * np.log(2 * np.pi * rho) + np.log(counts))
    found = LAWS["log_marginal_likelihood"](weighted, None) + noise
    np.testing.assert_allclose(found, LAWS["log_marginal_likelihood"](plain, None), rtol=1e-11)


def bordered(w, rho, x, poison=None):
    """f(x) of points with weights and a constant, from the bordered system of all of them."""
    points, targets, weights = X, Y, w
    if poison is not None:
        location = np.atleast_2d(poison.location)
        points = np.concatenate([points, location])
        targets = np.concatenate([targets, np.broadcast_to(poison.label, (len(location), 2))])
        weights = np.concatenate([weights, np.broadcast_to(poison.count, len(location))])
    there = weights > 0
    points, targets, weights = points[there], targets[there], weights[there]
    n = len(points)

    def k(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2 / 1.3**2)

    system = np.block(
        [[k(points, points) + rho * np.diag(1 / weights), np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]]
    )
    solved = np.linalg.solve(system, np.concatenate([targets, np.zeros((1, 2))]))
    return k(x, points) @ solved[:-1] + solved[-1]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("solver", "poison"),
    [
        ("spectral", CLUSTER),
        ("tridiagonal", POISON),
        ("cholesky", CLUSTER),
        *(pytest.param(solver, POISON, marks=SLOW) for solver in SOLVERS if solver != "tridiagonal"),
        *(pytest.param(solver, CLUSTER, marks=SLOW) for solver in ("tridiagonal", "krylov", "conjugate gradients")),
    ],
)
def test_an_intercept_is_the_bordered_system(solver, poison):
    w = COUNTS + RNG.random(N)
    clean = kp.fit(KERNEL, X, Y, weights=w, intercept=True, solver=SOLVERS[solver])
    n = w.sum() + np.sum(poison.count)
    before, after = bordered(w, n * RIDGE, PROBES), bordered(w, n * RIDGE, PROBES, poison)
    np.testing.assert_allclose(kp.efficacy(clean, poison, PROBES, RIDGE), after - before, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(kp.predict(clean, PROBES, RIDGE, poison), after, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        kp.predict(clean, PROBES, RIDGE), bordered(w, w.sum() * RIDGE, PROBES), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize(
    ("solver", "intercept"),
    [
        pytest.param("spectral", True, marks=SLOW),
        pytest.param("spectral", False, marks=SLOW),
        pytest.param("conjugate gradients", True, marks=SLOW),
        pytest.param("conjugate gradients", False, marks=SLOW),
    ],
)
def test_weights_are_repeated_points_under_a_penalty(intercept, solver):
    options = {"intercept": intercept, "gradient_penalty": 0.2}
    weighted = kp.fit(KERNEL, X, Y, weights=COUNTS.astype(float), solver=SOLVERS[solver], **options)
    plain = kp.fit(KERNEL, *repeated(), **options)
    for law in ("predict", "predict with poison", "efficacy with poison", "spike with poison"):
        np.testing.assert_allclose(LAWS[law](weighted, CLUSTER), LAWS[law](plain, CLUSTER), rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [False, pytest.param(True, marks=SLOW)])
def test_weights_are_repeated_points_along_the_flow(intercept):
    weighted = kp.fit(KERNEL, X, Y, weights=COUNTS.astype(float), intercept=intercept)
    plain = kp.fit(KERNEL, *repeated(), intercept=intercept)
    for time in (0.5, 20.0):
        stopped = [kp.flow.early_stopped(clean, time) for clean in (weighted, plain)]
        for law in ("predict", "efficacy with poison", "spike with poison"):
            np.testing.assert_allclose(LAWS[law](stopped[0], POISON), LAWS[law](stopped[1], POISON), rtol=1e-8)


@pytest.mark.parametrize("time", [0.0, 0.5, 20.0])
def test_a_constant_is_at_its_optimum_along_the_flow(time):
    # The flow of a centred kernel: each mode of HKH, H = I − eeᵀ/n, contracts at the rate μ/n + λ.
    gram = np.asarray(KERNEL(X))
    centring = np.eye(N) - 1 / N
    mu, modes = np.linalg.eigh(centring @ gram @ centring)
    rate = mu / N + RIDGE
    dual = modes @ (-np.expm1(-rate * time) / (rate * N) * (modes.T @ centring @ Y).T).T
    cross = np.asarray(KERNEL(PROBES, X)) @ centring
    expected = cross @ dual + np.mean(Y - gram @ centring @ dual, axis=0)
    clean = kp.flow.early_stopped(kp.fit(KERNEL, X, Y, intercept=True), time)
    np.testing.assert_allclose(kp.predict(clean, PROBES, RIDGE), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("solver", "intercept"),
    [
        pytest.param("spectral", True, marks=SLOW),
        pytest.param("krylov", False, marks=SLOW),
        pytest.param("spectral", False, marks=SLOW),
        pytest.param("krylov", True, marks=SLOW),
    ],
)
def test_prepared_and_swept(solver, intercept):
    weights = COUNTS + 0.25
    clean = kp.fit(KERNEL, X, Y[:, 0], weights=weights, intercept=intercept, solver=SOLVERS[solver])
    exact = kp.fit(KERNEL, X, Y[:, 0], weights=weights, intercept=intercept, solver=kp.Cholesky())
    poison = kp.Poison(POISON.location, 2.0, 3.0)
    ready = kp.prepare(clean, poison, [1e-3, 1e-1])
    for law in ("efficacy with poison", "spike with poison", "predict with poison"):
        np.testing.assert_allclose(LAWS[law](ready, poison), LAWS[law](exact, poison), rtol=1e-7, atol=1e-9)
    found = kp.sweep(
        clean, poison, direction=np.array([1.0, 0.0]), r_over_l=[0.1, 1.0], m=[1, 5], ridge=[1e-3, 1e-2],
        quantities=("efficacy", "spike"),
    )  # fmt: skip
    probe = np.asarray(POISON.location) + 1.3 * np.array([1.0, 0.0])
    of_five = kp.Poison(POISON.location, 2.0, 5.0)
    for name, law in (("efficacy", kp.efficacy), ("spike", kp.spike)):
        value = found[name].sel(r_over_l=1.0, m=5, ridge=1e-2)
        np.testing.assert_allclose(np.squeeze(value), law(exact, of_five, probe, 1e-2), rtol=1e-6)


def influence(weights, solver):
    clean = kp.fit(KERNEL, X, Y, weights=weights, solver=solver)
    return jnp.sum(kp.efficacy(clean, CLUSTER, PROBES, RIDGE) ** 2)


def oracle(weights):
    def k(a, b):
        return jnp.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2 / 1.3**2)

    # (ρI + WK)c = Wy, which is regular at weights of 0.
    points = jnp.concatenate([jnp.asarray(X), CLUSTER.location])
    targets = jnp.concatenate([jnp.asarray(Y), CLUSTER.label])
    gram, counts = k(points, points), jnp.asarray(CLUSTER.count)
    rho = (jnp.sum(weights) + jnp.sum(counts)) * RIDGE

    def predicted(poison):
        w = jnp.concatenate([weights, poison])[:, None]
        return k(jnp.asarray(PROBES), points) @ jnp.linalg.solve(rho * jnp.eye(len(w)) + w * gram, w * targets)

    return jnp.sum((predicted(counts) - predicted(0 * counts)) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_derivatives_in_weights_down_to_none(solver):
    weights = jnp.asarray(COUNTS, float)
    assert jnp.sum(weights == 0) == 2
    found, expected = jax.grad(influence)(weights, SOLVERS[solver]), jax.grad(oracle)(weights)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7 * np.max(np.abs(expected)))
    if solver in ("spectral", "cholesky"):
        found, expected = jax.hessian(influence)(weights, SOLVERS[solver]), jax.hessian(oracle)(weights)
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7 * np.max(np.abs(expected)))


WRONG = {
    "negative": -COUNTS.astype(float),
    "none": np.zeros(N),
    "not finite": np.where(COUNTS > 3, np.nan, 1.0),
    "of another length": np.ones(N + 1),
    "text": np.array(["1"] * N),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_weights(case):
    with pytest.raises((ValueError, TypeError), match="weights"):
        kp.fit(KERNEL, X, Y, weights=WRONG[case])


def test_an_intercept_and_an_isolated_law():
    clean = kp.fit(KERNEL, X, Y, intercept=True)
    with pytest.raises(ValueError, match="intercept"):
        kp.efficacy(clean, POISON, PROBES, RIDGE, law="isolated")
    with pytest.raises(TypeError, match="intercept"):
        kp.fit(KERNEL, X, Y, intercept=2)


REFUSING = {
    "flip_labels": lambda clean: kp.attacks.flip_labels(clean, PROBES, RIDGE, budget=1),
    "certify": lambda clean: kp.attacks.flip_certificate(clean, PROBES, RIDGE),
    "bilevel": lambda clean: kp.attacks.bilevel_objective(
        clean, POISON, RIDGE, probes=PROBES, target=np.ones(len(PROBES))
    ),
    "generalisation": lambda clean: kp.attacks.generalisation_objective(
        clean, RIDGE, probes=PROBES, target=np.ones(len(PROBES))
    ),
}


@pytest.mark.parametrize("attack", REFUSING)
@pytest.mark.parametrize("what", ["weights", "an intercept"])
def test_attacks_that_know_nothing_of_it_say_so(attack, what):
    options = {"weights": np.ones(N)} if what == "weights" else {"intercept": True}
    clean = kp.fit(KERNEL, X, np.sign(X[:, 0]), **options)
    with pytest.raises(ValueError, match=f"without {what}"):
        REFUSING[attack](clean)


def test_a_flow_of_another_loss_refuses_an_intercept():
    clean = kp.fit(KERNEL, X, Y, intercept=True, gradient_penalty=0.1)
    with pytest.raises(ValueError, match="without an intercept"):
        kp.flow.loss_gradient_flow(clean, RIDGE, [1.0])


def test_some_of_the_points_keep_their_weights():
    fitted = kp.fit(kp.kernels.RBF(1.0), np.eye(3), np.ones(3), weights=np.array([1.0, 2.0, 3.0]), intercept=True)
    some = fitted.observations.some(np.array([2, 0]))
    np.testing.assert_array_equal(some.multiplicities, [3.0, 1.0])
    np.testing.assert_array_equal(some.points, np.eye(3)[[2, 0]])
    assert some.constant
