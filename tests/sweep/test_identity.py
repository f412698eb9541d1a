"""What a sweep on disk takes for itself: another kernel's or function's result never, its own always."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problem import DIRECTION, X, Y, poison

import kpoison as kp
from kpoison._identity import function_hash, hash_of, program_hash, tree_hash

ELL = 1.0


class ARD(kp.kernels.Kernel):
    """A length scale for each coordinate."""

    scales: jax.Array

    def evaluate(self, x, z):
        return jnp.exp(-0.5 * jnp.sum(((x - z) / self.scales) ** 2))

    @property
    def smoothness(self):
        return np.inf


class SteeperARD(ARD):
    """The same values, but a gradient of its own."""

    def gradients(self, x, centres):
        return 2 * super().gradients(x, centres)


def closing_over(ell):
    def function(x, z):
        return jnp.exp(-0.5 * jnp.sum((x - z) ** 2) / ell**2)

    return function


def of_a_global(x, z):
    return jnp.exp(-0.5 * jnp.sum((x - z) ** 2) / ELL**2)


def of_an_array(weights):
    return lambda x, z: jnp.sum(weights * x * z)


def network(seed):
    return kp.networks.Architecture(4).initialise(jax.random.key(seed), 4)


def perturbed(array):
    """One bit of one number changed."""
    array = np.array(array)
    array.flat[0] = np.nextafter(array.flat[0], np.inf)
    return jnp.asarray(array)


SCALES = jnp.array([1.0, 2.0, 0.5, 3.0])
WEIGHTS = np.array([1.0, 0.5, 0.25, 2.0])
CASES = {
    "two networks": lambda: (kp.kernels.empirical_ntk(network(0)), kp.kernels.empirical_ntk(network(1))),
    "one bit of an array": lambda: (ARD(SCALES), ARD(perturbed(SCALES))),
    "one bit of a number": lambda: (kp.kernels.RBF(1.5), kp.kernels.RBF(float(np.nextafter(1.5, 2)))),
    "a closure": lambda: (kp.kernels.Custom(closing_over(1.0)), kp.kernels.Custom(closing_over(3.0))),
    "an array in a closure": lambda: (
        kp.kernels.Custom(of_an_array(WEIGHTS)), kp.kernels.Custom(of_an_array(perturbed(WEIGHTS))),
    ),
    "an activation": lambda: (
        kp.kernels.NTK(1, lambda u: jnp.tanh(1.0 * u)), kp.kernels.NTK(1, lambda u: jnp.sin(1.0 * u)),
    ),
    "part of a sum": lambda: (
        kp.kernels.RBF(1.5) + ARD(SCALES), kp.kernels.RBF(1.5) + ARD(perturbed(SCALES)),
    ),
    "a gradient": lambda: (ARD(SCALES), SteeperARD(SCALES)),
}  # fmt: skip


def swept(kernel, out, **options):
    posterior = kp.fit(kernel, X[:12], Y[:12])
    given = {"r_over_l": [0.5], "m": [1.0], "ridge": [1e-2], "quantities": ("efficacy",), "length_scale": 1.0}
    return kp.sweep(posterior, poison(), direction=DIRECTION, out=out, **(given | options))


def assert_read(make, out, **options):
    """Made again, it is read and not computed."""
    before = out.stat().st_mtime_ns
    swept(make(), out, **options).close()
    assert out.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if case in ("an activation", "two networks") else [])
        for case in CASES
    ],
)
def test_another_kernel_is_refused_and_the_same_one_continued(tmp_path, case):
    out = tmp_path / "a.nc"
    swept(CASES[case]()[0], out).close()
    with pytest.raises(FileExistsError, match="another sweep"):
        swept(CASES[case]()[1], out)
    assert_read(lambda: CASES[case]()[0], out)


def test_a_changed_global(tmp_path, monkeypatch):
    out = tmp_path / "a.nc"
    swept(kp.kernels.Custom(of_a_global), out).close()
    assert_read(lambda: kp.kernels.Custom(of_a_global), out)
    monkeypatch.setitem(globals(), "ELL", 3.0)
    with pytest.raises(FileExistsError, match="another sweep"):
        swept(kp.kernels.Custom(of_a_global), out)


@pytest.mark.slow
def test_the_order_of_mappings(tmp_path):
    kernels = {"a": kp.kernels.RBF(1.0), "b": kp.kernels.RBF(2.0)}
    backwards = dict(reversed(kernels.items()))
    renamed = {"b": kp.kernels.RBF(1.0), "a": kp.kernels.RBF(2.0)}
    out = tmp_path / "a.nc"
    swept(kp.kernels.RBF(1.0), out, kernels=kernels).close()
    for other in (backwards, renamed):
        with pytest.raises(FileExistsError, match="another sweep"):
            swept(kp.kernels.RBF(1.0), out, kernels=other)
    assert_read(lambda: kp.kernels.RBF(1.0), out, kernels=dict(kernels))
    axes = {"length_scale": [1.0, 2.0], "alpha": [1.0, 2.0]}
    out = tmp_path / "b.nc"
    swept(kp.kernels.RationalQuadratic(1.0), out, hyperparameters=axes).close()
    with pytest.raises(FileExistsError, match="another sweep"):
        swept(kp.kernels.RationalQuadratic(1.0), out, hyperparameters=dict(reversed(axes.items())))


def test_a_quantity_by_its_program(tmp_path):
    def made(factor):
        def own(clean, poison, x, ridge):
            return factor * kp.efficacy(clean, poison, x, ridge)

        return {"quantities": (own,)}

    out = tmp_path / "a.nc"
    swept(kp.kernels.RBF(1.5), out, **made(1.0)).close()
    with pytest.raises(FileExistsError, match="another sweep"):
        swept(kp.kernels.RBF(1.5), out, **made(2.0))
    assert_read(lambda: kp.kernels.RBF(1.5), out, **made(1.0))


class Weighted(eqx.Module):
    """A function with an array."""

    weights: jax.Array
    name: str = eqx.field(static=True, default="")

    def __call__(self, model, step):
        return {"sum": jnp.sum(self.weights)}


COUNTED = 0


def measuring(scale, state):
    offset = np.array([1.0, 2.0])

    def measure(model, step):
        global COUNTED  # noqa: PLW0603 - what it assigns itself is no part of it
        COUNTED += 1
        state["calls"] = step
        return {"a": scale * ELL, "b": offset}

    return measure


def test_functions_that_cannot_be_traced(monkeypatch):
    first = function_hash(measuring(1.0, {}))
    assert first == function_hash(measuring(1.0, {"calls": 3}))
    assert first != function_hash(measuring(1.5, {}))
    monkeypatch.setitem(globals(), "COUNTED", 7)
    assert first == function_hash(measuring(1.0, {}))
    monkeypatch.setitem(globals(), "ELL", 3.0)
    assert first != function_hash(measuring(1.0, {}))
    assert function_hash(Weighted(jnp.ones(2))) == function_hash(Weighted(jnp.ones(2)))
    assert function_hash(Weighted(jnp.ones(2))) != function_hash(Weighted(perturbed(np.ones(2))))
    assert function_hash(Weighted(jnp.ones(2))) != function_hash(Weighted(jnp.ones(2), "b"))
    assert function_hash(np.sin) != function_hash(np.cos)
    assert function_hash(jnp.sin) != function_hash(jnp.cos)
    a, b = closing_over(1.0), closing_over(2.0)
    assert function_hash((a, b, a)) != function_hash((a, b, b))
    assert function_hash(lambda x: x + 1) != function_hash(lambda x: x + 2)


def test_arrays_and_programs():
    x = np.arange(3.0)
    assert hash_of(x) != hash_of(x.astype(np.float32))
    assert hash_of(x) != hash_of(x[None])
    assert tree_hash({"a": x, "b": None}) != tree_hash({"a": None, "b": x})
    shape = jax.ShapeDtypeStruct((3,), np.float64)
    assert program_hash(lambda v: v + x, shape) == program_hash(lambda v: v + x.copy(), shape)
    assert program_hash(lambda v: v + x, shape) != program_hash(lambda v: v + perturbed(x), shape)
    large = np.arange(1e4)
    assert program_hash(lambda v: v[0] + large, shape) != program_hash(lambda v: v[0] + perturbed(large), shape)
