"""The paper number by number as a page, in the look of all reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kpoison._environment import environment
from kpoison._reports import (
    Part,
    cell,
    escaped,
    figure,
    formula,
    heading,
    marked,
    report,
    table,
    write_whole,
)
from theory_checks.figures import draw_panels
from theory_checks.paper import NUMBERS, Judgement
from theory_checks.paper_data import Evaluated
from theory_checks.record import Record
from theory_checks.report import MEANING, of_kernels
from theory_checks.words import WORDS

__all__ = ["write_page"]

_COLOURS = {Judgement.HOLDS: "holds", Judgement.FALSE: "FAILS", Judgement.UNDECIDED: "FAILS"}
_Rows = Sequence[tuple[str, Judgement, Sequence[Record]]]


def write_page(path: Path, rows: _Rows, evaluated: Mapping[str, Evaluated], given: Mapping[str, str]) -> Path:
    """Write the page; returns its path.

    Args:
        path: of the file, in a folder that exists.
        rows: of each number its key, how it stands, and the records of its checks.
        evaluated: what data say of some numbers.
        given: arguments.
    """
    index = (
        [
            cell(f"<a href='#{key}'>{escaped(NUMBERS[key].name)}</a>"),
            cell(_judged(judgement)),
            cell(escaped(NUMBERS[key].claim)),
        ]
        for key, judgement, _ in rows
    )
    lead = (
        "<p>The statements of arXiv 2602.00822 in its order: what each claims, in our words and as the paper is "
        "reported; how it stands; and the checks that say so.</p>"
        f"{table(('number', 'verdict', 'claim'), index, 'index')}{MEANING}"
    )
    parts = [_number(key, judgement, own, evaluated.get(key)) for key, judgement, own in rows]
    return write_whole(path, report("The paper, number by number", lead, parts, (dict(given) | environment()).items(),
                                    contents=False))  # fmt: skip


def _judged(judgement: Judgement) -> str:
    return marked(judgement, _COLOURS.get(judgement, "undecided"))


def _number(key: str, judgement: Judgement, records: Sequence[Record], evaluated: Evaluated | None) -> Part:
    number = NUMBERS[key]
    body = table((), [[heading("claim"), cell(escaped(number.claim))], [heading("true"), cell(escaped(number.truth))]])
    by_statement: dict[str, list[Record]] = {}
    for record in records:
        by_statement.setdefault(record.statement.number, []).append(record)
    for statement, own in by_statement.items():
        body += f"<h3>{statement} · {escaped(own[0].statement.title)}</h3>{formula(WORDS[statement].formula)}"
        body += of_kernels(own)
    if not records:
        body += "<p>Nothing was checked.</p>"
    if evaluated is not None:
        findings = "".join(f"<li>{escaped(finding)}</li>" for finding in evaluated.findings)
        drawn = figure(draw_panels(evaluated.panels, number.name), f"{number.name} on data") if evaluated.panels else ""
        body += f"<h3>On the data</h3><ul>{findings}</ul>{drawn}"
    return Part(f"{escaped(number.name)}: {_judged(judgement)}", body, key)
