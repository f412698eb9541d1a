"""`kpoison paper`, which the command line finds by its entry point."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import tyro

from kpoison.cli.outputs import check_output, made_folder
from kpoison.problems import MatrixImages
from theory_checks.paper import NUMBERS, Judgement, statements_for

if TYPE_CHECKING:
    from theory_checks.paper_data import Evaluated
    from theory_checks.record import Record

__all__ = ["Paper"]

if TYPE_CHECKING:
    Number: TypeAlias = str
else:
    Number = tyro.extras.literal_type_from_choices(NUMBERS)


@dataclasses.dataclass(frozen=True)
class Paper:
    """Walk through the statements of arXiv 2602.00822 in its order: each one's claim, what is true, and how close.

    The checks are those of `kpoison verify`, on synthetic data.  Exit status 0 if every check holds, 1 if one fails, 2
    for wrong arguments.
    """

    only: tuple[Number, ...] = ()
    """Numbers of the paper, such as 3.9 3.12; by default all."""

    data: MatrixImages | None = None
    """Images on which what depends on the data is evaluated too: how tight and dominant the poisons are, gain,
    efficacy, spike, overlap, and degrees of freedom and residual against the penalty.  Digits are embedded, the others
    are read from --data-dir."""

    data_dir: str | None = None
    """Folder with the official files, or with a folder `mnist` or `cifar-10-batches-bin` of them; by default
    $KPOISON_DATA."""

    figures: Path | None = None
    """Folder for one PNG per number."""

    page: Path | None = None
    """FILE.html with the claim, the verdict, the truth, figures and numbers of each."""

    seed: int = 0
    """Seed of everything random."""

    jobs: int | None = None
    """Processes that check side by side, each on one core; by default one per core, fewer where memory is short."""

    list: bool = False
    """Print each number with its claim and the statements that decide it, and check nothing."""

    def run(self) -> int:
        """Check, judge and print; returns the exit status."""
        if self.list:
            for key, number in NUMBERS.items():
                print(f"{key:<10} {number.name}: {number.claim}  [{', '.join(number.checks)}]")
            return 0
        if self.data_dir is not None and self.data is None:
            raise ValueError(f"--data-dir must come with --data mnist or cifar10, got {self.data_dir} alone")
        made_folder("--figures", self.figures)
        check_output("--page", self.page, ".html")
        numbers = tuple(key for key in NUMBERS if not self.only or key in self.only)
        # First, as files may be missing.
        evaluated = self._evaluate(numbers)
        records = self._check(numbers)
        rows = []
        for key in numbers:
            own = [
                record
                for record in records
                if record.statement.number in NUMBERS[key].checks and record.kernel in NUMBERS[key].kernels
            ]
            rows.append((key, _judged(key, own), own))
            print(_as_text(key, rows[-1][1], own, evaluated))
            if self.figures is not None:
                self._draw(key, own, evaluated)
        print(f"\n{_table(rows)}")
        if self.page is not None:
            print(f"page: {self._write_page(rows, evaluated)}")
        return int(any(judgement is Judgement.UNDECIDED for _, judgement, _ in rows))

    def _evaluate(self, numbers: Sequence[str]) -> "Mapping[str, Evaluated]":
        """What the data say of these numbers."""
        if self.data is None:
            return {}
        import jax

        from theory_checks.paper_data import evaluate

        jax.config.update("jax_enable_x64", True)
        return evaluate(self.data, self.data_dir, self.seed, numbers)

    def _check(self, numbers: tuple[str, ...]) -> "Sequence[Record]":
        from tqdm import tqdm

        from theory_checks.runner import run

        statements = statements_for(numbers)
        with tqdm(disable=not sys.stderr.isatty(), unit="check", leave=False) as bar:

            def progress(finished: int, total: int) -> None:
                bar.total = total
                bar.update(finished - bar.n)

            return list(
                run(tuple(statements), seed=self.seed, jobs=self.jobs, statements=statements, progress=progress)
            )

    def _write_page(
        self, rows: "Sequence[tuple[str, Judgement, Sequence[Record]]]", evaluated: "Mapping[str, Evaluated]"
    ) -> Path:
        """The page; it names the precision of the checks."""
        import jax

        from theory_checks.paper_page import write_page

        jax.config.update("jax_enable_x64", True)
        assert self.page is not None
        given = {"only": " ".join(self.only) or "all", "data": str(self.data or "synthetic"), "seed": str(self.seed)}
        return write_page(self.page, rows, evaluated, given)

    def _draw(self, key: str, records: "Sequence[Record]", evaluated: "Mapping[str, Evaluated]") -> None:
        """The panels of a number's checks and data as DIR/NUMBER.png."""
        from theory_checks.figures import draw_panels

        assert self.figures is not None
        panels = [panel for record in records for panel in record.panels]
        panels += evaluated[key].panels if key in evaluated else []
        if panels:
            name = NUMBERS[key].name
            (self.figures / f"{key}.png").write_bytes(draw_panels(panels, f"{name}: {NUMBERS[key].judgement}"))


def _judged(key: str, records: "Sequence[Record]") -> Judgement:
    """As the map has it, where something was checked and everything held."""
    if not records or any(record.failed for record in records):
        return Judgement.UNDECIDED
    return NUMBERS[key].judgement


def _closeness(records: "Sequence[Record]") -> str:
    """The worst error over tolerance of each statement."""
    worst: dict[str, float] = {}
    for record in records:
        number = record.statement.number
        worst[number] = max(worst.get(number, 0.0), record.worst_ratio)
    return ", ".join(f"{number} {ratio:.2g}" for number, ratio in worst.items()) or "nothing was checked"


def _as_text(key: str, judgement: Judgement, records: "Sequence[Record]", evaluated: "Mapping[str, Evaluated]") -> str:
    number = NUMBERS[key]
    lines = [f"\n{number.name}: {judgement}", f"  claim: {number.claim}", f"  true:  {number.truth}"]
    lines += [
        f"  {record.statement.number} on {record.kernel} FAILS: {_reason(record)}"
        for record in records
        if record.failed
    ]
    for record in records:
        # Of trained classifiers the claims, which come before the tables.
        shown = len(record.comparisons) if record.statement.measured else None
        lines += [f"  · {record.statement.number}, {record.kernel}: {finding}" for finding in record.findings[:shown]]
    if key in evaluated:
        lines += [f"  · {finding}" for finding in evaluated[key].findings]
    return "\n".join([*lines, f"  error/tolerance: {_closeness(records)}"])


def _reason(record: "Record") -> str:
    return record.error or "; ".join(c.quantity for c in record.comparisons if not c.passed) or "nothing was compared"


def _table(rows: "Sequence[tuple[str, Judgement, Sequence[Record]]]") -> str:
    """A line for each number: how it stands, and how close its checks are."""
    width = max(len(NUMBERS[key].name) for key, _, _ in rows)
    stands = max(len(judgement) for _, judgement, _ in rows)
    head = f"{'paper':<{width}}  {'verdict':<{stands}}  worst error/tolerance of each check"
    lines = (f"{NUMBERS[key].name:<{width}}  {judgement:<{stands}}  {_closeness(own)}" for key, judgement, own in rows)
    return "\n".join([head, *lines])
