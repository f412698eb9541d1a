"""Results as text for a terminal, as JSON, PNG and one self-contained HTML page for keeping."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from kpoison._environment import environment
from kpoison._reports import cell, escaped, figure, marked, page, section, small
from kpoison._reports import table as html_table
from theory_checks.record import Comparison, Record, Verdict

__all__ = ["ERROR_OVER_TOLERANCE", "as_text", "table", "write"]

ERROR_OVER_TOLERANCE = (
    "error/tolerance: |law - independent check| over what rounding or sampling explains, the worst of all values; "
    "a statement holds while it is at most 1"
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
    figures = []
    for record in records:
        figures.append(draw(record) if record.panels else None)
        if figures[-1] is not None:
            (directory / f"{_anchor(record)}-{record.data.split(',')[0]}.png").write_bytes(figures[-1])
    results = {"environment": environment(), "records": [record.as_json() for record in records]}
    (directory / "results.json").write_text(json.dumps(results, indent=1, allow_nan=True), encoding="utf-8")
    path = directory / "report.html"
    path.write_text(_page(records, figures), encoding="utf-8")
    return path


def _page(records: Sequence[Record], figures: Sequence[bytes | None]) -> str:
    failed = sum(record.failed for record in records)
    rows = (
        [
            cell(f"<a href='#{_anchor(r)}'>{r.statement.number}</a>"),
            *(cell(escaped(words)) for words in (r.statement.title, r.kernel, r.data)),
            cell(_number(r.worst_ratio), "number"),
            cell(r.verdict, r.verdict),
        ]
        for r in records
    )
    versions = ", ".join(f"{name} {value}" for name, value in environment().items())
    summary = (
        f"<p>{len(records)} checks, {len(records) - failed} hold, {failed} fail. Each compares the law with a "
        "brute-force refit and, for neural tangent kernels, with trained networks of finite width. "
        f"{escaped(ERROR_OVER_TOLERANCE)}.</p>"
    )
    head = ("statement", "name", "kernel", "data", "error/tolerance", "verdict")
    sections = "".join(_section(record, figure) for record, figure in zip(records, figures, strict=True))
    return page(
        "kpoison: verification of the theory",
        f"{summary}{small(escaped(versions))}{html_table(head, rows)}{sections}",
        heading="Verification of the theory",
    )


def _anchor(record: Record) -> str:
    return f"{record.statement.number}-{record.kernel}"


def _number(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < math.inf else "–"


def _relative(comparison: Comparison) -> str:
    error = comparison.worst_relative_error
    return "–" if error is None else f"{error:.1e}"


def _section(record: Record, png: bytes | None) -> str:
    number, title, claim, *_ = record.statement
    drawn = "" if png is None else figure(png, f"figure of {number}")
    findings = "".join(f"<li>{escaped(finding)}</li>" for finding in record.findings)
    return section(
        f"{number} · {escaped(title)} · {record.kernel} {marked(record.verdict)}",
        f"<p>{escaped(claim)}</p>{_trouble(record)}{drawn}{_comparisons(record)}<ul>{findings}</ul>"
        + small(f"{_arguments(record)}{record.seconds:.1f} s"),
        _anchor(record),
    )


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
