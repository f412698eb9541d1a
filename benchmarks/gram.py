"""Gram matrices of the NTK beside neural-tangents and beside a plain product: `python -m benchmarks gram`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import kpoison as kp
from benchmarks.timing import Comparison, compare
from kpoison.kernels._neural_tangents import load_neural_tangents

__all__ = ["run"]


def _extra_memory(function, *arguments) -> float:
    """Peak of temporary memory of a compiled function, in sizes of its result."""
    analysis = jax.jit(function).lower(*arguments).compile().memory_analysis()
    return float("nan") if analysis is None else analysis.temp_size_in_bytes / analysis.output_size_in_bytes


def run(n: int = 2000, d: int = 784, layers: int = 3) -> list[Comparison]:
    """Symmetric and cross Gram matrices of a ReLU network, in float64 and float32."""
    stax = load_neural_tangents().stax
    hidden = [part for _ in range(layers) for part in (stax.Dense(1, 2**0.5, 0.1), stax.Relu())]
    kernel_fn = stax.serial(*hidden, stax.Dense(1, 2**0.5, 0.1))[2]
    kernel = kp.kernels.NTK(layers, "relu", 2**0.5, 0.1)
    generator = np.random.default_rng(0)
    found = []
    for dtype in (jnp.float64, jnp.float32):
        X, Z = (jnp.asarray(generator.normal(size=(n, d)), dtype) for _ in range(2))
        theirs = jax.jit(lambda *points: kernel_fn(*points, "ntk"))
        product = jax.jit(lambda a, b: jnp.matmul(a, b.T, precision="highest"))
        for name, points, asked in (("symmetric", (X,), "at least 2.5"), ("cross", (X, Z), "at least 1.5")):
            sizes = {"n": n, "d": d, "hidden_layers": layers, "dtype": str(np.dtype(dtype)), "kind": name}
            ours = functools.partial(kernel, *points)
            label = f"{name} {np.dtype(dtype)}"
            timed = compare(
                f"{label} Gram matrix by neural-tangents",
                functools.partial(theirs, *(points if len(points) == 2 else (X, None))),
                "ours",
                ours,
                asked=asked,
                sizes=sizes,
            )
            memory = _extra_memory(lambda *p: kernel.gram(p[0], p[-1]), *points)
            floor = compare(
                f"{label} Gram matrix", ours, "X Xᵀ", functools.partial(product, X, points[-1]), sizes=sizes
            )
            found += [timed, dataclasses.replace(floor, notes={"extra memory in Gram matrices": f"{memory:.2f}"})]
    return found
