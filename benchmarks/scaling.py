"""What a product with the Gram matrix costs beside what its arithmetic and its memory traffic must cost.

`python -m benchmarks scaling`; the numbers of `docs/scaling.md`.  The floor of each product is the larger of its flops
over the rate of a plain matrix product and its bytes over the rate of a plain copy, both measured in the same run.
"""

import jax
import jax.numpy as jnp
import numpy as np

import kpoison as kp
from benchmarks.roofline import Rates, measured_rates, times
from benchmarks.timing import Comparison, compare
from kpoison.ridge.solvers.krylov import KrylovFactor
from kpoison.ridge.solvers.prepared import Prepared

__all__ = ["run"]

_VECTORS = 6  # of a product in a search


def run() -> list[Comparison]:
    """Products in float32 against n and d, kept and made anew; then searches against the number of decades of λ."""
    rates = measured_rates()
    print(f"float32 matrix product {rates.flops / 1e9:.0f} Gflop/s, copy {rates.bytes / 1e9:.1f} GB/s", flush=True)
    sizes = [(n, 784) for n in (4096, 8192, 16384)] + [(8192, d) for d in (16, 128)]
    found = [_product(n, d, keep=keep, rates=rates) for keep in (True, False) for n, d in sizes]
    return [*found, *_searches()]


def _points(n: int, d: int, dtype=jnp.float32) -> tuple[jax.Array, jax.Array]:
    generator = np.random.default_rng(0)
    X = jnp.asarray(generator.normal(size=(n, d)), dtype)
    return X, jnp.asarray(np.sign(generator.normal(size=n)), dtype)


def _product(n: int, d: int, *, keep: bool, rates: Rates) -> Comparison:
    X, y = _points(n, d)
    clean = kp.fit(kp.kernels.RBF(float(d) ** 0.5), X, y, solver=kp.Krylov(rank=64, keep=keep))
    assert isinstance(clean.factor, KrylovFactor)
    gram = clean.factor.gram
    block = jnp.asarray(np.random.default_rng(1).normal(size=(n, _VECTORS)), jnp.float32)
    product = jax.jit(lambda gram, x: gram.product(x))
    # Each tile of the lower half serves both its places; made anew, it takes a product of points first.
    flops = 2 * n**2 * _VECTORS + (0 if keep else n**2 * d)
    moved = 2 * n**2 if keep else 0
    floor = rates.floor(flops, moved)
    return Comparison(
        f"float32 product with {_VECTORS} vectors, Gram matrix {'kept' if keep else 'made anew'}, n = {n}, d = {d}",
        f"its floor, which is {rates.bound(flops, moved)}",
        "",
        [taken / floor for taken in times(lambda: product(gram, block))],
        floor,
        {"n": n, "d": d, "dtype": "float32"},
        {"Gflop": f"{flops / 1e9:.1f}", "GB": f"{moved / 1e9:.2f}"},
    )


def _searches(n: int = 8192, d: int = 32) -> list[Comparison]:
    """A search for every ridge of a range beside the search for its smallest ridge alone."""
    X, y = _points(n, d, jnp.float64)
    clean = kp.fit(kp.kernels.RBF(2 * float(d) ** 0.5), X, y, solver=kp.Krylov(rank=500))
    poison = kp.Poison(X[0] + 0.5, 1.0, 1.0)

    def searched(ridges: list[float]) -> Prepared:
        factor = kp.prepare(clean, poison, ridges).factor
        assert isinstance(factor, Prepared)
        return factor

    found = []
    for largest in (1e-3, 1e-1, 10.0):
        timed = compare(
            f"search for every λ from 1e-4 to {largest:g}",
            lambda largest=largest: searched([1e-4, largest]).eigenvalues,
            "search for λ = 1e-4 alone",
            lambda: searched([1e-4]).eigenvalues,
            sizes={"n": n, "d": d, "dtype": "float64"},
            repeats=3,
        )
        for name, ridges in (("products", [1e-4, largest]), ("products alone", [1e-4])):
            status = searched(ridges).status
            assert status is not None
            timed.notes[name] = int(status.products)
        found.append(timed)
    return found
