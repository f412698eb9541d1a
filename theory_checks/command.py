"""`kpoison verify`, which the command line finds by its entry point."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import tyro

from kpoison.cli.outputs import made_folder
from kpoison.problems import DataName
from theory_checks.catalogue import KERNEL_NAMES, STATEMENTS

if TYPE_CHECKING:
    from theory_checks.record import Record

__all__ = ["Verify"]

if TYPE_CHECKING:
    Number: TypeAlias = str
    Kernel: TypeAlias = str
else:
    Number = tyro.extras.literal_type_from_choices(STATEMENTS)
    Kernel = tyro.extras.literal_type_from_choices(KERNEL_NAMES)


@dataclasses.dataclass(frozen=True)
class Verify:
    """Check every statement of the theory: law against brute-force refit against finite-width training.

    Exit status 0 if every statement holds, 1 if one fails, 2 for wrong arguments.
    """

    quick: bool = False
    """Small sizes, the dearer statements on one kernel; the default. About three minutes on two idle cores, most of
    them for compiling."""

    full: bool = False
    """All kernels for every statement, more data, wider networks, more seeds."""

    only: tuple[Number, ...] = ()
    """Statements to check, such as L3 L5; by default all but those that are measured on trained classifiers rather
    than proved, and take minutes: T6, L8-classifiers and collapse."""

    kernel: tuple[Kernel, ...] = ()
    """Kernels to check on. By default a representative choice; with --full all."""

    data: DataName = "synthetic"
    """Clean data; digits are embedded, MNIST is read from --data-dir."""

    data_dir: str | None = None
    """Folder with the official MNIST IDX .gz files, or with a folder `mnist` of them; by default $KPOISON_DATA."""

    out: Path | None = None
    """Folder for results.json, one PNG per statement, and report.html."""

    seed: int = 0
    """Seed of everything random."""

    jobs: int | None = None
    """Processes that check side by side, each on one core; by default one per core, fewer where memory is short. The
    numbers do not depend on it."""

    list: bool = False
    """Print each statement with its claim, and check nothing."""

    verbose: bool = False
    """Print every comparison and finding, not only the failed ones."""

    def run(self) -> int:
        """Run the checks; returns the exit status."""
        if self.list:
            for number, title, claim, *_ in STATEMENTS.values():
                print(f"{number:<15} {title}: {claim}")
            return 0
        if self.quick and self.full:
            raise ValueError("--quick and --full exclude each other")
        made_folder("--out", self.out)
        records = self._check()

        from theory_checks.report import ERROR_OVER_TOLERANCE, table

        if self.out is not None:
            self._write(records, self.out)
        failed = sum(record.failed for record in records)
        print(f"\n{table(records)}\n\n{ERROR_OVER_TOLERANCE}")
        print(f"{len(records) - failed} checks hold, {failed} fail")
        return 1 if failed else 0

    def _check(self) -> "Sequence[Record]":
        """Each record, printed when its turn comes."""
        from tqdm import tqdm

        from theory_checks.report import as_text
        from theory_checks.runner import run

        records = []
        with tqdm(disable=not sys.stderr.isatty(), unit="check", leave=False) as bar:

            def progress(finished: int, total: int) -> None:
                bar.total = total
                bar.update(finished - bar.n)

            for record in run(
                self.only,
                self.kernel,
                self.data,
                scale="full" if self.full else "quick",
                data_dir=self.data_dir,
                seed=self.seed,
                jobs=self.jobs,
                progress=progress,
            ):
                tqdm.write(as_text(record, verbose=self.verbose))
                records.append(record)
        return records

    @staticmethod
    def _write(records: "Sequence[Record]", directory: Path) -> None:
        """Files of the records; the page names the precision of the checks."""
        import jax

        from theory_checks.report import write

        jax.config.update("jax_enable_x64", True)
        print(f"report: {write(records, directory)}")
