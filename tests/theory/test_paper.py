"""`kpoison paper`: its map, its verdicts, what it refuses, and what it says of data."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from kpoison import cli
from theory_checks import runner
from theory_checks.catalogue import STATEMENTS
from theory_checks.paper import NUMBERS, Judgement, statements_for
from theory_checks.record import Panel, Record, compare, curve

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def main(monkeypatch):
    """The command line with the commands that pyproject.toml offers, as after an installation."""
    offered = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["entry-points"]["kpoison.commands"]
    points = [EntryPoint(name, value, "kpoison.commands") for name, value in offered.items()]
    monkeypatch.setattr(cli, "entry_points", lambda group: points)
    return cli.main


def record(statement, kernel, passed=True):
    compared = [compare("number", "refit", [1.0], [1.25 if passed else 2.0], 0.5, "made up for this test")]
    panel = Panel("made up", "x", "y", [curve("law", "line", [1.0, 2.0], [1.0, 2.0])])
    return Record(statement, kernel, "synthetic", compared, ["a finding of this test"], [panel], {})


@pytest.fixture
def pretended(monkeypatch):
    """In place of the checks: records that hold, but for those of the numbers that are put into the set."""
    failing: set[str] = set()

    def run(only, *, statements, seed, jobs, progress):
        return iter(
            record(statements[number], kernel, number not in failing)
            for number in only
            for kernel in statements[number].quick
        )

    monkeypatch.setattr(runner, "run", run)
    return failing


def test_the_map_is_that_of_the_catalogue():
    """All but L9, which another part of the library brings, are known; every kernel is one of the checks'."""
    known = {check for number in NUMBERS.values() for check in number.checks}
    assert known - set(STATEMENTS) <= {"L9"}
    assert {"T7", "T8", "T9", "T10", "T11", "T12"} <= known
    assert set(statements_for(("3.9", "3.12"))) == {"T3", "T7", "T8", "T9"}
    assert statements_for(("3.1", "3.7"))["L6"].quick == ("rbf", "laplace", "linear")
    assert statements_for(("collapse",))["collapse"].quick == ("ntk-relu",)


@pytest.mark.slow
def test_every_number_gets_a_verdict_and_the_order_is_the_papers(main, pretended, capsys, tmp_path):
    assert main(["paper", "--figures", str(tmp_path / "drawn")]) == 0
    printed = capsys.readouterr().out
    table = printed[printed.index("\npaper ") :].splitlines()[2:]
    for line, number in zip(table, NUMBERS.values(), strict=True):
        assert line.startswith(number.name)
        assert number.judgement in line
        assert "0.5" in line
    assert all(number.claim in printed and number.truth in printed for number in NUMBERS.values())
    assert {path.stem for path in (tmp_path / "drawn").iterdir()} == set(NUMBERS)
    assert (tmp_path / "drawn" / "3.9.png").read_bytes().startswith(b"\x89PNG")


def test_a_failed_check_leaves_its_number_undecided(main, pretended, capsys, tmp_path):
    pretended.add("T8")
    assert main(["paper", "--only", "3.9", "3.12", "--page", str(tmp_path / "paper.html")]) == 1
    printed = capsys.readouterr().out
    assert f"page: {tmp_path / 'paper.html'}" in printed
    assert f"Theorem 3.9: <span class='FAILS'>{Judgement.UNDECIDED}</span>" in (tmp_path / "paper.html").read_text(
        "utf-8"
    )
    assert f"Theorem 3.9: {Judgement.UNDECIDED}" in printed
    assert "T8 on rbf FAILS: number" in printed
    assert f"Theorem 3.12: {Judgement.FALSE}" in printed
    assert "Lemma 3.2" not in printed


def test_the_page_has_the_map():
    page = (PYPROJECT.parent / "docs" / "paper.md").read_text(encoding="utf-8").split("\n## ")[0]
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == [number.name for number in NUMBERS.values()]
    for row, number in zip(rows, NUMBERS.values(), strict=True):
        assert row[2] == number.judgement
        assert set(row[4].removesuffix(" |").split(", ")) == set(number.checks)


def test_lists_without_checking(main, capsys):
    assert main(["paper", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(NUMBERS)


def test_help_needs_no_jax():
    code = "import sys, theory_checks.paper_command; print(*({'jax', 'matplotlib'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not found.stdout.split()


@pytest.mark.slow
def test_one_number_is_checked_and_evaluated_on_digits(main, capsys):
    assert main(["paper", "--only", "3.1", "3.2", "--data", "digits", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "Assumption 3.1: measured" in printed
    # Against NumPy: images, poisons and kernel as the problem has them.
    from kpoison.problems.backdoor import make_backdoor

    attack = make_backdoor("digits", train=200, test=100, poisons=40)
    P = np.asarray(attack.locations)
    K = np.exp(-((P[:, None] - P[None]) ** 2).sum(-1) / 2 / attack.median_distance**2)
    assert f"1ᵀK_PP1/(m tr K_PP) = {K.sum() / np.trace(K) / len(P):.3f}" in printed
    assert f"λ₁(K_PP)/tr K_PP = {np.linalg.eigvalsh(K)[-1] / np.trace(K):.3f}" in printed
