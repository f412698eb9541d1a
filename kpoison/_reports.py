"""Results as one HTML page that needs nothing else: the look and the skeleton that all of them share.

Each function returns HTML.  Words are escaped here, where an argument is called `words` or `alt`; all others are HTML.
"""

import base64
import html
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Part",
    "cell",
    "check_folder",
    "details",
    "escaped",
    "figure",
    "formula",
    "heading",
    "listed",
    "marked",
    "note",
    "page",
    "report",
    "section",
    "small",
    "table",
    "write_whole",
]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff; }
table { border-collapse: collapse; margin: 0.8rem 0; }
th, td { text-align: left; padding: 0.25rem 0.6rem; border-bottom: 1px solid #8885; vertical-align: top; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.wide { min-width: 22rem; }
.scroll { overflow-x: auto; }
.verdicts td { font-size: 13px; }
img { max-width: 100%; }
figure { margin: 1rem 0; }
figcaption { color: #444; font-size: 14px; max-width: 55rem; }
section { margin-top: 2.5rem; border-top: 2px solid #888; }
pre { font-size: 12px; overflow-x: auto; }
.formula { font-size: 1.05rem; margin: 0.6rem 0;
  padding: 0.2rem 0.8rem; border-left: 4px solid #0072b2; overflow-x: auto; }
.note { border: 1px solid #8888; border-radius: 6px; padding: 0.2rem 0.9rem; max-width: 55rem; }
.contents { columns: 18rem; list-style: none; padding: 0; }
.panels { display: flex; flex-wrap: wrap; gap: 0 1rem; }
.panels figure { margin: 0.4rem 0; flex: 1 1 15rem; max-width: 26rem; }
summary { cursor: pointer; margin: 0.4rem 0; }
td pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font: inherit; }
.agrees, .holds { color: #006b4f; font-weight: 600; }
.disagrees, .FAILS { color: #b03a00; font-weight: 600; }
.undecided { color: #555; font-weight: 600; }
td .small { margin: 0; }
.small { color: #555; font-size: 13px; }
@media (max-width: 40rem) {
  .index, .index tbody { display: block; }
  .index thead { display: none; }
  .index tr { display: grid; grid-template-columns: auto auto 1fr; border-bottom: 1px solid #8885; }
  .index td { border: 0; }
  .index td:last-child { grid-column: 1 / -1; padding-top: 0; }
  .index td.number::before { content: "error/tolerance "; }
}
@media (prefers-color-scheme: dark) {
  body { color: #e4e4e4; background: #181818; }
  a { color: #8ab4f8; }
  figcaption, .small, .undecided { color: #aaa; }
  .agrees, .holds { color: #4cc39a; }
  .disagrees, .FAILS { color: #ff9466; }
}
"""

escaped = html.escape
"""Words as HTML, also between quotes."""


def page(words: str, body: str, *, heading: str | None = None, style: str = "") -> str:
    """The whole page; its title is its heading too, where that is not another; style adds to that of all pages."""
    title = escaped(words)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{_STYLE}{style}</style></head>"
        f"<body><h1>{heading or title}</h1>{body}</body></html>\n"
    )


class Part(NamedTuple):
    """A section of a report: heading and body are HTML, and a link to #anchor finds it."""

    heading: str
    body: str
    anchor: str = ""


def report(
    words: str, lead: str, parts: Sequence[Part], run: Iterable[tuple[str, str]], *, contents: bool = True
) -> str:
    """The skeleton of all reports: what was asked and what came out, parts with a list of them, what was run.

    Args:
        words: title.
        lead: HTML.
        parts: in order.
        run: names and values, in words, of what is needed to repeat it.
        contents: whether to list the parts; not where the lead has links to them.
    """
    links = "".join(f"<li><a href='#{part.anchor}'>{part.heading}</a></li>" for part in parts if part.anchor)
    nav = f"<nav aria-label='contents'><ul class='contents'>{links}</ul></nav>" if contents and links else ""
    rows = ([heading(name), cell(f"<pre>{escaped(value)}</pre>")] for name, value in run)
    body = "".join(section(*part) for part in parts)
    return page(words, f"{lead}{nav}{body}{section('What was run', table((), rows))}")


def formula(words: str) -> str:
    """A formula as plain text."""
    return f"<p class='formula'>{escaped(words)}</p>"


def details(summary: str, body: str) -> str:
    """What is shown when it is asked for."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def note(content: str) -> str:
    """Set apart from the matter."""
    return f"<div class='note'>{content}</div>"


def listed(values: Mapping[str, object]) -> str:
    """One line for each name, in words, for a cell of what was run."""
    lines = (f"{name} = {value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items())
    return "\n".join(lines)


def check_folder(path: str | os.PathLike[str]) -> Path:
    """The path of a page, ~ resolved.

    Raises:
        FileNotFoundError: where the folder does not exist.
    """
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path must lie in a folder that exists, got {path}")
    return path


def write_whole(path: str | os.PathLike[str], html: str) -> Path:
    """Write a page, which appears as a whole or not at all; returns its path.

    Raises:
        FileNotFoundError: where the folder does not exist.
    """
    path = check_folder(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(html, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def section(heading: str, body: str, anchor: str = "") -> str:
    """A part of the page, which a link to #anchor finds."""
    return f"<section{_attribute('id', anchor)}><h2>{heading}</h2>{body}</section>"


def figure(png: bytes, alt: str, caption: str = "") -> str:
    """A picture within the page."""
    image = f"<img alt='{escaped(alt)}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
    return f"<figure>{image}<figcaption>{escaped(caption)}</figcaption></figure>" if caption else image


def table(head: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "") -> str:
    """Words at the head of each column, if any, above rows of cells; what is too wide scrolls."""
    top = "".join(map(heading, head))
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    top = f"<thead><tr>{top}</tr></thead>" if top else ""
    return f"<div class='scroll'><table{_attribute('class', kind)}>{top}{body}</table></div>"


def heading(words: str) -> str:
    """What a row or a column is of."""
    return f"<th>{escaped(words)}</th>"


def cell(content: str, kind: str = "") -> str:
    """One of a table; kinds are "number", "wide", "small" and the verdicts'."""
    return f"<td{_attribute('class', kind)}>{content}</td>"


def marked(verdict: str, colour: str = "") -> str:
    """A verdict in its colour, which is that of agrees, holds; disagrees, FAILS; undecided."""
    return f"<span class='{colour or verdict}'>{escaped(verdict)}</span>"


def small(content: str) -> str:
    """A paragraph beside the matter."""
    return f"<p class='small'>{content}</p>"


def _attribute(name: str, value: str) -> str:
    return f" {name}='{value}'" if value else ""
