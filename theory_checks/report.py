"""Results as text for a terminal, as JSON, PNG and one self-contained HTML page for keeping."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

from theory_checks.figures import draw
from theory_checks.record import Comparison, Record, Verdict, environment

__all__ = ["as_text", "write"]

_PAGE_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
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
    lines = [
        f"{record.statement}  {record.verdict:<5}  {record.kernel:<18} {record.data:<10} "
        f"error/tolerance: {ratios}  ({record.seconds:.1f} s)"
    ]
    for comparison in record.comparisons:
        if verbose or not comparison.passed:
            lines.append(f"      {_comparison_text(comparison)}")
    if verbose:
        lines += [f"      · {finding}" for finding in record.findings]
    return "\n".join(lines)


def _comparison_text(comparison: Comparison) -> str:
    state = "ok" if comparison.passed else "FAILED"
    return (
        f"{state}: {comparison.quantity}, law against {comparison.against}: relative error "
        f"{comparison.worst_relative_error:.2e}, error/tolerance {comparison.worst_ratio:.2g} ({comparison.reason})"
    )


def write(records: Sequence[Record], directory: Path) -> Path:
    """Write `results.json`, one PNG per record and `report.html` into a directory; returns the page's path."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = []
    for record in records:
        picture = draw(record)
        (directory / f"{record.statement}-{record.kernel}-{record.data.split(',')[0]}.png").write_bytes(picture)
        figures.append(picture)
    results = {"environment": environment(), "records": [record.as_json() for record in records]}
    (directory / "results.json").write_text(json.dumps(results, indent=1, allow_nan=True), encoding="utf-8")
    page = directory / "report.html"
    page.write_text(_page(records, figures), encoding="utf-8")
    return page


def _page(records: Sequence[Record], figures: Sequence[bytes]) -> str:
    failed = sum(record.verdict is Verdict.FAILS for record in records)
    rows = "".join(
        f"<tr><td><a href='#{_anchor(r)}'>{r.statement}</a></td><td>{html.escape(r.title)}</td><td>{r.kernel}</td>"
        f"<td>{html.escape(r.data)}</td><td class='{r.verdict}'>{r.verdict}</td></tr>"
        for r in records
    )
    versions = ", ".join(f"{name} {value}" for name, value in environment().items())
    sections = "".join(_section(record, figure) for record, figure in zip(records, figures, strict=True))
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>kpoison: verification of the theory</title>"
        f"<style>{_PAGE_STYLE}</style><h1>Verification of the theory</h1>"
        f"<p>{len(records)} checks, {len(records) - failed} hold, {failed} fail. Each compares the law with a "
        "brute-force refit and, for neural tangent kernels, with trained networks of finite width.</p>"
        f"<p class='small'>{html.escape(versions)}</p>"
        "<table><tr><th>statement</th><th></th><th>kernel</th><th>data</th><th>verdict</th></tr>"
        f"{rows}</table>{sections}</html>\n"
    )


def _anchor(record: Record) -> str:
    return f"{record.statement}-{record.kernel}"


def _section(record: Record, figure: bytes) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(c.quantity)}</td><td>{c.against}</td><td class='number'>{len(c.law)}</td>"
        f"<td class='number'>{c.worst_relative_error:.1e}</td><td class='number'>{c.worst_ratio:.2g}</td>"
        f"<td class='small'>{html.escape(c.reason)}</td>"
        f"<td class='{'holds' if c.passed else 'FAILS'}'>{'ok' if c.passed else 'FAILS'}</td></tr>"
        for c in record.comparisons
    )
    findings = "".join(f"<li>{html.escape(finding)}</li>" for finding in record.findings)
    arguments = ", ".join(f"{name} = {value}" for name, value in record.arguments.items())
    picture = base64.b64encode(figure).decode()
    return (
        f"<section id='{_anchor(record)}'><h2>{record.statement} · {html.escape(record.title)} · {record.kernel} "
        f"<span class='{record.verdict}'>{record.verdict}</span></h2><p>{html.escape(record.claim)}</p>"
        f"<img alt='figure of {record.statement}' src='data:image/png;base64,{picture}'>"
        "<table><tr><th>quantity</th><th>law against</th><th>values</th><th>relative error</th>"
        f"<th>error / tolerance</th><th>tolerance</th><th></th></tr>{rows}</table><ul>{findings}</ul>"
        f"<p class='small'>{html.escape(arguments)}; {record.seconds:.1f} s</p></section>"
    )
