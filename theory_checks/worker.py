"""A process that checks statements for `runner`: tasks arrive on its standard input, outcomes leave on its output.

Started by `workers.Workers`; it ends with the process that started it.
"""

import dataclasses
import functools
import gc
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from typing import BinaryIO, NamedTuple

from theory_checks.catalogue import Statement

__all__ = ["Problem", "Refused", "Task", "main"]


class Problem(NamedTuple):
    """On what a statement is checked: the arguments of `setting.make_setting`."""

    kernel: str
    data: str
    scale: str
    data_dir: str | None
    seed: int


class Task(NamedTuple):
    """One statement on one problem."""

    statement: Statement
    problem: Problem


class Refused(NamedTuple):
    """The problem could not be made: an argument is wrong or a file missing, whatever the statement."""

    error: Exception


@functools.lru_cache(maxsize=1)
def _setting(problem: Problem):
    """The setting of the last problem, with all that statements about it share: posterior, refits, trained networks."""
    from theory_checks.setting import make_setting

    return make_setting(
        problem.kernel, problem.data, scale=problem.scale, data_dir=problem.data_dir, seed=problem.seed  # pyright: ignore
    )  # fmt: skip


def check(task: Task):
    """The `Record` of a task, of a failure where the check raised; None where the statement does not apply."""
    from theory_checks.record import Record

    try:
        setting = _setting(task.problem)
    except (ValueError, OSError) as error:
        return Refused(error)
    start = time.perf_counter()
    try:
        from theory_checks.setting import Laws

        record = task.statement.load()(setting, Laws())
    except Exception as error:
        problem = task.problem
        error = f"{type(error).__name__}: {error}"
        record = Record.of_failure(task.statement, problem.kernel, problem.data, error, traceback.format_exc())
    return None if record is None else dataclasses.replace(record, seconds=time.perf_counter() - start)


def _receive(source: BinaryIO, tasks: queue.SimpleQueue) -> None:
    """Queue what arrives; end the process, in the midst of a check too, when the other end is closed."""
    while True:
        try:
            tasks.put(pickle.load(source))
        except EOFError:
            os._exit(0)


def main() -> None:
    """Check what arrives until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the one that started this ends it
    outcomes = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a check prints goes to the terminal, not among the outcomes
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, tasks), daemon=True).start()
    import jax

    jax.config.update("jax_enable_x64", True)
    # Tracing makes millions of objects that live on; looking through them for garbage took a tenth of the time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    while True:
        pickle.dump(check(tasks.get()), outcomes)
        outcomes.flush()
