"""Which solver for how many points, and what each takes of the memory."""

import math

import jax.numpy as jnp
from jax.typing import DTypeLike

from kpoison._memory import available_memory, in_words
from kpoison._validation import check_integer
from kpoison.ridge.krylov import Krylov
from kpoison.ridge.solvers import Cholesky, DenseSolver, Solver, Spectral

__all__ = ["DENSE_UP_TO", "check_dense_memory", "choose_solver"]

DENSE_UP_TO = 12_000  # numbers: a Gram matrix of 1.1 GiB in float64, and a factorisation of minutes


def choose_solver(
    n: int, dtype: DTypeLike = "float64", *, ridges: int | None = None, memory: int | None = None
) -> Solver:
    """The solver that `kpoison.fit` takes where none is given.

    Exact wherever a factorisation is affordable, up to 12,000 points that fit into the memory: `Cholesky` for laws at a
    single ridge and `Spectral` for more.  Beyond, `Krylov`, which keeps the Gram matrix where it fits.

    Args:
        n: points, or values and slopes.
        dtype: of the data.
        ridges: how many ridges will be asked for; by default many.
        memory: bytes that may be taken; by default what is available.

    >>> choose_solver(2000)
    Spectral()
    >>> choose_solver(2000, ridges=1)
    Cholesky()
    >>> choose_solver(60_000, memory=2**34).rank
    1000
    """
    n = check_integer("n", n, 1)
    ridges = None if ridges is None else check_integer("ridges", ridges, 1)
    memory = None if memory is None else check_integer("memory", memory, 1)
    available = available_memory() if memory is None else memory
    dense = Cholesky() if ridges == 1 else Spectral()
    if n <= DENSE_UP_TO and _dense_bytes(dense, n, dtype) <= available:
        return dense
    return Krylov(memory=memory)


def check_dense_memory(solver: DenseSolver, n: int, dtype: DTypeLike) -> None:
    """Refuse a factorisation that cannot fit.

    Raises:
        ValueError: with the estimate, what would fit, and the alternative.
    """
    needed, available = _dense_bytes(solver, n, dtype), available_memory()
    if needed > available:
        fits = int(n * math.sqrt(available / needed))
        raise ValueError(
            f"solver={type(solver).__name__}() of n = {n:,} numbers takes about {in_words(needed)}, of which "
            f"{in_words(available)} are available: use solver=kpoison.Krylov(), or at most {fits:,}"
        )


def _dense_bytes(solver: DenseSolver, n: int, dtype: DTypeLike) -> int:
    """The Gram matrix, its factorisation, and what LAPACK works in."""
    matrices = 3 if isinstance(solver, Cholesky) else 5
    return matrices * n**2 * jnp.dtype(dtype).itemsize
