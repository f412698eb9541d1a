"""Which solver for how many points, and what each takes of the memory."""

import jax
from jax.typing import DTypeLike

from kpoison._memory import available_memory
from kpoison._validation import check_integer
from kpoison.ridge.solvers.cholesky import Cholesky
from kpoison.ridge.solvers.contract import Solver
from kpoison.ridge.solvers.dense import DENSE_UP_TO
from kpoison.ridge.solvers.krylov import Krylov
from kpoison.ridge.solvers.spectral import Spectral
from kpoison.ridge.solvers.tridiagonal import Tridiagonal

__all__ = ["choose_solver"]

_REDUCED_FROM = 2000  # points: what is saved there is what compiling takes more


def choose_solver(
    n: int, dtype: DTypeLike = "float64", *, ridges: int | None = None, memory: int | None = None
) -> Solver:
    """The solver that `kpoison.fit` takes where none is given.

    Exact wherever a factorisation is affordable, up to 12,000 points that fit into the memory: `Cholesky` for laws at a
    single ridge, and for more `Spectral`, or on a CPU from 2,000 points on `Tridiagonal`, whose programs take longer to
    compile and half of the time to run.  Beyond, `Krylov`, which keeps the Gram matrix where it fits.

    Args:
        n: points, or values and slopes.
        dtype: of the data.
        ridges: how many ridges will be asked for; by default many.
        memory: bytes that may be taken; by default what is available.

    >>> choose_solver(500)
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
    reduced = n >= _REDUCED_FROM and jax.default_backend() == "cpu"
    dense = Cholesky() if ridges == 1 else Tridiagonal() if reduced else Spectral()
    if n <= DENSE_UP_TO and dense.bytes(n, dtype) <= available:
        return dense
    return Krylov(memory=memory)
