"""Laws from a Krylov search against those from a factorisation; what has not converged is said or marked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.ridge import tiles
from kpoison.ridge._low_rank import low_rank
from kpoison.ridge.solvers.krylov import KrylovFactor
from kpoison.ridge.tiles import TiledGram, in_dtype

RNG = np.random.default_rng(8)
N, D = 150, 6
X = jnp.asarray(RNG.normal(size=(N, D)))
Y = jnp.asarray(np.sign(RNG.normal(size=N)))
ZETA, PROBE, DIRECTION = (jnp.asarray(RNG.normal(size=D)) for _ in range(3))
POISON = kp.Poison(ZETA, 1.0, 3.0)
RIDGES = np.geomspace(1e-4, 1, 7)
KERNELS = {
    "rbf": kp.kernels.RBF(2.0),
    "laplace": kp.kernels.Laplace(3.0),
    "relu-ntk": kp.kernels.NTK(hidden_layers=2),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles, the last one not full."""
    monkeypatch.setattr(tiles, "_TILE", 64)


def fitted(kernel=KERNELS["rbf"], y=Y, **options):
    return kp.fit(kernel, X, y, solver=kp.Krylov(rank=options.pop("rank", 40), **options))


def laws(clean, poison, ridge):
    return [
        kp.gain(clean, poison, ridge),
        kp.efficacy(clean, poison, PROBE, ridge),
        kp.spike(clean, poison, PROBE, ridge),
        kp.predict(clean, PROBE, ridge, poison),
    ]


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("keep", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_product_is_that_of_the_gram_matrix(kernel, keep):
    gram = TiledGram(*in_dtype(kernel, X, jnp.float64))
    gram = gram.kept() if keep else gram
    b = jnp.asarray(RNG.normal(size=(N, 3)) * [[1, 1e200, 0]])
    np.testing.assert_allclose(gram.product(b), kernel(X) @ b, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gram.product(1j * b), 1j * (kernel(X) @ b), rtol=1e-12, atol=1e-12)


def test_kept_tiles_are_half_of_the_matrix():
    kept = TiledGram(*in_dtype(KERNELS["rbf"], X, jnp.float32)).kept()
    assert kept.tiles is not None
    assert kept.tiles.dtype == jnp.float32
    assert kept.tiles.nbytes == tiles.gram_bytes(N, "float32") < 0.7 * N**2 * 4


@pytest.mark.slow
def test_the_approximation_is_from_below_and_near_the_best():
    gram = TiledGram(KERNELS["rbf"], X)
    found = low_rank(gram, 60, jax.random.key(0), jnp.float64)
    dense = np.asarray(KERNELS["rbf"](X))
    left = dense - np.asarray(found.vectors * found.eigenvalues[None]) @ np.asarray(found.vectors).T
    eigenvalues = np.linalg.eigvalsh(dense)
    assert np.linalg.eigvalsh(left)[0] > -1e-12 * eigenvalues[-1]
    assert float(found.rest * found.trace) == pytest.approx(np.trace(left), rel=1e-9)
    # Randomly pivoted columns come near the best approximation of a lower rank.
    assert np.sum(eigenvalues[:-60]) < np.trace(left) < np.sum(eigenvalues[:-35])
    b = jnp.asarray(RNG.normal(size=(N, 2)))
    rho = jnp.asarray(0.3)
    power = found.power(rho, 0.5, found.power(rho, 0.5, b))
    np.testing.assert_allclose(power, dense @ b - left @ b + 0.3 * b, rtol=1e-9, atol=1e-9)


def test_duplicated_points_and_more_rank_than_there_is():
    doubled = jnp.concatenate([X[:20], X[:20]])
    found = low_rank(TiledGram(KERNELS["rbf"], doubled), 40, jax.random.key(0), jnp.float64)
    dense = KERNELS["rbf"](doubled)
    np.testing.assert_allclose((found.vectors * found.eigenvalues[None]) @ found.vectors.T, dense, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rbf", {}),
        ("laplace", {"keep": False}),
        ("relu-ntk", {"products": "float32"}),
    ],
)
def test_laws_are_those_of_a_factorisation(name, options):
    clean, dense = fitted(KERNELS[name], **options), kp.fit(KERNELS[name], X, Y)
    with pytest.raises(AttributeError, match=r"factor\.gram"):
        _ = clean.gram
    ready = kp.prepare(clean, POISON, RIDGES)
    status = ready.factor.status
    assert bool(jnp.all(status.converged))
    assert float(jnp.max(status.relative_residuals)) <= 1e-10
    for ridge in (RIDGES[0], 0.03, RIDGES[-1]):
        np.testing.assert_allclose(laws(ready, POISON, ridge), laws(dense, POISON, ridge), rtol=1e-6)
    np.testing.assert_allclose(kp.gain(clean, POISON, 0.03), kp.gain(dense, POISON, 0.03), rtol=1e-8)


@pytest.mark.slow
def test_residuals_are_those_of_the_matrix():
    clean = fitted(tolerance=1e-6)
    status = kp.prepare(clean, POISON, RIDGES).factor.status
    b = jnp.concatenate([clean.kernel(X, ZETA[None]), Y[:, None]], axis=1)
    found = clean.factor.project(b, (float(status.rho[0]), float(status.rho[-1])))
    for rho, residual in zip(found.status.rho, found.status.relative_residuals, strict=True):
        inside = (found.vectors.T @ b) / (found.eigenvalues + rho)[:, None]
        x = found.vectors @ inside
        left = jnp.linalg.norm(b - clean.kernel(X) @ x - rho * x, axis=0) / jnp.linalg.norm(b, axis=0)
        assert float(jnp.max(left)) == pytest.approx(float(residual), rel=1e-3)
    assert int(found.status.products) < 40


@pytest.mark.slow
def test_narrow_products_are_refined_and_few_are_exact():
    narrow = kp.prepare(fitted(products="float32"), POISON, RIDGES).factor.status
    assert float(jnp.max(narrow.relative_residuals)) <= 1e-10
    assert 2 <= int(narrow.exact_products) <= 5


@pytest.mark.slow
def test_several_outputs_and_locations():
    y = jnp.stack([Y, -0.5 * Y, jnp.asarray(RNG.normal(size=N))], axis=1)
    cluster = kp.Poison(jnp.stack([ZETA, PROBE]), jnp.ones((2, 3)), jnp.array([2.0, 5.0]))
    clean, dense = fitted(y=y), kp.fit(KERNELS["rbf"], X, y)
    ready = kp.prepare(clean, cluster, [1e-3, 1e-1])
    for law in (kp.efficacy, kp.spike):
        np.testing.assert_allclose(law(ready, cluster, PROBE, 1e-2), law(dense, cluster, PROBE, 1e-2), rtol=1e-6)


@pytest.mark.slow
def test_a_sweep_says_how_well_it_was_solved():
    axes = {"direction": DIRECTION, "r_over_l": [0.1, 1.0], "m": [1, 30], "ridge": RIDGES}
    names = ("gain", "efficacy", "spike", "m_success", "prediction")
    found = kp.sweep(fitted(), POISON, quantities=names, **axes)
    expected = kp.sweep(kp.fit(KERNELS["rbf"], X, Y), POISON, quantities=names, **axes)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    assert found.relative_residual.dims == ("m", "ridge")
    assert float(found.relative_residual.max()) <= 1e-10
    assert "rank=40" in found.attrs["solver"]


@pytest.mark.slow
def test_a_sweep_of_a_function_of_the_users_solves_for_itself():
    def gain_there(clean, poison, x, ridge):
        return kp.gain(clean, poison, ridge) * x[0]

    found = kp.sweep(
        fitted(), POISON, quantities=(gain_there,), direction=DIRECTION, r_over_l=[0.1], m=[3.0], ridge=[1e-2]
    )
    x = ZETA + 0.2 * DIRECTION / jnp.linalg.norm(DIRECTION)
    dense = kp.fit(KERNELS["rbf"], X, Y)
    expected = kp.gain(dense, POISON, 1e-2) * x[0]
    np.testing.assert_allclose(found.gain_there.values.ravel(), [expected], rtol=1e-8)
    assert "relative_residual" not in found


@pytest.mark.slow
def test_unconverged_ridges_are_marked_in_a_sweep():
    axes = {"direction": DIRECTION, "r_over_l": [0.1, 1.0], "m": [1.0], "ridge": np.geomspace(1e-7, 1, 8)}
    clean = fitted(rank=2, max_products=12, tolerance=1e-3)
    with pytest.warns(UserWarning, match="solves have not converged for . of 8 pairs"):
        found = kp.sweep(clean, POISON, **axes)
    unconverged = found.relative_residual.values[0] > 1e-3
    assert 0 < np.sum(unconverged) < 8
    np.testing.assert_array_equal(np.isnan(found.spike.values[0, 0]), unconverged)
    expected = kp.sweep(kp.fit(KERNELS["rbf"], X, Y), POISON, **axes)
    np.testing.assert_allclose(found.gain.values[0, ~unconverged], expected.gain.values[0, ~unconverged], rtol=1e-2)


@pytest.mark.slow
def test_unconverged_and_unprepared_ridges_are_errors_in_laws():
    clean = fitted(rank=2, max_products=3, tolerance=1e-8)
    with pytest.raises(Exception, match=r"conjugate gradients have not converged .* max_products"):
        kp.gain(clean, POISON, 1e-6)
    with pytest.raises(Exception, match="the solves have not converged"):
        kp.gain(kp.prepare(clean, POISON, 1e-6), POISON, 1e-6)
    for solver in (kp.Krylov(rank=40), kp.Cholesky()):
        ready = kp.prepare(kp.fit(KERNELS["rbf"], X, Y, solver=solver), POISON, [1e-3, 1e-2])
        with pytest.raises(Exception, match="clean was not prepared for it"):
            kp.gain(ready, POISON, 2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [kp.Spectral(), kp.Cholesky(), kp.Tridiagonal()])
@pytest.mark.parametrize("ridge", [1e-3, [1e-4, 1e-2]])
def test_prepared_by_a_factorisation(solver, ridge):
    dense = kp.fit(KERNELS["rbf"], X, Y, solver=solver)
    ready = kp.prepare(dense, POISON, ridge, count=3.0)
    assert not ready.factor.abilities.any_right_hand_side
    assert not [leaf for leaf in jax.tree.leaves(ready.factor) if leaf.shape == (len(X), len(X))]
    np.testing.assert_allclose(laws(ready, POISON, 1e-3), laws(dense, POISON, 1e-3), rtol=1e-9)


@pytest.mark.slow
def test_derivatives_in_kernel_points_ridge_and_count():
    def law(solver):
        def value(length_scale, x, ridge, count):
            clean = kp.fit(kp.kernels.RBF(length_scale), x, Y, solver=solver)
            return kp.efficacy(clean, kp.Poison(ZETA, 1.0, count), PROBE, ridge)

        return jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(2.0, X, 1e-2, 3.0)

    for found, expected in zip(law(kp.Krylov(rank=40)), law(kp.Spectral()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * float(jnp.max(jnp.abs(expected))))


@pytest.mark.slow
def test_prepared_laws_under_transforms():
    ready, dense = kp.prepare(fitted(), POISON, RIDGES, count=[0, 50]), kp.fit(KERNELS["rbf"], X, Y)

    def law(clean, ridge, count):
        return kp.spike(clean, kp.Poison(ZETA, 1.0, count), PROBE, ridge)

    for transform in (jax.jit, lambda f: jax.jit(jax.grad(f, argnums=(1, 2)))):
        found, expected = (transform(law)(clean, 1e-2, 3.0) for clean in (ready, dense))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    each = jax.vmap(law, (None, 0, None))(ready, jnp.asarray(RIDGES), 2.0)
    np.testing.assert_allclose(each[3], law(dense, RIDGES[3], 2.0), rtol=1e-6)
    clean_prediction = kp.predict(ready, PROBE, 1e-2)
    np.testing.assert_allclose(clean_prediction, kp.predict(dense, PROBE, 1e-2), rtol=1e-8)


@pytest.mark.slow
def test_float32():
    narrow = kp.fit(KERNELS["rbf"], X.astype(jnp.float32), Y.astype(jnp.float32), solver=kp.Krylov(rank=40))
    poison = kp.Poison(ZETA.astype(jnp.float32), 1.0, 3.0)
    ready = kp.prepare(narrow, poison, [1e-2, 1.0])
    found = kp.efficacy(ready, poison, PROBE.astype(jnp.float32), 0.1)
    assert found.dtype == jnp.float32
    dense = kp.fit(KERNELS["rbf"], X, Y)
    np.testing.assert_allclose(found, kp.efficacy(dense, POISON, PROBE, 0.1), rtol=1e-3)


# --- Bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 0}, ValueError, "rank must be an integer >= 1, got 0"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be finite and > 0"),
        ({"max_products": 0}, ValueError, "max_products must be an integer >= 1"),
        ({"products": "float16"}, ValueError, "products must be one of 'float32', 'float64', got 'float16'"),
        ({"memory": 0}, ValueError, "memory must be an integer >= 1"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        kp.Krylov(**options)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_before_it_is_made():
    with pytest.raises(
        ValueError, match=r"n = 150 points with a preconditioner of rank 40 take about .* lower the rank"
    ):
        fitted(memory=1000)
    with pytest.raises(ValueError, match=r"the Gram matrix of n = 150 points takes .* use keep=False"):
        fitted(memory=1_400_000, keep=True)
    assert fitted(memory=1_400_000).factor.gram.tiles is None
    with pytest.raises(ValueError, match="products must not be wider than the data"):
        kp.fit(KERNELS["rbf"], X.astype(jnp.float32), Y, solver=kp.Krylov(products="float64"))
    with pytest.raises(ValueError, match=r"takes no gradient_penalty: use solver=kpoison.ConjugateGradients\(\)"):
        kp.fit(KERNELS["rbf"], X, Y, solver=kp.Krylov(), gradient_penalty=0.1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, z: jnp.sum(x * z) - 3.0, "is not positive semi-definite on X"),
        (lambda x, z: jnp.exp(jnp.sum(x) - 0.5 * jnp.sum(z)), "is not symmetric on X"),
        (lambda x, z: jnp.log(x[0]) * jnp.log(z[0]), "has non-finite values on X"),
    ],
)
@pytest.mark.parametrize("solver", [kp.Krylov(rank=10), kp.Cholesky()])
def test_what_is_no_kernel(monkeypatch, function, message, solver):
    monkeypatch.setattr("kpoison.ridge.solvers.cholesky._PROVED_BELOW", 11)
    with pytest.raises(ValueError, match=message):
        kp.fit(kp.kernels.Custom(function), X, Y, solver=solver)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"clean": 3}, TypeError, "(clean must be a Posterior|parameter 'clean')"),
        ({"poison": 3}, TypeError, "(poison must be a kpoison.Poison|parameter 'poison')"),
        ({"ridge": 0.0}, ValueError, "ridge must be finite and > 0"),
        ({"ridge": []}, ValueError, "ridge must hold at least one number"),
        ({"count": -1.0}, ValueError, "count must be finite and >= 0"),
        ({"ridge": 1e-30}, ValueError, "too ill-conditioned"),
    ],
)
def test_what_cannot_be_prepared(change, error, message):
    arguments = {"clean": fitted(), "poison": POISON, "ridge": 1e-2} | change
    with pytest.raises(error, match=message):
        kp.prepare(**arguments)


def test_penalised_posteriors_cannot_be_prepared():
    penalised = kp.fit(KERNELS["rbf"], X[:20], Y[:20], gradient_penalty=0.1)
    with pytest.raises(ValueError, match="clean must be fitted without gradient_penalty"):
        kp.prepare(penalised, POISON, 1e-2)


def test_the_solver_is_chosen_by_size_and_memory(monkeypatch, capsys):
    assert kp.choose_solver(1_999, memory=2**34) == kp.Spectral()
    many = kp.Tridiagonal() if jax.default_backend() == "cpu" else kp.Spectral()
    assert kp.choose_solver(12_000, memory=2**34) == many
    assert kp.choose_solver(12_000, ridges=1, memory=2**34) == kp.Cholesky()
    assert isinstance(kp.choose_solver(12_001, memory=2**34), kp.Krylov)
    assert isinstance(kp.choose_solver(12_000, memory=2**31), kp.Krylov)
    kp.fit(KERNELS["rbf"], X, Y, verbose=True)
    assert "Spectral() for 150 numbers in float64" in capsys.readouterr().out
    monkeypatch.setattr("kpoison.ridge.solvers.choice.DENSE_UP_TO", 100)
    assert isinstance(kp.fit(KERNELS["rbf"], X, Y).factor, KrylovFactor)
    monkeypatch.setattr("kpoison.ridge.solvers.dense.available_memory", lambda: 100_000)
    with pytest.raises(ValueError, match=r"solver=Spectral\(\) of n = 150 numbers takes about .* at most 50"):
        kp.fit(KERNELS["rbf"], X, Y, solver=kp.Spectral())
