"""Kernels of convolutional networks beside neural-tangents: `python -m benchmarks convolutional`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import kpoison as kp
from benchmarks.timing import Comparison, compare
from kpoison.kernels._neural_tangents import load_neural_tangents

__all__ = ["run"]

_SETS = (("pool", 4, None, "at most 0.25"), ("pool", 8, "symmetric", "at most 0.25"), ("flatten", 100, None, "below 1"))


def run(side: int = 28, layers: int = 3) -> list[Comparison]:
    """Gram matrices of images under a ReLU network with each readout, in float32 and float64."""
    stax = load_neural_tangents().stax
    generator = np.random.default_rng(0)
    found = []
    for readout, n, kind, asked in _SETS:
        last = stax.GlobalAvgPool() if readout == "pool" else stax.Flatten()
        hidden = [part for _ in range(layers) for part in (stax.Conv(1, (3, 3), padding="SAME"), stax.Relu())]
        kernel_fn = stax.serial(*hidden, last, stax.Dense(1))[2]
        weight_std, bias_std = 1.0, 0.0  # the defaults of neural-tangents
        kernel = kp.kernels.ConvolutionalNTK(
            layers, kp.kernels.ReLU(), weight_std, bias_std, 3, "pool" if readout == "pool" else "flatten"
        )
        theirs = jax.jit(functools.partial(kernel_fn, get="ntk"))
        for dtype in (jnp.float32, jnp.float64):
            X, Z = (jnp.asarray(generator.normal(size=(n, side, side, 1)), dtype) for _ in range(2))
            points = (X,) if kind == "symmetric" else (X, Z)
            memory = jax.jit(lambda *p, kernel=kernel: kernel.gram(p[0], p[-1])).lower(*points).compile()
            analysis = memory.memory_analysis()
            compared = compare(
                f"{readout}, {n} × {n} {kind or 'cross'} {np.dtype(dtype)} Gram matrix",
                functools.partial(kernel, *points),
                "neural-tangents",
                functools.partial(theirs, X, None if kind == "symmetric" else Z),
                asked=asked,
                sizes={
                    "n": n,
                    "side": side,
                    "hidden_layers": layers,
                    "readout": readout,
                    "dtype": str(np.dtype(dtype)),
                },
                repeats=1 if kind == "symmetric" else 3,
            )
            if analysis is not None:
                compared.notes["temporaries"] = f"{analysis.temp_size_in_bytes / 2**20:.0f} MiB"
            compared.notes["neural-tangents"] = f"{compared.baseline_seconds:.2f} s"
            found.append(compared)
    return found
