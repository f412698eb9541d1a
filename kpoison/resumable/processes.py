"""Work that several processes share: an error in one is an error in all, and none waits for one that will not come."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np

__all__ = ["together"]


@contextmanager
def together(step: str) -> Iterator[None]:
    """A step of all processes, at whose end each waits for the others.

    A process that dies ends the others by JAX's own heartbeat or the broken connection.

    Raises:
        RuntimeError: in the processes whose own step went well, where another's did not.
    """
    if jax.process_count() == 1:
        yield
        return
    from jax.experimental import multihost_utils

    error: Exception | None = None
    try:
        yield
    except Exception as raised:  # whatever it is, the others must hear of it
        error = raised
    failed = np.asarray(multihost_utils.process_allgather(np.array(error is not None)))
    if error is not None:
        raise error
    if failed.any():
        numbers = ", ".join(str(process) for process in np.flatnonzero(failed))
        raise RuntimeError(f"{step}: process {numbers} failed, see its error; what was finished is kept")
