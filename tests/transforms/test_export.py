"""Programs without host callbacks: every law with every solver lowers for accelerators, and returns its failures."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_solvers import every_solver

import kpoison as kp

SOLVERS = every_solver(Krylov={"rank": 4})
LAWS = {
    name: getattr(kp, name)
    for name in kp.__all__
    if inspect.isfunction(getattr(kp, name))
    and {"clean", "ridge"} <= set(inspect.signature(getattr(kp, name)).parameters)
    and name not in ("prepare", "sweep")  # which take known numbers, from Python
}


def test_the_laws_are_found():
    assert {"gain", "efficacy", "spike", "predict", "predictor", "m_success", "lag", "coupling_floor"} <= set(LAWS)


def arguments(law, clean, dtype) -> dict:
    values = {
        "clean": clean,
        "poison": kp.Poison(jnp.full(3, 0.5, dtype), jnp.asarray(-1.0, dtype), jnp.asarray(2.0, dtype)),
        "x": jnp.full((2, 3), 0.25, dtype),
        "ridge": jnp.asarray(1e-2, dtype),
        "threshold": jnp.asarray(1e-3, dtype),
        "direction": jnp.asarray([1.0, 0.0, 0.0], dtype),
    }
    return {name: values[name] for name in inspect.signature(law).parameters if name in values}


def posterior(solver: str, dtype) -> kp.Posterior:
    X = np.random.default_rng(0).standard_normal((6, 3)).astype(dtype)
    return kp.fit(kp.kernels.RBF(1.5), X, np.sign(X[:, 0]), solver=SOLVERS[solver])


def export(laws: dict, clean: kp.Posterior, dtype, platforms: list[str]) -> str:
    """The lowered text of some laws in one program."""

    def together(given):
        return {name: kp.with_failures(laws[name])(**given[name]) for name in laws}

    given = {name: arguments(law, clean, dtype) for name, law in laws.items()}
    lowered = jax.export.export(jax.jit(together), platforms=platforms)(given)
    return lowered.mlir_module()


CHEAP = {("Spectral", "float64")}


@pytest.mark.parametrize(
    ("solver", "dtype"),
    [
        pytest.param(solver, dtype, marks=() if (solver, dtype) in CHEAP else pytest.mark.slow)
        for solver in SOLVERS
        for dtype in ("float32", "float64")
    ],
)
def test_every_law_lowers_for_accelerators(solver, dtype):
    clean = posterior(solver, dtype)
    # What solvers that do not factorise refuse by name.
    refused = () if clean.factor.abilities.factorised else ("degrees_of_freedom", "log_marginal_likelihood")
    laws = {name: law for name, law in LAWS.items() if name not in refused}
    text = export(laws, clean, dtype, ["cuda", "rocm", "tpu"])
    assert "callback" not in text


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_program_calls_a_routine_that_writes_on_what_it_only_reads(solver):
    # LAPACK's ormqr sets a diagonal to 1 and then back: two calls at once on the same reflections, by XLA's threads,
    # read each other's.  A derivative in the ridge was -415 and not 3.45, once.
    X = np.random.default_rng(0).standard_normal((6, 3))

    def function(X, ridge):
        clean = kp.fit(kp.kernels.RBF(1.5), X, jnp.sign(X[:, 0]), solver=SOLVERS[solver])
        return jnp.sum(kp.predict(clean, jnp.ones((2, 3)), ridge))

    program = jax.jit(jax.grad(function, argnums=(0, 1))).lower(X, 1e-2).as_text()
    assert not re.search(r"(or|un)m(qr|tr|hr|br|lq|rq)", program)


def test_no_tridiagonal_reduction_on_a_tpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match=r"Tridiagonal\(\) does not run on a TPU.*Spectral"):
        kp.fit(kp.kernels.RBF(1.5), np.eye(7), np.arange(7.0), solver=kp.Tridiagonal())  # a shape not traced before
    assert isinstance(kp.choose_solver(100, jnp.float32), kp.Spectral)


def test_errors_at_run_time_are_callbacks():
    """What the tests above look for is there where a law is inside of a user's program."""
    clean = posterior("Spectral", "float64")
    given = arguments(kp.gain, clean, "float64")
    assert "callback" in jax.jit(kp.gain).lower(**given).as_text()
