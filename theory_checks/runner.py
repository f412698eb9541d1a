"""Runs the checks: which statements, on which kernels and data, in how many processes.  Here without JAX."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from theory_checks.catalogue import KERNEL_NAMES, STATEMENTS, Statement
from theory_checks.record import Record
from theory_checks.worker import Problem, Refused, Task
from theory_checks.workers import DiedError, Workers, affordable, cores

__all__ = ["run"]


def run(
    only: Sequence[str] = (),
    kernels: Sequence[str] = (),
    data: str = "synthetic",
    *,
    scale: str = "quick",
    data_dir: str | None = None,
    seed: int = 0,
    jobs: int | None = None,
    statements: Mapping[str, Statement] = STATEMENTS,
    progress: Callable[[int, int], object] = lambda finished, total: None,
) -> Iterator[Record]:
    """Check statements, in worker processes of one core each.

    Args:
        only: statements such as ("L3", "L5"); by default all that are proved rather than measured.
        kernels: names from `catalogue.KERNEL_NAMES`; by default a representative choice, with "full" all.
        data: "synthetic", "digits" (embedded) or "mnist" (from `data_dir` or KPOISON_DATA).
        scale: "quick" or "full".
        data_dir: folder with the official MNIST files.
        seed: of everything random.
        jobs: number of processes, by default of cores; lowered, with a word on stderr, to what memory allows.  The
            records, their order and their numbers do not depend on it.
        statements: what can be checked, by number.
        progress: called with the numbers of finished and of all checks, whenever one has finished.

    Yields:
        A record per statement and kernel that it applies to, in the order of the catalogue on one kernel after the
        other.  A check that raises, or whose process dies, gives a record of that failure.

    Raises:
        ValueError: for unknown names, jobs < 1, or a problem that cannot be made.
        OSError: for data that cannot be read.
    """
    for name, values, known in (("only", only, statements), ("kernels", kernels, KERNEL_NAMES)):
        unknown = [value for value in values if value not in known]
        if unknown:
            raise ValueError(f"{name} must be among {', '.join(known)}, got {', '.join(unknown)}")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {jobs}")
    chosen = [statements[number] for number in only] or [s for s in statements.values() if not s.measured]
    tasks = [
        Task(statement, Problem(kernel, data, scale, data_dir, seed))
        for kernel in kernels or KERNEL_NAMES
        for statement in chosen
        if kernels or scale == "full" or kernel in statement.quick
    ]
    groups = _groups(tasks)
    asked = cores() if jobs is None else jobs
    number = min(asked, affordable(scale), len(groups))
    if number < min(asked, len(groups)):
        print(f"kpoison: {number} jobs instead of {asked}, which is what memory allows", file=sys.stderr)
    with Workers(number) as workers:
        outcomes = {}
        for group in groups:
            outcomes |= zip(group, workers.submit(group), strict=True)
        for future in outcomes.values():
            future.add_done_callback(lambda _: progress(sum(f.done() for f in outcomes.values()), len(tasks)))
        for task in tasks:
            try:
                record = outcomes[task].result()
            except DiedError as error:
                record = Record.of_failure(task.statement, task.problem.kernel, data, str(error))
            if isinstance(record, Refused):
                raise record.error
            if record is not None:
                yield record


def _groups(tasks: Sequence[Task]) -> list[list[Task]]:
    """What one process is to check, the longest first: each task alone, or with those it shares work with."""
    groups = defaultdict(list)
    for task in tasks:
        groups[task.problem, task.statement.shares or task.statement.number].append(task)
    return sorted(groups.values(), key=lambda group: -sum(task.statement.cost for task in group))
