"""Several processes that check statements side by side, each on one core; here without JAX."""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil

from theory_checks.worker import Problem, Task

__all__ = ["DiedError", "Workers", "affordable", "cores"]

_BYTES = {"quick": 2.5e9, "full": 6e9}
"""What one worker may come to need, by scale of the checks: a quick one was seen to take 1.9 GB."""

_ONE_CORE = {
    # XLA's threads, then those of LAPACK: as many results per second from two single-threaded processes as from
    # anything else, and numbers that do not depend on how many there are.
    "NPROC": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def _environment(problem: Problem) -> dict[str, str]:
    """Of a worker for checks on a problem.

    A quick check runs most of its programs once or twice.  LLVM's -O1 compiles them in 3/4 of the time of the default
    -O3, and they run no slower; -O0 in less again, but loops are no vector code then, which trained networks feel, and
    real data.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if problem.scale == "quick" and "--xla_backend_optimization_level" not in flags:
        small = problem.data == "synthetic" and not problem.kernel.startswith("ntk")
        flags += f" --xla_backend_optimization_level={0 if small else 1}"
    return os.environ | _ONE_CORE | {"XLA_FLAGS": flags.strip()}


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def affordable(scale: str) -> int:
    """How many workers fit into the memory that is free now; at least one."""
    return max(1, int(psutil.virtual_memory().available // _BYTES[scale]))


class DiedError(RuntimeError):
    """A worker ended in the midst of a check."""


class _Worker:
    """One process; `check` blocks until the outcome is there.

    Another process is started after one has died, and for a problem that takes another environment.
    """

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._environment: dict[str, str] | None = None
        self._ended = False
        self._lock = threading.Lock()  # of both

    def check(self, task: Task) -> Any:
        """The outcome of `worker.check` there.

        Raises:
            DiedError: saying how the process ended.
        """
        process = self._running(_environment(task.problem))
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(task, process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            with self._lock:
                self._process = None
            raise DiedError(_how_it_ended(process.wait())) from None

    def end(self) -> None:
        """Stop at once."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _running(self, environment: dict[str, str]) -> subprocess.Popen:
        with self._lock:
            if self._ended:
                raise DiedError("the run was ended")
            if self._process is not None and environment != self._environment:
                self._process.kill()
                self._process.wait()
                self._process = None
            if self._process is None:
                self._process, self._environment = _started(environment), environment
            return self._process


def _started(environment: dict[str, str]) -> subprocess.Popen:
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)  # imports as this process does
    command = [sys.executable, "-c", "from theory_checks.worker import main; main()"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment | {"PYTHONPATH": path})


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"the process ended with exit status {status}"
    name = signal.Signals(-status).name
    return f"the process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


class Workers:
    """Processes that take groups of tasks from a queue; ended when the `with` block is left."""

    def __init__(self, number: int):
        self._workers = [_Worker() for _ in range(number)]
        self._groups: queue.SimpleQueue[Sequence[tuple[Task, Future]] | None] = queue.SimpleQueue()

    def __enter__(self) -> "Workers":
        for worker in self._workers:
            threading.Thread(target=self._work, args=(worker,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        for worker in self._workers:
            worker.end()

    def submit(self, group: Sequence[Task]) -> list[Future]:
        """Queue tasks that one process is to check, in their order; an outcome for each, or a `DiedError`."""
        found = [(task, Future()) for task in group]
        self._groups.put(found)
        return [future for _, future in found]

    def _work(self, worker: _Worker) -> None:
        while True:
            for task, future in self._groups.get() or ():
                try:
                    future.set_result(worker.check(task))
                except Exception as error:
                    future.set_exception(error)
