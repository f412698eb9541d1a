"""Results as text for a terminal, as JSON, PNG and one self-contained HTML page for keeping."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from kpoison._environment import environment
from kpoison._reports import Part, cell, details, escaped, figure, formula, heading, marked, note, report, small
from kpoison._reports import table as html_table
from theory_checks.record import FALSE_ALARM, Comparison, Record, Verdict
from theory_checks.words import WORDS

__all__ = ["ERROR_OVER_TOLERANCE", "MEANING", "as_text", "of_kernels", "table", "write"]

ERROR_OVER_TOLERANCE = (
    "error/tolerance: |law - independent check| over what rounding or sampling explains, the worst of all values; "
    "a statement holds while it is at most 1"
)

MEANING = note(
    "<p><b>What error/tolerance means.</b> Each law is held against a route that shares nothing with it: a refit "
    "by brute force, a simulation, a trained network. The error is the difference of the two numbers; the "
    "tolerance is how far they may differ for reasons that are understood: the rounding of floating-point "
    "numbers, or the scatter of so many draws (so wide that chance alone exceeds it once in "
    f"{1 / FALSE_ALARM:,.0f} comparisons). The statement holds while their quotient, the worst of all values, is at "
    "most 1: at 0.01 law and check are a hundred times closer than they had to be, at 2 they differ by twice what "
    "can be explained. It says how sharp the check was; how large the error is stands beside it, as the relative "
    "error.</p>"
)


def as_text(record: Record, *, verbose: bool = False) -> str:
    """One line for a record that holds; every failed comparison, and all of them where verbose."""
    worst = {}
    for comparison in record.comparisons:
        worst[comparison.against] = max(worst.get(comparison.against, 0.0), comparison.worst_ratio)
    ratios = ", ".join(f"{against} {ratio:.2g}" for against, ratio in worst.items())
    found = record.error or (f"error/tolerance: {ratios}" if ratios else "nothing was compared")
    lines = [
        f"{record.statement.number:<11} {record.verdict:<5}  {record.kernel:<18} {record.data}  "
        f"{found}  ({record.seconds:.1f} s)"
    ]
    for comparison in record.comparisons:
        if verbose or not comparison.passed:
            lines.append(f"      {_comparison_text(comparison)}")
    if verbose:
        lines += [f"      · {finding}" for finding in record.findings]
        lines += [f"      {line}" for line in record.traceback.splitlines()]
    return "\n".join(lines)


def table(records: Sequence[Record]) -> str:
    """A line for each statement: its kernels, its worst error over tolerance, its verdict."""
    rows = [("statement", "error/tolerance", "verdict", "kernels")]
    for number, own in _by_statement(records).items():
        failed = [record.kernel for record in own if record.failed]
        kernels = f"not on {', '.join(failed)}" if failed else ", ".join(record.kernel for record in own)
        worst = max(record.worst_ratio for record in own)
        rows.append(
            (
                number,
                f"{worst:.2g}" if worst < math.inf else "-",
                str(Verdict.FAILS if failed else Verdict.HOLDS),
                kernels,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{number:<{widths[0]}}  {worst:>{widths[1]}}  {verdict:<{widths[2]}}  {kernels}"
        for number, worst, verdict, kernels in rows
    )


def _by_statement(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.statement.number, []).append(record)
    return found


def _comparison_text(comparison: Comparison) -> str:
    state = "ok" if comparison.passed else "FAILED"
    return (
        f"{state}: {comparison.quantity}, law against {comparison.against}: relative error "
        f"{_relative(comparison)}, error/tolerance {comparison.worst_ratio:.2g} ({comparison.reason})"
    )


def write(records: Sequence[Record], directory: Path) -> Path:
    """Write `results.json`, one PNG per record and `report.html` into a directory; returns the page's path."""
    from theory_checks.figures import draw  # with matplotlib, not needed for a terminal

    directory.mkdir(parents=True, exist_ok=True)
    pictures = {id(record): draw(record) for record in records if record.panels}
    for record in records:
        if id(record) in pictures:
            (directory / f"{_anchor(record)}-{record.data.split(',')[0]}.png").write_bytes(pictures[id(record)])
    results = {"environment": environment(), "records": [record.as_json() for record in records]}
    (directory / "results.json").write_text(json.dumps(results, indent=1, allow_nan=True), encoding="utf-8")
    path = directory / "report.html"
    path.write_text(_page(records, pictures), encoding="utf-8")
    return path


def _page(records: Sequence[Record], pictures: Mapping[int, bytes]) -> str:
    failed = sum(record.failed for record in records)
    grouped = _by_statement(records)
    rows = (
        [
            cell(f"<a href='#{number}'>{number}</a>"),
            cell(_verdict(own)),
            cell(_number(max(record.worst_ratio for record in own)), "number"),
            cell(_plain(own[0]) + small(f"on {escaped(', '.join(record.kernel for record in own))}")),
        ]
        for number, own in grouped.items()
    )
    lead = (
        f"<p>{len(grouped)} statements in {len(records)} checks: {len(records) - failed} hold, {failed} fail.</p>"
        f"{MEANING}{html_table(('statement', 'verdict', 'error/ tolerance', 'what it says'), rows, 'index')}"
    )
    parts = [_statement(number, own, pictures) for number, own in grouped.items()]
    return report("Verification of the theory", lead, parts, environment().items(), contents=False)


def _statement(number: str, records: Sequence[Record], pictures: Mapping[int, bytes]) -> Part:
    """One statement on all of its kernels."""
    title, claim = records[0].statement[1:3]
    said = formula(WORDS[number].formula) if number in WORDS else ""
    checked = small(f"As it is checked: {escaped(claim)}")
    body = f"<p>{_plain(records[0])}</p>{said}{checked}{of_kernels(records, pictures)}"
    return Part(f"{number} · {escaped(title)} {_verdict(records)}", body, number)


def of_kernels(records: Sequence[Record], pictures: Mapping[int, bytes] | None = None) -> str:
    """Of one statement: a small panel for each kernel, their numbers side by side, and all else on request.

    Args:
        records: of the statement.
        pictures: all panels of a record as a PNG, by the record's identity, where they are drawn already.
    """
    from theory_checks.figures import draw, draw_first

    if pictures is None:
        pictures = {id(record): draw(record) for record in records if record.panels}
    panels, more = "", ""
    for record in records:
        if record.panels:
            first = record.panels[0]
            alt = f"{first.title}, {record.kernel}: {first.ylabel} against {first.xlabel}"
            small_one = draw_first(record) if len(record.panels) > 1 else pictures[id(record)]
            panels += figure(small_one, alt, f"{record.kernel} on {record.data}")
        several = len(record.panels) > 1
        drawn = figure(pictures[id(record)], f"All panels of {_anchor(record)}") if several else ""
        findings = "".join(f"<li>{escaped(finding)}</li>" for finding in record.findings)
        body = f"{drawn}{_comparisons(record)}<ul>{findings}</ul>{small(_arguments(record))}"
        more += details(f"{record.kernel}: every panel, comparison and finding", body)
    routes = list(dict.fromkeys(comparison.against for record in records for comparison in record.comparisons))
    rows = (
        [
            heading(record.kernel),
            *(cell(_number(_worst_against(record, route)), "number") for route in routes),
            cell(f"{record.seconds:.1f}", "number"),
            cell(marked(record.verdict) + _trouble(record)),
        ]
        for record in records
    )
    head = ("error/tolerance on", *(f"against {route}" for route in routes), "seconds", "verdict")
    return f"<div class='panels'>{panels}</div>{html_table(head, rows)}{more}"


def _worst_against(record: Record, route: str) -> float:
    return max((c.worst_ratio for c in record.comparisons if c.against == route), default=math.inf)


def _plain(record: Record) -> str:
    """The statement in plain words, where there are some."""
    statement = record.statement
    return escaped(WORDS[statement.number].plain if statement.number in WORDS else statement.claim)


def _verdict(records: Sequence[Record]) -> str:
    return marked(Verdict.FAILS if any(record.failed for record in records) else Verdict.HOLDS)


def _anchor(record: Record) -> str:
    return f"{record.statement.number}-{record.kernel}"


def _number(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < math.inf else "–"


def _relative(comparison: Comparison) -> str:
    error = comparison.worst_relative_error
    return "–" if error is None else f"{error:.1e}"


def _trouble(record: Record) -> str:
    """What ended the check before its end, if something did."""
    if not record.error:
        return ""
    return f"<p class='FAILS'>{escaped(record.error)}</p><pre>{escaped(record.traceback)}</pre>"


def _comparisons(record: Record) -> str:
    if not record.comparisons:
        return "<p>Nothing was compared.</p>"
    rows = (
        [
            cell(escaped(c.quantity)),
            cell(c.against),
            cell(str(len(c.law)), "number"),
            cell(_relative(c), "number"),
            cell(_number(c.worst_ratio), "number"),
            cell(escaped(c.reason), "small"),
            cell("ok" if c.passed else "FAILS", "holds" if c.passed else "FAILS"),
        ]
        for c in record.comparisons
    )
    head = ("quantity", "law against", "values", "relative error", "error/tolerance", "tolerance", "")
    return html_table(head, rows)


def _arguments(record: Record) -> str:
    return "".join(f"{escaped(f'{name} = {value}')}; " for name, value in record.arguments.items())
