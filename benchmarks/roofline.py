"""What a machine can do at most, measured in the same run: a plain matrix product and a plain copy."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Rates", "measured_rates", "times"]


@dataclasses.dataclass(frozen=True)
class Rates:
    """Flops and bytes per second."""

    flops: float
    bytes: float

    def floor(self, flops: float, moved: float) -> float:
        """Seconds that so many flops and bytes take at least."""
        return max(flops / self.flops, moved / self.bytes)

    def bound(self, flops: float, moved: float) -> str:
        """What that floor is due to."""
        return "arithmetic" if flops / self.flops > moved / self.bytes else "memory"


def measured_rates(n: int = 4096, dtype: Any = jnp.float32) -> Rates:
    """Of products of n × n matrices in full precision, and of reading one and writing one."""
    matrix = jnp.ones((n, n), dtype)
    multiply = jax.jit(lambda a: jnp.matmul(a, a.T, precision="highest"))
    copy = jax.jit(lambda a: a + 1)
    multiplying, copying = (float(np.median(times(lambda f=f: f(matrix)))) for f in (multiply, copy))
    return Rates(2 * n**3 / multiplying, 2 * matrix.nbytes / copying)


def times(function: Callable[[], Any], repeats: int = 7) -> list[float]:
    """Seconds of each call but the first, which compiles."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - start)
    return taken[1:]
