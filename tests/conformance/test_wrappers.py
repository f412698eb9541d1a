"""Kernels that wrap others forward what the others know, and stay within their memory."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison import kernels
from kpoison.defences import AveragedKernel
from kpoison.defences.partitions import Weighted
from kpoison.kernels import Kernel
from kpoison.kernels.base import Traits
from kpoison.kernels.neural import _OnSubspace
from kpoison.kernels.periodic import Periodic

GENERATOR = np.random.default_rng(0)
POINTS = GENERATOR.normal(size=(7, 4))

# With a kernel whose diagonal is not 1, so that a part that is left out shows.
WRAPPED = {
    kernels.Sum: lambda k: k + kernels.Polynomial(2),
    kernels.Product: lambda k: k * kernels.Polynomial(2),
    kernels.Scaled: lambda k: 2.5 * k,
    kernels.Power: lambda k: k**3,
}

NOT_FORWARDED = {
    Periodic: "a sum over images, not a function of the wrapped kernel's matrices",
    AveragedKernel: "a mean over orbits; `gram` and `pairwise` are means of the wrapped kernel's",
    Weighted: "of points that carry a weight: a kernel of its own, private to one defence",
    _OnSubspace: "only `evaluate` is asked of it, in a plane",
}


MEMBERS_NOT_FORWARDED = {
    (kernels.Product, "spectral_parts"): "the spectrum of a product is a convolution",
    (kernels.Power, "spectral_parts"): "the spectrum of a product is a convolution",
}


def subclasses(kind: type) -> set[type]:
    """All of them."""
    return {kind, *(found for one in kind.__subclasses__() for found in subclasses(one))}


def wrappers() -> list[type[Kernel]]:
    """Every kernel of the library with a kernel among its fields."""
    found = []
    for kind in subclasses(Kernel):
        annotations = {name: field.type for name, field in getattr(kind, "__dataclass_fields__", {}).items()}
        holds = any("Kernel" in str(annotation) for annotation in annotations.values())
        if holds and kind.__module__.startswith("kpoison.") and not kind.__name__.startswith(("_Pair", "_Combination")):
            found.append(kind)
    return sorted(found, key=lambda kind: kind.__name__)


def overridable() -> set[str]:
    """What a kernel may define anew; what its traits say it reads from those."""
    members = {name for name, _ in inspect.getmembers(Kernel) if not name.startswith("_")}
    return members - {"evaluate", "gram"} - set(Traits._fields)


@pytest.mark.parametrize("wrapper", wrappers(), ids=lambda kind: kind.__name__)
def test_every_member_is_forwarded_or_there_is_a_reason(wrapper):
    if wrapper in NOT_FORWARDED:
        return
    assert wrapper in WRAPPED
    own = {name for kind in wrapper.__mro__ if kind not in Kernel.__mro__ for name in vars(kind)}
    assert overridable() <= own | {name for kind, name in MEMBERS_NOT_FORWARDED if kind is wrapper}


class OnlySmooth(Kernel):
    """A kernel of the user's that says no more than it must."""

    def evaluate(self, x, z):
        return jnp.exp(-jnp.sum((x - z) ** 2))

    @property
    def smoothness(self):
        return 3


class Turned(OnlySmooth):
    """One that says one thing more, by itself."""

    @property
    def rotation_invariant(self):
        return True


@pytest.mark.parametrize("wrapper", WRAPPED, ids=lambda kind: kind.__name__)
def test_traits_are_those_of_all_parts(wrapper):
    of = [WRAPPED[wrapper](kernel) for kernel in (kernels.RBF(1.5), kernels.Laplace(1.5), Turned(), OnlySmooth())]
    # Else beside a polynomial, which no translation leaves as it is.
    scaled = wrapper in (kernels.Scaled, kernels.Power)
    assert [k.smoothness for k in of] == [np.inf, 0, 3, 3]
    assert [k.rotation_invariant for k in of] == [True, True, True, False]
    assert [k.translation_invariant for k in of] == [scaled, scaled, False, False]
    images = kernels.ConvolutionalNNGP(1)
    assert Traits.of(images, kernels.Custom(jnp.vdot, point_ndim=3)) == Traits(2, point_ndim=3, makes_half=True)
    for name, value in Traits.of(images)._asdict().items():
        assert getattr(2.0 * images, name) == getattr(images + images, name) == value


BASES = [kernels.RBF(1.5), pytest.param(kernels.Laplace(1.5), marks=pytest.mark.slow), kernels.Linear(),
         pytest.param(kernels.NTK(1, "relu", 1.5, 0.3), marks=pytest.mark.slow)]  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("kernel", BASES, ids=repr)
def test_what_is_forwarded_is_what_evaluate_says(wrapper, kernel):
    k, X = WRAPPED[wrapper](kernel), jnp.asarray(POINTS)
    x, centres, basis = X[0] + 0.1, X, jnp.asarray(GENERATOR.normal(size=(7, 3)))
    values = jnp.stack([jnp.stack([k.evaluate(a, b) for b in X]) for a in X])
    slopes = jnp.stack([jax.grad(k.evaluate)(x, c) for c in centres])
    np.testing.assert_allclose(k.pairwise(X, X), values, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(k.gram(X, X), values, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(k.diagonal(X), jnp.diagonal(values), rtol=1e-12)
    np.testing.assert_allclose(k.gradients(x, centres), slopes, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(k.gradient_products(x, centres, basis), basis.T @ slopes, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", ["2.0 * k", "k + k", "k * k"])
def test_the_memory_of_an_image_kernel_stays_within_its_budget(wrapped):
    k = kernels.ConvolutionalNTK(1, "relu")
    X = jax.ShapeDtypeStruct((400, 28, 28, 1), np.float32)
    one = jax.ShapeDtypeStruct((1, 28, 28, 1), np.float32)

    def temporary(kernel):
        def matrix(first, second):
            return kernel.pairwise(first, second)

        return jax.jit(matrix).lower(X, one).compile().memory_analysis().temp_size_in_bytes

    together = {"2.0 * k": 2.0 * k, "k + k": k + k, "k * k": k * k}[wrapped]
    assert temporary(together) <= 2.2 * temporary(k)


@pytest.mark.slow
def test_krylov_asks_for_no_more_than_rounding_allows():
    X = GENERATOR.normal(size=(1000, 4))
    y = np.sign(X[:, 0])
    clean = kp.fit(kernels.Linear(), X, y, solver=kp.Krylov(rank=100))
    dense = kp.fit(kernels.Linear(), X, y)
    poison = kp.Poison(np.array([1.0, 0.5, 0.0, -1.0]), -1.0, 5)
    ready = kp.prepare(clean, poison, ridge=[1e-5, 1e-1], count=[1, 100])
    status = ready.factor.status
    assert bool(status.converged.all())
    assert int(status.products) < 60
    x = np.array([0.9, 0.5, 0.0, -1.0])
    for ridge in (1e-5, 1e-3, 1e-1):
        np.testing.assert_allclose(kp.spike(ready, poison, x, ridge), kp.spike(dense, poison, x, ridge), rtol=1e-6)
        np.testing.assert_allclose(kp.spike(clean, poison, x, ridge), kp.spike(dense, poison, x, ridge), rtol=1e-6)
