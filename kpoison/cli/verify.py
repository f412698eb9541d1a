"""`kpoison verify`."""

import dataclasses
from pathlib import Path
from typing import Literal

__all__ = ["Verify"]

Statement = Literal[
    "L1", "L2", "L3", "L4", "L4-Hessian", "L5", "L6", "L7", "L8", "L8-images", "L8-training", "N1", "T1", "T2", "T3",
    "T4", "T5", "D1", "T6", "L8-classifiers", "collapse",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Verify:
    """Check every statement of the theory: law against brute-force refit against finite-width training.

    Exit status 0 if every statement holds, 1 if one fails, 2 for wrong arguments.
    """

    quick: bool = False
    """Small sizes, under three minutes on two cores; the default."""

    full: bool = False
    """All kernels for every statement, more data, wider networks, more seeds."""

    only: tuple[Statement, ...] = ()
    """Statements to check, such as L3 L5; by default all but T6, L8-classifiers and collapse, which are measured on
    trained classifiers rather than proved, and take minutes."""

    kernel: tuple[str, ...] = ()
    """Kernels to check on: rbf, laplace, matern32, matern52, rational-quadratic, linear, ntk-relu, ntk-erf, nngp-relu.
    By default a representative choice; with --full all."""

    data: Literal["synthetic", "digits", "mnist"] = "synthetic"
    """Clean data; digits are embedded, MNIST is read from --data-dir."""

    data_dir: str | None = None
    """Folder with the official MNIST IDX .gz files, or with a folder `mnist` of them; by default $KPOISON_DATA."""

    out: Path | None = None
    """Folder for results.json, one PNG per statement, and report.html."""

    seed: int = 0
    """Seed of everything random."""

    verbose: bool = False
    """Print every comparison and finding, not only the failed ones."""

    def run(self) -> int:
        """Run the checks; returns the exit status."""
        import jax
        from tqdm import tqdm

        from theory_checks.record import Verdict
        from theory_checks.report import as_text, write
        from theory_checks.runner import run

        if self.quick and self.full:
            raise ValueError("--quick and --full exclude each other")
        jax.config.update("jax_enable_x64", True)
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
        records = []
        for record in run(
            self.only,
            self.kernel,
            self.data,
            scale="full" if self.full else "quick",
            data_dir=self.data_dir,
            seed=self.seed,
        ):
            tqdm.write(as_text(record, verbose=self.verbose))
            records.append(record)
        failed = [record for record in records if record.verdict is Verdict.FAILS]
        if self.out is not None:
            print(f"report: {write(records, self.out)}")
        print(f"{len(records) - len(failed)} checks hold, {len(failed)} fail")
        return 1 if failed else 0
