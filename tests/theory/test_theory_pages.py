"""Pages of the theory, checks and functions keep step: each statement has its section, each law its statement."""

import functools
import importlib
import re
from pathlib import Path

import pytest

from theory_checks.catalogue import GUARDS, STATEMENTS

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted((DOCS / "theory").glob("*.md"))


@functools.cache
def sections() -> dict[str, tuple[str, str]]:
    """Title and text by number."""
    found = {}
    for page in PAGES:
        for part in page.read_text(encoding="utf-8").split("\n## ")[1:]:
            heading, _, text = part.partition("\n")
            number, _, title = heading.partition(" ")
            assert number not in found
            found[number] = title, text
    return found


def test_every_statement_has_its_section():
    assert {number: title for number, (title, _) in sections().items()} == {
        number: statement.title for number, statement in STATEMENTS.items()
    }


@pytest.mark.parametrize("number", STATEMENTS)
def test_a_section_proves_or_says_that_it_does_not(number):
    _, text = sections()[number]
    assert re.search(r"\*(Proof|Sketch|Derivation|What is proved)[.*]|[Mm]easured", text)


@pytest.mark.parametrize("law", GUARDS)
def test_every_law_is_named_by_a_statement_that_guards_it(law):
    assert any(re.search(rf"[`.]{law}[`(]", sections()[number][1]) for number in GUARDS[law])


def test_every_name_of_the_library_is_one():
    library, missing = importlib.import_module("kpoison"), []
    for page in PAGES:
        for name in re.findall(r"`(kp(?:oison)?\.[\w.]+)", page.read_text(encoding="utf-8")):
            first, *rest = name.removeprefix("kpoison.").removeprefix("kp.").split(".")
            thing = getattr(library, first, None) or importlib.import_module(f"kpoison.{first}")
            if not functools.reduce(lambda value, part: getattr(value, part, None), rest, thing):
                missing.append((page.name, name))
    assert missing == []


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in [*DOCS.glob("*.md"), *PAGES, DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append((page.name, target))
    assert broken == []
