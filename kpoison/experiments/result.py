"""What an experiment gives: tables, a verdict on each claim, numbers and a figure; as text, JSON and PNG."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kpoison import plotting
from kpoison._environment import environment
from kpoison._reports import Part, cell, escaped, figure, heading, listed, marked, report, table, write_whole
from kpoison.experiments.options import Options
from kpoison.statistics import Agreement, Interval

__all__ = ["Claim", "Experiment", "Table", "above", "below"]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement, the number that it is about, and where the statement says that it lies.

    Attributes:
        statement: in words.
        measured: over the seeds; None where there is nothing to measure.
        low, high: the claim is that the mean lies between them.
        reason: why nothing could be measured.
    """

    statement: str
    measured: Interval | None
    low: float = -np.inf
    high: float = np.inf
    reason: str = ""

    @property
    def agreement(self) -> Agreement:
        """Decided where the whole interval lies on one side."""
        found = self.measured
        if found is None:
            return Agreement.UNDECIDED
        if found.low > self.low and found.high < self.high:
            return Agreement.AGREES
        if found.high < self.low or found.low > self.high:
            return Agreement.DISAGREES
        return Agreement.UNDECIDED

    def __str__(self) -> str:
        return f"{self.agreement}: {self.statement}: {self.found}"

    @property
    def found(self) -> str:
        """What was measured beside what is claimed, in words."""
        bounds = f"> {self.low:g}" if np.isinf(self.high) else f"< {self.high:g}"
        return self.reason if self.measured is None else f"{self.measured}, claimed {bounds}"


def above(statement: str, measured: Interval | None, level: float, reason: str = "") -> Claim:
    """The claim that a mean is larger than a level."""
    return Claim(statement, measured, low=level, reason=reason)


def below(statement: str, measured: Interval | None, level: float, reason: str = "") -> Claim:
    """The claim that a mean is smaller than a level."""
    return Claim(statement, measured, high=level, reason=reason)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        widths = [max(len(row[i]) for row in (self.header, *self.rows)) for i in range(len(self.header))]

        def line(cells: Sequence[str]) -> str:
            return "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()

        return "\n".join([self.title, line(self.header), *(line(row) for row in self.rows)])

    def as_html(self) -> str:
        """Its rows; all but the first of each are numbers."""
        rows = ([heading(row[0]), *(cell(escaped(words), "number") for words in row[1:])] for row in self.rows)
        return table(self.header, rows)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The outcome of an experiment.

    Attributes:
        name: as on the command line.
        title: one sentence.
        options: what it ran on.
        architectures: of the classifiers.
        tables: for a reader.
        claims: of the paper, with what was measured.
        notes: how numbers are defined.
        numbers: everything measured, as JSON-able values.
        draw: makes the figure.
        seconds: wall time.
    """

    name: str
    title: str
    options: Options
    architectures: Sequence[str]
    tables: Sequence[Table]
    claims: Sequence[Claim]
    notes: Sequence[str]
    numbers: dict[str, Any]
    draw: Callable[[], Figure]
    seconds: float = 0.0

    def __str__(self) -> str:
        parts = [self.title, *(f"\n{table}" for table in self.tables), ""]
        parts += [f"· {claim}" for claim in self.claims]
        return "\n".join([*parts, "", *(f"  {note}" for note in self.notes), f"  {self.seconds:.0f} s"])

    def manifest(self) -> dict[str, Any]:
        """Arguments, versions, device and precision."""
        return {
            "experiment": self.name,
            "arguments": self.options.arguments(),
            "architectures": list(self.architectures),
            "environment": environment() | {"dtype": self.options.precision},
            "seconds": self.seconds,
        }

    def write(self, folder: Path) -> list[Path]:
        """Write NAME.json, NAME.png and NAME.html; returns their paths."""
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        result = {
            "manifest": self.manifest(),
            "tables": [dataclasses.asdict(table) for table in self.tables],
            "claims": [
                dataclasses.asdict(claim) | {"agreement": str(claim.agreement)} for claim in self.claims
            ],
            "notes": list(self.notes),
            "numbers": self.numbers,
        }  # fmt: skip
        written = folder / f"{self.name}.json"
        written.write_text(json.dumps(_plain(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        picture = folder / f"{self.name}.png"
        with plotting.style():
            self.draw().savefig(picture)
        page = write_whole(folder / f"{self.name}.html", self._page(picture.read_bytes()))
        return [written, picture, page]

    def _page(self, picture: bytes) -> str:
        """In the look of all reports."""
        claims = (
            [cell(marked(claim.agreement)), cell(escaped(claim.statement)), cell(escaped(claim.found))]
            for claim in self.claims
        )
        judged = table(("verdict", "claim", "measured"), claims) if self.claims else "<p>No claim is judged.</p>"
        notes = "".join(f"<li>{escaped(note)}</li>" for note in self.notes)
        drawn = figure(picture, f"Figure of {self.name}; its numbers are in the tables and in {self.name}.json")
        tables = "".join(f"<h3>{escaped(each.title)}</h3>{each.as_html()}" for each in self.tables)
        parts = [
            Part("Claims and measurements", judged, "claims"),
            Part("Figure", drawn, "figure"),
            Part("Tables", tables, "tables"),
            Part("How the numbers are defined", f"<ul>{notes}</ul>", "notes"),
        ]
        manifest = _plain(self.manifest())
        run = [(name, listed(value) if isinstance(value, dict) else str(value)) for name, value in manifest.items()]
        return report(f"Experiment: {self.name}", f"<p>{escaped(self.title)}</p>", parts, run)


def _plain(value: Any) -> Any:
    """JSON-able; what is not finite becomes a string."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value
