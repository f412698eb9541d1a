"""jit: the same numbers, one compilation for all of them, and errors that still arrive."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenario import CLUSTERS_ARE_SLOW, FUNCTIONS, NUMBERS, RUN_TIME, X, Y, as_arrays, assert_same, fitted, poisoned

import kpoison as kp


@pytest.mark.parametrize("name", CLUSTERS_ARE_SLOW)
def test_compiled_is_eager(name):
    assert_same(jax.jit(FUNCTIONS[name])(as_arrays(NUMBERS)), FUNCTIONS[name](NUMBERS))


def test_posteriors_and_poisons_are_arguments_and_results():
    # Pytrees: they go into compiled functions and come out of them.
    clean = jax.jit(lambda X, Y: kp.fit(kp.kernels.RBF(1.5), X, Y))(X, Y)
    poison = jax.jit(kp.Poison)(NUMBERS.zeta, NUMBERS.label, NUMBERS.count)
    compiled = jax.jit(kp.spike)(clean, poison, NUMBERS.x, NUMBERS.ridge)
    assert_same(compiled, FUNCTIONS["spike"](NUMBERS))


class Traced:
    """A number that a kernel's function may count up without being another function."""

    __slots__ = ("number",)

    def __init__(self):
        self.number = 0


def test_numbers_do_not_compile_again():
    # A kernel counts how often it is traced: new numbers of the same shape must not.
    traced = Traced()

    def function(x, z):
        traced.number += 1
        return jnp.exp(-jnp.sum((x - z) ** 2))

    kernel = kp.kernels.Custom(function)

    def run(ridge, count, shift):
        clean = kp.fit(kernel, X + shift, Y)
        return kp.spike(clean, kp.Poison(NUMBERS.zeta + shift, 1.0, count), NUMBERS.x, ridge)

    run(0.1, 1.0, 0.0)
    first = traced.number
    assert first > 0
    run(0.2, 2.5, 0.3)
    assert traced.number == first


def test_kernel_parameters_do_not_compile_again():
    traced = []

    class Counting(kp.kernels.RBF):
        def profile(self, u):
            traced.append(1)
            return super().profile(u)

    def run(length_scale):
        return kp.efficacy(fitted(NUMBERS._replace(scale=length_scale), Counting), poisoned(NUMBERS), NUMBERS.x, 0.1)

    run(1.5)
    first = len(traced)
    assert first > 0
    for length_scale in (0.7, 2.0):
        run(length_scale)
    assert len(traced) == first


BAD = {
    "ridge": ([-1.0, 0.0, np.nan, np.inf], "ridge must be finite and > 0"),
    "count": ([-1.0, np.nan, np.inf], "poison.count must be finite and >= 0"),
}
WITHOUT = {"kernel", "kernel of itself", "fit"}
WITHOUT_POISON = {*WITHOUT, "predict"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("predict", "gain", "spike") else pytest.mark.slow)
        for name in FUNCTIONS
        if name not in WITHOUT
    ],
)
def test_a_bad_ridge_or_count_raises_at_run_time(name):
    compiled = jax.jit(FUNCTIONS[name])
    good = as_arrays(NUMBERS)
    jax.block_until_ready(compiled(good))
    for argument, (values, message) in BAD.items():
        if argument == "count" and name in WITHOUT_POISON:
            continue
        for value in values:
            with pytest.raises(RUN_TIME, match=message):
                jax.block_until_ready(compiled(good._replace(**{argument: jnp.asarray(value)})))


def test_filter_jit_raises_equinoxs_error():
    compiled = eqx.filter_jit(FUNCTIONS["efficacy"])
    with pytest.raises(eqx.EquinoxRuntimeError, match="ridge must be finite and > 0"):
        compiled(as_arrays(NUMBERS)._replace(ridge=jnp.asarray(-1.0)))


@pytest.mark.parametrize("name", ["predict", "efficacy"])
@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_bad_length_scale_does_not_become_a_number(name, value):
    # Known, it is refused by the kernel; traced, it must not pass for a kernel either.
    compiled = jax.jit(FUNCTIONS[name])
    with contextlib.suppress(*RUN_TIME):
        assert not np.any(np.isfinite(compiled(as_arrays(NUMBERS)._replace(scale=jnp.asarray(value)))))


@pytest.mark.parametrize("argument", ["zeta", "label", "x"])
def test_non_finite_arguments_do_not_become_numbers(argument):
    compiled = jax.jit(FUNCTIONS["efficacy"])
    bad = as_arrays(NUMBERS._replace(**{argument: np.full_like(getattr(NUMBERS, argument), np.nan)}))
    with contextlib.suppress(*RUN_TIME):
        assert not np.any(np.isfinite(compiled(bad)))
