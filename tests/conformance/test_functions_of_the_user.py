"""Functions that read globals, closures, defaults or bound objects: what they read now is what counts."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison._watched import Watched
from kpoison.kernels.activations import Quadrature

SCALE = 1.0
TABLE = {"scale": [1.0]}
ARRAY = np.ones(1)
X = np.random.default_rng(0).normal(size=(6, 2))
Y = np.sign(X[:, 0])
PROBE = np.array([0.3, -0.2])


class Held:
    """A mutable object."""

    scale = 1.0

    def __init__(self):
        self.scale = 1.0

    def times(self, u):
        return u * self.scale


HELD = Held()


def of_global(u):
    return u * SCALE


def of_table(u):
    return u * TABLE["scale"][0]


def of_array(u):
    return u * ARRAY[0]


def of_another(u):
    return of_global(u)


def of_closure(cell):
    return lambda u: u * cell[0]


def setting(kind):
    """A function u ↦ scale·u, and how its scale is set."""

    def set_global(value):
        global SCALE  # noqa: PLW0603
        SCALE = value

    def set_table(value):
        TABLE["scale"][0] = value

    def set_array(value):
        ARRAY[0] = value

    cell = [1.0]
    held = Held()
    found = {
        "global": (of_global, set_global),
        "table": (of_table, set_table),
        "array": (of_array, set_array),
        "another function": (of_another, set_global),
        "closure": (of_closure(cell), lambda value: cell.__setitem__(0, value)),
        "method": (held.times, lambda value: setattr(held, "scale", value)),
        "partial": (functools.partial(Held.times, held), lambda value: setattr(held, "scale", value)),
    }
    return found[kind]


KINDS = ["global", "table", "array", "another function", "closure", "method", "partial"]


def predicted(kernel):
    return float(kp.predict(kp.fit(kernel, X, Y), PROBE, 0.1))


CALLS = {
    "custom kernel": lambda f: predicted(kp.kernels.Custom(lambda x, z: jnp.exp(-f(jnp.sum((x - z) ** 2))))),
    "activation": lambda f: predicted(kp.kernels.NTK(1, Quadrature(lambda u: jnp.tanh(0.3 * f(u)), 24))),
    "gradients": lambda f: float(kp.curvature.input_gradients(lambda x: f(jnp.sum(x**2)), X)[0, 0]),
    "Hessian": lambda f: float(kp.curvature.input_hessian(lambda x: f(jnp.sum(x**2)), X, np.zeros(6)).dense()[0, 0]),
}


EVERY = [
    *(("gradients", kind) for kind in KINDS),
    ("custom kernel", "global"),
    ("Hessian", "global"),
    pytest.param("activation", "global", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("call", "kind"), EVERY)
def test_what_a_function_reads_is_read_at_every_call(call, kind):
    function, set_scale = setting(kind)
    try:
        found = []
        for scale in (1.0, 3.0, 1.0):
            set_scale(scale)
            found.append(CALLS[call](function))
        assert found[0] == found[2]
        set_scale(3.0)
        assert found[1] == CALLS[call](lambda u: u * 3.0)
        assert found[0] != found[1]
    finally:
        set_scale(1.0)


def test_a_kept_kernel_notices():
    def function(x, z):
        return jnp.exp(-SCALE * jnp.sum((x - z) ** 2))

    kernel, set_scale = kp.kernels.Custom(function), setting("global")[1]
    try:
        clean = kp.fit(kernel, X, Y)
        first = float(kp.predict(clean, PROBE, 0.1))
        set_scale(3.0)
        assert float(kp.predict(kp.fit(kernel, X, Y), PROBE, 0.1)) != first
        assert float(kernel(X)[0, 1]) == pytest.approx(float(kernel.evaluate(jnp.asarray(X[0]), jnp.asarray(X[1]))))
    finally:
        set_scale(1.0)


def test_one_function_is_one_program():
    function = Watched(of_table)
    assert function == Watched(of_table)
    assert function.tree_flatten()[1] == Watched(of_table).tree_flatten()[1]
    assert repr(function) == repr(of_table)
