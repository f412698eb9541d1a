"""How near the programs that cost come to what the device can do: `python -m benchmarks device`.

Of each program the flops and bytes that it cannot do without are counted by hand; of the convolutional kernel, whose
work is elementwise, by the compiler for one pair of images.  Their floor is that of a plain matrix product and a plain
copy in the same dtype, measured in the same run; the share is floor over time.  Every program is lowered for CUDA and
TPUs as well, where none is at hand.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import kpoison as kp
from benchmarks.roofline import Rates, measured_rates, times
from benchmarks.timing import Comparison
from kpoison.ridge.solvers.prepared import Prepared
from kpoison.ridge.tiles import TiledGram

__all__ = ["run"]

_VECTORS, _DIMENSION = 6, 784
_PLATFORMS = ("cuda", "tpu")


class _Sizes(NamedTuple):
    """Points of a Gram matrix; points and cells of an axis of a sweep; images of a side."""

    n: int
    fitted: int
    axis: int
    images: int
    side: int


class _Program(NamedTuple):
    """A function of arrays, and the flops and bytes that it takes at least."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    flops: float
    moved: float


def run(sizes: _Sizes | None = None) -> list[Comparison]:
    """Gram matrices, a sweep, products of a search, a convolutional kernel; in float32 and float64."""
    small, large = _Sizes(4096, 1024, 50, 12, 14), _Sizes(16384, 4096, 100, 64, 28)
    sizes = sizes or (small if jax.default_backend() == "cpu" else large)
    found = []
    for dtype in (jnp.float32, jnp.float64):
        rates = measured_rates(min(4096, sizes.n), dtype)
        rate = f"{rates.flops / 1e9:.0f} Gflop/s, {rates.bytes / 1e9:.0f} GB/s"
        print(f"{np.dtype(dtype)}: matrix product and copy {rate}", flush=True)
        found += [_measured(program, rates, np.dtype(dtype), sizes) for program in _programs(sizes, dtype)]
    return found


def _measured(program: _Program, rates: Rates, dtype: np.dtype, sizes: _Sizes) -> Comparison:
    compiled = jax.jit(program.function).lower(*program.arguments).compile()
    flops, floor = program.flops, rates.floor(program.flops, program.moved)
    taken = times(lambda: compiled(*program.arguments), repeats=5)
    return Comparison(
        f"{program.name}, {dtype}",
        f"its floor, which is {rates.bound(flops, program.moved)}",
        "at most 3",
        [seconds / floor for seconds in taken],
        floor,
        sizes._asdict() | {"dtype": str(dtype)},
        {
            "share": f"{floor / float(np.median(taken)):.0%}",
            "seconds": f"{float(np.median(taken)):.2g}",
            "Gflop": f"{flops / 1e9:.3g}",
            "GB": f"{program.moved / 1e9:.2g}",
            "lowers for": _lowers(program),
        },
    )


def _lowers(program: _Program) -> str:
    """The platforms for which it does; without a callback into Python."""
    found = []
    for platform in _PLATFORMS:
        text = jax.export.export(jax.jit(program.function), platforms=[platform])(*program.arguments).mlir_module()
        if "callback" not in text:
            found.append(platform)
    return " and ".join(found) or "none"


def _programs(sizes: _Sizes, dtype: Any) -> Iterator[_Program]:
    generator = np.random.default_rng(0)
    n, d, size = sizes.n, _DIMENSION, np.dtype(dtype).itemsize
    X = jnp.asarray(generator.normal(size=(n, d)), dtype)
    length_scale = float(d) ** 0.5
    for name, kernel in (("RBF", kp.kernels.RBF(length_scale)), ("ReLU NTK", kp.kernels.NTK(2, "relu", 2**0.5, 0.1))):
        yield _Program(f"Gram matrix, {name}", kernel.gram, (X, X), 2.0 * n**2 * d, size * (n**2 + 2.0 * n * d))
    yield _sweep(sizes, X[: sizes.fitted], generator)
    block = jnp.asarray(generator.normal(size=(n, _VECTORS)), dtype)
    anew = TiledGram(kp.kernels.RBF(length_scale), X)
    kept = anew.kept()
    # A tile of the lower half serves both its places.
    product = 2.0 * n**2 * _VECTORS
    yield _Program("product with 6 vectors, kept", TiledGram.product, (kept, block), product, size * n**2 / 2)
    yield _Program(
        "product with 6 vectors, made anew", TiledGram.product, (anew, block), product + n**2 * d, size * n * d
    )
    images = jnp.asarray(generator.normal(size=(sizes.images, sizes.side, sizes.side, 3)), dtype)
    pooled = kp.kernels.ConvolutionalNTK(3, kp.kernels.ReLU(), 2**0.5, 0.0, 3, "pool")
    # The compiler counts a loop's body once: of one pair there is none.
    one = jax.jit(pooled.pairs).lower(images[:1], images[:1]).compile().cost_analysis()
    flops = sizes.images**2 * float((one or {}).get("flops", float("nan")))
    yield _Program("Gram matrix, convolutional NTK", pooled.gram, (images, images), flops, 2.0 * images.nbytes)


def _sweep(sizes: _Sizes, X: jax.Array, generator: np.random.Generator) -> _Program:
    """What `kp.sweep` compiles: the spike at every radius, count and ridge, of a predictor prepared for one poison."""
    n, d, axis, dtype = *X.shape, sizes.axis, X.dtype
    y = jnp.asarray(np.sign(generator.normal(size=n)), dtype)
    ridges = np.geomspace(1e-4 if dtype == jnp.float32 else 1e-8, 1e-1, axis)
    poison = kp.Poison(X[0] + 0.1, 1.0, 1000.0)
    clean = kp.prepare(kp.fit(kp.kernels.RBF(float(d) ** 0.5), X, y), poison, ridges)
    assert isinstance(clean.factor, Prepared)
    rank = clean.factor.eigenvectors.shape[1] + 1
    location = jnp.asarray(poison.location, dtype)
    probes = location + jnp.geomspace(0.1, 10, axis, dtype=dtype)[:, None] / d**0.5
    counts = jnp.geomspace(1, 1000, axis, dtype=dtype)

    def grid(clean: Any, location: Any, probes: Any, counts: Any, ridges: Any) -> Any:
        def at(count, ridge):
            return kp.with_failures(kp.spike)(clean, kp.Poison(location, 1.0, count), probes, ridge)

        return jax.vmap(jax.vmap(at, (None, 0)), (0, None))(counts, ridges)

    # Gradients of the basis at each probe, their QR decomposition, and a triangle times each set of coefficients.
    flops = axis * (3.0 * n * d + 2.0 * n * d * rank + 2.0 * d * rank**2 + axis**2 * rank**2)
    arrays, rest = eqx.partition(clean, eqx.is_array)
    return _Program(
        "sweep of the spike",
        lambda arrays, *others: grid(eqx.combine(arrays, rest), *others),
        (arrays, location, probes, counts, jnp.asarray(ridges, dtype)),
        flops,
        X.dtype.itemsize * (n * d + float(axis) ** 3),
    )
