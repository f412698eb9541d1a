"""Results as text for a terminal, as JSON, PNG and one self-contained HTML page for keeping."""

import base64
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

from kpoison._environment import environment
from theory_checks.record import Comparison, Record, Verdict

__all__ = ["ERROR_OVER_TOLERANCE", "as_text", "table", "write"]

ERROR_OVER_TOLERANCE = (
    "error/tolerance: |law - independent check| over what rounding or sampling explains, the worst of all values; "
    "a statement holds while it is at most 1"
)

_PAGE_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
pre { font-size: 12px; overflow-x: auto; }
table { border-collapse: collapse; margin: 0.8rem 0; width: 100%; }
th, td { text-align: left; padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
img { max-width: 100%; }
section { margin-top: 2.5rem; border-top: 2px solid #888; }
.holds { color: #006b4f; font-weight: 600; } .FAILS { color: #b03a00; font-weight: 600; }
.small { color: #555; font-size: 13px; }
"""


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
    page = directory / "report.html"
    page.write_text(_page(records, figures), encoding="utf-8")
    return page


def _page(records: Sequence[Record], figures: Sequence[bytes | None]) -> str:
    failed = sum(record.failed for record in records)
    rows = "".join(
        f"<tr><td><a href='#{_anchor(r)}'>{r.statement.number}</a></td><td>{html.escape(r.statement.title)}</td>"
        f"<td>{r.kernel}</td><td>{html.escape(r.data)}</td><td class='number'>{_number(r.worst_ratio)}</td>"
        f"<td class='{r.verdict}'>{r.verdict}</td></tr>"
        for r in records
    )
    versions = ", ".join(f"{name} {value}" for name, value in environment().items())
    sections = "".join(_section(record, figure) for record, figure in zip(records, figures, strict=True))
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>kpoison: verification of the theory</title>"
        f"<style>{_PAGE_STYLE}</style><h1>Verification of the theory</h1>"
        f"<p>{len(records)} checks, {len(records) - failed} hold, {failed} fail. Each compares the law with a "
        "brute-force refit and, for neural tangent kernels, with trained networks of finite width. "
        f"{html.escape(ERROR_OVER_TOLERANCE)}.</p>"
        f"<p class='small'>{html.escape(versions)}</p>"
        "<table><tr><th>statement</th><th>name</th><th>kernel</th><th>data</th><th>error/tolerance</th><th>verdict</th></tr>"
        f"{rows}</table>{sections}</html>\n"
    )


def _anchor(record: Record) -> str:
    return f"{record.statement.number}-{record.kernel}"


def _number(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < math.inf else "–"


def _relative(comparison: Comparison) -> str:
    error = comparison.worst_relative_error
    return "–" if error is None else f"{error:.1e}"


def _section(record: Record, figure: bytes | None) -> str:
    number, title, claim, *_ = record.statement
    return (
        f"<section id='{_anchor(record)}'><h2>{number} · {html.escape(title)} · {record.kernel} "
        f"<span class='{record.verdict}'>{record.verdict}</span></h2><p>{html.escape(claim)}</p>"
        f"{_trouble(record)}{_picture(record, figure)}{_comparisons(record)}"
        f"<ul>{''.join(f'<li>{html.escape(finding)}</li>' for finding in record.findings)}</ul>"
        f"<p class='small'>{_arguments(record)}{record.seconds:.1f} s</p></section>"
    )


def _trouble(record: Record) -> str:
    """What ended the check before its end, if something did."""
    if not record.error:
        return ""
    return f"<p class='FAILS'>{html.escape(record.error)}</p><pre>{html.escape(record.traceback)}</pre>"


def _picture(record: Record, figure: bytes | None) -> str:
    if figure is None:
        return ""
    encoded = base64.b64encode(figure).decode()
    return f"<img alt='figure of {record.statement.number}' src='data:image/png;base64,{encoded}'>"


def _comparisons(record: Record) -> str:
    if not record.comparisons:
        return "<p>Nothing was compared.</p>"
    rows = "".join(
        f"<tr><td>{html.escape(c.quantity)}</td><td>{c.against}</td><td class='number'>{len(c.law)}</td>"
        f"<td class='number'>{_relative(c)}</td><td class='number'>{_number(c.worst_ratio)}</td>"
        f"<td class='small'>{html.escape(c.reason)}</td>"
        f"<td class='{'holds' if c.passed else 'FAILS'}'>{'ok' if c.passed else 'FAILS'}</td></tr>"
        for c in record.comparisons
    )
    return (
        "<table><tr><th>quantity</th><th>law against</th><th>values</th><th>relative error</th>"
        f"<th>error/tolerance</th><th>tolerance</th><th></th></tr>{rows}</table>"
    )


def _arguments(record: Record) -> str:
    return "".join(f"{html.escape(f'{name} = {value}')}; " for name, value in record.arguments.items())
