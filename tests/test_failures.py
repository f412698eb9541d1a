"""Failures as values: raised from Python, errors at run time under a user's transformation, returned when asked."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison._failures import (
    Failure,
    _trace_of_python,
    checked_result,
    collect,
    mapped,
    program,
    scan,
    silently,
)


class OddError(ValueError):
    """Raised below."""


def root(x):
    return jnp.sqrt(checked_result(x, [Failure(x < 0, "x is negative", kind=OddError)]))


@program
def one(x):
    return root(x)


@program
def many(x):
    return mapped(jax.vmap, root)(x)


@program
def looped(x):
    return scan(lambda total, step: (total + root(step), None), jnp.zeros(()), x)[0]


@program
def deaf(x):
    with silently():
        return root(x) + jnp.sum(mapped(jax.vmap, root)(x[None]))


@program
def nested(x):
    return one(x) + many(x[None])[0]


@program
def told(x):
    warning = Failure(x > 10, "x is large, {:.3g}", (x,), RuntimeWarning)
    return checked_result(x, [warning])


@pytest.mark.parametrize(("function", "shape"), [(one, ()), (many, (3,)), (looped, (3,)), (nested, ())])
def test_python_raises_what_a_program_returns(function, shape):
    good = np.full(shape, 4.0)
    assert np.all(np.isfinite(function(good)))
    with pytest.raises(OddError, match="x is negative"):
        function(np.where(np.arange(good.size).reshape(shape) == good.size - 1, -1.0, good))
    assert "callback" not in jax.jit(kp.with_failures(function)).lower(good).as_text()


@pytest.mark.parametrize(("function", "shape"), [(one, ()), (many, (3,)), (looped, (3,)), (nested, ())])
@pytest.mark.parametrize("transform", [jax.jit, eqx.filter_jit, jax.vmap, jax.grad])
def test_a_users_transformation_raises_at_run_time(function, shape, transform):
    bad = np.full(shape, -1.0)

    def run(x):
        if transform is jax.grad:
            return jax.grad(lambda x: jnp.sum(function(x)))(x)
        return transform(function)(x[None] if transform is jax.vmap else x)

    with pytest.raises(Exception, match="x is negative"):
        jax.block_until_ready(run(bad))


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, lambda f: lambda x: jax.vmap(f)(x[None])])
def test_python_is_known_as_such_whoever_asks_first(transform):
    """An error at run time would not be an `OddError`."""
    _trace_of_python.cache_clear()
    transform(one)(jnp.ones(()))
    with pytest.raises(OddError, match="x is negative"):
        one(-jnp.ones(()))


def test_silence():
    assert np.isnan(deaf(np.asarray(-1.0)))


def test_known_numbers_raise_at_once():
    with pytest.raises(OddError):
        checked_result(0, [Failure(True, "odd", kind=OddError)])
    with pytest.raises(OddError):
        mapped(jax.vmap, root)(jnp.array([1.0, -1.0]))


def test_warnings_say_their_numbers_once_and_from_python_only():
    with pytest.warns(RuntimeWarning, match="x is large, 12") as caught:
        told(np.asarray(12.0))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told(np.asarray(1.0))
        jax.jit(told)(np.asarray(12.0))


def test_of_many_failures_the_numbers_are_those_of_the_first():
    def at(x):
        return checked_result(x, [Failure(x > 10, "{:.3g}", (x,), RuntimeWarning)])

    with pytest.warns(RuntimeWarning, match="^20$"):
        mapped(jax.vmap, at)(jnp.array([1.0, 20.0, 30.0]))


def test_collect_tells_nobody():
    value, (failure,) = jax.jit(lambda x: collect(root, x))(-1.0)
    assert np.isnan(value)
    assert bool(failure.failed)
    assert failure.kind is OddError


def test_a_law_returns_its_failures():
    clean = kp.fit(kp.kernels.RBF(1.0), np.eye(3), np.ones(3))
    ridges = jnp.array([1e-2, -1.0])
    value, failures = jax.vmap(lambda ridge: kp.with_failures(kp.predict)(clean, np.zeros(3), ridge))(ridges)
    assert value.shape == (2,)
    by_message = {failure.message: failure.failed for failure in failures}
    assert by_message["ridge must be finite and > 0"].tolist() == [False, True]
    assert kp.with_failures(kp.predict)(clean, np.zeros(3), 1e-2)[0] == kp.predict(clean, np.zeros(3), 1e-2)
