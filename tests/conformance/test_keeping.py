"""Every public value can be kept: by pickle, a deep copy, joblib, and in another process."""

import collections.abc
import copy
import dataclasses
import enum
import importlib
import inspect
import io
import pickle
import pkgutil
import subprocess
import sys
import types
import typing

import equinox as eqx
import jax
import jax.numpy as jnp
import joblib
import numpy as np
import pytest
import xarray as xr

import kpoison as kp
from kpoison import networks
from kpoison.kernels import activation_names

X = np.random.default_rng(0).normal(size=(6, 2))
Y = np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
RBF = kp.kernels.RBF(1.5)
IMAGE = jnp.linspace(0.0, 1.0, 64).reshape(8, 8, 1)
KEY = jax.random.key(0)


def network():
    return networks.Architecture(3, activation="tanh").initialise(KEY, (2,))


# Values that check what they are made of, or hold more than arrays; all others are made of their annotations.
MADE = {
    "Centred": lambda: networks.Centred(network(), network()),
    "Compose": lambda: networks.Compose(networks.RandomCrop(1), networks.HorizontalFlip()),
    "ConvolutionalNetwork": lambda: networks.ConvolutionalArchitecture(3).initialise(KEY, (4, 4, 1)),
    "Custom": lambda: kp.kernels.Custom(jnp.vdot),
    "KernelExpansion": lambda: kp.predictor(kp.fit(RBF, X, Y), 0.1).expansion,
    "Krylov": lambda: kp.Krylov(rank=2),
    "LeNet": lambda: networks.LeNet((8, 8, 1), 2, width=2, key=KEY),
    "LinearSoftmax": lambda: networks.LinearSoftmax((8, 8, 1), 2, key=KEY),
    "MLP": lambda: networks.MLP((8, 8, 1), 2, width=3, hidden_layers=1, activation="gelu", key=KEY),
    "Network": network,
    "Operator": lambda: kp.curvature.fisher(kp.predictor(kp.fit(RBF, X, Y), 0.1), X),
    "Posterior": lambda: kp.fit(kp.kernels.NTK(1, "tanh"), X, Y),
    "Precomputed": lambda: kp.kernels.Precomputed(np.eye(3)),
    "Quadrature": lambda: kp.kernels.Quadrature(jax.nn.silu),
    "ResNet": lambda: networks.ResNet((8, 8, 1), 2, width=2, key=KEY),
}


def public_classes():
    """Those of every room, but for abstract ones, protocols and aliases."""
    names = [room.name for room in pkgutil.iter_modules(kp.__path__) if room.name in kp.__all__]
    rooms = [kp, *(importlib.import_module(f"kpoison.{name}") for name in names)]
    found = {getattr(room, name) for room in rooms for name in room.__all__ if inspect.isclass(getattr(room, name))}
    return sorted((cls for cls in found if not inspect.isabstract(cls)), key=lambda cls: cls.__qualname__)


def of_kind(kind):
    """A value of an annotation."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    simple = {int: 2, float: 0.5, str: "text", bool: True, np.ndarray: X, dict: {"a": 1}, list: [1.0]}
    if kind in simple or origin in simple:
        value = simple[kind if kind in simple else origin]
    elif kind is typing.Any or kind is type(None) or isinstance(kind, str | typing.TypeVar):
        value = jnp.arange(3.0)
    elif origin is typing.Annotated:
        value = of_kind(inner[0])
    elif origin is typing.Literal:
        value = inner[0]
    elif origin in (typing.Union, types.UnionType):
        value = of_kind(inner[0])
    elif origin is tuple:
        value = tuple(of_kind(part) for part in inner if part is not ...)
    elif origin is collections.abc.Callable or kind is collections.abc.Callable:
        value = jnp.tanh
    elif origin is not None:
        value = (of_kind(inner[-1]),)
    elif kind is xr.Dataset:
        value = xr.Dataset({"a": ("x", X[:, 0])})
    elif inspect.isclass(kind) and kind.__module__.startswith("kpoison"):
        value = made(kind)
    else:
        value = jnp.arange(6.0).reshape(3, 2)
    return value


def made(cls):  # noqa: PLR0911 - one for each kind
    """A value of a class."""
    if issubclass(cls, kp.kernels.Kernel) and inspect.isabstract(cls):
        return RBF
    if inspect.isabstract(cls):
        return made(next(child for child in public_classes() if issubclass(child, cls)))
    if cls.__name__ in MADE:
        return MADE[cls.__name__]()
    if issubclass(cls, enum.Enum):
        return next(iter(cls))
    if issubclass(cls, BaseException):
        return cls("what went wrong")
    hints = typing.get_type_hints(cls, localns={"xr": xr, "optax": __import__("optax")})
    if issubclass(cls, tuple):
        return cls(*(of_kind(hints[name]) for name in cls._fields))
    if not dataclasses.is_dataclass(cls):
        return cls()
    value = object.__new__(cls)
    for field in dataclasses.fields(cls):
        object.__setattr__(value, field.name, of_kind(hints[field.name]))
    return value


def assert_same(one, other):
    """Of one class, with equal arrays."""
    assert type(one) is type(other)
    if isinstance(one, BaseException):
        assert one.args == other.args
    elif isinstance(one, xr.Dataset):
        xr.testing.assert_identical(one, other)
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for parts in zip(one, other, strict=True):
            assert_same(*parts)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, jax.Array) and jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
        np.testing.assert_array_equal(jax.random.key_data(one), jax.random.key_data(other))
    elif isinstance(one, jax.Array | np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif callable(one) or isinstance(one, str | int | float | None):
        assert one is other or one == other or type(one).__eq__ is object.__eq__


CLASSES = {cls.__qualname__: cls for cls in public_classes()}


def test_there_are_public_values():
    assert len(CLASSES) > 80
    assert set(MADE) - {"Operator", "Quadrature"} <= set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_a_value_survives(name):
    value = made(CLASSES[name])
    assert_same(pickle.loads(pickle.dumps(value)), value)
    assert_same(copy.deepcopy(value), value)
    assert_same(copy.copy(value), value)
    file = io.BytesIO()
    joblib.dump(value, file)
    file.seek(0)
    assert_same(joblib.load(file), value)


@pytest.mark.parametrize("activation", activation_names)
def test_every_activation_survives(activation):
    for value in (kp.kernels.NTK(2, activation), networks.Architecture(3, activation=activation)):
        again = pickle.loads(pickle.dumps(value))
        assert_same(again, value)
        # Equal to JAX too: nothing is compiled anew.
        assert jax.tree.structure(again) == jax.tree.structure(value)


class Own(eqx.Module):
    """A network of one's own, of Equinox's layers."""

    first: eqx.nn.Linear
    last: eqx.nn.Linear
    activation: collections.abc.Callable = jax.nn.relu

    def __call__(self, x):
        return self.last(self.activation(self.first(x)))


@pytest.mark.slow
def test_what_holds_functions_of_jax():
    own = Own(eqx.nn.Linear(2, 4, key=KEY), eqx.nn.Linear(4, "scalar", key=KEY))
    for kernel in (
        kp.kernels.NTK(1, jnp.tanh),
        kp.kernels.NNGP(1, jax.nn.softplus) + 2.0 * RBF,
        kp.kernels.empirical_ntk(own),
        kp.kernels.empirical_ntk(network()),
        kp.kernels.Periodic(kp.kernels.RBF(0.3), 2.0),
    ):
        clean = kp.fit(kernel, X, Y)
        again = pickle.loads(pickle.dumps(clean))
        np.testing.assert_array_equal(kp.predict(again, X, 0.1), kp.predict(clean, X, 0.1))


IN_ANOTHER = """
import pickle, sys
import jax; jax.config.update("jax_enable_x64", True)  # before: JAX rounds what it loads
with open(sys.argv[1], "rb") as file:
    values = pickle.load(file)
import kpoison as kp, numpy as np
clean = values["posterior"]
print(float(kp.predict(clean, values["x"], 0.1)[0]).hex(), len(values["all"]))
with open(sys.argv[1], "wb") as file:
    pickle.dump(values, file)
"""


@pytest.mark.slow
def test_a_change_of_process(tmp_path):
    clean = kp.fit(kp.kernels.NTK(1, "tanh"), X, Y)
    given = {name: made(cls) for name, cls in CLASSES.items()}
    path = tmp_path / "values.pickle"
    path.write_bytes(pickle.dumps({"posterior": clean, "x": X[:1] + 0.1, "all": given}))
    done = subprocess.run([sys.executable, "-c", IN_ANOTHER, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, number = done.stdout.split()
    assert float.fromhex(found) == pytest.approx(float(kp.predict(clean, X[:1] + 0.1, 0.1)[0]), rel=1e-12)
    assert int(number) == len(given)
    for name, value in pickle.loads(path.read_bytes())["all"].items():
        assert_same(value, given[name])


def test_a_search_over_estimators_can_send_a_posterior_to_its_workers():
    def predicted(posterior):
        return np.asarray(kp.predict(posterior, X, 0.1))

    clean = kp.fit(kp.kernels.NTK(1, "tanh"), X, Y)
    (found,) = joblib.Parallel(n_jobs=1)(joblib.delayed(predicted)(part) for part in (clean,))
    np.testing.assert_array_equal(found, predicted(clean))
